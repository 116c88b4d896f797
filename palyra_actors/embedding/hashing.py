"""The default provider: words and their parts, hashed with signs. No model, no download.

    word ──▶ its stem, its runs of 3 to 5 characters ──blake2b──▶ 2 places ± each
    text ──▶ the words' vectors, weighted by (1 + log count) and by how much a word says

Every place of a digest is taken modulo all dimensions and has a sign of its own, so all of them are
used, however many; the runs of characters bring `tokenize`, `tokenizer` and `tokenise` close to
each other. Two texts without a word in common have a cosine of 0 ± 1/sqrt(dimensions).
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from math import log, sqrt
from typing import Final

import numpy as np

from palyra_actors.domain.words import COMMON, stem, words
from palyra_actors.embedding.provider import Matrix, Model

DIMENSIONS_DEFAULT: Final = 64
VERSION: Final = 1
PLACES: Final = 2
"""Of the vector that a feature adds to: one is coarser, more are slower and no better
(`bench/bench_retrieval.py`, as for all that follows)."""

RUNS: Final = (3, 4, 5)
STEM_SHARE: Final = 1.0
RUNS_SHARE: Final = 1.0
"""What all runs of a word together weigh beside its stem."""

COMMON_WEIGHT: Final = 0.1
CACHE_BYTES_MAX: Final = 16 * 1024 * 1024


class HashMemoryEmbeddingProvider:
    """Deterministic: the same text has the same vector everywhere and for ever (`VERSION`).

    It remembers the vectors of words, so it takes less time for a word that was met before.
    """

    near = True

    def __init__(self, dimensions: int = DIMENSIONS_DEFAULT) -> None:
        self.model = Model("hash", "words-and-runs", dimensions, VERSION)
        self._rows_max = max(1024, CACHE_BYTES_MAX // (4 * dimensions))
        self._forget()

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        """A row of length 1 for each text; a text without a word counts as one word."""
        del query
        made = np.empty((len(texts), self.model.dimensions), dtype=np.float32)
        for place, text in enumerate(texts):
            counts = Counter(words(text)) or Counter([text])
            new = [word for word in counts if word not in self._rows]
            if new and len(self._rows) + len(new) > self._rows_max:
                self._forget()
                new = list(counts)
            if new:
                self._learn(new)
            rows = [self._rows[word] for word in counts]
            weights = [
                (1.0 + log(count) if count > 1 else 1.0)
                * (COMMON_WEIGHT if word in COMMON else 1.0)
                for word, count in counts.items()
            ]
            made[place] = np.array(weights, np.float32) @ self._vectors[rows]
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        made /= np.maximum(lengths, 1e-12)
        return made

    def apart(self) -> "HashMemoryEmbeddingProvider":
        """The same, without what this one has learnt of words."""
        return HashMemoryEmbeddingProvider(self.model.dimensions)

    def close(self) -> None:
        """Nothing is open."""

    def _forget(self) -> None:
        self._rows: dict[str, int] = {}
        self._vectors: Matrix = np.zeros((256, self.model.dimensions), dtype=np.float32)

    def _learn(self, new: Sequence[str]) -> None:
        """Vectors for words that have none yet."""
        first = len(self._rows)
        while first + len(new) > len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        digests: list[bytes] = []
        rows: list[int] = []
        weights: list[float] = []
        for row, word in enumerate(new, first):
            self._rows[word] = row
            edged = f"^{word}$"
            runs = [edged[at : at + size] for size in RUNS for at in range(len(edged) - size + 1)]
            share = RUNS_SHARE / sqrt(max(1, len(runs)))
            for feature in ("=" + stem(word), *runs):
                digests.append(_digest(feature))
            rows += [row] * (len(runs) + 1)
            weights += [STEM_SHARE] + [share] * len(runs)
        numbers = np.frombuffer(b"".join(digests), "<u8").reshape(-1, PLACES)
        signs = np.where(numbers & 1, 1.0, -1.0) / sqrt(PLACES)
        places = (numbers >> 1) % self.model.dimensions
        added = (signs * np.array(weights)[:, None]).astype(np.float32)
        np.add.at(self._vectors, (np.array(rows)[:, None], places), added)


def _digest(feature: str) -> bytes:
    return blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=PLACES * 8).digest()
