"""Section 4 of the contract: one id, one event, for ever; also across restarts."""

from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from tests.figures import Tell
from tests.system.harness import House, Wire, event, house, pack


def _again(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**result, "duplicate": True} for result in results]


def test_the_same_event_again_gets_the_first_answer_again(wire: Wire) -> None:
    sent = event(new_id(), run_id=new_id())
    first = wire.append(sent)
    wire.append(event(sent["session_id"]))
    head = wire.head()
    for _ in range(3):
        assert wire.append(sent) == _again(first)
    assert wire.head() == head


def test_a_whole_request_again_gets_the_first_answers_again_in_order(wire: Wire) -> None:
    sessions = [new_id(), new_id()]
    sent = [event(sessions[n % 2], payload={"n": n}) for n in range(20)]
    first = wire.append(*sent)
    assert wire.append(*sent) == _again(first)
    assert wire.append(*reversed(sent)) == _again(first)[::-1]


def test_the_same_data_with_its_keys_in_another_order_is_the_same_event(wire: Wire) -> None:
    sent = event(new_id(), payload={"a": 1, "b": {"c": 2, "d": 3}})
    first = wire.append(sent)
    again = {**sent, "payload": {"b": {"d": 3, "c": 2}, "a": 1}}
    assert wire.append(dict(reversed(again.items()))) == _again(first)
    stored = wire.read(session_id=sent["session_id"], raw=True)
    assert [e["payload"] for e in stored] == [pack(sent["payload"])]


def test_a_redacted_event_again_is_the_same_event(wire: Wire) -> None:
    sent = event(new_id(), payload={"password": "tiger99"})
    first = wire.append(sent)
    assert first[0]["redacted"] is True
    assert wire.append(sent) == _again(first)


def test_a_request_of_which_some_is_stored_stores_the_rest(wire: Wire) -> None:
    session, other = new_id(), new_id()
    known = [event(session), event(other)]
    first = wire.append(*known)
    new = [event(session), event(other), event(session)]
    mixed = wire.append(new[0], known[1], new[1], known[0], new[2])
    assert [r["duplicate"] for r in mixed] == [False, True, False, True, False]
    assert [mixed[1], mixed[3]] == _again([first[1], first[0]])
    assert [mixed[n]["seq"] - first[1]["seq"] for n in (0, 2, 4)] == [1, 2, 3]
    assert [mixed[n]["session_seq"] for n in (0, 2, 4)] == [2, 2, 3]


def test_an_event_twice_in_one_request_is_stored_once(wire: Wire) -> None:
    session = new_id()
    twice = event(session, payload={"a": 1, "b": 2})
    other = event(session)
    again = {**twice, "payload": {"b": 2, "a": 1}}
    results = wire.append(twice, other, again, twice)
    assert [r["duplicate"] for r in results] == [False, False, True, True]
    assert [r["session_seq"] for r in results] == [1, 2, 1, 1]
    assert results[2] == results[3] == _again(results)[0]
    assert [e["event_id"] for e in wire.read(session_id=session)] == [
        twice["event_id"], other["event_id"],
    ]  # fmt: skip


