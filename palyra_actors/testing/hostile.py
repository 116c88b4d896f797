"""Attackers of a door over TCP, for tests and benches: strangers, and insiders gone wrong.

Each attack is a context: it does its worst, then what it has opened stays open until the end.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import zmq
from zmq.utils.monitor import recv_monitor_message

KIB: Final = 1024
MIB: Final = 1024 * KIB
DEADLINE_S: Final = 30.0
SENDERS: Final = 8
SOCKETS_A_CONTEXT: Final = 1000  # libzmq's own limit is 1023

GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47)
"""ZMTP 3.1, CURVE, a client."""

_LONG_COMMAND: Final = 0x06


@dataclass(frozen=True, slots=True)
class Target:
    """A door: where it is, and the socket options of somebody who may come in."""

    endpoint: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.endpoint.removeprefix("tcp://").rpartition(":")
        return host, int(port)


@dataclass(slots=True)
class Outcome:
    """What became of an attack: connections that were opened, and those that were cut."""

    opened: int = 0
    cut: int = 0


Attack = Callable[[Target, int], contextlib.AbstractContextManager[Outcome]]


def _strangers(say: Callable[[int], bytes]) -> Attack:
    @contextlib.contextmanager
    def attack(target: Target, count: int) -> Iterator[Outcome]:
        outcome = Outcome()
        with contextlib.ExitStack() as stack:
            for number in range(count):
                try:
                    own = stack.enter_context(socket.create_connection(target.address, DEADLINE_S))
                    outcome.opened += 1
                    own.sendall(say(number))
                except OSError:
                    outcome.cut += 1
            yield outcome

    return attack


def _long_handshake(number: int) -> bytes:
    del number
    size = 8 * MIB - 1
    return GREETING + bytes([_LONG_COMMAND]) + struct.pack(">Q", size) + bytes(size - KIB)


def _insider(send: Callable[["zmq.Socket[bytes]", int], None]) -> Attack:
    @contextlib.contextmanager
    def attack(target: Target, count: int) -> Iterator[Outcome]:
        outcome = Outcome(opened=1)
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(_dealer(zmq.Context.instance(), target))
            monitor = own.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            stack.callback(monitor.close)
            stack.callback(own.disable_monitor)
            send(own, count)
            outcome.cut = int(_cut_or_answered(own, monitor))
            yield outcome

    return attack


def _cut_or_answered(own: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]") -> bool:
    """Whether the connection was cut; no: the engine has answered what was sent last."""
    poller = zmq.Poller()
    poller.register(own, zmq.POLLIN)
    poller.register(monitor, zmq.POLLIN)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for ready, _ in poller.poll(100):
            if ready is monitor:
                recv_monitor_message(monitor)
                return True
            if LAST in own.recv():
                return False
    raise TimeoutError("neither cut nor answered")


LAST: Final = b"the last one"


def _last(own: "zmq.Socket[bytes]") -> None:
    own.send(b"\x83\xa1v\x01\xa2id\xac" + LAST + b"\xa2op\xacjournal.head")


def _parts(part: bytes) -> Callable[["zmq.Socket[bytes]", int], None]:
    def send(own: "zmq.Socket[bytes]", count: int) -> None:
        for _ in range(count):
            own.send(part, zmq.SNDMORE)
        own.send(part)  # at the end, and only there, the sender lets go of it
        _last(own)

    return send


def _frames(frame: bytes) -> Callable[["zmq.Socket[bytes]", int], None]:
    def send(own: "zmq.Socket[bytes]", count: int) -> None:
        for _ in range(count):
            own.send(frame, copy=False)
        _last(own)

    return send


@contextlib.contextmanager
def _crowd(target: Target, count: int) -> Iterator[Outcome]:
    """Insiders who come in, say one word each and stay."""
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        for number in range(count):
            if number % SOCKETS_A_CONTEXT == 0:
                context = stack.enter_context(zmq.Context())
            own = stack.enter_context(_dealer(context, target))
            _last(own)
            if own.poll(int(DEADLINE_S * 1000)):
                own.recv()
                outcome.opened += 1
            else:
                outcome.cut += 1
        yield outcome


def _crowd_of_frames(frame: bytes) -> Attack:
    """Connections that all send three whole frames at once, and read nothing. Without keys."""

    @contextlib.contextmanager
    def attack(target: Target, count: int) -> Iterator[Outcome]:
        outcome = Outcome()
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        hello = GREETING[:12] + b"NULL" + bytes(48) + bytes((4, len(ready))) + ready
        frames = (b"\x02" + struct.pack(">Q", len(frame)) + frame) * 3
        with contextlib.ExitStack() as stack:
            crowd = [
                stack.enter_context(socket.create_connection(target.address, DEADLINE_S))
                for _ in range(count)
            ]
            for own in crowd:
                own.sendall(hello)
            outcome.opened = count

            def send(own: socket.socket) -> bool:
                try:
                    own.sendall(frames)
                except OSError:
                    return False
                return True

            with ThreadPoolExecutor(SENDERS) as pool:
                outcome.cut = count - sum(pool.map(send, crowd))
            yield outcome

    return attack


@contextlib.contextmanager
def _dealer(
    context: "zmq.Context[zmq.Socket[bytes]]", target: Target
) -> Iterator["zmq.Socket[bytes]"]:
    own = context.socket(zmq.DEALER)
    own.linger = 0
    own.set(zmq.SNDHWM, 0)
    own.set(zmq.RECONNECT_IVL, -1)
    for name, value in target.options.items():
        own.setsockopt(getattr(zmq, name), value)
    try:
        own.connect(target.endpoint)
        yield own
    finally:
        own.close()


MANY: Final = 4_190_000
"""One-byte values that a frame has room for."""


def _many(item: bytes) -> bytes:
    return b"\xdd" + MANY.to_bytes(4, "big") + item * MANY


def _request(op: bytes, body: bytes) -> bytes:
    """One of id 1."""
    return b"\x84\xa1v\x01\xa2id\x01\xa2op" + bytes((0xA0 | len(op),)) + op + b"\xa4body" + body


_NILS: Final = _request(b"journal.append", b"\x81\xa6events" + _many(b"\xc0"))

HOSTILE_FRAMES: Final[Mapping[str, bytes]] = {
    "zeros": bytes(4 * MIB - 100),
    "nils as events": _NILS,
    "nils in a payload": _request(
        b"journal.append", b"\x81\xa6events\x91\x81\xa7payload" + _many(b"\xc0")
    ),
    "empty maps as a state": _request(b"canvas.create", b"\x81\xa5state" + _many(b"\x80")),
    "empty texts as kinds": _request(b"journal.read", b"\x81\xa5kinds" + _many(b"\xa0")),
    "more than there is": _request(
        b"journal.read", b"\x81\xa5kinds\xdd\xff\xff\xff\xff" + b"\xa0" * MANY
    ),
    "nils as a key": b"\x81" + _many(b"\xc0") + b"\xc0",
    "empty maps beside broken text": _request(
        b"memory.ingest",
        b"\x83\xa4tags\x91\xa1a\xa7content\xa1\xff\xa4tags" + _many(b"\x80"),
    ),
    "nils behind a long key": _request(
        b"journal.append",
        b"\x82\xda\x13\x88" + b"x" * 5_000 + b"\xc0\xa6events\xdd"
        + (MANY - 6_000).to_bytes(4, "big") + b"\xc0" * (MANY - 6_000),
    ),
    "a long word": _request(
        b"cron.finish",
        b"\x81\xa6status\xdb" + MANY.to_bytes(4, "big")
        + b"x" * (MANY - 4) + "\N{GRINNING FACE}".encode(),
    ),
}  # fmt: skip
"""Frames of 4 MiB that a decoder would make large or slow: each is refused."""

STRANGERS: Final[Mapping[str, Attack]] = {
    "silence": _strangers(lambda _: b""),
    "half a greeting": _strangers(lambda _: GREETING[:20]),
    "a greeting and silence": _strangers(lambda _: GREETING),
    "junk": _strangers(lambda number: Random(number).randbytes(64 * KIB)),
    "another protocol": _strangers(lambda _: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100),
}
"""Who has no key and need not have one; by the connection."""

FLOODS: Final[Mapping[str, Attack]] = {
    "handshakes of 8 MiB": _strangers(_long_handshake),
}
"""By the connection, too; each costs 8 MiB on the way."""

INSIDERS: Final[Mapping[str, tuple[Attack, int]]] = {
    "parts of a KiB": (_insider(_parts(b"x" * KIB)), 200_000),
    "parts of no bytes": (_insider(_parts(b"")), 2_000_000),
    "frames of 4 MiB": (_insider(_frames(bytes(4 * MIB - 100))), 100),
    "frames of 9 MiB": (_insider(_frames(bytes(9 * MIB))), 10),
    "frames that take long to refuse": (_insider(_frames(_NILS)), 20),
}
"""Who has a key, or needs none; and how many of them make one attack."""

CROWD: Final[Attack] = _crowd
CROWDS_OF_FRAMES: Final[Mapping[str, Attack]] = {
    name: _crowd_of_frames(frame) for name, frame in HOSTILE_FRAMES.items()
}
