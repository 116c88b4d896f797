"""Keeping the file in shape beside the writer: checkpoints, and the room it takes.

Two hands move the WAL's pages into the database, because one cannot do it under load:

* `Checkpointer.step`, on a thread of its own with a connection of its own, does the bulk passively:
  the writer goes on meanwhile. What it appends in that time stays behind, so the WAL never starts
  again from its beginning by this alone while writes follow each other closely. Nor does SQLite
  sync the database then, for that it does only once all is moved: `sync` does, or the next hand
  would sync all of it while the writer waits (`bench/bench_overload.py`).
* `finish`, on the writer's own connection between two transactions, moves that small rest. Nobody
  appends then, so the next write starts the WAL anew and the file does not grow.

Measured (bench/bench_wal.py): 128 MiB of rows written without a pause, threshold 4 MiB: steps alone
never found a moment to start the WAL again, it ended at 171 MiB; with `finish` it stayed at 9 MiB,
at the same rate, for at most 8 ms of the writer's time at a go.

A reader that holds an old snapshot stops both; the report says so. Of a WAL that has outgrown its
cap by then the step itself sees to it that the next write starts it anew: until then there is none.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import apsw

from palyra_actors.errors import InternalFault
from palyra_actors.storage.connection import FRAME_HEADER_BYTES, pragma, pragma_number
from palyra_actors.storage.files import size_bytes

WAL_HEADER_BYTES = 32

UNDER_WAY = 16
"""A part in so many of the cap is for what is written after writes are held back: 16 MiB of 256, at
70,000 events a second a fifth of a second."""


@dataclass(frozen=True, slots=True)
class WalState:
    """Frames (one page each) of the WAL in use, and how many of them are in the database too."""

    frames: int
    moved: int

    @property
    def remaining(self) -> int:
        """Frames that only the WAL holds."""
        return self.frames - self.moved


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """What one checkpoint did.

    Attributes:
        moved_frames: copied into the database by this one.
        remaining_frames: left, as of its start. Only a reader's old snapshot leaves any.
        used_bytes: of the WAL, in use when it was over, the rest that came meanwhile included.
        file_bytes: the WAL's size on disk, kept room included.
        seconds: how long it took.
        held_by_reader: a reader's old snapshot kept frames from being moved.
        wants_finish: so much is in use that the writer should call `finish` between two groups.
        over_limit: so much is in use that writes should be held back, or the cap would not hold.
    """

    moved_frames: int
    remaining_frames: int
    used_bytes: int
    file_bytes: int
    seconds: float
    held_by_reader: bool
    wants_finish: bool
    over_limit: bool


@dataclass(frozen=True, slots=True)
class CheckpointStatistics:
    """Since the checkpointer was made; `last` is None before the first checkpoint."""

    checkpoints: int
    moved_frames: int
    seconds: float
    seconds_max: float
    held_by_reader: int
    over_limit: int
    failures: int
    last: CheckpointReport | None


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes: of the database, of its free pages, of the WAL file, and of the WAL's used part."""

    db_bytes: int
    free_bytes: int
    wal_bytes: int
    wal_used_bytes: int


