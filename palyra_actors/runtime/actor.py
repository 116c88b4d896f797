"""The pykka actor that takes turns on shared threads.

    start ──▶ on_start ──▶ turn, turn, turn … ──▶ on_stop
                             └─ exception ──▶ on_failure, then the supervisor's decision

A failing `tell` (or anything that is no `Exception`: SystemExit, MemoryError) fails the actor; a
failing `ask` raises at its caller and the actor goes on, as in pykka. Unlike in pykka no failure
stops other actors, and the mailbox survives: what the actor could not handle is the supervisor's.
"""

import logging
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol, Self

import pykka
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from palyra_actors.runtime.mailbox import MESSAGES_MAX_DEFAULT, Mailbox

log = logging.getLogger(__name__)

Ref = pykka.ActorRef
Future = pykka.Future
ActorDead = pykka.ActorDeadError
AskTimeout = pykka.Timeout


class Dispatcher(Protocol):
    """Whoever gives turns: `dispatcher.Loop`, `dispatcher.Pool`, or a simulation's scheduler."""

    def hand_over(self, actor: Any, late: bool = False) -> None: ...


class PooledActor(pykka.Actor):
    """An actor without a thread of its own.

    Class attributes:
        late: its turns come after those of the others in a round (the writer's).
        listed: it stands in pykka's registry. The registry is a list and removing from it takes
            as long as it is, so entities, which come and go by thousands, are not listed.
    """

    late: ClassVar[bool] = False
    listed: ClassVar[bool] = True

    actor_inbox: Mailbox

    def __init__(self, dispatcher: Dispatcher, *, messages_max: int = MESSAGES_MAX_DEFAULT) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self.actor_inbox.messages_max = messages_max

    # -- pykka's extension points ---------------------------------------------------------------

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> "pykka.ActorRef[Any]":
        """Create the actor, call its `on_start` here, and give it to its dispatcher."""
        if cls.listed:
            return super().start(*args, **kwargs)
        return cls.launch(*args, **kwargs).actor_ref

    @classmethod
    def launch(cls, *args: Any, **kwargs: Any) -> Self:
        """`start`, but the actor itself: for the one that owns it and shares its thread.

        Whoever calls keeps it: pykka's references are weak.
        """
        actor = cls(*args, **kwargs)
        if cls.listed:
            pykka.ActorRegistry.register(actor.actor_ref)
        actor._start_actor_loop()
        return actor

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    @staticmethod
    def _create_future() -> "pykka.Future[Any]":
        return pykka.ThreadingFuture()

    def _start_actor_loop(self) -> None:
        dispatcher, late = self._dispatcher, self.late
        self.actor_inbox.hand_over = lambda: dispatcher.hand_over(self, late)
        self.on_start()
        self.actor_inbox.open_turns()

    def _stop(self) -> None:
        if self.listed:
            super()._stop()
            return
        self.actor_stopped.set()
        self.on_stop()

    def let_go(self) -> None:
        """Stop it at once, without a message. Only where nothing waits and it has no turn.

        The mailbox knows how to ask for the actor's turns, and so the actor. Without that it is
        gone with its last reference, and not whenever the collector looks next: entities come and
        go by thousands a second.
        """
        self.actor_stopped.set()
        self.actor_inbox.hand_over = None

    def unlist(self) -> None:
        """Take it out of pykka's registry, which is the process's and would keep it for ever."""
        if self.listed:
            pykka.ActorRegistry.unregister(self.actor_ref)

    def hand(self, message: Any) -> None:
        """`tell` from the thread that runs this actor's turns: if nothing waits before the
        message, its turn is now and not in the next round.

        Raises:
            MailboxFull: as `tell`; nothing was queued.
        """
        inbox = self.actor_inbox
        if not inbox.take_turn_if_free():
            self.actor_ref.tell(message)
            return
        try:
            self._handle_receive(message)
        except BaseException as error:  # noqa: BLE001 - as in a turn of its own
            self._failed(message, error)
        finally:
            inbox.end_turn()

    # -- turns ----------------------------------------------------------------------------------

    def take_turn(self, messages_max: int) -> None:
        """Handle up to `messages_max` messages. Called by the dispatcher, one thread at a time."""
        inbox, stopped = self.actor_inbox, self.actor_stopped.is_set
        try:
            for _ in range(messages_max):
                if not inbox.due or stopped():
                    break
                self._handle(inbox.get())
            if stopped():
                self._actor_loop_teardown()
        finally:
            inbox.end_turn()

    def _handle(self, envelope: Any) -> None:
        reply_to = envelope.reply_to
        try:
            response = self._handle_receive(envelope.message)
            if reply_to is not None:
                reply_to.set(response)
        except BaseException as error:  # noqa: BLE001 - an actor's failure ends nothing but its turn
            if reply_to is not None:
                reply_to.set_exception()
            if reply_to is None or not isinstance(error, Exception):
                self._failed(envelope.message, error)

    def _handle_receive(self, message: Any) -> Any:
        if type(message) in _PYKKAS:
            return super()._handle_receive(message)
        return self.on_receive(message)

    def _failed(self, message: Any, error: BaseException) -> None:
        log.error("%s failed at %s", self, type(message).__name__, exc_info=error)
        try:
            self.on_failed(message, error)
        except BaseException:
            log.critical("%s failed while failing; it stops", self, exc_info=True)
            self._handle_failure(type(error), error, error.__traceback__)

    def on_failed(self, message: Any, error: BaseException) -> None:
        """What a failure of `message` means. By default as in pykka: the actor stops."""
        del message
        self._handle_failure(type(error), error, error.__traceback__)
        self.on_failure(type(error), error, error.__traceback__)

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del exception_type, exception_value, traceback
        self.unlist()
        self.actor_stopped.set()


StopMessage = _ActorStop
_PYKKAS: Final = frozenset({_ActorStop, ProxyCall, ProxyGetAttr, ProxySetAttr})
"""Messages that pykka has a meaning of its own for: it asks of each message four times."""
