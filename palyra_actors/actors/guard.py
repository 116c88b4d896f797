"""The thread that looks after what libzmq holds for connections: memory that the door never sees.

libzmq keeps what it has received until a message is whole. Of a message in parts without end, of a
frame that only half arrives, of a handshake that is no handshake the door hears nothing, and no
option of libzmq bounds their sum. So the kernel is asked: what a connection has received, less what
the door has taken from it, is what is held for it.

    memory ──grows fast──▶ look ──who holds most──▶ shut its connection; libzmq lets go of the rest

Looking costs 15 µs a connection and is done while the process grows, not otherwise. Only TCP can
be asked; who comes over a path is this machine's own user.
"""

import logging
import os
import socket as sockets
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

log = logging.getLogger(__name__)

LOOK_S: Final = 0.025
WINDOW_LOOKS: Final = 40  # a second
GROWTH_BYTES_MAX: Final = 24 * 1024 * 1024
"""By which the process may grow within the window before it is asked who holds what."""

HELD_BYTES_MAX: Final = 1024 * 1024
"""Held for one peer while memory grows. A part of no bytes takes two on the wire and 64 here."""

STRANGER_BYTES_MAX: Final = 16 * 1024
STRANGERS_BYTES_MAX: Final = 8 * 1024 * 1024
"""Held for one connection that has not sent a message yet, and for all such together."""

SLACK_BYTES: Final = 16 * 1024  # greeting and handshake
PINGS_BYTES_A_SECOND: Final = 100
COUNT_LOOKS: Final = 10
"""Connections are counted every so many looks."""

_TCP_INFO_BYTES: Final = 136
_RECEIVED: Final = struct.Struct("=128xQ")  # tcp_info.tcpi_bytes_received


class Known(Protocol):
    """A peer of the door, as far as the guard needs it."""

    taken_bytes: int
    refused: bool
    met_at: float


@dataclass(frozen=True, slots=True)
class Held:
    """One connection: its descriptor in this process, and what is held for it."""

    descriptor: int
    inode: int
    held_bytes: int
    known: Known | None


class Guard:
    """Looks until stopped.

    Args:
        port: the door's.
        peers: those the door has met, by the inode of their connection. Called in this thread.
        connections_max: beyond these, who has not sent a message yet is cut.
    """

    def __init__(
        self, port: int, peers: Callable[[], Mapping[int, Known]], *, connections_max: int
    ) -> None:
        self._port = port
        self._peers = peers
        self._connections_max = connections_max
        self._sizes: deque[int] = deque(maxlen=WINDOW_LOOKS)
        self._suspects: set[int] = set()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="palyra-guard", daemon=True)
        self.cut = 0
        """Connections that were shut."""

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait_s_max: float) -> bool:
        """False: a look did not end within `wait_s_max`."""
        self._leave.set()
        if self._thread.ident is not None:
            self._thread.join(wait_s_max)
        return not self._thread.is_alive()

    def _run(self) -> None:
        looks = 0
        while not self._leave.wait(LOOK_S):
            looks += 1
            try:
                self.look(_resident_bytes(), count=looks % COUNT_LOOKS == 0)
            except Exception:
                log.exception("the guard of the door could not look")

    def look(self, resident_bytes: int, *, count: bool) -> None:
        """One look: `resident_bytes` is the process's size now; `count`: count the connections."""
        sizes = self._sizes
        sizes.append(resident_bytes)
        grown = resident_bytes - min(sizes)
        crowded = count and len(os.listdir("/proc/self/fd")) > self._connections_max
        if grown <= GROWTH_BYTES_MAX and not crowded:
            self._suspects.clear()
            return
        connections = sorted(self._all(), key=lambda one: -one.held_bytes)
        if grown > GROWTH_BYTES_MAX:
            self._cut_who_holds_most(connections)
        if crowded:
            strangers = [one for one in connections if one.known is None]
            for one in strangers[: max(0, len(connections) - self._connections_max)]:
                self._shut(one, "there are too many connections")

    def _cut_who_holds_most(self, connections: list[Held]) -> None:
        strangers = [
            one for one in connections if one.known is None and one.held_bytes > STRANGER_BYTES_MAX
        ]
        together = sum(one.held_bytes for one in strangers)
        for one in strangers:
            if together <= STRANGERS_BYTES_MAX and one.held_bytes <= HELD_BYTES_MAX:
                break
            together -= one.held_bytes
            self._shut(one, f"{one.held_bytes >> 10} KiB and no message")
        suspects = {
            one.inode: one
            for one in connections
            if one.known is not None and one.held_bytes > HELD_BYTES_MAX
        }
        still = [one for inode, one in suspects.items() if inode in self._suspects]
        for one in still[:1]:
            self._shut(one, f"{one.held_bytes >> 10} KiB are held for it")
        self._suspects = set(suspects)

    def _all(self) -> Iterator[Held]:
        """Every connection of the door."""
        peers = self._peers()
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                found = os.fstat(int(name))
                if not stat.S_ISSOCK(found.st_mode):
                    continue
                with sockets.socket(fileno=os.dup(int(name))) as own:
                    if not self._is_ours(own):
                        continue
                    known = peers.get(found.st_ino)
                    held = received_bytes(own) - SLACK_BYTES
                    if known is not None:
                        age_s = time.monotonic() - known.met_at
                        held -= known.taken_bytes + int(age_s * PINGS_BYTES_A_SECOND)
                    yield Held(int(name), found.st_ino, held, known)

    def _is_ours(self, own: sockets.socket) -> bool:
        return (
            own.family in (sockets.AF_INET, sockets.AF_INET6)
            and own.type == sockets.SOCK_STREAM
            and own.getsockname()[1] == self._port
            and not own.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN)
        )

    def _shut(self, one: Held, why: str) -> None:
        with suppress(OSError), sockets.socket(fileno=os.dup(one.descriptor)) as own:
            if os.fstat(own.fileno()).st_ino == one.inode:
                log.warning("a connection from %s is cut off: %s", own.getpeername()[0], why)
                if one.known is not None:
                    one.known.refused = True  # what is whole of it is read and dropped
                own.shutdown(sockets.SHUT_RDWR)
                self.cut += 1


def received_bytes(own: sockets.socket) -> int:
    """What the kernel has acknowledged to the other side since the connection was made."""
    info = own.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _TCP_INFO_BYTES)
    return int(_RECEIVED.unpack(info)[0]) if len(info) >= _TCP_INFO_BYTES else 0


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES


_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
