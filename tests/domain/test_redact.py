"""What is taken for a secret and what is not, and that the first look misses nothing of it."""

import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hyperscan
import ormsgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from palyra_actors.domain import redact as redact_module
from palyra_actors.domain.redact import (
    NON_FINITE,
    REDACTED,
    SECRET,
    TOKEN_TEXT,
    FirstLook,
    redact,
    redact_text,
)

look = FirstLook()

NAMES = [
    "secret",
    "password",
    "passwd",
    "api_key",
    "apikey",
    "authorization",
    "cookie",
    "credential",
    "private_key",
    "signature",
    "token",
    "access_token",
    "Token",
    "TOKENS",
    "refreshToken",
    "tokenIssuer",
    "apiKey",
    "API-KEY",
    "api.key",
    "api key",
    "X-Api-Key",
    "privateKey",
    "private key",
    "api日本語key",
    "Set-Cookie",
    "Proxy-Authorization",
    "my_Password_2",
    "clientSecret",
    "DB_PASSWD",
    "webhookSignature",
    "credentials",
]
INNOCENT_NAMES = ["tokenizer", "tokenize", "Tokenization", "tokenised", "api", "key", "passage"]
HEX = st.text("0123456789abcdef", min_size=24, max_size=40)
# Everything the planted text may stand in: none of these letters can continue a shape.
AROUND = st.text(st.sampled_from("xyz XYZ\n é日()"), max_size=300)


def shapes(body: str) -> dict[str, str]:
    return {
        "bearer": f"Bearer {body}",
        "bearer in lower case": f"authorization header bearer {body}",
        "bearer after a tab": f"Bearer\t{body}",
        "bearer with a colon": f"bearer: {body}",
        "bearer in a url": f"?auth=bearer%20{body}",
        "bearer in quotes": f'bearer="{body}"',
        "sk": f"sk-{body}",
        "sk with parts": f"sk-proj-{body}_x",
        "github": f"ghp_{body}",
        "github server": f"ghs_{body}",
        "github fine-grained": f"github_pat_{body}",
        "aws": f"AKIA{body.upper()[:16]}",
        "pem": f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----",
        "pem cut off": f"-----BEGIN PRIVATE KEY-----\\n{body}\n{body}",
        "jwt": f"eyJhbGciOiJIUzI1NiJ9.eyJ{body}.{body}",
        "url": f"https://user:{body}@example.org/path",
        "url without user": f"redis://:{body}@cache:6379",
        "url with an at": f"postgres://u:a@{body}@db/x",
        "escaped url": f"https:\\/\\/user:{body}@example.org",
        "assignment": f"DB_PASSWORD={body}",
        "colon": f"password: {body}",
        "single quotes": f"passwd = '{body}'",
        "double quotes": f'export API_KEY="{body}"',
        "after letters that grow in lower case": "\u0130" * 9 + f" secret={body}",
        "two words in quotes": f'secret: "one {body}"',
        "an escaped quote": f'secret: "one \\" {body}"',
        "json": f'{{"password": "{body}", "n": 1}}',
        "json in json": f'{{\\"password\\":\\"{body}\\"}}',
        "json in json in json": f'{{\\\\\\"password\\\\\\":\\\\\\"{body}\\\\\\"}}',
        "json list": f'{{"tokens": ["a", "{body}"]}}',
        "json map": f'{{"credentials": {{"user": {{"a": "b]}}", "pw": "{body}"}}}}}}',
        "json cut off": f'{{"credentials": {{"user": {{"a": "{body}',
        "python": f"os.environ['X-Api-Key'] = '{body}'",
        "ruby": f":client_secret => '{body}'",
        "go": f"token := `{body}`",
        "markdown": f"**Password:** {body}",
        "header": f"Authorization: Basic {body}==",
        "digest": f'Authorization: Digest username="u", response="{body}"',
        "header in curl": f"curl -H 'Proxy-Authorization: Digest a, {body}'",
        "cookies": f"Cookie: lang=cs; sid={body}",
        "query": f"https://example.org/?page=2&access_token={body}&x=1",
        "named and bearer": f"token=Bearer {body}",
        "named and basic": f"my_credential: basic {body}",
        "named pem": f"PRIVATE_KEY=-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----",
        "after another shape": f"token=sk-abcdefgh1 api_key={body}",
        "redacted before": f"password={REDACTED}{body}",
    }


