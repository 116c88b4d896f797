"""What searches run over, where several threads are at it: with a file that answers as told."""

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from palyra_actors.actors.shelf import (
    NEVER,
    Added,
    Selected,
    Shelf,
    Shelves,
    Vectors,
)
from palyra_actors.actors.signs import Signs
from palyra_actors.embedding.provider import Matrix, Model
from palyra_actors.ids import format_ulid

DIMENSIONS = 64
MODEL = 1
STREAM = 7


class Provider:
    """`near`: a text's vector lies on the axis of its length."""

    model = Model("test", "lengths", DIMENSIONS, 1)

    def __init__(self, *, near: bool) -> None:
        self.near = near

    def embed(self, texts: Any, *, query: bool = False) -> Matrix:
        return np.array([axis(len(text)) for text in texts], np.float32)

    def close(self) -> None: ...


class File:
    """Items 1, 2, 3 … of one scope, the vectors of some of them. `meanwhile`: done before the
    answer to a statement, once."""

    def __init__(self, count: int, vectors: dict[int, Matrix]) -> None:
        self.count, self.vectors = count, vectors
        self.meanwhile: dict[str, Callable[[], object]] = {}

    def rows(self, statement: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        answer = self._answer(statement, parameters)
        self.meanwhile.pop(statement, lambda: None)()
        return answer

    def _answer(self, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
        seqs = range(1, self.count + 1)
        match statement:
            case "memory.count":
                return [(self.count,)]
            case "memory.selections":
                return []
            case "memory.shelf" if parameters[1] < self.count:
                numbers = ",".join(map(str, seqs))
                once, never = ",".join(["1"] * self.count), ",".join([str(NEVER)] * self.count)
                ids = "".join(memory_id(seq).hex() for seq in seqs)
                return [(numbers, once, never, never, once, once, ids, 0, 0, 1, self.count)]
            case "memory.shelf":
                return [(None,)]
            case "memory.shelf_vectors":
                return [(seq, self.vectors[seq].tobytes()) for seq in sorted(self.vectors)]
            case "memory.vectors":
                wanted = json.loads(parameters[0])
                return [(seq, one.tobytes()) for seq, one in self.vectors.items() if seq in wanted]
            case _:
                raise AssertionError(statement)


def axis(number: int) -> Matrix:
    made = np.zeros(DIMENSIONS, np.float32)
    made[number % DIMENSIONS] = 1
    return made


def memory_id(seq: int) -> bytes:
    return seq.to_bytes(16, "big")


def added(seq: int, content: str = "a gull") -> Added:
    return Added(seq, {
        "memory_id": format_ulid(memory_id(seq)), "source": "manual", "content": content,
        "tags": [], "confidence": None, "channel": None, "session_id": None,
        "from_event_id": None, "expires_ms": None,
    }, 1)  # fmt: skip


def test_a_scope_that_is_being_read_is_looked_at_by_nobody_else() -> None:
    """Whoever came meanwhile found nothing, and what it had heard of was lost to the scope."""
    file: Any = File(3, {})
    shelves = Shelves(Provider(near=False), 1_000_000)
    counts: list[int] = []

    def look() -> None:
        shelf = shelves.shelf(file, STREAM, MODEL)
        assert shelf is not None
        counts.append(shelf.count)

    other = threading.Thread(target=look)

    def come() -> None:
        shelves.note(STREAM, added(4))
        other.start()
        other.join(0.2)  # which it does if it does not wait for this one

    file.meanwhile["memory.shelf"] = come
    look()
    other.join()
    assert counts == [4, 4]


def test_a_vector_that_is_saved_between_two_looks_for_it_is_found() -> None:
    """First the file has it not yet, and then the shelf not any more."""
    file: Any = File(0, {})
    provider = Provider(near=True)
    shelf = Shelf(STREAM, DIMENSIONS, Signs(DIMENSIONS))
    shelf.notes.append(added(1))
    shelf.take_in(file, provider)

    def save() -> None:
        file.vectors[1] = axis(6)
        shelf.notes.append(Vectors(np.array([1]), axis(6)[None, :]))
        shelf.take_in(file, provider)

    file.meanwhile["memory.vectors"] = save
    for _ in range(2):
        part = shelf.exact(file, MODEL, shelf.block())
        assert part.known.tolist() == [True]
        assert np.array_equal(part.vectors, [axis(6)])


def test_nothing_is_kept_of_what_a_purge_selects() -> None:
    file: Any = File(0, {})
    for provider in (Provider(near=True), Provider(near=False)):
        shelf = Shelf(STREAM, DIMENSIONS, Signs(DIMENSIONS))
        shelf.notes.append(added(1, "a secret"))
        shelf.take_in(file, provider)
        shelf.notes.extend([added(2, "another"), Selected(3, None, None), added(4)])
        shelf.take_in(file, provider)
        assert shelf.block().alive.tolist() == [False, False, True]
        assert {*shelf._pending, *shelf._unsaved} == {4}


def test_what_is_not_saved_yet_keeps_no_more_than_its_own_vector() -> None:
    """And not all of those that were made with it, most of which are saved long since."""
    file: Any = File(0, {})
    shelf = Shelf(STREAM, DIMENSIONS, Signs(DIMENSIONS))
    shelf.notes.extend([added(1), added(2)])
    shelf.take_in(file, Provider(near=True))
    assert [one.base for one in shelf._unsaved.values()] == [None, None]
