"""What threads have in common that look at something every so often until they are stopped."""

import logging
import threading
import time
from typing import Any, Final

SAY_EVERY_S: Final = 1.0


class Lookout:
    """A thread whose `_run` looks and sleeps by turns, until `_leave` is set."""

    def __init__(self, name: str) -> None:
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait_s_max: float) -> bool:
        """False: a look did not end within `wait_s_max`."""
        self._leave.set()
        if self._thread.ident is not None:
            self._thread.join(wait_s_max)
        return not self._thread.is_alive()

    def _run(self) -> None:
        raise NotImplementedError


class Sparing:
    """Warns of connections once a second: who is cut is not to fill the disk with it."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said_at = -SAY_EVERY_S
        self._unsaid = 0

    def warn(self, text: str, *about: Any) -> None:
        now = time.monotonic()
        if now - self._said_at < SAY_EVERY_S:
            self._unsaid += 1
            return
        more = f", as {self._unsaid} before it were" if self._unsaid else ""
        self._log.warning(f"{text}%s", *about, more)
        self._said_at, self._unsaid = now, 0
