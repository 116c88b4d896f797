"""What travels between the actors: requests, and the units of work that they become.

A *request* is one frame and who is to be answered. A *unit* is the atomic change that it asks
for; its *portions* are the shares of the entities that it touches. A unit is written when every
portion is decided, and answered once.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from palyra_actors.domain.fact import Change, Fact
from palyra_actors.domain.run import Run
from palyra_actors.domain.session import Draft
from palyra_actors.errors import InternalFault, Overloaded, PalyraError, StorageUnavailable
from palyra_actors.wire import codec
from palyra_actors.wire.messages import EventResult

log = logging.getLogger(__name__)


class Peer(Protocol):
    """Whoever sent a request: a connection of the door, or a caller in this process."""

    principal: str
    role: str
    under_way: int
    """Requests that are not answered yet. The loop's thread counts."""
    backlog_bytes: int
    """Replies that it has not taken yet, as far as they are kept here."""

    def send(self, frame: bytes) -> None:
        """Queue a frame for the peer. From any thread; never blocks, never raises."""
        ...


class Charged(Protocol):
    """Who counts what is under way: `admission.Admission`."""

    def give_back(self, request: "Request") -> None:
        """The request is answered; its `load` is not under way any more."""
        ...

    def give_back_all(self, peer: Peer, load: int) -> None:
        """The same for several of that peer's, whose load it is; theirs is 0 already."""
        ...

    def refused(self, request: "Request") -> None:
        """The request is about to be answered with an error."""
        ...


@dataclass(frozen=True, slots=True)
class TallyStatistics:
    """As `Tally`, of one moment."""

    received: int
    ok: int
    refused: int
    unknown: int
    closed: int
    under_way: int
    acked: int
    overloaded: int


