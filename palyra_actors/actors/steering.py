"""How the budget is kept: what the groups measured, made into what may come in and when.

    Times of a group ──observe──▶ Controller ──▶ Plan ──▶ admission, writer, checkpoints

The plan answers one question, asked for each write before any work is done: were it let in now,
when would it be durable?

    wait = its age + the rest of the commit under way + the load queued before it × `load_s`
    total = wait + its own commit, `commit_s`

It comes in while `total` is at most `TARGET` of its budget, where only `CAUTION` of what is left
for load is given, and less where `trust` is low. A disk whose commit alone takes more than that
cannot keep the budget whatever is refused; then the wait alone has to fit (degraded, not down), and
every answer says that it was late. No thread, no clock, no disk: times are arguments.
"""

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

BUDGET_S_DEFAULT: Final = 0.025
"""What an engine without a budget steers its groups by."""

TARGET: Final = 0.76
"""Of the budget, what a write may be expected to take: the rest is for what nobody expects."""

CAUTION: Final = 0.45
"""Of the room for load, what is given: a loop that shares two processors with its client and its
disk waits for one up to half of the time, now and then. With 0.6 a tenth less was in time at one
and a half and three times the capacity, and took a third longer (`bench/bench_overload.py`); 256
requests in flight got 1 % more, and were refused half as often. Commits and pauses are expected at
what they take: with less than that left over, nothing would come in beside a pause."""

CAUTION_SLOW: Final = 0.6
"""The same on a slow disk, where nothing is in time: more of it goes into each group."""

SLOW_FROM: Final = 0.72
SLOW_UNTIL: Final = 0.5
"""Of the budget, what a commit takes from when the disk is called slow, and until when."""

GROUP: Final = 0.12
"""Of the budget, for how long a group is staged. Nothing else is served meanwhile, and a refusal
has to leave within a fifth of the budget."""

PATIENCE: Final = 0.14
"""Of the budget, how long a write may wait at the door for room before it is refused."""

BULK: Final = 0.12
"""Of the budget, the work of bulk loads that may be under way while others write. Theirs is the
room that is left: this much is what they may add to anybody's wait (`bench/bench_fairness.py`)."""

COMPANY_S: Final = 1.0
"""For how long after the last write with a budget bulk loads leave room."""

LOAD_S_FIRST: Final = 10e-6
LOAD_S_MIN: Final = 1e-6
LOAD_S_MAX: Final = 1e-3
LOAD_MEASURED_MIN: Final = 64
"""Groups of less do not tell that load is dear, for the round around them does most of the work.
That it is cheap they do, taken together until they hold so much: otherwise an engine that lets
little in because load seems dear would never learn that it is not."""

LOAD_TELLS_FROM: Final = 24
LOAD_TELLS_NOTHING: Final = 8
"""From how much on a group tells what load costs, and up to how much what a round costs without.
Else a trickle of writes would make load dear that costs next to nothing once more come together: a
burst after it was refused, and all that small groups let in were small groups."""

ROUND_S_MAX: Final = 0.0005
"""What a round costs at most, whatever a group took."""

LEAP: Final = 4
"""How much dearer than expected a group's load is taken for at most: a loop that had to wait for a
processor tells nothing about the next group."""

REFUSAL_LOAD: Final = 1
"""What a refusal weighs. It has to count as work: otherwise its time is taken for what the few cost
that were let in, and still fewer are, until nobody is (`bench/bench_overload.py`)."""

EVENT_S_FIRST: Final = 8e-6
EVENTS_MEASURED_MIN: Final = 32
GROUP_EVENTS_MIN: Final = 64

COMMITS_KEPT: Final = 16
COMMITS_KEPT_S: Final = 2.0
"""A commit is never expected to take longer than the slowest of the last ones: this many fast ones
after a slow time and it is over. What is older than so many seconds says nothing about the disk of
now: where writes are few, the first fast one ends the slow time, and where there are none it ends
by itself."""

QUICK_S: Final = 0.002
QUICK_AFTER: Final = 4
"""Commits below this, once so many were measured, are quick."""

PAUSE_S_FIRST: Final = 0.003
PAUSE_MAX: Final = 0.4
"""Of the budget, what a pause of the writer's is expected to take at most: whatever the last one
took, something is let in before it."""

PAUSE_FADES: Final = 0.8
"""What is left of the longest pause from one to the next."""

BESIDE_KEPT: Final = 256
"""So many of the last requests that are no writes: of these it is known when they were served."""

EPOCH_S: Final = 0.1
"""How often the caution is reconsidered."""

