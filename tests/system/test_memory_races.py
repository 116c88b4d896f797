"""Memories under load: retention beside reads, crashes half way, scopes too large for memory."""

import threading
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import search
from palyra_actors.actors.clerks import forgetting
from palyra_actors.actors.shelf import ROW_BYTES, row_bytes
from palyra_actors.client import Client
from palyra_actors.engine import Engine
from palyra_actors.errors import Gone, NoReply, PalyraError
from palyra_actors.storage.connection import open_reader
from palyra_actors.storage.journal import JournalWriter
from palyra_actors.storage.rebuild import Rebuild
from tests.system.harness import NO_BUDGET, served
from tests.system.test_memory import assert_rebuilt_is_live, raw_bytes

WORDS = ["anchor", "buoy", "cormorant", "drift", "eddy", "ferry", "gull", "harbour"]


def test_retention_beside_reads_never_shows_half_an_item(tmp_path: Path) -> None:
    config = NO_BUDGET.replaced("memory", retention={"max_entries": 40})
    stop, faults = threading.Event(), list[BaseException]()
    with Engine.open(tmp_path / "m.db", config) as engine:

        def look() -> None:
            try:
                while not stop.is_set():
                    for hit in engine.memories.search("number of the harbour", top_k=20):
                        assert hit.item.content.startswith("number ")
                        assert hit.snippet in hit.item.content
                    for item in engine.memories.all():
                        assert item.content.endswith("harbour")
            except BaseException as error:  # noqa: BLE001 - told to the test
                faults.append(error)

        lookers = [threading.Thread(target=look) for _ in range(2)]
        for looker in lookers:
            looker.start()
        try:
            for n in range(200):
                engine.memories.add(f"number {n} of the harbour", tags=[f"t{n % 5}"])
                if n % 25 == 24:
                    engine.memories.maintain()
        finally:
            stop.set()
            for looker in lookers:
                looker.join()
        assert faults == []
        engine.memories.maintain()
        left = [item.content for item in engine.memories.all()]
        assert left == [f"number {n} of the harbour" for n in range(160, 200)]
        assert len(engine.memories.search("harbour", top_k=64)) == 40
    assert_rebuilt_is_live(tmp_path / "m.db")


@pytest.mark.parametrize("known", [0, 150])
def test_a_search_that_begins_after_an_ack_sees_what_was_written(
    tmp_path: Path, known: int
) -> None:
    """Also of a scope that is kept as codes: with 150 before them, vectors do not fit."""
    config = NO_BUDGET.replaced("memory", resident_bytes_max=150 * row_bytes(64) - 1)
    with Engine.open(tmp_path / "m.db", config) as engine:
        memories = engine.memories
        for n in range(known):
            memories.add(f"the {n}th gull")
        memories.search("warm")
        for n in range(100):
            memory = memories.add(f"the {n}th entry about cormorants")
            for mode in ("hybrid", "vector", "lexical"):
                hits = memories.search(f"{n}th entry cormorants", mode=mode, top_k=1)
                assert hits[0].item == memory
            if n % 3 == 0:
                memories.delete(memory.memory_id)
                found = memories.search(f"{n}th entry cormorants", top_k=64)
                assert memory not in [hit.item for hit in found]
        (shelf,) = engine._works.desk.counter.remembering.shelves._shelves.values()
        assert (shelf.signs is not None) == bool(known)


@pytest.mark.parametrize("bytes_max", [60, 200, 2_000])
def test_a_scope_that_grows_out_of_memory_is_kept_as_codes_and_then_not_at_all(
    tmp_path: Path, bytes_max: int
) -> None:
    config = NO_BUDGET.replaced("memory", resident_bytes_max=bytes_max * ROW_BYTES)
    with Engine.open(tmp_path / "m.db", config) as engine:
        memories, held = engine.memories, []
        shelves = engine._works.desk.counter.remembering.shelves
        for n in range(60):
            memories.add(f"the {n}th entry about cormorants")
            assert len(memories.search("entry", top_k=64)) == n + 1
            held.append([shelf.signs is None for shelf in shelves._shelves.values()])
            assert sum(shelf.needs_bytes for shelf in shelves._shelves.values()) <= (
                bytes_max * ROW_BYTES
            )
    seen = [one for place, one in enumerate(held) if one not in held[:place]]
    assert (
        seen == {60: [[True], [], [False]], 200: [[True], [], [False]], 2_000: [[True]]}[bytes_max]
    )


