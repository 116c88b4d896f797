"""A provider that fails: nothing is lost, health says so, the backfill heals it."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from palyra_actors.actors.clerks import memory_upkeep, remembering
from palyra_actors.actors.clerks.queries import WITHOUT_MEANING
from palyra_actors.cli import reach
from palyra_actors.config import Config
from palyra_actors.embedding.hashing import HashMemoryEmbeddingProvider
from palyra_actors.embedding.provider import Matrix, Model, ProviderFault
from palyra_actors.engine import Engine, remembering_from
from palyra_actors.errors import StorageUnavailable
from tests.system.harness import NO_BUDGET

Behaviour = Callable[[Sequence[str], Matrix], Any]


class Moody:
    """A provider far away that does what `behaves` makes of the right answer."""

    near = False

    def __init__(self, behaves: Behaviour, version: int = 1) -> None:
        self._inner = HashMemoryEmbeddingProvider(16)
        self.model = Model("moody", "test", 16, version)
        self.behaves = behaves
        self.asked = threading.Semaphore(0)
        self.closed = False

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        del query
        self.asked.release()
        return self.behaves(texts, self._inner.embed(texts))  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed = True


def well(texts: Sequence[str], made: Matrix) -> Matrix:
    del texts
    return made


def times_out(texts: Sequence[str], made: Matrix) -> Matrix:
    raise ProviderFault("the endpoint failed: ReadTimeout")


def breaks(texts: Sequence[str], made: Matrix) -> Matrix:
    raise RuntimeError("broken")


def of_wrong_dimensions(texts: Sequence[str], made: Matrix) -> Matrix:
    return made[:, :7]


def too_few(texts: Sequence[str], made: Matrix) -> Matrix:
    return made[1:]


def no_numbers(texts: Sequence[str], made: Matrix) -> Matrix:
    return np.full_like(made, np.nan)


def zeros(texts: Sequence[str], made: Matrix) -> Matrix:
    return np.zeros_like(made)


def garbage(texts: Sequence[str], made: Matrix) -> Any:
    return ["garbage"] * len(texts)


TEXTS = ["the build takes four minutes", "Alice likes green tea", "timedelta loses precision"]


def reasons(engine: Engine) -> str:
    return " ".join(engine.health().reasons)


@pytest.mark.parametrize(
    "mood",
    [times_out, breaks, of_wrong_dimensions, too_few, no_numbers, zeros, garbage],
)
def test_a_failing_provider_loses_nothing_and_the_backfill_heals_it(
    tmp_path: Path, mood: Behaviour
) -> None:
    moody = Moody(mood)
    with Engine.open(tmp_path / "m.db", NO_BUDGET, embedding_provider=moody) as engine:
        memories = engine.memories
        for text in TEXTS:
            memories.add(text)
        assert memories.backfill() | {"timing": None} == {
            "embedded": 0, "pending": 3, "timing": None,
        }  # fmt: skip
        assert "embedding provider" in reasons(engine)
        assert engine.health().status == "degraded"
        assert memories.search("build minutes")[0].item.content == TEXTS[0], "found by its words"
        assert memories.search("build minutes", mode="lexical")[0].item.content == TEXTS[0]
        if mood in (times_out, breaks, of_wrong_dimensions, garbage):
            with pytest.raises(StorageUnavailable):
                memories.search("build minutes", mode="vector", timeout_s=0.2)
        moody.behaves = well
        assert memories.backfill()["embedded"] == 3
        assert memories.stats()["pending_embeddings"] == 0
        assert engine.health().status == "ready"
        hit = memories.search("build minutes", mode="vector")[0]
        assert hit.item.content == TEXTS[0]
        assert hit.vector > 0.5
    assert moody.closed


def test_one_text_that_a_provider_cannot_take_keeps_no_other_from_its_vector(
    tmp_path: Path,
) -> None:
    def picky(texts: Sequence[str], made: Matrix) -> Matrix:
        if any("tea" in text for text in texts):
            raise ProviderFault("the endpoint answered 400", lasting=True)
        return made

    with Engine.open(tmp_path / "m.db", NO_BUDGET, embedding_provider=Moody(picky)) as engine:
        for text in TEXTS:
            engine.memories.add(text)
        engine.memories.backfill()
        assert engine.memories.stats()["pending_embeddings"] == 1
        assert "no vector for 1 memories" in reasons(engine)


def test_an_ingest_does_not_wait_for_the_provider(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(texts: Sequence[str], made: Matrix) -> Matrix:
        go_on.wait(30)
        return made

    moody = Moody(slow)
    with Engine.open(tmp_path / "m.db", NO_BUDGET, embedding_provider=moody) as engine:
        engine.memories.add(TEXTS[0])
        assert moody.asked.acquire(timeout=30), "it is asked once some have gathered"
        for text in TEXTS[1:]:
            engine.memories.add(text)
        assert engine.memories.stats()["pending_embeddings"] == 3
        assert len(engine.memories.search("tea", mode="lexical")) == 1
        go_on.set()
        engine.memories.backfill()
        assert engine.memories.stats()["pending_embeddings"] == 0


def test_another_model_is_backfilled_while_searches_go_on(tmp_path: Path) -> None:
    database = tmp_path / "m.db"
    with Engine.open(database, NO_BUDGET) as engine:
        for text in TEXTS:
            engine.memories.add(text)
        engine.memories.backfill()
        assert engine.memories.stats()["pending_embeddings"] == 0
    with Engine.open(database, NO_BUDGET, embedding_provider=Moody(well, 2)) as engine:
        stats = engine.memories.stats()
        assert (stats["provider"], stats["dimensions"], stats["version"]) == ("moody", 16, 2)
        assert stats["pending_embeddings"] == 3
        found = engine.memories.search("green tea")
        assert found[0].item.content == TEXTS[1]
        assert found[0].vector == 0.0
        assert engine.memories.backfill(limit=2)["embedded"] == 2
        assert engine.memories.backfill() | {"timing": None} == {
            "embedded": 1, "pending": 0, "timing": None,
        }  # fmt: skip
        assert engine.memories.search("green tea")[0].vector > 0.5


def patient(seconds: float) -> Config:
    """As NO_BUDGET, with searches that wait so long for their vectors."""
    return msgspec.structs.replace(
        NO_BUDGET, memory=msgspec.structs.replace(NO_BUDGET.memory, timeout_seconds=seconds)
    )


def test_a_provider_that_hangs_is_waited_for_once(tmp_path: Path) -> None:
    go_on = threading.Event()

    def hangs(texts: Sequence[str], made: Matrix) -> Matrix:
        go_on.wait(60)
        return made

    moody = Moody(well)
    with Engine.open(tmp_path / "m.db", patient(0.3), embedding_provider=moody) as engine:
        memories, works = engine.memories, engine._works.remembering
        for text in TEXTS:
            memories.add(text)
        memories.backfill()
        assert memories.search("green tea").note is None
        moody.behaves = hangs
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(memories.search, ["green tea"] * 8))
        assert {hits[0].item.content for hits in found} == {TEXTS[1]}
        assert {hits.note for hits in found} == {WITHOUT_MEANING}
        assert "has not answered within 0.3 s" in reasons(engine)
        before = works.counts["faults"]
        for _ in range(20):
            assert memories.search("green tea").note == WITHOUT_MEANING
        assert works.counts["faults"] == before, "nobody waited for it any more"

        with pytest.raises(StorageUnavailable) as caught:
            memories.search("green tea", mode="vector", timeout_s=600)
        assert caught.value.retry_after_ms is not None
        assert caught.value.detail == {"outcome": "none", "cause": "embedding_provider"}
        assert engine._calls.statistics().sent_again == 0, "it is for whoever asks to decide"

        moody.behaves = well
        go_on.set()
        works.rest_until_s = 0.0  # as if its rest were over
        while memories.search("green tea").note is not None:
            works.rest_until_s = 0.0
        assert memories.search("green tea", mode="vector")[0].item.content == TEXTS[1]
        assert engine.health().status == "ready"


def test_a_backfill_does_not_wait_for_a_provider_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def hangs(texts: Sequence[str], made: Matrix) -> Matrix:
        go_on.wait(60)
        return made

    monkeypatch.setattr(remembering, "LONG_S", 0.0)
    moody = Moody(hangs)
    with Engine.open(tmp_path / "m.db", patient(0.3), embedding_provider=moody) as engine:
        memories = engine.memories
        for text in TEXTS:
            memories.add(text)
        for _ in range(3):  # the first waits for a batch, the others know
            told = memories.backfill()
            assert (told["embedded"], told["pending"]) == (0, 3)
            assert "at one batch" in reasons(engine)
        assert memories.search("green tea")[0].item.content == TEXTS[1]
        moody.behaves = well
        go_on.set()
        while memories.stats()["pending_embeddings"]:  # what it brought after all is kept
            memories.backfill()
        assert memories.search("green tea", mode="vector").note is None


def test_a_search_says_how_many_are_not_ranked_by_meaning_yet(tmp_path: Path) -> None:
    config = NO_BUDGET.replaced(
        "memory", resident_bytes_max=0
    )  # and a scope in the file makes none
    with Engine.open(tmp_path / "m.db", config) as engine:
        memories = engine.memories
        engine._works.remembering.rest_until_s = float("inf")  # what is new is left to the backfill
        for text in TEXTS:
            memories.add(text)
        assert memories.search("green tea", mode="vector") == []
        assert (
            memories.search("green tea", mode="vector").note == "3 memories wait for their vectors"
        )
        assert memories.search("green tea").note == "3 memories wait for their vectors"
        assert memories.search("green tea", mode="lexical").note is None
        memories.backfill()
        assert memories.search("green tea", mode="vector").note is None
        assert memories.search("green tea", mode="vector")[0].item.content == TEXTS[1]


def test_what_an_outage_left_without_a_vector_does_not_wait_for_the_next_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_upkeep, "FIRST_S", 1e6)  # the look after the start heals, too
    moody = Moody(times_out)
    with Engine.open(tmp_path / "m.db", patient(30), embedding_provider=moody) as engine:
        memories, works = engine.memories, engine._works.remembering
        for text in TEXTS:
            memories.add(text)
        assert memories.backfill()["pending"] == 3
        while works.counts["faults"] < 2:
            pass  # those that were gathered, too
        moody.behaves = well
        while memories.stats()["pending_embeddings"]:
            works.rest_until_s = 0.0
            memories.search("green tea")
        assert engine.health().status == "ready"
        assert memories.search("green tea", mode="vector")[0].item.content == TEXTS[1]


@pytest.mark.parametrize("mood", [breaks, times_out, of_wrong_dimensions, no_numbers])
def test_a_near_provider_that_fails_is_no_fault_of_the_database(
    tmp_path: Path, mood: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    moody = Moody(mood)
    moody.near = True
    with Engine.open(tmp_path / "m.db", NO_BUDGET, embedding_provider=moody) as engine:
        memories = engine.memories
        for text in TEXTS:
            memories.add(text)
        hits = memories.search("green tea")
        assert hits[0].item.content == TEXTS[1]
        assert hits.note == WITHOUT_MEANING
        with pytest.raises(StorageUnavailable, match="the embedding provider does not answer"):
            memories.search("green tea", mode="vector", timeout_s=600)
        assert engine.health().status == "degraded"
        assert "Traceback" not in caplog.text
        moody.behaves = well
        assert memories.search("green tea", mode="vector")[0].item.content == TEXTS[1]
        assert memories.search("green tea").note is None
        while memories.stats()["pending_embeddings"]:
            pass
        assert engine.health().status == "ready"


def test_a_command_on_a_file_leaves_the_vectors_that_its_engine_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "m.db"
    with Engine.open(database, NO_BUDGET, embedding_provider=Moody(well)) as engine:
        for text in TEXTS:
            engine.memories.add(text)
        assert engine.memories.backfill()["pending"] == 0
    looked = threading.Event()
    first_look = memory_upkeep.Upkeep._first_look

    def look(upkeep: memory_upkeep.Upkeep) -> None:
        first_look(upkeep)
        looked.set()

    monkeypatch.setattr(memory_upkeep, "FIRST_S", 0.0)
    monkeypatch.setattr(memory_upkeep.Upkeep, "_first_look", look)
    with reach.engine_at("", database, 1.0) as operations:
        assert looked.wait(30)
        # behind whatever the look has begun: its batch, and the writing of its vectors
        assert operations.memories.search("green tea")[0].item.content == TEXTS[1]
        operations.memories.add("another")
        assert operations.memories.stats()["model"] == "words-and-runs"
        assert operations.memories.stats()["pending_embeddings"] >= 3
    with Engine.open(database, NO_BUDGET, embedding_provider=Moody(well)) as engine:
        assert engine.memories.stats()["pending_embeddings"] <= 1


@pytest.mark.parametrize(("timeout", "waited"), [(0.3, 0.3), (10.0, 5.0), (600.0, 5.0)])
def test_a_search_waits_for_a_provider_less_long_than_a_command_for_its_answer(
    timeout: float, waited: float
) -> None:
    works = remembering_from(patient(timeout).memory, lambda call: call(), Moody(well))
    assert works.patience_s == waited < reach.TIMEOUT_S
