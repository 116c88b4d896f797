"""A job: its ticks, and the runs that they start. Pure; see `domain.fact`.

    tick ──nothing active──▶ running ──taken: lease and fence──▶ succeeded | failed
      │                        │ └─ untaken: failed (no_worker), lease over: failed (orphaned)
      │                        └─ failed, attempts left ──▶ queued (retry) ──back-off──▶ running
      ├─ one active, forbid ──▶ skipped (overlap)
      ├─ one active, replace ─▶ that one cancelled (replaced), this one running
      ├─ one active, queue_one ▶ queued ──▶ running; a further one: skipped (queue_full)
      └─ missed ──▶ skipped (misfire) once for all of them, or one run for the last

One tick, one start: a job goes through its instants in order and never back, and the event that
records an instant's run says the next instant. What a job waits for are moments (`wake_ms`), kept
with it: a restart loses none. `Wake` does whatever is due at a moment, and nothing if nothing is.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

from palyra_actors.domain import schedule as times
from palyra_actors.domain.cron import (
    CANCELLED,
    CATCH_UP,
    DELETED,
    DISABLED,
    FAILED,
    MANUAL,
    MISFIRE,
    NO_WORKER,
    ORPHANED,
    OVERLAP,
    QUEUE_FULL,
    QUEUED,
    REPLACED,
    RESCHEDULED,
    RUNNING,
    TICK,
    Job,
    Run,
    Said,
    Settings,
    Who,
    evolve,
    run_view,
    view,
    wake_ms,
)
from palyra_actors.domain.fact import Decision, New
from palyra_actors.domain.schedule import At, Cron
from palyra_actors.errors import Conflict, Invalid, NotFound
from palyra_actors.ids import format_ulid
from palyra_actors.limits import CRON_BACKOFF_MS_MAX

STEPS_MAX: Final = 4
"""Ticks and deadlines that one `Wake` goes through; it is woken again for the rest, and meanwhile
others have their turn. Sixteen jobs that are woken together and are all behind take the loop for
about 5 ms; with 64 it was 50 to 90, and every write beside them was late or refused."""


class Create(NamedTuple):
    settings: Settings
    enabled: bool
    redacted: bool


class Update(NamedTuple):
    """`changes`: fields of `Settings`, and `enabled`."""

    changes: Mapping[str, Any]
    redacted: bool


class Delete(NamedTuple):
    """Ends what is under way; the job's history stays."""


class RunNow(NamedTuple):
    """A run outside of the schedule."""


class Wake(NamedTuple):
    """Do what is due. `up_since_ms`: ticks that were due before were missed: no engine ran.
    `hand`: a worker waits; a run that begins is its own at once."""

    up_since_ms: int
    hand: bool = False


class Take(NamedTuple):
    """A worker gets the run. `fence`: that of the worker who was gone before it heard of it."""

    run_id: bytes
    fence: int = 0


class Heartbeat(NamedTuple):
    run_id: bytes
    fence: int


class Finish(NamedTuple):
    run_id: bytes
    fence: int
    status: str
    error: Any
    usage: Any
    redacted: bool


class Quarantine(NamedTuple):
    """Something about the job fails again and again: it is disabled, and says why. It stands for
    the `Wake` that failed, and is answered as that is."""

    error: str


Command: TypeAlias = (
    Create | Update | Delete | RunNow | Wake | Take | Heartbeat | Finish | Quarantine
)


# -- deciding -------------------------------------------------------------------------------------


