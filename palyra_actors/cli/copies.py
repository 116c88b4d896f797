"""Commands for copies of a database: backup, restore, drill, export; and what imports an export."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from palyra_actors.cli.exits import reporting
from palyra_actors.cli.reach import Json
from palyra_actors.cli.shape import console, print_json, size
from palyra_actors.errors import Invalid, NotFound, StorageUnavailable

Db = Annotated[Path, typer.Option("--db", help="The database file.", metavar="PATH")]

PAGE_BYTES: Final = 4096
LINE_BYTES_MAX: Final = 16 * 1024 * 1024


@reporting
def backup(
    db: Db,
    to: Annotated[Path, typer.Option("--to", help="The copy; an older one is brought up to date.")],
    *,
    as_json: Json = False,
) -> None:
    """Copy a database while its engine is at work, and prove the copy.

    It holds everything that was acknowledged before. Over an older copy of the same journal only
    the pages that differ are written. The copy before stays until the new one is proven.
    """
    from palyra_actors.storage.audit import making_way
    from palyra_actors.storage.backup import back_up

    _must_exist(db)
    done = back_up(db, to, rest=making_way(db))
    if as_json:
        print_json(done)
        return
    written = f"{size(done.pages_written * PAGE_BYTES)} of {size(done.pages * PAGE_BYTES)} written"
    console().print(
        f"backed up: {done.head.seq:,} events, {written}, {done.checked:,} links of the chain "
        f"checked in {done.seconds:.2f} s; head {done.head.seq}:{done.head.hash.hex()}",
        soft_wrap=True,
    )


@reporting
def restore(
    copy: Annotated[Path, typer.Argument(help="What `backup` made.", metavar="BACKUP")],
    db: Annotated[Path, typer.Option("--db", help="Where the database goes.", metavar="PATH")],
    *,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="Its anchor, if it is not beside it.")
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Even if the anchor has seen more than the copy holds."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a copy where the database was; every page and the whole chain are proven first."""
    from palyra_actors.storage.backup import restore as put_back

    _must_exist(copy, "BACKUP")
    done = put_back(
        copy, db, anchor_path=None if anchor is None else str(anchor), accept_loss=accept_loss
    )
    if as_json:
        print_json(done)
        return
    lost = f"; {done.lost:,} events are lost" if done.lost else ""
    console().print(
        f"restored: {done.checked:,} events proven in {done.seconds:.2f} s{lost}; "
        f"head {done.head.seq}:{done.head.hash.hex()}",
        soft_wrap=True,
    )


@reporting
def drill(
    copy: Annotated[Path, typer.Argument(help="A copy, however it was made.", metavar="BACKUP")],
    *,
    folder: Annotated[
        Path | None, typer.Option("--in", help="Where there is room; default: the system's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Practise the day on which it is needed: restore into a folder of its own, prove it, run an
    engine on it, write, verify, and remove it all again."""
    from palyra_actors.config import Config
    from palyra_actors.engine import Engine
    from palyra_actors.storage.backup import restore as put_back

    _must_exist(copy, "BACKUP")
    with tempfile.TemporaryDirectory(prefix="palyra-drill-", dir=folder) as place:
        database = os.path.join(place, "drill.db")
        done = put_back(copy, database)
        began = time.monotonic()
        with Engine.open(database, Config().replaced("budget", write_ms=0)) as engine:
            started_s = time.monotonic() - began
            stored = engine.sessions.open().append("x.drill", {"drill": True}, actor="system")
            valid = engine.verify(expect=_seen(done.head), timeout_s=3600.0).valid
    if not valid or stored.seq != done.head.seq + 1:
        raise Invalid("what was restored does not go on from where it ended", field="BACKUP")
    if as_json:
        print_json({"restored": done, "started_seconds": started_s, "valid": valid})
        return
    console().print(
        f"the drill went well: {done.checked:,} events restored and proven in {done.seconds:.2f} s,"
        f" an engine started on them in {started_s:.2f} s and stored the next one; "
        f"head {done.head.seq}:{done.head.hash.hex()}",
        soft_wrap=True,
    )


@reporting
def export(
    db: Db,
    to: Annotated[
        Path | None, typer.Option("--to", help="A new file.  [default: standard output]")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """The whole journal as lines of JSON, beside a running engine; `import` makes a database of
    them with the same chain."""
    from palyra_actors.storage.transfer import export as write_lines

    _must_exist(db)
    if to is None:
        write_lines(db, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    there = Invalid(f"{to} is there already", field="--to", hint="name another file")
    if to.exists():
        raise there
    partial = to.with_name(to.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # of one that was cut short
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
            done = write_lines(db, file.write)
            file.flush()
            os.fsync(file.fileno())
        _name(partial, to)
    except FileExistsError as reason:
        raise there from reason
    except OSError as reason:
        raise StorageUnavailable(
            f"{to} cannot be written: {reason.strerror}",
            hint="name a file in a folder of yours, with room for the whole journal",
        ) from reason
    finally:
        partial.unlink(missing_ok=True)
    if as_json:
        print_json(done)
        return
    console().print(
        f"exported: {done.events:,} events{_answers(done)}; "
        f"head {done.head.seq}:{done.head.hash.hex()}",
        soft_wrap=True,
    )


def _name(made: Path, to: Path) -> None:
    """Give a file its name. Raises FileExistsError: another one has got it meanwhile."""
    try:
        to.hardlink_to(made)
    except FileExistsError:
        raise
    except OSError:  # this file system has no links
        made.rename(to)


def import_journal(file: Path, db: Path | None, *, as_json: bool) -> None:
    """Makes a database of an export."""
    from palyra_actors.storage.transfer import load

    if db is None:
        raise Invalid(
            f"{file} is an export of a journal: it becomes a database of its own",
            field="--db",
            hint="name a new file",
        )
    with file.open("rb") as lines:
        done = load(iter(lambda: lines.readline(LINE_BYTES_MAX), b""), db)
    if as_json:
        print_json(done)
        return
    erased = f", {done.erased:,} of them erased" if done.erased else ""
    console().print(
        f"imported: {done.events:,} events{erased}{_answers(done)}; "
        f"head {done.head.seq}:{done.head.hash.hex()}",
        soft_wrap=True,
    )


def _answers(done: Any) -> str:
    return f", {done.answers:,} kept answers" if done.answers else ""


def is_export(file: Path) -> bool:
    """Whether the file begins as an export does."""
    from palyra_actors.storage.transfer import is_export as begins_so

    try:
        with file.open("rb") as lines:
            return begins_so(lines.readline(256))
    except OSError:
        return False


def _must_exist(file: Path, field: str = "--db") -> None:
    if not file.exists():
        raise NotFound(f"there is no file {file}", field=field)


def _seen(head: Any) -> Any:
    from palyra_actors.api.results import Head

    return Head(head.seq, head.hash)


COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "backup": backup,
    "restore": restore,
    "drill": drill,
    "export": export,
}
