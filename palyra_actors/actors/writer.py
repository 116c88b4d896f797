"""The one that owns the database connection and commits groups.

    ready ──units──▶ staging ──▶ committing ──▶ ready          (a group under way)
                        │            └─ failed: unknown ──▶ failing ──reopened──▶ ready
                        └─ clash: sift, send back, stage the rest

Units come decided and numbered, in the order in which they are to be written; a group is what has
come while the group before it was committed. Staging and COMMIT happen in a thread that needs no
interpreter, where there is one (`storage.beside`), so that their time is the next group's time to
gather. What that one does not take or cannot write is staged on the loop, and committed on the
committer's thread.

A unit that cannot be written fails alone: its entities are sent back, with all that they decided
after it, and the rest of the group is staged again at once.
"""

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeAlias

from palyra_actors.actors.committer import Committed, Committer
from palyra_actors.actors.group import Group, fits, lay_out, prepare_answers
from palyra_actors.actors.rejection import Rejection
from palyra_actors.actors.retry import (
    Verdict,
    faulty,
    judge_unwritten,
    refusal_of_several,
    sift,
)
from palyra_actors.actors.settling import Settling
from palyra_actors.actors.steering import BUDGET_S_DEFAULT, Judged, Measured, Plan, WriterStatistics
from palyra_actors.actors.work import EntityCalls, Portion, Unit, stopping, unknown, waited_too_long
from palyra_actors.errors import InternalFault, Overloaded, PalyraError, StorageUnavailable
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.storage.port import Clash, CommitUnknown, Head, WriteSide
from palyra_actors.wire.messages import AppendOk, Timing

log = logging.getLogger(__name__)

REOPEN_S: Final = 0.25
"""How often a writer whose file cannot be opened tries again."""

LATE_LOOK_S: Final = 0.005
"""How often it is looked, while a COMMIT takes longer than this, who has waited too long."""

TIDY_LOAD_MAX: Final = 64
TIDY_WAIT_S: Final = BUDGET_S_DEFAULT
"""Before more than this load is queued, or at last after this time, the WAL's rest is moved: a few
milliseconds in which no group is committed. Whoever comes meanwhile is let in as far as that pause
leaves room; to wait for longer makes it longer, for more is to be moved by then."""

TIDY_BYTES_MAX: Final = 512 * 1024
"""Payload bytes written meanwhile, from which on it is not waited for: a stream of large requests
writes megabytes in that time, and the pause would take as long as it is expected at most."""

COMMIT_HERE: Final = True
"""A lone unit is committed on the loop's thread while commits are quick.

It saves two thread switches, a third of the latency of one event in flight
(`bench/bench_append.py`); a slower disk would stall the loop.
"""

GROUP_BYTES_MAX: Final = 4 * 1024 * 1024
"""Payload bytes of a group, within one request: what a commit may take to sync."""

COMPANY_GROUPS: Final = 64
"""Groups after which an entity that is still the only one writes groups as large as they come."""

CLASHES_MAX: Final = 3
"""How often a unit is decided anew because a row of it was there already. The first time what it
clashed with may not be durable yet."""