def decide(job: Job | None, command: Command, who: Who) -> Decision:
    """What the command causes.

    Raises:
        NotFound: there is no such job.
        Conflict: there is one already; the run is not that worker's, or not any more.
        Invalid: a one-shot that can never be due.
    """
    if isinstance(command, Create):
        return _create(job, command, who)
    if job is None or (job.deleted and not isinstance(command, Heartbeat | Finish)):
        raise NotFound("there is no such job", field="job_id")
    if isinstance(command, Wake):
        usual = _tick_alone(job, command, who)
        return wake_step_by_step(job, command, who) if usual is None else usual
    plan = _Plan(job, who)
    match command:
        case Update():
            return _update(plan, command)
        case Delete():
            plan.pass_over(DELETED)
            for run in (job.active, job.waiting):
                if run is not None:
                    plan.end(run, CANCELLED, DELETED)
            plan.say("cron.deleted")
            return plan.decision(lambda after: {"job": view(after, who)})
        case RunNow():
            return plan.decision_on(plan.fall_due(who.now_ms, MANUAL, manual=True))
        case Take():
            run = job.active
            if run is None or run[:1] != (command.run_id,) or run.status != RUNNING:
                raise Conflict("the run is not to be had any more", field="run_id")
            if run.fence != command.fence:
                raise Conflict("the run is taken", field="run_id", detail={"actual": run.fence})
            plan.lease(run)
            return plan.decision_on(run.run_id)
        case Heartbeat():
            run = _held(job, command.run_id, command.fence, who.now_ms)
            until = who.now_ms + job.settings.lease_ms
            plan.say("cron.run_heartbeat", run_id=format_ulid(run.run_id), lease_until_ms=until)
            return plan.decision_on(run.run_id)
        case Finish():
            run = _held(job, command.run_id, command.fence, who.now_ms)
            plan.redacted = command.redacted
            plan.end(run, command.status, run.reason, command.error, command.usage)
            plan.redacted = False
            plan.go_on_after(run, failed=command.status == FAILED)
            return plan.decision_on(run.run_id)
        case Quarantine():
            plan.quarantine(command.error)
            return plan.decision(_says_when)
        case _:
            assert_never(command)


def _held(job: Job, run_id: bytes, fence: int, now_ms: int) -> Run:
    """The run, if it is that worker's now. Raises Conflict."""
    run = job.active
    if run is not None and run.run_id == run_id and run.status == RUNNING and not run.fence:
        raise Conflict(
            "no worker has the run",
            field="run_id",
            hint="cron.work gives it out, with the fence that it has then",
            detail={"actual": job.fence},
        )
    if run is None or run.run_id != run_id or run.status != RUNNING:
        raise Conflict(
            "the run is not under way any more",
            field="run_id",
            hint="its lease ran out, or it was replaced; what was done may be done again",
            detail={"actual": job.fence},
        )
    if run.fence != fence:
        raise Conflict(
            f"the run was given to another worker: its fence is {run.fence}, not {fence}",
            field="fence",
            detail={"actual": run.fence},
        )
    if run.lease_until_ms is not None and run.lease_until_ms <= now_ms:
        raise Conflict(
            "the run's lease has run out",
            field="fence",
            hint="send heartbeats well within lease_ms",
            detail={"actual": run.fence},
        )
    return run


def _create(job: Job | None, command: Create, who: Who) -> Decision:
    if job is not None:
        raise Conflict(
            "there is a job of that id already, or was",
            field="job_id",
            hint="take a new id",
            detail={"actual": "deleted" if job.deleted else "there"},
        )
    settings, now_ms = command.settings, who.now_ms
    said = {
        "v": 1,
        **settings._asdict(),
        "enabled": command.enabled,
        "anchor_ms": now_ms,
        **_first(who, settings, now_ms, -1, command.enabled),
    }
    new = New("cron.created", said, redacted=command.redacted)
    return Decision([new], lambda after: {"job": view(after, who)})


def _first(
    who: Who, settings: Settings, anchor_ms: int, last_ms: int, enabled: bool
) -> dict[str, Any]:
    """The first instant of a schedule that is set now, after `last_ms`. One of the past is due at
    once, where it is the only one."""
    schedule = times.known(settings.schedule)
    after_ms = last_ms if isinstance(schedule, At) else max(who.now_ms, last_ms)
    instant = times.next_after(schedule, anchor_ms, after_ms)
    return _instant(who, settings, anchor_ms, instant if enabled else None)


def _check_ahead(said: Mapping[str, Any], last_ms: int) -> None:
    """An instant has one tick, for ever, and no job goes back. Raises Invalid: a one-shot that for
    this reason never comes, which nobody would hear of."""
    schedule = times.known(said)
    if isinstance(schedule, At) and schedule.at_ms <= last_ms:
        last = next(times.explain(schedule._replace(at_ms=last_ms), 0, last_ms - 1, 1))
        raise Invalid(
            f"this schedule is never due: the job has had its tick of {last_ms} ({last.local})",
            field="schedule.at_ms",
            hint="take a later instant, or make a new job",
            detail={"last_ms": last_ms},
        )


def _instant(who: Who, settings: Settings, anchor_ms: int, instant: int | None) -> dict[str, Any]:
    """An instant, and when its tick is due."""
    if instant is None:
        return {"next_ms": None, "due_ms": None}
    due = instant + _jitter(who.job_id, settings, anchor_ms, instant)
    return {"next_ms": instant, "due_ms": due}


