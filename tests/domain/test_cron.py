"""A job's ticks and runs: every policy in every situation, retries, leases, what it refuses."""

from typing import Any

import msgspec
import pytest

from palyra_actors.domain.cron import Said, Who, wake_ms
from palyra_actors.domain.cron_commands import (
    Create,
    Delete,
    Finish,
    Heartbeat,
    Quarantine,
    RunNow,
    Take,
    Update,
    Wake,
    decide,
    wake_step_by_step,
)
from palyra_actors.domain.fact import New
from palyra_actors.errors import Conflict, Invalid, NotFound
from tests.domain.cron_world import MINUTE, World, made


def running(world: World) -> None:
    """A worker holds a run when the tick falls due in time."""
    world.turn_to(1).take()
    world.turn_to(2)


def queued(world: World) -> None:
    """And another tick after that."""
    world.turn_to(1).take()
    world.turn_to(3)


def down(world: World) -> None:
    """No engine while three ticks fall due; the last one ten seconds ago."""
    world.down_until(3 + 1 / 6)


def late(world: World) -> None:
    """The engine is there, but looks only when two ticks are later than the grace, one is not."""
    world.turn_to(3 + 1 / 6, woken=False)


def leased_out(world: World) -> None:
    """Its worker has not been heard of for so long when the tick falls due."""
    world.turn_to(1).take()
    world.turn_to(2)


def leased_out_unseen(world: World) -> None:
    """The same, and the engine looks when both the lease's end and the tick have passed."""
    world.turn_to(1).take()
    world.turn_to(2 + 1 / 6, woken=False)


def running_down(world: World) -> None:
    """A worker holds a run, and no engine is there while three ticks fall due."""
    world.turn_to(1).take()
    world.down_until(4 + 1 / 6)


def leased_out_down(world: World) -> None:
    """The same, and the lease ends meanwhile."""
    world.turn_to(1).take()
    world.down_until(4 + 1 / 6)


def untaken_down(world: World) -> None:
    """Nobody has taken the run when the engine goes, and its time ends meanwhile."""
    world.turn_to(1)
    world.down_until(4 + 1 / 6)


LEASES = {
    leased_out: MINUTE // 2, leased_out_unseen: MINUTE // 2, leased_out_down: MINUTE // 2,
    untaken_down: MINUTE // 2,
}  # fmt: skip

HELD = (1, "running", "tick", 0)
GONE = (1, "cancelled", "replaced", 0)
ORPHAN = (1, "failed", "orphaned", 0)
UNTAKEN = (1, "failed", "no_worker", 0)

