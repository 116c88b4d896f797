"""`palyra-actors sessions …` and `palyra-actors runs …`."""

from dataclasses import fields
from typing import Annotated

import typer

from palyra_actors.api.operations import Operations
from palyra_actors.api.sessions import RunInfo, SessionInfo
from palyra_actors.cli import exits
from palyra_actors.cli.reach import connected
from palyra_actors.cli.shape import console, print_json
from palyra_actors.cli.tables import show_all, show_one

app = typer.Typer(name="sessions", help="Find, branch, archive and erase sessions.")
runs = typer.Typer(name="runs", help="Runs and their tapes.")

Id = Annotated[str, typer.Argument(help="The session's id.", metavar="SESSION")]
RunId = Annotated[str, typer.Argument(help="The run's id.", metavar="RUN")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")]

_SESSION = [each.name for each in fields(SessionInfo)]
_RUN = [each.name for each in fields(RunInfo)]


@app.command("list", epilog=exits.HELP)
@connected
def list_sessions(
    engine: Operations,
    query: Annotated[str | None, typer.Argument(help="Words of key or title.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="open or archived.")] = None,
    limit: Limit = None,
    as_json: bool = False,
) -> None:
    """Sessions in the order in which they came into being."""
    show_all(
        engine.sessions.list(query=query, status=status),
        {
            "session": "session_id", "key": "session_key", "title": "title", "status": "status",
            "events": "last_session_seq", "runs": "runs", "updated": "updated_ms",
        },
        as_json=as_json,
        limit=limit,
    )  # fmt: skip


@app.command("show", epilog=exits.HELP)
@connected
def show_session(engine: Operations, session: Id, as_json: bool = False) -> None:
    """What a session is; `palyra-actors show` reads it as a conversation."""
    show_one(engine.sessions.get(session), _SESSION, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def resolve(
    engine: Operations,
    key: Annotated[str, typer.Argument(help="The session's key.", metavar="KEY")],
    title: Annotated[str | None, typer.Option("--title")] = None,
    as_json: bool = False,
) -> None:
    """The session of that key, made if there is none."""
    session = engine.sessions.resolve(key, title=title)
    show_one(session.info(), _SESSION, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def rename(
    engine: Operations, session: Id, title: Annotated[str, typer.Argument()], as_json: bool = False
) -> None:
    """Give a session another title."""
    show_one(engine.sessions.open(session).rename(title), _SESSION, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def branch(
    engine: Operations,
    session: Id,
    *,
    at: Annotated[
        int | None, typer.Option("--at", min=0, help="After that session_seq.  [default: its last]")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The new session's key.")] = None,
    new: Annotated[
        str | None, typer.Option("--new", help="The new session's id.  [default: a new one]")
    ] = None,
    as_json: bool = False,
) -> None:
    """A session that goes on from another one, or from an earlier event of it."""
    made = engine.sessions.open(session).branch(at, new_session_id=new, session_key=key)
    show_one(made.info(), _SESSION, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def history(
    engine: Operations,
    session: Id,
    after: Annotated[int, typer.Option("--after", min=0, help="After that session_seq.")] = 0,
    limit: Limit = None,
    as_json: bool = False,
) -> None:
    """A session's events; those that a branch inherited come first."""
    show_all(
        engine.sessions.open(session).history(after=after),
        {"n": "stream_seq", "seq": "seq", "kind": "kind", "actor": "actor", "payload": "payload"},
        as_json=as_json,
        limit=limit,
    )


@app.command(epilog=exits.HELP)
@connected
def archive(engine: Operations, session: Id, as_json: bool = False) -> None:
    """Let a session take no more events."""
    show_one(engine.sessions.open(session).archive(), _SESSION, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def erase(
    engine: Operations,
    session: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: bool = False,
) -> None:
    """Destroy the payloads of all of a session's events, for good."""
    if not yes:
        typer.confirm(f"Destroy what session {session} holds, for good?", abort=True, err=True)
    erased = engine.sessions.open(session).erase()
    if as_json:
        print_json({"erased": erased})
    else:
        console().print(f"{erased:,} events erased")


@runs.command("list", epilog=exits.HELP)
@connected
def list_runs(
    engine: Operations,
    session: Annotated[str | None, typer.Option("--session", "-s")] = None,
    limit: Limit = None,
    as_json: bool = False,
) -> None:
    """Runs, of all sessions or of one."""
    show_all(
        engine.runs.list(session_id=session),
        {
            "run": "run_id", "state": "state", "created": "created_ms", "entries": "tape_entries",
            "reason": "reason", "session": "session_id", "ended": "ended_ms",
            "in": "model_tokens_in", "out": "model_tokens_out",
        },
        as_json=as_json,
        limit=limit,
    )  # fmt: skip


@runs.command("show", epilog=exits.HELP)
@connected
def show_run(engine: Operations, run: RunId, as_json: bool = False) -> None:
    """What a run is."""
    show_one(engine.runs.get(run), _RUN, as_json=as_json)


@runs.command(epilog=exits.HELP)
@connected
def start(
    engine: Operations,
    session: Id,
    run: Annotated[str | None, typer.Option("--run", help="Its id.  [default: a new one]")] = None,
    parent: Annotated[str | None, typer.Option("--parent", help="The run it belongs to.")] = None,
    as_json: bool = False,
) -> None:
    """Start a run, accepted."""
    made = engine.runs.start(session, run_id=run, parent_run_id=parent)
    show_one(made, _RUN, as_json=as_json)


@runs.command(epilog=exits.HELP)
@connected
def move(
    engine: Operations,
    run: RunId,
    to: Annotated[str, typer.Argument(help="in_progress, done, failed or cancelled.")],
    reason: Annotated[str | None, typer.Option("--reason")] = None,
    as_json: bool = False,
) -> None:
    """Move a run to its next state."""
    show_one(engine.runs.move(run, to, reason=reason), _RUN, as_json=as_json)


@runs.command(epilog=exits.HELP)
@connected
def cancel(
    engine: Operations,
    run: RunId,
    reason: Annotated[str | None, typer.Option("--reason")] = None,
    as_json: bool = False,
) -> None:
    """End a run as cancelled."""
    show_one(engine.runs.cancel(run, reason=reason), _RUN, as_json=as_json)


@runs.command(epilog=exits.HELP)
@connected
def tape(engine: Operations, run: RunId, as_json: bool = False) -> None:
    """A run's events as entries, its model's tokens joined."""
    show_all(
        engine.runs.tape(run),
        {"n": "tape_seq", "seq": "seq", "kind": "kind", "actor": "actor", "payload": "payload"},
        as_json=as_json,
    )
