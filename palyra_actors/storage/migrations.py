"""The schema's history: `sql/NNNN_name.sql`, each applied once, in order, in one transaction.

The file's `user_version` is the number of the last one applied and changes in the same
transaction: a crash leaves the version before or after, with the schema that belongs to it. A file
that holds data already is copied before the first step. `sql/schema.sql` is the sum of them all,
for reading; a test proves that it is equal. Written anew with
`python -m palyra_actors.storage.migrations > palyra_actors/storage/sql/schema.sql`.
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import apsw

from palyra_actors.errors import OpenRefused, PalyraError, StorageUnavailable
from palyra_actors.storage.lock import sync_folder

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_BACKUP_PAGES: Final = 1024  # a step of the copy: 4 MiB


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: the version it leads to (1, 2, 3 …), the name of its file, its statements."""

    version: int
    name: str
    sql: str
    after: Callable[[apsw.Connection], None] | None = None
    """What is done behind the statements, in the same transaction."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """From which version to which; where the copy lies, None if none was needed."""

    from_version: int
    to_version: int
    backup: str | None


@functools.cache
def migrations() -> tuple[Migration, ...]:
    """All steps in order.

    Raises:
        ValueError: the numbers in the file names are not 1, 2, 3 …
    """
    found = []
    for file in resources.files("palyra_actors.storage").joinpath("sql").iterdir():
        if match := _FILE_NAME.fullmatch(file.name):
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), match[2], text, _AFTER.get(match[2])))
    found.sort(key=lambda step: step.version)
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1, 2, 3: {[step.name for step in found]}")
    return tuple(found)


def latest_version() -> int:
    """The schema version this engine writes."""
    return len(migrations())


def migrate(
    connection: apsw.Connection,
    path: str | os.PathLike[str],
    steps: Sequence[Migration] | None = None,
) -> Migrated:
    """Bring the schema up to date; nothing to do is the common case.

    Args:
        connection: the writer's, outside a transaction.
        path: of the database; the copy lies beside it as `<path>.v<version>.backup`, 0600.
        steps: the history, `migrations()` unless a test brings its own.

    Raises:
        OpenRefused: the file is newer than the history, or a step failed; the file is at the
            version before that step, which `detail.version` names.
        StorageUnavailable: the disk failed or is full; the same holds.
    """
    history = migrations() if steps is None else steps
    version = schema_version(connection)
    start = version
    if version > len(history):
        raise OpenRefused(
            f"schema version {version} is newer than {len(history)}, the last this engine knows",
            detail={"found": version, "supported": len(history)},
        )
    pending = history[version:]
    backup: str | None = None
    try:
        if pending and version > 0:
            backup = _back_up(connection, os.path.realpath(path), version)
        for step in pending:
            _apply(connection, step)
            version = step.version
    except (apsw.IOError, apsw.FullError, apsw.BusyError, apsw.NoMemError) as cause:
        raise StorageUnavailable(
            f"the schema stays at version {version}: {cause}",
            detail={"outcome": "none", "version": version},
        ) from cause
    except (apsw.Error, OSError) as cause:
        raise OpenRefused(
            f"the schema stays at version {version}: {cause}", detail={"version": version}
        ) from cause
    return Migrated(start, version, backup)


def schema_version(connection: apsw.Connection) -> int:
    """The file's version; 0 is a database without a table."""
    return int(str(connection.execute("PRAGMA user_version").fetchall()[0][0]))


def schema_text(connection: apsw.Connection) -> str:
    """The schema as SQLite keeps it: tables first, by name, each statement with its semicolon.

    Tables that a virtual table makes for itself are not named.
    """
    statements = [f"PRAGMA user_version = {schema_version(connection)};"]
    statements += [f"{sql};" for sql in _statements(connection).values()]
    return "\n\n".join(statements) + "\n"


