"""Frames. `decode` turns any bytes into a request or a refusal; the others make replies.

The usual frame is decoded and checked by one call in C. Only what that call refuses is looked at
again, slowly, to say what is wrong with it.

Of a large frame it is first seen where its values lie (`wire.places`): what stays bytes is not
decoded, and the rest is small. So 4 MiB of nils neither keep the guard of the door
(`actors.guard`) from looking, nor become a list of four million.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, TypeAlias, Union

import msgspec
import msgspec.inspect
from msgspec import Raw

from palyra_actors.domain.redact import redact
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
    KINDS_FILTER_MAX,
    MEMORY_TAGS_MAX,
    PROTOCOL_VERSION,
    REQUEST_ID_BYTES_MAX,
    TEXT_BYTES_MAX,
    VALUE_DEPTH_MAX,
)
from palyra_actors.wire.messages import AppendBody, Body, Envelope, EventIn, WriteBody
from palyra_actors.wire.operations import BODIES, envelope_types
from palyra_actors.wire.places import (
    KEYS_MAX,
    NIL,
    TOO_DEEP,
    WHOLE,
    fields_of,
    items_said,
    keys_said,
    read_items,
    read_map,
)

RequestId: TypeAlias = int | str | None
"""None only in the answer to a frame that has no usable id."""

LARGE_BYTES: Final = 64 * 1024
"""From here on a frame is read around its values, and not with them."""

WALKED_BYTES: Final = 512 * 1024
"""From here on a frame is decoded so: a smaller one keeps the interpreter's lock for two or three
milliseconds at most, and is decoded in a third of the time at once."""

SCALAR_BYTES_MAX: Final = 1024
"""Of a version, an id or an operation's name that is looked at."""

CONTENTS_BYTES_MAX: Final = 16 * 1024
"""Of a list or a map that is decoded to find what is wrong in it: a megabyte of objects."""

MESSAGE_CHARACTERS_MAX: Final = 400
"""Of what the decoder says: it quotes keys and words, whatever their size."""

REQUEST_TYPES: Final = envelope_types()
"""Operation to the type of its decoded request: what a dispatcher switches on."""

WRITES: Final = frozenset(
    op for op, body in BODIES.items() if issubclass(body, (AppendBody, WriteBody))
)
"""The operations that have a budget."""

WRITE_TYPES: Final = frozenset(REQUEST_TYPES[op] for op in WRITES)

_decode_request = msgspec.msgpack.Decoder(Union[tuple(REQUEST_TYPES.values())]).decode  # noqa: UP007 - made of a list
_decode_any = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode
NO_FIELDS: Final = Raw(b"\x80")
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
    events: Annotated[list[_EventPlace], msgspec.Meta(max_length=APPEND_EVENTS_MAX)]


class _Placed(msgspec.Struct, gc=False):
    body: _Places


_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_placed = msgspec.msgpack.Decoder(_Placed).decode
_decode_place = msgspec.msgpack.Decoder(_EventPlace).decode


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
    if len(frame) >= WALKED_BYTES:
        return _look(frame)
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
    raise Unusable(*_refusal_of(frame))


def decode_head(frame: bytes) -> Head | None:
    """A write's envelope, without its body; None: it is no write, or has to be looked at whole."""
    try:
        around = frame
        if len(frame) >= LARGE_BYTES:
            envelope = fields_of(frame)
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
        if len(frame) < LARGE_BYTES:
            events = _decode_placed(frame).body.events
        else:
            body = fields_of(fields_of(frame).get("body", NO_FIELDS))
            items = read_items(body.get("events", NIL), APPEND_EVENTS_MAX)
            events = [_place_of(each) for each in items]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not events:
        return None
    session_id = events[0].session_id
    if len(events) > 1 and any(event.session_id != session_id for event in events):
        return None
    return session_id


def _place_of(event: Raw) -> _EventPlace:
    """As `_decode_place`, which keeps the interpreter's lock while it passes over a large payload:
    five nanoseconds for each null in it, 20 ms for a frame of them."""
    if len(memoryview(event)) < LARGE_BYTES:
        return _decode_place(event)
    fields = fields_of(event)
    return _decode_place(
        _encode({key: fields[key] for key in _EventPlace.__struct_fields__ if key in fields})
    )


