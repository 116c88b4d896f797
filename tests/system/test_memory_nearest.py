"""Large scopes: an index that may miss a little, and nothing else that it may do."""

import importlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palyra_actors.actors import nearest
from palyra_actors.actors.nearest import Indexer, Nearest
from palyra_actors.actors.shelf import Block, Names, _columns
from palyra_actors.engine import Engine
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import DEADLINE_S, NO_BUDGET

pytest.importorskip(
    "usearch", reason="the extra `ann` is not installed: exact search is all there is"
)

ITEMS = 600
LARGE = NO_BUDGET.replaced("memory", approximate_above_bytes=1)
NEVER = NO_BUDGET.replaced("memory", approximate_above_bytes=0)
WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re", "so") for b in ("ra", "ten", "vis", "pol")
]
SESSION = "01M3250V00000000000000000S"
START = 1_764_000_000_000


def memory_id(n: int) -> str:
    return f"01M3250V0000000000000{n:05}"


def text(n: int) -> str:
    rnd = random.Random(n)
    return f"{n} " + " ".join(rnd.choices(WORDS, k=6))


def remember(engine: Engine, clock: ManualClock) -> None:
    engine.call("session.resolve", {"session_id": SESSION})
    for n in range(ITEMS):
        clock.jump(START + 60_000 * n)
        engine.memories.add(
            text(n), memory_id=memory_id(n), tags=["rare"] if n % 30 == 0 else ["usual"],
            source="manual" if n % 3 else "summary", channel=f"c{n % 5}",
            session_id=SESSION if n % 7 == 0 else None,
        )  # fmt: skip
    engine.memories.backfill()


def indexed(engine: Engine) -> None:
    """The scope has its index, and all that it has is in it."""
    deadline = time.monotonic() + DEADLINE_S
    while engine.memories.stats()["vector_search"] != "approximate":
        engine.memories.search("anything", mode="vector")
        assert time.monotonic() < deadline


