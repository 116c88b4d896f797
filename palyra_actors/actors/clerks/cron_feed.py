"""Runs on their way to workers.

    run begins ──a worker has credit──▶ Take ──durable──▶ item ──▶ its worker hears of its end
        └─ none ──▶ pool ──credit comes──▶ Take …

A worker is a `cron.work` request: whose jobs, of which names, and for how many runs it has credit.
Credit is taken before the `Take` is decided and given back if that fails, and a run is sent only
once its lease is durable: what a worker has heard of is in the journal. A worker that has left
before it could hear of it has heard nothing, and the run goes to the next one under a new fence.
Whether a connection still stands is known only when something is sent over it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

from palyra_actors.actors.work import Peer, Request
from palyra_actors.domain.cron import DELETED, ORPHANED, REPLACED
from palyra_actors.errors import Conflict, Invalid, LimitReached, NotFound, PalyraError
from palyra_actors.ids import format_ulid
from palyra_actors.limits import SUBSCRIBE_CREDIT_MAX, SUBSCRIPTIONS_PER_PEER_MAX
from palyra_actors.wire.codec import RequestId

PEER_BYTES_MAX: Final = 2 * 1024 * 1024
LOOK_S: Final = 0.005
AGAIN_S: Final = 0.1
TAKES_A_TURN_MAX: Final = 64
"""Runs that a worker with much credit is given before others have their turn."""

TOLD: Final = frozenset({REPLACED, DELETED, ORPHANED})
"""Ends that a worker has to hear of: it is not the one who ended the run."""

Key: TypeAlias = tuple[str, str]
"""A job's owner and name."""


class Untaken(NamedTuple):
    """A run that no worker has heard of. `fence`: 0, or that of one who left before it did."""

    run_id: bytes
    job_id: bytes
    key: Key
    fence: int = 0


