"""A database file seen from outside, before SQLite gets it: is it ours, and who may touch it.

Nothing here opens the database with `open()`: closing any descriptor of the file would drop the
POSIX locks of every connection this process has on it.
"""

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import Final

import apsw

from palyra_actors.errors import OpenRefused
from palyra_actors.storage.migrations import latest_version

APPLICATION_ID: Final = 0x50414C41  # "PALA"
FILE_MODE: Final = 0o600

_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\x00"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_GROUP_OTHER: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Header:
    """What the first page says, which the WAL may know better."""

    user_version: int
    application_id: int


def inspect(file: str, vfs: str | None) -> Header | None:
    """What the file says about itself; None where a new database may be made.

    Raises:
        OpenRefused: it is no database, not ours, newer than this engine, or apart from its WAL.
    """
    try:
        found = os.stat(file)
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise OpenRefused(
            f"{file} is no regular file", hint="name the database itself", detail={"path": file}
        )
    if found is None or found.st_size == 0:
        if size_bytes(file + "-wal") > 0:
            raise OpenRefused(
                f"{file} is missing or empty, but its WAL is not",
                hint="put the database back where its WAL is, or move the WAL away",
                detail={"path": file},
            )
        return None
    _refuse_strayed_wal(file, found)
    raw = _read_header(file, vfs)
    if raw.strip(b"\x00") == b"" and size_bytes(file + "-journal") > 0:
        return None  # its creation was cut short; SQLite rolls that back from the journal
    if len(raw) < _HEADER_BYTES or not raw.startswith(_MAGIC):
        raise OpenRefused(
            f"{file} is not a SQLite database",
            hint=f"name another file, or {restoring(file)}",
            detail={"path": file},
        )
    header = Header(int.from_bytes(raw[60:64], "big"), int.from_bytes(raw[68:72], "big"))
    if header.application_id != APPLICATION_ID:
        raise OpenRefused(
            f"{file} belongs to another application",
            hint="it is left alone: name another file",
            detail={"path": file, "application_id": header.application_id},
        )
    refuse_newer(file, header.user_version)
    return header


def restoring(file: str) -> str:
    """What puts a backup in the place of a file that cannot be used; it wants that place free."""
    return (
        f"restore a backup: move {file} and its -wal away, "
        f"then palyra-actors restore BACKUP --db {file}"
    )


def _read_header(file: str, vfs: str | None) -> bytes:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB
    handle = apsw.VFSFile(vfs or "", file, [flags, 0])
    try:
        return handle.xRead(min(_HEADER_BYTES, handle.xFileSize()), 0)
    finally:
        handle.xClose()


def refuse_newer(file: str, version: int) -> None:
    """Raise `OpenRefused` for a schema version that a later engine wrote."""
    if version > latest_version():
        raise OpenRefused(
            f"{file} has schema version {version}, this engine knows up to {latest_version()}",
            hint="use the engine that wrote it, or a newer one",
            detail={"path": file, "found": version, "supported": latest_version()},
        )


def _refuse_strayed_wal(file: str, found: os.stat_result) -> None:
    """Refuse a hard link whose WAL lies under the other name: its tail would be lost.

    Only other names in the same folder can be found.
    """
    if found.st_nlink == 1 or size_bytes(file + "-wal") > 0:
        return
    with os.scandir(os.path.dirname(file)) as folder:
        entries = list(folder)
    for entry in entries:
        if entry.inode() == found.st_ino and size_bytes(entry.path + "-wal") > 0:
            raise OpenRefused(
                f"{file} is a hard link of {entry.path}, which has the WAL",
                hint="open it by that name",
                detail={"path": file, "other": entry.path},
            )


def secure(file: str, *, create: bool = False) -> None:
    """Files that only the owner can read: 0600 for the database, its WAL and its index.

    A file that others may write is refused, because nothing says what they have done to it. One
    that they may only read is tightened. SQLite gives the WAL and its index the database's mode.

    Raises:
        OpenRefused: others may write one of them, or it is not ours to tighten; the hint says how.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
    for name in (file, file + "-wal", file + "-shm"):
        try:
            mode = os.stat(name).st_mode
        except FileNotFoundError:
            continue
        hint = f"chmod 600 {name}"
        if mode & _OTHERS_WRITE:
            raise OpenRefused(f"others may write {name}", hint=hint, detail={"path": name})
        if mode & _GROUP_OTHER:
            try:
                os.chmod(name, FILE_MODE)
            except PermissionError as cause:
                raise OpenRefused(
                    f"others may read {name}, and it is not ours to change",
                    hint=hint,
                    detail={"path": name},
                ) from cause


def size_bytes(file: str) -> int:
    """The file's size, 0 if there is none."""
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return 0
