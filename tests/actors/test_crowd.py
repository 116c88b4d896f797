"""Who is shut out of a door over a path before the process may have nothing more open."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from palyra_actors.actors import descriptors
from palyra_actors.actors.crowd import Crowd


@dataclass
class Met:
    met_at: float
    taken_bytes: int = 0
    refused: bool = False


class Doorway:
    """A listener on a path, and the connections that came in."""

    def __init__(self, path: str) -> None:
        self.stack = ExitStack()
        self.listener = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        self.listener.bind(path)
        self.listener.listen()
        self.path = path
        self.inside: list[socket.socket] = []
        self.outside: list[socket.socket] = []
        self.met: dict[int, Met] = {}

    def come(self, *, at: float | None = None) -> None:
        """One comes in; `at`: when it said its first word."""
        caller = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        caller.connect(self.path)
        own, _ = self.listener.accept()
        self.stack.enter_context(own)
        self.outside.append(caller)
        self.inside.append(own)
        if at is not None:
            self.met[os.fstat(own.fileno()).st_ino] = Met(at)


@pytest.fixture
def doorway(tmp_path: Path) -> Iterator[Doorway]:
    opened = Doorway(str(tmp_path / "door"))
    with opened.stack:
        yield opened


def is_shut(caller: socket.socket) -> bool:
    try:
        return caller.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def shut_out(doorway: Doorway, many: int) -> list[int]:
    """Who is shut out where there are so many too many."""
    crowd = Crowd(
        doorway.path, lambda: doorway.met, descriptors_max=descriptors.lowest_free() - many
    )
    crowd.look()
    assert crowd.cut == many
    return [number for number, caller in enumerate(doorway.outside) if is_shut(caller)]


def test_nobody_is_shut_out_while_there_is_room(doorway: Doorway) -> None:
    doorway.come()
    assert shut_out(doorway, 0) == []


def test_who_has_not_said_anything_goes_first_and_then_who_came_last(doorway: Doorway) -> None:
    for at in (1.0, None, 3.0, 2.0):
        doorway.come(at=at)
    assert shut_out(doorway, 1) == [1]
    doorway.outside.pop(1)
    doorway.inside.pop(1).close()
    assert shut_out(doorway, 2) == [1, 2]


def test_it_is_done_where_nothing_more_can_be_opened(doorway: Doorway) -> None:
    """Looking takes no descriptor: at the limit there is none."""
    doorway.come(at=1.0)
    doorway.come()
    crowd = Crowd(doorway.path, lambda: doorway.met, descriptors_max=1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors.lowest_free(), before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        crowd.look()
        doorway.inside[1].close()  # the stranger; who has said something is left to the next look
        crowd.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all(map(is_shut, doorway.outside))
    assert doorway.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
