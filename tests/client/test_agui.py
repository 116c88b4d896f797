"""A canvas as AG-UI events: a snapshot, deltas, and going on behind any of them."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from palyra_actors.api import agui
from palyra_actors.api.agui import Positioned
from palyra_actors.api.canvases import Canvas
from palyra_actors.api.events import Event, new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import Gone, Invalid, NotFound
from tests.system.harness import NO_BUDGET

QUIET_S = 0.3


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "own.db", NO_BUDGET) as opened:
        yield opened


@pytest.fixture
def canvas(engine: Engine) -> Canvas:
    """At version 6, with other events between its own."""
    made = engine.canvases.create(new_id(), {"n": 0, "log": []})
    for n in range(1, 6):
        engine.append(Event(new_id(), "message_received", {"n": n}))
        count(made, n)
    return made


def count(canvas: Canvas, n: int) -> None:
    canvas.patch(n, [
        {"op": "replace", "path": "/n", "value": n}, {"op": "add", "path": "/log/-", "value": n},
    ])  # fmt: skip


def heard(canvas: Canvas, after_seq: int | str | None = None, count: int = 1) -> list[Positioned]:
    """The first so many."""
    return list(islice(agui.stream(canvas, after_seq=after_seq), count))


def front_end(events: list[Positioned], state: Any = None) -> Any:
    """What a consumer of AG-UI makes of them."""
    for _, event in events:
        told = json.loads(event.model_dump_json(by_alias=True))
        if told["type"] == "STATE_SNAPSHOT":
            state = told["snapshot"]
        else:
            assert told["type"] == "STATE_DELTA"
            state = jsonpatch.apply_patch(state, told["delta"])
    return state


def kinds(events: list[Positioned]) -> list[str]:
    return [str(event.type.value) for _, event in events]


def test_it_begins_with_the_state_and_goes_on_with_every_change(canvas: Canvas) -> None:
    stream = agui.stream(canvas)
    events = [next(stream)]
    for n in range(6, 9):
        count(canvas, n)
        events.append(next(stream))
    assert kinds(events) == ["STATE_SNAPSHOT", *["STATE_DELTA"] * 3]
    assert front_end(events) == canvas.get().state
    assert [seq for seq, _ in events] == sorted({seq for seq, _ in events})


def test_the_ids_are_positions_in_the_journal(engine: Engine, canvas: Canvas) -> None:
    stream = agui.stream(canvas)
    next(stream)
    count(canvas, 6)
    seq, _ = next(stream)
    (stored,) = [one for one in engine.events(after_seq=seq - 1) if one.seq == seq]
    assert (stored.kind, stored.stream_id) == ("canvas.patched", canvas.canvas_id)


def test_it_goes_on_behind_any_position_that_it_gave(canvas: Canvas) -> None:
    stream = agui.stream(canvas)
    events = [next(stream)]
    for n in range(6, 20):
        count(canvas, n)
        events.append(next(stream))
    for cut in range(1, len(events)):
        before, after = events[:cut], heard(canvas, events[cut - 1].seq, len(events) - cut)
        assert "STATE_SNAPSHOT" not in kinds(after)
        assert front_end(after, front_end(before)) == canvas.get().state
        assert after == events[cut:]
    nothing_more = agui.stream(canvas, after_seq=events[-1].seq, wait_s_max=QUIET_S)
    assert list(nothing_more) == []


def test_a_position_between_two_changes_is_as_good_as_that_of_the_first(
    engine: Engine, canvas: Canvas
) -> None:
    stream = agui.stream(canvas)
    state = front_end([next(stream)])
    engine.append(Event(new_id(), "message_received", {"n": 1}))
    between = engine.head().seq
    count(canvas, 6)
    after = heard(canvas, between)
    assert kinds(after) == ["STATE_DELTA"]
    assert front_end(after, state) == canvas.get().state


def test_a_new_canvas_has_a_position_too(engine: Engine) -> None:
    canvas = engine.canvases.create(new_id(), {"n": 0, "log": []})
    (snapshot,) = heard(canvas)
    count(canvas, 1)
    again = heard(canvas, snapshot.seq)
    assert front_end(again, front_end([snapshot])) == {"n": 1, "log": [1]}


def test_behind_what_was_compacted_it_begins_with_the_state(canvas: Canvas) -> None:
    (snapshot,) = heard(canvas)
    count(canvas, 6)
    canvas.compact()
    count(canvas, 7)
    events = heard(canvas, snapshot.seq)
    assert kinds(events)[0] == "STATE_SNAPSHOT"
    assert front_end(events) == canvas.get().state
    (last, *_) = reversed(events)
    count(canvas, 8)
    assert front_end(heard(canvas, last.seq), front_end(events)) == canvas.get().state


def test_behind_a_position_that_the_journal_has_not_come_to_it_begins_with_the_state(
    engine: Engine, canvas: Canvas
) -> None:
    for beyond in (engine.head().seq + 1, 10**18):
        (event,) = agui.stream(canvas, after_seq=beyond, wait_s_max=QUIET_S)
        assert kinds([event]) == ["STATE_SNAPSHOT"]
        assert front_end([event]) == canvas.get().state
        assert event.seq <= engine.head().seq, "it can go on from there"


def test_the_id_of_a_server_sent_event_is_a_position_as_it_comes_back(canvas: Canvas) -> None:
    (snapshot,) = heard(canvas)
    count(canvas, 6)
    assert heard(canvas, str(snapshot.seq)) == heard(canvas, snapshot.seq)
    assert kinds(heard(canvas, "")) == kinds(heard(canvas, "0")) == ["STATE_SNAPSHOT"]


@pytest.mark.parametrize("position", ["x", "-1", "1.5", "１", "9" * 20, -1, True, 1.5])
def test_what_is_no_position_is_refused_before_anything_is_sent(
    canvas: Canvas, position: Any
) -> None:
    with pytest.raises(Invalid) as refused:
        agui.stream(canvas, after_seq=position)
    assert refused.value.field == "after_seq"
    assert "leave it out" in str(refused.value.hint)


def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "again.db"
    with Engine.open(path, NO_BUDGET) as engine:
        canvas = engine.canvases.create(new_id(), {"n": 0, "log": []})
        count(canvas, 1)
        before = heard(canvas)
    with Engine.open(path, NO_BUDGET) as engine:
        canvas = engine.canvases.open(canvas)
        count(canvas, 2)
        assert front_end(heard(canvas, before[-1].seq), front_end(before)) == canvas.get().state


def test_as_server_sent_events_the_positions_are_their_ids(canvas: Canvas) -> None:
    events = heard(canvas)
    (text,) = agui.server_sent(events)
    identity, data, *rest = text.split("\n")
    assert (identity, rest) == (f"id: {events[0].seq}", ["", ""])
    told = json.loads(data.removeprefix("data: "))
    assert (told["type"], told["snapshot"]) == ("STATE_SNAPSHOT", canvas.get().state)


def test_what_is_not_there_and_what_was_erased_is_said(engine: Engine) -> None:
    with pytest.raises(NotFound):
        heard(engine.canvases.open(new_id()))
    session = engine.sessions.resolve("alice")
    canvas = engine.canvases.create(session, {"n": 0})
    session.erase()
    with pytest.raises(Gone):
        heard(canvas, 5)


def test_it_ends_with_the_canvas(canvas: Canvas) -> None:
    canvas.close(reason="done")
    assert len(list(agui.stream(canvas))) == 1


def test_behind_the_first_versions_id_it_begins_with_the_state_again(engine: Engine) -> None:
    canvas = engine.canvases.create(new_id(), {"n": 0, "log": []})
    ((first, _),) = heard(canvas)
    count(canvas, 1)
    (again,) = heard(canvas, after_seq=first)
    assert kinds([again]) == ["STATE_SNAPSHOT"]
    assert front_end([again]) == canvas.get().state
