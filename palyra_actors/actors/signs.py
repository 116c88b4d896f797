"""Vectors kept short: a bit for each direction, on which side of it the vector lies.

    vector ──signs──▶ code ──bits that differ──▶ about its cosine ──the best──▶ exact, from the file

A thirty-second of the memory from 256 dimensions on. Two vectors at an angle of θ differ in θ/π of
their bits, so that counting bits tells about their cosine (M. Charikar, Similarity estimation
techniques from rounding algorithms, STOC 2002). Who is best among those that come out near the top
is then decided by the vectors themselves: what is returned has its exact score, and only who stands
among the first may be wrong. How often that is: docs/memory.md, `bench/bench_ann.py`.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from palyra_actors.embedding.provider import Matrix

Codes = NDArray[np.uint64]

AXES_FROM: Final = 256
"""Dimensions from which on the axes are the directions. A vector of fewer has too few of them, and
gets `BITS_OF_FEW` directions that are drawn at random, always the same."""

BITS_OF_FEW: Final = 512
WORD_BITS: Final = 64
SEED: Final = 20_020_519
AT_ONCE: Final = 16_384
"""Codes that are compared at once: what lies between fits a core's cache."""

CANDIDATES: Final = 1_024
"""Of a scope, those that are read and weighed exactly."""


class Signs:
    """Makes codes of vectors of so many dimensions, and compares with them."""

    def __init__(self, dimensions: int) -> None:
        self.bits = -(-dimensions // WORD_BITS) * WORD_BITS
        self._used = dimensions
        self._planes: NDArray[np.float32] | None = None
        if dimensions < AXES_FROM:
            self.bits = self._used = BITS_OF_FEW
            drawn = np.random.default_rng(SEED).standard_normal((dimensions, BITS_OF_FEW))
            self._planes = drawn.astype(np.float32)
        shares = np.minimum(np.arange(self.bits + 1) / self._used, 0.5)  # beyond: a cosine below 0
        self._cosines = np.cos(np.pi * shares).astype(np.float32)

    @property
    def words(self) -> int:
        """Numbers of 64 bits in a code."""
        return self.bits // WORD_BITS

    def codes(self, vectors: Matrix) -> Codes:
        """Of n vectors, n × `words`. A column lies together, for `likeness` goes by columns."""
        count = len(vectors)
        made = np.zeros((self.words, count), np.uint64)
        for start in range(0, count, AT_ONCE):
            part: Any = vectors[start : start + AT_ONCE]
            if self._planes is not None:
                part = np.einsum("ij,jk->ik", part, self._planes, optimize=False)
            packed = np.zeros((len(part), self.bits // 8), np.uint8)
            packed[:, : -(-self._used // 8)] = np.packbits(part > 0, axis=1)
            made[:, start : start + AT_ONCE] = packed.view(np.uint64).T
        return made.T

    def likeness(self, codes: Codes, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """About the cosine of a vector and each of those; 0 where it is negative."""
        (asked,) = self.codes(vector.reshape(1, -1))
        found = np.empty(len(codes), np.float32)
        for start in range(0, len(codes), AT_ONCE):
            part = codes[start : start + AT_ONCE]
            differ = np.zeros(len(part), np.uint16)
            for word in range(self.words):
                differ += np.bitwise_count(part[:, word] ^ asked[word])
            found[start : start + AT_ONCE] = self._cosines[differ]
        return found
