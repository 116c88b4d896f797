"""The compiled walk for secrets and its twin in Python: what one takes out, the other takes out."""

import struct
from random import Random
from typing import Any

import ormsgpack
import pytest

from palyra_actors.domain import payload, values
from palyra_actors.domain.payload import Sealer
from palyra_actors.domain.redact import (
    REDACTED,
    _examine_key,
    redact,
    redact_text_plainly,
    redact_text_swiftly,
    redact_value,
)
from palyra_actors.domain.swift import compiled_redact
from palyra_actors.errors import Invalid
from palyra_actors.limits import PAYLOAD_BYTES_MAX
from tests.domain.test_redact import HOSTILE, NAMES, PIECES, SHAPES, shapes

pytestmark = pytest.mark.skipif(compiled_redact is None, reason="no compiler when it was installed")

WORDS = [
    *PIECES, *HOSTILE, "tokenize", "tokenIZEd", "TOKENISation", "true", "null.", "none", "NaN.",
    "4096", "1_0.5%", "+3", "tokens", "token_count", "-limit", "max_tokens", "Cookies", "basic ",
    "Digest ", "negotiate\t", "apikey ", "\r", "\\n", '\\"', "\\\\", "\\'", "[1,2]", '{"a":1}',
    '"k" \u00a0:', "\u2003", "\x1c", "\x85", "=>", "==", ":=", "::", "::a", "%20", "?", "#",
    "aaaaaa", ".a", "-----BEGIN ", "-----END ", "PRIVATE KEY", "-----", "RSA ", "sk-abcd",
    "sk-ab1c", "ghp_abcd", "github_pat_", "abcd", "ASIA", "ABCDEFGHIJKL", "\u212a", "pass", "word",
    "api", "key", "private", "secret", "**", "bearer", "the ", "token. ", "schemes", "😀",
]  # fmt: skip
NUMBERS = [
    None, True, False, 0, 1, -1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1,
    -(2**63), 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1, 1.5, -0.0, 1e300,
]  # fmt: skip
TRIED = ["sk-abcdefgh{}", f"{REDACTED} {{}}", "token={}", "x{}"]


def text(chance: Random) -> str:
    many = chance.choice((2, 4, 8, 14, 30))
    return "".join(chance.choice(WORDS) for _ in range(chance.randrange(1, many)))


def value(chance: Random, level: int = 0) -> Any:
    which = chance.random()
    if level < 4 and which < 0.25:
        names = [chance.choice(NAMES) if chance.random() < 0.3 else text(chance) for _ in range(4)]
        return {name: value(chance, level + 1) for name in names[: chance.randrange(5)]}
    if level < 4 and which < 0.4:
        return [value(chance, level + 1) for _ in range(chance.randrange(5))]
    if which < 0.7:
        return text(chance)
    if which < 0.8:
        return text(chance).encode() if which < 0.77 else chance.randbytes(chance.randrange(8))
    return chance.choice(NUMBERS)


def packed(chance: Random, one: Any) -> bytes:
    """In some encoding, not always the shortest."""
    odd = chance.random() < 0.3
    size = (len(one) if isinstance(one, dict | list | str | bytes) else 0).to_bytes(4, "big")
    match one:
        case dict():
            head = b"\xdf" + size if odd or len(one) > 15 else bytes([0x80 | len(one)])
            return head + b"".join(packed(chance, each) for pair in one.items() for each in pair)
        case list():
            head = b"\xdd" + size if odd or len(one) > 15 else bytes([0x90 | len(one)])
            return head + b"".join(packed(chance, each) for each in one)
        case str() if odd:
            return b"\xdb" + len(one.encode()).to_bytes(4, "big") + one.encode()
        case bytes() if odd:
            return b"\xc6" + size + one
        case int() if odd and type(one) is int:
            wide = one.to_bytes(8, "big", signed=one < 0)
            return (b"\xd3" if one < 2**63 else b"\xcf") + wide
        case float() if odd and one == 1.5:
            return b"\xca" + struct.pack(">f", one)
    return ormsgpack.packb(one)


def some_payload(chance: Random) -> dict[str, Any]:
    made = {text(chance): value(chance) for _ in range(chance.randrange(6))}
    if chance.random() < 0.3:
        for _ in range(chance.randrange(30)):
            made[chance.choice(TRIED).format(chance.randrange(6))] = chance.choice([1, "x"])
    if chance.random() < 0.3:
        made = {chance.choice(["token", "tokens", "text"]): text(chance), **made}
    return made


@pytest.mark.parametrize("seed", range(10))
def test_a_text_loses_the_same(seed: int, campaign: bool) -> None:
    chance = Random(seed)
    for _ in range(50_000 if campaign else 1_000):
        one = text(chance)
        clean = redact_text_swiftly(one)
        assert clean == redact_text_plainly(one), one
        assert (clean is one) == (redact_text_plainly(one) is one)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_known_wherever_it_is_cut(shape: str) -> None:
    whole = f"é {shapes('0123456789abcdef01234567')[shape]} x"
    for end in range(len(whole)):
        for cut in (whole[:end], whole[end:], whole[:end] + whole[end + 1 :]):
            assert redact_text_swiftly(cut) == redact_text_plainly(cut), cut


