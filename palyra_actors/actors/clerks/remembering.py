"""What the memory clerk works with, and the vectors that are still to be made.

    written ──a moment──▶ batch ──provider's thread──▶ vectors ──chore──▶ file, shelves
       file ──what has none of this model──▶ backfill: at start, every ten minutes, on demand ──┘

An ingest waits for none of this. Where the provider fails, what waits is forgotten here: the file
knows which items have no vector, and the next backfill finds them.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.embedder import LONG_S, Busy, Embedded, Embedder
from palyra_actors.actors.memory import item_of
from palyra_actors.actors.search import Weights
from palyra_actors.actors.shelf import Shelves, Vectors
from palyra_actors.embedding.provider import MemoryEmbeddingProvider, ProviderFault
from palyra_actors.errors import PalyraError
from palyra_actors.limits import MEMORY_UPKEEP_MAX
from palyra_actors.storage.port import Parameters, ReadSide, WriteSide

log = logging.getLogger(__name__)

BATCH_TEXTS: Final = 128
GATHER_S: Final = 0.25
"""For how long nothing new has come when vectors are made: a commit a batch, not an item, and those
who write have the interpreter to themselves meanwhile."""

PILE: Final = 2_048
"""New items for which it is not waited any longer: as many as a search makes vectors for itself."""

QUEUE_MAX: Final = 8_192
"""New items that wait for their vectors here; more are left to the backfill."""

SCAN_ROWS: Final = 2_000
FAILURE_CHARACTERS_MAX: Final = 200

PATIENCE_S_MAX: Final = 5.0
"""For how long a search waits for its vector at most: whoever asks does not wait much longer for
its answer, our own commands 10 s, and hits without meaning are better than none."""

REST_S_FIRST: Final = 1.0
REST_S_MAX: Final = 60.0
"""For how long a provider that failed is left alone by searches and new items; the backfill asks it
whenever it is due."""


class Retention(NamedTuple):
    """How much is kept; 0: as much as there is. `scope_…`: of one principal's."""

    max_entries: int
    max_bytes: int
    ttl_days: float
    scope_max_entries: int
    scope_max_bytes: int
    vacuum_schedule: str


@dataclass(slots=True)
class Remembering:
    """Made by the engine. `queries`: a thread for the vectors of queries, None where that takes
    no time. `failure`: what the provider did last, if that was no vector; `refused`: the items that
    it would make none for since the last look at all of them. `patience_s`: for how long a search
    waits for its vector. `rest_s`: for how long a provider that fails is left alone; 0: it does
    not fail."""

    provider: MemoryEmbeddingProvider
    shelves: Shelves
    weights: Weights
    retention: Retention
    embedder: Embedder
    queries: Embedder | None
    maintenance_ms: int
    backfill_ms: int
    patience_s: float
    rest_s: float = 0.0
    rest_until_s: float = 0.0
    failure: str | None = None
    refused: set[int] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=lambda: {"embedded": 0, "faults": 0})

    def start(self) -> None:
        self.embedder.start()
        if self.queries is not None:
            self.queries.start()

    def stop(self, wait_s_max: float) -> bool:
        """False: the provider is still waited for."""
        stopped = self.embedder.stop(wait_s_max)
        if self.queries is not None:
            stopped &= self.queries.stop(wait_s_max)
        if stopped:
            self.provider.close()
        return stopped

    def failed(self, fault: ProviderFault, now_s: float) -> None:
        """It made no vector. Where that is not for the texts, it rests: twice as long each time."""
        self.counts["faults"] += 1
        self.failure = str(fault)[:FAILURE_CHARACTERS_MAX]
        if not fault.lasting and not self.rests(now_s):
            self.rest_s = min(max(2 * self.rest_s, REST_S_FIRST), REST_S_MAX)
            self.rest_until_s = now_s + self.rest_s

    def answered(self) -> None:
        """It made one."""
        self.failure, self.rest_s, self.rest_until_s = None, 0.0, 0.0

    def rests(self, now_s: float) -> bool:
        return now_s < self.rest_until_s

    @property
    def batch_s(self) -> float:
        """How long the provider may be at one batch before it is taken to hang."""
        return LONG_S + self.patience_s

    def retry_ms(self, now_s: float) -> int:
        """When a search may have a vector again, at the earliest."""
        return max(round(REST_S_FIRST * 1000), round((self.rest_until_s - now_s) * 1000))

    def trouble(self) -> str | None:
        """For `engine.health`."""
        at_it_s = self.embedder.at_it_s
        if at_it_s > self.batch_s:
            return f"the embedding provider has been at one batch for {at_it_s:.0f} s"
        if self.failure is not None:
            return f"the embedding provider fails, what has no vector waits: {self.failure}"
        if self.refused:
            return f"the embedding provider makes no vector for {len(self.refused)} memories"
        return None


