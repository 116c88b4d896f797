"""The commands and their options; what they do is in the modules beside."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from palyra_actors.cli import (
    approvals,
    bench,
    canvas,
    copies,
    cron,
    doctor,
    exits,
    keys,
    memory,
    reach,
    rebuild,
    sessions,
    top,
)
from palyra_actors.cli.exits import reporting
from palyra_actors.errors import NotFound

app = typer.Typer(
    name="palyra-actors",
    help="A durable, ordered event journal for agent runtimes.",
    epilog=exits.HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Session = Annotated[str | None, typer.Option("--session", "-s", help="A session's id.")]
Kinds = Annotated[list[str] | None, typer.Option("--kind", "-k", help="Only these; repeatable.")]


def _version(wanted: bool) -> None:
    if wanted:
        from palyra_actors import __version__

        typer.echo(__version__)
        raise typer.Exit(exits.OK)


for family in (
    sessions.app,
    sessions.runs,
    approvals.app,
    canvas.app,
    cron.app,
    memory.app,
    keys.app,
):
    app.add_typer(family)
app.command("verify-export", epilog=exits.HELP)(approvals.verify_export)
app.command("bench", epilog=exits.HELP)(reach.connected(bench.bench))
app.command("top", epilog=exits.HELP)(reach.connected(top.top))
app.command("rebuild", epilog=exits.HELP)(rebuild.rebuild)
app.command("doctor", epilog=exits.HELP)(doctor.doctor)
for name, command in copies.COMMANDS.items():
    app.command(name, epilog=exits.HELP)(command)


@app.callback()
def palyra(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and end.")
    ] = False,
) -> None:
    pass


@app.command(epilog=exits.HELP)
@reporting
def serve(
    *,
    db: Annotated[Path | None, typer.Option("--db", help="The database file.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", "-e", envvar="PALYRA_ENDPOINT", help="Where to listen."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A TOML file.", exists=True)
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", help="Serve Prometheus there; off by default.", metavar="HOST:PORT"
        ),
    ] = None,
    beyond_loopback: Annotated[
        bool,
        typer.Option("--metrics-beyond-loopback", help="Other machines may read the metrics."),
    ] = False,
    log_format: Annotated[
        str | None, typer.Option("--log-format", help="console or json.", metavar="FORMAT")
    ] = None,
    key_folder: Annotated[
        Path | None,
        typer.Option(
            "--keys", envvar="PALYRA_KEYS", help="Lock the door: the folder of key files."
        ),
    ] = None,
) -> None:
    """Run an engine until SIGTERM or SIGINT.

    Prints one line, `ready endpoint=… db=… head=…`, when it accepts requests; logs to standard
    error.
    """
    from palyra_actors.cli.serve import Wishes
    from palyra_actors.cli.serve import serve as run

    run(
        Wishes(
            db=db,
            endpoint=endpoint,
            config=config,
            metrics=metrics,
            beyond_loopback=beyond_loopback,
            log_format=log_format,
            keys=key_folder,
        )
    )


@app.command(epilog=exits.HELP)
@reporting
def append(
    payload: Annotated[
        str | None, typer.Argument(help="A JSON object; or '-': events from standard input.")
    ] = None,
    *,
    session: Session = None,
    kind: Annotated[str, typer.Option("--kind", "-k")] = "message_received",
    actor: Annotated[str, typer.Option("--actor", "-a")] = "user",
    text: Annotated[
        str | None, typer.Option("--text", "-t", help='Short for the payload {"text": …}.')
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="The run's id.")] = None,
    event_id: Annotated[
        str | None,
        typer.Option(
            "--event-id", help="Its id, and its time with it: twice the same is stored once."
        ),
    ] = None,
    expected: Annotated[
        int | None,
        typer.Option("--expect", help="The session's last session_seq, 0 for none.", min=0),
    ] = None,
    budget_ms: Annotated[int | None, typer.Option("--budget-ms", min=0)] = None,
    endpoint: reach.Endpoint = reach.ENDPOINT,
    db: reach.Db = None,
    key_file: reach.KeyFile = None,
    timeout: reach.Timeout = reach.TIMEOUT_S,
    as_json: reach.Json = False,
) -> None:
    """Store one event; or many, as JSON lines from standard input. A line that does not say its
    session, kind, actor or run has those of the options."""
    from palyra_actors.cli import writing

    if payload == "-":
        for value, name in ((text, "--text"), (event_id, "--event-id"), (expected, "--expect")):
            if value is not None:
                raise typer.BadParameter("it is for one event and not for '-'", param_hint=name)
        with reach.engine_at(endpoint, db, timeout, key_file=key_file, create=True) as engine:
            given = {"session_id": session, "run_id": run, "kind": kind, "actor": actor}
            missing = {key: value for key, value in given.items() if value is not None}
            writing.append_lines(
                engine, sys.stdin.buffer, missing=missing, budget_ms=budget_ms or 0, as_json=as_json
            )
        return
    if (payload is None) == (text is None):
        raise typer.BadParameter("give either a payload or --text", param_hint="payload")
    content: Any = {"text": text} if payload is None else writing.parse_object(payload)
    with reach.engine_at(endpoint, db, timeout, key_file=key_file, create=True) as engine:
        writing.append_one(
            engine,
            {
                "session_id": session,
                "run_id": run,
                "event_id": event_id,
                "kind": kind,
                "actor": actor,
                "payload": content,
            },
            expected=expected,
            budget_ms=budget_ms,
            as_json=as_json,
        )


@app.command(epilog=exits.HELP)
@reporting
def tail(
    *,
    after: Annotated[
        int | None,
        typer.Option("--from", help="Begin after this seq, 0 for all.  [default: now]", min=0),
    ] = None,
    session: Session = None,
    kind: Kinds = None,
    count: Annotated[int | None, typer.Option("--count", "-n", help="End after so many.")] = None,
    endpoint: reach.Endpoint = reach.ENDPOINT,
    db: reach.Db = None,
    key_file: reach.KeyFile = None,
    timeout: reach.Timeout = reach.TIMEOUT_S,
    as_json: reach.Json = False,
) -> None:
    """Follow the journal, live. On a file (`--db`) it ends where the file does."""
    from palyra_actors.cli import reading

    with reach.engine_at(endpoint, db, timeout, key_file=key_file) as engine:
        reading.tail(
            engine,
            after=after,
            session=session,
            kinds=kind,
            count=count,
            follow=db is None,
            as_json=as_json,
        )


@app.command(epilog=exits.HELP)
@reporting
def show(
    session: Annotated[str, typer.Argument(help="A session's id.", metavar="SESSION")],
    *,
    full: Annotated[bool, typer.Option("--full", help="Long texts to their end.")] = False,
    endpoint: reach.Endpoint = reach.ENDPOINT,
    db: reach.Db = None,
    key_file: reach.KeyFile = None,
    timeout: reach.Timeout = reach.TIMEOUT_S,
    as_json: reach.Json = False,
) -> None:
    """Read a session back as a conversation; with --json its events, a line each."""
    from palyra_actors.cli import reading

    with reach.engine_at(endpoint, db, timeout, key_file=key_file) as engine:
        if not reading.show(engine, session, full=full, as_json=as_json):
            raise NotFound("this session has no events", field="SESSION")


@app.command(epilog=exits.HELP)
@reporting
def verify(
    *,
    from_seq: Annotated[int | None, typer.Option("--from", min=1)] = None,
    to_seq: Annotated[int | None, typer.Option("--to", min=1)] = None,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="A head kept elsewhere that has to be in it: SEQ:HASH."),
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="With --db: its anchor, if not beside it.")
    ] = None,
    endpoint: reach.Endpoint = reach.ENDPOINT,
    db: reach.Db = None,
    key_file: reach.KeyFile = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, metavar="S")] = 600.0,
    as_json: reach.Json = False,
) -> None:
    """Recompute the hash chain, and hold it against the anchor. Ends with 5 where it does not hold.

    With --db it only reads the file, whether an engine runs on it or refuses to.
    """
    from palyra_actors.cli import reading

    head = None if expect is None else reading.parse_head(expect)
    if db is None:
        with reach.engine_at(endpoint, db, timeout, key_file=key_file) as engine:
            found = engine.verify(from_seq=from_seq, to_seq=to_seq, expect=head, timeout_s=timeout)
    else:
        found = reading.verify_file(db, anchor, from_seq, to_seq, head)
    if not reading.show_verification(found, as_json=as_json):
        raise typer.Exit(exits.DAMAGED)


@app.command(epilog=exits.HELP)
@reporting
def stats(
    endpoint: reach.Endpoint = reach.ENDPOINT,
    db: reach.Db = None,
    key_file: reach.KeyFile = None,
    timeout: reach.Timeout = reach.TIMEOUT_S,
    as_json: reach.Json = False,
) -> None:
    """The engine's health and counters."""
    from palyra_actors.cli import reading

    with reach.engine_at(endpoint, db, timeout, key_file=key_file) as engine:
        reading.stats(engine, as_json=as_json)


