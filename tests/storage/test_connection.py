"""Opening: what a connection is like, and which files are left alone."""

import hashlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage import connection as module
from palyra_actors.storage.connection import (
    Synchronous,
    grow_wal,
    open_checkpointer,
    open_reader,
    open_writer,
    pragma,
)
from palyra_actors.storage.files import APPLICATION_ID
from palyra_actors.storage.migrations import latest_version, migrate
from palyra_actors.storage.queries import sql
from palyra_actors.storage.upkeep import wal_bytes, wal_state
from palyra_actors.testing.faults import Fault, FaultVFS, abandon

KEEP = 256 * 1024


def writer_at(
    path: Path,
    *,
    synchronous: Synchronous = "full",
    wal_keep_bytes: int = 0,
    vfs: str | None = None,
) -> apsw.Connection:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return open_writer(
        path,
        synchronous=synchronous,
        cache_bytes=1 << 20,
        wal_keep_bytes=wal_keep_bytes,
        vfs=vfs,
    )


@pytest.fixture
def writer(database: Path) -> Iterator[apsw.Connection]:
    connection = writer_at(database)
    connection.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, body BLOB)").fetchall()
    yield connection
    connection.close()


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if not file.name.endswith("-shm")
    }


def assert_refused_untouched(path: Path, words: str) -> None:
    """Each way to open refuses, and neither content nor mode nor company of the file changes."""
    openers: list[Callable[[], apsw.Connection]] = [
        lambda: writer_at(path, wal_keep_bytes=KEEP),
        lambda: open_reader(path, cache_bytes=1 << 20),
        lambda: open_checkpointer(path, synchronous="full"),
    ]
    before, mode = digests(path.parent), path.stat().st_mode
    for opener in openers:
        with pytest.raises(OpenRefused, match=words):
            opener()
    assert digests(path.parent) == before
    assert path.stat().st_mode == mode


# What a connection is like.


@pytest.mark.parametrize(
    ("synchronous", "level"), [("off", 0), ("normal", 1), ("full", 2), ("extra", 3)]
)
def test_the_writer_has_every_pragma_it_asked_for(
    database: Path, synchronous: Synchronous, level: int
) -> None:
    connection = writer_at(database, synchronous=synchronous, wal_keep_bytes=KEEP)
    expected = {
        "journal_mode": "wal",
        "synchronous": level,
        "page_size": 4096,
        "auto_vacuum": 2,
        "wal_autocheckpoint": 0,
        "journal_size_limit": KEEP,
        "cache_size": -1024,
        "temp_store": 2,
        "cell_size_check": 1,
        "mmap_size": 0,
        "secure_delete": 1,
        "busy_timeout": module.WRITER_BUSY_MS_MAX,
        "application_id": APPLICATION_ID,
        "foreign_keys": 0,
    }
    found = {name: pragma(connection, name) for name in expected}
    connection.close()
    assert found == expected


def test_an_unknown_answer_to_a_pragma_refuses_the_file(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._SYNCHRONOUS, "full", 7)  # SQLite makes another level of it
    with pytest.raises(OpenRefused, match="synchronous"):
        writer_at(database)


def test_a_schema_cannot_reach_outside_of_its_file(writer: apsw.Connection) -> None:
    assert writer.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1
    assert writer.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, -1) == 0
    with pytest.raises(apsw.ExtensionLoadingError):
        writer.load_extension("anything")
    with pytest.raises(apsw.SQLError):
        writer.execute('SELECT "no such column" FROM rows').fetchall()
    writer.execute("PRAGMA writable_schema = ON").fetchall()
    with pytest.raises(apsw.SQLError):
        writer.execute("DELETE FROM sqlite_schema").fetchall()


def test_a_join_is_planned_once_whatever_it_is_asked(database: Path) -> None:
    writer = writer_at(database)
    migrate(writer, database)
    reader = open_reader(database, cache_bytes=1 << 20)
    for connection in (writer, reader):
        planned: list[object] = []

        def look(*what: object, planned: list[object] = planned) -> int:
            planned.append(what)
            return apsw.SQLITE_OK

        connection.authorizer = look  # asked while a statement is planned
        connection.execute(sql("memory.by_key"), (1, b"one")).fetchall()
        assert planned
        planned.clear()
        connection.execute(sql("memory.by_key"), (2, b"another")).fetchall()
        assert not planned
        connection.close()


def test_a_reader_sees_commits_and_cannot_write(writer: apsw.Connection, database: Path) -> None:
    reader = open_reader(database, cache_bytes=1 << 20)
    writer.execute("INSERT INTO rows (body) VALUES (x'01')").fetchall()
    assert reader.execute("SELECT count(*) FROM rows").fetchall() == [(1,)]
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("INSERT INTO rows (body) VALUES (x'02')").fetchall()
    reader.close()


