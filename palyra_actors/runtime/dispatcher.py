"""Threads that give actors their turns.

    Loop   one thread: actors, timers and one source of outside input, by rounds
    Pool   a fixed number of threads: actors whose handlers wait for a disk

Both are fair in the same way: a turn handles at most `turn_messages_max` messages and then the
actor goes to the end of the line.

Neither needs its thread: one that was never started is turned by `step`, from the one thread of a
simulation (`palyra_actors.testing.sim`).
"""

import heapq
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from palyra_actors.clock import Clock
from palyra_actors.runtime.wakeup import Wakeup

log = logging.getLogger(__name__)

TURN_MESSAGES_MAX_DEFAULT: Final = 64
WAIT_MS_MAX: Final = 1_000  # a sleeping loop looks around at least this often


class Runnable(Protocol):
    """What a dispatcher gives turns to: `runtime.actor.PooledActor`."""

    def take_turn(self, messages_max: int) -> None: ...


class Source(Protocol):
    """Outside input of a loop: a socket. All calls come from the loop's thread."""

    def wait(self, wakeup: Wakeup, wait_ms_max: int) -> None:
        """Sleep until there is input or the wake-up rings (and clear it), at most that long."""
        ...

    def receive(self) -> None:
        """Take what has arrived, at most one round of it."""
        ...


