"""A script of requests, what each was answered, and what a journal may hold after that.

told = [Told(request, reply), …]      while a disk fails
judge(told, stored)                   ok: there; refused: not there; unknown: all of it or nothing
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from palyra_actors.api.events import new_id
from tests.system.harness import event

Send = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass
class Told:
    """A request that writes, and the last reply to it."""

    op: str
    body: dict[str, Any]
    ids: list[str]
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """`ok`, `none` or `unknown`."""
        if "ok" in self.reply:
            return "ok"
        error = self.reply["err"]
        assert error["code"] == "unavailable", self.reply
        return str(error["detail"]["outcome"])

    def send(self, send: Send) -> str:
        self.reply = send(self.op, self.body)
        return self.outcome


def script() -> list[Told]:
    """Twelve writes: one event, many, of two sessions at once, larger than a page, a command."""
    a, b = new_id(), new_id()
    told = [append([event(session)]) for session in (a, b, a, a)]
    told.append(append([event(session) for session in (a, b, a, b, b)]))
    told.append(append([event(a, payload={"text": "x" * 20_000})]))
    key = new_id()
    told.append(Told("session.update", {"session_id": a, "title": "a name", "event_id": key}, []))
    return told + [append([event(session)]) for session in (b, a, b, a, a)]


def append(events: list[dict[str, Any]]) -> Told:
    return Told("journal.append", {"events": events}, [one["event_id"] for one in events])


def judge(told: Sequence[Told], stored: Collection[str]) -> None:
    """Hold the journal's event ids against what was answered."""
    there = set(stored)
    assert len(there) == len(stored), "no event twice"
    for one in told:
        found = [event_id in there for event_id in one.ids]
        match one.outcome:
            case "ok":
                assert all(found), f"acknowledged and lost: {one}"
            case "none":
                assert not any(found), f"refused and there: {one}"
            case _:
                assert all(found) or not any(found), f"torn: {one}"
