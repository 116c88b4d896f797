"""What searches run over: the vectors of a scope and what they are filtered by, in memory.

    rows of the file ──first search──▶ Shelf ◀── notes of what is committed since
                                         └── blocks of arrays ──▶ `actors.search`

A note of a change is left before the change is acknowledged, and taken in before the next search
looks; so a search that begins after an ack sees it. Arrays grow by replacement, so a search goes on
over those it was given. Of a scope that does not fit there are codes instead of vectors, see
`actors.signs`; one that does not fit so either is read block by block from the file each time.
"""

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palyra_actors.actors.memory import item_of
from palyra_actors.actors.signs import Signs
from palyra_actors.domain.catalog import MEMORY_SOURCES
from palyra_actors.domain.memory import REMOVALS, from_payload
from palyra_actors.domain.words import words
from palyra_actors.embedding.provider import (
    Matrix,
    MemoryEmbeddingProvider,
    ProviderFault,
    apart,
    embed_checked,
)
from palyra_actors.ids import parse_ulid
from palyra_actors.storage.port import ReadSide

ROWS_AT_ONCE: Final = 8_192
"""Rows of the file in one block: 2 MiB of vectors of 64 dimensions."""

NOTES_MAX: Final = 20_000
"""Changes since the last search; a shelf with more is taken down and read again when needed."""

PENDING_AT_ONCE: Final = 2_048
"""Items without a vector that a search makes one for, if that takes microseconds."""

NEVER: Final = 2**62
ROW_BYTES: Final = 64
"""What an item takes besides its vector."""

UNSAVED_MAX: Final = 16_384
"""Vectors that searches made and that are not in the file yet, of a scope that is kept as codes."""

LIST_ITEMS_MIN: Final = 512
LIST_BYTES: Final = 64
"""For each item of a scope in memory, what its lists take at most: at 100,000 items those of the
words that between 500 and 8,000 have."""

NOTHING: Final = np.empty(0, np.int64)
COMMON_WORDS_MAX: Final = 4_096


