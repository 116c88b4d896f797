"""Runs at the desk: started, moved, cancelled, shown, and their tapes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Final

import msgspec

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.lately import Lately
from palyra_actors.actors.clerks.session import (
    clean_text,
    find_session,
    place_gone,
    refuse_gone,
    sees,
)
from palyra_actors.actors.session import SessionActor
from palyra_actors.actors.work import Request
from palyra_actors.domain.catalog import (
    CLIENT_KINDS,
    RUN,
    RUN_CANCELLED,
    RUN_STATE_FAILED,
    SESSION,
)
from palyra_actors.domain.chain import Stored
from palyra_actors.domain.run import ORPHANED, Run, view
from palyra_actors.domain.session_commands import STATE_NUMBERS, MoveRun, StartRun
from palyra_actors.domain.tape import Tape
from palyra_actors.errors import Invalid, NotFound, PalyraError
from palyra_actors.limits import REASON_BYTES_MAX, REPLY_PAYLOAD_BYTES_MAX
from palyra_actors.storage.port import ReadSide
from palyra_actors.wire.session import (
    CancelBody,
    ListRunsBody,
    RunBody,
    StartRunBody,
    TapeBody,
    TransitionBody,
)

log = logging.getLogger(__name__)

STARTED_KEPT_MAX: Final = 4_096
"""Runs started lately, with their sessions: one that is moved before its start is acknowledged
finds its way."""

ORPHANS_AGAIN_S: Final = 1.0
"""After a failing disk or an entity that is left alone for a while."""

ORPHANS_AT_ONCE: Final = 64
"""Runs that are ended at a time at start-up, so that the first clients do not wait for all."""


class RunClerk:
    """Serves `run.*`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._started: Lately[tuple[str, bytes], bytes] = Lately(STARTED_KEPT_MAX)
        self._fresh: set[bytes] | None = None  # started since, while there may be orphans
        counter.after_crash.append(self.end_orphans)

    def operations(self) -> Mapping[str, Any]:
        return {
            "run.start": self._start,
            "run.transition": self._transition,
            "run.cancel": self._cancel,
            "run.get": self._get,
            "run.list": self._list,
            "run.tape": self._tape,
        }

    # -- writing ----------------------------------------------------------------------------------

    def _start(self, request: Request, body: StartRunBody) -> None:
        counter = self._counter
        run_id = counter.ulid(body.run_id, "run_id")
        session_id = counter.ulid(body.session_id, "session_id")
        parent = None
        if body.parent_run_id is not None:
            parent = counter.ulid(body.parent_run_id, "parent_run_id")
            self._session_of(request, parent, "parent_run_id")
        if self._fresh is not None and counter.reader.run(run_id) is None:
            self._fresh.add(run_id)
        self._started.note((request.principal, run_id), session_id)
        command = StartRun(run_id, parent)
        counter.command(request, SESSION, session_id, command, op="run.start", body=body)

    def _transition(self, request: Request, body: TransitionBody) -> None:
        to = STATE_NUMBERS.get(body.to)
        if to is None:
            raise Invalid(
                f"{body.to[:40]!r} is no state of a run",
                field="to",
                hint=f"one of {', '.join(STATE_NUMBERS)}",
            )
        self._move(request, body, to, "run.transition")

    def _cancel(self, request: Request, body: CancelBody) -> None:
        self._move(request, body, RUN_CANCELLED, "run.cancel")

    def _move(self, request: Request, body: TransitionBody | CancelBody, to: int, op: str) -> None:
        counter = self._counter
        run_id = counter.ulid(body.run_id, "run_id")
        reason, redacted = None, False
        if body.reason is not None:
            reason, redacted = clean_text(counter, body.reason, "reason", REASON_BYTES_MAX)
        session_id = self._session_of(request, run_id, "run_id")
        command = MoveRun(run_id, to, reason, redacted)
        counter.command(request, SESSION, session_id, command, op=op, body=body)

    def _session_of(self, request: Request, run_id: bytes, field: str) -> bytes:
        """The session of a run, also of one whose start, or first event, is under way.

        Raises:
            NotFound: there is no such run, or it is another's.
            StorageUnavailable: the file cannot be read.
        """
        counter = self._counter
        try:
            found: bytes = _find(counter.reader, run_id, sees(request), field)[1]
        except NotFound:
            started = self._started.get((request.principal, run_id))
            for session in counter.directory.recent(SESSION):
                if not isinstance(session, SessionActor):
                    continue
                awaited = session.stream_id == started and session.undecided
                if awaited or session.has_run(run_id, sees(request)):
                    return session.stream_id
            raise
        return found

    def end_orphans(self) -> None:
        """After a crash: the runs that were managed here and did not end, end `failed`. Those that
        are started meanwhile are none of them."""
        self._fresh = set()
        self._end_some(bytes(16))

    def _end_some(self, after: bytes) -> None:
        counter = self._counter
        again = partial(self._end_some, after)
        try:
            rows = counter.reader.rows("run.under_way", (after, ORPHANS_AT_ONCE))
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("runs without their process could not be read: %s", error)
            counter.call_later(ORPHANS_AGAIN_S, again)
            return
        orphans = [row for row in rows if self._fresh is None or row[0] not in self._fresh]
        left, failed = len(orphans), False

        def go_on() -> None:
            if failed:
                counter.call_later(ORPHANS_AGAIN_S, again)
            elif len(rows) == ORPHANS_AT_ONCE:
                self._end_some(rows[-1][0])
            else:
                self._fresh = None

        def done(answer: Mapping[str, Any] | PalyraError) -> None:
            nonlocal left, failed
            left -= 1
            if isinstance(answer, PalyraError):
                log.warning("a run without its process could not be ended yet: %s", answer)
                failed = True
            if not left:
                go_on()

        if not orphans:
            go_on()
        for run_id, session_id, principal in orphans:
            command = MoveRun(run_id, RUN_STATE_FAILED, ORPHANED, False, quietly=True)
            counter.internal(principal, SESSION, session_id, command, done)

    # -- reading ----------------------------------------------------------------------------------

    def _get(self, request: Request, body: RunBody) -> None:
        run_id, principal = self._counter.ulid(body.run_id, "run_id"), sees(request)

        def find(reader: ReadSide) -> Mapping[str, Any]:
            run, session_id, _ = _find(reader, run_id, principal)
            return {"run": view(run_id, session_id, run, 0)}

        self._counter.look(request, find)

    def _list(self, request: Request, body: ListRunsBody) -> None:
        counter, principal, limit = self._counter, sees(request), body.limit
        session_id = None
        if body.session_id is not None:
            session_id = counter.ulid(body.session_id, "session_id")
        after = None if body.after is None else counter.ulid(body.after, "after")

        def find(reader: ReadSide) -> Mapping[str, Any]:
            stream, first = 0, 0
            if after is not None:
                # a list goes on from where a run was that has gone with its session meanwhile
                was = place_gone(reader, RUN, after, principal)
                if was is None:
                    run, _, stream = _find(reader, after, principal, "after")
                    was = stream, run.first
                stream, first = was
            if session_id is not None:
                of = find_session(reader, session_id, principal).stream
                rows = reader.rows("run.of_stream", (of, first, limit + 1))
            elif principal is None:
                rows = reader.rows("run.all", (stream, first, limit + 1))
            else:
                rows = reader.rows("run.of_owner", (principal, stream, first, limit + 1))
            shown = [view(row[12], row[13], Run(*row[:12]), 0) for row in rows[:limit]]
            return {
                "runs": shown,
                "next_after": shown[-1]["run_id"] if shown else body.after,
                "end": len(rows) <= limit,
            }

        counter.look(request, find)

    def _tape(self, request: Request, body: TapeBody) -> None:
        run_id, principal = self._counter.ulid(body.run_id, "run_id"), sees(request)

        def find(reader: ReadSide) -> Mapping[str, Any]:
            run, session_id, stream = _find(reader, run_id, principal)
            row = reader.stream(SESSION, session_id)
            assert row is not None
            events = (
                event
                for event in reader.numbered(stream, run.first - 1, row.stream_seq)
                if event.run_id == run_id and _by_client(event.kind)
            )
            tape = Tape()
            entries = islice(_upto(run.entries, _all(tape, events)), body.after, None)
            return _page(entries, body.after, body.limit)

        self._counter.look(request, find)


