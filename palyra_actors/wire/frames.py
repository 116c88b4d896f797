"""Requests and replies as bytes, the client's side; needs msgpack only.

A request is put together from parts that are packed already, so that a batch knows its size
before it is sent and no event is packed twice. A reply is first only looked at (`peek`): whose it
is and of what kind; the thread that waits for it reads the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgpack

from palyra_actors.errors import Invalid, Malformed, PalyraError, TooLarge, from_wire
from palyra_actors.limits import FRAME_BYTES_MAX, PROTOCOL_VERSION, VALUE_DEPTH_MAX

RequestId: TypeAlias = int | str
Kind: TypeAlias = Literal["ok", "err", "item"]

EMPTY_BODY: Final = b"\x80"
# what the envelope and the keys of an append take beside its events, with room to spare
APPEND_OVERHEAD_BYTES_MAX: Final = 1024
NAME_SHOWN: Final = 40  # characters of a key, in the path of what cannot be packed
EVENTS_BYTES_MAX: Final = FRAME_BYTES_MAX - APPEND_OVERHEAD_BYTES_MAX

_VERSION: Final = b"\xa1v" + msgpack.packb(PROTOCOL_VERSION)
_KEYS: Final = {
    name: msgpack.packb(name)
    for name in ("id", "op", "body", "budget_ms", "traceparent", "principal", "events")
}


def pack(value: object, field: str) -> bytes:
    """The MessagePack of one value.

    Raises:
        Invalid: a type, a number or a text MessagePack cannot hold; `field` names the value, or
            what in it.
    """
    try:
        packed = _packb(value)
    except _UNPACKABLE as reason:
        raise Invalid(
            f"this value cannot be sent: {reason}",
            field=_place(value, field),
            hint="maps with text keys, lists, text, bytes, numbers from -2^63 to 2^64-1,"
            " booleans and None",
        ) from reason
    return packed


_UNPACKABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)


def _packb(value: object) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True, datetime=False))


def _place(value: object, field: str) -> str:
    """The path of the first part that cannot be packed by itself, as the engine writes one; the
    fields of a `body` are called by their own names."""
    for _ in range(VALUE_DEPTH_MAX):
        parts: Iterable[tuple[str, object]]
        if isinstance(value, dict):
            stem = "" if field == "body" else f"{field}."
            parts = ((f"{stem}{str(key)[:NAME_SHOWN]}", part) for key, part in value.items())
        elif isinstance(value, list | tuple):
            parts = ((f"{field}[{index}]", part) for index, part in enumerate(value))
        else:
            return field
        for path, part in parts:
            try:
                _packb(part)
            except _UNPACKABLE:
                field, value = path, part
                break
        else:
            return field  # a key of it
    return field  # deeper than any value may be


def pack_append(events: Sequence[bytes], expected_session_seq: int | None) -> bytes:
    """The body of a `journal.append` from events that are packed already."""
    count = len(events)
    if count < 16:
        array = bytes((0x90 | count,))
    elif count < 1 << 16:
        array = b"\xdc" + count.to_bytes(2, "big")
    else:
        array = b"\xdd" + count.to_bytes(4, "big")
    keys = 1 if expected_session_seq is None else 2
    parts = [bytes((0x80 | keys,)), _KEYS["events"], array, *events]
    if expected_session_seq is not None:
        parts += [
            pack("expected_session_seq", "expected_session_seq"),
            pack(expected_session_seq, "expected_session_seq"),
        ]
    return b"".join(parts)


def encode_request(
    request_id: RequestId,
    op: str,
    body: bytes,
    *,
    budget_ms: int | None = None,
    traceparent: str | None = None,
    principal: str | None = None,
) -> bytes:
    """One request frame around a packed body.

    Raises:
        TooLarge: the frame would be over 4 MiB, which no engine reads.
    """
    options = {"budget_ms": budget_ms, "traceparent": traceparent, "principal": principal}
    given = {name: value for name, value in options.items() if value is not None}
    parts = [
        bytes((0x80 | 4 + len(given),)),
        _VERSION,
        _KEYS["id"],
        pack(request_id, "id"),
        _KEYS["op"],
        pack(op, "op"),
    ]
    for name, value in given.items():
        parts += [_KEYS[name], pack(value, name)]
    parts += [_KEYS["body"], body]
    frame = b"".join(parts)
    if len(frame) > FRAME_BYTES_MAX:
        raise TooLarge(
            "the request does not fit a frame",
            hint="send it in several requests",
            detail={"limit": FRAME_BYTES_MAX, "actual": len(frame)},
        )
    return frame


def peek(frame: bytes) -> tuple[RequestId | None, Kind, str | None]:
    """Whose reply it is, of what kind, and for an item its first key; the rest stays unread.

    Raises:
        Malformed: it is no reply at all.
    """
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=max(len(frame), 1))
    request_id: object = _ABSENT
    kind: Kind | None = None
    first: str | None = None
    try:
        unpacker.feed(frame)
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if key == "id":
                request_id = unpacker.unpack()
            elif key in ("ok", "err", "item"):
                kind = key
                if request_id is not _ABSENT:
                    if kind == "item" and unpacker.read_map_header():
                        first = str(unpacker.unpack())
                    break
                unpacker.skip()
            else:
                unpacker.skip()
    except Exception as reason:
        # msgpack raises half a dozen unrelated types on garbage, and its own for truncation
        raise Malformed("not a reply") from reason
    if kind is None or not (request_id is None or type(request_id) in (int, str)):
        raise Malformed("a reply has an id and one of ok, err, item")
    if kind == "item" and first is None:
        first = next(iter(read_item(frame)), None)
    return request_id, kind, first  # type: ignore[return-value]


def read_reply(frame: bytes) -> tuple[dict[str, Any], PalyraError | None]:
    """The `ok` map and None, or an empty map and the error the engine answered.

    Raises:
        Malformed: it is no reply.
    """
    reply = _unpack_map(frame)
    ok = reply.get("ok")
    if isinstance(ok, dict):
        return ok, None
    err = reply.get("err")
    if isinstance(err, dict):
        return {}, from_wire(err)
    raise Malformed("a reply's ok or err is a map")


def read_item(frame: bytes) -> dict[str, Any]:
    """The map of one stream item.

    Raises:
        Malformed: it is none.
    """
    item = _unpack_map(frame).get("item")
    if not isinstance(item, dict):
        raise Malformed("an item is a map")
    return item


def _unpack_map(frame: bytes) -> Mapping[str, Any]:
    try:
        reply = msgpack.unpackb(frame, raw=False, strict_map_key=True)
    except Exception as reason:
        raise Malformed("not a reply") from reason
    if not isinstance(reply, dict):
        raise Malformed("a reply is a map")
    return reply


_ABSENT: Final = object()
