"""SQLite connections, each opened one way: what is checked first, then one pragma a function.

    open_writer        the one connection that writes; makes the file if there is none
    open_reader        any number of these; cannot write
    open_visitor       one that looks at a file which may be nobody's, and leaves nothing beside it
    open_checkpointer  the one beside the writer that moves pages out of the WAL (see `upkeep`)

A file is looked at before SQLite may touch it. Not ours, newer than this engine, writable by
others: `OpenRefused`, and not a byte of it has changed. Every pragma is read back, because SQLite
ignores one it does not understand, and because apsw runs statements lazily.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

import apsw

from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage.files import (
    APPLICATION_ID,
    inspect,
    refuse_newer,
    restoring,
    secure,
    size_bytes,
)

Synchronous: TypeAlias = Literal["off", "normal", "full", "extra"]

PAGE_BYTES: Final = 4096
FRAME_HEADER_BYTES: Final = (
    24  # of each page in the WAL, https://sqlite.org/fileformat2.html#walformat
)
SQLITE_VERSION_MIN: Final = (3, 51, 3)  # older ones may corrupt a file when the WAL is reset
WRITER_BUSY_MS_MAX: Final = 10  # less than half of the default write budget
READER_BUSY_MS_MAX: Final = 250

_BESIDE: Final = ("-wal", "-shm", "-journal")
_GROWTH_CACHE_PAGES: Final = 16
_SYNCHRONOUS: Final[dict[Synchronous, int]] = {"off": 0, "normal": 1, "full": 2, "extra": 3}


def open_writer(
    path: str | os.PathLike[str],
    *,
    synchronous: Synchronous,
    cache_bytes: int,
    wal_keep_bytes: int,
    vfs: str | None = None,
) -> apsw.Connection:
    """The connection that writes, on an existing file of ours or on a new one.

    Take the `DatabaseLock` first. The schema is not looked after here: call `migrations.migrate`.

    Args:
        path: the database; symlinks are followed. A missing or empty file becomes a new database.
        synchronous: what a COMMIT waits for. `full` survives a power cut, `normal` and `off` lose
            acknowledged events in one.
        cache_bytes: page cache of this connection.
        wal_keep_bytes: the WAL is grown to this size now and shrunk back to it when it was larger;
            0 leaves it alone.
        vfs: an apsw VFS by name; None is the system's.

    Raises:
        OpenRefused: the file may not be used as it is; nothing in it has changed.
        StorageUnavailable: the disk failed or is full, or the file is locked; it may pass.
    """
    _require_sqlite(apsw.sqlite_lib_version())
    file = os.path.realpath(path)
    with _sorted_errors(file):
        secure(file, create=inspect(file, vfs) is None)
        connection = apsw.Connection(file, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        with _closed_on_failure(connection):
            _protect(connection, file)
            _set_busy(connection, WRITER_BUSY_MS_MAX)
            _make_ours(connection)
            _set_wal(connection)
            _set_synchronous(connection, synchronous)
            _set_cache(connection, cache_bytes)
            _set_secure_delete(connection)
            _set_autocheckpoint_off(connection)
            _set_journal_size_limit(connection, wal_keep_bytes)
            _check(connection, "auto_vacuum", 2)
            _check(connection, "application_id", APPLICATION_ID)
            grow_wal(connection, file, wal_keep_bytes)
            secure(file)
    return connection


def open_reader(
    path: str | os.PathLike[str], *, cache_bytes: int, vfs: str | None = None
) -> apsw.Connection:
    """A connection that cannot write, on an existing file of ours.

    Raises:
        OpenRefused: there is no such file, or it may not be used as it is.
        StorageUnavailable: the disk failed, or the file is locked; it may pass.
    """
    if vfs is None and cannot_change(path):
        return open_untouched(path)
    return _open_existing(
        path,
        flags=apsw.SQLITE_OPEN_READONLY,
        busy_ms=READER_BUSY_MS_MAX,
        cache=cache_bytes,
        vfs=vfs,
    )


def open_visitor(
    path: str | os.PathLike[str], *, cache_bytes: int, vfs: str | None = None
) -> apsw.Connection:
    """A reader for whoever may be the only one there.

    SQLite makes the WAL and its index for a reader, too, and takes them away again with the last
    connection that may write. So where neither is there this one may, but for its statements; where
    one is, or a rollback journal, somebody has left it or is at work, and all of it stays.

    Raises: as `open_reader`.
    """
    file = os.path.realpath(path)
    if cannot_change(file) or any(os.path.lexists(file + one) for one in _BESIDE):
        return open_reader(file, cache_bytes=cache_bytes, vfs=vfs)
    return _open_existing(
        file,
        flags=apsw.SQLITE_OPEN_READWRITE,
        busy_ms=READER_BUSY_MS_MAX,
        cache=cache_bytes,
        vfs=vfs,
        visits=True,
    )


def cannot_change(path: str | os.PathLike[str]) -> bool:
    """A database without a WAL on a file system that is mounted read-only: SQLite wants to make
    files beside it, and need not."""
    file = os.path.realpath(path)
    try:
        mounted = os.statvfs(os.path.dirname(file))
    except OSError:
        return False
    return bool(mounted.f_flag & os.ST_RDONLY) and size_bytes(file + "-wal") == 0


def open_untouched(
    path: str | os.PathLike[str], *, vfs: str | None = None, alone: bool = False
) -> apsw.Connection:
    """A connection that leaves no trace: no file is made, moved into another, or removed.

    Where there is no WAL the file is opened as one that nobody changes; else the WAL is read and
    stays as it is; `alone`: is passed over. For the owner of the lock, before anybody else is let
    in.

    Raises: as `open_reader`.
    """
    _require_sqlite(apsw.sqlite_lib_version())
    file = os.path.realpath(path)
    with _sorted_errors(file):
        if inspect(file, vfs) is None:
            raise OpenRefused(f"{file} does not exist or is empty", detail={"path": file})
        flags, name = apsw.SQLITE_OPEN_READONLY, file
        if alone or size_bytes(file + "-wal") == 0:
            flags, name = flags | apsw.SQLITE_OPEN_URI, f"file:{quote(file)}?immutable=1"
        connection = apsw.Connection(name, flags=flags, vfs=vfs)
        with _closed_on_failure(connection):
            _protect(connection, file)
            _set_query_only(connection)
    return connection


def open_checkpointer(
    path: str | os.PathLike[str], *, synchronous: Synchronous, vfs: str | None = None
) -> apsw.Connection:
    """A connection for `upkeep.Checkpointer`: it moves pages and writes nothing of its own.

    `synchronous` has to be the writer's: a checkpoint that does not sync the WAL before it writes
    the database would undo what the writer waited for. It never waits for a lock.

    Raises: as `open_reader`.
    """
    connection = _open_existing(
        path, flags=apsw.SQLITE_OPEN_READWRITE, busy_ms=0, cache=64 * PAGE_BYTES, vfs=vfs
    )
    with _sorted_errors(os.fspath(path)), _closed_on_failure(connection):
        _set_synchronous(connection, synchronous)
        _set_autocheckpoint_off(connection)
        _check(connection, "journal_mode", "wal")
    return connection


def _open_existing(
    path: str | os.PathLike[str],
    *,
    flags: int,
    busy_ms: int,
    cache: int,
    vfs: str | None,
    visits: bool = False,
) -> apsw.Connection:
    _require_sqlite(apsw.sqlite_lib_version())
    file = os.path.realpath(path)
    with _sorted_errors(file):
        if inspect(file, vfs) is None:
            raise OpenRefused(f"{file} does not exist or is empty", detail={"path": file})
        secure(file)
        connection = apsw.Connection(file, flags=flags, vfs=vfs)
        with _closed_on_failure(connection):
            _protect(connection, file, has_wal=not visits)
            _set_busy(connection, busy_ms)
            _set_cache(connection, cache)
            if visits or flags & apsw.SQLITE_OPEN_READONLY:
                _set_query_only(connection)
    return connection


def _require_sqlite(version: str) -> None:
    parts = tuple(int(part) for part in version.split("."))
    if parts < SQLITE_VERSION_MIN:
        wanted = ".".join(map(str, SQLITE_VERSION_MIN))
        raise OpenRefused(
            f"SQLite {version} is older than {wanted} and may corrupt a file in WAL mode",
            hint="install a newer apsw",
            detail={"version": version, "wanted": wanted},
        )


# What every connection gets.


def _protect(connection: apsw.Connection, file: str, *, has_wal: bool = True) -> None:
    """The schema of a file is input like any other: it may not run, load or break anything.

    A version that a newer engine wrote may still be in the WAL only, where the look at the file
    did not see it; until that is known, closing must not checkpoint. Nor does it remove a WAL then.
    """
    _configure(connection, apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(has_wal))
    _configure(connection, apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    _configure(connection, apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    _configure(connection, apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
    _configure(connection, apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    _configure(connection, apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    # a join is planned once, and not anew for each value that it is given: that takes 6 µs
    _configure(connection, apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    _set(connection, "cell_size_check", 1, 1)  # a damaged page is an error, not a wild read
    _set(connection, "mmap_size", 0, 0)  # a failing disk is an error, not a SIGBUS
    _set(connection, "temp_store", "memory", 2)  # no copies of payloads in /tmp
    _set(connection, "foreign_keys", 0, 0)  # none are declared; entity actors decide what may be
    version = pragma(connection, "user_version")
    refuse_newer(file, int(str(version)))
    _configure(connection, apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)


def _set_busy(connection: apsw.Connection, wait_ms_max: int) -> None:
    """How long a statement waits for a lock, in milliseconds; then it is `apsw.BusyError`.

    The engine's own threads never lock each other out. Whoever does is a stranger with a
    `sqlite3` shell, and a write that waits for one is late.
    """
    connection.set_busy_timeout(wait_ms_max)
    _check(connection, "busy_timeout", wait_ms_max)


def _set_cache(connection: apsw.Connection, cache_bytes: int) -> None:
    """Pages kept in memory; a negative number is KiB and not pages."""
    kib = -max(1, cache_bytes // 1024)
    _set(connection, "cache_size", kib, kib)


def _set_query_only(connection: apsw.Connection) -> None:
    """Refused as a statement already, before the read-only file would refuse it."""
    _set(connection, "query_only", 1, 1)


# What the writer gets.


def _make_ours(connection: apsw.Connection) -> None:
    """Give an empty file what only an empty one can be given, and mark it as ours.

    Up to the change to WAL there is a rollback journal, and under `full` its unlink is not synced:
    it could come undone in a power cut seconds later and roll the database back to nothing. So
    all of this goes under `extra`, whatever comes afterwards.
    """
    _set_synchronous(connection, "extra")
    if pragma(connection, "page_count") != 0:
        return  # asked only here, because a journal left by a crash has been rolled back now
    _set_page_size(connection)
    # One transaction, so that the file is ours from its first page on or empty.
    connection.execute("BEGIN").fetchall()
    _set_auto_vacuum(connection)
    _set_application_id(connection)
    connection.execute("COMMIT").fetchall()


def _set_page_size(connection: apsw.Connection) -> None:
    """4 KiB: the disk's and the kernel's own page. 8 KiB made no difference (bench_wal)."""
    _set(connection, "page_size", PAGE_BYTES, PAGE_BYTES)


def _set_auto_vacuum(connection: apsw.Connection) -> None:
    """Incremental: erased space can be returned in steps. Only a new file can be given it."""
    _set(connection, "auto_vacuum", "incremental", 2)


def _set_application_id(connection: apsw.Connection) -> None:
    """In the header at byte 68, where anybody can see whose file it is without opening it."""
    _set(connection, "application_id", APPLICATION_ID, APPLICATION_ID)


def _set_synchronous(connection: apsw.Connection, synchronous: Synchronous) -> None:
    """`full`: each COMMIT syncs the WAL. `normal` syncs it at checkpoints only."""
    _set(connection, "synchronous", _SYNCHRONOUS[synchronous], _SYNCHRONOUS[synchronous])


def _set_wal(connection: apsw.Connection) -> None:
    """A write is one append and one sync, and readers go on meanwhile."""
    _set(connection, "journal_mode", "wal", "wal")


def _set_secure_delete(connection: apsw.Connection) -> None:
    """Deleted content is overwritten with zeros, on free pages too: an erasure has to erase.

    Where nothing is deleted it costs nothing (bench_wal: 8.5 µs a row with it, 8.6 without).
    """
    _set(connection, "secure_delete", 1, 1)


def _set_autocheckpoint_off(connection: apsw.Connection) -> None:
    """A checkpoint inside a COMMIT would make some client's write late; `upkeep` does them."""
    _set(connection, "wal_autocheckpoint", 0, 0)


