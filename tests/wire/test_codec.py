"""Frames as bytes: one way in, quick; one way to say what is wrong, slow; and what comes back."""

import gc
import sys
import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain.swift import compiled
from palyra_actors.errors import WIRE_ERRORS, Conflict, InternalFault, StorageUnavailable
from palyra_actors.ids import format_ulid
from palyra_actors.limits import TEXT_BYTES_MAX
from palyra_actors.testing import hostile
from palyra_actors.wire import append, codec, frames, places
from palyra_actors.wire.messages import EventResult
from palyra_actors.wire.operations import BODIES

ULID = "01HF7YAT00000000000000000A"
EVENT = {
    "event_id": ULID, "session_id": ULID, "kind": "model_token", "actor": "user", "ts_ms": 5,
    "payload": {"a": 1},
}  # fmt: skip
GOOD_BODIES: dict[str, dict[str, Any]] = {
    "journal.append": {"events": [EVENT, {**EVENT, "run_id": ULID}], "expected_session_seq": 4},
    "journal.read": {"session_id": ULID, "kinds": ["x.a"], "after_seq": 1, "limit": 2, "raw": True},
    "journal.recent": {"limit": 5},
    "journal.verify": {"from_seq": 1, "to_seq": 2, "expect": {"seq": 1, "hash": b"x" * 32}},
    "journal.subscribe": {"credit": 1, "after_seq": 0},
    "journal.credit": {"sub": "a", "credit": 1},
    "journal.unsubscribe": {"sub": 5},
}


def _some(kind: Any) -> Any:
    """A value of a body's field, by its type."""
    match kind:
        case msgspec.inspect.IntType():
            return kind.ge or 1
        case msgspec.inspect.ListType():
            return [_some(kind.item_type)] * max(1, kind.min_length or 0)
        case msgspec.inspect.DictType():
            return {}
        case msgspec.inspect.RawType():
            return {"a": 1}
        case msgspec.inspect.UnionType():
            return _some(next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType)))
        case msgspec.inspect.LiteralType():
            return kind.values[0]
        case msgspec.inspect.StructType():
            return {f.encode_name: _some(f.type) for f in kind.fields if f.required}
        case msgspec.inspect.FloatType():
            return 0.5
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.StrType():
            return ULID
        case _:
            return {}


def _least(op: str) -> dict[str, Any]:
    """A body with what it must have."""
    if op == "journal.append":
        return {"events": [EVENT]}
    body: dict[str, Any] = _some(msgspec.inspect.type_info(BODIES[op]))
    return body


def _frame(**envelope: Any) -> bytes:
    packed = msgpack.packb({"v": 1, "id": 7, "op": "journal.head", "body": {}, **envelope})
    assert isinstance(packed, bytes)
    return packed


def _refusal(frame: bytes) -> codec.Unusable | None:
    try:
        codec.decode(frame)
    except codec.Unusable as refusal:
        return refusal
    return None


def _refused(frame: bytes) -> codec.Unusable:
    refusal = _refusal(frame)
    assert refusal is not None
    return refusal


@pytest.mark.parametrize("op", BODIES)
def test_every_operation_is_decoded_to_its_own_type(op: str) -> None:
    message: Any = codec.decode(
        _frame(
            op=op,
            body=GOOD_BODIES.get(op) or _least(op),
            budget_ms=3,
            traceparent="t",
            principal="p",
        )
    )
    assert type(message.body) is BODIES[op]
    assert isinstance(message, codec.REQUEST_TYPES[op])
    assert (message.id, message.budget_ms, message.traceparent, message.principal) == (
        7, 3, "t", "p",
    )  # fmt: skip


@pytest.mark.parametrize("op", BODIES)
def test_what_may_be_left_out_has_the_contracts_default(op: str) -> None:
    message = codec.decode(_frame(op=op, body=_least(op)))
    assert (message.budget_ms, message.traceparent, message.principal) == (None, None, None)
    if op == "journal.read":
        assert (message.body.after_seq, message.body.limit, message.body.raw) == (0, 100, False)
    if op == "journal.recent":
        assert message.body.limit == 100
    if op == "journal.append":
        assert message.body.events[0].run_id is None


