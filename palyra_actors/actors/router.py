"""A ROUTER's messages, a round at a time: what is there, and as many replies as it takes.

Compiled (`_swift_door.c`) a round is one call each way, in which the interpreter's lock is given
back once; else pyzmq is asked part by part, which is what either of the two means.
"""

import ctypes
from typing import Any, Final, NamedTuple, TypeAlias

import zmq
from zmq.backend import Socket as BackendSocket

try:
    from palyra_actors.actors import _swift_door
except ImportError:  # no compiler when it was installed, or none for this Python
    _swift: Any = None
else:
    _swift = _swift_door if _swift_door.VERSION == 1 else None

_send: Final = BackendSocket.send
_receive: Final[Any] = BackendSocket.recv
_DONTWAIT: Final = int(zmq.DONTWAIT)
_MORE: Final = int(zmq.SNDMORE | zmq.DONTWAIT)
# pyzmq's own methods wrap these two in checks for options that a ROUTER does not have: two sends
# take 8.3 µs with and 2.4 µs without, and asking for RCVMORE takes 2.3 µs, which the flag of a
# received part saves (bench/bench_codec.py).

_FUNCTIONS: Final = (
    "zmq_msg_init", "zmq_msg_recv", "zmq_msg_data", "zmq_msg_size", "zmq_msg_more", "zmq_msg_get",
    "zmq_msg_close", "zmq_send", "zmq_errno",
)  # fmt: skip


class Arrival(NamedTuple):
    """A message: who sent it (`delimited`: with an empty frame before it, as REQ does), its one
    frame, or `junk`: it has more. `origin` is what `descriptor` and `key` tell its connection by.
    """

    identity: bytes
    delimited: bool
    frame: bytes
    junk: bool
    origin: "int | zmq.Frame"


Reply: TypeAlias = tuple[bytes, bool, bytes]
"""To whom, whether behind an empty frame, and what."""


def descriptor(origin: "int | zmq.Frame") -> int:
    """libzmq's descriptor of the connection. Raises ZMQError, ValueError: it has none."""
    number = origin if isinstance(origin, int) else int(origin.get(zmq.SRCFD))
    if number < 0:
        raise ValueError("no descriptor")
    return number


def key(origin: "int | zmq.Frame") -> str | None:
    """The public key of the connection's handshake; None: there was none."""
    try:
        return None if isinstance(origin, int) else str(origin.get("User-Id"))
    except zmq.ZMQError:
        return None


def _addresses() -> list[int]:
    """Where the functions of the libzmq that pyzmq has loaded are."""
    from zmq.backend.cython import _zmq

    library = ctypes.CDLL(_zmq.__file__)
    found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _FUNCTIONS]
    return [address or 0 for address in found]


def _compiled() -> Any:
    """The compiled half, ready; None: there is none, or no libzmq that it could call."""
    if _swift is not None:
        try:
            _swift.setup(*_addresses())
        except (ImportError, OSError, AttributeError, ValueError):  # pyzmq is built otherwise
            return None
    return _swift


compiled: Any = _compiled()


def receive(
    socket: "zmq.Socket[bytes]", frames_max: int, bytes_max: int, *, keys: bool
) -> list[Arrival]:
    """What has arrived, up to so many messages and about so many bytes. `keys`: `key` will be asked
    about them."""
    if compiled is not None and not keys:
        arrivals, _ = compiled.receive(socket.underlying, frames_max, bytes_max)
        return arrivals  # type: ignore[no-any-return] # tuples, field by field
    return receive_plainly(socket, frames_max, bytes_max)


def receive_plainly(socket: "zmq.Socket[bytes]", frames_max: int, bytes_max: int) -> list[Arrival]:
    """`receive`, part by part."""
    arrivals: list[Arrival] = []
    while bytes_max > 0 and len(arrivals) < frames_max:
        try:
            identity = _receive(socket, _DONTWAIT)
        except zmq.Again:
            break
        part = _receive(socket, _DONTWAIT, False)
        frame, delimited = part.bytes, False
        if part.more and not frame:
            delimited = True
            part = _receive(socket, _DONTWAIT, False)
            frame = part.bytes
        junk = bool(part.more)
        if junk:
            while _receive(socket, _DONTWAIT, False).more:
                pass
        bytes_max -= len(frame) + 1
        arrivals.append(Arrival(identity, delimited, frame, junk, part))
    return arrivals


def send(socket: "zmq.Socket[bytes]", replies: list[Reply]) -> int:
    """How many of the replies were taken, from the first on. Why the next one was not,
    `send_plainly` says when it is asked to send that one."""
    if compiled is not None:
        return int(compiled.send(socket.underlying, replies))
    for sent, reply in enumerate(replies):
        try:
            send_plainly(socket, *reply)
        except zmq.ZMQError:
            return sent
    return len(replies)


def send_plainly(
    socket: "zmq.Socket[bytes]", identity: bytes, delimited: bool, frame: bytes
) -> None:
    """Send one reply. Raises zmq.Again: the peer's pipe is full, and ZMQError, EHOSTUNREACH: it is
    gone; nothing of it was sent."""
    _send(socket, identity, _MORE)
    if delimited:
        _send(socket, b"", _MORE)
    _send(socket, frame, _DONTWAIT)