def _set_journal_size_limit(connection: apsw.Connection, wal_keep_bytes: int) -> None:
    """A WAL that had to grow beyond this is cut back to it at its next reset, not to nothing."""
    _set(connection, "journal_size_limit", wal_keep_bytes, wal_keep_bytes)


def grow_wal(connection: apsw.Connection, file: str, wal_keep_bytes: int) -> None:
    """Give the WAL its size before the first write: a sync then has no block to allocate.

    A transaction that is larger than the cache spills its pages into the WAL and is rolled back:
    nothing but SQLite writes the file, and the database itself does not grow. Then one small
    commit, so that whoever writes first does not pay for the sync of it all.

    Measured (bench/bench_wal.py), median COMMIT of one 2,000 byte row on ext4: 0.13 ms while the
    WAL grows, 0.075 ms after this, 0.083 ms in a reused WAL; on a busier hour of the same machine
    0.29, 0.15 and 0.14 ms. `posix_fallocate` gains nothing: a block that is given still has to be
    marked as written in each sync. 16 MiB take 40 ms.

    A full disk is no reason not to open: the WAL then stays as it is.
    """
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    # What a crash left in the WAL is moved first, unless a reader or another checkpoint is at it.
    with contextlib.suppress(apsw.FullError, apsw.BusyError):
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
    if wal_keep_bytes <= size_bytes(file + "-wal"):
        return
    with contextlib.suppress(apsw.FullError):
        try_room(connection, wal_keep_bytes)