@dataclass(slots=True, eq=False)
class Worker:
    """`owner`: whose jobs; None: everybody's. `names`: of which names; None: of all. `sent`: what
    it was sent in this round of the loop, at whose end it turns out whether it is there."""

    request: Request
    owner: str | None
    names: frozenset[str] | None
    credit: int
    ended: bool = False
    sent: list[Untaken] = field(default_factory=list)

    def wants(self, key: Key) -> bool:
        return self.owner in (None, key[0]) and (self.names is None or key[1] in self.names)

    @property
    def ready(self) -> bool:
        return (
            not self.ended and self.credit > 0
            and self.request.peer.backlog_bytes < PEER_BYTES_MAX
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorkersStatistics:
    """`held`: runs that a worker of this engine's start has heard of."""

    workers: int
    untaken: int
    held: int


@dataclass(slots=True)
class _Pool:
    """Untaken runs, the oldest of a key first, the keys in turn."""

    runs: "OrderedDict[Key, OrderedDict[bytes, Untaken]]" = field(default_factory=OrderedDict)
    keys: dict[bytes, Key] = field(default_factory=dict)

    def add(self, one: Untaken) -> None:
        self.runs.setdefault(one.key, OrderedDict())[one.run_id] = one
        self.keys[one.run_id] = one.key

    def discard(self, run_id: bytes) -> None:
        key = self.keys.pop(run_id, None)
        if key is not None:
            runs = self.runs[key]
            del runs[run_id]
            if not runs:
                del self.runs[key]

    def first(self, worker: Worker) -> Untaken | None:
        """The next one for that worker; the others of its key wait until the other keys had
        their turn."""
        for key in self.runs:
            if worker.wants(key):
                self.runs.move_to_end(key)
                return next(iter(self.runs[key].values()))
        return None


class WorkFeed:
    """`take` has a job give a run to a worker; `done` gets None, or what stood against it."""

    def __init__(
        self,
        take: Callable[[Untaken, Callable[[PalyraError | None], None]], None],
        call_later: Callable[[float, Callable[[], None]], None],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._take = take
        self._call_later = call_later
        self._call_soon = call_soon
        self._workers: OrderedDict[tuple[Peer, RequestId], Worker] = OrderedDict()
        self._pool = _Pool()
        self._promised: dict[bytes, Worker] = {}  # the job's next lease goes to it
        self._holders: dict[bytes, Worker] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def statistics(self) -> WorkersStatistics:
        return WorkersStatistics(len(self._workers), len(self._pool.keys), len(self._holders))

    def work(self, worker: Worker) -> None:
        """Raises LimitReached, Invalid: the connection has one under that id."""
        peer, name = worker.request.peer, worker.request.id
        if (peer, name) in self._workers:
            raise Invalid("this connection has a subscription under that id", field="id")
        if sum(known is peer for known, _ in self._workers) >= SUBSCRIPTIONS_PER_PEER_MAX:
            raise LimitReached(
                f"a connection holds at most {SUBSCRIPTIONS_PER_PEER_MAX} subscriptions",
                detail={"limit": SUBSCRIPTIONS_PER_PEER_MAX},
            )
        self._workers[peer, name] = worker
        self._fill(worker)

    # -- what the jobs say ------------------------------------------------------------------------

    def promise(self, job_id: bytes, key: Key) -> bool:
        """Whether a worker waits for a run of that job: the job's next lease is its own, and one
        of its credit is taken, until `released`."""
        if job_id in self._promised:
            return False
        for name, worker in self._workers.items():
            if worker.wants(key) and worker.ready:
                worker.credit -= 1
                self._promised[job_id] = worker
                self._workers.move_to_end(name)
                return True
        return False

    def release(self, job_id: bytes) -> None:
        """No lease came of the promise."""
        worker = self._promised.pop(job_id, None)
        if worker is not None:
            worker.credit += 1
            self._fill(worker)

    def began(self, one: Untaken) -> None:
        """A run begins, durably. If a worker waits for it, it is its own in a moment."""
        self._pool.add(one)

    def offer(self, run_id: bytes) -> None:
        """Give it to a worker, if it is still to be had and one waits."""
        key = self._pool.keys.get(run_id)
        if key is not None:
            one = self._pool.runs[key][run_id]
            if self.promise(one.job_id, key):
                self._give(one)

    def named(self, run_id: bytes, key: Key) -> None:
        """The job of that run is called so now, and so is the run, if nobody has heard of it."""
        known = self._pool.keys.get(run_id)
        if known is not None and known != key:
            one = self._pool.runs[known][run_id]._replace(key=key)
            self._pool.discard(run_id)
            self._offer_again(one)

    def leased(self, one: Untaken, item: Mapping[str, Any]) -> None:
        """The run is a worker's, durably: it is told."""
        self._pool.discard(one.run_id)
        worker = self._promised.pop(one.job_id, None)
        if worker is None or worker.ended:
            self._pool.add(one)
            self.offer(one.run_id)
            return
        self._holders[one.run_id] = worker
        if not worker.sent:
            self._call_soon(worker.sent.clear)  # the next round: it went out
        worker.sent.append(one)
        worker.request.item(item)
        self._fill(worker)

    def heard(self, run_id: bytes, peer: Peer) -> None:
        """A worker that came back speaks of its run."""
        holder = self._holders.get(run_id)
        if holder is None or holder.ended or holder.request.peer is not peer:
            for (known, _), worker in self._workers.items():
                if known is peer:
                    self._holders[run_id] = worker
                    return

    def ended(self, run_id: bytes, reason: str) -> None:
        """The run has ended, durably; its worker hears of it if it is not who did it."""
        self._pool.discard(run_id)
        worker = self._holders.pop(run_id, None)
        if worker is not None and not worker.ended and reason in TOLD:
            worker.request.item({"cancel": format_ulid(run_id), "reason": reason})

    # -- what `journal.credit` and `journal.unsubscribe` ask --------------------------------------

    def add_credit(self, peer: Peer, name: RequestId, credit: int) -> bool:
        """Whether there is such a worker here. Raises Invalid: it would hold too much."""
        worker = self._workers.get((peer, name))
        if worker is None:
            return False
        if worker.credit + credit > SUBSCRIBE_CREDIT_MAX:
            raise Invalid(
                f"a subscription holds at most {SUBSCRIBE_CREDIT_MAX} credit",
                field="credit",
                detail={"actual": worker.credit},
            )
        worker.credit += credit
        self._fill(worker)
        return True

    def unsubscribe(self, peer: Peer, name: RequestId) -> bool:
        """Whether there was one; its request got its `ok`. What it holds it may still finish."""
        worker = self._forget(peer, name)
        if worker is not None:
            worker.request.ok({})
        return worker is not None

    def drop_peer(self, peer: Peer) -> None:
        """The peer is gone; its runs wait for their leases to end, but for those that were to be
        sent right now: that is how it was found out."""
        unheard: list[Untaken] = []
        for known, name in list(self._workers):
            if known is peer and (worker := self._forget(known, name)) is not None:
                worker.request.abandon()
                unheard += worker.sent
        for one in unheard:
            if self._holders.pop(one.run_id, None) is not None:
                self._pool.add(one)
                self.offer(one.run_id)

    def end_all(self, error: PalyraError) -> None:
        """End every worker's stream with an error."""
        for peer, name in list(self._workers):
            if (worker := self._forget(peer, name)) is not None:
                worker.request.fail(error)

    # -- own --------------------------------------------------------------------------------------

    def _forget(self, peer: Peer, name: RequestId) -> Worker | None:
        worker = self._workers.pop((peer, name), None)
        if worker is not None:
            worker.ended = True
        return worker

    def _fill(self, worker: Worker) -> None:
        """Give it what waits, as far as its credit goes."""
        for _ in islice(iter(int, 1), TAKES_A_TURN_MAX):
            if not worker.ready:
                if not worker.ended and worker.credit > 0 and self._pool.keys:
                    self._call_later(LOOK_S, lambda: self._fill(worker))  # it takes too slowly
                return
            one = self._pool.first(worker)
            if one is None:
                return
            if one.job_id in self._promised:
                self._pool.discard(one.run_id)
                self._pool.add(one)
                return
            worker.credit -= 1
            self._promised[one.job_id] = worker
            self._give(one)
        self._call_later(0.0, lambda: self._fill(worker))

    def _offer_again(self, one: Untaken) -> None:
        self._pool.add(one)
        self.offer(one.run_id)

    def _give(self, one: Untaken) -> None:
        """The run's lease is decided; until then nobody else is offered it."""
        self._pool.discard(one.run_id)

        def done(error: PalyraError | None) -> None:
            if error is None:
                return
            self.release(one.job_id)
            if not isinstance(error, Conflict | NotFound):  # it is still to be had, later
                self._call_later(AGAIN_S, lambda: self._offer_again(one))

        self._take(one, done)
