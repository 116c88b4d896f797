"""Everything that can be said of a database from outside, in words, with what to do about it.

    file · modes · owner · header · SQLite · schema · settings · pages · chain · ends · anchor ·
    WAL · room · clock

An engine may be at work on it: nothing here writes. `accept_loss` does, and wants it alone.
"""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import apsw

from palyra_actors.errors import OpenRefused, PalyraError
from palyra_actors.storage import anchor
from palyra_actors.storage.audit import Audit, audit
from palyra_actors.storage.connection import (
    PAGE_BYTES,
    SQLITE_VERSION_MIN,
    cannot_change,
    open_untouched,
    open_visitor,
    pragma,
)
from palyra_actors.storage.files import inspect, restoring, size_bytes
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.lock import DatabaseLock, holder_of
from palyra_actors.storage.migrations import latest_version, schema_faults
from palyra_actors.storage.opening import keep_anchor, refuse_foreign_wal, refuse_missing
from palyra_actors.storage.port import Head
from palyra_actors.storage.queries import sql
from palyra_actors.storage.upkeep import space

Verdict: TypeAlias = Literal["fine", "note", "wrong", "damaged"]

SAMPLE_EVENTS: Final = 100_000
"""Of the chain's end, where not all of it is wanted: a quarter of a second."""