STALL: Final = 0.8
"""Of the budget, by how much longer than expected a commit takes that has stalled. What is late in
it or waited for it tells nothing about how much may be let in: trust fell to its least on a disk of
which each twentieth sync takes 40 ms, and half of what was in time was refused
(`tests/actors/overload.py`)."""

TRUST_MIN: Final = 0.35
RETRY_MS_MAX: Final = 1_000


class Times(NamedTuple):
    """One group, monotonic seconds. `load` as `load_of` counts it; `busy_s`: how long the loop
    worked since the group before, or since the first of its requests `came`, sleep and commits not
    counted, and `earlier_s`: between these two; `slow`: requests that took most of their budget, of
    `requests`; `slowest_s`: the slowest of them.
    """

    began: float
    staged: float
    ended: float
    events: int
    load: int
    busy_s: float
    requests: int
    slow: int
    slowest_s: float
    earlier_s: float = 0.0
    came: float = -inf


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """Counts since the start, and what is under way now."""

    groups: int
    events: int
    events_max: int
    late: int
    waiting: int
    failing: str | None


@dataclass(frozen=True, slots=True)
class Measured:
    """One group's times, and the arrival of each of its requests."""

    times: Times
    arrived: list[float]


class Beside:
    """What the loop did beside writes since the group before: `all_s`, seconds."""

    def __init__(self) -> None:
        self._lately: deque[tuple[float, float]] = deque(maxlen=BESIDE_KEPT)
        self.all_s = 0.0

    def note(self, began: float, took_s: float) -> None:
        self.all_s += took_s
        self._lately.append((began, took_s))

    def take_off(self, times: Times) -> float:
        """How long it worked for the writes of a group, at most: all of its work without these, and
        that since the first of the group's requests came without these since then. Were all taken
        off the latter, load would seem to cost nothing after many reads. What began after the group
        ended is kept for the next one.
        """
        later = [(began, took_s) for began, took_s in self._lately if began >= times.ended]
        later_s = sum(took_s for _, took_s in later)
        since_s = sum(took_s for began, took_s in self._lately if began >= times.came) - later_s
        before_s, self.all_s = self.all_s - later_s, later_s
        self._lately = deque(later, maxlen=BESIDE_KEPT)
        return min(times.busy_s + times.earlier_s - before_s, times.busy_s - since_s)


@dataclass(frozen=True, slots=True)
class Judged:
    """Requests of a group that had nothing to be written, for all of it is stored: what that took.
    Of `times` only `ended`, `load`, `busy_s`, `earlier_s` and `came` say something."""

    times: Times


