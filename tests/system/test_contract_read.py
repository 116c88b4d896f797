"""`journal.read`, `.recent` and `.head`: filters, pages, raw bytes, and their ends."""

import random
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.limits import FRAME_BYTES_MAX
from tests.system.harness import House, Wire, event, house, pack

KINDS = ["message_received", "model_token", "tool_proposed", "x.own", "x.other"]


class Model:
    """A journal with sessions of 0..300 events, interleaved at random, and all that was written."""

    def __init__(self, wire: Wire, seed: int) -> None:
        chance = random.Random(seed)
        self.sessions = {new_id(): size for size in (0, 1, 63, 64, 65, 127, 128, 129, 200, 300)}
        self.runs = {session: [new_id() for _ in range(3)] for session in self.sessions}
        left = [session for session, size in self.sessions.items() for _ in range(size)]
        chance.shuffle(left)
        while left:
            some = left[: chance.randint(1, 90)]
            left = left[len(some) :]
            wire.append(
                *[
                    event(
                        session,
                        kind=chance.choice(KINDS),
                        run_id=chance.choice([*self.runs[session], None]),
                        payload={"n": chance.randint(0, 9)},
                    )
                    for session in some
                ]
            )
        self.events = wire.read_all()

    def matching(self, **filters: Any) -> list[int]:
        kinds = filters.pop("kinds", None)
        return [
            e["seq"]
            for e in self.events
            if all(e[key] == value for key, value in filters.items())
            and (kinds is None or e["kind"] in kinds)
        ]


@pytest.fixture(scope="module")
def model(shared_house: House) -> Model:
    with Wire(shared_house.endpoint) as wire:
        return Model(wire, 7)


@pytest.fixture
def lonely(own: House) -> Wire:
    """A connection to an engine whose journal is empty."""
    return own.connect()


def test_an_empty_journal_is_one_empty_page(lonely: Wire) -> None:
    assert lonely.ok("journal.read") == {"events": [], "next_after_seq": 0, "end": True}
    assert lonely.ok("journal.recent") == {"events": []}
    assert lonely.ok("journal.head") == {"seq": 0, "hash": bytes(32)}


def test_a_page_holds_100_events_where_no_limit_is_given(lonely: Wire) -> None:
    lonely.append(*[event(new_id()) for _ in range(250)])
    page = lonely.ok("journal.read")
    assert [e["seq"] for e in page["events"]] == list(range(1, 101))
    assert (page["next_after_seq"], page["end"]) == (100, False)
    page = lonely.ok("journal.read", {"after_seq": 200})
    assert [e["seq"] for e in page["events"]] == list(range(201, 251))
    assert (page["next_after_seq"], page["end"]) == (250, True)


def test_a_page_that_ends_with_the_last_event_is_the_end(lonely: Wire) -> None:
    lonely.append(*[event(new_id()) for _ in range(10)])
    page = lonely.ok("journal.read", {"limit": 10})
    assert (len(page["events"]), page["next_after_seq"], page["end"]) == (10, 10, True)


def test_a_page_after_the_head_is_empty_and_does_not_go_back(lonely: Wire) -> None:
    lonely.append(event(new_id()))
    page = lonely.ok("journal.read", {"after_seq": 50})
    assert page == {"events": [], "next_after_seq": 50, "end": True}


def test_what_comes_after_an_end_is_found_from_where_it_ended(lonely: Wire) -> None:
    session = new_id()
    lonely.append(event(session))
    lonely.append(event(new_id()))
    page = lonely.ok("journal.read", {"session_id": session})
    assert page["end"] is True
    (late,) = lonely.append(event(session))
    (found,) = lonely.read(session_id=session, after_seq=page["next_after_seq"])
    assert found["event_id"] == late["event_id"]


def test_every_event_of_a_session_is_found_from_every_position(wire: Wire, model: Model) -> None:
    for session, size in model.sessions.items():
        if size == 0:
            continue
        expected = model.matching(session_id=session)
        assert len(expected) == size
        positions = range(model.events[-1]["seq"] + 2)
        for after_seq in random.Random(size).sample(positions, 40):
            page = wire.ok(
                "journal.read", {"session_id": session, "after_seq": after_seq, "limit": 1000}
            )
            assert [e["seq"] for e in page["events"]] == [s for s in expected if s > after_seq]
            assert page["end"] is True


def test_every_position_of_one_session_is_a_place_to_go_on_from(
    wire: Wire, model: Model, campaign: bool
) -> None:
    session = next(s for s, size in model.sessions.items() if size == 129)
    expected = model.matching(session_id=session)
    for after_seq in range(0, model.events[-1]["seq"] + 1, 1 if campaign else 5):
        body = {"session_id": session, "after_seq": after_seq, "limit": 2}
        page = wire.ok("journal.read", body)
        assert [e["seq"] for e in page["events"]] == [s for s in expected if s > after_seq][:2]


