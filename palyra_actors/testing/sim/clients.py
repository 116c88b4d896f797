"""What random clients ask for: few sessions, runs, approvals and canvases, so that they collide;
old requests again, and old ids with other words.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from palyra_actors.ids import ALPHABET
from palyra_actors.testing.sim.model import Model
from palyra_actors.testing.sim.peers import Order, Peer

PRINCIPALS: Final = (("local", "admin"), ("ana", "writer"), ("ana", "writer"), ("ben", "writer"))
KINDS: Final = (
    "message_received", "model_token", "model_token", "tool_proposed", "tool_executed", "x.note",
    "run_completed", "run_failed",
)  # fmt: skip
STATES: Final = ("in_progress", "in_progress", "done", "failed", "cancelled", "accepted", "pending")
KEYS: Final = ("alpha", "beta", "gamma")
NAMES: Final = ("title", "items", "count", "note")
WORDS: Final = ("maple", "cedar", "birch", "alder")
CHANNELS: Final = ("ci", "ops")
SOURCES: Final = ("manual", "summary", "import")
_POOLS: Final = {"session": 5, "run": 8, "approval": 6, "canvas": 4, "cron": 3, "memory": 6}
_FIRST: Final = {
    "run": "run.start", "approval": "approval.request", "canvas": "canvas.create",
    "cron": "cron.create", "memory": "memory.ingest",
}  # fmt: skip
"""What is asked for, mostly, where there is nothing of the family yet."""
STRANGERS_SHARE: Final = 0.12
"""How often what is named may be anybody's."""

Body = dict[str, Any]


