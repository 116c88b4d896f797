"""Clients as a simulation sees them: connections, what they ask, and what came back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["open", "ok", "refused", "unknown", "lost"]


@dataclass(slots=True, eq=False)
class Order:
    """A request as its client means it: sent once or again, with the same words.

    `first` is its first `ok`; `placed` says that it was seen in the journal, `idle` that it was
    acknowledged and changed nothing.
    """

    op: str
    body: dict[str, Any]
    principal: str
    admin: bool
    tries: list["Asked"] = field(default_factory=list)
    first: dict[str, Any] | None = None
    placed: bool = False
    idle: bool = False
    about: Any = None

    @property
    def event_ids(self) -> list[str]:
        """The ids under which it is kept for ever; none if its client gave none."""
        if self.op == "journal.append":
            return [event["event_id"] for event in self.body["events"]]
        named = self.body.get("event_id")
        return [] if named is None else [named]

    @property
    def may_be_idle(self) -> bool:
        """Whether it may be kept as one that changed nothing."""
        return self.idle or any(one.idle and one.outcome != "refused" for one in self.tries)

    @property
    def may_be_stored(self) -> bool:
        """Whether any of its tries ended otherwise than in a refusal."""
        return any(asked.outcome != "refused" for asked in self.tries)


@dataclass(slots=True, eq=False)
class Asked:
    """One try: a frame, and its replies. `lost`: its connection ended before one came."""

    id: int
    order: Order
    peer: "Peer"
    replies: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    lost: bool = False
    since: int = 0
    """Events that were known to be in the journal when it was sent."""
    codes: set[str] = field(default_factory=set)
    """For what it could have been refused at some moment since."""
    credit: int = 0
    """Of a stream: how many more items it was promised to take."""
    idle: bool = False
    """At some moment since there was nothing to be done for it."""

    @property
    def code(self) -> str | None:
        """The error's, if it is one."""
        return self.replies[0].get("err", {}).get("code") if self.replies else None

    @property
    def outcome(self) -> Outcome:
        if not self.replies:
            return "lost" if self.lost else "open"
        error = self.replies[0].get("err")
        if error is None:
            return "ok"
        return "unknown" if error.get("detail", {}).get("outcome") == "unknown" else "refused"


class Peer:
    """One connection: what `palyra_actors.actors.work.Peer` asks for. `came` hears each reply."""

    def __init__(
        self, principal: str, role: str, came: Callable[[Asked, dict[str, Any]], None]
    ) -> None:
        self.principal = principal
        self.role = role
        self.under_way = 0
        self.backlog_bytes = 0
        self.open = True
        self.asked: dict[int, Asked] = {}
        self._came = came

    def send(self, frame: bytes) -> None:
        """From the engine: a reply or an item of a stream."""
        told = msgspec.msgpack.decode(frame)
        asked = self.asked.get(told["id"])
        if asked is None:
            raise AssertionError(f"a reply to what nobody asked: {told}")
        self._came(asked, told)
        if self.open:
            (asked.items if "item" in told else asked.replies).append(told)
