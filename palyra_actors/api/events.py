"""An event to be appended. Its id is fixed when it is made, so that sending it again is safe."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from palyra_actors.errors import PalyraError
from palyra_actors.ids import Ulids, format_ulid, parse_ulid, ulid_time_ms

_LOCK: Final = threading.Lock()


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


_ulids = Ulids(now_ms, os.urandom)


def new_id() -> str:
    """A new ULID, above all that this process made before. Any thread."""
    with _LOCK:
        return format_ulid(_ulids())


def _start_anew_after_fork() -> None:
    """A child that went on counting where its parent does would make the parent's next ids."""
    global _ulids  # noqa: PLW0603 - one source a process is what makes its ids rise
    _ulids = Ulids(now_ms, os.urandom)
    _LOCK.release()


# the lock is taken across the fork: one held by another thread would stay locked in the child
os.register_at_fork(
    before=_LOCK.acquire,
    after_in_parent=_LOCK.release,
    after_in_child=_start_anew_after_fork,
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a session.

    Ids are text or anything whose `str()` is a ULID. `kind` and `actor` are the contract's words,
    `payload` a map of at most 256 KiB encoded, `ts_ms` milliseconds since 1970 UTC.
    """

    session_id: object
    kind: str
    payload: Mapping[str, Any]
    actor: str = "agent"
    run_id: object | None = None
    event_id: object = field(default_factory=new_id)
    ts_ms: int = field(default_factory=now_ms)

    def to_wire(self) -> dict[str, Any]:
        """The map the contract describes."""
        return {
            "event_id": str(self.event_id),
            "session_id": str(self.session_id),
            "run_id": None if self.run_id is None else str(self.run_id),
            "kind": self.kind,
            "actor": self.actor,
            "ts_ms": self.ts_ms,
            "payload": self.payload if isinstance(self.payload, dict) else dict(self.payload),
        }


def event_to_wire(event: "Event | Mapping[str, Any]") -> dict[str, Any]:
    """An Event, or a map in the contract's shape; one without `event_id` or `ts_ms` gets them. The
    time of one that has an id is that of its id: sent again with that it is the same event."""
    if isinstance(event, Event):
        return event.to_wire()
    wire = dict(event)
    for key in ("event_id", "session_id", "run_id"):
        if wire.get(key) is not None:
            wire[key] = str(wire[key])
    if wire.get("event_id") is None:
        wire["event_id"] = new_id()
    if wire.get("ts_ms") is None:
        wire["ts_ms"] = _time_of(wire["event_id"])
    return wire


def _time_of(event_id: str) -> int:
    try:
        return ulid_time_ms(parse_ulid(event_id))
    except PalyraError:
        return now_ms()  # the engine says what is wrong with it
