"""A few agents at work on one engine, over real sockets; then what is in the file.

Each agent is a thread with a client of its own: it hears a question, thinks in tokens, asks a
person before it calls a tool, lets slip a password, answers, marks what it did on a canvas that all
share, and remembers it. Meanwhile a job falls due. At the end the engine is closed and the file
opened again, and the chain is recomputed.
"""

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from palyra_actors.api.cron import CronRunInfo
from palyra_actors.api.events import Event, new_id
from palyra_actors.api.memories import Hit
from palyra_actors.api.operations import Operations
from palyra_actors.api.results import Verification
from palyra_actors.api.worker import RunContext
from palyra_actors.cli.shape import console, print_json, size
from palyra_actors.cli.show import print_conversation
from palyra_actors.client import Client
from palyra_actors.engine import Engine

THREAD_S_MAX: Final = 30.0
JOB_IN_MS: Final = 50
QUERY: Final = "which tests were failing"


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


@dataclass(frozen=True, slots=True)
class _Told:
    """What was acknowledged, as the engine tells it after it was closed and opened again."""

    sessions: dict[str, int]
    board: dict[str, Any]
    edits: int
    allowed: int
    memory: Hit
    job: CronRunInfo
    verification: Verification


def demo(db: Path | None, agents: int, *, as_json: bool) -> bool:
    """Runs it; whether the chain holds in the end."""
    with contextlib.ExitStack() as stack:
        if db is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="palyra-demo-"))
            db = Path(folder) / "palyra.db"
        begun = time.monotonic()
        with Engine.open(db) as engine:
            play = _Play(engine.serve("tcp://127.0.0.1:0"), [new_id() for _ in range(agents)])
            play.run()
            took_s = time.monotonic() - begun
            stats = engine.stats()
        # what was acknowledged has to be there when the engine is not
        with Engine.open(db) as engine:
            told = play.ask(engine)
            if as_json:
                print_json({**dataclasses.asdict(told), "latency_ms": stats.latency_ms})
            else:
                _print(engine, told, db, took_s)
    return told.verification.valid


class _Play:
    """The agents, what they share, and who is asked."""

    def __init__(self, endpoint: str, sessions: list[str]) -> None:
        self._endpoint = endpoint
        self._sessions = sessions
        self._canvas_id = new_id()
        self._job_id = new_id()
        self._failures: list[Exception] = []

    def run(self) -> None:
        """Have all agents do their work, and the job its own."""
        with Client(self._endpoint) as client:
            client.canvases.create(self._sessions[0], {"done": {}}, canvas_id=self._canvas_id)
            client.cron.handle("digest", self._digest)
            due_ms = time.time_ns() // 1_000_000 + JOB_IN_MS
            client.cron.create(
                "digest", {"at_ms": due_ms}, job_id=self._job_id, session_key="digests"
            )
            threads = [
                threading.Thread(target=self._agent, args=(each,)) for each in self._sessions
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(THREAD_S_MAX)
            with client.subscribe(after_seq=0, kinds=["cron.run_finished"]) as finished:
                next(finished)
        if self._failures:
            raise self._failures[0]

    def ask(self, engine: Operations) -> _Told:
        """What is left of it."""
        canvas = engine.canvases.open(self._canvas_id).get()
        return _Told(
            sessions={
                each: len(list(engine.sessions.open(each).events())) for each in self._sessions
            },
            board=canvas.state,
            edits=canvas.version - 1,
            allowed=len(list(engine.approvals.list(decision="allow"))),
            memory=engine.memories.search(QUERY, top_k=1)[0],
            job=next(engine.cron.runs(self._job_id)),
            verification=engine.verify(),
        )

    def _agent(self, session_id: str) -> None:
        try:
            with Client(self._endpoint) as client:
                for exchange in _WORK:
                    for events in _requests(session_id, exchange):
                        client.append(events)
                        if events[0].kind == "tool_proposed":
                            _may_it(client, session_id, events[0], exchange)
                    self._mark(client, session_id, exchange)
                    client.memories.add(
                        f"{exchange.question} {exchange.answer}", session_id=session_id
                    )
        except Exception as error:  # noqa: BLE001 - raised again by the thread that started it
            self._failures.append(error)

    def _mark(self, client: Operations, session_id: str, exchange: _Exchange) -> None:
        """On the canvas, whoever else edits it at the moment."""

        def mark(state: Any) -> Any:
            state["done"][session_id] = exchange.question
            return state

        client.canvases.open(self._canvas_id).edit(mark)

    def _digest(self, run: RunContext) -> None:
        text = f"{len(self._sessions)} agents are at work"
        run.session().append("message_received", {"text": text}, actor="system")


def _may_it(client: Operations, session_id: str, event: Event, exchange: _Exchange) -> None:
    """A person is asked, and allows it."""
    asked = client.approvals.request(
        session_id, "tool", "shell", exchange.command, run_id=event.run_id
    )
    client.approvals.decide(asked.approval_id, "allow")


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


def _print(engine: Operations, told: _Told, db: Path, took_s: float) -> None:
    terminal = console()
    session_id = next(iter(told.sessions))
    print_conversation(terminal, session_id, engine.sessions.open(session_id).events(), full=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("session", style="bold")
    table.add_column("events", justify="right")
    table.add_column("last on the shared canvas")
    for each, count in told.sessions.items():
        table.add_row(each, f"{count:,}", told.board["done"].get(each, "-"))
    terminal.print()
    terminal.print(table)
    late_ms = (told.job.started_ms or 0) - told.job.scheduled_ms
    total = sum(told.sessions.values())
    for said in (
        "",
        f"canvas     {told.edits} edits, one after the other",
        f"approvals  {told.allowed} commands were asked for and allowed",
        f"memory     “{QUERY}” finds: {told.memory.item.content} ({told.memory.score:.2f})",
        f"cron       the job was due once, started {late_ms} ms later and {told.job.status}",
        "",
        f"{total:,} events of {len(told.sessions)} agents in {took_s:.2f} s, each acknowledged"
        f" after it was on disk; {size(db.stat().st_size)}",
    ):
        terminal.print(Text(said), soft_wrap=True)
    found = told.verification
    line = Text("chain valid" if found.valid else "chain damaged")
    line.stylize("bold green" if found.valid else "bold red")
    line.append(
        f" after closing and opening the file: {found.checked:,} events,"
        f" head {found.head.seq}:{found.head.hash.hex()[:16]}…",
        style="not bold default",
    )
    terminal.print(line, soft_wrap=True)
