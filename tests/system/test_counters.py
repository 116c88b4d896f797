"""received = ok + refused + unknown + closed at rest, whatever was asked, and whoever went away."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.errors import PalyraError
from tests.figures import Tell
from tests.system.harness import NO_BUDGET, House, Reply, Wire, event, eventually, house, pack

Session = str
OUTCOMES = ("ok", "refused", "unknown", "closed")


def at_rest(wire: Wire, end_streams: Callable[[], None] = lambda: None) -> Reply:
    """The counters once nothing but the question for them is under way."""

    def balanced(stats: Reply) -> bool:
        end_streams()  # also those that are begun only now
        counted = stats["requests"]
        answered = sum(counted[what] for what in OUTCOMES)
        assert answered < counted["received"], "more was answered than asked"
        return bool(counted["received"] - 1 == answered)

    return eventually(wire, balanced)


def some_request(rnd: random.Random, sessions: list[Session]) -> tuple[str, dict[str, Any]]:
    """A request of any kind: good, wrong, a read, a write, a stream, a question."""
    session = rnd.choice(sessions)
    many = [event(rnd.choice(sessions)) for _ in range(rnd.choice((1, 1, 1, 3, 40)))]
    choices: list[tuple[str, dict[str, Any]]] = [
        ("journal.append", {"events": many}),
        ("journal.append", {"events": many}),
        ("journal.append", {"events": [event(session)], "expected_session_seq": 10**6}),
        ("journal.append", {"events": [event("no id")]}),
        ("journal.append", {"events": []}),
        ("journal.read", {"session_id": session, "limit": 3}),
        ("journal.read", {"limit": 0}),
        ("journal.head", {}),
        ("journal.verify", {}),
        ("journal.subscribe", {"credit": 2, "after_seq": 0}),
        ("journal.unsubscribe", {"sub": 3}),
        ("journal.credit", {"sub": 3, "credit": 1}),
        ("engine.health", {}),
        ("session.resolve", {"session_key": f"k{rnd.randrange(3)}"}),
        ("session.get", {"session_id": new_id()}),
        ("run.start", {"run_id": new_id(), "session_id": session}),
        ("no.such", {}),
    ]
    return rnd.choice(choices)


def traffic(home: House, rnd: random.Random, rounds: int) -> None:
    """Connections that come, ask without waiting, and leave at any moment."""
    sessions = [new_id() for _ in range(5)]
    for _ in range(rounds):
        wire = home.connect(delimiter=rnd.random() < 0.3)
        for _ in range(rnd.randrange(1, 30)):
            op, body = some_request(rnd, sessions)
            envelope: dict[str, Any] = rnd.choice(
                ({}, {}, {"budget_ms": 0}, {"v": 2}, {"budget_ms": "soon"}, {"principal": "other"})
            )
            if rnd.random() < 0.1:
                wire.send_frame(rnd.choice((b"", b"\xc1", pack([1]), pack({"v": 1}))))
            wire.send(op, body, **envelope)
        if rnd.random() < 0.2:
            wire.send_parts(b"two", b"parts")  # answered without the empty frame of REQ
        for _ in range(rnd.randrange(0, 8)):
            if wire.socket.poll(0):
                wire.socket.recv_multipart()
        if rnd.random() < 0.7:
            wire.close()


def test_every_request_is_counted_once_whoever_asked_and_whoever_left(
    tmp_path: Path, campaign: bool, figure: Tell
) -> None:
    for seed in range(20 if campaign else 4):
        with house(tmp_path / str(seed), NO_BUDGET) as home:
            traffic(home, random.Random(seed), 40)
            watcher = home.connect()
            counted = at_rest(watcher, lambda home=home: end_streams(home))  # type: ignore[misc]
            answered = sum(counted["requests"][what] for what in OUTCOMES)
            received = counted["requests"]["received"] - 1  # the question for it is under way
            figure(8, "requests of any kind", received)
            figure(8, "without an answer", home.engine._works.tally.under_way, most=0)
            figure(29, "requests counted", received)
            figure(29, "off by", abs(received - answered), most=0)
            assert counted["requests"]["ok"] > 20
            assert counted["requests"]["refused"] > 20
            assert counted["appends"]["acked"] > 0
            assert home.engine._works.tally.under_way == 0


def end_streams(home: House) -> None:
    """What connections that are gone or idle still follow, which is under way for ever."""
    works = home.engine._works
    works.loop.call_soon(lambda: works.feed.end_all(PalyraError("the test is over")))


def test_a_stream_whose_connection_is_gone_is_closed_and_counted(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        gone, other = home.connect(), home.connect()
        gone.send("journal.subscribe", {"credit": 1_000})
        eventually(other, lambda stats: bool(stats["subscriptions"] == 1))
        gone.socket.setsockopt(zmq.LINGER, 0)
        gone.close()
        other.append(event(new_id()))  # the next thing that would be sent to it
        eventually(other, lambda stats: bool(stats["requests"]["closed"] == 1))
        at_rest(other)


def test_what_a_connection_had_in_the_lobby_when_it_left_is_closed_or_answered(
    tmp_path: Path,
) -> None:
    config = Config().replaced("budget", write_ms=400)
    with house(tmp_path, config) as home:
        gone, other = home.connect(), home.connect()
        session, text = new_id(), {"text": "x" * 8_000}
        for _ in range(400):
            gone.send("journal.append", {"events": [event(session, payload=text)]}, budget_ms=0)
        gone.close()
        counted = at_rest(other)["requests"]
        assert counted["unknown"] == 0
