"""Frames. `decode` turns any bytes into a request or a refusal; the others make replies.

The usual frame is decoded and checked by one call in C. Only what that call refuses is looked at
again, slowly, to say what is wrong with it.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, TypeAlias, Union

import msgpack
import msgspec
import msgspec.inspect
from msgspec import Raw

from palyra_actors.domain.redact import redact
from palyra_actors.domain.swift import compiled
from palyra_actors.errors import (
    Invalid,
    Malformed,
    PalyraError,
    TooLarge,
    UnknownOp,
    UnsupportedVersion,
)
from palyra_actors.limits import (
    APPEND_EVENTS_MAX,
    BUDGET_MS_MAX,
    FRAME_BYTES_MAX,
    PROTOCOL_VERSION,
    REQUEST_ID_BYTES_MAX,
    VALUE_DEPTH_MAX,
)
from palyra_actors.wire.messages import AppendBody, Envelope, EventIn, WriteBody
from palyra_actors.wire.operations import BODIES, envelope_types

RequestId: TypeAlias = int | str | None
"""None only in the answer to a frame that has no usable id."""

ENVELOPE_KEYS_MAX: Final = 64
"""Keys of an envelope's map. Read from the header, before a single object is made."""

LARGE_BYTES: Final = 64 * 1024
"""From here on the envelope of a frame is read around its body, and not with it."""

EVENTS_SAID_WITHIN_BYTES: Final = 4096
"""Of a body: where the number of its events is looked for before all of them are."""

REQUEST_TYPES: Final = envelope_types()
"""Operation to the type of its decoded request: what a dispatcher switches on."""

WRITES: Final = frozenset(
    op for op, body in BODIES.items() if issubclass(body, (AppendBody, WriteBody))
)
"""The operations that have a budget."""

WRITE_TYPES: Final = frozenset(REQUEST_TYPES[op] for op in WRITES)

_decode_request = msgspec.msgpack.Decoder(Union[tuple(REQUEST_TYPES.values())]).decode  # noqa: UP007 - made of a list
_decode_any_map = msgspec.msgpack.Decoder(dict[str, Raw]).decode
_decode_odd_map = msgspec.msgpack.Decoder(dict[Any, Raw]).decode
_decode_any = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode
_AT = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?\Z", re.DOTALL)


REPLY_HEAD: Final = b"\x83\xa1v" + _encode(PROTOCOL_VERSION) + b"\xa2id"
OVERLOADED: Final = b"".join((
    b"\xa3err\x84",
    *(
        _encode(part)
        for part in (
            "code", "overloaded",
            "message", "it could not be durable within its budget; nothing was stored",
            "retryable", True,
            "retry_after_ms",
        )
    ),
))  # fmt: skip
"""A refusal: `REPLY_HEAD`, the request's id, this, and the number of milliseconds."""


class Head(msgspec.Struct, gc=False):
    """What has to be known of a write that may be refused unread."""

    v: Literal[1]
    id: Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(min_length=1)]
    op: str
    budget_ms: Annotated[int, msgspec.Meta(ge=0, le=BUDGET_MS_MAX)] | None = None


class _EventPlace(msgspec.Struct, gc=False):
    session_id: str


class _Places(msgspec.Struct, gc=False):
    events: list[_EventPlace]


class _Placed(msgspec.Struct, gc=False):
    body: _Places


_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_placed = msgspec.msgpack.Decoder(_Placed).decode


class _Ok(msgspec.Struct, gc=False):
    v: int
    id: RequestId
    ok: Any


class Unusable(Exception):
    """A frame that cannot be served: the id to answer to and the error to answer with."""

    def __init__(self, request_id: RequestId, error: PalyraError) -> None:
        super().__init__(str(error))
        self.request_id = request_id
        self.error = error


