"""A short measurement of a running engine, through the Python client: what a program would get.

    one      one event in flight, in one session
    singles  64 requests of one event in flight, over 64 sessions
    batches  8 requests of 64 events in flight, over 8 sessions
    read     pages of 100 of the events that were written

The events stay in the journal, in sessions with the title `bench`, the same ones each time.
Latencies are those that the engine says itself (`timing.total_ms`), except for `read` and
`round_trip_p50_ms`, which are the client's. The benches in `bench/` measure without its share.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from palyra_actors.api.events import Event
from palyra_actors.api.operations import Operations
from palyra_actors.api.results import AppendResult
from palyra_actors.cli.shape import console, print_json

SHAPES: Final[dict[str, tuple[int, int, int]]] = {
    "one": (1, 1, 1),
    "singles": (64, 1, 64),
    "batches": (8, 64, 8),
}
"""Requests in flight, events in each, sessions."""

PAGE_EVENTS: Final = 100
PAYLOAD: Final = {
    "tool": "bash",
    "args": {"command": "ls -la src", "timeout": 30},
    "output": "x" * 180,
}
Step = Callable[[float], None]
"""Told how much of a part is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One part. `overloaded` counts every caller's refusals meanwhile; a client tries again."""

    part: str
    events_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    round_trip_p50_ms: float
    over_budget: float
    overloaded: int
    events: int
    seconds: float


def bench(
    engine: Operations,
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, max=600, help="Of each part.")
    ] = 3.0,
    as_json: bool = False,
) -> None:
    """Measure a running engine for a few seconds. What is written for it stays in the journal."""
    parts = [*SHAPES, "read"]
    found: list[Measured] = []
    with _progress(len(parts), shown=not as_json) as begin:
        written: list[str] = []
        for part in parts:
            step = begin(part)
            if part == "read":
                found.append(_read(engine, written, seconds, step))
            else:
                found.append(_write(engine, part, written, seconds, step))
            step(1.0)
            if as_json:
                print_json(found[-1])
    if not as_json:
        _show(found, engine.stats().budget_ms)


def _write(
    engine: Operations, part: str, written: list[str], seconds: float, step: Step
) -> Measured:
    in_flight, events_max, count = SHAPES[part]
    sessions = [
        engine.sessions.resolve(f"bench {part} {number}", title="bench").session_id
        for number in range(count)
    ]
    written += sessions
    totals: list[float] = []
    round_trips: list[float] = []
    late = 0

    def take(result: AppendResult) -> None:
        nonlocal late
        totals.append(result.timing.total_ms)
        late += not result.timing.within_budget

    def events() -> Iterator[list[Event]]:
        number = 0
        while True:
            session = sessions[number % count]
            yield [Event(session, "tool_executed", PAYLOAD) for _ in range(events_max)]
            number += 1

    before = engine.stats().number("appends", "overloaded")
    began = time.perf_counter()
    source = events()
    if in_flight == 1:
        while (elapsed := time.perf_counter() - began) < seconds:
            sent = time.perf_counter()
            take(engine.append(next(source)))
            round_trips.append((time.perf_counter() - sent) * 1000)
            step(elapsed / seconds)
    else:
        with engine.batch(
            events_max=events_max, in_flight=in_flight, budget_ms=None, on_result=take
        ) as batch:
            while (elapsed := time.perf_counter() - began) < seconds:
                for event in next(source):
                    batch.add(event)
                step(elapsed / seconds)
    took = time.perf_counter() - began
    overloaded = engine.stats().number("appends", "overloaded") - before
    return _summed(
        part, totals, round_trips, events_each=events_max, seconds=took, late=late,
        overloaded=int(overloaded),
    )  # fmt: skip


def _read(engine: Operations, sessions: list[str], seconds: float, step: Step) -> Measured:
    times: list[float] = []
    events, number, began = 0, 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        sent = time.perf_counter()
        session = sessions[number % len(sessions)]
        events += len(engine.read(session_id=session, limit=PAGE_EVENTS).events)
        times.append((time.perf_counter() - sent) * 1000)
        number += 1
        step(elapsed / seconds)
    took = time.perf_counter() - began
    return _summed("read", times, times, events_each=events / max(1, len(times)), seconds=took)


def _summed(
    part: str,
    totals: list[float],
    round_trips: list[float],
    *,
    events_each: float,
    seconds: float,
    late: int = 0,
    overloaded: int = 0,
) -> Measured:
    totals = sorted(totals) or [0.0]
    round_trips = sorted(round_trips) or [0.0]
    events = round(len(totals) * events_each)
    return Measured(
        part,
        events / seconds,
        totals[len(totals) // 2],
        totals[int(len(totals) * 0.99)],
        totals[-1],
        round_trips[len(round_trips) // 2],
        late / len(totals),
        overloaded,
        events,
        seconds,
    )


@contextmanager
def _progress(parts: int, *, shown: bool) -> Iterator[Callable[[str], Step]]:
    """A bar for all parts; what is given says which one begins."""
    if not shown:
        yield lambda part: lambda share: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    with bar:
        task, done = bar.add_task("", total=parts), 0

        def begin(part: str) -> Step:
            nonlocal done
            start, done = done, done + 1
            bar.update(task, description=part)
            return lambda share: bar.update(task, completed=start + min(share, 1.0))

        yield begin


def _show(found: list[Measured], budget_ms: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("", style="cyan")
    for heading in ("events/s", "p50 ms", "p99 ms", "max ms", "round trip", "late", "overloaded"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.part,
            f"{one.events_per_second:,.0f}",
            f"{one.p50_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.max_ms:.2f}",
            f"{one.round_trip_p50_ms:.2f}" if one.round_trip_p50_ms else "-",
            f"{one.over_budget:.2%}",
            f"{one.overloaded:,}",
        )
    terminal = console()
    terminal.print(table)
    terminal.print(f"budget {budget_ms} ms" if budget_ms else "no budget", style="dim")
