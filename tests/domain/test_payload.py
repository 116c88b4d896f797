"""Sealing: what is stored of a request's payloads, and when two payloads are the same."""

import math
import struct
import tracemalloc

import ormsgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from palyra_actors.domain.payload import Sealer, check_value, same_content
from palyra_actors.domain.redact import REDACTED, redact
from palyra_actors.errors import Invalid, TooLarge
from palyra_actors.limits import PAYLOAD_BYTES_MAX
from tests.domain.test_redact import HEX, NAMES, shapes
from tests.domain.test_values import VALUES

sealer = Sealer()
KINDS = st.sampled_from(["model_token", "tool_executed", "x.any"])
PAYLOADS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12), VALUES, max_size=5
)
MODEL = ormsgpack.packb({"token": "hello", "index": 3})


def seal(raw: bytes, kind: str = "tool_executed") -> tuple[bytes, bool]:
    [result] = sealer.seal([raw], [kind])
    return result


def refused(raws: list[bytes], kind: str = "model_token") -> Invalid:
    with pytest.raises(Invalid) as caught:
        sealer.seal(raws, [kind] * len(raws))
    return caught.value


def planted(value: object, secret: object, path: list[int]) -> object:
    """`value` with `secret` somewhere in it: `path` chooses the place level by level."""
    if isinstance(value, dict):
        keys = [*value, "planted"]
        key = keys[path[0] % len(keys)] if path else "planted"
        return {**value, key: planted(value.get(key), secret, path[1:])}
    if isinstance(value, list):
        at = path[0] % (len(value) + 1) if path else 0
        return [*value[:at], planted(None, secret, path[1:]), *value[at:]]
    return secret


PATHS = st.lists(st.integers(0, 7), max_size=6)


@given(PAYLOADS, KINDS)
def test_what_has_no_secret_is_stored_byte_for_byte(payload: dict[str, object], kind: str) -> None:
    assume(redact(payload, kind=kind) == (payload, False))
    raw = ormsgpack.packb(payload)
    assert seal(raw, kind) == (raw, False)


@given(PAYLOADS, PATHS, st.sampled_from(sorted(shapes(""))), HEX, KINDS)
def test_no_shape_of_a_secret_is_stored_wherever_it_is_planted(
    payload: dict[str, object], path: list[int], shape: str, body: str, kind: str
) -> None:
    text = shapes(body)[shape]
    for secret in (text, text.encode(), {text: 1}, [text]):
        raw = ormsgpack.packb(planted(payload, secret, path))
        results = sealer.seal([MODEL, raw, MODEL], ["model_token", kind, "model_token"])
        assert results[0] == results[2] == (MODEL, False)
        stored, redacted = results[1]
        assert redacted
        assert body.encode() not in stored
        assert body.upper()[:16].encode() not in stored


@given(PAYLOADS, PATHS, st.sampled_from(NAMES), HEX, KINDS)
def test_no_text_under_a_secrets_key_is_stored_wherever_it_is_planted(
    payload: dict[str, object], path: list[int], name: str, body: str, kind: str
) -> None:
    for below in (body, [body], {"a": [body.encode()]}):
        raw = ormsgpack.packb(planted(payload, {name: below}, path))
        stored, redacted = seal(raw, kind)
        assert redacted
        assert body.encode() not in stored


@given(PAYLOADS, KINDS)
def test_sealing_what_was_sealed_finds_only_the_marks(
    payload: dict[str, object], kind: str
) -> None:
    stored, redacted = seal(ormsgpack.packb({**payload, "password": "hunter2"}), kind)
    assert redacted
    assert seal(stored, kind)[0] == stored


@given(st.lists(st.tuples(PAYLOADS, KINDS), max_size=6))
def test_a_request_is_sealed_as_its_payloads_are_one_by_one(
    events: list[tuple[dict[str, object], str]],
) -> None:
    raws = [ormsgpack.packb(payload) for payload, _ in events]
    kinds = [kind for _, kind in events]
    assert sealer.seal(raws, kinds) == [
        seal(raw, kind) for raw, kind in zip(raws, kinds, strict=True)
    ]
    assert sealer.seal([memoryview(raw) for raw in raws], kinds) == sealer.seal(raws, kinds)


@pytest.mark.parametrize(
    "payload",
    [
        {"token": "hello"},
        {"index": 1, "tokens": ["a", "b"], "token": "c"},
        {"text": "the token is here"},
        {"token": "token"},
        {"token": "å token", "tokens": "æ"},
    ],
)
def test_the_models_text_is_stored_as_sent(payload: dict[str, object]) -> None:
    raw = ormsgpack.packb(payload)
    assert seal(raw, "model_token") == (raw, False)


