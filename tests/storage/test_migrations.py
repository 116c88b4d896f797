"""The schema's history, applied once and whole."""

import contextlib
import stat
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import apsw
import pytest

from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage.connection import open_writer, pragma
from palyra_actors.storage.migrations import (
    Migration,
    latest_version,
    migrate,
    migrations,
    schema_faults,
    schema_text,
    schema_version,
)
from palyra_actors.storage.queries import sql
from palyra_actors.testing.faults import Action, Fault, FaultVFS, abandon
from tests.figures import Tell

FIRST = Migration(1, "things", "CREATE TABLE things (n INTEGER PRIMARY KEY, name TEXT) STRICT;")
SECOND = Migration(
    2,
    "colours",
    """
    CREATE TABLE colours (thing INTEGER PRIMARY KEY, colour TEXT) STRICT;
    INSERT INTO colours SELECT n, 'grey' FROM things;
    ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 1;
    CREATE INDEX things_by_size ON things (size);
    """,
)


def opened(path: Path, vfs: str | None = None) -> apsw.Connection:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return open_writer(path, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=0, vfs=vfs)


@pytest.fixture
def connection(database: Path) -> Iterator[apsw.Connection]:
    connection = opened(database)
    yield connection
    connection.close()


def at_version_one(path: Path, rows: int = 3) -> None:
    connection = opened(path)
    migrate(connection, path, [FIRST])
    names = [(f"thing {n}",) for n in range(rows)]
    connection.executemany("INSERT INTO things (name) VALUES (?)", names).fetchall()
    connection.close()


def test_the_schema_file_is_all_migrations_applied(
    connection: apsw.Connection, database: Path
) -> None:
    migrate(connection, database)
    file = resources.files("palyra_actors.storage").joinpath("sql/schema.sql")
    assert schema_text(connection) == file.read_text(encoding="utf-8")


def test_the_schema_file_makes_the_same_schema_by_itself(connection: apsw.Connection) -> None:
    file = resources.files("palyra_actors.storage").joinpath("sql/schema.sql")
    text = file.read_text(encoding="utf-8")
    connection.execute(text).fetchall()
    assert schema_text(connection) == text
    assert schema_version(connection) == latest_version()


def test_a_new_database_gets_every_migration_and_no_copy(
    connection: apsw.Connection, database: Path
) -> None:
    done = migrate(connection, database)
    assert (done.from_version, done.to_version, done.backup) == (0, len(migrations()), None)
    assert schema_version(connection) == len(migrations()) >= 1


def test_a_database_that_is_up_to_date_is_left_alone(database: Path) -> None:
    at_version_one(database)
    connection = opened(database)
    before = sorted(file.name for file in database.parent.iterdir())
    done = migrate(connection, database, [FIRST])
    assert (done.from_version, done.to_version, done.backup) == (1, 1, None)
    assert sorted(file.name for file in database.parent.iterdir()) == before
    connection.close()


def test_a_migration_keeps_the_data_and_leaves_a_copy_of_what_was(database: Path) -> None:
    at_version_one(database)
    connection = opened(database)
    done = migrate(connection, database, [FIRST, SECOND])
    assert connection.execute("SELECT thing, colour FROM colours").fetchall() == [
        (1, "grey"),
        (2, "grey"),
        (3, "grey"),
    ]
    connection.close()
    assert done.backup == f"{database}.v0001.backup"
    copy = Path(done.backup)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    old = opened(copy)
    assert schema_version(old) == 1
    assert old.execute("SELECT count(*) FROM things").fetchall() == [(3,)]
    assert pragma(old, "integrity_check") == "ok"
    old.close()


def test_the_copy_holds_what_only_the_wal_held(database: Path) -> None:
    at_version_one(database)
    connection = opened(database)
    connection.execute("INSERT INTO things (name) VALUES ('late')").fetchall()
    backup = migrate(connection, database, [FIRST, SECOND]).backup
    connection.close()
    assert backup is not None
    old = opened(Path(backup))
    assert old.execute("SELECT name FROM things WHERE n = 4").fetchall() == [("late",)]
    old.close()


def test_a_newer_version_is_refused(connection: apsw.Connection, database: Path) -> None:
    pragma(connection, "user_version = 3")
    with pytest.raises(OpenRefused, match="newer than 2"):
        migrate(connection, database, [FIRST, SECOND])
    assert schema_version(connection) == 3


