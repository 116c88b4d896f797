"""Large values, compiled and in Python: what one says of them, the other says, too."""

from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain.canonical import Text, by_value, canonical, is_plain
from palyra_actors.domain.document import apply_patch_document, escape
from palyra_actors.domain.survey import (
    BINARY,
    LEVELS_MAX,
    NOT_FINITE,
    ODD,
    STRANGE,
    survey_plainly,
)
from palyra_actors.domain.swift import compiled_json
from palyra_actors.errors import Invalid
from tests.campaign import examples

pytestmark = pytest.mark.skipif(compiled_json is None, reason="no compiler when it was installed")

TEXTS = st.text(st.sampled_from('aé€\ud7ff\ue000\uffff😀"\\\n,:[]{}-.0159e\x7f'), max_size=12)
NUMBERS: Any = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(2**53 - 3, 2**53 + 3)
    | st.integers(-20, 20).map(float)
    | st.floats(0, 9).map(lambda one: round(one, 1))
    | st.integers(-330, 308).map(lambda power: float(f"1e{power}"))
    | st.integers(-330, 308).map(lambda power: float(f"-1.25e{power}"))
    | st.sampled_from([1e21, 1e20, 9.1e15, -0.0, 0.0, 1e-5, 9.9e-6, 1e-6, 1e-7, 5e-324, 2.0**53])
)
SCALARS: Any = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES: Any = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
STRANGERS: Any = st.recursive(
    SCALARS
    | st.binary(max_size=2)
    | st.floats()
    | st.integers()
    | st.sampled_from([(1,), bytearray(b"x"), {1: 2}, {None: 1}, {"a": {True: 1}}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES | STRANGERS)
@settings(max_examples=examples(500, 5_000), deadline=None)
def test_both_see_the_same_in_a_value(value: Any) -> None:
    assert compiled_json.survey(value) == survey_plainly(value)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ([], (1, 1, 0)),
        ({"a": [1, {"b": "x"}], "c": None}, (3, 6, 0)),
        ([1.0], (1, 2, ODD)),
        ([2**53, -(2**53), 0.5, 1e-5], (1, 5, 0)),
        ([2**53 + 1], (1, 2, ODD)),
        ({"\ue000": 1}, (1, 2, ODD)),
        ({"😀": 1}, (1, 2, ODD)),
        ({"ключ": 1, "é": 2}, (1, 3, 0)),
        ([float("nan")], (1, 2, ODD | NOT_FINITE)),
        ([b"x"], (1, 2, BINARY)),
        ({1: "x"}, (1, 2, STRANGE)),
    ],
)
def test_what_a_survey_tells(value: Any, seen: tuple[int, int, int]) -> None:
    assert compiled_json.survey(value) == survey_plainly(value) == seen


def test_what_nests_beyond_what_decoders_let_through_is_not_looked_into() -> None:
    value: Any = 1.0
    for _ in range(LEVELS_MAX + 50):
        value = [value]
    assert compiled_json.survey(value) == survey_plainly(value)
    assert compiled_json.survey(value)[0] == LEVELS_MAX + 1


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
@settings(max_examples=examples(500, 5_000), deadline=None)
def test_a_mended_text_is_the_canonical_one(state: dict[str, Any]) -> None:
    made = compiled_json.mend(orjson.dumps(state, option=orjson.OPT_SORT_KEYS))
    assert made in (None, by_value(state))
    assert canonical(state) == canonical(state, plain=False) == by_value(state)


@given(st.lists(NUMBERS))
@settings(max_examples=examples(500, 5_000), deadline=None)
def test_a_mended_number_is_written_as_ecmascript_does(numbers: list[Any]) -> None:
    doubles = [float(one) if isinstance(one, int) and abs(one) >= 2**53 else one for one in numbers]
    assert compiled_json.mend(orjson.dumps(numbers)) == rfc8785.dumps(doubles)


def test_a_state_with_fractions_is_mended_and_not_walked() -> None:
    rows: list[Any] = [
        {"x": n / 7, "y": float(n), "text": f'a "{n}.0", \\ 😀 1e5'} for n in range(2_000)
    ]
    text = orjson.dumps({"rows": rows}, option=orjson.OPT_SORT_KEYS)
    assert compiled_json.mend(text) == rfc8785.dumps({"rows": rows}) == canonical({"rows": rows})


@pytest.mark.parametrize(
    "text", [b"", b'"', b'"\\', b'{"a', b"-", b"1e", b"1e99999999999", b".", b"9" * 400, b"1." * 40]
)
def test_what_is_no_text_of_orjsons_ends_nothing(text: bytes) -> None:
    made = compiled_json.mend(text)
    assert made is None or isinstance(made, bytes)


KEYS: Any = st.text(st.sampled_from('abz-_0 .é€😀"\\'), max_size=3)
DOCUMENTS: Any = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS | st.text(st.sampled_from('a"\\,[]{}'), max_size=70),
        lambda inner: st.lists(inner, max_size=30) | st.dictionaries(KEYS, inner, max_size=8),
        max_leaves=40,
    ),
    max_size=6,
)
PLAIN: Any = st.none() | st.booleans() | st.integers(-9, 99) | TEXTS.filter(str.isascii)
NEW_KEYS = ["", "a", "ab", "zz", "0", "~", "b c"]
PATHS = ["", "a", "/", "/a", "/0", "/1/a", "/a/0", "/-", "/99999999999", "//", "/\ud800"]


