"""Requests and replies as bytes."""

import struct

import msgpack
import pytest

from palyra_actors.errors import Conflict, Invalid, Malformed, Overloaded, TooLarge, Unavailable
from palyra_actors.wire import frames


def test_a_request_is_one_map_with_its_options_only_where_they_are_given() -> None:
    body = frames.pack({"limit": 3}, "body")
    assert msgpack.unpackb(frames.encode_request(9, "journal.recent", body)) == {
        "v": 1,
        "id": 9,
        "op": "journal.recent",
        "body": {"limit": 3},
    }
    full = frames.encode_request(
        "a", "engine.hello", frames.EMPTY_BODY, budget_ms=0, traceparent="00-x", principal="p"
    )
    assert msgpack.unpackb(full) == {
        "v": 1,
        "id": "a",
        "op": "engine.hello",
        "budget_ms": 0,
        "traceparent": "00-x",
        "principal": "p",
        "body": {},
    }


@pytest.mark.parametrize("count", [1, 15, 16, 1024, 65_536])
@pytest.mark.parametrize("expected", [None, 0, 2**40])
def test_an_append_from_packed_events_reads_back_as_those_events(
    count: int, expected: int | None
) -> None:
    events = [{"n": n} for n in range(count)]
    body = frames.pack_append([frames.pack(event, "e") for event in events], expected)
    want = {"events": events}
    if expected is not None:
        want["expected_session_seq"] = expected  # type: ignore[assignment]
    assert msgpack.unpackb(body) == want


def test_what_does_not_fit_a_frame_is_refused_before_it_is_sent() -> None:
    body = frames.pack({"x": bytes(4 * 1024 * 1024)}, "body")
    with pytest.raises(TooLarge) as caught:
        frames.encode_request(1, "x", body)
    assert caught.value.detail["limit"] == 4 * 1024 * 1024 < caught.value.detail["actual"]


def test_an_append_of_the_documented_size_does_fit() -> None:
    event = frames.pack(bytes(frames.EVENTS_BYTES_MAX - 5), "e")
    body = frames.pack_append([event], 2**64 - 1)
    options = {"budget_ms": 600_000, "traceparent": "0" * 128, "principal": "p" * 64}
    frame = frames.encode_request(2**64 - 1, "journal.append", body, **options)  # type: ignore[arg-type]
    assert len(frame) <= 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (object(), ""), (2**64, ""), (-(2**63) - 1, ""), ("\ud800", ""), ({"a": {1, 2}}, ".a"),
        ([0, {"a": [1, 2**64]}], "[1].a[1]"), ({"a": 1, "\ud800": 2}, ""),
        ({"x" * 50: 2**64}, "." + "x" * 40), ({"a": [[[[2**64]]]]}, ".a[0][0][0][0]"),
    ],
)  # fmt: skip
def test_a_value_messagepack_cannot_hold_is_invalid_and_named(value: object, place: str) -> None:
    with pytest.raises(Invalid) as caught:
        frames.pack({"n": 1, "payload": value}, "events[3]")
    assert caught.value.field == "events[3].payload" + place
    with pytest.raises(Invalid) as caught:
        frames.pack({"n": 1, "state": value}, "body")
    assert caught.value.field == "state" + place


def test_a_value_without_an_end_is_invalid() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(Invalid) as caught:
        frames.pack({"payload": endless}, "body")
    assert caught.value.field is not None
    assert caught.value.field.startswith("payload[0][0]")


@pytest.mark.parametrize("keys", [("v", "id", "ok"), ("ok", "id", "v"), ("new", "ok", "v", "id")])
def test_a_reply_is_recognised_whatever_the_order_of_its_keys(keys: tuple[str, ...]) -> None:
    values = {"v": 1, "id": 5, "ok": {"a": [1, {"b": 2}]}, "new": {"x": [None]}}
    frame = msgpack.packb({key: values[key] for key in keys})
    assert frames.peek(frame) == (5, "ok", None)
    assert frames.read_reply(frame) == ({"a": [1, {"b": 2}]}, None)


@pytest.mark.parametrize("keys", [("id", "item"), ("item", "id")])
def test_an_item_is_recognised_by_its_first_key(keys: tuple[str, ...]) -> None:
    values = {"id": "s", "item": {"event": {"seq": 1}, "new": 2}}
    frame = msgpack.packb({key: values[key] for key in keys})
    assert frames.peek(frame) == ("s", "item", "event")


def test_an_error_reply_is_the_typed_error() -> None:
    err = {"code": "conflict", "message": "m", "retryable": False, "detail": {"actual": 4}}
    _, error = frames.read_reply(msgpack.packb({"v": 1, "id": 1, "err": err}))
    assert isinstance(error, Conflict)
    assert error.detail == {"actual": 4}
    late = {"code": "overloaded", "message": "m", "retryable": True, "retry_after_ms": 7, "x": 1}
    _, error = frames.read_reply(msgpack.packb({"v": 1, "id": 1, "err": late}))
    assert isinstance(error, Overloaded)
    assert error.retry_after_ms == 7
    newer = {"code": "from_the_future", "message": "m", "retryable": True}
    _, error = frames.read_reply(msgpack.packb({"v": 1, "id": 1, "err": newer}))
    assert isinstance(error, Unavailable)


GARBAGE = [
    b"",
    b"\xc1",
    b"\x00",
    b"\x81",
    b"\x81\xa2id",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xffabc",
    b"\x91" * 5000,
    b"\x81\xa2ok" + b"\x91" * 5000,
    b"\x81\xa2\xff\xfe\x01",
    msgpack.packb({"v": 1, "id": 1}),
    msgpack.packb({"v": 1, "ok": {}}),
    msgpack.packb({"v": 1, "id": [1], "ok": {}}),
    msgpack.packb({"v": 1, "id": True, "ok": {}}),
    msgpack.packb({"v": 1, "id": 1.0, "ok": {}}),
    msgpack.packb({"v": 1, "id": 1, "item": 5}),
    b"\x81\xa2id\xcb" + struct.pack(">d", float("nan")),
]


@pytest.mark.parametrize("frame", GARBAGE)
def test_garbage_is_malformed_and_nothing_else(frame: bytes) -> None:
    with pytest.raises(Malformed):
        frames.peek(frame)


@pytest.mark.parametrize(
    "reply", [[], {"id": 1, "ok": 3}, {"id": 1, "err": "no"}, {"id": 1, "item": {}}]
)
def test_a_reply_without_a_map_in_it_is_malformed(reply: object) -> None:
    with pytest.raises(Malformed):
        frames.read_reply(msgpack.packb(reply))
