"""The engine's own duties under a clock that stands still."""

import pytest

from palyra_actors.actors.rota import Rota
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.testing.clock import ManualClock


def rings(loop: Loop, clock: ManualClock, ms: float) -> None:
    """Let time pass and ring what is due, in this thread."""
    clock.turn(ms)
    loop._ring_timers()


def test_a_duty_comes_at_its_interval_and_drifts_by_nothing(clock: ManualClock) -> None:
    loop = Loop("rota", clock)
    rota = Rota(loop)
    seen: list[int] = []
    start = clock.wall_ms()
    rota.every("sweep", 1_000, lambda: seen.append(clock.wall_ms() - start))
    for _ in range(30):
        rings(loop, clock, 150)
    assert seen == [1_050, 2_100, 3_000, 4_050]


def test_a_duty_that_comes_late_comes_once(clock: ManualClock) -> None:
    loop = Loop("rota", clock)
    rota = Rota(loop)
    seen: list[int] = []
    rota.every("sweep", 1_000, lambda: seen.append(1))
    rings(loop, clock, 10_500)
    assert len(seen) == 1
    rings(loop, clock, 500)
    assert len(seen) == 2


def test_a_clock_that_is_set_moves_no_duty(clock: ManualClock) -> None:
    loop = Loop("rota", clock)
    rota = Rota(loop)
    seen: list[int] = []
    rota.every("sweep", 1_000, lambda: seen.append(1))
    clock.jump(clock.wall_ms() + 86_400_000)
    rings(loop, clock, 999)
    assert seen == []
    rings(loop, clock, 1)
    assert seen == [1]


def test_a_duty_that_fails_is_counted_and_comes_again(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop("rota", clock)
    rota = Rota(loop)

    def fails() -> None:
        raise RuntimeError("no")

    rota.every("sweep", 1_000, fails)
    for _ in range(3):
        rings(loop, clock, 1_000)
    assert "the duty sweep failed" in caplog.text
    assert rota.statistics()["sweep"] == {
        "every_ms": 1_000, "turns": 3, "failures": 3, "last_ms": clock.wall_ms(),
    }  # fmt: skip
