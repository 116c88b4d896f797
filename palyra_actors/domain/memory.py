"""A memory scope: what one principal wants to remember. Pure; see `domain.fact`.

    ingested ──superseded by a later one──▶ found as of then ──▶ deleted, expired, evicted, purged
        └────────────────────────────────────────────────────────────▲   text, words, vector: gone

Equal content in the same scope, channel and session is one item. The text lies in the payload of
its event and nowhere else; the row beside it holds what it is filtered by. A row is there as long
as its payload is: both are destroyed in one transaction, and a replay that meets an erased payload
makes no row of it. So live and rebuilt are equal at any moment of an erasure.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, assert_never

from palyra_actors.domain.catalog import MEMORY_SOURCES
from palyra_actors.domain.fact import Change, Decision, Fact, New
from palyra_actors.domain.words import index_line
from palyra_actors.errors import Conflict, Gone, IdReused, Invalid, NotFound, PalyraError
from palyra_actors.ids import format_ulid, parse_ulid

KEY_BYTES: Final = 16
"""Of a SHA-256: what equal content is found by."""

DELETED: Final = 0
SELECTED: Final = 1
UNHURRIED: Final = 2
"""What a row of `memory_work` asks for: see the schema."""

REMOVALS: Final = frozenset(("memory.deleted", "memory.expired", "memory.evicted"))


class Item(NamedTuple):
    """One memory. Ids are 16 bytes, times milliseconds; `seq` is None while it is not written."""

    memory_id: bytes
    source: str
    content: str
    tags: tuple[str, ...]
    confidence: float | None
    channel: str | None
    session_id: bytes | None
    from_event_id: bytes | None
    created_ms: int
    expires_ms: int | None
    updated_ms: int
    superseded_by: bytes | None = None
    seq: int | None = None

    @property
    def key(self) -> bytes:
        return content_key(self.channel, self.session_id, self.content)

    def over(self, now_ms: int) -> bool:
        """Its time is past."""
        return self.expires_ms is not None and self.expires_ms <= now_ms


class Said(dict[str, Any]):
    """A payload that remembers the item it tells of, so that it is not read back from it."""

    item: Item


class Ingest(NamedTuple):
    """`item`: as it is to be, its id chosen; `fresh`: by the engine, so that nobody has it."""

    item: Item
    redacted: bool
    fresh: bool = False


class Update(NamedTuple):
    """`tags`, `confidence`: None keeps those of the item before."""

    memory_id: bytes
    new_id: bytes
    content: str
    tags: tuple[str, ...] | None
    confidence: float | None
    redacted: bool


class Delete(NamedTuple):
    """The item and what it superseded."""

    memory_id: bytes


class Drop(NamedTuple):
    """Items whose time is over or for which there is no room; `kind` says which."""

    kind: str
    memory_ids: Sequence[bytes]


class Purge(NamedTuple):
    """All of a session, of a channel, or (both None) of the scope. How much that was is known once
    it is destroyed."""

    session_id: bytes | None
    channel: str | None


class Begin(NamedTuple):
    """Nothing by itself: upkeep is about to be done, in many events, and is known by its id."""


BEGUN: Final = "begun"
"""Stands in for the answer of an upkeep that is not done yet."""

NOT_COUNTED: Final[Mapping[str, Any]] = {"deleted": 0}
"""What a purge is answered, and has kept, until its items are destroyed and counted."""

Command: TypeAlias = Ingest | Update | Delete | Drop | Purge | Begin


class Known(Protocol):
    """What the scope holds, what is under way included and what is removed left out."""

    def by_id(self, memory_id: bytes) -> Item | None: ...
    def by_key(self, key: bytes) -> Item | None:
        """The present one of that content: not superseded."""
        ...

    def history(self, memory_id: bytes) -> Sequence[bytes]:
        """What it superseded, and what that did."""
        ...

    def went(self, memory_id: bytes) -> bool:
        """Whether there was one, which was removed."""
        ...

    def selected(self, session_id: bytes | None, channel: str | None) -> bool:
        """Whether there is anything to purge."""
        ...


def decide(known: Known, command: Command, owner: str, now_ms: int) -> Decision:
    """What the command causes.

    Raises:
        NotFound: there is no such item.
        Gone: it was removed, or is over.
        Conflict: it was superseded; `detail.actual` says by which one.
        IdReused: the id is another item's.
        Invalid: it would be over before it began.
    """
    match command:
        case Ingest():
            return _ingest(known, command, owner, now_ms)
        case Update():
            return _update(known, command, owner, now_ms)
        case Delete():
            if known.by_id(command.memory_id) is None:
                raise missing(known.went(command.memory_id))
            gone = [command.memory_id, *known.history(command.memory_id)]
            return Decision([removed("memory.deleted", gone)], lambda _: {"deleted": len(gone)})
        case Drop():
            return Decision([removed(command.kind, command.memory_ids)], lambda _: {})
        case Purge():
            found = known.selected(command.session_id, command.channel)
            return Decision([purged(command)] if found else (), lambda _: NOT_COUNTED)
        case Begin():
            return Decision((), lambda _: {BEGUN: True})
        case _:
            assert_never(command)


def missing(went: bool) -> PalyraError:
    """Why a memory is not shown; `went`: it was there, and is removed or over."""
    if went:
        return Gone("the memory was removed", field="memory_id")
    return NotFound("there is no such memory", field="memory_id")


def _ingest(known: Known, command: Ingest, owner: str, now_ms: int) -> Decision:
    item = command.item._replace(created_ms=now_ms, updated_ms=now_ms)
    if item.over(now_ms):
        raise Invalid("this time is past", field="expires_ms", hint="leave it out, or take a later")
    same = known.by_key(item.key)
    if same is not None and not same.over(now_ms):
        answer = {"item": view(same, owner), "duplicate": True}
        return Decision((), lambda _: answer, {"memory_id": same.memory_id})
    name = item.memory_id
    if not command.fresh and (known.by_id(name) is not None or known.went(name)):
        raise IdReused("a memory has this id, or had it", field="memory_id", hint="take a new id")
    events = [] if same is None else [removed("memory.expired", [same.memory_id])]
    events.append(ingested(item, command.redacted))
    recipe = {"memory_id": item.memory_id, "scope": scope_id(owner), "created_ms": now_ms}
    return Decision(events, lambda _: {"item": view(item, owner), "duplicate": False}, recipe)


def _update(known: Known, command: Update, owner: str, now_ms: int) -> Decision:
    old = known.by_id(command.memory_id)
    if old is None or old.over(now_ms):
        raise missing(old is not None or known.went(command.memory_id))
    if old.superseded_by is not None:
        raise Conflict(
            "the memory was superseded",
            field="memory_id",
            hint="update the one that took its place",
            detail={"actual": format_ulid(old.superseded_by)},
        )
    new = old._replace(
        memory_id=command.new_id,
        content=command.content,
        tags=old.tags if command.tags is None else command.tags,
        confidence=old.confidence if command.confidence is None else command.confidence,
        created_ms=now_ms,
        updated_ms=now_ms,
        seq=None,
    )
    same = known.by_key(new.key)
    gone = {old.memory_id} if same is None else {old.memory_id, same.memory_id}
    events = [superseded(new.memory_id, sorted(gone)), ingested(new, command.redacted)]
    recipe = {"memory_id": new.memory_id, "scope": scope_id(owner), "created_ms": now_ms}
    return Decision(events, lambda _: {"item": view(new, owner)}, recipe)


def scope_id(principal: str) -> bytes:
    """The id of a principal's scope."""
    return sha256(b"memory:" + principal.encode()).digest()[:16]