# What the rules say: concurrency policy, misfire policy, situation, and the runs in their order as
# (minute, status, reason, missed). Where a misfire policy makes no difference there are two rows.
MATRIX: list[tuple[str, str, Any, list[tuple[int, str, str, int]]]] = [
    *[
        row
        for misfire in ("skip", "catch_up")
        for row in (
            ("forbid", misfire, running, [HELD, (2, "skipped", "overlap", 0)]),
            ("replace", misfire, running, [GONE, (2, "running", "tick", 0)]),
            ("queue_one", misfire, running, [HELD, (2, "queued", "tick", 0)]),
            ("forbid", misfire, queued,
             [HELD, (2, "skipped", "overlap", 0), (3, "skipped", "overlap", 0)]),
            ("replace", misfire, queued,
             [GONE, (2, "cancelled", "replaced", 0), (3, "running", "tick", 0)]),
            ("queue_one", misfire, queued,
             [HELD, (2, "queued", "tick", 0), (3, "skipped", "queue_full", 0)]),
            ("forbid", misfire, leased_out, [ORPHAN, (2, "running", "tick", 0)]),
            ("replace", misfire, leased_out, [ORPHAN, (2, "running", "tick", 0)]),
            ("queue_one", misfire, leased_out, [ORPHAN, (2, "running", "tick", 0)]),
            ("forbid", misfire, leased_out_unseen, [ORPHAN, (2, "running", "tick", 0)]),
            ("replace", misfire, leased_out_unseen, [ORPHAN, (2, "running", "tick", 0)]),
            ("queue_one", misfire, leased_out_unseen, [ORPHAN, (2, "running", "tick", 0)]),
        )
    ],
    *[
        row
        for policy in ("forbid", "replace", "queue_one")
        for row in (
            (policy, "skip", down, [(3, "skipped", "misfire", 3)]),
            (policy, "catch_up", down, [(3, "running", "catch_up", 2)]),
            (policy, "skip", late, [(2, "skipped", "misfire", 2), (3, "running", "tick", 0)]),
            (policy, "skip", leased_out_down, [ORPHAN, (4, "skipped", "misfire", 3)]),
            (policy, "catch_up", leased_out_down, [ORPHAN, (4, "running", "catch_up", 2)]),
            (policy, "skip", untaken_down, [UNTAKEN, (4, "skipped", "misfire", 3)]),
            (policy, "catch_up", untaken_down, [UNTAKEN, (4, "running", "catch_up", 2)]),
            (policy, "skip", running_down, [HELD, (4, "skipped", "misfire", 3)]),
        )
    ],
    ("forbid", "catch_up", late,
     [(2, "running", "catch_up", 1), (3, "skipped", "overlap", 0)]),
    ("replace", "catch_up", late,
     [(2, "cancelled", "replaced", 1), (3, "running", "tick", 0)]),
    ("queue_one", "catch_up", late,
     [(2, "running", "catch_up", 1), (3, "queued", "tick", 0)]),
    ("forbid", "catch_up", running_down, [HELD, (4, "skipped", "overlap", 2)]),
    ("replace", "catch_up", running_down, [GONE, (4, "running", "catch_up", 2)]),
    ("queue_one", "catch_up", running_down, [HELD, (4, "queued", "catch_up", 2)]),
]  # fmt: skip


def test_the_matrix_has_every_policy_in_every_situation() -> None:
    situations = {row[2] for row in MATRIX}
    assert len(situations) == 9
    assert len({row[:3] for row in MATRIX}) == len(MATRIX) == 3 * 2 * len(situations)


@pytest.mark.parametrize(
    ("policy", "misfire", "situation", "wanted"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}-{row[2].__name__}") for row in MATRIX],
)
def test_every_policy_does_in_every_situation_what_the_rules_say(
    policy: str, misfire: str, situation: Any, wanted: list[tuple[int, str, str, int]]
) -> None:
    lease_ms = LEASES.get(situation, 10 * MINUTE)
    world = World(concurrency_policy=policy, misfire_policy=misfire, lease_ms=lease_ms)
    situation(world)
    assert world.told() == wanted
    world.crash()
    last = wanted[-1][0] * MINUTE
    assert world.accounted() == list(range(MINUTE, last + 1, MINUTE))


@pytest.mark.parametrize("policy", ["forbid", "replace", "queue_one"])
def test_a_tick_that_comes_when_the_run_has_ended_starts(policy: str) -> None:
    world = World(concurrency_policy=policy).turn_to(1).take().finish()
    assert world.turn_to(2).told() == [(1, "succeeded", "tick", 0), (2, "running", "tick", 0)]


def test_the_queued_tick_starts_when_the_run_before_it_ends() -> None:
    world = World(concurrency_policy="queue_one").turn_to(1).take().turn_to(2.5)
    world.finish("failed", error="no")
    assert world.told() == [(1, "failed", "tick", 0), (2, "running", "tick", 0)]
    assert world.active.started_ms == 2.5 * MINUTE
    assert world.active.fence == 0


# -- attempts -------------------------------------------------------------------------------------


