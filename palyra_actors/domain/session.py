"""A session: one conversation, from its first event to its archive. Pure; see `domain/__init__`.

    (none) ──first event──▶ open ──Archive──▶ archived
                              └───────┬───────────┴──Erase──▶ erased
                              its runs: `domain.run`

Events of clients are the hot path: `decide` and `evolve` take them by the request. All other
commands are in `domain.session_commands`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from palyra_actors.domain.approval import Approval
from palyra_actors.domain.catalog import MODEL_TOKEN, RUN_ENDS, RUN_IN_PROGRESS, RUN_STATES
from palyra_actors.domain.fact import RECORDED_MS, Change, Place
from palyra_actors.domain.run import FINAL, Run, on_event, tape_full, tape_has_room
from palyra_actors.errors import Conflict, Gone, InvalidTransition, PalyraError
from palyra_actors.limits import TAPE_ENTRIES_MAX

WHEN_RECORDED: Final = Place(0, RECORDED_MS)


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
    ERASED = "erased"


STATUS_NUMBERS: Final[dict[Status, int]] = {Status.OPEN: 1, Status.ARCHIVED: 2, Status.ERASED: 3}


class About(NamedTuple):
    """What a session is besides its events.

    `parent` and `at`: the session that it is a branch of, and up to which session_seq; `depth`:
    how many such steps lead to one that is none. `created_ms` is None where only the file knows.
    """

    key: str | None = None
    title: str | None = None
    parent: bytes | None = None
    at: int | None = None
    depth: int = 0
    created_ms: int | None = None
    runs: int = 0
    last_run: bytes | None = None
    tokens_in: int = 0
    tokens_out: int = 0


SUM_MAX: Final = 2**63 - 1
"""Where a session's sums of tokens stop: the file holds no more."""

NOTHING_SAID: Final = About()


class Session(NamedTuple):
    """`last_seq` is the session_seq of the last event, 0 where there is none.

    `runs` and `approvals` hold those that were heard of; which ones besides is the actor's
    business, who asks the file before it lets a command decide about one that is not here. `about`
    is None until there is an event.
    """

    last_seq: int = 0
    status: Status = Status.OPEN
    runs: Mapping[bytes, Run] = MappingProxyType({})
    about: About | None = None
    approvals: Mapping[bytes, Approval] = MappingProxyType({})


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
    run_ids = dict.fromkeys(draft.run_id for draft in drafts if draft.run_id is not None)
    return Append(drafts, expected_seq, run_ids, any(d.kind in RUN_ENDS for d in drafts))


def appended(session: Session, command: Append) -> Session:
    """The state after the command's events.

    Raises:
        Conflict: `expected_seq` is not the present one; `detail.actual` is.
        InvalidTransition: the session is archived, or a run would leave a final state.
        LimitReached: a run's tape is full.
        Gone: the session was erased.
    """
    drafts, expected_seq, run_ids, ends = command
    last_seq, status, runs, about, approvals = session
    if status is not Status.OPEN:
        raise takes_no_more(status)
    if expected_seq is not None and expected_seq != last_seq:
        raise Conflict(
            f"the session's last event is number {last_seq}, not {expected_seq}",
            field="expected_session_seq",
            hint="read what was written meanwhile and decide anew",
            detail={"actual": last_seq},
        )
    if about is None:
        about = NOTHING_SAID
    if run_ids:
        if ends:
            _refuse_second_ends(runs, drafts)
        runs, about = _with_runs(runs, about, drafts, last_seq)
    after = (last_seq + len(drafts), status, runs, about, approvals)
    return tuple.__new__(Session, after)  # as `Session(*after)`, in a third of the time


def takes_no_more(status: Status) -> PalyraError:
    """Why a session that is not open takes no events."""
    if status is Status.ERASED:
        return Gone("the session was erased", field="session_id", hint="start another session")
    return InvalidTransition(
        "the session is archived and takes no more events",
        field="session_id",
        hint="start or branch another session",
        detail={"from": "archived", "to": "open"},
    )


def changed_runs(
    before: Session, after: Session, run_ids: Collection[bytes] | None = None
) -> Iterator[tuple[bytes, Run, bool]]:
    """The runs that differ between two states: id, the run as it is after, whether it is new.
    `run_ids`: those that may; all, where they are not given."""
    if before.runs is after.runs:
        return
    for run_id in after.runs if run_ids is None else run_ids:
        run, known = after.runs[run_id], before.runs.get(run_id)
        if known is not run:
            yield run_id, run, known is None


