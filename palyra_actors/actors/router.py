"""A ROUTER's messages, a round at a time: what is there, and as many replies as it takes.

Compiled (`_swift_door.c`) a round is one call each way, in which the interpreter's lock is given
back once; else pyzmq is asked part by part, which is what either of the two means.

Only compiled there is a `Porter` (`_swift_porter.c`): a thread that receives while the loop is busy
with a round, and refuses the plain appends for which there is no room.
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
    _swift = _swift_door if _swift_door.VERSION == 4 else None

_send: Final = BackendSocket.send
_receive: Final[Any] = BackendSocket.recv
_DONTWAIT: Final = int(zmq.DONTWAIT)
_MORE: Final = int(zmq.SNDMORE | zmq.DONTWAIT)
# pyzmq's own methods wrap these two in checks for options that a ROUTER does not have: two sends
# take 8.3 µs with and 2.4 µs without, and asking for RCVMORE takes 2.3 µs, which the flag of a
# received part saves (bench/bench_codec.py).

_FUNCTIONS: Final = (
    "zmq_msg_init", "zmq_msg_recv", "zmq_msg_data", "zmq_msg_size", "zmq_msg_more", "zmq_msg_get",
    "zmq_msg_close", "zmq_send", "zmq_errno", "zmq_getsockopt",
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


class Refused(NamedTuple):
    """What the porter did not take in of a connection's plain appends: so many, which have so many
    bytes together, and of these have `large` seven bytes more around them. `origin` as in
    `Arrival`. `status`: SENT, FULL: its pipe takes no more, or GONE."""

    identity: bytes
    delimited: bool
    origin: int
    frames: int
    frame_bytes: int
    large: int
    status: int


SENT, FULL, GONE = 0, 1, 2


class Collected(NamedTuple):
    """What has come, of each since when it may have been there and whether it was taken in within
    what was `Opening.room`; whether nothing is left; who was refused; the replies of these that
    were not sent; and when the last of them may be served, monotonic seconds."""

    came: "list[tuple[Arrival, float, bool]]"
    empty: bool
    refused: list[Refused]
    aside: "list[Reply]"
    served_at: float


class Opening(NamedTuple):
    """What may come in: see `admission`. Times are monotonic seconds.

    Attributes:
        sifts: plain appends beyond the room are refused; else everything is taken in.
        room: load that may be queued before a write that comes now.
        most: the same for a connection that has less than an equal share of the room.
        before: load that is.
        through_at: when what is under way is through.
        served_at: when the last who was refused so far may be served.
        load_s: what a unit of load takes.
        called: the thread works while the loop does.
        accounts: the load that each connection has under way.
    """

    sifts: bool
    room: float
    most: float
    before: float
    through_at: float
    served_at: float
    load_s: float
    called: bool
    accounts: list[tuple[bytes, bool, float]]


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


def _addresses() -> tuple[int, ...]:
    """Where the functions of the libzmq that pyzmq has loaded are."""
    from zmq.backend.cython import _zmq

    library = ctypes.CDLL(_zmq.__file__)
    found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _FUNCTIONS]
    return tuple(address or 0 for address in found)


def _compiled() -> Any:
    """The compiled half, ready; None: there is none, or no libzmq that it could call."""
    if _swift is not None:
        try:
            _swift.setup(_addresses())
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
        return compiled.receive(  # type: ignore[no-any-return] # tuples, field by field
            socket.underlying, frames_max, bytes_max
        )
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


def send(socket: "zmq.Socket[bytes]", replies: list[Reply], porter: "Porter | None" = None) -> int:
    """How many of the replies were taken, from the first on. Why the next one was not,
    `send_plainly` says when it is asked to send that one."""
    if compiled is not None:
        sent, _ = compiled.send(socket.underlying, replies, porter and porter.handle)
        return int(sent)
    for sent, reply in enumerate(replies):
        try:
            send_plainly(socket, *reply)
        except zmq.ZMQError:
            return sent
    return len(replies)


def send_plainly(
    socket: "zmq.Socket[bytes]",
    identity: bytes,
    delimited: bool,
    frame: bytes,
    porter: "Porter | None" = None,
) -> None:
    """Send one reply. Raises zmq.Again: the peer's pipe is full, and ZMQError, EHOSTUNREACH: it is
    gone; nothing of it was sent."""
    if porter is not None:
        reply = (identity, delimited, frame)
        sent, failure = compiled.send(socket.underlying, [reply], porter.handle)
        if not sent:
            raise zmq.Again() if failure == zmq.EAGAIN else zmq.ZMQError(failure)
        return
    _send(socket, identity, _MORE)
    if delimited:
        _send(socket, b"", _MORE)
    _send(socket, frame, _DONTWAIT)


class Porter:
    """Receives in the loop's stead while that is busy. Only where this is `compiled`; the socket is
    used through it from then on. All calls are the loop's.

    Args:
        append_bytes_max: of a plain append; what is larger is for the loop to look at.
        head, middle: of a refusal, before its request's id and between that and its milliseconds.
        wait_s_max: the most that anyone who is refused is told to wait.
        name: of its thread, 15 bytes at most.
    """

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        *,
        append_bytes_max: int,
        head: bytes,
        middle: bytes,
        wait_s_max: float,
        name: str,
    ) -> None:
        self.descriptor = int(socket.getsockopt(zmq.FD))
        """What to sleep on: it may be readable though nothing has come."""
        self.handle = compiled.porter(
            socket.underlying, self.descriptor, append_bytes_max, head, middle, wait_s_max, name
        )
        self.bell = int(compiled.bell(self.handle))
        """What to sleep on while the thread is called: something has been taken in."""

    def collect(self, frames_max: int) -> Collected:
        """What has come, and up to so many frames that are there still."""
        came, empty, refused, aside, served_at = compiled.collect(self.handle, frames_max)
        return Collected(came, empty, [Refused(*one) for one in refused], aside, served_at)

    def tell(self, opening: Opening) -> None:
        """What may come in from now on."""
        compiled.tell(self.handle, *opening)

    def rest(self) -> bool:
        """Whether nothing is left. While the thread is called, what is refused is no reason to
        wake."""
        return bool(compiled.rest(self.handle))

    def wake(self, since: float) -> None:
        """The loop goes on; what has come meanwhile counts from then."""
        compiled.wake(self.handle, since)

    def close(self) -> None:
        """End the thread; the socket is the caller's again. What it had taken in is dropped."""
        compiled.close(self.handle)
