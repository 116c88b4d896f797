"""A database before its engine opens it: whole, and the one that its anchor knows.

Everything here reads. What is refused has not changed by a byte.
"""

import os
from contextlib import closing, suppress
from typing import Final

import apsw

from palyra_actors.errors import OpenRefused, PalyraError, StorageUnavailable
from palyra_actors.storage import anchor
from palyra_actors.storage.audit import audit
from palyra_actors.storage.connection import open_untouched
from palyra_actors.storage.files import restoring, size_bytes
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.migrations import schema_faults
from palyra_actors.storage.port import Head

FAULTS_SHOWN_MAX: Final = 5
OWN_EVENTS: Final = 8
"""Of a file's end, whose hashes have to hold for it to say what its WAL has to hold."""


def refuse_missing(file: str, anchor_path: str) -> Head | None:
    """The anchored head; before the file is made, or locked.

    Raises:
        OpenRefused: there is no database, or an empty one, where the anchor has seen events.
    """
    anchored = anchor.read(anchor_path)
    if anchored is None or size_bytes(file) or size_bytes(file + "-wal"):
        return anchored
    anchor.refuse_loss(file, anchor_path, anchored, Head(0, bytes(32)), lambda _: None)
    return anchored


def examine(
    file: str,
    anchor_path: str,
    anchored: Head | None,
    *,
    quick_check_bytes_max: int,
    vfs: str | None = None,
) -> None:
    """Look at a database that may be opened: its schema, its pages, if they are not too many, and
    its head.

    Raises:
        OpenRefused: the schema is another, a page is damaged, or the journal is not what was
            anchored.
        StorageUnavailable: the disk failed; it may pass.
    """
    if not size_bytes(file) or size_bytes(file + "-journal"):
        return  # new, or its creation was cut short: SQLite rolls that back
    connection = open_untouched(file, vfs=vfs)
    with closing(JournalReader(connection)) as reader:
        try:
            refuse_foreign_wal(file, reader, vfs=vfs)
            refuse_damage(file, schema_faults(connection))
            if size_bytes(file) + size_bytes(file + "-wal") <= quick_check_bytes_max:
                refuse_damage(file, reader.faults())
            if anchored is not None:
                head = reader.head() if reader.has_journal() else Head(0, bytes(32))
                anchor.refuse_loss(file, anchor_path, anchored, head, reader.hash_at)
        except (apsw.CorruptError, apsw.NotADBError) as damage:
            refuse_damage(file, [str(damage)], damage)
        except apsw.Error as cause:
            raise StorageUnavailable(
                f"{file} cannot be read now: {cause}", detail={"path": file, "outcome": "none"}
            ) from cause


def refuse_foreign_wal(file: str, reader: JournalReader, *, vfs: str | None = None) -> None:
    """A journal only grows: what the file holds by itself, its own WAL holds, too.

    For whoever has the lock, or where nobody has it: `reader` reads file and WAL. A file that a
    crash has left half way through a checkpoint says nothing; its last events have to hold.

    Raises:
        OpenRefused: the WAL is another database's. Opening it would write that over this one.
    """
    if not size_bytes(file + "-wal"):
        return
    try:
        with closing(JournalReader(open_untouched(file, vfs=vfs, alone=True))) as alone:
            if not alone.has_journal() or not (own := alone.head()).seq:
                return
            if not audit(alone, from_seq=max(1, own.seq - OWN_EVENTS + 1), pages=False).sound:
                return
    except (PalyraError, apsw.Error):
        return
    if not reader.has_journal() or reader.hash_at(own.seq) != own.hash:
        raise OpenRefused(
            f"{file}-wal is another database's: by itself {file} ends with event {own.seq:,},"
            " which is not there with it",
            hint=f"move {file}-wal and {file}-shm away, put its own there if you have it, and let"
            f" palyra-actors doctor --db {file} look",
            detail={"path": file, "own_seq": own.seq},
        )


def refuse_damage(file: str, faults: list[str], cause: Exception | None = None) -> None:
    """Raise `OpenRefused` if there are any."""
    if faults:
        raise OpenRefused(
            f"{file} is damaged: {faults[0]}",
            hint=f"palyra-actors doctor --db {file} says more; {restoring(file)}",
            detail={"path": file, "faults": faults[:FAULTS_SHOWN_MAX]},
        ) from cause


def keep_anchor(path: str, seq: int) -> str:
    """Put an anchor aside under a name that says how far it had seen; the new name."""
    aside = f"{path}.seen-{seq}"
    with suppress(FileNotFoundError):
        os.replace(path, aside)
    return aside
