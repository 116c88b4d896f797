"""The disk that fails on command does what it is told, and nothing else."""

import threading
from pathlib import Path

import apsw
import pytest

from palyra_actors.testing.faults import Fault, FaultVFS, Operation, abandon


def opened(path: Path, vfs: str, synchronous: str = "full") -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=vfs)
    connection.execute("PRAGMA journal_mode = wal").fetchall()
    connection.execute(f"PRAGMA synchronous = {synchronous}").fetchall()
    connection.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER)").fetchall()
    return connection


def insert(connection: apsw.Connection, n: int) -> None:
    connection.execute("INSERT INTO rows VALUES (?)", (n,)).fetchall()


def rows(connection: apsw.Connection) -> list[int]:
    return [int(str(n)) for (n,) in connection.execute("SELECT n FROM rows ORDER BY n").fetchall()]


def test_without_a_fault_it_is_an_ordinary_disk(tmp_path: Path) -> None:
    with FaultVFS("plain"):
        connection = opened(tmp_path / "a.db", "plain")
        insert(connection, 1)
        connection.close()
    stock = apsw.Connection(str(tmp_path / "a.db"))
    assert rows(stock) == [1]
    stock.close()


def test_the_nth_sync_fails_once_with_the_chosen_code(tmp_path: Path) -> None:
    with FaultVFS("nth") as disk:
        connection = opened(tmp_path / "a.db", "nth")
        fault = disk.inject(Fault("sync", "wal", nth=3, code=apsw.SQLITE_IOERR_FSYNC))
        insert(connection, 1)
        insert(connection, 2)
        with pytest.raises(apsw.IOError) as failure:
            insert(connection, 3)
        assert getattr(failure.value, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC
        insert(connection, 4)
        assert (fault.seen, fault.fired) == (4, 1)
        assert rows(connection) == [1, 2, 4]
        connection.close()


def test_a_row_whose_sync_failed_is_gone_and_back_after_a_crash(tmp_path: Path) -> None:
    """Why a failed COMMIT is of unknown outcome: this is what SQLite does."""
    with FaultVFS("unknown") as disk:
        connection = opened(tmp_path / "a.db", "unknown")
        insert(connection, 1)
        disk.inject(Fault("sync", "wal"))
        with pytest.raises(apsw.IOError):
            insert(connection, 2)
        assert rows(connection) == [1]
        image = tmp_path / "crashed"
        image.mkdir()
        for name in ("a.db", "a.db-wal"):
            (image / name).write_bytes((tmp_path / name).read_bytes())
        abandon(connection)
    stock = apsw.Connection(str(image / "a.db"))
    assert rows(stock) == [1, 2]
    stock.close()


def test_a_fault_for_good_lasts_until_it_is_healed(tmp_path: Path) -> None:
    with FaultVFS("full") as disk:
        connection = opened(tmp_path / "a.db", "full")
        fault = disk.inject(Fault("write", "wal", times=None, code=apsw.SQLITE_FULL))
        for n in range(5):
            with pytest.raises(apsw.FullError):
                insert(connection, n)
        disk.heal(fault)
        insert(connection, 9)
        assert fault.fired == 5
        assert rows(connection) == [9]
        connection.close()


def test_a_fault_hits_only_the_kind_of_file_it_names(tmp_path: Path) -> None:
    with FaultVFS("kinds") as disk:
        connection = opened(tmp_path / "a.db", "kinds")
        fault = disk.inject(Fault("write", "db", times=None))
        insert(connection, 1)
        assert fault.fired == 0
        with pytest.raises(apsw.IOError):
            connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        assert fault.fired == 1
        assert rows(connection) == [1]
        disk.heal()
        connection.close()


def test_a_performed_fault_does_the_work_and_reports_failure(tmp_path: Path) -> None:
    with FaultVFS("performed", record=True) as disk:
        connection = opened(tmp_path / "a.db", "performed")
        disk.inject(Fault("truncate", "wal", performed=True))
        insert(connection, 1)
        with pytest.raises(apsw.IOError):
            connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
        assert (tmp_path / "a.db-wal").stat().st_size == 0
        assert any(done.action == "truncate" for done in disk.operations)
        connection.close()


def test_a_file_that_cannot_be_opened_is_reported_as_such(tmp_path: Path) -> None:
    with FaultVFS("closed") as disk:
        disk.inject(Fault("open", "db"))
        with pytest.raises(apsw.CantOpenError):
            apsw.Connection(str(tmp_path / "a.db"), vfs="closed")
        opened(tmp_path / "a.db", "closed").close()


def test_every_operation_is_counted_and_on_request_recorded(tmp_path: Path) -> None:
    with FaultVFS("counting", record=True) as disk:
        connection = opened(tmp_path / "a.db", "counting")
        disk.operations.clear()
        syncs = disk.counts["sync", "wal"]
        insert(connection, 1)
        assert disk.counts["sync", "wal"] == syncs + 1
        assert [(done.action, done.kind) for done in disk.operations][-1] == ("sync", "wal")
        assert sum(done.size for done in disk.operations if done.action == "write") >= 4096
        connection.close()


def test_normal_syncs_the_wal_at_no_commit_and_full_at_each(tmp_path: Path) -> None:
    counted = {}
    for synchronous in ("normal", "full"):
        with FaultVFS("levels") as disk:
            connection = opened(tmp_path / f"{synchronous}.db", "levels", synchronous)
            before = disk.counts["sync", "wal"]
            for n in range(10):
                insert(connection, n)
            counted[synchronous] = disk.counts["sync", "wal"] - before
            connection.close()
    assert counted == {"normal": 0, "full": 10}


def test_a_delayed_sync_holds_its_own_thread_and_no_reader(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def delay(operation: Operation) -> None:
        if operation.action == "sync" and threading.current_thread().name == "writer":
            entered.set()
            assert leave.wait(30)

    with FaultVFS("slow") as disk:
        connection = opened(tmp_path / "a.db", "slow")
        reader = apsw.Connection(str(tmp_path / "a.db"), vfs="slow")
        insert(connection, 1)
        disk.before = delay
        writer = threading.Thread(target=insert, args=(connection, 2), name="writer")
        writer.start()
        assert entered.wait(30)
        assert rows(reader) == [1]
        leave.set()
        writer.join(30)
        assert rows(reader) == [1, 2]
        reader.close()
        connection.close()


def test_a_name_is_free_again_after_the_end_and_never_taken_twice(tmp_path: Path) -> None:
    with FaultVFS("once"):
        assert "once" in apsw.vfs_names()
        with pytest.raises(ValueError, match="registered already"):
            FaultVFS("once")
    assert "once" not in apsw.vfs_names()
    with FaultVFS("once"), FaultVFS("twice", base="once"):
        opened(tmp_path / "a.db", "twice").close()
    with pytest.raises(ValueError, match="no VFS"):
        FaultVFS("astray", base="nowhere")


@pytest.mark.parametrize(("nth", "times"), [(0, 1), (1, 0), (-1, None)])
def test_a_fault_that_could_never_strike_is_refused(nth: int, times: int | None) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        Fault("write", nth=nth, times=times)
