"""`memory.*` of the contract, through a door and through an embedded engine."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import search, shelf
from palyra_actors.actors.clerks import memory
from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.domain.words import Terms
from palyra_actors.embedding.hashing import HashMemoryEmbeddingProvider
from palyra_actors.engine import Engine
from palyra_actors.storage.rebuild import Rebuild
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import DEADLINE_S, NO_BUDGET, Wire, event, house

SECRET = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """A connection to an engine of the test's own: searches see all that is remembered."""
    with house(tmp_path) as home:
        yield home.connect()


def ingest(wire: Wire, content: str, **body: Any) -> dict[str, Any]:
    envelope = {"principal": body.pop("principal")} if "principal" in body else {}
    asked = {"source": "manual", "content": content, **body}
    return dict(wire.ok("memory.ingest", asked, **envelope))


def found(wire: Wire, query: str, **body: Any) -> list[str]:
    """The contents of the hits, best first."""
    envelope = {"principal": body.pop("principal")} if "principal" in body else {}
    ok = wire.ok("memory.search", {"query": query, **body}, **envelope)
    return [hit["item"]["content"] for hit in ok["hits"]]


def listed(wire: Wire, **body: Any) -> list[str]:
    items: list[str] = []
    while True:
        page = wire.ok("memory.list", body)
        items += [item["content"] for item in page["items"]]
        if page["end"]:
            return items
        body["after"] = page["next_after"]


def raw_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


def assert_rebuilt_is_live(database: Path) -> None:
    rebuild = Rebuild(database)
    try:
        for _ in rebuild.run():
            pass
        compared = rebuild.compare()
        assert compared.differences == []
    finally:
        rebuild.close()


def test_a_memory_is_kept_and_found_by_its_words_and_by_its_meaning(wire: Wire) -> None:
    ingest(wire, "The TimeDelta field loses precision when it is serialized", tags=["bug"])
    ingest(wire, "Alice prefers her tea green")
    for mode in ("hybrid", "vector", "lexical"):
        hits = wire.ok("memory.search", {"query": "precision of time deltas", "mode": mode})["hits"]
        assert hits[0]["item"]["tags"] == ["bug"]
        parts = hits[0]["breakdown"]
        assert all(0 <= part <= 1 for part in (hits[0]["score"], *parts.values()))
        assert parts["lexical" if mode == "lexical" else "vector"] > 0


def test_equal_content_is_one_item_in_its_channel_and_session(wire: Wire) -> None:
    session = new_id()
    first = ingest(wire, "the same")
    again = ingest(wire, "the same", source="import", tags=["new"])
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert again["item"] == first["item"]
    assert not ingest(wire, "the same", channel="c")["duplicate"]
    assert not ingest(wire, "the same", session_id=session)["duplicate"]
    assert ingest(wire, "the same", session_id=session)["duplicate"]
    assert wire.ok("memory.stats")["items"] == 3


def test_equal_content_is_one_item_also_while_the_first_is_not_written_yet(wire: Wire) -> None:
    ids = [wire.send("memory.ingest", {"source": "manual", "content": "now"}) for _ in range(20)]
    replies = {reply["id"]: reply["ok"] for reply in (wire.receive() for _ in ids)}
    items = {replies[one]["item"]["memory_id"] for one in ids}
    assert len(items) == 1
    assert [replies[one]["duplicate"] for one in ids] == [False] + [True] * 19


def test_the_same_request_again_gets_the_first_answer_again(wire: Wire) -> None:
    body = {"source": "manual", "content": "once", "event_id": new_id()}
    first, again = wire.ok("memory.ingest", body), wire.ok("memory.ingest", body)
    assert again["item"] == first["item"]
    assert wire.err("memory.ingest", {**body, "content": "other"})["code"] == "id_reused"
    ingest(wire, "to go", channel="c")
    purge = {"channel": "c", "event_id": new_id()}
    told = [wire.ok("memory.purge", purge)["deleted"] for _ in range(2)]
    assert told == [1, 1]
    ingest(wire, "stays", channel="c")
    assert wire.ok("memory.purge", purge)["deleted"] == 1
    assert listed(wire, channel="c") == ["stays"]