def test_of_a_scope_that_is_kept_as_codes_all_scores_are_exact_and_nearly_all_hits_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "CANDIDATES", 60)
    config = NO_BUDGET.replaced("memory", resident_bytes_max=0)
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS]
    with Engine.open(tmp_path / "m.db", config) as engine:
        for text in texts:
            engine.memories.add(text)
        engine.memories.backfill()
        exact = [engine.memories.search(text, mode="vector", top_k=10) for text in texts[::40]]
        shelves = engine._works.desk.counter.remembering.shelves
        shelves._bytes_max = len(texts) * row_bytes(64) - 1
        found = [engine.memories.search(text, mode="vector", top_k=10) for text in texts[::40]]
        (shelf,) = shelves._shelves.values()
        assert shelf.signs is not None
    same = 0
    for one, other in zip(exact, found, strict=True):
        scores = {hit.item.memory_id: hit.score for hit in one}
        assert len(other) == 10
        assert (other[0].item, other[0].score) == (one[0].item, one[0].score)
        for hit in other:
            assert hit.score <= one[0].score
            same += scores.get(hit.item.memory_id) == pytest.approx(hit.score)
    assert same >= 0.9 * 10 * len(exact)


def test_a_scope_that_does_not_fit_into_memory_is_searched_in_the_file(tmp_path: Path) -> None:
    def filled(config: Any, name: str) -> list[Any]:
        with Engine.open(tmp_path / name, config) as engine:
            memories = engine.memories
            for n in range(120):
                memories.add(
                    f"note {n} {'even' if n % 2 == 0 else 'odd'}", channel=f"c{n % 3}",
                    tags=[f"t{n % 4}"], memory_id=f"01M3250V0000000000000{n:05}",
                )  # fmt: skip
            memories.backfill()
            memories.delete("01M3250V000000000000000012")
            memories.purge(channel="c1")
            asked: list[dict[str, Any]] = [
                {}, {"mode": "vector"}, {"mode": "lexical"}, {"channel": "c2"}, {"tags": ["t2"]},
            ]  # fmt: skip
            found = [memories.search("odd note 12", top_k=20, **one) for one in asked]
            return [[(hit.item.memory_id, round(hit.score, 4)) for hit in hits] for hits in found]

    resident = filled(NO_BUDGET, "resident.db")
    read = filled(NO_BUDGET.replaced("memory", resident_bytes_max=0), "read.db")
    assert read == resident
    small = NO_BUDGET.replaced("memory", resident_bytes_max=110 * row_bytes(64))
    assert filled(small, "coded.db") == resident
    assert filled(small.replaced("memory", approximate=False), "exact.db") == resident
    assert all(len(hits) == 20 for hits in read[:3])


@pytest.mark.parametrize("resident", [0, 2**20])
def test_what_a_crash_leaves_half_destroyed_is_destroyed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: int
) -> None:
    database = tmp_path / "journal.db"
    config = NO_BUDGET.replaced("memory", resident_bytes_max=resident)
    slices = [1]

    def one_slice_and_no_more(self: Any, works: Any, place: int) -> None:
        self._pace.size = 7
        if slices:
            slices.pop()
            _go_on(self, works, place)

    with Engine.open(database, config) as engine:
        for n in range(30):
            engine.memories.add(f"Zanzibar {n}", channel="c")
        engine.memories.add("stays")
        # as a crash would: the event is durable, one slice is done, nothing more comes
        monkeypatch.setattr(forgetting.Forgetter, "_go_on", one_slice_and_no_more)
        purge = {"channel": "c", "event_id": "01M3250V000000000000000E01"}
        with pytest.raises(NoReply):
            engine.call("memory.purge", purge, timeout_s=0.5)
        assert [item.content for item in engine.memories.all()] == ["stays"]
        assert [hit.item.content for hit in engine.memories.search("Zanzibar")] == ["stays"]
        counts = engine.memories.stats()
        assert (counts["items"], counts["pending_destructions"]) == (1, 30 - 7)
        assert counts["bytes"] == len("stays")
        again = engine.memories.add("Zanzibar 3", channel="c")
        engine.close(wait_s_max=0.5)
    monkeypatch.undo()
    assert b"Zanzibar 7" in raw_bytes(tmp_path)
    rebuild = Rebuild(database)
    for _ in rebuild.run():
        pass
    assert rebuild.compare().differences == []
    rebuild.close()
    with Engine.open(database, NO_BUDGET) as engine:
        assert engine.memories.get(again.memory_id).content == "Zanzibar 3"
        told = engine.call("memory.purge", purge)
        assert (told["deleted"], told["duplicate"]) == (30, True), "before the crash and after it"
        engine.memories.delete(again.memory_id)  # it is answered when all is destroyed
        assert engine.verify().erased == 31
    assert b"Zanzibar" not in raw_bytes(tmp_path)
    assert_rebuilt_is_live(database)