@dataclass(slots=True)
class Plan:
    """What is decided now. The controller writes it; `committing_since`, `committing_load`
    and what concerns pauses are the writer's to set.

    Attributes:
        budget_s: of a write that names none; 0: none.
        load_s: what a unit of load takes the loop.
        commit_s: what a commit is expected to take.
        group_s, group_events: how long a group is staged, and how many events that is.
        patience_s: how long a write may wait for room before it is refused.
        trust: 1 where what is expected comes true, lower where writes are later than expected.
        checkpoints: they may run; one that is due for long does so all the same.
        slow: a commit takes so long that no write can keep its budget.
        quick: commits are so fast that waiting for one costs less than a change of threads.
        committing_since: when the commit under way began, None: there is none.
        committing_load: what is in it.
        pause_s: what a pause is expected to take that is to come before long; 0.0: none is.
        pausing: what is under way is no commit but a pause.
        tidy_s: what a pause is expected to take.
        refused: writes sent away since the group before, by their work; admission counts.
        beyond_s: what writes took since then beyond what their load tells; admission counts.
        beside: what requests took since then that are no writes; the read queue notes it.
        measured_at: when the last commit ended.
    """

    budget_s: float
    load_s: float = LOAD_S_FIRST
    commit_s: float = 0.001
    group_s: float = 0.003
    group_events: int = GROUP_EVENTS_MIN
    patience_s: float = 0.0
    trust: float = 1.0
    checkpoints: bool = True
    slow: bool = False
    quick: bool = False
    committing_since: float | None = None
    committing_load: int = 0
    pause_s: float = 0.0
    pausing: bool = False
    tidy_s: float = PAUSE_S_FIRST
    refused: float = 0
    beyond_s: float = 0.0
    beside: Beside = field(default_factory=Beside)
    measured_at: float = 0.0

    def rest_s(self, now: float) -> float:
        """How long the commit under way, or the pause, is expected to go on.

        One that takes longer than expected is expected to take as long again.
        """
        since = self.committing_since
        if since is None:
            return 0.0
        elapsed, expected = now - since, self.tidy_s if self.pausing else self.commit_s
        return expected - elapsed if elapsed < expected else elapsed

    def durable_s(self, now: float) -> float:
        """When what is staged now is expected to be durable, in how many seconds. On a slow disk
        its own commit does not count."""
        return self.rest_s(now) + (0.0 if self.slow else self.commit_s)

    def room(self, now: float, arrived: float, budget_s: float) -> float:
        """How much load may be queued before a write that arrived then, for it to be in time.

        Negative: even with none it would be late.
        """
        spare = TARGET * budget_s - self.durable_s(now) - self.pause_s - (now - arrived)
        return spare * self.load_per_s

    @property
    def load_per_s(self) -> float:
        """Load for which a second of the loop's time is expected to be enough."""
        return (CAUTION_SLOW if self.slow else CAUTION) * self.trust / self.load_s

    def in_time(self, now: float, arrived: float, budget_s: float) -> bool:
        """Whether a write that arrived then is durable within its budget where it is staged now."""
        return now - arrived + self.durable_s(now) < budget_s

    def bulk_room(self, company: bool) -> float:
        """The load that may be queued before a write without a budget."""
        share = BULK if company else TARGET
        return share * (self.budget_s or BUDGET_S_DEFAULT) / self.load_s

    def pause(self, now: float) -> None:
        """The pause that was to come begins."""
        self.committing_since, self.pausing, self.pause_s = now, True, 0.0

    def go_on(self, now: float) -> None:
        """It is over, or whatever else was under way that is no commit."""
        if self.pausing and self.committing_since is not None:
            took_s = max(now - self.committing_since, PAUSE_FADES * self.tidy_s)
            self.tidy_s = min(took_s, PAUSE_MAX * (self.budget_s or BUDGET_S_DEFAULT))
        self.committing_since, self.pausing = None, False

    def trouble(self, now: float) -> str | None:
        """Why writes are slower than they should be; None: they are not."""
        if not self.budget_s:
            return None
        budget_ms = f"{self.budget_s * 1000:.0f} ms budget"
        since = self.committing_since
        if since is not None and now - since > self.budget_s:
            return (
                f"the disk stalls: a commit is under way for {(now - since) * 1000:.0f} ms "
                f"of a {budget_ms}"
            )
        if self.slow and now - self.measured_at <= COMMITS_KEPT_S:
            return (
                f"the disk is slow: a commit takes {self.commit_s * 1000:.0f} ms of a {budget_ms}"
            )
        return None


def load_of(frame_bytes: int) -> int:
    """What a frame weighs: two units for the request, one for each 256 bytes of it.

    Measured for requests of one event and of 64 (`docs/performance.md`): 20 times the work, 22
    times the load. It is known before anything is decoded.
    """
    return 2 + (frame_bytes >> 8)


@dataclass(frozen=True, slots=True)
class SteeringStatistics:
    """The plan of one moment: see `Plan`."""

    commit_s: float
    load_s: float
    group_events: int
    trust: float
    checkpoints: bool
    slow: bool


