"""A clock that stands still until a test turns it. See `palyra_actors.clock`."""

import threading


class ManualClock:
    """Both clocks in one, for tests; any thread may read or turn it.

    Args:
        wall_ms: the wall time to start from, milliseconds since 1970 UTC.
        monotonic: the monotonic time to start from, in seconds.
    """

    def __init__(self, wall_ms: int = 1_700_000_000_000, monotonic: float = 1_000.0) -> None:
        self._lock = threading.Lock()
        self._wall_ms = wall_ms
        self._start = monotonic
        self._turned_ms = 0.0
        self._wall_rest_ms = 0.0

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        with self._lock:
            return self._wall_ms

    def monotonic(self) -> float:
        """Seconds; only `turn` moves it."""
        with self._lock:
            return self._start + self._turned_ms / 1000

    def turn(self, ms: float) -> None:
        """Let `ms` milliseconds pass on both clocks; fractions add up.

        Raises:
            ValueError: time does not pass backwards; that is what `jump` is for.
        """
        if ms < 0:
            raise ValueError(f"time cannot pass by {ms} ms")
        with self._lock:
            self._turned_ms += ms
            self._wall_rest_ms += ms
            whole = int(self._wall_rest_ms)
            self._wall_rest_ms -= whole
            self._wall_ms += whole

    def jump(self, wall_ms: int) -> None:
        """Set the wall clock, forwards or back, as an operator or NTP does; no time passes."""
        with self._lock:
            self._wall_ms = wall_ms
            self._wall_rest_ms = 0.0
