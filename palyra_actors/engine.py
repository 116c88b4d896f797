"""The engine: wires everything, starts bottom-up, stops top-down. Embedded or behind a door.

    lock ─▶ file, migrations ─▶ loop, readers, checkpoints ─▶ desk ─▶ (door)

    with Engine.open("agents.db") as engine:
        session = engine.sessions.open()
        session.append("message_received", {"text": "hello"}, actor="user")

An embedded caller's requests take the same way as a client's, frame by frame: same semantics,
same errors, no socket.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self, assert_never

import msgspec

import palyra_actors
from palyra_actors import limits
from palyra_actors.actors import clerks
from palyra_actors.actors.anchors import Anchors
from palyra_actors.actors.checkpointer import Checkpoints
from palyra_actors.actors.clerks.cooling import Cooling
from palyra_actors.actors.clerks.remembering import PATIENCE_S_MAX, Remembering, Retention
from palyra_actors.actors.desk import Desk, Office
from palyra_actors.actors.directory import Directory
from palyra_actors.actors.embedder import QUERIES_MAX, Embedder
from palyra_actors.actors.entity import House
from palyra_actors.actors.feed import Feed
from palyra_actors.actors.group import Group
from palyra_actors.actors.latency import Latency
from palyra_actors.actors.pace import Room
from palyra_actors.actors.reader import Reader
from palyra_actors.actors.search import Weights
from palyra_actors.actors.shelf import Shelves
from palyra_actors.actors.statistics import (
    ActorStatistics,
    DoorStatistics,
    EngineStatistics,
    LobbyStatistics,
    stats_view,
)
from palyra_actors.actors.steering import Controller, Judged, Measured
from palyra_actors.actors.views import head_view
from palyra_actors.actors.work import Request, Tally, stopping
from palyra_actors.actors.writer import Writer
from palyra_actors.api.operations import Operations
from palyra_actors.clock import Clock, SystemClock
from palyra_actors.config import Config, MemoryConfig
from palyra_actors.embedding.hashing import HashMemoryEmbeddingProvider
from palyra_actors.embedding.provider import MemoryEmbeddingProvider
from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.ids import Ulids
from palyra_actors.keys import Allowed, KeyFolder
from palyra_actors.runtime.dispatcher import Loop, Pool
from palyra_actors.runtime.supervisor import RestartPolicy
from palyra_actors.storage import anchor
from palyra_actors.storage.backup import BackedUp, back_up
from palyra_actors.storage.connection import drop, open_checkpointer, open_reader, open_writer
from palyra_actors.storage.journal import JournalReader, JournalWriter
from palyra_actors.storage.lock import DatabaseLock
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.opening import examine, refuse_missing
from palyra_actors.storage.port import Head
from palyra_actors.storage.upkeep import Checkpointer, wal_bytes

log = logging.getLogger(__name__)

STOP_S_MAX: Final = 5.0
READER_CACHE_BYTES: Final = 16 * 1024 * 1024
OWNER_LOOK_S: Final = 0.5
WAL_FULL: Final = 0.75
"""Of the WAL's room that is kept, how much is in use before the writer pauses to start it anew:
each time all who write wait for a sync of the database."""

FILE_REPLACED: Final = "the database file was replaced or unlinked"
WAL_REPLACED: Final = (
    "the database's WAL was replaced or unlinked: end the engine with SIGTERM, which puts what the "
    "WAL holds into the database, and start it again"
)
UNREAD_S: Final = 1.25
"""For how long a read that failed makes health red: due things are looked for each second."""
BUSIEST_SESSIONS: Final = 10
STATISTICS_WAIT_S_MAX: Final = 2.0


class _LocalPeer:
    """This process, as the desk sees it."""

    principal = "local"
    role = "admin"

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self.under_way = 0
        self.backlog_bytes = 0  # its caller's queue is the caller's business
        self._deliver: Callable[[bytes], None] | None = deliver
        self._lock = threading.Lock()

    def send(self, frame: bytes) -> None:
        with self._lock:
            if self._deliver is not None:
                self._deliver(frame)

    def close(self) -> None:
        with self._lock:
            self._deliver = None


class _LocalConnection:
    """What `Operations` sends through: straight to the desk, in the loop's thread."""

    def __init__(self, engine: "Works", peer: _LocalPeer) -> None:
        self._works = engine
        self._peer = peer

    def send(self, frame: bytes) -> None:
        works, peer = self._works, self._peer
        works.loop.call_soon(lambda: works.desk.serve(((peer, frame),)))

    def close(self) -> None:
        self._peer.close()
        self._works.loop.call_soon(lambda: self._works.feed.drop_peer(self._peer))


