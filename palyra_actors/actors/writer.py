"""The one that owns the database connection and commits groups.

    ready ──units──▶ staging ──▶ committing ──▶ ready          (a group under way)
                        │            └─ failed: unknown ──▶ failing ──reopened──▶ ready
                        └─ clash: sift, send back, stage the rest

Units come decided and numbered, in the order in which they are to be written; a group is what has
come while the group before it was committed. Staging happens on the loop, COMMIT on the
committer's thread, so that the disk's time is the next group's time to gather.

A unit that cannot be written fails alone: its entities are sent back, with all that they decided
after it, and the rest of the group is staged again at once.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from palyra_actors.actors.committer import Committed, Committer
from palyra_actors.actors.group import Group, lay_out, prepare_answers
from palyra_actors.actors.retry import Verdict, judge_command, judge_refused, sift
from palyra_actors.actors.work import EntityCalls, Portion, Unit, stopping
from palyra_actors.errors import InternalFault, Overloaded, PalyraError, StorageUnavailable
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.storage.port import Clash, Head, WriteSide
from palyra_actors.wire.messages import AppendOk, Timing

log = logging.getLogger(__name__)

REOPEN_S: Final = 0.25
"""How often a writer whose file cannot be opened tries again."""

INLINE_COMMIT_S: Final = 0.002
"""A lone unit is committed on the loop's thread while commits lately took no longer than this.

It saves two thread switches, a third of the latency of one event in flight
(`bench/bench_append.py`); a slower disk would stall the loop.
"""

GROUP_BYTES_MAX: Final = 4 * 1024 * 1024
"""Payload bytes of a group, within one request: what a commit may take to sync."""

SHARE_EVENTS_MAX: Final = 64
"""Events of one entity in a group while others write, too; a request counts as one more, and a
larger one goes alone. A group's time is what those others wait for (`bench/bench_fairness.py`)."""

COMPANY_GROUPS: Final = 64
"""Groups after which an entity that is still the only one writes groups as large as they come."""

LATER_UNITS_MAX: Final = 4_096
"""Units that wait for a later group and are looked past: about a millisecond."""


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """Counts since the start, and what is under way now."""

    groups: int
    events: int
    events_max: int
    waiting: int
    failing: str | None


@dataclass(frozen=True, slots=True)
class Measured:
    """One group's times, monotonic seconds, and the arrival of each of its requests."""

    began: float
    staged: float
    ended: float
    events: int
    arrived: list[float]
    late: int


class Work:
    """There are units."""


Chore: TypeAlias = Callable[[WriteSide], None]