def test_a_payload_stays_the_bytes_that_were_sent() -> None:
    message = codec.decode(_frame(op="journal.append", body={"events": [EVENT]}))
    assert bytes(message.body.events[0].payload) == msgpack.packb({"a": 1})


@given(request_id=st.integers(0, 2**64 - 1) | st.text(min_size=1, max_size=70))
def test_an_id_is_usable_up_to_64_bytes_not_characters(request_id: int | str) -> None:
    frame = _frame(id=request_id)
    if isinstance(request_id, str) and len(request_id.encode()) > 64:
        refusal = _refused(frame)
        assert (refusal.request_id, refusal.error.code) == (None, "malformed")
    else:
        assert codec.decode(frame).id == request_id


@given(frame=st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_a_request_or_a_refusal_of_the_contract(frame: bytes) -> None:
    refusal = _refusal(frame)
    if refusal is None:
        assert type(codec.decode(frame)) in codec.REQUEST_TYPES.values()
    else:
        assert refusal.error.code in ("malformed", "unsupported_version", "unknown_op", "invalid")


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(op=st.sampled_from(sorted(GOOD_BODIES)), junk=_JUNK, data=st.data())
@settings(max_examples=300)
def test_a_field_with_junk_is_refused_by_its_name_or_was_allowed(
    op: str, junk: Any, data: st.DataObject
) -> None:
    """The slow look names the same field that the quick one stumbled over."""
    good = GOOD_BODIES[op]
    key = data.draw(st.sampled_from(sorted(good)))
    frame = _frame(op=op, body={**good, key: junk})
    refusal = _refusal(frame)
    if refusal is not None:
        assert refusal.request_id == 7
        assert refusal.error.code in ("invalid", "too_large")
        assert (refusal.error.field or "").startswith(key)


@pytest.mark.parametrize("key", EVENT)
@given(junk=_JUNK, place=st.integers(0, 3))
@settings(max_examples=40)
def test_a_wrong_field_of_an_event_is_named_with_the_events_place(
    key: str, junk: Any, place: int
) -> None:
    events: list[dict[str, Any]] = [dict(EVENT) for _ in range(4)]
    events[place][key] = junk
    refusal = _refusal(_frame(op="journal.append", body={"events": events}))
    if refusal is not None:
        assert refusal.error.code == "invalid"
        assert refusal.error.field == f"events[{place}].{key}"


def test_more_events_than_fit_are_counted_before_the_wrong_one_is_looked_for() -> None:
    refusal = _refused(_frame(op="journal.append", body={"events": [None] * 5000}))
    assert refusal.error.code == "too_large"
    assert refusal.error.detail == {"limit": 1024, "actual": 5000}


@pytest.mark.parametrize(
    "body",
    [
        {"events": [None] * 5000},
        {"expected_session_seq": None, "events": [None] * 5000},
        {"x": [None] * 5000, "events": []},
    ],
)
def test_a_large_body_is_not_copied_to_be_refused(
    body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = codec._encode

    def counted(value: Any) -> bytes:
        encoded.append(len(encode(value)))
        return encode(value)

    monkeypatch.setattr(codec, "_encode", counted)
    assert _refused(_frame(op="journal.append", body=body)).error.code in ("too_large", "invalid")
    assert max(encoded, default=0) < 1000


HOSTILE = pytest.mark.parametrize("name", hostile.HOSTILE_FRAMES)


@HOSTILE
def test_no_frame_becomes_large_before_it_is_refused(name: str) -> None:
    frame = hostile.HOSTILE_FRAMES[name]
    _refused(frame)  # what is made once, is not its
    tracemalloc.start()
    try:
        _refused(frame)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(frame) + 1024 * 1024


@HOSTILE
def test_what_refuses_a_frame_does_not_hold_on_to_it(name: str) -> None:
    """Who waits for a collection of cycles waits for gigabytes."""
    frame = hostile.HOSTILE_FRAMES[name]
    held = sys.getrefcount(frame)
    gc.disable()
    try:
        try:
            codec.decode(frame)
        except codec.Unusable as unusable:
            codec.encode_err(unusable.request_id, unusable.error)
        assert sys.getrefcount(frame) == held
    finally:
        gc.enable()


@pytest.mark.skipif(compiled is None, reason="no compiler when it was installed")
@HOSTILE
def test_of_a_large_frame_only_a_little_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder keeps the interpreter's lock, and with it the guard of the door from looking."""
    decoded: list[int] = [0]
    decode = msgspec.msgpack.decode

    def counted(raw: Any, **options: Any) -> Any:
        decoded.append(len(memoryview(raw)))
        return decode(raw, **options)

    monkeypatch.setattr(msgspec.msgpack, "decode", counted)
    monkeypatch.setattr(codec, "_decode_request", lambda frame: counted(frame, type=None))
    _refused(hostile.HOSTILE_FRAMES[name])
    assert max(decoded) <= codec.LARGE_BYTES


@pytest.mark.parametrize(
    ("op", "body", "field", "limit"),
    [
        ("journal.read", {"kinds": ["x.a"] * 65}, "kinds", 64),
        ("journal.subscribe", {"credit": 1, "kinds": ["x.a"] * 70_000}, "kinds", 64),
        ("memory.search", {"query": "a", "tags": ["a"] * 33}, "tags", 32),
        ("memory.ingest", {"source": "manual", "content": "a", "tags": ["a"] * 99_999}, "tags", 32),
    ],
)
def test_a_list_that_is_too_long_is_refused_with_its_limit(
    op: str, body: dict[str, Any], field: str, limit: int
) -> None:
    error = _refused(_frame(op=op, body=body)).error
    assert (error.code, error.field) == ("too_large", field)
    assert error.detail == {"limit": limit, "actual": len(body[field])}


@pytest.mark.parametrize(
    ("op", "body", "field"),
    [
        ("memory.search", {"query": "x" * TEXT_BYTES_MAX}, "query"),
        (
            "memory.search",
            {"query": "x", "sources": ["manual", "x" * TEXT_BYTES_MAX]},
            "sources[1]",
        ),
        ("cron.finish", {"status": "x" * TEXT_BYTES_MAX}, "status"),
        ("cron.explain", {"schedule": {"cron": "x" * TEXT_BYTES_MAX}}, "schedule.cron"),
        (
            "journal.append",
            {"events": [EVENT, {**EVENT, "kind": "x" * TEXT_BYTES_MAX}]},
            "events[1].kind",
        ),
    ],
)
def test_a_text_that_no_field_takes_is_refused_undecoded(
    op: str, body: dict[str, Any], field: str
) -> None:
    error = _refused(_frame(op=op, body=body, z=bytes(codec.WALKED_BYTES))).error
    assert (error.code, error.field) == ("too_large", field)
    assert error.detail == {"limit": TEXT_BYTES_MAX, "actual": TEXT_BYTES_MAX}


@pytest.mark.parametrize("op", BODIES)
def test_a_large_request_is_decoded_as_a_small_one(op: str) -> None:
    body = GOOD_BODIES.get(op) or _least(op)
    envelope = {"op": op, "body": body, "budget_ms": 3, "traceparent": "t", "principal": "p"}
    large = _frame(**envelope, z=bytes(codec.WALKED_BYTES))
    assert codec.decode(large) == codec.decode(_frame(**envelope))


@pytest.mark.parametrize("size", [1, codec.WALKED_BYTES])
def test_of_a_key_that_stands_twice_the_last_value_counts(size: int) -> None:
    twice = b"\x82\xa5limit\x02\xa5limit\x03"
    frame = _frame(op="journal.recent", body="HERE", z=bytes(size)).replace(b"\xa4HERE", twice)
    assert codec.decode(frame).body.limit == 3


def test_a_large_value_stays_the_bytes_that_were_sent() -> None:
    value = {"a": ["x" * 100] * 6_000}
    events = [EVENT, {**EVENT, "payload": value}, EVENT]
    message = codec.decode(_frame(op="journal.append", body={"events": events}))
    assert [msgpack.unpackb(event.payload) for event in message.body.events] == [
        event["payload"] for event in events
    ]
    assert codec.session_of(_frame(op="journal.append", body={"events": events})) == ULID
    body = {"canvas_id": ULID, "expected_version": 1, "state": value}
    message = codec.decode(_frame(op="canvas.replace", body=body))
    assert msgpack.unpackb(message.body.state) == value


def test_a_large_write_has_the_same_head_as_a_small_one() -> None:
    for size in (10, 10 * codec.LARGE_BYTES):
        frame = _frame(op="journal.append", budget_ms=7, body={"x": "y" * size})
        head = codec.decode_head(frame)
        assert head is not None
        assert (head.op, head.budget_ms) == ("journal.append", 7)
        assert codec.decode_head(_frame(op="journal.append", v=2, body={"x": "y" * size})) is None
        assert codec.decode_head(frame + b"\xc0") is None
        assert codec.decode_head(frame[:-1]) is None


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70, 70_000])
def test_an_envelope_with_too_many_keys_is_refused_unread(count: int) -> None:
    extra = {f"k{n}": n for n in range(count)}
    frame = _frame(v=2, **extra)
    code = "unsupported_version" if count + 4 <= places.KEYS_MAX else "malformed"
    assert _refused(frame).error.code == code


