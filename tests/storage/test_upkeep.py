"""Checkpoints beside the writer, and the room the file takes."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from palyra_actors.api.events import Event, new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import InternalFault
from palyra_actors.storage.connection import open_checkpointer, open_reader, open_writer
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.lock import DatabaseLock
from palyra_actors.storage.port import Selection
from palyra_actors.storage.upkeep import (
    Checkpointer,
    WalState,
    finish,
    frame_bytes,
    return_free_pages,
    space,
    wal_bytes,
    wal_state,
    wal_used_bytes,
)
from palyra_actors.testing.clock import ManualClock
from palyra_actors.testing.faults import Fault, FaultVFS, Operation
from tests.faults.rig import NO_BUDGET, rig
from tests.system.harness import event

THRESHOLD = 20 * 4120
LIMIT = 100 * 4120
WRITES_MAX = 400
"""Of a quarter of a megabyte each, at which their WAL should long be at its cap of 8 MiB."""


@pytest.fixture
def writer(database: Path) -> Iterator[apsw.Connection]:
    database.parent.mkdir(mode=0o700)
    connection = open_writer(database, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=0)
    connection.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, body BLOB)").fetchall()
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    yield connection
    connection.close()


@pytest.fixture
def checkpointer(
    writer: apsw.Connection, database: Path, clock: ManualClock
) -> Iterator[Checkpointer]:
    connection = open_checkpointer(database, synchronous="full")
    checkpointer = made(connection, database, clock)
    yield checkpointer
    checkpointer.close()


def made(
    connection: apsw.Connection,
    path: Path,
    clock: ManualClock,
    finish_bytes: int | None = None,
    sync: Callable[[], None] = lambda: None,
) -> Checkpointer:
    return Checkpointer(
        connection,
        path,
        checkpoint_bytes=THRESHOLD,
        wal_bytes_max=LIMIT,
        monotonic=clock.monotonic,
        finish_bytes=finish_bytes,
        sync=sync,
    )


def write_pages(writer: apsw.Connection, pages: int) -> None:
    writer.execute(
        "INSERT INTO rows (body) VALUES (randomblob(?))", (pages * 4096 - 500,)
    ).fetchall()


def old_snapshot(path: Path) -> apsw.Connection:
    reader = open_reader(path, cache_bytes=1 << 20)
    reader.execute("BEGIN").fetchall()
    reader.execute("SELECT count(*) FROM rows").fetchall()
    return reader


def test_the_state_of_the_wal_is_known_without_touching_it(writer: apsw.Connection) -> None:
    assert wal_state(writer) == WalState(0, 0)
    write_pages(writer, 10)
    state = wal_state(writer)
    assert state.frames >= 10
    assert state.moved == 0
    assert state.remaining == state.frames
    assert wal_used_bytes(state, frame_bytes(writer)) == 32 + state.frames * 4120


def test_used_bytes_are_the_whole_file_while_it_only_grows(
    writer: apsw.Connection, database: Path
) -> None:
    write_pages(writer, 30)
    assert wal_used_bytes(wal_state(writer), frame_bytes(writer)) == wal_bytes(database)


def test_nothing_is_done_below_the_threshold(
    writer: apsw.Connection, checkpointer: Checkpointer
) -> None:
    write_pages(writer, 5)
    assert not checkpointer.due()
    assert checkpointer.step() is None
    assert checkpointer.statistics().checkpoints == 0
    forced = checkpointer.step(force=True)
    assert forced is not None
    assert forced.moved_frames >= 5


def test_a_due_checkpoint_moves_everything_and_says_how_long_it_took(
    writer: apsw.Connection, database: Path, clock: ManualClock
) -> None:
    def slow(operation: Operation) -> None:
        if operation.action == "sync":
            clock.turn(250)

    with FaultVFS("slow", before=slow):
        checkpointer = made(
            open_checkpointer(database, synchronous="full", vfs="slow"), database, clock
        )
        write_pages(writer, 30)
        frames = wal_state(writer).frames
        assert checkpointer.due()
        report = checkpointer.step()
        checkpointer.close()
    assert report is not None
    assert (report.moved_frames, report.remaining_frames) == (frames, 0)
    assert report.seconds == pytest.approx(0.5), "the WAL and the database are synced"
    assert not report.held_by_reader
    assert checkpointer.statistics().last == report
    assert checkpointer.statistics().seconds_max == report.seconds


def test_after_a_finish_the_next_write_starts_the_wal_anew(
    writer: apsw.Connection, checkpointer: Checkpointer, database: Path
) -> None:
    write_pages(writer, 30)
    size = wal_bytes(database)
    assert finish(writer, frames_max=100)
    for _ in range(10):
        write_pages(writer, 20)
        assert finish(writer, frames_max=100)
    assert wal_bytes(database) <= size


def test_a_step_beside_an_open_transaction_wants_a_finish(
    writer: apsw.Connection, checkpointer: Checkpointer
) -> None:
    """What a busy writer does: the transaction began before the checkpoint was over."""
    write_pages(writer, 30)
    writer.execute("BEGIN IMMEDIATE").fetchall()
    report = checkpointer.step()
    write_pages(writer, 1)
    writer.execute("COMMIT").fetchall()
    assert report is not None
    assert report.wants_finish
    assert wal_state(writer).frames > 30, "it went on at the end"
    assert finish(writer, frames_max=10)
    write_pages(writer, 1)
    assert wal_state(writer).frames < 10, "it began anew"


def test_the_writer_is_not_made_to_pause_for_a_wal_that_has_room(
    writer: apsw.Connection, database: Path, clock: ManualClock
) -> None:
    connection = open_checkpointer(database, synchronous="full")
    checkpointer = made(connection, database, clock, finish_bytes=3 * THRESHOLD)
    wants: list[bool] = []
    while len(wants) < 3:
        write_pages(writer, 20)
        writer.execute("BEGIN IMMEDIATE").fetchall()  # as a busy one does: the WAL goes on
        report = checkpointer.step()
        write_pages(writer, 2)
        writer.execute("COMMIT").fetchall()
        assert report is not None
        wants.append(report.wants_finish)
    assert wants == [False, False, True]
    checkpointer.close()


def test_what_a_step_beside_a_writer_moves_is_synced_before_the_writer_pauses(
    writer: apsw.Connection, database: Path, clock: ManualClock
) -> None:
    """SQLite syncs the database only where all is moved: the rest of it would be the pause's."""
    connection = open_checkpointer(database, synchronous="full")
    synced: list[int] = []
    checkpointer = made(
        connection, database, clock, sync=lambda: synced.append(wal_state(writer).moved)
    )
    assert checkpointer.step() is None
    write_pages(writer, 30)
    report = checkpointer.step()
    assert report is not None
    assert synced == [report.moved_frames], "after it, and not when none was due"

    def fails() -> None:
        raise OSError(errno.EIO, "the disk")

    write_pages(writer, 30)
    checkpointer._sync = fails
    with pytest.raises(OSError, match="the disk"):
        checkpointer.step()
    assert checkpointer.statistics().failures == 1
    checkpointer.close()