class Wanting(NamedTuple):
    """An item without a vector."""

    seq: int
    stream: int
    content: str


class Found(NamedTuple):
    """Of a look for items without a vector: where to go on from, None at the end."""

    items: list[Wanting]
    next_after: int | None


class Backfill:
    """On the loop's thread."""

    def __init__(self, counter: Counter, remembering: Remembering) -> None:
        self._counter = counter
        self._works = remembering
        self._new: deque[Wanting] = deque()
        self._gathering = self._busy = False
        self._came_at = 0.0

    def note(self, seq: int, stream: int, content: str) -> None:
        """A new item is durable."""
        now_s = self._counter.loop.clock.monotonic()
        if len(self._new) < QUEUE_MAX and not self._works.rests(now_s):
            self._new.append(Wanting(seq, stream, content))
            self._came_at = now_s
            if not self._gathering and not self._busy:
                self._gathering = True
                self._counter.call_later(GATHER_S, self._gathered)

    def run(self, stream: int | None, limit: int, done: Callable[[int], None]) -> None:
        """Make the vectors that are missing, of one scope or of all, at most `limit`; `done` gets
        how many that were. It ends early where the provider fails."""
        if stream is None:
            self._works.refused.clear()
        self._look(stream, 0, limit, 0, done)

    def run_unasked(self) -> None:
        """The same for all, by itself: nobody waits for it."""
        self.run(None, MEMORY_UPKEEP_MAX, _ignore)

    def recovered(self) -> None:
        """The provider is back: what it left without a vector does not wait for the next turn."""
        self._works.answered()
        self.run_unasked()

    def _gathered(self) -> None:
        self._gathering = False
        if self._busy or not self._new:
            return
        quiet_s = self._counter.loop.clock.monotonic() - self._came_at
        if quiet_s < GATHER_S and len(self._new) < PILE:
            self._gathering = True
            self._counter.call_later(GATHER_S - quiet_s, self._gathered)
            return
        self._busy = True
        batch = [self._new.popleft() for _ in range(min(BATCH_TEXTS, len(self._new)))]
        failing = self._works.rest_s > 0

        def written(count: int | None) -> None:
            self._busy = False
            if count is None:
                self._new.clear()
            elif self._new:
                self._gathered()
            if failing and not self._works.rest_s:
                self.recovered()

        self._embed(batch, written)

    def _look(
        self, stream: int | None, after: int, limit: int, embedded: int, done: Callable[[int], None]
    ) -> None:
        def come(found: Any) -> None:
            if isinstance(found, PalyraError):
                log.warning("what has no vector could not be read: %s", found)
                done(embedded)
            else:
                self._fill(found, stream, limit, embedded, done)

        rows = min(BATCH_TEXTS, limit - embedded)
        find = partial(_wanting, model=self._works.provider.model, stream=stream)
        self._counter.ask(lambda reader: find(reader, after=after, limit=rows), come)

    def _fill(
        self,
        found: Found,
        stream: int | None,
        limit: int,
        embedded: int,
        done: Callable[[int], None],
    ) -> None:
        def written(count: int | None) -> None:
            made = embedded + (count or 0)
            if count is None or found.next_after is None or made >= limit:
                done(made)
            else:
                self._look(stream, found.next_after, limit, made, done)

        if found.items:
            self._embed(found.items, written, alone=stream is not None)
        else:
            written(0)

    def _embed(
        self,
        batch: Sequence[Wanting],
        written: Callable[[int | None], None],
        *,
        alone: bool = False,
    ) -> None:
        """Vectors for a batch, and into the file; None: the provider does not work. `alone`: a
        principal waits for those of its own scope."""

        works, clock = self._works, self._counter.loop.clock
        told = written

        def late() -> None:
            nonlocal told
            first, told = told, _ignore  # what it brings after all is kept
            fault = ProviderFault(f"it has been at one batch for {works.batch_s:.0f} s")
            log.warning("the embedding provider failed: %s", fault)
            works.failed(fault, clock.monotonic())
            first(None)

        if works.embedder.at_it_s > works.batch_s:
            late()
            return
        timer = self._counter.loop.call_later(works.batch_s, late)

        def come(result: Embedded | ProviderFault) -> None:
            timer.cancel()
            if isinstance(result, Embedded):
                works.answered()
                for one, is_good in zip(batch, result.good, strict=True):
                    (works.refused.discard if is_good else works.refused.add)(one.seq)
                self._write(batch, result, told)
            elif result.lasting and len(batch) > 1:  # one of them may be at fault
                middle = len(batch) // 2
                self._embed(batch[:middle], lambda one: self._rest(batch[middle:], one, told))
            elif result.lasting:
                works.counts["faults"] += 1
                works.refused.update(one.seq for one in batch)
                told(0)
            else:
                log.warning("the embedding provider failed: %s", result)
                if not isinstance(result, Busy):
                    works.failed(result, clock.monotonic())
                told(None)

        works.embedder.embed([one.content for one in batch], come, alone=alone)

    def _rest(
        self, batch: Sequence[Wanting], first: int | None, written: Callable[[int | None], None]
    ) -> None:
        if first is None:
            written(None)
        else:
            self._embed(batch, lambda one: written(None if one is None else first + one))

    def _write(
        self, batch: Sequence[Wanting], result: Embedded, written: Callable[[int | None], None]
    ) -> None:
        model, counter = self._works.provider.model, self._counter
        good = [one for one, is_good in zip(batch, result.good, strict=True) if is_good]
        vectors = result.vectors[result.good]
        rows: list[Parameters] = [
            (vector.astype("<f4").tobytes(), *model, one.seq)
            for one, vector in zip(good, vectors, strict=True)
        ]

        def chore(storage: WriteSide) -> None:
            count: int | None = len(rows)
            try:
                if rows:
                    storage.apply([("memory.add_model", [model]), ("memory.add_vector", rows)])
            except PalyraError as error:
                log.warning("vectors could not be written: %s", error)
                count = None
            counter.loop.call_soon(lambda: then(count))

        def then(count: int | None) -> None:
            if count is not None:
                self._works.counts["embedded"] += count
                self._tell(good, vectors)
            written(count)

        counter.chore(chore)

    def _tell(self, items: Sequence[Wanting], vectors: Any) -> None:
        streams = np.array([one.stream for one in items])
        seqs = np.array([one.seq for one in items], np.int64)
        for stream in set(streams.tolist()):
            own = streams == stream
            order = np.argsort(seqs[own])
            self._works.shelves.note(stream, Vectors(seqs[own][order], vectors[own][order]))


def _ignore(_: int | None) -> None:
    """Nobody waits for it."""


def _wanting(reader: ReadSide, *, model: Any, stream: int | None, after: int, limit: int) -> Found:
    """In a reader's thread: items behind `after` that have no vector of the model. Of one scope no
    others' are looked at: who waits for its own would hear how much they remember."""
    numbers = reader.rows("memory.model", model)
    number = numbers[0][0] if numbers else 0
    rows = (
        reader.rows("memory.without_vector", (number, after, SCAN_ROWS))
        if stream is None
        else reader.rows("memory.without_vector_in", (number, stream, after, SCAN_ROWS))
    )
    items: list[Wanting] = []
    for seq, own, has in rows:
        if has is None:
            found = reader.rows("memory.by_seq", (seq,))
            if found and found[0][5] is not None:
                items.append(Wanting(seq, own, item_of(found[0]).content))
            if len(items) == limit:
                return Found(items, seq)
    return Found(items, rows[-1][0] if len(rows) == SCAN_ROWS else None)