class Controller:
    """Owns the plan. `observe` is called once a group."""

    def __init__(self, *, budget_s: float, group_s_max: float, group_events_max: int) -> None:
        self._group_s_max = group_s_max
        self._group_events_max = group_events_max
        self._event_s = EVENT_S_FIRST
        self._load = self._busy_s = 0.0  # of groups too small to be measured alone
        self._mean_load = float(LOAD_MEASURED_MIN)
        self._mean_busy_s = LOAD_MEASURED_MIN * LOAD_S_FIRST
        self._round_s = 0.0
        self._deviation_s = 0.0
        self._mean_s = 0.001
        self._commits: deque[tuple[float, float]] = deque(maxlen=COMMITS_KEPT)  # ended, took
        self._epoch_ends = 0.0
        self._epoch_requests = self._epoch_slow = 0
        self._epoch_slowest_s = 0.0
        self._stalled = False  # the group before
        self.plan = Plan(budget_s)
        self._steer_groups()

    def statistics(self) -> SteeringStatistics:
        plan = self.plan
        return SteeringStatistics(
            plan.commit_s, plan.load_s, plan.group_events, plan.trust, plan.checkpoints, plan.slow
        )

    def observe(self, times: Times) -> None:
        """Learn from a group that is durable."""
        plan = self.plan
        commit_s = times.ended - times.staged
        stalled = commit_s > plan.commit_s + STALL * (plan.budget_s or BUDGET_S_DEFAULT)
        self._expect_commits(commit_s, times.ended)
        self._price_all(times)
        if times.events >= EVENTS_MEASURED_MIN:
            self._event_s += ((times.staged - times.began) / times.events - self._event_s) / 8
        self._steer_groups()
        if not (stalled or self._stalled):  # nor those that gathered behind it
            self._epoch_requests += times.requests
            self._epoch_slow += times.slow
        self._stalled = stalled
        self._epoch_slowest_s = max(self._epoch_slowest_s, times.slowest_s)
        if times.ended >= self._epoch_ends:
            self._reconsider(times.ended)

    def judge(self, judged: Judged) -> None:
        """Learn what it takes to find what is stored already: a client that sends all of it again
        makes no group that would tell."""
        self._price_all(judged.times)

    def _price_all(self, times: Times) -> None:
        plan = self.plan
        load = times.load + REFUSAL_LOAD * plan.refused
        self._price(load, max(0.0, plan.beside.take_off(times) - plan.beyond_s))
        plan.refused = plan.beyond_s = 0

    def _price(self, load: float, busy_s: float) -> None:
        """Learn what load costs from a group of that load for which the loop worked so long."""
        plan = self.plan
        if load >= LOAD_TELLS_FROM:
            self._learn(load, busy_s - self._round_s)
        elif load <= LOAD_TELLS_NOTHING:
            round_s = min(max(0.0, busy_s - load * plan.load_s), ROUND_S_MAX)
            self._round_s += (round_s - self._round_s) / 8
        self._load += load
        self._busy_s += busy_s
        if self._load >= LOAD_MEASURED_MIN:
            if self._busy_s < self._load * plan.load_s:
                self._learn(self._load, self._busy_s)
            self._load = self._busy_s = 0.0

    def _learn(self, load: float, busy_s: float) -> None:
        """The mean of what groups took by the mean of their load, and not of one by the other: what
        a large one took says more."""
        plan = self.plan
        busy_s = min(max(busy_s, load * LOAD_S_MIN), load * min(LEAP * plan.load_s, LOAD_S_MAX))
        self._mean_load += (load - self._mean_load) / 8
        self._mean_busy_s += (busy_s - self._mean_busy_s) / 8
        plan.load_s = self._mean_busy_s / self._mean_load

    def _expect_commits(self, commit_s: float, ended: float) -> None:
        plan = self.plan
        plan.measured_at = ended
        budget_s = plan.budget_s or BUDGET_S_DEFAULT
        before = self._commits[-1][1] if self._commits else commit_s
        while self._commits and self._commits[0][0] < ended - COMMITS_KEPT_S:
            self._commits.popleft()
        self._commits.append((ended, commit_s))
        counted = commit_s
        if before < commit_s / 2:  # a single stall says little about the next commit
            counted = min(commit_s, max(4 * self._mean_s, 2 * budget_s))
        self._deviation_s += (abs(counted - self._mean_s) - self._deviation_s) / 8
        self._mean_s += (counted - self._mean_s) / 8
        slowest = max(seconds for _, seconds in self._commits)
        self._mean_s = min(self._mean_s, slowest)
        plan.commit_s = min(self._mean_s + self._deviation_s, slowest)
        plan.quick = len(self._commits) >= QUICK_AFTER and plan.commit_s < QUICK_S
        bound = SLOW_UNTIL if plan.slow else SLOW_FROM
        plan.slow = plan.commit_s > bound * budget_s

    def _steer_groups(self) -> None:
        plan = self.plan
        budget_s = plan.budget_s or BUDGET_S_DEFAULT
        plan.group_s = self._group_s_max
        if plan.budget_s and not plan.slow:
            plan.group_s = min(self._group_s_max, GROUP * budget_s)
        events = int(plan.group_s / max(self._event_s, 1e-7)) + 1
        plan.group_events = min(max(events, GROUP_EVENTS_MIN), self._group_events_max)
        plan.patience_s = PATIENCE * budget_s

    def _reconsider(self, now: float) -> None:
        """Trust the expectation less where it was wrong, more again where it was not."""
        plan = self.plan
        if self._epoch_requests and plan.budget_s and not plan.slow:
            if self._epoch_slow * 200 > self._epoch_requests:
                plan.trust = max(TRUST_MIN, plan.trust * 0.85)
            elif not self._epoch_slow:
                plan.trust = min(1.0, plan.trust + 0.03)
        plan.checkpoints = self._epoch_slowest_s < 0.5 * (plan.budget_s or BUDGET_S_DEFAULT)
        self._epoch_ends = now + EPOCH_S
        self._epoch_requests = self._epoch_slow = 0
        self._epoch_slowest_s = 0.0