def content_key(channel: str | None, session_id: bytes | None, content: str) -> bytes:
    """What is equal for equal content in the same channel and session."""
    digest = sha256(content.encode())
    digest.update(b"\0" if channel is None else b"\1" + channel.encode())
    digest.update(b"\0" if session_id is None else b"\1" + session_id)
    return digest.digest()[:KEY_BYTES]


def ingested(item: Item, redacted: bool) -> New:
    """The event of a new item."""
    said = Said(
        v=1,
        memory_id=format_ulid(item.memory_id),
        source=item.source,
        content=item.content,
        tags=list(item.tags),
        confidence=item.confidence,
        channel=item.channel,
        session_id=_text(item.session_id),
        from_event_id=_text(item.from_event_id),
        expires_ms=item.expires_ms,
    )
    said.item = item
    return New("memory.ingested", said, session_id=item.session_id, redacted=redacted)


def superseded(by: bytes, memory_ids: Sequence[bytes]) -> New:
    said = {"v": 1, "by": format_ulid(by), "memory_ids": [format_ulid(one) for one in memory_ids]}
    return New("memory.superseded", said)


def removed(kind: str, memory_ids: Sequence[bytes]) -> New:
    return New(kind, {"v": 1, "memory_ids": [format_ulid(one) for one in memory_ids]})


