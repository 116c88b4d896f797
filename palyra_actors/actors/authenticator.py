"""The lock on the front door: CURVE, and who holds a key to it.

    down ──begin──▶ proving ──the canaries came back right──▶ open
     ▲ back-off        └──failed, or too slow──┐                │
     └─────────────────────────────────────────┴──any failure───┘

libzmq asks for every handshake at `inproc://zeromq.zap.01` whether this key may come in; here it is
answered. The door is enforced (`ZAP_ENFORCE_DOMAIN`): where nobody answers, nobody comes in. That
nothing of this went wrong is not believed but tried, before the door opens and again after each
failure: two canaries ring at a bell of their own, and the one with an unknown key has to be
refused, the other one let in. Until then the door reads no frame and every other key is refused.

A peer's User-Id is its public key; principal and role are looked up under it, and a peer whose key
has gone or means something else by now is cut.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from palyra_actors.keys import Allowed, Pair, Principal
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop, Timer
from palyra_actors.runtime.supervisor import RestartPolicy, Restarts

log = logging.getLogger(__name__)

HANDLER: Final = "inproc://zeromq.zap.01"
DOMAIN: Final = "palyra"
HANDSHAKES_MAX: Final = 64  # answered in one round; the others wait for the next
HANDSHAKE_MS_MAX: Final = 5_000
"""For how long a handshake may stand half open."""

PROVE_MS_MAX: Final = 5_000
CANARY_EVENTS_MAX: Final = 64

_REFUSED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)
_WATCHED: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | sum(_REFUSED)

_NO_KEY: Final = [b"400", b"no key of this door", b""]
_NOT_NOW: Final = [b"300", b"not now", b""]
"""While the lock is tried, or nobody looks at the key files: libzmq hangs up without a word, and
the client rings again. The other one is told to the client, which believes it."""


@dataclass(frozen=True, slots=True)
class Lock:
    """What a locked door needs: the engine's own keys, who may come in to begin with, and whether
    somebody still looks if that has changed."""

    server: Pair
    allowed: Allowed
    fresh: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Begin:
    """Take the post, and prove that the door is shut to strangers."""


@dataclass(frozen=True, slots=True)
class Knock:
    """There may be handshakes to answer: one round of them."""


@dataclass(frozen=True, slots=True)
class Admit:
    """From now on these may come in, and nobody else."""

    allowed: Allowed


@dataclass(frozen=True, slots=True)
class AuthenticatorStatistics:
    """Counts since the start."""

    accepted: int
    refused: int
    failures: int


BEGIN: Final = Begin()
KNOCK: Final = Knock()


class Authenticator(PooledActor):
    """Guards one ROUTER. All of it on the loop's thread, or on its opener's before that."""

    listed = False

    def __init__(
        self,
        loop: Loop,
        router: "zmq.Socket[bytes]",
        poller: zmq.Poller,
        lock: Lock,
        *,
        restarts: RestartPolicy,
        changed: Callable[[], None],
    ) -> None:
        super().__init__(loop)
        self._loop = loop
        self._router = router
        self._poller = poller
        self._server = lock.server
        self._allowed = lock.allowed
        self._fresh = lock.fresh
        self._restarts = Restarts(restarts)
        self._window_s = restarts.window_s
        self._changed = changed
        self._handler: zmq.Socket[bytes] | None = None
        self._canaries: Canaries | None = None
        self._patience: Timer | None = None
        self._accepted = self._refused = self._failures = 0
        self.opening = True
        """Nothing is restarted yet: who opens the door hears of the failure instead."""
        self.failure: str | None = None
        """Why the door is shut, where it is."""
        for option, value in (
            (zmq.CURVE_SERVER, 1),
            (zmq.CURVE_SECRETKEY, lock.server.secret.encode()),
            (zmq.ZAP_DOMAIN, DOMAIN.encode()),
            (zmq.ZAP_ENFORCE_DOMAIN, 1),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS_MAX),
        ):
            router.setsockopt(option, value)

    # -- calls of the door, on its thread --------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether frames may be read: the lock is proven, and the list of keys is of now."""
        return self._handler is not None and self._canaries is None and self._fresh()

    @property
    def shut_because(self) -> str | None:
        """Why nobody comes in, where that is so."""
        if self.open:
            return None
        if self.failure is None and self._canaries is None:
            return "nobody looks at the key files any more"
        return self.failure or "the lock is being tried"

    @property
    def problems(self) -> tuple[str, ...]:
        """Key files that let nobody in, and why."""
        return self._allowed.problems

    def who(self, public: str | None) -> Principal | None:
        """Whom a peer's User-Id stands for now."""
        return None if public is None else self._allowed.principals.get(public)

    def close(self) -> None:
        """Let go of the sockets. Nobody comes in any more."""
        if self._patience is not None:
            self._patience.cancel()
        if self._canaries is not None:
            self._canaries.close(self._router, self._poller)
            self._canaries = None
        handler, self._handler = self._handler, None
        if handler is not None:
            with suppress(KeyError):
                self._poller.unregister(handler)
            handler.close(linger=0)

    def statistics(self) -> AuthenticatorStatistics:
        return AuthenticatorStatistics(self._accepted, self._refused, self._failures)

    # -- its life ---------------------------------------------------------------------------------

    def on_receive(self, message: Any) -> None:
        match message:
            case Knock():
                if self._handler is not None:
                    self._answer(self._handler)
                if self._canaries is not None:
                    self._hear(self._canaries)
            case Admit(allowed):
                self._admit(allowed)
            case Begin():
                self._begin()
            case _:
                raise AssertionError(f"no message of an authenticator: {message!r}")

    def on_stop(self) -> None:
        self.close()

    def on_failed(self, message: Any, error: BaseException) -> None:
        """Shut the door at once, and come back after a back-off."""
        del message
        self.close()
        self._failures += 1
        self.failure = f"the authenticator failed: {type(error).__name__}"
        if self.opening:
            return
        seconds = self._restarts.after_failure(self._loop.clock.monotonic())
        if seconds is None:
            seconds = self._window_s
        self._loop.call_later(seconds, lambda: self.hand(BEGIN))

    def _begin(self) -> None:
        self.close()
        context = self._router.context
        handler: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._handler = handler
        handler.linger = 0
        handler.bind(HANDLER)
        self._poller.register(handler, zmq.POLLIN)
        self._canaries = Canaries(context, self._router, self._poller, self._server.public)
        if not self.opening:
            self._patience = self._loop.call_later(PROVE_MS_MAX / 1000, self._too_slow)

    def _too_slow(self) -> None:
        if self._canaries is not None:
            self.on_failed(BEGIN, TimeoutError("the canaries did not come back"))

    def _hear(self, canaries: "Canaries") -> None:
        if canaries.proven():
            canaries.close(self._router, self._poller)
            self._canaries = None
            self.failure = None
            log.info("the door is locked: %d keys may open it", len(self._allowed.principals))

    def _answer(self, handler: "zmq.Socket[bytes]") -> None:
        for _ in range(HANDSHAKES_MAX):
            try:
                parts = handler.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            version, request_id, domain = parts[:3]
            key = z85.encode(parts[6]).decode() if self._is_ours(parts) else ""
            if key and self._may_enter(key):
                self._accepted += 1
                status = [b"200", b"OK", key.encode()]
            else:
                self._refused += 1
                known = key in self._allowed.principals
                status = _NOT_NOW if known else _NO_KEY
            del domain
            handler.send_multipart([version, request_id, *status, b""], zmq.DONTWAIT)

    def _is_ours(self, parts: list[bytes]) -> bool:
        return (
            len(parts) == 7
            and parts[0] == b"1.0"
            and parts[2] == DOMAIN.encode()
            and parts[5] == b"CURVE"
            and len(parts[6]) == 32
        )

    def _may_enter(self, key: str) -> bool:
        if self._canaries is not None:
            return key == self._canaries.known.public
        return key in self._allowed.principals and self._fresh()

    def _admit(self, allowed: Allowed) -> None:
        self._allowed = allowed
        for problem in allowed.problems:
            log.warning("a key file lets nobody in: %s", problem)
        log.info("the keys were read again: %d may come in", len(allowed.principals))
        self._changed()