def test_an_id_is_one_items(wire: Wire) -> None:
    memory = ingest(wire, "mine")["item"]["memory_id"]
    error = wire.err(
        "memory.ingest", {"source": "manual", "content": "another", "memory_id": memory}
    )
    assert (error["code"], error["field"]) == ("id_reused", "memory_id")


def test_secrets_are_out_of_a_memory_before_it_is_hashed_or_found(
    tmp_path: Path, wire: Wire
) -> None:
    item = ingest(wire, f"the key is {SECRET} and works")["item"]
    assert SECRET not in item["content"]
    assert found(wire, SECRET, mode="lexical") == []
    assert SECRET.encode() not in raw_bytes(tmp_path)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"content": "x" * 16_385}, "too_large", "content"),
        ({"content": " \n"}, "invalid", "content"),
        ({"tags": ["ok", "Not OK"]}, "invalid", "tags[1]"),
        ({"tags": [f"t{n}" for n in range(33)]}, "too_large", "tags"),
        ({"confidence": 1.5}, "invalid", "confidence"),
        ({"confidence": float("nan")}, "invalid", "confidence"),
        ({"source": "dream"}, "invalid", "source"),
        ({"channel": ""}, "invalid", "channel"),
        ({"channel": "c" * 257}, "too_large", "channel"),
        ({"memory_id": "short"}, "invalid_id", "memory_id"),
        ({"session_id": "short"}, "invalid_id", "session_id"),
        ({"from_event_id": "short"}, "invalid_id", "from_event_id"),
        ({"expires_ms": 1}, "invalid", "expires_ms"),
        ({"importance": 1}, "invalid", "importance"),
    ],
)
def test_what_is_no_memory_is_refused_with_its_field(
    wire: Wire, body: dict[str, Any], code: str, field: str
) -> None:
    before = wire.head()
    error = wire.err("memory.ingest", {"source": "manual", "content": "text", **body})
    assert (error["code"], error["field"]) == (code, field)
    assert wire.head() == before


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"query": "x" * 4_097}, "too_large", "query"),
        ({"query": " "}, "invalid", "query"),
        ({"top_k": 65}, "invalid", "top_k"),
        ({"top_k": 0}, "invalid", "top_k"),
        ({"mode": "magic"}, "invalid", "mode"),
        ({"min_score": float("nan")}, "invalid", "min_score"),
        ({"sources": ["dream"]}, "invalid", "sources[0]"),
    ],
)
def test_what_is_no_search_is_refused_with_its_field(
    wire: Wire, body: dict[str, Any], code: str, field: str
) -> None:
    error = wire.err("memory.search", {"query": "text", **body})
    assert (error["code"], error["field"]) == (code, field)


HOSTILE = [
    '"', "'", '" OR 1=1 --', "NEAR(a b)", "a AND", "col:x", "{a b}:c", "^x*", "-", "()", "\x00",
    "a" * 4_096, "a OR " * 800, "\ud7ff￿", "💥" * 1_000, "NOT NOT NOT", "%_%", "x\ty\nz",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE)
def test_any_text_is_a_query(wire: Wire, query: str) -> None:
    ingest(wire, "a plain text about nothing")
    for mode in ("hybrid", "vector", "lexical"):
        wire.ok("memory.search", {"query": query, "mode": mode})


def test_an_update_takes_the_place_of_the_old_which_is_found_as_of_before(tmp_path: Path) -> None:
    clock = ManualClock()
    with house(tmp_path, clock=clock) as home:
        wire = home.connect()
        old = ingest(wire, "the build takes four minutes", channel="ci", tags=["build"])["item"]
        clock.turn(1000)
        body = {"memory_id": old["memory_id"], "content": "the build takes six minutes"}
        new = wire.ok("memory.update", body)["item"]
        assert (new["channel"], new["tags"]) == ("ci", ["build"])
        clock.turn(1000)
        assert found(wire, "build minutes") == ["the build takes six minutes"]
        then = old["created_ms"] + 500
        assert found(wire, "build minutes", as_of_ms=then) == ["the build takes four minutes"]
        assert found(wire, "build minutes", as_of_ms=then - 501) == []
        assert listed(wire) == ["the build takes six minutes"]
        shown = wire.ok("memory.get", {"memory_id": old["memory_id"]})["item"]
        assert shown["superseded_by"] == new["memory_id"]
        error = wire.err("memory.update", body)
        assert (error["code"], error["detail"]["actual"]) == ("conflict", new["memory_id"])