def purged(command: Purge) -> New:
    said = {"v": 1, "session_id": _text(command.session_id), "channel": command.channel}
    return New("memory.purged", said, session_id=command.session_id)


def from_payload(said: Mapping[str, Any], ts_ms: int) -> Item:
    """The item that an event of `memory.ingested` tells."""
    if isinstance(said, Said):
        return said.item
    return Item(
        parse_ulid(said["memory_id"]), said["source"], said["content"], tuple(said["tags"]),
        said["confidence"], said["channel"], _id(said["session_id"]), _id(said["from_event_id"]),
        ts_ms, said["expires_ms"], ts_ms,
    )  # fmt: skip


def fold(scope: None, fact: Fact, stream: int) -> tuple[None, Sequence[Change]]:
    """The rows that follow from one event; what was erased has none. A scope has no state: it is
    as large as its owner likes, and is asked in the file."""
    del scope
    rows: list[Change] = []
    if fact.stream_seq == 1:
        rows.append(("memory.scope", (stream, fact.principal)))
    said = fact.payload
    if said is None:
        return None, rows
    if fact.kind == "memory.ingested":
        rows += _item_rows(from_payload(said, fact.ts_ms), fact, stream)
    elif fact.kind == "memory.superseded":
        by = parse_ulid(said["by"])
        rows += [
            ("memory.supersede", (by, fact.ts_ms, stream, parse_ulid(one)))
            for one in said["memory_ids"]
        ]
    elif fact.kind in REMOVALS:
        rows += [("memory.mark", (fact.seq, stream, parse_ulid(one))) for one in said["memory_ids"]]
        haste = DELETED if fact.kind == "memory.deleted" else UNHURRIED
        rows.append(("memory.work", (fact.seq, stream, haste, None, None)))
    else:
        session_id, channel = _id(said["session_id"]), said["channel"]
        rows.append(("memory.work", (fact.seq, stream, SELECTED, session_id, channel)))
    return None, rows


def _item_rows(item: Item, fact: Fact, stream: int) -> list[Change]:
    line, count = index_line(stream, item.content)
    row = (
        fact.seq, stream, item.memory_id, item.key, item.session_id, item.channel,
        MEMORY_SOURCES[item.source], item.created_ms, item.expires_ms, item.from_event_id,
        len(item.content.encode()), count,
    )  # fmt: skip
    return [
        ("memory.insert", row),
        ("memory.index", (fact.seq, line)),
        *(("memory.tag", (stream, tag, fact.seq)) for tag in item.tags),
    ]


def view(item: Item, owner: str) -> dict[str, Any]:
    """The item as it is shown."""
    return {
        "memory_id": format_ulid(item.memory_id),
        "principal": owner,
        "channel": item.channel,
        "session_id": _text(item.session_id),
        "source": item.source,
        "content": item.content,
        "tags": list(item.tags),
        "confidence": item.confidence,
        "created_ms": item.created_ms,
        "updated_ms": item.updated_ms,
        "expires_ms": item.expires_ms,
        "content_sha256": sha256(item.content.encode()).digest(),
        "superseded_by": _text(item.superseded_by),
        "from_event_id": _text(item.from_event_id),
    }


def _text(ulid: bytes | None) -> str | None:
    return None if ulid is None else format_ulid(ulid)


def _id(text: str | None) -> bytes | None:
    return None if text is None else parse_ulid(text)
