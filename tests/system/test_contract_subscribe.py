"""`journal.subscribe`: catching up and live, without gap or repeat; credit; every end."""

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq

from palyra_actors.actors import door
from palyra_actors.api.events import new_id
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import NO_BUDGET, House, Wire, event, eventually, house


def _seqs(events: list[dict[str, Any]]) -> list[int]:
    return [e["seq"] for e in events]


def test_without_after_seq_a_stream_begins_with_what_is_written_from_now_on(own: House) -> None:
    wire = own.connect()
    wire.append(event(new_id()), event(new_id()))
    sub = wire.send("journal.subscribe", {"credit": 10})
    wire.ok("journal.head")
    own.connect().append(event(new_id()))
    assert _seqs(wire.items_until(bool, sub)) == [3]


@pytest.mark.parametrize("after_seq", [0, 1, 299, 599, 600])
def test_a_stream_catches_up_from_where_it_was_told_and_goes_on_live(
    own: House, after_seq: int
) -> None:
    wire, writer = own.connect(), own.connect()
    for _ in range(6):
        writer.append(*[event(new_id()) for _ in range(100)])
    sub = wire.send("journal.subscribe", {"credit": 10_000, "after_seq": after_seq})
    heard = wire.items_until(lambda events: len(events) == 600 - after_seq, sub)
    writer.append(event(new_id()))
    heard += wire.items_until(bool, sub)
    assert _seqs(heard) == list(range(after_seq + 1, 602))