def has_few_events(frame: bytes) -> bool:
    """Whether it is an append of events that are large by themselves."""
    try:
        body = fields_of(fields_of(frame).get("body", NO_FIELDS))
    except (msgspec.MsgspecError, RecursionError):
        return False
    count = items_said(body.get("events", NIL))
    return count is not None and 0 < count <= len(frame) // LARGE_BYTES


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


def too_many_kinds(count: int) -> TooLarge:
    """The refusal of a filter by that many kinds."""
    return TooLarge(
        f"at most {KINDS_FILTER_MAX} kinds",
        field="kinds",
        detail={"limit": KINDS_FILTER_MAX, "actual": count},
    )


def too_many_tags(count: int) -> TooLarge:
    """The refusal of that many tags."""
    return TooLarge(
        f"an item has at most {MEMORY_TAGS_MAX} tags",
        field="tags",
        detail={"limit": MEMORY_TAGS_MAX, "actual": count},
    )


_TOO_MANY: Final = {
    "events": (APPEND_EVENTS_MAX, too_many_events),
    "kinds": (KINDS_FILTER_MAX, too_many_kinds),
    "tags": (MEMORY_TAGS_MAX, too_many_tags),
}
"""Lists of a body that have an error of their own where they are longer than their type says. None
is built to find that out: four million texts in 4 MiB of a frame take 50 of memory."""


# -- large ones -----------------------------------------------------------------------------------

_KINDS: Final[tuple[type[Body], ...]] = (EventIn, *BODIES.values())
_STAY_BYTES: Final[dict[type, list[str]]] = {
    kind: [field.encode_name for field in msgspec.structs.fields(kind) if field.type is Raw]
    for kind in _KINDS
}
"""Of each map the values that are carried on as they are."""


def _read_envelope(envelope: Mapping[str, Raw]) -> Envelope:
    around = {key: envelope[key] for key in Envelope.__struct_fields__ if key in envelope}
    if _too_long_in(around, Envelope):
        raise msgspec.ValidationError("Expected less")
    return msgspec.msgpack.decode(_encode(around), type=Envelope)


def _read(raw: Raw, kind: type[Body]) -> Any:
    """A map as what it has to be: a large one around the values that stay bytes, and each event by
    itself. Raises MsgspecError, UnicodeDecodeError, RecursionError."""
    if len(memoryview(raw)) < LARGE_BYTES or keys_said(raw) is None:
        return msgspec.msgpack.decode(raw, type=kind)
    fields = dict(fields_of(raw))
    if _too_many(fields, kind) or _too_long_in(fields, kind):
        raise msgspec.ValidationError("Expected less")
    kept: dict[str, Any] = {name: fields[name] for name in _STAY_BYTES[kind] if name in fields}
    if kind is AppendBody and items_said(fields.get("events", NIL)):
        items = read_items(fields["events"], APPEND_EVENTS_MAX)
        kept["events"] = [_read(each, EventIn) for each in items]
        fields["events"] = Raw(b"\x90")
    fields.update(dict.fromkeys(_STAY_BYTES[kind] & kept.keys(), NIL))
    made = msgspec.msgpack.decode(_encode(fields), type=kind)
    for name, value in kept.items():
        setattr(made, name, value)
    return made


def _too_long(value: Raw, place: str, levels: int = 2) -> TooLarge | None:
    """The refusal of a text in it that is longer than any may be; None: there is none. Decoded,
    one of 4 MiB takes four times that, and what quotes it as much again."""
    size = len(memoryview(value))
    if size < TEXT_BYTES_MAX:
        return None
    if bytes(memoryview(value)[:1]) == _LARGE_TEXT:
        return TooLarge(
            f"a text takes at most {TEXT_BYTES_MAX} bytes",
            field=place,
            detail={"limit": TEXT_BYTES_MAX, "actual": size - _TEXT_HEAD_BYTES},
        )
    inner: Iterable[tuple[str, Raw]] = ()
    with suppress(msgspec.MsgspecError, RecursionError):
        if levels and keys_said(value) is not None:
            inner = ((f"{place}.{key[:64]}", each) for key, each in fields_of(value).items())
        elif levels and items_said(value) is not None:
            items = read_items(value, KEYS_MAX)
            inner = ((f"{place}[{index}]", each) for index, each in enumerate(items))
    found = (_too_long(each, name, levels - 1) for name, each in inner)
    return next((one for one in found if one is not None), None)


