"""The common path of every entity: wake, decide, evolve, number, hand to the writer; and back.

    asleep ──first portion──▶ awake ⇄ held (until a unit that others share is complete)
                                │
                                └─ failed ──back-off──▶ asleep

An entity numbers ahead: it decides on a state in which what it handed over before is taken as
written. When one of those units fails, the writer sends the entity back to the state before it
(`rewind`), and all later portions are decided anew. The state is kept nowhere else: what the file
says and what is under way make it up.
"""

import re
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from palyra_actors.actors.work import Portion, Request, Tail, Unit
from palyra_actors.domain.catalog import BY_THE_ENGINE, ENGINE_KINDS, SESSION
from palyra_actors.domain.fact import RECORDED_MS, SEQ, Change, Decision, Fact, Place
from palyra_actors.domain.session import Draft
from palyra_actors.errors import (
    InternalFault,
    NotFound,
    Overloaded,
    PalyraError,
    StorageUnavailable,
)
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.runtime.supervisor import RestartPolicy, Restarts
from palyra_actors.storage.port import ReadSide, StreamRow

PENDING_UNITS_MAX = 2_048
"""Units of one entity that are not written yet. Each keeps the state before it."""

PENDING_RETRY_MS = 25

SETTLE_WAIT_S = 0.005
"""How often a failed entity looks whether what it handed over before is written."""


_DRAFT: Final = re.compile(r"events\[(\d+)\]")

ASLEEP: Final = object()
"""The state of an entity that does not know its own. None is one that has no event yet."""

FIRST: Final = (Place(0, SEQ), Place(0, RECORDED_MS))
"""What nearly every event of a command is: its first."""

_encode = msgspec.msgpack.Encoder().encode
_Row = TypeVar("_Row")


@dataclass(slots=True)
class House:
    """What all entities share. `given_up` counts those that fail too often to be started again."""

    loop: Loop
    reader: ReadSide
    submit: Callable[[Unit], None]
    next_stream: Callable[[], int]
    new_id: Callable[[], bytes]
    restarts: RestartPolicy
    unread: Callable[[str], None] = lambda why: None
    """Told why the file could not be read."""

    listeners: dict[int, Callable[[Portion], None]] = field(default_factory=dict)
    """By kind: told of what is durable, before it is acknowledged."""

    doubters: dict[int, Callable[[Portion], None]] = field(default_factory=dict)
    """By kind: told of what nobody knows to be durable or not."""

    activated: int = 0
    restarted: int = 0
    given_up: int = 0


