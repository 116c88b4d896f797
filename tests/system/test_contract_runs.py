"""Runs, as far as events make and end them."""

from pathlib import Path

import pytest

from palyra_actors.api.events import new_id
from tests.system.harness import House, Wire, event, house

ENDS = {"run_completed": "done", "run_failed": "failed"}


def _ended(wire: Wire, kind: str) -> tuple[str, str]:
    session, run = new_id(), new_id()
    wire.append(event(session, run_id=run), event(session, run_id=run, kind=kind))
    return session, run


@pytest.mark.parametrize(("kind", "other"), [tuple(ENDS), tuple(ENDS)[::-1]])
def test_nothing_leads_from_one_final_state_to_another(wire: Wire, kind: str, other: str) -> None:
    session, run = _ended(wire, kind)
    error = wire.refuse(event(session), event(session, run_id=run, kind=other))
    assert (error["code"], error["field"]) == ("invalid_transition", "events[1].kind")
    assert error["detail"] == {"from": ENDS[kind], "to": ENDS[other]}


def test_a_run_cannot_be_ended_in_two_ways_by_one_request(wire: Wire) -> None:
    session, run = new_id(), new_id()
    error = wire.refuse(*[event(session, run_id=run, kind=kind) for kind in ENDS])
    assert (error["code"], error["field"]) == ("invalid_transition", "events[1].kind")


def test_the_field_of_a_refusal_counts_in_the_whole_request(wire: Wire) -> None:
    session, run = _ended(wire, "run_failed")
    error = wire.refuse(
        event(new_id()),
        event(session),
        event(new_id()),
        event(session, run_id=run, kind="run_completed"),
    )
    assert (error["code"], error["field"]) == ("invalid_transition", "events[3].kind")


def test_a_run_that_is_ended_stays_ended_after_a_restart(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        session, run = _ended(opened.connect(), "run_completed")
    with house(tmp_path) as opened:
        wire = opened.connect()
        error = wire.refuse(event(session, run_id=run, kind="run_failed"))
        assert error["code"] == "invalid_transition"


def test_a_run_is_found_by_its_id_alone(wire: Wire) -> None:
    session, run = new_id(), new_id()
    wire.append(event(session), event(session, run_id=run), event(session, run_id=run))
    assert [e["stream_seq"] for e in wire.read(run_id=run)] == [2, 3]


def test_a_run_of_another_session_is_invalid(wire: Wire) -> None:
    run = new_id()
    wire.append(event(new_id(), run_id=run))
    error = wire.refuse(event(new_id()), event(new_id(), run_id=run))
    assert (error["code"], error["field"]) == ("invalid", "events[1].run_id")


def test_one_run_cannot_begin_in_two_sessions_at_once(wire: Wire) -> None:
    run = new_id()
    error = wire.refuse(event(new_id(), run_id=run), event(new_id(), run_id=run))
    assert error["code"] == "invalid"
    assert error["field"].endswith("run_id")


def test_of_two_sessions_in_flight_that_begin_one_run_the_first_has_it(wire: Wire) -> None:
    for _ in range(20):
        run = new_id()
        first, second = (
            wire.send("journal.append", {"events": [event(new_id(), run_id=run)]}) for _ in "ab"
        )
        replies = {reply["id"]: reply for reply in (wire.receive(), wire.receive())}
        won = [i for i in (first, second) if "ok" in replies[i]]
        assert len(won) == 1
        (lost,) = {first, second} - set(won)
        assert replies[lost]["err"]["code"] == "invalid"


def test_more_runs_than_a_session_remembers_are_all_known(own: House) -> None:
    wire = own.connect()
    session = new_id()
    runs = [new_id() for _ in range(600)]
    for start in range(0, 600, 200):
        wire.append(*[event(session, run_id=run) for run in runs[start : start + 200]])
    for start in range(0, 600, 150):
        some = runs[start : start + 150]
        wire.append(*[event(session, run_id=run, kind="run_failed") for run in some])
    for run in runs[::50]:
        error = wire.refuse(event(session, run_id=run, kind="run_completed"))
        assert error["code"] == "invalid_transition"
