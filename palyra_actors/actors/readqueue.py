"""Reads that the loop answers by itself: a bounded part of each round while others write.

    read ──nobody waits, and the round's part is not spent──▶ answered
             └─ else ──▶ queue ──a later round's part──▶ answered
                           └─ full ──▶ `overloaded`, with when to come back

A round has one part, which goes to those who come in it, or to those who wait where any do; the
last one that begins in it may take longer. So each round answers at least one, in their order.

What they take, and whatever else is no write and goes through here, is no work of the writes around
it: were it taken for that, load would seem dear, and writes would be refused for which there is
room.
"""

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Any, Final

from palyra_actors.actors.reader import too_many_reads
from palyra_actors.actors.steering import RETRY_MS_MAX, Plan
from palyra_actors.actors.work import Peer, Request, stopping

ROUND_S: Final = 0.001
"""Of a round of two to four milliseconds, what they may take before no more of them begins."""

WAITING_MAX: Final = 64
"""Some 25 milliseconds of a loop that does nothing else, and about a hundred beside writes."""

ROUNDS: Final = 4
"""How much longer a queue of them takes beside writes than alone."""


class ReadQueue:
    """On the loop's thread. `serve` answers one; `company`: whether others write at that moment."""

    def __init__(
        self,
        plan: Plan,
        serve: Callable[[Request, Any], None],
        *,
        monotonic: Callable[[], float],
        company: Callable[[float], bool],
    ) -> None:
        self._plan = plan
        self._serve = serve
        self._monotonic = monotonic
        self._company = company
        self._waiting: deque[tuple[Request, Any]] = deque()
        self._spent_s = 0.0  # of this round
        self._mean_s = 0.0005

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, request: Request, message: Any) -> None:
        """Answer it now, or in one of the next rounds, or refuse it."""
        if not self._waiting and (self._spent_s < ROUND_S or not self._company(self._monotonic())):
            self._answer(request, message)
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append((request, message))
        else:
            wait_ms = ceil(len(self._waiting) * self._mean_s * ROUNDS * 1000)
            request.fail(too_many_reads(min(max(1, wait_ms), RETRY_MS_MAX)))

    def answer(self, request: Request, message: Any) -> float:
        """Answer it now, or hand it on: a request that is no write. The seconds that this took,
        which the plan does not take for what load costs."""
        began = self._monotonic()
        self._serve(request, message)
        took_s = self._monotonic() - began
        self._plan.beside.note(began, took_s)
        return took_s

    def pump(self) -> None:
        """Answer those whose turn it is, unless those who came had the part. Ends each round."""
        waiting = self._waiting
        try:
            while waiting and (self._spent_s < ROUND_S or not self._company(self._monotonic())):
                self._answer(*waiting.popleft())
        finally:
            self._spent_s = 0.0

    def stop(self) -> None:
        """Refuse those who wait."""
        while self._waiting:
            self._waiting.popleft()[0].fail(stopping())

    def drop_peer(self, peer: Peer) -> None:
        """Its connection is gone."""
        kept = deque(one for one in self._waiting if one[0].peer is not peer)
        gone, self._waiting = [one[0] for one in self._waiting if one[0].peer is peer], kept
        for request in gone:
            request.abandon()

    def _answer(self, request: Request, message: Any) -> None:
        took_s = self.answer(request, message)
        self._spent_s += took_s
        self._mean_s += (took_s - self._mean_s) / 8
