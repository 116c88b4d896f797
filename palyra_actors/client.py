"""A client of an engine in another process: ZeroMQ and MessagePack, nothing of the engine.

    with Client() as engine:
        session = engine.sessions.open()
        session.append("message_received", {"text": "hello"}, actor="user")

One thread owns the socket; callers in any thread wait for their own requests. A connection is one
socket, from its first handshake to its end, and then there is a new one: a frame given to a lost
connection cannot turn up on the next one behind frames that were sent later.

    connecting ──handshake──▶ up ──closed, or silent for a heartbeat──▶ lost
        ▲  └────refused, or silent────────────────────────────────────▶  │
        └──────────────────────── after a pause ─────────────────────────┘

Where an engine says that it does not know the key, calls are tried for two seconds more and then
told; where none is there, or it does not say why, until their deadlines.
"""

import contextlib
import os
import random
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from palyra_actors.api.calls import Calls, CallsStatistics
from palyra_actors.api.operations import TIMEOUT_S_DEFAULT, Operations
from palyra_actors.errors import Invalid
from palyra_actors.keys import Pair, read_client_key, read_public_key
from palyra_actors.limits import FRAME_BYTES_MAX

ENDPOINT_DEFAULT: Final = "tcp://127.0.0.1:7447"
SILENCE_S_DEFAULT: Final = 10.0

HEARTBEAT_MS: Final = 2_000
HEARTBEAT_TIMEOUT_MS: Final = 6_000  # a peer that is dead or unplugged is noticed after this long
CONNECT_MS_MAX: Final = 5_000
RECONNECT_S_FIRST: Final = 0.05
RECONNECT_S_MAX: Final = 1.0
LINGER_MS: Final = 200  # what close leaves the last frames, such as an unsubscribe
RECEIVE_FRAMES_MAX: Final = 64  # beyond these the engine waits; a frame is up to 4 MiB
TURN_FRAMES_MAX: Final = 256  # received in one go before it looks what there is to send

_UP: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED
_DOWN: Final = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_REFUSALS: Final[dict[int, str]] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not know this key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "one of the two has no key, or it is another engine's",
}


class Client(Operations):
    """The engine at an endpoint. Connects by itself, now or when the engine is there. Any thread.

    Args:
        endpoint: `tcp://host:port` or `ipc://path`.
        timeout_s: how long each call waits for its answer, in seconds, unless it says otherwise.
        retry: whether an engine that is `overloaded` or `unavailable` is asked again within that
            time; without, the error is raised at once.
        key_file: the secret file of whoever this is, made by `palyra-actors keys new`, where the
            engine's door is locked.
        server_key: that engine's public key, or the file it stands in; default: the one in the
            secret file. An engine without the secret half of it is not spoken to.
        silence_s: how long an attempt goes unanswered before it is sent again, in seconds.

    Raises:
        Invalid: ZeroMQ cannot read the endpoint, or a key file cannot be used.
    """

    def __init__(
        self,
        endpoint: str = ENDPOINT_DEFAULT,
        *,
        timeout_s: float = TIMEOUT_S_DEFAULT,
        retry: bool = True,
        silence_s: float = SILENCE_S_DEFAULT,
        key_file: str | Path | None = None,
        server_key: str | Path | None = None,
    ) -> None:
        keys = _keys(key_file, server_key)
        super().__init__(endpoint, timeout_s=timeout_s, silence_s=silence_s, retry=retry)
        self.endpoint = endpoint
        wire = _Wire(endpoint, self._calls, keys)
        self._calls.attach(wire, up=False)
        wire.start()
        # also at the interpreter's end, and for a client that nobody closed
        self._finalizer = weakref.finalize(self, self._calls.close)

    def close(self) -> None:
        """Stops its workers, fails whoever waits with NoReply, joins the thread. Idempotent."""
        self.cron.close()
        self._finalizer()

    def statistics(self) -> CallsStatistics:
        """Counts of requests and connections."""
        return self._calls.statistics()


