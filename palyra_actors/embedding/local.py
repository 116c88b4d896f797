"""A model in a folder, through sentence-transformers: nothing is downloaded, nothing leaves."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from palyra_actors.embedding.provider import Matrix, Model
from palyra_actors.errors import ConfigInvalid

VERSION: Final = 1


class LocalEmbeddingProvider:
    """`path`: the folder of a sentence-transformers model. Raises ConfigInvalid: it cannot be
    loaded, or the package is not installed."""

    near = False  # milliseconds a text: a thread of its own, not a reader's

    def __init__(self, path: str, *, name: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as cause:
            raise ConfigInvalid(
                "a local model needs sentence-transformers",
                field="memory.provider",
                hint="pip install 'palyra_actors[local]'",
            ) from cause
        try:
            self._model: Any = SentenceTransformer(path, device="cpu", local_files_only=True)
        except Exception as cause:
            raise ConfigInvalid(
                f"{path} is no model that can be loaded: {type(cause).__name__}",
                field="memory.model",
                hint="the folder of a sentence-transformers model",
            ) from cause
        named = ("get_embedding_dimension", "get_sentence_embedding_dimension")  # before 5.1
        ask = next(getattr(self._model, name) for name in named if hasattr(self._model, name))
        dimensions = int(ask())
        self.model = Model(
            "local", name or path.rstrip("/").rsplit("/", 1)[-1], dimensions, VERSION
        )

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        """A row for each text."""
        del query
        made = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(made, dtype=np.float32)

    def close(self) -> None:
        """Nothing is open."""
