"""The default provider: words and their parts, hashed with signs. No model, no download.

    word ──▶ itself, its stem, its runs of 3 and 4 characters ──blake2b──▶ 4 places ± each
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
PLACES: Final = 4
"""Of the vector that a feature adds to: fewer are coarser, more are slower and no better."""

RUNS: Final = (3, 4)
STEM_SHARE: Final = 1.0
RUNS_SHARE: Final = 0.8
"""What all runs of a word together weigh beside its stem (`bench/bench_retrieval.py`)."""

COMMON_WEIGHT: Final = 0.1
CACHE_BYTES_MAX: Final = 16 * 1024 * 1024


class HashMemoryEmbeddingProvider:
    """Deterministic: the same text has the same vector everywhere and for ever (`VERSION`)."""

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
            if len(self._rows) + len(counts) > self._rows_max:
                self._forget()
            rows = [self._row(word) for word in counts]
            weights = np.fromiter(
                (
                    (1.0 + log(count)) * (COMMON_WEIGHT if word in COMMON else 1.0)
                    for word, count in counts.items()
                ),
                np.float32,
                len(counts),
            )
            made[place] = weights @ self._vectors[rows]
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        made /= np.maximum(lengths, 1e-12)
        return made

    def close(self) -> None:
        """Nothing is open."""

    def _forget(self) -> None:
        self._rows: dict[str, int] = {}
        self._vectors: Matrix = np.zeros((256, self.model.dimensions), dtype=np.float32)

    def _row(self, word: str) -> int:
        row = self._rows.get(word)
        if row is None:
            row = self._rows[word] = len(self._rows)
            if row == len(self._vectors):
                self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
            self._fill(self._vectors[row], word)
        return row

    def _fill(self, vector: Matrix, word: str) -> None:
        self._add(vector, "=" + stem(word), STEM_SHARE)
        edged = f"^{word}$"
        runs = [edged[at : at + size] for size in RUNS for at in range(len(edged) - size + 1)]
        for run in runs:
            self._add(vector, run, RUNS_SHARE / sqrt(len(runs)))

    def _add(self, vector: Matrix, feature: str, weight: float) -> None:
        digest = blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=PLACES * 8).digest()
        for at in range(0, PLACES * 8, 8):
            number = int.from_bytes(digest[at : at + 8], "little")
            sign = 1.0 if number & 1 else -1.0
            vector[(number >> 1) % len(vector)] += sign * weight / sqrt(PLACES)