def test_a_reader_does_not_make_a_file(database: Path) -> None:
    database.parent.mkdir()
    with pytest.raises(OpenRefused, match="does not exist"):
        open_reader(database, cache_bytes=1 << 20)
    assert not database.exists()


def test_a_database_opened_again_keeps_its_rows_and_its_kind(database: Path) -> None:
    first = writer_at(database)
    first.execute("CREATE TABLE rows (n INTEGER)").fetchall()
    first.execute("INSERT INTO rows VALUES (1)").fetchall()
    first.close()
    again = writer_at(database, wal_keep_bytes=KEEP)
    assert again.execute("SELECT n FROM rows").fetchall() == [(1,)]
    assert pragma(again, "auto_vacuum") == 2
    again.close()


def test_the_files_of_a_new_database_are_for_the_owner_only(database: Path) -> None:
    before = os.umask(0)
    try:
        connection = writer_at(database, wal_keep_bytes=KEEP)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in database.parent.iterdir()}
        connection.close()
    finally:
        os.umask(before)
    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600}


def test_a_file_that_others_may_read_is_tightened(database: Path) -> None:
    writer_at(database).close()
    database.chmod(0o644)
    connection = writer_at(database)
    connection.close()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


# The WAL's size.


def test_the_wal_has_its_size_from_the_start_and_the_database_does_not_grow(database: Path) -> None:
    connection = writer_at(database, wal_keep_bytes=KEEP)
    assert wal_bytes(database) >= KEEP
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
    assert database.stat().st_size <= 2 * 4096
    assert pragma(connection, "freelist_count") == 0
    assert wal_state(connection).frames <= 1
    connection.close()


def test_a_wal_that_outgrew_its_size_is_cut_back_to_it(database: Path) -> None:
    connection = writer_at(database, wal_keep_bytes=KEEP)
    connection.execute("CREATE TABLE rows (body BLOB)").fetchall()
    connection.execute("INSERT INTO rows VALUES (randomblob(?))", (4 * KEEP,)).fetchall()
    assert wal_bytes(database) > 4 * KEEP
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
    connection.execute("INSERT INTO rows VALUES (x'01')").fetchall()
    assert wal_bytes(database) == KEEP
    connection.close()


def test_growing_the_wal_keeps_what_a_crash_left_in_it(database: Path, tmp_path: Path) -> None:
    connection = writer_at(database)
    connection.execute("CREATE TABLE rows (n INTEGER)").fetchall()
    connection.execute("INSERT INTO rows VALUES (7)").fetchall()
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in database.parent.iterdir():
        if not file.name.endswith("-shm"):
            copy = crashed / file.name
            copy.write_bytes(file.read_bytes())
            copy.chmod(0o600)
    connection.close()
    assert wal_bytes(crashed / database.name) > 0
    again = writer_at(crashed / database.name, wal_keep_bytes=KEEP)
    assert wal_bytes(crashed / database.name) >= KEEP
    assert again.execute("SELECT n FROM rows").fetchall() == [(7,)]
    again.close()


def test_a_disk_too_full_to_grow_the_wal_is_opened_all_the_same(database: Path) -> None:
    writer_at(database).close()
    with FaultVFS("full") as disk:
        fault = disk.inject(Fault("write", "wal", nth=5, times=None, code=apsw.SQLITE_FULL))
        connection = writer_at(database, wal_keep_bytes=KEEP, vfs="full")
        assert fault.fired > 0
        assert not connection.in_transaction
        assert pragma(connection, "cache_size") == -1024
        disk.heal()
        grow_wal(connection, str(database), KEEP)
        assert wal_bytes(database) >= KEEP
        connection.close()


# What is refused.


def test_a_file_that_is_no_database_is_refused_untouched(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"dear diary, " * 1000)
    database.chmod(0o644)
    assert_refused_untouched(database, "not a SQLite database")


