"""What the engine answers, as frozen values; keys of a newer engine are ignored.

Hashes are 32 bytes, times integer milliseconds since 1970 UTC, spans floats in milliseconds.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from palyra_actors.errors import InternalFault

Raw: TypeAlias = Mapping[str, Any]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns a reply that lacks what the contract promises into an InternalFault."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as reason:
        raise InternalFault(
            f"the engine's {what} cannot be read: {type(reason).__name__} {reason}",
            hint="client and engine disagree about the protocol",
            detail={"outcome": "unknown"},
        ) from reason


def read(what: str, kind: Callable[[Raw], Any], raw: Raw) -> Any:
    """`kind(raw)`, with the errors of `reading`."""
    with reading(what):
        return kind(raw)


@dataclass(frozen=True, slots=True)
class Head:
    """The journal's last event: `seq` 0 and 32 zero bytes where there is none."""

    seq: int
    hash: bytes

    @classmethod
    def of(cls, raw: Raw) -> "Head":
        return cls(raw["seq"], raw["hash"])


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one write, from its frame's arrival to the end of its commit, in milliseconds."""

    queued_ms: float
    commit_ms: float
    total_ms: float
    within_budget: bool

    @classmethod
    def of(cls, raw: Raw) -> "Timing":
        return cls(raw["queued_ms"], raw["commit_ms"], raw["total_ms"], raw["within_budget"])


@dataclass(frozen=True, slots=True)
class Appended:
    """Where one event stands. `duplicate`: it had been stored before, and this is that answer."""

    event_id: str
    seq: int
    session_seq: int
    hash: bytes
    duplicate: bool
    redacted: bool

    @classmethod
    def of(cls, raw: Raw) -> "Appended":
        return cls(
            raw["event_id"],
            raw["seq"],
            raw["session_seq"],
            raw["hash"],
            raw["duplicate"],
            raw["redacted"],
        )


@dataclass(frozen=True, slots=True)
class AppendResult:
    """One `journal.append`: a result for each event, in the order sent."""

    results: tuple[Appended, ...]
    timing: Timing

    @classmethod
    def of(cls, raw: Raw) -> "AppendResult":
        return cls(tuple(map(Appended.of, raw["results"])), Timing.of(raw["timing"]))


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it stands in the journal.

    `payload` is a map; bytes where it was read raw; None where it was erased. `stream_seq` is
    the session's own gapless number where `stream` is `session`.
    """

    seq: int
    event_id: str
    stream: str
    stream_id: str
    stream_seq: int
    session_id: str | None
    run_id: str | None
    kind: str
    actor: str
    principal: str
    ts_ms: int
    recorded_ms: int
    redacted: bool
    traceparent: str | None
    payload: Any
    payload_sha256: bytes
    hash: bytes
    prev_hash: bytes

    @classmethod
    def of(cls, raw: Raw) -> "StoredEvent":
        return cls(
            raw["seq"],
            raw["event_id"],
            raw["stream"],
            raw["stream_id"],
            raw["stream_seq"],
            raw.get("session_id"),
            raw.get("run_id"),
            raw["kind"],
            raw["actor"],
            raw["principal"],
            raw["ts_ms"],
            raw["recorded_ms"],
            raw["redacted"],
            raw.get("traceparent"),
            raw["payload"],
            raw["payload_sha256"],
            raw["hash"],
            raw["prev_hash"],
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Events in `seq` order. A page may be short, even empty, and not the end: go on after
    `next_after_seq` until `end`."""

    events: tuple[StoredEvent, ...]
    next_after_seq: int
    end: bool

    @classmethod
    def of(cls, raw: Raw) -> "Page":
        return cls(tuple(map(StoredEvent.of, raw["events"])), raw["next_after_seq"], raw["end"])


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether the hash chain holds. `first_bad_seq` is None where it does."""

    valid: bool
    checked: int
    erased: int
    head: Head
    first_bad_seq: int | None

    @classmethod
    def of(cls, raw: Raw) -> "Verification":
        return cls(
            raw["valid"],
            raw["checked"],
            raw["erased"],
            Head.of(raw["head"]),
            raw.get("first_bad_seq"),
        )


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers, as whom it knows the caller, and its limits by name."""

    engine: str
    version: str
    protocol: int
    principal: str
    role: str
    limits: Raw
    head: Head

    @classmethod
    def of(cls, raw: Raw) -> "Hello":
        return cls(
            raw["engine"],
            raw["version"],
            raw["protocol"],
            raw["principal"],
            raw["role"],
            raw["limits"],
            Head.of(raw["head"]),
        )


@dataclass(frozen=True, slots=True)
class Health:
    """`ready`, `degraded` or `failing`, and why."""

    status: str
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, raw: Raw) -> "Health":
        return cls(raw["status"], tuple(raw["reasons"]))


@dataclass(frozen=True)
class Stats:
    """The engine's counters: `raw` is the whole map as answered, the rest its usual parts."""

    raw: Raw

    @classmethod
    def of(cls, raw: Raw) -> "Stats":
        return cls(dict(raw))

    @cached_property
    def uptime_ms(self) -> int:
        return int(self._part("uptime_ms", 0))

    @cached_property
    def budget_ms(self) -> int:
        return int(self._part("budget_ms", 0))

    @cached_property
    def appends(self) -> Raw:
        """`acked`, `overloaded`, `late`: counts since the start."""
        return dict(self._part("appends", {}))

    @cached_property
    def latency_ms(self) -> Raw:
        """`p50`, `p99`, `max` of writes, in milliseconds."""
        return dict(self._part("latency_ms", {}))

    @cached_property
    def latency_recent_ms(self) -> Raw:
        """The same over the last seconds."""
        return dict(self._part("latency_recent_ms", {}))

    @cached_property
    def actors(self) -> Raw:
        """`resident`, `activated`, `passivated`, `restarted`."""
        return dict(self._part("actors", {}))

    @cached_property
    def queue_depth(self) -> int:
        return int(self._part("queue_depth", 0))

    @cached_property
    def db_bytes(self) -> int:
        return int(self._part("db_bytes", 0))

    @cached_property
    def wal_bytes(self) -> int:
        return int(self._part("wal_bytes", 0))

    def number(self, *path: str) -> float:
        """Any number by its way through `raw`; 0 where an older engine has none."""
        value: Any = self.raw
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value if isinstance(value, int | float) else 0

    def _part(self, name: str, otherwise: Any) -> Any:
        value = self.raw.get(name)
        return otherwise if value is None else value
