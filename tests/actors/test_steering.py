"""The monitor's decisions, on a model of the engine: `tests/actors/overload.py`."""

import random

import pytest

from palyra_actors.actors.steering import (
    CAUTION,
    LOAD_S_FIRST,
    TRUST_MIN,
    Controller,
    Judged,
    Plan,
    Times,
    load_of,
)
from palyra_actors.actors.writer import TIDY_WAIT_S
from tests.actors.overload import BUCKET_S, BUDGET_S, CAPACITY, Bucket, Engine, disk_story


def quick(t: float) -> float:
    del t
    return 0.001


def overloaded(times_capacity: float, seconds: float = 3.0) -> list[Bucket]:
    """What became of a steady load, without the first half second."""
    engine = Engine(quick)
    buckets = engine.run(seconds, lambda _: [times_capacity * CAPACITY / 4] * 4)
    assert engine.tally.received == (
        engine.tally.ok + engine.tally.refused + engine.tally.under_way
    )
    return buckets[5:]


def rate(buckets: list[Bucket]) -> float:
    return sum(bucket.accepted for bucket in buckets) / len(buckets) / BUCKET_S


@pytest.fixture(scope="module")
def peak() -> float:
    return max(rate(overloaded(load)) for load in (0.6, 0.8, 1.0))


@pytest.mark.parametrize("times_capacity", [1.5, 3.0, 10.0])
def test_beyond_capacity_goodput_stays_near_its_peak_and_what_is_accepted_is_in_time(
    times_capacity: float, peak: float
) -> None:
    buckets = overloaded(times_capacity)
    assert rate(buckets) >= 0.9 * peak
    accepted = sum(bucket.accepted for bucket in buckets)
    assert sum(bucket.late for bucket in buckets) <= accepted / 1000
    refusals = [wait for bucket in buckets for wait in bucket.refusals]
    assert max(refusals) <= 0.005


def test_below_capacity_nothing_is_refused() -> None:
    buckets = overloaded(0.6)
    assert sum(bucket.refused for bucket in buckets) == 0
    assert rate(buckets) == pytest.approx(0.6 * CAPACITY, rel=0.02)


def test_at_any_load_the_rate_does_not_swing() -> None:
    for times_capacity in (0.6, 1.5, 4.0):
        rates = [bucket.accepted for bucket in overloaded(times_capacity)]
        assert max(rates) - min(rates) <= 0.25 * max(rates)


@pytest.fixture(scope="module")
def story() -> list[Bucket]:
    return Engine(disk_story).run(20, lambda _: [0.5 * CAPACITY / 4] * 4)


def at(story: list[Bucket], start_s: float, end_s: float) -> list[Bucket]:
    return story[round(start_s / BUCKET_S) : round(end_s / BUCKET_S)]


@pytest.mark.parametrize(("start_s", "end_s"), [(3.5, 6.0), (9.5, 12.0)])
def test_a_slow_disk_is_said_and_still_written_to(
    story: list[Bucket], start_s: float, end_s: float
) -> None:
    slow = at(story, start_s, end_s)
    assert all(bucket.trouble for bucket in slow)
    accepted = sum(bucket.accepted for bucket in slow)
    arrived = sum(bucket.arrived for bucket in slow)
    assert accepted >= 0.05 * arrived
    assert sum(bucket.late for bucket in slow) == accepted  # and every answer says so


def test_while_one_commit_stalls_all_is_refused_and_the_stall_is_said(
    story: list[Bucket],
) -> None:
    stalled = at(story, 15.2, 16.9)
    assert all(bucket.trouble and not bucket.accepted for bucket in stalled)
    assert all(bucket.refused >= 0.9 * bucket.arrived for bucket in stalled)


