"""A session as an actor: `domain.session` with the file behind it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Final

from palyra_actors.actors.entity import CommandEntity, ask
from palyra_actors.actors.work import Portion, Tail
from palyra_actors.domain import session as domain
from palyra_actors.domain.catalog import SESSION
from palyra_actors.domain.fact import Change, Decision, Fact
from palyra_actors.domain.session import Append, Run, Session
from palyra_actors.errors import InternalFault, Invalid, NotFound
from palyra_actors.storage.port import ReadSide, StreamRow

RUNS_RESIDENT_MAX: Final = 256
"""Runs that a session remembers beside those under way; others are asked of the file again."""


class SessionActor(CommandEntity):
    """Appends to one session, in the order in which they were sent."""

    kind: ClassVar[int] = SESSION
    missing = "there is no such session"
    id_field = "session_id"

    def _unborn(self) -> Session:
        return Session()

    def _load_state(self, reader: ReadSide, row: StreamRow) -> Session:
        return Session(last_seq=row.stream_seq)

    def _choose(self, state: Session, command: Any, now_ms: int) -> Decision:
        raise InternalFault(f"a session knows no {type(command).__name__}")

    def fold(self, state: Session, fact: Fact, stream: int) -> tuple[Session, Sequence[Change]]:
        raise InternalFault(f"a session knows no {fact.kind}")

    def _decide(self, state: Session, portion: Portion) -> Session:
        if type(portion.command) is not Append:
            decided: Session = super()._decide(state, portion)
            return decided
        tail = self._tail
        assert tail is not None
        command = portion.command
        for run_id in command.run_ids:
            if run_id not in state.runs:
                state = self._with_runs(state, portion, tail)
                break
        event = domain.decide(state, command)
        after = domain.evolve(state, event)
        if after.runs is not state.runs:
            portion.runs = tuple(domain.changed_runs(state, after))
        elif portion.runs:
            portion.runs = ()  # decided before, and differently
        return after

    @staticmethod
    def _place(run_id: bytes, portion: Portion) -> str:
        drafts = portion.command.drafts
        index = next(index for index, draft in enumerate(drafts) if draft.run_id == run_id)
        return f"events[{index}].run_id"

    def _with_runs(self, state: Session, portion: Portion, tail: Tail) -> Session:
        """The state, knowing those of the portion's runs that the file has."""
        run_ids = portion.command.run_ids
        known: Mapping[bytes, Run] = state.runs
        found: dict[bytes, Run] = {}
        for run_id in run_ids:
            if run_id in known:
                continue
            row = ask(self._house.reader.run, run_id)
            if row is None:
                continue
            field = self._place(run_id, portion)
            if row.principal != tail.principal:
                raise NotFound("there is no such run", field=field)
            if row.stream != tail.stream:
                raise Invalid(
                    "this run belongs to another session",
                    field=field,
                    hint="a run lives in one session for ever; start another run",
                )
            found[run_id] = Run(row.state, row.first, row.last)
        if len(known) >= RUNS_RESIDENT_MAX:
            known = self._needed(known, run_ids)
        elif not found:
            return state
        return Session(state.last_seq, state.status, {**known, **found})

    def _needed(self, known: Mapping[bytes, Run], run_ids: Collection[bytes]) -> dict[bytes, Run]:
        """Those of the runs that the file cannot tell, for they are not written yet, and those
        that are asked about now."""
        needed = [change[0] for portion in self._pending for change in portion.runs]
        needed += run_ids
        return {run_id: known[run_id] for run_id in needed if run_id in known}
