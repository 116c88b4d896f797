"""Lists of things, as a table for a person or a line of JSON each for a program."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from palyra_actors.cli.shape import console, moment, plain, print_json, span, to_json

ID_CELLS: Final = 26
WRAPPED_CELLS: Final = 24  # a longer text goes on in the next line
FILE_CELLS: Final = 1000  # of what is no terminal: a line each, for grep
IDS: Final = frozenset({"session_id", "run_id", "approval_id", "canvas_id", "job_id"})
"""Columns that are never cut: what a person copies into the next command."""

SPANS: Final = frozenset({"misfire_grace_ms", "jitter_ms", "lease_ms"})
"""Which say how long something takes, and not when it is."""


def show_all(
    found: Iterable[Any], columns: Mapping[str, str], *, as_json: bool, limit: int | None = None
) -> int:
    """Prints them; how many there were. `columns`: heading to the attribute below it, what matters
    most first: where a terminal is too narrow for all, the last ones are left out and named."""
    count = 0
    if as_json:
        for count, one in enumerate(found, 1):
            print_json(one)
            if count == limit:
                break
        return count
    from rich.table import Column, Table
    from rich.text import Text

    rows: list[dict[str, str]] = []
    for count, one in enumerate(found, 1):
        rows.append({head: cell(name, getattr(one, name)) for head, name in columns.items()})
        if count == limit:
            break
    out = console()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = FILE_CELLS
    shown = _fitting(columns, rows, out.width)
    headings = [
        Column(head, no_wrap=True, min_width=ID_CELLS) if columns[head] in IDS else Column(head)
        for head in shown
    ]
    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(row[head]) for head in shown))
    out.print(table)
    if len(shown) < len(columns):
        left = ", ".join(head for head in columns if head not in shown)
        out.print(f"not shown here: {left} (a wider terminal, or --json)", style="dim")
    return count


def _fitting(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, str]], width: int
) -> list[str]:
    """The first columns that are legible side by side in so many cells, and at least two."""
    shown: list[str] = []
    for heading, name in columns.items():
        widest = max([len(heading), *(len(row[heading]) for row in rows)])
        width -= (widest if name in IDS else min(widest, WRAPPED_CELLS)) + 2
        if width < -2 and len(shown) >= 2:
            break
        shown.append(heading)
    return shown


def show_one(
    found: Any, names: Sequence[str], *, as_json: bool, beside: Mapping[str, str] | None = None
) -> None:
    """Prints one thing, a line for each of its attributes. `beside`: what a person is told of one
    besides its value."""
    if as_json:
        print_json(found)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for name in names:
        heading = name.removesuffix("_ms").replace("_", " ")
        said = cell(name, getattr(found, name))
        if beside and name in beside:
            said = f"{said} ({beside[name]})"
        table.add_row(heading, Text(said))
    console().print(table)


def cell(name: str, value: Any) -> str:
    """A value for a person: times as dates, how long something takes in its units, maps and lists
    as JSON, nothing as a dash."""
    if value is None:
        return "-"
    if name in SPANS:
        return span(value)
    if isinstance(value, Mapping | list):
        return plain(json.dumps(to_json(value), ensure_ascii=False))
    if name.endswith("_ms") and isinstance(value, int):
        return moment(value)
    return plain(str(value))
