"""A session: one conversation, from its first event to its archive. Pure; see `domain/__init__`.

    (none) ──first event──▶ open ──Archive──▶ archived
                             │
                             └─ its runs: (none) ──first event──▶ in_progress ──▶ done | failed

A run comes into being with its first event, and the events `run_completed` and `run_failed` end
it. Nothing leaves done and failed; what arrives late for an ended run is still written down.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, assert_never

from palyra_actors.domain.catalog import RUN_ENDS, RUN_IN_PROGRESS, RUN_STATES
from palyra_actors.errors import Conflict, InvalidTransition


class Draft(NamedTuple):
    """What a client says happened, checked and sealed, before it has a number."""

    event_id: bytes
    run_id: bytes | None
    kind: int | str
    actor: int
    ts_ms: int
    payload: bytes
    redacted: bool


class Status(Enum):
    OPEN = "open"
    ARCHIVED = "archived"


class Run(NamedTuple):
    """`first` and `last`: session_seq of its first and of its ending event (None: not yet)."""

    state: int
    first: int
    last: int | None


class Session(NamedTuple):
    """`last_seq` is the session_seq of the last event, 0 where there is none.

    `runs` holds those that were heard of; which ones besides is the actor's business, who asks
    the file before it lets a command decide about a run that is not here.
    """

    last_seq: int = 0
    status: Status = Status.OPEN
    runs: Mapping[bytes, Run] = MappingProxyType({})


class Append(NamedTuple):
    """Write these events, after exactly `expected_seq` others if that is given.

    `run_ids` and `ends` say of the drafts what most steps need to know of them: the runs that they
    name, and whether one ends a run. Made by `append`, or by one who knows both.
    """

    drafts: Sequence[Draft]
    expected_seq: int | None
    run_ids: Collection[bytes]
    ends: bool


def append(drafts: Sequence[Draft], expected_seq: int | None = None) -> Append:
    """The command for these drafts."""
    run_ids = {draft.run_id for draft in drafts if draft.run_id is not None}
    return Append(drafts, expected_seq, run_ids, any(d.kind in RUN_ENDS for d in drafts))


@dataclass(frozen=True, slots=True)
class Archive:
    """Take no more events."""


Command: TypeAlias = Append | Archive


class Appended(NamedTuple):
    """The drafts were written; `run_ids` and `ends` as in `Append`."""

    drafts: Sequence[Draft]
    run_ids: Collection[bytes]
    ends: bool


def appended(drafts: Sequence[Draft]) -> Appended:
    """The event for drafts that were written: what a replay folds."""
    return Appended(drafts, *append(drafts)[2:])


@dataclass(frozen=True, slots=True)
class Archived:
    pass


Event: TypeAlias = Appended | Archived


def decide(session: Session, command: Command) -> Event:
    """What the command causes.

    Raises:
        Conflict: `expected_seq` is not the present one; `detail.actual` is.
        InvalidTransition: the session is archived, or a run would leave a final state.
    """
    match command:
        case Append():
            drafts, expected_seq, run_ids, ends = command
            if session.status is Status.ARCHIVED:
                raise InvalidTransition(
                    "the session is archived and takes no more events",
                    field="session_id",
                    hint="start or branch another session",
                    detail={"from": "archived", "to": "open"},
                )
            if expected_seq is not None and expected_seq != session.last_seq:
                raise Conflict(
                    f"the session's last event is number {session.last_seq}, not {expected_seq}",
                    field="expected_session_seq",
                    hint="read what was written meanwhile and decide anew",
                    detail={"actual": session.last_seq},
                )
            if ends:
                _refuse_second_ends(session.runs, drafts)
            return Appended(drafts, run_ids, ends)
        case Archive():
            if session.status is Status.ARCHIVED:
                raise InvalidTransition(
                    "the session is archived already",
                    detail={"from": "archived", "to": "archived"},
                )
            return Archived()
        case _:
            assert_never(command)


def evolve(session: Session, event: Event) -> Session:
    """The state after the event."""
    match event:
        case Appended():
            drafts, run_ids, ends = event
            last_seq, status, runs = session
            if ends or not all(run_id in runs for run_id in run_ids):
                runs = _runs_after(runs, drafts, last_seq)
            return Session(last_seq + len(drafts), status, runs)
        case Archived():
            return session._replace(status=Status.ARCHIVED, last_seq=session.last_seq + 1)
        case _:
            assert_never(event)


def changed_runs(before: Session, after: Session) -> Iterator[tuple[bytes, Run, bool]]:
    """The runs that differ between two states: id, the run as it is after, whether it is new."""
    if before.runs is after.runs:
        return
    for run_id, run in after.runs.items():
        known = before.runs.get(run_id)
        if known is not run:
            yield run_id, run, known is None


def _runs_after(
    runs: Mapping[bytes, Run], drafts: Sequence[Draft], last_seq: int
) -> Mapping[bytes, Run]:
    changed: dict[bytes, Run] | None = None
    number = last_seq
    for _, run_id, kind, _, _, _, _ in drafts:
        number += 1
        if run_id is None or (run_id in runs and kind not in RUN_ENDS):
            continue
        run = runs.get(run_id) or Run(RUN_IN_PROGRESS, number, None)
        end = RUN_ENDS.get(kind)
        if end is not None and run.state == RUN_IN_PROGRESS:
            run = Run(end, run.first, number)
        elif run_id in runs:
            continue
        if changed is None:
            runs = changed = dict(runs)
        changed[run_id] = run
    return runs


def _refuse_second_ends(runs: Mapping[bytes, Run], drafts: Sequence[Draft]) -> None:
    ended: dict[bytes, int] = {}
    for index, (_, run_id, kind, _, _, _, _) in enumerate(drafts):
        if kind not in RUN_ENDS or run_id is None:
            continue
        end = RUN_ENDS[kind]
        run = runs.get(run_id)
        state = ended.get(run_id, RUN_IN_PROGRESS if run is None else run.state)
        if state in (RUN_IN_PROGRESS, end):
            ended[run_id] = end
            continue
        raise InvalidTransition(
            f"the run is {RUN_STATES[state]} and cannot become {RUN_STATES[end]}",
            field=f"events[{index}].kind",
            hint="start another run",
            detail={"from": RUN_STATES[state], "to": RUN_STATES[end]},
        )
