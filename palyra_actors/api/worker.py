"""A worker: takes runs from `cron.work`, does them, and says what came of it.

    keeper (a thread)  ──run──▶ a thread for each run ──▶ cron.finish, and credit for the next one
           ├─ cron.heartbeat for what is running, three times a lease
           └─ cancel, or a lease that is lost ──▶ run.cancelled

It asks for as many runs as it may do at once. A stream that is lost is opened again with what
credit is left; the runs go on meanwhile, and their heartbeats tell the engine where they are.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from palyra_actors.errors import (
    Conflict,
    Invalid,
    InvalidTransition,
    NoReply,
    NotFound,
    PalyraError,
    TooLarge,
)
from palyra_actors.wire import frames

if TYPE_CHECKING:
    from palyra_actors.api.operations import Operations
    from palyra_actors.api.sessions import Session

log = logging.getLogger(__name__)

AGAIN_S: Final = 0.1
LOOK_S_MAX: Final = 1.0
BEATS_A_LEASE: Final = 3
LOST: Final = "lost"
STOPPING: Final = "stopping"
ERROR_CHARACTERS_MAX: Final = 1_000


class RunContext:
    """One run, as its function sees it. `fence` may be passed on to whatever it writes to."""

    def __init__(
        self, operations: "Operations", run: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self.run_id: str = run["run_id"]
        self.job_id: str = run["job_id"]
        self.name: str = run["name"]
        self.payload: Any = run["payload"]
        self.attempt: int = run["attempt"]
        self.scheduled_ms: int = run["scheduled_ms"]
        self.missed: int = run["missed"]
        self.fence: int = run["fence"]
        self.session_key: str | None = run.get("session_key")
        self.reason: str | None = None
        self._operations = operations
        self._options = options
        self._cancelled = threading.Event()
        self.beat_s = max(run.get("lease_ms", 1_000) / 1000 / BEATS_A_LEASE, 0.005)
        self.beat_at = time.monotonic() + self.beat_s

    @property
    def cancelled(self) -> bool:
        """It should not go on; `reason` says why. What it says afterwards is not heard."""
        return self._cancelled.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleeps for so long, or until the run is cancelled: whether it was."""
        return self._cancelled.wait(seconds)

    def session(self) -> "Session":
        """The session of the job's `session_key`, made if there is none; or, without a key, a
        session of this run alone."""
        key = self.session_key or f"cron:{self.run_id}"
        return self._operations.sessions.resolve(key, **self._options)

    def cancel(self, reason: str) -> None:
        """Tell the function to stop."""
        if not self._cancelled.is_set():
            self.reason = reason
            self._cancelled.set()


