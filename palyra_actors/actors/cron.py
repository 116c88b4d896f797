"""A job as an actor: `domain.cron` with the file behind it."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import msgspec

from palyra_actors.actors.entity import CommandEntity, ask
from palyra_actors.actors.work import Portion
from palyra_actors.domain import cron as domain
from palyra_actors.domain import cron_commands as commands
from palyra_actors.domain import schedule as times
from palyra_actors.domain.catalog import CRON
from palyra_actors.domain.cron import Job, Run, Settings, Who
from palyra_actors.domain.fact import Change, Decision, Fact
from palyra_actors.errors import NotFound, PalyraError
from palyra_actors.storage.port import ReadSide, StreamRow

log = logging.getLogger(__name__)

Ahead: TypeAlias = tuple[StreamRow, Job | Sequence[Any]]
"""Where a job stands, and the job, or its row: one with nothing under way."""

JOB_COLUMNS = 12
"""Of `cron.row` and its like, up to what only lists add."""


class CronActor(CommandEntity):
    """Decides about one job's ticks and runs, in the order in which they come."""

    kind: ClassVar[int] = CRON
    missing = "there is no such job"
    id_field = "job_id"

    _ahead: "Ahead | None" = None

    def read_ahead(self, ahead: "Ahead") -> None:
        """What the file said of it not long ago. It wakes from that if nothing was written since:
        one lookup instead of three, when thousands are due at once."""
        if self._tail is None:
            self._ahead = ahead

    def _find(self) -> StreamRow | None:
        if self._ahead is not None:
            stream, _ = self._ahead
            if ask(self._house.reader.rows, "stream_tail", (stream.stream,)) == [
                (stream.tail_seq,)
            ]:
                return stream
            self._ahead = None
        return super()._find()

    def _load_state(self, reader: ReadSide, row: StreamRow) -> Job:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return load(reader, row.stream)
        return ahead[1] if isinstance(ahead[1], Job) else job_of(ahead[1])

    def _choose(self, state: Job | None, command: commands.Command, now_ms: int) -> Decision:
        tail = self._tail
        assert tail is not None
        who = Who(self.stream_id, tail.principal, now_ms)
        try:
            return commands.decide(state, command, who)
        except PalyraError:
            raise
        except Exception as error:
            # The same job at the same time decides the same again: it would fail for ever.
            if isinstance(command, commands.Update):
                raise times.uncomputable(error) from error
            if not isinstance(command, commands.Wake):
                raise
            log.exception("job %s cannot go on and is disabled", self.stream_id.hex())
            reason = f"it cannot go on: {type(error).__name__}: {error}"[:1000]
            return commands.decide(state, commands.Quarantine(reason), who)

    def fold(self, state: Job | None, fact: Fact, stream: int) -> tuple[Job, Any]:
        return domain.fold(state, fact, stream)

    def _decide(self, state: Any, portion: Portion) -> Any:
        portion.after = super()._decide(state, portion)
        if len(portion.facts) > 1:
            portion.changes = _last_of_each(portion.changes)
        return portion.after


def _last_of_each(changes: Sequence[Change]) -> list[Change]:
    """What several events make of one row, only the last of them is written."""
    last: dict[Any, Change] = {}
    for change in changes:
        statement, row = change
        last[(statement, row[1]) if statement == "cron.put_run" else statement] = change
    return list(last.values())


def load(reader: ReadSide, stream: int) -> Job:
    """The job as it is in the file, with what is under way."""
    rows = reader.rows("cron.row", (stream,))
    if not rows:
        raise NotFound("there is no such job", field="job_id")
    job = job_of(rows[0])
    for row in reader.rows("cron.open_runs", (stream,)):
        run = domain.run_of(row)
        job = job._replace(waiting=run) if _waits(run) else job._replace(active=run)
    return job


def _waits(run: Run) -> bool:
    """It is the tick that waits for the active run, and no further attempt of that."""
    return run.status == domain.QUEUED and run.attempt == 1


def job_of(row: Sequence[Any]) -> Job:
    """The job of a row, without what is under way."""
    settings = Settings(**msgspec.msgpack.decode(row[0]))
    anchor_ms, created_ms, updated_ms, next_ms, due_ms, last_ms, last_run_ms, runs, fence = row[
        2:11
    ]
    return Job(
        settings, bool(row[1]), anchor_ms, created_ms, updated_ms, next_ms, due_ms, last_ms,
        last_run_ms, runs, fence, deleted=bool(row[11]),
    )  # fmt: skip
