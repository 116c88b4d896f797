"""The hot path of the wire: appends in, their answers out.

The usual append is read whole by one call in C (`domain.swift`), and answered by two. What that
call does not take, for whatever reason, goes through `codec.decode`, which says what is wrong with
it, if anything is.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from palyra_actors.domain.catalog import (
    ACTOR_NAMES,
    ACTOR_NUMBERS,
    CLIENT_KINDS,
    RUN_ENDS,
    kind_from_client,
)
from palyra_actors.domain.payload import only_model_text, sound_map
from palyra_actors.domain.session import Draft
from palyra_actors.domain.swift import Written, compiled
from palyra_actors.errors import Invalid, InvalidId, PalyraError
from palyra_actors.ids import format_ulid, parse_ulid
from palyra_actors.limits import APPEND_EVENTS_MAX
from palyra_actors.wire import codec
from palyra_actors.wire.messages import AppendOk, EventIn, EventResult, Timing

READS: Final = frozenset((Written, codec.REQUEST_TYPES["journal.append"]))
"""As what an append may be decoded."""

PEEK_BYTES_MAX: Final = 32 * 1024

WRITES: Final = codec.WRITE_TYPES | READS

_encode = msgspec.msgpack.Encoder().encode


def decode_plainly(frame: bytes) -> Any:
    """The request in a frame: an append that was read whole, or what `codec.decode` makes of it.

    Raises:
        Unusable: it is none; carries what to answer.
    """
    message = codec.decode(frame)
    return (read_whole(message) or message) if type(message) in READS else message


def decode_swiftly(frame: bytes) -> Any:
    """As `decode_plainly`, with the usual append read by one call in C. That one keeps the
    interpreter's lock, up to 30 ms for a frame of small values: large events are passed over."""
    if len(frame) >= codec.WALKED_BYTES and codec.has_few_events(frame):
        return codec.decode(frame)
    written = compiled.read_append(frame)
    return codec.decode(frame) if written is None else written


decode = decode_plainly if compiled is None else decode_swiftly


def peek(frame: bytes) -> Written | None:
    """A usual append, where reading it whole is quicker than looking for its envelope and session.
    Whoever waits for room is read so."""
    return compiled.read_append(frame) if compiled and len(frame) <= PEEK_BYTES_MAX else None


def read_whole(message: Any) -> Written | None:
    """An append that has nothing unusual about it; None: it has to be looked at event by event."""
    events = message.body.events
    if message.principal is not None or message.traceparent is not None:
        return None
    try:
        check_count(len(events))
        payloads = [bytes(event.payload) for event in events]
        drafts, run_ids, ends = drafts_of(events, [(payload, False) for payload in payloads])
        session_id = events[0].session_id
        parse_ulid(session_id)
    except PalyraError:
        return None
    odd_tokens = False
    for event, payload in zip(events, payloads, strict=True):
        value = sound_map(payload)
        if value is None or event.session_id != session_id:
            return None
        odd_tokens = odd_tokens or not only_model_text(payload, value, event.kind)
    if len(drafts) > 1 and len({draft.event_id for draft in drafts}) < len(drafts):
        return None
    return Written(
        message.id, message.budget_ms, session_id, drafts, run_ids, ends,
        message.body.expected_session_seq, b"".join(payloads), odd_tokens,
    )  # fmt: skip


def check_count(count: int) -> None:
    """Raises Invalid or TooLarge: so many events are no append."""
    if count == 0:
        raise Invalid("an append needs at least one event", field="events")
    if count > APPEND_EVENTS_MAX:
        raise codec.too_many_events(count)


def drafts_of(
    events: Sequence[EventIn], sealed: Sequence[tuple[bytes, bool]]
) -> tuple[list[Draft], tuple[bytes, ...], bool]:
    """The drafts of these events, the runs that they name, and whether one ends a run.

    Raises:
        Invalid, InvalidId: one of them is not as it should be; `field` names it.
    """
    drafts: list[Draft] = []
    runs: dict[str, bytes] = {}
    ends = False
    for index, (event, (payload, redacted)) in enumerate(zip(events, sealed, strict=True)):
        kind = CLIENT_KINDS.get(event.kind) or kind_from_client(event.kind)
        actor = ACTOR_NUMBERS.get(event.actor)
        if kind is None or actor is None:
            raise _wrong_name(index, event, kind is None)
        run_text, run_id = event.run_id, None
        if run_text is not None:
            run_id = runs.get(run_text)
            if run_id is None:
                run_id = runs[run_text] = parse_ulid(run_text, f"events[{index}].run_id")
        try:
            event_id = parse_ulid(event.event_id)
        except InvalidId as refusal:
            refusal.field = f"events[{index}].event_id"
            raise
        ends = ends or kind in RUN_ENDS
        drafts.append(Draft(event_id, run_id, kind, actor, event.ts_ms, payload, redacted))
    return drafts, tuple(runs.values()), ends


def _wrong_name(index: int, event: EventIn, kind_is_wrong: bool) -> Invalid:
    if kind_is_wrong:
        return Invalid(
            f"{event.kind[:64]!r} is no kind that a client may write",
            field=f"events[{index}].kind",
            hint="message_received, model_token, tool_proposed, tool_executed, a2ui_updated, "
            r"run_completed, run_failed, or a name of your own: x\.[a-z0-9_.]{1,62}",
        )
    return Invalid(
        f"{event.actor[:64]!r} is no actor",
        field=f"events[{index}].actor",
        hint=f"one of {', '.join(ACTOR_NAMES.values())}",
    )


def event_result(row: Sequence[Any]) -> EventResult:
    """What an event is answered, from its row."""
    return EventResult(format_ulid(row[1]), row[0], row[3], row[16], False, row[12] == 1)


def encode_results_plainly(rows: list[tuple[Any, ...]], start: int, stop: int) -> bytes:
    """What the events of these rows are answered."""
    return _encode([event_result(row) for row in rows[start:stop]])


def encode_ok_plainly(  # noqa: PLR0917 - as its twin in C takes them
    request_id: codec.RequestId,
    results: bytes,
    queued_ms: float,
    commit_ms: float,
    total_ms: float,
    within_budget: bool,
) -> bytes:
    """The `ok` of an append whose results are encoded already."""
    timing = Timing(queued_ms, commit_ms, total_ms, within_budget)
    return codec.encode_ok(request_id, AppendOk(msgspec.Raw(results), timing))


encode_results = encode_results_plainly if compiled is None else compiled.encode_results
encode_ok = encode_ok_plainly if compiled is None else compiled.encode_ok
