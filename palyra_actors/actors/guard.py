"""The thread that looks after what libzmq holds for connections: memory that the door never sees.

libzmq keeps what it has received until a message is whole. Of a message in parts without end, of a
frame that only half arrives, of a handshake that is no handshake the door hears nothing, and no
option of libzmq bounds their sum. So the kernel is asked: what a connection has received, less what
the door has taken from it, is what is held for it.

    memory ──grows fast──▶ look ──who holds too much──▶ shut its connection; libzmq drops the rest
                            └─all together hold too much──▶ wait; a few at a time go on

What is whole is served in its turn, so a client may be far ahead of a busy engine. What was there
when the door had nothing left to read is not whole, and of that nobody needs more than a frame.

Where all connections together hold too much, those who hold more than a little have to wait: the
window that the kernel offers their peers is closed to a crack, so that they send nothing more,
which costs them a fifth of a second and no connection. Those whose message may soon be whole go on
first.

Looking costs 15 µs a connection and is done while the process grows, not otherwise. Only TCP can
be asked; who comes over a path is this machine's own user.
"""

import ctypes
import logging
import os
import socket as sockets
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Protocol

from palyra_actors.actors import descriptors
from palyra_actors.actors.lookout import Lookout, Sparing
from palyra_actors.limits import FRAME_BYTES_MAX, IN_FLIGHT_BYTES_MAX, SOCKET_FRAME_BYTES_MAX

log = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
LOOK_S: Final = 0.005
LOOK_AGAIN_S: Final = 0.002  # while memory grows: a loopback brings in a MiB a millisecond
WINDOW_LOOKS: Final = 100  # a second, while nothing grows
ALERT_BYTES: Final = 3 * MIB
"""By which the process may grow within the window before its size is looked at more often."""

GROWTH_BYTES_MAX: Final = 4 * MIB
"""By which the process may grow within the window before it is asked who holds what."""

HELD_BYTES_MAX: Final = IN_FLIGHT_BYTES_MAX + FRAME_BYTES_MAX
"""Held for one connection at all: what a client may have in flight, and a frame. A loopback brings
in another 20 MiB until that is noticed on a busy machine, and all of it has to stay below the
64 MiB that are promised."""

RECEIVE_BUFFER_BYTES: Final = 64 * 1024
"""The kernel's, of each connection: what still comes in of one that has to wait is up to four times
as much. 680 MB/s over a loopback, 1.3 MB/s over 50 ms."""

ALL_HELD_BYTES_FREE: Final = 6 * MIB
"""Held for all together before anybody has to wait."""

NARROW_BYTES: Final = 8 * 1024
"""Of everybody meanwhile: who comes then brings in 32 KiB before it is noticed."""

HELD_BYTES_FREE: Final = 64 * 1024
"""Held for one that never has to wait."""

GOING_ON: Final = 2
"""Connections that go on while the others wait."""

WAIT_S_MAX: Final = 1.0
"""For how long a connection has to wait before it is cut, or may keep others waiting and bring in
nothing."""

TRIM_BYTES: Final = 2 * MIB
TRIM_EVERY_S: Final = 0.02
SIEGE_S: Final = 1.0
"""What is free in the heap meanwhile and for a second after, beyond which it is given back, and how
often at the most."""

ALL_HELD_BYTES_MAX: Final = 48 * MIB
"""Held for all together before the largest are cut."""

STALE_BYTES_MAX: Final = SOCKET_FRAME_BYTES_MAX + MIB
"""Held for one connection though the door has read all that was whole: a frame and no more."""

AMPLIFIED_BYTES_MIN: Final = 64 * 1024
AMPLIFIED_GROWTH_BYTES_MAX: Final = 16 * MIB
"""A part of no bytes takes two on the wire and 64 here: where the process has grown by so much more
than came in since what is not whole of a connection began, that one is taken for the reason, if
most is held for it and it is not little."""

SLACK_BYTES: Final = 16 * 1024  # greeting and handshake
PINGS_BYTES_A_SECOND: Final = 100
COUNT_LOOKS: Final = 25
"""Connections are counted every so many looks."""

_TCP_INFO_BYTES: Final = 136
_RECEIVED: Final = struct.Struct("=128xQ")  # tcp_info.tcpi_bytes_received


