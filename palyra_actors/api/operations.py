"""Every operation of the engine as a typed method; the same for a client and an embedded engine.

Whoever has a way to an engine subclasses `Operations` and gives it a `Connection`:

    class Engine(Operations):
        def __init__(self):
            super().__init__("palyra.db")
            self._calls.attach(connection, up=True)     # frames out
            ...                                         # frames in: self._calls.deliver(frame)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from palyra_actors.api.batch import (
    BYTES_DEFAULT,
    EVENTS_DEFAULT,
    IN_FLIGHT_DEFAULT,
    Batch,
    BatchSummary,
)
from palyra_actors.api.calls import Calls
from palyra_actors.api.canvases import Canvases
from palyra_actors.api.cron import Cron
from palyra_actors.api.events import Event, event_to_wire, new_id
from palyra_actors.api.memories import Memories
from palyra_actors.api.results import (
    AppendResult,
    Head,
    Health,
    Hello,
    Page,
    Stats,
    StoredEvent,
    Verification,
    read,
)
from palyra_actors.api.sessions import Approvals, Runs, Sessions
from palyra_actors.api.subscription import CREDIT_DEFAULT, SILENCE_S, Subscription
from palyra_actors.errors import NoReply
from palyra_actors.limits import READ_LIMIT_MAX
from palyra_actors.wire import frames

TIMEOUT_S_DEFAULT: Final = 30.0

# what may be sent twice without an id: it reads, or does the same work again to no effect.
# everything else is a write, and gets an `event_id` of its own if it brings none
REPEATABLE_OPS: Final = frozenset(
    {
        "engine.hello",
        "engine.health",
        "engine.stats",
        "journal.append",
        "journal.read",
        "journal.recent",
        "journal.head",
        "journal.verify",
        "journal.credit",
        "journal.unsubscribe",
        "session.get",
        "session.list",
        "session.history",
        "run.get",
        "run.list",
        "run.tape",
        "approval.get",
        "approval.list",
        "approval.export",
        "canvas.get",
        "canvas.history",
        "cron.get",
        "cron.list",
        "cron.runs",
        "cron.explain",
        "memory.get",
        "memory.list",
        "memory.search",
        "memory.stats",
        "memory.maintain",
        "memory.backfill",
    }
)


def _is_repeatable(op: str, body: Mapping[str, Any]) -> bool:
    """Whether it may be sent twice without an id. A session that is found by key or id is found
    again, and the answer under an id is kept for ever: one more for each look at a session."""
    named = body.get("session_id") is not None or body.get("session_key") is not None
    return op in REPEATABLE_OPS or (op == "session.resolve" and named)


class Operations:
    """The engine's operations. Any thread; a context manager that closes at its end.

    Every method waits for its answer at most `timeout_s` seconds (default: what the client was
    opened with), within which an `overloaded` or `unavailable` engine is asked again. It raises
    `Refused` (change the request), `Unavailable` (send it again, with the same ids) or `Broken`.
    `principal`: act for another one; for admins.
    """

    def __init__(
        self,
        where: str,
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        silence_s: float | None = None,
        retry: bool = True,
    ) -> None:
        self._calls = Calls(where, silence_s=silence_s, retry=retry)
        self._timeout_s = timeout_s
        self.sessions = Sessions(self)
        self.runs = Runs(self)
        self.approvals = Approvals(self)
        self.canvases = Canvases(self)
        self.memories = Memories(self)
        self.cron = Cron(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers and fails whoever still waits. Idempotent."""
        self.cron.close()
        self._calls.close()

    def call(
        self,
        op: str,
        body: Mapping[str, Any] | None = None,
        *,
        budget_ms: int | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
        principal: str | None = None,
        event_id: object | None = None,
    ) -> dict[str, Any]:
        """Any operation by its name: the `ok` map as it came. A write without an `event_id` gets
        one, so that sending it again is safe; `session.resolve` of a key or an id is without.
        `event_id`: one's own, kept for a write that another process may have to send again."""
        body = dict(body or {})
        if event_id is not None:
            body["event_id"] = str(event_id)
        if not _is_repeatable(op, body) and body.get("event_id") is None:
            body["event_id"] = new_id()
        return self._ask(
            op,
            frames.pack(body, "body"),
            budget_ms=budget_ms,
            timeout_s=timeout_s,
            traceparent=traceparent,
            principal=principal,
        )

    # -- engine -----------------------------------------------------------------------------

    def hello(self, *, timeout_s: float | None = None) -> Hello:
        """Who answers there, and its limits."""
        hello: Hello = self._read("hello", Hello.of, "engine.hello", {}, timeout_s)
        return hello

    def health(self, *, timeout_s: float | None = None) -> Health:
        """`ready`, `degraded` or `failing`, and why."""
        health: Health = self._read("health", Health.of, "engine.health", {}, timeout_s)
        return health

    def stats(self, *, timeout_s: float | None = None) -> Stats:
        """The engine's counters."""
        stats: Stats = self._read("statistics", Stats.of, "engine.stats", {}, timeout_s)
        return stats

    # -- journal: writing -------------------------------------------------------------------

    def append(
        self,
        events: Event | Mapping[str, Any] | Sequence[Event | Mapping[str, Any]],
        *,
        expected_session_seq: int | None = None,
        budget_ms: int | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
        principal: str | None = None,
    ) -> AppendResult:
        """Stores 1..1024 events as one atomic, durable change.

        Args:
            expected_session_seq: the `session_seq` of their session's last event, 0 for none;
                the events are then of one session.
            budget_ms: how long it may take to be durable; 0 for any time. Default: the engine's.

        Raises:
            Conflict: the session has moved on; `detail.actual`.
            IdReused: an event id was used before with other content.
            Overloaded: not durable within the budget, and so not written.
            NoReply: it may be stored; `detail.event_ids` are the ids to send again.
        """
        given = [events] if isinstance(events, Event | Mapping) else events
        wires = [event_to_wire(event) for event in given]
        packed = [frames.pack(wire, f"events[{index}]") for index, wire in enumerate(wires)]
        try:
            ok = self._ask(
                "journal.append",
                frames.pack_append(packed, expected_session_seq),
                budget_ms=budget_ms,
                timeout_s=timeout_s,
                traceparent=traceparent,
                principal=principal,
            )
        except NoReply as error:
            error.detail["event_ids"] = [wire["event_id"] for wire in wires]
            raise
        result: AppendResult = read("append result", AppendResult.of, ok)
        return result

    def batch(
        self,
        *,
        budget_ms: int | None = 0,
        events_max: int = EVENTS_DEFAULT,
        bytes_max: int = BYTES_DEFAULT,
        in_flight: int = IN_FLIGHT_DEFAULT,
        on_result: Callable[[AppendResult], object] | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
        principal: str | None = None,
    ) -> Batch:
        """A collector of many events: see `Batch`."""
        return Batch(
            self._calls,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            budget_ms=budget_ms,
            events_max=events_max,
            bytes_max=bytes_max,
            in_flight=in_flight,
            on_result=on_result,
            principal=principal,
            traceparent=traceparent,
        )

    def append_many(
        self, events: Iterable[Event | Mapping[str, Any]], **options: Any
    ) -> BatchSummary:
        """Stores any number of events in requests of many, several in flight; `batch`'s options.

        Each request is atomic, the whole is not.
        """
        batch = self.batch(**options)
        with batch:
            for event in events:
                batch.add(event)
        return batch.summary

    # -- journal: reading -------------------------------------------------------------------

    def read(
        self,
        *,
        session_id: object | None = None,
        run_id: object | None = None,
        kinds: Sequence[str] | None = None,
        after_seq: int = 0,
        limit: int | None = None,
        raw: bool = False,
        timeout_s: float | None = None,
        principal: str | None = None,
    ) -> Page:
        """One page of events in `seq` order. `limit` 1..1000 (default 100); `raw`: the payload
        as the exact stored bytes."""
        body: dict[str, Any] = {"after_seq": after_seq}
        if session_id is not None:
            body["session_id"] = str(session_id)
        if run_id is not None:
            body["run_id"] = str(run_id)
        if kinds is not None:
            body["kinds"] = list(kinds)
        if limit is not None:
            body["limit"] = limit
        if raw:
            body["raw"] = True
        page: Page = self._read(
            "page", Page.of, "journal.read", body, timeout_s, principal=principal
        )
        return page

    def events(
        self, *, after_seq: int = 0, limit: int = READ_LIMIT_MAX, **options: Any
    ) -> Iterator[StoredEvent]:
        """All events after one, page after page, to the journal's end; `read`'s options.

        `limit` is a page's size. What is committed while this runs may or may not be among them.
        """
        while True:
            page = self.read(after_seq=after_seq, limit=limit, **options)
            yield from page.events
            if page.end:
                return
            after_seq = page.next_after_seq

    def recent(
        self, limit: int | None = None, *, timeout_s: float | None = None
    ) -> tuple[StoredEvent, ...]:
        """The last events, newest last, from the engine's memory. `limit` 1..100."""
        body = {} if limit is None else {"limit": limit}
        events: tuple[StoredEvent, ...] = self._read(
            "events",
            lambda ok: tuple(map(StoredEvent.of, ok["events"])),
            "journal.recent",
            body,
            timeout_s,
        )
        return events

    def head(self, *, timeout_s: float | None = None) -> Head:
        """The journal's last `seq` and `hash`."""
        head: Head = self._read("head", Head.of, "journal.head", {}, timeout_s)
        return head

    def verify(
        self,
        *,
        from_seq: int | None = None,
        to_seq: int | None = None,
        expect: Head | None = None,
        timeout_s: float | None = None,
    ) -> Verification:
        """Recomputes the hash chain. `expect`: a head kept elsewhere that has to be in it."""
        body: dict[str, Any] = {}
        if from_seq is not None:
            body["from_seq"] = from_seq
        if to_seq is not None:
            body["to_seq"] = to_seq
        if expect is not None:
            body["expect"] = {"seq": expect.seq, "hash": expect.hash}
        verification: Verification = self._read(
            "verification", Verification.of, "journal.verify", body, timeout_s
        )
        return verification

    def subscribe(
        self,
        *,
        after_seq: int | None = None,
        session_id: object | None = None,
        kinds: Sequence[str] | None = None,
        credit: int = CREDIT_DEFAULT,
        timeout_s: float | None = None,
        principal: str | None = None,
    ) -> Subscription:
        """Events as they are committed, after `after_seq` (None: after the present head).

        `credit` 1..10000 is how many events may wait in this process. A lost connection, also
        for hours, costs neither a gap nor a repeat.
        """
        if after_seq is None:
            # a position of its own, known before the first event: where to start again after a
            # connection that was lost before any came
            after_seq = self.head(timeout_s=timeout_s).seq
        return Subscription(
            self._calls,
            after_seq=after_seq,
            session_id=None if session_id is None else str(session_id),
            kinds=kinds,
            credit=credit,
            principal=principal,
            silence_s=None if self._calls.silence_s is None else SILENCE_S,
        )

    # -- own --------------------------------------------------------------------------------

    def _read(
        self,
        what: str,
        kind: Callable[[Mapping[str, Any]], Any],
        op: str,
        body: Mapping[str, Any],
        timeout_s: float | None,
        *,
        principal: str | None = None,
    ) -> Any:
        packed = frames.pack(body, "body")
        return read(what, kind, self._ask(op, packed, timeout_s=timeout_s, principal=principal))

    def _ask(
        self, op: str, body: bytes, *, timeout_s: float | None = None, **options: Any
    ) -> dict[str, Any]:
        if timeout_s is None:
            timeout_s = self._timeout_s
        return self._calls.start(op, body, timeout_s=timeout_s, **options).result()
