"""Who is let in, who waits and who is sent away."""

from typing import Any

import pytest

from palyra_actors.actors.admission import HEAVY_S, LINES_MAX, LOBBY_LOAD_MIN, PROMISED, Admission
from palyra_actors.actors.steering import CAUTION, TARGET, Plan, load_of
from palyra_actors.actors.work import Request, Tally
from tests.actors.rig import Peer

BYTES = 512
LOAD = load_of(BYTES)


class Door:
    """Admission with a plan in which a unit of load takes a millisecond of a budget of a second."""

    def __init__(self) -> None:
        self.now = 100.0
        self.plan = Plan(1.0, load_s=0.001, commit_s=0.05, patience_s=0.14)
        self.sent_away: list[tuple[Request, int]] = []
        self.admission = Admission(self.plan, self._refuse)
        self.tally = Tally()

    def _refuse(self, request: Request, retry_ms: int) -> None:
        self.sent_away.append((request, retry_ms))
        request.shed(retry_ms)

    def arrive(
        self, peer: Peer, budget_ms: int | None = None, session: str | None = "a"
    ) -> Request:
        """One write; it is let in or put into the lobby."""
        made = Request(peer, 1, self.now, self.tally)
        made.budget_ms = budget_ms
        admission = self.admission
        if admission.gate(self.now).lets_in(peer, BYTES, self.now) and admission.may_go_on(
            made, BYTES, self.now
        ):
            admission.charge(made, LOAD, self.now)
        else:
            admission.wait(made, bytes(BYTES), session)
        return made

    def fill(self, peer: Peer, **how: Any) -> list[Request]:
        """Writes until one has to wait: those that were let in."""
        made = []
        while not self.admission.waiting:
            made.append(self.arrive(peer, **how))
        return made[:-1]

    def pump(self) -> list[Request]:
        """Whoever may come in now."""
        came = []
        while (one := self.admission.next(self.now)) is not None:
            self.admission.charge(one.request, one.load, self.now)
            came.append(one.request)
        self.admission.send_away_late(self.now)
        return came


@pytest.fixture
def door() -> Door:
    return Door()


def test_as_many_come_in_as_can_be_durable_in_time(door: Door) -> None:
    let_in = door.fill(Peer())
    most_s = CAUTION * (TARGET - door.plan.commit_s)
    assert most_s - 0.05 < len(let_in) * LOAD * door.plan.load_s <= most_s


def test_who_finds_no_room_in_time_is_sent_away_with_when_to_come_back(door: Door) -> None:
    peer = Peer()
    door.fill(peer)
    door.now += 0.13
    assert door.pump() == []
    assert door.sent_away == []
    door.now += 0.02
    door.pump()
    ((_, retry_ms),) = door.sent_away
    assert 100 < retry_ms <= 1000
    assert door.admission.waiting == 0


def test_those_who_are_sent_away_are_told_to_come_back_one_after_the_other(door: Door) -> None:
    peer = Peer()
    door.fill(peer)
    for _ in range(20):
        door.arrive(peer)
    door.now += 0.2
    door.pump()
    times = [retry_ms for _, retry_ms in door.sent_away]
    assert len(times) == 21
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_an_idle_engine_lets_one_in_however_little_it_expects_of_itself(door: Door) -> None:
    door.plan.commit_s = 0.9
    first, second = door.arrive(Peer()), door.arrive(Peer())
    assert first.load
    assert not second.load
    first.ok({})
    assert door.pump() == [second]


def test_whoever_waited_too_long_still_comes_in_where_there_is_room(door: Door) -> None:
    let_in = door.fill(Peer())
    door.now += 0.2
    for request in let_in:
        request.ok({})
    assert len(door.pump()) == 1
    assert door.sent_away == []


def test_the_lobby_is_full_once_more_wait_than_can_be_served_while_they_may(door: Door) -> None:
    flood, polite = Peer(), Peer()
    door.fill(flood)
    waiting = 1
    while door.admission.may_wait(flood, BYTES, door.now):
        door.arrive(flood)
        waiting += 1
    assert waiting == LOBBY_LOAD_MIN // LOAD
    assert door.admission.may_wait(polite, BYTES, door.now), "its share is its own"
    assert not door.admission.may_wait(flood, BYTES, door.now)
    door.now += 0.2
    door.pump()
    assert door.admission.may_wait(flood, BYTES, door.now)