class Known(Protocol):
    """A peer of the door, as far as the guard needs it."""

    taken_bytes: int
    refused: bool
    met_at: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What the door has done so far: how often it had nothing left to read, whether it waits for
    something to read now, and bytes read."""

    emptied: int
    waiting: bool
    taken_bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """One connection: its descriptor in this process, and what is held for it.

    `stale_bytes`: of that, what was there already before the door had nothing left to read.
    `own_bytes`: the process had so much beyond what had come in when it was read last.
    """

    descriptor: int
    inode: int
    received_bytes: int
    held_bytes: int
    taken_bytes: int
    known: Known | None
    stale_bytes: int = 0
    own_bytes: int = 0


class Guard(Lookout):
    """Looks until stopped.

    Args:
        port: the door's.
        reading: what the door has done so far. Called in this thread.
        peers: those the door has met, by the inode of their connection. Called in this thread.
        connections_max: beyond these, who has not sent a message yet is cut.
    """

    def __init__(
        self,
        port: int,
        reading: Callable[[], Reading],
        peers: Callable[[], Mapping[int, Known]],
        *,
        connections_max: int,
    ) -> None:
        super().__init__("palyra-guard")
        self._port = port
        self._reading = reading
        self._peers = peers
        self._connections_max = connections_max
        self._window: deque[int] = deque(maxlen=WINDOW_LOOKS)
        self._before: dict[int, Held] = {}
        self._narrow: set[int] = set()
        self._waiting: dict[int, float] = {}
        self._going: dict[int, tuple[float, int]] = {}
        self._rest_bytes = 0
        self._trimmed_at = self._narrow_at = -inf
        self._emptied = 0
        self._own_bytes = 0
        self._alert = False
        self._sparing = Sparing(log)
        self.cut = 0
        """Connections that were shut."""

    def _run(self) -> None:
        looks = 0
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            while not self._leave.wait(LOOK_AGAIN_S if self._alert else LOOK_S):
                looks += 1
                try:
                    self.look(_resident_bytes(statm.fileno()), count=looks % COUNT_LOOKS == 0)
                except Exception:
                    log.exception("the guard of the door could not look")

    def look(self, resident_bytes: int, *, count: bool) -> None:
        """One look: `resident_bytes` is the process's size now; `count`: count the connections."""
        reading = self._reading()
        self._window.append(resident_bytes)
        grown = resident_bytes - min(self._window)
        if self._narrow:
            self._narrow_at = time.monotonic()
        besieged = time.monotonic() < self._narrow_at + SIEGE_S
        self._alert = grown > ALERT_BYTES or besieged
        if not self._alert:
            self._rest_bytes = resident_bytes
        crowded = count and descriptors.lowest_free() > self._connections_max
        if grown <= GROWTH_BYTES_MAX and not crowded and not besieged:
            self._before.clear()
            return
        emptied = reading.waiting or reading.emptied != self._emptied
        connections = list(self._all())
        held_bytes = sum(one.held_bytes for one in connections)
        self._own_bytes = resident_bytes - reading.taken_bytes - held_bytes
        connections = [self._aged(one, emptied) for one in connections]
        self._before = {one.inode: one for one in connections}
        self._emptied = reading.emptied
        if grown > GROWTH_BYTES_MAX or besieged:
            self._let_wait(connections)
            if besieged:
                self._give_back(resident_bytes, held_bytes)
            self._cut_who_holds_too_much(connections)
        if crowded:
            strangers = [one for one in connections if one.known is None]
            for one in strangers[: max(0, len(connections) - self._connections_max)]:
                self._shut(one, "there are too many connections")

    def _aged(self, one: Held, emptied: bool) -> Held:
        before = self._before.get(one.inode)
        if before is None or before.known is not one.known:
            return replace(one, own_bytes=self._own_bytes)
        same = one.taken_bytes == before.taken_bytes and one.inode not in self._waiting
        one = replace(one, own_bytes=before.own_bytes if same else self._own_bytes)
        if not emptied:
            return one
        stale = before.held_bytes - (one.taken_bytes - before.taken_bytes)
        return replace(one, stale_bytes=max(0, min(stale, one.held_bytes)))

    def _let_wait(self, connections: list[Held]) -> None:
        """While too much is held, who holds more than a little brings in no more, but for those
        whose message is the nearest to being whole."""
        much = sum(one.held_bytes for one in connections) > ALL_HELD_BYTES_FREE
        large = [one for one in connections if much and one.held_bytes > HELD_BYTES_FREE]
        unfinished = sorted(large, key=lambda one: -one.stale_bytes)
        going = {one.inode for one in unfinished[:GOING_ON] if one.stale_bytes > 0}
        waiting = {one.inode for one in large} - going
        narrow = {one.inode for one in connections if much} - going
        for one in connections:
            if one.inode in narrow:
                _narrow(one, NARROW_BYTES, 1 if one.inode in waiting else NARROW_BYTES)
            elif one.inode in self._narrow:
                _narrow(one, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFER_BYTES)
        self._narrow = narrow
        now = time.monotonic()
        self._waiting = {inode: self._waiting.get(inode, now) for inode in waiting}
        self._going = {
            one.inode: self._moved_at(one) for one in unfinished[:GOING_ON] if one.inode in going
        }

    def _give_back(self, resident_bytes: int, held_bytes: int) -> None:
        """Have what is free in the heap given back: libzmq takes room for a whole frame, and what
        frames have left behind is not all found again."""
        now = time.monotonic()
        free_bytes = resident_bytes - self._rest_bytes - held_bytes
        if _trim is None or free_bytes < TRIM_BYTES or now < self._trimmed_at + TRIM_EVERY_S:
            return
        _trim(0)
        self._trimmed_at = now

    def _moved_at(self, one: Held) -> tuple[float, int]:
        """When it brought something in last, and what it had brought in then."""
        before = self._going.get(one.inode)
        if before is None or before[1] != one.received_bytes:
            return time.monotonic(), one.received_bytes
        return before

    def _cut_who_holds_too_much(self, connections: list[Held]) -> None:
        rest: list[Held] = []
        late = time.monotonic() - WAIT_S_MAX
        for one in connections:
            moved_at, _ = self._going.get(one.inode, (inf, 0))
            if self._waiting.get(one.inode, inf) < late:
                self._shut(one, "too much of all connections together is not read yet")
            elif one.inode in self._waiting:
                rest.append(replace(one, stale_bytes=0))  # not by its own fault
            elif self._waiting and moved_at < late:
                self._shut(one, "others wait for it to go on")
            elif one.held_bytes > HELD_BYTES_MAX:
                self._shut(one, f"{one.held_bytes >> 20} MiB of it are not read yet")
            elif one.stale_bytes > STALE_BYTES_MAX:
                self._shut(one, f"{one.stale_bytes >> 20} MiB of it are no whole message")
            else:
                rest.append(one)
        rest.sort(key=lambda one: (-one.stale_bytes, -one.held_bytes))
        held = sum(one.held_bytes for one in rest)
        all_there = len(rest) == len(connections)
        for one in rest:
            costs_bytes = self._own_bytes - one.own_bytes
            amplified = all_there and costs_bytes > AMPLIFIED_GROWTH_BYTES_MAX
            if amplified and one.stale_bytes > AMPLIFIED_BYTES_MIN:
                why = f"{one.stale_bytes >> 10} KiB of it, which cost more, are no whole message"
            elif held > ALL_HELD_BYTES_MAX:
                why = f"{held >> 20} MiB of all together are not read yet"
            else:
                break
            self._shut(one, why)
            held, all_there = held - one.held_bytes, False

    def _all(self) -> Iterator[Held]:
        """Every connection of the door."""
        peers = self._peers()
        for descriptor in descriptors.open_ones():
            with suppress(OSError):
                found = os.fstat(descriptor)
                if not stat.S_ISSOCK(found.st_mode):
                    continue
                with descriptors.borrowed(descriptor) as own:
                    if not self._is_ours(own):
                        continue
                    known = peers.get(found.st_ino)
                    received = received_bytes(own)
                    held, taken = received - SLACK_BYTES, 0
                    if known is not None:
                        known.taken_bytes = min(known.taken_bytes, received)  # no credit
                        age_s = time.monotonic() - known.met_at
                        taken = known.taken_bytes
                        held -= taken + int(age_s * PINGS_BYTES_A_SECOND)
                    yield Held(descriptor, found.st_ino, received, max(0, held), taken, known)

    def _is_ours(self, own: sockets.socket) -> bool:
        return (
            own.family in (sockets.AF_INET, sockets.AF_INET6)
            and own.type == sockets.SOCK_STREAM
            and own.getsockname()[1] == self._port
            and not own.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN)
        )

    def _shut(self, one: Held, why: str) -> None:
        with suppress(OSError), descriptors.borrowed(one.descriptor) as own:
            if descriptors.is_still(one.descriptor, one.inode):
                address = own.getpeername()[0]
                self._sparing.warn("a connection from %s is cut off: %s", address, why)
                if one.known is not None:
                    one.known.refused = True  # what is whole of it is read and dropped
                own.shutdown(sockets.SHUT_RDWR)
                self.cut += 1


def _narrow(one: Held, buffer_bytes: int, window_bytes: int) -> None:
    """What its peer may send ahead. Again and again: the kernel forgets a window when what comes
    changes in size, and one that has been offered is not taken back."""
    with suppress(OSError), descriptors.borrowed(one.descriptor) as own:
        if descriptors.is_still(one.descriptor, one.inode):
            own.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, buffer_bytes)
            own.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_WINDOW_CLAMP, window_bytes)


def received_bytes(own: sockets.socket) -> int:
    """What the kernel has acknowledged to the other side since the connection was made."""
    info = own.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _TCP_INFO_BYTES)
    return int(_RECEIVED.unpack(info)[0]) if len(info) >= _TCP_INFO_BYTES else 0


def _resident_bytes(statm: int) -> int:
    return int(os.pread(statm, _STATM_BYTES_MAX, 0).split()[1]) * _PAGE_BYTES


_STATM_BYTES_MAX: Final = 256
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

_trim: Final[Any] = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""The C library's, where it has one."""
