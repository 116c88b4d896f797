"""A bounded inbox that knows whether its actor has, or waits for, a turn.

Any thread may put. At most one thread at a time holds the turn: `_turn` is a lock that is taken
when the mailbox is handed to its dispatcher and released when the turn ends, so an actor never
runs in two threads and is never queued twice.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pykka._envelope import Envelope

MESSAGES_MAX_DEFAULT: Final = 4096


class MailboxFull(Exception):
    """The actor is that far behind. Nothing was queued."""


class Mailbox:
    """pykka's inbox, bounded. `hand_over` is given by the dispatcher the actor was started on.

    A *held* mailbox gives no turns: messages wait.
    """

    __slots__ = ("_envelopes", "_held", "_turn", "hand_over", "messages_max")

    def __init__(self, messages_max: int = MESSAGES_MAX_DEFAULT) -> None:
        self.messages_max = messages_max
        self.hand_over: Callable[[], None] | None = None
        self._envelopes: deque[Any] = deque()
        self._turn = threading.Lock()
        self._held = False

    def __len__(self) -> int:
        return len(self._envelopes)

    # -- pykka's ActorInbox ------------------------------------------------------------------

    def put(self, envelope: Any) -> None:
        """Queue one message and ask for a turn.

        Raises:
            MailboxFull: `messages_max` are waiting already.
        """
        if len(self._envelopes) >= self.messages_max:
            raise MailboxFull(f"{self.messages_max} messages are waiting")
        self._envelopes.append(envelope)
        if not self._held and self._turn.acquire(False):
            self._hand_over()

    def get(self) -> Any:
        """The next message. Only for the thread that holds the turn."""
        return self._envelopes.popleft()

    def empty(self) -> bool:
        return not self._envelopes

    # -- beyond pykka ------------------------------------------------------------------------

    def put_back(self, message: Any) -> None:
        """Return a message to the head of the line. Only within the actor's own turn."""
        self._envelopes.appendleft(Envelope(message))

    def waiting(self) -> list[Any]:
        """The messages that wait, in their order. Only for the thread that runs the turns."""
        return [envelope.message for envelope in self._envelopes]

    def take_turn_if_free(self) -> bool:
        """Take the turn without a message, if none waits: for `PooledActor.hand`."""
        return not (self._envelopes or self._held) and self._turn.acquire(False)

    @property
    def is_free(self) -> bool:
        """Nothing waits and nobody has the turn. For other threads than the one that runs the turns
        it may be over by now."""
        return not (self._envelopes or self._held or self._turn.locked())

    def hold(self) -> None:
        """No more turns until `release`. Only within the actor's own turn."""
        self._held = True

    def release(self) -> None:
        """Turns again."""
        self._held = False
        if self._envelopes and self._turn.acquire(False):
            self._hand_over()

    @property
    def held(self) -> bool:
        return self._held

    @property
    def due(self) -> int:
        """How many messages may be handled now."""
        return 0 if self._held else len(self._envelopes)

    def end_turn(self) -> None:
        """Give the turn back; ask for the next one if messages are left."""
        self._turn.release()
        if self._envelopes:
            self.open_turns()

    def open_turns(self) -> None:
        """Ask for a turn if there is something to do."""
        if self.due and self._turn.acquire(False):
            self._hand_over()

    def _hand_over(self) -> None:
        if self.hand_over is None:
            self._turn.release()  # not started yet: `open_turns` will ask again
        else:
            self.hand_over()
