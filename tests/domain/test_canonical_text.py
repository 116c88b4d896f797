"""Canonical JSON, read back as it was."""

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from palyra_actors.domain.canonical_text import read

EXACT = 2**53


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_written_and_read_back_equal(value: float) -> None:
    back = read(rfc8785.dumps([value]))[0]
    assert back == value
    assert type(back) is float or abs(back) < EXACT


@given(st.integers(1 - EXACT, EXACT - 1))
def test_an_integer_stays_one(value: int) -> None:
    back = read(rfc8785.dumps(value))
    assert (back, type(back)) == (value, int)


@pytest.mark.parametrize("value", [2.0**53, 1e16, 1.9e19, 1e20, 9.99e20, 1e21, -9.3e18, -1e20])
def test_what_64_bits_do_not_hold_is_the_float_that_it_was(value: float) -> None:
    text = rfc8785.dumps({"limit": value})
    assert read(text) == {"limit": value}
    assert type(read(text)["limit"]) is float
    assert rfc8785.dumps(read(text)) == text


def test_an_integer_that_no_canonical_text_holds_is_seen() -> None:
    text = json.dumps([EXACT + 1]).encode()
    assert rfc8785.dumps(read(text)) != text
