"""The engine a command talks to: over its endpoint, or in this process on a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from palyra_actors.api.operations import Operations
from palyra_actors.client import ENDPOINT_DEFAULT, Client
from palyra_actors.errors import NoReply, NotFound

FIRST_WORD_S_MAX: Final = 3.0

Endpoint = Annotated[
    str,
    typer.Option(
        "--endpoint", "-e", envvar="PALYRA_ENDPOINT", help="Where the engine is.", metavar="URL"
    ),
]
Db = Annotated[
    Path | None,
    typer.Option("--db", help="Work on this file without a server.", metavar="PATH"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Wait this long for an answer.", metavar="S")
]

ENDPOINT: Final = ENDPOINT_DEFAULT
TIMEOUT_S: Final = 10.0


@contextmanager
def engine_at(
    endpoint: str, db: Path | None, timeout_s: float, *, create: bool = False
) -> Iterator[Operations]:
    """The engine's operations, for as long as the block runs.

    Args:
        create: whether a database that is not there is made.

    Raises:
        NoReply: nobody answers at the endpoint.
        NotFound: there is no such file.
        OpenRefused: the file may not be opened.
    """
    if db is not None:
        if not create and not db.exists():
            raise NotFound(f"there is no database {db}", field="--db")
        from palyra_actors.engine import Engine

        with Engine.open(db) as engine:
            yield engine
        return
    with Client(endpoint, timeout_s=timeout_s) as client:
        try:
            # somebody who mistyped the endpoint should not wait for the whole timeout
            client.hello(timeout_s=min(timeout_s, FIRST_WORD_S_MAX))
        except NoReply as error:
            if not error.detail.get("attempts"):
                raise
        yield client
