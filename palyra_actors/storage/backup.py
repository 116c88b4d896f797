"""Copies of a database that is at work, and the way back.

    live ──passes without a snapshot──▶ almost ──one with it──▶ copy ──pages, chain, head──▶ proven
              (writers go on)                                                                   │
                                          the copy before stays ◀──else── in its place ◀────────┘

A copy is a database like any other, with an anchor of its own. One that is made over an older copy
of the same journal writes the pages that differ (`storage.overlay`), and its chain is checked from
where the older one had been: the pages before are equal to the live ones, which were compared.

Whoever has others to think of says where to `rest`; then what is written is synced little by
little, too. While a snapshot is held, the WAL cannot start anew. So most is copied without one
(`storage.livepages`), as it happens to be, and again what has changed meanwhile; what is left for
the snapshot is to compare all pages and write a few. That makes haste where the WAL grows, and near
its cap it lets go and begins again from what it has: writers must not wait for it. An older
snapshot than its own, of somebody else, is no reason to: it would hold the WAL all the same.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import apsw

from palyra_actors.domain.chain import GENESIS
from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage import anchor, overlay
from palyra_actors.storage.audit import Audit, Rest, audit, no_rest
from palyra_actors.storage.connection import (
    PAGE_BYTES,
    open_untouched,
    open_visitor,
    pragma_number,
)
from palyra_actors.storage.files import FILE_MODE, inspect, size_bytes
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.livepages import STEP_PAGES, Anew, LivePages, Restarted, Sink
from palyra_actors.storage.lock import sync_folder
from palyra_actors.storage.migrations import copy_into, schema_faults
from palyra_actors.storage.opening import keep_anchor, refuse_damage
from palyra_actors.storage.port import Head
from palyra_actors.storage.upkeep import WalState, frame_bytes, wal_state, wal_used_bytes

WAL_BYTES_MAX: Final = 192 * 1024 * 1024
"""Three quarters of the cap at which the engine would refuse writes."""

REST_UNTIL: Final = 0.25
SYNC_UNTIL: Final = 0.5
"""Of that, up to where whoever holds a snapshot rests, and up to where he syncs piece by piece."""

TRIES: Final = 3
"""So often a snapshot is taken; each one finds less that is not there yet."""

PASSES_MAX: Final = 3
FEW_PAGES: Final = 4096
"""Without a snapshot all pages are gone through so often before each, or until one pass finds no
more than 16 MiB that have changed: they are left for it."""

STATE_TRIES: Final = 100

_CACHE_BYTES: Final = 8 * 1024 * 1024


class Haste(NamedTuple):
    """Whether there is no time left for rests, and for syncs on the way."""

    no_rest: bool
    no_sync: bool


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A copy that was made and proven. Pages of 4 KiB: of the file, and those that were written.
    `held_seconds`: for how long it kept the WAL from starting anew."""

    path: str
    head: Head
    pages: int
    pages_written: int
    checked: int
    seconds: float
    held_seconds: float


@dataclass(frozen=True, slots=True)
class Restored:
    """A database that was put in place. `lost`: events that its anchor had seen and it lacks."""

    path: str
    head: Head
    checked: int
    lost: int
    seconds: float


def back_up(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    vfs: str | None = None,
    rest: Rest = no_rest,
    wal_bytes_max: int = WAL_BYTES_MAX,
) -> BackedUp:
    """Copy a database, an engine at work on it or not; it holds all that was acknowledged before.

    Args:
        target: the copy; an older copy of the same journal is brought up to date.

    Raises:
        OpenRefused: it is no database of ours, the target is something else, or the copy is not
            sound: what was there before stays.
        StorageUnavailable: the disk failed or is full, or the WAL grew too much meanwhile.
    """
    began = time.monotonic()
    file, copy = os.path.realpath(source), os.path.realpath(target)
    if file == copy or (os.path.exists(copy) and os.path.samefile(file, copy)):
        raise OpenRefused("a backup of a file is another file", detail={"path": copy})
    with _sorted(copy):
        overlay.redo(copy)
        with _Live(file, vfs, wal_bytes_max) as live:
            older = _older(copy, live)
            if older is None:
                pages = written = _copy_anew(live, copy, rest)
                made = copy + ".partial"
                found = _prove(made, lambda: open_untouched(made), live.head, rest, from_seq=1)
                live.expect(found.head, made)
                os.replace(made, copy)
            else:
                pages, written, found = _copy_over(live, copy, rest, older)
        sync_folder(os.path.dirname(copy))
        anchor.write(anchor.beside(copy), found.head)
    seconds = time.monotonic() - began
    return BackedUp(copy, found.head, pages, written, found.checked, seconds, live.held_seconds)


