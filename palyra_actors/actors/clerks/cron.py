"""Jobs at the desk: made, changed, explained, woken when they are due, and their runs given to
workers.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from msgspec import UNSET

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.cron_feed import Untaken, Worker, WorkFeed
from palyra_actors.actors.clerks.session import check_size, clean_text, sees
from palyra_actors.actors.cron import JOB_COLUMNS, Ahead, CronActor, job_of, load
from palyra_actors.actors.reader import Ask
from palyra_actors.actors.scheduler import Done, Due, Scheduler
from palyra_actors.actors.work import Portion, Request
from palyra_actors.domain import cron as domain
from palyra_actors.domain import cron_commands as commands
from palyra_actors.domain import schedule as times
from palyra_actors.domain.catalog import CRON
from palyra_actors.domain.cron import STATUS_NUMBERS, Job, Settings, Who, run_view, view
from palyra_actors.errors import Invalid, NotFound, PalyraError
from palyra_actors.limits import (
    CRON_NAME_BYTES_MAX,
    CRON_RESULT_BYTES_MAX,
    FILTER_TEXT_BYTES_MAX,
    INTEGER_MAX,
    PAYLOAD_BYTES_MAX,
    REPLY_PAYLOAD_BYTES_MAX,
    SESSION_KEY_BYTES_MAX,
)
from palyra_actors.storage.port import ReadSide, StreamRow
from palyra_actors.wire.cron import (
    NOT_SAID,
    CreateJobBody,
    ExplainBody,
    FinishBody,
    HeartbeatBody,
    JobBody,
    JobWriteBody,
    ListCronRunsBody,
    ListJobsBody,
    RetryIn,
    ScheduleIn,
    UpdateJobBody,
    WorkBody,
)

log = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 0.005
LOOK_AGAIN_S: Final = 1.0


class CronClerk:
    """Serves `cron.*`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._scheduler = Scheduler.launch(
            counter.loop, self._ask, self._wake, counter.rota, counter.in_company
        )
        self._feed = WorkFeed(self._take, counter.call_later, counter.loop.call_soon)
        counter.house.listeners[CRON] = self._written
        counter.beside.append(self._feed)
        counter.jobs = self.statistics
        counter.rest = self._scheduler.rest
        counter.loop.call_soon(self._begin)

    def operations(self) -> Mapping[str, Any]:
        return {
            "cron.create": self._create,
            "cron.update": self._update,
            "cron.delete": self._delete,
            "cron.enable": self._enable,
            "cron.disable": self._disable,
            "cron.get": self._get,
            "cron.list": self._list,
            "cron.run_now": self._run_now,
            "cron.runs": self._runs,
            "cron.explain": self._explain,
            "cron.work": self._work,
            "cron.heartbeat": self._heartbeat,
            "cron.finish": self._finish,
        }

    def statistics(self) -> Mapping[str, int]:
        """Counts of the scheduler and of those who work."""
        return {**asdict(self._scheduler.statistics()), **asdict(self._feed.statistics())}

    # -- jobs -------------------------------------------------------------------------------------

    def _create(self, request: Request, body: CreateJobBody) -> None:
        counter = self._counter
        job_id = counter.new_id() if body.job_id is None else counter.ulid(body.job_id, "job_id")
        retry = RetryIn() if body.retry is None else body.retry
        name, redacted = self._name(body.name)
        payload, lost = counter.clean_value(body.payload, "payload", PAYLOAD_BYTES_MAX)
        settings = Settings(
            name,
            _schedule(body.schedule),
            payload,
            body.concurrency_policy,
            body.misfire_policy,
            body.misfire_grace_ms,
            body.jitter_ms,
            retry.max_attempts,
            retry.backoff_ms,
            body.lease_ms,
            self._key(body.session_key),
        )
        command = commands.Create(settings, body.enabled, redacted or lost)
        counter.command(request, CRON, job_id, command, op="cron.create", body=body)

    def _update(self, request: Request, body: UpdateJobBody) -> None:
        counter = self._counter
        job_id = counter.ulid(body.job_id, "job_id")
        redacted = False
        changes: dict[str, Any] = {
            field: value
            for field in (
                "enabled", "concurrency_policy", "misfire_policy", "misfire_grace_ms",
                "jitter_ms", "lease_ms",
            )
            if (value := getattr(body, field)) is not UNSET
        }  # fmt: skip
        if body.name is not UNSET:
            changes["name"], redacted = self._name(body.name)
        if body.schedule is not UNSET:
            changes["schedule"] = _schedule(body.schedule)
        if bytes(body.payload) != bytes(NOT_SAID):
            payload, lost = counter.clean_value(body.payload, "payload", PAYLOAD_BYTES_MAX)
            changes["payload"], redacted = payload, redacted or lost
        if body.retry is not UNSET:
            changes["max_attempts"] = body.retry.max_attempts
            changes["backoff_ms"] = body.retry.backoff_ms
        if body.session_key is not UNSET:
            changes["session_key"] = self._key(body.session_key)
        command = commands.Update(changes, redacted)
        counter.command(request, CRON, job_id, command, op="cron.update", body=body)

    def _delete(self, request: Request, body: JobWriteBody) -> None:
        self._command(request, body, commands.Delete(), "cron.delete")

    def _enable(self, request: Request, body: JobWriteBody) -> None:
        self._command(request, body, commands.Update({"enabled": True}, False), "cron.enable")

    def _disable(self, request: Request, body: JobWriteBody) -> None:
        self._command(request, body, commands.Update({"enabled": False}, False), "cron.disable")

    def _run_now(self, request: Request, body: JobWriteBody) -> None:
        self._command(request, body, commands.RunNow(), "cron.run_now")

    def _command(
        self, request: Request, body: JobWriteBody, command: commands.Command, op: str
    ) -> None:
        job_id = self._counter.ulid(body.job_id, "job_id")
        self._counter.command(request, CRON, job_id, command, op=op, body=body)

    # -- reading ----------------------------------------------------------------------------------

    def _get(self, request: Request, body: JobBody) -> None:
        job_id, principal = self._counter.ulid(body.job_id, "job_id"), sees(request)

        def find(reader: ReadSide) -> Mapping[str, Any]:
            row, job = _find(reader, job_id, principal)
            return {"job": view(job, Who(job_id, row.principal, 0))}

        self._counter.look(request, find)

    def _list(self, request: Request, body: ListJobsBody) -> None:
        after = None if body.after is None else self._counter.ulid(body.after, "after")
        principal, limit, enabled = sees(request), body.limit, body.enabled

        def find(reader: ReadSide) -> Mapping[str, Any]:
            position = 0
            if after is not None:
                row = reader.stream(CRON, after)
                if row is None or principal not in (None, row.principal):
                    raise NotFound("there is no such job", field="after")
                position = row.stream
            bounds = {"after": position, "enabled": enabled, "limit": limit + 1}
            rows = (
                reader.rows("cron.page", bounds)
                if principal is None
                else reader.rows("cron.page_of_owner", {**bounds, "owner": principal})
            )
            jobs: list[dict[str, Any]] = []
            left = REPLY_PAYLOAD_BYTES_MAX
            for found in rows[:limit]:
                left -= len(found[0])
                if jobs and left < 0:
                    break
                job_id, owner = found[JOB_COLUMNS], found[JOB_COLUMNS + 1]
                jobs.append(view(job_of(found), Who(job_id, owner, 0)))
            return {
                "jobs": jobs,
                "next_after": jobs[-1]["job_id"] if jobs else body.after,
                "end": len(jobs) == len(rows),
            }

        self._counter.look(request, find)

    def _runs(self, request: Request, body: ListCronRunsBody) -> None:
        counter = self._counter
        job_id, principal = counter.ulid(body.job_id, "job_id"), sees(request)
        after = None if body.after is None else counter.ulid(body.after, "after")
        status = None if body.status is None else STATUS_NUMBERS[body.status]
        limit = body.limit

        def find(reader: ReadSide) -> Mapping[str, Any]:
            row, _ = _find(reader, job_id, principal)
            before = INTEGER_MAX // 2
            if after is not None:
                found = reader.rows("cron.run", (after,))
                if not found or found[0][0] != row.stream:
                    raise NotFound("the job has no such run", field="after")
                before = found[0][1]
            bounds = {
                "stream": row.stream, "before": before, "status": status, "limit": limit + 1,
            }  # fmt: skip
            rows = reader.rows("cron.runs", bounds)
            runs: list[dict[str, Any]] = []
            left = REPLY_PAYLOAD_BYTES_MAX
            for one in rows[:limit]:
                left -= len(one[13] or b"") + len(one[14] or b"")
                if runs and left < 0:
                    break
                runs.append(run_view(domain.run_of(one), job_id))
            return {
                "runs": runs,
                "next_after": runs[-1]["run_id"] if runs else body.after,
                "end": len(runs) == len(rows),
            }

        counter.look(request, find)

    def _explain(self, request: Request, body: ExplainBody) -> None:
        counter = self._counter
        if (body.job_id is None) == (body.schedule is None):
            raise Invalid(
                "it explains a job or a schedule, one of the two",
                field="schedule",
                hint="leave out job_id, or schedule",
            )
        after_ms = counter.now_ms() if body.after_ms is None else body.after_ms
        principal, count = sees(request), body.count
        job_id = None if body.job_id is None else counter.ulid(body.job_id, "job_id")
        said = None if body.schedule is None else times.read(body.schedule.said())

        def find(reader: ReadSide) -> Mapping[str, Any]:
            schedule, anchor_ms = said, after_ms
            if job_id is not None:
                _, job = _find(reader, job_id, principal)
                schedule, anchor_ms = times.known(job.settings.schedule), job.anchor_ms
            assert schedule is not None
            try:
                found = list(times.explain(schedule, anchor_ms, after_ms, count))
            except Exception as error:
                raise times.uncomputable(error) from error
            return {"times": [one._asdict() for one in found]}

        counter.look(request, find)

    # -- workers ----------------------------------------------------------------------------------

    def _work(self, request: Request, body: WorkBody) -> None:
        for place, name in enumerate(body.names or ()):
            check_size(name, f"names[{place}]", FILTER_TEXT_BYTES_MAX)
        names = None if body.names is None else frozenset(body.names)
        self._feed.work(Worker(request, sees(request), names, body.credit))

    def _heartbeat(self, request: Request, body: HeartbeatBody) -> None:
        run_id, job_id = self._job_of(request, body.run_id)
        command = commands.Heartbeat(run_id, body.fence)
        self._counter.command(request, CRON, job_id, command, op="cron.heartbeat", body=body)

    def _finish(self, request: Request, body: FinishBody) -> None:
        run_id, job_id = self._job_of(request, body.run_id)
        error, redacted = self._counter.clean_value(body.error, "error", CRON_RESULT_BYTES_MAX)
        usage, lost = self._counter.clean_value(body.usage, "usage", CRON_RESULT_BYTES_MAX)
        command = commands.Finish(
            run_id, body.fence, body.status, error, usage, redacted or lost
        )  # fmt: skip
        self._counter.command(request, CRON, job_id, command, op="cron.finish", body=body)

    def _job_of(self, request: Request, text: str) -> tuple[bytes, bytes]:
        """The run's id and its job's. Raises NotFound."""
        run_id = self._counter.ulid(text, "run_id")
        rows = self._counter.reader.rows("cron.run", (run_id,))
        if not rows or sees(request) not in (None, rows[0][3]):
            raise NotFound("there is no such run", field="run_id")
        return run_id, rows[0][2]

    # -- what is due ------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The engine runs: see what is due, and which runs nobody has taken."""
        self._scheduler.wakes_jobs = self._counter.scheduling
        self._scheduler.tell()
        if not self._counter.scheduling:
            return
        self._ask(lambda reader: reader.rows("cron.untaken"), self._untaken)

    def _untaken(self, found: Any) -> None:
        if isinstance(found, PalyraError):
            log.warning("runs that nobody took could not be read: %s", found)
            self._counter.call_later(LOOK_AGAIN_S, self._begin)
            return
        for run_id, job_id, owner, name in found:
            self._feed.began(Untaken(run_id, job_id, (owner, name)))
            self._feed.offer(run_id)

    def _wake(self, due: Sequence[Due], done: Done) -> None:
        """Have jobs do what is due, those of one owner as one unit of work. For whichever a worker
        waits, a run that begins is its own at once."""
        directory, feed = self._counter.directory, self._feed
        up_since_ms = self._scheduler.up_since_ms()
        by_owner: dict[str, list[tuple[CronActor, Due, bool]]] = {}
        directory.begin_request()
        for one in due:
            job_id, moment = one
            try:
                actor = directory.entity(CRON, job_id)
            except PalyraError as error:  # all are busy
                done(job_id, moment, error)
                continue
            assert isinstance(actor, CronActor)
            if moment.ahead is not None:
                actor.read_ahead(moment.ahead)
            promised = feed.promise(job_id, (moment.owner, moment.name))
            if len(due) > 1 and actor.free:
                by_owner.setdefault(moment.owner, []).append((actor, one, promised))
            else:
                self._wake_alone(one, promised, done)
        wakes = commands.Wake(up_since_ms), commands.Wake(up_since_ms, True)
        for owner, several in by_owner.items():
            self._wake_together(owner, several, wakes, done)

    def _wake_alone(self, one: Due, promised: bool, done: Done) -> None:
        job_id, moment = one

        def came(answer: Mapping[str, Any] | PalyraError) -> None:
            if promised:
                self._feed.release(job_id)  # unless the lease has come of it
            done(job_id, moment, answer)

        command = commands.Wake(self._scheduler.up_since_ms(), promised)
        self._counter.internal(moment.owner, CRON, job_id, command, came)

    def _wake_together(
        self,
        owner: str,
        several: Sequence[tuple[CronActor, Due, bool]],
        wakes: tuple[commands.Wake, commands.Wake],
        done: Done,
    ) -> None:
        """All or none; where it is none for one of them, each goes its own way."""
        counter, feed = self._counter, self._feed

        def came(answers: Sequence[Mapping[str, Any]] | PalyraError) -> None:
            for place, (_, one, promised) in enumerate(several):
                if promised:
                    feed.release(one[0])
                if isinstance(answers, PalyraError):
                    counter.loop.call_soon(partial(self._wake_alone, one, False, done))
                else:
                    done(*one, answers[place])

        asked = [(actor, wakes[promised]) for actor, _, promised in several]
        counter.internal_slice(owner, asked, came)

    def _take(self, one: Untaken, done: Callable[[PalyraError | None], None]) -> None:
        command = commands.Take(one.run_id, one.fence)

        def came(answer: Mapping[str, Any] | PalyraError) -> None:
            done(answer if isinstance(answer, PalyraError) else None)

        self._counter.internal(one.key[0], CRON, one.job_id, command, came)

    def _written(self, portion: Portion) -> None:
        """A job changed, durably: its next moment, and what workers have to hear."""
        job: Job = portion.after
        assert portion.tail is not None
        job_id, owner, feed = portion.stream_id, portion.tail.principal, self._feed
        key = (owner, job.settings.name)
        if self._counter.scheduling:
            self._scheduler.written(job_id, domain.wake_ms(job), *key, lambda: _ahead(portion, job))
        began = None
        for fact in portion.facts:
            said = fact.payload
            if not isinstance(said, domain.Said) or said.run_id is None:
                continue
            run_id = said.run_id
            match fact.kind:
                case "cron.run_started" if "fence" not in said:
                    began = run_id
                    feed.began(Untaken(run_id, job_id, key))
                case "cron.run_started" | "cron.run_leased":
                    one = Untaken(run_id, job_id, key, said["fence"])
                    feed.leased(one, self._item(job, job_id))
                case "cron.run_heartbeat":
                    feed.heard(run_id, portion.unit.request.peer)
                case "cron.run_finished":
                    feed.ended(run_id, said["reason"])
        if began is not None:
            feed.offer(began)
        if job.active is not None:
            feed.named(job.active.run_id, key)

    @staticmethod
    def _item(job: Job, job_id: bytes) -> dict[str, Any]:
        assert job.active is not None
        run = run_view(job.active, job_id)
        run["payload"], run["name"] = job.settings.payload, job.settings.name
        run["session_key"], run["lease_ms"] = job.settings.session_key, job.settings.lease_ms
        return {"run": run}

    # -- own --------------------------------------------------------------------------------------

    def _ask(self, find: Callable[[ReadSide], Any], done: Callable[[Any], None]) -> None:
        def try_it() -> None:
            try:
                self._counter.to_reader(Ask(find, done))
            except PalyraError:  # all are busy
                self._counter.call_later(ASK_AGAIN_S, try_it)

        try_it()

    def _name(self, text: str) -> tuple[str, bool]:
        name, redacted = clean_text(self._counter, text, "name", CRON_NAME_BYTES_MAX)
        if not name.strip():
            raise Invalid("a job has a name", field="name")
        return name, redacted

    def _key(self, text: str | None) -> str | None:
        if text is None:
            return None
        key, redacted = clean_text(self._counter, text, "session_key", SESSION_KEY_BYTES_MAX)
        if redacted or not key:
            raise Invalid("a session's key is a name, and no secret", field="session_key")
        return key


def _ahead(portion: Portion, job: Job) -> Ahead | None:
    """What the job can wake from the next time, as long as nothing else is written."""
    tail, last = portion.tail, portion.facts[-1]
    if tail is None or job.active is not None or job.waiting is not None:
        return None
    assert isinstance(last.seq, int)
    return StreamRow(tail.stream, tail.principal, tail.created_ms, last.stream_seq, last.seq), job


def _schedule(said: ScheduleIn) -> dict[str, Any]:
    return times.view(times.read(said.said()))


def _find(reader: ReadSide, job_id: bytes, principal: str | None) -> tuple[StreamRow, Job]:
    """The job, if the principal may see it. Raises NotFound."""
    row = reader.stream(CRON, job_id)
    if row is not None and principal in (None, row.principal):
        job = load(reader, row.stream)
        if not job.deleted:
            return row, job
    raise NotFound("there is no such job", field="job_id")
