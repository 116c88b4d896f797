"""A job without an engine: decided, folded, stored as rows and woken when its moments come.

The world does what scheduler and entity do and nothing else, so that a test says what happens to a
job by turning the time. `crash` forgets all but the rows.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from palyra_actors.domain import cron, cron_commands
from palyra_actors.domain import schedule as times
from palyra_actors.domain.cron import Job, Run, Settings, Who, wake_ms
from palyra_actors.domain.cron_commands import Create, Finish, Heartbeat, Take, Wake
from palyra_actors.domain.fact import Fact

JOB = b"job" + bytes(13)
MINUTE = 60_000


def made(**other: Any) -> Settings:
    """Settings of a job that is due every minute, with a grace of half of one."""
    said: dict[str, Any] = {
        "name": "digest", "schedule": {"every_ms": MINUTE}, "payload": {"n": 1},
        "concurrency_policy": "forbid", "misfire_policy": "skip", "misfire_grace_ms": MINUTE // 2,
        "jitter_ms": 0, "max_attempts": 1, "backoff_ms": 1_000, "lease_ms": 10 * MINUTE,
        "session_key": None,
    }  # fmt: skip
    return Settings(**{**said, **other})


class World:
    """One job. `events`: all it ever had, as (kind, payload, ts_ms); `rows`: its runs by number."""

    def __init__(self, *, now_ms: int = 0, job_id: bytes = JOB, **settings: Any) -> None:
        self.now_ms = self.up_since_ms = now_ms
        self.job_id = job_id
        self.job: Job | None = None
        self.events: list[tuple[str, Mapping[str, Any], int]] = []
        self.rows: dict[int, tuple[Any, ...]] = {}
        self.do(Create(made(**settings), True, False))

    # -- what the engine does ---------------------------------------------------------------------

    def do(self, command: cron_commands.Command) -> Mapping[str, Any]:
        """Decide and fold, as an entity does; what the command is answered."""
        who = Who(self.job_id, "local", self.now_ms)
        decision = cron_commands.decide(self.job, command, who)
        for new in decision.events:
            said = msgspec.msgpack.decode(msgspec.msgpack.encode(new.payload))
            self.events.append((new.kind, said, self.now_ms))
            self.job = self._folded(new.kind, said)
        assert self.job is not None
        return decision.answer(self.job)

    def _folded(self, kind: str, said: Mapping[str, Any]) -> Job:
        number = len(self.events)
        fact = Fact(
            kind, said, number, self.now_ms, number, self.now_ms, None, None, b"", "system",
            "local",
        )  # fmt: skip
        job, changes = cron.fold(self.job, fact, 1)
        for statement, row in changes:
            if statement == "cron.put_run":
                self.rows[row[1]] = row
        return job

    def turn_to(self, minutes: float, *, woken: bool = True) -> "World":
        """Let time pass. The job is woken whenever something is due, or only at the end."""
        until = round(minutes * MINUTE)
        assert until >= self.now_ms
        while woken and self.job is not None:
            moment = wake_ms(self.job)
            if moment is None or moment > until:
                break
            self.now_ms = max(self.now_ms, moment)
            self.do(Wake(self.up_since_ms))
        self.now_ms = until
        self.settle()
        return self

    def settle(self) -> None:
        """Woken until nothing is due, as the scheduler does."""
        while self.job is not None and (moment := wake_ms(self.job)) is not None:
            if moment > self.now_ms:
                break
            self.do(Wake(self.up_since_ms))

    def down_until(self, minutes: float) -> "World":
        """No engine until then; what comes back has read the rows."""
        self.now_ms = self.up_since_ms = round(minutes * MINUTE)
        self.crash()
        self.settle()
        return self

    def crash(self) -> None:
        """The state is what the rows say, and equals what it was."""
        assert self.job is not None
        job = self.job._replace(active=None, waiting=None)
        for number in sorted(self.rows):
            run = cron.run_of(self.rows[number][1:3] + self.rows[number][3:])
            if run.status == "queued" and run.attempt == 1:
                job = job._replace(waiting=run)
            elif run.status in ("queued", "running"):
                job = job._replace(active=run)
        assert job == self.job
        self.job = job

    # -- what a worker does -----------------------------------------------------------------------

    @property
    def active(self) -> Run:
        assert self.job is not None
        assert self.job.active is not None
        return self.job.active

    def take(self) -> "World":
        self.do(Take(self.active.run_id))
        return self

    def beat(self) -> "World":
        self.do(Heartbeat(self.active.run_id, self.active.fence))
        return self

    def finish(self, status: str = "succeeded", **other: Any) -> "World":
        said = {"error": None, "usage": None, "redacted": False, **other}
        self.do(Finish(self.active.run_id, self.active.fence, status, **said))
        return self

    # -- what came of it --------------------------------------------------------------------------

    @property
    def runs(self) -> list[Run]:
        return [cron.run_of(self.rows[number][1:]) for number in sorted(self.rows)]

    def told(self) -> list[tuple[float, str, str, int]]:
        """Each run's instant in minutes, its status, its reason, and how many were missed."""
        return [
            (run.scheduled_ms / MINUTE, run.status, run.reason, run.missed) for run in self.runs
        ]

    def accounted(self) -> list[int]:
        """Every instant that an event accounts for, in the order of the events."""
        assert self.job is not None
        schedule = times.known(self.job.settings.schedule)
        found: list[int] = []
        for kind, said, _ in self.events:
            if "next_ms" not in said or not kind.startswith("cron.run_"):
                continue
            instant = said["from_ms"]
            while instant is not None and instant <= said["scheduled_ms"]:
                found.append(instant)
                instant = times.next_after(schedule, self.job.anchor_ms, instant)
        return found
