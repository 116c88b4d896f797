"""A ROUTER's messages, a round at a time: what is there, and as many replies as it takes.

Compiled (`_swift_door.c`) a round is one call each way, in which the interpreter's lock is given
back once; else pyzmq is asked part by part, which is what either of the two means.

Only compiled there is a surplus: what a round takes no more, received all the same so that it does
not age unseen, of which `sift` refuses the plain appends that are over their sender's quota.
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
    _swift = _swift_door if _swift_door.VERSION == 2 else None

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


SURPLUS_FRAMES_MAX: Final = 2_048
SURPLUS_BYTES_MAX: Final = 4 * 1024 * 1024


class Sender(NamedTuple):
    """A connection with frames in the surplus: so many plain appends, which have so many bytes
    together. `origin` as in `Arrival`."""

    identity: bytes
    delimited: bool
    origin: int
    plain: int
    plain_bytes: int


class Surplus(NamedTuple):
    """What was there beyond a round, for `sift`."""

    frames: Any
    senders: list[Sender]


class Left(NamedTuple):
    """What was not taken in of a sender's surplus: its `refused` are among `frames`. `large`: of
    these have so many seven bytes more around them. `status`: SENT, FULL: its pipe takes no more,
    or GONE."""

    refused: int
    frames: int
    frame_bytes: int
    large: int
    status: int


SENT, FULL, GONE = 0, 1, 2


class Refusal(NamedTuple):
    """An answer in parts: `head`, the request's id, `middle`, and the milliseconds to wait:
    `wait_ms` at first, for each unit of load `load_ms` more, at most `wait_ms_max`."""

    head: bytes
    middle: bytes
    wait_ms: float
    load_ms: float
    wait_ms_max: float


class Sifted(NamedTuple):
    """What is to be looked at, in its order; of each sender what is not; replies that were not
    sent, each with its sender's place; and how long who was refused last is to wait."""

    came: list[Arrival]
    left: list[Left]
    aside: list[tuple[int, bytes]]
    wait_ms: float


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
        arrivals, _, _ = compiled.receive(socket.underlying, frames_max, bytes_max)
        return arrivals  # type: ignore[no-any-return] # tuples, field by field
    return receive_plainly(socket, frames_max, bytes_max)


def receive_all(
    socket: "zmq.Socket[bytes]", frames_max: int, bytes_max: int, append_bytes_max: int
) -> tuple[list[Arrival], bool, Surplus | None]:
    """As `receive`; whether nothing is left; and the surplus, whose plain appends have at most
    `append_bytes_max`. Only where it is `compiled`."""
    came, empty, surplus = compiled.receive(
        socket.underlying, frames_max, bytes_max,
        SURPLUS_FRAMES_MAX, SURPLUS_BYTES_MAX, append_bytes_max,
    )  # fmt: skip
    if surplus is None:
        return came, empty, None
    frames, senders = surplus
    return came, empty, Surplus(frames, [Sender(*one) for one in senders])


def sift(
    socket: "zmq.Socket[bytes]", surplus: Surplus, quotas: list[int], refusal: Refusal
) -> Sifted:
    """Take in the first plain appends of each sender, up to its quota, with all that is none, and
    refuse the others. A sender with a negative quota is not heard at all."""
    came, left, aside, wait_ms = compiled.sift(socket.underlying, surplus.frames, quotas, *refusal)
    return Sifted(came, [Left(*one) for one in left], aside, wait_ms)


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
