"""The clock that only a test turns."""

import pytest

from palyra_actors.clock import Clock
from palyra_actors.testing.clock import ManualClock


def test_it_stands_still_until_it_is_turned_and_then_both_clocks_move() -> None:
    clock: Clock = ManualClock(wall_ms=1_000, monotonic=5.0)
    assert isinstance(clock, ManualClock)
    assert [(clock.wall_ms(), clock.monotonic()) for _ in range(3)] == [(1_000, 5.0)] * 3
    clock.turn(250)
    assert (clock.wall_ms(), clock.monotonic()) == (1_250, 5.25)


def test_fractions_of_a_millisecond_add_up() -> None:
    clock = ManualClock(wall_ms=0, monotonic=0.0)
    for _ in range(10):
        clock.turn(0.5)
    assert clock.wall_ms() == 5
    assert clock.monotonic() == pytest.approx(0.005)


def test_a_jump_of_the_wall_clock_lets_no_time_pass() -> None:
    clock = ManualClock(wall_ms=1_000, monotonic=5.0)
    clock.jump(10)
    assert (clock.wall_ms(), clock.monotonic()) == (10, 5.0)


def test_time_does_not_pass_backwards() -> None:
    with pytest.raises(ValueError, match="-1"):
        ManualClock().turn(-1)
