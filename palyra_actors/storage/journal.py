"""The journal in SQLite: the port's two sides (`storage/port.py`).

Writing goes through one connection, staged on one thread and committed on another, never both at
once. Reading goes through read-only connections, one a thread.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from itertools import chain
from typing import Any, Final

import apsw

from palyra_actors.domain.catalog import ACTOR_NAMES, KIND_NAMES, KIND_NUMBERS, STREAM_NAMES
from palyra_actors.domain.chain import GENESIS, Stored, expected_hash
from palyra_actors.domain.run import Run
from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage.beside import Beside, Step, compiled
from palyra_actors.storage.connection import drop, try_room
from palyra_actors.storage.port import (
    APART,
    FOLLOWED,
    Batch,
    Clash,
    CommitUnknown,
    Ended,
    EventPage,
    Head,
    Parameters,
    RunRow,
    Selection,
    Slice,
    StreamRow,
)
from palyra_actors.storage.queries import sql, sql_of_rows
from palyra_actors.storage.upkeep import finish, return_free_pages, wal_state

MARK_EVERY: Final = 64
"""Events of a stream between two marks; what a page of a stream may read too much."""

SCAN_ROWS_MAX: Final = 20_000
"""Rows one page may look at. A filter that matches less often gets short pages, not long waits."""

CHECK_STEPS: Final = 10_000
"""Of SQLite, between two pauses of a check of all pages: three milliseconds."""

TIDY_FRAMES_MAX: Final = 2_048
"""Frames (8 MiB) that the writer moves itself, once the checkpoints beside it left no more."""

PROBE_BYTES_MAX: Final = 8 * 1024 * 1024
"""What a disk that failed has to take before it is trusted again, at most."""

ROWS_TOGETHER: Final = (128, 32)
"""Rows of one statement where a group has so many: each step of SQLite costs a third of a row."""

LEAVING: Final = frozenset(("gone.runs", "gone.approvals"))
"""Statements that note whose ids stay taken."""

MANY_ROWS: Final = frozenset(("insert_event", "move_head"))

_EVENTS_IN_SCAN: Final = 512


def stored_from_row(row: Sequence[Any]) -> Stored:
    """An event from the columns that the statements of `queries.sql` list."""
    kind, payload, digest = row[7], row[14], row[15]
    session = row[5] if row[5] is not None or row[2] != 1 else row[3]
    return Stored(
        row[0],
        row[1],
        STREAM_NAMES.get(row[2], str(row[2])),
        row[3],
        row[4],
        session,
        row[6],
        kind if isinstance(kind, str) else KIND_NAMES.get(kind, str(kind)),
        ACTOR_NAMES.get(row[8], str(row[8])),
        row[9],
        row[10],
        row[11],
        bool(row[12]),
        row[13],
        payload,
        digest if payload is None else sha256(payload).digest(),
        row[16],
        row[17] if row[17] is not None else GENESIS,
    )


def _is_as_written(row: Sequence[Any]) -> bool:
    """Whether what the hash cannot see of a row of `chain_after` is as the writer left it.

    The chain covers values: `redacted` 1 and 2 are both true, a kind's name is the same as its
    number, and the digest beside a payload and the way to the stream's event before are not in it.
    """
    return bool(
        row[18]
        and row[12] in (0, 1)
        and row[7] not in KIND_NUMBERS
        and (row[14] is None or row[15] is None)
    )


class _Side:
    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def head(self) -> Head:
        """The last committed event."""
        for seq, digest in self._connection.execute(sql("head")):
            return Head(seq, digest)
        return Head(0, GENESIS)

    def rows(self, statement: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """What the statement of that name finds."""
        return list(self._connection.execute(sql(statement), parameters))

    def run(self, run_id: bytes) -> RunRow | None:
        """The run of that id, whichever stream it belongs to, or belonged to."""
        for row in self._connection.execute(sql("run"), (run_id,)):
            return RunRow(row[0], row[1], None if row[2] is None else Run(*row[2:]))
        return None


class JournalWriter(_Side):
    """The owning connection. `connect` opens it anew after a failed COMMIT.

    Errors of a call that is not a COMMIT leave nothing behind: the transaction is rolled back.
    """

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        super().__init__(connect())
        self._connect = connect
        self._beside: Beside | None = None
        self._bell = -1
        self._has_idle: bool | None = None
        """Whether any request that changed nothing has an id; None: not looked yet."""
        self._has_gone: bool | None = None
        """Whether anything went with its session."""

    def names(self) -> dict[str, int]:
        """Every principal's number."""
        return dict(self._connection.execute(sql("principal_names")))

    def last_stream(self) -> int:
        """The highest stream number given so far."""
        return int(str(self._connection.execute(sql("last_stream")).fetchall()[0][0]))

    def stage(self, batch: Batch) -> None:
        """Begin a transaction and write the batch into it.

        Raises:
            Clash: an id or a run is there already.
            StorageUnavailable: SQLite could not; outcome `none`.
        """
        execute, executemany = self._connection.execute, self._connection.executemany
        try:
            execute("BEGIN IMMEDIATE")
            for statement, rows in _statements(batch):
                left: Sequence[Parameters] = rows
                if statement in MANY_ROWS:
                    left = self._insert_together(statement, rows)
                if left:
                    executemany(sql(statement), left)
                if statement == "answer.idle":
                    self._has_idle = True
                elif statement in LEAVING:
                    self._has_gone = True
            if any(self.rows(asked, of) for asked, ids in self._what_is_gone(batch) for of in ids):
                raise apsw.ConstraintError("what went with its session had this id")
            if batch.events and self._bears_an_idle_id(batch.events[0][0]):
                raise apsw.ConstraintError("a request that changed nothing has this id")
        except apsw.ConstraintError as error:
            self.rollback()
            raise Clash(str(error)) from error
        except apsw.Error as error:
            self.rollback()
            raise StorageUnavailable(
                f"the database could not be written: {error}",
                hint="nothing was stored; send it again later",
                detail={"outcome": "none"},
            ) from error

    def _bears_an_idle_id(self, from_seq: int) -> bool:
        """Whether an event from that one on has the id of a request that changed nothing."""
        return self._has_idles() and bool(self.rows("answer.clash", (from_seq,)))

    def _has_idles(self) -> bool:
        if self._has_idle is None:
            self._has_idle = bool(self.rows("answer.any_idle")[0][0])
        return self._has_idle

    def _what_is_gone(self, batch: Batch) -> list[tuple[str, list[tuple[Any, ...]]]]:
        """Questions that find nothing, each with whom to ask it about, unless a run or an approval
        of the batch has the id of one that is gone: its session could not see that yet."""
        if self._has_gone is None:
            self._has_gone = bool(self.rows("gone.any")[0][0])
        if not self._has_gone:
            return []
        runs, approvals = [row[:1] for row in batch.runs], []
        for statement, rows in batch.changes:
            if statement == "run.insert":
                runs += [row[:1] for row in rows]
            elif statement == "approval.insert":
                approvals += [row[:1] for row in rows]
        return [("gone.run_again", runs), ("gone.approval_again", approvals)]

    def _insert_together(
        self, statement: str, rows: Sequence[tuple[Any, ...]]
    ) -> Sequence[tuple[Any, ...]]:
        """Insert as many at once as a statement of theirs takes; those that are left."""
        execute = self._connection.execute
        for size in ROWS_TOGETHER:
            if len(rows) >= size:
                together, whole = sql_of_rows(statement, size), len(rows) - len(rows) % size
                for at in range(0, whole, size):
                    execute(together, tuple(chain.from_iterable(rows[at : at + size])))
                rows = rows[whole:]
        return rows

    # -- beside the interpreter -------------------------------------------------------------------

    def go_beside(self, bell: int) -> None:
        """From now on a thread of its own writes what `begin` is given, and rings the bell, an
        eventfd that is ours from now on. Without a compiler nothing changes."""
        self._bell = bell
        if compiled is not None:
            self._beside = Beside(self._connection, bell)

    def begin(self, batch: Batch, here: bool = False) -> bool:
        """Stage and commit the batch beside the interpreter. False: that cannot be done, and
        nothing was begun. Otherwise the storage is left alone until `ended` says how it ended:
        `here`, in the calling thread, it has."""
        if self._beside is None:
            return False
        steps: list[Step] = [
            (_sizes(statement), rows, False) for statement, rows in _statements(batch)
        ]
        if any(
            statement == "answer.idle" or statement in LEAVING for statement, _ in batch.changes
        ):
            return False
        steps += [(_sizes(asked), ids, True) for asked, ids in self._what_is_gone(batch) if ids]
        if batch.events and self._has_idles():
            steps.append((_sizes("answer.clash"), [(batch.events[0][0],)], True))
        return self._beside.begin(steps, here)

    def ended(self) -> Ended | None:
        """How what was begun has ended, once; None: it has not yet."""
        return None if self._beside is None else self._beside.ended()

    def _leave_beside(self, wait_s_max: float = -1.0) -> bool:
        beside, self._beside = self._beside, None
        if beside is None or beside.close(wait_s_max):
            return True
        self._beside = beside
        return False

    def close(self, wait_s_max: float = -1.0) -> bool:
        """Close it after what was begun beside. False: that did not end within so many seconds, and
        it is left open; negative: wait for ever."""
        if not self._leave_beside(wait_s_max):
            return False
        self._connection.close()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
        return True

    def commit(self) -> None:
        """Make the staged batch durable. May be called from another thread than `stage`.

        Raises:
            CommitUnknown: it failed half way; only `reopen` may follow.
        """
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            raise CommitUnknown(str(error)) from error

    def rollback(self) -> None:
        """Forget what is staged; nothing happens where nothing is."""
        with suppress(apsw.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def known(self, event_ids: Sequence[bytes]) -> dict[bytes, Stored]:
        """Those of the ids that are in the journal, with their events."""
        found = {}
        for event_id in event_ids:
            for row in self._connection.execute(sql("event_by_id"), (event_id,)):
                found[event_id] = stored_from_row(row)
        return found

    def rub_out(self, stream: int, before_seq: int, rows_max: int, floor_seq: int) -> int:
        """Destroy the payloads of the stream's last events before a seq, and not before
        `floor_seq`, in one transaction.

        Returns:
            The seq to go on from, 0 when there is nothing more. Their digests stay, so that the
            chain still verifies.

        Raises:
            StorageUnavailable: SQLite could not; this slice is undone.
        """
        connection = self._connection
        try:
            rows: list[tuple[int, bytes | None]] = [
                (int(str(seq)), payload if isinstance(payload, bytes) else None)
                for seq, payload in connection.execute(
                    sql("erasure.slice"),
                    {
                        "stream": stream,
                        "seq": before_seq,
                        "rows": rows_max,
                        "floor": floor_seq,
                    },
                )
            ]
            with connection:
                connection.executemany(
                    sql("erasure.payload"),
                    [
                        (sha256(payload).digest(), seq)
                        for seq, payload in rows
                        if payload is not None
                    ],
                )
            return rows[-1][0] if len(rows) == rows_max else 0
        except apsw.Error as error:
            self.rollback()
            raise StorageUnavailable(
                f"payloads could not be destroyed: {error}", detail={"outcome": "unknown"}
            ) from error

    def apply(self, changes: Sequence[tuple[str, Sequence[Parameters]]]) -> int:
        """What follows from no event: derived rows, and what is destroyed. One transaction.

        Returns:
            How many rows it changed, those of an index included.

        Raises:
            StorageUnavailable: SQLite could not; all of it is undone.
        """
        connection = self._connection
        try:
            before = connection.total_changes()
            connection.execute("BEGIN IMMEDIATE")
            for statement, rows in changes:
                connection.executemany(sql(statement), rows)
            connection.execute("COMMIT")
        except apsw.Error as error:
            self.rollback()
            raise StorageUnavailable(
                f"derived rows could not be written: {error}", detail={"outcome": "none"}
            ) from error
        return connection.total_changes() - before

    def shrink(self, pages_max: int) -> int:
        """Cut free pages off the file; how many are left. Raises StorageUnavailable."""
        try:
            return_free_pages(self._connection, pages_max=pages_max)
            return int(str(self._connection.pragma("freelist_count")))
        except apsw.Error as error:
            raise StorageUnavailable(f"free pages could not be returned: {error}") from error

    def cool(self, warm_max: int, rows_max: int) -> int:
        """Put heads that have not moved lately among all others, so many at once; how many are left
        beyond the `warm_max` that moved last.

        Raises:
            StorageUnavailable: SQLite could not; they stay where they were.
        """
        try:
            ((warm,),) = self.rows("warm_heads")
            if warm <= warm_max:
                return 0
            ((seq,),) = self.rows("cold_from", (warm_max,))
            ((stream,),) = self.rows("cold_upto", (seq, rows_max))
        except apsw.Error as error:
            raise StorageUnavailable(f"heads could not be read: {error}") from error
        bounds = [(seq, stream)]
        self.apply([("cool_heads", bounds), ("forget_warm", bounds)])
        return int(max(0, warm - warm_max - rows_max))

    def unmoved_frames(self) -> int:
        """Frames that are in the WAL only; as many as can be while they are being moved."""
        try:
            return wal_state(self._connection).remaining
        except apsw.BusyError:
            return 2**31

    def empty_wal(self, frames_max: int) -> None:
        """Nothing is in the WAL any more, not even what its pages held before.

        Raises:
            StorageUnavailable: not yet; a reader holds an old snapshot, or more than `frames_max`
                frames are to be moved before, for which others would wait.
        """
        try:
            if wal_state(self._connection).remaining > frames_max:
                raise StorageUnavailable("a checkpoint has to go before")
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        except apsw.Error as error:
            raise StorageUnavailable(f"the WAL could not be emptied: {error}") from error
        if busy:
            raise StorageUnavailable("a reader holds an old snapshot")

    def known_runs(self, run_ids: Sequence[bytes]) -> dict[bytes, RunRow]:
        """Those of the runs that are in the file."""
        return {run_id: row for run_id in run_ids if (row := self.run(run_id)) is not None}

    def reopen(self) -> Head:
        """Drop the connection, open the file again and say what its last event is.

        Raises:
            StorageUnavailable, OpenRefused: it cannot be opened now.
        """
        drop(self._connection)
        self._has_idle = self._has_gone = None
        try:
            self._connection = self._connect()
            return self.head()
        except apsw.Error as error:
            raise StorageUnavailable(
                f"the database cannot be opened again: {error}", detail={"outcome": "none"}
            ) from error

    def probe(self, room_bytes: int) -> None:
        """Whether a transaction of about that many bytes could be written and synced now. Leaves
        nothing but a page that says what it said before.

        Raises:
            StorageUnavailable: it could not.
        """
        try:
            try_room(self._connection, min(room_bytes, PROBE_BYTES_MAX))
        except apsw.Error as error:
            # perhaps a sync: this connection is done with, or it was, and opening failed as well
            if isinstance(error, apsw.IOError | apsw.ConnectionClosedError):
                with suppress(StorageUnavailable, OpenRefused):
                    self.reopen()
            raise StorageUnavailable(
                f"the database cannot be written: {error}", detail={"outcome": "none"}
            ) from error

    def tidy(self) -> None:
        """Between two transactions: move the WAL's last frames, so that it starts anew."""
        with suppress(apsw.Error):  # the WAL still holds everything; the next one tries again
            finish(self._connection, frames_max=TIDY_FRAMES_MAX)


@cache
def _sizes(statement: str) -> tuple[tuple[str, int], ...]:
    """The statement as `beside` takes it."""
    together = ROWS_TOGETHER if statement in MANY_ROWS else ()
    return (*((sql_of_rows(statement, size), size) for size in together), (sql(statement), 1))


def _statements(batch: Batch) -> Iterator[tuple[str, Any]]:
    """The statements of a batch, in their order, each with its rows."""
    for statement, rows in (
        ("insert_principal", batch.principals),
        ("insert_stream", batch.streams),
        ("insert_event", batch.events),
        ("move_head", batch.heads),
        ("insert_mark", batch.marks),
        ("run.insert", batch.runs),
        ("run.move", batch.run_moves),
        ("run.update", batch.run_ends),
    ):
        if rows:
            yield statement, rows
    for statement, changes in batch.changes:
        yield statement, changes
        if statement in FOLLOWED:
            follower, parameters = FOLLOWED[statement]
            yield follower, [parameters]
    for statement in APART:
        if statement in batch.apart:
            yield statement, batch.apart[statement]


class JournalReader(_Side):
    """A read-only connection. Every call sees all commits that returned before it began.

    `page_seconds_max`: how long one page may hold its snapshot; then it ends with what it has.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        page_seconds_max: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(connection)
        self._page_seconds_max = page_seconds_max
        self._monotonic = monotonic

    def close(self) -> None:
        """Close it; a disk that fails meanwhile takes nothing along."""
        with suppress(apsw.Error):
            self._connection.close()

    def has_journal(self) -> bool:
        """Whether there is a table of events: not where the file was made and nothing more."""
        return bool(self._connection.execute(sql("has_journal")).fetchall()[0][0])

    def faults(self, rest: Callable[[float], None] = lambda took_s: None) -> list[str]:
        """What SQLite finds wrong with the pages; nothing where all is well. Reads all of them,
        and calls `rest` every few milliseconds with the seconds since it returned.

        The whole check, which holds each index to its table: the quick one takes half the time and
        does not see an index in another order, which takes an event id as new that is used.
        """
        began = time.monotonic()

        def pause() -> bool:
            nonlocal began
            rest(time.monotonic() - began)
            began = time.monotonic()
            return False

        self._connection.set_progress_handler(pause, CHECK_STEPS)
        try:
            rows = self._connection.execute("PRAGMA integrity_check(20)").fetchall()
        finally:
            self._connection.set_progress_handler(None)
        return [str(text) for (text,) in rows if text != "ok"]

    def stream(self, kind: int, stream_id: bytes) -> StreamRow | None:
        """An entity by its id, or None: nothing was ever written for it."""
        for row in self._connection.execute(sql("stream"), (stream_id, kind)):
            return StreamRow(*row)
        return None

    def hash_at(self, seq: int) -> bytes | None:
        """The stored hash of an event; 32 zero bytes for seq 0; None: no such event."""
        if seq == 0:
            return GENESIS
        for row in self._connection.execute(sql("hash_at"), (seq,)):
            return bytes(row[0])
        return None

    def last(self, limit: int) -> list[Stored]:
        """The last `limit` events, newest last."""
        return [
            stored_from_row(row) for row in self._connection.execute(sql("last_events"), (limit,))
        ]

    def page(self, selection: Selection, limit: int, bytes_max: int) -> EventPage:
        """Up to `limit` matching events whose payloads together take about `bytes_max` bytes.

        A page may end before `limit`, when its bytes are used up or `SCAN_ROWS_MAX` rows were
        looked at; `end` is false then and `next_after_seq` says where to go on.
        """
        self._connection.execute("BEGIN")  # one snapshot for all statements of the page
        try:
            return self._page(selection, limit, bytes_max)
        finally:
            self._connection.execute("ROLLBACK")

    def _page(self, selection: Selection, limit: int, bytes_max: int) -> EventPage:
        head_seq = self.head().seq
        rows = (
            self._scan(selection.after_seq, head_seq)
            if selection.stream is None
            else self._walk(selection.stream, selection.after_seq)
        )
        events: list[Stored] = []
        bytes_used = 0
        position = selection.after_seq
        ends = self._monotonic() + self._page_seconds_max
        for looked_at, row in enumerate(rows):
            if len(events) == limit or looked_at == SCAN_ROWS_MAX:
                return EventPage(events, position, False)
            if looked_at & 0xFF == 0xFF and self._monotonic() > ends:
                return EventPage(events, position, False)
            if self._matches(selection, row):
                payload = row[14]
                size = 0 if payload is None else len(payload)
                if events and bytes_used + size > bytes_max:
                    return EventPage(events, position, False)
                bytes_used += size
                events.append(stored_from_row(row))
            position = row[0]
        return EventPage(events, max(head_seq, selection.after_seq), True)

    def numbered(self, stream: int, after: int, upto: int) -> Iterator[Stored]:
        """The stream's events numbered `after` + 1 .. `upto`, in order, read as they are taken."""
        after_seq = self._number("mark", stream, after // MARK_EVERY) or 0
        tail = self._number("stream_tail", stream)
        mark = after // MARK_EVERY + 1
        while tail is not None:
            at_mark = self._number("mark", stream, mark)
            last = tail if at_mark is None else at_mark
            for row in self._connection.execute(sql("stream_events_back"), (last, after_seq)):
                if after < row[4] <= upto:
                    yield stored_from_row(row)
            if at_mark is None or mark * MARK_EVERY >= upto:
                return
            after_seq, mark = at_mark, mark + 1

    def check(self, from_seq: int, to_seq: int, prev_hash: bytes | None) -> Slice:
        """Recompute the chain over `from_seq`..`to_seq`, both included.

        `prev_hash` is the hash before `from_seq` as an earlier slice found it, or None to take
        the stored one.
        """
        previous = self.hash_at(from_seq - 1) if prev_hash is None else prev_hash
        expected, erased = from_seq, 0
        if previous is None:
            return Slice(0, 0, Head(from_seq - 1, GENESIS), from_seq - 1)
        for row in self._connection.execute(sql("chain_after"), (from_seq - 1, to_seq)):
            event = stored_from_row(row)
            if (
                event.seq != expected
                or event.hash != expected_hash(event, previous)
                or not _is_as_written(row)
            ):
                return Slice(expected - from_seq, erased, Head(expected - 1, previous), expected)
            erased += event.payload is None
            previous = event.hash
            expected += 1
        checked = expected - from_seq
        bad = expected if expected <= to_seq else None
        return Slice(checked, erased, Head(expected - 1, previous), bad)

    def _scan(self, after_seq: int, head_seq: int) -> Iterator[Sequence[Any]]:
        while after_seq < head_seq:
            upto = min(after_seq + _EVENTS_IN_SCAN, head_seq)
            yield from self._connection.execute(sql("events_after"), (after_seq, upto))
            after_seq = upto

    def _walk(self, stream: int, after_seq: int) -> Iterator[Sequence[Any]]:
        """The stream's events after a position, a stretch between two marks at a time."""
        tail = self._number("stream_tail", stream)
        if tail is None or tail <= after_seq:
            return
        last_mark = self._number("stream_last_mark", stream) or 0
        mark = self._first_mark_after(stream, after_seq, last_mark)
        while mark <= last_mark:
            upto = self._number("mark", stream, mark)
            if upto is None:
                return
            yield from self._connection.execute(sql("stream_events_back"), (upto, after_seq))
            after_seq, mark = upto, mark + 1
        if tail > after_seq:
            yield from self._connection.execute(sql("stream_events_back"), (tail, after_seq))

    def _first_mark_after(self, stream: int, after_seq: int, last_mark: int) -> int:
        """The lowest mark whose seq is above `after_seq`; one past the last where there is none."""
        low, high = 1, last_mark + 1
        while low < high:
            middle = (low + high) // 2
            seq = self._number("mark", stream, middle)
            if seq is not None and seq > after_seq:
                high = middle
            else:
                low = middle + 1
        return low

    def _number(self, statement: str, *bindings: int) -> int | None:
        for row in self._connection.execute(sql(statement), bindings):
            return int(row[0])
        return None

    def _matches(self, selection: Selection, row: Sequence[Any]) -> bool:
        if selection.kinds is not None and row[7] not in selection.kinds:
            return False
        if selection.run_id is not None and row[6] != selection.run_id:
            return False
        return selection.principal is None or row[9] == selection.principal
