"""Who waits behind a stall of the disk, and when he is told."""

from collections.abc import Iterator
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.testing.sim import Order, Peer, World


@pytest.fixture
def world() -> Iterator[World]:
    with World(1) as opened:
        assert opened.config.budget.write_ms == 25
        yield opened


def append(peer: Peer) -> Order:
    event: dict[str, Any] = {
        "event_id": new_id(), "session_id": new_id(), "kind": "message_received",
        "actor": "agent", "ts_ms": 1, "payload": {},
    }  # fmt: skip
    return Order("journal.append", {"events": [event]}, peer.principal, True)


def pass_time(world: World, ms: int) -> None:
    """Milliseconds in which the disk does nothing, and the loop whatever is due."""
    for _ in range(ms):
        world.wait(1.0)
        while world.loop_due:
            world.turn_loop()


def test_who_waited_when_the_stall_began_is_told_when_his_own_time_is_up(world: World) -> None:
    writer, peer = world.running.writer, world.connect()
    for _ in range(2):  # a lone one is committed on the loop
        world.send(peer, append(peer))
    world.turn_loop()
    queued = world.send(peer, append(peer))
    world.turn_loop()
    pass_time(world, 15)
    writer.tidy()
    assert world.turn_commit()
    world.turn_loop()  # the WAL's rest is moved before the next group, and that does not end
    assert world.running.controller.plan.pausing
    pass_time(world, 5)
    assert not queued.replies
    pass_time(world, 8)
    (reply,) = queued.replies
    assert reply["err"]["code"] == "overloaded"
    assert "waited too long" in reply["err"]["message"]