@pytest.mark.parametrize(
    ("frame", "refusal"),
    [
        ({"v": 2, "id": 7, 1: 2}, (7, "unsupported_version")),
        ({"v": 1, "id": 7, "op": "journal.head", 1: 2}, (7, "malformed")),
        ({"v": 1, "id": 7, "op": "journal.head", b"x": 2}, (7, "malformed")),
        ({1: 2}, (None, "malformed")),
    ],
)
def test_a_map_with_a_key_that_is_no_text_is_refused_under_its_id(
    frame: dict[Any, Any], refusal: tuple[int | None, str]
) -> None:
    refused = _refused(msgpack.packb(frame))
    assert (refused.request_id, refused.error.code) == refusal


@pytest.mark.parametrize(
    ("op", "body", "field"),
    [
        ("session.resolve", {"title": "a", "session_key": "????"}, "session_key"),
        ("session.resolve", {"????": "a"}, "body"),
        ("memory.ingest", {"source": "manual", "content": "a", "tags": ["????"]}, "tags"),
        ("journal.append", {"events": [EVENT, {**EVENT, "kind": "????"}]}, "events[1].kind"),
        ("journal.append", {"events": [EVENT, {**EVENT, "????": 1}]}, "events[1]"),
        (
            "journal.append",
            {"expected_session_seq": "x", "events": [{**EVENT, "kind": "????"}]},
            "events[0].kind",
        ),
    ],
)
def test_text_of_a_body_that_is_no_utf_8_is_invalid_by_its_place(
    op: str, body: dict[str, Any], field: str
) -> None:
    refused = _refused(_frame(op=op, body=body).replace(b"????", b"?\xff??"))
    assert (refused.request_id, refused.error.code, refused.error.field) == (7, "invalid", field)


