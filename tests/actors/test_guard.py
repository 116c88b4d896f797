"""The guard by hand: who has to wait while too much is on its way, and who is cut."""

import contextlib
import socket as sockets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from palyra_actors.actors import guard as guards
from palyra_actors.actors.guard import (
    ALL_HELD_BYTES_FREE,
    GOING_ON,
    GROWTH_BYTES_MAX,
    MIB,
    Guard,
    Reading,
)

SENDERS = 20
SENT_BYTES = ALL_HELD_BYTES_FREE // SENDERS + 200 * 1024
SMALL_BYTES = 1000
DEADLINE_S = 10.0


@dataclass
class Peer:
    taken_bytes: int = 0
    refused: bool = False
    met_at: float = 0.0


class Door:
    """Connections that have brought something in, and that nobody reads."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(sockets.create_server(("127.0.0.1", 0)))
        self._listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4 * MIB)
        self.emptied = 0
        self.peers: dict[int, Peer] = {}
        port = self._listener.getsockname()[1]
        self.guard = Guard(
            port, lambda: Reading(self.emptied, False, 0), lambda: self.peers,
            connections_max=10_000,
        )  # fmt: skip
        self.guard.look(0, count=False)

    def sender(self, size: int) -> sockets.socket:
        """The door's end of a connection that has sent so much."""
        client = self._stack.enter_context(sockets.create_connection(self._listener.getsockname()))
        own, _ = self._listener.accept()
        self._stack.enter_context(own)
        client.settimeout(DEADLINE_S)
        client.sendall(bytes(size))
        return own

    def look(self) -> None:
        """The door has read what was whole, and the process has grown."""
        self.emptied += 1
        self.guard.look(GROWTH_BYTES_MAX + 1, count=False)


@pytest.fixture
def door() -> Iterator[Door]:
    with contextlib.ExitStack() as stack:
        yield Door(stack)


def window(own: sockets.socket) -> int:
    return own.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_WINDOW_CLAMP)


def waiting(own: sockets.socket) -> bool:
    return window(own) < guards.NARROW_BYTES


def test_while_too_much_is_on_its_way_all_but_a_few_wait(door: Door) -> None:
    small = door.sender(SMALL_BYTES)
    large = [door.sender(SENT_BYTES) for _ in range(SENDERS)]
    door.look()
    assert all(map(waiting, large)), "nobody's message is known to be unfinished yet"
    door.look()
    assert sum(not waiting(one) for one in large) == GOING_ON
    assert not waiting(small), "who sends little is narrowed, and goes on"
    assert door.guard.cut == 0


def test_what_is_read_lets_the_others_go_on(door: Door) -> None:
    large = [door.sender(SENT_BYTES) for _ in range(SENDERS)]
    before = window(large[0])
    door.look()
    for one in large:
        one.close()
    late = door.sender(SENT_BYTES)
    door.look()
    door.guard.look(0, count=False)
    assert window(late) >= min(before, guards.RECEIVE_BUFFER_BYTES)
    assert door.guard.cut == 0


def test_nobody_waits_while_little_is_on_its_way(door: Door) -> None:
    large = door.sender(ALL_HELD_BYTES_FREE // 2)
    before = window(large)
    door.look()
    door.look()
    assert window(large) == before


def test_who_has_waited_too_long_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(SENDERS):
        door.sender(SENT_BYTES)
    door.look()
    monkeypatch.setattr(guards, "WAIT_S_MAX", -1.0)
    door.look()
    assert door.guard.cut > 0
