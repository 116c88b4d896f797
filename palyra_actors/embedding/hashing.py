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
DIGESTS_KEPT_MAX: Final = 65_536
"""Of runs of characters: most words that are new are made of such as were met before."""


class Digests(dict[str, bytes]):
    """Of runs of characters."""

    def __missing__(self, run: str) -> bytes:
        made = self[run] = _digest(run)
        return made


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
        counted = [Counter(words(text)) or Counter([text]) for text in texts]
        new = [word for counts in counted for word in counts if word not in self._rows]
        if new:
            new = list(dict.fromkeys(new))
            if len(self._rows) + len(new) > self._rows_max:
                self._forget()
                new = list(dict.fromkeys(word for counts in counted for word in counts))
            self._learn(new)
        made = np.empty((len(texts), self.model.dimensions), dtype=np.float32)
        place_of = self._rows.__getitem__
        for place, counts in enumerate(counted):
            weights = np.fromiter(map(_weight, counts, counts.values()), np.float32, len(counts))
            made[place] = weights @ self._vectors[list(map(place_of, counts))]
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
        self._digests = Digests()

    def _learn(self, new: Sequence[str]) -> None:
        """Vectors for words that have none yet."""
        first = len(self._rows)
        while first + len(new) > len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        if len(self._digests) > DIGESTS_KEPT_MAX:
            self._digests.clear()
        digests: list[bytes] = []
        sizes: list[int] = []
        for row, word in enumerate(new, first):
            self._rows[word] = row
            edged = f"^{word}$"
            runs = [edged[at : at + size] for size in RUNS for at in range(len(edged) - size + 1)]
            digests.append(_digest("=" + stem(word)))
            digests += map(self._digests.__getitem__, runs)
            sizes.append(len(runs) + 1)
        features = np.array(sizes)
        rows = np.repeat(np.arange(first, first + len(new)), features)
        weights = np.repeat(RUNS_SHARE / np.sqrt(np.maximum(1, features - 1)), features)
        weights[np.cumsum(features) - features] = STEM_SHARE
        numbers = np.frombuffer(b"".join(digests), "<u8").reshape(-1, PLACES)
        signs = np.where(numbers & 1, 1.0, -1.0) / sqrt(PLACES)
        places = (numbers >> 1) % self.model.dimensions
        added = (signs * weights[:, None]).astype(np.float32)
        np.add.at(self._vectors, (rows[:, None], places), added)


def _digest(feature: str) -> bytes:
    return blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=PLACES * 8).digest()


def _weight(word: str, count: int) -> float:
    """Of a word in a text that has it so often."""
    weight = COMMON_WEIGHT if word in COMMON else 1.0
    return weight if count == 1 else weight * (1.0 + log(count))
