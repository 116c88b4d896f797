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

from palyra_actors.actors.steering import Controller, Judged, Measured
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop

HIGHEST_US: Final = 600_000_000
SIGNIFICANT_DIGITS: Final = 2
SAMPLES_MAX: Final = 4_096
"""Latencies that wait to be counted, all of them together: a call of the library for each value
would cost as much as an append, and one for each that differs ten milliseconds at once, in which
everybody waits."""

WINDOW_S: Final = 5.0
"""What `recent` looks back on, at least."""

BOUNDS_MS: Final = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 35, 50, 100, 250, 1_000, 10_000)
"""Upper bounds of the counted ranges; what took longer is in one more."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds; 0.0 where nothing was measured."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class LatencyStatistics:
    """Since the start, and in `recent` over the last whole window (`WINDOW_S`), or the first one
    so far.

    `counts`: how many took up to each of `BOUNDS_MS` and more than the one before, and at last how
    many took longer; `sum_ms` of all.
    """

    total: Spread
    recent: Spread
    requests: int
    counts: tuple[int, ...]
    sum_ms: float


class Histogram(HdrHistogram):  # type: ignore[misc] # it has no types
    """Of microseconds, up to `HIGHEST_US`."""

    min_value: int
    max_value: int

    def __init__(self) -> None:
        super().__init__(1, HIGHEST_US, SIGNIFICANT_DIGITS)
        self._room = np.frombuffer(self.counts, dtype=np.uint64)  # the library's own counters

    def record_all(self, values: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """`record_value` of each, 1 to `HIGHEST_US`, at one go."""
        half = self.sub_bucket_half_count_magnitude
        bits = np.frexp((values | self.sub_bucket_mask).astype(np.float64))[1].astype(np.int64)
        buckets = bits - half - 1
        places = (buckets << half) + (values >> buckets)  # as `get_counts_array_index`
        self._room += np.bincount(places, minlength=len(self._room)).astype(np.uint64)
        self.total_count += len(values)
        self.min_value = min(self.min_value, int(values.min()))
        self.max_value = max(self.max_value, int(values.max()))


class Latency(PooledActor):
    """Takes `Measured` and `Judged` messages."""

    def __init__(self, loop: Loop, controller: Controller) -> None:
        super().__init__(loop)
        self._clock = loop.clock
        self._controller = controller
        self._histogram = Histogram()
        self._window = Histogram()
        self._window_ends = loop.clock.monotonic() + WINDOW_S
        self._recent: Spread | None = None
        self._counts = np.zeros(len(BOUNDS_MS) + 1, dtype=np.int64)
        self._sum_ms = 0.0
        self._samples: list[float] = []
        self._requests = 0

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Judged):
            self._controller.judge(message)
            return
        assert isinstance(message, Measured)
        self._controller.observe(message.times)
        ended = message.times.ended
        if ended >= self._window_ends:
            self._turn_window(ended)
        self._samples += [ended - arrived for arrived in message.arrived]
        self._requests += len(message.arrived)
        if len(self._samples) >= SAMPLES_MAX:
            self._count()

    def on_failed(self, message: Any, error: BaseException) -> None:
        """What a group measured is lost; the next one is measured."""
        del message, error
        self._samples.clear()

    def statistics(self) -> LatencyStatistics:
        """On the loop's thread."""
        now = self._clock.monotonic()
        if now >= self._window_ends:
            self._turn_window(now)
        self._count()
        return LatencyStatistics(
            _spread(self._histogram),
            _spread(self._window) if self._recent is None else self._recent,
            self._requests,
            tuple(self._counts.tolist()),
            self._sum_ms,
        )

    def _turn_window(self, now: float) -> None:
        """What came since the window began is what is recent, until the next one ends."""
        self._count()
        nobody_came = now >= self._window_ends + WINDOW_S
        self._recent = Spread() if nobody_came else _spread(self._window)
        self._window.reset()
        self._window_ends = now + WINDOW_S

    def _count(self) -> None:
        if not self._samples:
            return
        seconds = np.array(self._samples)
        self._samples.clear()
        self._sum_ms += float(seconds.sum()) * 1000
        places = np.searchsorted(_BOUNDS_S, seconds)
        self._counts += np.bincount(places, minlength=len(BOUNDS_MS) + 1)
        microseconds = np.clip(seconds * 1e6, 1, HIGHEST_US).astype(np.int64)
        self._histogram.record_all(microseconds)
        self._window.record_all(microseconds)


_BOUNDS_S: Final = np.array(BOUNDS_MS) / 1000


def _spread(histogram: HdrHistogram) -> Spread:
    if not histogram.get_total_count():
        return Spread()
    at = histogram.get_percentile_to_value_dict([50, 99])
    return Spread(at[50] / 1000, at[99] / 1000, histogram.get_max_value() / 1000)
