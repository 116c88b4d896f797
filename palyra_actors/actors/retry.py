"""Idempotency for ever: what a clash with the journal means for each unit of a group.

An id that is stored with the same content is a retry and gets the first answer again; with other
content it is refused. Where only some of a request's events are stored, the rest is written.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from palyra_actors.actors.work import EntityCalls, Key, Portion, Unit, went_wrong
from palyra_actors.domain.catalog import ACTOR_NAMES, kind_name
from palyra_actors.domain.chain import Stored, payload_digest
from palyra_actors.domain.payload import same_content
from palyra_actors.domain.session import Draft, append
from palyra_actors.errors import (
    Gone,
    IdReused,
    Invalid,
    Overloaded,
    PalyraError,
    StorageUnavailable,
)
from palyra_actors.ids import format_ulid
from palyra_actors.storage.port import ReadSide, WriteSide
from palyra_actors.wire.messages import EventResult

log = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """Refused with an error, answered with results or a command's body, or (neither) to be decided
    anew."""

    error: PalyraError | None = None
    answer: list[EventResult] | Mapping[str, Any] | None = None


def judge_unwritten(storage: WriteSide, unit: Unit) -> Verdict:
    """A refusal, or a command to which nothing had to be written; unless all of it is stored
    already: then it is the first answer again."""
    otherwise = Verdict(unit.error) if unit.error is not None else Verdict(answer=unit.answer)
    try:
        if unit.error is not None:
            return judge_refused(storage, unit)
        return judge_command(storage, unit) or otherwise
    except Exception as error:  # noqa: BLE001 - it may be stored, and is not refused then
        log.warning("a request could not be looked up: %s", error)
        if unit.error is not None and unit.error.retryable:
            return otherwise
        return Verdict(
            StorageUnavailable(
                f"it could not be looked up whether this is stored already: {error}",
                hint="send the same request with the same ids again",
                detail={"outcome": "unknown"},
            )
        )


def faulty(units: Sequence[Unit], write: Callable[[list[Unit]], object]) -> dict[Unit, Verdict]:
    """The units that for a fault of ours cannot be written whoever stands beside them; `write`
    tries it and leaves nothing behind."""
    faults: dict[Unit, Verdict] = {}
    for unit in units:
        try:
            write([unit])
        except Exception as fault:
            log.exception("a request is taken out of its group")
            faults[unit] = Verdict(went_wrong(fault, "none"))
    return faults


def judge_refused(storage: WriteSide, unit: Unit) -> Verdict:
    """A unit that an entity refused. Its refusal stands unless all of it is stored."""
    if unit.is_command:
        return judge_command(storage, unit) or Verdict(unit.error)
    drafts = unit.drafts()
    known = storage.known([draft.event_id for _, _, _, draft in drafts])
    if not known:
        return Verdict(unit.error)
    error = _compare(unit, known)
    if error is not None:
        return Verdict(error)
    return Verdict(unit.error) if len(known) < len(drafts) else Verdict(answer=_answer(unit))


def judge_command(storage: WriteSide, unit: Unit) -> Verdict | None:
    """What became of a command that came before under the same id; None: none did."""
    key = unit.key
    if key is None:
        return None
    verdict = first_answer(storage, key, lambda kind, stream_id: unit.portions[0].entity)
    if verdict is not None or not storage.known([key.event_id]):
        return verdict
    return _reused()


def first_answer(
    storage: WriteSide | ReadSide, key: Key, entity: Callable[[int, bytes], EntityCalls]
) -> Verdict | None:
    """What the command of that key was answered, if one was written; `entity` finds the one that
    recalls it, by its kind and id."""
    for digest, kept, kind, stream_id in storage.rows("answer.find", (key.event_id,)):
        if digest != key.digest:
            return _reused()
        if kept is None:
            return Verdict(Gone("what this request was answered has been erased", field="event_id"))
        try:
            told = msgspec.msgpack.decode(kept)
            recipe = told.get("recall")
            answer = told["answer"] if recipe is None else entity(kind, stream_id).recall(recipe)
        except PalyraError as error:
            return Verdict(error)
        except (ValueError, TypeError, LookupError, msgspec.MsgspecError) as error:
            # its row is its own: nobody else of the group is to suffer
            log.exception("a first answer could not be read")
            return Verdict(went_wrong(error, "unknown"))
        return Verdict(answer={**answer, "duplicate": True})
    return None


def kept_answer(answer: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> bytes:
    """A first answer as it is kept; `recipe`: what its entity recalls it by, in its stead."""
    return msgspec.msgpack.encode({"answer": answer} if recipe is None else {"recall": recipe})


def answer_told(storage: ReadSide | WriteSide, event_id: bytes) -> Mapping[str, Any] | None:
    """What is kept for the request of that id, which no entity recalls; None where it is erased."""
    for _, kept, *_ in storage.rows("answer.find", (event_id,)):
        if kept is not None:
            answer: Mapping[str, Any] = msgspec.msgpack.decode(kept)["answer"]
            return answer
    return None


def _reused() -> Verdict:
    return Verdict(
        IdReused(
            "this event id was used before with other content",
            field="event_id",
            hint="give every new request an id of its own",
        )
    )


def sift(storage: WriteSide, units: Sequence[Unit]) -> dict[Unit, Verdict]:
    """The units of a group that clash, each with its verdict; the others may be staged again."""
    named = {unit: _ids(unit) for unit in units}
    known = storage.known([event_id for ids in named.values() for event_id in ids])
    known_runs = storage.known_runs([run_id for unit in units for run_id in _new_runs(unit)])
    verdicts: dict[Unit, Verdict] = {}
    seen: set[bytes] = set()
    for unit in units:
        ids = named[unit]
        if unit.is_command:
            verdict = judge_command(storage, unit)
            if verdict is None and (
                seen.intersection(ids)
                or any(run_id in known_runs or run_id in seen for run_id in _new_runs(unit))
            ):
                verdict = Verdict()
            if verdict is not None:
                verdicts[unit] = verdict
            seen.update(ids, _new_runs(unit))
            continue
        reused = _reused_as_event(storage, unit)
        if reused is not None:
            verdicts[unit] = Verdict(reused)
            continue
        if any(event_id in known for event_id in ids):
            error = _compare(unit, known)
            if error is not None:
                verdicts[unit] = Verdict(error)
            elif all(event_id in known for event_id in ids):
                verdicts[unit] = Verdict(answer=_answer(unit))
            else:
                _drop_known(unit, known)
                verdicts[unit] = Verdict()
            continue
        new_runs = _new_runs(unit)
        if any(run_id in known_runs for run_id in new_runs):
            verdicts[unit] = Verdict()  # decided anew, its session finds the run in the file
        elif seen.intersection(ids) or seen.intersection(new_runs):
            verdicts[unit] = Verdict()  # the same id earlier in this group: after that is durable
        elif len(set(new_runs)) < len(new_runs):
            verdicts[unit] = Verdict(
                Invalid(
                    "one run cannot begin in two sessions",
                    field="run_id",
                    hint="a run lives in one session; give each session its own",
                )
            )
        else:
            seen.update(ids, new_runs)
    return verdicts


def _ids(unit: Unit) -> list[bytes]:
    """Those that it takes: of its events, and of a command that causes none."""
    ids = [draft.event_id for _, _, _, draft in unit.drafts()]
    return [unit.key.event_id] if not ids and unit.key is not None else ids


def _reused_as_event(storage: WriteSide, unit: Unit) -> PalyraError | None:
    """The error for the first event whose id is that of a request which changed nothing."""
    for index, _, _, draft in unit.drafts():
        if storage.rows("answer.is_idle", (draft.event_id,)):
            return _other_event(index)
    return None


def _other_event(index: int) -> IdReused:
    return IdReused(
        "this event id was used before with other content",
        field=f"events[{index}].event_id",
        hint="give every new event an id of its own",
    )


def _new_runs(unit: Unit) -> list[bytes]:
    """The runs that come into being with it, by a client's event or by `run.start`."""
    by_event = [run_id for p in unit.portions for run_id, _, is_new in p.runs if is_new]
    return by_event + [
        fact.run_id
        for p in unit.portions
        for fact in p.facts
        if fact.kind == "run.started" and fact.run_id is not None
    ]


