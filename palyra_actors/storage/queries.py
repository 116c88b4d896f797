"""SQL by name: `sql/queries.sql` holds every statement, each below a line `-- name: …`."""

import re
from functools import cache
from importlib.resources import files

_MARK = re.compile(r"^-- name: ([a-z_]+)\n", re.MULTILINE)


@cache
def _statements() -> dict[str, str]:
    text = files("palyra_actors.storage").joinpath("sql", "queries.sql").read_text("utf-8")
    parts = _MARK.split(text)
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise AssertionError("two statements have one name")
    return {name: body.strip() for name, body in zip(names, bodies, strict=True)}


def sql(name: str) -> str:
    """The statement of that name. Raises KeyError: there is none."""
    return _statements()[name]
