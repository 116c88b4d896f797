"""`palyra-actors doctor`: what is to be said of a database, and what to do about it."""

from pathlib import Path
from typing import Annotated, Final

import typer

from palyra_actors.cli import exits
from palyra_actors.cli.exits import reporting
from palyra_actors.cli.reach import Json
from palyra_actors.cli.shape import console, plain, print_json

_COLOURS: Final = {"fine": "green", "note": "yellow", "wrong": "bold red", "damaged": "bold red"}


@reporting
def doctor(
    db: Annotated[Path, typer.Option("--db", help="The database file.", metavar="PATH")],
    *,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="Its anchor, if it is not beside it.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every page and the whole chain, however large.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Go on with what the file holds: make its anchor anew."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at everything about a database, beside a running engine too, and say what to do.

    Ends with 0 where it can be used as it is, 4 where it cannot be opened, 5 where it is damaged or
    something is missing. Reads only, but for --accept-loss.
    """
    from palyra_actors.storage import anchor as anchors
    from palyra_actors.storage import doctor as storage

    path = str(anchor or anchors.beside(db))
    if accept_loss:
        done = storage.accept_loss(str(db), path)
        if as_json:
            print_json(done)
            return
        kept = "" if done.kept_as is None else f"; the old anchor is {done.kept_as}"
        console().print(
            f"anchored at {done.head.seq}:{done.head.hash.hex()}; "
            f"{done.lost:,} events are lost{kept}",
            soft_wrap=True,
        )
        return
    verdicts = set()
    for finding in storage.examine(str(db), path, full=full):
        verdicts.add(finding.verdict)
        if as_json:
            print_json(finding)
            continue
        from rich.text import Text

        line = Text(f"{finding.verdict:8}", style=_COLOURS[finding.verdict])
        line.append(f"{finding.about:10} {plain(finding.said)}", style="not bold default")
        if finding.hint and finding.verdict != "fine":
            line.append(f"\n{'':19}→ {plain(finding.hint)}", style="not bold default")
        console().print(line, soft_wrap=True)
    if "damaged" in verdicts:
        raise typer.Exit(exits.DAMAGED)
    if "wrong" in verdicts:
        raise typer.Exit(exits.BROKEN)