SAMPLE_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Of a database whose pages are all looked at even so: some eight seconds."""

CLOCK_AHEAD_MS_MAX: Final = 60_000
WAL_BYTES_NOTED: Final = 64 * 1024 * 1024
FREE_SHARE_NOTED: Final = 0.25
ROOM_TIMES: Final = 1.2
"""Free room, in sizes of the database, below which a migration or a backup beside it has none."""

_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"})
_CACHE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `hint`: what to do, where something is to be done."""

    about: str
    verdict: Verdict
    said: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The anchor was made anew. `lost`: events that it had seen and that are not there."""

    head: Head
    lost: int
    kept_as: str | None


def examine(file: str, anchor_path: str, *, full: bool) -> Iterator[Finding]:
    """Look at everything; findings come as they are made. `full`: all of a large one, too."""
    file = os.path.realpath(file)
    yield from _file(file)
    yield _owner(file)
    yield from _modes(file, anchor_path)
    header = _header(file, anchor_path)
    yield header
    yield _sqlite()
    if header.verdict in ("wrong", "damaged"):
        return
    try:
        with closing(open_visitor(file, cache_bytes=_CACHE_BYTES)) as connection:
            yield _schema(connection, file)
            yield _settings(connection, file)
            foreign = None if holder_of(file) else _foreign_wal(connection, file)
            damaged = foreign is not None
            if foreign is not None:  # whatever is read with it is not this database
                yield foreign
            else:
                for finding in _content(connection, file, anchor_path, full=full):
                    damaged |= finding.verdict == "damaged"
                    yield finding
            if damaged and size_bytes(file + "-wal") and holder_of(file) is None:
                yield from _without_wal(file, anchor_path)
            yield from _room(connection, file)
            yield _clock(connection)
    except PalyraError as refusal:
        yield Finding("database", "wrong", refusal.message, refusal.hint or "")
    except (apsw.CorruptError, apsw.NotADBError) as damage:
        yield Finding("pages", "damaged", str(damage), restoring(file))
    except apsw.Error as error:
        yield Finding("database", "wrong", f"it cannot be read: {error}", "look at the disk")
    yield _leftovers(file)


def accept_loss(file: str, anchor_path: str) -> Accepted:
    """Make the anchor anew from what the database holds; the old one is kept beside it.

    Raises:
        OpenRefused: an engine is at work on it, it is not sound, its WAL is another's, or it is not
            ours.
    """
    file = os.path.realpath(file)
    seen: Head | None = None
    with suppress(OpenRefused):
        seen = anchor.read(anchor_path)
    seen_seq = 0 if seen is None else seen.seq
    if not size_bytes(file):
        # there is nothing to lose but the memory of it
        kept = keep_anchor(anchor_path, seen_seq) if os.path.exists(anchor_path) else None
        return Accepted(Head(0, bytes(32)), seen_seq, kept)
    with (
        DatabaseLock.acquire(file),
        closing(JournalReader(open_visitor(file, cache_bytes=_CACHE_BYTES))) as reader,
    ):
        refuse_foreign_wal(file, reader)
        found = audit(reader)
        if not found.sound:
            raise OpenRefused(
                f"{file} is not sound: {found.trouble()}",
                hint=restoring(file),
                detail={"path": file},
            )
        kept = None
        if os.path.exists(anchor_path) and seen != found.head:
            kept = keep_anchor(anchor_path, seen_seq)
        anchor.write(anchor_path, found.head)
    return Accepted(found.head, max(0, seen_seq - found.head.seq), kept)


def _file(file: str) -> Iterator[Finding]:
    try:
        found = os.stat(file)
    except OSError as error:
        yield Finding("file", "wrong", f"{file}: {error.strerror}", "name the database with --db")
        return
    yield Finding("file", "fine", f"{file}, {found.st_size:,} bytes")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        yield Finding(
            "file",
            "note",
            f"it has {found.st_nlink} names (hard links)",
            "open it by one name only: the WAL and the anchor lie beside that name",
        )
    kind = _file_system(file)
    if kind in _NETWORK:
        yield Finding(
            "file", "wrong", f"it lies on {kind}", "move it to a local disk: locks do not hold here"
        )


def _file_system(file: str) -> str:
    best, kind = "", ""
    with suppress(OSError), open("/proc/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            fields = line.split()
            place = fields[1].replace("\\040", " ")
            inside = file == place or file.startswith(place.rstrip("/") + "/")
            if inside and len(place) >= len(best):
                best, kind = place, fields[2]
    return kind


def _owner(file: str) -> Finding:
    holder = holder_of(file)
    if holder is None:
        return Finding("owner", "fine", "no engine is at work on it")
    return Finding("owner", "fine", f"an engine is at work on it: process {holder}")


def _modes(file: str, anchor_path: str) -> Iterator[Finding]:
    loose = 0
    for name in (file, file + "-wal", file + "-shm", anchor_path):
        with suppress(FileNotFoundError):
            found = os.stat(name).st_mode
            mode = stat.S_IMODE(found)
            if mode & 0o077 and stat.S_ISREG(found):
                loose += 1
                verdict: Verdict = "wrong" if mode & 0o022 else "note"
                yield Finding("modes", verdict, f"{name} is {mode:04o}", f"chmod 600 {name}")
    folder = os.path.dirname(file)
    with suppress(FileNotFoundError):
        mode = os.stat(folder).st_mode
        if mode & 0o022 and not mode & stat.S_ISVTX:
            loose += 1
            yield Finding(
                "modes",
                "wrong",
                f"others may replace files in {folder}",
                f"chmod go-w {folder}",
            )
    if not loose:
        yield Finding("modes", "fine", "database, WAL and anchor are their owner's alone")


def _header(file: str, anchor_path: str) -> Finding:
    try:
        header = inspect(file, None)
        if header is None:
            refuse_missing(file, anchor_path)
    except PalyraError as refusal:
        return Finding("header", "wrong", refusal.message, refusal.hint or "")
    except (apsw.Error, OSError) as error:
        return Finding("header", "wrong", f"it cannot be read: {error}", "look at the disk")
    if header is None:
        return Finding("header", "wrong", "it is empty or not there", "serve makes a new one")
    return Finding("header", "fine", "ours")


def _schema(connection: apsw.Connection, file: str) -> Finding:
    """As a reader has it: the file's own header may be older than what the WAL holds."""
    faults = schema_faults(connection)
    if faults:
        return Finding("schema", "damaged", "; ".join(faults[:3]), restoring(file))
    version, newest = int(str(pragma(connection, "user_version"))), latest_version()
    if version != newest:
        return Finding(
            "schema",
            "note",
            f"version {version}, the newest is {newest}",
            "the next start copies the file and brings it up to date",
        )
    return Finding("schema", "fine", f"version {version}")


