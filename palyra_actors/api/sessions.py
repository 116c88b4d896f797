"""Sessions, their runs and their approvals, as handles on one engine.

engine.sessions.resolve("alice")        a session, made if there is none
engine.runs.start(session)              a run in it
engine.approvals.request(session, …)    a question to a person about it
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self

from palyra_actors.api.events import new_id
from palyra_actors.api.finite import items
from palyra_actors.api.results import Appended, Page, StoredEvent, read
from palyra_actors.api.subscription import Subscription
from palyra_actors.limits import LIST_LIMIT_MAX, READ_LIMIT_MAX, TAPE_ENTRIES_MAX

if TYPE_CHECKING:
    from palyra_actors.api.operations import Operations

EXPORT_SILENCE_S = 30.0


class _FromWire:
    """Made of a reply's map: a field for each key, None for what an older engine does not say."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        known = {each.name: raw.get(each.name) for each in fields(cls)}  # type: ignore[arg-type]
        return cls(**known)


@dataclass(frozen=True, slots=True)
class SessionInfo(_FromWire):
    """`branch_state` of a branch: {parent_session_id, at_session_seq}."""

    session_id: str
    session_key: str | None
    title: str | None
    status: str
    branch_state: Mapping[str, Any] | None
    principal: str
    created_ms: int
    updated_ms: int
    last_session_seq: int
    last_run_id: str | None
    runs: int
    model_tokens_in: int
    model_tokens_out: int


@dataclass(frozen=True, slots=True)
class RunInfo(_FromWire):
    """`ended_ms` is None until the run has ended."""

    run_id: str
    session_id: str
    parent_run_id: str | None
    state: str
    reason: str | None
    created_ms: int
    ended_ms: int | None
    tape_entries: int
    model_tokens_in: int
    model_tokens_out: int


@dataclass(frozen=True, slots=True)
class TapeEntry(_FromWire):
    """`payload` of a `model_token` entry: {text, count}; of more than 1 MiB of text {text, count,
    joined, next_after_seq}: its first `joined` tokens; the others follow that event."""

    tape_seq: int
    seq: int
    kind: str
    actor: str
    ts_ms: int
    payload: Any


@dataclass(frozen=True, slots=True)
class ApprovalInfo(_FromWire):
    """`decision` is None while nobody has decided; `decided_through` names the approval whose
    standing decision answered this one."""

    approval_id: str
    session_id: str
    run_id: str | None
    principal: str
    subject_type: str
    subject_id: str
    summary: str
    prompt: Any
    policy: Any
    requested_ms: int
    expires_ms: int | None
    decision: str | None
    scope: str | None
    scope_until_ms: int | None
    reason: str | None
    decided_ms: int | None
    decided_by: str | None
    decided_through: str | None


