"""The two clocks everything is measured with, handed in as an argument so that tests can turn them.

Wall time names moments (`…_ms` since 1970 UTC) and may jump; order never depends on it.
Monotonic time measures spans and budgets, in seconds.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()
