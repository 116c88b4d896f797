"""How much of a long work goes into one slice, so that others get their turn in time."""

from typing import Final

SLICE_S: Final = 0.0025
"""What a slice is to take of the time of those who wait for it: a tenth of their budget."""


class Pace:
    """How much goes into a slice: it follows from how long the last one took."""

    def __init__(self, first: int, most: int) -> None:
        self.size = first
        self._most = most

    def took(self, seconds: float) -> None:
        """A slice of that size; at most twice as much goes into the next."""
        wanted = int(self.size * SLICE_S / max(seconds, 1e-5))
        self.size = min(max(1, wanted), 2 * self.size, self._most)
