"""A round of a ROUTER's messages, compiled and part by part: the same."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from palyra_actors.actors import router
from palyra_actors.actors.steering import load_of
from palyra_actors.wire import codec

DEADLINE_MS = 10_000


@pytest.fixture(params=["compiled", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(router, "compiled", None)
    elif router.compiled is None:
        pytest.skip("no compiler when it was installed")
    return str(request.param)


@pytest.fixture
def sockets() -> Iterator[Any]:
    """Makes sockets of one context; the first is a ROUTER that is bound."""
    with zmq.Context() as context:
        made: list[zmq.Socket[bytes]] = [context.socket(zmq.ROUTER)]
        made[0].setsockopt(zmq.ROUTER_MANDATORY, 1)
        made[0].setsockopt(zmq.SNDHWM, 16)
        port = made[0].bind_to_random_port("tcp://127.0.0.1")

        def connect(kind: int = zmq.DEALER) -> "zmq.Socket[bytes]":
            socket = context.socket(kind)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 16)
            socket.connect(f"tcp://127.0.0.1:{port}")
            made.append(socket)
            return socket

        yield made[0], connect
        for socket in made:
            socket.close(0)


def _all(
    socket: "zmq.Socket[bytes]", count: int, frames_max: int = 100, bytes_max: int = 1 << 20
) -> list[Any]:
    """So many messages, whatever the rounds; and none is left."""
    came: list[Any] = []
    while len(came) < count:
        assert socket.poll(DEADLINE_MS), f"only {len(came)} of {count} came"
        came += router.receive(socket, frames_max, bytes_max, keys=False)
    return came


@pytest.mark.usefixtures("way")
def test_a_round_holds_what_was_sent_with_or_without_a_delimiter(sockets: Any) -> None:
    door, connect = sockets
    dealer, asker = connect(), connect(zmq.REQ)
    for frame in (b"one", b"", b"x" * 100_000):
        dealer.send(frame)
    dealer.send_multipart((b"", b"behind an empty one"))
    dealer.send_multipart((b"two", b"frames"))
    dealer.send_multipart((b"", b"three", b"and", b"more"))
    dealer.send_multipart((b"", b""))
    asker.send(b"asked")
    came = _all(door, 8)
    mine = [one for one in came if one[2] != b"asked"]
    assert [(one[1], one[2], one[3]) for one in mine] == [
        (False, b"one", False),
        (False, b"", False),
        (False, b"x" * 100_000, False),
        (True, b"behind an empty one", False),
        (False, b"two", True),
        (True, b"three", True),
        (True, b"", False),
    ]
    assert len({one[0] for one in mine}) == 1
    (asked,) = (one for one in came if one[2] == b"asked")
    assert asked[1:4] == (True, b"asked", False)
    assert asked[0] != mine[0][0]
    assert all(router.descriptor(one[4]) >= 0 for one in came)
    assert router.descriptor(asked[4]) != router.descriptor(mine[0][4])
    assert router.receive(door, 100, 1 << 20, keys=False) == []


@pytest.mark.usefixtures("way")
def test_a_round_ends_at_its_frames_or_its_bytes(sockets: Any) -> None:
    door, connect = sockets
    dealer = connect()
    for _ in range(6):
        dealer.send(b"x" * 99)
    assert door.poll(DEADLINE_MS)
    sizes = []
    left = 6
    while left:
        assert door.poll(DEADLINE_MS)
        sizes.append(len(router.receive(door, 2, 1 << 20, keys=False)))
        left -= sizes[-1]
    assert max(sizes) <= 2
    for _ in range(6):
        dealer.send(b"x" * 99)
    left = 6
    while left:
        assert door.poll(DEADLINE_MS)
        came = router.receive(door, 100, 150, keys=False)
        assert 1 <= len(came) <= 2
        left -= len(came)
    assert router.receive(door, 0, 1 << 20, keys=False) == []


@pytest.mark.usefixtures("way")
def test_replies_are_taken_from_the_first_on_until_one_is_not(sockets: Any) -> None:
    door, connect = sockets
    dealer, asker = connect(), connect(zmq.REQ)
    dealer.send(b"here")
    asker.send(b"there")
    who = {one[2]: one[0] for one in _all(door, 2)}
    replies = [(who[b"here"], False, b"hello"), (who[b"there"], True, b"hello, too")]
    assert router.send(door, []) == 0
    assert router.send(door, replies) == 2
    assert dealer.poll(DEADLINE_MS)
    assert dealer.recv() == b"hello"
    assert asker.poll(DEADLINE_MS)
    assert asker.recv() == b"hello, too"
    stranger = (b"nobody", False, b"lost")
    assert router.send(door, [replies[0], stranger, replies[0]]) == 1
    with pytest.raises(zmq.ZMQError) as gone:
        router.send_plainly(door, *stranger)
    assert gone.value.errno == zmq.EHOSTUNREACH
    large = (who[b"here"], False, b"x" * 1_000_000)
    taken = router.send(door, [large] * 200)
    assert taken < 200  # its pipe is full
    with pytest.raises(zmq.Again):  # noqa: PT012 - now or when it is full again
        while True:
            router.send_plainly(door, *large)


@pytest.mark.parametrize("wrong", [[(b"a", False)], [(1, False, b"")], [("a", False, b"")], [None]])
def test_what_is_no_reply_raises_and_sends_nothing(sockets: Any, wrong: list[Any]) -> None:
    if router.compiled is None:
        pytest.skip("no compiler when it was installed")
    door, _ = sockets
    with pytest.raises(TypeError):
        router.compiled.send(door.underlying, wrong)


def _append(request_id: Any, **more: Any) -> bytes:
    body = {"events": [{"a": [1, None, 2.5, b"x", -7, True], "b": {"c": "d" * 300}}]}
    return msgspec.msgpack.encode(
        {"v": 1, "id": request_id, "op": "journal.append", "body": body} | more
    )


def _body_first(request_id: int) -> bytes:
    message = msgspec.msgpack.decode(_append(request_id))
    return msgspec.msgpack.encode({"body": message.pop("body")} | message)


LOAD = load_of(len(_append(1)))
SHUT = router.Opening(True, -1.0, -1.0, 1.0, 0.0, 0.0, 0.0, False, [])
"""There is room for nothing."""


@pytest.fixture
def porter(sockets: Any) -> Iterator[Any]:
    """A porter of the first socket, one who is connected to it, and its routing id."""
    if router.compiled is None:
        pytest.skip("no compiler when it was installed")
    door, connect = sockets
    dealer = connect()
    dealer.send(b"here")
    who = _all(door, 1)[0][0]
    made = router.Porter(
        door,
        append_bytes_max=4 << 20,
        head=codec.REPLY_HEAD,
        middle=codec.OVERLOADED,
        wait_s_max=1.0,
        name="porter",
    )
    made.wake(time.monotonic())
    yield made, dealer, who
    made.close()


class Found:
    """What a porter has had for the loop so far."""

    def __init__(self, porter: router.Porter) -> None:
        self.porter = porter
        self.came: list[Any] = []
        self.promised: list[bytes] = []
        self.aside: list[router.Reply] = []
        self.refused = self.refused_bytes = 0
        self.statuses: set[int] = set()

    def collect(self) -> router.Collected:
        found = self.porter.collect(256)
        self.came += [one for one, _, _ in found.came]
        self.promised += [one[2] for one, _, promised in found.came if promised]
        self.aside += found.aside
        self.refused += sum(one.frames for one in found.refused)
        self.refused_bytes += sum(one.frame_bytes for one in found.refused)
        self.statuses |= {one.status for one in found.refused}
        return found

    def until(self, count: int) -> None:
        """So many have come or were refused, whatever the rounds."""
        ends = time.monotonic() + DEADLINE_MS / 1000
        while len(self.came) + self.refused < count:
            assert time.monotonic() < ends, f"{len(self.came)} came, {self.refused} were refused"
            self.collect()


ODD = [
    _append(1, budget_ms=5),
    _append(1, v=2),
    _append(True),
    _append(""),
    _append("é"),
    _append("x" * 65),
    _append(-1),
    _append(1, op="journal.read"),
    _body_first(1) + b"\0",
    _body_first(1)[:-1],
    b"\x85" + _append(1)[1:] + b"\xa2id\x02",
    b"\xc1",
    b"",
    b"\x90",
    b"\xdf\xff\xff\xff\xff",
]


def test_beyond_the_room_a_plain_append_is_refused_and_all_else_taken_in(porter: Any) -> None:
    made, dealer, who = porter
    ids: list[int | str] = [7, 200, 60_000, 1 << 31, 1 << 63, "a", "b" * 31, "c" * 64]
    frames = [_append(1), _append(2), *map(_append, ids), *ODD]
    far = time.monotonic() + 0.5
    made.tell(router.Opening(True, 2.0 * LOAD, 0.0, 0.0, far, 0.0, 0.01, False, []))
    for frame in frames:
        dealer.send(frame)
    dealer.send_multipart((_append(3), b"and more"))
    found = Found(made)
    found.until(len(frames) + 1)
    assert [one[0] for one in found.came] == [who] * (len(ODD) + 3)
    assert [one[2] for one in found.came] == [*frames[:2], *ODD, _append(3)]
    assert [one[3] for one in found.came] == [False] * (2 + len(ODD)) + [True]
    assert found.promised == frames[:2]
    assert found.refused == len(ids)
    assert found.refused_bytes == sum(len(_append(one)) for one in ids)
    assert (found.statuses, found.aside) == ({router.SENT}, [])
    waits = []
    for request_id in ids:
        assert dealer.poll(DEADLINE_MS)
        reply = msgspec.msgpack.decode(dealer.recv())
        waits.append(reply["err"]["retry_after_ms"])
        assert reply == msgspec.msgpack.decode(codec.encode_overloaded(request_id, waits[-1]))
    assert waits == sorted(waits), "one after the other, when what is under way is through"
    assert 1 <= waits[0] < waits[-1] <= 1_000


def test_a_body_that_comes_last_is_not_looked_into(porter: Any) -> None:
    made, dealer, _ = porter
    found = Found(made)
    made.tell(SHUT)
    for frame in (_append(1) + b"\0", _append(2)[:-1], _body_first(3)):
        dealer.send(frame)
    found.until(3)
    assert (found.refused, found.came) == (3, [])
    for request_id in (1, 2, 3):
        assert dealer.poll(DEADLINE_MS)
        assert dealer.recv() == codec.encode_overloaded(request_id, 1)


@pytest.mark.parametrize("called", [False, True])
def test_refusals_of_many_reach_each_in_the_order_of_its_frames(
    porter: Any, sockets: Any, called: bool
) -> None:
    made, dealer, _ = porter
    dealers = [dealer, *(sockets[1]() for _ in range(11))]
    asker, found, each = sockets[1](zmq.REQ), Found(made), 14
    made.tell(SHUT._replace(called=called))
    for number in range(each):
        for one in dealers:
            one.send(_append(number))
    asker.send(_append(each))
    found.until(len(dealers) * each + 1)
    assert (found.came, found.aside, found.statuses) == ([], [], {router.SENT})
    for one in dealers:
        for number in range(each):
            assert one.poll(DEADLINE_MS)
            assert one.recv() == codec.encode_overloaded(number, 1)
    assert asker.poll(DEADLINE_MS)
    assert asker.recv() == codec.encode_overloaded(each, 1)


def test_nobody_is_told_to_wait_for_longer_than_the_most(porter: Any) -> None:
    made, dealer, _ = porter
    later = time.monotonic() + 1_000
    made.tell(SHUT._replace(through_at=later, load_s=1.0))
    dealer.send(_append(1))
    found = Found(made)
    found.until(1)
    assert dealer.recv() == codec.encode_overloaded(1, 1_000)


def test_nobody_is_told_to_wait_behind_more_of_anothers_than_of_its_own(
    porter: Any, sockets: Any
) -> None:
    made, dealer, _ = porter
    found, polite = Found(made), sockets[1]()
    made.tell(SHUT._replace(load_s=0.01))
    for number in range(100):
        dealer.send(_append(number))
        found.until(number + 1)  # a batch each: who waits is not forgotten with it
        assert dealer.poll(DEADLINE_MS)
        reply = dealer.recv()
    assert msgspec.msgpack.decode(reply)["err"]["retry_after_ms"] == 1_000
    polite.send(_append(1))
    found.until(101)
    assert polite.poll(DEADLINE_MS)
    told = msgspec.msgpack.decode(polite.recv())["err"]["retry_after_ms"]
    assert told <= 2 * LOAD * 10 + 1, "as if the two were served in turn"


def test_the_room_is_less_what_was_taken_in_and_what_the_loop_has(porter: Any) -> None:
    made, dealer, _ = porter
    found = Found(made)
    made.tell(SHUT._replace(room=3.0 * LOAD, before=float(LOAD)))
    for number in range(3):
        dealer.send(_append(number))
        found.until(number + 1)  # what was collected is under way until the loop tells anew
    assert (len(found.promised), found.refused) == (2, 1)
    made.tell(SHUT._replace(room=3.0 * LOAD, before=float(LOAD)))
    dealer.send(_append(3))
    found.until(4)
    assert (len(found.promised), found.refused) == (3, 1)


def test_whoever_has_less_than_its_share_may_go_over_the_room(porter: Any, sockets: Any) -> None:
    made, dealer, who = porter
    found, beside = Found(made), sockets[1]()
    room = 100.0 * LOAD
    full = SHUT._replace(room=room, most=1.2 * room, before=room, accounts=[(who, False, room)])
    for number in range(3):
        made.tell(full)
        dealer.send(_append(number))
        beside.send(_append(number))
        found.until(2 * number + 2)
    assert {one[0] for one in found.came}.isdisjoint({who})
    assert (len(found.promised), found.refused) == (3, 3)
    made.tell(full._replace(before=1.3 * room))
    beside.send(_append(3))
    found.until(7)
    assert found.refused == 4, "though not for ever"


def test_one_is_let_in_where_nothing_is_under_way_however_large(porter: Any) -> None:
    made, dealer, _ = porter
    made.tell(SHUT._replace(room=0.1, before=0.0))
    dealer.send(_append(1))
    dealer.send(_append(2))
    found = Found(made)
    found.until(2)
    assert (found.promised, found.refused) == ([_append(1)], 1)


def test_where_nothing_may_be_refused_all_is_taken_in(porter: Any) -> None:
    made, dealer, _ = porter
    made.tell(SHUT._replace(sifts=False))
    dealer.send(_append(1))
    found = Found(made)
    found.until(1)
    assert ([one[2] for one in found.came], found.promised) == ([_append(1)], [])


def test_while_the_loop_is_busy_it_is_refused_all_the_same(porter: Any) -> None:
    made, dealer, _ = porter
    made.tell(SHUT._replace(called=True))
    for number in range(100):
        dealer.send(_append(number))
        assert dealer.poll(DEADLINE_MS), "and nothing was collected"
        assert dealer.recv() == codec.encode_overloaded(number, 1)
    found = Found(made)
    found.until(100)
    assert (found.refused, found.came) == (100, [])


def _rings(descriptor: int, timeout_ms: int = DEADLINE_MS) -> bool:
    poller = zmq.Poller()
    poller.register(descriptor, zmq.POLLIN)
    return bool(poller.poll(timeout_ms))


def test_what_comes_while_the_loop_sleeps_and_nobody_is_called_is_the_loops(porter: Any) -> None:
    made, dealer, _ = porter
    found = Found(made)
    made.tell(SHUT)
    while not made.rest():
        found.collect()
    dealer.send(_append(1))
    dealer.send(b"anything")
    assert _rings(made.descriptor)
    assert not made.rest(), "it is there"
    made.wake(time.monotonic())
    found.until(2)
    assert (found.refused, [one[2] for one in found.came]) == (1, [b"anything"])


def test_a_loop_that_sleeps_is_woken_by_what_was_taken_in_and_not_by_refusals(porter: Any) -> None:
    made, dealer, _ = porter
    found = Found(made)
    made.tell(SHUT._replace(called=True))
    while not made.rest():
        found.collect()
    for number in range(20):
        dealer.send(_append(number))
        assert dealer.poll(DEADLINE_MS)
        dealer.recv()
    assert made.rest(), "it hears of them later"
    assert not _rings(made.bell, 0)
    dealer.send(b"anything")
    assert _rings(made.bell)
    assert not made.rest()
    made.wake(time.monotonic())
    assert not _rings(made.bell, 0)
    found.until(21)
    assert (found.refused, [one[2] for one in found.came]) == (20, [b"anything"])


def test_a_batch_that_is_full_waits_for_the_loop(porter: Any) -> None:
    made, dealer, _ = porter
    made.tell(SHUT._replace(called=True))
    for number in range(1_000):
        dealer.send(b"%d" % number)
    found = Found(made)
    largest = 0
    while len(found.came) < 1_000:
        largest = max(largest, len(found.collect().came))
    assert [one[2] for one in found.came] == [b"%d" % number for number in range(1_000)]
    assert largest <= 192


def test_a_refusal_that_a_full_pipe_does_not_take_comes_back(porter: Any, sockets: Any) -> None:
    made, dealer, who = porter
    door, found = sockets[0], Found(made)
    made.tell(SHUT)
    for number in range(1_000):
        with contextlib.suppress(zmq.Again):
            while True:  # until its pipe is full, for the moment
                router.send_plainly(door, who, False, b"x" * 100_000, made)
        dealer.send(_append(number))
        aside = len(found.aside)
        found.until(number + 1)
        if len(found.aside) > aside:
            assert found.aside[-1] == (who, False, codec.encode_overloaded(number, 1))
            assert router.FULL in found.statuses
        if len(found.aside) == 3:
            return
    pytest.fail("its pipe was never full")


def test_who_is_gone_is_told_of(porter: Any, sockets: Any) -> None:
    made, _, who = porter
    stranger = (b"nobody", False, b"lost")
    assert router.send(sockets[0], [(who, False, b"hello"), stranger], made) == 1
    with pytest.raises(zmq.ZMQError) as gone:
        router.send_plainly(sockets[0], *stranger, made)
    assert gone.value.errno == zmq.EHOSTUNREACH


@pytest.mark.parametrize("wrong", [[(b"a", False)], [("a", False, 1.0)], [(b"a", 1, "x")], [None]])
def test_what_is_no_account_raises_and_changes_nothing(porter: Any, wrong: list[Any]) -> None:
    made, dealer, _ = porter
    made.tell(SHUT)
    with pytest.raises(TypeError):
        made.tell(SHUT._replace(sifts=False, accounts=wrong))
    dealer.send(_append(1))
    found = Found(made)
    found.until(1)
    assert found.refused == 1


def test_a_porter_that_is_closed_leaves_the_socket_as_it_was(porter: Any, sockets: Any) -> None:
    made, dealer, _ = porter
    made.close()
    made.close()
    dealer.send(b"hello")
    assert [one[2] for one in _all(sockets[0], 1)] == [b"hello"]