class Worker:
    """Does the runs of some names. Made by `Cron.handle`."""

    def __init__(
        self,
        operations: "Operations",
        functions: Mapping[str, Callable[[RunContext], Any]],
        *,
        at_once: int,
        options: Mapping[str, Any],
    ) -> None:
        self.done = 0
        self._operations = operations
        self._functions = dict(functions)
        self._at_once = at_once
        self._options = dict(options)
        self._heard: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._running: dict[str, RunContext] = {}
        self._lock = threading.Condition()
        self._stopping = False
        self._sub: int | None = None
        self._number = 0  # of the stream: what an earlier one says late is not meant any more
        self._thread = threading.Thread(target=self._keep, name="palyra-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        """Runs that it does now."""
        return len(self._running)

    def stop(self, wait_s_max: float = 1.0) -> bool:
        """Take no more runs and tell those under way; False: one still goes on after that time.
        Its lease ends, and its attempt has failed."""
        self.tell_to_stop()
        return self.join(wait_s_max)

    def tell_to_stop(self) -> None:
        self._stopping = True
        self._heard.put((-1, None))

    def join(self, wait_s_max: float) -> bool:
        """Wait for the end of the runs that were told to stop, and of the worker itself."""
        end = time.monotonic() + wait_s_max
        self._thread.join(wait_s_max)
        with self._lock:
            over = self._lock.wait_for(lambda: not self._running, max(end - time.monotonic(), 0.0))
        return over and not self._thread.is_alive()

    # -- the keeper -------------------------------------------------------------------------------

    def _keep(self) -> None:
        try:
            while not self._stopping:
                if self._sub is None:
                    self._open()
                self._hear(self._beat())
            self._close()
        except Exception:
            log.exception("a worker has failed")

    def _open(self) -> None:
        self._number += 1
        credit = self._at_once - len(self._running)
        if credit <= 0:
            return
        body = {"credit": credit, "names": sorted(self._functions)}
        principal = self._options.get("principal")
        named = {} if principal is None else {"principal": principal}
        stream = _Heard(self._heard, self._number)
        try:
            self._sub = self._operations._calls.open_stream(
                "cron.work", frames.pack(body, "body"), stream, **named
            )
        except (PalyraError, RuntimeError):
            self._stopping = True  # it is closed, or a fork's

    def _hear(self, wait_s: float) -> None:
        try:
            number, heard = self._heard.get(timeout=wait_s)
        except queue.Empty:
            return
        if number != self._number or heard is None:
            return
        if isinstance(heard, PalyraError):
            self._sub = None
            if not heard.retryable:
                log.error("a worker was refused: %s", heard)
                self._stopping = True
            else:
                time.sleep(AGAIN_S)
            return
        item = frames.read_item(heard)
        if "run" in item:
            self._begin(RunContext(self._operations, item["run"], self._options))
        elif (run := self._running.get(item.get("cancel", ""))) is not None:
            run.cancel(item["reason"])

    def _beat(self) -> float:
        """Renew the leases that need it; how long until the next one does, in seconds."""
        now = time.monotonic()
        wait_s = LOOK_S_MAX
        for run in list(self._running.values()):
            if run.beat_at <= now and not run.cancelled:
                body = {"run_id": run.run_id, "fence": run.fence}
                try:
                    self._call("cron.heartbeat", body, timeout_s=run.beat_s)
                except (Conflict, NotFound, InvalidTransition):
                    run.cancel(LOST)
                except PalyraError as error:  # it is tried again until the lease is lost
                    log.debug("a lease could not be renewed: %s", error)
                run.beat_at = now + run.beat_s
            wait_s = min(wait_s, max(run.beat_at - now, 0.0))
        return wait_s

    def _close(self) -> None:
        if self._sub is not None and self._operations._calls.drop_stream(self._sub):
            self._note("journal.unsubscribe", {"sub": self._sub})
        for run in list(self._running.values()):
            run.cancel(STOPPING)

    # -- a run ------------------------------------------------------------------------------------

    def _begin(self, run: RunContext) -> None:
        self._running[run.run_id] = run
        threading.Thread(
            target=self._do, args=(run,), name=f"palyra-run-{run.name[:32]}", daemon=True
        ).start()

    def _do(self, run: RunContext) -> None:
        try:
            outcome = self._outcome(run)
            if not run.cancelled:
                self._tell(run, outcome)
        except (Conflict, NotFound):
            log.warning("run %s was not this worker's any more when it ended", run.run_id)
        except PalyraError as error:
            log.warning("the end of run %s could not be told: %s", run.run_id, error)
        finally:
            self._ended(run)

    def _outcome(self, run: RunContext) -> dict[str, Any]:
        try:
            return {"status": "succeeded", "usage": self._functions[run.name](run)}
        except BaseException as error:  # noqa: BLE001 - also what would end the thread, unheard
            return {"status": "failed", "error": _described(error)}

    def _tell(self, run: RunContext, outcome: Mapping[str, Any]) -> None:
        body = {"run_id": run.run_id, "fence": run.fence}
        try:
            self._call("cron.finish", {**body, **outcome})
        except (Invalid, TooLarge) as refused:  # what it returned; the run is not to wait for that
            told = _described(refused)
            told["message"] = f"what the function returned cannot be kept: {told['message']}"
            self._call("cron.finish", {**body, "status": "failed", "error": told})

    def _ended(self, run: RunContext) -> None:
        with self._lock:
            self._running.pop(run.run_id, None)
            self.done += 1
            self._lock.notify_all()
        sub = self._sub
        if sub is not None and not self._stopping:
            self._note("journal.credit", {"sub": sub, "credit": 1})
        self._heard.put((self._number, None))

    def _call(self, op: str, body: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return self._operations.call(op, body, **{**self._options, **options})

    def _note(self, op: str, body: Mapping[str, Any]) -> None:
        try:
            self._operations._calls.note(op, frames.pack(body, "body"))
        except (NoReply, RuntimeError):  # it is closed
            self._stopping = True


def _described(error: BaseException) -> dict[str, str]:
    """An exception as a run's error."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - somebody's own
        message = "it says nothing that can be read"
    message = message[:ERROR_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode()
    return {"type": type(error).__name__, "message": message}


class _Heard:
    """What the connection's thread hears."""

    def __init__(self, heard: "queue.SimpleQueue[tuple[int, Any]]", number: int) -> None:
        self._heard = heard
        self._number = number

    def item(self, frame: bytes, first_key: str | None) -> None:
        del first_key
        self._heard.put((self._number, frame))

    def ended(self, error: PalyraError | None) -> None:
        self._heard.put((self._number, error or NoReply("the stream has ended")))

    def lost(self) -> None:
        self._heard.put((self._number, NoReply("the connection was lost")))
