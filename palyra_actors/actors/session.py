"""A session as an actor: `domain.session` with the file behind it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final

from palyra_actors.actors.entity import ASLEEP, PENDING_UNITS_MAX, CommandEntity, ask
from palyra_actors.actors.work import Portion
from palyra_actors.domain import approval
from palyra_actors.domain import session as domain
from palyra_actors.domain import session_commands as commands
from palyra_actors.domain.catalog import APPROVAL, SESSION
from palyra_actors.domain.fact import Change, Decision, Fact
from palyra_actors.domain.run import Run
from palyra_actors.domain.session import (
    NOTHING_SAID,
    STATUS_NUMBERS,
    About,
    Append,
    Session,
    Status,
)
from palyra_actors.domain.session_commands import Who
from palyra_actors.domain.swift import compiled
from palyra_actors.errors import Invalid, NotFound
from palyra_actors.ids import parse_ulid
from palyra_actors.storage.port import ReadSide, StreamRow

APPROVALS_RESIDENT_MAX: Final = 64
"""Approvals that a session remembers beside those under way."""

RUNS_RESIDENT_MAX: Final = 256
"""Runs that a session remembers beside those under way; others are asked of the file again."""


STATUSES: Final[dict[int, Status]] = {number: status for status, number in STATUS_NUMBERS.items()}
NO_RUNS: Final[Mapping[bytes, Run]] = MappingProxyType({})


def _unknown(session: Session, command: Append) -> None:
    """What is usual is not known where nothing was compiled."""


_go_on: Callable[[Any, Any], Any] = _unknown if compiled is None else compiled.go_on


class SessionActor(CommandEntity):
    """Appends to one session, in the order in which they were sent."""

    kind: ClassVar[int] = SESSION
    missing = "there is no such session"
    id_field = "session_id"

    # -- calls of others, on the loop's thread ---------------------------------------------------

    def has_key(self, owner: str, key: str) -> bool:
        """Whether the session is that principal's and has that key, as far as it has decided."""
        state, tail = self._state, self._tail
        if state is ASLEEP or tail is None or state.about is None:
            return False
        return bool(state.about.key == key and tail.principal == owner)

    @property
    def undecided(self) -> bool:
        """Whether something waits that the state does not show yet."""
        inbox = self.actor_inbox
        return bool(len(inbox)) or inbox.held

    def has_given_up(self, owner: str, key: str) -> bool:
        """Whether it was decided that the key is no longer its own."""
        return self._state is not ASLEEP and not self.undecided and not self.has_key(owner, key)

    def has_run(self, run_id: bytes, principal: str | None) -> bool:
        """Whether it knows of that run, or has an event of it before it, as far as the principal
        may see it (None: all)."""
        if self._state is not ASLEEP and (run_id in self._state.runs or self._going(run_id)):
            return self.shows(principal)
        return any(
            type(one.command) is Append
            and run_id in one.command.run_ids
            and principal in (None, one.unit.request.principal)
            for one in self.actor_inbox.waiting()
            if type(one) is Portion
        )

    def has_approval(self, approval_id: bytes) -> bool:
        """Whether it knows of that approval, as far as it has decided."""
        if self._state is ASLEEP:
            return False
        return approval_id in self._state.approvals or self._going(approval_id)

    def _going(self, thing_id: bytes) -> bool:
        """Whether a run or an approval of that id, and the erasure that it goes with, are both on
        their way: the state no longer knows it, and the file does not yet."""
        if self._state.status is not Status.ERASED:
            return False
        return any(
            any(thing_id in (fact.run_id, _approval_of(fact)) for fact in portion.facts)
            or any(change[0] == thing_id for change in portion.runs)
            for portion in self._pending
            if portion.decided  # what was refused may have decided once
        )

    def hand_append(self, portion: Portion) -> None:
        """`hand`, for all of an append by a client: in one go, where it is the usual one.

        That is an append to a session that is awake and has nothing before it, and which changes
        nothing but numbers and the tapes of runs that are known. Every other goes the way of
        `hand`, with what is checked and may be refused on it.

        Raises:
            MailboxFull: as `hand`; nothing was queued.
        """
        try:
            if self._goes_on(portion):
                return
        except BaseException as error:  # noqa: BLE001 - as in a turn of its own
            self.failed(portion, error)
            return
        self.hand(portion)

    def _goes_on(self, portion: Portion) -> bool:
        inbox, tail, unit, pending = self.actor_inbox, self._tail, portion.unit, self._pending
        if (
            tail is None
            or tail.principal != unit.request.principal
            or not inbox.is_free
            or len(pending) >= PENDING_UNITS_MAX
        ):
            return False
        before = self._state
        gone_on = _go_on(before, portion.command)
        if gone_on is None:
            return False
        if pending and pending[0].unit.settled:
            self._prune()
        portion.before, portion.tail = before, tail
        self._state, portion.runs = gone_on
        portion.first_seq = portion.next_before = self._next
        self._next += len(portion.drafts)
        portion.decided = True
        pending.append(portion)
        unit.left = 0
        self._house.submit(unit)
        return True

    def _unborn(self) -> Session:
        return Session()

    def _load_state(self, reader: ReadSide, row: StreamRow) -> Session:
        for status, *about in reader.rows("session.state", (row.stream,)):
            return Session(row.stream_seq, STATUSES[status], NO_RUNS, About(*about))
        return Session(row.stream_seq, about=NOTHING_SAID)

    def _choose(self, state: Session, command: Any, now_ms: int) -> Decision:
        tail = self._tail
        assert tail is not None
        if isinstance(command, approval.Request | approval.Decide | approval.TimeOut):
            return self._choose_approval(state, command, now_ms)
        updated_ms = None
        if type(command) is commands.Resolve and not self._pending and tail.exists:
            rows = ask(self._house.reader.rows, "session.by_stream", (tail.stream,))
            updated_ms = rows[0][3] if rows else None
        who = Who(self.stream_id, tail.principal, now_ms, updated_ms)
        return commands.decide(state, command, who)

    def _choose_approval(self, state: Session, command: approval.Command, now_ms: int) -> Decision:
        tail = self._tail
        assert tail is not None
        standing = None
        if state.status is Status.ERASED:
            raise domain.takes_no_more(state.status)
        if isinstance(command, approval.Request):
            if state.status is not Status.OPEN:
                raise domain.takes_no_more(state.status)
            standing = self._standing(state, command.asked, now_ms)
        return approval.decide(
            state.approvals, command, self.stream_id, tail.principal, now_ms, standing
        )

    def _standing(
        self, state: Session, asked: approval.Approval, now_ms: int
    ) -> tuple[bytes, approval.Approval] | None:
        """The decision that answers a request about this subject, if one stands."""
        tail = self._tail
        assert tail is not None
        subject = (asked.subject_type, asked.subject_id)
        found = [
            (approval_id, known)
            for approval_id, known in state.approvals.items()
            if (known.subject_type, known.subject_id) == subject and known.standing is None
        ]
        if tail.exists:
            for row in ask(self._house.reader.rows, "approval.standing", (tail.stream, *subject)):
                found.append((row[15], approval.Approval(*row[:15])))
        found = [(name, known) for name, known in found if approval.answers(known, now_ms)]
        return max(found, key=lambda one: one[1].decided_ms or 0, default=None)

    def _with_approval(self, state: Session, approval_id: bytes, asked: type[Any]) -> Session:
        """The state, knowing the approval if the file has it; and of others those under way.

        Raises:
            Conflict: it is another session's, and is to be requested.
            NotFound: it is another principal's, or another session's.
        """
        known = state.approvals
        if len(known) >= APPROVALS_RESIDENT_MAX:
            needed = {_approval_of(fact) for one in self._pending for fact in one.facts}
            known = {name: known[name] for name in known if name in needed}
        for row in ask(self._house.reader.rows, "approval.find", (approval_id,)):
            if row[16] != self.stream_id:
                assert self._tail is not None
                if asked is approval.Request and row[17] == self._tail.principal:
                    raise approval.is_there(approval.Approval(*row[:15]))
                raise NotFound("there is no such approval", field="approval_id")
            known = {**known, approval_id: approval.Approval(*row[:15])}
        if asked is approval.Request and approval_id not in known:
            self._refuse_gone(approval_id)
        return state._replace(approvals=known)

    def _refuse_gone(self, approval_id: bytes) -> None:
        """Raises Conflict, NotFound: an approval of that id went with its session, one's own or
        another's."""
        tail = self._tail
        assert tail is not None
        for stream, owner, _ in ask(self._house.reader.rows, "gone.find", (approval_id, APPROVAL)):
            if owner != tail.principal:
                raise NotFound("there is no such approval", field="approval_id")
            if stream != tail.stream:  # else the session itself says that it was erased
                raise approval.was_there()

    def fold(self, state: Session, fact: Fact, stream: int) -> tuple[Session, Sequence[Change]]:
        return commands.fold(state, fact, stream)

    def _decide(self, state: Session, portion: Portion) -> Session:
        if type(portion.command) is not Append:
            about, tail = state.about, self._tail
            if about is not None and about.created_ms is None and tail is not None:
                # made by a client's event that is written by now, or soon: then it is not shown
                state = state._replace(about=about._replace(created_ms=tail.created_ms or None))
            approval_id = getattr(portion.command, "approval_id", None)
            if approval_id is not None and approval_id not in state.approvals:
                state = self._with_approval(state, approval_id, type(portion.command))
            run_id = getattr(portion.command, "run_id", None)
            if run_id is not None and run_id not in state.runs:
                state = self._with_runs(state, (run_id,), lambda _: "run_id", type(portion.command))
            decided: Session = super()._decide(state, portion)
            return decided
        tail = self._tail
        assert tail is not None
        command = portion.command
        for run_id in command.run_ids:
            if run_id not in state.runs:
                state = self._with_runs(
                    state, command.run_ids, lambda run_id: self._place(run_id, command)
                )
                break
        after = domain.appended(state, command)
        if after.runs is not state.runs:
            portion.runs = tuple(domain.changed_runs(state, after, command.run_ids))
        elif portion.runs:
            portion.runs = ()  # decided before, and differently
        if after.about is not state.about:
            portion.changes = domain.session_rows(
                state, after, stream=tail.stream, session_id=tail.stream_id, owner=tail.principal
            )
        elif portion.changes:
            portion.changes = ()
        return after

    @staticmethod
    def _place(run_id: bytes, command: Append) -> str:
        drafts = command.drafts
        index = next(index for index, draft in enumerate(drafts) if draft.run_id == run_id)
        return f"events[{index}].run_id"

    def _with_runs(
        self,
        state: Session,
        run_ids: Collection[bytes],
        place: Callable[[bytes], str],
        asked: type[Any] = Append,
    ) -> Session:
        """The state, knowing those of the runs that the file has; `place` names one's field.

        Raises:
            NotFound: one is another principal's; or another session's, and is to be moved.
            Conflict: one is another session's, and is to be started.
            Invalid: one is another session's.
        """
        tail = self._tail
        assert tail is not None
        known: Mapping[bytes, Run] = state.runs
        found: dict[bytes, Run] = {}
        for run_id in run_ids:
            if run_id in known:
                continue
            row = ask(self._house.reader.run, run_id)
            if row is None:
                erased = state.status is Status.ERASED and not self._going(run_id)
                if erased and asked is commands.MoveRun:  # only a refused event ever named it
                    raise NotFound("there is no such run", field=place(run_id))
                continue
            elsewhere = row.stream != tail.stream
            if row.principal != tail.principal or (elsewhere and asked is commands.MoveRun):
                raise NotFound("there is no such run", field=place(run_id))
            if elsewhere and asked is commands.StartRun:
                raise (
                    commands.run_was_there() if row.run is None else commands.run_is_there(row.run)
                )
            if elsewhere:
                raise Invalid(
                    "this run belongs to another session",
                    field=place(run_id),
                    hint="a run lives in one session for ever; start another run",
                )
            if row.run is not None:  # else the session itself says that it was erased
                found[run_id] = row.run
        if len(known) >= RUNS_RESIDENT_MAX:
            known = self._needed(known, run_ids)
        elif not found:
            return state
        return state._replace(runs={**known, **found})

    def _needed(self, known: Mapping[bytes, Run], run_ids: Collection[bytes]) -> dict[bytes, Run]:
        """Those of the runs that the file cannot tell, for they are not written yet, and those
        that are asked about now."""
        needed = [change[0] for portion in self._pending for change in portion.runs]
        needed += [
            fact.run_id
            for portion in self._pending
            for fact in portion.facts
            if fact.run_id is not None
        ]
        needed += run_ids
        return {run_id: known[run_id] for run_id in needed if run_id in known}


def _approval_of(fact: Fact) -> bytes | None:
    """The approval that the fact tells of."""
    if not fact.kind.startswith("approval.") or fact.payload is None:
        return None
    return parse_ulid(fact.payload["approval_id"])
