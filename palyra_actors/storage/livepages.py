"""The pages of a database that is at work, read from its two files by many at once.

    agents.db      every page, as of one commit or a later one
    agents.db-wal  frames: a page and its number, in the order of the commits

Without a snapshot that is a mixture of states, good for most of a copy. While a connection holds
one, both together are one state, and pages that were read before can be held against it:
checkpoints move no page into the database that the snapshot does not see, all that they move lies
in the WAL, and the WAL starts anew only if all of it was moved before. So the database's pages,
and over them the frames up to any commit that the snapshot sees, or a later one, are that commit's.

SQLite's own backup hands over page by page, holds the snapshot until the last one, and begins anew
if it does not. This reads half a MiB a call, of which those that are there already cost a look.
"""

import os
import struct
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import apsw

from palyra_actors.storage.connection import FRAME_HEADER_BYTES, PAGE_BYTES
from palyra_actors.storage.files import FILE_MODE
from palyra_actors.storage.upkeep import WAL_HEADER_BYTES

STEP_PAGES: Final = 128
"""Half a MiB: half a millisecond of the copying thread's time. Beside an engine it is synced before
the next one: the sync of a whole copy takes the disk for a tenth of a second and more, in which
every commit waits."""

_FRAME: Final = struct.Struct(">II")  # the page's number from 1, and the database's pages
_FRAME_BYTES: Final = FRAME_HEADER_BYTES + PAGE_BYTES
_SALTS: Final = slice(16, 24)
"""Of the WAL's header: others each time that it starts anew, before a frame is written over."""


class Sink(Protocol):
    """Where pages go. Numbers are from 0."""

    def put(self, first: int, data: bytes) -> int:
        """Whole pages from that number on; how many of them were not there already."""
        ...

    def size(self, new_bytes: int) -> int:
        """How long the file has to be."""
        ...

    def sync(self) -> None:
        """What was put is on its disk."""
        ...


class Restarted(Exception):
    """The WAL started anew while it was read: that is no state, and has to be read again."""


class LivePages:
    """Reads past SQLite, but through its VFS, which keeps the locks that this process has on the
    file. Close it. Raises what SQLite and the system do."""

    def __init__(self, file: str, vfs: str | None) -> None:
        self._vfs, self._file = vfs or "", file
        self._database = apsw.VFSFile(
            self._vfs, file, [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB, 0]
        )

    def close(self) -> None:
        self._database.xClose()

    def move_database(self, sink: Sink) -> Iterator[int]:
        """All pages of the database, as they are now; after each piece how many were others."""
        at = 0
        while (left := self._database.xFileSize() - at) > 0:
            wanted = min(left, STEP_PAGES * PAGE_BYTES)
            data = self._database.xRead(wanted, at)
            # what SQLite reads beyond an end that has come nearer is cut off by apsw
            yield sink.put(at // PAGE_BYTES, data.ljust(wanted, b"\0"))
            at += wanted

    def move_wal(self, sink: Sink, count: Callable[[], int]) -> Iterator[int]:
        """The pages of the WAL's first frames, each once, over those of the database, and the size
        that the last one gives it. While a snapshot is held.

        Args:
            count: how many frames are committed now.

        Raises:
            Restarted: what was moved is no state of the database.
        """
        if not count():
            return
        wal = apsw.VFSFile(
            self._vfs, self._file + "-wal", [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_WAL, 0]
        )
        try:
            salts = wal.xRead(WAL_HEADER_BYTES, 0)[_SALTS]
            frames, size, moved = count(), 0, set[int]()
            for first in range((frames - 1) // STEP_PAGES * STEP_PAGES, -1, -STEP_PAGES):
                amount = min(STEP_PAGES, frames - first)
                at = WAL_HEADER_BYTES + first * _FRAME_BYTES
                data = wal.xRead(amount * _FRAME_BYTES, at).ljust(amount * _FRAME_BYTES, b"\0")
                differed = 0
                for begin in range((amount - 1) * _FRAME_BYTES, -1, -_FRAME_BYTES):
                    number, pages = _FRAME.unpack_from(data, begin)
                    if not moved:  # the last one ends a commit, and says how many there are
                        size = sink.size(pages * PAGE_BYTES) // PAGE_BYTES
                    if number not in moved and number <= size:
                        page = data[begin + FRAME_HEADER_BYTES : begin + _FRAME_BYTES]
                        differed += sink.put(number - 1, page)
                    moved.add(number)
                yield differed
            if wal.xRead(WAL_HEADER_BYTES, 0)[_SALTS] != salts:
                raise Restarted
        finally:
            wal.xClose()


class Anew:
    """A sink that is a new file. Close it.

    Raises:
        FileExistsError: it is there.
    """

    def __init__(self, file: str) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        self._descriptor = os.open(file, flags, FILE_MODE)

    def put(self, first: int, data: bytes) -> int:
        there = os.pread(self._descriptor, len(data), first * PAGE_BYTES)
        if there == data:
            return 0
        differed = 0
        for at in range(0, len(data), PAGE_BYTES):
            if there[at : at + PAGE_BYTES] != (page := data[at : at + PAGE_BYTES]):
                write_whole(self._descriptor, page, first * PAGE_BYTES + at)
                differed += 1
        return differed

    def size(self, new_bytes: int) -> int:
        os.ftruncate(self._descriptor, new_bytes)
        return new_bytes

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def finish(self) -> None:
        """All of it, and its length."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def write_whole(descriptor: int, data: bytes, offset: int) -> None:
    """All of it: the system writes a part where the disk has no room for the rest, and says so only
    to whoever asks again. Raises OSError."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
