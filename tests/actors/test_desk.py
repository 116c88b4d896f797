"""What becomes of a round that is more than a slice, and of the reads beside its writes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import admission, desk
from palyra_actors.actors.readqueue import ROUND_S, WAITING_MAX
from palyra_actors.actors.steering import LOAD_S_MIN
from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.testing.sim import Order, Peer, World
from palyra_actors.testing.sim.peers import Asked
from palyra_actors.wire import codec
from tests.faults.rig import NO_BUDGET, Caller, rig
from tests.system.harness import event


@pytest.mark.parametrize("rest_bytes_max", [0, desk.REST_BYTES_MAX])
def test_what_a_lone_client_sends_while_the_rest_of_a_round_waits_is_answered_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest_bytes_max: int
) -> None:
    monkeypatch.setattr(admission, "COMPANY_S", -1.0)  # it has been alone for long
    monkeypatch.setattr(desk, "REST_BYTES_MAX", rest_bytes_max)
    session = new_id()
    with rig(tmp_path / "j.db", NO_BUDGET) as works:
        caller = Caller(works)
        caller.append(event(session)).reply()
        made = [caller.prepare("journal.append", {"events": [event(session)]}) for _ in range(900)]
        frames = [(caller, frame) for _, frame in made]

        def one_round() -> None:
            for start in range(0, len(frames), 300):
                works.works.desk.serve(frames[start : start + 300])

        works.on_loop(one_round)
        numbers = [asked.reply()["ok"]["results"][0]["session_seq"] for asked, _ in made]
        assert numbers == list(range(2, 902))
        works.assert_at_rest()


READ_S = 0.4 * ROUND_S
READS = ("journal.recent", "engine.stats")
NOTHING: Mapping[str, Any] = {}


@pytest.fixture
def world() -> Iterator[World]:
    with World(1) as opened:
        yield opened


def takes(world: World, op: str, seconds: float) -> None:
    """From now on each of these takes the loop so long."""
    calls, kind = world.running.desk._operations, codec.REQUEST_TYPES[op]
    call = calls[kind]

    def slowly(request: Any, body: Any) -> None:
        world.clock.turn(seconds * 1000)
        call(request, body)

    calls[kind] = slowly


def send(world: World, peer: Peer, op: str, body: Mapping[str, Any] = NOTHING) -> Asked:
    return world.send(peer, Order(op, dict(body), peer.principal, True))


def write(world: World, peer: Peer, session: str) -> Asked:
    return send(world, peer, "journal.append", {"events": [event(session)]})


def answered(asked: list[Asked]) -> int:
    return sum(len(one.replies) for one in asked)


@pytest.fixture
def beside_writes(world: World) -> World:
    """Reads take two fifths of their part of a round each, and somebody has just written."""
    for op in READS:
        takes(world, op, READ_S)
    write(world, world.connect(), new_id())
    world.settle()
    return world


def test_long_reads_of_one_round_are_answered_in_several_and_a_write_between_them_in_its_own(
    beside_writes: World,
) -> None:
    world, reader, writer = beside_writes, beside_writes.connect(), beside_writes.connect()
    reads = [send(world, reader, READS[n % 2]) for n in range(6)]
    wrote = write(world, writer, new_id())
    reads += [send(world, reader, READS[n % 2]) for n in range(6)]
    world.turn_loop()
    assert answered(reads) == 3
    assert world.turn_commit(), "it was handed on in the round in which it came"
    world.turn_loop()
    assert (len(wrote.replies), answered(reads)) == (1, 6)
    world.settle()
    assert [one.outcome for one in reads] == ["ok"] * 12
    assert answered(reads) == 12


def test_long_reads_beyond_those_that_may_wait_are_refused_and_all_are_answered_once(
    beside_writes: World,
) -> None:
    world, reader = beside_writes, beside_writes.connect()
    reads = [send(world, reader, READS[n % 2]) for n in range(WAITING_MAX + 3 + 20)]
    world.turn_loop()
    refused = reads[-20:]
    assert [one.code for one in refused] == ["overloaded"] * 20
    assert all(1 <= one.replies[0]["err"]["retry_after_ms"] <= 1_000 for one in refused)
    world.settle()
    assert [one.outcome for one in reads[:-20]] == ["ok"] * (WAITING_MAX + 3)
    assert [len(one.replies) for one in reads] == [1] * len(reads)


def load_s_beside(reads: int, reads_before: int) -> float:
    """What load seems to cost after groups of twenty writes each, with so many reads among their
    frames and so many in rounds before, of a millisecond each."""
    with World(1, config=Config(), disk_ms=lambda: 0.6) as world:
        takes(world, "session.get", 0.001)
        reader, writer, session = world.connect(), world.connect(), new_id()
        body = {"session_id": session}
        for _ in range(30):
            for _ in range(reads_before):
                send(world, reader, "session.get", body)
            world.turn_loop()
            for number in range(20):
                write(world, writer, session)
                if number < reads:
                    send(world, reader, "session.get", body)
            world.settle()
        assert world.running.tally.acked == 600
        assert world.running.tally.overloaded == 0
        return world.running.controller.plan.load_s


@pytest.mark.parametrize(("reads", "reads_before"), [(10, 0), (0, 200), (10, 200)])
def test_what_the_loop_does_for_reads_is_not_taken_for_what_writes_cost(
    reads: int, reads_before: int
) -> None:
    alone = load_s_beside(0, 0)
    assert alone > 2 * LOAD_S_MIN, "otherwise it could not become less"
    assert load_s_beside(reads, reads_before) == pytest.approx(alone, rel=0.01)
