"""A few agents at work on one engine, over real sockets; then what is in the file.

Each agent is a thread with a client of its own: it hears a question, thinks in tokens, calls a
tool, lets slip a password, and answers. At the end the engine is closed and the file opened again,
and the chain is recomputed.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from palyra_actors.api.events import Event, new_id
from palyra_actors.api.operations import Operations
from palyra_actors.api.results import Verification
from palyra_actors.cli.shape import console, print_json, size
from palyra_actors.cli.show import print_conversation
from palyra_actors.client import Client
from palyra_actors.engine import Engine

THREAD_S_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Exchange:
    question: str
    command: str
    output: str
    answer: str


_WORK: Final = (
    _Exchange(
        "Which tests fail?",
        "env | grep DB; pytest -q",
        "DB_PASSWORD=hunter2\n2 failed, 118 passed",
        "Two tests fail, both in parse().",
    ),
    _Exchange(
        "Why?", "git diff HEAD~1 parse.py", "-    if not text:\n+    if text:", "A lost `not`."
    ),
    _Exchange(
        "Fix it.", "pytest -q", "120 passed in 1.4s", "Done: the condition is back, tests pass."
    ),
)


def demo(db: Path | None, agents: int, *, as_json: bool) -> bool:
    """Runs it; whether the chain holds in the end."""
    with contextlib.ExitStack() as stack:
        if db is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="palyra-demo-"))
            db = Path(folder) / "palyra.db"
        begun = time.monotonic()
        with Engine.open(db) as engine:
            endpoint = engine.serve("tcp://127.0.0.1:0")
            sessions = _work(endpoint, agents)
            took_s = time.monotonic() - begun
            stats = engine.stats()
        # what was acknowledged has to be there when the engine is not
        with Engine.open(db) as engine:
            found = engine.verify()
            events = [len(list(engine.sessions.open(each).events())) for each in sessions]
            if as_json:
                print_json(
                    {
                        "sessions": dict(zip(sessions, events, strict=True)),
                        "verification": found,
                        "latency_ms": stats.latency_ms,
                    }
                )
            else:
                _print(engine, dict(zip(sessions, events, strict=True)), found, db, took_s)
    return found.valid


def _work(endpoint: str, agents: int) -> list[str]:
    sessions = [new_id() for _ in range(agents)]
    failures: list[Exception] = []

    def agent(session_id: str) -> None:
        try:
            with Client(endpoint) as client:
                for exchange in _WORK:
                    for events in _requests(session_id, exchange):
                        client.append(events)
        except Exception as error:  # noqa: BLE001 - raised again by the thread that started it
            failures.append(error)

    threads = [threading.Thread(target=agent, args=(each,)) for each in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(THREAD_S_MAX)
    if failures:
        raise failures[0]
    return sessions


def _requests(session_id: str, exchange: _Exchange) -> Iterator[list[Event]]:
    """One question and its run, request by request."""
    run_id = new_id()

    def event(kind: str, actor: str, **payload: Any) -> Event:
        return Event(session_id, kind, payload, actor, run_id)

    def tokens(text: str) -> list[Event]:
        return [event("model_token", "agent", token=f"{word} ") for word in text.split()]

    yield [event("message_received", "user", text=exchange.question)]
    yield tokens("Let me look.")
    yield [event("tool_proposed", "agent", tool="shell", arguments=exchange.command)]
    yield [event("tool_executed", "plugin", tool="shell", output=exchange.output)]
    yield tokens(exchange.answer)
    yield [event("run_completed", "system", text="ok")]


def _print(
    engine: Operations, sessions: dict[str, int], found: Verification, db: Path, took_s: float
) -> None:
    terminal = console()
    session_id = next(iter(sessions))
    print_conversation(terminal, session_id, engine.sessions.open(session_id).events(), full=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("session", style="bold")
    table.add_column("events", justify="right")
    for each, count in sessions.items():
        table.add_row(each, f"{count:,}")
    terminal.print()
    terminal.print(table)
    total = sum(sessions.values())
    terminal.print(
        Text(
            f"\n{total:,} events of {len(sessions)} agents in {took_s:.2f} s, each acknowledged"
            f" after it was on disk; {size(db.stat().st_size)}"
        ),
        soft_wrap=True,
    )
    line = Text("chain valid" if found.valid else "chain damaged")
    line.stylize("bold green" if found.valid else "bold red")
    line.append(
        f" after closing and opening the file: {found.checked:,} events,"
        f" head {found.head.seq}:{found.head.hash.hex()[:16]}…",
        style="not bold default",
    )
    terminal.print(line, soft_wrap=True)
