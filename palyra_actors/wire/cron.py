"""Bodies of `cron.*`."""

from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Raw, UnsetType

from palyra_actors.limits import (
    CRON_ATTEMPTS_MAX,
    CRON_BACKOFF_MS_MAX,
    CRON_EXPLAIN_MAX,
    CRON_GRACE_MS_MAX,
    CRON_JITTER_MS_MAX,
    CRON_LEASE_MS_MAX,
    CRON_NAMES_MAX,
    CRON_TIME_MS_MAX,
    INTEGER_MIN,
    LIST_LIMIT_DEFAULT,
    LIST_LIMIT_MAX,
)
from palyra_actors.wire.messages import WRITERS, Body, Credit, WriteBody

NOT_SAID: Final = Raw(b"")
"""Stands for a value that was left out: no frame holds it."""

NIL: Final = Raw(b"\xc0")

Count: TypeAlias = Annotated[int, Meta(ge=0, le=-INTEGER_MIN - 1)]
Instant: TypeAlias = Annotated[int, Meta(ge=0, le=CRON_TIME_MS_MAX)]
ConcurrencyPolicy: TypeAlias = Literal["forbid", "replace", "queue_one"]
MisfirePolicy: TypeAlias = Literal["skip", "catch_up"]
GraceMs: TypeAlias = Annotated[int, Meta(ge=0, le=CRON_GRACE_MS_MAX)]
JitterMs: TypeAlias = Annotated[int, Meta(ge=0, le=CRON_JITTER_MS_MAX)]
LeaseMs: TypeAlias = Annotated[int, Meta(ge=1, le=CRON_LEASE_MS_MAX)]
RunStatus: TypeAlias = Literal["queued", "running", "succeeded", "failed", "skipped", "cancelled"]


class ScheduleIn(Body):
    """One of the three; `tz` goes with `cron`. `domain.schedule.read` says what is wrong."""

    cron: str | None = None
    tz: str | None = None
    every_ms: int | None = None
    at_ms: int | None = None

    def said(self) -> dict[str, Any]:
        return {"cron": self.cron, "tz": self.tz, "every_ms": self.every_ms, "at_ms": self.at_ms}


class RetryIn(Body):
    """`backoff_ms` before the second attempt, twice that before the third, and so on."""

    max_attempts: Annotated[int, Meta(ge=1, le=CRON_ATTEMPTS_MAX)] = 1
    backoff_ms: Annotated[int, Meta(ge=0, le=CRON_BACKOFF_MS_MAX)] = 1_000


class CreateJobBody(WriteBody):
    name: str
    schedule: ScheduleIn
    payload: Raw = NIL
    job_id: str | None = None
    enabled: bool = True
    concurrency_policy: ConcurrencyPolicy = "forbid"
    misfire_policy: MisfirePolicy = "skip"
    misfire_grace_ms: GraceMs = 60_000
    jitter_ms: JitterMs = 0
    retry: RetryIn | None = None
    lease_ms: LeaseMs = 60_000
    session_key: str | None = None


class UpdateJobBody(WriteBody):
    job_id: str
    name: str | UnsetType = UNSET
    schedule: ScheduleIn | UnsetType = UNSET
    payload: Raw = NOT_SAID
    enabled: bool | UnsetType = UNSET
    concurrency_policy: ConcurrencyPolicy | UnsetType = UNSET
    misfire_policy: MisfirePolicy | UnsetType = UNSET
    misfire_grace_ms: GraceMs | UnsetType = UNSET
    jitter_ms: JitterMs | UnsetType = UNSET
    retry: RetryIn | UnsetType = UNSET
    lease_ms: LeaseMs | UnsetType = UNSET
    session_key: str | UnsetType | None = UNSET


class JobWriteBody(WriteBody):
    job_id: str


class JobBody(Body):
    job_id: str


class ListJobsBody(Body):
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT_MAX)] = LIST_LIMIT_DEFAULT
    enabled: bool | None = None


class ListCronRunsBody(Body):
    job_id: str
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT_MAX)] = LIST_LIMIT_DEFAULT
    status: RunStatus | None = None


class ExplainBody(Body):
    job_id: str | None = None
    schedule: ScheduleIn | None = None
    after_ms: Instant | None = None
    count: Annotated[int, Meta(ge=1, le=CRON_EXPLAIN_MAX)] = 10


class WorkBody(Body):
    roles: ClassVar[frozenset[str]] = WRITERS

    credit: Credit
    names: Annotated[list[str], Meta(min_length=1, max_length=CRON_NAMES_MAX)] | None = None


class HeartbeatBody(WriteBody):
    run_id: str
    fence: Count


class FinishBody(WriteBody):
    run_id: str
    fence: Count
    status: Literal["succeeded", "failed"]
    error: Raw = NIL
    usage: Raw = NIL


BODIES: Final[dict[str, type[Body]]] = {
    "cron.create": CreateJobBody,
    "cron.update": UpdateJobBody,
    "cron.delete": JobWriteBody,
    "cron.enable": JobWriteBody,
    "cron.disable": JobWriteBody,
    "cron.get": JobBody,
    "cron.list": ListJobsBody,
    "cron.run_now": JobWriteBody,
    "cron.runs": ListCronRunsBody,
    "cron.explain": ExplainBody,
    "cron.work": WorkBody,
    "cron.heartbeat": HeartbeatBody,
    "cron.finish": FinishBody,
}