def test_attempts_wait_twice_as_long_each_time_and_are_runs_of_their_own() -> None:
    world = World(max_attempts=4, backoff_ms=1_000, schedule={"at_ms": MINUTE}).turn_to(1)
    waited = []
    for attempt in (1, 2, 3, 4):
        assert world.active.attempt == attempt
        assert world.active.scheduled_ms == MINUTE
        world.take().finish("failed")
        if attempt < 4:
            began = world.now_ms
            assert world.active.deadline_ms is not None
            world.turn_to(world.active.deadline_ms / MINUTE)
            waited.append(world.now_ms - began)
    assert waited == [1_000, 2_000, 4_000]
    assert [run.status for run in world.runs] == ["failed"] * 4
    assert len({run.run_id for run in world.runs}) == 4


@pytest.mark.parametrize("ends", ["finish", "orphaned", "no_worker"])
def test_every_failure_has_a_further_attempt(ends: str) -> None:
    world = World(max_attempts=2, backoff_ms=1_000, lease_ms=1_000, schedule={"at_ms": MINUTE})
    world.turn_to(1)
    if ends != "no_worker":
        world.take()
    if ends == "finish":
        world.finish("failed")
    world.turn_to(1 + 2_500 / MINUTE)
    assert world.told()[0][1:3] == ("failed", "tick" if ends == "finish" else ends)
    began = [run.started_ms for run in world.runs if run.attempt == 2]
    assert began == [MINUTE + (1_000 if ends == "finish" else 2_000)]


def test_a_further_attempt_waits_through_a_restart() -> None:
    world = World(max_attempts=2, backoff_ms=90_000).turn_to(1).take().finish("failed")
    world.crash()
    world.turn_to(2.4)
    assert world.told() == [
        (1, "failed", "tick", 0), (1, "queued", "retry", 0), (2, "skipped", "overlap", 0),
    ]  # fmt: skip
    world.turn_to(2.5)
    assert world.told()[1] == (1, "running", "retry", 0)


def test_a_tick_meets_a_run_that_waits_for_its_next_attempt_as_one_under_way() -> None:
    for policy, wanted in (
        ("forbid", [(1, "queued", "retry", 0), (2, "skipped", "overlap", 0)]),
        ("replace", [(1, "cancelled", "replaced", 0), (2, "running", "tick", 0)]),
        ("queue_one", [(1, "queued", "retry", 0), (2, "queued", "tick", 0)]),
    ):
        world = World(concurrency_policy=policy, max_attempts=2, backoff_ms=90_000)
        world.turn_to(1).take().finish("failed")
        assert world.turn_to(2).told()[1:] == wanted


def test_a_run_that_was_replaced_has_no_further_attempt() -> None:
    world = World(concurrency_policy="replace", max_attempts=5).turn_to(1).take().turn_to(2)
    world.take().finish()
    assert world.told() == [(1, "cancelled", "replaced", 0), (2, "succeeded", "tick", 0)]


def test_backing_off_ends_at_a_day() -> None:
    world = World(max_attempts=100, backoff_ms=86_400_000, schedule={"at_ms": MINUTE}).turn_to(1)
    for _ in range(3):
        world.take().finish("failed")
        assert world.active.deadline_ms == world.now_ms + 86_400_000
        world.turn_to(world.active.deadline_ms / MINUTE)


# -- leases and fences ----------------------------------------------------------------------------


def test_a_lease_counts_from_when_it_is_given_and_a_heartbeat_renews_it() -> None:
    world = World(lease_ms=MINUTE, schedule={"at_ms": MINUTE}).turn_to(1).turn_to(1.5).take()
    assert world.active.lease_until_ms == 2.5 * MINUTE
    world.turn_to(2.4).beat()
    assert world.active.lease_until_ms == 3.4 * MINUTE
    world.turn_to(3.3)
    assert world.told() == [(1, "running", "tick", 0)]
    world.turn_to(3.4)
    assert world.told() == [(1, "failed", "orphaned", 0)]


