"""Long work on the writer's connection, in slices: others are written between two of them.

    a slice, a slice, … ──▶ sweep: free pages ─▶ WAL into the database, beside the writer ─▶ WAL cut

Whoever destroys something ends with a sweep: nothing of it is in free pages or in the log then.
"""

import logging
from collections.abc import Callable
from typing import Final

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.pace import Pace
from palyra_actors.errors import PalyraError
from palyra_actors.storage.port import WriteSide

log = logging.getLogger(__name__)

SHRINK_PAGES_MAX: Final = 128
CUT_FRAMES_MAX: Final = 128
"""Frames that may be left in the WAL when it is cut off: half a megabyte, which is moved and synced
in a few milliseconds. Where more were written meanwhile, a checkpoint beside the writer goes first
again."""

UNMOVED_FRAMES_MAX: Final = 512
"""Frames in the WAL for which the next slice waits until they are in the database. Slices write
pages from all over the file: the sync of four megabytes of them takes 10 to 50 ms, in which others'
commits wait for the disk."""

AGAIN_S: Final = 0.05
"""How often it is looked whether readers have let go of the WAL."""

AFTER_FAILURE_S: Final = 1.0


def do_slice(
    counter: Counter,
    work: Callable[[WriteSide], int],
    then: Callable[[int | PalyraError, float], None],
) -> None:
    """Have it done between two groups once there is room; `then` hears what came of it and how many
    seconds it took, on the loop's thread, and not before a checkpoint where slices have left much
    for one."""
    loop = counter.loop

    def chore(storage: WriteSide) -> None:
        began = loop.clock.monotonic()
        result: int | PalyraError
        unmoved = 0
        try:
            result = work(storage)
            unmoved = storage.unmoved_frames()
        except PalyraError as error:
            result = error
        seconds = loop.clock.monotonic() - began

        def told() -> None:
            loop.call_soon(lambda: then(result, seconds))

        loop.call_soon(lambda: counter.room.took(seconds))
        if unmoved > UNMOVED_FRAMES_MAX:
            counter.urge_checkpoint(told)
        else:
            told()

    counter.room.ask(lambda: counter.chore(chore))


def wait_for_room(counter: Counter, then: Callable[[], None]) -> None:
    """Call `then` once what was written does not ask for a checkpoint any more."""
    do_slice(counter, lambda _: 0, lambda result, seconds: then())


def give_back(counter: Counter, then: Callable[[], None]) -> None:
    """Cut all free pages off the file."""
    _Shrinking(counter, then).slice()


def sweep(counter: Counter, then: Callable[[], None]) -> None:
    """Leave nothing in free pages or in the WAL of what was destroyed before; then call `then`.

    It waits for readers that hold an old snapshot.
    """
    give_back(counter, _Cutting(counter, then).move)


class _Shrinking:
    """One `give_back`. No function here holds itself, which would be for the collector to find."""

    def __init__(self, counter: Counter, then: Callable[[], None]) -> None:
        self._counter = counter
        self._then = then
        self._pace = Pace(16, SHRINK_PAGES_MAX)

    def slice(self) -> None:
        do_slice(self._counter, lambda storage: storage.shrink(self._pace.size), self._done)

    def _done(self, left: int | PalyraError, seconds: float) -> None:
        if isinstance(left, PalyraError):
            log.warning("free pages could not be given back yet: %s", left)
            self._counter.call_later(AFTER_FAILURE_S, self.slice)
            return
        self._pace.took(seconds)
        if left:
            self.slice()
        else:
            self._then()


class _Cutting:
    """The WAL's part of one `sweep`."""

    def __init__(self, counter: Counter, then: Callable[[], None]) -> None:
        self._counter = counter
        self._then = then

    def move(self) -> None:
        self._counter.urge_checkpoint(lambda: self._counter.loop.call_soon(self._cut))

    def _cut(self) -> None:
        do_slice(self._counter, _cut, self._done)

    def _done(self, result: int | PalyraError, seconds: float) -> None:
        del seconds
        if isinstance(result, PalyraError):
            self._counter.call_later(AGAIN_S, self.move)
        else:
            self._then()


def _cut(storage: WriteSide) -> int:
    storage.empty_wal(CUT_FRAMES_MAX)
    return 0
