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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from palyra_actors.actors.work import Portion, Tail, Unit
from palyra_actors.domain.session import Session
from palyra_actors.errors import InternalFault, Overloaded, PalyraError
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.runtime.supervisor import RestartPolicy, Restarts
from palyra_actors.storage.port import ReadSide

PENDING_UNITS_MAX = 2_048
"""Units of one entity that are not written yet. Each keeps the state before it."""

PENDING_RETRY_MS = 25

SETTLE_WAIT_S = 0.005
"""How often a failed entity looks whether what it handed over before is written."""


_DRAFT: Final = re.compile(r"events\[(\d+)\]")


@dataclass(slots=True)
class House:
    """What all entities share. `given_up` counts those that fail too often to be started again."""

    loop: Loop
    reader: ReadSide
    submit: Callable[[Unit], None]
    next_stream: Callable[[], int]
    restarts: RestartPolicy
    activated: int = 0
    restarted: int = 0
    given_up: int = 0


class Entity(PooledActor):
    """One session, canvas, job or scope. Subclasses say how it wakes and how it decides."""

    listed: ClassVar[bool] = False
    kind: ClassVar[int]

    def __init__(self, house: House, stream_id: bytes, messages_max: int) -> None:
        super().__init__(house.loop, messages_max=messages_max)
        self.stream_id = stream_id
        self.used_at = 0.0
        self.used_by = 0
        self._house = house
        self._state: Session | None = None
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
            if before is None:
                before = self._wake(portion)
            self._state = self._decide(before, portion)
        except PalyraError as refusal:
            self._refuse(portion, refusal)
            return
        portion.before = before
        portion.first_seq = before.last_seq + 1
        portion.tail = self._tail
        portion.decided = True
        pending.append(portion)
        unit.left -= 1
        if unit.left:
            self.actor_inbox.hold()
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
        if refusal.field is not None:  # it counts within the portion, who reads it in the request
            refusal.field = _DRAFT.sub(
                lambda match: f"events[{portion.indices[int(match[1])]}]", refusal.field
            )
        unit.error = refusal
        portion.before = self._state
        self._pending.append(portion)
        for other in unit.portions:
            if other.decided:
                other.entity.rewind(other)
        self._house.submit(unit)

    def _go_back(self, portion: Portion) -> None:
        if portion not in self._pending:
            return  # a failure in between has gone back further
        if self._state is not None:
            self._state = portion.before
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

    def _wake(self, portion: Portion) -> Session:
        unsettled = any(portion.decided for portion in self._pending)
        if self._left_alone() or unsettled:
            raise InternalFault(
                "this entity failed too often and is left alone for a while",
                hint="the engine's log says why; try again in a minute",
                detail={"outcome": "none"},
            )
        state, tail = self._load(portion)
        self._tail = tail
        self._house.activated += 1
        return state

    def _left_alone(self) -> bool:
        """Whether it failed too often lately. It is not let go until that is over: it would come
        back as if nothing had been, and health would not know."""
        if self._broken_until > self._house.loop.clock.monotonic():
            return True
        if self._broken_until:
            self._broken_until = 0.0
            self._house.given_up -= 1
        return False

    @abstractmethod
    def _load(self, portion: Portion) -> tuple[Session, Tail]:
        """State and tail as the file has them, or those of an entity that is not there yet."""

    @abstractmethod
    def _decide(self, state: Session, portion: Portion) -> Session:
        """The state after the portion's command, or a refusal raised. Sets `portion.runs`."""

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
            for other in portions:
                if other.decided:
                    other.entity.rewind(other)
        self._state = None
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
