"""Who is awake: at most so many, the longest unused first, and nobody forgets anything."""

import gc
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors.session import SessionActor
from palyra_actors.api.events import new_id
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import NO_BUDGET, event, eventually, house

TWO = NO_BUDGET.replaced("actors", resident_max=2)


def test_never_more_than_allowed_are_awake_and_all_keep_their_numbers(tmp_path: Path) -> None:
    sessions = [new_id() for _ in range(12)]
    chance = random.Random(3)
    expected = dict.fromkeys(sessions, 0)
    with house(tmp_path, TWO) as opened:
        wire = opened.connect()
        for _ in range(120):
            session = chance.choice(sessions)
            body = {"events": [event(session)], "expected_session_seq": expected[session]}
            (result,) = wire.ok("journal.append", body)["results"]
            expected[session] += 1
            assert result["session_seq"] == expected[session]
            assert wire.ok("engine.stats")["actors"]["resident"] <= 2
        actors = wire.ok("engine.stats")["actors"]
        assert actors["passivated"] == actors["activated"] - 2


@pytest.fixture
def no_collector() -> Iterator[None]:
    """An engine as a process looks for cycles so seldom that they are as good as never freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def sessions_in_memory() -> int:
    return sum(type(one) is SessionActor for one in gc.get_objects())


def test_a_session_that_was_let_go_is_gone_without_the_collector(
    tmp_path: Path, no_collector: None
) -> None:
    before = sessions_in_memory()
    with house(tmp_path, TWO) as opened:
        wire = opened.connect()
        for _ in range(40):
            wire.append(event(new_id()))
        assert wire.ok("engine.stats")["actors"]["passivated"] == 38
        assert sessions_in_memory() - before <= 3  # the last one's answer may be on its way


def test_what_finds_no_room_among_the_awake_is_gone_without_the_collector(
    tmp_path: Path, no_collector: None
) -> None:
    before = sessions_in_memory()
    three = NO_BUDGET.replaced("actors", resident_max=3)
    with house(tmp_path, three) as opened:
        wire = opened.connect()
        bodies = [{"events": [event(new_id()), event(new_id())]} for _ in range(200)]
        sent = {wire.send("journal.append", body) for body in bodies}
        replies = [wire.receive() for _ in sent]
        assert any(reply.get("err", {}).get("code") == "overloaded" for reply in replies)
        wire.append(event(new_id()))
        assert sessions_in_memory() - before <= 4


def test_a_session_that_was_let_go_knows_its_runs_when_it_wakes(tmp_path: Path) -> None:
    with house(tmp_path, TWO) as opened:
        wire = opened.connect()
        session, ended, open_run = new_id(), new_id(), new_id()
        wire.append(
            event(session, run_id=ended),
            event(session, run_id=open_run),
            event(session, run_id=ended, kind="run_completed"),
        )
        wire.append(event(new_id()))
        wire.append(event(new_id()))
        assert wire.ok("engine.stats")["actors"]["passivated"] >= 1
        error = wire.refuse(event(session, run_id=ended, kind="run_failed"))
        assert error["code"] == "invalid_transition"
        (result,) = wire.append(event(session, run_id=open_run, kind="run_failed"))
        assert result["session_seq"] == 4


def test_a_request_for_more_sessions_than_may_be_awake_is_too_large_and_harms_none(
    tmp_path: Path,
) -> None:
    with house(tmp_path, TWO) as opened:
        wire = opened.connect()
        sessions = [new_id() for _ in range(3)]
        wire.append(event(sessions[0]))
        error = wire.refuse(*[event(session) for session in sessions])
        assert error["code"] == "too_large"
        assert error["detail"] == {"limit": 2, "actual": 3}
        for session, number in zip(sessions, (2, 1, 1), strict=True):
            assert wire.append(event(session))[0]["session_seq"] == number


def test_requests_in_flight_for_more_sessions_than_may_be_awake_keep_every_number(
    tmp_path: Path,
) -> None:
    """What is refused as overloaded is sent again, with the same ids, until it is stored."""
    sessions = [new_id() for _ in range(6)]
    with house(tmp_path, TWO) as opened:
        wire = opened.connect()
        waiting: list[dict[str, Any]] = [
            {"events": [event(sessions[(n * 5 + k) % 6]) for k in range(1 + n % 2)]}
            for n in range(60)
        ]
        rounds = 0
        while waiting:
            rounds += 1
            assert rounds < 1000
            sent = {wire.send("journal.append", body): body for body in waiting}
            replies = [wire.receive() for _ in sent]
            waiting = [sent[reply["id"]] for reply in replies if "err" in reply]
            assert {r["err"]["code"] for r in replies if "err" in r} <= {"overloaded"}
        stored = wire.read()
        assert len(stored) == 90
        for session in sessions:
            numbers = [e["stream_seq"] for e in stored if e["session_id"] == session]
            assert numbers == list(range(1, len(numbers) + 1))
        assert wire.ok("journal.verify")["valid"] is True


def test_a_session_that_a_request_has_just_woken_makes_no_room_for_another_of_it(
    tmp_path: Path,
) -> None:
    with house(tmp_path, TWO) as opened:
        wire = opened.connect()
        for _ in range(20):
            busy, first, second = (new_id() for _ in range(3))
            sent = []
            for sessions in ([busy], [first, second], *[[first]] * 8, [second, first]):
                body = {"events": [event(session) for session in sessions]}
                sent += [wire.send("journal.append", body), wire.send("engine.health")]
            replies = {reply["id"]: reply for reply in (wire.receive() for _ in sent)}
            assert "ok" in replies[sent[0]]
            errors = [reply["err"]["code"] for reply in replies.values() if "err" in reply]
            assert set(errors) <= {"overloaded"}
        numbers: dict[str, list[int]] = {}
        for stored in wire.read_all():
            numbers.setdefault(stored["session_id"], []).append(stored["stream_seq"])
        assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


@pytest.mark.parametrize("writes", [1, 3])
def test_idle_sessions_are_let_go_after_a_while_and_those_in_use_are_not(
    tmp_path: Path, clock: ManualClock, writes: int
) -> None:
    config = NO_BUDGET.replaced("actors", idle_seconds=60.0)
    with house(tmp_path, config, clock=clock) as opened:
        wire = opened.connect()
        used, unused = new_id(), [new_id() for _ in range(3)]
        for session in unused:
            wire.append(event(session))
        for number in range(writes * 2):
            wire.append(event(used))
            for _ in range(15):
                clock.turn(1000)
                wire.ok("journal.head")
            if number < 2:
                assert wire.ok("engine.stats")["actors"]["passivated"] == 0

        def turned(stats: dict[str, Any]) -> bool:
            clock.turn(1000)
            wire.append(event(used))
            return bool(stats["actors"]["resident"] == 1)

        stats = eventually(wire, turned)
        assert stats["actors"]["passivated"] == 3
        assert wire.append(event(unused[0]))[0]["session_seq"] == 2
