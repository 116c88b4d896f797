"""A database file with changes laid over it: pages that differ go into a file beside.

    agents.backup           the backup as it was, untouched
    agents.backup-changes   a page a record, and a last record once all of them are synced

Pages that are put as they were cost nothing, so a copy over an older copy leaves the pages that
differ. SQLite can read what will be. `finish` completes the changes, `redo` moves them into the
file: as often as it takes, with the same result, so that a power cut leaves the old file or the way
to the new one.
"""

import contextlib
import os
import struct
import time
from typing import Any, Final

import apsw

from palyra_actors.storage.audit import Rest, no_rest
from palyra_actors.storage.connection import PAGE_BYTES
from palyra_actors.storage.files import FILE_MODE
from palyra_actors.storage.livepages import write_whole
from palyra_actors.storage.lock import sync_folder

_RECORD: Final = struct.Struct(">I")
_LAST: Final = struct.Struct(">I12sI")  # page 0, the mark, pages of the whole file
_MARK: Final = b"palyra-whole"
_RECORD_BYTES: Final = _RECORD.size + PAGE_BYTES
PIECE_PAGES: Final = 128
_MODE_AT: Final = 18  # of the header: how the file is written and read; 1: with a journal, 2: WAL


def changes_of(file: str) -> str:
    """Where the changes to a file lie until they are moved."""
    return file + "-changes"


class Overlay(apsw.VFS):
    """A VFS in which `file`, and nothing else, can be opened, to be read. Close its connections,
    then `close`.

    `changed`: pages that are different so far.
    """

    def __init__(self, file: str) -> None:
        self.name = f"palyra-overlay-{id(self):x}"
        self.file = file
        self._base = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._changes = os.open(changes_of(file), flags, FILE_MODE)
        self._places: dict[int, int] = {}
        self._bytes = os.fstat(self._base).st_size
        super().__init__(self.name, "")

    @property
    def changed(self) -> int:
        return len(self._places)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        if not flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            raise apsw.CantOpenError("nothing but the database is opened here")
        flags[1] = flags[0]
        return _OverlayFile(self)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return pathname == self.file

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def read(self, number: int) -> bytes:
        """A page, from 0; shorter or empty beyond the end."""
        place = self._places.get(number)
        if place is not None:
            return os.pread(self._changes, PAGE_BYTES, place * _RECORD_BYTES + _RECORD.size)
        return os.pread(self._base, PAGE_BYTES, number * PAGE_BYTES)

    def put(self, first: int, data: bytes) -> int:
        """Whole pages from that number on; how many of them differ from those that are there."""
        numbers = range(first, first + len(data) // PAGE_BYTES)
        if os.pread(self._base, len(data), first * PAGE_BYTES) == data and not any(
            number in self._places for number in numbers
        ):
            return 0
        differed = 0
        for number in numbers:
            at = (number - first) * PAGE_BYTES
            if (page := data[at : at + PAGE_BYTES]) == self.read(number):
                continue
            place = self._places.setdefault(number, len(self._places))
            record = _RECORD.pack(number + 1) + page
            write_whole(self._changes, record, place * _RECORD_BYTES)
            differed += 1
        self._bytes = max(self._bytes, numbers.stop * PAGE_BYTES)
        return differed

    def size(self, new_bytes: int | None = None) -> int:
        """How long the file is, or has to be from now on."""
        if new_bytes is not None:
            self._bytes = new_bytes
        return self._bytes

    def sync(self) -> None:
        """The changes so far, so that there is little to sync in the end."""
        os.fdatasync(self._changes)

    def finish(self) -> None:
        """All changes are made: they will be moved, whatever happens from now on."""
        os.fsync(self._changes)
        last = _LAST.pack(0, _MARK, self._bytes // PAGE_BYTES)
        write_whole(self._changes, last, len(self._places) * _RECORD_BYTES)
        os.fsync(self._changes)
        sync_folder(os.path.dirname(self.file))

    def close(self) -> None:
        """Changes that are not finished are forgotten by the next `redo`."""
        self.unregister()
        os.close(self._base)
        os.close(self._changes)


class _OverlayFile:
    """What SQLite has in its hands."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._level = apsw.SQLITE_LOCK_NONE

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        number, start = divmod(offset, PAGE_BYTES)
        data = self._overlay.read(number)
        if number == 0 and len(data) > _MODE_AT + 2:
            data = data[:_MODE_AT] + b"\x01\x01" + data[_MODE_AT + 2 :]  # there is no WAL here
        return data[start : start + amount]

    def xFileSize(self) -> int:  # noqa: N802
        return self._overlay.size()

    def xLock(self, level: int) -> None:  # noqa: N802
        self._level = level

    def xUnlock(self, level: int) -> None:  # noqa: N802
        self._level = level

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return self._level >= apsw.SQLITE_LOCK_RESERVED

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return PAGE_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0

    def xClose(self) -> None:  # noqa: N802
        """The descriptors are the overlay's."""


def redo(file: str, rest: Rest = no_rest) -> int:
    """Move finished changes into the file, and forget unfinished ones; how many pages there were.
    Whoever wants to `rest` has them synced piece by piece.

    Raises:
        OSError: the disk failed; call it again.
    """
    try:
        source = os.open(changes_of(file), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        count, over = divmod(os.fstat(source).st_size, _RECORD_BYTES)
        last = os.pread(source, _LAST.size, count * _RECORD_BYTES)
        whole = over == _LAST.size and _LAST.unpack(last)[1] == _MARK
        if whole:
            _move(source, count, file, _LAST.unpack(last)[2], rest)
    finally:
        os.close(source)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(changes_of(file))
    return count if whole else 0


def _move(source: int, count: int, file: str, pages: int, rest: Rest) -> None:
    target = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    began = time.monotonic()
    try:
        for place in range(count):
            if place % PIECE_PAGES == PIECE_PAGES - 1 and rest is not no_rest:
                os.fdatasync(target)
                rest(time.monotonic() - began)
                began = time.monotonic()
            record = os.pread(source, _RECORD_BYTES, place * _RECORD_BYTES)
            number = _RECORD.unpack_from(record)[0] - 1
            write_whole(target, record[_RECORD.size :], number * PAGE_BYTES)
        os.ftruncate(target, pages * PAGE_BYTES)
        os.fsync(target)
    finally:
        os.close(target)