class Entity(PooledActor):
    """One session, canvas, job or scope. Subclasses say how it wakes and how it decides.

    Its slots are read and written by `_swift_appends.c`, too.
    """

    __slots__ = (
        "_next", "_pending", "_state", "_tail", "actor_inbox", "stream_id", "used_at", "used_by",
    )  # fmt: skip

    listed: ClassVar[bool] = False
    kind: ClassVar[int]
    missing: ClassVar[str] = "there is no such entity"
    id_field: ClassVar[str] = "id"

    def __init__(self, house: House, stream_id: bytes, messages_max: int) -> None:
        super().__init__(house.loop, messages_max=messages_max)
        self.stream_id = stream_id
        self.used_at = 0.0
        self.used_by = 0
        self._house = house
        self._state: Any = ASLEEP
        self._next = 1  # the number of the next event in its stream
        self._tail: Tail | None = None
        self._pending: deque[Portion] = deque()
        self._restarts: Restarts | None = None
        self._broken_until = 0.0
        self._down = False

    # -- calls of others, on the loop's thread ---------------------------------------------------

    def rewind(self, portion: Portion) -> None:
        """Return to the state before the portion, at once.

        Were it a message, a unit that this entity shares could be completed by the others before
        it is handled, and be written with numbers that nobody stands by any more.
        """
        self._go_back(portion)

    def go_on(self) -> None:
        """The unit that this entity held back for is complete."""
        if not self._down:
            self.actor_inbox.release()

    def failed(self, portion: Portion, error: BaseException) -> None:
        """As if a turn of its own with that portion had raised this."""
        self._failed(portion, error)

    def shows(self, principal: str | None) -> bool:
        """Whether the principal may see it (None: all)."""
        return self._tail is not None and principal in (None, self._tail.principal)

    @property
    def free(self) -> bool:
        """It would handle a message at once."""
        inbox = self.actor_inbox
        return not (len(inbox) or inbox.held)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way: the entity can be let go without a trace."""
        self._prune()
        inbox = self.actor_inbox
        return not (self._pending or len(inbox) or inbox.held or self._left_alone())

    # -- its life ---------------------------------------------------------------------------------

    def _handle_receive(self, message: Any) -> Any:
        if type(message) is Portion:
            return self._take(message)
        return super()._handle_receive(message)

    def _take(self, portion: Portion) -> None:
        unit = portion.unit
        if unit.error is not None or unit.settled:
            return  # another portion was refused: this one means nothing any more
        if unit.inform is not None and portion is unit.portions[0] and unit.left > 1:
            portion.waits = True
            self.actor_inbox.put_back(portion)
            self.actor_inbox.hold()
            return
        pending = self._pending
        if pending and pending[0].unit.settled:
            self._prune()
        try:
            if len(pending) >= PENDING_UNITS_MAX:
                raise Overloaded(
                    f"{PENDING_UNITS_MAX} requests of this session are not written yet",
                    retry_after_ms=PENDING_RETRY_MS,
                    hint="keep fewer in flight",
                    detail={"limit": PENDING_UNITS_MAX},
                )
            before = self._state
            if before is ASLEEP:
                before = self._wake(portion)
            tail = self._tail
            assert tail is not None
            if tail.principal != unit.request.principal:
                self._check_owner(tail, unit.request)
            if unit.inform is not None and portion is unit.portions[0]:
                portion.waits = False
                portion.command = unit.inform([one.answer or {} for one in unit.portions[1:]])
            portion.first_seq = portion.next_before = self._next
            self._state = self._decide(before, portion)
        except PalyraError as refusal:
            self._refuse(portion, refusal)
            return
        self._next += len(portion.drafts)
        portion.before = before
        portion.tail = tail
        portion.decided = True
        pending.append(portion)
        unit.left -= 1
        if unit.left:
            self.actor_inbox.hold()
            if unit.left == 1:
                _wait_no_more(unit.portions[0])
            return
        if len(unit.portions) > 1:
            for other in unit.portions:
                other.entity.go_on()
        self._house.submit(unit)

    def _refuse(self, portion: Portion, refusal: PalyraError) -> None:
        """The whole unit fails. It still goes to the writer: it may be a retry of what is stored,
        and a refusal that rests on what is under way is answered after that.
        """
        unit = portion.unit
        # Where it was raised is nobody's business any more, and leads back to the unit: all that
        # deciding has made would stay until the collector comes, and hold up the loop then.
        refusal.__traceback__ = refusal.__context__ = refusal.__cause__ = None
        if refusal.field is not None:  # it counts within the portion, who reads it in the request
            refusal.field = _DRAFT.sub(
                lambda match: f"events[{portion.indices[int(match[1])]}]", refusal.field
            )
        unit.error = refusal
        portion.before = self._state
        portion.next_before = self._next
        self._pending.append(portion)
        take_back(unit.portions)
        self._house.submit(unit)

    def _go_back(self, portion: Portion) -> None:
        if portion not in self._pending:
            return  # a failure in between has gone back further
        if self._state is not ASLEEP:
            self._state = portion.before
            self._next = portion.next_before
        inbox = self.actor_inbox
        again: Portion | None = None
        while again is not portion:
            again = self._pending.pop()
            unit = again.unit
            if unit.settled or (unit.error is not None and len(unit.portions) > 1):
                continue
            if again.decided:
                again.decided = False
                unit.left += 1
            inbox.put_back(again)
        if not self._down:
            inbox.release()

    def _wake(self, portion: Portion) -> Any:
        unsettled = any(portion.decided for portion in self._pending)
        if self._left_alone() or unsettled:
            raise InternalFault(
                "this entity failed too often and is left alone for a while",
                hint="the engine's log says why; try again in a minute",
                detail={"outcome": "none"},
            )
        row = self._find()
        if row is None:
            state = self._unborn()
            stream = self._tail.stream if self._tail is not None else self._house.next_stream()
            tail = Tail(stream, self.kind, self.stream_id, portion.unit.request.principal)
        else:
            request = portion.unit.request
            if row.principal != request.principal and not request.admin:
                raise NotFound(self.missing, field=self.id_field)  # whatever its state is
            state = ask(self._load_state, self._house.reader, row)
            tail = Tail(row.stream, self.kind, self.stream_id, row.principal)
            tail.created_ms = row.created_ms
            tail.seq = row.tail_seq
            tail.exists = True
        self._tail = tail
        self._next = 1 if row is None else row.stream_seq + 1
        self._state = state
        self._house.activated += 1
        return state

    def _find(self) -> StreamRow | None:
        """Where it stands in the file; None: it has no event yet."""
        return ask(self._house.reader.stream, self.kind, self.stream_id)

    def _check_owner(self, tail: Tail, request: Request) -> None:
        if self._next == 1:
            tail.principal = request.principal  # its first writer failed; this one is first now
        elif not request.admin:
            raise NotFound(self.missing, field=self.id_field)

    def _left_alone(self) -> bool:
        """Whether it failed too often lately. It is not let go until that is over: it would come
        back as if nothing had been, and health would not know."""
        if self._broken_until > self._house.loop.clock.monotonic():
            return True
        if self._broken_until:
            self._broken_until = 0.0
            self._house.given_up -= 1
        return False

    def _unborn(self) -> Any:
        """The state of one that has no event yet."""
        return None

    @abstractmethod
    def _load_state(self, reader: ReadSide, row: StreamRow) -> Any:
        """The state as the file has it. On the loop's thread: a few lookups."""

    @abstractmethod
    def _decide(self, state: Any, portion: Portion) -> Any:
        """The state after the portion's command, or a refusal raised.

        Sets the portion's `drafts` unless they came with it, and what follows from them.
        """

    def written(self, portion: Portion) -> None:
        """The portion is durable; its facts have their numbers. On the loop's thread."""
        listener = self._house.listeners.get(self.kind)
        if listener is not None:
            listener(portion)

    def doubted(self, portion: Portion) -> None:
        """The COMMIT of the portion failed half way. On the loop's thread."""
        doubter = self._house.doubters.get(self.kind)
        if doubter is not None:
            doubter(portion)

    def recall(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer that a decision kept this recipe for. Raises Gone."""
        raise InternalFault(f"{type(self).__name__} keeps no recipes", detail={"outcome": "none"})

    # -- failure ----------------------------------------------------------------------------------

    def on_failed(self, message: Any, error: BaseException) -> None:
        """Answer whoever was being served, and come back from the file after a back-off."""
        if type(message) is Portion and not message.unit.settled:
            unit = message.unit
            portions = unit.portions
            unit.settle()
            unit.request.fail(
                InternalFault(
                    f"the entity failed: {type(error).__name__}",
                    hint="nothing was stored; the engine's log has the details",
                    detail={"outcome": "none"},
                )
            )
            take_back(portions)
        self._state = ASLEEP
        house = self._house
        if self._restarts is None:
            self._restarts = Restarts(house.restarts)
        seconds = self._restarts.after_failure(house.loop.clock.monotonic())
        if seconds is None:
            house.given_up += 1
            self._broken_until = house.loop.clock.monotonic() + house.restarts.window_s
            return
        self._down = True
        self.actor_inbox.hold()
        house.loop.call_later(seconds, self._come_back)

    def _come_back(self) -> None:
        self._prune()
        if self._pending:
            self._house.loop.call_later(SETTLE_WAIT_S, self._come_back)
            return
        self._down = False
        self._house.restarted += 1
        self.actor_inbox.release()

    def _prune(self) -> None:
        pending = self._pending
        while pending and pending[0].unit.settled:
            pending.popleft().before = None  # whoever else holds the portion needs no old state


class CommandEntity(Entity):
    """An entity that takes commands: `_choose` decides, `fold` makes state and rows of it."""

    @abstractmethod
    def _choose(self, state: Any, command: Any, now_ms: int) -> Decision:
        """What the command causes; `state` is None where there is no event yet."""

    @abstractmethod
    def fold(self, state: Any, fact: Fact, stream: int) -> tuple[Any, Sequence[Change]]:
        """The family's fold: see `domain.fact`."""

    def _decide(self, state: Any, portion: Portion) -> Any:
        house, tail, unit = self._house, self._tail, portion.unit
        assert tail is not None
        now_ms = house.loop.clock.wall_ms()
        decision = self._choose(state, portion.command, now_ms)
        if decision.first_seq is not None:
            self._next = portion.first_seq = decision.first_seq
        principal = unit.request.principal
        said_before = sum(len(draft.payload) for draft in portion.drafts)  # decided anew
        drafts: list[Draft] = []
        facts: list[Fact] = []
        changes: list[Change] = []
        sessions: list[bytes | None] = []
        for place, new in enumerate(decision.events):
            named = not place and unit.key is not None and portion is unit.portions[0]
            event_id = unit.key.event_id if named and unit.key is not None else house.new_id()
            concerns = self.stream_id if self.kind == SESSION else new.session_id
            fact = Fact(
                new.kind, new.payload, self._next + place, now_ms,
                *(FIRST if not place else (Place(place, SEQ), Place(place, RECORDED_MS))),
                new.run_id, concerns, event_id, "system", principal,
            )  # fmt: skip
            state, rows = self.fold(state, fact, tail.stream)
            kind, payload = ENGINE_KINDS[new.kind], _encode(new.payload)
            drafts.append(
                Draft(event_id, new.run_id, kind, BY_THE_ENGINE, now_ms, payload, new.redacted)
            )
            facts.append(fact)
            changes += rows
            sessions.append(concerns)
        portion.drafts, portion.indices = drafts, range(len(drafts))
        portion.facts, portion.changes = facts, changes
        portion.sessions = None if self.kind == SESSION else sessions
        portion.answer, portion.recall = decision.answer(state), decision.recall
        unit.payload_bytes += sum(len(draft.payload) for draft in drafts) - said_before
        return state


def take_back(portions: Sequence[Portion]) -> None:
    """Their unit fails before it is whole: whoever decided goes back, whoever waits goes on."""
    for portion in portions:
        if portion.decided:
            portion.entity.rewind(portion)
        _wait_no_more(portion)


def _wait_no_more(portion: Portion) -> None:
    if portion.waits:
        portion.waits = False
        portion.entity.go_on()


def ask(question: Callable[..., _Row], *about: object) -> _Row:
    """What the file says. Raises StorageUnavailable: it cannot be read, which no entity can help;
    it is refused its request and not started again.
    """
    try:
        return question(*about)
    except PalyraError:
        raise
    except Exception as error:
        raise StorageUnavailable(
            f"the database could not be read: {error}",
            hint="nothing was stored; send it again later",
            detail={"outcome": "none"},
        ) from error
