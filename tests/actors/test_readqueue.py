"""Reads that the loop answers by itself, beside those who write."""

from typing import Any

import msgspec
import pytest

from palyra_actors.actors.readqueue import ROUND_S, WAITING_MAX, ReadQueue
from palyra_actors.actors.steering import Plan
from palyra_actors.actors.work import Request, Tally
from tests.actors.rig import Peer

READ_S = 0.4 * ROUND_S


class Loop:
    """A queue whose reads take a time each; `log` are those that were answered, in order."""

    def __init__(self) -> None:
        self.now, self.company, self.takes_s = 100.0, True, READ_S
        self.plan, self.tally = Plan(0.025), Tally()
        self.log: list[int] = []
        self.queue = ReadQueue(
            self.plan, self._serve, monotonic=lambda: self.now, company=lambda _: self.company
        )

    def _serve(self, request: Request, message: Any) -> None:
        self.now += self.takes_s
        self.log.append(message)
        request.ok({})

    def come(self, message: int, peer: Peer) -> Request:
        request = Request(peer, message, self.now, self.tally)
        self.queue.take(request, message)
        return request


def _answers(peer: Peer) -> list[Any]:
    return [msgspec.msgpack.decode(frame) for frame in peer.frames]


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_beside_writers_a_round_has_room_for_so_many(loop: Loop) -> None:
    peer = Peer()
    for message in range(7):
        loop.come(message, peer)
    assert loop.log == [0, 1, 2], "the last of them began in time"
    loop.queue.pump()
    assert loop.log == [0, 1, 2], "the round has had its part"
    loop.queue.pump()
    assert loop.log == [0, 1, 2, 3, 4, 5]
    assert len(loop.queue) == 1
    loop.come(7, peer)
    assert loop.log[-1] == 5, "behind those who wait"
    loop.queue.pump()
    assert loop.log == list(range(8))


def test_a_part_is_for_those_who_come_or_for_those_who_wait_and_each_round_answers_one(
    loop: Loop,
) -> None:
    loop.takes_s = 0.3 * ROUND_S
    for message in range(3):
        loop.come(message, Peer())
    loop.queue.pump()
    for message in range(3, 7):
        loop.come(message, Peer())
    assert loop.log == list(range(7)), "none waits, and the round before is over"
    loop.takes_s = ROUND_S
    for message in range(7, 9):
        loop.come(message, Peer())
    loop.queue.pump()
    assert len(loop.queue) == 2
    for done in (8, 9):
        loop.come(100 + done, Peer())
        assert len(loop.log) == done - 1, "behind those who wait"
        loop.queue.pump()
        assert loop.log == list(range(done))


def test_where_nobody_writes_all_are_answered_at_once(loop: Loop) -> None:
    loop.company = False
    for message in range(50):
        loop.come(message, Peer())
    assert loop.log == list(range(50))


def test_who_waits_is_answered_once_nobody_writes_any_more(loop: Loop) -> None:
    for message in range(20):
        loop.come(message, Peer())
    loop.company = False
    loop.queue.pump()
    assert loop.log == list(range(20))


def test_one_that_takes_longer_than_its_part_is_answered_nevertheless(loop: Loop) -> None:
    loop.takes_s = 20 * ROUND_S
    for message in range(3):
        loop.come(message, Peer())
    for done in (1, 2, 3):
        loop.queue.pump()
        assert len(loop.log) == done


def test_beyond_the_most_it_is_refused_and_told_when_there_may_be_room(loop: Loop) -> None:
    peer = Peer()
    for message in range(WAITING_MAX + 3):
        loop.come(message, peer)
    assert len(loop.queue) == WAITING_MAX
    refused = loop.come(1_000, peer)
    assert refused.answered
    error = _answers(peer)[-1]["err"]
    assert (error["code"], error["retryable"]) == ("overloaded", True)
    assert WAITING_MAX * READ_S * 1000 <= error["retry_after_ms"] <= 1_000


def test_what_reads_take_is_no_work_of_the_writes_around_them(loop: Loop) -> None:
    for message in range(3):
        loop.come(message, Peer())
    assert loop.plan.beside.all_s == pytest.approx(3 * READ_S)


def test_at_the_end_who_waits_is_refused_and_whose_peer_is_gone_is_forgotten(loop: Loop) -> None:
    stays, leaves = Peer(), Peer()
    for message in range(3):
        loop.come(message, Peer())
    kept, gone = loop.come(3, stays), loop.come(4, leaves)
    loop.queue.drop_peer(leaves)
    assert (gone.answered, leaves.frames) == (True, [])
    loop.queue.stop()
    assert kept.answered
    assert _answers(stays)[-1]["err"]["code"] == "unavailable"
    assert not loop.queue
    assert loop.tally.under_way == 0
