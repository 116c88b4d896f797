"""Erasing: the event says it at once, then the payloads are destroyed piece by piece.

    session.erased ──durable──▶ a slice, … ──▶ what came of it ──▶ free pages, WAL ──▶ answered
                                   └─ killed: goes on at the next start

What came from a session goes with it: its canvases, and whatever else `Counter.heirlooms` names.
The rows of `erasures` are what is left to do; that of a session goes last. Between two slices other
requests are written.
"""

import logging
from functools import partial
from typing import Any, Final, NamedTuple

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.work import Request
from palyra_actors.errors import PalyraError, StorageUnavailable
from palyra_actors.storage.port import WriteSide

log = logging.getLogger(__name__)

SLICE_EVENTS: Final = 256
"""Payloads destroyed in one transaction: a few milliseconds."""

AGAIN_S: Final = 0.05
"""How often it is looked whether readers have let go of the WAL."""


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
            self._counter.call_later(1.0, self.look)
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
        def work(storage: WriteSide) -> None:
            following: int | None = before
            try:
                if before:
                    following = storage.rub_out(rest.stream, before, SLICE_EVENTS, rest.floor)
                else:
                    storage.erased(rest.seq)
                    following = None
            except PalyraError as error:
                if not isinstance(error, StorageUnavailable) or before:
                    log.warning("payloads could not be destroyed yet: %s", error)
                self._counter.loop.call_soon(lambda: self._again(rest, before))
                return
            self._counter.loop.call_soon(lambda: self._went(rest, following))

        self._counter.chore(work)

    def _again(self, rest: Rest, before: int) -> None:
        self._counter.call_later(AGAIN_S, lambda: self._slice(rest, before))

    def _went(self, rest: Rest, before: int | None) -> None:
        if before:
            self._slice(rest, before)
            return
        if before == 0:
            self._heirlooms(rest)
            return
        self._at_work = False
        self._counter.destroyed()
        self.look()

    def _heirlooms(self, rest: Rest) -> None:
        """Its payloads are gone; now what came from it, if it is a session."""
        try:
            found = self._counter.reader.rows("erasure.session", (rest.stream,))
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("which session is erased could not be read: %s", error)
            self._counter.call_later(1.0, lambda: self._heirlooms(rest))
            return
        left = [partial(call, found[0][0]) for call in self._counter.heirlooms if found]

        def go_on() -> None:
            if left:
                left.pop()(go_on)
            else:
                self._slice(rest, 0)

        go_on()
