"""Every operation with somebody's object: the rows of the matrix of who may do what.

A row says how an operation's body names an object and which role it takes. `Things` makes the
objects of one owner, or names that nobody has. Whoever adds an operation adds a row here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from palyra_actors.api.events import new_id
from palyra_actors.keys import Role
from tests.system.harness import Wire, event

Body = dict[str, Any]


class Things:
    """The objects of one owner, made as they are named. With no owner: ids that nobody has."""

    def __init__(self, admin: Wire, owner: str | None) -> None:
        self._admin = admin
        self.owner = owner
        self.ids: list[str] = []

    def _made(self, op: str, body: Body) -> None:
        if self.owner is not None:
            self._admin.ok(op, body, principal=self.owner)

    def _id(self) -> str:
        self.ids.append(new_id())
        return self.ids[-1]

    def session(self, **more: Any) -> str:
        session = self._id()
        self._made("session.resolve", {"session_id": session, **more})
        return session

    def touch(self) -> None:
        """One more event in the first session."""
        self._made("journal.append", {"events": [event(self.ids[0])]})

    def run(self) -> str:
        session, run = self.session(), self._id()
        self._made("run.start", {"run_id": run, "session_id": session})
        return run

    def run_by_event(self) -> str:
        session, run = self.session(), self._id()
        self._made("journal.append", {"events": [event(session, run_id=run)]})
        return run

    def approval(self) -> str:
        session, approval = self.session(), self._id()
        self._made("approval.request", approval_body(session, approval))
        return approval

    def canvas(self) -> str:
        session, canvas = self.session(), self._id()
        self._made("canvas.create", {"canvas_id": canvas, "session_id": session, "state": {}})
        return canvas

    def job(self) -> str:
        job = self._id()
        self._made("cron.create", {"job_id": job, **JOB})
        return job

    def job_run(self) -> str:
        job = self.job()
        if self.owner is None:
            return self._id()
        run = self._admin.ok("cron.run_now", {"job_id": job}, principal=self.owner)["run"]
        self.ids.append(run["run_id"])
        return str(run["run_id"])

    def memory(self) -> str:
        memory = self._id()
        self._made("memory.ingest", {"memory_id": memory, **memory_body()})
        return memory

    def channel(self) -> str:
        """One with a memory in it."""
        channel = f"channel-{new_id().lower()}"
        self._made("memory.ingest", {"channel": channel, **memory_body()})
        return channel


JOB: Final = {"name": "a job", "schedule": {"every_ms": 86_400_000}}


def approval_body(session: str, approval: str) -> Body:
    return {
        "approval_id": approval,
        "session_id": session,
        "subject_type": "tool",
        "subject_id": "shell",
        "summary": "run ls",
    }


def memory_body() -> Body:
    return {"source": "manual", "content": f"the cat is called {new_id()}"}


@dataclass(frozen=True)
class Named:
    """An operation on one object.

    Attributes:
        body: names the object.
        role: the least that may ask for it.
        missing: what is said of an object that is not there; `ok` where it comes into being.
        own: what is said of one's own, where that is no `ok`.
        others: what an admin hears about another's, where it is not `own`.
    """

    body: Callable[[Things], Body]
    role: Role = "reader"
    missing: str = "not_found"
    own: str = "ok"
    others: str | None = None


@dataclass(frozen=True)
class Listed:
    """An operation that shows what one may see: own things always, another's to an admin only.

    `make`: what has to be there to be shown.
    """

    make: Callable[[Things], Any]
    body: Body
    role: Role = "reader"


@dataclass(frozen=True)
class Shared:
    """An operation on what belongs to nobody; `answer` is the same for everybody."""

    body: Body
    role: Role = "reader"
    answer: str = "ok"


@dataclass(frozen=True)
class Followed:
    """A stream about an object that may come into being later: of another's as of a missing one
    only heads are heard."""

    body: Callable[[Things], Body]
    role: Role = "reader"


@dataclass(frozen=True)
class Swept:
    """An operation that takes away what one has there, and says how much that was: of another's,
    as of what is not there, nothing. `count`: the answer's field."""

    body: Callable[[Things], Body]
    count: str
    role: Role = "writer"


Row = Named | Listed | Shared | Followed | Swept


def _of(field: str, make: Callable[[Things], str], **more: Any) -> Callable[[Things], Body]:
    return lambda things: {field: make(things), **more}


def _session(**more: Any) -> Callable[[Things], Body]:
    return _of("session_id", Things.session, **more)


def _canvas(**more: Any) -> Callable[[Things], Body]:
    return _of("canvas_id", Things.canvas, **more)


_APPEND: Final = Named(lambda things: {"events": [event(things.session())]}, "writer", missing="ok")