def test_a_worker_that_lost_its_lease_can_neither_renew_nor_finish() -> None:
    world = World(lease_ms=MINUTE, max_attempts=2, schedule={"at_ms": MINUTE}).turn_to(1).take()
    lost = world.active
    world.turn_to(2)
    before = list(world.events)
    for command in (
        Heartbeat(lost.run_id, lost.fence),
        Finish(lost.run_id, lost.fence, "succeeded", None, None, False),
    ):
        with pytest.raises(Conflict):
            world.do(command)
    world.turn_to(2 + 1_000 / MINUTE).take()
    with pytest.raises(Conflict) as stale:
        world.do(Finish(world.active.run_id, lost.fence, "succeeded", None, None, False))
    assert stale.value.detail == {"actual": world.active.fence}
    assert world.active.fence == lost.fence + 1
    assert [kind for kind, _, _ in world.events[len(before) :]] == [
        "cron.run_started", "cron.run_leased",
    ]  # fmt: skip


def test_a_lease_that_is_over_is_over_before_anybody_has_noticed() -> None:
    world = World(lease_ms=MINUTE, schedule={"at_ms": MINUTE}).turn_to(1).take()
    world.now_ms = 2 * MINUTE
    with pytest.raises(Conflict):
        world.finish()
    with pytest.raises(Conflict):
        world.beat()


def test_a_run_is_given_to_one_worker() -> None:
    world = World().turn_to(1).take()
    with pytest.raises(Conflict):
        world.take()
    world.do(Take(world.active.run_id, world.active.fence))  # the first one left unheard of
    assert world.active.fence == 2


def test_a_waiting_worker_has_its_lease_in_the_same_breath_as_the_start() -> None:
    world = World()
    world.now_ms = MINUTE
    world.do(Wake(0, hand=True))
    assert [kind for kind, _, _ in world.events] == ["cron.created", "cron.run_started"]
    assert (world.active.fence, world.active.lease_until_ms) == (1, 11 * MINUTE)
    world.now_ms = 2 * MINUTE
    world.do(Wake(0, hand=True))
    assert world.told() == [(1, "running", "tick", 0), (2, "skipped", "overlap", 0)]
    assert world.active.fence == 1
    world.crash()


@pytest.mark.parametrize("policy", ["replace", "queue_one"])
def test_of_several_starts_in_one_breath_the_last_one_has_the_lease(policy: str) -> None:
    world = World(concurrency_policy=policy, misfire_grace_ms=10 * MINUTE)
    world.now_ms = 3 * MINUTE
    world.do(Wake(0, hand=True))
    assert [run.fence for run in world.runs if run.status == "running"] == [1]
    assert sum(run.fence > 0 for run in world.runs) == 1
    world.crash()


# -- jobs that change -----------------------------------------------------------------------------


def test_a_job_that_is_disabled_has_no_ticks_and_none_of_the_meantime_later() -> None:
    world = World().turn_to(1).take()
    world.do(Update({"enabled": False}, False))
    world.turn_to(3.5)
    assert world.told() == [(1, "running", "tick", 0)]
    world.finish()
    world.do(Update({"enabled": True}, False))
    assert world.turn_to(4).told() == [(1, "succeeded", "tick", 0), (4, "running", "tick", 0)]


def test_disabling_ends_what_waits_and_not_what_runs() -> None:
    world = World(concurrency_policy="queue_one").turn_to(1).take().turn_to(2)
    world.do(Update({"enabled": False}, False))
    assert world.told() == [(1, "running", "tick", 0), (2, "cancelled", "disabled", 0)]