def restore(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    anchor_path: str | None = None,
    accept_loss: bool = False,
) -> Restored:
    """Put a copy in the place of a database that is gone, proven before it is there.

    Args:
        target: where the database was; there must be none now.
        anchor_path: the database's anchor; default: beside it. Where it has seen more than the copy
            holds, that much is lost.
        accept_loss: go on nevertheless; the anchor is kept under another name.

    Raises:
        OpenRefused: there is a database, the copy is not sound or not whole, or it would lose
            something; nothing was put in place.
        StorageUnavailable: the disk failed.
    """
    began = time.monotonic()
    copy, file = os.path.realpath(source), os.path.realpath(target)
    anchor_path = anchor_path or anchor.beside(file)
    for name in (file, file + "-wal", file + "-journal"):
        if size_bytes(name):
            raise OpenRefused(
                f"there is a database already: {name}",
                hint="move it away, with its -wal",
                detail={"path": name},
            )
    with _sorted(file):
        overlay.redo(copy)
        kept = open_untouched(copy)
        with closing(kept):
            kept.execute("BEGIN").fetchall()
            seen = anchor.read(anchor.beside(copy))
            _copy_kept(kept, file)
        made = file + ".partial"
        found = _prove(made, lambda: open_untouched(made), seen, no_rest, from_seq=1)
        anchored = anchor.read(anchor_path)
        with closing(JournalReader(open_untouched(made))) as reader:
            try:
                if anchored is not None:
                    anchor.refuse_loss(file, anchor_path, anchored, found.head, reader.hash_at)
            except OpenRefused as loss:
                if not accept_loss:
                    os.unlink(made)
                    loss.hint = "take a newer copy, or accept that with --accept-loss"
                    raise
        lost = 0 if anchored is None else max(0, anchored.seq - found.head.seq)
        if anchored is not None and lost:
            keep_anchor(anchor_path, anchored.seq)
        for name in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file + name)
        os.replace(made, file)
        sync_folder(os.path.dirname(file))
        anchor.write(anchor_path, found.head)
    return Restored(file, found.head, found.checked, lost, time.monotonic() - began)


class _Outgrown(Exception):
    """The WAL has grown too much while a snapshot was held."""


class _Live:
    """What is copied: an engine may be at work on it. For a `with`.

    `head`: what it held when it was opened, and a copy has to hold. `held_seconds`: of snapshots.
    """

    def __init__(self, file: str, vfs: str | None, wal_bytes_max: int) -> None:
        self.held_seconds = 0.0
        self._wal_bytes_max = wal_bytes_max
        self._seen_frames = 0
        with contextlib.ExitStack() as stack:
            connection = open_visitor(file, cache_bytes=_CACHE_BYTES, vfs=vfs)
            self._connection = stack.enter_context(closing(connection))
            self._connection.execute("BEGIN").fetchall()
            self.reader = JournalReader(self._connection)
            self.head = self.reader.head() if self.reader.has_journal() else Head(0, GENESIS)
            self._connection.execute("ROLLBACK").fetchall()
            watch = open_visitor(file, cache_bytes=PAGE_BYTES, vfs=vfs)  # not in the snapshot
            self._watch = stack.enter_context(closing(watch))
            watch.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # it knows the WAL now
            self._frame_bytes = frame_bytes(self._watch)
            self.pages = stack.enter_context(closing(LivePages(file, vfs)))
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """One state of the database, until the end of the `with`."""
        began = time.monotonic()
        try:
            while True:
                before = self._state()
                self._connection.execute("BEGIN").fetchall()
                self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                if self._state().frames >= before.frames:
                    break
                self._connection.execute("ROLLBACK").fetchall()  # the WAL started anew in between
            self._seen_frames = before.frames if before.remaining else 0
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK").fetchall()
            self.held_seconds += time.monotonic() - began

    def page_count(self) -> int:
        return pragma_number(self._connection, "page_count")

    def frames(self) -> int:
        """Of the WAL, that are committed."""
        return self._state().frames

    def haste(self) -> Haste:
        """While a snapshot is held. Raises `_Outgrown` where it should not be any longer: the WAL
        is large, and all that is older than the snapshot is moved, so that it is held by nobody
        else."""
        state = self._state()
        used = wal_used_bytes(state, self._frame_bytes)
        if used > self._wal_bytes_max and state.moved >= self._seen_frames:
            raise _Outgrown
        return Haste(
            used > REST_UNTIL * self._wal_bytes_max, used > SYNC_UNTIL * self._wal_bytes_max
        )

    def _state(self) -> WalState:
        for _ in range(STATE_TRIES):
            with contextlib.suppress(apsw.BusyError):  # its index is being written just now
                return wal_state(self._watch)
        return wal_state(self._watch)

    def expect(self, head: Head, file: str) -> None:
        """Raise `OpenRefused` unless the journal has that event."""
        if head.seq and self.reader.hash_at(head.seq) != head.hash:
            raise OpenRefused(
                "the copy is not sound: it ends elsewhere", detail={"path": file, "seq": head.seq}
            )


def _older(copy: str, live: _Live) -> Head | None:
    """The head of a copy that is there already; None: there is none."""
    if inspect(copy, None) is None:
        return None
    with closing(JournalReader(open_untouched(copy))) as reader:
        found = reader.head() if reader.has_journal() else Head(0, GENESIS)
    if found.seq > live.head.seq or live.reader.hash_at(found.seq) != found.hash:
        raise OpenRefused(
            f"{copy} is a copy of another journal, or of a later state",
            hint="name another file",
            detail={"path": copy, "copy_seq": found.seq, "head_seq": live.head.seq},
        )
    return found