ROWS: Final[Mapping[str, list[Row]]] = {
    "engine.hello": [Shared({})],
    "engine.health": [Shared({})],
    "engine.stats": [Shared({})],
    "journal.append": [
        _APPEND,
        Named(
            lambda things: {"events": [event(new_id(), run_id=things.run_by_event())]},
            "writer",
            missing="ok",
            own="invalid",  # it belongs to another session
            others="not_found",
        ),
    ],
    "journal.read": [
        Named(_session()),
        Named(_of("run_id", Things.run_by_event)),
        Listed(Things.session, {"limit": 1000}),
    ],
    "journal.recent": [Listed(Things.session, {})],
    "journal.head": [Shared({})],
    "journal.verify": [Shared({})],
    "journal.subscribe": [
        Followed(_session(credit=10, after_seq=0)),
        Listed(Things.session, {"credit": 10_000, "after_seq": 0}),
    ],
    "journal.credit": [Shared({"sub": 77, "credit": 1}, answer="not_found")],
    "journal.unsubscribe": [Shared({"sub": 77}, answer="not_found")],
    "session.resolve": [
        Named(_session(), "writer", missing="ok"),
        Named(_session(create=False), "writer"),
        Named(
            lambda things: {"session_key": _key(things), "create": False},
            "writer",
            others="not_found",  # a key is a name among its owner's sessions
        ),
    ],
    "session.get": [Named(_session())],
    "session.list": [
        Listed(Things.session, {"limit": 500}),
        Listed(lambda things: things.session(title="a walrus"), {"query": "walrus"}),
        Named(_of("after", Things.session)),
    ],
    "session.update": [Named(_session(title="new"), "writer")],
    "session.archive": [Named(_session(), "writer")],
    "session.branch": [
        Named(lambda things: {"session_id": things.session(title="x")}, "writer"),
        Named(
            lambda things: {"session_id": things.session(), "new_session_id": new_id()}, "writer"
        ),
    ],
    "session.history": [Named(_session())],
    "session.erase": [Named(_session(), "writer")],
    "run.start": [
        Named(lambda things: {"run_id": new_id(), "session_id": things.session()}, "writer", "ok"),
    ],
    "run.transition": [Named(_of("run_id", Things.run, to="in_progress"), "writer")],
    "run.cancel": [Named(_of("run_id", Things.run), "writer")],
    "run.get": [Named(_of("run_id", Things.run))],
    "run.list": [
        Listed(Things.run, {"limit": 500}),
        Named(_session()),
        Named(_of("after", Things.run)),
    ],
    "run.tape": [Named(_of("run_id", Things.run))],
    "approval.request": [
        Named(lambda things: approval_body(things.session(), new_id()), "writer", "ok")
    ],
    "approval.decide": [Named(_of("approval_id", Things.approval, decision="allow"), "writer")],
    "approval.get": [Named(_of("approval_id", Things.approval))],
    "approval.list": [
        Listed(Things.approval, {"limit": 500}),
        Named(_of("after", Things.approval)),
    ],
    "approval.export": [Listed(Things.approval, {})],
    "canvas.create": [
        Named(
            lambda things: {"canvas_id": new_id(), "session_id": things.session(), "state": {}},
            "writer",
            missing="ok",
        )
    ],
    "canvas.patch": [
        Named(
            _canvas(expected_version=1, patch=[{"op": "add", "path": "/a", "value": 1}]), "writer"
        )
    ],
    "canvas.replace": [Named(_canvas(expected_version=1, state={"a": 1}), "writer")],
    "canvas.get": [Named(_canvas()), Named(_canvas(version=1))],
    "canvas.history": [Named(_canvas())],
    "canvas.subscribe": [Named(_canvas(credit=1))],
    "canvas.fork": [
        Named(lambda things: {"canvas_id": things.canvas(), "new_canvas_id": new_id()}, "writer")
    ],
    "canvas.close": [Named(_canvas(), "writer")],
    "canvas.compact": [Named(_canvas(), "writer")],
    "cron.create": [Shared({**JOB}, "writer")],
    "cron.update": [Named(_of("job_id", Things.job, name="new"), "writer")],
    "cron.delete": [Named(_of("job_id", Things.job), "writer")],
    "cron.enable": [Named(_of("job_id", Things.job), "writer")],
    "cron.disable": [Named(_of("job_id", Things.job), "writer")],
    "cron.get": [Named(_of("job_id", Things.job))],
    "cron.list": [Listed(Things.job, {"limit": 500}), Named(_of("after", Things.job))],
    "cron.run_now": [Named(_of("job_id", Things.job), "writer")],
    "cron.runs": [Named(_of("job_id", Things.job))],
    "cron.explain": [Named(_of("job_id", Things.job)), Shared({"schedule": {"every_ms": 5_000}})],
    "cron.work": [Listed(Things.job_run, {"credit": 1000}, "writer")],
    "cron.heartbeat": [
        Named(_of("run_id", Things.job_run, fence=999_999), "writer", own="conflict")
    ],
    "cron.finish": [
        Named(
            _of("run_id", Things.job_run, fence=999_999, status="succeeded"),
            "writer",
            own="conflict",
        )
    ],
    "memory.ingest": [
        Named(lambda things: {"session_id": things.session(), **memory_body()}, "writer", "ok")
    ],
    "memory.get": [Named(_of("memory_id", Things.memory))],
    "memory.list": [Listed(Things.memory, {"limit": 500})],
    "memory.update": [Named(_of("memory_id", Things.memory, content="a dog"), "writer")],
    "memory.delete": [Named(_of("memory_id", Things.memory), "writer")],
    "memory.purge": [Swept(_of("channel", Things.channel), "deleted")],
    "memory.search": [Listed(Things.memory, {"query": "the cat", "mode": "lexical", "top_k": 64})],
    "memory.stats": [Shared({})],
    "memory.maintain": [Shared({}, "writer")],
    "memory.backfill": [Shared({}, "writer")],
}
"""By operation. Those of a family that this engine does not have are not looked at."""


def _key(things: Things) -> str:
    key = f"key-{new_id()}"
    things.session(session_key=key)
    return key