@pytest.mark.parametrize(
    "payload",
    [
        {"token": "hello", "meta": {"token": "hunter2"}},
        {"meta": {"token": "hunter2"}},
        {"meta": [{"tokens": "hunter2"}], "index": 1},
        {"Token": "hunter2"},
        {"TOKENS": "hunter2"},
        {"token_": "hunter2"},
        {"tokenX": "hunter2", "token": "x"},
        {"text": "åtoken=hunter2"},
        {"text": "ætokens=hunter2", "tokens": "x"},
        {"text": "token=hunter2" + " " * (0xA5 - 13)},
        {"text": "token=hunter2" + " " * (0xA6 - 13), "token": 1},
        {"token": "access_token: hunter2"},
    ],
)
def test_a_model_token_hides_no_other_token(payload: dict[str, object]) -> None:
    stored, redacted = seal(ormsgpack.packb(payload), "model_token")
    assert redacted
    assert b"hunter2" not in stored


@pytest.mark.parametrize("name", ["token", "tokens", "Token", "TOKENS"])
@pytest.mark.parametrize("kind", ["tool_executed", "message_received", "x.model_token"])
def test_only_a_model_tokens_own_key_is_the_models_text(name: str, kind: str) -> None:
    raw = ormsgpack.packb({name: "hunter2"})
    expected = (ormsgpack.packb({name: REDACTED}), True)
    assert seal(raw, kind) == expected
    kinds = ["model_token", kind, "model_token"]
    assert sealer.seal([MODEL, raw, MODEL], kinds) == [(MODEL, False), expected, (MODEL, False)]


def test_an_odd_encoding_of_a_key_does_not_hide_it() -> None:
    raw = b"\x81\xa1a\x81\xd9\x05token\xa7hunter2"
    assert seal(raw, "model_token") == (ormsgpack.packb({"a": {"token": REDACTED}}), True)
    raw = b"\x81\xdb\0\0\0\x08password\xda\0\x07hunter2"
    assert seal(raw) == (ormsgpack.packb({"password": REDACTED}), True)


@pytest.mark.parametrize("kind", ["model_token", "tool_executed"])
def test_a_repeated_key_smuggles_nothing(kind: str) -> None:
    twice = b"\x82\xa8password\xa7hunter2\xa8password\x01"
    assert seal(twice, kind) == (ormsgpack.packb({"password": 1}), False)
    model = b"\x82\xa5token\x81\xa1a\xa7hunter2\xa5token\xa2hi"
    assert b"hunter2" not in seal(model, kind)[0]
    deeper = b"\x81\xa1a\x82\xa3key\xaask-abcdefg\xa3key\x01"
    assert b"sk-abcdefg" not in seal(deeper, kind)[0]


def test_an_odd_encoding_that_holds_no_secret_is_stored_as_sent() -> None:
    raw = b"\x82\xaamax_tokens\xcd\x00\x05\xa1x\xca\x3f\x80\x00\x00"
    assert seal(raw) == (raw, False)


def test_floats_of_four_bytes_do_not_make_a_large_payload_too_large() -> None:
    floats = b"\xdd" + (50_000).to_bytes(4, "big") + b"\xca\x3f\x80\x00\x00" * 50_000
    raw = b"\x82\xaamax_tokens\x05\xa1x" + floats
    assert seal(raw) == (raw, False)


def test_a_payload_that_redaction_blows_up_over_the_limit_is_refused() -> None:
    raw = ormsgpack.packb({"password": [""] * 100_000})
    with pytest.raises(TooLarge) as caught:
        seal(raw)
    assert caught.value.field == "events[0].payload"
    assert caught.value.detail["actual"] > caught.value.detail["limit"] == PAYLOAD_BYTES_MAX


def test_the_largest_payload_is_sealed_and_one_byte_more_is_not() -> None:
    largest = ormsgpack.packb({"x": "y" * (PAYLOAD_BYTES_MAX - 8)})
    assert len(largest) == PAYLOAD_BYTES_MAX
    assert seal(largest) == (largest, False)
    with pytest.raises(TooLarge) as caught:
        sealer.seal([MODEL, largest + b"\xc1"], ["model_token"] * 2)
    assert caught.value.field == "events[1].payload"
    assert caught.value.detail == {"limit": PAYLOAD_BYTES_MAX, "actual": PAYLOAD_BYTES_MAX + 1}


@pytest.mark.parametrize("raw", [b"\x90", b"\xc0", b"\xa5token", b"\x01", b"\xc4\x00"])
def test_a_payload_is_a_map(raw: bytes) -> None:
    error = refused([MODEL, raw])
    assert error.field == "events[1].payload"
    assert "map" in error.message