LATER_UNITS_MAX: Final = 4_096
"""Units that wait for a later group and are looked past: about a millisecond."""


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
        plan: Plan,
        budget_ms: int,
        published: Callable[[Group], None],
        measured: Callable[[Measured | Judged], None],
    ) -> None:
        super().__init__(loop)
        self._loop = loop
        self._storage = storage
        self._plan = plan
        self.over_limit = False
        self._budget_ms = budget_ms
        self.settling = Settling(loop, budget_ms=budget_ms, published=published, measured=measured)
        self._committer = Committer(loop.clock, self._pass_on)
        self._queue: deque[Unit] = deque()
        self._told = False
        self._last_entity: EntityCalls | None = None
        self._company = 0  # groups for which more than one entity is taken to be writing
        self._group: Group | None = None
        self._unanswered: tuple[Group, float] | None = None  # durable, and when
        self._beside = False  # the group is being written without us
        self._looking = False
        self._failing: str | None = None
        self._refusing: str | None = None
        self._rejection = Rejection(loop, self.chore, lambda: self._failing is None)
        self._in_hand: list[Unit] = []  # being staged: neither queued nor in a group
        self._tidy_wanted: float | None = None
        self._tidy_bytes = 0  # of payloads, written since then
        self._tidying = False
        self._chores: deque[Chore] = deque()
        self._chored = False
        self._names = storage.names()
        self._head = storage.head()

    # -- calls of others, on the loop's thread ---------------------------------------------------

    def submit(self, unit: Unit) -> None:
        """Queue a unit: all its portions are decided, or it is refused."""
        self.submit_all((unit,))

    def submit_all(self, units: Sequence[Unit]) -> None:
        """`submit`, of several."""
        self._queue.extend(units)
        last, self._last_entity = self._last_entity, units[-1].portions[0].entity
        if any(unit.portions[0].entity is not last for unit in units):
            self._company = COMPANY_GROUPS
        self._tell()

    def tidy(self) -> None:
        """Before the next group, let the WAL start anew. Any thread."""
        if self._tidy_wanted is None:
            self._plan.pause_s = self._plan.tidy_s
            self._tidy_bytes = 0
            self._tidy_wanted = self._loop.clock.monotonic()

    def chore(self, work: Chore) -> None:
        """Have a piece of work done on the connection, between two groups and beside no COMMIT, in
        the committer's thread. A few milliseconds; whoever has more comes back."""
        self._chores.append(work)
        self._tell()

    def refuse(self, reason: str) -> None:
        """Write nothing more: every unit is answered `unavailable`, whatever happens."""
        self._failing = self._refusing = reason

    def resume(self) -> bool:
        """After `refuse`, where the file is what it was. Raises what opening it does."""
        same = self._group is None and not self._tidying and self._storage.reopen() == self._head
        if same:
            self._names = self._storage.names()
            self._failing = self._refusing = None
            self._tell()
        return same

    @property
    def head(self) -> Head:
        """The last durable event."""
        return self._head

    @property
    def committer(self) -> Committer:
        """Whose `step` is called where `start_threads` was not."""
        return self._committer

    @property
    def busy(self) -> bool:
        """Something is queued or under way."""
        return bool(self._queue) or self._group is not None

    def statistics(self) -> WriterStatistics:
        settled = self.settling
        return WriterStatistics(
            settled.groups,
            settled.events,
            settled.events_max,
            settled.late,
            len(self._queue),
            self._failing or self._rejection.reason,
        )

    def start_threads(self) -> None:
        """Start the threads that wait for the disk. Without them somebody calls the committer's
        `step` in their stead."""
        self._committer.start()
        self._storage.go_beside(self._loop.bell())

    def close(self, wait_s_max: float) -> bool:
        """After the loop has stopped: let the last COMMIT end and close the file."""
        ended = self._committer.stop(wait_s_max)
        if ended:
            for unit in self._queue:
                self._fail(unit, stopping())
            ended = self._storage.close(wait_s_max)
        return ended

    def give_up(self) -> None:
        """The time to stop is over and a COMMIT, or the loop in it, is not through: whoever waits
        for it hears `unknown`, whoever waits behind it that nothing was stored."""
        units = list(self._in_hand)
        for group in (self._group, *(self._unanswered or ())[:1]):
            units += [] if group is None else group.units
        for unit in units:
            unit.request.fail(unknown("the engine stopped while the commit was under way"))
        for unit in self._queue:
            unit.request.fail(stopping())

    # -- its life ---------------------------------------------------------------------------------

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
        with suppress(BaseException):  # what is durable is answered, and has logged its own fault
            self._answer()
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
        while self._group is None and not self._tidying:
            if not self._queue and (not self._chores or self._failing is not None):
                return
            if self._failing is None and self._may_tidy():  # each chore would make it longer
                self._tidy_wanted, self._tidying = None, True
                self._plan.pause(self._loop.clock.monotonic())
                self._committer.tidy(self._storage, lambda: self._loop.call_soon(self._tidied))
                self._look_for_stall()
                return
            if self._chores and self._failing is None and not (self._chored and self._queue):
                self._chored = True
                self._do_chore()
                return
            self._chored = False  # after a chore those who wait have their turn
            self._refuse_late()
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
        events_max = self._plan.group_events
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
            if in_company and not fits(unit, shares):
                later.append(unit)
                continue
            idle = unit.is_command and not unit.size
            unwritten = unit.error is not None or (idle and unit.key is None)
            if unwritten and self._failing is None:  # else what it rests on may not be stored
                if units:
                    queue.appendleft(unit)  # what it rests on is written first
                    break
                self._pronounce(unit, judge_unwritten(self._storage, unit))
                continue
            units.append(unit)
            events += 1 if idle else unit.size
            payload_bytes += unit.payload_bytes
        self._tidy_bytes += payload_bytes
        queue.extendleft(reversed(later))
        return units

    def _stage(self, units: list[Unit], here: bool = False) -> list[Unit]:
        """Stage and commit; or the units that are left to stage after a clash. `here`: not beside
        the interpreter."""
        clock = self._loop.clock
        group = Group(units, self._head, clock.monotonic(), clock.wall_ms())
        self._group = group
        try:
            lay_out(group, self._names)
        except Exception as error:  # noqa: BLE001 - raised again where it is nobody's own
            return self._without_faulty(units, error)
        alone = len(units) == 1 and not self._queue and self._plan.quick and COMMIT_HERE
        if alone:
            self._answer()
            self._prepare(group)
        if not here:
            self._under_way(group)  # before it begins: it may be through before we go on
            if self._committer.begin(self._storage, group.batch, alone):
                self._beside = True
                if alone:  # it is through, and was a wait: no work of the loop's
                    self.settling.waited(clock.monotonic() - group.staged)
                    self.look()
                else:
                    self._prepare(group)
                    self._look_for_stall()
                return []
            self._plan.committing_since, self._plan.committing_load = None, 0
        self._answer()
        try:
            self._storage.stage(group.batch)
        except Clash as clash:
            self._group = None
            return self._without_clashes(group, clash)
        except StorageUnavailable as fault:
            self._group = None
            log.error("a group could not be written: %s", fault)
            self._rejection.note(str(fault), group)
            self._eject(units, dict.fromkeys(units, fault))
            return []
        except Exception as error:  # noqa: BLE001 - as above
            return self._without_faulty(units, error)
        self._under_way(group)
        if alone:
            result = self._committer.commit_here(self._storage)
            self.settling.waited(result.ended - group.staged)
            self._finish(result)
            self._answer()
            return []
        self._committer.commit(self._storage)
        self._prepare(group)
        self._look_for_stall()
        return []

    def _under_way(self, group: Group) -> None:
        plan = self._plan
        group.staged = plan.committing_since = self._loop.clock.monotonic()
        plan.committing_load = group.load = sum(unit.request.load for unit in group.units)

    def look(self) -> None:
        """Whether the group that is written beside the interpreter is through. Each round."""
        if not self._beside or (ended := self._committer.ended(self._storage)) is None:
            return
        self._beside = False
        if ended.error is None or ended.staged:
            error = None if ended.error is None else CommitUnknown(ended.error)
            self._committed(Committed(error, ended.at))
            return
        log.debug("a group is staged anew here: %s", ended.error)
        try:
            self._stage_anew()
        except BaseException as error:  # noqa: BLE001 - outside a turn, but the actor's failure
            self._failed(ended, error)

    def _stage_anew(self) -> None:
        """Nothing of the group was stored: say why, as whoever stages it here does."""
        group, self._group = self._group, None
        assert group is not None
        self._plan.committing_since, self._plan.committing_load = None, 0
        units = group.units
        while units and self._group is None:
            self._in_hand = units
            units = self._stage(units, here=True)
        self._in_hand = []
        if (self._queue or self._chores) and self._group is None:
            self._start_groups()

    def _look_for_stall(self) -> None:
        if not self._looking and self._budget_ms:
            self._looking = True
            self._loop.call_later(LATE_LOOK_S, self._look_at_stall)

    def _look_at_stall(self) -> None:
        """A COMMIT, a chore or the rest of a checkpoint that does not end: whoever waits behind it
        is told as soon as his time is up."""
        since = self._plan.committing_since
        self._looking = since is not None
        if since is None:
            return
        left = since + LATE_LOOK_S - self._loop.clock.monotonic()
        self._loop.call_later(left if left > 0 else LATE_LOOK_S, self._look_at_stall)
        if left <= 0:
            self._refuse_late()

    def _refuse_late(self) -> None:
        """Refuse what has waited so long that it would be late, before it costs a transaction.

        Where the disk alone takes the whole budget, what has waited for all of it.
        """
        plan, queue = self._plan, self._queue
        if not queue:
            return
        latest = self._loop.clock.monotonic() + (0.0 if plan.slow else plan.commit_s)
        if not queue[0].is_late(latest, self._budget_ms):
            return
        refusal = waited_too_long(round((plan.rest_s(latest) + plan.commit_s) * 1000))
        late = {unit: refusal for unit in queue if unit.is_late(latest, self._budget_ms)}
        self._eject([], late)

    def _may_tidy(self) -> bool:
        """Whether the WAL's rest is to be moved now: at a quiet moment, or at last."""
        wanted = self._tidy_wanted
        if wanted is None:
            return False
        if self._tidy_bytes > TIDY_BYTES_MAX:
            return True
        queued = sum(unit.request.load for unit in self._queue)
        return queued <= TIDY_LOAD_MAX or self._loop.clock.monotonic() > wanted + TIDY_WAIT_S

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
        self._plan.committing_since = self._loop.clock.monotonic()

        def done() -> None:
            self._loop.call_soon(self._tidied)

        self._committer.chore(lambda: work(self._storage), done)
        self._look_for_stall()

    def _tidied(self) -> None:
        self._tidying = False
        self._plan.go_on(self._loop.clock.monotonic())
        self._tell()

    def _tell(self) -> None:
        if (self._queue or self._chores) and not self._told:
            self._told = True
            self.actor_ref.tell(Work())

    def _pass_on(self, result: Committed) -> None:
        self._loop.call_soon(lambda: self._committed(result))

    def _committed(self, result: Committed) -> None:
        """The next group is begun before this one is answered: the disk need not wait for that."""
        try:
            self._finish(result)
            if (self._queue or self._chores) and self._group is None:
                self._start_groups()
            self._answer()
        except BaseException as error:  # noqa: BLE001 - outside a turn, but the actor's failure
            self._failed(result, error)

    def _finish(self, result: Committed) -> None:
        """COMMIT returned. Where it did its work the group is `_unanswered` from now on, and the
        next one may follow it."""
        group = self._group
        assert group is not None
        self._plan.committing_since, self._plan.committing_load = None, 0
        error = result.error
        if error is None and len(group.answers) < len(group.units):
            error = RuntimeError("its answers could not be made")
        self._group = None
        if error is not None:
            self._recover(group, error)
            return
        self._names.update(group.names)
        self._take_note(group)
        self._unanswered = (group, result.ended)

    def _take_note(self, group: Group) -> None:
        """The file ends with this group."""
        self._head = group.after
        for tail, seq in group.tails.items():
            tail.seq = seq
            tail.exists = True

    def _answer(self) -> None:
        """Everybody learns that the group before is durable, before anything else is answered."""
        if self._unanswered is None:
            return
        (group, ended), self._unanswered = self._unanswered, None
        try:
            self._rejection.reason = None
            self.settling.settle(group, ended)
        except BaseException:
            log.exception("a group could not be answered")
            for unit in group.units:
                unit.request.fail(unknown("the answer could not be made"))
            self.settling.make_known(group)
            raise

    # -- what fails -------------------------------------------------------------------------------

    def _without_clashes(self, group: Group, clash: Clash) -> list[Unit]:
        try:
            verdicts = sift(self._storage, group.units)
        except Exception as error:  # noqa: BLE001 - nothing is staged; that is all that matters
            log.error("a group that clashed could not be looked up: %s", error)
            self._rejection.note(str(error), group)
            unread = StorageUnavailable(
                f"the database could not be read: {error}",
                hint="nothing was stored; send it again later",
                detail={"outcome": "none"},
            )
            self._eject(group.units, dict.fromkeys(group.units, unread))
            return []
        if not verdicts:
            return self._eject(group.units, self._without_first_clash(group.units, clash))
        load = sum(unit.request.load for unit in verdicts)
        came = min(unit.request.arrived for unit in verdicts)
        left = self._eject(group.units, verdicts)
        self.settling.judged(load, came)
        return left

    def _without_first_clash(self, units: list[Unit], clash: Clash) -> dict[Unit, Any]:
        """A row of a family is there already, in the file or from a unit of the same group: the
        first unit that cannot follow those before it is decided anew, when the file says so.
        """
        sizes = range(1, len(units) + 1)
        unit = units[
            min(bisect_left(sizes, True, key=lambda n: self._clashes(units[:n])), len(units) - 1)
        ]
        unit.clashes += 1
        if unit.clashes <= CLASHES_MAX:
            return {unit: Verdict()}
        log.error("a request clashes with the file whenever it is decided: %s", clash)
        return {unit: InternalFault("the request contradicts the file", detail={"outcome": "none"})}

    def _without_faulty(self, units: list[Unit], error: Exception) -> list[Unit]:
        """A fault of ours, and nothing is staged. Whose it is fails alone; else it is raised."""
        self._storage.rollback()
        faults = faulty(units, self._clashes)
        if not faults:
            raise error
        self._group = None
        return self._eject(units, faults)

    def _clashes(self, units: list[Unit]) -> bool:
        """Whether these units cannot be written together."""
        group = Group(units, self._head, 0.0, self._loop.clock.wall_ms())
        lay_out(group, self._names)
        try:
            self._storage.stage(group.batch)
        except (Clash, StorageUnavailable):
            return True
        finally:
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
                self._fail(unit, refusal_of_several(bad.get(unit)))
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
        self._answer()
        if verdict.error is not None:
            self._fail(unit, verdict.error)
        elif verdict.answer is not None:
            unit.settle()
            request = unit.request
            total_ms = (self._loop.clock.monotonic() - request.arrived) * 1000
            budget_ms = self._budget_ms if request.budget_ms is None else request.budget_ms
            within = budget_ms == 0 or total_ms <= budget_ms
            self.settling.late += not within
            timing = Timing(total_ms, 0.0, total_ms, within)
            answer = verdict.answer
            request.ok(
                {**answer, "timing": timing}
                if isinstance(answer, Mapping)
                else AppendOk(answer, timing)
            )

    def _fail(self, unit: Unit, error: PalyraError) -> None:
        self._answer()
        unit.settle()
        unit.request.fail(error)

    # -- a COMMIT that failed ---------------------------------------------------------------------

    def _recover(self, group: Group, error: BaseException) -> None:
        """The outcome is open: drop the connection, read the head again, and say `unknown`."""
        log.error("a COMMIT failed: %s", error)
        self._beside = False
        self._failing = str(error)
        for unit in group.units:
            unit.request.fail(unknown(f"the commit failed half way: {error}"))
        self.settling.doubt(group)
        self._reopen(group)

    def _reopen(self, group: Group) -> None:
        if self._refusing is not None:  # what has that name now is not our file
            waiting = [*group.units, *self._queue]
            self._queue.clear()
            self._eject(waiting, dict.fromkeys(waiting, self._obstacle()))
            return
        try:
            head = self._storage.reopen()
            self._storage.probe(sum(unit.payload_bytes for unit in group.units))
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
            self._take_note(group)
            self.settling.make_known(group)
        else:
            if head == group.before:
                self._head = head
            else:  # this is not the file that what was acknowledged is in
                log.critical("after a failed COMMIT the head is %s, not %s", head, group.before)
                self.refuse("after a failed COMMIT the file ended elsewhere than before it")
            gone = StorageUnavailable("lost", detail={"outcome": "unknown"})
            self._eject(group.units, dict.fromkeys(group.units, gone))
        if (self._queue or self._chores) and self._group is None:
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
