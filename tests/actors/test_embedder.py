"""The thread that waits for a provider: queries that wait together are asked for together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from palyra_actors.actors.embedder import QUERIES_AT_ONCE, Busy, Embedded, Embedder
from palyra_actors.embedding.provider import Matrix, Model, ProviderFault


class Counting:
    """A vector of a text is its length and 1. A text `bad` is refused, `down` fails."""

    near = False
    model = Model("counting", "test", 2, 1)

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        del query
        self.calls.append(list(texts))
        if "bad" in texts:
            raise ProviderFault("the endpoint answered 400", lasting=True)
        if "down" in texts:
            raise ProviderFault("the endpoint answered 500")
        return np.array([[len(text), 1] for text in texts], np.float32)

    def close(self) -> None: ...


def served(texts: Sequence[str]) -> tuple[Counting, dict[str, Any]]:
    """All of them wait before the thread begins."""
    provider, came = Counting(), dict[str, Any]()
    embedder = Embedder("test", provider, lambda call: call(), tasks_max=len(texts) + 1)
    for text in texts:
        embedder.embed([text], lambda result, text=text: came.update({text: result}), query=True)  # type: ignore[misc]
    embedder._tasks.put(None)
    embedder._run()
    return provider, came


def test_queries_that_wait_are_asked_for_together_and_each_gets_its_own_vector() -> None:
    texts = ["x" * size for size in range(1, QUERIES_AT_ONCE + 4)]
    provider, came = served(texts)
    assert [len(call) for call in provider.calls] == [QUERIES_AT_ONCE, 3]
    for text in texts:
        x, y = came[text].vectors[0]
        assert np.isclose(x / y, len(text))


def test_a_query_that_is_refused_keeps_no_other_from_its_vector() -> None:
    provider, came = served(["a", "bad", "ccc"])
    assert provider.calls == [["a", "bad", "ccc"], ["a"], ["bad"], ["ccc"]]
    assert isinstance(came["a"], Embedded)
    assert isinstance(came["ccc"], Embedded)
    assert came["bad"].lasting


def test_a_provider_that_is_down_is_asked_once_for_all() -> None:
    provider, came = served(["a", "down", "ccc"])
    assert len(provider.calls) == 1
    assert {str(fault) for fault in came.values()} == {"the endpoint answered 500"}


def test_where_too_many_wait_it_is_busy_and_not_at_fault() -> None:
    came: list[Any] = []
    embedder = Embedder("test", Counting(), lambda call: call(), tasks_max=1)
    for _ in range(2):
        embedder.embed(["a"], came.append, query=True)
    assert [type(one) for one in came] == [Busy]