@pytest.mark.parametrize(
    ("op", "body", "field", "hint"),
    [
        (
            "cron.create",
            {"name": "n", "schedule": {"every_ms": 1_000}, "concurrency_policy": "Forbid"},
            "concurrency_policy",
            "one of forbid, queue_one, replace",
        ),
        (
            "cron.finish",
            {"run_id": ULID, "fence": 1, "status": "done"},
            "status",
            "one of failed, succeeded",
        ),
        (
            "memory.list",
            {"sources": ["manual", "dream"]},
            "sources[1]",
            "one of import, manual, summary, tape_tool_result, tape_user_message",
        ),
        ("cron.create", {"name": 5}, "name", None),
    ],
)
def test_a_word_that_there_is_not_is_refused_with_those_that_there_are(
    op: str, body: dict[str, Any], field: str, hint: str | None
) -> None:
    error = _refused(_frame(op=op, body=body)).error
    assert (error.code, error.field, error.hint) == ("invalid", field, hint)


# -- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [0, 2**64 - 1, "é", None])
def test_an_ok_is_read_back_by_a_client(request_id: Any) -> None:
    result = EventResult(ULID, 5, 6, b"h" * 32, False, True)
    frame = codec.encode_ok(request_id, {"results": [result]})
    ok, error = frames.read_reply(frame)
    assert error is None
    assert ok["results"] == [
        {
            "event_id": ULID,
            "seq": 5,
            "session_seq": 6,
            "hash": b"h" * 32,
            "duplicate": False,
            "redacted": True,
        }
    ]
    assert frames.peek(frame)[:2] == (request_id, "ok")


