"""What is asked of a session besides to take events: open, rename, archive, branch, erase; and of
its runs: start, move. `decide` says what follows, `fold` makes state and rows of it.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

from palyra_actors.domain import approval
from palyra_actors.domain.catalog import (
    CLIENT_KINDS,
    RUN_ACCEPTED,
    RUN_CANCELLED,
    RUN_STATES,
)
from palyra_actors.domain.fact import SEQ, Change, Decision, Fact, New, Place
from palyra_actors.domain.run import FINAL, Run, step
from palyra_actors.domain.run import view as run_view
from palyra_actors.domain.session import (
    NOTHING_SAID,
    About,
    Session,
    Status,
    changed_runs,
    session_rows,
    takes_no_more,
    with_event,
)
from palyra_actors.errors import Conflict, Gone, Invalid, InvalidTransition, LimitReached, NotFound
from palyra_actors.ids import format_ulid, parse_ulid
from palyra_actors.limits import BRANCH_DEPTH_MAX

NONE: Final[Mapping[bytes, Any]] = MappingProxyType({})
STATE_NUMBERS: Final[dict[str, int]] = {name: number for number, name in RUN_STATES.items()}


class Resolve(NamedTuple):
    """The session as it is; if there is none and `create` says so, it comes into being."""

    key: str | None
    title: str | None
    create: bool
    redacted: bool


class Look(NamedTuple):
    """How the session stands after all that was asked before, and whose it is: what a branch starts
    from."""


class Host(NamedTuple):
    """Something is to be made for the session elsewhere; it need not have begun. `new`: something
    that an archived one has no room for; `field`: what names the session."""

    new: bool
    field: str = "session_id"


class Lack(NamedTuple):
    """Another session is to have this key."""

    key: str


class Update(NamedTuple):
    title: str | None
    redacted: bool


class Archive(NamedTuple):
    """Take no more events."""


class Erase(NamedTuple):
    """Destroy the payloads of all its events."""


class Branch(NamedTuple):
    """Come into being as `parent` was after `at` events."""

    parent: bytes
    at: int
    depth: int
    key: str | None


class StartRun(NamedTuple):
    run_id: bytes
    parent: bytes | None


class MoveRun(NamedTuple):
    """`quietly`: nothing happens to a run that has ended (the engine's own clearing up)."""

    run_id: bytes
    to: int
    reason: str | None
    redacted: bool
    quietly: bool = False


Command: TypeAlias = (
    Resolve | Look | Host | Lack | Update | Archive | Erase | Branch | StartRun | MoveRun
)


class Who(NamedTuple):
    """The session that decides: its id, its owner, the time of the decision, and that of its last
    event where nothing is under way."""

    session_id: bytes
    owner: str
    now_ms: int
    updated_ms: int | None = None


def decide(session: Session, command: Command, who: Who) -> Decision:
    """What the command causes.

    Raises:
        NotFound: there is no such session, or no such run in it.
        Gone: the session was erased.
        Conflict: the key is another's, the branch or the run is there already.
        InvalidTransition: it is archived, or the run has no such step.
        LimitReached: a branch of too many branches.
    """
    if isinstance(command, Lack):
        return _lack(session, command, who)
    if session.status is Status.ERASED:
        field = command.field if isinstance(command, Host) else "session_id"
        raise Gone("the session was erased", field=field)
    if session.about is None and not _may_begin(command, who):
        raise NotFound("there is no such session", field="session_id")
    match command:
        case Resolve():
            return _resolve(session, command, who)
        case Look():
            return Decision((), lambda after: {"state": after, "owner": who.owner})
        case Host():
            if command.new and session.status is not Status.OPEN:
                raise takes_no_more(session.status)
            return Decision((), lambda after: {})
        case Update():
            if session.status is not Status.OPEN:
                raise takes_no_more(session.status)
            new = New(
                "session.updated", {"v": 1, "title": command.title}, redacted=command.redacted
            )
            return _session_decision(new, who)
        case Archive():
            if session.status is Status.ARCHIVED:
                raise InvalidTransition(
                    "the session is archived already",
                    field="session_id",
                    detail={"from": "archived", "to": "archived"},
                )
            return _session_decision(New("session.archived", {"v": 1}), who)
        case Erase():
            count = _own_payloads(session)
            new = New("session.erased", {"v": 1, "events": count})
            return Decision([new], lambda after: {"erased": count})
        case Branch():
            return _branch(session, command, who)
        case StartRun() | MoveRun():
            return _decide_run(session, command, who)
        case _:
            assert_never(command)


def _may_begin(command: Command, who: Who) -> bool:
    """Whether it needs no session that is there: most of these make it."""
    match command:
        case Resolve():
            return command.create
        case Branch():
            return command.parent != who.session_id
        case _:
            return isinstance(command, StartRun | Host)


def _lack(session: Session, command: Lack, who: Who) -> Decision:
    if session.about is not None and session.about.key == command.key:
        raise key_is_taken(who.session_id)
    return Decision((), lambda after: {})


def key_is_taken(holder: bytes) -> Conflict:
    """Why another session cannot have the key that this one has."""
    return Conflict(
        "another session has this key",
        field="session_key",
        hint="leave out session_id to find that one",
        detail={"actual": format_ulid(holder)},
    )


def _own_payloads(session: Session) -> int:
    """What an erasure destroys: not what was inherited, nor what says from where."""
    about = session.about or NOTHING_SAID
    return session.last_seq if about.at is None else session.last_seq - about.at - 1


def _resolve(session: Session, command: Resolve, who: Who) -> Decision:
    about = session.about
    if about is not None:
        if command.key is not None and about.key != command.key:
            raise Conflict(
                "the session has another key",
                field="session_key",
                hint="leave out session_id to find the session of that key",
                detail={"actual": about.key},
            )
        return Decision(
            (), lambda after: {"session": view(after, who, who.updated_ms), "created": False}
        )
    payload = {"v": 1, "key": command.key, "title": command.title}
    return Decision(
        [New("session.opened", payload, redacted=command.redacted)],
        lambda after: {"session": view(after, who), "created": True},
    )


def _branch(session: Session, command: Branch, who: Who) -> Decision:
    if session.about is not None:
        raise Conflict(
            "there is a session of that id already",
            field="new_session_id",
            hint="leave it out, or take a new id",
            detail={"actual": session.last_seq},
        )
    if command.depth > BRANCH_DEPTH_MAX:
        raise LimitReached(
            f"a branch has at most {BRANCH_DEPTH_MAX} others before it",
            field="session_id",
            hint="branch an earlier one",
            detail={"limit": BRANCH_DEPTH_MAX, "actual": command.depth},
        )
    payload = {
        "v": 1,
        "parent": format_ulid(command.parent),
        "at": command.at,
        "depth": command.depth,
    }
    events = [New("session.branched", payload)]
    if command.key is not None:
        events.append(New("session.updated", {"v": 1, "key": command.key, "title": None}))
    return Decision(
        events,
        lambda after: {"session": view(after, who)},
        first_seq=command.at + 1,
    )


def run_is_there(run: Run) -> Conflict:
    """Why none of that id is started, in this session or another one."""
    return Conflict(
        f"there is a run of that id already, {RUN_STATES[run.state]}",
        field="run_id",
        hint="take a new id",
        detail={"actual": RUN_STATES[run.state]},
    )


def run_was_there() -> Conflict:
    """Why none of that id is started any more."""
    return Conflict(
        "there was a run of that id, which was erased with its session",
        field="run_id",
        hint="take a new id",
        detail={"actual": "gone"},
    )


def _decide_run(session: Session, command: StartRun | MoveRun, who: Who) -> Decision:
    run = session.runs.get(command.run_id)

    def answer(after: Session) -> Mapping[str, Any]:
        found = after.runs[command.run_id]
        return {"run": run_view(command.run_id, who.session_id, found, who.now_ms)}

    if isinstance(command, StartRun):
        if session.status is not Status.OPEN:
            raise takes_no_more(session.status)
        if run is not None:
            raise run_is_there(run)
        parent = None if command.parent is None else format_ulid(command.parent)
        payload: dict[str, Any] = {"v": 1, "state": "accepted", "parent_run_id": parent}
        return Decision([New("run.started", payload, run_id=command.run_id)], answer)
    if run is None:
        raise NotFound("there is no such run", field="run_id")
    if command.quietly and run.state in FINAL:
        return Decision((), answer)
    step(run, command.to, "run_id" if command.to == RUN_CANCELLED else "to")
    payload = {
        "v": 1,
        "from": RUN_STATES[run.state],
        "to": RUN_STATES[command.to],
        "reason": command.reason,
    }
    new = New("run.transitioned", payload, run_id=command.run_id, redacted=command.redacted)
    return Decision([new], answer)


def _session_decision(new: New, who: Who) -> Decision:
    return Decision([new], lambda after: {"session": view(after, who)})


def fold(session: Session | None, fact: Fact, stream: int) -> tuple[Session, Sequence[Change]]:
    """The session after one event, its own or a client's, and the rows that follow.

    An event whose payload was erased leaves what it said unsaid; the session's erasure, which
    comes behind it, clears the rows that hung on it. What a branch is a branch of is never erased:
    its own branches are read by it.
    """
    before = Session() if session is None else session
    said: Mapping[str, Any] = fact.payload or {}
    about = before.about or NOTHING_SAID
    after = before._replace(last_seq=fact.stream_seq, about=about)
    rows: list[Change] = []
    match fact.kind:
        case "session.opened" | "session.branched":
            parent = said.get("parent")
            after = after._replace(
                about=About(
                    key=said.get("key"),
                    title=said.get("title"),
                    parent=None if parent is None else parse_ulid(parent),
                    at=said.get("at"),
                    depth=said.get("depth", 0),
                    created_ms=fact.ts_ms,
                )
            )
        case "session.updated":
            key, title = said.get("key", about.key), said.get("title")
            after = after._replace(about=about._replace(key=key, title=title))
            rows = [("session.name", (key, title, stream))]
        case "session.archived":
            after = after._replace(status=Status.ARCHIVED)
            rows = [("session.archive", (stream,)), ("session.index_archived", (stream,))]
        case "session.erased":
            forgotten = about._replace(key=None, title=None, runs=0, last_run=None)
            forgotten = forgotten._replace(tokens_in=0, tokens_out=0)
            after = after._replace(status=Status.ERASED, runs=NONE, approvals=NONE, about=forgotten)
            rows = _erasure(stream, fact)
        case "run.started":
            after, rows = _fold_run(after, fact, said)
        case "run.transitioned":
            after, rows = _fold_run(after, fact, said)
        case "approval.requested" | "approval.decided":
            approvals, changes = approval.fold(before.approvals, fact, stream)
            after, rows = after._replace(approvals=approvals), list(changes)
        case kind if fact.run_id is not None:
            run, about = with_event(
                before.runs.get(fact.run_id), about, fact.run_id, CLIENT_KINDS.get(kind, kind),
                fact.stream_seq, fact.payload, fact.recorded_ms,
            )  # fmt: skip
            after = after._replace(runs={**before.runs, fact.run_id: run}, about=about)
    assert fact.session_id is not None
    if after.status is not Status.ERASED and fact.kind != "session.updated":
        made = session_rows(
            before, after, stream=stream, session_id=fact.session_id, owner=fact.principal
        )
        if before.about is None and fact.kind not in ("session.opened", "session.branched"):
            made = [_created(change, fact.recorded_ms) for change in made]
        rows = [*made, *rows]
    texts = after.about.key, after.about.title  # type: ignore[union-attr]
    if texts != (about.key, about.title) and fact.kind.startswith("session."):
        rows += _texts(stream, texts)
    rows += run_rows(before, after, stream) if after.status is not Status.ERASED else []
    return after, rows


def _created(change: Change, recorded_ms: int | Place) -> Change:
    """A session that a client's event made: its time is when that was recorded."""
    statement, row = change
    return statement, tuple(recorded_ms if type(cell) is Place else cell for cell in row)


def _fold_run(
    session: Session, fact: Fact, said: Mapping[str, Any]
) -> tuple[Session, list[Change]]:
    run_id, about = fact.run_id, session.about or NOTHING_SAID
    assert run_id is not None
    run = session.runs.get(run_id)
    if fact.kind == "run.started":
        parent = said.get("parent_run_id")
        run = Run(
            STATE_NUMBERS.get(str(said.get("state")), RUN_ACCEPTED),
            fact.stream_seq,
            None,
            managed=True,
            parent=None if parent is None else parse_ulid(parent),
            created_ms=fact.ts_ms,
        )
        about = about._replace(runs=about.runs + 1, last_run=run_id)
    elif run is not None and fact.payload is not None:
        to = STATE_NUMBERS[said["to"]]
        run = run._replace(state=to, reason=said.get("reason"))
        if to in FINAL:
            run = run._replace(last=fact.stream_seq, ended_ms=fact.ts_ms)
    if run is None:
        return session, []
    return session._replace(runs={**session.runs, run_id: run}, about=about), []


def run_rows(before: Session, after: Session, stream: int) -> list[Change]:
    """The rows of the runs that differ."""
    rows: list[Change] = []
    for run_id, run, is_new in changed_runs(before, after):
        rows.append(
            ("run.insert", run_insert(run_id, stream, run))
            if is_new
            else ("run.update", run_update(run_id, run))
        )
    return rows


def run_insert(run_id: bytes, stream: int, run: Run) -> tuple[Any, ...]:
    return (
        run_id, stream, run.state, run.first, run.last, run.entries, int(run.open),
        int(run.managed), run.parent, run.reason, run.tokens_in, run.tokens_out, run.created_ms,
        run.ended_ms,
    )  # fmt: skip


def run_update(run_id: bytes, run: Run) -> tuple[Any, ...]:
    return (
        run.state, run.last, run.entries, int(run.open), run.reason, run.tokens_in,
        run.tokens_out, run.ended_ms, run_id,
    )  # fmt: skip


def _texts(stream: int, texts: tuple[str | None, str | None]) -> list[Change]:
    words = " ".join(text for text in texts if text)
    rows: list[Change] = [("session.unindex", (stream,))]
    if words:
        rows.append(("session.index", (words, stream)))
    return rows


def owner_word(owner: str) -> str:
    """A principal as the one word that the full-text index knows it by: 'o' and hex."""
    return "o" + owner.encode().hex()


def _erasure(stream: int, fact: Fact) -> list[Change]:
    """What was answered in the session goes, too; not what this is answered. What had an id of
    its own leaves that behind."""
    seq = fact.seq
    assert isinstance(seq, int) or seq == Place(0, SEQ)
    return [
        ("session.erase", (stream,)),
        ("session.unindex", (stream,)),
        ("gone.runs", (stream,)),
        ("run.forget", (stream,)),
        ("gone.approvals", (stream,)),
        ("approval.forget", (stream,)),
        ("answer.erase", (stream, fact.event_id)),
        ("answer.erase_idle", (stream,)),
        ("erasure.insert", (stream, seq)),
    ]


def view(session: Session, who: Who, updated_ms: int | None = None) -> dict[str, Any]:
    """The session as it is shown."""
    about = session.about or NOTHING_SAID
    return {
        "session_id": format_ulid(who.session_id),
        "session_key": about.key,
        "title": about.title,
        "status": session.status.value,
        "branch_state": None
        if about.parent is None
        else {"parent_session_id": format_ulid(about.parent), "at_session_seq": about.at},
        "principal": who.owner,
        "created_ms": who.now_ms if about.created_ms is None else about.created_ms,
        "updated_ms": who.now_ms if updated_ms is None else updated_ms,
        "last_session_seq": session.last_seq,
        "last_run_id": None if about.last_run is None else format_ulid(about.last_run),
        "runs": about.runs,
        "model_tokens_in": about.tokens_in,
        "model_tokens_out": about.tokens_out,
    }


def branch_point(parent: Session, at: int | None) -> tuple[int, int]:
    """Where a branch starts and how deep it is. Raises Invalid: the parent has not got there."""
    if at is not None and at > parent.last_seq:
        raise Invalid(
            f"the session's last event is number {parent.last_seq}",
            field="at_session_seq",
            hint="branch at or before it",
        )
    about = parent.about or NOTHING_SAID
    return (parent.last_seq if at is None else at), about.depth + 1