SHAPES = sorted(shapes(""))


@pytest.mark.parametrize("shape", SHAPES)
@given(body=HEX, before=AROUND, after=AROUND)
@example(body="0" * 24, before="", after="")
@example(body="a" * 24, before="x" * 47 + " ", after="")
def test_text_of_every_shape_loses_its_secret(
    shape: str, body: str, before: str, after: str
) -> None:
    text = f"{before} {shapes(body)[shape]} {after}"
    clean = redact_text(text)
    assert body not in clean.lower()
    assert body.upper()[:16] not in clean
    assert REDACTED in clean
    assert clean.startswith(before)
    assert look(ormsgpack.packb({"x": text})) & SECRET


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "size", [0, 1, 15, 31, 32, 48, 65, 97, 115, 160, 255, 256, 300, 353, 70_000]
)
def test_the_first_look_sees_a_shape_behind_a_header_of_any_length(shape: str, size: int) -> None:
    # A text's length stands right before it and may look like a letter: 97 is an a, 353 ends
    # in one, too.
    text = shapes("0123456789abcdef01234567")[shape]
    text += " " * max(0, size - len(text.encode()))
    assert redact_text(text) != text
    for packed in (text, [text], {"x": text}, {text: 1}, text.encode()):
        assert look(ormsgpack.packb(packed)) & SECRET


@pytest.mark.parametrize("name", NAMES)
def test_text_under_a_key_that_names_a_secret_goes_however_deep(name: str) -> None:
    value = {name: ["a", {"b": "c", "d": b"\xff\x00"}, [[""]]], "free": "text"}
    before = copy.deepcopy(value)
    assert redact(value, kind="tool_executed") == (
        {name: [REDACTED, {"b": REDACTED, "d": REDACTED}, [[REDACTED]]], "free": "text"},
        True,
    )
    assert value == before
    assert look(ormsgpack.packb(value)) & (SECRET | TOKEN_TEXT)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_booleans_and_nil_stay_under_any_key(name: str) -> None:
    value = {name: [1, 1.5, True, None, -(2**63), {"n": 2}]}
    assert redact(value, kind="x.any") == (value, False)


@pytest.mark.parametrize("name", INNOCENT_NAMES)
def test_text_under_other_keys_stays(name: str) -> None:
    value = {name: "text"}
    assert redact(value, kind="x.any") == (value, False)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=4096",
        '{"max_tokens": 4096, "prompt_tokens": 12}',
        '{"usage_tokens": {"cached": 0, "audio": null}}',
        "total_tokens: 1_000",
        "token_count=3",
        "tokenizer: gpt2, tokenize=yes",
        "requires_password: true, token=null, secret: None",
        "the token is fine, the secret of success",
        "the bearer of bad news, a bearer token.",
        "task-oriented disk-based risk-free sk-learn sk-SK",
        "https://example.org:8080/a?mail=a@b.org",
        "mailto:user@example.org",
        "std::token::value",
        "eyJhbGciOiJIUzI1NiJ9.only-two",
        "AKIASHORT",
        "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----",
        "time: 10:30, a=b",
    ],
)
def test_text_that_only_resembles_a_secret_stays_the_same_object(text: str) -> None:
    assert redact_text(text) is text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("DB_PASSWORD=hunter2 x", f"{REDACTED} x"),
        ('{"password": "hunter2", "n": 1}', f'{{{REDACTED}, "n": 1}}'),
        ("a Bearer abc.def b", f"a {REDACTED} b"),
        ("https://u:p@h/x", f"https://{REDACTED}h/x"),
        ("?page=2&token=abc&x=1", f"?page=2&{REDACTED}&x=1"),
        ("Cookie: a=b; c=d\r\nHost: x", f"{REDACTED}\r\nHost: x"),
        ("use sk-abcdefgh1, please", f"use {REDACTED}, please"),
        ("pin: 1, password: 12345", f"pin: 1, {REDACTED}"),
        ("secret_tokens=12345", REDACTED),
    ],
)
def test_only_the_shape_is_replaced(text: str, clean: str) -> None:
    assert redact_text(text) == clean


