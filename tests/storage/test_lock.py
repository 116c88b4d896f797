"""One engine a file."""

import os
import subprocess
import sys
import time
from pathlib import Path

import apsw
import pytest

from palyra_actors.errors import InternalFault, OpenRefused
from palyra_actors.storage.connection import open_writer
from palyra_actors.storage.lock import DatabaseLock
from tests.figures import Tell

_ACQUIRE = """
import sys
from palyra_actors.errors import OpenRefused
from palyra_actors.storage.lock import DatabaseLock
try:
    DatabaseLock.acquire(sys.argv[1]).release()
except OpenRefused as refused:
    print("refused", refused.detail["holder_pid"])
else:
    print("acquired")
"""


def acquire_elsewhere(path: Path) -> str:
    """What another process gets."""
    run = subprocess.run(
        [sys.executable, "-c", _ACQUIRE, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return run.stdout.strip()


def opened(path: Path) -> apsw.Connection:
    return open_writer(path, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=0)


def names_of(path: Path) -> list[Path]:
    """The file by its name, a symlink and a hard link."""
    symlink, hard_link = path.with_name("symlink.db"), path.with_name("hard.db")
    symlink.symlink_to(path)
    hard_link.hardlink_to(path)
    return [path, symlink, hard_link]


def test_a_second_engine_in_another_process_is_refused_by_any_name_and_told_who_has_it(
    database: Path, figure: Tell
) -> None:
    with DatabaseLock.acquire(database):
        connection = opened(database)
        answers = [acquire_elsewhere(name) for name in names_of(database)]
        connection.close()
    figure(16, "second engines let in", sum("refused" not in one for one in answers), most=0)
    assert answers == [f"refused {os.getpid()}"] * 3


def test_a_second_engine_in_this_process_is_refused_by_any_name(
    database: Path, figure: Tell
) -> None:
    with DatabaseLock.acquire(database):
        for name in names_of(database):
            began = time.monotonic()
            with pytest.raises(OpenRefused, match="in use by this process"):
                DatabaseLock.acquire(name)
            figure(16, "a second engine refused after", time.monotonic() - began, "s", most=1)


def test_being_refused_costs_the_holder_none_of_its_locks(database: Path) -> None:
    with DatabaseLock.acquire(database):
        connection = opened(database)
        inode = database.stat().st_ino
        before = [x for x in Path("/proc/locks").read_text().split("\n") if f":{inode} " in x]
        with pytest.raises(OpenRefused):
            DatabaseLock.acquire(database)
        after = [x for x in Path("/proc/locks").read_text().split("\n") if f":{inode} " in x]
        connection.close()
    assert any("POSIX" in line for line in before)
    assert len(after) == len(before)


def test_a_sync_of_the_file_costs_sqlite_none_of_its_locks(database: Path) -> None:
    lock = DatabaseLock.acquire(database)
    connection = opened(database)
    inode = database.stat().st_ino
    before = [x for x in Path("/proc/locks").read_text().split("\n") if f":{inode} " in x]
    lock.sync()
    after = [x for x in Path("/proc/locks").read_text().split("\n") if f":{inode} " in x]
    connection.close()
    lock.release()
    lock.sync()  # nothing is locked: nothing is done
    assert any("POSIX" in line for line in before)
    assert after == before


def test_the_file_is_free_again_after_the_release(database: Path) -> None:
    lock = DatabaseLock.acquire(database)
    lock.release()
    lock.release()
    assert acquire_elsewhere(database) == "acquired"
    DatabaseLock.acquire(database).release()


def test_the_lock_dies_with_its_process(database: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from palyra_actors.storage.lock import DatabaseLock;"
            "lock = DatabaseLock.acquire(sys.argv[1]); print('held', flush=True); sys.stdin.read()",
            str(database),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OpenRefused) as refused:
            DatabaseLock.acquire(database)
        assert refused.value.detail["holder_pid"] == holder.pid
        holder.kill()
        holder.wait(60)
    DatabaseLock.acquire(database).release()


def test_the_lock_is_not_released_while_sqlite_has_the_file(database: Path) -> None:
    lock = DatabaseLock.acquire(database)
    connection = opened(database)
    with pytest.raises(InternalFault, match="still open"):
        lock.release()
    assert acquire_elsewhere(database).startswith("refused")
    connection.close()
    lock.release()
    assert acquire_elsewhere(database) == "acquired"


def test_a_file_that_sqlite_has_open_already_is_not_locked_any_more(database: Path) -> None:
    database.parent.mkdir()
    connection = opened(database)
    with pytest.raises(OpenRefused, match="in use by this process"):
        DatabaseLock.acquire(database)
    connection.close()
    DatabaseLock.acquire(database).release()


def test_a_lock_says_whether_the_path_still_names_its_file(database: Path) -> None:
    lock = DatabaseLock.acquire(database)
    assert lock.still_ours()
    aside = database.with_name("aside.db")
    database.rename(aside)
    assert not lock.still_ours()
    database.touch()
    assert not lock.still_ours(), "another file under the same name"
    aside.replace(database)
    assert lock.still_ours()
    database.unlink()
    assert not lock.still_ours()
    lock.release()
    assert not lock.still_ours()


def test_a_symlink_turned_elsewhere_is_noticed(database: Path) -> None:
    database.parent.mkdir()
    symlink = database.with_name("symlink.db")
    symlink.symlink_to(database)
    with DatabaseLock.acquire(symlink) as lock:
        assert lock.still_ours()
        symlink.unlink()
        database.with_name("other.db").touch()
        symlink.symlink_to(database.with_name("other.db"))
        assert not lock.still_ours()


def test_folders_and_file_are_made_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "journal.db"
    before = os.umask(0)
    try:
        DatabaseLock.acquire(path).release()
    finally:
        os.umask(before)
    modes = [item.stat().st_mode & 0o777 for item in (path.parent.parent, path.parent, path)]
    assert modes == [0o700, 0o700, 0o600]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OpenRefused, match="no regular file"):
            DatabaseLock.acquire(name)
