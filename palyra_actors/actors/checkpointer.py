"""The thread that moves pages from the WAL into the database, beside the writer."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from palyra_actors.actors.lookout import Lookout

log = logging.getLogger(__name__)

LOOK_S: Final = 0.02
"""How often it looks whether a checkpoint is due; a look takes a microsecond."""

AFTER_FAILURE_S: Final = 1.0

PUT_OFF_S_MAX: Final = 0.5
"""For how long writes that are close to their budget put a look off. The WAL grows meanwhile, by
what half a second writes: a fraction of its cap, of which half has to be free."""


class Report(Protocol):
    """What the checkpointer needs to know of one checkpoint."""

    @property
    def wants_finish(self) -> bool: ...
    @property
    def over_limit(self) -> bool: ...


class Steps(Protocol):
    """`storage.upkeep.Checkpointer`, as far as it is used here."""

    def crowded(self) -> bool: ...
    def step(self, *, force: bool = False) -> Report | None: ...
    def close(self) -> None: ...


class Checkpoints(Lookout):
    """Steps when due until stopped. After each step `stepped` gets two answers: should the writer
    move the rest, and is the WAL over its cap? `may_run` is asked before each, in this thread.
    """

    def __init__(
        self,
        steps: Callable[[], Steps],
        stepped: Callable[[bool, bool], None],
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__("palyra-checkpoints")
        self._open = steps
        self._stepped = stepped
        self._may_run = may_run
        self._steps: Steps | None = None
        self._put_off_s = 0.0
        self._wake = threading.Event()
        self._urged: deque[Callable[[], None]] = deque()
        self.over_limit = False
        self.failure: str | None = None

    def urge(self, done: Callable[[], None]) -> None:
        """Look at once, and step however little there is to move: what is moved now is not moved
        between two groups then, and is synced while it is little. `done` is called in this thread,
        come what may. Any thread."""
        self._urged.append(done)
        self._wake.set()

    def stop(self, wait_s_max: float) -> bool:
        self._leave.set()
        self._wake.set()
        return super().stop(wait_s_max)

    def _run(self) -> None:
        pause_s = LOOK_S
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            if self._leave.is_set():
                break
            pause_s = self.look(pause_s)
        self.drop()

    def look(self, waited_s: float) -> float:
        """Step if it is time to, after `waited_s`; the seconds to wait until the next look."""
        if self._put_off_s < PUT_OFF_S_MAX and not self._may_run() and not self._crowded():
            self._put_off_s += waited_s
            return waited_s
        self._put_off_s = 0.0
        urged = [self._urged.popleft() for _ in range(len(self._urged))]
        try:
            if self._steps is None:
                self._steps = self._open()
            # over its cap the WAL does not grow until it was looked at again: nothing becomes due
            report = self._steps.step(force=bool(urged) or self.over_limit)
            self.failure = None
            if report is not None:
                self.over_limit = report.over_limit
                self._stepped(report.wants_finish, report.over_limit)
        except BaseException as error:  # noqa: BLE001 - the WAL still holds everything
            log.warning("a checkpoint failed: %s", error)
            self.failure = str(error) or type(error).__name__
            self.drop()
            return AFTER_FAILURE_S
        finally:
            for done in urged:
                done()
        return LOOK_S

    def _crowded(self) -> bool:
        try:
            return self._steps is not None and self._steps.crowded()
        except Exception as error:  # noqa: BLE001 - a step will say so
            log.warning("the size of the WAL is not known: %s", error)
            return True

    def drop(self) -> None:
        """Close its connection; the next look opens another one."""
        steps, self._steps = self._steps, None
        if steps is not None:
            try:
                steps.close()
            except Exception as error:  # noqa: BLE001 - it is dropped either way
                log.warning("the checkpoints' connection did not close: %s", error)