def _too_long_in(fields: Mapping[str, Raw], kind: type[msgspec.Struct]) -> TooLarge | None:
    """The same of the values of a map that are decoded."""
    decoded = set(kind.__struct_fields__) - {"events", *_STAY_BYTES.get(kind, ())}
    found = (_too_long(value, name) for name, value in fields.items() if name in decoded)
    return next((one for one in found if one is not None), None)


_LARGE_TEXT: Final = b"\xdb"
_TEXT_HEAD_BYTES: Final = 5


# -- what is wrong with it ------------------------------------------------------------------------


def _refusal_of(frame: bytes) -> tuple[RequestId, PalyraError]:
    """The id to answer to and what is wrong with a frame that could not be decoded."""
    try:
        request = _look(frame)
    except Unusable as unusable:
        return unusable.request_id, unusable.error
    return request.id, Malformed("the frame is not one MessagePack map and nothing else")


def _look(frame: bytes) -> Any:
    """The request of a frame, read around its values. Raises Unusable."""
    envelope, state = read_map(frame)
    if state == TOO_DEEP:
        raise _too_deep(envelope)
    if state != WHOLE:
        if len(frame) > FRAME_BYTES_MAX:
            raise Unusable(None, _frame_too_large(frame))
        raise Unusable(
            None, Malformed("the frame is no MessagePack map", hint="send one map with string keys")
        )
    request_id = _request_id(envelope)
    if len(frame) > FRAME_BYTES_MAX:
        raise Unusable(request_id, _frame_too_large(frame))
    version = _value(envelope, "v")
    odd = any(type(key) is not str for key in envelope)
    if odd and ("v" not in envelope or version == PROTOCOL_VERSION):
        raise Unusable(
            request_id,
            Malformed("the envelope's keys are text", hint="send a map with string keys"),
        )
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise Unusable(
            request_id,
            UnsupportedVersion(
                "this engine speaks version 1",
                field="v",
                hint='send "v": 1',
                detail={"supported": [PROTOCOL_VERSION]},
            ),
        )
    if request_id is None:
        raise Unusable(
            None,
            Malformed(
                "the envelope has no usable id",
                field="id",
                hint=f"an unsigned integer, or text of 1..{REQUEST_ID_BYTES_MAX} bytes",
            ),
        )
    op = _value(envelope, "op")
    if type(op) is not str:
        raise Unusable(
            request_id,
            Malformed("the envelope has no usable op", field="op", hint="the operation's name"),
        )
    if op not in BODIES:
        raise Unusable(
            request_id,
            UnknownOp(
                f"there is no operation {op[:64]!r}",
                field="op",
                hint=f"one of {', '.join(sorted(BODIES))}",
            ),
        )
    try:
        return _request(envelope, op)
    except PalyraError as refusal:
        raise Unusable(request_id, refusal) from None


def _too_deep(found: Mapping[Any, Raw]) -> Unusable:
    """Something is nested deeper than a decoder goes. What stands before it is the envelope's."""
    said = {key: _value(found, key) for key in ("v", "id", "op")}
    scalars = {key: value for key, value in said.items() if isinstance(value, int | str)}
    request_id, error = _refusal_of(_encode({**scalars, "body": None}))
    if request_id is None:
        error = Malformed("the frame is nested deeper than can be read", hint="see the limits")
    elif isinstance(error, Invalid):
        error = Invalid(
            f"the request is nested deeper than {VALUE_DEPTH_MAX} levels",
            field="body",
            hint="values are at most that deep",
        )
    return Unusable(request_id, error)


