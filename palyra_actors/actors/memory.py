"""A memory scope as an actor: `domain.memory` with the file behind it.

A scope may hold a million items, so it wakes without looking at one. What it has to know to decide
(is this content there already, is this id?) it looks up in the file, and what is not written yet in
its notes. The state is the number of the last event: sent back to an earlier one, it takes back the
notes since.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from palyra_actors.actors.entity import CommandEntity, ask
from palyra_actors.actors.work import Portion
from palyra_actors.domain import memory as domain
from palyra_actors.domain.catalog import MEMORY
from palyra_actors.domain.fact import Change, Decision, Fact
from palyra_actors.domain.memory import REMOVALS, Item, from_payload, view
from palyra_actors.errors import Gone
from palyra_actors.ids import parse_ulid
from palyra_actors.storage.port import ReadSide, StreamRow

HISTORY_MAX: Final = 10_000
"""Earlier versions of one memory that go with it."""

_ABSENT: Final = object()
_PURGES: Final = b"!"
"""Under this name the notes hold what purges that are not written yet select."""


class Notes:
    """What is decided and not written yet: items by id (None: removed), ids by content."""

    def __init__(self) -> None:
        self._notes: dict[bytes, tuple[int, Any]] = {}
        self._log: deque[tuple[int, bytes, tuple[int, Any] | None]] = deque()
        self._written = 0

    def get(self, name: bytes) -> Any:
        note = self._notes.get(name)
        return _ABSENT if note is None else note[1]

    def put(self, number: int, name: bytes, value: Any) -> None:
        """What the event of that number made of it."""
        self._log.append((number, name, self._notes.get(name)))
        self._notes[name] = (number, value)

    def items(self) -> list[Item]:
        return [value for _, value in self._notes.values() if isinstance(value, Item)]

    def go_back(self, number: int) -> None:
        """Forget what later events made."""
        while self._log and self._log[-1][0] > number:
            _, name, before = self._log.pop()
            if before is None or before[0] <= self._written:  # the file says it by now
                self._notes.pop(name, None)
            else:
                self._notes[name] = before

    def written(self, number: int) -> None:
        """Everything up to that event is in the file."""
        self._written = number
        while self._log and self._log[0][0] <= number:
            _, name, _ = self._log.popleft()
            note = self._notes.get(name)
            if note is not None and note[0] <= number:
                del self._notes[name]

    def clear(self) -> None:
        self._notes.clear()
        self._log.clear()
        self._written = 0


class MemoryActor(CommandEntity):
    """Decides for one scope, in the order in which it was asked to."""

    kind: ClassVar[int] = MEMORY
    missing = "there is no such memory"
    id_field = "memory_id"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._notes = Notes()

    def _unborn(self) -> int:
        self._notes.clear()
        return 0

    def _load_state(self, reader: ReadSide, row: StreamRow) -> int:
        del reader
        self._notes.clear()
        return row.stream_seq

    def _choose(self, state: int, command: domain.Command, now_ms: int) -> Decision:
        tail = self._tail
        assert tail is not None
        self._notes.go_back(state)
        decision: Decision = ask(domain.decide, self, command, tail.principal, now_ms)
        return decision

    def fold(self, state: int, fact: Fact, stream: int) -> tuple[int, Sequence[Change]]:
        del state
        _, rows = domain.fold(None, fact, stream)
        self._note(fact)
        return fact.stream_seq, rows

    def written(self, portion: Portion) -> None:
        if portion.facts:
            self._notes.written(portion.facts[-1].stream_seq)
        super().written(portion)

    def recall(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        # an admin's retry may come to another scope than the request that was written
        scope = recipe.get("scope", self.stream_id)
        row = self._house.reader.stream(MEMORY, scope)
        item = None if row is None else find(self._house.reader, row.stream, recipe["memory_id"])
        # another may have its id by now
        if (
            row is None
            or item is None
            or item.created_ms != recipe.get("created_ms", item.created_ms)
        ):
            raise Gone("the memory was removed since", field="memory_id")
        shown = view(item._replace(superseded_by=None, updated_ms=item.created_ms), row.principal)
        return {"item": shown}

    # -- what `domain.decide` asks ----------------------------------------------------------------

    def by_id(self, memory_id: bytes) -> Item | None:
        noted = self._notes.get(memory_id)
        if noted is not _ABSENT:
            return noted  # type: ignore[no-any-return]
        assert self._tail is not None
        item = find(self._house.reader, self._tail.stream, memory_id)
        return None if item is None or self._being_purged(item) else item

    def by_key(self, key: bytes) -> Item | None:
        noted = self._notes.get(b"=" + key)
        if noted is not _ABSENT:
            return None if noted is None else self.by_id(noted)
        assert self._tail is not None
        reader, stream = self._house.reader, self._tail.stream
        for item in present(reader, reader.rows("memory.by_key", (stream, key))):
            if self._notes.get(item.memory_id) is _ABSENT and not self._being_purged(item):
                return item
        return None

    def history(self, memory_id: bytes) -> Sequence[bytes]:
        assert self._tail is not None
        asked = {"stream": self._tail.stream, "memory_id": memory_id, "rows": HISTORY_MAX}
        found = {row[0] for row in self._house.reader.rows("memory.history", asked)}
        later = [one for one in self._notes.items() if one.superseded_by is not None]
        for item in reversed(later):
            if item.superseded_by == memory_id or item.superseded_by in found:
                found.add(item.memory_id)
                found.update(self.history(item.memory_id))
        return sorted(found)

    def went(self, memory_id: bytes) -> bool:
        noted = self._notes.get(memory_id)
        if noted is not _ABSENT:
            return noted is None
        assert self._tail is not None
        return was_there(self._house.reader, self._tail.stream, memory_id)

    def selected(self, session_id: bytes | None, channel: str | None) -> bool:
        if any(_selects(session_id, channel, item) for item in self._notes.items()):
            return True
        assert self._tail is not None
        reader, stream = self._house.reader, self._tail.stream
        return bool(selected_rows(reader, stream, session_id, channel, NO_SEQ, 1))

    # -- own --------------------------------------------------------------------------------------

    def _note(self, fact: Fact) -> None:
        said, notes, number = fact.payload, self._notes, fact.stream_seq
        assert said is not None
        if fact.kind == "memory.ingested":
            item = from_payload(said, fact.ts_ms)
            notes.put(number, item.memory_id, item)
            notes.put(number, b"=" + item.key, item.memory_id)
        elif fact.kind == "memory.superseded":
            by = parse_ulid(said["by"])
            for one in said["memory_ids"]:
                old = self.by_id(parse_ulid(one))
                if old is not None:
                    changed = old._replace(superseded_by=by, updated_ms=fact.ts_ms)
                    notes.put(number, old.memory_id, changed)
                    notes.put(number, b"=" + old.key, None)
        elif fact.kind in REMOVALS:
            for one in said["memory_ids"]:
                self._remove(number, parse_ulid(one))
        else:
            session_id = None if said["session_id"] is None else parse_ulid(said["session_id"])
            before = notes.get(_PURGES)
            selections = () if before is _ABSENT else before
            notes.put(number, _PURGES, (*selections, (session_id, said["channel"])))
            for item in notes.items():
                if _selects(session_id, said["channel"], item):
                    self._remove(number, item.memory_id, item)

    def _being_purged(self, item: Item) -> bool:
        selections = self._notes.get(_PURGES)
        return selections is not _ABSENT and any(
            _selects(session_id, channel, item) for session_id, channel in selections
        )

    def _remove(self, number: int, memory_id: bytes, item: Item | None = None) -> None:
        item = item or self.by_id(memory_id)
        self._notes.put(number, memory_id, None)
        if item is not None and item.superseded_by is None:
            self._notes.put(number, b"=" + item.key, None)


def _selects(session_id: bytes | None, channel: str | None, item: Item) -> bool:
    if session_id is not None:
        return item.session_id == session_id
    return channel is None or item.channel == channel


NO_SEQ: Final = 2**62


def selected_rows(  # noqa: PLR0917 - a selection and a page
    reader: ReadSide,
    stream: int,
    session_id: bytes | None,
    channel: str | None,
    before: int,
    limit: int,
) -> list[tuple[int, int, bytes | None]]:
    """Items that a purge selects: seq, stream, and the payload of their event."""
    if session_id is not None:
        return reader.rows("memory.of_session_before", (stream, session_id, before, limit))
    if channel is not None:
        return reader.rows("memory.of_channel_before", (stream, channel, before, limit))
    return reader.rows("memory.of_all_before", (stream, before, limit))


def item_of(row: Sequence[Any]) -> Item:
    """From the columns of `memory.by_id` and its like."""
    _, by, superseded_ms, seq, ts_ms, payload = row
    item = from_payload(msgspec.msgpack.decode(payload), ts_ms)
    return item._replace(
        superseded_by=by, updated_ms=ts_ms if superseded_ms is None else superseded_ms, seq=seq
    )


def present(reader: ReadSide, rows: Sequence[Sequence[Any]]) -> list[Item]:
    """The items of rows that no purge has selected: those are still to be destroyed."""
    if not rows:
        return []
    selections = reader.rows("memory.selections")
    items = []
    for row in rows:
        if row[5] is None:
            continue  # destroyed between two looks
        item = item_of(row)
        if not any(
            stream == row[0] and item.seq < seq and _selects(session_id, channel, item)
            for stream, seq, session_id, channel in selections
        ):
            items.append(item)
    return items


class Size(NamedTuple):
    """Of a scope: items, bytes of their texts, and how many of the items were superseded."""

    items: int
    bytes: int
    superseded: int


def sizes(reader: ReadSide, streams: Collection[int]) -> dict[int, Size]:
    """What these scopes hold. What was removed does not count from its event on, also while it is
    still to be destroyed."""
    if reader.rows("memory.selections"):
        rows = reader.rows("memory.sizes_beside_work")
    elif len(streams) == 1:
        rows = reader.rows("memory.sizes_of", tuple(streams))
    else:
        rows = reader.rows("memory.sizes")
    return {row[0]: Size(*row[1:]) for row in rows if row[0] in streams}


def find(reader: ReadSide, stream: int, memory_id: bytes) -> Item | None:
    """The item of a scope, or None: there is none, or it was removed."""
    found = present(reader, reader.rows("memory.in_scope", (stream, memory_id)))
    return found[0] if found else None


def was_there(reader: ReadSide, stream: int, memory_id: bytes) -> bool:
    """Whether a scope has an item of that id, or had one: for who has found that none is shown."""
    return bool(reader.rows("gone.is_memory", (memory_id, stream)))
