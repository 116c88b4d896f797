"""A session as an actor: `domain.session` with the file behind it."""

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Final, TypeVar

from palyra_actors.actors.entity import Entity
from palyra_actors.actors.work import Portion, Tail
from palyra_actors.domain import session as domain
from palyra_actors.domain.catalog import SESSION
from palyra_actors.domain.session import Run, Session
from palyra_actors.errors import Invalid, NotFound, StorageUnavailable

RUNS_RESIDENT_MAX: Final = 256
"""Runs that a session remembers beside those under way; others are asked of the file again."""

_Row = TypeVar("_Row")


class SessionActor(Entity):
    """Appends to one session, in the order in which they were sent."""

    kind: ClassVar[int] = SESSION

    def _load(self, portion: Portion) -> tuple[Session, Tail]:
        row = _ask(self._house.reader.stream, SESSION, self.stream_id)
        if row is None:
            principal = portion.unit.request.principal
            stream = self._tail.stream if self._tail is not None else self._house.next_stream()
            return Session(), Tail(stream, SESSION, self.stream_id, principal)
        tail = Tail(row.stream, SESSION, self.stream_id, row.principal)
        tail.created_ms = row.created_ms
        tail.seq = row.tail_seq
        tail.exists = True
        return Session(last_seq=row.stream_seq), tail

    def _decide(self, state: Session, portion: Portion) -> Session:
        request, tail = portion.unit.request, self._tail
        assert tail is not None
        if tail.principal != request.principal:
            if state.last_seq == 0:
                tail.principal = request.principal  # its first writer failed; this one is first now
            elif not request.admin:
                raise NotFound("there is no such session", field="session_id")
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
            row = _ask(self._house.reader.run, run_id)
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


def _ask(question: Callable[..., _Row], *about: object) -> _Row:
    """What the file says. Raises StorageUnavailable: it cannot be read, which no session can
    help; it is refused its request and not started again.
    """
    try:
        return question(*about)
    except Exception as error:
        raise StorageUnavailable(
            f"the database could not be read: {error}",
            hint="nothing was stored; send it again later",
            detail={"outcome": "none"},
        ) from error
