"""The engine's own duties, each at its interval: upkeep that nobody asks for.

    every ──interval──▶ call ──interval──▶ call …    on a grid: no call moves a later one

They are no jobs of anybody's and no events: what a duty changes is an event of its own. Spans are
monotonic time, so a clock that is set moves none of them. A turn that comes late is one turn,
however many were due.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from palyra_actors.runtime.dispatcher import Loop

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Duty:
    """`last_ms`: wall time of the last turn; None: there was none yet."""

    name: str
    every_ms: int
    turns: int = 0
    failures: int = 0
    last_ms: int | None = None


class Rota:
    """Lives in the loop's thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._duties: dict[str, Duty] = {}

    def every(self, name: str, every_ms: int, call: Callable[[], None]) -> None:
        """Have `call` called every so many milliseconds, for the first time after as many.

        On the loop's thread: it returns at once, and what takes longer it gives to a reader, to the
        writer as a chore, or to an entity. One that raises is logged, counted and called again.
        """
        assert name not in self._duties, name
        duty = self._duties[name] = Duty(name, every_ms)
        self._set(duty, call, self._loop.clock.monotonic() + every_ms / 1000)

    def statistics(self) -> dict[str, dict[str, int | None]]:
        """Of each duty: its interval, its turns since the start, how many failed, the last one."""
        return {
            duty.name: {
                "every_ms": duty.every_ms,
                "turns": duty.turns,
                "failures": duty.failures,
                "last_ms": duty.last_ms,
            }
            for duty in self._duties.values()
        }

    def _set(self, duty: Duty, call: Callable[[], None], moment: float) -> None:
        self._loop.call_at(moment, lambda: self._turn(duty, call, moment))

    def _turn(self, duty: Duty, call: Callable[[], None], moment: float) -> None:
        clock, every_s = self._loop.clock, duty.every_ms / 1000
        behind = max(0, int((clock.monotonic() - moment) / every_s))
        self._set(duty, call, moment + (behind + 1) * every_s)
        duty.turns += 1
        duty.last_ms = clock.wall_ms()
        try:
            call()
        except Exception:
            duty.failures += 1
            log.exception("the duty %s failed; it comes again", duty.name)