def test_a_finish_leaves_a_large_rest_to_a_step(writer: apsw.Connection) -> None:
    write_pages(writer, 30)
    assert not finish(writer, frames_max=10)
    assert wal_state(writer).moved == 0


def test_a_finish_inside_a_transaction_is_a_fault_of_ours(writer: apsw.Connection) -> None:
    writer.execute("BEGIN IMMEDIATE").fetchall()
    with pytest.raises(InternalFault):
        finish(writer, frames_max=10)
    writer.execute("ROLLBACK").fetchall()


def test_a_reader_with_an_old_snapshot_is_reported_and_its_end_frees_the_wal(
    writer: apsw.Connection, checkpointer: Checkpointer, database: Path
) -> None:
    reader = old_snapshot(database)
    write_pages(writer, 30)
    held = checkpointer.step()
    assert held is not None
    assert held.held_by_reader
    assert held.remaining_frames > 0
    assert not held.wants_finish, "it would be in vain"
    assert not finish(writer, frames_max=1000)
    reader.close()
    freed = checkpointer.step()
    assert freed is not None
    assert not freed.held_by_reader
    assert freed.remaining_frames == 0
    assert checkpointer.statistics().held_by_reader == 1


def test_a_wal_above_its_limit_is_reported_until_it_starts_anew(
    writer: apsw.Connection, checkpointer: Checkpointer, database: Path
) -> None:
    reader = old_snapshot(database)
    write_pages(writer, 120)
    above = checkpointer.step()
    assert above is not None
    assert above.over_limit
    assert above.used_bytes > LIMIT
    reader.close()
    moved = checkpointer.step()
    assert moved is not None
    assert (moved.remaining_frames, moved.used_bytes, moved.over_limit) == (0, 0, False)
    write_pages(writer, 25)
    below = checkpointer.step()
    assert below is not None
    assert not below.over_limit
    assert below.file_bytes < LIMIT, "cut back to what is kept"
    assert checkpointer.statistics().over_limit == 1