def test_an_update_to_a_text_that_is_there_leaves_one_item_of_it(wire: Wire) -> None:
    first = ingest(wire, "one")["item"]["memory_id"]
    ingest(wire, "two")
    wire.ok("memory.update", {"memory_id": first, "content": "two"})
    assert listed(wire) == ["two"]
    assert ingest(wire, "two")["duplicate"]
    assert not ingest(wire, "one")["duplicate"]


def test_filters_come_before_the_ranking_and_top_k_is_exact(wire: Wire) -> None:
    for n in range(60):
        ingest(
            wire, f"note number {n} about the harbour", channel="even" if n % 2 == 0 else "odd",
            tags=["all", f"mod:{n % 3}"], source="manual" if n < 50 else "summary",
        )  # fmt: skip
    for mode in ("hybrid", "vector", "lexical"):
        ask = {"mode": mode, "top_k": 10}
        assert len(found(wire, "harbour", **ask)) == 10
        assert len(found(wire, "harbour", **ask, channel="odd")) == 10
        assert len(found(wire, "harbour", **ask, tags=["all", "mod:1"], channel="odd")) == 10
        assert len(found(wire, "harbour", **ask, sources=["summary"], channel="even")) == 5
        assert found(wire, "harbour", **ask, tags=["all", "none"]) == []
        assert found(wire, "harbour", **ask, session_id=new_id()) == []


def test_a_score_means_the_same_whatever_else_is_remembered(wire: Wire) -> None:
    ingest(wire, "the lighthouse keeper counts ships")
    before = wire.ok("memory.search", {"query": "lighthouse keeper", "mode": "vector"})["hits"][0]
    for n in range(30):
        ingest(wire, f"lighthouse {n}")
    after = wire.ok("memory.search", {"query": "lighthouse keeper", "mode": "vector"})["hits"][0]
    assert after["item"] == before["item"]
    assert after["score"] == pytest.approx(before["score"])
    all_words = wire.ok("memory.search", {"query": "lighthouse keeper", "mode": "lexical"})["hits"]
    assert all_words[0]["score"] > 0.8 > all_words[1]["score"]
    floor = all_words[0]["score"]
    only = found(wire, "lighthouse keeper", mode="lexical", min_score=floor - 1e-6)
    assert only == ["the lighthouse keeper counts ships"]