@pytest.mark.parametrize("cured_s", [6.0, 12.0, 17.01])
def test_full_speed_is_back_within_two_seconds_of_the_cure_and_stays(
    story: list[Bucket], cured_s: float
) -> None:
    after = at(story, cured_s + 1.9, min(cured_s + 2.9, 19.9))
    assert not any(bucket.trouble or bucket.refused or bucket.late for bucket in after)
    assert rate(after) == pytest.approx(0.5 * CAPACITY, rel=0.03)


def a_group(commit_s: float, ended: float, load: int = 400, busy_s: float = 0.006) -> Times:
    return Times(ended - commit_s - 0.002, ended - commit_s, ended, 100, load, busy_s, 100, 0, 0.01)


def test_what_load_costs_is_learned_from_what_the_loop_worked() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    for number in range(60):
        controller.observe(a_group(0.001, 1 + number / 100, busy_s=0.02))
    assert controller.plan.load_s == pytest.approx(50e-6, rel=0.02)


def test_small_groups_together_tell_what_load_costs() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    for number in range(60):
        controller.observe(a_group(0.001, 1 + number / 100, busy_s=0.4))
    assert controller.plan.load_s > 900e-6, "load seems dear, and next to nothing is let in"
    for number in range(2_000):
        controller.observe(a_group(0.001, 2 + number / 100, load=3, busy_s=3 * 20e-6))
    assert controller.plan.load_s == pytest.approx(20e-6, rel=0.1)


def test_a_trickle_of_writes_does_not_make_the_load_of_a_burst_dear() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    plan = controller.plan
    for number in range(400):
        controller.observe(a_group(0.001, 1 + number / 10, load=3, busy_s=0.001))
    assert plan.load_s <= LOAD_S_FIRST
    assert plan.room(50.0, 50.0, BUDGET_S) > 256 * 3


def test_small_groups_do_not_keep_load_dear_that_was_so_once() -> None:
    """Else the little that is let in makes small groups, and these so little be let in."""
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    for number in range(40):
        controller.observe(a_group(0.001, 1 + number / 100, busy_s=0.12))
    assert controller.plan.load_s > 250e-6
    for number in range(200):
        load = (3, 12, 30, 60)[number % 4]
        controller.observe(a_group(0.001, 2 + number / 100, load=load, busy_s=0.0004 + load * 6e-6))
    assert controller.plan.load_s < 15e-6


def test_a_loop_that_waited_for_a_processor_once_does_not_make_load_dear() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    for number in range(40):
        controller.observe(a_group(0.001, 1 + number / 100, load=100, busy_s=100 * 10e-6))
    controller.observe(a_group(0.001, 2, load=100, busy_s=0.02))
    assert controller.plan.load_s < 15e-6


def test_a_large_group_says_more_of_what_load_costs_than_a_small_one() -> None:
    """Else what is dear about small groups would let in fewer, and make groups smaller."""
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    for number in range(200):
        load, load_s = ((40, 40e-6), (1_000, 10e-6))[number % 2]
        controller.observe(a_group(0.001, 1 + number / 100, load=load, busy_s=load * load_s))
    assert controller.plan.load_s < 13e-6


def test_the_work_of_refusing_is_not_taken_for_what_load_costs() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    for number in range(200):
        controller.plan.refused += 1_000
        controller.observe(a_group(0.001, 1 + number / 100, load=30, busy_s=1_030 * 10e-6))
    assert controller.plan.load_s == pytest.approx(10e-6, rel=0.05)


@pytest.mark.parametrize("since", [True, False])
def test_what_is_done_beside_writes_is_taken_off_the_group_in_whose_time_it_was(
    since: bool,
) -> None:
    """Each group took 4 ms. Before its first request came the loop worked 5 ms for nobody, and 20
    for reads; reads of a millisecond were served after that, and of two once the group had ended,
    before it was measured."""
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    beside, since_s = controller.plan.beside, 0.001 if since else 0.0
    for number in range(60):
        ended = 1 + number / 10
        beside.note(ended - 0.05, 0.02)
        beside.note(ended - 0.003, since_s)
        beside.note(ended + 0.001, 0.002)
        times = a_group(0.001, ended, load=400, busy_s=0.004 + since_s)
        earlier_s = 0.027 if number else 0.025
        controller.observe(times._replace(came=ended - 0.007, earlier_s=earlier_s))
        assert controller.plan.load_s == pytest.approx(10e-6, rel=0.001)


