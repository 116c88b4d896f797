"""The thread that waits for the disk on the writer's behalf, so that the loop goes on meanwhile.

Where the storage has one of its own that needs no interpreter (`storage.beside`), groups go there
and this one does the rest: what moves the WAL, and groups of unusual rows.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from palyra_actors.clock import Clock, SystemClock
from palyra_actors.storage.port import Batch, CommitUnknown, Ended, WriteSide

log = logging.getLogger(__name__)


class Committed(NamedTuple):
    """How a COMMIT ended. `error` None: durable. Times are monotonic, in seconds."""

    error: BaseException | None
    ended: float


class Committer:
    """One COMMIT at a time; `done` is called in this thread and must only pass the result on."""

    def __init__(self, clock: Clock, done: Callable[[Committed], None]) -> None:
        self._clock = clock
        self._done = done
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="palyra-committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin(self, storage: WriteSide, batch: Batch, here: bool = False) -> bool:
        """Stage and commit beside the interpreter, where the storage can: then `ended` tells of it
        and not `done`. False: it cannot, and nothing was begun. `here`: in the calling thread."""
        return storage.begin(batch, here)

    def ended(self, storage: WriteSide) -> Ended | None:
        """How what was begun has ended, once; None: it has not yet. The storage reads the machine's
        clock: by another one it ended now."""
        ended = storage.ended()
        if ended is None or isinstance(self._clock, SystemClock):
            return ended
        return ended._replace(at=self._clock.monotonic())

    def commit(self, storage: WriteSide) -> None:
        """Commit what is staged. The caller keeps its hands off the storage until `done`."""

        def work() -> None:
            try:
                result = self.commit_here(storage)
            except BaseException as failure:  # noqa: BLE001 - whoever waits has to hear of it
                unknown = CommitUnknown(f"{type(failure).__name__}: {failure}")
                result = Committed(unknown, self._clock.monotonic())
            self._done(result)

        self._work.put(work)

    def tidy(self, storage: WriteSide, done: Callable[[], None]) -> None:
        """Move the WAL's rest between two transactions; `done` is called in this thread."""

        self.chore(storage.tidy, done)

    def chore(self, do: Callable[[], None], done: Callable[[], None]) -> None:
        """Do something between two transactions; `done` is called in this thread, come what may."""

        def work() -> None:
            try:
                do()
            finally:
                done()

        self._work.put(work)

    def stop(self, wait_s_max: float) -> bool:
        """Leave once the last COMMIT is through. False: it is not, after `wait_s_max`."""
        self._work.put(None)
        if self._thread.ident is not None:
            self._thread.join(wait_s_max)
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether work waits for its turn."""
        return not self._work.empty()

    def step(self) -> bool:
        """The next piece of work in the calling thread, where there is no other. False: none."""
        if not self.busy or (work := self._work.get_nowait()) is None:
            return False
        work()
        return True

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException:
                log.critical("the committer failed", exc_info=True)

    def commit_here(self, storage: WriteSide) -> Committed:
        """Commit in the calling thread."""
        error: BaseException | None = None
        try:
            storage.commit()
        except CommitUnknown as failure:
            error = failure
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the outcome is unknown
            error = CommitUnknown(f"{type(failure).__name__}: {failure}")
        return Committed(error, self._clock.monotonic())
