"""The front door: a ZeroMQ ROUTER in the loop's thread.

    frames ──▶ peers ──▶ desk          replies ──▶ outbox ──▶ socket
       └─ no room: the porter refuses                 └─ pipe full ──▶ backlog ──over its cap──▶ cut

Nothing is dropped in silence. The socket is MANDATORY, so that a reply that does not fit a peer's
pipe comes back; it waits in the peer's backlog, and a peer whose backlog outgrows its cap is cut:
its connection is shut down and what it was owed is forgotten. Other peers never notice.

With keys the door is locked: see `authenticator`. Whoever has one is who the key says, frame by
frame, and may not choose a routing id: replies find their way by it, and one that another can take
over would be the way to somebody else's.
"""

import fcntl
import logging
import os
import socket as sockets
import sys
import termios
from collections import OrderedDict, deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import count, islice
from math import inf
from typing import Any, Final

import zmq

from palyra_actors.actors import descriptors, probe, router
from palyra_actors.actors.authenticator import (
    BEGIN,
    KNOCK,
    PROVE_MS_MAX,
    Authenticator,
    AuthenticatorStatistics,
    Lock,
)
from palyra_actors.actors.crowd import RESERVE, Crowd
from palyra_actors.actors.desk import Desk
from palyra_actors.actors.doorpeer import DoorPeer
from palyra_actors.actors.endpoint import host_of, refuse_path, refuse_strangers
from palyra_actors.actors.feed import Feed
from palyra_actors.actors.guard import RECEIVE_BUFFER_BYTES, Guard, Reading, received_bytes
from palyra_actors.actors.statistics import DoorStatistics
from palyra_actors.actors.steering import RETRY_MS_MAX
from palyra_actors.clock import SystemClock
from palyra_actors.errors import ConfigInvalid, Denied, Malformed, Overloaded
from palyra_actors.limits import SOCKET_FRAME_BYTES_MAX
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.runtime.gathering import Gathering, threads_named
from palyra_actors.runtime.supervisor import RestartPolicy
from palyra_actors.runtime.wakeup import Wakeup
from palyra_actors.wire import codec

log = logging.getLogger(__name__)

ROUND_BYTES_MAX: Final = 1024 * 1024
"""Received in one round, and as many frames as the desk wants: about two milliseconds. What is more
than can be served waits in the lobby, where it is seen, as far as it can be refused in time."""

ROUND_FRAMES: Final = 256
"""Looked for in one round beyond what the porter has taken in."""

REFUSED_BYTES_MAX: Final = 128 * 1024
"""Of an append that is refused unseen. What is larger may be no append at all, and until the loop
has looked at it there would be no room for anybody else."""

PRESSED_FRAMES: Final = 32
PRESSED_S: Final = 0.05
"""For how long the porter is called after a round of so many frames, or a refusal."""

RECEIVE_FRAMES: Final = 64  # per peer, in libzmq; beyond it the peer waits
SEND_FRAMES: Final = 512  # per peer, in libzmq; beyond it replies go to the backlog
LARGE_BYTES: Final = 32 * 1024
"""libzmq counts a peer's frames and not their bytes. A reply of this size is given to it only when
the peer has taken all that was sent before, so that a peer that does not read holds at most
`SEND_FRAMES` small replies and one large one in libzmq; the rest is in its backlog, by bytes."""

BACKLOG_RETRY_S: Final = 0.005
PEER_RETRY_MS: Final = 250
IDLE_PEERS_LOOKED_AT: Final = 64
SWEEP_S: Final = 1.0
SWEEP_PEERS_MAX: Final = 256  # 0.3 milliseconds of the loop
LINGER_MS: Final = 1_000
STUCK_S_MAX: Final = 30.0
"""A peer that takes nothing of its backlog for so long is cut, however little it is."""

PROVE_POLL_MS: Final = 20
PLAIN_FRAME_BYTES: Final = 2
LOCKED_FRAME_BYTES: Final = 35
SMALL_FRAME_BYTES: Final = 223
"""What is around a frame on the wire: seven bytes more where it is not small."""

OWN_DESCRIPTORS: Final = 256
TRIAL_EVERY_S: Final = 10.0
"""How often it is tried again whether connections can be cut, at most."""

