"""The clock that only a test turns, and what a clock that is set has no part in."""

import time
from pathlib import Path

import pytest

from palyra_actors.api.events import Event, new_id
from palyra_actors.clock import Clock, SystemClock
from palyra_actors.engine import Engine
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


def test_the_engines_own_clock_measures_time_by_what_nobody_can_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SystemClock()
    before = clock.monotonic()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert clock.wall_ms() == 0
    assert clock.monotonic() >= before


def test_under_a_clock_that_stands_still_no_commit_takes_any_time(database: Path) -> None:
    """Nor does one that is timed where no test's clock is known."""
    with Engine.open(database, clock=ManualClock()) as engine:
        for _ in range(20):
            timing = engine.append(Event(new_id(), "message_received", {})).timing
            assert (timing.commit_ms, timing.within_budget) == (0.0, True)
        assert engine.health().status == "ready"


def test_events_are_read_in_the_order_of_their_numbers_when_the_clock_is_set_back(
    database: Path,
) -> None:
    clock, session = ManualClock(wall_ms=5_000_000), new_id()
    with Engine.open(database, clock=clock) as engine:
        for wall_ms in (5_000_000, 4_000_000, 1_000_000):
            clock.jump(wall_ms)
            engine.sessions.open(session).append("message_received", {}, actor="user")
        events = list(engine.events())
    assert [(event.seq, event.stream_seq) for event in events] == [(1, 1), (2, 2), (3, 3)]
    assert [event.recorded_ms for event in events] == [5_000_000, 4_000_000, 1_000_000]
