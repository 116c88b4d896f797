"""Who wakes jobs, when they cannot be woken: under a clock that stands still."""

from collections.abc import Sequence
from typing import Any

import pytest

from palyra_actors.actors.rota import Rota
from palyra_actors.actors.scheduler import (
    AGAIN_S_MAX,
    SLICE_MAX,
    TURN_S,
    UNAVAILABLE_S_MAX,
    WAKES_A_TURN_MAX,
    WAKES_AT_ONCE_MAX,
    Done,
    Due,
    Scheduler,
)
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

    def _wake(self, due: Sequence[Due], done: Done) -> None:
        ((job_id, moment),) = due
        self.tries.append(self.clock.wall_ms())
        self.loop.call_later(0.001, lambda: done(job_id, moment, self.answer))

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


class Counted:
    """A scheduler that keeps what it woke together until `answer`."""

    def __init__(self, clock: ManualClock) -> None:
        self.loop = Loop("scheduler", clock)
        self.clock = clock
        self.slices: list[Sequence[Due]] = []
        self.under_way: list[tuple[Due, Done]] = []
        self.works_ms = 0.0
        self.in_company = False
        self.scheduler = Scheduler(
            self.loop, lambda find, done: done([]), self._wake, Rota(clock), lambda: self.in_company
        )

    def _wake(self, due: Sequence[Due], done: Done) -> None:
        self.slices.append(due)
        self.under_way += [(one, done) for one in due]
        self.clock.turn(self.works_ms)

    def know(self, count: int) -> None:
        for number in range(count):
            job_id = number.to_bytes(16, "big")
            self.scheduler.written(job_id, self.clock.wall_ms() - 1, "local", "n")

    def look(self) -> list[int]:
        """How many jobs were woken at a time in one turn."""
        self.slices.clear()
        self.scheduler._look()
        return [len(one) for one in self.slices]

    def answer(self, answer: Any) -> None:
        under_way, self.under_way = self.under_way, []
        for one, done in under_way:
            done(*one, answer)

    def ring(self, ms: float) -> list[int]:
        """How many are woken at a time when so much time has passed."""
        self.clock.turn(ms)
        self.loop._ring_timers()
        return self.look()

    def fall_behind(self, count: int) -> None:
        """So many jobs have been woken, and were due again by then."""
        self.scheduler._look()
        self.know(count)
        while len(self.under_way) < count:
            assert self.look()
        self.answer({"wake_ms": self.clock.wall_ms()})
        assert self.scheduler.statistics().behind == count


def test_jobs_that_are_due_together_are_woken_in_slices_and_only_so_many_at_a_time(
    clock: ManualClock,
) -> None:
    counted = Counted(clock)
    counted.scheduler._look()
    counted.know(300)
    assert counted.look() == [SLICE_MAX] * (WAKES_A_TURN_MAX // SLICE_MAX)
    woken = [counted.look() for _ in range(5)]
    assert sum(map(sum, woken)) + WAKES_A_TURN_MAX == WAKES_AT_ONCE_MAX
    counted.answer({"wake_ms": None})
    assert counted.look() == [SLICE_MAX] * (WAKES_A_TURN_MAX // SLICE_MAX)


def test_a_turn_ends_with_the_slice_in_which_its_time_was_over(clock: ManualClock) -> None:
    counted = Counted(clock)
    counted.scheduler._look()
    counted.know(100)
    counted.works_ms = TURN_S * 1000 * 0.7
    assert counted.look() == [SLICE_MAX] * 2
    assert counted.loop.busy  # it goes on in the next round


def test_a_job_that_could_not_be_woken_keeps_nobody_else_waiting(clock: ManualClock) -> None:
    counted = Counted(clock)
    counted.scheduler._look()
    counted.know(3)
    assert counted.look() == [3]
    ((one, done), *others), counted.under_way = counted.under_way, []
    done(*one, StorageUnavailable("it cannot be read"))
    for other, other_done in others:
        other_done(*other, {"wake_ms": None})
    clock.turn(1_000)
    counted.loop._ring_timers()
    counted.know(3)
    assert sorted(counted.look()) == [1, 2]


def test_while_clients_write_jobs_that_are_behind_are_woken_by_slices_with_as_much_time_between(
    clock: ManualClock,
) -> None:
    counted = Counted(clock)
    counted.in_company = True
    counted.fall_behind(100)
    counted.works_ms = 2.0
    assert counted.look() == [SLICE_MAX // 2]
    assert counted.look() == []  # one is under way
    assert counted.ring(3) == []
    counted.answer({"wake_ms": clock.wall_ms()})  # 2 ms of work, and 3 until it was written
    assert [counted.ring(4), counted.look()] == [[], []]
    assert counted.ring(2) == [10]  # as many as take 2.5 ms
    counted.in_company = False
    counted.answer({"wake_ms": clock.wall_ms()})
    assert [len(counted.look()), len(counted.look())] == [1, 1]  # nobody else wants the time


def test_a_slice_of_jobs_that_are_behind_is_no_larger_than_its_time_allows(
    clock: ManualClock,
) -> None:
    counted = Counted(clock)
    counted.fall_behind(100)
    sizes = []
    for works_ms in (20.0, 20.0, 0.5, 0.1, 0.1, 0.1):
        counted.works_ms = works_ms
        sizes += counted.look()
        counted.answer({"wake_ms": clock.wall_ms()})
    assert sizes == [SLICE_MAX // 2, 1, 1, 2, 4, 8]


def test_jobs_that_are_in_time_are_woken_before_those_that_are_behind(clock: ManualClock) -> None:
    counted = Counted(clock)
    counted.in_company = True
    counted.fall_behind(40)
    assert counted.look() == [SLICE_MAX // 2]
    in_time = (1_000).to_bytes(16, "big")
    counted.scheduler.written(in_time, clock.wall_ms(), "local", "n")
    assert counted.look() == [1]
    assert counted.slices[0][0][0] == in_time


def test_a_job_that_has_caught_up_is_behind_no_more_nor_is_one_that_is_gone(
    clock: ManualClock,
) -> None:
    counted = Counted(clock)
    counted.fall_behind(3)
    counted.look()
    (caught_up, gone, failed), counted.under_way = counted.under_way, []
    for (one, done), answer in (
        (caught_up, {"wake_ms": clock.wall_ms() + 1_000}),
        (gone, NotFound("there is no such job")),
        (failed, StorageUnavailable("the disk is full")),
    ):
        done(*one, answer)
    assert counted.scheduler.statistics().behind == 0
    counted.fall_behind(2)
    counted.scheduler.written((0).to_bytes(16, "big"), None, "local", "n")  # it was disabled
    assert counted.scheduler.statistics().behind == 1
    assert counted.look() == [1]
