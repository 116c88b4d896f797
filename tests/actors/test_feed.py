"""From file to memory and back: where a stream changes over, nothing is lost or said twice."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import feed
from palyra_actors.api.events import new_id
from tests.system.harness import House, Wire, event, house


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine that keeps a hundred events in memory and reads ten at a time."""
    monkeypatch.setattr(feed, "WINDOW_EVENTS_MAX", 10)
    monkeypatch.setattr(feed, "PAGE_EVENTS", 10)
    with house(tmp_path) as opened:
        yield opened


def test_every_position_is_caught_up_with_wherever_memory_begins(small: House) -> None:
    writer, wire = small.connect(), small.connect()
    for _ in range(60):
        writer.append(*[event(new_id()) for _ in range(5)])
    for after_seq in [0, 1, 9, 10, 11, *range(185, 225), 298, 299, 300]:
        sub = wire.send("journal.subscribe", {"credit": 1000, "after_seq": after_seq})
        heard = wire.items_until(partial(_are, 300 - after_seq), sub)
        assert [e["seq"] for e in heard] == list(range(after_seq + 1, 301))
        wire.send("journal.unsubscribe", {"sub": sub}, id="bye")
        assert {wire.receive()["id"] for _ in range(2)} == {sub, "bye"}


def _are(count: int, events: list[Any]) -> bool:
    return len(events) == count


@pytest.mark.parametrize("credit", [1, 7, 10, 64])
def test_a_stream_that_is_fed_by_credit_changes_over_without_gap_or_repeat(
    small: House, credit: int
) -> None:
    """It falls out of memory while it pauses, catches up from the file, and is live again."""
    total = 600
    with Wire(small.endpoint) as wire:
        sub = wire.send("journal.subscribe", {"credit": credit, "after_seq": 0})

        def write() -> None:
            with Wire(small.endpoint) as writer:
                for _ in range(total // 5):
                    writer.append(*[event(new_id()) for _ in range(5)])

        thread = threading.Thread(target=write)
        thread.start()
        heard: list[int] = []
        taken = 0
        while len(heard) < total:
            reply = wire.receive()
            if reply["id"] != sub:
                assert reply["ok"] == {}
            elif "event" in reply["item"]:
                heard.append(reply["item"]["event"]["seq"])
                taken += 1
                if taken == credit:
                    taken = 0
                    wire.send("journal.credit", {"sub": sub, "credit": credit}, id="c")
        thread.join()
    assert heard == list(range(1, total + 1))


def test_memory_holds_no_more_than_it_may(small: House) -> None:
    wire = small.connect()
    for _ in range(60):
        wire.append(*[event(new_id()) for _ in range(5)])
    kept = small.engine._works.feed
    assert 100 <= kept._window_events < 110
    assert sum(len(group.batch.events) for group in kept._window) == kept._window_events


def test_large_events_are_let_go_of_by_their_bytes(
    small: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WINDOW_EVENTS_MAX", 10_000)
    monkeypatch.setattr(feed, "WINDOW_BYTES_MAX", 100_000)
    wire = small.connect()
    for _ in range(150):
        wire.append(event(new_id(), payload={"t": "x" * 1000}))
    kept = small.engine._works.feed
    assert 100 <= kept._window_events <= 101
    recent = wire.ok("journal.recent")["events"]
    assert [e["seq"] for e in recent] == list(range(51, 151))


def test_recent_events_of_a_principal_have_no_gap_where_memory_was_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WINDOW_EVENTS_MAX", 10)
    hers: list[int] = []

    def append(wire: Wire, principal: str) -> int:
        body = {"events": [event(new_id())]}
        return int(wire.ok("journal.append", body, principal=principal)["results"][0]["seq"])

    with house(tmp_path) as opened:
        hers.append(append(opened.connect(), "alice"))
    with house(tmp_path) as opened:
        wire = opened.connect()
        hers.append(append(wire, "alice"))
        for _ in range(150):
            append(wire, "bob")
        hers.append(append(wire, "alice"))
        recent = wire.ok("journal.recent", principal="alice")["events"]
    assert [e["seq"] for e in recent] == hers[-1:]
