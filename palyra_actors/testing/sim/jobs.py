"""Jobs in plain Python, out of the journal's events: every tick once, every start once.

Only jobs with `every_ms` and without jitter, so that every instant can be told: the anchor and a
whole number of intervals.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from palyra_actors.testing.sim.events import Event, require

TICKED: Final = "next_ms"
"""What an event that accounts for ticks says besides."""


@dataclass(slots=True)
class Job:
    """`next_ms`: the instant that has no tick yet; `last_ms`: the last that has one. `active` and
    `waiting`: ids of runs."""

    owner: str
    every_ms: int
    anchor_ms: int
    enabled: bool
    policy: str
    next_ms: int | None
    last_ms: int = -1
    fence: int = 0
    active: str | None = None
    waiting: str | None = None
    deleted: bool = False
    started: set[tuple[int, int]] = field(default_factory=set)


@dataclass(slots=True)
class JobRun:
    job: str
    status: str
    fence: int = 0


class Jobs:
    """All jobs, and their runs by id."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.runs: dict[str, JobRun] = {}

    def fold(self, event: Event) -> None:
        """Take one more event of a job. Raises Wrong: it may not come there."""
        name, said, now_ms = event.stream_id, event.payload, event.stored.ts_ms
        if event.kind == "cron.created":
            require(name not in self.jobs, "a job is created once", name)
            self.jobs[name] = Job(
                event.stored.principal, said["schedule"]["every_ms"], said["anchor_ms"],
                said["enabled"], said["concurrency_policy"], None,
            )  # fmt: skip
            self._set_out(name, said, now_ms)
            return
        job = self.jobs[name]
        require(not job.deleted or event.kind == "cron.run_finished", "it is deleted", name)
        if event.kind in {"cron.run_started", "cron.run_queued", "cron.run_skipped"}:
            self._account(name, job, said, now_ms)
        match event.kind:
            case "cron.updated":
                changes = said["changes"]
                job.enabled = changes.get("enabled", job.enabled)
                job.policy = changes.get("concurrency_policy", job.policy)
                self._set_out(name, said, now_ms)
            case "cron.deleted":
                job.deleted, job.next_ms = True, None
            case "cron.run_started":
                self._start(name, job, said)
            case "cron.run_queued":
                require(job.waiting is None and job.active is not None, "one tick waits", name)
                require(job.policy == "queue_one", "a tick waits where it may", name)
                job.waiting = said["run_id"]
                self.runs[said["run_id"]] = JobRun(name, "queued")
            case "cron.run_skipped":
                self.runs[said["run_id"]] = JobRun(name, "skipped")
            case "cron.run_retry_scheduled":
                require(job.active is None, "an attempt follows an end", name)
                job.active = said["run_id"]
                self.runs[said["run_id"]] = JobRun(name, "queued")
            case "cron.run_leased" | "cron.run_heartbeat":
                self._lease(job, said)
            case _:
                self._finish(job, said)

    def _set_out(self, name: str, said: Mapping[str, Any], now_ms: int) -> None:
        job = self.jobs[name]
        instant = said["next_ms"]
        require((instant is None) != job.enabled, "who is enabled has a next instant", name)
        if instant is not None and instant != job.next_ms:
            since = max(now_ms, job.last_ms)
            k = (since - job.anchor_ms) // job.every_ms + 1
            expected = job.anchor_ms + max(1, k) * job.every_ms
            require(instant == expected, "the next instant is the next one", name, instant,
                    expected)  # fmt: skip
        job.next_ms = instant

    def _account(self, name: str, job: Job, said: Mapping[str, Any], now_ms: int) -> None:
        """Ticks from one instant to another: they follow those before, and none is early."""
        if TICKED not in said:
            return
        first, last = said["from_ms"], said["scheduled_ms"]
        require(first == job.next_ms, "every tick is accounted for, once", name, first, job)
        require(last <= now_ms, "no tick comes early", name, last, now_ms)
        count = (last - first) // job.every_ms + 1
        missed = said["missed"] + (said["reason"] != "misfire")
        require(count == missed, "what was missed is counted", name, count, said)
        require(said["next_ms"] == last + job.every_ms, "the next instant follows", name, said)
        job.last_ms, job.next_ms = last, said["next_ms"]

    def _start(self, name: str, job: Job, said: Mapping[str, Any]) -> None:
        run_id = said["run_id"]
        require(job.active in (None, run_id), "one run of a job at a time", name, job.active)
        if not said["manual"]:
            key = said["scheduled_ms"], said["attempt"]
            require(key not in job.started, "one start for a job and instant", name, key)
            job.started.add(key)
        known = self.runs.get(run_id)
        require(known is None or known.status == "queued", "a run starts once", run_id, known)
        job.waiting = None if job.waiting == run_id else job.waiting
        job.active = run_id
        self.runs[run_id] = JobRun(name, "running")
        if said.get("fence"):  # to a worker that waited: its lease comes with the start
            self._lease(job, said)

    def _lease(self, job: Job, said: Mapping[str, Any]) -> None:
        require(job.active is not None, "who is under way has a lease", said)
        assert job.active is not None
        run = self.runs[job.active]
        require(run.status == "running", "who runs has a lease", said, run)
        if "fence" in said:
            require(said["fence"] == job.fence + 1, "fences count up", said, job.fence)
            job.fence = run.fence = said["fence"]

    def _finish(self, job: Job, said: Mapping[str, Any]) -> None:
        run_id = said["run_id"]
        require(run_id in (job.active, job.waiting), "what ends was under way", said, job)
        if job.active == run_id:
            job.active = None
        else:
            job.waiting = None
        self.runs[run_id].status = said["status"]