@pytest.mark.parametrize("name", [*NAMES, "tokenizer", "token", "x", "passion", "api key word"])
def test_a_key_is_a_secrets_name_for_both(name: str) -> None:
    for one in (name, name.upper(), f"é{name}_2", name[1:], f"{name}IZE", name.replace("n", "N")):
        blob = ormsgpack.packb({one: ["y", 1]})
        assert (REDACTED.encode() in compiled_redact.redact(blob, False)) == _examine_key(one)[0]


@pytest.mark.parametrize("kind", ["model_token", "x.any"])
@pytest.mark.parametrize("seed", range(5))
def test_a_payload_loses_the_same(seed: int, kind: str, campaign: bool) -> None:
    chance = Random(seed)
    for _ in range(20_000 if campaign else 300):
        blob = packed(chance, some_payload(chance))
        expected = payload.redact_plainly(blob, ormsgpack.unpackb(blob), kind)
        assert payload._redact_swiftly(blob, kind) == expected, blob


@pytest.mark.parametrize("seed", range(5))
def test_a_value_of_no_event_loses_the_same(seed: int) -> None:
    chance = Random(seed)
    for _ in range(300):
        one = value(chance)
        expected = redact(one, kind="")
        assert redact_value(one) == redact_value(one, packed(chance, one)) == expected
        twice = b"\x82\xa1a" + packed(chance, one) + b"\xa1a" + packed(chance, one)
        assert redact_value({"a": one}, twice) == redact({"a": one}, kind="")


@pytest.mark.parametrize("seed", range(5))
def test_what_is_sound_is_so_for_both(seed: int, campaign: bool) -> None:
    chance = Random(seed)
    for _ in range(20_000 if campaign else 500):
        blob = bytearray(packed(chance, some_payload(chance)))
        for _ in range(chance.randrange(3)):
            blob[chance.randrange(len(blob))] = chance.randrange(256)
        raw = bytes(blob[: chance.randrange(len(blob) + 1)] if chance.random() < 0.2 else blob)
        try:
            values.walk(raw, "payload")
        except Invalid:
            assert not compiled_redact.is_sound(raw)
        else:
            assert compiled_redact.is_sound(raw)


@pytest.mark.parametrize("levels", [63, 64, 65, 2000])
def test_both_know_how_deep_a_value_may_be(levels: int) -> None:
    assert compiled_redact.is_sound(b"\x91" * levels + b"\xc0") == (levels <= 64)
    assert compiled_redact.redact(b"\x81\xa1a" * levels + b"\xc0", False) is None or levels <= 64


def test_a_key_that_stands_twice_is_left_to_who_decodes() -> None:
    twice = b"\x82\xa8password\xa7hunter2\xa8password\x01"
    assert compiled_redact.redact(twice, False) is None
    assert payload._redact_swiftly(twice, "x.any") == (ormsgpack.packb({"password": 1}), False)
    below = b"\x81\xa1a\x82\xa3key\xa1x\xa3key\x01"
    assert payload._redact_swiftly(below, "x.any")[0] == ormsgpack.packb({"a": {"key": 1}})


def test_ten_thousand_keys_that_become_one_are_named_alike() -> None:
    many = {f"sk-abcdefgh{number}": number for number in range(10_000)}
    blob = ormsgpack.packb({**many, f"{REDACTED} 77": 1, "below": many})
    expected, found = redact(ormsgpack.unpackb(blob), kind="x.any")
    assert found
    assert compiled_redact.redact(blob, False) == ormsgpack.packb(expected)


def large(one: bytes) -> bytes:
    """As many of these as a payload holds, and a secret."""
    count = (PAYLOAD_BYTES_MAX - 40) // len(one)
    return b"\x82\xa8password\xa1x\xa1a\xdd" + count.to_bytes(4, "big") + one * count


@pytest.mark.parametrize(
    "one",
    [
        b"\x80", b"\x81\xa0\xa1:", b"\x81\xa5token\x80", b"\x81\xa0\xa0", b"\xc4\x01:",
        b"\x82\xa1a\x01\xa1a\x02", ormsgpack.packb("sk-abcdef123"), ormsgpack.packb("bearer"),
        ormsgpack.packb("token=abcdef"), ormsgpack.packb({"sk-abcdefgh1234567": 1}),
    ],
)  # fmt: skip
def test_hundreds_of_thousands_of_them_are_never_walked_in_python(
    one: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame of 4 MiB of these would take the loop up to seventeen seconds."""
    blob = large(one)
    expected = payload.redact_plainly(blob, ormsgpack.unpackb(blob), "x.any")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("walked in Python")

    for name in ("redact", "walk", "count_pairs", "confirm", "redact_plainly"):
        monkeypatch.setattr(payload, name, never)
    assert len(expected[0]) <= PAYLOAD_BYTES_MAX
    assert Sealer().seal([blob], ["x.any"]) == [expected]


def test_an_odd_encoding_is_confirmed_without_a_walk_in_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = b"\x81\xa1a\xdd\x00\x00\x00\xc8" + b"\xde\x00\x00" * 200
    monkeypatch.setattr(values, "walk", None)
    assert values.decode(raw, "state") == {"a": [{}] * 200}
