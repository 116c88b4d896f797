"""Copies of a database that is at work, and the way back.

    live ──one snapshot, page by page──▶ copy ──pages, chain, head──▶ proven ──▶ in its place
              (writers go on)                                       └─ else: the copy before stays

A copy is a database like any other, with an anchor of its own. One that is made over an older copy
of the same journal writes the pages that differ (`storage.overlay`), and its chain is checked from
where the older one had been: the pages before are equal to the live ones, which were compared.

Whoever has others to think of says where to `rest`; then what is written is synced little by
little, too. While a snapshot is held, until all pages are copied, the WAL cannot start anew. A copy
that takes so long that the WAL grows makes haste, and near its cap it gives up, because writers
must not wait for it.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final, NamedTuple

import apsw

from palyra_actors.domain.chain import GENESIS
from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage import anchor, overlay
from palyra_actors.storage.audit import Audit, Rest, audit, no_rest
from palyra_actors.storage.connection import PAGE_BYTES, open_untouched, open_visitor
from palyra_actors.storage.files import FILE_MODE, inspect, size_bytes
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.lock import sync_folder
from palyra_actors.storage.migrations import schema_faults
from palyra_actors.storage.opening import keep_anchor, refuse_damage
from palyra_actors.storage.port import Head

STEP_PAGES: Final = 128
"""Half a MiB: half a millisecond of the copying thread's time. Beside an engine it is synced before
the next one: the sync of a whole copy takes the disk for a tenth of a second and more, in which
every commit waits."""

WAL_BYTES_MAX: Final = 192 * 1024 * 1024
"""Three quarters of the cap at which the engine would refuse writes."""

REST_UNTIL: Final = 0.25
SYNC_UNTIL: Final = 0.5
"""Of that, up to where a copy rests, and up to where it is synced piece by piece: with rests it
takes five times as long, and one that gives up at the cap is no copy."""

_CACHE_BYTES: Final = 8 * 1024 * 1024


class Haste(NamedTuple):
    """Whether there is no time left for rests, and for syncs on the way."""

    no_rest: bool
    no_sync: bool


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A copy that was made and proven. Pages of 4 KiB: of the file, and those that were written."""

    path: str
    head: Head
    pages: int
    pages_written: int
    checked: int
    seconds: float


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
        live = open_visitor(file, cache_bytes=_CACHE_BYTES, vfs=vfs)
        with closing(live):
            live.execute("BEGIN").fetchall()
            reader = JournalReader(live)
            head = reader.head() if reader.has_journal() else Head(0, GENESIS)
            older = _older(copy, reader, head)

            def grown() -> Haste:
                wal_bytes = size_bytes(file + "-wal")
                if wal_bytes > wal_bytes_max:
                    raise StorageUnavailable(
                        "the write-ahead log grew too much while the copy was made",
                        hint="make it when less is written, or onto a faster disk",
                        detail={"limit": wal_bytes_max, "outcome": "none"},
                    )
                return Haste(
                    wal_bytes > REST_UNTIL * wal_bytes_max, wal_bytes > SYNC_UNTIL * wal_bytes_max
                )

            if older is None:
                pages = written = _copy_anew(live, copy, rest, grown)
                made = copy + ".partial"
                found = _prove(made, lambda: open_untouched(made), head, rest, from_seq=1)
                os.replace(made, copy)
            else:
                pages, written, found = _copy_over(live, copy, rest, grown, head=head, older=older)
        sync_folder(os.path.dirname(copy))
        anchor.write(anchor.beside(copy), head)
    return BackedUp(copy, head, pages, written, found.checked, time.monotonic() - began)


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
            _copy_anew(kept, file, no_rest, lambda: Haste(True, True))
        made = file + ".partial"
        found = _prove(made, lambda: open_untouched(made), seen, no_rest, from_seq=1, exact=False)
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