def test_an_item_is_read_back_by_a_client() -> None:
    frame = codec.encode_item("s", {"head": {"seq": 1, "hash": bytes(32)}})
    assert frames.peek(frame) == ("s", "item", "head")
    assert frames.read_item(frame) == {"head": {"seq": 1, "hash": bytes(32)}}


@pytest.mark.parametrize("code", WIRE_ERRORS)
def test_every_error_is_read_back_as_the_one_that_was_sent(code: str) -> None:
    sent = WIRE_ERRORS[code](
        "why", field="a.b", hint="do", retry_after_ms=5, detail={"limit": 1, "actual": 2}
    )
    ok, error = frames.read_reply(codec.encode_err(3, sent))
    assert ok == {}
    assert type(error) is type(sent)
    assert error is not None
    assert error.to_wire() == sent.to_wire()


def test_what_does_not_apply_is_left_out_of_an_error() -> None:
    err = msgpack.unpackb(codec.encode_err(None, Conflict("why")))["err"]
    assert err == {"code": "conflict", "message": "why", "retryable": False}


@pytest.mark.parametrize("kind", [InternalFault, StorageUnavailable])
def test_an_open_outcome_is_said(kind: Any) -> None:
    err = msgpack.unpackb(codec.encode_err(1, kind("x", detail={"outcome": "unknown"})))["err"]
    assert (err["retryable"], err["detail"]) == (True, {"outcome": "unknown"})


@pytest.mark.parametrize("levels", [200, 2_000, 100_000])
@pytest.mark.parametrize("opener", [b"\x91", b"\x81\xa1a"])
def test_a_request_that_is_nested_too_deep_is_refused_under_its_own_id(
    levels: int, opener: bytes
) -> None:
    deep = opener * levels + b"\xc0"
    frame = b"\x84\xa1v\x01\xa2id\x07\xa2op\xaejournal.append\xa4body\x81\xa6events" + deep
    with pytest.raises(codec.Unusable) as refused:
        codec.decode(frame)
    assert (refused.value.request_id, refused.value.error.code) == (7, "invalid")


def test_the_version_is_looked_at_first_however_deep_the_rest_is() -> None:
    frame = b"\x83\xa1v\x02\xa2id\x07\xa1x" + b"\x91" * 5_000 + b"\xc0"
    with pytest.raises(codec.Unusable) as refused:
        codec.decode(frame)
    assert (refused.value.request_id, refused.value.error.code) == (7, "unsupported_version")


def test_nothing_that_keeps_the_interpreters_lock_passes_over_a_large_payload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payload = msgpack.packb({"a": [None] * 200_000})
    session = format_ulid(bytes(16))
    usual = {"session_id": session, "kind": "x.a", "actor": "user", "ts_ms": 1}
    ids = [format_ulid(bytes(15) + bytes((n,))) for n in range(4)]
    raw = [msgpack.packb({"event_id": event_id, **usual}) for event_id in ids]
    events = b"".join(b"\x86" + one[1:] + b"\xa7payload" + payload for one in raw)
    head = msgpack.packb({"v": 1, "id": 1, "op": "journal.append"})
    frame = b"\x84" + head[1:] + b"\xa4body\x81\xa6events\x94" + events
    seen: list[int] = []
    real = codec._decode_place

    def passed(event: bytes | msgspec.Raw) -> Any:
        seen.append(len(memoryview(event)))
        return real(event)

    monkeypatch.setattr(codec, "_decode_place", passed)
    assert codec.session_of(frame) == session
    assert len(seen) == 4
    assert max(seen) < 100
    assert type(append.decode(frame)) is codec.REQUEST_TYPES["journal.append"]