def test_a_short_file_of_zeros_is_refused_untouched(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(bytes(4096))
    assert_refused_untouched(database, "not a SQLite database")


def test_a_database_of_another_application_is_refused_untouched(database: Path) -> None:
    database.parent.mkdir()
    stranger = sqlite3.connect(database)
    stranger.execute("CREATE TABLE precious (thing TEXT)")
    stranger.commit()
    stranger.close()
    assert_refused_untouched(database, "another application")


def test_a_newer_schema_is_refused_untouched(database: Path) -> None:
    connection = writer_at(database)
    pragma(connection, f"user_version = {latest_version() + 1}")
    connection.close()
    assert_refused_untouched(database, "schema version")


def test_a_newer_schema_that_only_the_wal_knows_of_is_refused_untouched(
    database: Path, tmp_path: Path
) -> None:
    connection = writer_at(database)
    pragma(connection, f"user_version = {latest_version() + 1}")
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in database.parent.iterdir():
        if not file.name.endswith("-shm"):
            (crashed / file.name).write_bytes(file.read_bytes())
            (crashed / file.name).chmod(0o600)
    connection.close()
    assert (crashed / database.name).read_bytes()[60:64] != (latest_version() + 1).to_bytes(
        4, "big"
    )
    assert_refused_untouched(crashed / database.name, "schema version")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused_untouched(database: Path, mode: int) -> None:
    writer_at(database).close()
    database.chmod(mode)
    with pytest.raises(OpenRefused) as refused:
        writer_at(database)
    assert refused.value.hint == f"chmod 600 {database}"
    assert_refused_untouched(database, "others may write")


def test_an_empty_file_beside_a_full_wal_is_refused_and_the_wal_kept(database: Path) -> None:
    database.parent.mkdir()
    database.touch(mode=0o600)
    Path(f"{database}-wal").write_bytes(b"the only copy" * 100)
    with pytest.raises(OpenRefused, match="its WAL is not"):
        writer_at(database)
    assert Path(f"{database}-wal").read_bytes() == b"the only copy" * 100


def test_a_hard_link_apart_from_its_wal_is_refused(database: Path) -> None:
    connection = writer_at(database)
    connection.execute("CREATE TABLE rows (n INTEGER)").fetchall()
    link = database.with_name("link.db")
    link.hardlink_to(database)
    with pytest.raises(OpenRefused, match="hard link"):
        open_reader(link, cache_bytes=1 << 20)
    connection.close()
    again = writer_at(database)  # after a clean stop either name will do
    again.close()


def test_on_a_file_system_that_is_mounted_read_only_nothing_is_made_beside_it(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_at(database)
    migrate(writer, str(database))
    writer.pragma("wal_checkpoint(TRUNCATE)")
    writer.close()
    for beside in ("-wal", "-shm"):
        database.with_name(database.name + beside).unlink(missing_ok=True)
    here = os.statvfs(database.parent)
    mounted = os.statvfs_result((*here[:8], here.f_flag | os.ST_RDONLY, *here[9:]))
    monkeypatch.setattr(os, "statvfs", lambda _: mounted)
    before = sorted(database.parent.iterdir())
    reader = open_reader(database, cache_bytes=1 << 20)
    assert reader.pragma("user_version") == latest_version()
    assert sorted(database.parent.iterdir()) == before
    reader.close()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OpenRefused, match="no regular file"):
        writer_at(tmp_path)


@pytest.mark.parametrize(
    ("version", "refused"), [("3.51.2", True), ("3.51.3", False), ("4.0.0", False)]
)
def test_a_sqlite_with_the_wal_reset_bug_is_refused(
    database: Path, monkeypatch: pytest.MonkeyPatch, version: str, refused: bool
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    if refused:
        with pytest.raises(OpenRefused, match="older than"):
            writer_at(database)
        assert not database.exists()
    else:
        writer_at(database).close()
        assert database.exists()


def test_looking_at_a_file_drops_no_lock_of_this_process(database: Path) -> None:
    connection = writer_at(database)
    connection.execute("CREATE TABLE rows (n INTEGER)").fetchall()
    inode = database.stat().st_ino

    def posix_locks() -> int:
        lines = Path("/proc/locks").read_text().splitlines()
        return sum(f":{inode} " in line and "POSIX" in line for line in lines)

    before = posix_locks()
    reader = open_reader(database, cache_bytes=1 << 20)
    reader.close()
    assert before > 0
    assert posix_locks() == before
    connection.close()


def test_a_failing_disk_is_unavailable_and_not_refused(database: Path) -> None:
    writer_at(database).close()
    with FaultVFS("broken") as disk:
        disk.inject(Fault("read", "db", times=None))
        with pytest.raises(StorageUnavailable) as failure:
            writer_at(database, vfs="broken")
    assert failure.value.outcome == "none"
    assert isinstance(failure.value.__cause__, apsw.IOError)


def test_any_fault_while_a_database_is_made_leaves_one_that_opens(tmp_path: Path) -> None:
    """Each write and sync of an opening fails once; then the power of the disk is back."""
    failed = 0
    for action in ("write", "sync"):
        for nth in range(1, 100):
            path = tmp_path / f"{action}{nth}" / "journal.db"
            with FaultVFS("unlucky") as disk:
                fault = disk.inject(Fault(action, nth=nth, times=None))
                try:
                    abandon(writer_at(path, wal_keep_bytes=16 * 4096, vfs="unlucky"))
                except StorageUnavailable:
                    failed += 1
            if not fault.fired:
                break
            connection = writer_at(path)
            assert pragma(connection, "auto_vacuum") == 2
            assert pragma(connection, "quick_check") == "ok"
            connection.close()
    assert failed > 10
