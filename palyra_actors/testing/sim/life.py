"""One life of an engine, out of one seed: random clients, a random scheduler, and everything that
can go wrong with a disk and a clock. What is promised is looked at after each turn.
"""

import logging
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import apsw
import msgspec

from palyra_actors.errors import OpenRefused
from palyra_actors.storage.rebuild import Rebuild
from palyra_actors.storage.transfer import export, load
from palyra_actors.testing.faults import Fault
from palyra_actors.testing.power import SURVIVALS
from palyra_actors.testing.sim import rules, shows
from palyra_actors.testing.sim.audit import Auditor
from palyra_actors.testing.sim.breaks import SYNCHRONOUS, TAMPERS
from palyra_actors.testing.sim.clients import PRINCIPALS, Author
from palyra_actors.testing.sim.events import require
from palyra_actors.testing.sim.memories import PEOPLE
from palyra_actors.testing.sim.model import RUN_STEPS
from palyra_actors.testing.sim.peers import Asked, Order, Peer
from palyra_actors.testing.sim.world import MEMORIES_MAX, World, small_config

REQUESTS: Final = (50, 200)
PEERS: Final = 4
STREAMS: Final = frozenset({"journal.subscribe", "cron.work", "canvas.subscribe"})
MOVED_EVERY: Final = 10
"""So many lives have one at whose end the journal is moved to another file, which takes a while."""

MOVES_MAX: Final = 20_000
SWEEPS_MS: Final = 2_500
"""In which the engine has looked for all whose time is over."""

_FAULTS: Final[tuple[tuple[Any, Any, Any], ...]] = (
    ("sync", "wal", None), ("sync", "wal", None), ("write", "wal", None),
    ("write", "wal", apsw.SQLITE_FULL), ("read", "db", None), ("read", "wal", None),
    ("sync", "db", None), ("write", "db", None), ("open", None, None), ("truncate", "wal", None),
)  # fmt: skip


@dataclass(slots=True)
class Life:
    """What came of a seed. `digest` is of every frame that was sent and heard, and the journal's
    head: two lives with the same one went alike."""

    seed: int
    digest: str = ""
    head: int = 0
    requests: int = 0
    moves: int = 0
    counts: dict[str, int] = field(default_factory=dict)


def live(seed: int, *, broken: str | None = None) -> Life:
    """Run the life of that seed.

    Args:
        broken: a promise that the engine breaks, one of `breaks.BREAKS`: a control.

    Raises:
        AssertionError: a promise did not hold (`model.Wrong`), or something is stuck
            (`world.Stuck`). Its notes say how to replay it.
    """
    try:
        return _Run(seed, broken).run()
    except BaseException as error:
        error.add_note(f"replay it: {replay_command(seed, broken)}")
        raise


def replay_command(seed: int, broken: str | None = None) -> str:
    """What to type to see that life again."""
    more = "" if broken is None else f" --broken {broken}"
    return f"python -m palyra_actors.testing.sim --seed {seed}{more}"