def try_room(connection: apsw.Connection, room_bytes: int) -> None:
    """Write that many bytes into the WAL and roll them back, then commit a page that does not
    change. Raises what SQLite does; nothing is left open.
    """
    cache = pragma(connection, "cache_size")
    version = pragma(connection, "user_version")
    _set(connection, "cache_size", _GROWTH_CACHE_PAGES, _GROWTH_CACHE_PAGES)
    try:
        connection.execute("BEGIN IMMEDIATE").fetchall()
        connection.execute("CREATE TABLE wal_growth (pages BLOB)").fetchall()
        rest = room_bytes + 2 * _GROWTH_CACHE_PAGES * PAGE_BYTES  # some stay in the cache
        while rest > 0:
            part = min(rest, 64 * 1024 * 1024)
            connection.execute("INSERT INTO wal_growth VALUES (zeroblob(?))", (part,)).fetchall()
            rest -= part
        connection.execute("ROLLBACK").fetchall()
        pragma(connection, f"user_version = {version!r}")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK").fetchall()
        _set(connection, "cache_size", cache, cache)


# Words for the above.


def pragma(connection: apsw.Connection, text: str) -> str | int | float | bytes | None:
    """Run one pragma to its end; the first value of its first row, None where there is none."""
    rows = connection.execute(f"PRAGMA {text}").fetchall()
    return rows[0][0] if rows and rows[0] else None


