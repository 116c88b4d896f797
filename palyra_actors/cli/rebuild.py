"""`palyra-actors rebuild`: the projections made anew from the journal."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from palyra_actors import ids
from palyra_actors.cli import exits
from palyra_actors.cli.exits import reporting
from palyra_actors.cli.reach import Json
from palyra_actors.cli.shape import console, plain, print_json
from palyra_actors.errors import Invalid, NotFound


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
                told = {name: _readable(value) for name, value in row.items()}
                if as_json:
                    print_json(told)
                else:
                    words = ", ".join(f"{name} {value}" for name, value in told.items())
                    console().print(plain(words), soft_wrap=True)
            return
        found = made.compare()
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


def _readable(value: object) -> object:
    """Ids as they are written elsewhere, other bytes as hex."""
    if not isinstance(value, bytes):
        return value
    return ids.format_ulid(value) if len(value) == ids.BYTES else value.hex()