def schema_faults(connection: apsw.Connection) -> list[str]:
    """What of the schema is not as the migrations up to its version made it, in words.

    A trigger or a view that somebody else put there would take part in every write.
    """
    version = schema_version(connection)
    if version > latest_version():
        return []  # who may open it, knows
    found, made = _statements(connection), _made_at(version)
    return [
        f"{what} is missing"
        if what not in found
        else f"{what} is not ours"
        if what not in made
        else f"{what} was changed"
        for what in (*made, *(what for what in found if what not in made))
        if found.get(what) != made.get(what)
    ]


def _statements(connection: apsw.Connection) -> dict[str, str]:
    """Of each table, index, trigger and view, by what it is called. Tables that SQLite or a virtual
    table makes for itself are left out; nothing else that is called alike."""
    rows = connection.execute(
        "SELECT type || ' ' || name, sql FROM sqlite_schema"
        " WHERE sql IS NOT NULL AND (type != 'table' OR name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        " AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow'))"
        " ORDER BY type = 'table' DESC, type, name"
    ).fetchall()
    return {str(what): str(sql) for what, sql in rows}


@functools.cache
def _made_at(version: int) -> dict[str, str]:
    """The statements of a file of that version."""
    connection = apsw.Connection(":memory:")
    try:
        migrate(connection, "", migrations()[:version])
        return _statements(connection)
    finally:
        connection.close()


def _apply(connection: apsw.Connection, step: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE").fetchall()
    try:
        connection.execute(step.sql).fetchall()
        if step.after is not None:
            step.after(connection)
        if not connection.in_transaction:
            raise OpenRefused(f"migration {step.name} ends its own transaction")
        connection.execute(f"PRAGMA user_version = {step.version}").fetchall()
        connection.execute("COMMIT").fetchall()
    except BaseException:
        # After some errors SQLite has rolled back already; what a failed COMMIT left is undone too.
        with contextlib.suppress(apsw.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK").fetchall()
        raise


def _made_anew(connection: apsw.Connection) -> None:
    """Rows that older steps gave columns with a default, as the events have them.

    Only where there are such rows: it folds the whole journal.
    """
    ((wanted,),) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM runs WHERE created_ms = 0) OR EXISTS ("
        "SELECT 1 FROM canvas_snapshots s JOIN canvases c USING (stream)"
        " WHERE s.bytes = 0 AND s.version > c.horizon)"
    ).fetchall()
    if wanted:
        from palyra_actors.storage.rebuild import make_anew

        try:
            make_anew(connection, ("runs", "sessions", "canvas_snapshots"))
        except (apsw.Error, OSError, PalyraError):
            raise
        except Exception as cause:
            raise OpenRefused(
                f"the schema stays at version {schema_version(connection)}: the events cannot be"
                f" folded ({type(cause).__name__})",
                hint="palyra-actors verify says which of them are damaged",
                detail={"version": schema_version(connection)},
            ) from cause


_AFTER: Final[Mapping[str, Callable[[apsw.Connection], None]]] = {"made_anew": _made_anew}
"""By the name of the step."""


def _back_up(connection: apsw.Connection, file: str, version: int) -> str:
    """A page for page copy beside the file, whole or not there at all."""
    final = f"{file}.v{version:04d}.backup"
    partial = final + ".partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    copy = apsw.Connection(partial, vfs=connection.open_vfs)
    try:
        copy_into(copy, connection, _BACKUP_PAGES)
    except BaseException:
        copy.close(True)
        raise
    copy.close()
    os.replace(partial, final)
    sync_folder(os.path.dirname(file))
    return final


def copy_into(made: apsw.Connection, source: apsw.Connection, step_pages: int) -> None:
    """All pages of a database, as of one moment where the source holds a snapshot, so many a step.
    Raises what SQLite does."""
    backup = made.backup("main", source, "main")
    try:
        while not backup.done:
            backup.step(step_pages)
    except BaseException:
        backup.close(True)  # its own complaint would hide the cause
        raise
    backup.finish()


def main() -> None:
    """Print the schema that all migrations together make."""
    connection = apsw.Connection(":memory:")
    migrate(connection, "")
    sys.stdout.write(schema_text(connection))
    connection.close()


if __name__ == "__main__":
    main()
