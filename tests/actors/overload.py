"""A model of the engine under load, for its admission: no thread, no disk, no time but its own.

Requests arrive on a schedule, whatever becomes of those before them. The loop serves what the
real `Admission` lets in at `LOAD_S` a unit of load; the disk takes what a function of time says;
groups are told to the real `Controller`. What happened is summed up in buckets of 100 ms.

    python -m tests.actors.overload --plot overload.png     a picture of disk, goodput and latency
"""

import argparse
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from palyra_actors.actors.admission import Admission
from palyra_actors.actors.steering import Controller, Times
from palyra_actors.actors.work import Request, Tally
from tests.actors.rig import Peer

LOAD_S = 60e-6
FRAME_BYTES = 600
LOAD = 4  # of such a frame
STEP_S = 0.0005
BUCKET_S = 0.1
BUDGET_S = 0.025
CAPACITY = 1 / (LOAD * LOAD_S)
"""Requests a second that the loop alone could serve."""


@dataclass(slots=True)
class Bucket:
    """A tenth of a second. Times in seconds."""

    arrived: int = 0
    accepted: int = 0
    refused: int = 0
    late: int = 0
    totals: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    trouble: int = 0
    commit_s: float = 0.0

    @property
    def p99_s(self) -> float:
        return sorted(self.totals)[int(len(self.totals) * 0.99)] if self.totals else 0.0


class Engine:
    """The model. `disk(t)`: how long a commit that begins then takes, in seconds. `pauses`: how
    often no group may be begun, for how long, and for how long that is announced before."""

    def __init__(
        self,
        disk: Callable[[float], float],
        peers: int = 4,
        pauses: tuple[float, float, float] | None = None,
    ) -> None:
        self.controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
        self.plan = self.controller.plan
        self.admission = Admission(self.plan, self._refuse)
        self.disk = disk
        self.now = 0.0
        self.peers = [Peer() for _ in range(peers)]
        self.tally = Tally()
        self.queue: deque[Request] = deque()
        self.group: list[Request] = []
        self.times: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self.ended = 0.0
        self.pauses = pauses
        self.pause_at = 0.0 if pauses is None else pauses[0]
        self.buckets: list[Bucket] = []
        self.per_peer: dict[Any, list[int]] = {peer: [0, 0] for peer in self.peers}

    @property
    def bucket(self) -> Bucket:
        number = int(self.now / BUCKET_S + 1e-9)
        while len(self.buckets) <= number:
            self.buckets.append(Bucket())
        return self.buckets[number]

    def run(self, seconds: float, rate: Callable[[float], list[float]]) -> list[Bucket]:
        """`rate(t)`: requests a second of each peer then. What happened, bucket by bucket."""
        due = [0.0] * len(self.peers)
        while self.now < seconds:
            for number, per_second in enumerate(rate(self.now)):
                due[number] += per_second * STEP_S
                while due[number] >= 1:
                    due[number] -= 1
                    self._arrive(self.peers[number])
            self._turn()
            self.now += STEP_S
        return self.buckets[:-1]

    def _arrive(self, peer: Peer) -> None:
        self.bucket.arrived += 1
        request = Request(peer, 1, self.now, self.tally)
        if self.admission.gate(self.now).lets_in(peer, FRAME_BYTES, self.now):
            self._admit(request)
        else:
            self.admission.wait(request, bytes(FRAME_BYTES), "a")

    def _admit(self, request: Request) -> None:
        self.admission.charge(request, LOAD, self.now)
        self.queue.append(request)

    def _turn(self) -> None:
        if self.group and self.now >= self.times[2]:
            self._finish()
        self.admission.send_away_late(self.now)
        while (one := self.admission.next(self.now)) is not None:
            self._admit(one.request)
        self._refuse_late()
        if self.queue and not self.group and not self._pauses():
            events = min(len(self.queue), self.plan.group_events)
            self.group = [self.queue.popleft() for _ in range(events)]
            staged = self.now + events * LOAD * LOAD_S
            self.times = (self.now, staged, staged + self.disk(staged))
            self.plan.committing_since = staged
            self.plan.committing_load = events * LOAD
        bucket = self.bucket
        bucket.trouble += self.plan.trouble(self.now) is not None
        bucket.commit_s = self.disk(self.now)

    def _pauses(self) -> bool:
        """As the writer does for the rest of a checkpoint."""
        if self.pauses is None:
            return False
        (every_s, takes_s, ahead_s), plan = self.pauses, self.plan
        if plan.pausing:
            assert plan.committing_since is not None
            if self.now >= plan.committing_since + takes_s:
                plan.go_on(self.now)
                self.pause_at = self.now + every_s
        elif self.now >= self.pause_at:
            plan.pause(self.now)
        elif ahead_s and self.now >= self.pause_at - ahead_s:
            plan.pause_s = plan.tidy_s
        return plan.pausing

    def _refuse_late(self) -> None:
        latest = self.now + (0 if self.plan.slow else self.plan.commit_s)
        while self.queue and latest - self.queue[0].arrived > BUDGET_S:
            self._refuse(self.queue.popleft(), 1)

    def _refuse(self, request: Request, retry_ms: int) -> None:
        request.shed(retry_ms)
        self.per_peer[request.peer][1] += 1
        self.bucket.refused += 1
        self.bucket.refusals.append(self.now - request.arrived)

    def _finish(self) -> None:
        began, staged, ended = self.times
        bucket, totals = self.bucket, [ended - request.arrived for request in self.group]
        bucket.accepted += len(totals)
        bucket.totals += totals
        bucket.late += sum(total > BUDGET_S for total in totals)
        for request in self.group:
            self.per_peer[request.peer][0] += 1
            request.ok({})
        self.plan.committing_since, self.plan.committing_load = None, 0
        self.plan.refused = 0  # here a refusal takes no time
        self.controller.observe(
            Times(
                began, staged, ended, len(totals), len(totals) * LOAD, staged - began,
                len(totals), sum(total > 0.9 * BUDGET_S for total in totals), max(totals),
            )
        )  # fmt: skip
        self.group = []


def disk_story(t: float) -> float:
    """Seven quiet seconds, each followed by a trouble: 40 ms, 200 ms, a stall of two seconds."""
    if 3 <= t < 6:
        return 0.04
    if 9 <= t < 12:
        return 0.2
    if 15 <= t < 15.01:
        return 2.0
    return 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", required=True, metavar="FILE")
    parser.add_argument("--load", type=float, default=0.5, help="of the capacity")
    options = parser.parse_args()
    import importlib

    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    buckets = Engine(disk_story).run(20, lambda _: [options.load * CAPACITY / 4] * 4)
    seconds = [number * BUCKET_S for number in range(len(buckets))]
    figure, (rates, times) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 6))
    rates.plot(seconds, [b.accepted / BUCKET_S for b in buckets], label="accepted")
    rates.plot(seconds, [b.refused / BUCKET_S for b in buckets], label="refused")
    rates.set_ylabel("requests a second")
    rates.legend()
    times.semilogy(seconds, [max(b.p99_s, 1e-4) * 1000 for b in buckets], label="p99 of accepted")
    times.semilogy(seconds, [b.commit_s * 1000 for b in buckets], label="a commit")
    times.axhline(BUDGET_S * 1000, linestyle=":", color="grey")
    times.set_ylabel("ms")
    times.set_xlabel("s")
    times.legend()
    figure.savefig(options.plot)


if __name__ == "__main__":
    main()
