"""The engine a command talks to: over its endpoint, or in this process on a file."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import typer

from palyra_actors.api.operations import Operations
from palyra_actors.cli.exits import reporting
from palyra_actors.client import ENDPOINT_DEFAULT, Client
from palyra_actors.errors import NoReply, NotFound

FIRST_WORD_S_MAX: Final = 10.0
"""For how long a command waits for an engine that was perhaps started together with it; a start
takes some seconds where the machine is busy or the file large."""

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
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", envvar="PALYRA_KEY_FILE", help="Your secret file, where the door is locked.",
        metavar="FILE",
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Wait this long for an answer.", metavar="S")
]

ENDPOINT: Final = ENDPOINT_DEFAULT
TIMEOUT_S: Final = 10.0
SERVER_KEY_VARIABLE: Final = "PALYRA_SERVER_KEY"
"""An engine's public key or the file with it, for a secret file that does not say it."""


@contextmanager
def engine_at(
    endpoint: str,
    db: Path | None,
    timeout_s: float,
    *,
    create: bool = False,
    key_file: Path | None = None,
) -> Iterator[Operations]:
    """The engine's operations, for as long as the block runs.

    Args:
        create: whether a database that is not there is made.
        key_file: the secret file of whoever asks, for a locked door.

    Raises:
        NoReply: nobody answers at the endpoint.
        NotFound: there is no such file.
        OpenRefused: the file may not be opened.
        Invalid: the key file cannot be used.
    """
    if db is not None:
        if not create and not db.exists():
            raise NotFound(f"there is no database {db}", field="--db")
        from palyra_actors.config import Config, CronConfig
        from palyra_actors.engine import Engine

        # for one command: jobs that are due meanwhile are for the engine that stays
        with Engine.open(db, Config(cron=CronConfig(enabled=False))) as engine:
            try:
                yield engine
            except BaseException:
                engine.abandon()  # one that was made for what was refused is in nobody's way
                raise
        return
    server_key = None if key_file is None else os.environ.get(SERVER_KEY_VARIABLE)
    with Client(endpoint, timeout_s=timeout_s, key_file=key_file, server_key=server_key) as client:
        try:
            # somebody who mistyped the endpoint should not wait for the whole timeout
            client.hello(timeout_s=min(timeout_s, FIRST_WORD_S_MAX))
        except NoReply as error:
            if not error.detail.get("attempts"):
                raise
        yield client


P = ParamSpec("P")

_CONNECTION: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("endpoint", Endpoint, ENDPOINT),
    ("db", Db, None),
    ("timeout", Timeout, TIMEOUT_S),
    ("key_file", KeyFile, None),
    ("as_json", Json, False),
)


def connected(command: Callable[Concatenate[Operations, P], None]) -> Callable[..., None]:
    """A command on an engine: it gets the connection's options beside its own.

    Its first parameter is the engine; `as_json` reaches it if it has a parameter of that name.
    What it raises is reported as `exits` says.
    """
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    wants_json = any(each.name == "as_json" for each in own)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        endpoint, db, timeout, key_file, as_json = (given.pop(name) for name, _, _ in _CONNECTION)
        with engine_at(endpoint, db, timeout, key_file=key_file) as engine:
            if wants_json:
                given["as_json"] = as_json
            command(engine, **given)  # type: ignore[call-arg]

    kept = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, kind, default in _CONNECTION
    ]
    every = [each for each in kept if each.name != "as_json"] + options
    reported = reporting(run)
    reported.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    reported.__annotations__ = {each.name: each.annotation for each in every}
    return reported
