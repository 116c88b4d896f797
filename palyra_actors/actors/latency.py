"""The latency monitor: what each group measured, as histograms, and what follows from it.

It owns the budget: what it learns goes into the `steering.Plan`, by which admission, writer and
checkpoints work.

Latencies are those of the contract's `total_ms`: from the arrival of a request's frame to the end
of its commit.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hdrh.histogram import HdrHistogram

from palyra_actors.actors.steering import Controller
from palyra_actors.actors.writer import Measured
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop

HIGHEST_US: Final = 600_000_000
SIGNIFICANT_DIGITS: Final = 2
SAMPLES_MAX: Final = 16_384
"""Latencies that wait to be counted. They are counted together, rounded to what the histogram
can tell apart: one call a value would cost as much as an append."""


@dataclass(frozen=True, slots=True)
class LatencyStatistics:
    """Milliseconds; 0.0 where nothing was measured yet."""

    p50: float
    p99: float
    max: float
    requests: int
    late: int


class Latency(PooledActor):
    """Takes `Measured` messages."""

    def __init__(self, loop: Loop, controller: Controller) -> None:
        super().__init__(loop)
        self._controller = controller
        self._histogram = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
        self._samples: list[float] = []
        self._late = 0
        self._requests = 0

    def on_receive(self, message: Any) -> None:
        assert isinstance(message, Measured)
        self._controller.observe(message.times)
        ended = message.times.ended
        self._samples += [ended - arrived for arrived in message.arrived]
        self._late += message.late
        self._requests += len(message.arrived)
        if len(self._samples) >= SAMPLES_MAX:
            self._count()

    def on_failed(self, message: Any, error: BaseException) -> None:
        """What a group measured is lost; the next one is measured."""
        del message, error
        self._samples.clear()

    def statistics(self) -> LatencyStatistics:
        """On the loop's thread."""
        self._count()
        histogram = self._histogram
        if not histogram.get_total_count():
            return LatencyStatistics(0.0, 0.0, 0.0, 0, 0)
        return LatencyStatistics(
            histogram.get_value_at_percentile(50) / 1000,
            histogram.get_value_at_percentile(99) / 1000,
            histogram.get_max_value() / 1000,
            self._requests,
            self._late,
        )

    def _count(self) -> None:
        if not self._samples:
            return
        microseconds = np.clip(np.array(self._samples) * 1e6, 1, HIGHEST_US)
        self._samples.clear()
        scale = 10.0 ** (np.floor(np.log10(microseconds)) - SIGNIFICANT_DIGITS)
        values, counts = np.unique(np.round(microseconds / scale) * scale, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._histogram.record_value(int(value), count)