class Works:
    """Everything that runs, in the order in which it starts.

    `start` gives it its threads; `begin` and no more leaves all turns to the caller, who steps
    loop, pool, committer and checkpoints by himself: a simulation.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        clock: Clock,
        vfs: str | None,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        embedding_provider: MemoryEmbeddingProvider | None = None,
    ) -> None:
        self.embedding_provider = embedding_provider
        self.path, self.config, self.clock, self.vfs = path, config, clock, vfs
        self.entropy = entropy
        self.started = clock.monotonic()
        self.tally = Tally()
        with contextlib.ExitStack() as undo:
            self.file = os.path.realpath(path)
            self.anchor_path = anchor.place(self.file, config.engine.anchor)
            anchored = refuse_missing(self.file, self.anchor_path)
            self.lock = DatabaseLock.acquire(path)
            undo.callback(self.lock.forsake if vfs is None else self.lock.release)
            examine(
                self.file,
                self.anchor_path,
                anchored,
                quick_check_bytes_max=config.storage.quick_check_bytes_max,
                vfs=vfs,
            )
            self.crashed = wal_bytes(self.file) > 0  # who closes, empties it
            writing = JournalWriter(self._connect_writer)
            undo.callback(writing.close)
            self.reading = JournalReader(
                open_reader(self.file, cache_bytes=READER_CACHE_BYTES, vfs=vfs)
            )
            undo.callback(self.reading.close)
            self._wire(writing)
            self._anchor(anchored)
            undo.pop_all()

    def _connect_writer(self) -> Any:
        if not self.lock.still_ours():  # a file of that name would be a stranger's, or a new one
            raise OpenRefused(FILE_REPLACED)
        storage = self.config.storage
        connection = open_writer(
            self.file,
            synchronous=storage.synchronous,
            cache_bytes=storage.cache_bytes,
            wal_keep_bytes=storage.wal_keep_bytes,
            vfs=self.vfs,
        )
        try:
            migrate(connection, self.file)
        except BaseException:
            drop(connection)
            raise
        return connection

    def _wire(self, writing: JournalWriter) -> None:
        actors, storage, budget = self.config.actors, self.config.storage, self.config.budget
        self.loop = Loop("palyra-loop", self.clock, actors.turn_messages_max)
        self.pool = Pool("palyra-reader", storage.readers)
        self.controller = Controller(
            budget_s=budget.write_ms / 1000,
            group_s_max=budget.group_ms_max / 1000,
            group_events_max=budget.group_events_max,
        )
        plan = self.controller.plan
        self.latency = Latency.launch(self.loop, self.controller)
        self.writer = Writer.launch(
            self.loop,
            writing,
            plan=plan,
            budget_ms=budget.write_ms,
            published=self._published,
            measured=self._measured,
        )
        self.next_stream = writing.last_stream()
        self.house = House(
            loop=self.loop,
            reader=self.reading,
            submit=self.writer.submit,
            next_stream=self._next_stream,
            new_id=Ulids(self.clock.wall_ms, self.entropy),
            unread=self._read_failed,
            restarts=RestartPolicy(
                actors.restart_backoff_ms,
                actors.restart_backoff_ms_max,
                actors.restarts_max,
                actors.restart_window_seconds,
            ),
        )
        self.directory = Directory(
            self.house,
            resident_max=actors.resident_max,
            idle_s=actors.idle_seconds,
            mailbox_messages_max=actors.mailbox_messages_max,
            kinds=clerks.kinds(
                history_versions_max=self.config.canvas.history_versions_max,
                snapshots_max=self.config.canvas.snapshots_max,
            ),
        )
        self.room = Room(self.loop, self._in_company, lambda: not plan.checkpoints)
        self.readers = [
            Reader.launch(
                self.pool,
                self._connect_reader,
                self.loop.call_soon,
                messages_max=actors.reader_queue_max,
                room=self.room,
                monotonic=self.clock.monotonic,
                anchored=lambda: self.anchors.anchored,
                unread=self._read_failed,
            )
            for _ in range(storage.readers)
        ]
        self.feed = Feed(
            self.loop,
            self.reading.last,
            self.writer.head,
            lambda message: self.desk.to_reader(message),  # noqa: PLW0108 - made just below
        )
        self.remembering = remembering_from(
            self.config.memory, self.loop.call_soon, self.embedding_provider
        )
        self.desk = Desk(
            Office(
                tally=self.tally,
                directory=self.directory,
                feed=self.feed,
                readers=[reader.actor_ref for reader in self.readers],
                head=lambda: self.writer.head,
                monotonic=self.clock.monotonic,
                hello=self.hello,
                health=self.health,
                stats=self.stats,
                house=self.house,
                plan=plan,
                chore=self.writer.chore,
                submit_all=self.writer.submit_all,
                remembering=self.remembering,
                scheduling=self.config.cron.enabled,
                requests_max=self.config.door.requests_max,
                peer_requests_max=self.config.door.peer_requests_max,
            )
        )
        self.loop.after_round(self.writer.look)
        self.loop.after_round(self.desk.pump)
        self.checkpoints = Checkpoints(
            self._open_checkpointer, self._checkpointed, lambda: plan.checkpoints
        )
        self.desk.counter.urge_checkpoint = self.checkpoints.urge
        self.desk.counter.room = self.room
        self.cooling = Cooling(self.desk.counter)
        self.door: Any = None
        self.metrics: Any = None
        self.keys: Any = None
        self.endpoint: str | None = None
        self.replaced = ""
        self.away_stamp = (0, 0)
        self.unread, self.unread_at = "", 0.0

    def _anchor(self, anchored: Head | None) -> None:
        head = self.writer.head
        if anchored is None and head.seq:
            log.warning(
                "there is no anchor %s: it is made from the head %s", self.anchor_path, head.seq
            )
        self.abandoned, self.had_no_anchor = False, anchored is None
        self.anchor = anchor.Anchor(self.anchor_path)
        self.anchors = Anchors(self.anchor.write, anchored, head)

    def start(self) -> None:
        self.begin()
        self.anchors.start()
        self.remembering.start()
        self.writer.start_threads()
        self.pool.start()
        self.loop.start()
        self.checkpoints.start()

    def begin(self) -> None:
        """What is to be done first waits for the loop's first round."""
        self.lock.wal_still_ours()  # which it is, is known from now on
        self.loop.call_later(OWNER_LOOK_S, self._look_after_file)
        if self.crashed:
            for call in self.desk.counter.after_crash:
                self.loop.call_soon(call)

    def serve(self, endpoint: str, keys: str) -> str:
        from palyra_actors.actors.authenticator import Admit, Lock
        from palyra_actors.actors.door import Door
        from palyra_actors.actors.keywatch import KeyWatch

        if self.door is not None:
            raise OpenRefused("this engine has a door already", hint="open one engine a door")
        folder = KeyFolder(keys) if keys else None
        seen, lock = None, None
        if folder is not None:
            server, seen = folder.server(), folder.look()
            lock = Lock(server, folder.load(), lambda: self.keys is not None and self.keys.fresh)
        door = Door(
            self.loop,
            self.desk,
            self.feed,
            peers_max=self.config.door.peers_max,
            peer_reply_bytes_max=self.config.door.peer_reply_bytes_max,
            must_cut=self.config.door.must_cut,
        )
        if folder is None or lock is None:
            self.endpoint = door.open(endpoint)
        else:

            def admit(allowed: Allowed) -> None:
                self.loop.call_soon(lambda: door.admit(Admit(allowed)))

            self.keys = KeyWatch(folder, seen, lock.allowed, admit)
            self.endpoint = door.open_locked(endpoint, lock, self.house.restarts)
            self.keys.start()
        self.door = door

        def attach() -> None:
            self.loop.attach(door)
            self.loop.after_round(door.flush)
            self.writer.settling.answered = door.flush

        self.loop.call_soon(attach)
        return self.endpoint

    def serve_metrics(self, listen: str | None, beyond_loopback: bool) -> str:
        from palyra_actors.metrics import MetricsServer

        if self.metrics is not None:
            raise OpenRefused("this engine serves metrics already")
        config = self.config.metrics
        self.metrics = MetricsServer(
            lambda: self.ask_statistics(STATISTICS_WAIT_S_MAX),
            listen or config.listen,
            beyond_loopback=beyond_loopback or config.beyond_loopback,
        )
        return str(self.metrics.start())

    def stop(self, wait_s_max: float) -> bool:
        """Refuse what is new, answer what is under way, then close from the top down."""
        deadline = time.monotonic() + wait_s_max
        if self.metrics is not None:
            self.metrics.stop(wait_s_max)
        quiet = threading.Event()
        self.wind_down(quiet.set)
        quiet.wait(max(0.0, deadline - time.monotonic()))
        return self.shut(max(0.1, deadline - time.monotonic()))

    def wind_down(self, quiet: Callable[[], None]) -> None:
        """Refuse what is new; `quiet` is called, on the loop, once all else is answered."""

        def look() -> None:
            self.desk.stop()
            self.feed.end_all(stopping())
            if self.tally.under_way == 0 and not self.writer.busy:
                quiet()
            else:
                self.loop.call_later(0.005, look)

        self.loop.call_soon(look)

    def shut(self, left: float) -> bool:
        """End the threads and close the file. False: it took more than `left` seconds."""
        looped = stopped = self.loop.stop(left)
        stopped &= self.pool.stop(left)
        self.remembering.stop(left)  # one that still waits for an endpoint holds nothing of ours
        stopped &= self.checkpoints.stop(left)
        if self.keys is not None:
            stopped &= self.keys.stop(left)
        if stopped:
            for reader in self.readers:
                reader.close()
            for actor in (self.latency, self.writer, *self.readers):
                actor.unlist()
            self.reading.close()
            stopped = self.writer.close(left)  # the last one: it empties the WAL and removes it
        if not stopped:
            self.writer.give_up()
        if self.anchors.stop(left):
            self.anchor.close()
        else:
            stopped = False
        if self.door is not None:
            if looped:
                self.door.flush()
            self.door.close()
        if self.abandoned and stopped and self.lock.made and not self.writer.head.seq:
            if self.had_no_anchor:
                with contextlib.suppress(OSError):
                    os.unlink(self.anchor_path)
            self.lock.forsake()
        if stopped:
            self.lock.release()
        return stopped

    # -- what the desk shows ----------------------------------------------------------------------

    def hello(self, request: Request) -> Mapping[str, Any]:
        return {
            "engine": "palyra_actors",
            "version": palyra_actors.__version__,
            "protocol": limits.PROTOCOL_VERSION,
            "principal": request.principal,
            "role": request.role,
            "limits": {
                "frame_bytes": limits.FRAME_BYTES_MAX,
                "payload_bytes": limits.PAYLOAD_BYTES_MAX,
                "append_events": limits.APPEND_EVENTS_MAX,
                "read_events": limits.READ_LIMIT_MAX,
                "recent_events": limits.RECENT_LIMIT_MAX,
                "credit": limits.SUBSCRIBE_CREDIT_MAX,
                "depth": limits.VALUE_DEPTH_MAX,
                "budget_ms": self.config.budget.write_ms,
            },
            "head": head_view(self.writer.head),
        }

    def health(self) -> Mapping[str, Any]:
        failing, degraded = [], []
        writer = self.writer.statistics()
        if writer.failing is not None:
            failing.append(writer.failing)
        if self.replaced and self.replaced != writer.failing:
            failing.append(self.replaced)
        if self.unread and self.clock.monotonic() - self.unread_at < UNREAD_S:
            failing.append(f"the database cannot be read: {self.unread}; see palyra-actors doctor")
        if self.door is not None and self.door.shut is not None:
            failing.append(f"the door is shut: {self.door.shut}")
        if self.door is not None and self.door.key_problems:
            degraded.append(f"{self.door.key_problems} key files let nobody in: see the log")
        if self.door is not None and self.door.blind is not None:
            degraded.append(f"connections cannot be cut: {self.door.blind}")
        trouble = self.controller.plan.trouble(self.clock.monotonic())
        if trouble is not None:
            degraded.append(trouble)
        if self.house.given_up:
            degraded.append(f"{self.house.given_up} entities failed too often and are left alone")
        if self.checkpoints.failure is not None:
            degraded.append(f"checkpoints fail: {self.checkpoints.failure}")
        if self.checkpoints.over_limit:
            degraded.append("the WAL is over its cap: a reader holds an old snapshot")
        if self.anchors.failure is not None:
            degraded.append(f"the anchor cannot be written: {self.anchors.failure}")
        if (embedding := self.remembering.trouble()) is not None:
            degraded.append(embedding)
        if not self.config.storage.durable:
            degraded.append(f"synchronous={self.config.storage.synchronous} is not durable")
        status = "failing" if failing else "degraded" if degraded else "ready"
        return {"status": status, "reasons": failing + degraded}

    def stats(self, request: Request) -> Mapping[str, Any]:
        busiest = self.feed.busiest(BUSIEST_SESSIONS) if request.admin else ()
        return stats_view(self.statistics(), busiest)

    def statistics(self) -> EngineStatistics:
        """On the loop's thread."""
        lobby = self.desk.admission
        return EngineStatistics(
            uptime_s=self.clock.monotonic() - self.started,
            budget_ms=self.config.budget.write_ms,
            requests=self.tally.statistics(),
            writer=self.writer.statistics(),
            latency=self.latency.statistics(),
            steering=self.controller.statistics(),
            lobby=LobbyStatistics(lobby.load, lobby.waiting),
            actors=ActorStatistics(
                resident=len(self.directory),
                resident_max=self.config.actors.resident_max,
                activated=self.house.activated,
                passivated=self.directory.passivated,
                restarted=self.house.restarted,
                given_up=self.house.given_up,
            ),
            door=DoorStatistics() if self.door is None else self.door.statistics(),
            duties=self.desk.counter.rota.statistics(),
            jobs=self.desk.counter.jobs(),
            subscriptions=len(self.feed),
            recent_events=self.feed.window_events,
            db_bytes=self._size(self.file),
            wal_bytes=wal_bytes(self.file),
            wal_bytes_max=self.config.storage.wal_bytes_max,
            head=self.writer.head,
            anchored_seq=self.anchors.anchored.seq if self.anchors.anchored else 0,
            status=self.health()["status"],
        )

    def ask_statistics(self, wait_s_max: float) -> EngineStatistics:
        """From any thread. Raises StorageUnavailable: the loop did not answer in time."""
        answer: queue.SimpleQueue[EngineStatistics] = queue.SimpleQueue()
        self.loop.call_soon(lambda: answer.put(self.statistics()))
        try:
            return answer.get(timeout=wait_s_max)
        except queue.Empty:
            raise StorageUnavailable(
                f"the engine's loop did not answer within {wait_s_max:.0f} s",
                detail={"outcome": "none"},
            ) from None

    # -- small parts ------------------------------------------------------------------------------

    def _published(self, group: Group) -> None:
        try:
            self.feed.publish(group)
        except BaseException:
            self.feed.missed(group.after)
            raise
        finally:
            self.anchors.note(group.after)
            self.cooling.moved(len(group.tails))

    def _in_company(self) -> bool:
        """Whether clients write, so that upkeep leaves them time. An engine that stops ends it."""
        desk = self.desk
        return not desk.stopping and desk.admission.in_company(self.clock.monotonic())

    def _measured(self, measured: Measured | Judged) -> None:
        self.latency.hand(measured)

    def _next_stream(self) -> int:
        self.next_stream += 1
        return self.next_stream

    def _connect_reader(self) -> JournalReader:
        return JournalReader(
            open_reader(self.file, cache_bytes=READER_CACHE_BYTES, vfs=self.vfs),
            page_seconds_max=self.config.storage.read_seconds_max,
            monotonic=self.clock.monotonic,
        )

    def _read_failed(self, why: str) -> None:
        self.unread, self.unread_at = why, self.clock.monotonic()

    def _open_checkpointer(self) -> Checkpointer:
        storage = self.config.storage
        return Checkpointer(
            open_checkpointer(self.file, synchronous=storage.synchronous, vfs=self.vfs),
            self.file,
            checkpoint_bytes=storage.checkpoint_bytes,
            wal_bytes_max=storage.wal_bytes_max,
            monotonic=self.clock.monotonic,
            finish_bytes=max(storage.checkpoint_bytes, int(WAL_FULL * storage.wal_keep_bytes)),
            sync=self.lock.sync,
        )

    def _checkpointed(self, wants_tidy: bool, over_limit: bool) -> None:
        if wants_tidy:
            self.writer.tidy()
        self.writer.over_limit = over_limit

    def _look_after_file(self) -> None:
        """A file that was replaced under us takes no more writes: they would be lost with it. Once
        that very file has its name again, and nobody has changed it meanwhile, it takes them."""
        self.loop.call_later(OWNER_LOOK_S, self._look_after_file)
        if self.replaced:
            if self.replaced == FILE_REPLACED and self._is_back():
                self.replaced = ""
            return
        if not self.lock.still_ours():
            self.replaced = FILE_REPLACED
        elif not self.lock.wal_still_ours():
            self.replaced = WAL_REPLACED
        if self.replaced:
            self.away_stamp = self.lock.stamp()
            self.writer.refuse(self.replaced)
            log.error("writing stops: %s", self.replaced)

    def _is_back(self) -> bool:
        ours = self.lock.still_ours() and self.lock.wal_still_ours()
        if not ours or self.lock.stamp() != self.away_stamp:
            return False
        try:
            back = self.writer.resume()
        except Exception as error:  # noqa: BLE001 - whatever it is, it stays as it was
            log.warning("the database is back, and cannot be opened: %s", error)
            return False
        if back:
            log.warning("the database is back as it was: writing goes on")
        return back

    @staticmethod
    def _size(file: str) -> int:
        try:
            return os.stat(file).st_size
        except OSError:
            return 0


