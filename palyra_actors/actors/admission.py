"""Who may come in: the lobby between the door and the work.

    frame ──room?──▶ decoded and served
        └─ no ──▶ lobby ──room, in turn between connections──▶ decoded and served
                     └─ no room in time ──▶ `overloaded`, with when to come back

Only writes wait here; of most of them nothing was read but the envelope and the session's id. A
connection's writes for one session stay in their order. The room is what `steering.Plan` says; it
is shared:

* Each connection that has writes under way has an equal share of it. Whoever holds less than that
  may go over the room by a fifth, so that a flood, which fills the room, refuses only itself.
* A write without a budget, or with a longer one than the engine's, takes the room that is left.
  It waits for it as long as its budget says, which may be for ever.
* A frame's size tells what most writes take, but not what a patch of a canvas does. What a heavy
  one took is its connection's **debt**: while others write, it has half of the loop, and its next
  write waits until as much time has passed as it took, or is sent away until then.
"""

from collections import deque
from collections.abc import Callable
from math import ceil, inf
from typing import Any, Final, NamedTuple

from palyra_actors.actors.steering import COMPANY_S, RETRY_MS_MAX, TARGET, Plan, load_of
from palyra_actors.actors.work import Peer, Request, waited_too_long

LOBBY_LOAD_MIN: Final = 500
"""Load that may wait in the lobby however short the patience is: a round's slice, so that the next
one has something to serve."""

EARLY_REFUSAL: Final = 0.02
"""Of a refusal, the work of one that the door gives without looking at it, beside the loop."""

LINES_MAX: Final = 256
"""Connections to which writes were refused, before those are forgotten whose turn is over."""

HEAVY_S: Final = 0.001
"""What a write may take of the loop, whatever its frame's size. One that takes more is a debt, all
of it: were what its size tells taken off, large ones that take three milliseconds each would owe
nothing, and come by threes in a round (`bench/bench_canvas.py`). Nor is its size in the way of
others once it is served: they would be refused for work that is done."""

DEBT_S_MIN: Final = 0.002
"""What a connection may owe before its next write waits."""

PROMISED: Final = 0.45
"""Of the room, what is promised unseen. What is promised and then overtaken by a stall is late, or
refused late; and there is work enough for the next groups without (`bench/bench_overload.py`). Of
the room, and not of the budget: a commit of a quarter of that would leave nothing."""

OVER: Final = 1.2
"""How far whoever holds less than its share may go over the room."""


class Waiting(NamedTuple):
    """One write in the lobby. `refuse_at`: when it is given up; `bulk`: it takes what is left.

    `message` is the frame decoded, where that was done before it had to wait. `promised`: it was
    let in where it came from, and only has to be in time.
    """

    request: Request
    frame: bytes
    message: Any
    load: int
    refuse_at: float
    bulk: bool
    promised: bool = False


class Segment:
    """What may overtake each other: a lane for each session, in the order of its writes.

    `hurried` and `bulk` are the keys of the lanes by whoever stands first in them, in turn.
    """

    __slots__ = ("alone", "bulk", "hurried", "lanes")

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.lanes: dict[str, deque[Waiting]] = {}
        self.hurried: deque[str] = deque()
        self.bulk: deque[str] = deque()

    def add(self, key: str, one: Waiting) -> None:
        lane = self.lanes.get(key)
        if lane is None:
            self.lanes[key] = deque((one,))
            (self.bulk if one.bulk else self.hurried).append(key)
        else:
            lane.append(one)

    def take(self, key: str, keys: deque[str]) -> Waiting:
        """The first of the lane whose key is the first of `keys`; the lane goes to the end."""
        keys.popleft()
        lane = self.lanes[key]
        one = lane.popleft()
        if lane:
            (self.bulk if lane[0].bulk else self.hurried).append(key)
        else:
            del self.lanes[key]
        return one

    def take_late(self, now: float) -> list[Waiting]:
        """All whose time is up, wherever they stand."""
        late: list[Waiting] = []
        for key, lane in list(self.lanes.items()):
            mine = [one for one in lane if one.refuse_at <= now]
            if not mine:
                continue
            late += mine
            (self.bulk if lane[0].bulk else self.hurried).remove(key)
            kept = deque(one for one in lane if one.refuse_at > now)
            if kept:
                self.lanes[key] = kept
                (self.bulk if kept[0].bulk else self.hurried).append(key)
            else:
                del self.lanes[key]
        return late


