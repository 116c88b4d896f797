"""A world for one engine: one thread, a clock that stands still, a disk that loses its power.

    with World(seed=7) as world:
        agent = world.connect()
        told = world.ask(agent, "session.resolve", {"session_key": "build"})
        world.crash()                      # what was not synced is gone; the engine starts again
        agent = world.connect()
        assert world.ask(agent, "session.resolve", {"session_key": "build"}) ...

Nothing happens by itself. Each of the engine's threads is a call here (`turn_loop`, `turn_commit`,
`turn_reader`, `turn_embedder`, `turn_checkpoint`), and time passes by `wait`. Whoever makes the
calls decides what overlaps with what: `settle` makes them in turn until nothing is left to do, a
random scheduler (`palyra_actors.testing.sim.life`) in whatever order its seed says. Ids, faults and
cuts come from the same seed, so that a world that is treated alike goes alike, to the last byte of
its journal.
"""

import contextlib
import os
import random
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import apsw
import msgspec

from palyra_actors.config import (
    ActorsConfig,
    Config,
    MemoryConfig,
    RetentionConfig,
    StorageConfig,
)
from palyra_actors.engine import Works
from palyra_actors.errors import StorageUnavailable
from palyra_actors.runtime.wakeup import Wakeup
from palyra_actors.storage.anchor import beside
from palyra_actors.testing.clock import ManualClock
from palyra_actors.testing.faults import FaultVFS, Operation, abandon
from palyra_actors.testing.power import Disk, PowerVFS, Survival, write_image
from palyra_actors.testing.sim.peers import Asked, Order, Peer

CHECKPOINT_BYTES: Final = 32 * 1024
"""Of WAL that are worth a checkpoint here: small, so that a short life sees some."""

MEMORIES_MAX: Final = 12
"""Of one principal; the least useful of more go by themselves."""

TURNS_MAX: Final = 20_000
"""Turns within which everything has to come to rest; what needs more is stuck."""

LOOK_EVERY_S: Final = 0.02
MEMORY_DISK: Final = "/dev/shm"  # noqa: S108 - a folder of its own is made in it
_NUMBERS: Final = count()


class Stuck(AssertionError):
    """Something that was waited for does not come, however long it is waited."""


def small_config(synchronous: str = "full") -> Config:
    """Limits that a life of a hundred requests meets: few residents, small checkpoints."""
    storage = msgspec.convert(
        {"synchronous": synchronous, "wal_keep_bytes": 0, "checkpoint_bytes": 1 << 20}
        | {"cache_bytes": 1 << 20},
        StorageConfig,
    )
    # below what is sensible for a real disk, and for that reason out of the setting's range
    msgspec.structs.force_setattr(storage, "checkpoint_bytes", CHECKPOINT_BYTES)
    memory = MemoryConfig(
        dimensions=8,
        maintenance_seconds=0.5,
        backfill_seconds=2.0,
        retention=RetentionConfig(scope_max_entries=MEMORIES_MAX),
    )
    actors = ActorsConfig(resident_max=8, idle_seconds=2.0)
    return Config(storage=storage, actors=actors, memory=memory)


class Inbox:
    """The door's place in the loop: what clients have sent is served once a round."""

    def __init__(self, works: Works) -> None:
        self._works = works
        self.frames: deque[tuple[Peer, bytes]] = deque()
        self.received = 0

    def wait(self, wakeup: Wakeup, wait_ms_max: int) -> None:
        """Nobody sleeps here."""

    def receive(self) -> None:
        arrivals = list(self.frames)
        self.frames.clear()
        if arrivals:
            self.received += len(arrivals)
            self._works.desk.serve(arrivals)