def pragma_number(connection: apsw.Connection, name: str) -> int:
    """One that says a number."""
    return int(str(pragma(connection, name)))


def _set(connection: apsw.Connection, name: str, value: object, expected: object) -> None:
    pragma(connection, f"{name} = {value}")
    _check(connection, name, expected)


def _check(connection: apsw.Connection, name: str, expected: object) -> None:
    found = pragma(connection, name)
    if found is None and name == "mmap_size":
        found = 0  # a VFS without memory mapping does not answer
    if found != expected:
        raise OpenRefused(
            f"SQLite answers {found!r} for {name}, {expected!r} is needed",
            detail={"pragma": name, "found": found, "expected": expected},
        )


def _configure(connection: apsw.Connection, option: int, value: int) -> None:
    found = connection.config(option, value)
    if found != value:
        name = apsw.mapping_db_config[option]
        raise OpenRefused(
            f"SQLite answers {found!r} for {name}, {value!r} is needed",
            detail={"option": name, "found": found, "expected": value},
        )


def drop(connection: apsw.Connection) -> None:
    """Close it, whatever it still wanted to do; the cause that led here is not hidden by that."""
    with contextlib.suppress(apsw.Error):
        connection.close(True)


@contextlib.contextmanager
def _closed_on_failure(connection: apsw.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        drop(connection)
        raise


@contextlib.contextmanager
def _sorted_errors(file: str) -> Iterator[None]:
    """SQLite's and the system's errors by what the caller does next."""
    try:
        yield
    except (apsw.IOError, apsw.FullError, apsw.BusyError, apsw.NoMemError) as cause:
        raise StorageUnavailable(
            f"{file} cannot be opened now: {cause}", detail={"path": file, "outcome": "none"}
        ) from cause
    except (apsw.Error, OSError) as cause:
        damaged = isinstance(cause, apsw.CorruptError | apsw.NotADBError)
        raise OpenRefused(
            f"{file} cannot be opened: {cause}",
            hint=restoring(file) if damaged else "see who may read and write it and its folder",
            detail={"path": file},
        ) from cause
