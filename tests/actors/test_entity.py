"""A session that fails: who is answered, what is stored, and how it comes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import appends
from palyra_actors.actors.session import SessionActor
from palyra_actors.api.events import new_id
from palyra_actors.config import ActorsConfig, Config
from palyra_actors.domain import session as domain
from palyra_actors.domain.session import Append
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import NO_BUDGET, House, Wire, event, eventually, house

POISON = {"poison": "x"}


@pytest.fixture
def own(tmp_path: Path) -> Any:
    with house(tmp_path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def poisonous(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision about an event that says `poison` raises what no decision should."""
    decide: Callable[[Any, Any], Any] = domain.appended

    def poisoned(state: Any, command: Any) -> Any:
        if isinstance(command, Append) and any(b"poison" in d.payload for d in command.drafts):
            raise RuntimeError("a fault of ours")
        return decide(state, command)

    monkeypatch.setattr(domain, "appended", poisoned)
    monkeypatch.setattr(appends, "compiled", None)
    monkeypatch.setattr(SessionActor, "_goes_on", lambda *_: False)


def _poison(wire: Wire, *events: dict[str, Any]) -> dict[str, Any]:
    return wire.refuse(*events)


def test_a_session_that_fails_answers_internal_and_nothing_is_stored(own: House) -> None:
    wire = own.connect()
    error = _poison(wire, event(new_id(), payload=POISON))
    assert error["code"] == "internal"
    assert error["retryable"] is True
    assert error["detail"]["outcome"] == "none"


def test_a_session_that_failed_comes_back_equal_from_the_journal(own: House) -> None:
    wire = own.connect()
    session, run = new_id(), new_id()
    wire.append(event(session, run_id=run), event(session, run_id=run, kind="run_failed"))
    for _ in range(3):
        _poison(wire, event(session, payload=POISON))
    assert wire.append(event(session), expected_session_seq=2)[0]["session_seq"] == 3
    error = wire.refuse(event(session, run_id=run, kind="run_completed"))
    assert error["code"] == "invalid_transition"
    assert wire.ok("engine.stats")["actors"]["restarted"] == 3


def test_other_sessions_do_not_notice(own: House) -> None:
    wire = own.connect()
    failing, others = new_id(), [new_id() for _ in range(3)]
    sent = []
    for number in range(40):
        sent.append(wire.send("journal.append", {"events": [event(others[number % 3])]}))
        if number % 13 == 5:
            wire.send(
                "journal.append", {"events": [event(failing, payload=POISON)]}, id=f"p{number}"
            )
    replies = {reply["id"]: reply for reply in (wire.receive() for _ in range(43))}
    assert all("ok" in replies[request_id] for request_id in sent)
    assert all(replies[i]["err"]["code"] == "internal" for i in replies if isinstance(i, str))


def test_requests_before_and_behind_the_one_that_fails_are_stored_in_order(own: House) -> None:
    wire = own.connect()
    session = new_id()
    sent = {}
    for number in range(60):
        bad = number % 25 == 20
        body = {"events": [event(session, payload=POISON if bad else {"n": number})]}
        sent[wire.send("journal.append", body)] = bad
    replies = {reply["id"]: reply for reply in (wire.receive() for _ in sent)}
    for request_id, bad in sent.items():
        assert ("err" in replies[request_id]) is bad
    stored = wire.read(session_id=session)
    assert [e["stream_seq"] for e in stored] == list(range(1, 59))
    assert [e["payload"]["n"] for e in stored] == [n for n in range(60) if n % 25 != 20]


def test_a_request_of_several_sessions_fails_whole_and_holds_none_of_them_up(own: House) -> None:
    wire = own.connect()
    first, second, third = new_id(), new_id(), new_id()
    for number in range(3):
        good = [wire.send("journal.append", {"events": [event(s)]}) for s in (first, third)]
        bad = wire.send(
            "journal.append",
            {"events": [event(first), event(second, payload=POISON), event(third)]},
        )
        good += [
            wire.send("journal.append", {"events": [event(s)]}) for s in (first, second, third)
        ]
        replies = {reply["id"]: reply for reply in (wire.receive() for _ in range(6))}
        assert replies[bad]["err"]["code"] == "internal"
        assert [replies[i]["ok"]["results"][0]["session_seq"] for i in good] == [
            number * 2 + 1, number * 2 + 1, number * 2 + 2, number + 1, number * 2 + 2,
        ]  # fmt: skip


def test_a_session_that_fails_too_often_is_left_alone_for_a_while(
    tmp_path: Path, clock: ManualClock
) -> None:
    config = NO_BUDGET.replaced("actors", restarts_max=2, restart_window_seconds=60.0)
    with house(tmp_path / "alone", config, clock=clock) as own:
        wire = own.connect()
        session = new_id()
        wire.append(event(session))
        for _ in range(3):
            clock.turn(10)
            _poison(wire, event(session, payload=POISON))
            clock.turn(1000)
        error = wire.refuse(event(session))
        assert error["code"] == "internal"
        assert error["detail"]["outcome"] == "none"
        assert wire.append(event(new_id()))[0]["session_seq"] == 1
        assert wire.ok("engine.health")["status"] == "degraded"
        clock.turn(61_000)
        assert wire.append(event(session))[0]["session_seq"] == 2


def test_everything_is_accounted_for_after_failures(own: House) -> None:
    wire = own.connect()
    for _ in range(5):
        _poison(wire, event(new_id(), payload=POISON), event(new_id()))
    eventually(
        wire,
        lambda s: (
            s["requests"]["received"] - 1
            == sum(s["requests"][key] for key in ("ok", "refused", "unknown", "closed"))
        ),
    )
    assert wire.ok("journal.verify")["valid"] is True


def test_a_request_that_one_full_mailbox_refuses_holds_no_other_session(tmp_path: Path) -> None:
    config = Config(
        actors=ActorsConfig(mailbox_messages_max=1, turn_messages_max=1, restart_backoff_ms=5_000)
    )
    down, busy, free = new_id(), new_id(), new_id()
    with house(tmp_path, config) as opened:
        wire = opened.connect()
        _poison(wire, event(down, payload=POISON))  # it waits for its back-off
        wire.send("journal.append", {"events": [event(busy), event(down)]})  # busy waits for it
        wire.send("journal.append", {"events": [event(busy)]})  # and its mailbox is full
        refused = wire.call("journal.append", {"events": [event(free), event(busy)]})
        assert refused["err"]["code"] == "overloaded"
        answer = wire.call("journal.append", {"events": [event(free)]})
    assert answer["ok"]["results"][0]["session_seq"] == 1
