"""Vectors of queries, from a provider that has to be waited for.

    asked ──▶ provider's thread ──▶ vector
       │            └─ fault, or no answer in time ──▶ it rests: 1 s, then twice that, at most 60 s
       └─ it rests ──▶ without a vector, at once; who asks after that rest tries it beside

So a provider that fails is waited for once, by those who ask it then, and by nobody after them.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.remembering import Backfill, Remembering
from palyra_actors.actors.embedder import Busy, Embedded, Embedder
from palyra_actors.embedding.provider import ProviderFault
from palyra_actors.errors import (
    EMBEDDING_PROVIDER,
    Overloaded,
    PalyraError,
    StorageUnavailable,
)

BUSY_RETRY_MS: Final = 100
WITHOUT_MEANING: Final = "the embedding provider does not answer: found by words and newness"
"""What a hybrid search says that had no vector of its query."""

Told: TypeAlias = Callable[["NDArray[np.float32] | PalyraError"], None]


class QueryVectors:
    """On the loop's thread."""

    def __init__(
        self, counter: Counter, works: Remembering, embedder: Embedder, backfill: Backfill
    ) -> None:
        self._counter = counter
        self._works = works
        self._embedder = embedder
        self._backfill = backfill
        self._trying = False

    def ask(self, query: str, told: Told) -> None:
        """`told` gets the query's vector, or the error of a search that cannot do without; within
        `patience_s`, once."""
        works, loop = self._works, self._counter.loop
        now_s = loop.clock.monotonic()
        if works.rest_s:
            if not works.rests(now_s) and not self._trying:
                self._try(query)
            told(no_vector(works, now_s))
            return
        waiting = True

        def come(result: Embedded | ProviderFault) -> None:
            nonlocal waiting
            if not waiting:
                return  # too late
            waiting = False
            timer.cancel()
            told(self._outcome(result))

        late = ProviderFault(f"it has not answered within {works.patience_s:g} s")
        timer = loop.call_later(works.patience_s, lambda: come(late))
        self._embedder.embed([query], come, query=True)

    def _outcome(self, result: Embedded | ProviderFault) -> NDArray[np.float32] | PalyraError:
        works, now_s = self._works, self._counter.loop.clock.monotonic()
        if isinstance(result, Busy):
            return Overloaded(
                "too many searches wait for the embedding provider",
                hint="search by words (mode lexical), or come back later",
                retry_after_ms=BUSY_RETRY_MS,
            )
        if isinstance(result, ProviderFault):
            works.failed(result, now_s)
            return no_vector(works, now_s)
        works.answered()
        vector: NDArray[np.float32] = result.vectors[0]
        return vector

    def _try(self, query: str) -> None:
        """Whether it is back. Nobody waits; what was left without a vector is made up for."""
        works, clock = self._works, self._counter.loop.clock
        began = clock.monotonic()
        self._trying = True

        def come(result: Embedded | ProviderFault) -> None:
            self._trying = False
            now_s = clock.monotonic()
            if isinstance(result, ProviderFault):
                works.failed(result, now_s)
            elif now_s - began > works.patience_s:
                works.failed(ProviderFault(f"it took {now_s - began:.0f} s"), now_s)
            else:
                self._backfill.recovered()

        self._embedder.embed([query], come, query=True)


def no_vector(works: Remembering, now_s: float) -> StorageUnavailable:
    """The answer to a search by meaning alone. A client does not wait for it by itself: whoever
    asks may do without meaning."""
    return StorageUnavailable(
        "the embedding provider does not answer",
        hint="search by words too (mode hybrid or lexical), or come back later",
        retry_after_ms=works.retry_ms(now_s),
        detail={"outcome": "none", "cause": EMBEDDING_PROVIDER},
    )