class Account:
    """One connection's part: the load that it has under way, and what it has in the lobby.

    A write that concerns several sessions, or none that is known, is a segment alone: what came
    before it goes in before it, and what came after it after it. `hurried` counts those in the
    lobby that will not wait for ever.
    """

    __slots__ = ("hurried", "hurried_load", "load", "peer", "segments", "waiting")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.load = 0
        self.hurried = 0
        self.hurried_load = 0
        self.waiting = 0
        self.segments: deque[Segment] = deque()

    def add(self, key: str | None, one: Waiting) -> None:
        segments = self.segments
        if not segments or key is None or segments[-1].alone:
            segments.append(Segment(key is None))
        segments[-1].add(key or "", one)
        self._entered(one)

    def _entered(self, one: Waiting) -> None:
        self.waiting += 1
        if not one.bulk:
            self.hurried_load += one.load
        self.hurried += one.refuse_at < inf

    def put_back(self, one: Waiting) -> None:
        """Before all others."""
        segment = Segment(True)
        segment.add("", one)
        self.segments.appendleft(segment)
        self._entered(one)

    def left(self, one: Waiting) -> None:
        """It was taken out of the first segment, or of any if it was late."""
        self.waiting -= 1
        if not one.bulk:
            self.hurried_load -= one.load
        self.hurried -= one.refuse_at < inf
        while self.segments and not self.segments[0].lanes:
            self.segments.popleft()

    def clear(self) -> list[Request]:
        """Everybody leaves."""
        gone = [
            one.request
            for segment in self.segments
            for lane in segment.lanes.values()
            for one in lane
        ]
        self.segments.clear()
        self.hurried = self.hurried_load = self.waiting = 0
        return gone