def _compare(unit: Unit, known: dict[bytes, Stored]) -> PalyraError | None:
    """The error for the first event whose id is stored with other content. Sets `unit.echo`."""
    echo = dict(unit.echo)
    for index, portion, _, draft in unit.drafts():
        stored = known.get(draft.event_id)
        if stored is None:
            continue
        if not _same(unit, portion, draft, stored):
            return _other_event(index)
        echo[index] = EventResult(
            format_ulid(draft.event_id), stored.seq, stored.stream_seq, stored.hash, True,
            stored.redacted,
        )  # fmt: skip
    unit.echo = echo
    return None


def _same(unit: Unit, portion: Portion, draft: Draft, stored: Stored) -> bool:
    return (
        stored.stream == "session"
        and stored.stream_id == portion.stream_id
        and stored.run_id == draft.run_id
        and stored.kind == kind_name(draft.kind)
        and stored.actor == ACTOR_NAMES[draft.actor]
        and stored.ts_ms == draft.ts_ms
        and stored.principal == unit.request.principal
        and (
            payload_digest(draft.payload) == stored.payload_sha256
            if stored.payload is None
            else same_content(draft.payload, stored.payload)
        )
    )


def _answer(unit: Unit) -> list[EventResult]:
    return list(unit.results(()))


def _drop_known(unit: Unit, known: dict[bytes, Stored]) -> None:
    """Leave in the unit what is not stored yet; the rest is in `unit.echo`."""
    for portion in unit.portions:
        left = [
            (index, draft)
            for index, draft in zip(portion.indices, portion.drafts, strict=True)
            if draft.event_id not in known
        ]
        portion.indices = [index for index, _ in left]
        portion.command = append([draft for _, draft in left], portion.command.expected_seq)
        portion.drafts = portion.command.drafts


def refusal_of_several(verdict: Any) -> PalyraError:
    """What a request is told that one of several entities refused, when what was decided before it
    is taken back: the refusal may have rested on that, whatever it says (a branch beyond the last
    event of a session that had one more)."""
    if isinstance(verdict, PalyraError):
        return verdict
    return Overloaded(
        "what it was decided on could not be written",
        hint="nothing was stored; send it again",
        retry_after_ms=1,
    )
