"""Lists of things, as a table for a person or a line of JSON each for a program."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from palyra_actors.cli.shape import console, moment, plain, print_json

ID_CELLS: Final = 26
IDS: Final = frozenset({"session_id", "run_id", "approval_id", "canvas_id"})
"""Columns that are never cut: what a person copies into the next command."""


def show_all(
    found: Iterable[Any], columns: Mapping[str, str], *, as_json: bool, limit: int | None = None
) -> int:
    """Prints them; how many there were. `columns`: heading to the attribute below it."""
    count = 0
    if as_json:
        for count, one in enumerate(found, 1):
            print_json(one)
            if count == limit:
                break
        return count
    from rich.table import Column, Table
    from rich.text import Text

    headings = [
        Column(heading, no_wrap=True, min_width=ID_CELLS) if name in IDS else Column(heading)
        for heading, name in columns.items()
    ]
    table = Table(*headings, box=None, pad_edge=False)
    for count, one in enumerate(found, 1):
        table.add_row(*(Text(cell(name, getattr(one, name))) for name in columns.values()))
        if count == limit:
            break
    console().print(table)
    return count


def show_one(found: Any, names: Sequence[str], *, as_json: bool) -> None:
    """Prints one thing, a line for each of its attributes."""
    if as_json:
        print_json(found)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for name in names:
        table.add_row(name.replace("_", " "), Text(cell(name, getattr(found, name))))
    console().print(table)


def cell(name: str, value: Any) -> str:
    """A value for a person: times as dates, nothing as a dash."""
    if value is None:
        return "-"
    if name.endswith("_ms") and isinstance(value, int):
        return moment(value)
    return plain(str(value))
