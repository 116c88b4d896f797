"""Jobs of one engine, and the workers that do what they are due for.

job = engine.cron.create("digest", {"cron": "30 7 * * MON-FRI", "tz": "Europe/Prague"})
engine.cron.handle("digest", write_digest)      # here, in the background
for run in engine.cron.runs(job.job_id): ...
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from palyra_actors.api.results import read
from palyra_actors.api.sessions import _FromWire, _given, _pages
from palyra_actors.api.worker import RunContext, Worker
from palyra_actors.errors import Invalid
from palyra_actors.limits import CRON_NAME_BYTES_MAX, LIST_LIMIT_MAX, SUBSCRIBE_CREDIT_MAX

if TYPE_CHECKING:
    from palyra_actors.api.operations import Operations

FIELDS: Final = frozenset((
    "concurrency_policy", "enabled", "jitter_ms", "lease_ms", "misfire_grace_ms", "misfire_policy",
    "name", "payload", "retry", "schedule", "session_key",
))  # fmt: skip
"""What a client says of a job."""

AT_ONCE: Final = 4
STOP_S_MAX: Final = 1.0


@dataclass(frozen=True, slots=True)
class JobInfo(_FromWire):
    """`schedule`: {cron, tz}, {every_ms} or {at_ms}. `next_run_ms` is None where none is due."""

    job_id: str
    name: str
    schedule: Mapping[str, Any]
    payload: Any
    enabled: bool
    concurrency_policy: str
    misfire_policy: str
    misfire_grace_ms: int
    jitter_ms: int
    retry: Mapping[str, int]
    lease_ms: int
    session_key: str | None
    next_run_ms: int | None
    last_run_ms: int | None
    created_ms: int
    updated_ms: int


@dataclass(frozen=True, slots=True)
class CronRunInfo(_FromWire):
    """A tick and what became of it. `missed`: other ticks that this one stands for."""

    run_id: str
    job_id: str
    attempt: int
    status: str
    reason: str
    missed: int
    scheduled_ms: int
    started_ms: int | None
    finished_ms: int | None
    fence: int
    lease_until_ms: int | None
    error: Any
    usage: Any


@dataclass(frozen=True, slots=True)
class FireTime(_FromWire):
    """`local`: ISO 8601 in the schedule's zone."""

    at_ms: int
    local: str
    offset_minutes: int