CHANGES: dict[str, dict[str, Any]] = {
    "session": {"session_id": new_id()},
    "run": {"run_id": new_id()},
    "no run": {"run_id": None},
    "kind": {"kind": "model_token"},
    "kind of ones own": {"kind": "x.other"},
    "actor": {"actor": "agent"},
    "time": {"ts_ms": 1},
    "payload": {"payload": {"n": 2}},
    "payload, number as float": {"payload": {"n": 1.0}},
    "payload, number as boolean": {"payload": {"n": True}},
    "payload, one key more": {"payload": {"n": 1, "m": None}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_same_id_with_other_content_is_id_reused(wire: Wire, change: dict[str, Any]) -> None:
    sent = event(new_id(), run_id=new_id(), payload={"n": 1})
    first = wire.append(sent)
    error = wire.refuse(event(new_id()), {**sent, **change})
    assert (error["code"], error["field"]) == ("id_reused", "events[1].event_id")
    assert error["retryable"] is False
    assert wire.append(sent) == _again(first)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_one_id_with_two_contents_in_one_request_is_id_reused(
    wire: Wire, change: dict[str, Any]
) -> None:
    sent = event(new_id(), run_id=new_id(), payload={"n": 1})
    error = wire.refuse(sent, event(sent["session_id"]), {**sent, **change})
    assert (error["code"], error["field"]) == ("id_reused", "events[2].event_id")


def test_another_principals_event_is_not_the_same_one(wire: Wire) -> None:
    sent = event(new_id())
    wire.append(sent)
    before = wire.head()
    error = wire.err(
        "journal.append", {"events": [{**sent, "session_id": new_id()}]}, principal="mallory"
    )
    assert error["code"] == "id_reused"
    assert wire.head() == before


def test_a_retry_of_an_append_with_an_expected_sequence_is_no_conflict(wire: Wire) -> None:
    session = new_id()
    wire.append(event(session))
    sent = [event(session), event(session)]
    first = wire.append(*sent, expected_session_seq=1)
    wire.append(event(session))
    assert wire.append(*sent, expected_session_seq=1) == _again(first)


def test_a_retry_of_what_ended_a_run_is_no_second_end(wire: Wire) -> None:
    session, run = new_id(), new_id()
    sent = [event(session, run_id=run), event(session, run_id=run, kind="run_failed")]
    first = wire.append(*sent)
    assert wire.append(*sent) == _again(first)
    assert wire.append(sent[1]) == _again(first[1:])


def test_the_same_request_many_times_in_flight_is_stored_once(wire: Wire, figure: Tell) -> None:
    session, other = new_id(), new_id()
    before = wire.head()[0]
    for _ in range(10):
        sent = [event(session), event(other), event(session)]
        ids = [wire.send("journal.append", {"events": sent}) for _ in range(10)]
        replies = [wire.receive()["ok"]["results"] for _ in ids]
        assert sum(not results[0]["duplicate"] for results in replies) == 1
        assert len({tuple(r["seq"] for r in results) for results in replies}) == 1
    figure(3, "events sent ten times at once", 30)
    figure(3, "stored twice", wire.head()[0] - before - 30, most=0)
    assert wire.head()[0] == before + 30


def test_two_contents_for_one_id_in_flight_store_one_and_refuse_the_other(wire: Wire) -> None:
    for number in range(20):
        first, second = new_id(), new_id()
        one = event(first, payload={"n": 1})
        two = {**one, "session_id": second if number % 2 else first, "payload": {"n": 2}}
        ids = [wire.send("journal.append", {"events": [e]}) for e in (one, two)]
        replies = {reply["id"]: reply for reply in (wire.receive() for _ in ids)}
        assert sorted(k for r in replies.values() for k in r if k in ("ok", "err")) == ["err", "ok"]
        (error,) = [r["err"] for r in replies.values() if "err" in r]
        assert error["code"] == "id_reused"


def test_a_retry_amid_other_requests_disturbs_none_of_them(wire: Wire) -> None:
    sessions = [new_id() for _ in range(3)]
    old = [event(session) for session in sessions]
    wire.append(*old)
    ids, retries = [], []
    for number in range(150):
        if number % 5 == 3:
            retries.append(wire.send("journal.append", {"events": [old[number % 3]]}))
        else:
            ids.append(wire.send("journal.append", {"events": [event(sessions[number % 3])]}))
    replies = {reply["id"]: reply["ok"]["results"][0] for reply in _many(wire, 150)}
    assert all(not replies[i]["duplicate"] for i in ids)
    assert all(replies[i]["duplicate"] and replies[i]["session_seq"] == 1 for i in retries)
    for session in sessions:
        assert [e["stream_seq"] for e in wire.read(session_id=session)] == list(range(1, 42))


def _many(wire: Wire, count: int) -> list[dict[str, Any]]:
    return [wire.receive() for _ in range(count)]


def test_an_id_is_remembered_after_a_restart(tmp_path: Path) -> None:
    session = new_id()
    sent = [event(session, payload={"n": n}) for n in range(5)]
    with house(tmp_path) as opened:
        first = opened.connect().append(*sent)
    with house(tmp_path) as opened:
        wire = opened.connect()
        assert wire.append(*sent) == _again(first)
        error = wire.refuse({**sent[2], "payload": {"n": 9}})
        assert (error["code"], error["field"]) == ("id_reused", "events[0].event_id")
        assert wire.append(event(session))[0]["session_seq"] == 6


def test_a_request_cut_off_before_its_reply_is_answered_when_it_is_sent_again(own: House) -> None:
    session = new_id()
    sent = [event(session) for _ in range(3)]
    lost = own.connect()
    lost.send("journal.append", {"events": sent})
    lost.socket.poll(30_000)
    lost.close()
    wire = own.connect()
    results = wire.append(*sent)
    assert [r["seq"] for r in results] == [1, 2, 3]
    assert all(r["duplicate"] for r in results)