def test_a_stream_after_a_number_that_is_not_there_yet_begins_behind_it(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    sub = wire.send("journal.subscribe", {"credit": 10, "after_seq": 3})
    for _ in range(5):
        writer.append(event(new_id()))
    assert _seqs(wire.items_until(lambda events: len(events) == 2, sub)) == [4, 5]


def test_an_item_holds_the_event_as_it_is_read(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    live = wire.send("journal.subscribe", {"credit": 10})
    wire.ok("journal.head")
    writer.append(event(new_id(), run_id=new_id(), kind="x.own", payload={"password": "tiger"}))
    (from_memory,) = wire.items_until(bool, live)
    wire.send("journal.unsubscribe", {"sub": live})
    assert {wire.receive()["id"] for _ in range(2)} == {live, 3}
    caught_up = wire.send("journal.subscribe", {"credit": 10, "after_seq": 0})
    (from_file,) = wire.items_until(bool, caught_up)
    assert [from_memory] == [from_file] == writer.read()


def test_streams_have_no_gap_and_no_repeat_while_writers_append(own: House, campaign: bool) -> None:
    """Subscribers join at random positions while four writers append, with and without filters."""
    rounds = 400 if campaign else 60
    sessions = [new_id() for _ in range(4)]
    done = threading.Event()
    failures: list[BaseException] = []

    def write(number: int) -> None:
        with Wire(own.endpoint) as wire:
            for turn in range(rounds):
                kind = "x.odd" if turn % 2 else "x.even"
                events = [event(sessions[(number + n) % 4], kind=kind) for n in range(1 + turn % 9)]
                wire.append(*events)

    def follow(number: int) -> None:
        try:
            with Wire(own.endpoint) as wire:
                for turn in itertools.count():
                    last = done.is_set()
                    _follow_once(wire, sessions, number + turn)
                    if last:
                        return
        except BaseException as failure:
            failures.append(failure)
            raise

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    followers = [threading.Thread(target=follow, args=(n,)) for n in range(3)]
    for thread in [*writers, *followers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in followers:
        thread.join()
    assert not failures


def _follow_once(wire: Wire, sessions: list[str], turn: int) -> None:
    """Subscribe somewhere, take some events, unsubscribe, and compare with a read."""
    head = wire.head()[0]
    after_seq = head * (turn % 5) // 4
    choices: list[dict[str, Any]] = [
        {},
        {"session_id": sessions[turn % 4]},
        {"kinds": ["x.odd"]},
        {"kinds": ["x.even"], "session_id": sessions[turn % 4]},
    ]
    filters = choices[turn % 4]
    credit = 1 + (turn * 37) % 300
    sub = wire.send("journal.subscribe", {"credit": credit, "after_seq": after_seq, **filters})
    wire.send("engine.health", id="look")
    heard: list[dict[str, Any]] = []
    looks = ended = 0
    while ended < 2:
        reply = wire.receive()
        if reply["id"] == "look":
            looks += 1
            if len(heard) >= min(credit, 5 + turn % 50) or looks > 20:
                wire.send("journal.unsubscribe", {"sub": sub}, id="bye")
            else:
                wire.send("engine.health", id="look")
        elif "ok" in reply:
            ended += 1
        elif "event" in reply["item"]:
            heard.append(reply["item"]["event"])
    assert len(heard) <= credit
    expected = wire.read_all(after_seq=after_seq, **filters) if heard else []
    assert heard == expected[: len(heard)]


# -- filters --------------------------------------------------------------------------------------


def test_filters_hold_from_the_file_and_live(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    session, other = new_id(), new_id()
    body = {"credit": 1000, "after_seq": 0, "session_id": session, "kinds": ["x.a", "x.b"]}
    expected = []

    def write() -> None:
        for number in range(60):
            (result,) = writer.append(
                event((session, other)[number % 2], kind=("x.a", "x.c", "x.b")[number % 3])
            )
            if number % 2 == 0 and number % 3 != 1:
                expected.append(result["seq"])

    write()
    sub = wire.send("journal.subscribe", body)
    write()
    heard = wire.items_until(lambda events: len(events) == len(expected), sub)
    assert _seqs(heard) == expected


def test_a_session_that_is_not_there_yet_is_heard_of_from_its_first_event(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    session = new_id()
    writer.append(event(new_id()))
    sub = wire.send("journal.subscribe", {"credit": 9, "after_seq": 0, "session_id": session})
    writer.append(event(new_id()))
    writer.append(event(session))
    assert _seqs(wire.items_until(bool, sub)) == [3]


# -- credit ---------------------------------------------------------------------------------------


def test_at_zero_credit_a_stream_pauses_exactly_and_goes_on_from_where_it_stopped(
    own: House,
) -> None:
    wire, writer = own.connect(), own.connect()
    writer.append(*[event(new_id()) for _ in range(20)])
    sub = wire.send("journal.subscribe", {"credit": 7, "after_seq": 0})
    heard = wire.items_until(lambda events: len(events) == 7, sub)
    for credit in (1, 3, 2):
        for _ in range(3):
            writer.append(event(new_id()), event(new_id()))
            wire.quiet()
        wire.send("journal.credit", {"sub": sub, "credit": credit}, id="c")
        replies = [wire.receive() for _ in range(credit + 1)]
        assert [r for r in replies if r["id"] == "c"] == [{"v": 1, "id": "c", "ok": {}}]
        heard += [r["item"]["event"] for r in replies if "item" in r]
        wire.quiet()
    assert _seqs(heard) == list(range(1, 14))


def test_a_stream_that_paused_live_goes_on_without_gap_or_repeat(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    sub = wire.send("journal.subscribe", {"credit": 3})
    wire.ok("journal.head")
    writer.append(*[event(new_id()) for _ in range(5)])
    heard = wire.items_until(lambda events: len(events) == 3, sub)
    wire.quiet()
    writer.append(event(new_id()))
    wire.send("journal.credit", {"sub": sub, "credit": 10}, id="c")
    replies = [wire.receive() for _ in range(4)]
    heard += [r["item"]["event"] for r in replies if "item" in r]
    writer.append(event(new_id()))
    heard += wire.items_until(bool, sub)
    assert _seqs(heard) == list(range(1, 8))


def test_events_that_do_not_match_cost_no_credit(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    sub = wire.send("journal.subscribe", {"credit": 2, "after_seq": 0, "kinds": ["x.a"]})
    for kind in ("x.b", "x.a", "x.b", "x.b", "x.a"):
        writer.append(event(new_id(), kind=kind))
    assert _seqs(wire.items_until(lambda events: len(events) == 2, sub)) == [2, 5]


def test_more_credit_than_a_stream_may_hold_is_invalid(own: House) -> None:
    wire = own.connect()
    sub = wire.send("journal.subscribe", {"credit": 10_000})
    error = wire.err("journal.credit", {"sub": sub, "credit": 1})
    assert (error["code"], error["field"]) == ("invalid", "credit")


# -- its end --------------------------------------------------------------------------------------


def test_a_stream_that_is_unsubscribed_ends_with_its_ok_and_nothing_after(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    sub = wire.send("journal.subscribe", {"credit": 100, "after_seq": 0})
    bye = wire.send("journal.unsubscribe", {"sub": sub})
    replies = {reply["id"]: reply for reply in (wire.receive(), wire.receive())}
    assert replies == {n: {"v": 1, "id": n, "ok": {}} for n in (sub, bye)}
    writer.append(event(new_id()))
    wire.quiet()
    again = wire.err("journal.unsubscribe", {"sub": sub})
    assert (again["code"], again["field"]) == ("not_found", "sub")


@pytest.mark.parametrize("op", ["journal.credit", "journal.unsubscribe"])
def test_a_stream_that_is_not_there_is_not_found(own: House, op: str) -> None:
    wire = own.connect()
    body: dict[str, Any] = {"credit": 1} if op == "journal.credit" else {}
    error = wire.err(op, {**body, "sub": "no such"})
    assert (error["code"], error["field"]) == ("not_found", "sub")


def test_another_connections_stream_is_not_found(own: House) -> None:
    wire, other = own.connect(), own.connect()
    wire.send("journal.subscribe", {"credit": 1}, id="mine")
    wire.ok("journal.head")
    assert other.err("journal.unsubscribe", {"sub": "mine"})["code"] == "not_found"
    other.append(event(new_id()))
    assert _seqs(wire.items_until(bool, "mine")) == [1]


def test_a_second_stream_of_the_same_id_is_refused_and_the_first_goes_on(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    wire.send("journal.subscribe", {"credit": 5}, id="s")
    wire.send("journal.subscribe", {"credit": 5}, id="s")
    error = wire.receive()["err"]
    assert (error["code"], error["field"]) == ("invalid", "id")
    writer.append(event(new_id()))
    assert _seqs(wire.items_until(bool, "s")) == [1]
    wire.quiet()


def test_two_streams_of_one_connection_are_told_apart_by_their_ids(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    wire.send("journal.subscribe", {"credit": 9, "kinds": ["x.a"]}, id=1000)
    wire.send("journal.subscribe", {"credit": 9, "kinds": ["x.b"]}, id="1000")
    wire.ok("journal.head")
    for kind in ("x.a", "x.b", "x.b", "x.a"):
        writer.append(event(new_id(), kind=kind))
    heard: dict[Any, list[int]] = {1000: [], "1000": []}
    for _ in range(4):
        reply = wire.receive()
        heard[reply["id"]].append(reply["item"]["event"]["seq"])
    assert heard == {1000: [1, 4], "1000": [2, 3]}


def test_a_connection_holds_64_streams_and_not_one_more(own: House) -> None:
    wire = own.connect()
    subs = [wire.send("journal.subscribe", {"credit": 1}) for _ in range(64)]
    error = wire.err("journal.subscribe", {"credit": 1})
    assert error["code"] == "limit_reached"
    wire.send("journal.unsubscribe", {"sub": subs[0]})
    assert {wire.receive()["id"] for _ in range(2)} == {subs[0], subs[-1] + 2}
    wire.send("journal.subscribe", {"credit": 1})
    wire.quiet()


def test_heads_come_to_every_stream_within_five_seconds_also_without_credit(
    tmp_path: Path, clock: ManualClock
) -> None:
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire, writer = opened.connect(), opened.connect()
        subs = {
            wire.send("journal.subscribe", {"credit": 1, "after_seq": 0}),
            wire.send("journal.subscribe", {"credit": 5, "kinds": ["x.never"]}),
        }
        (first, second) = writer.append(event(new_id()), event(new_id()))
        assert wire.receive()["item"]["event"]["seq"] == first["seq"]
        wire.quiet()
        for _ in range(3):
            clock.turn(5_000)
            replies = [wire.receive() for _ in range(2)]
            assert {reply["id"] for reply in replies} == subs
            for reply in replies:
                assert reply["item"] == {"head": {"seq": second["seq"], "hash": second["hash"]}}
            wire.quiet()


# -- peers that vanish, and peers that do not read ------------------------------------------------


def test_a_peer_that_vanishes_takes_its_streams_with_it_and_nothing_else(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    sub = wire.send("journal.subscribe", {"credit": 1000})
    for _ in range(10):
        with Wire(own.endpoint) as passing:
            passing.send("journal.subscribe", {"credit": 1000, "after_seq": 0})
            passing.receive() if writer.head()[0] else passing.quiet()
        writer.append(event(new_id()))
    assert _seqs(wire.items_until(lambda events: len(events) == 10, sub)) == list(range(1, 11))


def test_a_reader_that_keeps_reading_gets_a_journal_larger_than_any_buffer(own: House) -> None:
    wire, writer = own.connect(), own.connect()
    _large(writer, 140)
    sub = wire.send("journal.subscribe", {"credit": 10_000, "after_seq": 0})

    def all_or_a_gap(events: list[dict[str, Any]]) -> bool:
        return len(events) == 140 or _seqs(events) != list(range(1, len(events) + 1))

    assert _seqs(wire.items_until(all_or_a_gap, sub)) == list(range(1, 141))


def _large(writer: Wire, count: int) -> None:
    """A quarter of a megabyte an event, ten a request."""
    for _ in range(count // 10):
        writer.append(*[event(new_id(), payload={"t": "x" * 250_000}) for _ in range(10)])


class Deaf(Wire):
    """A connection that takes next to nothing that it is not asked to receive."""

    def __init__(self, endpoint: str, **options: Any) -> None:
        super().__init__(endpoint, RCVHWM=1, RCVBUF=4096, **options)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close()
        super().close()

    def read_until_closed(self) -> list[dict[str, Any]]:
        """What it gets before its connection is closed, which libzmq notices when it reads."""
        replies = []
        while not self._monitor.poll(0):
            if self.socket.poll(100):
                replies.append(self.receive())
        return replies


def test_a_peer_that_takes_no_replies_is_cut_and_others_live_on(own: House) -> None:
    writer, reader = own.connect(), own.connect()
    _large(writer, 100)
    sub = reader.send("journal.subscribe", {"credit": 100})
    reader.ok("journal.head")
    deaf = Deaf(own.endpoint)
    deaf.ok("journal.head")
    for number in range(60):
        deaf.send("journal.read", {"limit": 20}, id=f"r{number}")
    eventually(writer, lambda stats: stats["subscriptions"] == 1 and stats["peers"] == 2)
    (result,) = writer.append(event(new_id()))
    assert _seqs(reader.items_until(bool, sub)) == [result["seq"]]
    assert len(deaf.read_until_closed()) < 60
    deaf.close()


def test_where_all_connections_are_busy_one_more_is_refused_and_none_is_cut(
    tmp_path: Path,
) -> None:
    with house(tmp_path, NO_BUDGET.replaced("door", peers_max=2)) as opened:
        busy = [opened.connect() for _ in range(2)]
        subs = [wire.send("journal.subscribe", {"credit": 1}) for wire in busy]
        for wire in busy:
            wire.quiet()
        late = opened.connect()
        late.send("journal.head")
        reply = late.receive()
        error = reply["err"]
        assert (reply["id"], error["code"], error["detail"]["limit"]) == (None, "overloaded", 2)
        assert error["retry_after_ms"] > 0
        ended = busy[0].send("journal.unsubscribe", {"sub": subs[0]})
        assert {busy[0].receive()["id"] for _ in range(2)} == {subs[0], ended}
        late.ok("journal.head")
        busy[1].quiet()


def test_a_subscriber_that_never_reads_holds_up_nobody_and_is_cut_in_the_end(
    own: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "STUCK_S_MAX", 2.0)
    writer, reader = own.connect(), own.connect()
    with Deaf(own.endpoint) as deaf:
        deaf.send("journal.subscribe", {"credit": 10_000, "after_seq": 0})
        sub = reader.send("journal.subscribe", {"credit": 10_000, "after_seq": 0})
        eventually(writer, lambda stats: stats["subscriptions"] == 2)
        _large(writer, 100)
        heard = reader.items_until(lambda events: len(events) == 100, sub)
        assert _seqs(heard) == list(range(1, 101))
        eventually(writer, lambda stats: stats["subscriptions"] == 1 and stats["peers"] == 2)
        writer.append(event(new_id()))
        assert reader.items_until(bool, sub)[0]["seq"] == 101
        items = [reply["item"] for reply in deaf.read_until_closed()]
        heard = [item["event"] for item in items if "event" in item]
        assert _seqs(heard) == list(range(1, len(heard) + 1))


def test_a_peer_that_was_cut_is_served_when_it_comes_back_under_its_name(own: House) -> None:
    writer = own.connect()
    _large(writer, 100)
    with Deaf(own.endpoint, ROUTING_ID=b"deaf") as deaf:
        deaf.ok("journal.head")
        for number in range(60):
            deaf.send("journal.read", {"limit": 20}, id=f"r{number}")
        eventually(writer, lambda stats: stats["peers"] == 1)
        deaf.read_until_closed()
        request_id = deaf.send("journal.head", id="back")
        while (reply := deaf.receive())["id"] != request_id:
            assert str(reply["id"]).startswith("r")
        assert reply["ok"]["seq"] == 100