class Writer(PooledActor):
    """Stages and commits. `published` gets each durable group, `measured` its times."""

    late: ClassVar[bool] = True

    def __init__(
        self,
        loop: Loop,
        storage: WriteSide,
        *,
        group_events_max: int,
        group_ms_max: int,
        budget_ms: int,
        published: Callable[[Group], None],
        measured: Callable[[Measured], None],
    ) -> None:
        super().__init__(loop)
        self._loop = loop
        self._storage = storage
        self._group_events_max = group_events_max
        self._group_s_max = group_ms_max / 1000
        self._event_s = 0.0  # a running mean of what one event takes to stage
        self.over_limit = False
        self._budget_ms = budget_ms
        self._published = published
        self._measured = measured
        self._committer = Committer(loop.clock, self._pass_on)
        self._queue: deque[Unit] = deque()
        self._told = False
        self._last_entity: EntityCalls | None = None
        self._company = 0  # groups for which more than one entity is taken to be writing
        self._group: Group | None = None
        self._staged_at = 0.0
        self._commit_s = 1.0  # a running mean; pessimistic until measured
        self._failing: str | None = None
        self._refusing: str | None = None
        self._rejected: str | None = None  # what the disk said to the last group it did not take
        self._in_hand: list[Unit] = []  # being staged: neither queued nor in a group
        self._tidy_wanted = False
        self._tidying = False
        self._chores: deque[Chore] = deque()
        self._groups = self._events = self._events_max = 0
        self._names = storage.names()
        self._head = storage.head()

    # -- calls of others, on the loop's thread ---------------------------------------------------

    def submit(self, unit: Unit) -> None:
        """Queue a unit: all its portions are decided, or it is refused."""
        self._queue.append(unit)
        entity = unit.portions[0].entity
        if entity is not self._last_entity:
            self._last_entity = entity
            self._company = COMPANY_GROUPS
        self._tell()

    def tidy(self) -> None:
        """Before the next group, let the WAL start anew. Any thread."""
        self._tidy_wanted = True

    def chore(self, work: Chore) -> None:
        """Have a piece of work done on the connection, between two groups and beside no COMMIT, in
        the committer's thread. A few milliseconds; whoever has more comes back."""
        self._chores.append(work)
        self._tell()

    def refuse(self, reason: str) -> None:
        """Write nothing more: every unit is answered `unavailable`, whatever happens."""
        self._failing = self._refusing = reason

    @property
    def head(self) -> Head:
        """The last durable event."""
        return self._head

    @property
    def busy(self) -> bool:
        """Something is queued or under way."""
        return bool(self._queue) or self._group is not None

    def statistics(self) -> WriterStatistics:
        return WriterStatistics(
            self._groups,
            self._events,
            self._events_max,
            len(self._queue),
            self._failing or self._rejected,
        )

    def close(self, wait_s_max: float) -> bool:
        """After the loop has stopped: let the last COMMIT end and close the file."""
        ended = self._committer.stop(wait_s_max)
        if ended:
            for unit in self._queue:
                self._fail(unit, stopping())
            self._storage.close()
        return ended

    # -- its life ---------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._committer.start()

    def on_receive(self, message: Any) -> None:
        del message
        self._told = False
        if self._group is None:
            self._start_groups()

    def on_failed(self, message: Any, error: BaseException) -> None:
        """A fault in the writer's own code. What is under way has an unknown outcome; the file is
        opened anew and what it says is where the writer goes on from.
        """
        del message
        self._told = False
        group, self._group = self._group, None
        units, self._in_hand = self._in_hand, []
        if group is not None:
            self._recover(group, error)
        elif units:
            fault = InternalFault(
                f"the writer failed: {type(error).__name__}",
                hint="nothing was stored; the engine's log has the details",
                detail={"outcome": "none"},
            )
            self._eject(units, dict.fromkeys(units, fault))
        self._tell()

    def _start_groups(self) -> None:
        """Stage what waits, until a COMMIT is under way or nothing is left."""
        while (self._queue or self._chores) and self._group is None and not self._tidying:
            if self._chores and self._failing is None:
                self._do_chore()
                return
            if self._tidy_wanted and self._failing is None:
                self._tidy_wanted, self._tidying = False, True
                self._committer.tidy(self._storage, lambda: self._loop.call_soon(self._tidied))
                return
            units = self._take()
            obstacle = self._obstacle()
            if obstacle is not None:
                self._eject(units, dict.fromkeys(units, obstacle))
                continue
            while units and self._group is None:
                self._in_hand = units
                units = self._stage(units)
            self._in_hand = []

    def _take(self) -> list[Unit]:
        """The next group's units; those that are refused are answered on the way."""
        units: list[Unit] = []
        later: list[Unit] = []
        shares: dict[EntityCalls, int] = {}
        events = payload_bytes = 0
        events_max = self._group_events_max
        if self._event_s * events_max > self._group_s_max:
            events_max = int(self._group_s_max / self._event_s) + 1
        in_company = self._company > 0
        self._company = max(0, self._company - 1)
        queue = self._queue
        while (
            queue
            and events < events_max
            and payload_bytes < GROUP_BYTES_MAX
            and len(later) < LATER_UNITS_MAX
        ):
            unit = queue.popleft()
            if unit.settled:
                continue
            if in_company and not _fits(unit, shares):
                later.append(unit)
                continue
            if unit.error is not None or (unit.is_command and not unit.size):
                if units:
                    queue.appendleft(unit)  # what it rests on is written first
                    break
                self._answer_unwritten(unit)
                continue
            units.append(unit)
            events += unit.size
            payload_bytes += unit.payload_bytes
        queue.extendleft(reversed(later))
        return units

    def _stage(self, units: list[Unit]) -> list[Unit]:
        """Stage and commit; or the units that are left to stage after a clash."""
        clock = self._loop.clock
        group = Group(units, self._head, clock.monotonic(), clock.wall_ms())
        self._group = group
        lay_out(group, self._names)
        try:
            self._storage.stage(group.batch)
        except Clash as clash:
            self._group = None
            return self._without_clashes(group, clash)
        except StorageUnavailable as fault:
            self._group = None
            log.error("a group could not be written: %s", fault)
            self._rejected = str(fault)
            self._eject(units, dict.fromkeys(units, fault))
            return []
        self._staged_at = clock.monotonic()
        if len(units) == 1 and not self._queue and self._commit_s < INLINE_COMMIT_S:
            result = self._committer.commit_here(self._storage)
            self._prepare(group)
            self._finish(result)
            return []
        self._committer.commit(self._storage)
        self._prepare(group)
        return []

    def _prepare(self, group: Group) -> None:
        """Encode the answers. If that fails the COMMIT is left to end before anything is done."""
        try:
            prepare_answers(group)
        except BaseException:
            log.exception("the answers to a group could not be made")
            group.answers.clear()

    def _do_chore(self) -> None:
        work = self._chores.popleft()
        self._tidying = True

        def done() -> None:
            self._loop.call_soon(self._tidied)

        self._committer.chore(lambda: work(self._storage), done)

    def _tidied(self) -> None:
        self._tidying = False
        self._tell()

    def _tell(self) -> None:
        if (self._queue or self._chores) and not self._told:
            self._told = True
            self.actor_ref.tell(Work())

    def _pass_on(self, result: Committed) -> None:
        self._loop.call_soon(lambda: self._committed(result))

    def _committed(self, result: Committed) -> None:
        try:
            self._finish(result)
            if (self._queue or self._chores) and self._group is None:
                self._start_groups()
        except BaseException as error:  # noqa: BLE001 - outside a turn, but the actor's failure
            self._failed(result, error)

    def _finish(self, result: Committed) -> None:
        """COMMIT returned: everything learns how it ended, once a group."""
        group = self._group
        assert group is not None
        self._commit_s += (result.ended - self._staged_at - self._commit_s) / 8
        event_s = (self._staged_at - group.began) / max(1, len(group.batch.events))
        self._event_s += (event_s - self._event_s) / 8
        error = result.error
        if error is None and len(group.answers) < len(group.units):
            error = RuntimeError("its answers could not be made")
        if error is not None:
            self._group = None
            self._recover(group, error)
        else:
            self._settle(group, result.ended)
            self._group = None

    def _settle(self, group: Group, ended: float) -> None:
        self._head = group.after
        self._names.update(group.names)
        for tail, seq in group.tails.items():
            tail.seq = seq
            tail.exists = True
        events = len(group.batch.events)
        self._groups += 1
        self._events += events
        self._events_max = max(self._events_max, events)
        self._tell_entities(group)
        late, arrived = 0, []
        commit_ms = (ended - group.began) * 1000
        for unit, results in group.answers:
            request = unit.request
            unit.settle()
            total_ms = (ended - request.arrived) * 1000
            budget_ms = self._budget_ms if request.budget_ms is None else request.budget_ms
            within = budget_ms == 0 or total_ms <= budget_ms
            late += not within
            arrived.append(request.arrived)
            queued_ms = (group.began - request.arrived) * 1000
            timing = Timing(queued_ms, commit_ms, total_ms, within)
            request.ok(
                {**results, "timing": timing} if unit.is_command else AppendOk(results, timing)
            )
        self._rejected = None
        group.forget_units()
        self._show(group)
        try:
            self._measured(Measured(group.began, self._staged_at, ended, events, arrived, late))
        except BaseException:
            log.exception("a group could not be measured")

    def _tell_entities(self, group: Group) -> None:
        """Those of commands hear that they are durable, before anybody else does."""
        for portion in group.told:
            try:
                portion.entity.written(portion)
            except BaseException:
                log.exception("an entity could not take note of what was written")

    def _show(self, group: Group) -> None:
        """Publish it. Whoever fails at that, the group is durable and the next one comes."""
        try:
            self._published(group)
        except BaseException:
            log.exception("a group could not be published")

    # -- what fails -------------------------------------------------------------------------------

    def _answer_unwritten(self, unit: Unit) -> None:
        """A refusal, or a command to which nothing had to be written; unless all of it is stored
        already: then it is the first answer again."""
        otherwise = Verdict(unit.error) if unit.error is not None else Verdict(answer=unit.answer)
        try:
            if unit.error is not None:
                verdict = judge_refused(self._storage, unit)
            else:
                verdict = judge_command(self._storage, unit) or otherwise
        except Exception as error:  # noqa: BLE001 - the refusal stands whatever the file says
            log.warning("a request could not be looked up: %s", error)
            verdict = otherwise
        self._pronounce(unit, verdict)

    def _without_clashes(self, group: Group, clash: Clash) -> list[Unit]:
        try:
            verdicts = sift(self._storage, group.units)
        except Exception as error:  # noqa: BLE001 - nothing is staged; that is all that matters
            log.error("a group that clashed could not be looked up: %s", error)
            self._rejected = str(error)
            unread = StorageUnavailable(
                f"the database could not be read: {error}",
                hint="nothing was stored; send it again later",
                detail={"outcome": "none"},
            )
            self._eject(group.units, dict.fromkeys(group.units, unread))
            return []
        if not verdicts:
            log.error("a group clashed with the file and no id of it does: %s", clash)
            fault = InternalFault("the request contradicts the file", detail={"outcome": "none"})
            culprits = [unit for unit in group.units if self._clashes(unit)] or group.units
            return self._eject(group.units, dict.fromkeys(culprits, fault))
        return self._eject(group.units, verdicts)

    def _clashes(self, unit: Unit) -> bool:
        """Whether the unit alone cannot be written: a row of a family that is there already."""
        alone = Group([unit], self._head, 0.0, self._loop.clock.wall_ms())
        lay_out(alone, self._names)
        try:
            self._storage.stage(alone.batch)
        except (Clash, StorageUnavailable):
            return True
        self._storage.rollback()
        return False

    def _eject(self, units: list[Unit], bad: "dict[Unit, Any]") -> list[Unit]:
        """Take units out, and all that their entities decided after them; the others remain.

        `bad` maps a unit to its verdict or error. What was decided after it goes back to its
        entities, who decide it anew. The queue is cleared of it, too.
        """
        tainted: dict[EntityCalls, Portion] = {}
        keep: list[Unit] = []
        sent_back: list[Unit] = []
        queue, self._queue = self._queue, deque()
        for place, unit in enumerate([*units, *queue]):
            affected = unit in bad or any(p.entity in tainted for p in unit.portions)
            if affected and unit.error is not None and len(unit.portions) > 1:
                self._fail(unit, unit.error)  # refused by one of several: it stays refused
                continue
            if not affected:
                if place < len(units):
                    keep.append(unit)
                else:
                    self._queue.append(unit)
                continue
            for portion in unit.portions:
                tainted.setdefault(portion.entity, portion)
            sent_back.append(unit)
        for unit in sent_back:
            unit.left = len(unit.portions)
            unit.error = None
            for portion in unit.portions:
                portion.decided = False
            verdict = bad.get(unit)
            if isinstance(verdict, PalyraError):
                self._fail(unit, verdict)
            elif verdict is not None:
                self._pronounce(unit, verdict)
        for entity, portion in tainted.items():
            entity.rewind(portion)
        return keep

    def _pronounce(self, unit: Unit, verdict: "Verdict") -> None:
        if verdict.error is not None:
            self._fail(unit, verdict.error)
        elif verdict.answer is not None:
            unit.settle()
            now = self._loop.clock.monotonic()
            request = unit.request
            total_ms = (now - request.arrived) * 1000
            budget_ms = self._budget_ms if request.budget_ms is None else request.budget_ms
            within = budget_ms == 0 or total_ms <= budget_ms
            timing = Timing(total_ms, 0.0, total_ms, within)
            answer = verdict.answer
            request.ok(
                {**answer, "timing": timing}
                if isinstance(answer, Mapping)
                else AppendOk(answer, timing)
            )

    def _fail(self, unit: Unit, error: PalyraError) -> None:
        unit.settle()
        unit.request.fail(error)

    # -- a COMMIT that failed ---------------------------------------------------------------------

    def _recover(self, group: Group, error: BaseException) -> None:
        """The outcome is open: drop the connection, read the head again, and say `unknown`."""
        log.error("a COMMIT failed: %s", error)
        self._failing = str(error)
        unknown = StorageUnavailable(
            f"the commit failed half way: {error}",
            hint="send the same request with the same ids again",
            detail={"outcome": "unknown"},
        )
        for unit in group.units:
            unit.request.fail(unknown)
        self._reopen(group)

    def _reopen(self, group: Group) -> None:
        if self._refusing is not None:  # what has that name now is not our file
            waiting = [*group.units, *self._queue]
            self._queue.clear()
            self._eject(waiting, dict.fromkeys(waiting, self._obstacle()))
            return
        try:
            head = self._storage.reopen()
            names = self._storage.names()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            self._failing = f"the database cannot be opened again: {error}"
            log.error("%s", self._failing)
            waiting = list(self._queue)
            self._queue.clear()
            self._eject(waiting, dict.fromkeys(waiting, self._obstacle()))
            self._loop.call_later(REOPEN_S, lambda: self._reopen(group))
            return
        self._failing = self._refusing
        self._names = names
        if head == group.after:
            self._head = head
            for tail, seq in group.tails.items():
                tail.seq = seq
                tail.exists = True
            for unit in group.units:
                unit.settle()
            self._tell_entities(group)
            group.forget_units()
            self._show(group)
        else:
            if head == group.before:
                self._head = head
            else:  # this is not the file that what was acknowledged is in
                log.critical("after a failed COMMIT the head is %s, not %s", head, group.before)
                self.refuse("after a failed COMMIT the file ended elsewhere than before it")
            gone = StorageUnavailable("lost", detail={"outcome": "unknown"})
            self._eject(group.units, dict.fromkeys(group.units, gone))
        if self._queue and self._group is None:
            self._start_groups()

    def _obstacle(self) -> PalyraError | None:
        """Why nothing can be written now, as its refusal; None: it can."""
        if self._failing is not None:
            return StorageUnavailable(
                f"storage is failing: {self._failing}",
                hint="nothing was stored; send it again later",
                retry_after_ms=int(REOPEN_S * 1000),
                detail={"outcome": "none"},
            )
        if self.over_limit:
            return Overloaded(
                "the write-ahead log is over its cap: a reader holds an old snapshot",
                hint="nothing was stored; send it again later",
                retry_after_ms=int(REOPEN_S * 1000),
            )
        return None


def _fits(unit: Unit, shares: dict[EntityCalls, int]) -> bool:
    """Whether the unit lies within its entities' shares of the group; it is added to them.

    What does not fit closes its entities' shares: an entity's units stay in their order.
    """
    if len(unit.portions) == 1:
        portion = unit.portions[0]
        taken, more = shares.get(portion.entity, 0), len(portion.indices) + 1
        fits = not taken or taken + more <= SHARE_EVENTS_MAX
        shares[portion.entity] = taken + more if fits else SHARE_EVENTS_MAX
        return fits
    wanted = [
        (portion.entity, shares.get(portion.entity, 0), len(portion.indices) + 1)
        for portion in unit.portions
    ]
    if all(not taken or taken + more <= SHARE_EVENTS_MAX for _, taken, more in wanted):
        for entity, taken, more in wanted:
            shares[entity] = taken + more
        return True
    for entity, _, _ in wanted:
        shares[entity] = SHARE_EVENTS_MAX
    return False
