"""`palyra-actors memory …`."""

from typing import Annotated

import typer

from palyra_actors.api.memories import Hit
from palyra_actors.api.operations import Operations
from palyra_actors.cli import exits
from palyra_actors.cli.reach import connected
from palyra_actors.cli.shape import console, moment, plain, print_json
from palyra_actors.cli.tables import show_one

app = typer.Typer(name="memory", help="What is remembered: kept, found and forgotten.")

Id = Annotated[str, typer.Argument(help="The memory's id.", metavar="MEMORY")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Repeatable.")]
Session = Annotated[str | None, typer.Option("--session", "-s", help="A session's id.")]
Channel = Annotated[str | None, typer.Option("--channel")]
_SHOWN = (
    "memory_id", "principal", "channel", "session_id", "source", "tags", "confidence",
    "created_ms", "updated_ms", "expires_ms", "superseded_by", "from_event_id",
)  # fmt: skip
_BAR = 20


@app.command(epilog=exits.HELP)
@connected
def add(
    engine: Operations,
    content: Annotated[str, typer.Argument(help="The text to remember.", metavar="TEXT")],
    *,
    tag: Tags = None,
    session: Session = None,
    channel: Channel = None,
    source: Annotated[str, typer.Option("--source")] = "manual",
    confidence: Annotated[float | None, typer.Option("--confidence", min=0, max=1)] = None,
    expires_ms: Annotated[
        int | None, typer.Option("--expires-ms", min=0, help="When it is forgotten.")
    ] = None,
    from_event: Annotated[
        str | None, typer.Option("--from-event", help="The event that it comes from.")
    ] = None,
    as_json: bool = False,
) -> None:
    """Keep a text; the same text again is the same memory."""
    memory = engine.memories.add(
        content, source=source, tags=tag, session_id=session, channel=channel,
        confidence=confidence, expires_ms=expires_ms, from_event_id=from_event,
    )  # fmt: skip
    if as_json:
        print_json(memory)
    else:
        said = "already remembered as" if memory.duplicate else "remembered"
        redacted = "" if memory.content == content else "  redacted"
        console().print(f"{said} {memory.memory_id}{redacted}")


@app.command(epilog=exits.HELP)
@connected
def search(
    engine: Operations,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    *,
    mode: Annotated[str, typer.Option("--mode", help="hybrid, vector or lexical.")] = "hybrid",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=64)] = 8,
    min_score: Annotated[float | None, typer.Option("--min-score", min=0, max=1)] = None,
    tag: Tags = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Repeatable: any of them.")
    ] = None,
    session: Session = None,
    channel: Channel = None,
    as_of_ms: Annotated[
        int | None, typer.Option("--as-of-ms", min=0, help="What was known then.")
    ] = None,
    as_json: bool = False,
) -> None:
    """What is remembered about something, best first, and why each of it came."""
    if not query.strip():
        raise typer.BadParameter("say what to look for", param_hint="QUERY")
    hits = engine.memories.search(
        query, mode=mode, top_k=count, min_score=min_score, tags=tag, sources=source,
        session_id=session, channel=channel, as_of_ms=as_of_ms,
    )  # fmt: skip
    if hits.note is not None:
        console(stderr=True).print(plain(hits.note), soft_wrap=True)
    for hit in hits:
        if as_json:
            print_json(hit)
        else:
            _show_hit(hit)
    if not hits and not as_json:
        console().print("nothing is remembered about it")


@app.command(epilog=exits.HELP)
@connected
def show(engine: Operations, memory: Id, as_json: bool = False) -> None:
    """One memory, whole."""
    found = engine.memories.get(memory)
    show_one(found, _SHOWN, as_json=as_json)
    if not as_json:
        console().print(plain(found.content), soft_wrap=True)


@app.command(epilog=exits.HELP)
@connected
def purge(
    engine: Operations,
    session: Session = None,
    channel: Channel = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything that this principal remembers.")
    ] = False,
    as_json: bool = False,
) -> None:
    """Destroy all of a session, of a channel, or everything: there is no way back."""
    if [session is not None, channel is not None, everything].count(True) != 1:
        raise typer.BadParameter("exactly one is needed", param_hint="--session, --channel, --all")
    deleted = engine.memories.purge(session_id=session, channel=channel, everything=everything)
    if as_json:
        print_json({"deleted": deleted})
    else:
        console().print(f"{deleted:,} {'memory' if deleted == 1 else 'memories'} destroyed")


@app.command(epilog=exits.HELP)
@connected
def stats(engine: Operations, as_json: bool = False) -> None:
    """How much is remembered, and what has no vector yet."""
    found = engine.memories.stats()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = moment(value) if name.endswith("_ms") and value is not None else value
        label = name.removesuffix("_ms").replace("_", " ")
        console().print(plain(f"{label}: {'-' if shown is None else shown}"))


def _show_hit(hit: Hit) -> None:
    """The score, what it is made of, and the stretch of the text that has most of the words."""
    parts = f"words {hit.lexical:.2f}  meaning {hit.vector:.2f}  new {hit.recency:.2f}"
    bar = "█" * round(hit.score * _BAR)
    console().print(f"{hit.score:.3f} {bar:<{_BAR}} {parts}", style="bold", soft_wrap=True)
    tags = " ".join(hit.item.tags)
    about = f"  {hit.item.memory_id}  {moment(hit.item.created_ms)}  {hit.item.source}  {tags}"
    console().print(plain(about.rstrip()), style="dim", soft_wrap=True)
    console().print(plain("  " + hit.snippet.replace("\n", "\n  ")), soft_wrap=True)
