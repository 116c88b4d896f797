"""Jobs through whole days: those on which the clock is set, under every policy; two days of
accidents, from a seed; and whatever chance makes of a job.
"""

import hashlib
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain.cron_commands import RunNow, Update, Wake
from palyra_actors.errors import Conflict
from tests.domain.cron_world import MINUTE, World
from tests.domain.test_schedule import DST, day_of, ms

DAY = 1440 * MINUTE
POLICIES = [(c, m) for c in ("forbid", "replace", "queue_one") for m in ("skip", "catch_up")]


def through(world: World, until_ms: int, *, served: bool) -> World:
    """Let time pass; `served`: a worker does every run at once."""
    while world.job is not None:
        if served and world.job.active is not None and world.job.active.status == "running":
            world.take().finish()
            continue
        moment = min(one for one in (world.job.due_ms, until_ms) if one is not None)
        if moment >= until_ms:
            break
        world.now_ms = moment
        world.do(Wake(world.up_since_ms))
    world.now_ms = until_ms
    return world


@pytest.mark.parametrize(("policy", "misfire"), POLICIES)
@pytest.mark.parametrize(("zone", "day", "expression", "wanted"), DST)
def test_every_policy_goes_through_the_days_on_which_the_clock_is_set(  # noqa: PLR0917
    zone: str, day: str, expression: str, wanted: list[str], policy: str, misfire: str
) -> None:
    start, end = day_of(zone, day)
    instants = [ms(f"{day}T{one}") for one in wanted]

    def world() -> World:
        return World(
            now_ms=start - 1, schedule={"cron": expression, "tz": zone}, lease_ms=DAY,
            concurrency_policy=policy, misfire_policy=misfire,
        )  # fmt: skip

    def told(one: World) -> list[tuple[int, str, str, int]]:
        return [(run.scheduled_ms, run.status, run.reason, run.missed) for run in one.runs]

    served = through(world(), end, served=True)
    assert told(served) == [(one, "succeeded", "tick", 0) for one in instants]

    held = through(world(), end, served=False)
    middle, last = instants[1:-1], instants[1:][-1:]
    if policy == "forbid":
        rest = [(one, "skipped", "overlap", 0) for one in instants[1:]]
    elif policy == "replace":
        rest = [(one, "cancelled", "replaced", 0) for one in middle]
        rest += [(one, "running", "tick", 0) for one in last]
    else:
        rest = [(one, "queued", "tick", 0) for one in instants[1:2]]
        rest += [(one, "skipped", "queue_full", 0) for one in instants[2:]]
    begun = "cancelled" if policy == "replace" and last else "running"
    why = "replaced" if begun == "cancelled" else "tick"
    assert told(held) == [(one, begun, why, 0) for one in instants[:1]] + rest

    gone = world()
    gone.now_ms = gone.up_since_ms = end - 1
    gone.settle()
    count = len(instants)
    missed = (
        (instants[-1:], "skipped", "misfire", count) if misfire == "skip"
        else (instants[-1:], "running", "catch_up", count - 1)
    )  # fmt: skip
    assert told(gone) == [(one, *missed[1:]) for one in missed[0]]


# -- two days of accidents ------------------------------------------------------------------------

SCHEDULES: list[dict[str, Any]] = [
    {"every_ms": 7 * MINUTE},
    {"every_ms": 45_000},
    {"cron": "*/10 * * * *", "tz": "Europe/Prague"},
    {"cron": "30 2 * * *", "tz": "Europe/Prague"},
    {"cron": "0,20 1-4 * * *", "tz": "America/New_York"},
    {"at_ms": 0},
]
START = ms("2026-10-24T12:00+02:00")  # within the two days Prague sets its clocks back


class Accidents:
    """One job for two days, with a worker that may die, an engine that may be down or asleep, and a
    clock that may be set. All chance comes from the seed."""

    def __init__(self, seed: int, number: int) -> None:
        self.chance = chance = random.Random(f"{seed} {number}")
        schedule = dict(SCHEDULES[number % len(SCHEDULES)])
        if "at_ms" in schedule:
            schedule["at_ms"] = START + chance.randrange(DAY)
        policy, misfire = POLICIES[number % len(POLICIES)]
        self.world = World(
            now_ms=START, job_id=number.to_bytes(16, "big"), schedule=schedule,
            concurrency_policy=policy, misfire_policy=misfire, lease_ms=3 * MINUTE,
            jitter_ms=chance.choice((0, 20_000)), max_attempts=chance.choice((1, 3)),
            misfire_grace_ms=chance.choice((0, MINUTE, 5 * MINUTE)), backoff_ms=30_000,
        )  # fmt: skip

    def live(self) -> World:
        world, chance = self.world, self.chance
        until = START + 2 * DAY
        while world.now_ms < until:
            luck = chance.random()
            if luck < 0.02:
                self.down(chance.randrange(1, 90) * MINUTE)
            elif luck < 0.03:
                world.now_ms += chance.choice((-60 * MINUTE, 60 * MINUTE))  # the clock is set
            elif luck < 0.06:
                world.now_ms += chance.randrange(10 * MINUTE)  # the engine was asleep
            self.step()
        self.world.crash()
        return world

    def down(self, for_ms: int) -> None:
        self.world.now_ms += for_ms
        self.world.up_since_ms = self.world.now_ms
        self.world.crash()

    def step(self) -> None:
        """What is due is done; then a worker takes, renews or ends a run, or does nothing."""
        world, chance = self.world, self.chance
        world.settle()
        assert world.job is not None
        run = world.job.active
        if run is not None and run.status == "running":
            if not run.fence and chance.random() < 0.7:
                world.take()
            elif run.fence:
                try:
                    self.work()
                except Conflict:  # its lease is over, and nobody has noticed yet
                    assert run.lease_until_ms is not None
                    assert run.lease_until_ms <= world.now_ms
        world.now_ms += chance.randrange(1_000, 60_000)

    def work(self) -> None:
        luck = self.chance.random()
        if luck < 0.4:
            self.world.finish("succeeded", usage={"n": 1})
        elif luck < 0.5:
            self.world.finish("failed", error="no")
        elif luck < 0.8:
            self.world.beat()