class Canaries:
    """Two strangers at a bell of their own: one whose key is known, and one whose is not.

    The bell is an abstract socket of a random name that is there for the trial only. It is the
    ROUTER's own, with all options of the real one.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        router: "zmq.Socket[bytes]",
        poller: zmq.Poller,
        server: str,
    ) -> None:
        self.known = Pair.generate()
        self._let_in = self._sent_away = False
        self._bell = f"ipc://@palyra-canary-{os.urandom(12).hex()}"
        router.bind(self._bell)
        self._sockets: list[zmq.Socket[bytes]] = []
        self._monitors: dict[zmq.Socket[bytes], bool] = {}
        for pair, is_known in ((self.known, True), (Pair.generate(), False)):
            canary = context.socket(zmq.DEALER)
            canary.linger = 0
            canary.curve_serverkey = server.encode()
            canary.curve_publickey = pair.public.encode()
            canary.curve_secretkey = pair.secret.encode()
            canary.set(zmq.RECONNECT_IVL, -1)
            monitor = canary.get_monitor_socket(_WATCHED)
            self._sockets.append(canary)
            self._monitors[monitor] = is_known
            poller.register(monitor, zmq.POLLIN)
            canary.connect(self._bell)

    def proven(self) -> bool:
        """Whether both came back as they should.

        Raises:
            AssertionError: one of them did not.
        """
        for monitor, is_known in self._monitors.items():
            for _ in range(CANARY_EVENTS_MAX):
                if not monitor.poll(0):
                    break
                event = recv_monitor_message(monitor)["event"]
                if is_known and event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._let_in = True
                elif not is_known and event in _REFUSED:
                    self._sent_away = True
                else:
                    which = "a known key was refused" if is_known else "a stranger came in"
                    raise AssertionError(f"the lock does not hold: {which}")
        return self._let_in and self._sent_away

    def close(self, router: "zmq.Socket[bytes]", poller: zmq.Poller) -> None:
        for monitor in self._monitors:
            with suppress(KeyError):
                poller.unregister(monitor)
        for canary in self._sockets:
            canary.disable_monitor()
            canary.close(linger=0)
        for monitor in self._monitors:
            monitor.close(linger=0)
        with suppress(zmq.ZMQError):
            router.unbind(self._bell)
