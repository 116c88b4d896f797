"""The journal, live: events as they are committed, without gap or repeat.

    reading ──lost, silent, or ended for now──▶ stale ──subscribe again──▶ reading
       └──────────────── closed, refused ──▶ over

The position is the last event that was handed out. Subscribing again starts after it and throws
away what had arrived beyond it, so nothing is missed and nothing comes twice.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Self

from palyra_actors.api.calls import BACKOFF_S_FIRST, BACKOFF_S_MAX, JITTER_MAX, Calls
from palyra_actors.api.results import Head, StoredEvent, read
from palyra_actors.errors import InternalFault, Malformed, PalyraError, StorageUnavailable
from palyra_actors.limits import SUBSCRIPTION_HEAD_SECONDS_MAX
from palyra_actors.wire import frames

CREDIT_DEFAULT: Final = 256
# a head comes at least every 5 s, whatever happens: three missed ones are a lost stream
SILENCE_S: Final = 3.0 * SUBSCRIPTION_HEAD_SECONDS_MAX


class Subscription:
    """An iterator over events in `seq` order, for one thread; `close` may come from any other.

    It holds at most `credit` events that nobody has taken yet, and asks for more as they are
    taken. After a lost connection it goes on from where it stopped, for as long as that takes.
    """

    def __init__(
        self,
        calls: Calls,
        *,
        after_seq: int,
        session_id: str | None = None,
        kinds: Sequence[str] | None = None,
        credit: int = CREDIT_DEFAULT,
        principal: str | None = None,
        silence_s: float | None = SILENCE_S,
    ) -> None:
        self._calls = calls
        self._filters: dict[str, Any] = {}
        if session_id is not None:
            self._filters["session_id"] = session_id
        if kinds is not None:
            self._filters["kinds"] = list(kinds)
        self._credit = credit
        self._options = {} if principal is None else {"principal": principal}
        self._silence_s = silence_s
        self._cond = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._after_seq = after_seq
        self._taken = 0  # since credit was last given
        self._head: Head | None = None
        self._source: _Source | None = None
        self._closed = False
        self._error: PalyraError | None = None
        self._not_before = 0.0
        self._backoff_s = BACKOFF_S_FIRST
        self._subscribed_count = 0
        self._subscribe()

    @property
    def last_seq(self) -> int:
        """`seq` of the last event handed out, or where it was to start."""
        return self._after_seq

    @property
    def head(self) -> Head | None:
        """The journal's head as last heard of; None before the first word of it."""
        return self._head

    @property
    def open(self) -> bool:
        """Whether events may still come."""
        return not self._closed

    @property
    def restarts(self) -> int:
        """How often it subscribed again."""
        return self._subscribed_count - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredEvent:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout_s: float | None = None) -> StoredEvent | None:
        """The next event; None when it is closed, or none came within `timeout_s` seconds.

        Raises:
            PalyraError: the engine refused the subscription.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._cond:
                frame = self._wait_for_frame(deadline)
                if frame is None and self._error is not None:
                    raise self._error
                pausing = self._not_before > time.monotonic()
                over = self._closed or self._source is not None or pausing
            if frame is not None:
                event = self._take(frame)
                if event is not None:
                    return event
            elif over or not self._subscribe():
                return None

    def close(self) -> None:
        """Unsubscribes. Idempotent, any thread; whoever waits in `next` gets None."""
        with self._cond:
            self._closed = True
            source, self._source = self._source, None
            self._waiting.clear()
            self._cond.notify_all()
        self._end(source)

    def _wait_for_frame(self, deadline: float | None) -> bytes | None:
        """A frame; or None when the caller has to look why there is none."""
        while not self._waiting:
            if self._closed or self._error is not None:
                return None
            now = time.monotonic()
            source = self._source
            if source is None:
                until = self._not_before
            elif self._silence_s is None:
                until = float("inf")
            else:
                until = source.heard + self._silence_s
            if until <= now:
                if source is not None:
                    self._source = None
                    self._end(source)
                return None
            if deadline is not None and deadline <= now:
                return None
            until = until if deadline is None else min(until, deadline)
            self._cond.wait(None if until == float("inf") else until - now)
        return self._waiting.popleft()

    def _take(self, frame: bytes) -> StoredEvent | None:
        try:
            item = frames.read_item(frame)
            event: StoredEvent = read("event", StoredEvent.of, item["event"])
        except (Malformed, KeyError, InternalFault) as reason:
            self.close()
            self._error = InternalFault("an event of this subscription cannot be read")
            raise self._error from reason
        if event.seq <= self._after_seq:
            return None
        self._after_seq = event.seq
        self._taken += 1
        source = self._source
        if source is not None and self._taken * 2 >= self._credit:
            body = {"sub": source.request_id, "credit": self._taken}
            self._taken = 0
            self._calls.note("journal.credit", frames.pack(body, "credit"), **self._options)
        return event

    def _subscribe(self) -> bool:
        """Whether there still is a client to subscribe with."""
        body = {**self._filters, "after_seq": self._after_seq, "credit": self._credit}
        source = _Source(self)
        with self._cond:
            if self._closed:
                return False
            self._waiting.clear()
            self._taken = 0
            self._source = source
            self._subscribed_count += 1
        try:
            source.request_id = self._calls.open_stream(
                "journal.subscribe", frames.pack(body, "subscribe"), source, **self._options
            )
        except StorageUnavailable:
            self.close()
            return False
        if not self._is_open():
            # closed by another thread, which could not know the request's id yet
            self._end(source)
        return True

    def _is_open(self) -> bool:
        return not self._closed

    def _end(self, source: "_Source | None") -> None:
        if source is not None and self._calls.drop_stream(source.request_id):
            body = frames.pack({"sub": source.request_id}, "sub")
            self._calls.note("journal.unsubscribe", body, **self._options)

    # -- in the connection's thread -----------------------------------------------------------

    def _on_item(self, source: "_Source", frame: bytes, first_key: str | None) -> None:
        overrun = False
        with self._cond:
            if source is not self._source:
                return
            source.heard = time.monotonic()
            self._backoff_s = BACKOFF_S_FIRST
            if first_key == "event" and len(self._waiting) < self._credit:
                self._waiting.append(frame)
                self._cond.notify_all()
            elif first_key == "event":
                # more than it was given credit for: nothing more is held, it starts over later
                self._become_stale(0.0)
                overrun = True
        if overrun:
            self._end(source)
        if first_key == "head":
            try:
                self._head = Head.of(frames.read_item(frame)["head"])
            except (Malformed, KeyError, TypeError):
                return

    def _on_end(self, source: "_Source", error: PalyraError | None) -> None:
        with self._cond:
            if source is not self._source:
                return
            if error is not None and not error.retryable:
                self._error = error
                self._source = None
                self._cond.notify_all()
                return
            asked_s = (error.retry_after_ms or 0) / 1000 if error is not None else 0.0
            pause_s = asked_s or self._backoff_s
            self._backoff_s = min(self._backoff_s * 2, BACKOFF_S_MAX)
            self._become_stale(pause_s * (1 + random.random() * JITTER_MAX))

    def _on_lost(self, source: "_Source") -> None:
        with self._cond:
            if source is self._source:
                self._become_stale(0.0)

    def _become_stale(self, pause_s: float) -> None:
        self._source = None
        self._not_before = time.monotonic() + pause_s
        self._cond.notify_all()


class _Source:
    """One request that feeds the subscription; what an older one still sends is not heard."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.request_id = 0
        self.heard = time.monotonic()

    def item(self, frame: bytes, first_key: str | None) -> None:
        self._subscription._on_item(self, frame, first_key)

    def ended(self, error: PalyraError | None) -> None:
        self._subscription._on_end(self, error)

    def lost(self) -> None:
        self._subscription._on_lost(self)