@pytest.mark.parametrize("limit", [1, 7, 64, 100])
def test_pages_of_any_size_together_are_the_whole(wire: Wire, model: Model, limit: int) -> None:
    session = next(s for s, size in model.sessions.items() if size == 300)
    pages = wire.read_all(limit, session_id=session)
    assert [e["seq"] for e in pages] == model.matching(session_id=session)
    assert [e["stream_seq"] for e in pages] == list(range(1, 301))


@pytest.mark.parametrize("limit", [3, 1000])
def test_filters_hold_together_and_alone(wire: Wire, model: Model, limit: int) -> None:
    session = next(s for s, size in model.sessions.items() if size == 200)
    run = model.runs[session][1]
    cases: list[dict[str, Any]] = [
        {"kinds": ["model_token"]},
        {"kinds": ["x.own", "tool_proposed"]},
        {"kinds": ["x.nobody"]},
        {"kinds": []},
        {"run_id": run},
        {"run_id": run, "kinds": ["model_token"]},
        {"session_id": session, "kinds": ["x.own", "x.other"]},
        {"session_id": session, "run_id": run},
        {"session_id": session, "run_id": run, "kinds": ["model_token", "x.own"]},
    ]
    for case in cases:
        found = [e["seq"] for e in wire.read_all(limit, **case)]
        assert found == model.matching(**case), case


def test_a_run_of_another_session_is_not_found_in_this_one(wire: Wire, model: Model) -> None:
    sessions = [s for s, size in model.sessions.items() if size >= 200]
    body = {"session_id": sessions[0], "run_id": model.runs[sessions[1]][0]}
    error = wire.err("journal.read", body)
    assert (error["code"], error["field"]) == ("not_found", "run_id")


@pytest.mark.parametrize("field", ["session_id", "run_id"])
def test_a_session_or_run_that_is_not_there_is_not_found(wire: Wire, field: str) -> None:
    error = wire.err("journal.read", {field: new_id()})
    assert (error["code"], error["field"]) == ("not_found", field)
    assert error["retryable"] is False


def test_a_page_of_large_events_ends_early_and_fits_a_frame(own: House) -> None:
    wire = own.connect()
    session = new_id()
    for _ in range(4):
        wire.append(*[event(session, payload={"t": "x" * 250_000}) for _ in range(10)])
    wire.send("journal.read", {"limit": 1000})
    assert len(wire.receive_frame()) <= FRAME_BYTES_MAX
    found = wire.read_all(session_id=session)
    assert [e["seq"] for e in found] == list(range(1, 41))


def test_recent_events_are_the_last_ones_newest_last(own: House) -> None:
    wire = own.connect()
    for number in range(1, 8):
        wire.append(*[event(new_id()) for _ in range(40)])
        recent = [e["seq"] for e in wire.ok("journal.recent")["events"]]
        assert recent == list(range(1, number * 40 + 1))[-100:]
    for limit in (1, 39, 40, 41, 100):
        recent = wire.ok("journal.recent", {"limit": limit})["events"]
        assert [e["seq"] for e in recent] == list(range(281 - limit, 281))


def test_a_recent_event_is_the_same_as_the_stored_one(own: House) -> None:
    wire = own.connect()
    run = new_id()
    wire.append(event(new_id(), kind="x.own", run_id=run), event(new_id(), payload={"token": "s"}))
    wire.ok("journal.append", {"events": [event(new_id())]}, traceparent="00-aa", principal="al")
    assert wire.ok("journal.recent")["events"] == wire.read()


def test_recent_events_after_a_restart_come_from_the_file(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        wire = opened.connect()
        wire.append(*[event(new_id()) for _ in range(130)])
        before = wire.ok("journal.recent")
    with house(tmp_path) as opened:
        wire = opened.connect()
        assert wire.ok("journal.recent") == before
        wire.append(event(new_id()), event(new_id()))
        recent = wire.ok("journal.recent")["events"]
        assert [e["seq"] for e in recent] == list(range(33, 133))
        assert recent == wire.read(after_seq=32)


def test_recent_events_that_are_large_fit_a_frame_and_keep_the_newest(own: House) -> None:
    wire = own.connect()
    for _ in range(4):
        wire.append(*[event(new_id(), payload={"t": "x" * 250_000}) for _ in range(10)])
    request_id = wire.send("journal.recent")
    frame = wire.receive_frame()
    assert len(frame) <= FRAME_BYTES_MAX
    assert request_id is not None
    recent = [e["seq"] for e in wire.ok("journal.recent")["events"]]
    assert recent == list(range(41 - len(recent), 41))
    assert len(recent) >= 10


def test_the_head_is_the_last_event(wire: Wire, model: Model) -> None:
    (result,) = wire.append(event(next(iter(model.sessions))))
    assert wire.head() == (result["seq"], result["hash"])
    assert wire.read_all(after_seq=result["seq"] - 1)[0]["hash"] == result["hash"]
    assert pack(wire.ok("journal.head")) == pack({"seq": result["seq"], "hash": result["hash"]})