class Block(NamedTuple):
    """Items in the order of their `seq`. `ended`, `expires`: NEVER where they are not; `known`:
    there is a vector; `alive`: it was not removed. `vectors`: or their codes, see `actors.signs`.
    """

    seqs: NDArray[np.int64]
    created: NDArray[np.int64]
    ended: NDArray[np.int64]
    expires: NDArray[np.int64]
    sources: NDArray[np.uint8]
    sessions: NDArray[np.int32]
    channels: NDArray[np.int32]
    words: NDArray[np.int32]
    ids: NDArray[np.void]
    alive: NDArray[np.bool_]
    known: NDArray[np.bool_]
    vectors: Any

    def places(self, seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where those of the seqs are that are here; seqs that are not are left out."""
        at = np.searchsorted(self.seqs, seqs)
        at[at == len(self.seqs)] = 0
        return at[self.seqs[at] == seqs] if len(self.seqs) else at[:0]


class Added(NamedTuple):
    """A new item, told by its event."""

    seq: int
    payload: Any
    ts_ms: int


class Removed(NamedTuple):
    seq: int
    memory_ids: Sequence[bytes]


class Ended(NamedTuple):
    """Superseded."""

    at_ms: int
    memory_ids: Sequence[bytes]


class Selected(NamedTuple):
    """Purged: what came before `seq` of the session, of the channel, or all."""

    seq: int
    session_id: bytes | None
    channel: str | None


class Vectors(NamedTuple):
    seqs: NDArray[np.int64]
    vectors: Matrix


@dataclass(slots=True)
class Names:
    """Sessions and channels as small numbers, 0 for none."""

    numbers: dict[Any, int] = field(default_factory=dict)

    def number(self, name: Any) -> int:
        if name is None:
            return 0
        found = self.numbers.get(name)
        if found is None:
            found = self.numbers[name] = len(self.numbers) + 1
        return found


def _columns(rows: Sequence[Sequence[Any]], names: Names, dimensions: int) -> Block:
    """Arrays of rows: of an item's columns in their order, its vector or None, and its id."""
    count = len(rows)
    known = np.fromiter((row[8] is not None for row in rows), np.bool_, count)
    vectors = np.zeros((count, dimensions), np.float32)
    blobs = b"".join(row[8] for row in rows if row[8] is not None)
    if blobs:
        vectors[known] = np.frombuffer(blobs, "<f4").reshape(-1, dimensions)
    number = names.number
    return Block(
        np.fromiter((row[0] for row in rows), np.int64, count),
        np.fromiter((row[1] for row in rows), np.int64, count),
        np.fromiter((NEVER if row[2] is None else row[2] for row in rows), np.int64, count),
        np.fromiter((NEVER if row[3] is None else row[3] for row in rows), np.int64, count),
        np.fromiter((row[4] for row in rows), np.uint8, count),
        np.fromiter((number(row[5]) for row in rows), np.int32, count),
        np.fromiter((number(row[6]) for row in rows), np.int32, count),
        np.fromiter((row[7] for row in rows), np.int32, count),
        np.array([row[9] for row in rows], dtype="V16"),
        np.ones(count, np.bool_),
        known,
        vectors,
    )


class Lists:
    """The items that have a tag or a word, where many have it: an item's never change, so that only
    later ones are to be looked for. Such as are gone stay in it. Used by several threads."""

    def __init__(self, bytes_max: Callable[[], int]) -> None:
        self._bytes_max = bytes_max
        self._kept: dict[str, NDArray[np.int64]] = {}

    @property
    def size_bytes(self) -> int:
        return sum(seqs.nbytes for seqs in list(self._kept.values()))

    def __iter__(self) -> Iterator[str]:
        """Their names, that which was used last at the end."""
        return iter(list(self._kept))

    def whole(self, name: str, later: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
        """The list of that name; `later` reads what is behind an item."""
        seqs = self._kept.pop(name, NOTHING)
        new = later(int(seqs[-1]) if len(seqs) else 0)
        if len(new):
            seqs = np.concatenate((seqs, new)) if len(seqs) else new
        if len(seqs) >= LIST_ITEMS_MIN:
            self._kept[name] = seqs
            while len(new) and self.size_bytes > self._bytes_max():
                self._kept.pop(next(iter(self), ""), None)
        return seqs


class Shelf:
    """One scope's items. Notes come from the loop's thread, all else from the readers'.

    `signs`: it is kept as codes; None: as vectors.
    """

    def __init__(self, stream: int, dimensions: int, signs: Signs | None = None) -> None:
        self.stream = stream
        self.signs = signs
        self.lock = threading.Lock()
        self.notes: deque[Any] = deque()
        self.names = Names()
        self.common: dict[str, int] = {}
        """Terms that match so much that they are looked at last, and how much that was."""
        self.lists = Lists(lambda: LIST_BYTES * self.count)
        self.count = 0
        self.loaded = False
        """Whether what the file has is here; until then only its loader may look."""
        self._dimensions = dimensions
        self._arrays = self._short(_columns([], self.names, dimensions))
        self._pending: dict[int, str | None] = {}
        self._unsaved: dict[int, NDArray[np.float32]] = {}

    @property
    def needs_bytes(self) -> int:
        """What would be kept of what is here now if it were read anew."""
        return self.count * row_bytes(self._dimensions, self.signs)

    @property
    def size_bytes(self) -> int:
        rows = len(self._arrays.seqs) * row_bytes(self._dimensions, self.signs)
        return rows + self.lists.size_bytes

    def _short(self, block: Block) -> Block:
        """With codes instead of vectors, where it is kept as codes."""
        if self.signs is None:
            return block
        return block._replace(vectors=self.signs.codes(block.vectors))

    def block(self) -> Block:
        """What is here, as of the last `take_in`."""
        count = self.count
        return Block._make(array[:count] for array in self._arrays)

    def load(self, reader: ReadSide, model: int) -> None:
        """From the file, as it is now."""
        parts = []
        for part in pages(reader, self.stream, model, self._dimensions, self.names):
            parts.append(self._short(part))
            self._pending.update(dict.fromkeys(part.seqs[~part.known].tolist()))
        if parts:
            self._arrays = Block._make(np.concatenate(same) for same in zip(*parts, strict=True))
        self.count = len(self._arrays.seqs)
        for selected in selections(reader, self.stream):
            self._select(selected)
        self.loaded = True

    def take_in(self, reader: ReadSide, provider: MemoryEmbeddingProvider) -> None:
        """All notes so far; then the vectors that are missing, if they take no time."""
        with self.lock:
            notes = [self.notes.popleft() for _ in range(len(self.notes))]
            added = [note for note in notes if type(note) is Added]
            self._add(added)
            removed: list[Removed] = []
            for note in notes:
                match note:
                    case Removed():
                        removed.append(note)
                    case Ended():
                        at = self._find(note.memory_ids)
                        self._arrays.ended[at] = np.minimum(self._arrays.ended[at], note.at_ms)
                    case Selected():
                        self._select(note)
                    case Vectors():
                        self._put(note.seqs, note.vectors)
            self._remove(removed)
            if provider.near and self._pending and len(self._unsaved) < UNSAVED_MAX:
                self._embed_pending(reader, provider)

    def _add(self, added: Sequence[Added]) -> None:
        last = int(self._arrays.seqs[self.count - 1]) if self.count else 0
        rows = []
        for note in added:
            if note.seq > last:
                item = from_payload(note.payload, note.ts_ms)
                self._pending[note.seq] = item.content
                rows.append((
                    note.seq, item.created_ms, None, item.expires_ms, MEMORY_SOURCES[item.source],
                    item.session_id, item.channel, len(words(item.content)), None, item.memory_id,
                ))  # fmt: skip
        if not rows:
            return
        new = self._short(_columns(rows, self.names, self._dimensions))
        end = self.count + len(rows)
        if end > len(self._arrays.seqs):
            room = max(1024, end + end // 2)
            self._arrays = Block._make(_grown(array, self.count, room) for array in self._arrays)
        arrays: Iterable[NDArray[Any]] = self._arrays
        for array, part in zip(arrays, new, strict=True):
            array[self.count : end] = part
        self.count = end

    def _find(self, memory_ids: Iterable[bytes]) -> NDArray[np.int64]:
        wanted = np.array(list(memory_ids), dtype="V16")
        low = self._arrays.ids[: self.count].view(np.uint64).reshape(-1, 2)[:, 1]
        near = np.nonzero(np.isin(low, wanted.view(np.uint64).reshape(-1, 2)[:, 1]))[0]
        exact = set(memory_ids)
        found = [at for at in near if self._arrays.ids[at].tobytes() in exact]
        return np.array(found, dtype=np.int64)

    def _remove(self, removed: Sequence[Removed]) -> None:
        if not removed:
            return
        last = {one: note.seq for note in removed for one in note.memory_ids}
        for at in self._find(last):
            if self._arrays.seqs[at] < last[self._arrays.ids[at].tobytes()]:
                self._arrays.alive[at] = False
                self._want_no_more([int(self._arrays.seqs[at])])

    def _select(self, note: Selected) -> None:
        arrays, count = self._arrays, self.count
        hit = arrays.seqs[:count] < note.seq
        if note.session_id is not None:
            hit &= arrays.sessions[:count] == self.names.number(note.session_id)
        elif note.channel is not None:
            hit &= arrays.channels[:count] == self.names.number(note.channel)
        arrays.alive[:count][hit] = False
        if self._unsaved or self._pending:
            self._want_no_more(arrays.seqs[:count][hit].tolist())  # no more events tell of these

    def _want_no_more(self, seqs: Iterable[int]) -> None:
        """They have their vector in the file, or need none."""
        for seq in seqs:
            self._pending.pop(seq, None)
            self._unsaved.pop(seq, None)

    def _put(self, seqs: NDArray[np.int64], vectors: Matrix) -> None:
        block = self.block()
        here = np.isin(seqs, block.seqs)
        at = block.places(seqs)
        block.vectors[at] = vectors[here] if self.signs is None else self.signs.codes(vectors[here])
        block.known[at] = True
        self._want_no_more(seqs.tolist())

    def _embed_pending(self, reader: ReadSide, provider: MemoryEmbeddingProvider) -> None:
        newest = sorted(self._pending, reverse=True)[:PENDING_AT_ONCE]
        texts: list[str] = []
        seqs: list[int] = []
        for seq in newest:
            text = self._pending[seq]
            if text is None:
                rows = reader.rows("memory.by_seq", (seq,))
                if not rows or rows[0][5] is None:
                    del self._pending[seq]
                    continue
                text = item_of(rows[0]).content
            seqs.append(seq)
            texts.append(text)
        try:
            vectors, good = embed_checked(apart(provider), texts)
        except ProviderFault:
            return
        made = np.array(seqs, np.int64)[good]
        self._put(made, vectors[good])
        if self.signs is not None:
            kept = [vector.copy() for vector in vectors[good]]
            self._unsaved.update(zip(made.tolist(), kept, strict=True))

    def exact(self, reader: ReadSide, model: int, part: Block) -> Block:
        """A part of what is here with its vectors, of a scope that is kept as codes."""
        known = np.zeros(len(part.seqs), np.bool_)
        vectors = np.zeros((len(part.seqs), self._dimensions), np.float32)
        with self.lock:  # before the file: what is not unsaved any more by now is in it
            unsaved = [(seq, self._unsaved.get(seq)) for seq in part.seqs.tolist()]
        asked = (json.dumps(part.seqs[part.known].tolist()), self.stream, model)
        found = {
            seq: np.frombuffer(one, "<f4") for seq, one in reader.rows("memory.vectors", asked)
        }
        for at, (seq, kept) in enumerate(unsaved):
            vector = found.get(seq, kept)
            if vector is not None:
                vectors[at], known[at] = vector, True
        return part._replace(vectors=vectors, known=known)


class Shelves:
    """The scopes that were searched lately, as far as they fit into `bytes_max`."""

    def __init__(
        self, provider: MemoryEmbeddingProvider, bytes_max: int, *, approximate: bool = True
    ) -> None:
        self._provider = provider
        self._bytes_max = bytes_max
        self._approximate = approximate
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._shelves: OrderedDict[int, Shelf] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        return sum(shelf.size_bytes for shelf in list(self._shelves.values()))

    def __len__(self) -> int:
        return len(self._shelves)

    def note(self, stream: int, note: Any) -> None:
        """Something is durable in this scope, and not acknowledged yet. The loop's thread."""
        shelf = self._shelves.get(stream)
        if shelf is not None:
            shelf.notes.append(note)
            if len(shelf.notes) > NOTES_MAX:
                self.take_down(stream)

    def shelf(self, reader: ReadSide, stream: int, model: int) -> Shelf | None:
        """The scope, with all that was acknowledged; None: it does not fit, see `from_file`."""
        with self._lock:
            shelf = self._shelves.get(stream)
            if shelf is not None:
                self._shelves.move_to_end(stream)
        if shelf is None or not shelf.loaded:
            with self._loading:  # nothing is half loaded here: whoever loads has this lock
                shelf = self._shelves.get(stream) or self._load(reader, stream, model)
        if shelf is not None:
            shelf.take_in(reader, self._provider)
            if shelf.needs_bytes > self._bytes_max:
                self.take_down(stream)  # it has grown; the next search takes it in otherwise
        return shelf

    def _load(self, reader: ReadSide, stream: int, model: int) -> Shelf | None:
        ((count,),) = reader.rows("memory.count", (stream,))
        dimensions = self._provider.model.dimensions
        signs = None
        needed = count * row_bytes(dimensions)
        if needed > self._bytes_max and self._approximate:
            signs = Signs(dimensions)
            needed = count * row_bytes(dimensions, signs)
        if needed > self._bytes_max:
            return None
        shelf = Shelf(stream, dimensions, signs)
        with self._lock:
            while self._shelves and self.size_bytes + needed > self._bytes_max:
                self._shelves.popitem(last=False)
            self._shelves[stream] = shelf  # from now on it hears what is committed
        try:
            shelf.load(reader, model)
        except BaseException:
            self.take_down(stream)
            raise
        return shelf

    def take_down(self, stream: int) -> None:
        """The next search reads the scope anew. Any thread."""
        with self._lock:
            self._shelves.pop(stream, None)


def row_bytes(dimensions: int, signs: Signs | None = None) -> int:
    """What an item takes: as a vector, or as its code."""
    return ROW_BYTES + (4 * dimensions if signs is None else signs.bits // 8)


def _grown(array: NDArray[Any], count: int, room: int) -> NDArray[Any]:
    order: Literal["F", "C"] = "F" if array.flags.fnc else "C"  # codes lie by columns
    made = np.zeros((room, *array.shape[1:]), array.dtype, order)
    made[:count] = array[:count]
    return made


def pages(
    reader: ReadSide, stream: int, model: int, dimensions: int, names: Names
) -> Iterator[Block]:
    """The scope's items as the file has them, some thousand at a time.

    The numbers of a page come as one text for each column: a row each would take six times as long.
    """
    after = 0
    while True:
        page = reader.rows("memory.shelf", (stream, after, ROWS_AT_ONCE))[0]
        if page[0] is None:
            return
        seqs, created, ended, expires, sources, words_ = (
            np.fromstring(column, np.int64, sep=",") for column in page[:6]
        )
        count, (first, last) = len(seqs), page[9:]
        sessions, channels = np.zeros(count, np.int32), np.zeros(count, np.int32)
        if page[7] or page[8]:
            for seq, session, channel in reader.rows("memory.shelf_names", (stream, first, last)):
                at = np.searchsorted(seqs, seq)
                sessions[at], channels[at] = names.number(session), names.number(channel)
        known, vectors = np.zeros(count, np.bool_), np.zeros((count, dimensions), np.float32)
        rows = reader.rows("memory.shelf_vectors", (first, last, stream, model))
        if rows:
            at = np.searchsorted(seqs, np.fromiter((row[0] for row in rows), np.int64, len(rows)))
            at = np.minimum(at, count - 1)
            blobs = b"".join([row[1] for row in rows])
            made = np.frombuffer(blobs, "<f4").reshape(-1, dimensions)
            here = seqs[at] == np.fromiter((row[0] for row in rows), np.int64, len(rows))
            known[at[here]], vectors[at[here]] = True, made[here]
        ids = np.frombuffer(bytes.fromhex(page[6]), "V16")
        yield Block(
            seqs, created, ended, expires, sources.astype(np.uint8), sessions, channels,
            words_.astype(np.int32), ids, np.ones(count, np.bool_), known, vectors,
        )  # fmt: skip
        if count < ROWS_AT_ONCE:
            return
        after = last


def from_file(
    reader: ReadSide, stream: int, model: int, dimensions: int, names: Names
) -> Iterator[Block]:
    """A scope that does not fit, block by block."""
    selected = selections(reader, stream)
    for block in pages(reader, stream, model, dimensions, names):
        for one in selected:
            hit = block.seqs < one.seq
            if one.session_id is not None:
                hit &= block.sessions == names.number(one.session_id)
            elif one.channel is not None:
                hit &= block.channels == names.number(one.channel)
            block.alive[hit] = False
        yield block


def selections(reader: ReadSide, stream: int) -> list[Selected]:
    """What purges select that is still to be destroyed."""
    return [
        Selected(seq, session_id, channel)
        for own, seq, session_id, channel in reader.rows("memory.selections")
        if own == stream
    ]


def note_of(fact: Any) -> Any:
    """What a shelf has to know of an event."""
    said = fact.payload
    match fact.kind:
        case "memory.ingested":
            return Added(fact.seq, said, fact.ts_ms)
        case "memory.superseded":
            return Ended(fact.ts_ms, [parse_ulid(one) for one in said["memory_ids"]])
        case kind if kind in REMOVALS:
            return Removed(fact.seq, [parse_ulid(one) for one in said["memory_ids"]])
        case _:
            session_id = None if said["session_id"] is None else parse_ulid(said["session_id"])
            return Selected(fact.seq, session_id, said["channel"])