def _older(copy: str, live: JournalReader, head: Head) -> Head | None:
    """The head of a copy that is there already; None: there is none."""
    if inspect(copy, None) is None:
        return None
    with closing(JournalReader(open_untouched(copy))) as reader:
        found = reader.head() if reader.has_journal() else Head(0, GENESIS)
    if found.seq > head.seq or live.hash_at(found.seq) != found.hash:
        raise OpenRefused(
            f"{copy} is a copy of another journal, or of a later state",
            hint="name another file",
            detail={"path": copy, "copy_seq": found.seq, "head_seq": head.seq},
        )
    return found


def _copy_anew(source: apsw.Connection, copy: str, rest: Rest, look: Callable[[], Haste]) -> int:
    """Every page into `<copy>.partial`; how many."""
    partial = copy + ".partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
    try:
        room = shutil.disk_usage(os.path.dirname(partial)).free
        wanted = int(str(source.execute("PRAGMA page_count").fetchall()[0][0])) * PAGE_BYTES
        if room < wanted:
            raise StorageUnavailable(
                f"{partial} needs {wanted} bytes, and there are {room}",
                detail={"limit": room, "actual": wanted, "outcome": "none"},
            )
        made = apsw.Connection(partial)
        descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with closing(made):
                _settle(made)
                _pages(made, source, rest, look, lambda: os.fdatasync(descriptor))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    return size_bytes(partial) // PAGE_BYTES


def _copy_over(
    source: apsw.Connection,
    copy: str,
    rest: Rest,
    look: Callable[[], Haste],
    *,
    head: Head,
    older: Head,
) -> tuple[int, int, Audit]:
    """The pages that differ, beside the older copy; then, proven, into it."""
    over = overlay.Overlay(copy)
    try:
        made = apsw.Connection(copy, vfs=over.name)
        with closing(made):
            _settle(made)
            _pages(made, source, rest, look, over.sync)

        def seen() -> apsw.Connection:
            return apsw.Connection(copy, flags=apsw.SQLITE_OPEN_READONLY, vfs=over.name)

        found = _prove(copy, seen, head, rest, from_seq=older.seq + 1, keep=True)
        over.finish()
        pages, changed = over.size() // PAGE_BYTES, over.changed
    finally:
        over.close()
    overlay.redo(copy, rest)
    return pages, changed, found


def _settle(copy: apsw.Connection) -> None:
    """No journal and no sync of SQLite's own: nothing is in its place before it is proven. A small
    cache, so that it writes what it was given and does not gather it."""
    copy.execute(f"PRAGMA cache_size = {STEP_PAGES}").fetchall()
    copy.execute("PRAGMA journal_mode = OFF").fetchall()
    copy.execute("PRAGMA synchronous = OFF").fetchall()
    copy.execute("PRAGMA temp_store = memory").fetchall()


def _pages(
    copy: apsw.Connection,
    source: apsw.Connection,
    rest: Rest,
    look: Callable[[], Haste],
    sync: Callable[[], None],
) -> None:
    backup = copy.backup("main", source, "main")
    try:
        while not backup.done:
            began = time.monotonic()
            backup.step(STEP_PAGES)
            haste = look()
            if not (haste.no_sync or rest is no_rest):
                sync()
            if not haste.no_rest:
                rest(time.monotonic() - began)
    except BaseException:
        backup.close(True)  # its own complaint would hide the cause
        raise
    backup.finish()
    source.execute("ROLLBACK").fetchall()  # what was copied is proven without it: the WAL is free


def _prove(
    file: str,
    connect: Callable[[], apsw.Connection],
    head: Head | None,
    rest: Rest,
    *,
    from_seq: int,
    keep: bool = False,
    exact: bool = True,
) -> Audit:
    """Raise `OpenRefused` unless what was made is sound and has that head, or at least has it."""
    try:
        connection = connect()
        with closing(JournalReader(connection)) as reader:
            refuse_damage(file, schema_faults(connection))
            found = audit(reader, anchored=head, from_seq=from_seq, rest=rest)
        if not found.sound or (exact and found.head != head):
            raise OpenRefused(
                f"the copy is not sound: {found.trouble() or 'it ends elsewhere'}",
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
