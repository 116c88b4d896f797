"""`palyra-actors canvas …`."""

import json
import sys
from itertools import islice
from typing import Annotated, Any

import typer

from palyra_actors.api.canvases import same_state
from palyra_actors.api.operations import Operations
from palyra_actors.cli import exits
from palyra_actors.cli.reach import connected
from palyra_actors.cli.shape import console, parse_json, plain, print_json, to_json
from palyra_actors.cli.tables import show_all, show_one

app = typer.Typer(name="canvas", help="Shared states, their versions and what led to them.")

Id = Annotated[str, typer.Argument(help="The canvas's id.", metavar="CANVAS")]
_SHOWN = (
    "canvas_id", "session_id", "version", "schema_version", "closed", "close_reason",
    "created_ms", "updated_ms", "expires_ms",
)  # fmt: skip


@app.command(epilog=exits.HELP)
@connected
def show(
    engine: Operations,
    canvas: Id,
    version: Annotated[int | None, typer.Option("--version", min=1)] = None,
    as_json: bool = False,
) -> None:
    """A canvas as it is, or was at a version."""
    found = engine.canvases.open(canvas).get(version)
    show_one(found, _SHOWN, as_json=as_json)
    if not as_json:
        console().print(plain(_pretty(found.state)), soft_wrap=True)


@app.command(epilog=exits.HELP)
@connected
def create(
    engine: Operations,
    session: Annotated[str, typer.Argument(help="The session's id.", metavar="SESSION")],
    state: Annotated[str, typer.Argument(help="A JSON object.")],
    *,
    canvas: Annotated[str | None, typer.Option("--canvas", help="Its id.  [default: new]")] = None,
    expires_ms: Annotated[
        int | None, typer.Option("--expires-ms", min=0, help="When it closes by itself.")
    ] = None,
    as_json: bool = False,
) -> None:
    """Make a canvas of a state."""
    made = engine.canvases.create(
        session, parse_json(state, "state"), canvas_id=canvas, expires_ms=expires_ms
    )
    show_one(made.get(), _SHOWN, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def patch(
    engine: Operations,
    canvas: Id,
    version: Annotated[int, typer.Argument(help="The version that it is for.", min=1)],
    operations: Annotated[str, typer.Argument(help="A JSON Patch (RFC 6902).", metavar="PATCH")],
    as_json: bool = False,
) -> None:
    """Apply a patch, all of it or nothing."""
    handle = engine.canvases.open(canvas)
    handle.patch(version, parse_json(operations, "patch"))
    show_one(handle.get(), _SHOWN, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def replace(
    engine: Operations,
    canvas: Id,
    version: Annotated[int, typer.Argument(help="The version that it is for.", min=1)],
    state: Annotated[str, typer.Argument(help="A JSON object.")],
    as_json: bool = False,
) -> None:
    """Put another state in its place; stored as what differs, if that is smaller."""
    handle = engine.canvases.open(canvas)
    handle.replace(version, parse_json(state, "state"))
    show_one(handle.get(), _SHOWN, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def fork(
    engine: Operations,
    canvas: Id,
    at: Annotated[int | None, typer.Option("--at", help="A version.  [default: now]")] = None,
    as_json: bool = False,
) -> None:
    """Make a canvas that begins as this one is, or was."""
    show_one(engine.canvases.open(canvas).fork(at).get(), _SHOWN, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def close(
    engine: Operations,
    canvas: Id,
    reason: Annotated[str | None, typer.Option("--reason")] = None,
    as_json: bool = False,
) -> None:
    """Let a canvas take no more patches."""
    show_one(engine.canvases.open(canvas).close(reason=reason), _SHOWN, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def watch(
    engine: Operations,
    canvas: Id,
    *,
    count: Annotated[int | None, typer.Option("--count", "-n", help="End after so many.")] = None,
    ag_ui: Annotated[
        bool, typer.Option("--ag-ui", help="As AG-UI events, a text/event-stream.")
    ] = False,
    after_seq: Annotated[
        int | None, typer.Option("--after-seq", min=0, help="With --ag-ui: behind that id.")
    ] = None,
    as_json: bool = False,
) -> None:
    """Follow a canvas, live: its state after each change, until it is closed."""
    if ag_ui:
        from palyra_actors.api import agui

        events = agui.stream(engine.canvases.open(canvas), after_seq=after_seq)
        for told in islice(agui.server_sent(events), count):
            sys.stdout.write(told)
            sys.stdout.flush()
        return
    for number, (version, state) in enumerate(engine.canvases.open(canvas).watch(), 1):
        if as_json:
            print_json({"version": version, "state": state})
        else:
            console().print(f"version {version}", style="bold")
            console().print(plain(_pretty(state)), soft_wrap=True)
        if number == count:
            return
    found = engine.canvases.open(canvas).get()
    if as_json:
        print_json({"version": found.version, "closed": True, "close_reason": found.close_reason})
    else:
        console().print(plain(f"closed: {found.close_reason or 'no reason given'}"), style="bold")


@app.command(epilog=exits.HELP)
@connected
def history(
    engine: Operations,
    canvas: Id,
    after: Annotated[int | None, typer.Option("--after", min=1)] = None,
    as_json: bool = False,
) -> None:
    """The patches that led from version to version."""
    show_all(
        engine.canvases.open(canvas).history(after_version=after),
        {"version": "version", "by": "principal", "at": "ts_ms", "patch": "patch"},
        as_json=as_json,
    )


@app.command(epilog=exits.HELP)
@connected
def diff(
    engine: Operations,
    canvas: Id,
    before: Annotated[int, typer.Argument(help="A version.", metavar="A")],
    after: Annotated[int, typer.Argument(help="Another one.", metavar="B")],
    as_json: bool = False,
) -> None:
    """What differs between two versions: as a patch, or line by line."""
    one = engine.canvases.open(canvas).get(before).state
    other = engine.canvases.open(canvas).get(after).state
    if as_json:
        from palyra_actors.domain.document import smaller_patch

        print_json([] if same_state(one, other) else smaller_patch(one, other))
        return
    import difflib

    lines = difflib.unified_diff(
        _pretty(one).splitlines(),
        _pretty(other).splitlines(),
        f"version {before}",
        f"version {after}",
        lineterm="",
    )
    for line in lines:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        console().print(plain(line), style=style, soft_wrap=True)


@app.command(epilog=exits.HELP)
@connected
def compact(engine: Operations, canvas: Id, as_json: bool = False) -> None:
    """Drop all versions but the present one."""
    found = engine.canvases.open(canvas).compact()
    found.pop("timing", None)
    if as_json:
        print_json(found)
        return
    console().print(
        f"{found['patches_dropped']:,} patches dropped;"
        f" {found['bytes_before']:,} bytes became {found['bytes_after']:,}"
    )


def _pretty(state: Any) -> str:
    return json.dumps(to_json(state), ensure_ascii=False, indent=2, sort_keys=True)