@contextlib.contextmanager
def _partial(copy: str) -> Iterator[str]:
    """The name of what is made first; it is gone unless all went well."""
    partial = copy + ".partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    try:
        yield partial
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _copy_anew(live: _Live, copy: str, rest: Rest) -> int:
    """Every page into `<copy>.partial`; how many."""
    with _partial(copy) as partial:
        _refuse_no_room(partial, live.page_count())
        with closing(Anew(partial)) as sink:
            _take(live, sink, rest)
            sink.finish()
        return size_bytes(partial) // PAGE_BYTES


def _copy_over(live: _Live, copy: str, rest: Rest, older: Head) -> tuple[int, int, Audit]:
    """The pages that differ, beside the older copy; then, proven, into it."""
    over = overlay.Overlay(copy)
    try:
        _take(live, over, rest)

        def seen() -> apsw.Connection:
            return apsw.Connection(copy, flags=apsw.SQLITE_OPEN_READONLY, vfs=over.name)

        found = _prove(copy, seen, live.head, rest, from_seq=older.seq + 1, keep=True)
        live.expect(found.head, copy)
        over.finish()
        pages, changed = over.size() // PAGE_BYTES, over.changed
    finally:
        over.close()
    overlay.redo(copy, rest)
    return pages, changed, found


def _take(live: _Live, sink: Sink, rest: Rest) -> None:
    """One state of the database, over whatever of it is there already."""
    for _ in range(TRIES):
        if rest is not no_rest:
            for _ in range(PASSES_MAX):
                if _move(live.pages.move_database(sink), sink, rest) <= FEW_PAGES:
                    break
        with contextlib.suppress(_Outgrown, Restarted), live.snapshot():
            _move(live.pages.move_database(sink), sink, rest, live.haste)
            sink.size(live.page_count() * PAGE_BYTES)
            _move(live.pages.move_wal(sink, live.frames), sink, rest, live.haste)
            return
    raise StorageUnavailable(
        "the write-ahead log grew too much while the copy was made",
        hint="make it when less is written, or onto a faster disk",
        detail={"outcome": "none"},
    )


def _move(
    pieces: Iterable[int],
    sink: Sink,
    rest: Rest,
    look: Callable[[], Haste] = lambda: Haste(False, False),
) -> int:
    """Piece by piece, resting and syncing in between as far as there is time; how many pages
    differed."""
    began, differed, unsynced = time.monotonic(), 0, 0
    for pages in pieces:
        differed, unsynced = differed + pages, unsynced + pages
        haste = look()
        if unsynced >= STEP_PAGES and not (haste.no_sync or rest is no_rest):
            sink.sync()
            unsynced = 0
        if not haste.no_rest:
            rest(time.monotonic() - began)
        began = time.monotonic()
    return differed


def _copy_kept(kept: apsw.Connection, file: str) -> None:
    """Every page of a copy into `<file>.partial`. No journal and no sync of SQLite's own: nothing
    is in its place before it is proven."""
    with _partial(file) as partial:
        _refuse_no_room(partial, pragma_number(kept, "page_count"))
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
        descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with closing(apsw.Connection(partial)) as made:
                made.execute("PRAGMA journal_mode = OFF").fetchall()
                made.execute("PRAGMA synchronous = OFF").fetchall()
                copy_into(made, kept, STEP_PAGES)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse_no_room(file: str, pages: int) -> None:
    room, wanted = shutil.disk_usage(os.path.dirname(file)).free, pages * PAGE_BYTES
    if room < wanted:
        raise StorageUnavailable(
            f"{file} needs {wanted} bytes, and there are {room}",
            detail={"limit": room, "actual": wanted, "outcome": "none"},
        )


def _prove(
    file: str,
    connect: Callable[[], apsw.Connection],
    head: Head | None,
    rest: Rest,
    *,
    from_seq: int,
    keep: bool = False,
) -> Audit:
    """Raise `OpenRefused` unless what was made is sound and has that event."""
    try:
        connection = connect()
        with closing(JournalReader(connection)) as reader:
            refuse_damage(file, schema_faults(connection))
            found = audit(reader, anchored=head, from_seq=from_seq, rest=rest)
        if not found.sound:
            raise OpenRefused(
                f"the copy is not sound: {found.trouble()}",
                hint="nothing was put in place; doctor says whether the source is damaged",
                detail={"path": file, "first_bad_seq": found.first_bad_seq, "faults": found.faults},
            )
    except BaseException:
        if not keep:
            os.unlink(file)
        raise
    return found


@contextlib.contextmanager
def _sorted(file: str) -> Iterator[None]:
    """What the disk says, by what the caller does next."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as damage:
        raise OpenRefused(
            f"what was copied is damaged: {damage}",
            hint="palyra-actors doctor says whether the source is",
            detail={"path": file},
        ) from damage
    except (apsw.Error, OSError) as cause:
        raise StorageUnavailable(
            f"{file} could not be made: {cause}", detail={"path": file, "outcome": "none"}
        ) from cause