class World:
    """One engine with its disk, clock and clients. One thread; a context manager.

    Args:
        seed: of everything that is random.
        config: the engine's; default: `small_config()`.
        tamper: called with each engine before its first turn, to break it on purpose.
        disk_ms: how long a sync of the WAL takes, asked before each; the clock is turned by it.

    Attributes:
        clock: turn it by `wait`, set its wall time by `clock.jump`.
        disk: inject faults here; a new one after each crash.
        works: the engine's parts; new ones after each start.
        heard: called with each reply before its client has it.
        reading: called before each turn of a reader.
        looped: called after each turn of the loop.
    """

    def __init__(
        self,
        seed: int,
        *,
        config: Config | None = None,
        tamper: Callable[[Works], None] | None = None,
        disk_ms: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.chance = random.Random(seed)
        self.clock = ManualClock()
        self.config = small_config() if config is None else config
        self.heard: Callable[[Asked, Mapping[str, Any]], None] = lambda asked, reply: None
        self.reading: Callable[[], None] = lambda: None
        self.looped: Callable[[], None] = lambda: None
        self._tamper = tamper
        self._disk_ms = disk_ms
        place = MEMORY_DISK if os.path.isdir(MEMORY_DISK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="palyra-sim-", dir=place)
        self.path = Path(self._folder.name) / "disk" / "sim.db"
        self.peers: list[Peer] = []
        self._request_ids = count(1)
        self.works: Works | None = None
        self.starts = 0
        self._new_disk({})
        self.start()

    # -- clients ----------------------------------------------------------------------------------

    def connect(self, principal: str = "local", role: str = "admin") -> Peer:
        """A connection of that principal. Its requests go out in the order of `send`."""
        peer = Peer(principal, role, self._came)
        self.peers.append(peer)
        return peer

    def disconnect(self, peer: Peer) -> None:
        """It is gone; what it has under way is answered by nobody."""
        peer.open = False
        self.peers.remove(peer)
        for asked in peer.asked.values():
            asked.lost = asked.lost or not asked.replies
        works = self.works
        if works is not None:
            works.loop.call_soon(lambda: works.feed.drop_peer(peer))
            works.loop.call_soon(lambda: works.desk.drop_peer(peer))

    def send(self, peer: Peer, order: Order, **envelope: Any) -> Asked:
        """Put a request on its way; it arrives with the loop's next turn."""
        asked = Asked(next(self._request_ids), order, peer)
        peer.asked[asked.id] = asked
        order.tries.append(asked)
        frame = {"v": 1, "id": asked.id, "op": order.op, "body": order.body, **envelope}
        self._inbox.frames.append((peer, msgspec.msgpack.encode(frame)))
        return asked

    def ask(self, peer: Peer, op: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request, let the world go on until it is answered; the reply as it came.

        Raises:
            Stuck: no answer comes.
        """
        order = Order(op, dict(body or {}), peer.principal, peer.role == "admin")
        asked = self.send(peer, order)
        self.settle(lambda: bool(asked.replies))
        return asked.replies[0]

    def _came(self, asked: Asked, reply: dict[str, Any]) -> None:
        self.heard(asked, reply)

    # -- turns ------------------------------------------------------------------------------------

    @property
    def running(self) -> Works:
        """The engine's parts. Raises Stuck: it could not be started."""
        if self.works is None:
            raise Stuck("the engine is not running")
        return self.works

    @property
    def loop_due(self) -> bool:
        """Whether the loop has anything to do now."""
        loop = self.running.loop
        at = loop.next_timer
        return (
            loop.busy
            or bool(self._inbox.frames)
            or (at is not None and at <= self.clock.monotonic())
        )

    def turn_loop(self) -> None:
        """One round of the loop."""
        self.running.loop.step()
        self.looped()

    def turn_commit(self) -> bool:
        """What the committer's thread would do next; False: nothing."""
        return self.running.writer.committer.step()

    def turn_reader(self) -> bool:
        """One reader's turn; False: none has anything to do."""
        if not self.running.pool.busy:
            return False
        self.reading()
        return self.running.pool.step()

    def turn_checkpoint(self) -> None:
        """One look of the checkpoints' thread."""
        self._looked_at = self.clock.monotonic()
        self.running.checkpoints.look(LOOK_EVERY_S)

    def turn_embedder(self) -> bool:
        """What the thread that makes vectors would do next; False: nothing."""
        return self.running.remembering.embedder.step()

    def turn_anchor(self) -> None:
        """The anchor's thread writes the head outside the database."""
        self.running.anchors.step()

    def wait(self, ms: float) -> None:
        """Let time pass on both clocks, in which nobody does anything."""
        self.clock.turn(ms)
        if self.works is not None:
            self.works.loop.slept_s += ms / 1000

    def turn(self) -> None:
        """Whatever is due; where nothing is, time passes until something will be."""
        if self.loop_due:
            self.turn_loop()
        elif self.turn_commit() or self.turn_reader() or self.turn_embedder():
            pass
        elif self.clock.monotonic() >= self._looked_at + LOOK_EVERY_S:
            self.turn_checkpoint()
        else:
            due = self._looked_at + LOOK_EVERY_S
            at = self.running.loop.next_timer
            due = due if at is None else min(due, at)
            self.wait(max(0.1, (due - self.clock.monotonic()) * 1000 + 0.001))

    def settle(self, done: Callable[[], bool] | None = None) -> None:
        """Turn until `done`; by default until nothing is under way.

        Raises:
            Stuck: it does not come to that.
        """
        for _ in range(TURNS_MAX):
            if done() if done is not None else self.at_rest:
                return
            self.turn()
        raise Stuck("what was waited for did not come")

    @property
    def at_rest(self) -> bool:
        """Nothing is under way but subscriptions, and no thread has anything to do."""
        works = self.running
        return not (
            self.loop_due
            or works.writer.busy
            or works.writer.committer.busy
            or works.pool.busy
            or works.remembering.embedder.busy
            or works.tally.under_way > len(works.feed) + sum(map(len, works.feed.beside))
        )

    # -- its life and its ends --------------------------------------------------------------------

    def start(self) -> bool:
        """Start the engine on what is on the disk. False: the disk fails; heal it and try again.

        Raises:
            OpenRefused: the file may not be opened, which no crash excuses.
        """
        try:
            works = Works(
                self.path,
                self.config,
                self.clock,
                self.disk.name,
                entropy=self.chance.randbytes,
            )
        except StorageUnavailable:
            return False
        except apsw.Error:
            return False
        self.starts += 1
        self.works = works
        self._inbox = Inbox(works)
        works.loop.attach(self._inbox)
        self._looked_at = self.clock.monotonic()
        if self._tamper is not None:
            self._tamper(works)
        works.begin()
        return True

    def stop(self) -> None:
        """Stop the engine in good order: all is answered, the file is closed."""
        works, quiet = self.running, list[bool]()
        works.wind_down(lambda: quiet.append(True))
        self.settle(lambda: bool(quiet))
        self._hang_up()
        works.checkpoints.drop()
        if not works.shut(0.0):
            raise Stuck("the engine does not stop")
        self.works = None

    def crash(self, survival: Survival = "synced") -> None:
        """Cut the power and leave it off: `start` goes on from what is left on the disk.

        `survival`: what of the unsynced is left: nothing (`synced`), or more, see
        `palyra_actors.testing.power`.
        """
        self._catch_up()
        files = self._power.image(survival, self.chance)
        self._hang_up()
        works, self.works = self.works, None
        if works is not None:
            self._abandon(works)
        anchor = self.path.with_name(os.path.basename(beside(str(self.path))))
        kept = (
            anchor.read_bytes() if anchor.exists() else None
        )  # it is synced whenever it is written
        write_image(str(self.path), files)
        if kept is not None:
            anchor.write_bytes(kept)
            anchor.chmod(0o600)
        self._new_disk(files)

    def close(self) -> None:
        """Leave nothing behind."""
        works, self.works = self.works, None
        if works is not None:
            self._abandon(works)
        self._drop_disk()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hang_up(self) -> None:
        """All connections are gone, and with them what they waited for."""
        for peer in list(self.peers):
            peer.open = False
            for asked in peer.asked.values():
                asked.lost = asked.lost or not asked.replies
        self.peers.clear()

    def _abandon(self, works: Works) -> None:
        for connection in apsw.connections():
            if connection.filename == works.file:
                with contextlib.suppress(apsw.Error):
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                abandon(connection)
        works.anchor.close()
        works.loop.stop(0.0)
        for actor in (works.latency, works.writer, *works.readers):
            actor.unlist()
        works.lock.release()

    # -- the disk ---------------------------------------------------------------------------------

    @property
    def base_vfs(self) -> str:
        """The VFS below the faults, for those who look on."""
        return self._recorder.name

    def _new_disk(self, files: Mapping[str, bytes]) -> None:
        if self.starts:
            self._drop_disk()
        number = next(_NUMBERS)
        self._recorder = PowerVFS(f"palyra-sim-power-{number}")
        self.disk = FaultVFS(f"palyra-sim-disk-{number}", self._recorder.name, before=self._before)
        self._power = Disk(durable={name: bytearray(data) for name, data in files.items()})

    def _drop_disk(self) -> None:
        self.disk.unregister()
        self._recorder.unregister()

    def _before(self, operation: Operation) -> None:
        if operation.action == "sync" and operation.kind == "wal":
            self.clock.turn(self._disk_ms())

    def _catch_up(self) -> None:
        """Play what was written since; the log would hold all of it for ever."""
        for entry in self._recorder.log:
            self._power.play(entry)
        self._recorder.log.clear()
