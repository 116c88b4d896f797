"""`palyra-actors rebuild`: the projections made anew from the journal."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from palyra_actors import ids
from palyra_actors.cli import exits
from palyra_actors.cli.exits import reporting
from palyra_actors.cli.reach import Json
from palyra_actors.cli.shape import console, plain, print_json
from palyra_actors.domain.catalog import MEMORY_SOURCES, RUN_STATES, STREAM_NAMES
from palyra_actors.domain.cron import STATUSES
from palyra_actors.domain.session import STATUS_NUMBERS
from palyra_actors.errors import Invalid, NotFound

if TYPE_CHECKING:
    from palyra_actors.storage.rebuild import Difference


@reporting
def rebuild(
    db: Annotated[Path, typer.Option("--db", help="The database file.", metavar="PATH")],
    at: Annotated[
        int | None, typer.Option("--at", min=0, help="Show the state as it was after that seq.")
    ] = None,
    table: Annotated[
        str, typer.Option("--table", help="Which projection --at shows.")
    ] = "sessions",
    as_json: Json = False,
) -> None:
    """Fold all events anew and compare with the live tables, row by row.

    Reads only, beside a running engine too. Ends with 5 where a row is not what the events make
    of it.
    """
    from palyra_actors.storage.rebuild import PROJECTIONS, Rebuild

    if not db.exists():
        raise NotFound(f"there is no database {db}", field="--db")
    if table not in PROJECTIONS:
        raise Invalid(
            f"{table!r} is no projection", field="--table", hint=f"one of {', '.join(PROJECTIONS)}"
        )
    with closing(Rebuild(db, at)) as made:
        if at is not None and at > made.through_seq:
            raise Invalid(
                f"there is no event {at:,}",
                field="--at",
                hint=f"the journal ends at {made.through_seq:,}",
            )
        for _ in made.run():
            pass
        if at is not None:
            for row in made.rows(table):
                told = {name: _readable(table, name, value) for name, value in row.items()}
                if as_json:
                    print_json(told)
                else:
                    words = ", ".join(f"{name} {value}" for name, value in told.items())
                    console().print(plain(words), soft_wrap=True)
            return
        found = made.compare()
        found.differences = [_shown(one, made.columns(one.table)) for one in found.differences]
    if as_json:
        print_json(found)
    else:
        rows = sum(found.rows.values())
        word = "equal" if not found.different else f"{found.different:,} rows differ"
        console().print(f"{word}: {found.events:,} events, {rows:,} rows compared")
        for one in found.differences:
            console().print(
                f"  {one.table} {one.key}: live {one.live}, rebuilt {one.rebuilt}", soft_wrap=True
            )
    if found.different:
        raise typer.Exit(exits.DAMAGED)


def _readable(table: str, name: str, value: object) -> object:
    """Codes by their names, ids as they are written elsewhere, other bytes as hex."""
    if isinstance(value, bytes):
        return ids.format_ulid(value) if len(value) == ids.BYTES else value.hex()
    return _NAMES[table, name].get(value, value) if (table, name) in _NAMES else value


def _shown(one: "Difference", columns: Sequence[str]) -> "Difference":
    def row(values: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if values is None:
            return None
        return tuple(
            _readable(one.table, name, value) for name, value in zip(columns, values, strict=True)
        )

    key = tuple(_readable(one.table, "", value) for value in one.key)
    return replace(one, key=key, live=row(one.live), rebuilt=row(one.rebuilt))


_NAMES: Final[Mapping[tuple[str, str], Mapping[Any, str]]] = {
    ("streams", "kind"): STREAM_NAMES,
    ("sessions", "status"): {number: each.value for each, number in STATUS_NUMBERS.items()},
    ("runs", "state"): RUN_STATES,
    ("cron_runs", "status"): STATUSES,
    ("memory_items", "source"): {number: name for name, number in MEMORY_SOURCES.items()},
}
"""Columns that hold a code, with what each means."""
