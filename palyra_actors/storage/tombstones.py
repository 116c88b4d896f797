"""The ids of what was erased or removed as lines of a journal's export, and back.

    {"gone": {"what": "approval", "id": "01JZ…", "stream": "session", "stream_id": "01JZ…",
              "place": 7}}

What said them was erased, so that no event tells them any more; a run's are not among them, which
its events still have. They hang on no chain: the trailer says how many there are and the SHA-256 of
their lines, as it does of the answers.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

import apsw
import msgspec
from msgspec import Meta, Struct

from palyra_actors.domain.catalog import APPROVAL, GONE_NAMES, MEMORY, REMEMBERED, STREAM_NAMES
from palyra_actors.errors import Invalid, InvalidId
from palyra_actors.ids import format_ulid, parse_ulid
from palyra_actors.storage.carried import Tally
from palyra_actors.storage.queries import sql

PREFIX: Final = b'{"gone":'
LINES_AT_ONCE: Final = 500
_CARRIED: Final[Mapping[str, int]] = {GONE_NAMES[kind]: kind for kind in (APPROVAL, REMEMBERED)}
_NUMBERS: Final[Mapping[str, int]] = {name: number for number, name in STREAM_NAMES.items()}


class GoneLine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of them. `place`: where a list goes on that had come to it."""

    what: str
    id: str
    stream: str
    stream_id: str
    place: Annotated[int, Meta(ge=1, le=2**62)]


class _Wrapped(Struct, frozen=True, forbid_unknown_fields=True):
    gone: GoneLine


def gone_lines(connection: apsw.Connection, through_seq: int) -> Iterator[bytes]:
    """What was gone through that event, some at a time."""
    position = (b"", 0, b"")
    while rows := connection.execute(
        sql("gone.carried"), (through_seq, *position, LINES_AT_ONCE)
    ).fetchall():
        row: tuple[bytes, int, bytes, int, int]
        for row in rows:  # type: ignore[assignment]
            thing_id, kind, stream_id, place, family = row
            line = GoneLine(
                what=GONE_NAMES[kind],
                id=format_ulid(thing_id),
                stream=STREAM_NAMES[family],
                stream_id=format_ulid(stream_id),
                place=place,
            )
            yield msgspec.json.encode(_Wrapped(line)) + b"\n"
            position = (thing_id, kind, stream_id)


class GoneLoader:
    """Takes such lines, behind those of all events, and keeps what they say.

    Args:
        streams: the number of each stream that has an event, by its family's and its id.
    """

    def __init__(
        self, connection: apsw.Connection, streams: Mapping[tuple[int, bytes], int]
    ) -> None:
        self._connection = connection
        self._streams = streams
        self.tally = Tally()

    def take(self, text: bytes, place: str) -> None:
        """One line.

        Raises:
            Invalid: it is no such line, or contradicts the events; `field` names line and field.
        """
        try:
            line = msgspec.json.decode(text, type=_Wrapped).gone
            thing_id = parse_ulid(line.id, f"{place}.gone.id")
            stream_id = parse_ulid(line.stream_id, f"{place}.gone.stream_id")
        except (msgspec.MsgspecError, InvalidId, ValueError) as reason:
            field = reason.field if isinstance(reason, InvalidId) else place
            raise Invalid(f"this is no line of an export: {reason}", field=field) from reason
        kind = _CARRIED.get(line.what)
        if kind is None:
            raise _wrong(place, "what", f"no {line.what!r} leaves its id behind")
        stream = self._streams.get((_NUMBERS.get(line.stream, 0), stream_id))
        execute = self._connection.execute
        if kind == REMEMBERED:
            if stream is None or line.stream != STREAM_NAMES[MEMORY]:
                raise _wrong(place, "stream_id", "there are no memories of that stream")
        elif stream is None or not execute(sql("gone.may_be_of"), (stream,)).fetchall():
            raise _wrong(place, "stream_id", "no such session was erased")
        elif execute(sql("approval.find"), (thing_id,)).fetchall():
            raise _wrong(place, "id", "it is there")
        execute(sql("gone.carry"), (thing_id, kind, stream, line.place))
        self.tally.add(text)


def _wrong(place: str, field: str, reason: str) -> Invalid:
    return Invalid(
        f"this does not go with the events: {reason}",
        field=f"{place}.gone.{field}",
        hint="something was changed, left out or put in: export it again",
    )
