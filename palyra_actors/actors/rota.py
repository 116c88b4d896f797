"""The engine's own jobs, each at its interval: upkeep that nobody asks for.

    every ──interval──▶ call ──interval──▶ call …    on a grid: no call moves a later one

The scheduler wakes them by the timer by which it wakes everybody's jobs. They are no rows and no
runs, and a turn that changes nothing is no event: what a turn changes is an event of its own, and
an idle journal does not grow. Intervals are monotonic time, so a clock that is set moves none of
them. A turn that comes late is one turn, however many were due; one that was due while no engine
ran is caught up soon after the start, where it is known when the last one was.
"""

import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from palyra_actors.clock import Clock

log = logging.getLogger(__name__)

CATCH_UP_S: Final = 1.0
"""After the start: clients come first."""


@dataclass(slots=True)
class Duty:
    """`last_ms`: wall time of the last turn, maybe of an earlier start; None: there was none yet.
    `at`: monotonic time of the next one, in seconds."""

    name: str
    every_ms: int
    call: Callable[[], None]
    at: float
    last_ms: int | None
    turns: int = 0
    failures: int = 0


class Rota:
    """Lives in the loop's thread. `changed` is called when there is one more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._duties: dict[str, Duty] = {}
        self._heap: list[tuple[float, str]] = []
        self.changed: Callable[[], None] = lambda: None

    def every(
        self,
        name: str,
        every_ms: int,
        call: Callable[[], None],
        *,
        last_ms: int | None = None,
        catch_up: bool = True,
    ) -> None:
        """Have `call` called every so many milliseconds, for the first time when that is over since
        `last_ms`, or since now.

        On the loop's thread: it returns at once, and what takes longer it gives to a reader, to the
        writer as a chore, or to an entity. One that raises is logged, counted and called again.
        """
        assert name not in self._duties, name
        wait_s = every_ms / 1000
        if last_ms is not None and catch_up:
            over_s = (self._clock.wall_ms() - last_ms) / 1000
            wait_s = min(wait_s, max(wait_s - over_s, CATCH_UP_S))
        duty = Duty(name, every_ms, call, self._clock.monotonic() + wait_s, last_ms)
        self._duties[name] = duty
        heapq.heappush(self._heap, (duty.at, name))
        self.changed()

    def turn(self) -> None:
        """Call what is due, each once."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            duty = self._duties[self._heap[0][1]]
            every_s = duty.every_ms / 1000
            duty.at += (int((now - duty.at) / every_s) + 1) * every_s
            if duty.at <= now:  # by a rounding
                duty.at += every_s
            heapq.heapreplace(self._heap, (duty.at, duty.name))
            self._call(duty)

    def wait_s(self) -> float | None:
        """How long until the next one is due; None: there is none."""
        return max(0.0, self._heap[0][0] - self._clock.monotonic()) if self._heap else None

    def statistics(self) -> dict[str, dict[str, int | None]]:
        """Of each duty: its interval, its turns since the start, how many failed, the last one and
        the next one by the wall clock."""
        clock = self._clock
        return {
            duty.name: {
                "every_ms": duty.every_ms,
                "turns": duty.turns,
                "failures": duty.failures,
                "last_ms": duty.last_ms,
                "next_ms": clock.wall_ms() + round((duty.at - clock.monotonic()) * 1000),
            }
            for duty in self._duties.values()
        }

    def _call(self, duty: Duty) -> None:
        duty.turns += 1
        duty.last_ms = self._clock.wall_ms()
        try:
            duty.call()
        except Exception:
            duty.failures += 1
            log.exception("the duty %s failed; it comes again", duty.name)
