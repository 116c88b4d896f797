"""The thread that looks whether the key files have changed, and reads them again."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from palyra_actors.keys import Allowed, KeyFolder

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
"""How often it looks; a revoked peer is cut within a second."""

STALE_S: Final = 5.0
"""After so long without a look the door shuts: nobody knows who may come in."""


class KeyWatch:
    """Tells `admit` who may come in, each time that changes. A folder that cannot be read lets
    nobody in.

    Args:
        allowed, seen: what was read before it started, and how the folder looked before that.
        admit: called in this thread.
    """

    def __init__(
        self, folder: KeyFolder, seen: object, allowed: Allowed, admit: Callable[[Allowed], None]
    ) -> None:
        self._folder = folder
        self._seen = seen
        self._allowed = allowed
        self._admit = admit
        self._look_now = threading.Event()
        self._leaving = False
        self._looked_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="palyra-keys", daemon=True)

    def start(self) -> None:
        self._looked_at = time.monotonic()
        self._thread.start()

    def stop(self, wait_s_max: float) -> bool:
        """False: a look did not end within `wait_s_max`."""
        self._leaving = True
        self._look_now.set()
        if self._thread.ident is not None:
            self._thread.join(wait_s_max)
        return not self._thread.is_alive()

    def look_now(self) -> None:
        """Read the files again, changed or not. Any thread."""
        self._seen = None
        self._look_now.set()

    @property
    def fresh(self) -> bool:
        """Whether it has looked lately."""
        return time.monotonic() - self._looked_at < STALE_S

    def _run(self) -> None:
        while not self._leaving:
            self._look_now.wait(LOOK_S)
            self._look_now.clear()
            if not self._leaving:
                self._look()
                self._looked_at = time.monotonic()

    def _look(self) -> None:
        try:
            seen = self._folder.look()
            if seen == self._seen:
                return
            allowed = self._folder.load()
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody comes in
            seen, allowed = None, Allowed(problems=(f"the keys cannot be read: {error}",))
        self._seen = seen
        if allowed != self._allowed:
            self._allowed = allowed
            self._admit(allowed)
