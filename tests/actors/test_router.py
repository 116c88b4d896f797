"""A round of a ROUTER's messages, compiled and part by part: the same."""

from collections.abc import Iterator
from math import ceil
from typing import Any

import msgspec
import pytest
import zmq

from palyra_actors.actors import router
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
    with pytest.raises(zmq.Again):
        router.send_plainly(door, *large)


@pytest.mark.parametrize("wrong", [[(b"a", False)], [(1, False, b"")], [("a", False, b"")], [None]])
def test_what_is_no_reply_raises_and_sends_nothing(sockets: Any, wrong: list[Any]) -> None:
    if router.compiled is None:
        pytest.skip("no compiler when it was installed")
    door, _ = sockets
    with pytest.raises(TypeError):
        router.compiled.send(door.underlying, wrong)


REFUSAL = router.Refusal(codec.REPLY_HEAD, codec.OVERLOADED, 10.0, 2.5, 1_000)


def _append(request_id: Any, **more: Any) -> bytes:
    body = {"events": [{"a": [1, None, 2.5, b"x", -7, True], "b": {"c": "d" * 300}}]}
    return msgspec.msgpack.encode(
        {"v": 1, "id": request_id, "op": "journal.append", "body": body} | more
    )


@pytest.fixture
def sieve(sockets: Any) -> Any:
    if router.compiled is None:
        pytest.skip("no compiler when it was installed")
    door, connect = sockets
    dealer = connect()
    dealer.send(b"here")
    return door, dealer, _all(door, 1)[0][0]


ODD = [
    _append(1, budget_ms=5),
    _append(1, v=2),
    _append(True),
    _append(""),
    _append("é"),
    _append("x" * 65),
    _append(-1),
    _append(1, op="journal.read"),
    _append(1) + b"\0",
    _append(1)[:-1],
    b"\x85" + _append(1)[1:] + b"\xa2id\x02",
    b"\xc1",
    b"",
    b"\x90",
    b"\xdf\xff\xff\xff\xff",
]


def test_beyond_its_quota_a_plain_append_is_refused_and_all_else_taken_in(sieve: Any) -> None:
    door, dealer, who = sieve
    ids: list[int | str] = [7, 200, 60_000, 1 << 31, 1 << 63, "a", "b" * 31, "c" * 64]
    frames = [_append(1), _append(2), *map(_append, ids), *ODD]
    for frame in frames:
        dealer.send(frame)
    dealer.send_multipart((_append(3), b"and more"))
    left, taken, refused = len(frames) + 1, [], 0
    quota = 2
    while left:
        assert door.poll(DEADLINE_MS)
        came, _, surplus = router.receive_all(door, 0, 1 << 20, 4 << 20)
        assert not came
        assert surplus is not None
        ((sender),) = surplus.senders
        assert sender[:2] == (who, False)
        sifted = router.sift(door, surplus, [quota], REFUSAL._replace(wait_ms=10 + 7.5 * refused))
        assert sifted.left[0].status == router.SENT
        assert not sifted.aside
        quota -= min(quota, sender.plain)
        taken += sifted.came
        refused += sifted.left[0].refused
        left -= len(sifted.came) + sifted.left[0].frames
        assert sifted.left[0].refused == sifted.left[0].frames
    assert [one[2] for one in taken] == [*frames[:2], *ODD, _append(3)]
    assert [one[3] for one in taken] == [False] * (2 + len(ODD)) + [True]
    for place, request_id in enumerate(ids):
        assert dealer.poll(DEADLINE_MS)
        wait_ms = ceil(10 + 7.5 * (place + 1))
        assert dealer.recv() == codec.encode_overloaded(request_id, wait_ms)


def test_a_refusal_that_a_full_pipe_does_not_take_comes_back(sieve: Any) -> None:
    door, dealer, who = sieve
    aside: list[bytes] = []
    for number in range(1_000):
        while router.send(door, [(who, False, b"x" * 100_000)]):
            pass  # until its pipe is full, for the moment
        dealer.send(_append(number))
        assert door.poll(DEADLINE_MS)
        _, _, surplus = router.receive_all(door, 0, 1 << 20, 4 << 20)
        assert surplus is not None
        sifted = router.sift(door, surplus, [0], REFUSAL)
        assert sifted.left[0].refused == 1
        if sifted.left[0].status == router.FULL:
            assert sifted.aside == [(0, codec.encode_overloaded(number, 18))]
            aside += [frame for _, frame in sifted.aside]
        else:
            assert not sifted.aside
        if len(aside) == 3:
            return
    pytest.fail("its pipe was never full")


def test_who_is_not_heard_is_not_answered(sieve: Any) -> None:
    door, dealer, _ = sieve
    dealer.send(_append(1))
    dealer.send(_append(2, budget_ms=1))
    left = 2
    while left:
        assert door.poll(DEADLINE_MS)
        _, _, surplus = router.receive_all(door, 0, 1 << 20, 4 << 20)
        assert surplus is not None
        sifted = router.sift(door, surplus, [-1], REFUSAL)
        assert (sifted.came, sifted.left[0].refused) == ([], 0)
        left -= sifted.left[0].frames
    assert router.send(door, [(sieve[2], False, b"the first answer")]) == 1
    assert dealer.poll(DEADLINE_MS)
    assert dealer.recv() == b"the first answer"