def _by_client(kind: str) -> bool:
    return kind in CLIENT_KINDS or kind.startswith("x.")


def _all(tape: Tape, events: Iterator[Stored]) -> Iterator[dict[str, Any]]:
    return chain(tape.entries(events), _late(tape))


def _upto(count: int, entries: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first so many: what the session went on with need not be read. Tokens may go on."""
    for entry in entries:
        yield entry
        if entry["tape_seq"] >= count and entry["kind"] != "model_token":
            return


def _late(tape: Tape) -> Iterator[dict[str, Any]]:
    yield from tape.rest()


def _page(entries: Iterator[dict[str, Any]], after: int, limit: int) -> Mapping[str, Any]:
    """One page; it ends early where its entries would not fit a reply."""
    shown: list[dict[str, Any]] = []
    left = REPLY_PAYLOAD_BYTES_MAX
    for entry in entries:
        left -= _weight(entry["payload"])
        if len(shown) == limit or (shown and left < 0):
            return {"entries": shown, "next_after": shown[-1]["tape_seq"], "end": False}
        shown.append(entry)
    return {
        "entries": shown,
        "next_after": shown[-1]["tape_seq"] if shown else after,
        "end": True,
    }


def _weight(payload: Any) -> int:
    return len(msgspec.msgpack.encode(payload))


def _find(
    reader: ReadSide, run_id: bytes, principal: str | None, field: str = "run_id"
) -> tuple[Run, bytes, int]:
    """The run, its session's id and stream, if the principal may see it. Raises NotFound, Gone."""
    rows: Sequence[Any] = reader.rows("run.find", (run_id,))
    if not rows:
        refuse_gone(reader, RUN, run_id, principal, field)
    if not rows or principal not in (None, rows[0][14]):
        raise NotFound("there is no such run", field=field)
    row = rows[0]
    return Run(*row[:12]), row[13], row[15]
