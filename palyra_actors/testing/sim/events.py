"""Events as a simulation reads them, and what is said when one may not be."""

from typing import Any, Final, NamedTuple

import msgspec

from palyra_actors.domain.chain import Stored
from palyra_actors.ids import format_ulid

ENGINE_FAMILIES: Final = ("session.", "run.", "approval.", "canvas.", "cron.", "memory.")
TOLD_CHARACTERS_MAX: Final = 500


class Wrong(AssertionError):
    """The engine broke a promise. Says which one, and with what."""


def require(holds: bool, promise: str, *about: object) -> None:
    """Raises Wrong."""
    if not holds:
        told = ", ".join(f"{one!r:.{TOLD_CHARACTERS_MAX}}" for one in about)
        raise Wrong(f"{promise}: {told}" if about else promise)


class Event(NamedTuple):
    """A stored event with ids as text and its payload as data; None once it is erased."""

    stored: Stored
    event_id: str
    stream_id: str
    session_id: str | None
    run_id: str | None
    payload: Any

    @property
    def kind(self) -> str:
        return self.stored.kind

    @property
    def by_client(self) -> bool:
        return not self.kind.startswith(ENGINE_FAMILIES)

    def within(self, session: str | None) -> bool:
        """Whether it is one of that session's own; None: any will do."""
        return session is None or (self.stored.stream == "session" and self.stream_id == session)


def event_of(stored: Stored) -> Event:
    """The event as the model takes it."""
    return Event(
        stored,
        format_ulid(stored.event_id),
        format_ulid(stored.stream_id),
        None if stored.session_id is None else format_ulid(stored.session_id),
        None if stored.run_id is None else format_ulid(stored.run_id),
        None if stored.payload is None else msgspec.msgpack.decode(stored.payload),
    )