def hits(engine: Engine, query: str, **more: Any) -> list[tuple[str, float]]:
    found = engine.memories.search(query, **more)
    return [(str(hit.item.memory_id), round(hit.score, 4)) for hit in found]


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few as there would be in a scope of a million."""
    monkeypatch.setattr(nearest, "CANDIDATES_MIN", 8)
    monkeypatch.setattr(nearest, "CANDIDATES_EACH", 2)


@pytest.fixture
def both(tmp_path: Path, few_candidates: None) -> Iterator[tuple[Engine, Engine]]:
    """The same memories: with an index, and searched exactly."""
    clocks = ManualClock(wall_ms=START), ManualClock(wall_ms=START)
    with (
        Engine.open(tmp_path / "large.db", LARGE, clock=clocks[0]) as large,
        Engine.open(tmp_path / "exact.db", NEVER, clock=clocks[1]) as exact,
    ):
        remember(large, clocks[0])
        remember(exact, clocks[1])
        indexed(large)
        yield large, exact


def vectors(items: int, dimensions: int) -> Block:
    """Around topics, as those of texts are."""
    rnd = np.random.default_rng(7)
    topics = rnd.standard_normal((items // 100, dimensions), dtype=np.float32)
    made = topics[rnd.integers(0, len(topics), items)]
    made += rnd.standard_normal(made.shape, dtype=np.float32) * np.float32(0.7)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    rows = [
        (n, 0, None, None, 1, None, None, 1, made[n].tobytes(), n.to_bytes(16, "big"))
        for n in range(items)
    ]
    return _columns(rows, Names(), dimensions)


def test_at_least_95_of_100_nearest_are_candidates() -> None:
    block = vectors(8_000, 64)
    index = Nearest(64)
    index.catch_up(block, lambda: False, lambda: None)
    rnd = np.random.default_rng(8)
    recalled = 0
    for at in rnd.integers(0, 8_000, 50):
        asked = block.vectors[at] + rnd.standard_normal(64, dtype=np.float32) / np.float32(8)
        wanted = np.argsort(-(block.vectors @ asked))[:10]
        near = index.look(asked, 8_000, 10)
        assert near.held.all()
        assert len(near.places) == nearest.CANDIDATES_MIN
        recalled += len(set(wanted.tolist()) & set(near.places.tolist()))
    assert recalled >= 0.95 * 10 * 50


def test_what_was_removed_is_left_out_of_the_index() -> None:
    block, index = vectors(300, 64), Nearest(64)
    index.catch_up(block, lambda: False, lambda: None)
    block.alive[:100] = False
    assert index.lacks(block)
    index.catch_up(block, lambda: False, lambda: None)
    assert not index.lacks(block)
    near = index.look(block.vectors[0], 300, 40)
    assert sorted(near.places.tolist()) == list(range(100, 300))
    assert near.held.tolist() == block.alive.tolist()


def test_hits_and_scores_are_those_of_an_exact_search(both: tuple[Engine, Engine]) -> None:
    large, exact = both
    same = asked = 0
    for n in range(0, ITEMS, 20):
        for mode in ("vector", "hybrid", "lexical"):
            query = text(n).partition(" ")[2]
            found, wanted = (hits(one, query, mode=mode, top_k=10) for one in both)
            assert len(found) == len(wanted)
            same += len(set(found) & set(wanted))
            asked += len(wanted)
    assert large.memories.stats()["vector_search"] == "approximate"
    assert exact.memories.stats()["vector_search"] == "exact"
    assert same >= 0.95 * asked


FILTERS: list[dict[str, Any]] = [
    {"tags": ["rare"]}, {"sources": ["summary"]}, {"session_id": SESSION}, {"channel": "c3"},
    {"as_of_ms": START + 60_000 * 50}, {"tags": ["rare"], "channel": "c0"}, {"min_score": 0.5},
]  # fmt: skip


def test_what_filters_leave_is_found_in_full(both: tuple[Engine, Engine]) -> None:
    for n, filters in enumerate(2 * FILTERS):
        for mode in ("vector", "hybrid"):
            asked: dict[str, Any] = {"mode": mode, "top_k": 20, **filters}
            found, wanted = (hits(one, text(n), **asked) for one in both)
            assert found == wanted


def test_what_filters_leave_is_looked_at_vector_by_vector_where_it_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NO_BUDGET.replaced("memory", approximate_above_bytes=20 * 64 * 4)
    asked: list[int] = []
    look = Nearest.look

    def counted(self: Nearest, *more: Any) -> Any:
        asked.append(1)
        return look(self, *more)

    monkeypatch.setattr(Nearest, "look", counted)
    with Engine.open(tmp_path / "m.db", config) as engine:
        for n in range(60):
            engine.memories.add(text(n), tags=["rare"] if n % 3 == 0 else ["usual"])
        indexed(engine)
        asked.clear()
        assert len(engine.memories.search(text(1), mode="vector", tags=["rare"], top_k=64)) == 20
        assert asked == []
        assert len(engine.memories.search(text(1), mode="vector", tags=["usual"], top_k=64)) == 40
        assert asked == [1]


def test_what_is_removed_superseded_or_new_is_as_it_is_in_an_exact_search(
    both: tuple[Engine, Engine],
) -> None:
    answers = []
    for one in both:
        query, found = text(77), []
        for n in range(70, 90):
            one.memories.delete(memory_id(n))
            found.append(hits(one, text(n), mode="vector", top_k=10))
            assert memory_id(n) not in dict(found[-1])
        one.memories.purge(channel="c2")
        found.append(hits(one, query, mode="vector", top_k=64))
        new = one.memories.add(query, memory_id=memory_id(9_000), channel="new")
        assert hits(one, query, mode="vector", top_k=1)[0][0] == str(new.memory_id)
        later = one.memories.update(memory_id(101), "all of another kind")
        now = hits(one, text(101), mode="vector", top_k=64)
        assert memory_id(101) not in dict(now)
        then = hits(one, text(101), mode="vector", top_k=1, as_of_ms=later.created_ms - 1)
        assert then[0][0] == memory_id(101)
        answers.append([*found, [hit for hit in now if hit[0] != str(later.memory_id)]])
    same = sum(len(set(a) & set(b)) for a, b in zip(*answers, strict=True))
    assert [len(found) for found in answers[0]] == [len(found) for found in answers[1]]
    assert same >= 0.95 * sum(len(found) for found in answers[1])


def test_the_index_is_made_again_after_a_restart(tmp_path: Path, few_candidates: None) -> None:
    clock = ManualClock(wall_ms=START)
    with Engine.open(tmp_path / "m.db", LARGE, clock=clock) as engine:
        remember(engine, clock)
        indexed(engine)
        before = hits(engine, text(5), mode="vector", top_k=20)
    with Engine.open(tmp_path / "m.db", LARGE, clock=clock) as engine:
        assert engine.memories.stats()["vector_search"] == "exact"
        assert hits(engine, text(5), mode="vector", top_k=20) == before
        indexed(engine)
        assert hits(engine, text(5), mode="vector", top_k=20) == before


def test_while_the_index_is_being_made_a_search_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()
    catch_up = Nearest.catch_up

    def slow(self: Nearest, *more: Any) -> None:
        began.set()
        assert go.wait(DEADLINE_S)
        catch_up(self, *more)

    def looked(*_: Any) -> Any:
        raise AssertionError("the index was asked before it was there")

    monkeypatch.setattr(Nearest, "catch_up", slow)
    with monkeypatch.context() as patched, Engine.open(tmp_path / "m.db", LARGE) as engine:
        patched.setattr(Nearest, "look", looked)
        for n in range(30):
            engine.memories.add(text(n), memory_id=memory_id(n))
        for _ in range(3):
            assert hits(engine, text(7), mode="vector")[0][0] == memory_id(7)
        assert began.wait(DEADLINE_S)
        assert hits(engine, text(7), mode="vector")[0][0] == memory_id(7)
        assert engine.memories.stats()["vector_search"] == "exact"
        patched.undo()
        go.set()
        indexed(engine)
        assert hits(engine, text(7), mode="vector")[0][0] == memory_id(7)


def test_without_the_package_a_search_is_exact_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Event()
    real = importlib.import_module

    def missing(name: str, *more: Any) -> Any:
        if name.startswith("usearch"):
            tried.set()
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", missing)
    with caplog.at_level(logging.WARNING), Engine.open(tmp_path / "m.db", LARGE) as engine:
        for n in range(30):
            engine.memories.add(text(n), memory_id=memory_id(n))
        assert hits(engine, text(7), mode="vector")[0][0] == memory_id(7)
        assert tried.wait(DEADLINE_S)
        for n in range(30):
            assert hits(engine, text(n), mode="vector")[0][0] == memory_id(n)
        assert engine.memories.stats()["vector_search"] == "exact"
    said = [one.getMessage() for one in caplog.records if "usearch" in one.getMessage()]
    assert len(said) == 1
    assert "palyra_actors[ann]" in said[0]


def test_an_index_that_does_not_fit_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[Any] = []
    monkeypatch.setattr(Indexer, "want", lambda self, *more: wanted.append(more))
    config = LARGE.replaced("memory", resident_bytes_max=40_000)  # 30 rows, with room for 1,024
    with Engine.open(tmp_path / "m.db", config) as engine:
        for n in range(100):
            engine.memories.add(text(n), memory_id=memory_id(n))
        assert hits(engine, text(7), mode="vector")[0][0] == memory_id(7)
        assert wanted == []


def test_an_index_goes_with_the_vectors_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves: list[Callable[[], bool]] = []
    catch_up = Nearest.catch_up

    def noted(self: Nearest, rows: Any, leave: Callable[[], bool], pause: Any) -> None:
        leaves.append(leave)
        catch_up(self, rows, leave, pause)

    config = LARGE.replaced("memory", resident_bytes_max=300_000)
    clock = ManualClock(wall_ms=START)
    with Engine.open(tmp_path / "m.db", config, clock=clock) as engine:
        for n in range(150):
            for principal in ("ann", "bob"):
                engine.call(
                    "memory.ingest", {"source": "manual", "content": text(n)}, principal=principal
                )
    monkeypatch.setattr(Nearest, "catch_up", noted)
    with Engine.open(tmp_path / "m.db", config, clock=clock) as engine:

        def told(principal: str) -> str:
            return str(engine.call("memory.stats", {}, principal=principal)["vector_search"])

        def search(principal: str) -> None:
            body = {"query": text(1), "mode": "vector"}
            engine.call("memory.search", body, principal=principal)

        deadline = time.monotonic() + DEADLINE_S
        while told("ann") != "approximate":
            search("ann")
            assert time.monotonic() < deadline
        while told("bob") != "approximate":
            search("bob")
            assert time.monotonic() < deadline
        assert told("ann") == "exact"
        assert (leaves[0](), leaves[-1]()) == (True, False)  # no more work for the first