def decode(frame: bytes) -> Any:
    """The request in a frame: a struct with `id`, `body` and the envelope's fields.

    Raises:
        Unusable: anything else; carries what to answer.
    """
    if len(frame) <= FRAME_BYTES_MAX:
        try:
            request = _decode_request(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        else:
            request_id = request.id
            if (
                type(request_id) is int
                or request_id.isascii()
                or len(request_id.encode()) <= REQUEST_ID_BYTES_MAX
            ):
                return request
    raise _explain(frame)


def decode_head(frame: bytes) -> Head | None:
    """A write's envelope, without its body; None: it is no write, or has to be looked at whole."""
    try:
        around = frame
        if len(frame) >= LARGE_BYTES:
            envelope = envelope_of(frame)
            around = _encode(
                {key: envelope[key] for key in Head.__struct_fields__ if key in envelope}
            )
        head = _decode_head(around)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if head.op not in WRITES or len(frame) > FRAME_BYTES_MAX:
        return None
    text = head.id
    if type(text) is str and len(text.encode()) > REQUEST_ID_BYTES_MAX:
        return None
    return head


def session_of(frame: bytes) -> str | None:
    """The session that all events of an append name; None: there are several, or none is found."""
    try:
        events = _decode_placed(frame).body.events
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not events:
        return None
    session_id = events[0].session_id
    if len(events) > 1 and any(event.session_id != session_id for event in events):
        return None
    return session_id


def encode_ok(request_id: RequestId, body: Any) -> bytes:
    return _encode(_Ok(PROTOCOL_VERSION, request_id, body))


def encode_err(request_id: RequestId, error: PalyraError) -> bytes:
    """A refusal. It may quote what it refuses, and what a client sends by mistake may be a secret:
    an answer is logged and shown where nobody expects one."""
    err, _ = redact(error.to_wire(), kind="")
    return _encode({"v": PROTOCOL_VERSION, "id": request_id, "err": err})


def encode_overloaded(request_id: RequestId, retry_after_ms: int) -> bytes:
    """The refusal of a write that could not be durable in time. Under overload this is what the
    engine does most, so all but two numbers of it are encoded once."""
    return b"".join((REPLY_HEAD, _encode(request_id), OVERLOADED, _encode(retry_after_ms)))


def encode_item(request_id: RequestId, item: Any) -> bytes:
    return _encode({"v": PROTOCOL_VERSION, "id": request_id, "item": item})


def too_many_events(count: int) -> TooLarge:
    """The refusal of an append of that many events."""
    return TooLarge(
        f"an append takes at most {APPEND_EVENTS_MAX} events",
        field="events",
        hint="split it; each request is atomic by itself",
        detail={"limit": APPEND_EVENTS_MAX, "actual": count},
    )


# -- what is wrong with it ------------------------------------------------------------------------


def _explain(frame: bytes) -> Unusable:
    try:
        envelope = _envelope_map(frame)
    except RecursionError:
        return _too_deep(frame)
    if envelope is None:
        if len(frame) > FRAME_BYTES_MAX:
            return Unusable(None, _frame_too_large(frame))
        return Unusable(
            None, Malformed("the frame is no MessagePack map", hint="send one map with string keys")
        )
    request_id = _request_id(envelope)
    if len(frame) > FRAME_BYTES_MAX:
        return Unusable(request_id, _frame_too_large(frame))
    version = _value(envelope, "v")
    odd = any(type(key) is not str for key in envelope)
    if odd and ("v" not in envelope or version == PROTOCOL_VERSION):
        return Unusable(
            request_id,
            Malformed("the envelope's keys are text", hint="send a map with string keys"),
        )
    if type(version) is not int or version != PROTOCOL_VERSION:
        return Unusable(
            request_id,
            UnsupportedVersion(
                "this engine speaks version 1",
                field="v",
                hint='send "v": 1',
                detail={"supported": [PROTOCOL_VERSION]},
            ),
        )
    if request_id is None:
        return Unusable(
            None,
            Malformed(
                "the envelope has no usable id",
                field="id",
                hint=f"an unsigned integer, or text of 1..{REQUEST_ID_BYTES_MAX} bytes",
            ),
        )
    op = _value(envelope, "op")
    if type(op) is not str:
        return Unusable(
            request_id,
            Malformed("the envelope has no usable op", field="op", hint="the operation's name"),
        )
    if op not in BODIES:
        return Unusable(
            request_id,
            UnknownOp(
                f"there is no operation {op[:64]!r}",
                field="op",
                hint=f"one of {', '.join(sorted(BODIES))}",
            ),
        )
    return Unusable(request_id, _invalid(envelope, op))


def _too_deep(frame: bytes) -> Unusable:
    """Something is nested deeper than a decoder goes. What stands before it is the envelope's."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(frame), 1))
    unpacker.feed(frame)
    found: dict[object, object] = {}
    with suppress(Exception):  # whatever it is, it ends the part that can be read
        for _ in range(min(unpacker.read_map_header(), ENVELOPE_KEYS_MAX)):
            key = unpacker.unpack()
            if key in ("v", "id", "op"):
                found[key] = unpacker.unpack()
            else:
                unpacker.skip()
    scalars = {
        str(key): Raw(_encode(value))
        for key, value in found.items()
        if isinstance(value, int | str)
    }
    answer = _explain(_encode({**scalars, "body": None}))
    if answer.request_id is None:
        return Unusable(
            None, Malformed("the frame is nested deeper than can be read", hint="see the limits")
        )
    if isinstance(answer.error, Invalid):
        answer.error = Invalid(
            f"the request is nested deeper than {VALUE_DEPTH_MAX} levels",
            field="body",
            hint="values are at most that deep",
        )
    return answer


def _frame_too_large(frame: bytes) -> TooLarge:
    return TooLarge(
        f"a frame holds at most {FRAME_BYTES_MAX} bytes",
        hint="send fewer events in one request",
        detail={"limit": FRAME_BYTES_MAX, "actual": len(frame)},
    )


def _envelope_map(frame: bytes) -> Mapping[Any, Raw] | None:
    """The frame's map, also with keys that are no text: who sent it waits for an answer under its
    id, and may speak a version in which they mean something."""
    keys = _map_keys(frame)
    if keys is None or keys > ENVELOPE_KEYS_MAX:
        return None
    for decode_map in (envelope_of, _decode_odd_map):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return decode_map(frame)
    return None


def envelope_plainly(frame: bytes) -> Mapping[str, Raw]:
    """The values of the frame's map, as they stand there. Raises MsgspecError, UnicodeDecodeError,
    RecursionError: it is none."""
    return _decode_any_map(frame)


def envelope_swiftly(frame: bytes) -> Mapping[str, Raw]:
    """As `envelope_plainly`, with the walk over a large frame in C, without the interpreter's lock:
    over 4 MiB of nils it takes 17 ms otherwise, in which the guard of the door cannot look."""
    places = compiled.skim(frame)
    if places is None:
        return _decode_any_map(frame)
    view = memoryview(frame)
    return {key: Raw(view[begins:ends]) for key, (begins, ends) in places.items()}


envelope_of = envelope_plainly if compiled is None else envelope_swiftly


def _map_keys(frame: bytes) -> int | None:
    """How many keys the frame's map says it has; None: it is no map."""
    first = frame[0] if frame else 0
    if 0x80 <= first <= 0x8F:
        return first & 0x0F
    if first == 0xDE:
        return int.from_bytes(frame[1:3], "big")
    if first == 0xDF:
        return int.from_bytes(frame[1:5], "big")
    return None


def _value(envelope: Mapping[str, Raw], key: str) -> object:
    """A scalar of the envelope; None where it is missing, no scalar, or broken."""
    raw = envelope.get(key)
    if raw is None or len(bytes(raw)) > 1024:
        return None
    try:
        return _decode_any(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _request_id(envelope: Mapping[str, Raw]) -> RequestId:
    value = _value(envelope, "id")
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and 1 <= len(value.encode()) <= REQUEST_ID_BYTES_MAX:
        return value
    return None


def _invalid(envelope: Mapping[str, Raw], op: str) -> PalyraError:
    body_type = BODIES[op]
    around = {key: envelope[key] for key in Envelope.__struct_fields__ if key in envelope}
    try:  # without the body: a pass over 4 MiB of nils takes 17 ms
        msgspec.msgpack.decode(_encode(around), type=Envelope)
    except msgspec.MsgspecError as error:
        return _from_validation(error, "")
    except (UnicodeDecodeError, RecursionError):
        return Malformed("the envelope is broken MessagePack")
    body = envelope.get("body", Raw(b"\x80"))
    try:
        msgspec.msgpack.decode(body, type=body_type)
    except msgspec.ValidationError as error:
        wrong = _invalid_event(body) if body_type is AppendBody else None
        return wrong or _from_validation(error, "body", body_type)
    except RecursionError:
        return Invalid(f"nested deeper than {VALUE_DEPTH_MAX} levels", field="body")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        wrong = _invalid_event(body) if body_type is AppendBody else None
        return wrong or _not_utf8(
            body, ""
        )  # the frame is whole MessagePack, so nothing else can be wrong
    return Malformed("the frame is not one MessagePack map and nothing else")


def _not_utf8(raw: Raw, place: str) -> Invalid:
    """Text that is no UTF-8, by the key of the map that it stands under."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a key itself is no UTF-8
        for key, value in _decode_any_map(raw).items():
            try:
                _decode_any(value)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                place = f"{place}.{key[:64]}" if place else key[:64]
                break
    return Invalid("text has to be valid UTF-8", field=place or "body")


def _invalid_event(body: Raw) -> PalyraError | None:
    """msgspec does not say which element of a list is wrong; find the first one."""

    class Loose(msgspec.Struct):
        events: Raw

    try:
        count = _events_said(bytes(memoryview(body)[:EVENTS_SAID_WITHIN_BYTES]))
        if count is not None and count > APPEND_EVENTS_MAX:  # 4 MiB of nils would take 300
            return too_many_events(count)
        raw = msgspec.msgpack.decode(body, type=Loose).events
        events = msgspec.msgpack.decode(raw, type=list[Raw])
    except msgspec.MsgspecError:
        return None
    for index, event in enumerate(events):
        try:
            msgspec.msgpack.decode(event, type=EventIn)
        except msgspec.ValidationError as error:
            return _from_validation(error, f"events[{index}]")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _not_utf8(event, f"events[{index}]")
    return None


def _events_said(body: bytes) -> int | None:
    """How many events a body that begins like this says it has; None: not so far."""
    unpacker = msgpack.Unpacker(max_array_len=0, max_map_len=0)
    unpacker.feed(body)
    with suppress(ValueError, msgpack.UnpackException):  # whatever it is, it is no count
        for _ in range(unpacker.read_map_header()):
            if unpacker.unpack() == "events":
                return int(unpacker.read_array_header())
            unpacker.skip()
    return None


def _from_validation(error: Exception, place: str, read_as: type | None = None) -> Invalid:
    match = _AT.match(str(error))
    message, path = (match.group(1), match.group(2) or "") if match else (str(error), "")
    named = re.search(r"(?:field|key) `([^`]*)`", message)
    parts = [place if place != "body" or not (path or named) else "", path]
    if named and "field" in message:
        parts.append(named.group(1)[:64])
    field = ".".join(part for part in parts if part) or "body"
    choices = _choices(read_as, path) if read_as and message.startswith("Invalid enum") else ()
    hint = f"one of {', '.join(choices)}" if choices else None
    return Invalid(message[:200], field=field, hint=hint)


def _choices(read_as: type, path: str) -> Sequence[str]:
    """What may stand at a place that takes one of a few words; nothing: it takes others."""
    info = msgspec.inspect
    found: list[info.Type] = [info.type_info(read_as)]
    for step in re.findall(r"[^.\[\]]+", path):
        among, found = found, []
        for one in among:
            if isinstance(one, info.StructType):
                found += [each.type for each in one.fields if each.encode_name == step]
            elif isinstance(one, info.ListType):
                found.append(one.item_type)
        found = [
            each
            for one in found
            for each in (one.types if isinstance(one, info.UnionType) else (one,))
        ]
    return [
        str(value) for one in found if isinstance(one, info.LiteralType) for value in one.values
    ]
