"""A database before its engine opens it: whole, and the one that its anchor knows.

Everything here reads. What is refused has not changed by a byte.
"""

import os
from contextlib import closing, suppress
from typing import Final

import apsw

from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage import anchor
from palyra_actors.storage.connection import open_untouched
from palyra_actors.storage.files import restoring, size_bytes
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.migrations import schema_faults
from palyra_actors.storage.port import Head

FAULTS_SHOWN_MAX: Final = 5


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