class Author:
    """Writes orders. `model` is asked for what there is; `wall_ms` for the time."""

    def __init__(
        self, chance: random.Random, model: Callable[[], Model], wall_ms: Callable[[], int]
    ) -> None:
        self._chance = chance
        self._model = model
        self._wall_ms = wall_ms
        self._pools = {
            family: [self.new_id() for _ in range(size)] for family, size in _POOLS.items()
        }
        self._writes: Mapping[str, tuple[Callable[[Peer], Body], float]] = {
            "journal.append": (self._append, 30),
            "session.resolve": (self._resolve, 8),
            "session.update": (self._update, 4),
            "session.archive": (self._session_body, 2),
            "session.branch": (self._branch, 4),
            "session.erase": (self._session_body, 2),
            "run.start": (self._start, 6),
            "run.transition": (self._move, 8),
            "run.cancel": (self._cancel, 2),
            "approval.request": (self._request, 7),
            "approval.decide": (self._decide, 7),
            "canvas.create": (self._create, 5),
            "canvas.patch": (self._patch, 14),
            "canvas.replace": (self._replace, 4),
            "canvas.fork": (self._fork, 3),
            "canvas.close": (self._close, 1),
            "canvas.compact": (self._compact, 2),
            "cron.create": (self._create_job, 3),
            "cron.disable": (self._job, 1),
            "cron.enable": (self._job, 1),
            "cron.delete": (self._job, 0.5),
            "cron.run_now": (self._job, 2),
            "memory.ingest": (self._ingest, 12),
            "memory.update": (self._renew, 4),
            "memory.delete": (self._forget, 2),
            "memory.purge": (self._purge, 1.5),
        }
        self._reads: Mapping[str, tuple[Callable[[Peer], Body], float]] = {
            "journal.head": (lambda peer: {}, 2),
            "journal.read": (self._read, 5),
            "journal.recent": (lambda peer: {"limit": 20}, 2),
            "journal.verify": (lambda peer: {}, 1),
            "session.get": (self._session_body, 3),
            "run.get": (lambda peer: {"run_id": self._pick(peer, "run")}, 3),
            "run.tape": (lambda peer: {"run_id": self._pick(peer, "run")}, 2),
            "approval.get": (lambda peer: {"approval_id": self._pick(peer, "approval")}, 2),
            "canvas.get": (lambda peer: {"canvas_id": self._pick(peer, "canvas")}, 3),
            "session.list": (self._sessions, 3),
            "session.history": (self._history, 3),
            "approval.export": (self._export, 1),
            "memory.get": (lambda peer: {"memory_id": self._memory(peer)}, 2),
            "memory.list": (self._memories, 3),
            "memory.search": (self._search, 3),
            "memory.maintain": (lambda peer: {}, 0.7),
            "memory.backfill": (lambda peer: {}, 0.3),
        }

    def new_id(self) -> str:
        """A ULID that nobody used."""
        return "01" + "".join(self._chance.choices(ALPHABET, k=24))

    def write(self, peer: Peer) -> Order:
        """A new request that changes something, or would."""
        op, body = self._one_of(self._writes, peer)
        return Order(op, body, peer.principal, peer.role == "admin")

    def read(self, peer: Peer) -> Order:
        """A question."""
        op, body = self._one_of(self._reads, peer)
        return Order(op, body, peer.principal, peer.role == "admin")

    def subscription(self, peer: Peer) -> Order:
        """From somewhere on, now and then of one session."""
        body: Body = {"credit": self._chance.randint(1, 60)}
        if self._chance.random() < 0.7:
            body["after_seq"] = self._chance.randint(0, len(self._model().events))
        if self._chance.random() < 0.3:
            body["session_id"] = self._pick(peer, "session")
        return Order("journal.subscribe", body, peer.principal, peer.role == "admin")

    def watch(self, peer: Peer) -> Order:
        """Look on as a canvas changes, now and then from some version on."""
        name = self._pick(peer, "canvas")
        body: Body = {"canvas_id": name, "credit": self._chance.randint(1, 20)}
        if self._chance.random() < 0.5:
            body["after_version"] = self._version(name)
        return Order("canvas.subscribe", body, peer.principal, peer.role == "admin")

    def forged(self, order: Order) -> Order:
        """The ids of an order that was acknowledged, and other words."""
        if order.op == "journal.append":
            events = [{**one, "payload": {"forged": True}} for one in order.body["events"]]
            body: Body = {**order.body, "events": events}
            return Order(order.op, body, order.principal, order.admin)
        body = {"event_id": order.body["event_id"], "session_key": "forged"}
        return Order("session.resolve", body, order.principal, order.admin)

    # -- own --------------------------------------------------------------------------------------

    def _one_of(
        self, makers: Mapping[str, tuple[Callable[[Peer], Body], float]], peer: Peer
    ) -> tuple[str, Body]:
        weights = [weight for _, weight in makers.values()]
        (op,) = self._chance.choices(list(makers), weights)
        first = _FIRST.get(op.split(".")[0], op)
        if first in makers and not self._known(op.split(".")[0]) and self._chance.random() < 0.8:
            op = first
        return op, makers[op][0](peer)

    def _known(self, family: str) -> Mapping[str, Any]:
        model = self._model()
        families: dict[str, Mapping[str, Any]] = {
            "session": model.sessions, "run": model.runs, "approval": model.approvals,
            "canvas": model.canvases, "cron": model.cron.jobs, "journal": model.by_id,
            "memory": {name: one for (_, name), one in model.memories.items.items()},
        }  # fmt: skip
        return families[family]

    def _pick(self, peer: Peer, family: str, new: float = 0.1) -> str:
        """One that is there, mostly of the peer's own; or, with the share `new`, one that is
        not."""
        chance, known, pool = self._chance, self._known(family), self._pools[family]
        if known and chance.random() >= new:
            own = [name for name, it in known.items() if it.owner == peer.principal]
            return chance.choice(own if own and chance.random() > STRANGERS_SHARE else list(known))
        name = chance.choice(pool)
        if name in known and chance.random() < 0.7:
            place = pool.index(name)
            name = pool[place] = self.new_id()
        return name

    def _run_of(self, peer: Peer, session: str) -> str:
        """Mostly one of the session's."""
        known = self._model().sessions.get(session)
        if known is not None and known.runs and self._chance.random() < 0.6:
            return self._chance.choice(known.runs)
        return self._pick(peer, "run", 0.8)

    def _maybe(self, share: float, value: Callable[[], Any]) -> Any:
        return value() if self._chance.random() < share else None

    def _named(self, body: Body, share: float = 0.8) -> Body:
        """With an id, mostly, and without what is None."""
        if self._chance.random() < share:
            body["event_id"] = self.new_id()
        return {name: value for name, value in body.items() if value is not None}

    def _soon_ms(self) -> int:
        return self._wall_ms() + self._chance.choice((-5, 50, 2_000, 60_000))

    # -- bodies -----------------------------------------------------------------------------------

    def _append(self, peer: Peer) -> Body:
        chance, sessions = self._chance, [self._pick(peer, "session", 0.25)]
        if chance.random() < 0.15:
            sessions.append(self._pick(peer, "session"))
        events = []
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            kind = chance.choice(KINDS)
            session = chance.choice(sessions)
            run_id = self._maybe(0.6, lambda: self._run_of(peer, session))  # noqa: B023
            payload: Body = (
                {"token": "x"} if kind == "model_token" else {"n": chance.randrange(1000)}
            )
            if chance.random() < 0.05:
                payload["long"] = "words " * chance.randrange(2_000)
            events.append(
                {
                    "event_id": self.new_id(), "session_id": session,
                    "run_id": run_id, "kind": kind, "actor": chance.choice(("user", "agent")),
                    "ts_ms": self._wall_ms(), "payload": payload,
                }
            )  # fmt: skip
        body: Body = {"events": events}
        if len({event["session_id"] for event in events}) == 1 and chance.random() < 0.2:
            known = self._model().sessions.get(events[0]["session_id"])
            present = 0 if known is None else known.last_seq
            body["expected_session_seq"] = max(0, present + chance.choice((0, 0, 0, 1, -1)))
        return body

    def _resolve(self, peer: Peer) -> Body:
        chance = self._chance
        return self._named(
            {
                "session_id": self._maybe(0.4, lambda: self._pick(peer, "session")),
                "session_key": self._maybe(0.7, lambda: chance.choice(KEYS)),
                "title": self._maybe(0.5, lambda: chance.choice(("one", "two words"))),
                "create": self._maybe(0.2, lambda: False),
            }
        )

    def _session_body(self, peer: Peer) -> Body:
        return {"session_id": self._pick(peer, "session")}

    def _update(self, peer: Peer) -> Body:
        body = {"session_id": self._pick(peer, "session"), "title": f"t{self._chance.randrange(9)}"}
        return self._named(body)

    def _branch(self, peer: Peer) -> Body:
        parent = self._pick(peer, "session")
        known = self._model().sessions.get(parent)
        last = 1 if known is None else known.last_seq
        return self._named(
            {
                "session_id": parent,
                "new_session_id": self._pick(peer, "session") if self._chance.random() < 0.3
                else self.new_id(),
                "at_session_seq": self._maybe(0.6, lambda: self._chance.randint(0, last + 1)),
                "session_key": self._maybe(0.2, lambda: self._chance.choice(KEYS)),
            }
        )  # fmt: skip

    def _start(self, peer: Peer) -> Body:
        return self._named(
            {
                "run_id": self._pick(peer, "run", 0.7),
                "session_id": self._pick(peer, "session"),
                "parent_run_id": self._maybe(0.2, lambda: self._pick(peer, "run")),
            }
        )

    def _move(self, peer: Peer) -> Body:
        to = self._chance.choice(STATES)
        reason = self._maybe(0.3, lambda: "because")
        return self._named({"run_id": self._pick(peer, "run"), "to": to, "reason": reason})

    def _cancel(self, peer: Peer) -> Body:
        return self._named({"run_id": self._pick(peer, "run")})

    def _request(self, peer: Peer) -> Body:
        chance = self._chance
        return self._named(
            {
                "approval_id": self._pick(peer, "approval", 0.7),
                "session_id": self._pick(peer, "session"),
                "run_id": self._maybe(0.3, lambda: self._pick(peer, "run")),
                "subject_type": "tool",
                "subject_id": chance.choice(("read", "write")),
                "summary": "may it?",
                "expires_ms": self._maybe(0.4, self._soon_ms),
            }
        )

    def _decide(self, peer: Peer) -> Body:
        scope = self._chance.choice(("once", "session", "timeboxed"))
        return self._named(
            {
                "approval_id": self._pick(peer, "approval"),
                "decision": self._chance.choice(("allow", "deny")),
                "scope": scope,
                "scope_ttl_ms": self._chance.choice((20, 5_000)) if scope == "timeboxed" else None,
            }
        )

    def _create(self, peer: Peer) -> Body:
        return self._named(
            {
                "canvas_id": self._pick(peer, "canvas", 0.7),
                "session_id": self._pick(peer, "session"),
                "state": self._state(),
                "expires_ms": self._maybe(0.15, self._soon_ms),
            },
            1.0,
        )

    def _state(self) -> Body:
        chance = self._chance
        state: Body = {"title": f"t{chance.randrange(100)}", "items": [1, 2], "count": 0}
        if chance.random() < 0.1:
            state["note"] = "long " * chance.randrange(1_000)
        return state

    def _version(self, name: str) -> int:
        canvas = self._model().canvases.get(name)
        version = 1 if canvas is None else canvas.version
        return max(1, version + self._chance.choice((0, 0, 0, 0, 0, 1, -1)))

    def _patch(self, peer: Peer) -> Body:
        chance, name = self._chance, self._pick(peer, "canvas")
        patch: list[Body] = []
        for _ in range(chance.choice((1, 1, 2, 4))):
            field = chance.choice(NAMES)
            op = chance.choice(("add", "add", "replace", "remove", "test"))
            if op == "add" and field == "items" and chance.random() < 0.8:
                patch.append({"op": "add", "path": "/items/-", "value": chance.randrange(10)})
            elif op == "remove":
                patch.append({"op": "remove", "path": f"/{field}"})
            else:
                value: Any = [3] if field == "items" else chance.randrange(10)
                patch.append({"op": op, "path": f"/{field}", "value": value})
        body = {"canvas_id": name, "expected_version": self._version(name), "patch": patch}
        return self._named(body, 1.0)

    def _replace(self, peer: Peer) -> Body:
        name = self._pick(peer, "canvas")
        body = {"canvas_id": name, "expected_version": self._version(name), "state": self._state()}
        return self._named(body, 1.0)

    def _fork(self, peer: Peer) -> Body:
        name = self._pick(peer, "canvas")
        return self._named(
            {
                "canvas_id": name,
                "new_canvas_id": self.new_id(),
                "at_version": self._maybe(0.4, lambda: self._version(name)),
            },
            1.0,
        )

    def _close(self, peer: Peer) -> Body:
        return self._named({"canvas_id": self._pick(peer, "canvas")})

    def _compact(self, peer: Peer) -> Body:
        return self._named({"canvas_id": self._pick(peer, "canvas")})

    def _create_job(self, peer: Peer) -> Body:
        chance = self._chance
        return self._named(
            {
                "job_id": self._pick(peer, "cron", 0.8),
                "name": "job",
                "schedule": {"every_ms": chance.choice((700, 5_000, 60_000))},
                "concurrency_policy": chance.choice(("forbid", "replace", "queue_one")),
                "misfire_policy": chance.choice(("skip", "catch_up")),
                "misfire_grace_ms": chance.choice((0, 1_000, 60_000)),
                "lease_ms": chance.choice((50, 2_000, 60_000)),
                "retry": {"max_attempts": chance.choice((1, 3)), "backoff_ms": 100},
            },
            1.0,
        )

    def _job(self, peer: Peer) -> Body:
        return self._named({"job_id": self._pick(peer, "cron")})

    def workers(self, peer: Peer) -> Order:
        """Wait for runs of jobs."""
        body = {"credit": self._chance.randint(1, 5)}
        return Order("cron.work", body, peer.principal, peer.role == "admin")

    def about_run(self, peer: Peer, run_id: str, fence: int) -> Order:
        """What a worker says of the run that it has, or had."""
        body: Body = {"run_id": run_id, "fence": fence - (self._chance.random() < 0.1)}
        op = "cron.heartbeat"
        if self._chance.random() < 0.7:
            op, body["status"] = "cron.finish", self._chance.choice(("succeeded", "failed"))
        return Order(op, self._named(body), peer.principal, peer.role == "admin")

    def _read(self, peer: Peer) -> Body:
        body: Body = {"after_seq": self._chance.randint(0, len(self._model().events))}
        if self._chance.random() < 0.4:
            body["session_id"] = self._pick(peer, "session")
        return body

    def _sessions(self, peer: Peer) -> Body:
        chance = self._chance
        asked = {
            "status": self._maybe(0.2, lambda: chance.choice(("open", "archived"))),
            "query": self._maybe(0.3, lambda: chance.choice(("one", "two wor", "t", "t3"))),
            "limit": self._maybe(0.3, lambda: chance.randint(1, 3)),
            "after": self._maybe(0.2, lambda: self._pick(peer, "session", 0.0)),
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _history(self, peer: Peer) -> Body:
        body: Body = {"session_id": self._pick(peer, "session")}
        if self._chance.random() < 0.4:
            body |= {"after": self._chance.randint(0, 9), "limit": self._chance.randint(1, 9)}
        return body

    def _export(self, peer: Peer) -> Body:
        decided = self._maybe(0.3, lambda: self._chance.choice(("allow", "timeout", "pending")))
        body: Body = {"format": self._chance.choice(("ndjson", "json"))}
        return body if decided is None else {**body, "decision": decided}

    # -- memories ---------------------------------------------------------------------------------

    def _memory(self, peer: Peer) -> str:
        """One that is there, mostly of the peer's own, or was, or never was."""
        chance, known = self._chance, self._model().memories.items
        if not known or chance.random() < 0.15:
            return chance.choice(self._pools["memory"])
        own = [name for owner, name in known if owner == peer.principal]
        every = [name for _, name in known]
        return chance.choice(own if own and chance.random() > STRANGERS_SHARE else every)

    def _text(self) -> str:
        """One of few, so that equal ones come; now and then a long one."""
        text = " ".join(self._chance.choices(WORDS, k=self._chance.choice((1, 1, 2))))
        return (
            text + " pine" * self._chance.randrange(800) if self._chance.random() < 0.05 else text
        )

    def _place(self, peer: Peer) -> Body:
        return {
            "channel": self._maybe(0.4, lambda: self._chance.choice(CHANNELS)),
            "session_id": self._maybe(0.3, lambda: self._pick(peer, "session")),
        }

    def _ingest(self, peer: Peer) -> Body:
        chance = self._chance
        return self._named(
            {
                "memory_id": self._maybe(0.6, lambda: chance.choice(self._pools["memory"])),
                "source": chance.choice(SOURCES),
                "content": self._text(),
                **self._place(peer),
                "tags": self._maybe(0.3, lambda: [chance.choice(WORDS)]),
                "confidence": self._maybe(0.2, lambda: 0.5),
                "expires_ms": self._maybe(0.25, self._soon_ms),
                "from_event_id": self._maybe(0.15, self._event_of_somebody),
            }
        )

    def _event_of_somebody(self) -> str | None:
        events = self._model().events
        return self._chance.choice(events).event_id if events else None

    def _renew(self, peer: Peer) -> Body:
        return self._named({"memory_id": self._memory(peer), "content": self._text()})

    def _forget(self, peer: Peer) -> Body:
        return self._named({"memory_id": self._memory(peer)})

    def _purge(self, peer: Peer) -> Body:
        match self._chance.choice(("session_id", "channel", "channel", "all")):
            case "session_id":
                body: Body = {"session_id": self._pick(peer, "session")}
            case "channel":
                body = {"channel": self._chance.choice(CHANNELS)}
            case _:
                body = {"all": True}
        return self._named(body)

    def _memories(self, peer: Peer) -> Body:
        asked = {
            "limit": self._maybe(0.3, lambda: self._chance.randint(1, 3)),
            "channel": self._maybe(0.2, lambda: self._chance.choice(CHANNELS)),
            "tags": self._maybe(0.1, lambda: [self._chance.choice(WORDS)]),
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _search(self, peer: Peer) -> Body:
        mode = self._chance.choice(("lexical", "lexical", "hybrid", "vector"))
        return {"query": self._chance.choice(WORDS), "mode": mode, "top_k": 64}