def test_a_wal_is_held_back_before_its_cap_and_crowded_from_half_of_it_on(
    writer: apsw.Connection, checkpointer: Checkpointer, database: Path
) -> None:
    reader = old_snapshot(database)
    found = []
    while wal_bytes(database) < LIMIT:
        write_pages(writer, 1)
        report = checkpointer.step(force=True)
        assert report is not None
        found.append((report.used_bytes, report.over_limit, checkpointer.crowded()))
    reader.close()
    assert min(used for used, over, _ in found if over) < LIMIT
    assert all(over == (used > LIMIT - LIMIT // 16) for used, over, _ in found)
    assert all(crowded == (used > LIMIT // 2) for used, _, crowded in found)


def test_where_the_wal_is_over_its_cap_writes_are_refused_until_its_reader_lets_go(
    database: Path,
) -> None:
    small = {"wal_keep_bytes": 0, "checkpoint_bytes": 1 << 20, "wal_bytes_max": 8 << 20}
    with rig(database, NO_BUDGET.replaced("storage", **small)) as works:
        session = new_id()
        works.append(event(session)).ok()
        large, numbers = {"text": "x" * 250_000}, [1]
        with closing(open_reader(database, cache_bytes=1 << 20)) as reader:
            reader.execute("BEGIN").fetchall()
            reader.execute("SELECT count(*) FROM events").fetchall()
            while "ok" in (reply := works.append(event(session, payload=large)).reply()):
                numbers.append(len(numbers) + 1)
                assert len(numbers) < WRITES_MAX
            assert reply["err"]["code"] == "overloaded"
            assert reply["err"]["retry_after_ms"] > 0
            assert works.append(event(session)).err()["code"] == "overloaded", "a small one, too"
            assert works.status() == "degraded"
        works.until("ready")
        assert works.append(event(session)).numbers() == [len(numbers) + 1]
        works.assert_at_rest()


def test_an_engine_syncs_what_a_checkpoint_has_moved(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, done = threading.Event(), threading.Event()
    monkeypatch.setattr(DatabaseLock, "sync", lambda _: synced.set())
    with Engine.open(database, NO_BUDGET) as engine:
        engine.append([Event(new_id(), "message_received", {"n": 1})])
        engine._works.checkpoints.urge(done.set)
        assert done.wait(30)
        assert synced.is_set()


def test_a_page_ends_with_what_it_has_once_its_snapshot_is_old(database: Path) -> None:
    session = new_id()
    with Engine.open(database, NO_BUDGET) as engine:
        engine.append([Event(session, "message_received", {"n": n}) for n in range(600)])
    times = iter([0.0, 0.5, 2.0, 2.0])
    connection = open_reader(database, cache_bytes=1 << 20)
    reader = JournalReader(connection, page_seconds_max=1.0, monotonic=lambda: next(times))
    page = reader.page(Selection(), 1_000, 1 << 30)
    assert (len(page.events), page.next_after_seq, page.end) == (511, 511, False)
    rest = reader.page(Selection(page.next_after_seq), 1_000, 1 << 30)
    assert ([one.seq for one in rest.events], rest.end) == (list(range(512, 601)), True)
    reader.close()


def test_a_step_during_a_finish_is_no_error(
    writer: apsw.Connection, database: Path, clock: ManualClock
) -> None:
    """The step is stopped at its first sync; the finish finds it at work, and the other way."""
    entered, leave = threading.Event(), threading.Event()

    def stop(operation: Operation) -> None:
        if operation.action == "sync" and not entered.is_set():
            entered.set()
            assert leave.wait(30)

    write_pages(writer, 30)
    with FaultVFS("stopped", before=stop):
        checkpointer = made(
            open_checkpointer(database, synchronous="full", vfs="stopped"), database, clock
        )
        thread = threading.Thread(target=checkpointer.step)
        thread.start()
        assert entered.wait(30)
        finished = finish(writer, frames_max=1000)
        write_pages(writer, 1)  # a commit goes through meanwhile
        leave.set()
        thread.join(30)
        checkpointer.close()
    assert not finished
    assert checkpointer.statistics().checkpoints == 1
    assert checkpointer.statistics().failures == 0


def test_a_failed_checkpoint_is_counted_and_loses_nothing(
    writer: apsw.Connection, database: Path, clock: ManualClock
) -> None:
    write_pages(writer, 30)
    with FaultVFS("failing") as disk:
        checkpointer = made(
            open_checkpointer(database, synchronous="full", vfs="failing"), database, clock
        )
        disk.inject(Fault("write", "db"))
        with pytest.raises(apsw.IOError):
            checkpointer.step()
        assert checkpointer.statistics().failures == 1
        assert writer.execute("SELECT count(*) FROM rows").fetchall() == [(1,)]
        report = checkpointer.step()
        checkpointer.close()
    assert report is not None
    assert report.remaining_frames == 0


def test_a_limit_below_the_threshold_is_refused(
    writer: apsw.Connection, database: Path, clock: ManualClock
) -> None:
    connection = open_checkpointer(database, synchronous="full")
    with pytest.raises(ValueError, match="above"):
        Checkpointer(
            connection,
            database,
            checkpoint_bytes=100,
            wal_bytes_max=100,
            monotonic=clock.monotonic,
        )
    connection.close()


def test_space_counts_free_pages_and_they_can_be_returned_in_steps(
    writer: apsw.Connection, database: Path
) -> None:
    write_pages(writer, 50)
    full = space(writer, database)
    assert full.free_bytes == 0
    assert full.wal_used_bytes == full.wal_bytes == wal_bytes(database)
    writer.execute("DELETE FROM rows").fetchall()
    freed = space(writer, database)
    assert freed.free_bytes >= 49 * 4096
    assert freed.db_bytes == full.db_bytes
    assert return_free_pages(writer, pages_max=10) == 10
    assert return_free_pages(writer, pages_max=1000) >= 39
    assert return_free_pages(writer, pages_max=1000) == 0
    assert finish(writer, frames_max=1000)
    assert space(writer, database).db_bytes == database.stat().st_size <= 5 * 4096


def test_deleted_content_is_nowhere_in_the_file_after_a_checkpoint(
    writer: apsw.Connection, database: Path
) -> None:
    secret = b"the launch code is 00000000" * 400
    writer.execute("INSERT INTO rows (body) VALUES (?)", (secret,)).fetchall()
    assert finish(writer, frames_max=1000)
    # Read only after closing: `open()` on a live database would drop its locks when closed.
    writer.execute("DELETE FROM rows").fetchall()
    assert finish(writer, frames_max=1000)
    writer.close()
    assert secret[:27] not in database.read_bytes()
