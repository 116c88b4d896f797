"""Holds an engine to its promises: everything it says and writes goes through here.

The journal is read, with a connection of its own, after each turn that may have written; each new
event goes through the model. Each reply is held against what the model says at that moment.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import apsw

from palyra_actors.storage.connection import open_reader
from palyra_actors.storage.journal import stored_from_row
from palyra_actors.storage.queries import sql
from palyra_actors.testing.sim import rules, shows
from palyra_actors.testing.sim.events import Event, event_of, require
from palyra_actors.testing.sim.model import Model
from palyra_actors.testing.sim.peers import Asked, Order
from palyra_actors.testing.sim.world import World

PASSING: Final = frozenset({"overloaded", "unavailable"})
"""Refusals that say nothing about the request."""

CACHE_BYTES: Final = 1 << 20
_SAID_ELSEWHERE: Final = ("timing", "duplicate")


class Auditor:
    """Looks on. One world, one auditor; `Wrong` is raised wherever a promise does not hold.

    `excused`: a disk that was made to fail, or a stop, may be the reason for `unavailable` now.
    `durable`: events that somebody was told of; no crash may take them back.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.orders: dict[str, Order] = {}
        self.model = Model(self.orders)
        self.excused = False
        self.durable = 0
        self.replies: dict[str, int] = {"ok": 0, "refused": 0, "unknown": 0}
        self._reads: set[int] = set()  # events that were there when readers had their turns
        self._seen: dict[bytes, Event] = {}
        self._connection: apsw.Connection | None = None
        self._away = False
        self._wrong: BaseException | None = None
        world.heard = self.hear
        world.reading = self._reading
        world.looped = self._looped

    # -- the journal ------------------------------------------------------------------------------

    def look(self, *, surely: bool = True) -> None:
        """Take what is new in the journal; not `surely`: only if the engine knows of any."""
        self.complain()
        works = self.world.works
        if (
            works is None
            or self._away
            or (not surely and works.writer.head.seq == len(self.model.events))
        ):
            return
        if self._connection is None:
            self._connection = open_reader(
                works.file, cache_bytes=CACHE_BYTES, vfs=self.world.base_vfs
            )
        after = len(self.model.events)
        rows = self._connection.execute(sql("events_after"), (after, 1 << 62)).fetchall()
        touched: list[Order] = []
        for row in rows:
            stored = stored_from_row(row)
            event = self._seen.get(stored.hash) or event_of(stored)
            self._seen[stored.hash] = event
            touched += self._take(event)
        if rows:
            self.note_time()
        for order in touched:
            require(
                rules.known(self.model, order), "a request is written whole or not at all",
                order.op, order.body,
            )  # fmt: skip

    def note_time(self) -> None:
        """What holds now, before the clock is set or what is known changes."""
        memories = self.model.memories
        memories.latest_ms = max(memories.latest_ms, self.world.clock.wall_ms())
        self.note_codes(asked for peer in self.world.peers for asked in peer.asked.values())

    def note_codes(self, several: Iterable[Asked]) -> None:
        """For what those that are under way could be refused now: any moment between a request and
        its reply may be the one at which it was decided."""
        now_ms = self.world.clock.wall_ms()
        for asked in several:
            if asked.order.op in rules.WRITES and not asked.replies:
                codes = rules.refusals(self.model, asked.order, now_ms)
                asked.idle = asked.idle or rules.changes_nothing(self.model, asked.order)
                asked.codes |= {code.removeprefix(rules.PERHAPS) for code in codes}

    def _take(self, event: Event) -> list[Order]:
        """One more event; the order that it is of, if it is the first of that."""
        order, begins = self.orders.get(event.event_id), False
        if order is not None:
            require(
                order.may_be_stored, "what was refused never shows up later", order.op, order.body
            )
            begins = not order.placed
            if begins:
                order.placed = True
                now_ms = event.stored.ts_ms if order.op != "journal.append" else 0
                codes = rules.refusals(self.model, order, now_ms)
                against = {code for code in codes if not code.startswith(rules.PERHAPS)}
                require(not against, "what may not be is not written", against, order.op,
                        order.body)  # fmt: skip
            require(
                event.stored.principal == order.principal, "who wrote is who asked", event.event_id
            )
            if order.op == "journal.append":
                said = next(
                    one for one in order.body["events"] if one["event_id"] == event.event_id
                )
                told = (
                    event.stream_id, event.run_id, event.kind, event.stored.actor,
                    event.stored.ts_ms, event.payload,
                )  # fmt: skip
                require(
                    told == tuple(said[name] for name in rules.EVENT_FIELDS),
                    "an event is stored as it was sent", said, told,
                )  # fmt: skip
        self.model.fold(event)
        return [order] if begins and order is not None else []

    def forgotten(self) -> None:
        """At rest: of memories that are gone there is no text, and of the others there is."""
        assert self._connection is not None
        rows = self._connection.execute(sql("events_after"), (0, 1 << 62)).fetchall()
        memories = self.model.memories
        for stored in map(stored_from_row, rows):
            if stored.kind == "memory.ingested":
                gone = stored.seq in memories.gone
                require((stored.payload is None) == gone, "what is gone is destroyed", stored.seq)

    def left_by_crash(self) -> None:
        """The engine is up again: what does the journal hold now?"""
        self._connection, self._away = None, False
        works = self.world.running
        connection = open_reader(works.file, cache_bytes=CACHE_BYTES, vfs=self.world.base_vfs)
        self._connection = connection
        events, kept = self.model.events, 0
        for row in connection.execute(sql("events_after"), (0, 1 << 62)).fetchall():
            stored = stored_from_row(row)
            if kept == len(events) or events[kept].stored.hash != stored.hash:
                break
            kept += 1
        require(kept >= self.durable, "what was acknowledged survives", kept, self.durable)
        if kept < len(events):
            lost = {name for event in events[kept:] if (name := event.event_id) in self.orders}
            for name in lost:
                self.orders[name].placed = False
            latest_ms = self.model.memories.latest_ms
            self.model = Model(self.orders)
            self.model.memories.latest_ms = latest_ms
            for event in events[:kept]:
                self.model.fold(event)
        self.look()

    def closed(self) -> None:
        """The engine is about to leave the file, or has left it: nobody else may have it open."""
        self._away = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- replies ----------------------------------------------------------------------------------

    def hear(self, asked: Asked, reply: Mapping[str, Any]) -> None:
        """A reply, before its client has it. It comes from within the engine, who would take what
        is raised here for its own failure: `complain` raises it."""
        try:
            self._hear(asked, reply)
        except BaseException as error:  # noqa: BLE001 - not lost, but late
            self._wrong = self._wrong or error

    def _reading(self) -> None:
        self.look()
        self._reads.add(len(self.model.events))

    def _looped(self) -> None:
        self._reads.clear()
        self.look()

    @property
    def _read_now(self) -> bool:
        """Whether what readers answer in this round is what the model says now."""
        return self._reads == {len(self.model.events)}

    def complain(self) -> None:
        """Raises Wrong: a reply was."""
        if self._wrong is not None:
            raise self._wrong

    def _hear(self, asked: Asked, reply: Mapping[str, Any]) -> None:
        self.look(surely=False)
        if "item" in reply:
            self._item(asked, reply["item"])
            return
        require(not asked.replies, "one reply each", asked.order.op, asked.order.body)
        error = reply.get("err")
        if error is None:
            self.replies["ok"] += 1
        else:
            unknown = error.get("detail", {}).get("outcome") == "unknown"
            self.replies["unknown" if unknown else "refused"] += 1
        if error is not None:
            self._refused(asked, error)
        elif asked.order.op in rules.WRITES:
            self._stored(asked, reply["ok"])
        else:
            self._read(asked, reply["ok"])

    def _refused(self, asked: Asked, error: Mapping[str, Any]) -> None:
        order, code = asked.order, error["code"]
        require(code != "internal", "no request meets a fault of the engine's", order.op, error)
        if code == "unavailable":
            require(self.excused, "unavailable needs a reason", order.op, error)
        if order.op == "memory.get" and code in {"gone", "not_found"} and self._read_now:
            shows.no_memory(self.model, asked, code)
        looks_up = order.op in {"run.get", "run.tape", "approval.get"}
        if looks_up and code in {"gone", "not_found"} and self._read_now:
            shows.not_there(self.model, asked, code)
        if code in PASSING or order.op not in rules.WRITES or not asked.peer.open:
            return
        self.note_codes((asked,))
        require(
            code in asked.codes, "a refusal has its reason", order.op, order.body, error,
            asked.codes,
        )  # fmt: skip

    def _stored(self, asked: Asked, told: Mapping[str, Any]) -> None:
        order = asked.order
        if order.op == "journal.append":
            for result in told["results"]:
                event = self.model.by_id.get(result["event_id"])
                require(event is not None, "what is acknowledged is in the journal", result)
                assert event is not None
                require(
                    (event.stored.seq, event.stored.stream_seq, event.stored.hash)
                    == (result["seq"], result["session_seq"], result["hash"]),
                    "an answer says what is in the journal", result,
                )  # fmt: skip
                self.durable = max(self.durable, event.stored.seq)
        else:
            self._done(asked, told)
        self._same_as_first(order, told)

    def _done(self, asked: Asked, told: Mapping[str, Any]) -> None:
        order = asked.order
        for name in order.event_ids:
            event = self.model.by_id.get(name)
            if event is not None:
                require(self.orders.get(name) is order, "one id, one request", order.op, order.body)
                self.durable = max(self.durable, event.stored.seq)
                return
        self.note_codes((asked,))
        if not order.event_ids:
            return
        require(
            asked.idle or order.may_be_idle, "what is acknowledged is in the journal", order.op,
            order.body, told,
        )  # fmt: skip
        first = self.orders.get(order.event_ids[0])
        require(first is order, "one id, one request", order.op, order.body)
        order.idle = True

    def _same_as_first(self, order: Order, told: Mapping[str, Any]) -> None:
        """Idempotent for ever: the first answer, again."""
        body = {name: value for name, value in told.items() if name not in _SAID_ELSEWHERE}
        if order.op == "journal.append":
            body["results"] = [{**one, "duplicate": None} for one in told["results"]]
        elif not (order.idle or rules.known(self.model, order)):
            return
        if order.first is None:
            order.first = body
        elif (
            order.op == "canvas.create"
            and self.model.canvases[body["canvas"]["canvas_id"]].horizon > 1
        ):
            shows.compacted(order.first["canvas"], body["canvas"])
        else:
            require(
                order.first == body, "the same request gets the first answer", order.op, order.body,
                order.first, body,
            )  # fmt: skip

    # -- reading ----------------------------------------------------------------------------------

    def _read(self, asked: Asked, told: Mapping[str, Any]) -> None:
        self.look()
        order, model = asked.order, self.model
        match order.op:
            case "journal.head":
                self._is_head(told)
            case "journal.verify":
                require(told["valid"], "the chain verifies", told)
                self._is_head(told["head"])
            case "journal.read" | "journal.recent":
                self._is_page(asked, told)
            case "session.get" if self._read_now:
                shows.equal(told["session"], rules.shown_session(model, order.body["session_id"]))
            case "run.get" if self._read_now:
                shows.equal(told["run"], rules.shown_run(model, order.body["run_id"]))
            case "run.tape" if self._read_now:
                run = model.runs[order.body["run_id"]]
                entries = [(one["seq"], one["kind"]) for one in told["entries"]]
                require(entries == model.entries(run), "the tape is the run's events", entries)
            case "approval.get" if self._read_now:
                shows.equal(
                    told["approval"], rules.shown_approval(model, order.body["approval_id"])
                )
            case "canvas.get":
                self._is_canvas(order, told["canvas"])
            case "journal.credit":
                stream = asked.peer.asked.get(order.body["sub"])
                if stream is not None:
                    stream.credit += order.body["credit"]
            case "session.history":
                for view in told["events"]:
                    self._is_event(view)
                shows.history(model, asked, told, self._read_now)
            case "session.list":
                shows.sessions(model, asked, told, self._read_now)
            case "approval.export" if asked.peer.open:
                shows.export(model, asked, told, self._read_now)
            case "memory.get":
                shows.memory(model, asked, told, self._read_now)
            case "memory.list":
                shows.memories(model, asked, told, self._read_now)
            case "memory.search":
                shows.hits(model, asked, told, self._read_now)

    def _is_head(self, head: Mapping[str, Any]) -> None:
        seq, digest = head["seq"], head["hash"]
        require(seq <= len(self.model.events), "the head is in the journal", head)
        expected = self.model.events[seq - 1].stored.hash if seq else bytes(32)
        require(digest == expected, "the head is what the journal says", head)
        self.durable = max(self.durable, seq)

    def _is_page(self, asked: Asked, told: Mapping[str, Any]) -> None:
        body, events = asked.order.body, self.model.events
        for view in told["events"]:
            self._is_event(view)
        if asked.order.op == "journal.recent":
            return
        after, upto = body.get("after_seq", 0), told["next_after_seq"]
        expected = [
            event.stored.seq for event in events[after:upto] if self._shown(asked.order, event)
        ]
        require(
            [view["seq"] for view in told["events"]] == expected, "a page has all that is there",
            body, expected, [view["seq"] for view in told["events"]],
        )  # fmt: skip
        if told["end"]:
            require(upto >= asked.since, "a read that begins after an ack sees it", upto)

    def _shown(self, order: Order, event: Event) -> bool:
        """Whether an order that reads events is to get this one: who owns a session sees all of
        it, others what they wrote."""
        name = order.body.get("session_id")
        session = self.model.sessions.get(name or "")
        return event.within(name) and (
            order.admin
            or event.stored.principal == order.principal
            or (session is not None and session.owner == order.principal)
        )

    def _is_event(self, view: Mapping[str, Any]) -> None:
        seq = view["seq"]
        require(seq <= len(self.model.events), "what is shown is in the journal", seq)
        event = self.model.events[seq - 1]
        require(
            (event.event_id, event.stored.hash) == (view["event_id"], view["hash"]),
            "an event is shown as it is", view,
        )  # fmt: skip
        if view["payload"] is not None:
            require(view["payload"] == event.payload, "a payload is shown as it is", view)
        self.durable = max(self.durable, seq)

    def _is_canvas(self, order: Order, told: Mapping[str, Any]) -> None:
        canvas = self.model.canvases[order.body["canvas_id"]]
        version = told["version"]
        require(
            told["state"] == canvas.states[version], "a canvas's state is the model's",
            order.body, told,
        )  # fmt: skip
        if order.body.get("version") is None and self._read_now:
            shows.equal(told, rules.shown_canvas(self.model, order.body["canvas_id"]))

    def _is_run(self, told: Mapping[str, Any]) -> None:
        """A run that goes to a worker: it is his in the journal, before he hears of it."""
        self.look()
        run = self.model.cron.runs.get(told["run_id"])
        require(
            run is not None and told["fence"] <= run.fence,
            "a run is leased before it is handed out", told, run,
        )  # fmt: skip
        self.durable = len(self.model.events)

    def _item(self, asked: Asked, item: Mapping[str, Any]) -> None:
        """Subscriptions: in `seq` order, nothing left out, nothing twice."""
        if "run" in item:
            self._is_run(item["run"])
        if "event" in item or asked.order.op == "canvas.subscribe":
            asked.credit -= 1
        if asked.order.op == "canvas.subscribe":
            self.look()
            shows.watched(self.model, asked, item)
        if "event" not in item:
            return
        view, body = item["event"], asked.order.body
        if asked.order.about is None:
            asked.order.about = view["seq"] - 1  # from when it was served on
        self.look()
        self._is_event(view)
        last = asked.order.about
        skipped = [
            event.stored.seq
            for event in self.model.events[last : view["seq"] - 1]
            if self._shown(asked.order, event)
        ]
        require(
            self._shown(asked.order, self.model.events[view["seq"] - 1]),
            "a stream shows what was asked for", body, view,
        )  # fmt: skip
        require(view["seq"] > last and not skipped, "a stream has no gap", last, view["seq"],
                skipped)  # fmt: skip
        asked.order.about = view["seq"]
