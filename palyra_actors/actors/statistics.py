"""What the engine counts, frozen: `engine.stats`, the metrics and `top` are made of nothing else.

Whoever lives long has `statistics()`; here they are put together, of one moment, on the loop's
thread. Counts are since the start. There is no text of a client's in them, and no secret.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from palyra_actors.actors.feed import Busy
from palyra_actors.actors.latency import LatencyStatistics
from palyra_actors.actors.steering import SteeringStatistics, WriterStatistics
from palyra_actors.actors.views import head_view
from palyra_actors.actors.work import TallyStatistics
from palyra_actors.domain.swift import compiled
from palyra_actors.ids import format_ulid
from palyra_actors.storage.port import Head


def count_threads() -> int:
    """Of the process, also those that run no Python; only those that do where the system does not
    say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


@dataclass(frozen=True, slots=True)
class LobbyStatistics:
    """Of now: the load under way, and the writes that wait for room."""

    load: int
    waiting: int


@dataclass(frozen=True, slots=True)
class ActorStatistics:
    """Entities: `resident` and `given_up` are of now."""

    resident: int
    resident_max: int
    activated: int
    passivated: int
    restarted: int
    given_up: int


@dataclass(frozen=True, slots=True)
class DoorStatistics:
    """Connections and frames; `peers` and `backlog_bytes` are of now."""

    peers: int = 0
    received: int = 0
    sent: int = 0
    cut: int = 0
    gone: int = 0
    backlog_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """All of it. `status` as `engine.health` says it; `recent_events`: how many of the last ones
    are kept in memory."""

    uptime_s: float
    budget_ms: int
    requests: TallyStatistics
    writer: WriterStatistics
    latency: LatencyStatistics
    steering: SteeringStatistics
    lobby: LobbyStatistics
    actors: ActorStatistics
    door: DoorStatistics
    duties: Mapping[str, Mapping[str, int | None]]
    jobs: Mapping[str, int]
    subscriptions: int
    recent_events: int
    threads: int = field(default_factory=count_threads)
    db_bytes: int
    wal_bytes: int
    wal_bytes_max: int
    head: Head
    anchored_seq: int
    status: str


def stats_view(all_: EngineStatistics, busiest: Sequence[Busy]) -> dict[str, Any]:
    """As `engine.stats` answers it. `busiest` is for those who may see every session."""
    requests, writer, latency = all_.requests, all_.writer, all_.latency
    actors, steering = all_.actors, all_.steering
    return {
        "uptime_ms": int(all_.uptime_s * 1000),
        "status": all_.status,
        "budget_ms": all_.budget_ms,
        "requests": {
            "received": requests.received,
            "ok": requests.ok,
            "refused": requests.refused,
            "unknown": requests.unknown,
            "closed": requests.closed,
        },
        "appends": {
            "acked": requests.acked,
            "overloaded": requests.overloaded,
            "late": writer.late,
        },
        "latency_ms": asdict(latency.total),
        "latency_recent_ms": asdict(latency.recent),
        "batch": {
            "mean": writer.events / writer.groups if writer.groups else 0.0,
            "max": writer.events_max,
        },
        "groups": writer.groups,
        "events": writer.events,
        "actors": {
            "resident": actors.resident,
            "resident_max": actors.resident_max,
            "activated": actors.activated,
            "passivated": actors.passivated,
            "restarted": actors.restarted,
            "given_up": actors.given_up,
        },
        "recent_events": all_.recent_events,
        "duties": all_.duties,
        "jobs": all_.jobs,
        "busiest": [
            {"session_id": format_ulid(one.session_id), "events": one.events} for one in busiest
        ],
        "subscriptions": all_.subscriptions,
        "peers": all_.door.peers,
        "peers_cut": all_.door.cut,
        "backlog_bytes": all_.door.backlog_bytes,
        "threads": all_.threads,
        "compiled": compiled is not None,
        "queue_depth": writer.waiting,
        "admission": {
            "load": all_.lobby.load,
            "lobby": all_.lobby.waiting,
            "commit_ms": steering.commit_s * 1000,
            "load_us": steering.load_s * 1e6,
            "group_events": steering.group_events,
            "trust": steering.trust,
            "checkpoints": steering.checkpoints,
            "slow": steering.slow,
        },
        "db_bytes": all_.db_bytes,
        "wal_bytes": all_.wal_bytes,
        "wal_bytes_max": all_.wal_bytes_max,
        "head": head_view(all_.head),
        "anchored_seq": all_.anchored_seq,
    }
