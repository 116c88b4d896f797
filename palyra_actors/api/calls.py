"""Requests in flight over one connection: who waits for which id, and what is sent again.

    start ──▶ [room] ──▶ pending ──reply──▶ answered ──▶ result
                           │  ▲                │ overloaded, unavailable: after retry_after_ms
                 lost ─────┘  └──── sent again ┘ silence: after silence_s, then twice that, …
                   └──its key is refused for a while──▶ NoReply, before the deadline

No timer and no thread of its own: the thread that waits for a call is the one that sends it
again. The connection's thread only looks whose a reply is and wakes that thread.

Sending again is safe because a request's ids are fixed before it is first sent; a request that
has none (`repeatable=False`) is sent once, and ends as NoReply when its connection is lost.
"""

import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from palyra_actors.errors import (
    InternalFault,
    Invalid,
    Malformed,
    NoReply,
    Overloaded,
    PalyraError,
    StorageUnavailable,
)
from palyra_actors.limits import IN_FLIGHT_BYTES_MAX
from palyra_actors.wire import frames

IN_FLIGHT_MAX: Final = 1024
INTERNAL_ATTEMPTS_MAX: Final = 3  # a fault that comes back every time is for a person
BACKOFF_S_FIRST: Final = 0.05
BACKOFF_S_MAX: Final = 2.0
TIMEOUT_S_MAX: Final = 1e8  # three years; what a lock can be waited for has an end
REFUSED_S_MAX: Final = 2.0
"""For how long a call waits for an engine that answers that it does not know its key. One that was
just made is known within a second; one that was taken back never is."""

TEND_S: Final = 0.002
"""How often a thread that waits for one of its calls looks after its others."""

JITTER_MAX: Final = 0.5  # of the pause; refused callers must not come back in step


class UsedAfterFork(RuntimeError):
    """This object belongs to the parent process: its threads and sockets are not in the child."""


class Connection(Protocol):
    """One way to an engine. What arrives is given to `Calls.deliver`, from any one thread."""

    def send(self, frame: bytes) -> None:
        """Takes one request frame, in order, without ever blocking. Called by any thread, under
        a lock: it does not deliver before it returns."""
        ...

    def close(self) -> None:
        """Ends it. Idempotent; nothing is delivered once it returned."""
        ...


class Stream(Protocol):
    """Who hears a stream's items. Called in the connection's thread: never blocks, never raises."""

    def item(self, frame: bytes, first_key: str | None) -> None: ...

    def ended(self, error: PalyraError | None) -> None:
        """By the engine, with its error or with `ok` (None)."""
        ...

    def lost(self) -> None:
        """Its connection is gone; whether there will be another one shows when it opens anew."""
        ...


@dataclass(frozen=True, slots=True)
class CallsStatistics:
    """Counts since the start, but for `in_flight` and `in_flight_bytes`, which are now."""

    in_flight: int
    in_flight_bytes: int
    started: int
    sent_again: int
    garbage: int
    unmatched: int
    connections: int


