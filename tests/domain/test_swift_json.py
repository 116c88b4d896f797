"""Large values, compiled and in Python: what one says of them, the other says, too."""

from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain.canonical import by_value, canonical
from palyra_actors.domain.survey import (
    BINARY,
    LEVELS_MAX,
    NOT_FINITE,
    ODD,
    STRANGE,
    survey_plainly,
)
from palyra_actors.domain.swift import compiled_json
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