def provider_from(config: MemoryConfig) -> MemoryEmbeddingProvider:
    """The provider that the configuration names. Raises ConfigInvalid: it cannot be had."""
    match config.provider:
        case "hash":
            return HashMemoryEmbeddingProvider(config.dimensions)
        case "http":
            from palyra_actors.embedding.remote import HttpEmbeddingProvider

            return HttpEmbeddingProvider(
                url=config.url,
                name=config.model,
                dimensions=config.dimensions,
                key_env=config.key_env,
                timeout_s=config.timeout_seconds,
                texts_max=config.batch_texts,
            )
        case "local":
            from palyra_actors.embedding.local import LocalEmbeddingProvider

            return LocalEmbeddingProvider(config.model)
        case _:
            assert_never(config.provider)


def remembering_from(
    config: MemoryConfig,
    call_soon: Callable[[Callable[[], None]], None],
    provider: MemoryEmbeddingProvider | None,
) -> Remembering:
    """What the memory clerk works with. Raises ConfigInvalid: there is no such provider here."""
    provider = provider or provider_from(config)
    return Remembering(
        provider=provider,
        shelves=Shelves(provider, config.resident_bytes_max, approximate=config.approximate),
        weights=Weights(
            config.lexical_weight,
            config.vector_weight,
            config.recency_weight,
            config.half_life_days,
        ),
        retention=Retention(**msgspec.structs.asdict(config.retention)),
        embedder=Embedder("palyra-embedder", provider, call_soon),
        queries=None if provider.near else _queries(provider, call_soon),
        maintenance_ms=int(config.maintenance_seconds * 1000),
        backfill_ms=int(config.backfill_seconds * 1000),
        patience_s=min(config.timeout_seconds, PATIENCE_S_MAX),
    )