class _Wire:
    """The socket, its thread and what is to be sent. A `Connection`."""

    def __init__(self, endpoint: str, calls: Calls, keys: tuple[Pair, str] | None = None) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._calls = calls
        self._context = zmq.Context(io_threads=1)
        self._outbox: deque[bytes] = deque()
        self._closing = False
        self._ending = threading.Lock()  # the thread may be gone, and its pipe, before it is woken
        self._ended = False
        self._woken = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._pause_s = RECONNECT_S_FIRST
        self._poller = zmq.Poller()
        self._poller.register(self._wake_in, zmq.POLLIN)
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._give_up_at = 0.0
        self._connect_at = 0.0
        try:
            self._connect()
        except zmq.ZMQError as reason:
            self._release()
            raise Invalid(
                f"{endpoint!r} is no endpoint: {reason.strerror}",
                field="endpoint",
                hint="tcp://host:port or ipc://path",
            ) from reason
        self._thread = threading.Thread(target=self._run, name="palyra-client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # -- any thread ---------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        self._outbox.append(frame)
        self._wake()

    def close(self) -> None:
        with self._ending:
            self._closing = True
            if not self._ended:
                self._wake(always=True)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _wake(self, *, always: bool = False) -> None:
        # one byte for any number of frames: the flag is lowered before the outbox is emptied
        if always or not self._woken:
            self._woken = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_out, b"\0")

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                ready = dict(self._poller.poll(self._patience_ms()))
                if self._wake_in in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_in, 4096)
                if self._monitor is not None and self._monitor in ready:
                    self._hear_monitor()
                if self._socket is not None and self._socket in ready:
                    self._receive()
                self._flush()
                self._look_at_the_time()
            self._flush()
        except BaseException:
            # a fault of ours: whoever waits hears at once; the thread's exception hook has the rest
            self._calls.close()
            raise
        finally:
            self._disconnect(linger_ms=LINGER_MS)
            self._release()

    def _patience_ms(self) -> int | None:
        until = self._connect_at if self._socket is None else self._give_up_at
        if until == float("inf"):
            return None
        return max(int((until - time.monotonic()) * 1000) + 1, 0)

    def _look_at_the_time(self) -> None:
        now = time.monotonic()
        if self._socket is None and now >= self._connect_at:
            try:
                self._connect()
            except zmq.ZMQError:
                self._lose()  # out of files, perhaps; later there may be some
        elif self._socket is not None and now >= self._give_up_at:
            self._lose()

    def _connect(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        self._socket = socket
        socket.linger = 0
        socket.set(zmq.SNDHWM, 0)  # bounded already, by what may be in flight
        socket.set(zmq.RCVHWM, RECEIVE_FRAMES_MAX)
        socket.set(zmq.MAXMSGSIZE, 2 * FRAME_BYTES_MAX)
        socket.set(zmq.RECONNECT_IVL, -1)  # never by itself: see the module
        socket.set(zmq.CONNECT_TIMEOUT, CONNECT_MS_MAX)
        socket.set(zmq.HANDSHAKE_IVL, CONNECT_MS_MAX)
        socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        if self._keys is not None:
            pair, server = self._keys
            socket.curve_serverkey = server.encode()
            socket.curve_publickey = pair.public.encode()
            socket.curve_secretkey = pair.secret.encode()
        self._monitor = socket.get_monitor_socket(_UP | _DOWN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._poller.register(socket, zmq.POLLIN)
        self._give_up_at = time.monotonic() + 2 * CONNECT_MS_MAX / 1000
        socket.connect(self._endpoint)

    def _hear_monitor(self) -> None:
        monitor = self._monitor
        while monitor is not None and monitor is self._monitor and monitor.poll(0):
            event = recv_monitor_message(monitor)["event"]
            if event == _UP:
                self._pause_s = RECONNECT_S_FIRST
                self._give_up_at = float("inf")
                self._calls.made()
            else:
                self._lose()
                self._calls.refused(_REFUSALS.get(event))

    def _lose(self) -> None:
        # replies that arrived before the end are still there to be read
        self._receive()
        self._calls.lost()
        self._outbox.clear()
        self._disconnect(linger_ms=0)
        self._connect_at = time.monotonic() + self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(self._pause_s * 2, RECONNECT_S_MAX)

    def _receive(self) -> None:
        socket = self._socket
        if socket is None:
            return
        for _ in range(TURN_FRAMES_MAX):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            # the frame behind an empty delimiter, or the only one; more is garbage
            self._calls.deliver(parts[-1] if len(parts) <= 2 else b"")

    def _flush(self) -> None:
        self._woken = False
        socket = self._socket
        while self._outbox and socket is not None:
            try:
                socket.send(self._outbox[0], zmq.NOBLOCK, copy=True)
            except zmq.Again:
                # no pipe any more: the monitor is about to say so, and all is sent anew
                return
            self._outbox.popleft()

    def _disconnect(self, *, linger_ms: int) -> None:
        socket, self._socket = self._socket, None
        monitor, self._monitor = self._monitor, None
        for each in (monitor, socket):
            if each is not None:
                with contextlib.suppress(KeyError):  # a connect that failed half way
                    self._poller.unregister(each)
        if socket is not None:
            socket.disable_monitor()
            socket.close(linger=linger_ms)
        if monitor is not None:
            monitor.close(linger=0)

    def _release(self) -> None:
        if self._socket is not None:
            self._disconnect(linger_ms=0)
        self._context.term()
        with self._ending:
            self._ended = True
            os.close(self._wake_in)
            os.close(self._wake_out)


def _keys(key_file: str | Path | None, server_key: str | Path | None) -> tuple[Pair, str] | None:
    """A client's pair and the engine's public key; None: it has no key. Raises Invalid."""
    if key_file is None:
        if server_key is not None:
            raise Invalid(
                "an engine's key without one's own opens nothing",
                field="key_file",
                hint="the secret file that palyra-actors keys new has made",
            )
        return None
    own = read_client_key(key_file)
    server = own.server if server_key is None else read_public_key(server_key)
    if server is None:
        raise Invalid(
            f"{key_file} does not say the engine's public key",
            field="server_key",
            hint="give it: the engine's server.pub",
        )
    return own.pair, server