def _sqlite() -> Finding:
    version = apsw.sqlite_lib_version()
    wanted = ".".join(map(str, SQLITE_VERSION_MIN))
    if tuple(map(int, version.split("."))) < SQLITE_VERSION_MIN:
        return Finding(
            "SQLite", "wrong", f"{version} is older than {wanted}", "install a newer apsw"
        )
    return Finding("SQLite", "fine", f"{version}, at least {wanted}")


def _settings(connection: apsw.Connection, file: str) -> Finding:
    wanted = {"journal_mode": "wal", "auto_vacuum": 2, "page_size": PAGE_BYTES, "encoding": "UTF-8"}
    if cannot_change(file):
        del wanted["journal_mode"]  # opened as a file that nobody changes, it tells another
    wrong = [
        f"{name} is {found!r}, not {value!r}"
        for name, value in wanted.items()
        if (found := pragma(connection, name)) != value
    ]
    if wrong:
        return Finding(
            "settings",
            "wrong",
            "; ".join(wrong),
            "another program changed the file: export it and import it into a new one",
        )
    return Finding("settings", "fine", ", ".join(f"{k}={v}" for k, v in wanted.items()))


def _content(
    connection: apsw.Connection, file: str, anchor_path: str, *, full: bool
) -> Iterator[Finding]:
    reader = JournalReader(connection)
    pages = full or size_bytes(file) <= SAMPLE_BYTES_MAX
    anchored: Head | None = None
    refusal: OpenRefused | None = None
    try:
        anchored = anchor.read(anchor_path)
    except OpenRefused as reason:
        refusal = reason
    head = reader.head() if reader.has_journal() else Head(0, bytes(32))
    from_seq = 1 if full else max(1, head.seq - SAMPLE_EVENTS + 1)
    found = audit(reader, from_seq=from_seq, pages=pages)
    if found.faults:
        yield Finding("pages", "damaged", "; ".join(found.faults[:3]), restoring(file))
    elif pages:
        yield Finding("pages", "fine", "every page is sound")
    else:
        yield Finding("pages", "note", "too many to look at in passing", "--full looks at all")
    yield _chain(file, found, from_seq)
    if int(str(pragma(connection, "user_version"))) == latest_version():
        yield _ends(connection, file, from_seq)
    if refusal is not None:
        yield Finding("anchor", "wrong", refusal.message, refusal.hint or "")
    else:
        yield _anchor(file, anchor_path, anchored, head, reader.hash_at)


def _foreign_wal(connection: apsw.Connection, file: str) -> Finding | None:
    try:
        refuse_foreign_wal(file, JournalReader(connection))
    except OpenRefused as refusal:
        return Finding("WAL", "damaged", refusal.message, refusal.hint or "")
    return None


def _without_wal(file: str, anchor_path: str) -> Iterator[Finding]:
    """The database is damaged as its WAL has it: whether it is sound alone, and what is missing."""
    try:
        with closing(JournalReader(open_untouched(file, alone=True))) as reader:
            found = audit(reader)
    except (PalyraError, apsw.Error):
        return
    if not found.sound:
        return
    seen = None
    with suppress(OpenRefused):
        seen = anchor.read(anchor_path)
    missing = 0 if seen is None else max(0, seen.seq - found.head.seq)
    said = (
        "it is another database's, or damaged: without it this one is sound and ends with event"
        f" {found.head.seq}"
    )
    if not missing:
        hint = f"move {file}-wal and {file}-shm away, and look again"
    else:
        said += f"; {missing} that the anchor has seen were in its own"
        hint = f"put the right {file}-wal there; or, to do without, move it and -shm away"
    yield Finding("WAL", "damaged", said, hint)


def _chain(file: str, found: Audit, from_seq: int) -> Finding:
    if found.first_bad_seq is not None:
        broken = f"it breaks at seq {found.first_bad_seq}"
        return Finding("chain", "damaged", broken, restoring(file))
    which = "all" if from_seq == 1 else "the last"
    return Finding(
        "chain",
        "fine",
        f"{which} {found.checked:,} events hold; head {found.head.seq}:{found.head.hash.hex()}",
    )


