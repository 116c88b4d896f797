"""SQL by name: `sql/*.sql` hold every statement, each below a line `-- name: …`.

The journal's own are in `queries.sql`; those of a family are in its own file and carry its name
before a dot: `canvas.insert_patch`.
"""

import re
from functools import cache
from importlib.resources import files

_MARK = re.compile(r"^-- name: ([a-z_.]+)\n", re.MULTILINE)
_VALUES = re.compile(r"(.*\bVALUES )(\([?, ]+\))(.*)", re.DOTALL)
_NOT_QUERIES = re.compile(r"schema\.sql|\d{4}_.*")


@cache
def _statements() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files("palyra_actors.storage").joinpath("sql").iterdir():
        if not file.name.endswith(".sql") or _NOT_QUERIES.fullmatch(file.name):
            continue
        parts = _MARK.split(file.read_text("utf-8"))
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise AssertionError(f"two statements have the name {name}")
            found[name] = body.strip()
    return found


def sql(name: str) -> str:
    """The statement of that name. Raises KeyError: there is none."""
    return _statements()[name]


@cache
def sql_of_rows(name: str, rows: int) -> str:
    """The statement of that name, an INSERT of one row, as one of so many rows. One step of SQLite
    inserts them all, in two thirds of the time of a step for each."""
    before, values, after = _VALUES.fullmatch(sql(name)).groups()  # type: ignore[union-attr]
    return f"{before}{', '.join([values] * rows)}{after}"
