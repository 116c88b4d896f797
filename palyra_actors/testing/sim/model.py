"""What the journal says, in plain Python: no groups, no threads, no file, and none of the engine's
folds. Events go in, in their order; what clients may be told comes out.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import rfc8785

from palyra_actors.domain.chain import GENESIS, expected_hash
from palyra_actors.ids import format_ulid
from palyra_actors.testing.sim.events import Event, require
from palyra_actors.testing.sim.jobs import Jobs
from palyra_actors.testing.sim.memories import OWNERS, Memories, Memory
from palyra_actors.testing.sim.peers import Order

RUN_STEPS: Final[dict[str, tuple[str, ...]]] = {
    "pending": ("accepted",),
    "accepted": ("in_progress", "failed", "cancelled"),
    "in_progress": ("done", "failed", "cancelled"),
    "done": (),
    "failed": (),
    "cancelled": (),
}
RUN_ENDS: Final = {"run_completed": "done", "run_failed": "failed"}


@dataclass(slots=True)
class Session:
    owner: str
    created_ms: int
    last_seq: int = 0
    updated_ms: int = 0
    status: str = "open"
    key: str | None = None
    title: str | None = None
    parent: str | None = None
    at: int | None = None
    depth: int = 0
    runs: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    session: str
    owner: str
    state: str
    managed: bool
    created_ms: int
    parent: str | None = None
    reason: str | None = None
    ended_ms: int | None = None
    events: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Approval:
    session: str
    owner: str
    subject: tuple[str, str]
    requested_ms: int
    expires_ms: int | None
    decision: str | None = None
    scope: str | None = None
    until_ms: int | None = None
    standing: str | None = None
    decided_ms: int | None = None
    seq: int = 0
    decided_seq: int | None = None

    def answers(self, now_ms: int) -> bool:
        """Whether it decides further requests about its subject."""
        return (
            self.decision in ("allow", "deny")
            and self.scope in ("session", "timeboxed")
            and (self.until_ms is None or now_ms < self.until_ms)
        )


@dataclass(slots=True)
class Canvas:
    owner: str
    session: str
    created_ms: int
    states: dict[int, Any]
    expires_ms: int | None
    version: int = 1
    horizon: int = 1
    closed: bool = False
    erased: bool = False

    @property
    def state(self) -> Any:
        return self.states[self.version]


class Model:
    """Everything that was written, and what follows from it. `orders` are those of clients by
    their event ids: what a request said is taken from there and not from the journal."""

    def __init__(self, orders: Mapping[str, Order]) -> None:
        self.orders = orders
        self.events: list[Event] = []
        self.by_id: dict[str, Event] = {}
        self.tails: dict[tuple[str, str], int] = {}
        self.sessions: dict[str, Session] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.runs: dict[str, Run] = {}
        self.approvals: dict[str, Approval] = {}
        self.canvases: dict[str, Canvas] = {}
        self.gone_runs: dict[str, str] = {}  # of erased sessions, and whose they were
        self.gone_approvals: dict[str, str] = {}
        self.cron = Jobs()
        self.memories = Memories(orders)
        self._folds: dict[str, Callable[[Event], None]] = {
            "session.opened": self._opened,
            "session.branched": self._branched,
            "session.updated": self._updated,
            "session.archived": self._archived,
            "session.erased": self._erased,
            "run.started": self._started,
            "run.transitioned": self._transitioned,
            "approval.requested": self._requested,
            "approval.decided": self._decided,
            "canvas.created": self._created,
            "canvas.patched": self._patched,
            "canvas.snapshotted": self._whole,
            "canvas.compacted": self._whole,
            "canvas.closed": self._closed,
            "canvas.erased": self._canvas_erased,
        }

    @property
    def head(self) -> tuple[int, bytes]:
        if not self.events:
            return 0, GENESIS
        return len(self.events), self.events[-1].stored.hash

    def fold(self, event: Event) -> None:
        """Take one more event. Raises Wrong: it may not stand there."""
        stored = event.stored
        seq, digest = self.head
        require(stored.seq == seq + 1, "seq is 1, 2, 3 … without a gap", stored.seq, seq)
        require(stored.prev_hash == digest, "prev_hash is the hash before", stored.seq)
        require(expected_hash(stored, digest) == stored.hash, "the chain verifies", stored.seq)
        require(event.event_id not in self.by_id, "one event id, one event", event.event_id)
        stream = (stored.stream, event.stream_id)
        expected = self.tails.get(stream, 0) + 1
        if stored.kind == "session.branched":
            require(stream not in self.tails, "a session is branched into being once", stream)
            expected = event.payload["at"] + 1
        require(stored.stream_seq == expected, "session_seq has no gap", stream, stored.stream_seq)
        self.tails[stream] = stored.stream_seq
        self.events.append(event)
        self.by_id[event.event_id] = event
        self.memories.latest_ms = max(self.memories.latest_ms, stored.recorded_ms)
        if stored.stream == "session":
            self._in_session(event)
        if stored.stream == "cron":
            self.cron.fold(event)
            return
        if stored.stream == "memory":
            self.memories.fold(event, OWNERS[stored.stream_id])
            return
        fold = self._folds.get(stored.kind)
        if fold is not None:
            fold(event)
        elif event.run_id is not None:
            self._of_run(event, event.run_id)

    # -- sessions ---------------------------------------------------------------------------------

    def _in_session(self, event: Event) -> None:
        stored, name = event.stored, event.stream_id
        session = self.sessions.get(name)
        if session is None:
            own = stored.kind in {"session.opened", "session.branched"}
            made_ms = stored.ts_ms if own else stored.recorded_ms
            session = self.sessions[name] = Session(stored.principal, made_ms)
        quiet = stored.kind in {"run.transitioned", "approval.decided", "session.erased"}
        require(
            session.status == "open" or (session.status == "archived" and quiet),
            "what is archived or erased takes no more events", name, session.status, stored.kind,
        )  # fmt: skip
        session.last_seq = stored.stream_seq
        session.updated_ms = stored.recorded_ms if event.by_client else stored.ts_ms
        session.events.append(event)

    def _opened(self, event: Event) -> None:
        session = self.sessions[event.stream_id]
        require(len(session.events) == 1, "a session is opened once", event.stream_id)
        session.title = event.payload["title"]
        self._name(event.stream_id, event.payload["key"])

    def _branched(self, event: Event) -> None:
        session, said = self.sessions[event.stream_id], event.payload
        parent = self.sessions[said["parent"]]
        require(0 <= said["at"] <= parent.last_seq, "a branch starts in its parent", said)
        session.parent, session.at = said["parent"], said["at"]
        session.depth = parent.depth + 1

    def _updated(self, event: Event) -> None:
        session = self.sessions[event.stream_id]
        session.title = event.payload["title"]
        if "key" in event.payload:
            self._name(event.stream_id, event.payload["key"])

    def _name(self, name: str, key: str | None) -> None:
        session = self.sessions[name]
        session.key = key
        if key is not None:
            holder = self.keys.setdefault((session.owner, key), name)
            require(holder == name, "a key names one session of its owner", key, holder, name)

    def history(self, name: str) -> list[Event]:
        """The session's events, those that it has from its parents first."""
        session = self.sessions[name]
        inherited: list[Event] = []
        if session.parent is not None and session.at is not None:
            told = self.history(session.parent)
            inherited = [one for one in told if one.stored.stream_seq <= session.at]
        return inherited + session.events

    def _archived(self, event: Event) -> None:
        self.sessions[event.stream_id].status = "archived"

    def _erased(self, event: Event) -> None:
        name = event.stream_id
        session = self.sessions[name]
        if session.key is not None:
            self.keys.pop((session.owner, session.key), None)
        session.status, session.key, session.title = "erased", None, None
        session.runs.clear()
        for one in [one for one, run in self.runs.items() if run.session == name]:
            del self.runs[one]
            self.gone_runs[one] = session.owner
        for one in [one for one, it in self.approvals.items() if it.session == name]:
            del self.approvals[one]
            self.gone_approvals[one] = session.owner

    def of_erased(self, kept: Memory) -> bool:
        """Whether a memory came from a session that is erased, whoever kept it. What somebody
        else kept for it before it was there did not."""
        origin = self.by_id.get(kept.said["from_event_id"])
        of = None if origin is None else origin.stored.session_id
        from_ = None if of is None else self.sessions.get(format_ulid(of))
        several = [] if from_ is None else [from_]
        named = self.sessions.get(kept.said["session_id"] or "")
        if named is not None and self.is_of(named, kept.owner, kept.created_ms):
            several.append(named)
        return any(one.status == "erased" for one in several)

    @staticmethod
    def is_of(session: Session, owner: str, created_ms: int) -> bool:
        """Whether what was made for a session then is of it, and goes with it."""
        return owner == session.owner or created_ms >= session.created_ms

    # -- runs -------------------------------------------------------------------------------------

    def _run(self, event: Event, state: str, managed: bool) -> Run:
        assert event.run_id is not None
        made_ms = event.stored.ts_ms if managed else event.stored.recorded_ms
        session = self.sessions[event.stream_id]
        run = Run(event.stream_id, session.owner, state, managed, made_ms)
        self.runs[event.run_id] = run
        session.runs.append(event.run_id)
        return run

    def _started(self, event: Event) -> None:
        known = event.run_id in self.runs or event.run_id in self.gone_runs
        require(not known, "a run is started once", event.run_id)
        self._run(event, "accepted", True).parent = event.payload["parent_run_id"]

    def _transitioned(self, event: Event) -> None:
        assert event.run_id is not None
        run, to = self.runs[event.run_id], event.payload["to"]
        require(to in RUN_STEPS[run.state], "a run goes its steps", run.state, to)
        self._move(run, to, event.stored.ts_ms)
        run.reason = event.payload["reason"]

    def _of_run(self, event: Event, run_id: str) -> None:
        require(run_id not in self.gone_runs, "a run lives in one session for ever", run_id)
        run = self.runs.get(run_id) or self._run(event, "in_progress", False)
        require(run.session == event.stream_id, "a run lives in one session", run_id)
        run.events.append(event)
        end = RUN_ENDS.get(event.kind)
        if end is not None and RUN_STEPS[run.state]:
            self._move(run, end, event.stored.recorded_ms)
        else:
            require(end in (None, run.state), "nothing leaves a final state", run.state, end)

    @staticmethod
    def _move(run: Run, to: str, at_ms: int) -> None:
        run.state = to
        if not RUN_STEPS[to]:
            run.ended_ms = at_ms

    def entries(self, run: Run) -> list[tuple[int, str]]:
        """The tape: seq and kind of each entry's first event; adjacent tokens are one."""
        entries: list[tuple[int, str]] = []
        for event in run.events:
            token = event.kind == "model_token"
            if not (token and entries and entries[-1][1] == "model_token"):
                entries.append((event.stored.seq, event.kind))
        return entries

    # -- approvals --------------------------------------------------------------------------------

    def _requested(self, event: Event) -> None:
        said = event.payload
        name = said["approval_id"]
        known = name in self.approvals or name in self.gone_approvals
        require(not known, "an approval is requested once", name)
        self.approvals[name] = Approval(
            event.stream_id,
            self.sessions[event.stream_id].owner,
            (said["subject_type"], said["subject_id"]),
            event.stored.ts_ms,
            said["expires_ms"],
            seq=event.stored.seq,
        )

    def _decided(self, event: Event) -> None:
        said, now_ms = event.payload, event.stored.ts_ms
        approval = self.approvals[said["approval_id"]]
        require(approval.decision is None, "an approval is decided once", said)
        over = approval.expires_ms is not None and approval.expires_ms <= now_ms
        if said["standing"] is not None:
            source = self.approvals[said["standing"]]
            require(
                source.answers(now_ms) and source.subject == approval.subject
                and source.session == approval.session,
                "only a standing decision answers by itself", said,
            )  # fmt: skip
        else:
            require((said["decision"] == "timeout") == over, "past its time it times out", said)
        approval.decision, approval.scope = said["decision"], said["scope"]
        approval.until_ms, approval.standing = said["until_ms"], said["standing"]
        approval.decided_ms, approval.decided_seq = now_ms, event.stored.seq

    def standing(self, session: str, subject: tuple[str, str], now_ms: int) -> bool:
        """Whether a decision stands for this subject."""
        return any(
            one.session == session and one.subject == subject and one.standing is None
            and one.answers(now_ms)
            for one in self.approvals.values()
        )  # fmt: skip

    # -- canvases ---------------------------------------------------------------------------------

    def _created(self, event: Event) -> None:
        name, order = event.stream_id, self.orders.get(event.event_id)
        require(name not in self.canvases, "a canvas is created once", name)
        require(order is not None, "a canvas is created by somebody", name)
        assert order is not None
        fork = event.payload.get("fork")
        if fork is None:
            state, session = order.body["state"], order.body["session_id"]
        else:
            source = self.canvases[fork["canvas_id"]]
            state, session = source.states[fork["version"]], source.session
        made = Canvas(
            event.stored.principal, session, event.stored.ts_ms, {1: state},
            order.body.get("expires_ms"),
        )  # fmt: skip
        self.canvases[name] = made
        require(event.payload["sha256"] == state_sha256(state), "the state's hash", name, 1)

    def _patched(self, event: Event) -> None:
        name, order = event.stream_id, self.orders.get(event.event_id)
        canvas, version = self.canvases[name], event.payload["version"]
        require(order is not None, "a canvas is patched by somebody", name)
        assert order is not None
        over = canvas.expires_ms is not None and canvas.expires_ms <= event.stored.ts_ms
        require(not (canvas.closed or over), "a closed canvas takes no patch", name)
        require(version == canvas.version + 1, "versions have no gap", name, version)
        require(order.body["expected_version"] == canvas.version, "the expected version", name)
        made = changed(canvas.state, order)
        require(made is not None, "a patch that fails is not written", name, order.body)
        canvas.version = version
        canvas.states[version] = made
        require(event.payload["sha256"] == state_sha256(made), "the state's hash", name, version)

    def _whole(self, event: Event) -> None:
        canvas = self.canvases[event.stream_id]
        require(event.payload["version"] == canvas.version, "a snapshot is of now", event.stream_id)
        require(event.payload["state"] == canvas.state, "a snapshot is the state", event.stream_id)
        if event.kind == "canvas.compacted":
            canvas.horizon = canvas.version

    def _closed(self, event: Event) -> None:
        canvas = self.canvases[event.stream_id]
        require(not canvas.closed, "a canvas is closed once", event.stream_id)
        canvas.closed = True

    def _canvas_erased(self, event: Event) -> None:
        canvas = self.canvases[event.stream_id]
        gone = self.sessions[canvas.session].status == "erased"
        require(gone and not canvas.erased, "a canvas goes with its session", event.stream_id)
        canvas.erased = canvas.closed = True


def state_sha256(state: Any) -> bytes:
    """As the protocol has it: over the canonical JSON."""
    return sha256(rfc8785.dumps(state)).digest()


def changed(state: Any, order: Order) -> Any:
    """The state after a patch or a replacement; None: it does not apply."""
    if order.op == "canvas.replace":
        return order.body["state"]
    made = {name: list(one) if isinstance(one, list) else one for name, one in state.items()}
    for one in copy.deepcopy(order.body["patch"]):
        name, *inner = one["path"][1:].split("/")
        if inner and not isinstance(made.get(name), list):
            return None
        match one["op"], inner:
            case "add", ["-"]:
                made[name].append(one["value"])
            case "add", []:
                made[name] = one["value"]
            case "replace", [] if name in made:
                made[name] = one["value"]
            case "remove", [] if name in made:
                del made[name]
            case "test", [] if name in made and made[name] == one["value"]:
                pass
            case _:
                return None
    return made
