"""A descriptor that one thread sleeps on and all others may ring."""

import contextlib
import os
import select


class Wakeup:
    """An eventfd. `ring` from any thread; `clear` and `wait` from the one that sleeps on it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def fileno(self) -> int:
        return self._fd

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def wait(self, wait_ms_max: int) -> None:
        """Sleep until rung, at most that long (-1: for ever)."""
        if self._poll.poll(wait_ms_max):
            self.clear()

    def close(self) -> None:
        os.close(self._fd)