def test_deleting_ends_all_of_it_and_uses_the_id_up() -> None:
    world = World(concurrency_policy="queue_one").turn_to(1).take().turn_to(2)
    held = world.active
    world.do(Delete())
    assert world.told() == [(1, "cancelled", "deleted", 0), (2, "cancelled", "deleted", 0)]
    for command in (Delete(), RunNow(), Wake(0), Update({}, False)):
        with pytest.raises(NotFound):
            world.do(command)
    with pytest.raises(Conflict):
        world.do(Finish(held.run_id, held.fence, "succeeded", None, None, False))
    with pytest.raises(Conflict):
        world.do(Create(made(), True, False))


def test_a_change_that_changes_nothing_is_no_event() -> None:
    world = World()
    before = len(world.events)
    world.do(Update({"name": "digest", "enabled": True}, False))
    assert len(world.events) == before


def test_a_new_schedule_begins_now_and_has_no_tick_of_before() -> None:
    world = World().turn_to(1).take().finish()
    world.turn_to(1.5)
    world.do(Update({"schedule": {"every_ms": 2 * MINUTE}}, False))
    assert world.turn_to(3.5).told()[1:] == [(3.5, "running", "tick", 0)]


def test_no_instant_has_two_ticks_whatever_becomes_of_the_schedule_or_the_clock() -> None:
    world = World(schedule={"at_ms": MINUTE}).turn_to(1).take().finish()
    world.do(Update({"schedule": {"at_ms": 2 * MINUTE}}, False))
    with pytest.raises(Invalid):
        world.do(Update({"schedule": {"at_ms": MINUTE}}, False))
    assert world.turn_to(2).told() == [(1, "succeeded", "tick", 0), (2, "running", "tick", 0)]

    again = World(schedule={"cron": "* * * * *", "tz": "UTC"}).turn_to(60).take()
    again.now_ms = MINUTE  # the clock is set back by almost an hour
    again.do(Update({"enabled": False}, False))
    again.do(Update({"enabled": True}, False))
    assert again.job is not None
    assert again.job.next_ms == 61 * MINUTE


def test_a_one_shot_of_the_past_is_due_at_once_and_one_of_the_future_when_it_comes() -> None:
    world = World(now_ms=10 * MINUTE, schedule={"at_ms": 10 * MINUTE - 5})
    world.up_since_ms = 0
    world.settle()
    assert [run.status for run in world.runs] == ["running"]
    later = World(schedule={"at_ms": 5 * MINUTE}).turn_to(4.9)
    assert later.runs == []
    assert later.turn_to(5).told() == [(5, "running", "tick", 0)]


@pytest.mark.parametrize("misfire", ["skip", "catch_up"])
def test_a_one_shot_of_the_past_was_not_missed_by_an_engine_that_could_not_know_of_it(
    misfire: str,
) -> None:
    def made_at(minute: float) -> World:
        at_ms = 10 * MINUTE - MINUTE // 4
        return World(
            now_ms=round(minute * MINUTE), schedule={"at_ms": at_ms}, misfire_policy=misfire
        )

    just = made_at(10)  # the engine runs since this very moment
    just.settle()
    assert [run.reason for run in just.runs] == ["tick"]
    late = made_at(11)
    late.settle()
    went = made_at(10)
    went.down_until(10.1)
    wanted = {"skip": ("skipped", "misfire", 1), "catch_up": ("running", "catch_up", 0)}[misfire]
    assert late.told()[0][1:] == went.told()[0][1:] == wanted


def test_a_job_that_is_far_behind_goes_through_a_few_ticks_at_a_time() -> None:
    """Many are woken together, and what they do takes the loop: nobody else has a turn then."""
    world = World(concurrency_policy="replace", misfire_grace_ms=1_000 * MINUTE)
    world.now_ms = 100 * MINUTE
    wakes, due_ms = 0, 0
    while due_ms <= world.now_ms:
        before = len(world.events)
        due_ms = world.do(Wake(0))["wake_ms"]
        assert len(world.events) - before <= 8  # four runs, and the ends of those before
        wakes += 1
    assert wakes == 25
    assert [row[0] for row in world.told()] == list(range(1, 101))


