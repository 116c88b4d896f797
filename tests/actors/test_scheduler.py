"""Who wakes jobs, when they cannot be woken: under a clock that stands still."""

from collections.abc import Callable
from typing import Any

import pytest

from palyra_actors.actors.rota import Rota
from palyra_actors.actors.scheduler import AGAIN_S_MAX, UNAVAILABLE_S_MAX, Moment, Scheduler
from palyra_actors.errors import InternalFault, NotFound, PalyraError, StorageUnavailable
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.testing.clock import ManualClock

JOB = bytes(16)


class Woken:
    """A scheduler whose only job answers as `answer` says. `tries`: when it was woken, in ms."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.loop = Loop("scheduler", clock)
        self.answer: PalyraError | dict[str, Any] = {"wake_ms": None}
        self.tries: list[int] = []
        self.scheduler = Scheduler(self.loop, lambda find, done: done([]), self._wake, Rota(clock))
        self.scheduler.tell = self.scheduler._look  # type: ignore[method-assign]
        self.scheduler.tell()

    def _wake(self, job_id: bytes, moment: Moment, done: Callable[[Any], None]) -> None:
        self.tries.append(self.clock.wall_ms())
        self.loop.call_later(0.001, lambda: done(self.answer))

    def turn(self, ms: int) -> None:
        for _ in range(ms // 50):
            self.clock.turn(50)
            self.loop._ring_timers()


@pytest.mark.parametrize(
    ("error", "longest_s"),
    [
        (StorageUnavailable("the disk is full"), UNAVAILABLE_S_MAX),
        (InternalFault("it is left alone"), AGAIN_S_MAX),
    ],
)
def test_a_job_that_cannot_be_woken_is_tried_later_and_later_and_soon_where_the_disk_is_to_blame(
    clock: ManualClock, error: PalyraError, longest_s: float
) -> None:
    woken = Woken(clock)
    woken.answer = error
    woken.scheduler.written(JOB, clock.wall_ms() + 100, "local", "n")
    woken.turn(600_000)
    spans = [after - before for before, after in zip(woken.tries, woken.tries[1:], strict=False)]
    assert spans[0] <= 200
    assert spans == sorted(spans)
    assert longest_s * 1_000 <= spans[-1] <= longest_s * 1_000 + 100
    assert woken.scheduler.statistics().failing == 1
    woken.answer = {"wake_ms": None}
    woken.turn(int(longest_s * 1_000) + 100)
    assert woken.scheduler.statistics().failing == 0


def test_a_job_that_is_gone_is_not_called_failing(clock: ManualClock) -> None:
    woken = Woken(clock)
    woken.answer = StorageUnavailable("the disk is full")
    woken.scheduler.written(JOB, clock.wall_ms() + 100, "local", "n")
    woken.turn(500)
    assert woken.scheduler.statistics().failing == 1
    woken.answer = NotFound("there is no such job")
    woken.turn(10_000)
    tried = len(woken.tries)
    woken.turn(10_000)
    assert (woken.scheduler.statistics().failing, len(woken.tries)) == (0, tried)