class Cron:
    """Jobs of one engine. Options of all calls: `timeout_s`, `principal`; of those that change
    something also `event_id`, see `Operations.call`."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations
        self._workers: list[Worker] = []

    # -- jobs -------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        schedule: Mapping[str, Any],
        payload: Any = None,
        *,
        job_id: object | None = None,
        enabled: bool | None = None,
        concurrency_policy: str | None = None,
        misfire_policy: str | None = None,
        misfire_grace_ms: int | None = None,
        jitter_ms: int | None = None,
        retry: Mapping[str, int] | None = None,
        lease_ms: int | None = None,
        session_key: str | None = None,
        **options: Any,
    ) -> JobInfo:
        """A job that is due as its schedule says: {cron, tz}, {every_ms} or {at_ms}.

        Raises:
            Invalid: a schedule that cannot be read, or is never due.
            Conflict: there is, or was, a job of that id.
        """
        body = {
            "name": name,
            "schedule": _plain(schedule),
            "payload": payload,
            **_given(
                job_id=job_id, enabled=enabled, concurrency_policy=concurrency_policy,
                misfire_policy=misfire_policy, misfire_grace_ms=misfire_grace_ms,
                jitter_ms=jitter_ms, lease_ms=lease_ms, session_key=session_key,
            ),
        }  # fmt: skip
        if retry is not None:
            body["retry"] = _plain(retry)
        return _job(self._operations.call("cron.create", body, **options))

    def get(self, job_id: object, **options: Any) -> JobInfo:
        """Raises NotFound."""
        return _job(self._operations.call("cron.get", {"job_id": str(job_id)}, **options))

    def list(self, *, enabled: bool | None = None, **options: Any) -> Iterator[JobInfo]:
        """All jobs that one may see, in the order in which they were made."""
        body = _given(enabled=enabled)
        for raw in _pages(self._operations, "cron.list", "jobs", body, options):
            yield read("job", JobInfo.of, raw)

    def update(
        self, job_id: object, changes: Mapping[str, Any] | None = None, **options: Any
    ) -> JobInfo:
        """Changes those of the job's fields that are given, by name as `create` takes them or as a
        map; the others stay.

        Raises:
            Invalid: a field that there is not, or a value that it cannot have.
            NotFound: there is no such job.
        """
        named = {name: options.pop(name) for name in FIELDS & options.keys()}
        body = {**(changes or {}), **named, "job_id": str(job_id)}
        return _job(self._operations.call("cron.update", body, **options))

    def enable(self, job_id: object, **options: Any) -> JobInfo:
        """It has ticks again, from now on."""
        return _job(self._operations.call("cron.enable", {"job_id": str(job_id)}, **options))

    def disable(self, job_id: object, **options: Any) -> JobInfo:
        """It has no ticks; a run that is under way goes on."""
        return _job(self._operations.call("cron.disable", {"job_id": str(job_id)}, **options))

    def delete(self, job_id: object, **options: Any) -> JobInfo:
        """Ends what is under way. Its events stay in the journal."""
        return _job(self._operations.call("cron.delete", {"job_id": str(job_id)}, **options))

    # -- runs -------------------------------------------------------------------------------------

    def run_now(self, job_id: object, **options: Any) -> CronRunInfo:
        """A run outside of the schedule, under the job's concurrency policy."""
        ok = self._operations.call("cron.run_now", {"job_id": str(job_id)}, **options)
        return _run(ok["run"])

    def runs(
        self,
        job_id: object,
        *,
        status: str | None = None,
        page: int = LIST_LIMIT_MAX,
        **options: Any,
    ) -> Iterator[CronRunInfo]:
        """Every tick and every run by hand, newest first. `page`: how many are asked for at a
        time."""
        body = {"job_id": str(job_id), **_given(status=status)}
        for raw in _pages(self._operations, "cron.runs", "runs", body, options, page):
            yield _run(raw)

    def explain(
        self,
        job_id: object | None = None,
        *,
        schedule: Mapping[str, Any] | None = None,
        after_ms: int | None = None,
        count: int = 10,
        **options: Any,
    ) -> Sequence[FireTime]:
        """When a job or a schedule is due next, at most 100 times."""
        body = _given(job_id=job_id, after_ms=after_ms, count=count)
        if schedule is not None:
            body["schedule"] = _plain(schedule)
        ok = self._operations.call("cron.explain", body, **options)
        return [read("time", FireTime.of, raw) for raw in ok["times"]]

    # -- workers ----------------------------------------------------------------------------------

    def handle(
        self, name: str, function: Callable[[RunContext], Any], *, at_once: int = AT_ONCE,
        **options: Any,
    ) -> Worker:  # fmt: skip
        """Have `function` called for every run of the jobs of that name, in the background, at
        most `at_once` at a time, each in a thread of its own.

        What it returns is the run's `usage`; what it raises makes the run fail. While it runs its
        lease is renewed, also where it hangs: a job whose function may should replace its runs
        (`concurrency_policy="replace"`), or its function keep a time of its own. It sees in
        `run.cancelled` that it should not go on, and nobody asks what it says after that. Ends with
        the worker's `stop`, or with the engine or client.

        Raises:
            Invalid: a name that no job can have, a function that is none, or none at once.
        """
        if not 0 < len(name.encode()) <= CRON_NAME_BYTES_MAX:
            raise Invalid(f"a job's name has 1..{CRON_NAME_BYTES_MAX} bytes", field="name")
        if not callable(function):
            raise Invalid(
                f"{type(function).__name__!r} cannot be called",
                field="function",
                hint="engine.cron.handle(name, function)",
            )
        if not 1 <= at_once <= SUBSCRIBE_CREDIT_MAX:
            raise Invalid(f"at_once lies in 1..{SUBSCRIBE_CREDIT_MAX}", field="at_once")
        worker = Worker(self._operations, {name: function}, at_once=at_once, options=options)
        self._workers = [one for one in self._workers if one.alive]
        self._workers.append(worker)
        worker.start()
        return worker

    def close(self, wait_s_max: float = STOP_S_MAX) -> None:
        """Stops all workers; their functions are told."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.tell_to_stop()
        for worker in workers:
            worker.join(wait_s_max)


def _plain(said: object) -> object:
    """A map as one that can be sent. What is none goes as it is, and the engine says what it is to
    be, and where."""
    return dict(said) if isinstance(said, Mapping) else said


def _job(ok: Mapping[str, Any]) -> JobInfo:
    job: JobInfo = read("job", JobInfo.of, ok["job"])
    return job


def _run(raw: Mapping[str, Any]) -> CronRunInfo:
    run: CronRunInfo = read("run", CronRunInfo.of, raw)
    return run