def test_what_is_deleted_is_gone_from_file_log_and_free_pages(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        wire = home.connect()
        old = ingest(wire, "Zanzibar was the code word", tags=["zz-tag"])["item"]["memory_id"]
        wire.ok("memory.update", {"memory_id": old, "content": "Xanadu is the code word"})
        [new] = [one["memory_id"] for one in wire.ok("memory.list")["items"]]
        ingest(wire, "Quetzalcoatl flies", channel="birds")
        ingest(wire, "this one stays")
        wire.ok("memory.search", {"query": "code word"})
        wire.ok("memory.backfill")
        here = raw_bytes(tmp_path)
        assert all(word in here for word in (b"Zanzibar", b"Xanadu", b"Quetzalcoatl"))
        assert wire.ok("memory.delete", {"memory_id": new})["deleted"] == 2
        assert wire.ok("memory.purge", {"channel": "birds"})["deleted"] == 1
        here = raw_bytes(tmp_path)
        gone = (b"Zanzibar", b"Xanadu", b"Quetzalcoatl", b"zz-tag")
        assert not any(word in here for word in gone)
        assert b"this one stays" in here
        assert wire.err("memory.get", {"memory_id": old})["code"] == "gone"
        verified = wire.ok("journal.verify")
        assert (verified["valid"], verified["erased"]) == (True, 3)
        assert found(wire, "code word") == ["this one stays"]
    assert_rebuilt_is_live(tmp_path / "journal.db")


@pytest.mark.parametrize("body", [{}, {"all": False}, {"all": True, "channel": "c"}])
def test_a_purge_names_exactly_one_of_three(wire: Wire, body: dict[str, Any]) -> None:
    ingest(wire, "stays")
    assert wire.err("memory.purge", body)["code"] == "invalid"
    assert listed(wire) == ["stays"]


def test_what_is_kept_after_a_purge_in_one_breath_stays(wire: Wire) -> None:
    memory = ingest(wire, "before")["item"]["memory_id"]
    wire.send("memory.ingest", {"source": "manual", "content": "just before"})
    purge = wire.send("memory.purge", {"all": True})
    update = wire.send("memory.update", {"memory_id": memory, "content": "purged already"})
    wire.send("memory.ingest", {"source": "manual", "content": "before"})
    replies = {reply["id"]: reply for reply in (wire.receive() for _ in range(4))}
    assert replies.pop(update)["err"]["code"] == "gone"
    assert replies.pop(purge)["ok"]["deleted"] == 2
    assert all("ok" in reply for reply in replies.values())
    assert listed(wire) == found(wire, "before") == ["before"]


def test_a_list_by_a_rare_tag_looks_at_its_items_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SCAN_ROWS_MAX", 4)
    monkeypatch.setattr(memory, "PAGE_ROWS", 4)
    monkeypatch.setattr(memory, "RARE_TAG_ITEMS", 9)
    with house(tmp_path) as home:
        wire = home.connect()
        for n in range(30):
            tags = ["all", "rare"] if n % 10 == 9 else ["all"]
            ingest(wire, f"text {n}", tags=tags)
        rare = ["text 9", "text 19", "text 29"]
        for tags in (["rare"], ["all", "rare"]):
            page = wire.ok("memory.list", {"tags": tags})
            assert ([one["content"] for one in page["items"]], page["end"]) == (rare, True)
            assert listed(wire, tags=tags, limit=2) == rare
        assert not wire.ok("memory.list", {"tags": ["all"]})["end"]
        assert len(listed(wire, tags=["all"])) == 30
        wire.ok("memory.delete", {"memory_id": page["items"][0]["memory_id"]})
        ingest(wire, "another", tags=["rare"])
        assert listed(wire, tags=["rare"], sources=["manual"]) == [*rare[1:], "another"]
        assert listed(wire, tags=["none"]) == []


def test_a_list_is_paged_without_gap_or_repeat(wire: Wire) -> None:
    texts = {f"text {n}" for n in range(25)}
    for text in texts:
        ingest(wire, text)
    got = listed(wire, limit=7)
    assert len(got) == 25
    assert set(got) == texts


def test_two_principals_see_nothing_of_each_other(wire: Wire) -> None:
    for n in range(20):
        ingest(wire, f"common words number {n}", principal="anna")
    mine = ingest(wire, "common words number 3", principal="bert")
    assert not mine["duplicate"]
    search = {"query": "common words number", "top_k": 64}
    told = wire.ok("memory.search", search, principal="bert")["hits"]
    assert [hit["item"]["memory_id"] for hit in told] == [mine["item"]["memory_id"]]
    alone = told[0]["score"], told[0]["breakdown"]["lexical"]
    theirs = wire.ok("memory.list", {}, principal="anna")["items"][0]["memory_id"]
    missing = wire.err("memory.get", {"memory_id": new_id()}, principal="bert")
    for op in ("memory.get", "memory.delete"):
        other = wire.err(op, {"memory_id": theirs}, principal="bert")
        assert {**other, "message": ""} == {**missing, "message": ""}
    assert wire.ok("memory.stats", {}, principal="bert")["items"] == 1
    # an id that another has taken is free here: whether it is taken cannot be found out
    taken = ingest(wire, "an id of my own", principal="bert", memory_id=theirs)
    assert taken["item"]["memory_id"] == theirs
    wire.ok("memory.delete", {"memory_id": theirs}, principal="bert")
    assert len(wire.ok("memory.list", {}, principal="anna")["items"]) == 20
    # what the other keeps changes no score
    for n in range(20):
        ingest(wire, f"common {n}", principal="anna")
    again = wire.ok("memory.search", search, principal="bert")["hits"]
    assert (again[0]["score"], again[0]["breakdown"]["lexical"]) == pytest.approx(alone)
    assert wire.ok("memory.purge", {"all": True}, principal="bert")["deleted"] == 1
    assert wire.ok("memory.stats", {}, principal="anna")["items"] == 40


def test_a_common_word_counts_as_much_as_the_formula_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words that many items have are not looked up one by one."""
    query = "quetzal alpha beta gamma delta epsilon"
    with Engine.open(tmp_path / "m.db", NO_BUDGET) as engine:
        memories = engine.memories
        memories.add("far far away the quetzal sees alpha then beta gamma delta and an epsilon")
        for n in range(9):
            memories.add(f"alpha beta gamma delta epsilon {n}")
            memories.add(f"quetzal alpha {n}" if n < 3 else f"beta gamma {n}")
        for mode in ("lexical", "hybrid"):
            monkeypatch.undo()
            exact = memories.search(query, mode=mode, top_k=1)[0]
            monkeypatch.setattr(search, "ROWS_MAX", 4)
            found = memories.search(query, mode=mode, top_k=1)[0]
            assert found.item == exact.item
            assert found.lexical == pytest.approx(exact.lexical)
            assert found.score == pytest.approx(exact.score, abs=1e-4)
            least = exact.score - 0.01
            assert len(memories.search(query, mode=mode, min_score=least, top_k=1)) == 1
            assert memories.search(query, mode=mode, min_score=exact.score + 0.01) == []


def test_no_answer_is_quicker_for_words_that_somebody_else_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of words is each scope's own: else the time of a search tells of others.
    How long it takes is measured by `bench/bench_timing.py`."""
    learnt: list[str] = []
    learn = HashMemoryEmbeddingProvider._learn

    def watched(self: HashMemoryEmbeddingProvider, new: Sequence[str]) -> None:
        learnt.extend(new)
        learn(self, new)

    monkeypatch.setattr(HashMemoryEmbeddingProvider, "_learn", watched)
    with Engine.open(tmp_path / "m.db", NO_BUDGET) as engine:
        memories = engine.memories
        memories.add("Xylographers adore quetzals", principal="alice")
        memories.search("quetzals", principal="alice")
        memories.backfill(principal="alice")
        memories.add("nothing of that kind", principal="mallory")
        learnt.clear()
        met = Terms.met
        memories.search("xylographers quetzals", principal="mallory")
        assert {"xylographers", "quetzals"} <= set(learnt)
        assert Terms.met == met + 2
        learnt.clear()
        memories.add("xylographers again", principal="mallory")
        memories.backfill(principal="mallory")
        assert "xylographers" in learnt


def test_erasing_a_session_erases_what_was_kept_of_it(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        wire = home.connect()
        session, other = new_id(), new_id()
        told = event(session, payload={"text": "Ouagadougou"})
        wire.append(told)
        ingest(wire, "from the session: Ouagadougou", session_id=session)
        ingest(wire, "from the event: Ouagadougou", from_event_id=told["event_id"])
        ingest(wire, "of another session", session_id=other)
        wire.ok("session.erase", {"session_id": session})
        assert listed(wire) == ["of another session"]
        assert b"Ouagadougou" not in raw_bytes(tmp_path)
        error = wire.err(
            "memory.ingest", {"source": "manual", "content": "late", "session_id": session}
        )
        assert error["code"] == "gone"
    assert_rebuilt_is_live(tmp_path / "journal.db")


@pytest.mark.parametrize("eraser", ["alice", "local"])
def test_what_an_admin_kept_of_anothers_session_goes_with_it(tmp_path: Path, eraser: str) -> None:
    with house(tmp_path) as home:
        wire = home.connect()
        session, other = new_id(), new_id()
        told = event(session, payload={"text": "Ouagadougou"})
        wire.ok("journal.append", {"events": [told, event(other)]}, principal="alice")
        ids = [new_id() for _ in range(4)]
        ingest(wire, "of the session: Ouagadougou", memory_id=ids[0], session_id=session)
        ingest(wire, "of the event: Ouagadougou", memory_id=ids[1], from_event_id=told["event_id"])
        ingest(wire, "of another session", memory_id=ids[2], session_id=other)
        body = {"source": "manual", "content": "alice: Ouagadougou", "session_id": session}
        wire.ok("memory.ingest", {**body, "memory_id": ids[3]}, principal="alice")
        wire.ok("session.erase", {"session_id": session}, principal=eraser)
        assert listed(wire) == ["of another session"]
        for gone in (ids[0], ids[1], ids[3]):
            assert wire.err("memory.get", {"memory_id": gone})["code"] == "gone"
        assert b"Ouagadougou" not in raw_bytes(tmp_path)
        for late in ({"session_id": session}, {"from_event_id": told["event_id"]}):
            error = wire.err("memory.ingest", {"source": "manual", "content": "late", **late})
            assert error["code"] == "gone"
    assert_rebuilt_is_live(tmp_path / "journal.db")


def test_nobody_erases_what_another_kept_before_the_session_was_there(tmp_path: Path) -> None:
    clock = ManualClock()
    session, hers, his = new_id(), new_id(), new_id()
    alice, ben = {"principal": "alice"}, {"principal": "ben"}
    with house(tmp_path, clock=clock) as home:
        wire = home.connect()
        for memory, envelope in ((hers, alice), (his, ben)):
            body = {"source": "manual", "content": "noon", "memory_id": memory}
            wire.ok("memory.ingest", {**body, "session_id": session}, **envelope)
        clock.turn(1)
        wire.ok("journal.append", {"events": [event(session)]}, **ben)
        wire.ok("session.erase", {"session_id": session}, **ben)
        assert wire.err("memory.get", {"memory_id": his}, **ben)["code"] == "gone"
        assert wire.ok("memory.get", {"memory_id": hers}, **alice)["item"]["content"] == "noon"
    with house(tmp_path, clock=clock) as home:  # which looks for what was left behind
        wire = home.connect()
        wire.ok("memory.maintain", {}, **alice)
        assert wire.ok("memory.get", {"memory_id": hers}, **alice)["item"]["content"] == "noon"
    assert_rebuilt_is_live(tmp_path / "journal.db")


def maintained(wire: Wire, clock: ManualClock) -> dict[str, Any]:
    """What upkeep did. It takes time while others write, so time goes by."""
    wire.send("memory.maintain")
    deadline = time.monotonic() + DEADLINE_S
    while not wire.socket.poll(50):
        assert time.monotonic() < deadline
        clock.turn(20)
    told: dict[str, Any] = wire.receive()["ok"]
    return told


def vacuumed_before(wire: Wire, clock: ManualClock) -> int:
    """How many milliseconds ago; where upkeep took time, that is more than the clock was turned."""
    return clock.wall_ms() - int(wire.ok("memory.stats")["last_vacuum_ms"])


def test_what_is_over_is_neither_found_nor_in_the_way_and_goes(tmp_path: Path) -> None:
    clock = ManualClock()
    with house(tmp_path, clock=clock) as home:
        wire = home.connect()
        ingest(wire, "the meeting is at noon", expires_ms=clock.wall_ms() + 1000)
        ingest(wire, "noon is bright")
        assert len(found(wire, "noon")) == 2
        clock.turn(1000)
        assert found(wire, "noon") == listed(wire) == ["noon is bright"]
        assert not ingest(wire, "the meeting is at noon")["duplicate"]
        ingest(wire, "short", expires_ms=clock.wall_ms() + 1000)
        clock.turn(1000)
        told = maintained(wire, clock)
        assert (told["expired"], told["evicted"]) == (1, 0)
        assert told["freed_bytes"] > 0
        told = maintained(wire, clock)
        assert (told["expired"], told["evicted"], told["freed_bytes"]) == (0, 0, 0)
        assert wire.ok("memory.stats")["last_maintenance_ms"] == clock.wall_ms()
        assert sorted(listed(wire)) == ["noon is bright", "the meeting is at noon"]
    assert b"short" not in raw_bytes(tmp_path)
    assert_rebuilt_is_live(tmp_path / "journal.db")


@pytest.mark.parametrize(
    ("retention", "left"),
    [
        ({"max_entries": 3}, [7, 8, 9]),
        ({"scope_max_entries": 4}, [6, 7, 8, 9]),
        ({"max_bytes": 20}, [8, 9]),
        ({"scope_max_bytes": 30}, [7, 8, 9]),
        ({"ttl_days": 1.5}, [9]),
    ],
)
def test_retention_keeps_what_is_newest(
    tmp_path: Path, retention: dict[str, Any], left: list[int]
) -> None:
    clock = ManualClock()
    config = NO_BUDGET.replaced("memory", retention=retention)
    with house(tmp_path, config, clock=clock) as home:
        wire = home.connect()
        for n in range(10):
            ingest(wire, f"memory {n:02}")
            clock.turn(86_400_000)
        maintained(wire, clock)
        assert listed(wire) == [f"memory {n:02}" for n in left]
    assert_rebuilt_is_live(tmp_path / "journal.db")


def test_the_rebuilt_memories_are_the_live_ones(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "journal.db", NO_BUDGET) as engine:
        memories = engine.memories
        kept = [memories.add(f"text {n % 7} {n}", tags=[f"t{n % 3}"]) for n in range(40)]
        for one in kept[:10]:
            memories.update(one.memory_id, one.content + " again")
        memories.delete(kept[20].memory_id)
        memories.add(
            "with all there is", source="summary", session_id=new_id(), channel="kept",
            tags=["a", "b"], confidence=0.5, expires_ms=2**47, from_event_id=new_id(),
        )  # fmt: skip
        memories.add("in a channel", channel="c")
        memories.purge(channel="c")
        assert len(list(memories.all())) == 40
    assert_rebuilt_is_live(tmp_path / "journal.db")


def test_a_restart_forgets_nothing_and_finds_everything(tmp_path: Path) -> None:
    database = tmp_path / "journal.db"
    with Engine.open(database, Config()) as engine:
        for n in range(30):
            engine.memories.add(f"the number {n} stands alone")
        before = engine.memories.search("number 17", top_k=5)
    with Engine.open(database, Config()) as engine:
        after = engine.memories.search("number 17", top_k=5)
        assert [hit.item for hit in after] == [hit.item for hit in before]
        assert engine.memories.add("the number 3 stands alone") == engine.memories.get(
            engine.memories.search("number 3", mode="lexical")[0].item.memory_id
        )


def test_the_index_is_merged_when_the_schedule_says_so(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_790_000_000_000)  # 14:13:20 UTC
    config = NO_BUDGET.replaced("memory", retention={"vacuum_schedule": "15 14 * * *"})
    with house(tmp_path, config, clock=clock) as home:
        wire = home.connect()
        for n in range(20):
            ingest(wire, f"entry {n}")
        maintained(wire, clock)
        assert wire.ok("memory.stats")["last_vacuum_ms"] is None
        clock.turn(12 * 60_000)
        maintained(wire, clock)
        assert vacuumed_before(wire, clock) < 60_000
        clock.turn(60_000)
        maintained(wire, clock)
        assert vacuumed_before(wire, clock) // 60_000 == 1
        assert len(found(wire, "entry", top_k=64)) == 20


def test_a_merge_that_fell_due_while_no_engine_ran_is_made_up_for(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_790_000_000_000)  # 14:13:20 UTC
    config = NO_BUDGET.replaced("memory", retention={"vacuum_schedule": "15 14 * * *"})
    with house(tmp_path, config, clock=clock) as home:
        ingest(home.connect(), "entry")
    for minutes in (5, 24 * 60):  # the first one ever, and a later one
        clock.turn(minutes * 60_000)
        with house(tmp_path, config, clock=clock) as home:
            wire = home.connect()
            maintained(wire, clock)
            assert vacuumed_before(wire, clock) < 60_000
    with house(tmp_path, config, clock=clock) as home:
        wire = home.connect()
        clock.turn(60_000)
        maintained(wire, clock)
        assert vacuumed_before(wire, clock) // 60_000 == 1


def test_what_is_over_leaves_the_log_of_an_engine_that_nobody_writes_to(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_790_000_000_000)
    with house(tmp_path, clock=clock) as home:
        wire = home.connect()
        ingest(wire, "the wombat is ephemeral", expires_ms=clock.wall_ms() + 1000)
        clock.turn(2000)
        assert maintained(wire, clock)["expired"] == 1
        assert b"ephemeral" in raw_bytes(tmp_path)
        wire.append(event(new_id()))
        clock.turn(61_000)
        assert wire.ok("engine.health")["status"] == "ready"
        assert b"ephemeral" in raw_bytes(tmp_path), "somebody wrote within the minute"
        clock.turn(61_000)
        while b"ephemeral" in raw_bytes(tmp_path):
            wire.ok("memory.stats")
        ingest(wire, "and it goes on")
        assert wire.ok("journal.verify")["valid"]


def test_the_items_of_a_tag_that_many_have_are_kept_and_new_ones_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ROWS_MAX", 2)
    monkeypatch.setattr(shelf, "LIST_ITEMS_MIN", 2)
    monkeypatch.setattr(shelf, "LIST_BYTES", 8)
    with Engine.open(tmp_path / "m.db", NO_BUDGET) as engine:
        memories, shelves = engine.memories, engine._works.remembering.shelves

        def tagged(*tags: str) -> set[str]:
            return {hit.item.content for hit in memories.search("harbour", tags=tags)}

        kept = [memories.add(f"harbour {n}", tags=["sea", "at:home"]) for n in range(3)]
        memories.add("harbour without", tags=["at:home"])
        assert tagged("sea") == {"harbour 0", "harbour 1", "harbour 2"}
        memories.add("harbour 3", tags=["sea"])
        memories.delete(kept[0].memory_id)
        memories.update(kept[1].memory_id, "harbour one")
        assert tagged("sea") == {"harbour one", "harbour 2", "harbour 3"}
        assert tagged("sea", "at:home") == {"harbour one", "harbour 2"}
        assert tagged("nobody") == set()
        for other in ("b", "c"):
            for n in range(3):
                memories.add(f"harbour {other} {n}", tags=[other])
            assert len(tagged(other)) == 3
        [kept_here] = shelves._shelves.values()
        assert list(kept_here.lists) == ["#at:home", "#b", "#c"]
        assert tagged("sea") == {"harbour one", "harbour 2", "harbour 3"}


def test_the_items_of_a_word_that_many_have_are_kept_and_new_ones_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "LIST_ITEMS_MIN", 2)
    with Engine.open(tmp_path / "m.db", NO_BUDGET) as engine:
        memories, shelves = engine.memories, engine._works.remembering.shelves

        def found() -> dict[str, float]:
            hits = memories.search("the harbour gate", mode="lexical")
            return {hit.item.content: hit.lexical for hit in hits}

        kept = [memories.add(f"harbour harbour {n}") for n in range(3)]
        memories.add("a gate")
        assert found().keys() == {
            "harbour harbour 0",
            "harbour harbour 1",
            "harbour harbour 2",
            "a gate",
        }
        [kept_here] = shelves._shelves.values()
        assert len(list(kept_here.lists)) == 2, "those who have it, and who have it twice"
        memories.delete(kept[0].memory_id)
        memories.update(kept[1].memory_id, "harbour once")
        memories.add("harbour gate")
        scores = found()
        assert scores.keys() == {"harbour once", "harbour harbour 2", "harbour gate", "a gate"}
        shelves._shelves.clear()
        assert found() == scores