GUARD_TRIES_MAX: Final = 10
GUARD_STOP_S: Final = 1.0
MADE_IDENTITY_BYTES: Final = 5
"""A routing id that libzmq made: a zero byte and a number."""

KEEPALIVE_IDLE_S: Final = 10
KEEPALIVE_EVERY_S: Final = 5
KEEPALIVE_TRIES: Final = 3
"""The kernel notices within half a minute that a peer is unplugged."""


_numbers = count(7001)
"""Of doors in this process. Libzmq puts a number before its threads' names: one that nobody else is
likely to have chosen."""


class Door:
    """A source of the loop. `open` binds; everything else runs in the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        desk: Desk,
        feed: Feed,
        *,
        peers_max: int,
        peer_reply_bytes_max: int,
        must_cut: bool = True,
    ) -> None:
        self._loop = loop
        self._desk = desk
        self._feed = feed
        self._peers_max = peers_max
        self._peer_reply_bytes_max = peer_reply_bytes_max
        self._must_cut = must_cut
        self._blind: str | None = None
        self._tried_at = -inf
        self._context = zmq.Context(io_threads=1)
        number = next(_numbers)
        self._context.set(zmq.THREAD_NAME_PREFIX, number)
        self._threads = f"{number}/"  # which their names begin with: libzmq's, and the porter's
        self._gathering = Gathering(lambda: threads_named(self._threads))
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        self._polled: Wakeup | None = None
        self._listens = False
        self._gate: Authenticator | None = None
        self._guard: Guard | None = None
        self._crowd: Crowd | None = None
        self._frame_bytes = PLAIN_FRAME_BYTES
        self._emptied = self._taken_bytes = 0
        self._waiting = False
        self._peers: OrderedDict[tuple[bytes, bool], DoorPeer] = OrderedDict()
        self._outbox: deque[tuple[DoorPeer, bytes]] = deque()
        self._behind: dict[DoorPeer, None] = {}
        self._retrying = self._sweeping = False
        self._round = 0
        self._received = self._sent = self._cut = self._gone = 0
        self._accepting = True
        self._empty_at = loop.clock.monotonic()
        self._porter: router.Porter | None = None
        self._pressed_at = -inf
        self._idle = self._called = False
        self._doze = zmq.Poller()  # instead, while the porter looks at the socket
        self._ipc_path: str | None = None

    # -- before the loop knows it, and after ------------------------------------------------------

    def open(self, endpoint: str) -> str:
        """Bind without keys; the endpoint with its real port.

        Raises:
            ConfigInvalid: it is no endpoint, is taken, or would let strangers in.
        """
        try:
            refuse_strangers(endpoint)
        except ConfigInvalid:
            self.close()
            raise
        self._set_options(locked=False)
        self._probe(locked=False)
        bound = self._bind(endpoint)
        try:
            refuse_strangers(bound)  # a name may stand for any address
        except ConfigInvalid:
            self.close()
            raise
        return bound

    def open_locked(self, endpoint: str, lock: Lock, restarts: RestartPolicy) -> str:
        """Bind for those who have a key, once it is proven that nobody else comes in; the endpoint
        with its real port.

        Raises:
            ConfigInvalid: it is no endpoint, is taken, the lock does not hold, or no connection
                could be cut.
        """
        try:
            host = host_of(endpoint)
        except ConfigInvalid:
            self.close()
            raise
        self._set_options(locked=True)
        self._probe(locked=True)
        self._frame_bytes = LOCKED_FRAME_BYTES
        self._socket.setsockopt(zmq.IPV6, int(host is not None and ":" in host))
        self._gate = gate = Authenticator.launch(
            self._loop,
            self._socket,
            self._poller,
            lock,
            restarts=restarts,
            changed=self._look_at_keys,
        )
        gate.hand(BEGIN)
        clock = self._loop.clock
        deadline = clock.monotonic() + PROVE_MS_MAX / 1000
        while not gate.open:
            if gate.failure is not None or clock.monotonic() > deadline:
                self.close()
                raise ConfigInvalid(
                    f"the door cannot be locked: {gate.failure or 'the trial took too long'}",
                    field="door.keys",
                    hint="it stays shut; the log has the details",
                )
            self._poller.poll(PROVE_POLL_MS)
            gate.hand(KNOCK)
        bound = self._bind(endpoint)
        gate.opening = False
        return bound

    def _probe(self, *, locked: bool) -> None:
        """See whether connections can be cut. A locked door stays shut where they cannot: whose key
        is taken back would keep theirs."""
        try:
            found = probe.trouble(self._context, keys=locked)
        except zmq.ZMQError as error:
            found = f"the trial failed: {error}"
        if found is None:
            return
        if locked and self._must_cut:
            self.close()
            raise ConfigInvalid(
                f"no connection could be cut when its key is taken back: {found}",
                field="door.must_cut",
                hint=f"{probe.HINT}; or set door.must_cut to false",
            )
        self._lose_sight(found)

    def _try_again(self) -> None:
        """What was told of a connection is no socket: it has gone and its number is a file's by
        now, or a library was loaded since that breaks them all."""
        now = self._loop.clock.monotonic()
        if self._blind is not None or now < self._tried_at + TRIAL_EVERY_S:
            return
        self._tried_at = now
        found = probe.trouble(self._context, keys=self._gate is not None)
        if found is not None:
            self._lose_sight(found)

    def _lose_sight(self, why: str) -> None:
        if self._blind is None:
            self._blind = why
            log.warning("connections cannot be cut: %s. What to do: %s", why, probe.HINT)

    def _set_options(self, *, locked: bool) -> None:
        options = {
            zmq.ROUTER_MANDATORY: 1,
            zmq.RCVHWM: RECEIVE_FRAMES,
            zmq.SNDHWM: SEND_FRAMES,
            zmq.MAXMSGSIZE: SOCKET_FRAME_BYTES_MAX,
            zmq.RCVBUF: RECEIVE_BUFFER_BYTES,
            zmq.LINGER: LINGER_MS,
            # No heartbeats: libzmq 4.3.5 ends the process (`!_io_error`) where one is due
            # on a connection that it had stopped reading and whose peer has closed it.
            zmq.TCP_KEEPALIVE: 1,
            zmq.TCP_KEEPALIVE_IDLE: KEEPALIVE_IDLE_S,
            zmq.TCP_KEEPALIVE_INTVL: KEEPALIVE_EVERY_S,
            zmq.TCP_KEEPALIVE_CNT: KEEPALIVE_TRIES,
            # A client that chose its routing id and comes again before its old connection is known
            # to be gone would otherwise be heard by nobody. Behind a locked door an id that was
            # taken over would bring another one's replies along: there a chosen one is refused.
            zmq.ROUTER_HANDOVER: int(not locked),
        }
        for option, value in options.items():
            self._socket.setsockopt(option, value)

    def _bind(self, endpoint: str) -> str:
        try:
            refuse_path(endpoint)
            self._socket.bind(endpoint)
        except ConfigInvalid:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            raise ConfigInvalid(
                f"cannot bind {endpoint}: {error.strerror}",
                field="door.endpoint",
                hint="is another engine there? Choose another port or path",
            ) from error
        bound = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        if endpoint.startswith("ipc://"):
            self._ipc_path = endpoint.removeprefix("ipc://")
            if not self._ipc_path.startswith("@"):
                os.chmod(self._ipc_path, 0o600)
        name = bound.rstrip(b"\0").decode()
        if name.startswith("tcp://"):
            self._guard = Guard(
                int(name.rpartition(":")[2]),
                lambda: Reading(self._emptied, self._waiting, self._taken_bytes),
                self._by_connection,
                connections_max=self._room(),
            )
            self._guard.start()
        elif self._ipc_path is not None:
            self._crowd = Crowd(self._ipc_path, self._by_connection, descriptors_max=self._room())
            self._crowd.start()
        own_time = isinstance(self._loop.clock, SystemClock)  # which the porter stamps frames by
        if self._gate is None and router.compiled is not None and own_time:
            self._porter = router.Porter(
                self._socket,
                append_bytes_max=REFUSED_BYTES_MAX,
                head=codec.REPLY_HEAD,
                middle=codec.OVERLOADED,
                wait_s_max=RETRY_MS_MAX / 1000,
                name=f"{self._threads}porter",
            )
        return name

    def _room(self) -> int:
        """Descriptors that connections may take: what the process may have, less what the engine
        needs for itself."""
        most = descriptors.most()
        spare = min(most // 2, OWN_DESCRIPTORS if self._ipc_path is None else RESERVE)
        return min(max(OWN_DESCRIPTORS, 2 * self._peers_max), most - spare)

    def _by_connection(self) -> Mapping[int, DoorPeer]:
        """The peers by the inode of their connection. The guard's thread."""
        for _ in range(GUARD_TRIES_MAX):
            with suppress(RuntimeError):  # one came or went meanwhile
                return {
                    peer.connection[1]: peer
                    for peer in self._peers.values()
                    if peer.connection is not None
                }
        return {}

    def close(self) -> None:
        """After the loop let go of it. Frames that are queued get a second to leave."""
        if self._guard is not None:
            self._guard.stop(GUARD_STOP_S)
        if self._crowd is not None:
            self._crowd.stop(GUARD_STOP_S)
        if self._gate is not None:
            self._gate.close()
        if self._porter is not None:
            self._porter.close()
        self._socket.close()
        self._context.term()
        if self._ipc_path is not None and not self._ipc_path.startswith("@"):
            with suppress(OSError):
                os.unlink(self._ipc_path)

    def statistics(self) -> DoorStatistics:
        backlog_bytes = sum(peer.backlog_bytes for peer in self._behind)
        cut = self._cut + sum(one.cut for one in (self._guard, self._crowd) if one is not None)
        return DoorStatistics(
            len(self._peers), self._received, self._sent, cut, self._gone, backlog_bytes
        )

    @property
    def shut(self) -> str | None:
        """Why a locked door lets nobody in at the moment; None: it does."""
        return None if self._gate is None else self._gate.shut_because

    @property
    def blind(self) -> str | None:
        """Why connections cannot be cut; None: they can."""
        return self._blind

    @property
    def key_problems(self) -> int:
        """Key files that let nobody in."""
        return 0 if self._gate is None else len(self._gate.problems)

    def handshakes(self) -> AuthenticatorStatistics | None:
        """Counts of a locked door."""
        return None if self._gate is None else self._gate.statistics()

    def admit(self, message: Any) -> None:
        """Who may come in from now on: an `Admit`. The loop's thread."""
        if self._gate is not None:
            self._gate.hand(message)

    # -- the loop's source ------------------------------------------------------------------------

    def wait(self, wakeup: Wakeup, wait_ms_max: int) -> None:
        porter = self._porter
        if self._polled is not wakeup:
            self._polled = wakeup
            self._poller.register(wakeup.fileno(), zmq.POLLIN)
            if porter is not None:
                self._poller.register(porter.descriptor, zmq.POLLIN)
                self._doze.register(wakeup.fileno(), zmq.POLLIN)
                self._doze.register(porter.bell, zmq.POLLIN)
        if porter is not None:
            if not porter.rest():
                wait_ms_max = 0
        else:
            listens = self._gate is None or self._gate.open
            if listens is not self._listens:
                self._listens = listens
                if listens:
                    self._poller.register(self._socket, zmq.POLLIN)
                else:
                    self._poller.unregister(self._socket)
        self._waiting = True
        poller = self._doze if self._called else self._poller
        for ready, _ in poller.poll(wait_ms_max):
            if ready == wakeup.fileno():
                wakeup.clear()
        self._waiting = False
        self._empty_at = self._loop.clock.monotonic()  # what is there came while it was waited for
        if porter is not None:
            porter.wake(self._empty_at)

    def receive(self) -> None:
        """One round of frames.

        They count from the moment when nothing was left to be read before: a frame that has
        waited in libzmq while a round was busy has waited. Where a round left some behind, those
        of the next count from its beginning.
        """
        if self._porter is not None:
            self._collect(self._porter)
            return
        gate, desk = self._gate, self._desk
        if gate is not None:
            gate.hand(KNOCK)
            if not gate.open:
                return
        began = self._loop.clock.monotonic()
        arrived, self._empty_at = self._empty_at, began
        wanted = desk.frames_wanted
        came = router.receive(self._socket, wanted, ROUND_BYTES_MAX, keys=gate is not None)
        self._emptied += len(came) < wanted and sum(len(one[2]) for one in came) < ROUND_BYTES_MAX
        self._take_in([(one, arrived, False) for one in came])

    def _collect(self, porter: router.Porter) -> None:
        """What the porter has taken in, and whom it has refused: under overload this is what the
        engine does most."""
        found = porter.collect(ROUND_FRAMES)
        self._emptied += found.empty
        refused = sum(one.frames for one in found.refused)
        if refused:
            self._received += refused
            self._sent += refused - len(found.aside)
            self._desk.refused_early(refused, found.served_at)
            self._account_for(found.refused)
            for identity, delimited, frame in found.aside:
                peer = self._peers.get((identity, delimited))
                if peer is not None and not peer.cut:
                    self._put_aside(peer, frame)
        if pressed := refused or len(found.came) >= PRESSED_FRAMES:
            self._pressed_at = self._loop.clock.monotonic()
        if refused or self._gathering.together:
            self._gathering.note(refused, self._loop.clock.monotonic())
        if found.came:
            self._take_in(found.came)
        if pressed or self._called:
            self._tell_porter(porter)
        elif found.came:
            self._idle = False  # it does nothing before the round's end, when it is told

    def _account_for(self, refused: list[router.Refused]) -> None:
        around = self._frame_bytes
        for one in refused:
            who = (one.identity, one.delimited)
            try:
                peer = self._peers.get(who) or self._meet(*who, one.origin)
            except BaseException:  # the others are served
                log.exception("a connection could not be met")
                continue
            peer.taken.bytes += one.frame_bytes + one.frames * around + 7 * one.large
            self._taken_bytes += one.frame_bytes
            if one.status == router.GONE:
                self._gone += one.frames
                self._forget(peer)

    def _tell_porter(self, porter: router.Porter) -> None:
        """What may come in while the loop is busy. It is called when there was more than a little
        to do lately: waking it costs what a lone frame does."""
        idle = self._desk.admission.idle
        if idle and self._idle:
            return  # it knows
        self._idle = idle
        now = self._loop.clock.monotonic()
        self._called = called = now - self._pressed_at < PRESSED_S
        held = [
            (peer.identity, peer.delimited, load)
            for peer, load in self._desk.admission.held()
            if isinstance(peer, DoorPeer)
        ]
        porter.tell(router.Opening(*self._desk.opening(now), called, held))

    def _take_in(self, came: list[tuple[router.Arrival, float, bool]]) -> None:
        """Serve what has come, and answer what is no request."""
        peers, gate, around, taken = self._peers, self._gate, self._frame_bytes, 0
        arrivals: list[tuple[DoorPeer, bytes]] = []
        stamps: list[tuple[float, bool]] = []
        for (identity, delimited, frame, junk, origin), arrived, promised in came:
            try:
                peer = peers.get((identity, delimited)) or self._meet(identity, delimited, origin)
                if gate is not None and peer.key != router.key(origin):
                    self._forget(peer)  # that was another connection
                    peer = self._meet(identity, delimited, origin)
            except BaseException:  # the others of the round are served
                log.exception("a connection could not be met: its frame is dropped")
                continue
            size = len(frame)
            peer.taken.bytes += size + (around if size < SMALL_FRAME_BYTES else around + 7)
            taken += size
            if junk:
                self._take_all(peer)
                self._answer_junk(peer)
            elif not (peer.cut or peer.refused):
                arrivals.append((peer, frame))
                stamps.append((arrived, promised))
        self._taken_bytes += taken
        if arrivals:
            self._received += len(arrivals)
            self._desk.serve(arrivals, stamps)

    def _answer_junk(self, peer: DoorPeer) -> None:
        error = Malformed("a message is one frame", hint="send one MessagePack map in one frame")
        self._desk.refuse(peer, error)

    def _meet(self, identity: bytes, delimited: bool, origin: "int | zmq.Frame") -> DoorPeer:
        peer = DoorPeer(self, identity, delimited)
        with suppress(zmq.ZMQError, OSError, ValueError):
            descriptor = router.descriptor(origin)
            if probe.is_socket(descriptor):
                peer.connection = (descriptor, os.fstat(descriptor).st_ino)
                other = self._peers.get((identity, not delimited))
                if other is not None and other.connection == peer.connection:
                    peer.taken = other.taken  # one connection, which sends empty frames or not
                else:
                    self._take_all(peer)
            else:
                self._try_again()
        if self._gate is not None and not self._knows(self._gate, peer, origin):
            return peer
        if len(self._peers) < self._peers_max or self._forget_an_idle_one():
            self._peers[identity, delimited] = peer
            self._sweep_later()
        else:
            self._desk.refuse(
                peer,
                Overloaded(
                    f"{self._peers_max} connections are busy",
                    retry_after_ms=PEER_RETRY_MS,
                    detail={"limit": self._peers_max},
                ),
            )
            peer.refused = True
        return peer

    def _take_all(self, peer: DoorPeer) -> None:
        """Count all that its connection has received as read. What is not yet is counted twice."""
        if self._guard is not None and peer.connection is not None:
            with suppress(OSError), sockets.socket(fileno=os.dup(peer.connection[0])) as own:
                peer.taken.bytes = received_bytes(own)

    def _knows(self, gate: Authenticator, peer: DoorPeer, origin: "int | zmq.Frame") -> bool:
        """Who it is, by the key of its handshake. One that may not stay is cut."""
        peer.key = router.key(origin)
        who = gate.who(peer.key)
        if who is None:
            peer.refused = True
            self._shut(peer)
            return False
        peer.principal, peer.role = who.name, who.role
        if _chosen(peer.identity):
            refusal = Denied(
                "this connection chose its own routing id",
                hint="leave ZMQ_ROUTING_ID unset: replies find their way by it",
            )
            self._desk.refuse(peer, refusal)
            peer.refused = True
            return False
        return True

    def _look_at_keys(self) -> None:
        """Cut those whose key is gone, or stands for something else by now."""
        gate = self._gate
        for peer in list(self._peers.values()):
            who = None if gate is None else gate.who(peer.key)
            if who is None or (who.name, who.role) != (peer.principal, peer.role):
                self._cut_off(peer, f"the key of {peer.principal} was taken back or changed")

    def _forget_an_idle_one(self) -> bool:
        for _, peer in zip(range(IDLE_PEERS_LOOKED_AT), list(self._peers.values()), strict=False):
            if not (peer.under_way or peer.backlog):
                self._forget(peer)
                return True
            self._peers.move_to_end((peer.identity, peer.delimited))
        return False

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Forget those that have left, of whom libzmq says nothing, and their subscriptions."""
        self._sweeping = False
        for name, peer in list(islice(self._peers.items(), SWEEP_PEERS_MAX)):
            # what is left of a refused one is still dropped, and one with a routing id of its own
            # may be back over another connection
            needed = peer.under_way or peer.backlog or peer.refused or _chosen(peer.identity)
            if needed or peer.connection is None or descriptors.is_still(*peer.connection):
                self._peers.move_to_end(name)
            else:
                self._forget(peer)
        if self._peers:
            self._sweep_later()

    # -- replies ----------------------------------------------------------------------------------

    def queue(self, peer: DoorPeer, frame: bytes) -> None:
        """Queue a reply; it leaves at the end of the loop's round. Any thread."""
        self._outbox.append((peer, frame))
        self._loop.poke()

    def flush(self) -> None:
        """Send what is queued. The loop calls it at the end of each round."""
        outbox = self._outbox
        if not (outbox or self._behind):
            if self._porter is not None:
                self._tell_porter(self._porter)
            return
        self._round += 1
        if self._behind:
            self._catch_up()
        left = len(outbox)
        while left:
            left -= self._send_many(left)
            if left:  # the next one is no usual one, or was not taken
                left -= 1
                peer, frame = outbox.popleft()
                if not peer.cut and (peer.backlog or not self._send(peer, frame)):
                    self._put_aside(peer, frame)
        if self._porter is not None:
            self._tell_porter(self._porter)

    def _send_many(self, most: int) -> int:
        """Send replies from the head of the outbox, up to so many, as far as they are small and
        their peers not behind; how many were taken."""
        outbox = self._outbox
        taken: list[tuple[DoorPeer, bytes]] = []
        while len(taken) < most:
            peer, frame = outbox.popleft()
            if peer.cut or peer.backlog or len(frame) >= LARGE_BYTES:
                outbox.appendleft((peer, frame))
                break
            taken.append((peer, frame))
        if not taken:
            return 0
        sent = router.send(
            self._socket,
            [(peer.identity, peer.delimited, frame) for peer, frame in taken],
            self._porter,
        )
        outbox.extendleft(reversed(taken[sent:]))
        self._sent += sent
        return sent

    def _send(self, peer: DoorPeer, frame: bytes) -> bool:
        """False: the peer's pipe is full. A peer that is gone is forgotten."""
        door = self._socket
        if len(frame) >= LARGE_BYTES and not self._may_send_large(peer):
            return False
        try:
            router.send_plainly(door, peer.identity, peer.delimited, frame, self._porter)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                log.warning("a reply could not be sent: %s", error)
            self._gone += 1
            self._forget(peer)
            return True
        self._sent += 1
        return True

    def _put_aside(self, peer: DoorPeer, frame: bytes) -> None:
        peer.backlog.append(frame)
        peer.backlog_bytes += len(frame)
        if peer not in self._behind:
            self._behind[peer] = None
            peer.moved_at = self._loop.clock.monotonic()
        if peer.backlog_bytes > self._peer_reply_bytes_max:
            self._cut_off(peer)
        else:
            self._retry_later()

    def _may_send_large(self, peer: DoorPeer) -> bool:
        if peer.large_in_round == self._round:
            return False
        peer.large_in_round = self._round
        if peer.connection is None:
            return True
        unsent = bytearray(4)
        try:
            fcntl.ioctl(peer.connection[0], termios.TIOCOUTQ, unsent)
        except OSError:
            return True  # the connection is gone; sending says so
        return int.from_bytes(unsent, sys.byteorder) == 0

    def _retry(self) -> None:
        """Only makes sure that a round comes; `flush` does the work."""
        self._retrying = False
        if self._behind:
            self._retry_later()

    def _retry_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._loop.call_later(BACKLOG_RETRY_S, self._retry)

    def _catch_up(self) -> None:
        now = self._loop.clock.monotonic()
        for peer in list(self._behind):
            while peer.backlog and self._send(peer, peer.backlog[0]):
                if not peer.backlog:
                    break  # it is gone, and forgotten
                peer.backlog_bytes -= len(peer.backlog.popleft())
                peer.moved_at = now
            if not peer.backlog:
                self._behind.pop(peer, None)
            elif now - peer.moved_at > STUCK_S_MAX:
                self._cut_off(peer)

    def _cut_off(self, peer: DoorPeer, why: str = "a peer does not read its replies") -> None:
        """Forget what it is owed and shut its connection."""
        self._cut += 1
        log.warning("%s: it is cut off", why)
        peer.cut = True
        self._forget(peer)
        if not self._shut(peer):
            self._peers[peer.identity, peer.delimited] = peer  # whose frames are not served

    def _shut(self, peer: DoorPeer) -> bool:
        """Shut its connection. False: that cannot be told from others."""
        if peer.connection is None:
            return False
        descriptor, inode = peer.connection
        try:
            own = os.dup(descriptor)  # libzmq may close its own at any moment
            with sockets.socket(fileno=own) as connection:
                if os.fstat(own).st_ino == inode:
                    connection.shutdown(sockets.SHUT_RDWR)
        except OSError:
            pass  # it is closed already
        return True

    def _forget(self, peer: DoorPeer) -> None:
        peer.backlog.clear()
        peer.backlog_bytes = 0
        self._behind.pop(peer, None)
        self._feed.drop_peer(peer)
        self._desk.drop_peer(peer)
        if self._peers.get((peer.identity, peer.delimited)) is peer:
            del self._peers[peer.identity, peer.delimited]


def _chosen(identity: bytes) -> bool:
    """Whether a client chose this routing id, and not libzmq."""
    return len(identity) != MADE_IDENTITY_BYTES or identity[0] != 0
