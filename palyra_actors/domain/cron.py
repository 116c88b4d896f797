"""A job's state, and what each event makes of it. Pure; `cron_commands` decides.

    cron.created ──▶ job ──cron.run_started, _queued, _skipped──▶ job, with the next instant
                      │        └ of an instant: says the run, why, and the instant after it
                      ├──cron.run_leased, _heartbeat, _finished, _retry_scheduled──▶ its runs
                      └──cron.updated, cron.quarantined, cron.deleted

The events say instants and deadlines; folding computes none of them. So a replay makes the same of
them, whatever has become of the world's time zones since.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from palyra_actors.domain.fact import Change, Fact
from palyra_actors.ids import format_ulid, parse_ulid

QUEUED: Final = "queued"
RUNNING: Final = "running"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"
CANCELLED: Final = "cancelled"
STATUS_NUMBERS: Final[dict[str, int]] = {
    QUEUED: 1, RUNNING: 2, SUCCEEDED: 3, FAILED: 4, SKIPPED: 5, CANCELLED: 6,
}  # fmt: skip
"""As stored: `cron_runs` in storage/sql knows 1 and 2."""
STATUSES: Final[dict[int, str]] = {number: name for name, number in STATUS_NUMBERS.items()}

# why a run began, and why the engine ended one or skipped a tick
TICK: Final = "tick"
MANUAL: Final = "manual"
CATCH_UP: Final = "catch_up"
RETRY: Final = "retry"
OVERLAP: Final = "overlap"
QUEUE_FULL: Final = "queue_full"
MISFIRE: Final = "misfire"
REPLACED: Final = "replaced"
NO_WORKER: Final = "no_worker"
ORPHANED: Final = "orphaned"
DISABLED: Final = "disabled"
DELETED: Final = "deleted"
RESCHEDULED: Final = "rescheduled"
QUARANTINED: Final = "quarantined"


_encode = msgspec.msgpack.Encoder().encode


class Run(NamedTuple):
    """`number` counts the job's runs from 1. `deadline_ms`: when the engine does something about
    it: begins a retry, or ends what nobody took, or what its worker let lapse."""

    run_id: bytes
    number: int
    attempt: int
    status: str
    reason: str
    missed: int
    scheduled_ms: int
    manual: bool = False
    started_ms: int | None = None
    finished_ms: int | None = None
    fence: int = 0
    lease_until_ms: int | None = None
    deadline_ms: int | None = None
    error: Any = None
    usage: Any = None


class Settings(NamedTuple):
    """What a client says of a job. `schedule` as `schedule.view` makes it."""

    name: str
    schedule: Mapping[str, Any]
    payload: Any
    concurrency_policy: str
    misfire_policy: str
    misfire_grace_ms: int
    jitter_ms: int
    max_attempts: int
    backoff_ms: int
    lease_ms: int
    session_key: str | None


class Job(NamedTuple):
    """`next_ms`: the next instant, `due_ms`: when its tick is due (later by its jitter).

    `last_ms`: the last instant that had its tick; none at or before it has one again, whatever
    becomes of the schedule and of the clock. `active` is the run that counts as under way: running,
    or queued for a further attempt. `waiting` is the tick that waits for its end. `fence` is the
    last one given.
    """

    settings: Settings
    enabled: bool
    anchor_ms: int
    created_ms: int
    updated_ms: int
    next_ms: int | None = None
    due_ms: int | None = None
    last_ms: int = -1
    last_run_ms: int | None = None
    runs: int = 0
    fence: int = 0
    active: Run | None = None
    waiting: Run | None = None
    deleted: bool = False


class Said(dict[str, Any]):
    """A payload that remembers what it made of the job, so that the live fold need not repeat what
    deciding has done. `run_id`: that it says as text."""

    made: "tuple[Job, Sequence[Run]] | None" = None
    run_id: bytes | None = None


class Who(NamedTuple):
    job_id: bytes
    owner: str
    now_ms: int


def wake_ms(job: Job) -> int | None:
    """When something about the job is due next; None: nothing is."""
    if job.deleted:
        return None
    deadline = None if job.active is None else job.active.deadline_ms
    if not job.enabled or job.due_ms is None:
        return deadline
    return job.due_ms if deadline is None else min(job.due_ms, deadline)


# -- folding --------------------------------------------------------------------------------------


def evolve(
    job: Job | None, kind: str, said: Mapping[str, Any], ts_ms: int
) -> tuple[Job, Sequence[Run]]:
    """The job after an event, and the runs that it changes."""
    if kind == "cron.created":
        settings = Settings(**{name: said[name] for name in Settings._fields})
        made = Job(settings, said["enabled"], said["anchor_ms"], ts_ms, ts_ms)
        return made._replace(next_ms=said["next_ms"], due_ms=said["due_ms"]), ()
    assert job is not None
    match kind:
        case "cron.updated":
            changes = dict(said["changes"])
            enabled = changes.pop("enabled", job.enabled)
            return job._replace(
                settings=job.settings._replace(**changes), enabled=enabled, updated_ms=ts_ms,
                anchor_ms=said["anchor_ms"], next_ms=said["next_ms"], due_ms=said["due_ms"],
            ), ()  # fmt: skip
        case "cron.deleted":
            return job._replace(deleted=True, next_ms=None, due_ms=None), ()
        case "cron.quarantined":
            return _quarantined(job, said, ts_ms)
        case "cron.run_started":
            return _started(job, said, ts_ms)
        case "cron.run_queued" | "cron.run_skipped" | "cron.run_retry_scheduled":
            return _recorded(job, kind, said, ts_ms)
        case "cron.run_leased" | "cron.run_heartbeat":
            run, until = job.active, said["lease_until_ms"]
            assert run is not None
            run = run._replace(
                fence=said.get("fence", run.fence), lease_until_ms=until, deadline_ms=until
            )
            return job._replace(active=run, fence=run.fence), (run,)
        case _:
            return _finished(job, said, ts_ms)


def _advanced(job: Job, said: Mapping[str, Any], **other: Any) -> Job:
    """A tick says the next instant; whatever else there is, does not."""
    if "next_ms" not in said:
        return job._replace(**other)
    return job._replace(
        next_ms=said["next_ms"], due_ms=said["due_ms"], last_ms=said["scheduled_ms"], **other
    )


def _made(job: Job, said: Mapping[str, Any], status: str, **other: Any) -> Run:
    return Run(
        parse_ulid(said["run_id"]), job.runs + 1, said["attempt"], status,
        said.get("reason", RETRY), said.get("missed", 0), said["scheduled_ms"], said["manual"],
        **other,
    )  # fmt: skip


def _started(job: Job, said: Mapping[str, Any], ts_ms: int) -> tuple[Job, Sequence[Run]]:
    run_id = parse_ulid(said["run_id"])
    count, waiting = job.runs, job.waiting
    fence = said.get("fence", 0)  # a worker that waited has it at once
    begun = {
        "started_ms": ts_ms, "deadline_ms": said["deadline_ms"], "fence": fence,
        "lease_until_ms": said.get("lease_until_ms"),
    }  # fmt: skip
    if waiting is not None and waiting.run_id == run_id:
        run, waiting = waiting._replace(status=RUNNING, **begun), None
    elif job.active is not None and job.active.run_id == run_id:
        run = job.active._replace(status=RUNNING, **begun)
    else:
        run, count = _made(job, said, RUNNING, **begun), count + 1
    return _advanced(
        job, said, active=run, waiting=waiting, runs=count, last_run_ms=ts_ms,
        fence=fence or job.fence,
    ), (run,)  # fmt: skip


def _recorded(
    job: Job, kind: str, said: Mapping[str, Any], ts_ms: int
) -> tuple[Job, Sequence[Run]]:
    run = _made(job, said, SKIPPED if kind == "cron.run_skipped" else QUEUED)
    if kind == "cron.run_skipped":
        run = run._replace(finished_ms=ts_ms)
        job = job._replace(runs=run.number)
    elif kind == "cron.run_queued":
        job = job._replace(runs=run.number, waiting=run)
    else:
        run = run._replace(deadline_ms=said["start_ms"])
        job = job._replace(runs=run.number, active=run)
    return _advanced(job, said), (run,)


def _finished(job: Job, said: Mapping[str, Any], ts_ms: int) -> tuple[Job, Sequence[Run]]:
    run_id = parse_ulid(said["run_id"])
    run = job.active
    if run is not None and run.run_id == run_id:
        job = job._replace(active=None)
    else:
        run = job.waiting
        job = job._replace(waiting=None)
    assert run is not None
    run = run._replace(
        status=said["status"], reason=said["reason"], finished_ms=ts_ms, lease_until_ms=None,
        deadline_ms=None, error=said["error"], usage=said["usage"],
    )  # fmt: skip
    return job, (run,)


def _quarantined(job: Job, said: Mapping[str, Any], ts_ms: int) -> tuple[Job, Sequence[Run]]:
    """It is a row of its own among the runs: the instant that it happened at may have one."""
    run = Run(
        parse_ulid(said["run_id"]), job.runs + 1, 1, SKIPPED, QUARANTINED, 0,
        said["scheduled_ms"], True, finished_ms=ts_ms, error=said["error"],
    )  # fmt: skip
    return job._replace(
        enabled=False, runs=run.number, next_ms=None, due_ms=None, updated_ms=ts_ms
    ), (run,)


def fold(job: Job | None, fact: Fact, stream: int) -> tuple[Job, Sequence[Change]]:
    """The job after one event, and the rows that follow."""
    said: Mapping[str, Any] = fact.payload or {}
    made = said.made if type(said) is Said else None
    after, runs = evolve(job, fact.kind, said, fact.ts_ms) if made is None else made
    changes: list[Change] = []
    if job is None:
        changes.append(("cron.insert", (stream, fact.principal, *_told(after.settings))))
    elif after.settings is not job.settings:
        changes.append(("cron.restate", (*_told(after.settings), stream)))
    row = (
        after.enabled, after.anchor_ms, after.created_ms, after.updated_ms, after.next_ms,
        after.due_ms, after.last_ms, wake_ms(after), after.last_run_ms, after.runs, after.fence,
        after.deleted, stream,
    )  # fmt: skip
    changes.append(("cron.save", row))
    changes += [("cron.put_run", run_row(run, stream)) for run in runs]
    return after, changes


def _told(settings: Settings) -> tuple[str, bytes]:
    return settings.name, _encode(settings._asdict())


def run_row(run: Run, stream: int) -> tuple[Any, ...]:
    """As `cron.put_run` wants it."""
    return (
        stream, run.number, run.run_id, run.attempt, STATUS_NUMBERS[run.status], run.reason,
        run.missed, run.scheduled_ms, run.manual, run.started_ms, run.finished_ms, run.fence,
        run.lease_until_ms, run.deadline_ms,
        None if run.error is None else _encode(run.error),
        None if run.usage is None else _encode(run.usage),
    )  # fmt: skip


def run_of(row: Sequence[Any]) -> Run:
    """The run of a row: `number` and what follows it in `run_row`."""
    number, run_id, attempt, status, reason, missed, scheduled_ms, manual = row[:8]
    started_ms, finished_ms, fence, lease_until_ms, deadline_ms, error, usage = row[8:15]
    return Run(
        run_id, number, attempt, STATUSES[status], reason, missed, scheduled_ms, bool(manual),
        started_ms, finished_ms, fence, lease_until_ms, deadline_ms,
        None if error is None else msgspec.msgpack.decode(error),
        None if usage is None else msgspec.msgpack.decode(usage),
    )  # fmt: skip


# -- showing --------------------------------------------------------------------------------------


def view(job: Job, who: Who) -> dict[str, Any]:
    """The job as it is shown."""
    settings = job.settings
    return {
        "job_id": format_ulid(who.job_id),
        "name": settings.name,
        "schedule": settings.schedule,
        "payload": settings.payload,
        "enabled": job.enabled,
        "concurrency_policy": settings.concurrency_policy,
        "misfire_policy": settings.misfire_policy,
        "misfire_grace_ms": settings.misfire_grace_ms,
        "jitter_ms": settings.jitter_ms,
        "retry": {"max_attempts": settings.max_attempts, "backoff_ms": settings.backoff_ms},
        "lease_ms": settings.lease_ms,
        "session_key": settings.session_key,
        "next_run_ms": job.due_ms,
        "last_run_ms": job.last_run_ms,
        "created_ms": job.created_ms,
        "updated_ms": job.updated_ms,
    }


def run_view(run: Run, job_id: bytes) -> dict[str, Any]:
    """The run as it is shown."""
    return {
        "run_id": format_ulid(run.run_id),
        "job_id": format_ulid(job_id),
        "attempt": run.attempt,
        "status": run.status,
        "reason": run.reason,
        "missed": run.missed,
        "scheduled_ms": run.scheduled_ms,
        "started_ms": run.started_ms,
        "finished_ms": run.finished_ms,
        "fence": run.fence,
        "lease_until_ms": run.lease_until_ms,
        "error": run.error,
        "usage": run.usage,
    }