class Sessions:
    """Sessions of one engine, as handles. Options of all calls: `timeout_s`, `principal`; of those
    that change something also `event_id`, see `Operations.call`."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations

    def open(self, session_id: object | None = None) -> "Session":
        """A handle; a new id without one. The session comes into being with its first event."""
        return Session(self._operations, new_id() if session_id is None else str(session_id))

    def resolve(
        self,
        session_key: str | None = None,
        *,
        session_id: object | None = None,
        title: str | None = None,
        create: bool = True,
        **options: Any,
    ) -> "Session":
        """The session of that key or id, made if there is none and `create` says so.

        Raises:
            NotFound: there is none, and it is not to be made.
            Conflict: key and id are those of two sessions.
            Gone: it was erased.
        """
        body = _given(session_key=session_key, session_id=session_id, title=title)
        ok = self._operations.call("session.resolve", {**body, "create": create}, **options)
        return Session(self._operations, read("session", SessionInfo.of, ok["session"]).session_id)

    def get(self, session_id: object, **options: Any) -> SessionInfo:
        """Raises NotFound, Gone."""
        return _session(
            self._operations.call("session.get", {"session_id": str(session_id)}, **options)
        )

    def list(
        self, *, status: str | None = None, query: str | None = None, **options: Any
    ) -> Iterator[SessionInfo]:
        """All sessions in the order in which they came into being. `query`: every word of it
        begins a word of key or title."""
        body = _given(status=status, query=query)
        for raw in _pages(self._operations, "session.list", "sessions", body, options):
            yield read("session", SessionInfo.of, raw)


class Session:
    """One session, by its id. Holds nothing else; any thread."""

    def __init__(self, operations: "Operations", session_id: str) -> None:
        self._operations = operations
        self.session_id = session_id

    def __str__(self) -> str:
        return self.session_id

    def __repr__(self) -> str:
        return f"Session({self.session_id!r})"

    def append(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        actor: str = "agent",
        run_id: object | None = None,
        event_id: object | None = None,
        ts_ms: int | None = None,
        **options: Any,
    ) -> Appended:
        """Stores one event; `Operations.append`'s options and errors."""
        wire = {
            "event_id": event_id,
            "session_id": self.session_id,
            "run_id": run_id,
            "kind": kind,
            "actor": actor,
            "ts_ms": ts_ms,
            "payload": payload,
        }
        return self._operations.append(wire, **options).results[0]

    def events(self, **options: Any) -> Iterator[StoredEvent]:
        """Its own events in order, without inherited ones; `Operations.events`' options."""
        return self._operations.events(session_id=self.session_id, **options)

    def history(self, *, after: int = 0, **options: Any) -> Iterator[StoredEvent]:
        """All events after that `session_seq`, those inherited from its parents first."""
        while True:
            body = {"session_id": self.session_id, "after": after, "limit": READ_LIMIT_MAX}
            ok = self._operations.call("session.history", body, **options)
            page: Page = read("page", Page.of, {**ok, "next_after_seq": ok["next_after"]})
            yield from page.events
            if page.end:
                return
            after = page.next_after_seq

    def subscribe(self, **options: Any) -> Subscription:
        """Its events, live; `Operations.subscribe`'s options."""
        return self._operations.subscribe(session_id=self.session_id, **options)

    def info(self, **options: Any) -> SessionInfo:
        """Raises NotFound until it has an event, Gone once it is erased."""
        return self._operations.sessions.get(self.session_id, **options)

    def rename(self, title: str | None, **options: Any) -> SessionInfo:
        """Sets the title."""
        body = {"session_id": self.session_id, "title": title}
        return _session(self._operations.call("session.update", body, **options))

    def archive(self, **options: Any) -> SessionInfo:
        """It takes no more events. Raises InvalidTransition: it is archived already."""
        body = {"session_id": self.session_id}
        return _session(self._operations.call("session.archive", body, **options))

    def branch(
        self,
        at_session_seq: int | None = None,
        *,
        session_key: str | None = None,
        new_session_id: object | None = None,
        **options: Any,
    ) -> "Session":
        """A session that goes on from here, or from an earlier event; what lies before is shared,
        not copied."""
        body = _given(
            at_session_seq=at_session_seq, session_key=session_key, new_session_id=new_session_id
        )
        ok = self._operations.call(
            "session.branch", {"session_id": self.session_id, **body}, **options
        )
        return Session(self._operations, _session(ok).session_id)

    def erase(self, **options: Any) -> int:
        """Destroys the payloads of all its events, for good; how many events that were."""
        ok = self._operations.call("session.erase", {"session_id": self.session_id}, **options)
        return int(ok["erased"])

    def runs(self, **options: Any) -> Iterator[RunInfo]:
        """Its runs, in the order of their first events."""
        return self._operations.runs.list(session_id=self.session_id, **options)


class Runs:
    """Runs of one engine."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations

    def start(
        self,
        session_id: object,
        *,
        run_id: object | None = None,
        parent_run_id: object | None = None,
        **options: Any,
    ) -> RunInfo:
        """A run, `accepted`. Raises Conflict: there is one of that id."""
        body = {
            "run_id": new_id() if run_id is None else str(run_id),
            "session_id": str(session_id),
            **_given(parent_run_id=parent_run_id),
        }
        return _run(self._operations.call("run.start", body, **options))

    def move(
        self, run_id: object, to: str, *, reason: str | None = None, **options: Any
    ) -> RunInfo:
        """One step of the run's states. Raises InvalidTransition: there is no such step."""
        body = {"run_id": str(run_id), "to": to, **_given(reason=reason)}
        return _run(self._operations.call("run.transition", body, **options))

    def cancel(self, run_id: object, *, reason: str | None = None, **options: Any) -> RunInfo:
        """Raises InvalidTransition: it has ended."""
        body = {"run_id": str(run_id), **_given(reason=reason)}
        return _run(self._operations.call("run.cancel", body, **options))

    def get(self, run_id: object, **options: Any) -> RunInfo:
        """Raises NotFound."""
        return _run(self._operations.call("run.get", {"run_id": str(run_id)}, **options))

    def list(self, *, session_id: object | None = None, **options: Any) -> Iterator[RunInfo]:
        """All runs, or those of one session."""
        body = _given(session_id=session_id)
        for raw in _pages(self._operations, "run.list", "runs", body, options):
            yield read("run", RunInfo.of, raw)

    def tape(self, run_id: object, *, after: int = 0, **options: Any) -> Iterator[TapeEntry]:
        """The entries of its tape after that `tape_seq`."""
        while True:
            body = {"run_id": str(run_id), "after": after, "limit": TAPE_ENTRIES_MAX}
            ok = self._operations.call("run.tape", body, **options)
            for raw in ok["entries"]:
                yield read("entry", TapeEntry.of, raw)
            if ok["end"]:
                return
            after = ok["next_after"]