def session_rows(
    before: Session, after: Session, *, stream: int, session_id: bytes, owner: str
) -> Sequence[Change]:
    """The rows of a session whose clients' events made it or its counters differ."""
    about = after.about
    if about is before.about or about is None:
        return ()
    counters = (about.runs, about.last_run, about.tokens_in, about.tokens_out)
    if before.about is not None:
        return (("session.count", (*counters, stream)),)
    created_ms: int | Place = WHEN_RECORDED if about.created_ms is None else about.created_ms
    row = (
        stream, session_id, owner, about.key, about.title, STATUS_NUMBERS[after.status],
        about.parent, about.at, about.depth, created_ms,
    )  # fmt: skip
    return (("session.insert", (*row, *counters)),)


def _with_runs(
    runs: Mapping[bytes, Run], about: About, drafts: Sequence[Draft], last_seq: int
) -> tuple[Mapping[bytes, Run], About]:
    """Runs and session after the drafts. Those of one run that follow each other and only move its
    tape on are counted and not folded one by one: they are nearly all there are.
    """
    changed: dict[bytes, Run] | None = None
    place, count = 0, len(drafts)
    while place < count:
        _, run_id, kind, _, _, payload, _ = drafts[place]
        if run_id is None:
            place += 1
            continue
        run = runs.get(run_id)
        if run is not None and kind not in RUN_ENDS:
            moved, place = _along(run, drafts, place)
            if moved is not run:
                if changed is None:
                    runs = changed = dict(runs)
                changed[run_id] = moved
            continue
        if not tape_has_room(run, kind):
            raise tape_full(f"events[{place}].run_id")
        place += 1
        after, about = with_event(
            run, about, run_id, kind, last_seq + place, payload, WHEN_RECORDED
        )
        if after is not run:
            if changed is None:
                runs = changed = dict(runs)
            changed[run_id] = after
    return runs, about


def _along(run: Run, drafts: Sequence[Draft], place: int) -> tuple[Run, int]:
    """The run after the drafts from `place` on that are its own and end nothing, as `on_event` has
    it; and the place of the first one that is not of these. Raises LimitReached."""
    run_id = drafts[place].run_id
    entries, is_open = run.entries, run.open
    for at in range(place, len(drafts)):
        _, named, kind, _, _, _, _ = drafts[at]
        if named != run_id or kind in RUN_ENDS:
            break
        if kind == MODEL_TOKEN and is_open:
            continue
        if entries >= TAPE_ENTRIES_MAX:
            raise tape_full(f"events[{at}].run_id")
        entries += 1
        is_open = kind == MODEL_TOKEN
    else:
        at = len(drafts)
    if entries == run.entries and is_open == run.open:
        return run, at
    return tuple.__new__(Run, (*run[:3], entries, is_open, *run[5:])), at  # as `_replace`


def with_event(  # noqa: PLR0917 - the hot path
    run: Run | None,
    about: About,
    run_id: bytes,
    kind: int | str,
    number: int,
    payload: "bytes | Mapping[str, object] | None",
    at: int | Place,
) -> tuple[Run, About]:
    """Run and session after one client's event of the run."""
    if run is None:
        run = Run(RUN_IN_PROGRESS, number, None, created_ms=at)
        about = about._replace(runs=about.runs + 1, last_run=run_id)
    after = on_event(run, kind, number, payload, at)
    if after.tokens_in != run.tokens_in or after.tokens_out != run.tokens_out:
        about = about._replace(
            tokens_in=min(about.tokens_in + after.tokens_in, SUM_MAX),
            tokens_out=min(about.tokens_out + after.tokens_out, SUM_MAX),
        )
    return after, about


def _refuse_second_ends(runs: Mapping[bytes, Run], drafts: Sequence[Draft]) -> None:
    ended: dict[bytes, int] = {}
    for index, (_, run_id, kind, _, _, _, _) in enumerate(drafts):
        if kind not in RUN_ENDS or run_id is None:
            continue
        end = RUN_ENDS[kind]
        run = runs.get(run_id)
        state = ended.get(run_id, RUN_IN_PROGRESS if run is None else run.state)
        if state not in FINAL or state == end:
            ended[run_id] = end
            continue
        raise InvalidTransition(
            f"the run is {RUN_STATES[state]} and cannot become {RUN_STATES[end]}",
            field=f"events[{index}].kind",
            hint="start another run",
            detail={"from": RUN_STATES[state], "to": RUN_STATES[end]},
        )