def test_the_models_text_is_no_secret_but_may_hold_one() -> None:
    value = {
        "token": "hello",
        "tokens": ["a", "b"],
        "text": "sk-abcdefgh1",
        "meta": {"token": "hunter2"},
        "access_token": "hunter2",
        "Token": "hunter2",
    }
    assert redact(value, kind="model_token") == (
        {
            "token": "hello",
            "tokens": ["a", "b"],
            "text": REDACTED,
            "meta": {"token": REDACTED},
            "access_token": REDACTED,
            "Token": REDACTED,
        },
        True,
    )
    assert redact({"token": "hello"}, kind="tool_executed") == ({"token": REDACTED}, True)


def test_keys_that_hold_a_secret_lose_it_and_none_of_their_values() -> None:
    value = {
        "sk-abcdefgh1": 1,
        "sk-abcdefgh2": 2,
        f"{REDACTED} 2": 3,
        "sk-abcdefgh3": 4,
        "password=hunter2": "x",
    }
    clean, redacted = redact(value, kind="x.any")
    assert redacted
    assert isinstance(clean, dict)
    assert list(clean.values()) == [1, 2, 3, 4, REDACTED]
    assert all(key.startswith(REDACTED) for key in clean)


def test_ten_thousand_keys_that_become_one_are_all_kept() -> None:
    value = {f"sk-abcdefgh{number}": number for number in range(10_000)}
    clean, _ = redact(value, kind="x.any")
    assert isinstance(clean, dict)
    assert list(clean.values()) == list(range(10_000))


def test_bytes_that_read_as_text_are_looked_at_and_stay_bytes() -> None:
    value = {"body": b'{"password":"hunter2"}', "image": b"\xff\xd8 password=hunter2"}
    clean, redacted = redact(value, kind="x.any")
    assert redacted
    assert clean == {"body": f"{{{REDACTED}}}".encode(), "image": value["image"]}


PIECES = [
    *shapes("0123456789abcdef01234567").values(),
    *NAMES,
    *INNOCENT_NAMES,
    *"abcskeyJABCIA0189_-.:=/\\@\"'`<>{}[] \n\t%*,;&ſ\u212a\u0130é日\x00",
    *("Bearer ", "sk-", "ghp_", "AKIA", "eyJ", "://", ": ", "å", "æ", "s" * 90),
]
SOUP = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@given(SOUP, SOUP, st.sampled_from(["model_token", "x.any"]))
def test_the_first_look_misses_nothing_that_the_second_takes_out(
    one: str, other: str, kind: str
) -> None:
    value = {one: [other], "x": one, "y": other.encode()}
    clean, redacted = redact(value, kind=kind)
    assert redacted or clean == value
    if redacted:
        assert look(ormsgpack.packb(value))


def may_be_secret(packed: bytes) -> bool:
    return bool(look(packed) & (SECRET | TOKEN_TEXT))


LONG = 200
PLACES = st.dictionaries(st.integers(0, LONG - 1), st.tuples(SOUP, SOUP), max_size=6)


@given(PLACES, st.sampled_from(["rows", "password", "pass", REDACTED]))
@settings(deadline=None)
def test_a_long_value_loses_the_same_whether_it_is_walked_or_looked_at_by_stretches(
    odd: dict[int, tuple[str, str]], name: str
) -> None:
    rows: list[object] = [{"n": n, "text": "a row", "tags": ["one"]} for n in range(LONG)]
    members: dict[str, object] = {f"row {n}": ["a row", n] for n in range(LONG)}
    texts: list[object] = ["a text"] * LONG
    for place, (key, text) in odd.items():
        rows[place] = {key: text, "below": {key: [text, {"deep": text}]}}
        members[key] = [text]
        texts[place] = text.encode() if place % 2 else text
    for value in ({name: rows, "texts": texts}, members, {name: {"all": members}}, [texts, rows]):
        walked, found = redact(value, kind="")
        assert redact(value, kind="", look=may_be_secret) == (walked, found)