class Admission:
    """On the loop's thread. `refuse` is called for each write that is sent away, with the
    milliseconds after which it should come back, but for those that were let in already.

    Attributes:
        load: under way, of all connections together.
        waiting: writes in the lobby.
    """

    def __init__(self, plan: Plan, refuse: Callable[[Request, int], None]) -> None:
        self.plan = plan
        self.load = 0
        self.waiting = 0
        self._hurried_load = 0
        self._refuse = refuse
        self._accounts: dict[Peer, Account] = {}
        self._line: deque[Account] = deque()  # those with somebody in the lobby, in turn
        self._budgeted_at = -inf
        self._debts: dict[Peer, float] = {}  # until when each has something to pay off
        self._paid_at = -inf  # when the last of them is over
        self._last_peer: Peer | None = None
        self._company_at = -inf  # when one wrote that did not write before
        self._asked_at = -inf  # when a write came that a client waits for
        self._served_at = 0.0  # when all who were sent away could have been served, one by one
        self._lines: dict[Peer, float] = {}  # when each one's, if all lines went on side by side

    # -- coming in --------------------------------------------------------------------------------

    def gate(self, now: float) -> "Gate":
        """Who may be decoded and served of those that a round brings."""
        if self._debts and now >= self._paid_at:
            self._debts.clear()  # also of connections that were gone when theirs was charged
        return Gate(self, now)

    def may_go_on(self, request: Request, frame_bytes: int, now: float) -> bool:
        """Whether a write that the gate let in may go on, now that its own budget is known."""
        plan, budget_ms = self.plan, request.budget_ms
        if budget_ms is None or not plan.budget_s:
            return True
        load, budget_s = load_of(frame_bytes), budget_ms / 1000
        if _is_bulk(budget_s, plan):
            return self._fits_bulk(load, now)
        account = self._accounts.get(request.peer)
        return self._fits(account, load, request.arrived, budget_s, now)

    def charge(self, request: Request, load: int, now: float) -> None:
        """A write comes in. What it takes is given back when it is answered."""
        account = self._account(request.peer)
        if request.peer is not self._last_peer:
            self._last_peer, self._company_at = request.peer, now
        self._asked_at = now
        request.admission = self
        request.load = load
        self.load += load
        account.load += load
        budget_ms = request.budget_ms
        if budget_ms is None or 0 < budget_ms <= self.plan.budget_s * 1000:
            self._budgeted_at = now

    def charged(self, load: int, peer: Peer, company: bool, budgeted: bool, now: float) -> None:
        """Writes came in, and `take_in` has put them down to their connections, that peer's last.
        `company`: they were not all the last one's from before; `budgeted`: some have the engine's
        budget, or less.
        """
        if company:
            self._last_peer, self._company_at = peer, now
        self._asked_at = now
        if budgeted:
            self._budgeted_at = now
        self.load += load

    @property
    def accounts(self) -> dict[Peer, Account]:
        """Of each connection that has something under way or in the lobby. For `take_in`."""
        return self._accounts

    @property
    def last_peer(self) -> Peer | None:
        """Whose write came in last."""
        return self._last_peer

    def refused(self, request: Request) -> None:
        """A write that came in was refused: its load is in no group, but what it took was taken."""
        self.plan.refused += request.load

    def give_back(self, request: Request) -> None:
        """It is answered."""
        load, request.load = request.load, 0
        self.give_back_all(request.peer, load)

    def give_back_all(self, peer: Peer, load: int) -> None:
        """Requests of that load together are answered, all of them that peer's."""
        self.load -= load
        account = self._accounts.get(peer)
        if account is not None:
            account.load -= load
            self._forget(account)

    def took(self, request: Request, load: int, seconds: float, now: float) -> None:
        """A write of that load has been served, and took the loop so long."""
        self.plan.beyond_s += max(0.0, seconds - load * self.plan.load_s)
        if seconds > HEAVY_S:
            if len(self._debts) > LINES_MAX:
                self._debts = {peer: at for peer, at in self._debts.items() if at > now}
            until = max(self._debts.get(request.peer, now), now) + seconds
            self._debts[request.peer] = until
            self._paid_at = max(self._paid_at, until)
            self._lighten(request)

    def _lighten(self, request: Request) -> None:
        """Most of its work is done: what is left of its load is that of a small one."""
        done = request.load - load_of(0)
        if done > 0:
            request.load -= done
            self.load -= done
            self._account(request.peer).load -= done
            self.plan.refused += done  # it is in no group any more, but it was work

    def alone(self, peer: Peer, now: float) -> bool:
        """Whether nobody else has written for a while, and nobody waits."""
        return peer is self._last_peer and now - self._company_at > COMPANY_S and not self.waiting

    def owed_s(self, peer: Peer, now: float) -> float:
        """For how long its next write has to wait for what those before it took; 0: it need not,
        or nobody else has written for a while."""
        until = self._debts.get(peer)
        if until is None:
            return 0.0
        if until <= now:
            del self._debts[peer]
            return 0.0
        if until - now <= DEBT_S_MIN or now - self._company_at > COMPANY_S:
            return 0.0
        return until - now - DEBT_S_MIN

    def put_back(self, request: Request, frame: bytes, message: Any) -> None:
        """A write that came in has to wait after all, before all others of its connection."""
        self.give_back(request)
        account = self._account(request.peer)
        if not account.waiting:
            self._line.append(account)
        one = self._waiting(request, frame, message)
        account.put_back(one)
        self.waiting += 1
        if not one.bulk:
            self._hurried_load += one.load

    def _account(self, peer: Peer) -> Account:
        account = self._accounts.get(peer)
        if account is None:
            account = self._accounts[peer] = Account(peer)
        return account

    def _forget(self, account: Account) -> None:
        if account.load <= 0 and not account.waiting:
            self._accounts.pop(account.peer, None)

    def _fits(
        self, account: Account | None, load: int, arrived: float, budget_s: float, now: float
    ) -> bool:
        if self.load <= 0:  # nothing is under way: it will never be better
            return now - arrived < TARGET * budget_s
        room = self.plan.room(now, arrived, budget_s)
        before = self.load - self.plan.committing_load
        return before + load <= room or self._squeezes_in(account, load, before, room)

    def _squeezes_in(self, account: Account | None, load: int, before: float, room: float) -> bool:
        """Whether one that is over the room comes in all the same."""
        if before <= 0:
            return room > 0  # one is let in, however large it is
        held, others = (0, len(self._accounts) + 1) if account is None else (
            account.load, len(self._accounts)
        )  # fmt: skip
        return before + load <= room * OVER and held + load <= room / others

    def _in_time(self, arrived: float, budget_s: float, now: float) -> bool:
        if self.load <= 0:  # as in `_fits`
            return now - arrived < TARGET * budget_s
        return self.plan.in_time(now, arrived, budget_s)

    def _fits_bulk(self, load: int, now: float) -> bool:
        company = now - self._budgeted_at < COMPANY_S
        if self.load + load <= self.plan.bulk_room(company):
            return True
        # a large one has the engine to itself: others wait for its work or for its commit
        return self.load <= (0 if company else self.plan.committing_load)

    # -- the lobby --------------------------------------------------------------------------------

    def wait(
        self,
        request: Request,
        frame: bytes,
        key: str | None,
        message: Any = None,
        promised: bool = False,
    ) -> None:
        """Put a write into the lobby, behind those of its connection for the same session.

        `key`: the session that it concerns; None: several, or it is not known. `promised`: it is
        only its turn that it waits for.
        """
        one = self._waiting(request, frame, message, promised)
        account = self._account(request.peer)
        if not account.waiting:
            self._line.append(account)
        account.add(key, one)
        self.waiting += 1
        if not one.bulk:
            self._hurried_load += one.load

    def _waiting(
        self, request: Request, frame: bytes, message: Any, promised: bool = False
    ) -> Waiting:
        plan, budget_ms = self.plan, request.budget_ms
        budget_s = plan.budget_s if budget_ms is None else budget_ms / 1000
        bulk = _is_bulk(budget_s, plan)
        if not budget_s:
            refuse_at = inf
        elif bulk:
            refuse_at = request.arrived + budget_s - plan.commit_s
        elif promised:
            refuse_at = request.arrived + TARGET * budget_s - plan.commit_s
        else:
            refuse_at = request.arrived + min(plan.patience_s, budget_s / 5)
        return Waiting(request, frame, message, load_of(len(frame)), refuse_at, bulk, promised)

    def may_wait(self, peer: Peer, frame_bytes: int, now: float, promised: bool = False) -> bool:
        """Whether a write may wait for room, or is refused at once: there are more before it than
        are served while it may wait. Of the lobby, too, each connection has an equal share."""
        if self._debts and self.owed_s(peer, now) > self.plan.patience_s:
            return False
        if promised:
            return True
        account = self._accounts.get(peer)
        held, line = 0, len(self._line) + 1
        if account is not None and account.waiting:
            held, line = account.hurried_load, line - 1
        most, load = self._lobby_load_max, load_of(frame_bytes)
        return load <= max(most - self._hurried_load, most / line - held)

    @property
    def _lobby_load_max(self) -> float:
        return max(self.plan.patience_s / self.plan.load_s, LOBBY_LOAD_MIN)

    def next(self, now: float, load_max: float = inf) -> Waiting | None:
        """The next write that may come in, in turn between connections and, within one, between
        sessions; bulk loads after the others. None: none of at most that load may now."""
        line = self._line
        for _ in range(len(line)):
            account = line.popleft()
            one = self._first(account, now, load_max)
            if account.waiting:
                line.append(account)
            elif one is None:
                self._forget(account)
            if one is not None:
                return one
        return None

    def _first(self, account: Account, now: float, load_max: float) -> Waiting | None:
        if self._debts and self.owed_s(account.peer, now):
            load_max = 0.0
        while account.segments:
            segment, sent_away = account.segments[0], False
            for keys in (segment.hurried, segment.bulk):
                if not keys:
                    continue
                key = keys[0]
                one = segment.lanes[key][0]
                if one.load <= load_max and self._may_come(
                    account, one, now
                ):  # though its patience may be over
                    self._left(account, segment.take(key, keys))
                    return one
                if one.refuse_at <= now:
                    self._left(account, segment.take(key, keys))
                    self._send_away(one, now)
                    sent_away = True
                    break
            if not sent_away:
                return None
        return None

    def send_away_late(self, now: float) -> None:
        """Refuse those whose time is up, wherever they stand in their line."""
        for account in [one for one in self._line if one.hurried]:
            for segment in list(account.segments):
                for one in segment.take_late(now):
                    self._left(account, one)
                    self._send_away(one, now)
            account.segments = deque(segment for segment in account.segments if segment.lanes)
            if not account.waiting:
                self._line.remove(account)
                self._forget(account)

    def drop_peer(self, peer: Peer) -> list[Request]:
        """The connection is gone: what it had in the lobby."""
        self._debts.pop(peer, None)
        self._lines.pop(peer, None)
        if self._last_peer is peer:
            self._last_peer = None
        account = self._accounts.get(peer)
        if account is None or not account.waiting:
            return []
        self._line.remove(account)
        return self._emptied(account)

    def empty(self) -> list[Request]:
        """The engine stops: all that are in the lobby."""
        gone = [request for account in self._line for request in self._emptied(account)]
        self._line.clear()
        return gone

    def _emptied(self, account: Account) -> list[Request]:
        self._hurried_load -= account.hurried_load
        gone = account.clear()
        self.waiting -= len(gone)
        self._forget(account)
        return gone

    def _may_come(self, account: Account, one: Waiting, now: float) -> bool:
        if one.bulk:
            return self._fits_bulk(one.load, now)
        plan, budget_ms = self.plan, one.request.budget_ms
        budget_s = plan.budget_s if budget_ms is None else budget_ms / 1000
        if one.promised:
            return self._in_time(one.request.arrived, budget_s, now)
        return self._fits(account, one.load, one.request.arrived, budget_s, now)

    def _left(self, account: Account, one: Waiting) -> None:
        self.waiting -= 1
        if not one.bulk:
            self._hurried_load -= one.load
        account.left(one)

    def _send_away(self, one: Waiting, now: float) -> None:
        retry_ms = self._retry_ms(one.request.peer, one.load, now)
        if one.promised:
            one.request.fail(waited_too_long(retry_ms))
        else:
            self._refuse(one.request, retry_ms)

    def retry_ms(self, peer: Peer, frame_bytes: int, now: float) -> int:
        """When a write of that size should come back that is refused at once."""
        return self._retry_ms(peer, load_of(frame_bytes), now)

    def _retry_ms(self, peer: Peer, load: int, now: float) -> int:
        """When a write that is refused now should come back: once what is under way is through, and
        then one after the other in the order of their refusals, but nobody behind more of
        another connection's than of its own. At most a second.
        """
        self._asked_at = now
        self.plan.refused += 1
        owed_s = self.owed_s(peer, now) if self._debts else 0.0
        if owed_s:  # whoever pays a debt off is not in line with the others
            return ceil(owed_s * 1000)
        last, work_s = now + RETRY_MS_MAX / 1000, load * self.plan.load_s
        self._served_at = min(self._through(now) + work_s, last)
        lines = self._lines
        if len(lines) > LINES_MAX:
            self._lines = lines = {peer: at for peer, at in lines.items() if at > now}
        lines.setdefault(peer, now)
        own = min(max(lines[peer], self._under_way_until(now)) + work_s * len(lines), last)
        lines[peer] = own
        after_ms = ceil((min(own, self._served_at) - now) * 1000)
        return min(max(1, after_ms), RETRY_MS_MAX)  # it was rounded

    def _through(self, now: float) -> float:
        """When all are through that are under way, or were refused and come back."""
        return max(self._served_at, self._under_way_until(now))

    def _under_way_until(self, now: float) -> float:
        plan = self.plan
        return now + plan.rest_s(now) + plan.commit_s + 0.5 * self.load * plan.load_s

    # -- what the door is told --------------------------------------------------------------------

    def in_company(self, now: float) -> bool:
        """Whether clients have come with writes not long ago, let in or not."""
        return self.waiting > 0 or now - self._asked_at < COMPANY_S

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return self.load <= 0 and not self.waiting

    def room(self, now: float) -> tuple[float, float]:
        """The load that may be `before` what the door takes in unseen, and `before` what it takes
        in of whoever has less than an equal share of it. However bad it looks, an idle engine lets
        one in: otherwise it would never learn that it is not."""
        plan = self.plan
        room = PROMISED * plan.room(now, now, plan.budget_s)
        if self.load <= 0:
            room = max(room, 1.0)
        return room, OVER * plan.room(now, now, plan.budget_s)

    @property
    def before(self) -> float:
        """The load that is queued before what comes now."""
        return self.load - self.plan.committing_load + self._hurried_load

    def held(self) -> list[tuple[Peer, float]]:
        """What each connection has of the room."""
        return [
            (account.peer, float(account.load + account.hurried_load))
            for account in self._accounts.values()
        ]

    def through(self, now: float) -> tuple[float, float]:
        """When what is under way is through, and when all those could be served that were sent
        away so far, one by one."""
        return self._under_way_until(now), self._served_at

    def refused_early(self, count: int, served_at: float) -> None:
        """So many were sent away by the door, of whom the last may be served then."""
        self.plan.refused += EARLY_REFUSAL * count
        self._asked_at = max(self._asked_at, served_at - RETRY_MS_MAX / 1000)
        self._served_at = max(self._served_at, served_at)


