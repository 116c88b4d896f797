"""Check every tick of every job from outside, by the journal alone: `check_cron ENDPOINT`.

Prints what it counted as JSON and ends with 0, or with 1 if a tick has no run or a run began twice.
It knows `every_ms` schedules without jitter.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import zmq

TICKS = ("cron.run_started", "cron.run_queued", "cron.run_skipped")


@dataclass
class Job:
    """What the events have said so far. `expected`: the instant that has its tick next."""

    every_ms: int
    expected: int
    fence: int = 0
    active: str | None = None
    waiting: str | None = None
    begun: set[tuple[int, int]] = field(default_factory=set)
    runs: dict[str, str] = field(default_factory=dict)
    leases: set[tuple[str, int]] = field(default_factory=set)


@dataclass
class Counts:
    jobs: int = 0
    ticks: int = 0
    starts: int = 0
    double_starts: int = 0
    unexplained: int = 0
    other: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.double_starts + self.unexplained + self.other

    def wrong(self, what: str, event: Any) -> None:
        self.examples.append(f"event {event['seq']} {event['kind']}: {what}: {event['payload']}")


def ask(door: "zmq.Socket[bytes]", op: str, **body: Any) -> Any:
    door.send(msgpack.packb({"v": 1, "id": 1, "op": op, "body": body}))
    if not door.poll(30_000):
        raise SystemExit(f"no answer to {op}")
    return msgpack.unpackb(door.recv())["ok"]


def events(door: "zmq.Socket[bytes]") -> Iterator[Any]:
    page: Any = {"end": False, "next_after_seq": 0}
    while not page["end"]:
        page = ask(door, "journal.read", after_seq=page["next_after_seq"], limit=1000)
        yield from (event for event in page["events"] if event["stream"] == "cron")


def check(every_event: Iterator[Any]) -> tuple[Counts, dict[str, Job]]:
    counts, jobs = Counts(), {}
    for event in every_event:
        said, kind, name = event["payload"], event["kind"], event["stream_id"]
        if kind == "cron.created":
            jobs[name] = Job(said["schedule"]["every_ms"], said["next_ms"])
            counts.jobs += 1
            if said["next_ms"] != said["anchor_ms"] + said["schedule"]["every_ms"]:
                counts.unexplained += 1
                counts.wrong("not the first instant", event)
        elif name in jobs:
            _look(counts, jobs[name], event, kind, said)
    return counts, jobs


def _look(counts: Counts, job: Job, event: Any, kind: str, said: Any) -> None:
    if kind in TICKS and "next_ms" in said:
        _account(counts, job, event, said)
    run = said.get("run_id")
    if kind == "cron.run_started":
        counts.starts += 1
        key = (said["scheduled_ms"], said["attempt"])
        if (
            key in job.begun
            or job.runs.get(run, "queued") != "queued"
            or job.active not in (None, run)
        ):
            counts.double_starts += 1
            counts.wrong("began before, or while another one runs", event)
        job.begun.add(key)
        job.active, job.runs[run] = run, "running"
        job.waiting = None if job.waiting == run else job.waiting
        if "fence" in said:  # a worker had waited for it
            _lease(counts, job, event, said)
    elif kind == "cron.run_queued":
        _other(counts, job.waiting is None and job.active is not None, "nothing to wait for", event)
        job.waiting, job.runs[run] = run, "queued"
    elif kind == "cron.run_retry_scheduled":
        _other(counts, job.runs.get(said["after"]) == "failed", "after no failure", event)
        job.active, job.runs[run] = run, "queued"
    elif kind == "cron.run_skipped":
        _other(counts, run not in job.runs, "had begun", event)
        job.runs[run] = "skipped"
    elif kind == "cron.run_leased":
        _other(counts, job.runs.get(run) == "running", "of a run that does not run", event)
        _lease(counts, job, event, said)
    elif kind == "cron.run_heartbeat":
        _other(counts, job.runs.get(run) == "running", "of a run that does not run", event)
    elif kind == "cron.run_finished":
        _other(counts, job.runs.get(run) in ("running", "queued"), "had ended", event)
        counts.reasons[f"{said['status']} {said['reason']}"] += 1
        job.runs[run] = said["status"]
        job.active = None if job.active == run else job.active
        job.waiting = None if job.waiting == run else job.waiting


def _lease(counts: Counts, job: Job, event: Any, said: Any) -> None:
    _other(counts, said["fence"] > job.fence, "the fence does not rise", event)
    job.fence = said["fence"]
    job.leases.add((said["run_id"], said["fence"]))


def _account(counts: Counts, job: Job, event: Any, said: Any) -> None:
    """The event stands for the ticks from `from_ms` to `scheduled_ms`, and says the next one."""
    ticks = (said["scheduled_ms"] - said["from_ms"]) // job.every_ms + 1
    counts.ticks += ticks
    if event["kind"] == "cron.run_skipped":
        counts.reasons[f"skipped {said['reason']}"] += 1
    missed = ticks if said["reason"] == "misfire" else ticks - 1
    if (
        said["from_ms"] != job.expected
        or said["missed"] != missed
        or said["next_ms"] != said["scheduled_ms"] + job.every_ms
    ):
        counts.unexplained += 1
        counts.wrong(f"the next instant was {job.expected}", event)
    job.expected = said["next_ms"]


def _other(counts: Counts, holds: bool, what: str, event: Any) -> None:
    if not holds:
        counts.other += 1
        counts.wrong(what, event)


if __name__ == "__main__":
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.connect(sys.argv[1])
        found, _ = check(events(client))
        print(json.dumps({**vars(found), "examples": found.examples[:10]}))  # noqa: T201
        sys.exit(1 if found.bad else 0)