class Timer:
    """One call at a time to come; `cancel` forgets it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """Counts since the start; `ready` is how many actors wait for a turn now."""

    threads: int
    turns: int
    ready: int


def _nothing() -> None:
    pass


def _raise(error: BaseException) -> None:
    raise error


class Loop:
    """One thread that runs rounds: calls, timers, input, turns, late turns, replies, sleep.

    Late actors (`late=True`) get their turn after all others of the round: the writer among them,
    so that one group holds all that a round has decided. `after_round` calls run at the end of
    each round: replies leave there, once for everything that became ready in it.

    Nothing that runs here may block; a handler that waits stalls every actor of the loop.
    `slept_s` is how long it slept in all, in seconds.
    """

    def __init__(
        self, name: str, clock: Clock, turn_messages_max: int = TURN_MESSAGES_MAX_DEFAULT
    ) -> None:
        self.name = name
        self.clock = clock
        self._turn_messages_max = turn_messages_max
        self._ready: deque[Runnable] = deque()
        self._late: deque[Runnable] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_numbers = count()
        self._wakeup = Wakeup()
        self._asleep = False
        self._source: Source | None = None
        self._after_round: list[Callable[[], None]] = []
        self._stopping = False
        self._turns = 0
        self.slept_s = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # -- from any thread ---------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def hand_over(self, actor: Runnable, late: bool = False) -> None:
        """Queue an actor for a turn."""
        (self._late if late else self._ready).append(actor)
        if self._asleep:
            self._wakeup.ring()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run `call` in the loop's thread."""
        self._calls.append(call)
        if self._asleep:
            self._wakeup.ring()

    def bell(self) -> int:
        """A descriptor that makes sure a round comes when 1 is added to it, an eventfd. It
        is whoever's who asks."""
        return self._wakeup.duplicate()

    def poke(self) -> None:
        """Make sure that a round comes. Any thread."""
        if self._asleep:
            self._wakeup.ring()

    def stop(self, wait_s_max: float) -> bool:
        """Leave after the round that is running. False: it did not within `wait_s_max`."""
        self._stopping = True
        self._wakeup.ring()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(wait_s_max)
        if self._thread.is_alive():
            return False
        self._wakeup.close()
        return True

    @property
    def running_here(self) -> bool:
        """Whether the caller is the loop's own thread."""
        return threading.get_ident() == self._thread.ident

    @property
    def busy(self) -> bool:
        """Whether a round would find something besides timers and outside input."""
        return bool(self._ready or self._late or self._calls)

    def statistics(self) -> DispatcherStatistics:
        return DispatcherStatistics(1, self._turns, len(self._ready) + len(self._late))

    # -- from the loop's thread (or before it starts) -----------------------------------------

    def attach(self, source: Source) -> None:
        self._source = source

    def detach(self) -> None:
        self._source = None

    def after_round(self, call: Callable[[], None]) -> None:
        self._after_round.append(call)

    def call_at(self, moment: float, call: Callable[[], None]) -> Timer:
        """Run `call` once the monotonic clock has passed `moment` (seconds)."""
        timer = Timer(call)
        heapq.heappush(self._timers, (moment, next(self._timer_numbers), timer))
        return timer

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due, in seconds of the monotonic clock; it may be cancelled."""
        return self._timers[0][0] if self._timers else None

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self.call_at(self.clock.monotonic() + seconds, call)

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._round()
            except BaseException:
                log.critical("a round of %s failed", self.name, exc_info=True)
                self._calls.append(_nothing)  # the next round comes at once: replies may wait

    def _round(self) -> None:
        if not self.busy:
            self._sleep()
        self.step()

    def step(self) -> None:
        """One round without the sleep before it.

        What fails in it takes nothing else of the round along; the first failure is raised at the
        end, for the caller.
        """
        failures: list[BaseException] = []
        calls, failed = self._calls, failures.append
        for _ in range(len(calls)):
            try:
                calls.popleft()()
            except BaseException as error:  # noqa: BLE001 - raised below
                failed(error)
        if self._timers:
            self._ring_timers(failed)
        if self._source is not None:
            try:
                self._source.receive()
            except BaseException as error:  # noqa: BLE001 - raised below
                failed(error)
        ready, messages_max = self._ready, self._turn_messages_max
        turns = len(ready)
        for _ in range(turns):
            try:
                ready.popleft().take_turn(messages_max)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed(error)
        late = self._late
        turns += len(late)
        for _ in range(len(late)):
            try:
                late.popleft().take_turn(messages_max)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed(error)
        self._turns += turns
        for call in self._after_round:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised below
                failed(error)
        if failures:
            for other in failures[1:]:
                log.critical("a round of %s failed again", self.name, exc_info=other)
            raise failures[0]

    def _sleep(self) -> None:
        wait_ms_max = WAIT_MS_MAX
        if self._timers:
            seconds = self._timers[0][0] - self.clock.monotonic()
            wait_ms_max = min(WAIT_MS_MAX, max(0, int(seconds * 1000) + 1))
        self._asleep = True
        if self._ready or self._late or self._calls or self._stopping:
            wait_ms_max = 0  # it came between the look and the flag
        began = self.clock.monotonic()
        if self._source is not None:
            self._source.wait(self._wakeup, wait_ms_max)
        else:
            self._wakeup.wait(wait_ms_max)
        self._asleep = False
        self.slept_s += self.clock.monotonic() - began

    def _ring_timers(self, failed: Callable[[BaseException], None] = _raise) -> None:
        now = self.clock.monotonic()
        timers = self._timers
        while timers and timers[0][0] <= now:
            call = heapq.heappop(timers)[2].call
            if call is not None:
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 - the round's caller is told
                    failed(error)


class Pool:
    """A fixed number of threads for actors that wait for a disk."""

    def __init__(
        self, name: str, threads: int, turn_messages_max: int = TURN_MESSAGES_MAX_DEFAULT
    ) -> None:
        self.name = name
        self._turn_messages_max = turn_messages_max
        self._ready: queue.SimpleQueue[Runnable | None] = queue.SimpleQueue()
        self._turns = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def hand_over(self, actor: Runnable, late: bool = False) -> None:
        """Queue an actor for a turn. A pool has no rounds, so `late` means nothing here."""
        del late
        self._ready.put(actor)

    def stop(self, wait_s_max: float) -> bool:
        """Leave after the turns that are running. False: a thread did not within `wait_s_max`."""
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(wait_s_max)
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def busy(self) -> bool:
        """Whether an actor waits for a turn."""
        return not self._ready.empty()

    def step(self) -> bool:
        """One turn in the calling thread. False: nobody waits for one."""
        if not self.busy or (actor := self._ready.get_nowait()) is None:
            return False
        self._turns += 1
        actor.take_turn(self._turn_messages_max)
        return True

    def statistics(self) -> DispatcherStatistics:
        return DispatcherStatistics(len(self._threads), self._turns, self._ready.qsize())

    def _run(self) -> None:
        while (actor := self._ready.get()) is not None:
            self._turns += 1
            try:
                actor.take_turn(self._turn_messages_max)
            except BaseException:
                log.critical("a turn of %r failed", actor, exc_info=True)