@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (b"\xcb" + struct.pack(">d", math.nan), "[1]"),
        (b"\xca" + struct.pack(">f", -math.inf), "[1]"),
        (b"\xd6\xff\0\0\0\0", "[1]"),
        (b"\xa1\xff", "[1]"),
        (b"\x81\x01\x02", "[1]"),
        (b"\xc1", "[1]"),
        (b"\x91" * 63 + b"\xc0", "[1]" + "[0]" * 14 + "…"),
        (b"\x91" * 2000 + b"\xc0", "[1]" + "[0]" * 14 + "…"),
    ],
)
def test_a_refusal_leads_to_the_place_in_the_request(bad: bytes, path: str, flagged: bool) -> None:
    text = b"\xa7a token" if flagged else b"\xa5plain"
    raw = b"\x82\xa1t" + text + b"\xa4args\x92\x00" + bad
    error = refused([MODEL, MODEL, raw, MODEL])
    assert (error.field or "").startswith("events[2].payload.args" + path[:3])
    assert error.field == "events[2].payload.args" + path


@given(st.binary(max_size=40), st.lists(PAYLOADS.map(ormsgpack.packb), max_size=2))
def test_any_bytes_are_refused_or_sealed_as_if_they_were_alone(
    raw: bytes, others: list[bytes]
) -> None:
    raws = [MODEL, raw, *others]
    try:
        alone = seal(raw)
    except Invalid:
        assert (refused(raws, "tool_executed").field or "").startswith("events[1].payload")
    else:
        assert sealer.seal(raws, ["tool_executed"] * len(raws))[1] == alone


@pytest.mark.parametrize("behind", [b"\xc0", b"\xcd\x00", b"\xa9", b"\x81", b"\x93", b"\xdc\x00"])
def test_bytes_behind_a_payload_do_not_reach_into_the_next_one(behind: bytes) -> None:
    assert refused([MODEL + behind, MODEL, MODEL]).field == "events[0].payload"
    assert refused([MODEL, MODEL + behind]).field == "events[1].payload"


def test_as_many_kinds_as_payloads() -> None:
    with pytest.raises(ValueError, match="zip"):
        sealer.seal([MODEL, MODEL], ["model_token"])
    assert sealer.seal([], []) == []


def test_many_payloads_of_empty_maps_are_not_alive_together() -> None:
    raw = b"\x81\xa1a\xdc" + (4000).to_bytes(2, "big") + b"\x80" * 4000
    raws, kinds = [raw] * 128, ["tool_executed"] * 128
    tracemalloc.start()
    try:
        sealed = sealer.seal(raws, kinds)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sealed) == 128
    # Alive together they are 34 MB; the joined bytes and their marks are 1.
    assert peak < 4 * 1024 * 1024


@given(VALUES)
def test_equal_data_is_the_same_content_in_any_order_and_encoding(value: object) -> None:
    one = ormsgpack.packb({"a": value, "b": 1, "c": {"x": value, "y": 2}})
    other = ormsgpack.packb({"c": {"y": 2, "x": value}, "b": 1, "a": value})
    assert same_content(one, other)
    assert same_content(b"\x81\xa1a\xcd\x00\x05", b"\x81\xa1a\x05")


@given(VALUES, VALUES)
def test_different_data_is_not_the_same_content(one: object, other: object) -> None:
    same = ormsgpack.packb(one, option=ormsgpack.OPT_SORT_KEYS) == ormsgpack.packb(
        other, option=ormsgpack.OPT_SORT_KEYS
    )
    assert same_content(ormsgpack.packb({"a": one}), ormsgpack.packb({"a": other})) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0, False), (0, None), ("a", b"a"), ([1], [1, 1]), ([1, 2], [2, 1])],
)
def test_the_type_of_a_value_and_the_order_of_a_list_matter(one: object, other: object) -> None:
    assert not same_content(ormsgpack.packb({"a": one}), ormsgpack.packb({"a": other}))


def test_a_retry_of_a_redacted_payload_is_the_same_content() -> None:
    first, _ = seal(ormsgpack.packb({"password": "hunter2", "n": 1}))
    again, _ = seal(ormsgpack.packb({"n": 1, "password": "hunter2"}))
    assert same_content(first, again)
    assert not same_content(first, seal(ormsgpack.packb({"n": 2, "password": "hunter2"}))[0])


def test_other_values_have_a_limit_of_their_own() -> None:
    assert check_value(b"\x93\x01\x02\x03", "state", 4) == [1, 2, 3]
    with pytest.raises(TooLarge) as caught:
        check_value(b"\x93\x01\x02\x03", "state", 3)
    assert (caught.value.field, caught.value.detail) == ("state", {"limit": 3, "actual": 4})
    with pytest.raises(Invalid):
        check_value(b"\xcb" + struct.pack(">d", math.inf), "state", 100)
