"""Erasing: the event says it at once, then the payloads are destroyed piece by piece.

    session.erased ──durable──▶ a slice, … ──▶ what came of it ──▶ free pages, WAL ──▶ answered
                                   └─ killed: goes on at the next start

What came from a session goes with it: its canvases, and whatever else `Counter.heirlooms` names.
The rows of `erasures` are what is left to do; that of a session goes last. Between two slices other
requests are written.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.slices import AFTER_FAILURE_S, do_slice, sweep
from palyra_actors.actors.pace import Pace
from palyra_actors.actors.work import Request
from palyra_actors.errors import PalyraError

log = logging.getLogger(__name__)

SLICE_EVENTS_MAX: Final = 256
"""Payloads destroyed in one transaction, where they are small."""


class Rest(NamedTuple):
    """A row of `erasures`: the payloads of the stream's events from `floor` to before `seq`."""

    stream: int
    seq: int
    floor: int


class Eraser:
    """Works off `erasures`, one at a time, and answers those who wait for theirs."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._at_work = False
        self._pace = Pace(8, SLICE_EVENTS_MAX)
        self._waiting: list[tuple[Request, Any]] = []
        counter.loop.call_soon(self.look)

    def answer_when_done(self, request: Request) -> None:
        """Hold back the request's `ok` until nothing is left of what it erased."""

        def later(body: Any) -> None:
            self._waiting.append((request, body))
            self.look()

        request.hold = later

    def look(self) -> None:
        """Go on with what is left, if there is anything."""
        if self._at_work:
            return
        try:
            left = self._counter.reader.rows("erasure.all")
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("what is to be erased could not be read: %s", error)
            self._counter.call_later(AFTER_FAILURE_S, self.look)
            return
        if left:
            self._at_work = True
            stream, seq, floor = left[0]
            self._slice(Rest(stream, seq, floor), seq)
        else:
            waiting, self._waiting = self._waiting, []
            for request, body in waiting:
                request.hold = None
                request.ok(body)

    def _slice(self, rest: Rest, before: int) -> None:
        size = self._pace.size

        def then(result: int | PalyraError, seconds: float) -> None:
            if isinstance(result, PalyraError):
                log.warning("payloads could not be destroyed yet: %s", result)
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._slice(rest, before))
                return
            self._pace.took(seconds)
            if result:
                self._slice(rest, result)
            else:
                self._heirlooms(rest)

        do_slice(
            self._counter, lambda storage: storage.rub_out(rest.stream, before, size, rest.floor),
            then,
        )  # fmt: skip

    def _finish(self, rest: Rest) -> None:
        """Nothing is left of it, in the log and in free pages either."""

        def then(result: int | PalyraError, seconds: float) -> None:
            del seconds
            if isinstance(result, PalyraError):
                log.warning("that an erasure is over could not be written: %s", result)
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._finish(rest))
                return
            self._at_work = False
            self._counter.destroyed()
            self.look()

        done = [("erasure.delete", [(rest.seq,)])]
        do_slice(self._counter, lambda storage: storage.apply(done), then)

    def _heirlooms(self, rest: Rest) -> None:
        """Its payloads are gone; now what came from it, if it is a session."""
        try:
            found = self._counter.reader.rows("erasure.session", (rest.stream,))
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("which session is erased could not be read: %s", error)
            self._counter.call_later(AFTER_FAILURE_S, lambda: self._heirlooms(rest))
            return
        self._go_on(rest, [partial(call, found[0][0]) for call in self._counter.heirlooms if found])

    def _go_on(self, rest: Rest, left: list[Callable[[Callable[[], None]], None]]) -> None:
        if left:
            left.pop()(lambda: self._go_on(rest, left))
        else:
            sweep(self._counter, lambda: self._finish(rest))
