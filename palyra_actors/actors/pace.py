"""How much of a long work goes into one slice, and when the next one comes: others have their turn.

Pace is each work's own. The Room is everybody's: all upkeep together, and long reads, take from it
what writes leave.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.runtime.mailbox import MailboxFull

log = logging.getLogger(__name__)

SLICE_S: Final = 0.0025
"""What a slice is to take of the time of those who wait for it: a tenth of their budget."""

SHARE: Final = 0.25
SHARE_PRESSED: Final = 0.1
"""Of the time, what slices may take while clients write; and while writes are near their budget."""

REST_S_MAX: Final = 0.25
"""However long a slice took, the next one comes after this."""

LOST_S: Final = 1.0
"""After which a slice of which nobody said how long it took is taken for done."""

LOOK_S: Final = 0.02
"""How often it is looked, at least, whether somebody who waits may go on: clients may have gone."""


class Pace:
    """How much goes into a slice: it follows from how long the last one took."""

    def __init__(self, first: int, most: int) -> None:
        self.size = first
        self._most = most

    def took(self, seconds: float) -> None:
        """A slice of that size; at most twice as much goes into the next."""
        wanted = int(self.size * SLICE_S / max(seconds, 1e-5))
        self.size = min(max(1, wanted), 2 * self.size, self._most)


class Room:
    """While clients write, slices come one after the other, whosever they are, and after each there
    is a rest that is the longer the longer it took. While nobody does, all of them come at once.
    Reads and all else take turns, so that many of the ones keep none of the others waiting long.

    `in_company` says whether clients write, from any thread; `pressed` whether their writes are
    near their budget. All else but `open` and `rest` is the loop's thread's.
    """

    def __init__(
        self, loop: Loop, in_company: Callable[[], bool], pressed: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._in_company = in_company
        self._pressed = pressed
        self._reads: deque[Callable[[], None]] = deque()
        self._others: deque[Callable[[], None]] = deque()
        self._was_read = False  # the last slice that began
        self._began: float | None = None  # the slice that is under way
        self._free_at = 0.0
        self._looking = self._beginning = False

    @property
    def open(self) -> bool:
        """Whether nobody has to ask. Any thread."""
        return not (self._reads or self._others or self._in_company())

    @property
    def reads_waiting(self) -> int:
        return len(self._reads)

    def ask(self, slice_: Callable[[], None], *, read: bool = False) -> None:
        """Begin a slice when it is its turn, maybe at once. Whoever does it says what it `took`.
        One that raises MailboxFull stays the first of its line, and is tried again."""
        (self._reads if read else self._others).append(slice_)
        self._look()

    def took(self, seconds: float, *, asked: bool = True) -> None:
        """A slice is over. One that did not ask, for it was `open`, ends nobody's turn, but is
        followed by a rest."""
        if asked:
            self._began = None
        share = SHARE_PRESSED if self._pressed() else SHARE
        rest_s = min(seconds * (1 / share - 1), REST_S_MAX)
        self._free_at = max(self._free_at, self._loop.clock.monotonic() + rest_s)
        self._look()

    def rest(self, took_s: float) -> None:
        """For a thread of somebody's own that works in slices: one took so long, and this returns
        when the next one may begin."""
        turn = threading.Event()
        go_on = turn.set

        def ask() -> None:
            self.took(took_s)
            self.ask(go_on)

        self._loop.call_soon(ask)
        if not turn.wait(REST_S_MAX):
            self._loop.call_soon(lambda: self._forget(go_on))

    def _forget(self, slice_: Callable[[], None]) -> None:
        """It has begun without its turn, which would be nobody's otherwise."""
        with suppress(ValueError):
            self._others.remove(slice_)
        self._look()

    def _look(self) -> None:
        if self._beginning:
            return  # whoever is at it goes on
        self._beginning = True
        try:
            while self._reads or self._others:
                if not self._may_begin() or not self._begin():
                    return
        finally:
            self._beginning = False

    def _may_begin(self) -> bool:
        if not self._in_company():
            return True
        now = self._loop.clock.monotonic()
        under_way = self._began is not None and now < self._began + LOST_S
        if under_way or now < self._free_at:
            self._look_later(LOOK_S if under_way else min(self._free_at - now, LOOK_S))
            return False
        return True

    def _begin(self) -> bool:
        """Begin whoever is the next one. False: it cannot yet."""
        reads = bool(self._reads) and not (self._others and self._was_read)
        line = self._reads if reads else self._others
        before, slice_ = self._began, line.popleft()
        self._began = self._loop.clock.monotonic()
        try:
            slice_()
        except MailboxFull:
            self._began = before
            line.appendleft(slice_)
            self._look_later(LOOK_S)
            return False
        except Exception:  # the others have their turn all the same
            log.exception("a slice could not begin")
            self._began = None
        self._was_read = reads
        return True

    def _look_later(self, seconds: float) -> None:
        if not self._looking:
            self._looking = True
            self._loop.call_later(seconds, self._look_now)

    def _look_now(self) -> None:
        self._looking = False
        self._look()