class Call:
    """One request on its way. `result` is called by one thread, once."""

    __slots__ = (
        "_answered",
        "_calls",
        "added",
        "answer",
        "answers",
        "attempts",
        "deadline",
        "failure",
        "frame",
        "op",
        "pause_s",
        "refusal",
        "repeatable",
        "request_id",
        "seen",
    )

    def __init__(
        self,
        calls: "Calls",
        request_id: int,
        *,
        op: str,
        frame: bytes,
        deadline: float,
        repeatable: bool,
    ) -> None:
        self._calls = calls
        # A lock that is let go is all that an Event would do here, in half of the time.
        self._answered = threading.Lock()
        self._answered.acquire()
        self.request_id = request_id
        self.op = op
        self.frame = frame
        self.added = calls.now()
        self.deadline = deadline
        self.repeatable = repeatable
        self.attempts = 0  # how often it was handed to a connection
        self.answers = 0  # how many of those were answered
        self.answer: bytes | None = None
        self.failure: PalyraError | None = None
        self.pause_s = BACKOFF_S_FIRST
        self.refusal: tuple[float, PalyraError] | None = None  # until when it is not sent again
        self.seen = False  # its answer is for `result`

    def settle(self, answer: bytes | None, failure: PalyraError | None = None) -> None:
        """Wakes the waiting thread."""
        self.answers += answer is not None
        self.answer = answer
        self.failure = failure
        with contextlib.suppress(RuntimeError):  # it was answered before
            self._answered.release()

    def result(self, beside: "Collection[Call]" = ()) -> dict[str, Any]:
        """The `ok` map.

        Args:
            beside: other calls that this thread will ask for theirs. What of them is refused
                meanwhile is sent again in its time and not only when it is asked for.

        Raises:
            PalyraError: the engine's error; NoReply where the deadline passed without one.
        """
        try:
            while True:
                if self.refusal is not None:
                    (again_at, error), self.refusal = self.refusal, None
                    wait_s = again_at - self._calls.now()
                else:
                    ok, refused = self._read(self._wait(beside))
                    if refused is None:
                        return ok
                    error, pause_s = refused, self._pause_after(refused)
                    if pause_s is None:
                        raise error
                    wait_s = pause_s
                if self._rest(wait_s, beside):
                    raise error
                self._calls.again(self)
        finally:
            self._calls.forget(self)

    def tend(self) -> None:
        """Send it again if it was refused and its time has come. Only the thread that will ask for
        the result, and does not yet."""
        if self.refusal is not None:
            if self._calls.now() >= self.refusal[0]:
                self.refusal = None
                self._calls.again(self)
            return
        if self.seen or not self._answered.acquire(False):
            return
        if self.answer is not None and frames.peek(self.answer)[1] == "err":
            with contextlib.suppress(InternalFault):
                error = self._read(self.answer)[1]
                pause_s = None if error is None else self._pause_after(error)
                if error is not None and pause_s is not None:
                    self.refusal = (self._calls.now() + pause_s, error)
                    return
        self.seen = True
        self._answered.release()

    def _read(self, answer: bytes) -> tuple[dict[str, Any], PalyraError | None]:
        try:
            return frames.read_reply(answer)
        except Malformed as reason:
            raise InternalFault(
                "the engine's reply cannot be read", detail={"outcome": "unknown"}
            ) from reason

    def _pause_after(self, error: PalyraError) -> float | None:
        """After how many seconds it is to be sent again; None: it is not."""
        if error.retryable and self.attempts > self.answers:
            # this attempt is not stored, but another one that was sent may be
            error.detail["outcome"] = "unknown"
        if not self._worth_another(error):
            return None
        asked_s = (error.retry_after_ms or 0) / 1000 or self.pause_s
        self.pause_s = min(self.pause_s * 2, BACKOFF_S_MAX)
        wait_s = self._calls.jittered(asked_s)
        return None if self._calls.now() + wait_s >= self.deadline else wait_s

    def _rest(self, seconds: float, beside: "Collection[Call]") -> bool:
        """Waits; whether it was cut short by close."""
        if not beside:
            return self._calls.pause(seconds)
        until = self._calls.now() + seconds
        while (left_s := until - self._calls.now()) > 0:
            if self._calls.pause(min(left_s, TEND_S)):
                return True
            for other in beside:
                other.tend()
        return False

    def _worth_another(self, error: PalyraError) -> bool:
        if not self._calls.retry or not error.retryable or error.elsewhere:
            return False
        if error.outcome == "unknown" and not self.repeatable:
            return False
        return not isinstance(error, InternalFault) or self.attempts < INTERNAL_ATTEMPTS_MAX

    def _wait(self, beside: "Collection[Call]") -> bytes:
        silence_s = self._calls.silence_s
        began = self._calls.now()
        while True:
            now = self._calls.now()
            left_s = self.deadline - now
            patience_s = left_s
            if silence_s is not None and self.repeatable:
                patience_s = min(left_s, began + silence_s - now)
            wait_s = min(patience_s, TEND_S) if beside else patience_s
            if self._answered.acquire(timeout=max(wait_s, 0)):
                if self.failure is not None:
                    raise self.failure
                assert self.answer is not None
                return self.answer
            if wait_s < patience_s:
                for other in beside:
                    other.tend()
                continue
            if patience_s >= left_s:
                raise self._calls.no_reply(self)
            assert silence_s is not None
            silence_s, began = silence_s * 2, self._calls.now()
            self._calls.again(self)


