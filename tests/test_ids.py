"""Ids against python-ulid, and ids made here under clocks that misbehave."""

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from palyra_actors.errors import InvalidId
from palyra_actors.ids import ALPHABET, Ulids, format_ulid, parse_ulid, ulid_time_ms
from tests.figures import Tell

RAW = st.binary(min_size=16, max_size=16)
HOSTILE = st.text(
    st.one_of(
        st.sampled_from("01234567ABCXYZILOUilouabcz89_+- \t\n-.٣０１７\u2167\x00\ud800é"),
        st.characters(),
    ),
    min_size=26,
    max_size=26,
)


@given(RAW)
def test_formats_as_python_ulid_does_and_reads_it_back(raw: bytes) -> None:
    text = format_ulid(raw)
    assert text == str(ULID.from_bytes(raw))
    assert parse_ulid(text) == raw


@given(st.text(ALPHABET, min_size=25, max_size=25), st.sampled_from("01234567"))
def test_reads_every_canonical_text_as_python_ulid_does(tail: str, first: str) -> None:
    raw = parse_ulid(first + tail)
    assert raw == ULID.from_str(first + tail).bytes
    assert format_ulid(raw) == first + tail


@given(HOSTILE)
def test_reads_nothing_that_is_not_canonical(text: str) -> None:
    canonical = text[0] in "01234567" and all(letter in ALPHABET for letter in text)
    if canonical:
        assert format_ulid(parse_ulid(text)) == text
    else:
        with pytest.raises(InvalidId):
            parse_ulid(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0" * 25,
        "0" * 27,
        "8" + "0" * 25,
        "Z" * 26,
        "01arz3ndektsv4rrffq69g5fav",
        "O1ARZ3NDEKTSV4RRFFQ69G5FAV",
        "01ARZ3NDEKTSV4RRFFQ69G5FAI",
        " 1ARZ3NDEKTSV4RRFFQ69G5FAV",
        "0_1ARZ3NDEKTSV4RRFFQ69G5FA",
        "-1ARZ3NDEKTSV4RRFFQ69G5FAV",
        "+1ARZ3NDEKTSV4RRFFQ69G5FAV",
        "0x" + "0" * 24,
        "\u0660" * 26,
        "\ud800" + "0" * 25,
        "0" * 25 + "\n",
    ],
)
def test_refuses_and_names_the_field(text: str) -> None:
    with pytest.raises(InvalidId) as refused:
        parse_ulid(text, "events[2].run_id")
    assert refused.value.field == "events[2].run_id"
    assert refused.value.hint


def test_a_refusal_quotes_no_more_than_the_beginning_of_a_huge_text() -> None:
    with pytest.raises(InvalidId) as refused:
        parse_ulid("A" * 100_000)
    assert len(str(refused.value)) < 300


@given(RAW, RAW)
def test_text_sorts_as_bytes_do(one: bytes, other: bytes) -> None:
    assert (format_ulid(one) < format_ulid(other)) == (one < other)


@given(st.integers(0, 2**48 - 1))
def test_the_time_can_be_read_back(now_ms: int) -> None:
    assert ulid_time_ms(Ulids(lambda: now_ms, os.urandom)()) == now_ms


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=50))
def test_ids_rise_whatever_the_clock_does(times: list[int]) -> None:
    clock: Iterator[int] = iter(times)
    ulids = Ulids(lambda: next(clock), os.urandom)
    made = [ulids() for _ in times]
    assert made == sorted(set(made))


def test_ids_go_on_from_the_latest_time_when_the_clock_steps_back(figure: Tell) -> None:
    times = iter([5_000, 1_000, 5_001])
    ulids = Ulids(lambda: next(times), lambda size: bytes(size))
    first, second, third = ulids(), ulids(), ulids()
    figure(11, "ids that fall", not first < second < third, most=0)
    assert first < second < third
    assert [ulid_time_ms(raw) for raw in (first, second, third)] == [5_000, 5_000, 5_001]


def test_ids_rise_within_a_millisecond_from_the_largest_entropy(figure: Tell) -> None:
    ulids = Ulids(lambda: 7, lambda size: b"\xff" * size)
    made = [ulids() for _ in range(1000)]
    figure(11, "ids made within one millisecond", len(made))
    figure(11, "ids that fall", sum(b <= a for a, b in pairwise(made)), most=0)
    assert made == sorted(set(made))
    assert {ulid_time_ms(raw) for raw in made} == {7}