def _queries(
    provider: MemoryEmbeddingProvider, call_soon: Callable[[Callable[[], None]], None]
) -> Embedder:
    return Embedder("palyra-queries", provider, call_soon, QUERIES_MAX)


class Engine(Operations):
    """One open database. Any thread; a context manager that closes at its end.

    Made by `open`. All operations of `Operations` work on it directly; `serve` opens a door for
    clients besides.
    """

    def __init__(self, works: Works) -> None:
        super().__init__(str(works.path))
        self._works = works
        self._closed = False
        peer = _LocalPeer(self._calls.deliver)
        self._calls.attach(_LocalConnection(works, peer), up=True)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        config: Config | None = None,
        *,
        clock: Clock | None = None,
        vfs: str | None = None,
        embedding_provider: MemoryEmbeddingProvider | None = None,
    ) -> Self:
        """Open a database, making it if there is none.

        Args:
            path: the file; default: `config.engine.db`.
            config: default: `Config()`.
            clock, vfs: other clocks and another apsw VFS, for tests.
            embedding_provider: one of your own, in place of what the configuration names.

        Raises:
            OpenRefused: another engine has it, or it is not ours to open; it was not touched.
            StorageUnavailable: the disk failed; it may pass.
        """
        config = Config() if config is None else config
        works = Works(
            Path(config.engine.db if path is None else path),
            config,
            clock or SystemClock(),
            vfs,
            embedding_provider=embedding_provider,
        )
        works.start()
        return cls(works)

    def serve(self, endpoint: str | None = None, *, keys: str | Path | None = None) -> str:
        """Open the front door; the endpoint with its real port (`tcp://127.0.0.1:0` takes any).

        Args:
            keys: the folder of key files. Who has a key to it may come in, from anywhere; without
                one the door is for this machine only. Default: `config.door.keys`.

        Raises:
            ConfigInvalid: it cannot be bound, would let strangers in, or cannot be locked.
        """
        door = self._works.config.door
        return self._works.serve(
            endpoint or door.endpoint, str(door.keys if keys is None else keys)
        )

    def reload_keys(self) -> None:
        """Read the key files now; they are looked at four times a second anyway."""
        if self._works.keys is not None:
            self._works.keys.look_now()

    def serve_metrics(self, listen: str | None = None, *, beyond_loopback: bool = False) -> str:
        """Open the endpoint for Prometheus; its URL. `listen`: HOST:PORT, default: the config's.

        Raises:
            ConfigInvalid: it cannot be bound, or others than this machine could reach it and
                `beyond_loopback` does not say that they may.
        """
        return self._works.serve_metrics(listen, beyond_loopback)

    def statistics(self) -> EngineStatistics:
        """What `engine.stats` and the metrics are made of."""
        return self._works.ask_statistics(STATISTICS_WAIT_S_MAX)

    def backup(self, path: str | os.PathLike[str]) -> BackedUp:
        """Copy the database while it is at work, and prove the copy: its pages, its chain, its
        head. It holds all that was acknowledged before the call; an older copy of the same journal
        at that path is brought up to date by the pages that differ. In the caller's thread, which
        takes turns with all other upkeep while clients write; in a busy engine `palyra-actors
        backup`, a process of its own, disturbs them less.

        Raises:
            OpenRefused: the path is something else, or the copy is not sound; what was there stays.
            StorageUnavailable: the disk failed, or the WAL grew too much meanwhile.
        """
        works = self._works
        try:
            return back_up(works.file, path, vfs=works.vfs, rest=works.room.rest)
        finally:
            works.loop.call_soon(lambda: works.room.took(0.0))

    @property
    def path(self) -> Path:
        return self._works.path

    def abandon(self, wait_s_max: float = STOP_S_MAX) -> None:
        """Close, and take the database away again that `open` has made, if nothing was written: for
        whoever could not open a door, and has no use for it without one."""
        self._works.abandoned = True
        self.close(wait_s_max)

    def close(self, wait_s_max: float = STOP_S_MAX) -> None:
        """Refuse new requests, answer what is under way, close the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.cron.close()
        self._works.stop(wait_s_max)
        super().close()
