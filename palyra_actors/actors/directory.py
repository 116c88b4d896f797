"""Who is awake. Wakes entities on demand and lets idle ones go, the longest unused first."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias

from palyra_actors.actors.entity import Entity, House
from palyra_actors.actors.session import SessionActor
from palyra_actors.domain.catalog import SESSION
from palyra_actors.errors import Overloaded
from palyra_actors.ids import format_ulid, parse_ulid

SWEEP_S: Final = 1.0
SWEEP_ENTITIES_MAX: Final = 256
"""Entities looked at in one sweep: at most a few hundred microseconds of the loop."""

RECENT_ENTITIES_MAX: Final = 512
"""Entities that are asked for what the file does not know yet: about 50 microseconds."""

RETRY_AFTER_MS: Final = 50

Name: TypeAlias = str | tuple[int, bytes]
"""A session's id as text, as it comes in frames; another entity's kind and id."""


class Directory:
    """Entities by id. Not an actor: it lives in the loop's thread, with those it serves.

    At most `resident_max` are awake. One that was unused for `idle_s` seconds and has nothing
    under way is let go; the file knows all about it. `kinds` are the entities besides sessions.
    """

    def __init__(
        self,
        house: House,
        *,
        resident_max: int,
        idle_s: float,
        mailbox_messages_max: int,
        kinds: Mapping[int, type[Entity]] | None = None,
    ) -> None:
        self._house = house
        self.resident_max = resident_max
        self._idle_s = idle_s
        self._mailbox_messages_max = mailbox_messages_max
        self._kinds: dict[int, type[Entity]] = {SESSION: SessionActor, **(kinds or {})}
        self._awake: OrderedDict[Name, Entity] = OrderedDict()
        self._requests = 0
        self.passivated = 0
        self._now = house.loop.clock.monotonic()  # as of the last sweep: exact enough for idleness
        house.loop.call_later(SWEEP_S, self._sweep)

    def __len__(self) -> int:
        return len(self._awake)

    def awake(self) -> tuple[Mapping[Any, Entity], Callable[[Any], None]]:
        """Who is, by name; and how to say that one was used just now. For `Appends.hand_out`."""
        return self._awake, self._awake.move_to_end

    @property
    def now(self) -> float:
        """As of the last sweep: exact enough for idleness."""
        return self._now

    def begin_request(self) -> None:
        """The entities that are asked for from now on serve one request: none of them makes room
        for another. One that did would come back beside itself and number its events twice.
        """
        self._requests += 1

    def session(self, session_id: str, field: str) -> Any:
        """The session of that id, awake.

        Raises:
            InvalidId: it is no ULID.
            Overloaded: all that may be awake are, and busy.
        """
        actor = self._awake.get(session_id)
        if actor is None:
            return self._wake(session_id, SESSION, parse_ulid(session_id, field))
        self._awake.move_to_end(session_id)
        actor.used_at = self._now
        actor.used_by = self._requests
        return actor

    def entity(self, kind: int, entity_id: bytes) -> Entity:
        """The entity of that kind and id, awake. Raises Overloaded as `session` does."""
        name: Name = format_ulid(entity_id) if kind == SESSION else (kind, entity_id)
        actor = self._awake.get(name)
        if actor is None:
            return self._wake(name, kind, entity_id)
        self._awake.move_to_end(name)
        actor.used_at = self._now
        actor.used_by = self._requests
        return actor

    def resident(self, kind: int, entity_id: bytes) -> Entity | None:
        """The entity if it is awake; it is not woken, nor kept awake."""
        return self._awake.get(format_ulid(entity_id) if kind == SESSION else (kind, entity_id))

    def recent(self, kind: int) -> Iterator[Entity]:
        """Entities of that kind that are awake, those used last first, of the last
        `RECENT_ENTITIES_MAX`: what is under way they know, and the file does not."""
        for actor in islice(reversed(self._awake.values()), RECENT_ENTITIES_MAX):
            if actor.kind == kind:
                yield actor

    def _wake(self, name: Name, kind: int, entity_id: bytes) -> Entity:
        if len(self._awake) >= self.resident_max and not self._make_room():
            raise Overloaded(
                f"{self.resident_max} entities are busy",
                retry_after_ms=RETRY_AFTER_MS,
                hint="come back, or raise actors.resident_max",
                detail={"limit": self.resident_max},
            )
        actor: Entity = self._kinds[kind].launch(
            self._house, entity_id, messages_max=self._mailbox_messages_max
        )
        self._awake[name] = actor
        actor.used_at = self._now
        actor.used_by = self._requests
        return actor

    def _make_room(self) -> bool:
        for name, actor in islice(self._awake.items(), SWEEP_ENTITIES_MAX):
            if actor.used_by == self._requests:
                return False  # and so are all that follow
            if actor.idle:
                self._let_go(name)
                return True
        return False

    def _sweep(self) -> None:
        self._house.loop.call_later(SWEEP_S, self._sweep)
        self._now = self._house.loop.clock.monotonic()
        oldest_kept = self._now - self._idle_s
        for name, actor in list(islice(self._awake.items(), SWEEP_ENTITIES_MAX)):
            if actor.used_at > oldest_kept:
                break
            if actor.idle:
                self._let_go(name)

    def _let_go(self, name: Name) -> None:
        self._awake.pop(name).let_go()
        self.passivated += 1
