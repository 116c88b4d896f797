"""Many events in few requests, several of them in flight at once.

    add ──▶ chunk ──full──▶ in flight (a window) ──oldest answered──▶ counted

A chunk is one request, and so one atomic change. Memory is bounded by the window: `add` waits for
the oldest request when it is full. Chunks are sent in the order added. Without a budget (the
default) none of them is refused for being late, so their events also take effect in that order;
with one, a refused chunk is tried again behind those that followed it, unless `in_flight` is 1.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from palyra_actors.api.calls import Call, Calls
from palyra_actors.api.events import Event, event_to_wire
from palyra_actors.api.results import AppendResult, read
from palyra_actors.errors import Invalid, PalyraError
from palyra_actors.limits import APPEND_EVENTS_MAX
from palyra_actors.wire import frames

EVENTS_DEFAULT: Final = 512
BYTES_DEFAULT: Final = 1024 * 1024
IN_FLIGHT_DEFAULT: Final = 4


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What was acknowledged. `last_seq` is 0 where nothing was."""

    requests: int
    events: int
    duplicates: int
    redacted: int
    last_seq: int

    @property
    def new(self) -> int:
        """Events that were not stored before."""
        return self.events - self.duplicates


class Batch:
    """Collects events of one thread; a context manager that sends the rest at its end.

    Args:
        budget_ms: write budget of each request; 0 is none.
        events_max: of one request, 1..1024.
        bytes_max: of one request's events, below 4 MiB. A larger single event goes alone.
        in_flight: requests on their way at once, from 1.
        on_result: called with each request's result, in order, in the adding thread.
    """

    def __init__(
        self,
        calls: Calls,
        *,
        timeout_s: float,
        budget_ms: int | None = 0,
        events_max: int = EVENTS_DEFAULT,
        bytes_max: int = BYTES_DEFAULT,
        in_flight: int = IN_FLIGHT_DEFAULT,
        on_result: Callable[[AppendResult], object] | None = None,
        principal: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        for name, value, most in (
            ("events_max", events_max, APPEND_EVENTS_MAX),
            ("bytes_max", bytes_max, frames.EVENTS_BYTES_MAX),
            ("in_flight", in_flight, 1024),
        ):
            if not 1 <= value <= most:
                raise Invalid(f"{name} is 1..{most}", field=name)
        self._calls = calls
        self._timeout_s = timeout_s
        self._options: dict[str, Any] = {
            "budget_ms": budget_ms,
            "principal": principal,
            "traceparent": traceparent,
        }
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._in_flight_max = in_flight
        self._on_result = on_result
        self._chunk: list[bytes] = []
        self._chunk_bytes = 0
        self._in_flight: deque[Call] = deque()
        self._firsts: deque[int] = deque()  # of each of them, the number of its first event
        self._first_of_chunk = 0
        self._added = 0
        self._requests = self._events = self._duplicates = self._redacted = self._last_seq = 0

    @property
    def summary(self) -> BatchSummary:
        """Of what was acknowledged so far."""
        return BatchSummary(
            self._requests, self._events, self._duplicates, self._redacted, self._last_seq
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.flush()
        else:
            self.abandon()

    def add(self, event: Event | Mapping[str, Any]) -> None:
        """Takes one event; may send a request and wait for an older one.

        Raises:
            PalyraError: a request was refused or not answered. `detail.first_event` and
                `detail.events` say which of the added events were in it, counted from 0; the
                ones before are acknowledged, requests behind it may be stored or not.
        """
        packed = frames.pack(event_to_wire(event), f"events[{self._added}]")
        full = len(self._chunk) >= self._events_max
        if self._chunk and (full or self._chunk_bytes + len(packed) > self._bytes_max):
            self._send()
        self._chunk.append(packed)
        self._chunk_bytes += len(packed)
        self._added += 1

    def flush(self) -> BatchSummary:
        """Sends what is left and waits for every answer. Raises as `add` does."""
        if self._chunk:
            self._send()
        while self._in_flight:
            self._settle_oldest()
        return self.summary

    def abandon(self) -> None:
        """Sends nothing more and waits for nothing. What is in flight may be stored or not."""
        self._chunk.clear()
        self._chunk_bytes = 0
        self._first_of_chunk = self._added
        while self._in_flight:
            self._calls.forget(self._in_flight.popleft())
        self._firsts.clear()

    def _send(self) -> None:
        while len(self._in_flight) >= self._in_flight_max:
            self._settle_oldest()
        body = frames.pack_append(self._chunk, None)
        try:
            call = self._calls.start(
                "journal.append", body, timeout_s=self._timeout_s, **self._options
            )
        except PalyraError as error:
            self._name_events(error, self._first_of_chunk, len(self._chunk))
            self.abandon()
            raise
        self._in_flight.append(call)
        self._firsts.append(self._first_of_chunk)
        self._first_of_chunk = self._added
        self._chunk = []
        self._chunk_bytes = 0

    def _settle_oldest(self) -> None:
        call, first = self._in_flight.popleft(), self._firsts.popleft()
        after = self._firsts[0] if self._firsts else self._first_of_chunk
        try:
            result: AppendResult = read(
                "append result", AppendResult.of, call.result(self._in_flight)
            )
        except PalyraError as error:
            self._name_events(error, first, after - first)
            self.abandon()
            raise
        self._requests += 1
        self._events += len(result.results)
        for appended in result.results:
            self._duplicates += appended.duplicate
            self._redacted += appended.redacted
            self._last_seq = max(self._last_seq, appended.seq)
        if self._on_result is not None:
            self._on_result(result)

    @staticmethod
    def _name_events(error: PalyraError, first: int, count: int) -> None:
        error.detail |= {"first_event": first, "events": count}
