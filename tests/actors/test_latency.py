"""What the latency monitor counts, and what that costs whoever waits meanwhile."""

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from palyra_actors.actors.latency import (
    BOUNDS_MS,
    HIGHEST_US,
    SAMPLES_MAX,
    SIGNIFICANT_DIGITS,
    Histogram,
    Latency,
)
from palyra_actors.actors.steering import Controller, Measured, Times
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.testing.clock import ManualClock

VALUES = np.concatenate(
    (
        np.arange(1, 2_000, dtype=np.int64),
        np.geomspace(2_000, HIGHEST_US, 5_000).astype(np.int64),
    )
)


def test_what_is_counted_at_one_go_is_what_the_library_counts_one_by_one() -> None:
    ours, theirs = Histogram(), HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
    ours.record_all(VALUES)
    for value in VALUES.tolist():
        assert theirs.record_value(value)
    assert list(ours.counts) == list(theirs.counts)
    assert ours.get_total_count() == theirs.get_total_count()
    assert ours.get_max_value() == theirs.get_max_value()
    assert ours.get_min_value() == theirs.get_min_value()
    ours.reset()
    assert not ours.get_total_count()
    assert not any(ours.counts)


def test_no_latency_costs_the_loop_a_call_however_many_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    monitor = Latency(
        Loop("test", clock), Controller(budget_s=0.025, group_s_max=0.01, group_events_max=1_000)
    )

    def called(*_: object, **__: object) -> None:
        raise AssertionError("a call for a value: thousands of them stop the loop for milliseconds")

    monkeypatch.setattr(HdrHistogram, "record_value", called)
    ended = clock.monotonic()
    arrived = [ended - (1 + place) / 10_000 for place in range(SAMPLES_MAX)]
    times = Times(ended, ended, ended, 1, 2, 0.0, len(arrived), 0, 0.0)
    monitor.on_receive(Measured(times, arrived))
    found = monitor.statistics()
    assert found.requests == sum(found.counts) == SAMPLES_MAX
    assert found.counts[BOUNDS_MS.index(0.5)] == 5
    assert found.total.max == pytest.approx(SAMPLES_MAX / 10, rel=0.01)