def test_without_work_for_nobody_a_read_that_began_before_a_request_came_is_taken_off() -> None:
    """It was under way when that came, and ended within the group's time."""
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    for number in range(60):
        ended = 1 + number / 10
        controller.plan.beside.note(ended - 0.01, 0.006)
        times = a_group(0.001, ended, load=400, busy_s=0.007)
        controller.observe(times._replace(came=ended - 0.007, earlier_s=0.003))
    assert controller.plan.load_s == pytest.approx(10e-6, rel=0.001)


@pytest.mark.parametrize("times_capacity", [0.9, 1.5, 10.0])
def test_a_pause_that_was_announced_makes_few_late(times_capacity: float) -> None:
    rates = [times_capacity * CAPACITY / 4] * 4
    late = []
    for ahead_s in (TIDY_WAIT_S, 0.0):
        engine = Engine(quick, pauses=(0.2, 0.012, ahead_s))
        buckets = engine.run(3.0, lambda _: rates)[5:]
        late.append(sum(bucket.late for bucket in buckets))
        assert max(wait for bucket in buckets for wait in bucket.refusals) <= 0.005
    announced, unannounced = late
    assert announced <= unannounced / 3
    assert unannounced > 20, "otherwise nothing is shown here"


def test_a_pause_is_expected_to_take_what_the_ones_before_did_but_never_all_there_is() -> None:
    plan = Plan(BUDGET_S, load_s=10e-6)
    room = plan.room(1.0, 1.0, BUDGET_S)
    plan.pause(1.0)
    plan.go_on(1.006)
    assert plan.tidy_s == pytest.approx(0.006)
    assert plan.room(2.0, 2.0, BUDGET_S) == pytest.approx(room), "none is to come"
    plan.pause_s = plan.tidy_s
    assert plan.room(2.0, 2.0, BUDGET_S) == pytest.approx(room - CAUTION * 0.006 / 10e-6)
    plan.pause(2.0)
    assert plan.rest_s(2.001) == pytest.approx(0.005)
    plan.go_on(2.5)
    plan.pause_s = plan.tidy_s
    assert plan.room(3.0, 3.0, BUDGET_S) > 0
    for at in range(3, 23):
        plan.pause(at)
        plan.go_on(at + 0.002)
    assert plan.tidy_s == pytest.approx(0.002)


def test_caution_makes_room_smaller_and_never_closes_it() -> None:
    plan = Plan(BUDGET_S, load_s=10e-6, commit_s=0.01)
    room = plan.room(1.0, 1.0, BUDGET_S)
    plan.trust = TRUST_MIN
    assert plan.room(1.0, 1.0, BUDGET_S) == pytest.approx(TRUST_MIN * room)
    assert room > 0


def test_one_stall_does_not_make_the_disk_slow_and_two_do() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    said = []
    for number in range(30):
        controller.observe(a_group(0.001, 1 + number / 100))
    for number in range(2):
        controller.observe(a_group(2.0, 4 + 2 * number))
        said.append(controller.plan.slow)
    for number in range(16):
        controller.observe(a_group(0.001, 7 + number / 100))
    said.append(controller.plan.slow)
    assert said == [False, True, False]


def test_writes_that_are_later_than_expected_make_it_let_in_fewer_and_it_forgets_that() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    plan, now = controller.plan, 1.0
    room = plan.room(now, now, BUDGET_S)
    for _ in range(4):
        now += 0.11
        controller.observe(a_group(0.001, now)._replace(slow=20, slowest_s=0.024))
    assert plan.room(now, now, BUDGET_S) < 0.7 * room
    assert not plan.checkpoints
    for _ in range(40):
        now += 0.11
        controller.observe(a_group(0.001, now))
    assert plan.trust == 1.0
    assert plan.checkpoints