class Approvals:
    """Approvals of one engine."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations

    def request(
        self,
        session_id: object,
        subject_type: str,
        subject_id: str,
        summary: str,
        *,
        approval_id: object | None = None,
        run_id: object | None = None,
        prompt: Any = None,
        policy: Any = None,
        expires_ms: int | None = None,
        **options: Any,
    ) -> ApprovalInfo:
        """Asks. If a decision stands for the subject in this session, that answers it at once."""
        body = {
            "approval_id": new_id() if approval_id is None else str(approval_id),
            "session_id": str(session_id),
            "subject_type": subject_type,
            "subject_id": subject_id,
            "summary": summary,
            **_given(run_id=run_id),
            **{
                name: value
                for name, value in (
                    ("prompt", prompt), ("policy", policy), ("expires_ms", expires_ms),
                )
                if value is not None
            },
        }  # fmt: skip
        return _approval(self._operations.call("approval.request", body, **options))

    def decide(
        self,
        approval_id: object,
        decision: str,
        *,
        scope: str = "once",
        scope_ttl_ms: int | None = None,
        reason: str | None = None,
        **options: Any,
    ) -> ApprovalInfo:
        """`allow` or `deny`. Raises Conflict: it is decided otherwise, or its time is over."""
        body = {
            "approval_id": str(approval_id),
            "decision": decision,
            "scope": scope,
            **_given(scope_ttl_ms=scope_ttl_ms, reason=reason),
        }
        return _approval(self._operations.call("approval.decide", body, **options))

    def get(self, approval_id: object, **options: Any) -> ApprovalInfo:
        """Raises NotFound."""
        body = {"approval_id": str(approval_id)}
        return _approval(self._operations.call("approval.get", body, **options))

    def list(self, *, timeout_s: float | None = None, **filters: Any) -> Iterator[ApprovalInfo]:
        """In the order of their requests. Filters: `decision` (`pending` among them),
        `subject_type`, `subject_id`, `principal`, `since_ms`, `until_ms`."""
        options = {"timeout_s": timeout_s}
        for raw in _pages(self._operations, "approval.list", "approvals", filters, options):
            yield read("approval", ApprovalInfo.of, raw)

    def export(
        self, *, form: str = "ndjson", silence_s: float = EXPORT_SILENCE_S, **filters: Any
    ) -> Iterator[bytes]:
        """The export in pieces of at most 64 KiB; `list`'s filters and `limit` (1..5000)."""
        body = {"format": form, **_given(**filters)}
        calls = self._operations._calls
        for item in items(calls, "approval.export", body, silence_s=silence_s, principal=None):
            yield item["chunk"]


def _given(**values: Any) -> dict[str, Any]:
    """What was said; handles and ids as text. What else is of the wrong type the engine refuses."""
    return {
        name: value if isinstance(value, _AS_IT_IS) else str(value)
        for name, value in values.items()
        if value is not None
    }


_AS_IT_IS: Final = (int, float, str, bytes, list, tuple, dict)


def _pages(  # noqa: PLR0917
    operations: "Operations",
    op: str,
    key: str,
    body: Mapping[str, Any],
    options: Mapping[str, Any],
    limit: int = LIST_LIMIT_MAX,
) -> Iterator[Mapping[str, Any]]:
    after: Any = None
    while True:
        asked = {**body, "limit": limit}
        if after is not None:
            asked["after"] = after
        ok = operations.call(op, asked, **options)
        found: Sequence[Mapping[str, Any]] = ok[key]
        yield from found
        if ok["end"]:
            return
        after = ok["next_after"]


def _session(ok: Mapping[str, Any]) -> SessionInfo:
    info: SessionInfo = read("session", SessionInfo.of, ok["session"])
    return info


def _run(ok: Mapping[str, Any]) -> RunInfo:
    info: RunInfo = read("run", RunInfo.of, ok["run"])
    return info


def _approval(ok: Mapping[str, Any]) -> ApprovalInfo:
    info: ApprovalInfo = read("approval", ApprovalInfo.of, ok["approval"])
    return info