class Checkpointer:
    """Passive checkpoints whenever enough has gathered. It has no thread: the caller's calls it.

    Args:
        connection: from `connection.open_checkpointer`, used by nobody else.
        path: of the database.
        checkpoint_bytes: of WAL not yet moved that are worth a checkpoint.
        finish_bytes: of WAL in use that are worth a pause of the writer's; None: as many.
        sync: lets what is in the database be on its disk; raises OSError.
        wal_bytes_max: the WAL's cap. A sixteenth below it `over_limit` is reported: what is under
            way then, and what comes until the next look, is still written.
        monotonic: seconds.

    Raises:
        ValueError: the limit is not above the threshold.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        path: str | os.PathLike[str],
        *,
        checkpoint_bytes: int,
        wal_bytes_max: int,
        monotonic: Callable[[], float],
        finish_bytes: int | None = None,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 < checkpoint_bytes < wal_bytes_max:
            raise ValueError("wal_bytes_max has to be above checkpoint_bytes, and both above 0")
        self._connection = connection
        self._path = os.path.realpath(path)
        self._checkpoint_bytes = checkpoint_bytes
        self._finish_bytes = checkpoint_bytes if finish_bytes is None else finish_bytes
        self._wal_bytes_max = wal_bytes_max
        self._held_bytes = max(wal_bytes_max - wal_bytes_max // UNDER_WAY, checkpoint_bytes)
        self._monotonic = monotonic
        self._sync = sync
        self._frame_bytes = frame_bytes(connection)
        self._lock = threading.Lock()
        self._statistics = CheckpointStatistics(0, 0, 0.0, 0.0, 0, 0, 0, None)

    def due(self) -> bool:
        """Whether a checkpoint is worth its while, or may let the WAL start anew that writes wait
        for; about a microsecond. No while another runs."""
        try:
            state = wal_state(self._connection)
        except apsw.BusyError:
            return False
        unmoved_bytes = state.remaining * self._frame_bytes
        used_bytes = wal_used_bytes(state, self._frame_bytes)
        return unmoved_bytes >= self._checkpoint_bytes or used_bytes > self._held_bytes

    def crowded(self) -> bool:
        """Whether half of its cap is in use, so that no checkpoint should be put off; about a
        microsecond. No while another runs."""
        try:
            used = wal_used_bytes(wal_state(self._connection), self._frame_bytes)
        except apsw.BusyError:
            return False
        return used > self._wal_bytes_max // 2

    def step(self, *, force: bool = False) -> CheckpointReport | None:
        """One passive checkpoint if it is due or forced; None if not, or if `finish` is at it.

        Raises:
            apsw.Error, OSError: the disk failed. The WAL still holds everything; try again later.
        """
        if not (force or self.due()):
            return None
        began = self._monotonic()
        try:
            before = wal_state(self._connection)
            done = _checkpoint(self._connection)
            self._sync()
            after = wal_state(self._connection)
            used = wal_used_bytes(after, self._frame_bytes)
            if used > self._held_bytes and not after.remaining and _starts_anew(self._connection):
                used = 0
        except apsw.BusyError:
            return None
        except (apsw.Error, OSError):
            self._count_failure()
            raise
        seconds = self._monotonic() - began
        report = CheckpointReport(
            moved_frames=max(0, done.moved - (before.moved if before.frames <= done.frames else 0)),
            remaining_frames=done.remaining,
            used_bytes=used,
            file_bytes=wal_bytes(self._path),
            seconds=seconds,
            held_by_reader=done.remaining > 0,
            wants_finish=done.remaining == 0 and used >= self._finish_bytes,
            over_limit=used > self._held_bytes,
        )
        self._count(report)
        return report

    def statistics(self) -> CheckpointStatistics:
        """Any thread."""
        with self._lock:
            return self._statistics

    def close(self) -> None:
        """Close the connection; in the thread that steps, or after it has ended."""
        self._connection.close()

    def _count(self, report: CheckpointReport) -> None:
        with self._lock:
            past = self._statistics
            self._statistics = CheckpointStatistics(
                checkpoints=past.checkpoints + 1,
                moved_frames=past.moved_frames + report.moved_frames,
                seconds=past.seconds + report.seconds,
                seconds_max=max(past.seconds_max, report.seconds),
                held_by_reader=past.held_by_reader + report.held_by_reader,
                over_limit=past.over_limit + report.over_limit,
                failures=past.failures,
                last=report,
            )

    def _count_failure(self) -> None:
        with self._lock:
            past = self._statistics
            self._statistics = CheckpointStatistics(
                past.checkpoints,
                past.moved_frames,
                past.seconds,
                past.seconds_max,
                past.held_by_reader,
                past.over_limit,
                past.failures + 1,
                past.last,
            )


def finish(writer: apsw.Connection, *, frames_max: int) -> bool:
    """Move the last few frames, so that the writer's next transaction starts the WAL anew.

    For the thread that has the writer's connection, between COMMIT and BEGIN; costs a sync of the
    database. Does nothing if more than `frames_max` frames are left (let `step` go first).

    Returns:
        Whether all is moved. False also while a reader holds an old snapshot or a step runs.

    Raises:
        InternalFault: a transaction is open.
        apsw.Error: the disk failed. The WAL still holds everything.
    """
    if writer.in_transaction:
        raise InternalFault("a checkpoint has no place inside a transaction")
    if wal_state(writer).remaining > frames_max:
        return False
    try:
        return _checkpoint(writer).remaining == 0
    except apsw.BusyError:
        return False


def wal_state(connection: apsw.Connection) -> WalState:
    """The WAL now, without touching it (half a microsecond). The connection has read before."""
    frames, moved = connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_NOOP)
    return WalState(max(0, frames), max(0, moved))


def wal_used_bytes(state: WalState, frame_size: int) -> int:
    """Bytes of the WAL that hold something; 0 when it starts anew."""
    return WAL_HEADER_BYTES + state.frames * frame_size if state.frames else 0


def wal_bytes(path: str | os.PathLike[str]) -> int:
    """The WAL file's size, kept room included; 0 if there is none."""
    return size_bytes(os.path.realpath(path) + "-wal")


def frame_bytes(connection: apsw.Connection) -> int:
    """One page in the WAL, its header included."""
    return pragma_number(connection, "page_size") + FRAME_HEADER_BYTES


def space(connection: apsw.Connection, path: str | os.PathLike[str]) -> Space:
    """The room the database takes now, as this connection sees it."""
    page_bytes = pragma_number(connection, "page_size")
    return Space(
        db_bytes=pragma_number(connection, "page_count") * page_bytes,
        free_bytes=pragma_number(connection, "freelist_count") * page_bytes,
        wal_bytes=wal_bytes(path),
        wal_used_bytes=wal_used_bytes(wal_state(connection), page_bytes + FRAME_HEADER_BYTES),
    )


def return_free_pages(writer: apsw.Connection, *, pages_max: int) -> int:
    """Cut up to `pages_max` free pages off the database; how many there were.

    A transaction of its own unless one is open. The file itself shrinks at the next checkpoint.
    """
    before = pragma_number(writer, "freelist_count")
    pragma(writer, f"incremental_vacuum({pages_max})")
    return before - pragma_number(writer, "freelist_count")


def _checkpoint(connection: apsw.Connection) -> WalState:
    """A passive checkpoint; `apsw.BusyError` if another connection is at one."""
    frames, moved = connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
    return WalState(max(0, frames), max(0, moved))


def _starts_anew(connection: apsw.Connection) -> bool:
    """Whether the next write starts the WAL from its beginning: all of it is moved, and nobody
    reads in it or writes it now."""
    try:
        frames, moved = connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART)
    except apsw.BusyError:
        return False
    return frames == moved