class Tally:
    """What became of the requests: received = ok + refused + unknown + closed at rest.

    `under_way` is what that equation lacks until then. Of the writes among them, `acked` were
    answered `ok` and `overloaded` were sent away.
    """

    __slots__ = (
        "acked", "closed", "ok", "overloaded", "received", "refused", "under_way", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.received = self.ok = self.refused = self.unknown = self.closed = self.under_way = 0
        self.acked = self.overloaded = 0

    def turn_away(self, count: int = 1) -> None:
        """Writes were answered `overloaded` before they became requests."""
        self.received += count
        self.refused += count
        self.overloaded += count

    def statistics(self) -> TallyStatistics:
        return TallyStatistics(
            self.received, self.ok, self.refused, self.unknown, self.closed, self.under_way,
            self.acked, self.overloaded,
        )  # fmt: skip


class Request:
    """One frame's envelope, and the way back to who sent it.

    `arrived` is monotonic, in seconds. `ok` or `fail` is called once; later calls do nothing. A
    write has its `admission` from the moment when it is known to be one.
    """

    __slots__ = (
        "admin", "admission", "answered", "arrived", "budget_ms", "hold", "id", "load", "peer",
        "principal", "tally", "traceparent",
    )  # fmt: skip

    def __init__(
        self,
        peer: Peer,
        request_id: codec.RequestId,
        arrived: float,
        tally: Tally,
    ) -> None:
        self.peer = peer
        self.id = request_id
        self.arrived = arrived
        self.tally = tally
        self.answered = False
        self.admission: Charged | None = None
        self.load = 0
        self.budget_ms: int | None = None
        self.traceparent: str | None = None
        self.hold: Callable[[Any], None] | None = None
        tally.received += 1
        tally.under_way += 1
        peer.under_way += 1
        self.principal = peer.principal
        self.admin = peer.role == "admin"

    @property
    def role(self) -> str:
        """What it may do. An admin who acts for another writes as that one."""
        if self.admin:
            return "admin"
        return "writer" if self.peer.role == "admin" else self.peer.role

    def ok(self, body: Any) -> None:
        """Answer with a body; or let `hold` do so later. Never raises: whoever calls it has others
        to answer."""
        if self.hold is not None:
            try:
                self.hold(body)
            except Exception as error:
                log.exception("what follows a write went wrong")
                self.hold = None
                self.fail(went_wrong(error, "unknown"))
            return
        try:
            frame = codec.encode_ok(self.id, body)
        except Exception as error:
            log.exception("an answer could not be encoded")
            self.fail(went_wrong(error, "unknown"))
            return
        self.reply(frame)

    def reply(self, frame: bytes) -> None:
        """Answer with an `ok` that is encoded already."""
        if not self.answered:
            self.answered = True
            tally, peer, admission = self.tally, self.peer, self.admission
            tally.ok += 1
            tally.under_way -= 1
            peer.under_way -= 1
            if admission is not None:
                tally.acked += 1
                if self.load:
                    admission.give_back(self)
            peer.send(frame)

    def fail(self, error: PalyraError) -> None:
        """Answer with an error."""
        if not self.answered:
            self.answered = True
            if self.load and self.admission is not None:
                self.admission.refused(self)
            self._leave()
            if error.outcome == "unknown":
                self.tally.unknown += 1
            else:
                self.tally.refused += 1
                if self.admission is not None and error.code == "overloaded":
                    self.tally.overloaded += 1
            self.peer.send(codec.encode_err(self.id, error))

    def abandon(self) -> None:
        """The peer is gone: nobody is answered any more."""
        if not self.answered:
            self.answered = True
            self.tally.closed += 1
            self._leave()

    def shed(self, retry_after_ms: int) -> None:
        """Answer `overloaded` in as little time as can be."""
        if not self.answered:
            self.answered = True
            self._leave()
            self.tally.refused += 1
            self.tally.overloaded += 1
            self.peer.send(codec.encode_overloaded(self.id, retry_after_ms))

    def _leave(self) -> None:
        self.tally.under_way -= 1
        self.peer.under_way -= 1
        if self.load and self.admission is not None:
            self.admission.give_back(self)

    def item(self, body: Any) -> None:
        """Send one item of a stream."""
        self.peer.send(codec.encode_item(self.id, body))


def waited_too_long(retry_after_ms: int) -> Overloaded:
    """The refusal of a write that was let in: nothing of it was begun."""
    return Overloaded(
        "it has waited too long to be durable within its budget",
        hint="nothing was stored; send it again later",
        retry_after_ms=max(1, retry_after_ms),
    )


class Nobody:
    """Who asks where no peer does."""

    principal = ""
    role = "admin"
    under_way = 0
    backlog_bytes = 0

    def send(self, frame: bytes) -> None:
        """Nobody listens."""


class Errand(Request):
    """A request of the engine's own: `done` gets the answer's body or the error, in the loop's
    thread. It is not counted among the clients'. It has no budget unless it is given one.
    """

    __slots__ = ("_done",)

    def __init__(
        self,
        principal: str,
        arrived: float,
        done: Callable[[Mapping[str, Any] | PalyraError], None],
        *,
        admin: bool = True,
    ) -> None:
        super().__init__(Nobody(), None, arrived, Tally())
        self.budget_ms = 0
        self.principal = principal
        self.admin = admin
        self._done = done

    def ok(self, body: Any) -> None:
        self._end(body)

    def fail(self, error: PalyraError) -> None:
        self._end(error)

    def _end(self, answer: Mapping[str, Any] | PalyraError) -> None:
        if not self.answered:
            self.answered = True
            try:
                self._done(answer)
            except Exception:
                log.exception("what follows an errand went wrong")


class Tail:
    """Where a stream ends in the file. Made by the entity when it wakes, then the writer's own.

    `seq` is that of the stream's last durable event, 0 where there is none. `exists`: the stream
    has its row.
    """

    __slots__ = ("created_ms", "exists", "kind", "principal", "seq", "stream", "stream_id")

    def __init__(self, stream: int, kind: int, stream_id: bytes, principal: str) -> None:
        self.stream = stream
        self.kind = kind
        self.stream_id = stream_id
        self.principal = principal
        self.created_ms = 0
        self.seq = 0
        self.exists = False


class EntityCalls(Protocol):
    """What desk, unit and writer ask of an entity."""

    def hand(self, message: Any) -> None:
        """As `tell`, at once if nothing is before it. Raises MailboxFull."""
        ...

    def rewind(self, portion: "Portion") -> None:
        """Return to the state before the portion and take it and all later ones anew."""
        ...

    def go_on(self) -> None:
        """The unit that you held back for is complete."""
        ...

    def failed(self, portion: "Portion", error: BaseException) -> None:
        """As if a turn of your own with that portion had raised this."""
        ...

    def written(self, portion: "Portion") -> None:
        """The portion is durable; its facts have their numbers."""
        ...

    def doubted(self, portion: "Portion") -> None:
        """Whether the portion is durable nobody knows: who reads the file may find it there."""
        ...

    def recall(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer that a decision kept this recipe for. Raises Gone."""
        ...


class Portion:
    """One entity's share of a unit.

    Once `decided`: the `drafts` are numbered `first_seq`, `first_seq + 1`, … in the stream that
    `tail` ends, `before` and `next_before` are state and number to return to if the unit fails,
    `runs` are the runs that change (id, run, whether it is new), and `changes` the rows that
    follow. It `waits` while it holds its entity's mailbox for the unit's witnesses.

    A command's portion has `facts` (its drafts, as they were folded), the `sessions` that they
    concern where the stream is no session, and its `answer`; where a listener needs it, the state
    `after` them.
    """

    __slots__ = (
        "after", "answer", "before", "changes", "command", "decided", "drafts", "entity", "facts",
        "first_seq", "indices", "next_before", "recall", "runs", "sessions", "stream_id", "tail",
        "unit", "waits",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - made once an append, where keywords are a tenth of its cost
        self,
        unit: "Unit",
        entity: EntityCalls,
        stream_id: bytes,
        command: Any,
        indices: Sequence[int],
        drafts: Sequence[Draft] = (),
    ) -> None:
        self.unit = unit
        self.entity = entity
        self.stream_id = stream_id
        self.command = command
        self.indices = indices
        self.drafts = drafts
        self.decided = False
        self.waits = False
        self.first_seq = 0
        self.next_before = 0
        self.before: Any = None
        self.tail: Tail | None = None
        self.runs: Sequence[tuple[bytes, Run, bool]] = ()
        self.changes: Sequence[Change] = ()
        self.facts: Sequence[Fact] = ()
        self.sessions: Sequence[bytes | None] | None = None
        self.answer: Mapping[str, Any] | None = None
        self.recall: Mapping[str, Any] | None = None
        self.after: Any = None


NO_ECHO: Final[Mapping[int, EventResult]] = MappingProxyType({})
NO_REPEATS: Final[Mapping[int, int]] = MappingProxyType({})


class Key(NamedTuple):
    """Under what a command's answer is kept: its client's event id, and a digest of what it asks
    for, so that the same id with another request is refused."""

    event_id: bytes
    digest: bytes


class Unit:
    """One request's atomic change. `events`: how many an append's request has; 0: it is none.

    `left` counts the portions that are not decided. `error`: it was refused, and is answered so
    unless it turns out to be a retry of what is stored. `clashes`: how often it could not be staged
    for a row that was there already. `settled`: it was answered, its portions
    mean nothing any more. `echo` holds the answers of events that were stored before, by their
    place in the request; `repeats` maps the place of an event that stands twice in the request to
    its first place. `is_command`: it is no append; `key`: its client named it.

    A command is its first portion's. The others are its *witnesses*: entities that write nothing
    and say where they stand, in their turn, before the first portion is decided; `inform` makes
    its command of their answers, or raises the refusal.
    """

    __slots__ = (
        "clashes", "echo", "error", "events", "inform", "is_command", "key", "left",
        "payload_bytes", "portions", "repeats", "request", "settled",
    )  # fmt: skip

    def __init__(self, request: Request, events: int = 0, payload_bytes: int = 0) -> None:
        self.request = request
        self.events = events
        self.payload_bytes = payload_bytes
        self.portions: list[Portion] = []
        self.left = 0
        self.clashes = 0
        self.error: PalyraError | None = None
        self.settled = False
        self.key: Key | None = None
        self.inform: Callable[[Sequence[Mapping[str, Any]]], Any] | None = None
        self.is_command = False
        self.echo: Mapping[int, EventResult] = NO_ECHO
        self.repeats: Mapping[int, int] = NO_REPEATS

    def settle(self) -> None:
        """It was answered. Unit and portions point at each other; without this the garbage
        collector would have to find each of them.
        """
        self.settled = True
        self.portions = []

    def drafts(self) -> list[tuple[int, Portion, int, Draft]]:
        """Every draft with its place in the request, its portion and its place in that."""
        rows = [
            (index, portion, place, draft)
            for portion in self.portions
            for place, (index, draft) in enumerate(
                zip(portion.indices, portion.drafts, strict=True)
            )
        ]
        rows.sort(key=lambda row: row[0])
        return rows

    def is_late(self, moment: float, budget_ms: int) -> bool:
        """Whether it waits for the disk still, and would be over its budget at that moment, in
        monotonic seconds. `budget_ms`: of a request that names none; 0: none."""
        request = self.request
        if request.budget_ms is not None:
            budget_ms = request.budget_ms
        return (
            budget_ms > 0
            and (moment - request.arrived) * 1000 > budget_ms
            and not self.settled
            and self.error is None
        )

    @property
    def size(self) -> int:
        """Events that it writes, at least: what it takes of a group's room."""
        return self.events or sum(len(portion.drafts) for portion in self.portions)

    @property
    def answer(self) -> dict[str, Any]:
        """What a command is answered."""
        return dict(self.portions[0].answer or {})

    def results(self, written: Sequence[EventResult]) -> Sequence[EventResult]:
        """The answer, in the request's order: what was written now, before, and said twice."""
        echo, repeats = self.echo, self.repeats
        if not echo and not repeats:
            return written
        new = iter(written)
        results: list[EventResult] = []
        for index in range(self.events):
            first = repeats.get(index)
            if first is not None:
                results.append(msgspec.structs.replace(results[first], duplicate=True))
            else:
                results.append(echo[index] if index in echo else next(new))
        return results


def went_wrong(error: Exception, outcome: str) -> InternalFault:
    """The answer to whom a fault of ours has met. `outcome`: `none`, or `unknown` where something
    is stored already."""
    return InternalFault(
        f"the request could not be served: {type(error).__name__}",
        hint="nothing was stored; the engine's log has the details"
        if outcome == "none"
        else "send the same request with the same ids again",
        detail={"outcome": outcome},
    )


def unknown(why: str) -> StorageUnavailable:
    """The answer to what was perhaps written."""
    return StorageUnavailable(
        why,
        hint="send the same request with the same ids again",
        detail={"outcome": "unknown"},
    )


def stopping() -> StorageUnavailable:
    """The answer to whatever comes while the engine stops."""
    return StorageUnavailable(
        "the engine is stopping", hint="connect again later", detail={"outcome": "none"}
    )
