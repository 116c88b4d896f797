"""A descriptor that one thread sleeps on and all others may ring."""

import contextlib
import os
import select
import threading


class Wakeup:
    """An eventfd. `ring` from any thread; `clear` and `wait` from the one that sleeps on it.

    After `close` a ring does nothing: its number may be somebody else's file by then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def fileno(self) -> int:
        return self._fd

    def duplicate(self) -> int:
        """A descriptor of the same eventfd, for a thread that knows no Python; its owner's."""
        return os.dup(self._fd)

    def ring(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def wait(self, wait_ms_max: int) -> None:
        """Sleep until rung, at most that long (-1: for ever)."""
        if self._poll.poll(wait_ms_max):
            self.clear()

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