def assert_sound(world: World) -> None:
    """One tick, one start; every instant has its one account; fences rise; ends are ends."""
    instants = world.accounted()
    assert instants == sorted(set(instants))
    started: set[tuple[int, int]] = set()
    open_runs: set[str] = set()
    fence = 0
    for kind, said, _ in world.events:
        if kind == "cron.run_started":
            key = (said["scheduled_ms"], said["attempt"])
            if not said["manual"]:
                assert key not in started
                started.add(key)
            open_runs.add(said["run_id"])
            assert len(open_runs) == 1
        elif kind == "cron.run_leased":
            assert said["run_id"] in open_runs
            assert said["fence"] > fence
        elif kind == "cron.run_finished":
            open_runs.discard(said["run_id"])
        fence = max(fence, said.get("fence", 0))


def digest(worlds: list[World]) -> str:
    """Of all that happened, to the last byte."""
    packed = msgspec.msgpack.encode([one.events for one in worlds])
    return hashlib.sha256(packed).hexdigest()


@pytest.mark.timeout(900)  # fifty seeds in a campaign
def test_two_days_of_accidents_leave_every_tick_accounted_for_and_repeat_from_their_seed(
    campaign: bool,
) -> None:
    for seed in range(50 if campaign else 2):
        worlds = [Accidents(seed, number).live() for number in range(12)]
        for world in worlds:
            assert_sound(world)
        reasons = {run.reason for world in worlds for run in world.runs}
        assert {"tick", "misfire", "overlap", "orphaned", "no_worker", "retry"} <= reasons
        assert digest([Accidents(seed, number).live() for number in range(12)]) == digest(worlds)
        assert digest([Accidents(seed + 1, n).live() for n in range(12)]) != digest(worlds)


# -- whatever chance makes of it ------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["pass", "sleep", "down", "take", "beat", "finish", "fail", "now", "off", "on",
             "faster", "slower", "back"]
        ),
        st.integers(0, 5 * MINUTE),
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    policy=st.sampled_from(POLICIES),
    attempts=st.integers(1, 3),
    jitter=st.sampled_from([0, 30_000]),
)
def test_whatever_happens_to_a_job_it_stays_sound_and_its_rows_say_all_of_it(
    steps: list[tuple[str, int]], policy: tuple[str, str], attempts: int, jitter: int
) -> None:
    world = World(
        concurrency_policy=policy[0], misfire_policy=policy[1], max_attempts=attempts,
        lease_ms=90_000, jitter_ms=jitter, backoff_ms=20_000,
    )  # fmt: skip
    for what, span in steps:
        assert world.job is not None
        run = world.job.active
        held = run is not None and run.status == "running"
        try:
            match what:
                case "pass":
                    world.turn_to((world.now_ms + span) / MINUTE)
                case "sleep":
                    world.turn_to((world.now_ms + span) / MINUTE, woken=False)
                case "down":
                    world.down_until((world.now_ms + span) / MINUTE)
                case "back":
                    world.now_ms = max(0, world.now_ms - span)
                case "take" if held and run is not None and not run.fence:
                    world.take()
                case "beat" if held:
                    world.beat()
                case "finish" | "fail" if held:
                    world.finish("succeeded" if what == "finish" else "failed")
                case "now":
                    world.do(RunNow())
                case "off" | "on":
                    world.now_ms += span  # nobody has looked at it yet
                    world.do(Update({"enabled": what == "on"}, False))
                case "faster" | "slower":
                    world.now_ms += span
                    every_ms = MINUTE if what == "slower" else MINUTE // 2
                    world.do(Update({"schedule": {"every_ms": every_ms}}, False))
        except Conflict:
            assert held
        world.crash()
    instants = [
        said["scheduled_ms"] for kind, said, _ in world.events if "next_ms" in said
        and kind.startswith("cron.run_")
    ]  # fmt: skip
    assert instants == sorted(set(instants))
    begun = [
        (said["scheduled_ms"], said["attempt"]) for kind, said, _ in world.events
        if kind == "cron.run_started" and not said["manual"]
    ]  # fmt: skip
    assert len(begun) == len(set(begun))
    due_ms: int | None = None
    for kind, said, ts_ms in world.events:
        if kind == "cron.updated" and {"enabled", "schedule"} & said["changes"].keys():
            assert due_ms is None or due_ms > ts_ms, "a tick was due, and is accounted for nowhere"
        due_ms = said.get("due_ms", due_ms)
