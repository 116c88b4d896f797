"""The interface of embedding providers, and what is asked of their answers.

A provider is never trusted: a wrong shape, a number that is none or a vector of length nought is
its fault, and the text waits until it does better.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]

LENGTH_MIN = 1e-6
"""Of a vector: below it there is no direction."""


class ProviderFault(Exception):
    """It gave no vectors. `lasting`: it would not for these texts, however often it is asked."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class Model(NamedTuple):
    """What two vectors have to have in common to be compared."""

    provider: str
    name: str
    dimensions: int
    version: int


class MemoryEmbeddingProvider(Protocol):
    """Makes vectors of texts. `near`: it computes here, within microseconds, and never waits.

    One that remembers what it met may have `apart()`: a new one of itself that does not.
    """

    model: Model
    near: bool

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        """A row of `model.dimensions` for each text. May take as long as its timeout; any thread,
        one at a time. `query`: the texts are asked for, not kept. Raises ProviderFault.
        """
        ...

    def close(self) -> None: ...


def apart(provider: MemoryEmbeddingProvider) -> MemoryEmbeddingProvider:
    """One that knows of no text that was embedded before, if the provider can be had so (`apart`).

    Where somebody waits for a vector: how long it takes tells nothing of others' texts then, and
    nobody else has it in hand.
    """
    make = getattr(provider, "apart", None)
    return provider if make is None else make()


def embed_checked(
    provider: MemoryEmbeddingProvider, texts: Sequence[str], *, query: bool = False
) -> tuple[Matrix, NDArray[np.bool_]]:
    """The texts' vectors, each of length 1, and which of them are any good.

    Raises:
        ProviderFault: none of them is.
    """
    try:
        with np.errstate(all="ignore"):
            made = np.asarray(provider.embed(texts, query=query), dtype=np.float32)
    except ProviderFault:
        raise
    except Exception as error:  # noqa: BLE001 - its text may hold texts, or a key: only its kind
        raise ProviderFault(f"{provider.model.name} failed: {type(error).__name__}") from None
    if made.shape != (len(texts), provider.model.dimensions):
        raise ProviderFault(
            f"{provider.model.name} gave {'×'.join(map(str, made.shape)) or 'no'} numbers for"
            f" {len(texts)} texts, not {provider.model.dimensions} each"
        )
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(made, axis=1)
        good = np.isfinite(lengths) & (lengths > LENGTH_MIN)
        made = made / np.where(good, lengths, 1.0).astype(np.float32)[:, None]
    if len(texts) and not good.any():
        raise ProviderFault(f"{provider.model.name} gave no usable vector", lasting=True)
    return np.ascontiguousarray(made, dtype=np.float32), good