@app.command("import", epilog=exits.HELP)
@reporting
def import_files(
    files: Annotated[
        list[Path], typer.Argument(help="JSON or JSON lines; .traj of SWE-agent.", metavar="FILES")
    ],
    *,
    endpoint: reach.Endpoint = reach.ENDPOINT,
    db: reach.Db = None,
    key_file: reach.KeyFile = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, metavar="S")] = 60.0,
    as_json: reach.Json = False,
) -> None:
    """Store recorded agent runs: trajectories, chats, events.

    Ids come from the files' content: importing a file again adds nothing, and an import that was
    interrupted goes on where it stopped. What `export` wrote becomes a new database (--db) with the
    same chain.
    """
    from palyra_actors.cli import writing

    if len(files) == 1 and copies.is_export(files[0]):
        copies.import_journal(files[0], db, as_json=as_json)
        return

    with reach.engine_at(endpoint, db, timeout, key_file=key_file, create=True) as engine:
        writing.import_files(engine, files, as_json=as_json)


@app.command(epilog=exits.HELP)
@reporting
def demo(
    db: Annotated[Path | None, typer.Option("--db", help="Keep it in this file.")] = None,
    agents: Annotated[int, typer.Option("--agents", min=1, max=32)] = 4,
    as_json: reach.Json = False,
) -> None:
    """An engine and a few agents at work on it, then what they wrote, verified."""
    from palyra_actors.cli.demo import demo as run

    if not run(db, agents, as_json=as_json):
        raise typer.Exit(exits.DAMAGED)
