"""What a MessagePack value may hold, and the path an error gives to what it may not."""

import math
import struct

import msgpack
import ormsgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from palyra_actors.domain.values import (
    container_bytes,
    count_pairs,
    decode,
    walk,
)
from palyra_actors.errors import Invalid, TooLarge
from palyra_actors.limits import INTEGER_MAX, INTEGER_MIN, PAYLOAD_BYTES_MAX

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(INTEGER_MIN, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.binary(max_size=40)
)
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=6)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12), below, max_size=6
        )
    ),
    max_leaves=30,
)


def refused(raw: bytes, field: str = "payload") -> Invalid:
    with pytest.raises(Invalid) as caught:
        decode(raw, field)
    return caught.value


@given(VALUES)
def test_every_allowed_value_comes_through_both_codecs_unchanged(value: object) -> None:
    for raw in (ormsgpack.packb(value), msgpack.packb(value)):
        decoded = decode(raw, "payload")
        assert ormsgpack.packb(decoded) == ormsgpack.packb(value)
        assert msgpack.unpackb(raw, strict_map_key=True) == decoded


@given(VALUES)
def test_the_walk_agrees_and_counts_the_pairs(value: object) -> None:
    assert walk(ormsgpack.packb(value), "payload") == count_pairs(value)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_typed_refusal(raw: bytes) -> None:
    readable = True
    try:
        walk(raw, "payload")
    except Invalid:
        readable = False
    if readable:
        assert decode(raw, "payload") == ormsgpack.unpackb(raw)
    else:
        assert (refused(raw).field or "").startswith("payload")


@given(VALUES, st.data())
def test_half_a_value_is_refused(value: object, data: st.DataObject) -> None:
    raw = ormsgpack.packb(value)
    refused(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(VALUES, st.binary(min_size=1, max_size=8))
def test_bytes_behind_the_value_are_refused(value: object, behind: bytes) -> None:
    refused(ormsgpack.packb(value) + behind)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdf\0\0\0\1\xa0"])
def test_sixty_four_levels_are_allowed_and_sixty_five_are_not(opening: bytes) -> None:
    assert decode(opening * 64 + b"\xc0", "payload") is not None
    assert decode(opening * 63 + b"\x90", "payload") is not None
    assert "64 levels" in refused(opening * 65 + b"\xc0").message
    assert "64 levels" in refused(opening * 64 + b"\x80").message


@pytest.mark.parametrize("levels", [500, 1024, 1025, 5_000, 200_000])
def test_any_depth_is_refused_without_a_crash(levels: int) -> None:
    assert "64 levels" in refused(b"\x91" * levels + b"\xc0").message


def test_many_containers_side_by_side_are_not_deep() -> None:
    value: list[object] = [{}, []] * 500 + ["日本語" * 50]
    assert decode(ormsgpack.packb(value), "payload") == value


def test_a_repeated_key_hides_neither_depth_nor_a_float() -> None:
    deep = b"\x82\xa1a" + b"\x91" * 64 + b"\xc0" + b"\xa1a\x01"
    assert refused(deep).field == "payload.a" + "[0]" * 15 + "…"
    nan = b"\x82\xa1a\xcb" + struct.pack(">d", math.nan) + b"\xa1a\x01"
    assert refused(nan).field == "payload.a"


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("header", [b"\xca", b"\xcb"])
def test_floats_that_are_not_finite_are_refused_with_their_place(
    value: float, header: bytes
) -> None:
    number = header + struct.pack(">f" if header == b"\xca" else ">d", value)
    error = refused(b"\x81\xa4args\x92\x01\x81\xa1x" + number, "events[3].payload")
    assert error.field == "events[3].payload.args[1].x"
    assert error.hint


@given(st.integers(1, 2**52 - 1), st.booleans())
def test_every_nan_is_refused(fraction: int, negative: bool) -> None:
    bits = (negative << 63) | (0x7FF << 52) | fraction
    refused(b"\xcb" + bits.to_bytes(8, "big"))


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_finite_floats_of_four_bytes_are_allowed(value: float) -> None:
    assert decode(b"\xca" + struct.pack(">f", value), "payload") == value


@given(st.binary(min_size=1, max_size=30))
def test_bytes_that_look_like_odd_floats_are_allowed(noise: bytes) -> None:
    blob = b"\xcb\x7f\xf8" + noise
    assert decode(ormsgpack.packb({"blob": blob}), "payload") == {"blob": blob}


@pytest.mark.parametrize(
    ("raw", "field", "what"),
    [
        (b"\x81\x01\x02", "payload", "key"),
        (b"\x81\xa1a\x81\xc0\x02", "payload.a", "key"),
        (b"\x81\xa1a\x91\x81\xc4\x01b\x02", "payload.a[0]", "key"),
        (b"\x81\xa1a\xa1\xff", "payload.a", "UTF-8"),
        (b"\x81\xa1a\xa3\xed\xa0\x80", "payload.a", "UTF-8"),
        (b"\x81\xa1a\xd9\x02\xc0\x80", "payload.a", "UTF-8"),
        (b"\x81\xa1\xff\x01", "payload", "UTF-8"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "payload.a", "extension"),
        (b"\x81\xa1a\xd4\x01\x01", "payload.a", "extension"),
        (b"\x81\xa1a\xc7\x00\x05", "payload.a", "extension"),
        (b"\x81\xa1a\xc1", "payload.a", "does not use"),
        (b"\x82\xa1a\x01\xa3b c\xc1", "payload['b c']", "does not use"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "payload.a[0]", "too early"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xffx", "payload.a", "too early"),
        (b"", "payload", "too early"),
    ],
)
def test_a_refusal_says_what_and_where(raw: bytes, field: str, what: str) -> None:
    error = refused(raw)
    assert error.field is not None
    assert error.field.startswith(field)
    assert what in error.message


def test_the_size_is_looked_at_before_the_bytes_are() -> None:
    with pytest.raises(TooLarge) as caught:
        decode(b"\xc1" * (PAYLOAD_BYTES_MAX + 1), "events[0].payload")
    assert caught.value.detail == {"limit": PAYLOAD_BYTES_MAX, "actual": PAYLOAD_BYTES_MAX + 1}
    assert caught.value.field == "events[0].payload"
    largest = ormsgpack.packb("x" * (PAYLOAD_BYTES_MAX - 5))
    assert len(largest) == PAYLOAD_BYTES_MAX
    assert decode(largest, "payload") == "x" * (PAYLOAD_BYTES_MAX - 5)


def test_the_whole_range_of_integers_is_allowed() -> None:
    for value in (INTEGER_MIN, INTEGER_MAX, 0, -1, 2**63):
        assert decode(ormsgpack.packb(value), "payload") == value


@given(VALUES)
def test_no_value_is_deeper_than_its_container_bytes(value: object) -> None:
    def depth(item: object) -> int:
        if isinstance(item, dict):
            return 1 + max(map(depth, item.values()), default=0)
        if isinstance(item, list):
            return 1 + max(map(depth, item), default=0)
        return 0

    assume(isinstance(value, dict | list))
    assert container_bytes(ormsgpack.packb(value)) >= depth(value)


def test_a_view_of_bytes_is_as_good_as_bytes() -> None:
    assert decode(memoryview(b"\x81\xa1a\x01"), "payload") == {"a": 1}