def test_a_wrong_statement_undoes_its_whole_migration(database: Path) -> None:
    at_version_one(database)
    connection = opened(database)
    before = schema_text(connection)
    wrong = Migration(2, "wrong", "CREATE TABLE half (n INTEGER); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(OpenRefused, match="stays at version 1") as refused:
        migrate(connection, database, [FIRST, wrong])
    assert refused.value.detail["version"] == 1
    assert not connection.in_transaction
    assert schema_text(connection) == before
    connection.close()


def test_a_migration_that_commits_by_itself_is_refused_and_not_counted(
    connection: apsw.Connection, database: Path
) -> None:
    with pytest.raises(OpenRefused, match="ends its own transaction"):
        migrate(connection, database, [Migration(1, "sly", "CREATE TABLE t (n INTEGER); COMMIT;")])
    assert schema_version(connection) == 0


def test_steps_already_done_stay_when_a_later_one_fails(
    connection: apsw.Connection, database: Path
) -> None:
    with pytest.raises(OpenRefused) as refused:
        migrate(connection, database, [FIRST, SECOND, Migration(3, "wrong", "SELEC 1;")])
    assert refused.value.detail["version"] == schema_version(connection) == 2


@pytest.mark.parametrize("action", ["write", "sync"])
def test_a_crash_anywhere_in_a_migration_leaves_the_old_version_or_the_new_one(
    tmp_path: Path, action: Action, figure: Tell
) -> None:
    """The disk dies for good at the n-th operation, for each n; the file is then opened anew."""
    versions: list[int] = []
    for nth in range(1, 200):
        path = tmp_path / str(nth) / "journal.db"
        at_version_one(path)
        with FaultVFS("dying") as disk:
            connection = opened(path, "dying")
            fault = disk.inject(Fault(action, nth=nth, times=None))
            with contextlib.suppress(StorageUnavailable):
                migrate(connection, path, [FIRST, SECOND])
            abandon(connection)
        after = apsw.Connection(str(path))  # not `opened`: to it version 2 is of the future
        version = schema_version(after)
        versions.append(version)
        tables = {row[0] for row in after.execute("SELECT name FROM sqlite_schema").fetchall()}
        assert ("colours" in tables) == ("things_by_size" in tables) == (version == 2)
        assert after.execute("SELECT count(*) FROM things").fetchall() == [(3,)]
        assert pragma(after, "integrity_check") == "ok"
        after.close()
        if not fault.fired:
            break
    figure(30, "migrations cut short", len(versions) - 1)
    figure(30, "half migrated files", sum(one not in (1, 2) for one in versions), most=0)
    assert versions[-1] == 2
    assert versions.count(1) > 3


def test_a_copy_that_was_cut_short_is_made_again(database: Path) -> None:
    at_version_one(database, rows=500)
    with FaultVFS("cut") as disk:
        connection = opened(database, "cut")
        disk.inject(Fault("write", "db", nth=3, times=None))
        with pytest.raises(StorageUnavailable):
            migrate(connection, database, [FIRST, SECOND])
        abandon(connection)
    assert not Path(f"{database}.v0001.backup").exists()
    again = opened(database)
    backup = migrate(again, database, [FIRST, SECOND]).backup
    again.close()
    assert backup is not None
    assert not Path(f"{backup}.partial").exists()
    old = opened(Path(backup))
    assert old.execute("SELECT count(*) FROM things").fetchall() == [(500,)]
    old.close()


def test_a_run_and_an_approval_are_put_in_nobodys_place(connection: apsw.Connection) -> None:
    """As a REPLACE would, which deletes a row and asks no trigger of an UPDATE."""
    migrate(connection, "")
    run = (b"r" * 16, 1, 2, 1, 3, 0, 0, 1, None, None, 0, 0, 0, 9)
    connection.execute(sql("run.insert"), run)
    connection.execute(
        sql("approval.insert"), (b"a" * 16, 1, 1, None, "t", "i", "s", None, None, 0, None)
    )
    for statement in (
        "INSERT OR REPLACE INTO runs (run_id, stream, state, first)"
        " SELECT run_id, 1, 1, 1 FROM runs",
        "INSERT OR REPLACE INTO approvals (approval_id, stream, seq, subject_type, subject_id,"
        " summary, requested_ms) SELECT approval_id, 1, 1, 't', 'i', 's', 0 FROM approvals",
    ):
        with pytest.raises(apsw.ConstraintError, match="is there already"):
            connection.execute(statement)
    assert connection.execute("SELECT state FROM runs").fetchall() == [(2,)]


def test_what_sqlite_counts_for_itself_is_no_fault_of_a_schema() -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection, "")
    connection.execute("ANALYZE").fetchall()
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
    assert "sqlite_stat1" in names
    assert schema_faults(connection) == []