_go_on = forgetting.Forgetter._go_on


def test_a_purge_merges_the_index_before_most_of_it_would_cancel_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []  # items crossed out of the index, and 0 where a merge of it all began
    apply = JournalWriter.apply

    def watched(self: JournalWriter, changes: Any) -> int:
        done.extend(len(rows) for name, rows in changes if name == "memory.drop")
        done.extend(0 for name, rows in changes if name == "memory.merge" and rows[:1] < [(0,)])
        return apply(self, changes)

    monkeypatch.setattr(JournalWriter, "apply", watched)
    monkeypatch.setattr(forgetting, "ROUND_ITEMS_MIN", 8)
    with Engine.open(tmp_path / "m.db", NO_BUDGET) as engine:
        for n in range(200):
            engine.memories.add(f"Timbuktu {n}")
        assert engine.memories.purge(everything=True) == 200
        assert engine.memories.stats()["pending_destructions"] == 0
        assert engine.memories.search("Timbuktu", mode="lexical") == []
    rounds: list[list[int]] = [[]]
    for items in done:
        rounds[-1].append(items) if items else rounds.append([])
    assert [sum(one) for one in rounds if one] == [175, 22, 3]  # seven eighths, and what is few
    assert b"Timbuktu" not in raw_bytes(tmp_path)
    assert_rebuilt_is_live(tmp_path / "m.db")


def test_the_index_is_kept_in_few_pieces_a_little_with_each_group(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "m.db", NO_BUDGET) as engine:
        for n in range(60):  # a group each, and a piece of the index
            engine.memories.add(f"Samarkand {n} {n * n}")
        reader = open_reader(tmp_path / "m.db", cache_bytes=2**20)
        pieces = reader.execute("SELECT count(DISTINCT segid) FROM memory_texts_idx").fetchall()
        reader.close()
        assert int(str(pieces[0][0])) <= 12


def test_a_purge_that_is_still_at_work_makes_nobody_elses_memories_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NO_BUDGET.replaced("memory", retention={"max_entries": 20})
    monkeypatch.setattr(forgetting.Forgetter, "_go_on", lambda *_: None)  # it never comes further
    with Engine.open(tmp_path / "m.db", config) as engine:
        for n in range(15):
            engine.memories.add(f"old {n}")
        for n in range(15):
            engine.memories.add(f"purged {n}", channel="c")
        with pytest.raises(NoReply):
            engine.memories.purge(channel="c", timeout_s=0.5)
        with pytest.raises(NoReply):  # it waits for the purge
            engine.memories.maintain(timeout_s=0.5)
        assert len(list(engine.memories.all())) == 15
        engine.close(wait_s_max=0.5)


def test_a_kill_between_two_slices_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with served(tmp_path) as (endpoint, process):
        with Client(endpoint) as client:
            kept = client.memories.add("kept for good", session_id=None)
            for n in range(60):
                client.memories.add(f"to go {n}", channel="c")
            call = threading.Thread(target=_purge_and_be_killed, args=(endpoint,))
            call.start()
        process.kill()
        process.wait()
        call.join()
    with Engine.open(tmp_path / "journal.db", NO_BUDGET) as engine:
        assert engine.memories.get(kept.memory_id) == kept
        left = list(engine.memories.all(channel="c"))
        assert len(left) in (0, 60), "all or nothing"
        engine.memories.purge(channel="c")
        assert b"to go" not in raw_bytes(tmp_path)
        for one in left:
            with pytest.raises(Gone):
                engine.memories.get(one.memory_id)
        assert engine.verify().valid
    assert_rebuilt_is_live(tmp_path / "journal.db")


def _purge_and_be_killed(endpoint: str) -> None:
    with Client(endpoint, timeout_s=2) as client:
        try:
            client.memories.purge(channel="c")
        except PalyraError:
            return


def test_whoever_writes_waits_for_one_piece_of_upkeep_and_not_for_all(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "m.db", NO_BUDGET) as engine:
        counter = engine._works.desk.counter
        begun, done, pieces = threading.Event(), threading.Event(), list[int]()

        def piece(storage: Any) -> None:
            del storage
            pieces.append(len(pieces))
            begun.set()
            if len(pieces) < 2_000:  # the next one comes before the writer looks again
                counter.loop.call_soon(lambda: counter.chore(piece))
            else:
                done.set()

        counter.loop.call_soon(lambda: counter.chore(piece))
        assert begun.wait(30)
        engine.memories.add("written in between")
        assert len(pieces) < 2_000
        assert done.wait(60)
