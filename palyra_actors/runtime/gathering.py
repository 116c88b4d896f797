"""Threads that pass work to one another share a processor while there is much of it.

    note(count) ──at least `MUCH` a second──▶ one processor, not the caller's
                └─less, for `APART_AFTER_S`──▶ where they might run before

On two processors the system lets a thread that is woken run where its waker does. That may be
behind a third that does not sleep for milliseconds, and there it waits for the next tick of the
clock (4 ms at 250 Hz), whatever turns were asked for, while what it works for stands still.
Together they take turns of microseconds and keep the third off, which has the other processor;
where the system puts it to them all the same, they take the other one.

Only where there are exactly two: on more the system finds a free one by itself (not measured).
A lone message costs more together than apart, an eighth of its time there and back, so that they
part when there is little to do. The figures: `bench/bench_overload.py` in docs/performance.md.
"""

import ctypes
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from typing import Final, Protocol

log = logging.getLogger(__name__)

MUCH: Final = 10_000
"""A second. Of the refusals that these threads make, a hundredth of a core."""

LOOK_S: Final = 0.1
APART_AFTER_S: Final = 1.0
PROCESSORS: Final = 2


class Processors(Protocol):
    """What is asked of the system. Threads are named by their kernel's number."""

    def here(self) -> int:
        """The processor that the caller runs on. Raises OSError: nobody may know."""
        ...

    def of(self, thread: int) -> set[int]:
        """Where a thread may run. Raises OSError: it has ended, or nobody may know."""
        ...

    def put(self, thread: int, processors: set[int]) -> None:
        """Let it run there only. Raises OSError."""
        ...


class LinuxProcessors:
    """`sched_getcpu`, `sched_getaffinity`, `sched_setaffinity`."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def here(self) -> int:
        processor = int(self._libc.sched_getcpu())
        if processor < 0:
            raise OSError(ctypes.get_errno(), "sched_getcpu failed")
        return processor

    def of(self, thread: int) -> set[int]:
        return os.sched_getaffinity(thread)

    def put(self, thread: int, processors: set[int]) -> None:
        os.sched_setaffinity(thread, processors)


def threads_named(prefix: str) -> list[int]:
    """Threads of this process whose name, of which the kernel keeps 15 bytes, begins so."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError), open(f"/proc/self/task/{thread}/comm", encoding="utf-8") as file:
            if file.read().startswith(prefix):
                found.append(int(thread))
    return found


class Gathering:
    """All calls from one thread, which does not belong to them.

    Where it cannot be done, threads run where the system puts them, and it is not tried again.
    """

    def __init__(
        self, threads: Callable[[], Iterable[int]], processors: Processors | None = None
    ) -> None:
        self._threads = threads
        self._processors = LinuxProcessors() if processors is None else processors
        self._before: dict[int, set[int]] = {}
        self._may: set[int] = set()
        self._on = -1
        self._since = self._much_at = -inf
        self._count = 0
        self._given_up = False

    @property
    def together(self) -> bool:
        return bool(self._before)

    def note(self, count: int, now: float) -> None:
        """So much was done since this was called last. `now`: monotonic seconds. To be called
        every second at least while they are together."""
        self._count += count
        if self.together:
            self._make_way()
        passed_s = now - self._since
        if passed_s < LOOK_S or self._given_up:
            return
        much = self._count >= MUCH * passed_s
        self._since, self._count = now, 0
        if much:
            self._much_at = now
            if not self.together:
                self._gather()
        elif self.together and now - self._much_at >= APART_AFTER_S:
            self._part()

    def _gather(self) -> None:
        system = self._processors
        try:
            before = {thread: system.of(thread) for thread in self._threads()}
            may: set[int] = set.intersection(*before.values()) if before else set()
            if len(may) != PROCESSORS:
                self._given_up = True
                return
            self._before, self._may = before, may
            self._move(max(may - {system.here()}))
        except (OSError, AttributeError) as error:  # or a libc that cannot tell
            self._give_up(error)

    def _make_way(self) -> None:
        """The system has put the caller where they are: they take the other processor."""
        try:
            if self._processors.here() == self._on:
                self._move(max(self._may - {self._on}))
        except OSError as error:
            self._give_up(error)

    def _move(self, processor: int) -> None:
        self._on = processor
        for thread in self._before:
            self._processors.put(thread, {processor})

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        log.info("threads run where the system puts them: %s", error)
        self._part()

    def _part(self) -> None:
        for thread, may in self._before.items():
            with suppress(OSError):
                self._processors.put(thread, may)
        self._before = {}