def test_a_lobby_that_was_left_is_empty(door: Door) -> None:
    peer, other = Peer(), Peer()
    door.fill(peer)
    while door.admission.may_wait(peer, BYTES, door.now):
        door.arrive(peer)
    door.admission.drop_peer(peer)
    assert door.admission.may_wait(other, BYTES, door.now)
    door.arrive(other, budget_ms=0)
    door.arrive(other)
    door.admission.empty()
    assert door.admission._hurried_load == 0


def test_room_that_comes_free_goes_to_who_waits(door: Door) -> None:
    peer = Peer()
    let_in = door.fill(peer)
    for request in let_in[: len(let_in) // 2]:
        request.ok({})
    assert len(door.pump()) == 1


def test_a_flood_does_not_keep_a_polite_connection_out(door: Door) -> None:
    flood, polite = Peer(), Peer()
    door.fill(flood)
    for _ in range(500):
        door.arrive(flood)
    asked = door.arrive(polite)
    assert asked.load == LOAD
    assert door.admission.waiting == 501


def test_connections_that_wait_come_in_in_turn(door: Door) -> None:
    first, second = Peer(), Peer()
    let_in = door.fill(first)
    waits = [door.arrive(peer) for peer in (first, first, first)]
    for _ in range(100):
        door.arrive(second)
    for request in let_in:
        request.ok({})
    came = door.pump()
    assert {request.peer for request in came[1:5]} == {first, second}
    assert waits[0] in came


def test_a_connection_stays_in_its_order_once_somebody_of_it_waits(door: Door) -> None:
    peer = Peer()
    let_in = door.fill(peer, budget_ms=0)
    waiting = [door.arrive(peer, budget_ms=budget_ms) for budget_ms in (0, 500, None, 0)]
    for request in let_in:
        request.ok({})
    assert door.pump()[1:] == waiting


def test_a_write_overtakes_a_bulk_load_of_its_connection_but_not_one_of_its_own_session(
    door: Door,
) -> None:
    peer = Peer()
    let_in = door.fill(peer, budget_ms=0)
    for _ in range(500):
        door.arrive(peer, budget_ms=0)
    behind = door.arrive(peer, budget_ms=None)
    past = door.arrive(peer, budget_ms=None, session="b")
    for request in let_in[:10]:
        request.ok({})
    assert door.pump() == [past]
    assert not behind.load


def test_a_write_for_several_sessions_keeps_its_place_in_each(door: Door) -> None:
    peer = Peer()
    let_in = door.fill(peer, budget_ms=0, session="z")
    sessions = ("a", "b", None, "a", "b", None, "c")
    waiting = [door.arrive(peer, budget_ms=0, session=session) for session in sessions]
    for request in let_in:
        request.ok({})
    assert door.pump()[1:] == waiting


def test_sessions_of_one_connection_come_in_in_turn(door: Door) -> None:
    peer = Peer()
    let_in = door.fill(peer, budget_ms=0)
    for _ in range(100):
        door.arrive(peer, budget_ms=0)
    other = door.arrive(peer, budget_ms=0, session="b")
    for request in let_in:
        request.ok({})
    assert other in door.pump()[:2]


def test_bulk_loads_leave_room_while_others_write_and_take_it_all_when_nobody_does(
    door: Door,
) -> None:
    alone = len(door.fill(Peer(), budget_ms=0))
    beside = Door()
    polite = beside.arrive(Peer())
    assert polite.load
    in_company = len(beside.fill(Peer(), budget_ms=0))
    assert in_company * LOAD * beside.plan.load_s <= 0.12
    assert alone > 2.5 * in_company


@pytest.mark.parametrize("company", [True, False])
def test_a_large_bulk_load_waits_for_the_commit_under_way_only_where_others_write(
    door: Door, company: bool
) -> None:
    if company:
        door.arrive(Peer()).ok({})
    bulk, size = Peer(), BYTES * 400
    first = Request(bulk, 1, door.now, door.tally)
    first.budget_ms = 0
    door.admission.charge(first, load_of(size), door.now)
    door.plan.committing_since, door.plan.committing_load = door.now, door.admission.load
    second = Request(bulk, 2, door.now, door.tally)
    second.budget_ms = 0
    assert door.admission.may_go_on(second, size, door.now) is not company
    first.ok({})
    door.plan.committing_since, door.plan.committing_load = None, 0
    assert door.admission.may_go_on(second, size, door.now)


def test_bulk_loads_wait_for_ever_and_longer_budgets_as_long_as_they_say(door: Door) -> None:
    peer = Peer()
    door.fill(peer, budget_ms=0)
    while door.pump():
        door.arrive(peer, budget_ms=0)
    patient = door.arrive(Peer(), budget_ms=5_000)
    door.now += 4.9
    assert door.pump() == []
    assert door.sent_away == []
    door.now += 0.1
    door.pump()
    assert [request for request, _ in door.sent_away] == [patient]


def test_on_a_slow_disk_one_group_is_let_in_and_the_next_gathers_when_it_is_about_to_end(
    door: Door,
) -> None:
    plan = door.plan
    plan.commit_s, plan.slow = 4.0, True
    assert door.arrive(Peer()).load
    plan.committing_since, plan.committing_load = door.now, door.admission.load
    early = door.arrive(Peer())
    assert not early.load
    door.now += 3.5
    assert door.arrive(Peer()).load


def test_a_commit_that_takes_longer_than_expected_is_expected_to_take_as_long_again(
    door: Door,
) -> None:
    plan = door.plan
    plan.committing_since = door.now
    assert plan.rest_s(door.now + 0.02) == pytest.approx(0.03)
    assert plan.rest_s(door.now + 0.5) == pytest.approx(0.5)
    assert plan.room(door.now + 0.9, door.now + 0.9, 1.0) < 0


def test_what_a_gone_connection_had_in_the_lobby_is_forgotten(door: Door) -> None:
    gone, other = Peer(), Peer()
    door.fill(gone)
    door.arrive(other, budget_ms=0)
    assert len(door.admission.drop_peer(gone)) == 1
    assert door.admission.drop_peer(gone) == []
    assert door.admission.waiting == 1
    assert len(door.admission.empty()) == 1
    assert door.admission.waiting == 0


def test_an_account_is_kept_only_as_long_as_it_has_something(door: Door) -> None:
    for _ in range(50):
        request = door.arrive(Peer())
        request.ok({})
    assert not door.admission._accounts
    assert door.admission.load == 0


def test_what_a_write_took_beyond_its_size_is_paid_off_before_the_next_one(door: Door) -> None:
    heavy, other = Peer(), Peer()
    door.arrive(other).ok({})
    bomb = door.arrive(heavy)
    door.admission.took(bomb, LOAD, 0.1, door.now)
    bomb.ok({})
    waiting = door.arrive(heavy)
    assert not waiting.load, "though the engine is idle"
    assert door.arrive(other).load
    assert door.pump() == []
    door.now += 0.1
    assert door.pump() == [waiting]
    assert door.arrive(heavy).load


def test_who_owes_more_than_it_may_wait_is_sent_away_until_it_is_paid(door: Door) -> None:
    heavy, other = Peer(), Peer()
    door.arrive(other).ok({})
    bomb = door.arrive(heavy)
    for _ in range(2):
        door.admission.took(bomb, LOAD, 0.3, door.now)
    bomb.ok({})
    assert not door.admission.may_wait(heavy, BYTES, door.now)
    assert door.admission.may_wait(other, BYTES, door.now)
    assert 580 <= door.admission.retry_ms(heavy, BYTES, door.now) <= 600
    bulk, waiting = door.arrive(heavy, budget_ms=0), door.arrive(heavy)
    door.now += 0.2
    door.pump()
    assert [request for request, _ in door.sent_away] == [waiting]
    assert door.sent_away[0][1] >= 380
    door.now += 0.4
    assert door.pump() == [bulk], "what has no budget is paid for and not refused"


def test_a_connection_that_is_gone_when_its_debt_is_charged_is_forgotten_once_it_is_paid(
    door: Door,
) -> None:
    admission, crowd = door.admission, [Peer() for _ in range(2 * LINES_MAX)]
    for peer in crowd:
        bomb = door.arrive(peer)
        admission.drop_peer(peer)  # in the middle of it
        admission.took(bomb, LOAD, 0.01, door.now)
        bomb.ok({})
        door.now += 0.02
    assert len(admission._debts) <= LINES_MAX + 1
    admission.gate(door.now)
    assert not admission._debts


def test_who_writes_alone_owes_nobody_anything(door: Door) -> None:
    heavy = Peer()
    for _ in range(3):
        bomb = door.arrive(heavy)
        assert bomb.load
        door.now += 2.0  # the others', if there were any, was long ago
        door.admission.took(bomb, LOAD, 0.5, door.now)
        bomb.ok({})


def test_what_does_not_take_long_is_no_debt(door: Door) -> None:
    peer, other = Peer(), Peer()
    for _ in range(100):
        door.arrive(other).ok({})
        one = door.arrive(peer)
        assert one.load
        door.admission.took(one, LOAD, HEAVY_S, door.now)
        one.ok({})


def test_a_large_frame_does_not_pay_for_what_its_write_takes(door: Door) -> None:
    heavy, other = Peer(), Peer()
    door.arrive(other).ok({})
    bomb = door.arrive(heavy)
    seconds = 0.9 * LOAD * door.plan.load_s
    assert seconds > 3 * HEAVY_S, "less than its size tells, and long all the same"
    door.admission.took(bomb, LOAD, seconds, door.now)
    bomb.ok({})
    assert door.plan.beyond_s == 0
    assert not door.arrive(heavy).load
    door.now += seconds
    assert len(door.pump()) == 1


def test_what_a_heavy_write_has_done_is_in_nobodys_way(door: Door) -> None:
    heavy, other = Peer(), Peer()
    under_way, others = door.fill(heavy), [door.arrive(other)]
    while others[-1].load:
        others.append(door.arrive(other))
    for one in under_way:
        door.admission.took(one, LOAD, 2 * HEAVY_S, door.now)
    assert {one.load for one in under_way} == {load_of(0)}
    assert door.plan.refused == len(under_way) * (LOAD - load_of(0)), "it was work all the same"
    assert door.pump() == [others[-1]]
    for one in (*under_way, *others):
        one.ok({})
    assert door.admission.load == 0


def test_what_is_put_back_stays_before_what_came_after_it(door: Door) -> None:
    heavy, other = Peer(), Peer()
    door.arrive(other).ok({})
    let_in = [door.arrive(heavy) for _ in range(3)]
    door.admission.took(let_in[0], LOAD, 0.05, door.now)
    let_in[0].ok({})
    later = door.arrive(heavy)
    for one in reversed(let_in[1:]):
        door.admission.put_back(one, bytes(BYTES), None)
    assert door.admission.load == 0
    door.now += 0.05
    assert door.pump() == [*let_in[1:], later]


def test_a_connection_that_left_owes_nothing(door: Door) -> None:
    heavy, other = Peer(), Peer()
    door.arrive(other).ok({})
    bomb = door.arrive(heavy)
    door.admission.took(bomb, LOAD, 0.5, door.now)
    bomb.ok({})
    assert door.admission.owed_s(heavy, door.now)
    door.admission.drop_peer(heavy)
    assert not door.admission.owed_s(heavy, door.now)


def test_who_is_too_large_now_keeps_its_turn(door: Door) -> None:
    for request in door.fill(Peer()):
        request.ok({})
    assert door.admission.next(door.now, LOAD - 1) is None
    assert door.admission.waiting == 1
    assert len(door.pump()) == 1


def test_what_was_promised_room_only_has_to_be_in_time(door: Door) -> None:
    peer = Peer()
    door.fill(peer)
    door.pump()
    admission, other = door.admission, Peer()
    arrived = door.now
    assert not admission.gate(door.now).lets_in(other, 100 * BYTES, arrived)
    assert admission.gate(door.now).lets_in(other, 100 * BYTES, arrived, promised=True)
    door.now += 1.0
    assert not admission.gate(door.now).lets_in(other, BYTES, arrived, promised=True)


def test_what_was_promised_room_waits_for_its_turn_as_long_as_it_can_be_in_time(
    door: Door,
) -> None:
    peer = Peer()
    door.fill(peer)
    door.pump()
    door.now += 0.2
    door.pump()
    door.sent_away.clear()
    waits = Request(peer, 1, door.now, door.tally)
    unpromised = Request(peer, 2, door.now, door.tally)
    assert door.admission.may_wait(peer, 100 * BYTES, door.now, promised=True)
    door.admission.wait(unpromised, bytes(BYTES), "b")
    door.now += 0.2
    assert door.pump() == []
    assert [request for request, _ in door.sent_away] == [unpromised]
    door.admission.wait(waits, bytes(BYTES), "a", promised=True)
    assert door.pump() == [waits]
    late = Request(peer, 3, door.now, door.tally)
    late.admission = door.admission
    door.admission.wait(late, bytes(BYTES), "a", promised=True)
    door.now += 1.0
    assert door.pump() == []
    assert [request for request, _ in door.sent_away] == [unpromised]
    assert late.answered
    assert b"it has waited too long" in peer.frames[-1], "it was let in: this is no refusal at once"
    assert b"it could not be durable" in peer.frames[0]
    assert door.tally.overloaded == door.tally.refused == 3


def test_the_door_is_told_what_is_queued_and_who_has_how_much_of_it(door: Door) -> None:
    peer, other = Peer(), Peer()
    idle = [door.admission.idle]
    let_in = door.fill(peer)
    assert [*idle, door.admission.idle] == [True, False]
    waiting = door.admission.waiting
    door.arrive(other, budget_ms=0)
    assert door.admission.before == (len(let_in) + waiting) * LOAD, "bulk does not count before"
    assert dict(door.admission.held()) == {peer: door.admission.before, other: 0.0}
    door.plan.committing_load = LOAD
    assert door.admission.before == (len(let_in) + waiting - 1) * LOAD
    until, served_at = door.admission.through(door.now)
    assert until > door.now
    door.admission.refused_early(10, until + 0.5)
    assert door.admission.through(door.now) == (until, max(served_at, until + 0.5))


def test_nobody_is_told_to_wait_for_longer_than_the_most(door: Door) -> None:
    door.admission.refused_early(1, door.now + 50)
    for now in (door.now, 0.1 + 0.2, 123_456.789):
        assert door.admission.retry_ms(Peer(), BYTES, now) <= 1_000


def test_an_idle_engine_has_room_for_one_whatever_it_expects_of_itself(door: Door) -> None:
    door.plan.commit_s = 2.0
    assert door.plan.room(door.now, door.now, 1.0) < 0
    assert door.admission.room(door.now)[0] > 0
    peer = Peer()
    assert door.admission.gate(door.now).lets_in(peer, BYTES, door.now, promised=True)
    door.arrive(peer)
    assert door.admission.room(door.now)[0] < 0
    assert not door.admission.gate(door.now).lets_in(peer, BYTES, door.now, promised=True)


def test_less_is_promised_than_is_let_in(door: Door) -> None:
    door.arrive(Peer())
    now = door.now
    room, most = door.admission.room(now)
    assert 0 < room < door.plan.room(now, now, 1.0) < most


@pytest.mark.parametrize("commit_s", [0.01, 0.3, 0.6])
def test_the_same_part_of_the_room_is_promised_however_long_a_commit_takes(
    door: Door, commit_s: float
) -> None:
    door.arrive(Peer())
    door.plan.commit_s = commit_s
    promised, _ = door.admission.room(door.now)
    assert promised == pytest.approx(PROMISED * door.plan.room(door.now, door.now, 1.0))


def test_nobody_waits_for_those_who_pay_off_a_debt(door: Door) -> None:
    heavy, other = Peer(), Peer()
    door.arrive(other).ok({})
    bomb = door.arrive(heavy)
    before = door.admission.retry_ms(other, BYTES, door.now)
    door.admission.took(bomb, LOAD, 0.5, door.now)
    for _ in range(100):
        assert 490 <= door.admission.retry_ms(heavy, BYTES, door.now) <= 500
    assert door.admission.retry_ms(other, BYTES, door.now) <= 2 * before


def test_nobody_waits_behind_all_that_another_connection_was_refused(door: Door) -> None:
    flood, other = Peer(), Peer()
    times = [door.admission.retry_ms(flood, BYTES, door.now) for _ in range(100)]
    assert times == sorted(times)
    assert times[-1] > 400
    assert door.admission.retry_ms(other, BYTES, door.now) < 100
    again = [door.admission.retry_ms(other, BYTES, door.now) for _ in range(20)]
    assert again[-1] > again[0] + 100, "its own are one after the other"


def test_clients_write_until_a_second_after_the_last_of_them_came_or_was_refused(
    door: Door,
) -> None:
    admission = door.admission
    assert admission.gate(door.now).lets_in(Peer(), BYTES, door.now)  # a read, perhaps
    assert not admission.in_company(door.now)
    door.arrive(Peer())
    door.now += 0.9
    assert admission.in_company(door.now)
    door.now += 0.2
    assert not admission.in_company(door.now)
    admission.refused_early(3, door.now + 0.1)
    assert admission.in_company(door.now)
    door.now += 10
    assert not admission.in_company(door.now)
    admission.retry_ms(Peer(), BYTES, door.now)
    assert admission.in_company(door.now)
    door.now += 10
    assert not admission.in_company(door.now)
    admission.wait(Request(Peer(), 1, door.now, door.tally), bytes(BYTES), "a")
    assert admission.in_company(door.now)