def _jitter(job_id: bytes, settings: Settings, anchor_ms: int, instant: int) -> int:
    if not settings.jitter_ms:
        return 0
    following = times.next_after(times.known(settings.schedule), anchor_ms, instant)
    gap = None if following is None else following - instant
    return times.jitter_of(job_id, instant, settings.jitter_ms, gap)


def _update(plan: "_Plan", command: Update) -> Decision:
    job, who = plan.job, plan.who
    present = {**job.settings._asdict(), "enabled": job.enabled}
    changes = {name: new for name, new in command.changes.items() if new != present[name]}
    if changes:
        enabled = changes.get("enabled", job.enabled)
        if not enabled or "schedule" in changes:
            plan.pass_over(RESCHEDULED if enabled else DISABLED)
            job = plan.job
        settings = job.settings._replace(
            **{name: new for name, new in changes.items() if name != "enabled"}
        )
        anchor_ms, instant = job.anchor_ms, job.next_ms
        if "schedule" in changes:
            _check_ahead(changes["schedule"], job.last_ms)
            anchor_ms = who.now_ms
            then = _first(who, settings, anchor_ms, job.last_ms, enabled)
        else:
            if enabled and not job.enabled:
                schedule = times.known(settings.schedule)
                after_ms = max(who.now_ms, job.last_ms)
                instant = times.next_after(schedule, anchor_ms, after_ms)
            then = _instant(who, settings, anchor_ms, instant if enabled else None)
        plan.redacted = command.redacted
        plan.say("cron.updated", changes=changes, anchor_ms=anchor_ms, **then)
        plan.redacted = False
        if not enabled:
            plan.stop_waiting()
    return plan.decision(lambda after: {"job": view(after, who)})


def _says_when(after: Job) -> Mapping[str, Any]:
    return {"wake_ms": wake_ms(after)}


def _tick_alone(job: Job, command: Wake, who: Who) -> Decision | None:
    """The usual tick: in time, nothing else under way and nothing more due. None: it is not that.

    It says to the byte what `wake_step_by_step` says, in a third of the time, which thousands that
    are due at once make felt.
    """
    settings, now_ms = job.settings, who.now_ms
    instant, due_ms = job.next_ms, job.due_ms
    if (
        not job.enabled
        or instant is None
        or due_ms is None
        or due_ms > now_ms
        or job.active is not None
        or job.waiting is not None
        or due_ms < now_ms - settings.misfire_grace_ms
        or max(due_ms, job.anchor_ms) < command.up_since_ms
    ):
        return None
    schedule = times.known(settings.schedule)
    next_ms = next_due_ms = times.next_after(schedule, job.anchor_ms, instant)
    if next_ms is None:
        if isinstance(schedule, Cron):
            return None
    else:
        if settings.jitter_ms:
            next_due_ms = next_ms + _jitter(who.job_id, settings, job.anchor_ms, next_ms)
        assert next_due_ms is not None
        if next_due_ms <= now_ms:
            return None
    run_id = _run_id(job, who)
    number, until_ms = job.runs + 1, now_ms + settings.lease_ms
    said = Said(
        v=1, run_id=format_ulid(run_id), scheduled_ms=instant, from_ms=instant, missed=0,
        reason=TICK, attempt=1, manual=False, next_ms=next_ms, due_ms=next_due_ms,
        deadline_ms=until_ms,
    )  # fmt: skip
    fence, lease_until_ms = 0, None
    if command.hand:
        said["fence"] = fence = job.fence + 1
        said["lease_until_ms"] = lease_until_ms = until_ms
    run = Run(
        run_id, number, 1, RUNNING, TICK, 0, instant, False, now_ms, None, fence, lease_until_ms,
        until_ms,
    )  # fmt: skip
    after = Job(
        settings, True, job.anchor_ms, job.created_ms, job.updated_ms, next_ms, next_due_ms,
        instant, now_ms, number, fence or job.fence, run,
    )  # fmt: skip
    said.made, said.run_id = (after, (run,)), run_id
    return Decision((New("cron.run_started", said),), _says_when)