class _Run:
    def __init__(self, seed: int, broken: str | None) -> None:
        self.slow = 0.0
        self.chance = random.Random(seed)
        self.world = world = World(
            seed,
            config=small_config(SYNCHRONOUS.get(broken or "", "full")),
            tamper=TAMPERS.get(broken or ""),
            disk_ms=self._disk_ms,
        )
        self.auditor = Auditor(world)
        self.author = Author(self.chance, lambda: self.auditor.model, world.clock.wall_ms)
        self.life = Life(seed)
        self.orders: list[Order] = []
        self.leases: list[tuple[str, str, int]] = []
        self.broken = False
        self.orphans: dict[str, str] = {}
        self.hash = sha256()
        heard = world.heard

        def listen(asked: Asked, reply: Any) -> None:
            heard(asked, reply)
            self.hash.update(msgspec.msgpack.encode(reply))
            run = reply["item"].get("run") if "item" in reply else None
            if run is not None:
                self.leases.append((asked.order.principal, run["run_id"], run["fence"]))

        world.heard = listen
        self.moves: dict[Callable[[], None], float] = {
            self._loop: 40,
            self._commit: 14,
            self._read: 9,
            self._embed: 3,
            self._checkpoint: 3,
            self._anchor: 1,
            self._wait: 8,
            self._ask: 24,
            self._again: 5,
            self._hang_up: 0.8,
            self._stall: 0.8,
            self._credit: 1.5,
            self._work: 3,
            self._clock_step: 0.6,
            self._slow_disk: 0.6,
            self._break_disk: 0.9,
            self._heal: 3,
            self._crash: 0.7,
            self._stop: 0.25,
            self._rest: 0.4,
        }

    def run(self) -> Life:
        life = self.life
        with self.world:
            requests = self.chance.randint(*REQUESTS)
            moves, weights = list(self.moves), list(self.moves.values())
            while life.requests < requests and life.moves < MOVES_MAX:
                (move,) = self.chance.choices(moves, weights)
                life.moves += 1
                move()
                self.auditor.complain()
            self._rest()
            self._resolve_all()
            self._rest()
            self._rebuild()
            if life.seed % MOVED_EVERY == 0:
                self._move()
            seq, digest = self.auditor.model.head
            self.hash.update(digest)
            life.head, life.digest = seq, self.hash.hexdigest()
            self.auditor.closed()
        return life

    def _count(self, what: str) -> None:
        self.life.counts[what] = self.life.counts.get(what, 0) + 1

    # -- turns ------------------------------------------------------------------------------------

    def _loop(self) -> None:
        self.world.turn_loop()

    def _commit(self) -> None:
        self.world.turn_commit()

    def _read(self) -> None:
        self.world.turn_reader()

    def _embed(self) -> None:
        self.world.turn_embedder()

    def _checkpoint(self) -> None:
        self.world.turn_checkpoint()

    def _anchor(self) -> None:
        self.world.turn_anchor()

    def _wait(self) -> None:
        self.world.wait(self.chance.choice((0.2, 1.0, 5.0, 20.0, 200.0)))

    def _disk_ms(self) -> float:
        return self.slow * self.chance.random()

    # -- clients ----------------------------------------------------------------------------------

    def _peer(self) -> Peer:
        peers = self.world.peers
        if len(peers) < PEERS and (not peers or self.chance.random() < 0.3):
            return self.world.connect(*self.chance.choice(PRINCIPALS))
        return self.chance.choice(peers)

    def _send(self, peer: Peer, order: Order) -> Asked:
        self.life.requests += 1
        envelope = {"budget_ms": 0} if self.chance.random() < 0.3 else {}
        asked = self.world.send(peer, order, **envelope)
        asked.since = self.auditor.durable
        if order.op in STREAMS:
            asked.credit = order.body["credit"]
        self.auditor.note_codes((asked,))
        self.hash.update(msgspec.msgpack.encode((order.op, order.body)))
        return asked

    def _ask(self) -> None:
        for _ in range(self.chance.choice((1, 1, 1, 2, 4))):
            peer, what = self._peer(), self.chance.random()
            if what < 0.2:
                self._send(peer, self.author.read(peer))
            elif what < 0.23:
                self._subscribe(peer)
            elif what < 0.25:
                self._send(peer, self.author.workers(peer))
            elif what < 0.27:
                self._watch(peer)
            else:
                self._write(peer, self.author.write(peer))

    def _subscribe(self, peer: Peer) -> None:
        order = self.author.subscription(peer)
        order.about = order.body.get("after_seq")
        self._send(peer, order)

    def _watch(self, peer: Peer) -> None:
        order = self.author.watch(peer)
        order.about = order.body.get("after_version")
        self._send(peer, order)

    def _write(self, peer: Peer, order: Order) -> None:
        self.orders.append(order)
        for name in order.event_ids:
            self.auditor.orders[name] = order
        self._send(peer, order)

    def _again(self) -> None:
        """An old request, or its ids with other words."""
        orders = [order for order in self.orders if order.event_ids]
        if not orders:
            return
        order = self.chance.choice(orders[-30:])
        peer = self._peer_of(order)
        if order.first is not None and self.chance.random() < 0.3:
            self._send(peer, self.author.forged(order))
        else:
            self._send(peer, order)

    def _peer_of(self, order: Order) -> Peer:
        for peer in self.world.peers:
            if peer.principal == order.principal:
                return peer
        return self.world.connect(order.principal, "admin" if order.admin else "writer")

    def _hang_up(self) -> None:
        if self.world.peers:
            self._count("hang up")
            self.world.disconnect(self.chance.choice(self.world.peers))

    def _stall(self) -> None:
        """A client stops reading, or goes on."""
        if self.world.peers:
            peer = self.chance.choice(self.world.peers)
            peer.backlog_bytes = 0 if peer.backlog_bytes else 3 * 1024 * 1024

    def _work(self) -> None:
        """A worker says something of a run that it was given, lately or long ago."""
        if self.leases:
            principal, run_id, fence = self.chance.choice(self.leases[-6:])
            for peer in self.world.peers:
                if peer.principal == principal:
                    self._write(peer, self.author.about_run(peer, run_id, fence))
                    return

    def _credit(self) -> None:
        for peer in self.world.peers:
            for asked in peer.asked.values():
                if asked.order.op in STREAMS and asked.outcome == "open":
                    body = {"sub": asked.id, "credit": self.chance.randint(1, 30)}
                    op = "journal.credit"
                    if self.chance.random() < 0.3:
                        op, body = "journal.unsubscribe", {"sub": asked.id}
                    self._send(peer, Order(op, body, peer.principal, peer.role == "admin"))
                    return

    # -- clock and disk ---------------------------------------------------------------------------

    def _clock_step(self) -> None:
        self._count("clock")
        step = self.chance.choice((-3_600_000, -50, 50, 10_000, 3_600_000))
        self.auditor.note_time()
        self.world.clock.jump(max(1, self.world.clock.wall_ms() + step))

    def _slow_disk(self) -> None:
        self.slow = self.chance.choice((0.0, 0.0, 2.0, 15.0, 80.0))

    def _break_disk(self) -> None:
        self._count("fault")
        action, kind, code = self.chance.choice(_FAULTS)
        fault = Fault(
            action,
            kind,
            nth=self.chance.choice((1, 1, 2, 5)),
            times=self.chance.choice((1, 1, 1, 3, None)),
            code=code,
            performed=action == "sync" and self.chance.random() < 0.3,
        )
        self.world.disk.inject(fault)
        self.broken = self.auditor.excused = True

    def _heal(self) -> None:
        self.world.disk.heal()
        self.broken = False

    def _crash(self) -> None:
        """The power fails; and now and then again while the engine starts."""
        self._count("crash")
        self.auditor.look()
        self.auditor.closed()
        self.world.crash(self.chance.choice(SURVIVALS))
        self.broken = False
        self.auditor.excused = False
        self._start()

    def _start(self) -> None:
        for name in self.auditor.replies:
            self.auditor.replies[name] = 0
        if self.chance.random() < 0.15:
            self._break_disk()
        while not self._comes_up():
            self._heal()
        self.auditor.left_by_crash()
        self.orphans = {}
        if self.world.running.crashed:
            runs = self.auditor.model.runs.items()
            self.orphans = {
                name: run.session for name, run in runs if run.managed and RUN_STEPS[run.state]
            }

    def _comes_up(self) -> bool:
        try:
            return self.world.start()
        except OpenRefused as refusal:
            require(self.broken, "what was closed by a crash opens again", refusal)
            return False

    def _stop(self) -> None:
        self._count("stop")
        self._heal()
        self.world.settle()
        self.auditor.excused = True
        self.auditor.look()
        self.auditor.closed()
        self.world.stop()
        self.auditor.excused = False
        self._start()

    # -- at rest ----------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Heal, let everything end, and look at all of it."""
        world, auditor = self.world, self.auditor
        self._heal()
        self.slow = 0.0
        for peer in world.peers:
            peer.backlog_bytes = 0
        world.settle()
        upto = world.clock.monotonic() + SWEEPS_MS / 1000
        world.settle(lambda: world.clock.monotonic() >= upto and world.at_rest)
        auditor.look()
        auditor.excused = False
        works = world.running
        require(works.health()["status"] != "failing", "a healed disk is written", works.health())
        self._counters()
        self._due()
        self._everything()

    def _counters(self) -> None:
        works = self.world.running
        tally, said = works.tally, self.auditor.replies
        streams = len(works.feed) + sum(map(len, works.feed.beside))
        told = (tally.received, tally.ok, tally.refused, tally.unknown, tally.under_way)
        require(
            tally.received
            == tally.ok + tally.refused + tally.unknown + tally.closed + tally.under_way
            and tally.under_way == streams,
            "received = ok + refused + unknown + closed", told, tally.closed, streams,
        )  # fmt: skip
        require(
            (tally.ok, tally.refused, tally.unknown)
            == (said["ok"], said["refused"], said["unknown"]),
            "the counters are what was said", told, said,
        )  # fmt: skip
        for peer in self.world.peers:
            for asked in peer.asked.values():
                require(
                    asked.outcome != "open" or asked.order.op in STREAMS,
                    "every request gets a reply", asked.order.op, asked.order.body,
                )  # fmt: skip

    def _due(self) -> None:
        model, now_ms = self.auditor.model, self.world.clock.wall_ms() - SWEEPS_MS // 2
        for name, one in model.approvals.items():
            over = one.expires_ms is not None and one.expires_ms <= now_ms
            require(not over or one.decision is not None, "an approval times out", name, one)
        for name, canvas in model.canvases.items():
            over = canvas.expires_ms is not None and canvas.expires_ms <= now_ms
            require(not over or canvas.closed, "a canvas expires", name)
            session = model.sessions.get(canvas.session)
            if session is None or session.status != "erased":
                continue
            of_it = model.is_of(session, canvas.owner, canvas.created_ms)
            require(canvas.erased or not of_it, "a canvas is erased with its session", name)
        for name, job in model.cron.jobs.items():
            due = job.enabled and job.next_ms is not None and job.next_ms <= now_ms
            require(not due, "every tick is accounted for", name, job, now_ms)
        for (owner, name), kept in model.memories.items.items():
            require(not kept.over(now_ms), "a memory expires", owner, name, kept)
            left = model.of_erased(kept)
            require(not left, "a memory is forgotten with its session", owner, name)
        for owner in PEOPLE:
            count = len(model.memories.of(owner))
            require(count <= MEMORIES_MAX, "what is too much is evicted", owner, count)
        for name, where in self.orphans.items():
            run = model.runs.get(name)
            left = run is not None and run.session == where and bool(RUN_STEPS[run.state])
            require(not left, "a run without its process ends", name, run)

    def _everything(self) -> None:
        """All that there is, as it is shown."""
        world, model = self.world, self.auditor.model
        peer = world.connect("local", "admin")
        asks: list[tuple[str, str, str]] = []
        asks += [("session.get", "session_id", name) for name in model.sessions]
        asks += [("run.get", "run_id", name) for name in (*model.runs, *model.gone_runs)]
        asks += [("run.tape", "run_id", name) for name in model.runs]
        approvals = (*model.approvals, *model.gone_approvals)
        asks += [("approval.get", "approval_id", name) for name in approvals]
        asks += [("canvas.get", "canvas_id", name) for name in model.canvases]
        there = {name for _, name in model.memories.items}
        lost = sorted({name for _, name in model.memories.removed if name not in there})
        asked = [
            world.send(peer, Order(op, {field: name}, "local", True)) for op, field, name in asks
        ]
        asked += [
            world.send(peer, Order("memory.get", {"memory_id": name}, "local", True))
            for name in lost
        ]
        asked += [
            world.send(peer, Order(op, {}, "local", True))
            for op in ("journal.verify", "session.list", "memory.list", "memory.stats")
        ]
        world.settle(lambda: all(one.replies for one in asked))
        for one in asked:
            body = one.order.body
            erased = (
                (
                    one.order.op == "session.get"
                    and model.sessions[body["session_id"]].status == "erased"
                )
                or (one.order.op == "canvas.get" and model.canvases[body["canvas_id"]].erased)
                or body.get("run_id") in model.gone_runs
                or body.get("approval_id") in model.gone_approvals
                or one.order.op == "memory.get"
            )
            code = one.replies[0].get("err", {}).get("code")
            require(code == ("gone" if erased else None), "what is there is shown", one.order.op,
                    body, one.replies)  # fmt: skip
        world.disconnect(peer)
        stats, kept = asked[-1].replies[0]["ok"], model.memories.items.values()
        counted = stats["items"], stats["superseded"]
        later = sum(one.superseded_by is not None for one in kept)
        require(counted == (len(kept) - later, later), "memories are counted", stats, len(kept))
        self.auditor.forgotten()
        for other in world.peers:
            for one in other.asked.values():
                if one.order.op == "canvas.subscribe":
                    shows.watched_all(model, one)

    def _resolve_all(self) -> None:
        """What was left open is asked again: it is one or the other."""
        for order in self.orders:
            if order.event_ids and order.may_be_stored and order.first is None:
                asked = self._send(self._peer_of(order), order)
                self.world.settle(lambda asked=asked: bool(asked.replies))  # type: ignore[misc]
                stored = rules.known(self.auditor.model, order)
                require(
                    asked.outcome == "ok" or not stored or asked.code == "gone",
                    "what was open resolves to one or the other", order.op, order.body,
                    asked.replies,
                )  # fmt: skip

    def _move(self) -> None:
        """What is exported becomes the same journal elsewhere."""
        lines: list[bytes] = []
        sent = export(self.world.path, lines.append)
        target = self.world.path.parent.with_name("moved") / "moved.db"
        target.parent.mkdir()
        came = load(lines, target)
        require(sent.head == came.head, "an import is the same journal", sent, came)
        again: list[bytes] = []
        export(target, again.append)
        require(again == lines, "an import is exported as it was", len(lines), len(again))

    def _rebuild(self) -> None:
        """The projections made anew from the journal are the live ones."""
        with closing(Rebuild(self.world.path)) as made:
            for _ in made.run():
                pass
            found = made.compare()
        require(found.different == 0, "rebuilt is equal to live", found.differences[:3])


def quiet() -> None:
    """The engine's own complaints about what is done to it are not worth a line here."""
    logging.getLogger("palyra_actors").setLevel(logging.CRITICAL + 1)
