"""Which of a large scope's vectors are near another one, without a look at each: usearch's HNSW.

    Shelf ──large──▶ Indexer's thread ──some rows at once──▶ Nearest ──candidates──▶ `actors.search`

Candidates are scored from the shelf's own vectors; what the index does not hold yet is scored with
them. So a vector that the graph does not lead to is all that can be missed. The index is of the
shelf: made from it after a start, and gone with it; nothing of it is in a file.
"""

import importlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

LINKS: Final = 16
EXPANSION_ADD: Final = 128
EXPANSION_SEARCH: Final = 256
"""Of the graph. Recall and cost of these: docs/memory.md."""

CANDIDATES_MIN: Final = 256
CANDIDATES_EACH: Final = 8
"""Candidates for each hit that is wanted."""

ROWS_AT_ONCE: Final = 16
"""Vectors that are added while searches wait: 10 ms at 768 dimensions."""

PAUSE_S: Final = 0.001
"""Between two of those, so that a search that waits has its turn."""

LINKS_BYTES: Final = 1_024
"""What an item takes in the index besides its vector of 16-bit numbers and half as much again:
links, key, and what the index takes in advance. Measured in all: 851 at 64, 2,862 at 768."""


class Rows(Protocol):
    """Of a shelf's block."""

    @property
    def alive(self) -> NDArray[np.bool_]: ...
    @property
    def known(self) -> NDArray[np.bool_]: ...
    @property
    def vectors(self) -> NDArray[np.float32]: ...


class Near(NamedTuple):
    """Places of candidates, and which of all places the index held when it was asked."""

    places: NDArray[np.int64]
    held: NDArray[np.bool_]


class Nearest:
    """The index of one shelf: keys are places in its arrays. One thread adds, any may look.

    Raises ImportError: usearch is not installed.
    """

    def __init__(self, dimensions: int) -> None:
        self._index: Any = importlib.import_module("usearch.index").Index(
            ndim=dimensions,
            metric="ip",
            dtype="f16",
            connectivity=LINKS,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        self._lock = threading.Lock()  # usearch itself lets searches wait for a whole `add`
        self._held = np.zeros(0, np.bool_)
        self.ready = False
        """All that the shelf had was added once."""

    @property
    def size_bytes(self) -> int:
        """What usearch has taken."""
        return int(self._index.memory_usage)

    def look(self, vector: NDArray[np.float32], count: int, wanted: int) -> Near:
        """The candidates for `wanted` hits among the first `count` places."""
        with self._lock:
            held = _stretched(self._held[:count], count)
            asked = max(CANDIDATES_MIN, CANDIDATES_EACH * wanted)
            asked = min(asked, len(self._index))
            if not asked:
                return Near(np.empty(0, np.int64), held)
            found = self._index.search(vector, asked, threads=1)
        places = found.keys.astype(np.int64)
        return Near(places[places < count], held)

    def lacks(self, rows: Rows) -> bool:
        """Whether there is something to do for `catch_up`."""
        count = len(rows.alive)
        held = _stretched(self._held[:count], count)
        return bool(np.any((rows.alive & rows.known) != held))

    def catch_up(self, rows: Rows, leave: Callable[[], bool], pause: Callable[[], Any]) -> None:
        """Add what is new, leave out what was removed. `leave`: whether it is needed no more."""
        count = len(rows.alive)
        with self._lock:
            self._held = _stretched(self._held, count)
        wanted = rows.alive & rows.known
        gone = np.nonzero(self._held[:count] & ~wanted)[0]
        new = np.nonzero(wanted & ~self._held[:count])[0]
        for places, work in ((gone, self._leave_out), (new, self._add)):
            for at in range(0, len(places), ROWS_AT_ONCE):
                if leave():
                    return
                work(rows, places[at : at + ROWS_AT_ONCE])
                if self.ready:
                    pause()

    def _add(self, rows: Rows, places: NDArray[np.int64]) -> None:
        vectors = rows.vectors[places]
        with self._lock:
            self._index.add(places.astype(np.uint64), vectors, threads=1)
            self._held[places] = True

    def _leave_out(self, rows: Rows, places: NDArray[np.int64]) -> None:
        del rows
        with self._lock:
            self._index.remove(places.astype(np.uint64), threads=1)
            self._held[places] = False


class Shelved(Protocol):
    """What an indexer knows of a shelf."""

    nearest: Nearest | None
    gone: bool

    def block(self) -> Rows: ...


class Indexer:
    """A thread that makes indices, started when the first is wanted.

    `above_bytes`: vectors of a scope from which one is wanted; 0: never.
    """

    def __init__(self, above_bytes: int) -> None:
        self._above_bytes = above_bytes
        self._wanted: queue.SimpleQueue[tuple[Shelved, Callable[[], Nearest]] | None]
        self._wanted = queue.SimpleQueue()
        self._waiting: set[int] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._broken = False

    def pays(self, items: int, dimensions: int) -> bool:
        """Whether so many vectors are better searched with an index."""
        large = items * dimensions * 4 > self._above_bytes > 0
        return large and not self._broken

    def exact_items(self, dimensions: int) -> int:
        """So many vectors need no index."""
        return self._above_bytes // (4 * dimensions)

    def want(self, shelf: Shelved, dimensions: int) -> None:
        """Have the shelf's index made, or brought up to it. At once; any thread."""
        nearest = shelf.nearest
        if nearest is not None and not nearest.lacks(shelf.block()):
            return
        with self._lock:
            if self._broken or self._stopping.is_set() or id(shelf) in self._waiting:
                return
            self._waiting.add(id(shelf))
            self._wanted.put((shelf, lambda: Nearest(dimensions)))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="palyra-indexer", daemon=True
                )
                self._thread.start()

    def stop(self, wait_s_max: float) -> bool:
        """Leave after what is under way, 10 ms of work. False: it took longer."""
        with self._lock:
            self._stopping.set()
            self._wanted.put(None)
        if self._thread is not None:
            self._thread.join(wait_s_max)
        return self._thread is None or not self._thread.is_alive()

    def _run(self) -> None:
        while (task := self._wanted.get()) is not None and not self._stopping.is_set():
            shelf, make = task
            with self._lock:
                self._waiting.discard(id(shelf))
            try:
                self._serve(shelf, make)
            except ImportError as error:
                self._give_up("usearch is not installed: pip install 'palyra_actors[ann]'", error)
            except (MemoryError, RuntimeError, ValueError) as error:  # usearch's own
                shelf.nearest = None
                self._give_up("the approximate index failed", error)

    def _serve(self, shelf: Shelved, make: Callable[[], Nearest]) -> None:
        def leave() -> bool:
            return shelf.gone or self._stopping.is_set()

        if leave():
            return
        nearest = shelf.nearest or make()
        shelf.nearest = nearest
        rows = shelf.block()
        nearest.catch_up(rows, leave, lambda: self._stopping.wait(PAUSE_S))
        if not nearest.ready and not leave():
            nearest.ready = True
            log.info(
                "a scope of %d memories is searched with an approximate index", len(rows.alive)
            )

    def _give_up(self, what: str, error: Exception) -> None:
        self._broken = True
        log.warning("%s; large scopes are searched exactly (%s)", what, error)


def index_bytes(dimensions: int) -> int:
    """What an item takes in an index, about."""
    return 3 * dimensions + LINKS_BYTES


def _stretched(held: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """At least so many, and a copy."""
    made = np.zeros(max(count, len(held)), np.bool_)
    made[: len(held)] = held
    return made