def wake_step_by_step(job: Job, command: Wake, who: Who) -> Decision:
    """Go through what is due, in the order of time; what was missed, last: whatever ended before
    now makes room for it."""
    plan = _Plan(job, who)
    plan.hand = command.hand
    for _ in range(STEPS_MAX):
        job, now_ms = plan.job, plan.who.now_ms
        deadline = None if job.active is None else job.active.deadline_ms
        grace_ms, up_since_ms = now_ms - job.settings.misfire_grace_ms, command.up_since_ms
        due = job.due_ms if job.enabled else None
        # One whose time had passed when the job was made was not missed by the engine before.
        missed = due is not None and (due < grace_ms or max(due, job.anchor_ms) < up_since_ms)
        moment = None if due is None or due > now_ms else now_ms if missed else due
        if deadline is not None and deadline <= (now_ms if moment is None else moment):
            plan.meet_deadline()
        elif moment is None:
            break
        elif missed:
            plan.miss(max(grace_ms, up_since_ms))
        else:
            plan.tick()
    if command.hand:
        run = plan.job.active
        if run is not None and run.status == RUNNING and not run.fence:
            plan.lease(run)
    return plan.decision(_says_when)


def _run_id(job: Job, who: Who) -> bytes:
    """Of the job's next run."""
    number = (job.runs + 1).to_bytes(8, "big")
    return who.now_ms.to_bytes(6, "big") + sha256(who.job_id + number).digest()[:10]