def _frame_too_large(frame: bytes) -> TooLarge:
    return TooLarge(
        f"a frame holds at most {FRAME_BYTES_MAX} bytes",
        hint="send fewer events in one request",
        detail={"limit": FRAME_BYTES_MAX, "actual": len(frame)},
    )


def _fields(body: Raw) -> Mapping[str, Raw]:
    """The values of a body's map; none where it cannot be read."""
    with suppress(msgspec.MsgspecError, RecursionError):
        return fields_of(body)
    return {}


def _value(envelope: Mapping[str, Raw], key: str) -> object:
    """A scalar of the envelope; None where it is missing, no scalar, or broken."""
    raw = envelope.get(key)
    if raw is None or len(memoryview(raw)) > SCALAR_BYTES_MAX:
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


def _request(envelope: Mapping[str, Raw], op: str) -> Any:
    """The request in an envelope. Raises Invalid, TooLarge, Malformed."""
    body_type = BODIES[op]
    try:
        around = _read_envelope(envelope)
    except msgspec.MsgspecError as error:
        raise _too_long_in(envelope, Envelope) or _from_validation(error, "") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise Malformed("the envelope is broken MessagePack") from error
    body = envelope.get("body", NO_FIELDS)
    try:
        read = _read(body, body_type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(body, body_type, error) from error
    request: Any = REQUEST_TYPES[op]
    return request(body=read, **msgspec.structs.asdict(around))


def _wrong(body: Raw, body_type: type[Body], error: Exception) -> PalyraError:
    """What is wrong with a body that could not be read for that reason. Whoever raises it keeps it
    in no variable: that would be a cycle, and the frame stayed until a collection."""
    if isinstance(error, RecursionError):
        return Invalid(f"nested deeper than {VALUE_DEPTH_MAX} levels", field="body")
    fields = _fields(body)
    wrong: PalyraError | None = _too_many(fields, body_type) or _too_long_in(fields, body_type)
    if wrong is None and body_type is AppendBody:
        wrong = _invalid_event(body)
    if wrong is None and isinstance(error, msgspec.ValidationError):
        wrong = _from_validation(error, "body", body_type)
    # the frame is whole MessagePack, so nothing else can be wrong
    return wrong or _not_utf8(body, "")


def _not_utf8(raw: Raw, place: str) -> Invalid:
    """Text that is no UTF-8, by the key of the map that it stands under."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a key itself is no UTF-8
        for key, value in _fields(raw).items():
            try:
                contains = keys_said(value) is not None or items_said(value) is not None
                if not contains or len(memoryview(value)) <= CONTENTS_BYTES_MAX:
                    _decode_any(value)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                place = f"{place}.{key[:64]}" if place else key[:64]
                break
    return Invalid("text has to be valid UTF-8", field=place or "body")


def _too_many(fields: Mapping[str, Raw], kind: type[Body]) -> TooLarge | None:
    """The refusal of a list that is longer than its type says; None: none is."""
    for name, (most, refusal) in _TOO_MANY.items():
        if name in kind.__struct_fields__:
            count = items_said(fields.get(name, NIL))
            if count is not None and count > most:
                return refusal(count)
    return None


def _invalid_event(body: Raw) -> PalyraError | None:
    """msgspec does not say which element of a list is wrong; find the first one."""
    try:
        events = read_items(_fields(body).get("events", NIL), APPEND_EVENTS_MAX)
    except msgspec.MsgspecError:
        return None
    for index, event in enumerate(events):
        try:
            _read(event, EventIn)
        except msgspec.ValidationError as error:
            long = _too_long_in(_fields(event), EventIn)
            if long is not None:
                long.field = f"events[{index}].{long.field}"
            return long or _from_validation(error, f"events[{index}]")
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _not_utf8(event, f"events[{index}]")
    return None


def _from_validation(error: Exception, place: str, read_as: type | None = None) -> Invalid:
    said = str(error)
    if len(said) > 2 * MESSAGE_CHARACTERS_MAX:
        said = f"{said[:MESSAGE_CHARACTERS_MAX]}…{said[-MESSAGE_CHARACTERS_MAX:]}"
    match = _AT.match(said)
    message, path = (match.group(1), match.group(2) or "") if match else (said, "")
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