def test_a_one_shot_that_a_job_has_gone_past_is_refused_and_changes_nothing() -> None:
    """An instant has one tick, so it would never be due, and nobody would hear of it."""
    world = World().turn_to(10).take()
    world.now_ms = 2 * MINUTE  # the clock was set back
    known, before = len(world.events), world.job
    for at_ms in (3 * MINUTE, 10 * MINUTE):
        with pytest.raises(Invalid) as refused:
            world.do(Update({"schedule": {"at_ms": at_ms}}, False))
        assert refused.value.field == "schedule.at_ms"
        assert "never due: the job has had its tick of 600000 (1970-01-01T00:10" in str(
            refused.value
        )
    assert (len(world.events), world.job) == (known, before)
    world.do(Update({"schedule": {"at_ms": 10 * MINUTE + 1}}, False))
    assert world.job is not None
    assert world.job.due_ms == 10 * MINUTE + 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Update({"enabled": False}, False), "disabled"),
        (Update({"schedule": {"every_ms": 5 * MINUTE}}, False), "rescheduled"),
        (Update({"schedule": {"every_ms": 5 * MINUTE}, "enabled": False}, False), "disabled"),
        (Delete(), "deleted"),
    ],
)
def test_ticks_that_are_due_when_a_job_stops_having_them_are_accounted_for(
    command: Any, reason: str
) -> None:
    world = World().turn_to(1).take()
    world.now_ms = 4 * MINUTE + 1  # nobody has woken it yet
    world.do(command)
    ticks = [row for row in world.told() if row[0] != 1]
    assert ticks == [(4, "skipped", reason, 2)]
    world.crash()
    skipped = [said for kind, said, _ in world.events if kind == "cron.run_skipped"]
    assert [(said["from_ms"], said["scheduled_ms"]) for said in skipped] == [
        (2 * MINUTE, 4 * MINUTE)
    ]
    again = World(jitter_ms=MINUTE // 2).turn_to(1)
    assert again.job is not None
    assert again.job.due_ms is not None
    again.now_ms = again.job.due_ms - 1  # what is not due yet is no tick
    again.do(command)
    assert len([row for row in again.told() if row[0] != 1]) == 0


@pytest.mark.parametrize(
    ("policy", "reason"), [("forbid", "overlap"), ("replace", ""), ("queue_one", "manual")]
)
def test_a_run_by_hand_follows_the_concurrency_policy(policy: str, reason: str) -> None:
    world = World(concurrency_policy=policy).turn_to(1.5).take()
    run = world.do(RunNow())["run"]
    wanted = {"forbid": "skipped", "replace": "running", "queue_one": "queued"}[policy]
    assert run["status"] == wanted
    assert run["scheduled_ms"] == 1.5 * MINUTE
    assert run["reason"] == (reason or "manual")


def test_a_run_by_hand_takes_nothing_from_the_tick_of_the_same_instant() -> None:
    world = World()
    world.now_ms = MINUTE
    world.do(RunNow())
    world.take().finish()
    world.settle()
    assert world.told() == [(1, "succeeded", "manual", 0), (1, "running", "tick", 0)]


def test_with_jitter_a_tick_is_due_later_and_its_instant_stays() -> None:
    world = World(jitter_ms=20_000)
    for minute in range(1, 30):
        assert world.job is not None
        assert world.job.next_ms == minute * MINUTE
        assert world.job.due_ms is not None
        world.turn_to(world.job.due_ms / MINUTE).take().finish()
    assert [run.scheduled_ms for run in world.runs] == list(range(MINUTE, 30 * MINUTE, MINUTE))
    offsets = {run.started_ms - run.scheduled_ms for run in world.runs if run.started_ms}
    assert len(offsets) > 20
    assert max(offsets) <= 20_000


def test_a_schedule_that_ends_puts_its_job_into_quarantine_where_it_can_be_seen() -> None:
    world = World(schedule={"cron": "0 0 29 2 *", "tz": "UTC"})
    assert world.job is not None
    before_the_end = 253_373_961_600_000  # the last 29 February of the calendar is in 9996
    last = 253_281_254_400_000
    assert world.job.next_ms is not None
    world.job = world.job._replace(next_ms=last, due_ms=last)
    world.now_ms = last
    world.up_since_ms = 0
    world.settle()
    assert world.now_ms < before_the_end
    assert world.told()[-1][1:3] == ("skipped", "quarantined")
    assert world.runs[-1].error == "its schedule is never due again"
    assert world.job is not None
    assert not world.job.enabled


def test_quarantine_ends_what_waits_and_is_over_when_the_job_is_enabled() -> None:
    world = World(concurrency_policy="queue_one").turn_to(1).take().turn_to(2)
    world.do(Quarantine("it is broken"))
    assert world.told() == [
        (1, "running", "tick", 0), (2, "cancelled", "disabled", 0),
        (3, "skipped", "quarantined", 0),
    ]  # fmt: skip
    world.finish()
    world.do(Update({"enabled": True}, False))
    assert world.turn_to(3).told()[-1] == (3, "running", "tick", 0)


def test_a_run_that_nobody_has_taken_cannot_be_finished_and_says_why() -> None:
    world = World().turn_to(1)
    run_id = world.runs[0].run_id
    for command in (Finish(run_id, 0, "succeeded", None, None, False), Heartbeat(run_id, 1)):
        with pytest.raises(Conflict, match="no worker has the run") as refused:
            world.do(command)
        assert refused.value.field == "run_id"


def test_a_run_shows_what_its_worker_said_of_it() -> None:
    world = World().turn_to(1).take()
    world.finish("failed", error={"code": 7}, usage={"tokens": 3})
    assert world.runs[0][-2:] == ({"code": 7}, {"tokens": 3})


SCHEDULES: list[dict[str, Any]] = [
    {"at_ms": 1 * MINUTE},
    {"every_ms": MINUTE},
    {"cron": "* * * * *", "tz": "Europe/Prague"},
    {"cron": "59 23 31 12 *", "tz": "UTC"},
]


@pytest.mark.parametrize("hand", [False, True])
@pytest.mark.parametrize("jitter_ms", [0, 700])
@pytest.mark.parametrize("grace_ms", [MINUTE // 2, 2 * MINUTE])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_usual_tick_says_to_the_byte_what_going_through_it_step_by_step_says(
    schedule: dict[str, Any], grace_ms: int, jitter_ms: int, hand: bool
) -> None:
    world = World(schedule=schedule, jitter_ms=jitter_ms, misfire_grace_ms=grace_ms)
    before = world.job
    assert before is not None
    assert before.due_ms is not None
    for after_ms in (-1, 0, 400, MINUTE // 2, MINUTE // 2 + 1, MINUTE, 5 * MINUTE):
        for up_since_ms in (0, before.due_ms, before.due_ms + 1):
            who = Who(world.job_id, "local", before.due_ms + after_ms)
            wake = Wake(up_since_ms, hand)
            usual, plain = decide(before, wake, who), wake_step_by_step(before, wake, who)
            assert [*map(told, usual.events)] == [*map(told, plain.events)]
            for one, other in zip(usual.events, plain.events, strict=True):
                assert isinstance(one.payload, Said)
                assert isinstance(other.payload, Said)
                assert (one.payload.made, one.payload.run_id) == (
                    other.payload.made, other.payload.run_id,
                )  # fmt: skip
                assert one.payload.made is not None
                after = one.payload.made[0]
            if usual.events:
                assert usual.answer(after) == plain.answer(after) == {"wake_ms": wake_ms(after)}


def told(new: New) -> tuple[Any, ...]:
    return (*new._replace(payload={}), msgspec.msgpack.encode(new.payload))