class _Plan:
    """Decides step by step, each on the state that the one before leaves."""

    def __init__(self, job: Job, who: Who) -> None:
        self.job = job
        self.who = who
        self.redacted = self.hand = False
        self._events: list[New] = []
        self._runs: dict[bytes, Run] = {}

    def decision(self, answer: Any) -> Decision:
        return Decision(self._events, answer)

    def decision_on(self, run_id: bytes) -> Decision:
        """Answered with a run that the events concern."""
        shown = {"run": run_view(self._runs[run_id], self.who.job_id)}
        return Decision(self._events, lambda after: shown)

    def say(self, kind: str, **said: Any) -> None:
        payload = Said(v=1, **said)
        self.job, runs = payload.made = evolve(self.job, kind, payload, self.who.now_ms)
        for run in runs:
            payload.run_id = run.run_id
            self._runs[run.run_id] = run
        self._events.append(New(kind, payload, redacted=self.redacted))

    # -- ticks ------------------------------------------------------------------------------------

    def tick(self) -> None:
        """The next instant's tick, in time."""
        instant = self.job.next_ms
        assert instant is not None
        self.fall_due(instant, TICK, then=self._following(instant))
        self._check_end()

    def miss(self, cutoff_ms: int) -> None:
        """All ticks that were due before `cutoff_ms`, at once."""
        first, (count, last) = self.job.next_ms, self._due_before(cutoff_ms)
        then = self._following(last)
        if self.job.settings.misfire_policy == "skip":
            self._skip(last, MISFIRE, count, first, then)
        else:
            self.fall_due(last, CATCH_UP, missed=count - 1, from_ms=first, then=then)
        self._check_end()

    def pass_over(self, reason: str) -> None:
        """The job stops having these ticks: those that are due and have not begun, at once."""
        job, now_ms = self.job, self.who.now_ms
        if job.enabled and job.due_ms is not None and job.due_ms <= now_ms:
            first, (count, last) = job.next_ms, self._due_before(now_ms + 1)
            self._skip(last, reason, count - 1, first, self._following(last))

    def _due_before(self, cutoff_ms: int) -> times.Span:
        """The ticks from the next one on that are due before then; that one is."""
        job, schedule = self.job, times.known(self.job.settings.schedule)
        first = job.next_ms
        assert first is not None
        count, last = times.span(schedule, job.anchor_ms, first, max(first, cutoff_ms - 1))
        if count > 1 and last + self._jitter(last) >= cutoff_ms:
            count, last = count - 1, times.last_before(schedule, job.anchor_ms, first, last)
        return times.Span(count, last)

    def fall_due(
        self,
        instant: int,
        reason: str,
        *,
        missed: int = 0,
        from_ms: int | None = None,
        then: Mapping[str, Any] | None = None,
        manual: bool = False,
    ) -> bytes:
        """A tick, or a run by hand, under the concurrency policy. The id of its run.

        `then`: the instant after it. `from_ms`: the first of the missed that it stands for.
        """
        job = self.job
        run_id = self._new_id()
        told: dict[str, Any] = {
            "run_id": format_ulid(run_id),
            "scheduled_ms": instant,
            "from_ms": instant if from_ms is None else from_ms,
            "missed": missed,
            "reason": reason,
            "attempt": 1,
            "manual": manual,
            **(then or {}),
        }
        policy = job.settings.concurrency_policy
        if job.active is not None and policy == "replace":
            self.end(job.active, CANCELLED, REPLACED)
        if self.job.active is None:
            told["deadline_ms"] = deadline = self.who.now_ms + job.settings.lease_ms
            due_ms = told.get("due_ms")
            if self.hand and (due_ms is None or due_ms > self.who.now_ms):
                told["fence"], told["lease_until_ms"] = self.job.fence + 1, deadline
            self.say("cron.run_started", **told)
        elif policy == "queue_one" and job.waiting is None:
            self.say("cron.run_queued", **told)
        else:
            told["reason"] = OVERLAP if policy == "forbid" else QUEUE_FULL
            self.say("cron.run_skipped", **told)
        return run_id

    def _skip(
        self, instant: int, reason: str, missed: int, from_ms: int | None, then: Mapping[str, Any]
    ) -> None:
        self.say(
            "cron.run_skipped", run_id=format_ulid(self._new_id()), scheduled_ms=instant,
            from_ms=from_ms, missed=missed, reason=reason, attempt=1, manual=False, **then,
        )  # fmt: skip

    def _following(self, instant: int) -> dict[str, Any]:
        job = self.job
        schedule = times.known(job.settings.schedule)
        following = times.next_after(schedule, job.anchor_ms, instant)
        return _instant(self.who, job.settings, job.anchor_ms, following)

    def _jitter(self, instant: int) -> int:
        return _jitter(self.who.job_id, self.job.settings, self.job.anchor_ms, instant)

    def _check_end(self) -> None:
        """A cron schedule goes on for ever; one that does not is broken."""
        job = self.job
        if job.next_ms is None and isinstance(times.known(job.settings.schedule), Cron):
            self.quarantine("its schedule is never due again")

    def _new_id(self) -> bytes:
        return _run_id(self.job, self.who)

    # -- runs -------------------------------------------------------------------------------------

    def meet_deadline(self) -> None:
        """The active run's moment has come: its next attempt begins, or nobody cares for it."""
        run = self.job.active
        assert run is not None
        if run.status == QUEUED:
            self._start(run)
            return
        self.end(run, FAILED, ORPHANED if run.fence else NO_WORKER)
        self.go_on_after(run, failed=True)

    def lease(self, run: Run) -> None:
        """A worker gets it."""
        self.say(
            "cron.run_leased", run_id=format_ulid(run.run_id), fence=self.job.fence + 1,
            lease_until_ms=self.who.now_ms + self.job.settings.lease_ms,
        )  # fmt: skip

    def end(self, run: Run, status: str, reason: str, error: Any = None, usage: Any = None) -> None:
        self.say(
            "cron.run_finished", run_id=format_ulid(run.run_id), status=status, reason=reason,
            error=error, usage=usage,
        )  # fmt: skip

    def go_on_after(self, run: Run, *, failed: bool) -> None:
        """A run has ended: another attempt, or the tick that waits."""
        job = self.job
        settings = job.settings
        if failed and run.attempt < settings.max_attempts and job.enabled:
            backoff = min(settings.backoff_ms << min(run.attempt - 1, 40), CRON_BACKOFF_MS_MAX)
            self.say(
                "cron.run_retry_scheduled", run_id=format_ulid(self._new_id()),
                after=format_ulid(run.run_id), attempt=run.attempt + 1, manual=run.manual,
                scheduled_ms=run.scheduled_ms, start_ms=self.who.now_ms + backoff,
            )  # fmt: skip
        elif job.waiting is not None:
            self._start(job.waiting)

    def stop_waiting(self) -> None:
        """What has not begun, does not any more."""
        job = self.job
        for run in (job.active, job.waiting):
            if run is not None and run.status == QUEUED:
                self.end(run, CANCELLED, DISABLED)

    def quarantine(self, error: str) -> None:
        if self.job.enabled:
            self.say(
                "cron.quarantined", run_id=format_ulid(self._new_id()), error=error,
                scheduled_ms=self.job.next_ms or self.who.now_ms,
            )  # fmt: skip
            self.stop_waiting()

    def _start(self, run: Run) -> None:
        self.say(
            "cron.run_started", run_id=format_ulid(run.run_id), scheduled_ms=run.scheduled_ms,
            attempt=run.attempt, reason=run.reason, manual=run.manual,
            deadline_ms=self.who.now_ms + self.job.settings.lease_ms,
        )  # fmt: skip
