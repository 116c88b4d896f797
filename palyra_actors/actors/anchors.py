"""The thread that keeps the journal's head outside the database, behind the commits.

    published group ──note──▶ (0.5 s or 500 events) ──▶ write and sync one of two lines

One write at a time; while one lasts the next gathers. So the anchor is at most a second or 1,000
events behind, or the time of one write more on a disk that takes longer. It never holds a commit
up: where it cannot be written, health says so and acknowledgements go on, because what they promise
does not rest on it.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from palyra_actors.storage.port import Head

log = logging.getLogger(__name__)

EVERY_S: Final = 0.5
EVERY_EVENTS: Final = 500
"""Half of what is promised (1 s, 1,000 events): the other half is for the write itself."""


class Anchors:
    """Writes heads until stopped. `note` is for the loop's thread; the rest for any.

    Args:
        write: puts a head into the anchor and syncs it; raises OSError where it cannot.
        anchored: what the anchor says now; None: there is none yet, and one is made at once.
        head: what it is to say.
    """

    def __init__(self, write: Callable[[Head], None], anchored: Head | None, head: Head) -> None:
        self._write = write
        self._head = head
        self.anchored = anchored
        self._due = threading.Event()
        self._leave = False
        self._thread = threading.Thread(target=self._run, name="palyra-anchor", daemon=True)
        self.failure: str | None = None
        self.written = 0

    def start(self) -> None:
        self._thread.start()

    def note(self, head: Head) -> None:
        """That head is durable."""
        self._head = head
        anchored = self.anchored
        if anchored and head.seq - anchored.seq >= EVERY_EVENTS and self.failure is None:
            self._due.set()

    def stop(self, wait_s_max: float) -> bool:
        """Write the last head and leave. False: that did not end within `wait_s_max`."""
        self._leave = True
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(wait_s_max)
            return not self._thread.is_alive()
        self.step()
        return True

    def step(self) -> None:
        """Write the head if it has moved."""
        head = self._head
        if head == self.anchored and self.failure is None:
            return
        try:
            self._write(head)
        except BaseException as error:  # noqa: BLE001 - it is tried again, whatever it was
            if self.failure is None:
                log.error("the anchor could not be written: %s", error)
            self.failure = str(error) or type(error).__name__
        else:
            self.anchored, self.failure = head, None
            self.written += 1

    def _run(self) -> None:
        while not self._leave:
            self.step()
            self._due.wait(EVERY_S)
            self._due.clear()
        self.step()