class Gate:
    """Who comes in at one moment: what is the same for all frames of a round is worked out once."""

    __slots__ = (
        "_accounts", "_admission", "_budget_s", "_committing_load", "_idle_from", "_load_per_s",
        "_now", "_opens_at", "_promised_from",
    )  # fmt: skip

    def __init__(self, admission: Admission, now: float) -> None:
        plan = admission.plan
        budget_s, own_s = plan.budget_s, plan.durable_s(now)
        self._admission = admission
        self._accounts = admission._accounts
        self._now = now
        self._budget_s = budget_s
        self._committing_load = plan.committing_load
        self._idle_from = now - TARGET * budget_s
        self._promised_from = now - budget_s + own_s
        self._opens_at = self._idle_from + own_s + plan.pause_s
        self._load_per_s = plan.load_per_s

    @property
    def now(self) -> float:
        return self._now

    @property
    def terms(self) -> tuple[float, float, float, float, float, float, float, float, bool] | None:
        """What `take_in` goes by; None: somebody has a debt, and each frame is looked at here."""
        admission = self._admission
        if admission._debts:
            return None
        plan = admission.plan
        return (
            self._budget_s, self._committing_load, self._idle_from, self._promised_from,
            self._opens_at, self._load_per_s, plan.bulk_room(True), plan.bulk_room(False),
            self._now - admission._budgeted_at < COMPANY_S,
        )  # fmt: skip

    def lets_in(self, peer: Peer, frame_bytes: int, arrived: float, promised: bool = False) -> bool:
        """Whether a frame of which nothing is known but its size may be decoded and served.

        `promised`: it came in within `before`, and only has to be in time still.
        """
        admission, account = self._admission, self._accounts.get(peer)
        if account is not None and account.waiting:
            return False
        if not self._budget_s:
            return True
        if admission._debts and admission.owed_s(peer, self._now):
            return False
        under_way = admission.load
        if under_way <= 0:  # it will never be better
            return arrived > self._idle_from
        if promised:
            return arrived > self._promised_from
        load, before = load_of(frame_bytes), under_way - self._committing_load
        room = (arrived - self._opens_at) * self._load_per_s
        return before + load <= room or admission._squeezes_in(account, load, before, room)


def _is_bulk(budget_s: float, plan: Plan) -> bool:
    return not budget_s or budget_s > plan.budget_s > 0
