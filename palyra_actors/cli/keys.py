"""`palyra-actors keys …`: who may come in through a locked door."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from palyra_actors.cli import exits
from palyra_actors.cli.exits import reporting
from palyra_actors.cli.reach import Json
from palyra_actors.cli.shape import console, plain, print_json
from palyra_actors.cli.tables import show_all
from palyra_actors.keys import ROLES, KeyFolder, read_public_key

app = typer.Typer(name="keys", help="Who may come in through a locked door, and as what.")

FOLDER: Final = Path("keys")
Folder = Annotated[
    Path,
    typer.Option("--keys", "-k", envvar="PALYRA_KEYS", help="The folder of key files."),
]
Name = Annotated[str, typer.Argument(help="A principal's name.", metavar="NAME")]


@app.command(epilog=exits.HELP)
@reporting
def new(
    name: Name,
    *,
    role: Annotated[
        str, typer.Option("--role", "-r", help="reader, writer or admin.", metavar="ROLE")
    ] = "writer",
    keys: Folder = FOLDER,
    as_json: Json = False,
) -> None:
    """Make a principal: what it needs is in one file, and that file is its secret.

    With the first one the engine's own keys are made. Nothing is ever overwritten.
    """
    if role not in ROLES:
        raise typer.BadParameter(f"one of {', '.join(ROLES)}", param_hint="--role")
    folder = KeyFolder(keys)
    secret: Any = folder.new(name, role)  # type: ignore[arg-type]
    server = read_public_key(folder.path / "server.pub")
    if as_json:
        print_json({"name": name, "role": role, "secret": str(secret), "server_key": server})
        return
    console().print(plain(f"{name} may come in as {role}. Its secret: {secret}"), soft_wrap=True)


@app.command("list", epilog=exits.HELP)
@reporting
def list_(keys: Folder = FOLDER, as_json: Json = False) -> None:
    """Who may come in, by name."""
    show_all(
        KeyFolder(keys).list(),
        {"name": "name", "role": "role", "public key": "public_key", "made": "created_ms"},
        as_json=as_json,
    )


@app.command(epilog=exits.HELP)
@reporting
def revoke(name: Name, keys: Folder = FOLDER, as_json: Json = False) -> None:
    """End a principal. An engine that runs cuts its connections within a second."""
    KeyFolder(keys).revoke(name)
    if as_json:
        print_json({"revoked": name})
        return
    console().print(plain(f"{name} may not come in any more"), soft_wrap=True)
