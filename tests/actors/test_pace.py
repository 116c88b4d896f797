"""What upkeep takes: the room that writes leave, slice by slice, and all of it where none come."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from palyra_actors.actors import pace
from palyra_actors.actors.pace import (
    LOOK_S,
    LOST_S,
    REST_S_MAX,
    SHARE,
    SHARE_PRESSED,
    SLICE_S,
    Pace,
    Room,
)
from palyra_actors.runtime.mailbox import MailboxFull
from palyra_actors.testing.clock import ManualClock
from palyra_actors.testing.sim import World
from palyra_actors.testing.sim.peers import Asked, Order

SESSION = "01M3250V000000000000000S01"
EVENT = "01M3250V000000000000000E01"


class Rounds:
    """As much of a loop as a room needs; `pass_on` lets time go by and rings what is due."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append((self.clock.monotonic() + seconds, call))

    def call_soon(self, call: Callable[[], None]) -> None:
        call()

    def pass_on(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.clock.turn(1.0)
            now = self.clock.monotonic() + 1e-9
            due = [call for at, call in self._timers if at <= now]
            self._timers = [timer for timer in self._timers if timer[0] > now]
            for call in due:
                call()


class House:
    def __init__(self) -> None:
        self.rounds = Rounds()
        self.company, self.pressed = True, False
        rounds: Any = self.rounds
        self.room = Room(rounds, lambda: self.company, lambda: self.pressed)
        self.begun: list[str] = []

    def ask(self, *names: str) -> None:
        for name in names:
            self.room.ask(partial(self.begun.append, name))


@pytest.fixture
def house() -> House:
    return House()


def test_while_nobody_writes_all_slices_begin_at_once(house: House) -> None:
    house.company = False
    assert house.room.open
    house.ask("a", "b")
    house.room.took(1.0)
    house.ask("c")
    assert house.begun == ["a", "b", "c"]


def test_while_clients_write_one_slice_is_under_way_and_a_rest_follows_it(house: House) -> None:
    assert not house.room.open
    house.ask("a", "b", "c")
    house.rounds.pass_on(0.1)
    assert house.begun == ["a"]
    house.room.took(0.01)
    house.rounds.pass_on(0.01 * (1 / SHARE - 1) - 0.002)
    assert house.begun == ["a"]
    house.rounds.pass_on(0.003)
    assert house.begun == ["a", "b"]


def test_a_slice_that_did_not_ask_ends_nobodys_turn(house: House) -> None:
    house.ask("a", "b")
    house.room.took(0.001, asked=False)  # it began before anybody wrote
    house.rounds.pass_on(0.1)
    assert house.begun == ["a"], "which is under way still"
    house.room.took(0.001)
    house.rounds.pass_on(0.1)
    assert house.begun == ["a", "b"]


def test_the_rest_is_longer_while_writes_are_near_their_budget(house: House) -> None:
    house.pressed = True
    house.ask("a", "b")
    house.room.took(0.01)
    house.rounds.pass_on(0.01 * (1 / SHARE_PRESSED - 1) - 0.002)
    assert house.begun == ["a"]
    house.rounds.pass_on(0.003)
    assert house.begun == ["a", "b"]


def test_no_rest_is_longer_than_its_bound(house: House) -> None:
    house.ask("a", "b")
    house.room.took(100.0)
    house.rounds.pass_on(REST_S_MAX + 0.001)
    assert house.begun == ["a", "b"]


def test_a_slice_of_which_nobody_says_that_it_is_over_keeps_nobody_for_ever(house: House) -> None:
    house.ask("lost", "b")
    house.rounds.pass_on(LOST_S - 0.05)
    assert house.begun == ["lost"]
    house.rounds.pass_on(0.1)
    assert house.begun == ["lost", "b"]


def test_when_the_last_client_has_gone_whoever_waits_goes_on(house: House) -> None:
    house.ask("a", "b", "c")
    house.room.took(100.0)
    house.company = False
    house.rounds.pass_on(REST_S_MAX / 5)
    assert house.begun == ["a", "b", "c"]


def test_a_thread_of_somebodys_own_goes_on_when_it_is_its_turn(house: House) -> None:
    house.ask("a")
    house.room.rest(0.0)  # it took the place of one that is over
    house.ask("b")
    assert house.begun == ["a"]
    house.room.took(0.0)
    assert house.begun == ["a", "b"]


def test_whoever_finds_a_mailbox_full_is_tried_again_and_nobody_is_lost(house: House) -> None:
    house.company = False
    taken: list[str] = []

    def let_in(name: str) -> None:
        if len(taken) >= 3:
            raise MailboxFull("3 messages are waiting")
        taken.append(name)
        house.begun.append(name)

    names = [f"{place:04}" for place in range(5_000)]
    for name in names:
        house.room.ask(partial(let_in, name), read=True)
    while len(house.begun) < len(names):
        assert taken, "somebody came in"
        taken.clear()
        house.rounds.pass_on(LOOK_S)
    assert house.begun == names


def test_a_slice_that_fails_keeps_nobody(house: House) -> None:
    def fail() -> None:
        raise ValueError("no slice")

    house.room.ask(fail)
    house.ask("a")
    assert house.begun == ["a"]


def test_a_slice_that_is_over_at_once_begins_no_other_within_itself(house: House) -> None:
    depth: list[int] = []

    def slice_() -> None:
        depth.append(len(inspect.stack()))
        house.room.took(0.0)

    house.room.took(100.0)
    for _ in range(50):
        house.room.ask(slice_)
    house.company = False
    house.rounds.pass_on(LOOK_S)
    assert len(depth) == 50
    assert len(set(depth)) == 1


def test_reads_and_others_take_turns(house: House) -> None:
    house.room.took(100.0)
    for name in ("r1", "r2", "r3"):
        house.room.ask(partial(house.begun.append, name), read=True)
    house.ask("a", "b")
    for _ in range(5):
        house.rounds.pass_on(REST_S_MAX + 0.001)
        house.room.took(100.0)
    assert house.begun == ["r1", "a", "r2", "b", "r3"]


def test_a_thread_that_went_on_without_its_turn_keeps_nobody_from_his(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.room.took(100.0)
    monkeypatch.setattr(pace, "REST_S_MAX", 0.0)  # it waits no longer
    house.room.rest(0.0)
    house.ask("a")
    assert not house.begun
    house.rounds.pass_on(REST_S_MAX + 0.001)
    assert house.begun == ["a"]


def test_a_pace_follows_what_the_last_slice_took() -> None:
    pace = Pace(100, 1_000)
    pace.took(SLICE_S / 10)
    assert pace.size == 200  # twice as much at most
    pace.took(SLICE_S * 4)
    assert pace.size == 50


# In an engine.


@pytest.fixture
def world() -> Iterator[World]:
    with World(seed=11) as made:
        yield made


def _append(world: World, peer: Any) -> None:
    event: dict[str, Any] = {
        "event_id": EVENT, "session_id": SESSION, "run_id": None, "kind": "x.note",
        "actor": "agent", "ts_ms": 0, "payload": {},
    }  # fmt: skip
    assert "ok" in world.ask(peer, "journal.append", {"events": [event]})


def _took_s(world: World, peer: Any, op: str, body: dict[str, Any]) -> float:
    began = world.clock.monotonic()
    assert "ok" in world.ask(peer, op, body)
    return world.clock.monotonic() - began


@pytest.mark.parametrize(
    ("op", "body"),
    [("journal.read", {}), ("journal.verify", {}), ("session.erase", {"session_id": SESSION})],
)
def test_long_work_waits_for_room_while_a_client_writes_and_not_otherwise(
    world: World, op: str, body: dict[str, Any]
) -> None:
    peer = world.connect()
    _append(world, peer)
    world.running.room.took(100.0)
    assert _took_s(world, peer, "journal.head", {}) < REST_S_MAX / 2
    assert _took_s(world, peer, op, body) >= REST_S_MAX
    world.wait(ms=1_500)  # nobody writes any more
    world.running.room.took(100.0)
    if op != "session.erase":
        assert _took_s(world, peer, op, body) < REST_S_MAX / 2


def test_whoever_waits_for_room_has_left_the_readers_to_others(world: World) -> None:
    peer = world.connect()
    _append(world, peer)
    world.running.room.took(100.0)
    asked = [_send(world, op) for op in ("journal.verify", "journal.verify", "journal.read")]
    found = _took_s(world, peer, "session.list", {})
    assert found < REST_S_MAX / 2
    assert not any(one.replies for one in asked)
    world.settle()
    assert all("ok" in one.replies[0] for one in asked)


def test_no_more_reads_wait_for_room_than_a_mailbox_takes(world: World) -> None:
    peer = world.connect()
    _append(world, peer)
    world.running.room.took(100.0)
    waiting_max = world.running.readers[0].actor_inbox.messages_max
    asked = [_send(world, "journal.read") for _ in range(waiting_max + 20)]
    world.settle()
    told = [one.replies[0] for one in asked]
    refused = [reply["err"] for reply in told if "err" in reply]
    assert {error["code"] for error in refused} == {"overloaded"}
    assert 0 < len(refused) <= 20
    assert all("ok" in reply or "err" in reply for reply in told)


def test_an_engine_that_stops_waits_for_no_rest(world: World) -> None:
    _append(world, world.connect())
    world.running.room.took(100.0)
    asked = _send(world, "journal.verify")
    world.turn_loop()
    began = world.clock.monotonic()
    world.stop()
    assert "ok" in asked.replies[0]
    assert world.clock.monotonic() - began < REST_S_MAX / 2


def _send(world: World, op: str) -> Asked:
    peer = world.connect()
    return world.send(peer, Order(op, {}, peer.principal, True))