def _ends(connection: apsw.Connection, file: str, from_seq: int) -> Finding:
    """Whether every stream goes on after its last event: a number would be given twice."""
    behind = connection.execute(sql("ends_behind"), (from_seq,)).fetchall()
    ahead = connection.execute(sql("ends_elsewhere"), (from_seq,)).fetchall()
    if behind or ahead:
        ((seq, stream),) = behind or ahead
        what = f"stream {stream} does not end with its last event" + (
            f", which is at seq {seq}" if behind else f": at seq {seq} there is another one"
        )
        return Finding("ends", "damaged", what, restoring(file))
    return Finding("ends", "fine", "every stream that was looked at ends with its last event")


def _anchor(
    file: str,
    path: str,
    anchored: Head | None,
    head: Head,
    hash_at: Callable[[int], bytes | None],
) -> Finding:
    if anchored is None:
        return Finding(
            "anchor", "note", f"there is none at {path}", "the next start makes it from the head"
        )
    try:
        anchor.refuse_loss(file, path, anchored, head, hash_at)
    except OpenRefused as loss:
        return Finding("anchor", "damaged", loss.message, loss.hint or "")
    behind = head.seq - anchored.seq
    return Finding("anchor", "fine", f"it has seen event {anchored.seq}, {behind} behind the head")


def _room(connection: apsw.Connection, file: str) -> Iterator[Finding]:
    taken = space(connection, file)
    owner = holder_of(file)
    if taken.wal_bytes and owner is None:
        yield Finding(
            "WAL", "note", f"{taken.wal_bytes:,} bytes left by a crash", "the next start moves them"
        )
    elif taken.wal_used_bytes > WAL_BYTES_NOTED:
        yield Finding(
            "WAL",
            "note",
            f"{taken.wal_used_bytes:,} bytes in use",
            "a reader holds an old snapshot: end long reads of other programs",
        )
    else:
        yield Finding("WAL", "fine", f"{taken.wal_bytes:,} bytes, {taken.wal_used_bytes:,} in use")
    if taken.free_bytes > FREE_SHARE_NOTED * taken.db_bytes:
        yield Finding(
            "free pages",
            "note",
            f"{taken.free_bytes:,} of {taken.db_bytes:,} bytes are free",
            "erasures give them back bit by bit; nothing is wrong",
        )
    else:
        yield Finding("free pages", "fine", f"{taken.free_bytes:,} of {taken.db_bytes:,} bytes")
    free = shutil.disk_usage(os.path.dirname(file)).free
    if free < ROOM_TIMES * taken.db_bytes:
        yield Finding(
            "disk",
            "note",
            f"{free:,} bytes are free, the database has {taken.db_bytes:,}",
            "make room: a migration and a backup beside it need as much again",
        )
    else:
        yield Finding("disk", "fine", f"{free:,} bytes are free")


def _clock(connection: apsw.Connection) -> Finding:
    last = 0
    if JournalReader(connection).has_journal():
        last = int(str(connection.execute(sql("last_recorded")).fetchall()[0][0]))
    ahead_ms = last - time.time_ns() // 1_000_000
    if ahead_ms > CLOCK_AHEAD_MS_MAX:
        return Finding(
            "clock",
            "note",
            f"the last event was recorded {ahead_ms / 1000:.0f} s after now",
            "look at the machine's clock; order does not depend on it",
        )
    return Finding("clock", "fine", "it is not behind the last event")


def _leftovers(file: str) -> Finding:
    folder, name = os.path.split(file)
    found = sorted(
        other
        for other in os.listdir(folder)
        if other.startswith(name) and other.endswith((".partial", "-journal", "-changes"))
    )
    if found:
        return Finding(
            "leftovers", "note", ", ".join(found), "left by what was cut short; the next one cleans"
        )
    return Finding("leftovers", "fine", "none")
