"""The engine's own jobs under a clock that stands still, and who wakes them."""

from typing import Any

import pytest

from palyra_actors.actors.rota import CATCH_UP_S, Rota
from palyra_actors.actors.scheduler import Scheduler
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.testing.clock import ManualClock


def passes(rota: Rota, clock: ManualClock, ms: float) -> None:
    """Let time pass and do what is due."""
    clock.turn(ms)
    rota.turn()


def test_a_duty_comes_at_its_interval_and_drifts_by_nothing(clock: ManualClock) -> None:
    rota = Rota(clock)
    seen: list[int] = []
    start = clock.wall_ms()
    rota.every("sweep", 1_000, lambda: seen.append(clock.wall_ms() - start))
    for _ in range(30):
        passes(rota, clock, 150)
    assert seen == [1_050, 2_100, 3_000, 4_050]


def test_a_duty_that_comes_late_comes_once(clock: ManualClock) -> None:
    rota = Rota(clock)
    seen: list[int] = []
    rota.every("sweep", 1_000, lambda: seen.append(1))
    passes(rota, clock, 10_500)
    assert len(seen) == 1
    passes(rota, clock, 500)
    assert len(seen) == 2


def test_a_clock_that_is_set_moves_no_duty(clock: ManualClock) -> None:
    rota = Rota(clock)
    seen: list[int] = []
    rota.every("sweep", 1_000, lambda: seen.append(1))
    clock.jump(clock.wall_ms() + 86_400_000)
    passes(rota, clock, 999)
    assert seen == []
    passes(rota, clock, 1)
    assert seen == [1]


@pytest.mark.parametrize(
    ("ago_ms", "catch_up", "wait_s"),
    [
        (2_000, True, 8.0),  # it goes on where it was
        (9_500, True, CATCH_UP_S),
        (86_400_000, True, CATCH_UP_S),  # one turn for all that were due meanwhile
        (86_400_000, False, 10.0),
        (-86_400_000, True, 10.0),  # the clock was set back since
    ],
)
def test_what_was_due_while_no_engine_ran_is_caught_up_soon_after_the_start(
    clock: ManualClock, ago_ms: int, catch_up: bool, wait_s: float
) -> None:
    rota = Rota(clock)
    last_ms = clock.wall_ms() - ago_ms
    rota.every("sweep", 10_000, lambda: None, last_ms=last_ms, catch_up=catch_up)
    assert rota.wait_s() == pytest.approx(wait_s)
    told = rota.statistics()["sweep"]
    assert (told["last_ms"], told["turns"]) == (last_ms, 0)
    assert told["next_ms"] == clock.wall_ms() + wait_s * 1000


def test_a_duty_that_fails_is_counted_and_comes_again(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    rota = Rota(clock)

    def fails() -> None:
        raise RuntimeError("no")

    rota.every("sweep", 1_000, fails)
    for _ in range(3):
        passes(rota, clock, 1_000)
    assert "the duty sweep failed" in caplog.text
    assert rota.statistics()["sweep"] == {
        "every_ms": 1_000, "turns": 3, "failures": 3, "last_ms": clock.wall_ms(),
        "next_ms": clock.wall_ms() + 1_000,
    }  # fmt: skip


@pytest.mark.parametrize("wakes_jobs", [True, False])
def test_the_schedulers_one_timer_wakes_the_engines_own_jobs_exactly(
    clock: ManualClock, wakes_jobs: bool
) -> None:
    loop, rota = Loop("rota", clock), Rota(clock)
    reads: list[Any] = []
    scheduler = Scheduler(loop, lambda find, done: reads.append(done), lambda *_: None, rota)
    scheduler.wakes_jobs = wakes_jobs
    rota.changed = scheduler.tell = scheduler._look  # type: ignore[method-assign]
    seen: list[int] = []
    start = clock.wall_ms()
    rota.every("sweep", 1_500, lambda: seen.append(clock.wall_ms() - start))
    for _ in range(60):
        clock.turn(50)
        loop._ring_timers()
    assert seen == [1_500, 3_000]
    assert len(reads) == wakes_jobs