class Calls:
    """The requests of one client. Any thread.

    Args:
        where: what to call the other side in messages, an endpoint or a path.
        silence_s: how long an attempt may go unanswered before the request is sent again over
            the same connection, in seconds; doubled each time. None: never, for a connection
            that loses nothing.
        retry: whether `overloaded`, `unavailable` and `internal` are tried again within the
            caller's deadline; without, they are raised at once, as is what is not the engine's
            (an embedding provider that does not answer).
    """

    def __init__(
        self,
        where: str,
        *,
        silence_s: float | None = None,
        retry: bool = True,
        in_flight_max: int = IN_FLIGHT_MAX,
        in_flight_bytes_max: int = IN_FLIGHT_BYTES_MAX,
    ) -> None:
        self.where = where
        self.silence_s = silence_s
        self.retry = retry
        self._in_flight_max = in_flight_max
        self._in_flight_bytes_max = in_flight_bytes_max
        self._pid = os.getpid()
        # reentrant, so that a connection that does deliver while it sends is slow and not dead
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._ids = itertools.count(1)
        self._pending: dict[int, Call] = {}
        self._streams: dict[int, tuple[Stream, bytes]] = {}
        self._in_flight = self._in_flight_bytes = 0
        self._started = self._sent_again = self._garbage = self._unmatched = 0
        self._connections = 0
        self._connection: Connection | None = None
        self._up = False
        self._refused: str | None = None  # by the engine, when it was asked last
        self._refused_since = inf

    def statistics(self) -> CallsStatistics:
        with self._lock:
            return CallsStatistics(
                self._in_flight,
                self._in_flight_bytes,
                self._started,
                self._sent_again,
                self._garbage,
                self._unmatched,
                self._connections,
            )

    # -- for callers ------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raises UsedAfterFork in a child process, StorageUnavailable after close."""
        if os.getpid() != self._pid:
            raise UsedAfterFork(
                f"this client of {self.where} was opened by process {self._pid};"
                " open a new one after a fork"
            )
        if self._closing.is_set():
            raise StorageUnavailable(
                f"the client of {self.where} is closed", detail={"outcome": "none"}
            )

    def start(
        self,
        op: str,
        body: bytes,
        *,
        timeout_s: float,
        repeatable: bool = True,
        budget_ms: int | None = None,
        traceparent: str | None = None,
        principal: str | None = None,
    ) -> Call:
        """Sends one request, as soon as there is room for it in flight.

        Raises:
            Overloaded: no room within `timeout_s`; nothing was sent.
            TooLarge: it does not fit a frame; nothing was sent.
        """
        self.check_usable()
        if not timeout_s >= 0:
            raise Invalid("a timeout is a number, and not negative", field="timeout_s")
        deadline = self.now() + min(timeout_s, TIMEOUT_S_MAX)
        request_id = next(self._ids)
        frame = frames.encode_request(
            request_id,
            op,
            body,
            budget_ms=budget_ms,
            traceparent=traceparent,
            principal=principal,
        )
        call = Call(self, request_id, op=op, frame=frame, deadline=deadline, repeatable=repeatable)
        with self._lock:
            if not self._room.wait_for(
                lambda: self._has_room_for(len(frame)), max(deadline - self.now(), 0)
            ):
                raise Overloaded(
                    "this client has too many requests in flight",
                    hint="wait for some of them, or open another client",
                    detail={"in_flight": self._in_flight, "bytes": self._in_flight_bytes},
                )
            self.check_usable()
            self._in_flight += 1
            self._in_flight_bytes += len(frame)
            self._started += 1
            self._pending[request_id] = call
            self._send(call)
        return call

    def open_stream(self, op: str, body: bytes, stream: Stream, **options: Any) -> int:
        """Sends the request that opens a stream; its id. The stream hears all that follows."""
        self.check_usable()
        request_id = next(self._ids)
        frame = frames.encode_request(request_id, op, body, **options)
        with self._lock:
            self.check_usable()
            self._streams[request_id] = (stream, frame)
            if self._up and self._connection is not None:
                self._connection.send(frame)
        return request_id

    def drop_stream(self, request_id: int) -> bool:
        """Stops hearing it; whether it was still heard."""
        with self._lock:
            return self._streams.pop(request_id, None) is not None

    def note(self, op: str, body: bytes, **options: Any) -> None:
        """Sends a request nobody waits for, if there is a connection right now."""
        frame = frames.encode_request(next(self._ids), op, body, **options)
        with self._lock:
            if self._up and self._connection is not None and not self._closing.is_set():
                self._connection.send(frame)

    # -- for calls --------------------------------------------------------------------------

    def again(self, call: Call) -> None:
        """Sends it once more, under the same id."""
        with self._lock:
            if self._closing.is_set():
                call.settle(None, self._closed(call))
                return
            self._pending[call.request_id] = call
            self._sent_again += 1
            self._send(call)

    def forget(self, call: Call) -> None:
        """Gives its room back. A later reply to it is counted and dropped. Idempotent."""
        with self._lock:
            self._pending.pop(call.request_id, None)
            if call.frame:
                self._in_flight -= 1
                self._in_flight_bytes -= len(call.frame)
                call.frame = b""
                self._room.notify()

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def jittered(self, seconds: float) -> float:
        """That long or up to `JITTER_MAX` longer, never shorter: those who were refused together
        were each told when there is room for them."""
        return seconds * (1 + random.random() * JITTER_MAX)

    def pause(self, seconds: float) -> bool:
        """Waits; whether it was cut short by close."""
        return self._closing.wait(seconds)

    def no_reply(self, call: Call) -> NoReply:
        reached = "did not answer" if call.attempts else "could not be reached"
        if self._refused is not None:
            return self._turned_away(
                "a write may have been stored: send it with the same ids once the key is known"
                if call.attempts
                else "a key that was just made is known within a second. Nothing was sent",
                {"op": call.op, "attempts": call.attempts},
            )
        return NoReply(
            f"the engine at {self.where} {reached} in time",
            hint="is it running? A write may have been stored: send it again with the same ids"
            if call.attempts
            else "is it running there? Nothing was sent",
            detail={"op": call.op, "attempts": call.attempts},
        )

    # -- for the connection -----------------------------------------------------------------

    def attach(self, connection: Connection, *, up: bool) -> None:
        """The connection to send over; `up`: whether it takes frames already."""
        with self._lock:
            self._connection = connection
        if up:
            self.made()

    def made(self) -> None:
        """The connection takes frames from here on: everything unanswered goes first, in the
        order it was started, so that one session's requests keep their order."""
        with self._lock:
            self._up = True
            self._refused, self._refused_since = None, inf
            self._connections += 1
            for request_id in sorted([*self._pending, *self._streams]):
                call = self._pending.get(request_id)
                if call is not None:
                    self._sent_again += 1 if call.attempts else 0
                    self._send(call)
                elif self._connection is not None:
                    self._connection.send(self._streams[request_id][1])

    def lost(self) -> None:
        """The connection is gone with whatever was on it; no frame is sent until `made`."""
        with self._lock:
            if not self._up:
                return
            self._up = False
            for call in list(self._pending.values()):
                if call.attempts and not call.repeatable:
                    del self._pending[call.request_id]
                    call.settle(None, self.no_reply(call))
            streams = [stream for stream, _ in self._streams.values()]
            self._streams.clear()
        for stream in streams:
            stream.lost()

    def refused(self, why: str | None) -> None:
        """No connection was made, because the engine said `why` not; None: because there was none.
        Who has heard nothing else for REFUSED_S_MAX is told."""
        now = self.now()
        streams: list[Stream] = []
        with self._lock:
            self._refused = why
            self._refused_since = inf if why is None else min(self._refused_since, now)
            late = now - REFUSED_S_MAX
            if self._refused_since > late:
                return
            for call in list(self._pending.values()):
                if call.added <= late:
                    del self._pending[call.request_id]
                    call.settle(None, self.no_reply(call))
            streams = [stream for stream, _ in self._streams.values()]
            self._streams.clear()
        for stream in streams:
            stream.ended(self._turned_away(None, {}))

    def deliver(self, frame: bytes) -> None:
        """One frame that arrived. Garbage, and replies nobody waits for, are counted only."""
        try:
            request_id, kind, first_key = frames.peek(frame)
        except Malformed:
            with self._lock:
                self._garbage += 1
            return
        call: Call | None = None
        stream: Stream | None = None
        if isinstance(request_id, int):
            with self._lock:
                if kind == "item":
                    stream = self._streams.get(request_id, (None, b""))[0]
                else:
                    call = self._pending.pop(request_id, None)
                    stream = self._streams.pop(request_id, (None, b""))[0]
        if call is not None:
            call.settle(frame)
        elif stream is None:
            with self._lock:
                self._unmatched += 1
        elif kind == "item":
            stream.item(frame, first_key)
        else:
            stream.ended(_stream_end(frame))

    def close(self) -> None:
        """Fails whoever waits and closes the connection. Idempotent.

        In a forked child it only forgets: the connection is the parent's.
        """
        if os.getpid() != self._pid:
            self._closing = threading.Event()
            self._closing.set()
            return
        with self._lock:
            self._closing.set()
            self._up = False
            pending = list(self._pending.values())
            self._pending.clear()
            streams = [stream for stream, _ in self._streams.values()]
            self._streams.clear()
            self._room.notify_all()
            connection, self._connection = self._connection, None
        for call in pending:
            call.settle(None, self._closed(call))
        for stream in streams:
            stream.lost()
        if connection is not None:
            connection.close()

    # -- own --------------------------------------------------------------------------------

    def _send(self, call: Call) -> None:
        if self._up and self._connection is not None:
            call.attempts += 1
            self._connection.send(call.frame)

    def _has_room_for(self, size: int) -> bool:
        if self._closing.is_set() or not self._in_flight:
            return True
        return (
            self._in_flight < self._in_flight_max
            and self._in_flight_bytes + size <= self._in_flight_bytes_max
        )

    def _turned_away(self, hint: str | None, detail: dict[str, Any]) -> NoReply:
        return NoReply(
            f"the engine at {self.where} refused the connection: {self._refused}",
            field="key_file",
            hint=hint,
            detail=detail,
        )

    def _closed(self, call: Call) -> NoReply:
        return NoReply(
            f"the client of {self.where} was closed before an answer came",
            detail={"op": call.op, "attempts": call.attempts},
        )


def _stream_end(frame: bytes) -> PalyraError | None:
    try:
        return frames.read_reply(frame)[1]
    except Malformed:
        return StorageUnavailable("the end of a stream cannot be read")
