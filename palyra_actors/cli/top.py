"""A live view of an engine: what it does now, and how near its budget it is.

Rates are what was counted between two looks, `EVERY_S` apart, so the first look takes as long.
`--once` prints one of them, `--json` a line each for programs.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from palyra_actors.api.operations import Operations
from palyra_actors.api.results import Health, Stats
from palyra_actors.cli.shape import print_json

EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the engine. Rates are a second's, times milliseconds.

    `group_events`: the mean of the transactions since the look before; `busiest`: session ids with
    the share of the last events that is theirs.
    """

    status: str
    reasons: tuple[str, ...]
    uptime_s: float
    budget_ms: int
    events_rate: float
    writes_rate: float
    overloaded_rate: float
    late_rate: float
    requests_rate: float
    refused_rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    commit_ms: float
    group_events: float
    group_events_max: int
    queue: int
    lobby: int
    under_way: int
    backlog_bytes: int
    peers: int
    subscriptions: int
    threads: int
    resident: int
    resident_max: int
    restarted: int
    given_up: int
    db_bytes: int
    wal_bytes: int
    wal_bytes_max: int
    head_seq: int
    busiest: tuple[tuple[str, float], ...]


def look(health: Health, before: Stats, now: Stats) -> Look:
    """What happened between two answers of one engine."""
    seconds = max((now.uptime_ms - before.uptime_ms) / 1000, 1e-3)

    def rate(*path: str) -> float:
        return max(0.0, now.number(*path) - before.number(*path)) / seconds

    def whole(*path: str) -> int:
        return int(now.number(*path))

    received = whole("requests", "received")
    answered = sum(whole("requests", name) for name in ("ok", "refused", "unknown", "closed"))
    groups = now.number("groups") - before.number("groups")
    busiest = [(str(one["session_id"]), one["events"]) for one in now.raw.get("busiest", ())]
    recent = max(1, whole("recent_events"))
    return Look(
        status=health.status,
        reasons=health.reasons,
        uptime_s=now.uptime_ms / 1000,
        budget_ms=now.budget_ms,
        events_rate=rate("events"),
        writes_rate=rate("appends", "acked"),
        overloaded_rate=rate("appends", "overloaded"),
        late_rate=rate("appends", "late"),
        requests_rate=rate("requests", "received"),
        refused_rate=rate("requests", "refused"),
        p50_ms=now.number("latency_recent_ms", "p50"),
        p99_ms=now.number("latency_recent_ms", "p99"),
        max_ms=now.number("latency_recent_ms", "max"),
        commit_ms=now.number("admission", "commit_ms"),
        group_events=rate("events") * seconds / groups if groups > 0 else 0.0,
        group_events_max=whole("admission", "group_events"),
        queue=now.queue_depth,
        lobby=whole("admission", "lobby"),
        under_way=received - answered,
        backlog_bytes=whole("backlog_bytes"),
        peers=whole("peers"),
        subscriptions=whole("subscriptions"),
        threads=whole("threads"),
        resident=whole("actors", "resident"),
        resident_max=whole("actors", "resident_max"),
        restarted=whole("actors", "restarted"),
        given_up=whole("actors", "given_up"),
        db_bytes=now.db_bytes,
        wal_bytes=now.wal_bytes,
        wal_bytes_max=whole("wal_bytes_max"),
        head_seq=whole("head", "seq"),
        busiest=tuple((session, count / recent) for session, count in busiest),
    )


def top(
    engine: Operations,
    *,
    once: Annotated[bool, typer.Option("--once", help="One look, and end.")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, max=60, help="Seconds between two looks.")
    ] = EVERY_S,
    as_json: bool = False,
) -> None:
    """What an engine does, live: rates, latencies against the budget, queues, busy sessions."""
    looks = _looks(engine, every)
    if as_json:
        for each in looks:
            print_json(each)
            if once:
                return
    from palyra_actors.cli import top_screen

    top_screen.show(looks, once=once)


def _looks(engine: Operations, every_s: float) -> Iterator[Look]:
    before, pause = engine.stats(), threading.Event()
    while True:
        pause.wait(every_s)
        now = engine.stats()
        yield look(engine.health(), before, now)
        before = now
