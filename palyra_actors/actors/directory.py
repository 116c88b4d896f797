"""Who is awake. Wakes entities on demand and lets idle ones go, the longest unused first."""

from collections import OrderedDict
from itertools import islice
from typing import Final

from palyra_actors.actors.entity import House
from palyra_actors.actors.session import SessionActor
from palyra_actors.errors import Overloaded
from palyra_actors.ids import parse_ulid

SWEEP_S: Final = 1.0
SWEEP_ENTITIES_MAX: Final = 256
"""Entities looked at in one sweep: at most a few hundred microseconds of the loop."""

RETRY_AFTER_MS: Final = 50


class Directory:
    """Sessions by id. Not an actor: it lives in the loop's thread, with those it serves.

    At most `resident_max` are awake. One that was unused for `idle_s` seconds and has nothing
    under way is let go; the file knows all about it.
    """

    def __init__(
        self, house: House, *, resident_max: int, idle_s: float, mailbox_messages_max: int
    ) -> None:
        self._house = house
        self.resident_max = resident_max
        self._idle_s = idle_s
        self._mailbox_messages_max = mailbox_messages_max
        self._sessions: OrderedDict[str, SessionActor] = OrderedDict()
        self._requests = 0
        self.passivated = 0
        self._now = house.loop.clock.monotonic()  # as of the last sweep: exact enough for idleness
        house.loop.call_later(SWEEP_S, self._sweep)

    def __len__(self) -> int:
        return len(self._sessions)

    def begin_request(self) -> None:
        """The sessions that are asked for from now on serve one request: none of them makes room
        for another. One that did would come back beside itself and number its events twice.
        """
        self._requests += 1

    def session(self, session_id: str, field: str) -> SessionActor:
        """The session of that id, awake.

        Raises:
            InvalidId: it is no ULID.
            Overloaded: all that may be awake are, and busy.
        """
        sessions = self._sessions
        actor = sessions.get(session_id)
        if actor is not None:
            sessions.move_to_end(session_id)
            actor.used_at = self._now
            actor.used_by = self._requests
            return actor
        stream_id = parse_ulid(session_id, field)
        if len(sessions) >= self.resident_max and not self._make_room():
            raise Overloaded(
                f"{self.resident_max} sessions are busy",
                retry_after_ms=RETRY_AFTER_MS,
                hint="come back, or raise actors.resident_max",
                detail={"limit": self.resident_max},
            )
        actor = SessionActor.launch(self._house, stream_id, messages_max=self._mailbox_messages_max)
        sessions[session_id] = actor
        actor.used_at = self._now
        actor.used_by = self._requests
        return actor

    def _make_room(self) -> bool:
        for session_id, actor in islice(self._sessions.items(), SWEEP_ENTITIES_MAX):
            if actor.used_by == self._requests:
                return False  # and so are all that follow
            if actor.idle:
                self._let_go(session_id)
                return True
        return False

    def _sweep(self) -> None:
        self._now = self._house.loop.clock.monotonic()
        oldest_kept = self._now - self._idle_s
        for session_id, actor in self._oldest(SWEEP_ENTITIES_MAX):
            if actor.used_at > oldest_kept:
                break
            if actor.idle:
                self._let_go(session_id)
        self._house.loop.call_later(SWEEP_S, self._sweep)

    def _oldest(self, count: int) -> list[tuple[str, SessionActor]]:
        return list(islice(self._sessions.items(), count))

    def _let_go(self, session_id: str) -> None:
        actor = self._sessions.pop(session_id)
        actor.actor_stopped.set()
        self.passivated += 1
