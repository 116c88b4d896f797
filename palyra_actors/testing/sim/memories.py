"""Memories in plain Python, out of the journal's events: what is kept, what took its place, what is
gone.

An item is gone with its event, however long its destruction takes: nobody may be shown it again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from palyra_actors.testing.sim.events import Event, require
from palyra_actors.testing.sim.peers import Order

PEOPLE: Final = ("local", "ana", "ben")
REMOVALS: Final = frozenset(("memory.deleted", "memory.expired", "memory.evicted"))
SHOWN: Final = (
    "memory_id", "source", "content", "tags", "confidence", "channel", "session_id",
    "from_event_id", "expires_ms",
)  # fmt: skip


def scope_of(principal: str) -> bytes:
    """As the engine names it; nothing of this is told to clients."""
    return sha256(b"memory:" + principal.encode()).digest()[:16]


OWNERS: Final = {scope_of(name): name for name in PEOPLE}


@dataclass(slots=True)
class Memory:
    """`said`: what is shown of it. `seq`: of the event that made it."""

    owner: str
    said: dict[str, Any]
    created_ms: int
    updated_ms: int
    seq: int
    superseded_by: str | None = None
    superseded_seq: int | None = None

    @property
    def place(self) -> tuple[Any, ...]:
        """Equal for what is one item."""
        return self.said["channel"], self.said["session_id"], self.said["content"]

    def over(self, now_ms: int) -> bool:
        until = self.said["expires_ms"]
        return until is not None and until <= now_ms

    def shown(self) -> dict[str, Any]:
        """`memory.get`."""
        return {
            **self.said,
            "principal": self.owner,
            "created_ms": self.created_ms,
            "updated_ms": self.updated_ms,
            "content_sha256": sha256(self.said["content"].encode()).digest(),
            "superseded_by": self.superseded_by,
        }


class Memories:
    """All items that are there, by their owner and id; `gone`: the events of those that are not,
    and `removed` those themselves."""

    def __init__(self, orders: Mapping[str, Order]) -> None:
        self.items: dict[tuple[str, str], Memory] = {}
        self.gone: set[int] = set()
        self.removed: dict[tuple[str, str], Memory] = {}
        self.latest_ms = 0  # that the clock has shown: it may have been set back since
        self._orders = orders
        self._made: dict[str, int] = {}  # seq of the item, by the id of the request that made it
        self._renewing: dict[str, str] = {}  # that id, by the one that the new item has
        self._contents: dict[str, str] = {}  # of an update, by the id that the new item has

    def of(self, owner: str) -> list[Memory]:
        return [one for (name, _), one in self.items.items() if name == owner]

    def seen_by(self, order: Order) -> list[Memory]:
        """What whoever asks may see."""
        return [one for one in self.items.values() if order.admin or one.owner == order.principal]

    def holders(self, order: Order, memory_id: str) -> list[Memory]:
        """Which items of that id the order may mean: one's own, or an admin any other's."""
        own = self.items.get((order.principal, memory_id))
        if own is not None or not order.admin:
            return [] if own is None else [own]
        return [one for (_, name), one in self.items.items() if name == memory_id]

    def went(self, order: Order, memory_id: str) -> bool:
        """Whether one of that id was removed that whoever asks may see."""
        return any(
            name == memory_id and (order.admin or owner == order.principal)
            for owner, name in self.removed
        )

    def same(self, owner: str, place: tuple[Any, ...]) -> Memory | None:
        """The present item of that content there."""
        for one in self.of(owner):
            if one.superseded_by is None and one.place == place:
                return one
        return None

    def selected(self, owner: str, body: Mapping[str, Any]) -> list[Memory]:
        """What a purge of that body selects."""
        session, channel = body.get("session_id"), body.get("channel")
        return [
            one
            for one in self.of(owner)
            if (session is None or one.said["session_id"] == session)
            and (channel is None or one.said["channel"] == channel)
        ]

    def made_by(self, event_id: str) -> Memory | None:
        """The item that the request under that id made, if it is there yet."""
        seq = self._made.get(event_id)
        return next((one for one in self.items.values() if one.seq == seq), None)

    def older(self, owner: str, memory_id: str) -> list[str]:
        """What it superseded, and what that did."""
        found = [memory_id]
        for name in found:
            found += [one.said["memory_id"] for one in self.of(owner) if one.superseded_by == name]
        return found[1:]

    # -- events -----------------------------------------------------------------------------------

    def fold(self, event: Event, owner: str) -> None:
        """Take one more event of a scope. Raises Wrong: it may not come there."""
        said = event.payload
        match event.kind:
            case "memory.ingested":
                self._ingest(event, owner, said)
            case "memory.superseded":
                self._supersede(event, owner, said)
            case "memory.purged":
                self._remove(owner, [one.said["memory_id"] for one in self.selected(owner, said)])
            case _:
                self._remove_named(event, owner, said["memory_ids"])

    def _ingest(self, event: Event, owner: str, said: Mapping[str, Any]) -> None:
        name, now_ms = said["memory_id"], event.stored.ts_ms
        order = self._orders.get(event.event_id)
        content = self._contents.pop(name, said["content"] if order is None else None)
        if content is None:
            assert order is not None
            content = order.body["content"]
        require(said["content"] == content, "a memory is kept as it was said", said, content)
        require((owner, name) not in self.items, "a memory has an id of its own", owner, said)
        self._made[self._renewing.pop(name, event.event_id)] = event.stored.seq
        made = Memory(owner, {one: said[one] for one in SHOWN}, now_ms, now_ms, event.stored.seq)
        same = self.same(owner, made.place)
        require(same is None, "equal content is one item", owner, said, same)
        require(not made.over(now_ms), "what is over is not begun", owner, said)
        self.items[owner, name] = made

    def _supersede(self, event: Event, owner: str, said: Mapping[str, Any]) -> None:
        order = self._orders.get(event.event_id)
        if order is not None:
            self._contents[said["by"]] = order.body["content"]
            self._renewing[said["by"]] = event.event_id
        for name in said["memory_ids"]:
            old = self.items.get((owner, name))
            require(old is not None, "what is superseded is there", owner, name)
            assert old is not None
            require(old.superseded_by is None, "an item is superseded once", owner, name)
            old.superseded_by, old.updated_ms = said["by"], event.stored.ts_ms
            old.superseded_seq = event.stored.seq

    def _remove_named(self, event: Event, owner: str, names: Iterable[str]) -> None:
        if event.kind == "memory.expired":
            for name in names:
                one = self.items.get((owner, name))
                require(
                    one is None or one.over(self.latest_ms), "what expires is over", owner,
                    name, one,
                )  # fmt: skip
        self._remove(owner, names)

    def _remove(self, owner: str, names: Iterable[str]) -> None:
        for name in names:
            gone = self.items.pop((owner, name), None)
            if gone is not None:
                self.gone.add(gone.seq)
                self.removed[owner, name] = gone
