"""The kept first answers of commands as lines of a journal's export, and back.

    {"answer": {"event_id": "01JZ…", "stream": "session", "stream_id": "01JZ…", "digest": "5d9e…",
                "answer": {"answer": {…}}, "idle": false}}

They hang on no chain, so the trailer says how many there are and the SHA-256 of their lines, each
with its line feed. `idle`: of a request that changed nothing, whose id no event has; its stream is
null where that has no event. `answer` is null once it is erased; where JSON would not give its
bytes back it is base64 under `answer_msgpack`.
"""

from collections.abc import Container, Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Final

import apsw
import msgspec
from msgspec import Meta, Struct

from palyra_actors.domain.catalog import STREAM_NAMES
from palyra_actors.errors import Invalid, InvalidId
from palyra_actors.ids import format_ulid, parse_ulid
from palyra_actors.storage.ndjson import Digest, packed_again, said
from palyra_actors.storage.port import ASKED_DIGEST_BYTES, NO_STREAM
from palyra_actors.storage.queries import sql

PREFIX: Final = b'{"answer":'
ANSWERS_AT_ONCE: Final = 100
_NUMBERS: Final[Mapping[str, int]] = {name: number for number, name in STREAM_NAMES.items()}


class AnswerLine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer. `digest`: of what was asked for."""

    event_id: str
    stream: str | None
    stream_id: str | None
    digest: Annotated[str, Meta(pattern=f"^[0-9a-f]{{{ASKED_DIGEST_BYTES * 2}}}$")]
    answer: Any = msgspec.UNSET
    answer_msgpack: str | msgspec.UnsetType = msgspec.UNSET
    idle: bool


class _Wrapped(Struct, frozen=True, forbid_unknown_fields=True):
    answer: AnswerLine


class Sum(Struct, frozen=True, kw_only=True):
    """What the trailer says of the answers."""

    count: int
    sha256: Digest


class Tally:
    """Counts the lines and digests them."""

    def __init__(self) -> None:
        self._hash = sha256()
        self.count = 0

    def add(self, line: bytes) -> None:
        """One more, with its line feed or without."""
        self._hash.update(line.rstrip(b"\r\n") + b"\n")
        self.count += 1

    def sum(self) -> Sum:
        """What the trailer must say."""
        return Sum(count=self.count, sha256=self._hash.hexdigest())


class Orphan(Exception):
    """A kept answer whose event or stream is not there."""


def answer_lines(
    connection: apsw.Connection, through_seq: int, begun: Container[tuple[str, bytes]]
) -> Iterator[bytes]:
    """The answers to what the events through that one hold, then those to what changed nothing.

    Reads some at a time. What came meanwhile to a stream that is not among `begun` is left out.

    Raises:
        Orphan: an answer's event or stream is missing.
    """
    for name in ("answer.of_events", "answer.of_idle"):
        after = b""
        while rows := connection.execute(sql(name), (after, ANSWERS_AT_ONCE)).fetchall():
            row: Any
            for row in rows:
                after, digest, kept, numbered, kind, stream_id, seq = row
                idle = name == "answer.of_idle"
                if (not idle and seq is None) or (numbered != NO_STREAM and kind is None):
                    raise Orphan(f"answer {format_ulid(after)}")
                stream = None if kind is None else (STREAM_NAMES[kind], stream_id)
                if (not idle and seq > through_seq) or (
                    numbered != NO_STREAM and stream not in begun
                ):
                    continue
                line = AnswerLine(
                    event_id=format_ulid(after),
                    stream=None if stream is None else stream[0],
                    stream_id=None if stream is None else format_ulid(stream_id),
                    digest=digest.hex(),
                    idle=idle,
                    **said("answer", kept),
                )
                yield msgspec.json.encode(_Wrapped(line)) + b"\n"


class AnswerLoader:
    """Takes the lines of answers, behind those of all events, and writes what was kept.

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
            Invalid: it is no answer, or contradicts the events; `field` names line and field.
        """
        try:
            line = msgspec.json.decode(text, type=_Wrapped).answer
            packed = None if line.answer_msgpack is msgspec.UNSET else line.answer_msgpack
            kept = packed_again("answer", line.answer, packed)
        except (msgspec.MsgspecError, ValueError) as reason:
            raise Invalid(f"this is no answer of an export: {reason}", field=place) from reason
        if kept is not None and not _can_be_told(kept):
            raise _wrong(place, "answer", "it is not what a command is answered")
        try:
            event_id = parse_ulid(line.event_id, f"{place}.answer.event_id")
            stream = self._stream(line, place)
        except InvalidId as reason:
            raise Invalid(
                f"this is no answer of an export: {reason}", field=reason.field
            ) from reason
        self._check_event(event_id, stream, idle=line.idle, place=place)
        statement = "answer.idle" if line.idle else "answer.insert"
        row = (event_id, stream, bytes.fromhex(line.digest), kept)
        try:
            self._connection.execute(sql(statement), row)
        except apsw.ConstraintError as reason:
            raise _wrong(place, "event_id", "its answer was there before") from reason
        self.tally.add(text)

    def _stream(self, line: AnswerLine, place: str) -> int:
        if line.stream is None and line.stream_id is None and line.idle:
            return NO_STREAM
        kind = _NUMBERS.get(line.stream or "")
        if kind is None:
            raise _wrong(place, "stream", f"there is no family {line.stream!r}")
        stream_id = parse_ulid(line.stream_id or "", f"{place}.answer.stream_id")
        stream = self._streams.get((kind, stream_id))
        if stream is None:
            raise _wrong(place, "stream_id", "no event is of that stream")
        return stream

    def _check_event(self, event_id: bytes, stream: int, *, idle: bool, place: str) -> None:
        rows = self._connection.execute(sql("answer.event"), (event_id,)).fetchall()
        if idle and rows:
            raise _wrong(place, "idle", "an event has its id, so that it changed something")
        if not idle and not rows:
            raise _wrong(place, "event_id", "there is no event with this id")
        if not idle and rows != [(stream,)]:
            raise _wrong(place, "stream_id", "its event is of another stream")


def _can_be_told(kept: bytes) -> bool:
    """Whether a retry finds in it what it looks for: a body, or how to recall it."""
    try:
        value = msgspec.msgpack.decode(kept)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return (
        isinstance(value, dict)
        and (value.keys() == {"answer"} or value.keys() == {"recall"})
        and all(isinstance(it, dict) for it in value.values())
    )


def _wrong(place: str, field: str, reason: str) -> Invalid:
    return Invalid(
        f"this answer does not go with the events: {reason}",
        field=f"{place}.answer.{field}",
        hint="something was changed, left out or put in: export it again",
    )