def test_what_is_stored_already_tells_what_it_takes_to_find_that() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    commit_s = controller.plan.commit_s
    for number in range(60):
        now = 1 + number / 10
        controller.judge(Judged(Times(now, now, now, 0, 400, 0.02, 0, 0, 0.0)))
    assert controller.plan.load_s == pytest.approx(50e-6, rel=0.02)
    assert controller.plan.commit_s == commit_s, "and nothing of commits"


def test_what_is_late_for_a_stall_does_not_make_it_let_in_fewer() -> None:
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.008, group_events_max=2048)
    plan, now = controller.plan, 1.0
    for number in range(200):
        now += 0.06
        stalls, behind = number % 10 == 0, number % 10 == 1
        group = a_group(0.04 if stalls else 0.001, now)
        controller.observe(group._replace(slow=20, slowest_s=0.04) if stalls or behind else group)
        assert not plan.slow
    assert plan.trust == 1.0
    controller.observe(a_group(0.001, now + 0.06))
    for number in range(2, 4):
        group = a_group(0.001, now + 0.06 * number)
        controller.observe(group._replace(slow=20, slowest_s=0.024))
    assert plan.trust < 1.0, "without one it tells what it told before"


@pytest.mark.parametrize(("often", "least"), [(0.05, 0.45), (0.1, 0.35)])
def test_on_a_disk_that_stalls_now_and_then_most_of_the_time_between_is_used(
    often: float, least: float
) -> None:
    chance = random.Random(1)
    commits: dict[float, float] = {}

    def disk(t: float) -> float:
        return commits.setdefault(t, 0.04 if chance.random() < often else 0.002)

    buckets = Engine(disk).run(12, lambda _: [3 * CAPACITY / 4] * 4)[20:]
    in_time = sum(one.accepted - one.late for one in buckets) / (len(buckets) * BUCKET_S)
    assert in_time > least * CAPACITY


def test_without_a_budget_nothing_is_called_slow_for_its_sake() -> None:
    controller = Controller(budget_s=0.0, group_s_max=0.008, group_events_max=2048)
    for number in range(30):
        controller.observe(a_group(0.5, 1 + number))
    assert controller.plan.trouble(40) is None
    assert controller.plan.group_s == 0.008


def test_sixty_four_events_weigh_about_as_much_as_the_work_they_are() -> None:
    assert 15 <= load_of(64 * 400) / load_of(600) <= 30


@pytest.fixture
def slowed() -> Controller:
    """The last commit ended at 7 seconds, and the disk was slow."""
    controller = Controller(budget_s=BUDGET_S, group_s_max=0.005, group_events_max=4096)
    for number in range(20):
        controller.observe(a_group(0.1, 5.1 + number / 10))
    assert controller.plan.slow
    assert "the disk is slow" in str(controller.plan.trouble(7.01))
    return controller


def test_a_slow_time_is_over_where_nothing_was_written_for_two_seconds(slowed: Controller) -> None:
    assert slowed.plan.trouble(9.1) is None


def test_a_slow_time_is_over_with_the_first_fast_commit_after_two_seconds(
    slowed: Controller,
) -> None:
    slow: list[bool] = []
    for ended in (8.0, 10.1):
        slowed.observe(a_group(0.001, ended))
        slow.append(slowed.plan.slow)
    assert slow == [True, False]
    assert slowed.plan.trouble(10.2) is None


def test_a_disk_that_is_slow_at_its_first_word_after_a_pause_is_slow(slowed: Controller) -> None:
    slowed.observe(a_group(0.1, 60.0))
    assert "the disk is slow" in str(slowed.plan.trouble(60.5))