def test_what_is_long_is_walked_only_where_a_secret_may_be() -> None:
    rows: list[object] = [["a row", n] for n in range(LONG)]
    rows[150] = ["password=hunter2"]
    seen: list[bytes] = []

    def looked(packed: bytes) -> bool:
        seen.append(packed)
        return may_be_secret(packed)

    clean, found = redact(rows, kind="", look=looked)
    assert found
    assert isinstance(clean, list)
    assert len(seen) == 4
    assert [n for n, row in enumerate(clean) if row is not rows[n]] == list(range(128, 192))


@given(SOUP)
def test_redacting_a_key_never_depends_on_the_cache(key: str) -> None:
    once = redact({key: "x"}, kind="x.any")
    assert redact({key: "x"}, kind="x.any") == once
    named = once[0] != {key: "x"}
    assert named == once[1]


def test_the_first_look_tells_secrets_from_floats() -> None:
    assert look(ormsgpack.packb({"a": "plain", "n": 1.5, "z": -0.0})) == 0
    assert look(b"\x81\xa1a\xcb\x7f\xf0\0\0\0\0\0\0") == NON_FINITE
    assert look(b"\x81\xa1a\xca\xff\xc0\0\0") == NON_FINITE
    assert look(b"") == 0


HOSTILE = [
    *(
        "token",
        "token=",
        "token:",
        "token: ",
        "token:{",
        "token:[",
        'token:"',
        "token:'",
        "token:`",
    ),
    *('token:\\"', "token=\\\\\\'", "secret ", "api---key", "api-", "api", "password" + " " * 50),
    *("cookie: ", 'cookie:="', 'authorization: ="a', "bearer", "bearer ", "bearer=", 'Bearer: "'),
    *(
        "eyJ",
        "eyJaaaaaa",
        "eyJaaaaaa.",
        "eyJaaaaaa.a ",
        "sk-",
        "sk-a ",
        "ghp_",
        "gh",
        "AKIA",
        "gh_",
    ),
    *("://", "://a:", "://a:a", ":/", ":\\/\\/a:", "://a@", "-----BEGIN PRIVATE KEY-----"),
    *("-----BEGIN ", "-----BEGIN RSA PRIVATE KEY", "-----END PRIVATE KEY", "tokens: [1,"),
    *('"token": {"a": 1, ', "\\", '"', "=", ":", " ", "private" + "-" * 12, "\u0130secret:"),
    *("password\n:", "\u212aey", "pass", "passpassword=", "token=<redacted>", "token.token=,"),
    *("token:`", "gh_"),
]
SOLO = """
import json, sys
from palyra_actors.domain.redact import FirstLook, redact, redact_text, redact_text_plainly

look = FirstLook()
for text in json.load(sys.stdin):
    redact_text(text)
    redact_text_plainly(text)
    look(text.encode())
    redact({text: b"x"}, kind="x.any")
print("done")
"""


@pytest.mark.timeout(110)
@pytest.mark.parametrize("head", ["", 'token: "', "://eyJaaaaaa"])
@pytest.mark.parametrize("tail", ["", "=x@h.a.b}]"])
def test_hostile_text_of_256_kib_takes_linear_time(head: str, tail: str) -> None:
    # Quadratic time would be minutes for each of the texts; the regex engine cannot be
    # interrupted, hence the process of its own.
    texts = [head + unit * (256 * 1024 // len(unit)) + tail for unit in HOSTILE]
    done = subprocess.run(
        [sys.executable, "-c", SOLO],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_the_patterns_are_compiled_once_for_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = hyperscan.Database

    def counted(**options: Any) -> hyperscan.Database:
        made.append(options)
        return real(**options)

    monkeypatch.setattr(hyperscan, "Database", counted)
    redact_module._compile.cache_clear()
    looks = [FirstLook() for _ in range(8)]
    assert len(made) == 1
    assert len({id(one._scratch) for one in looks}) == len(looks)  # each scans with its own


def test_looks_of_many_threads_over_one_database_do_not_mix() -> None:
    secret, harmless = b"\xa8password\xa1x" + bytes(100_000), bytes(100_000)

    def look_often(blob: bytes) -> set[int]:
        own = FirstLook()
        return {own(blob) for _ in range(200)}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look_often, [secret, harmless] * 4))
    assert found == [{SECRET}, {0}] * 4