def _place_in(draw: Any, document: Any) -> tuple[str, bool]:
    """A pointer to somewhere in it, and whether something is there."""
    path, here = "", document
    while True:
        if not isinstance(here, list | dict):
            return path, True
        names = [str(n) for n in range(len(here))] if isinstance(here, list) else list(here)
        new = (
            ["-", str(len(here))]
            if isinstance(here, list)
            else ["", "a", "ab", "zz", "0", "~", "b c"]
        )
        name = draw(st.sampled_from([*names, *new]))
        path += "/" + escape(name)
        if name not in names:
            return path, False
        here = here[int(name) if isinstance(here, list) else name]
        if draw(st.integers(0, 3)) == 0:
            return path, True


@given(st.data())
@settings(max_examples=examples(800, 20_000), deadline=None)
def test_a_text_after_a_patch_is_the_canonical_one(data: Any) -> None:
    document = data.draw(DOCUMENTS)
    text = Text()
    for _ in range(3):
        text.keep(document, canonical(document))
        path, there = _place_in(data.draw, document)
        name = data.draw(st.sampled_from(["add", "replace", "remove", "test"])) if there else "add"
        value = data.draw(PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(KEYS, PLAIN))
        operations = [{"op": name, "path": path, "value": value}]
        if not path.isascii() or not is_plain(value):
            continue
        try:
            after = apply_patch_document(document, operations)
        except Invalid:
            continue  # a test that fails, or the root was to be no map
        found = text.after(document, operations)
        assert found in (None, canonical(after))
        document = after


ROWS: dict[str, Any] = {
    "rows": [{"id": n, "text": f'row "{n}", \\ [{n}] 😀', "tags": ["a", "b"]} for n in range(500)],
    "empty": [], "none": {}, "é": {"x": 0.5}, "b": {"b": 1, "d": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/rows/499/text", "value": 'another "\\"'},
        {"op": "replace", "path": "/rows/0", "value": {"b": 1, "a": [2]}},
        {"op": "replace", "path": "/rows/250/tags/1", "value": None},
        {"op": "add", "path": "/rows/-", "value": {"id": 500}},
        {"op": "add", "path": "/rows/500", "value": 1},
        {"op": "add", "path": "/rows/0", "value": 1},
        {"op": "add", "path": "/rows/499", "value": 1},
        {"op": "remove", "path": "/rows/0"},
        {"op": "remove", "path": "/rows/499"},
        {"op": "remove", "path": "/rows/63/tags"},
        {"op": "add", "path": "/empty/-", "value": 1},
        {"op": "add", "path": "/empty/0", "value": {}},
        {"op": "add", "path": "/none/a", "value": 1},
        {"op": "add", "path": "/b/a", "value": 1},
        {"op": "add", "path": "/b/c", "value": 1},
        {"op": "add", "path": "/b/e", "value": 1},
        {"op": "add", "path": "/b/b", "value": 2},
        {"op": "add", "path": "/b/", "value": 2},
        {"op": "add", "path": "/z", "value": [[]]},
        {"op": "remove", "path": "/b/d"},
        {"op": "remove", "path": "/b/b"},
        {"op": "remove", "path": "/b"},
        {"op": "remove", "path": "/empty"},
        {"op": "test", "path": "/b", "value": {"b": 1, "d": 2}},
    ],
)
def test_one_operation_is_done_in_the_text(operation: dict[str, Any]) -> None:
    text = Text()
    text.keep(ROWS, canonical(ROWS))
    after = apply_patch_document(ROWS, [operation])
    assert text.after(ROWS, [operation]) == canonical(after)


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "move", "from": "/b/b", "path": "/c"}],
        [{"op": "copy", "from": "/b/b", "path": "/c"}],
        [{"op": "replace", "path": "", "value": {}}],
        [{"op": "add", "path": "/a~1b", "value": 1}],
        [{"op": "add", "path": '/"', "value": 1}],
        [{"op": "add", "path": "/c", "value": 1}] * 5,
    ],
)
def test_what_is_not_done_in_the_text_is_said_to_be_none(operations: list[dict[str, Any]]) -> None:
    text = Text()
    text.keep(ROWS, canonical(ROWS))
    assert text.after(ROWS, operations) is None
    assert Text().after(ROWS, [{"op": "remove", "path": "/b"}]) is None
    assert text.after(dict(ROWS), [{"op": "remove", "path": "/b"}]) is None, "another state"


def test_a_key_that_is_not_sorted_as_it_is_written_is_left_to_others() -> None:
    document = {'"': 1, "\\": 2, "x": 3}
    text = Text()
    text.keep(document, canonical(document))
    assert text.after(document, [{"op": "add", "path": "/b", "value": 1}]) is None


@given(
    st.text(st.sampled_from('{}[],:"\\a0'), max_size=150),
    st.integers(0, 2),
    st.sampled_from(
        ["", "a", "/", "/a", "/0", "/1/a", "/a/0", "/-", "/99999999999", "//", "/\ud800"]
    ),
)
@settings(max_examples=examples(1_000, 20_000), deadline=None)
def test_a_text_that_is_none_ends_nothing(text: str, op: int, path: str) -> None:
    for blob in (text.encode(), b'{"a":' + text.encode(), b"[1," + text.encode()):
        made = compiled_json.splice(blob, op, path, b"1")
        assert made is None or isinstance(made, bytes)
