"""The journal as lines of JSON, for other programs and other engines, and back.

    {"palyra_actors_journal": 3, "events": 2, "head": {"seq": 2, "hash": "9f86…"}}
    {"seq": 1, "event_id": "01JZ…", …, "payload": {"text": "hello"}, …, "hash": "60303a…"}
    {"seq": 2, …, "hash": "9f86…"}
    {"answer": {"event_id": "01JZ…", …, "answer": {…}, "idle": false}}
    {"gone": {"what": "approval", "id": "01JZ…", …}}
    {"trailer": {"events": 2, "head": {…}, "answers": {"count": 1, "sha256": "b5bb…"}, "gone": …}}

An event has all that its hash covers, so a reader can verify the chain by itself and an import is
the same journal: the same numbers, the same hashes, the same head. Its projections are made by
the folds that made the first ones. A payload that JSON cannot give back byte for byte is base64
under `payload_msgpack`; an erased one is null, with the digest that the chain rests on. Behind the
events are the answers that are kept for commands sent again (`carried`), which files of version 1
do not have, and the ids of what went with erased sessions (`tombstones`), which those of version 2
do not have either. What else is not in the journal is not in the lines: vectors.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Final

import apsw
import msgspec
from msgspec import Meta, Struct

from palyra_actors.domain.catalog import (
    ACTOR_NUMBERS,
    KIND_NUMBERS,
    SESSION,
    STREAM_NAMES,
    kind_from_client,
)
from palyra_actors.domain.chain import GENESIS, Stored, expected_hash, payload_digest
from palyra_actors.errors import Invalid, InvalidId, OpenRefused, StorageUnavailable
from palyra_actors.ids import format_ulid, parse_ulid
from palyra_actors.storage import anchor, tombstones
from palyra_actors.storage.carried import PREFIX, AnswerLoader, Orphan, Sum, Tally, answer_lines
from palyra_actors.storage.connection import open_visitor, open_writer
from palyra_actors.storage.files import size_bytes
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.lock import DatabaseLock, sync_folder
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.ndjson import Digest, packed_again, said
from palyra_actors.storage.port import Head, Selection
from palyra_actors.storage.queries import sql
from palyra_actors.storage.rebuild import Projector
from palyra_actors.storage.tombstones import GoneLoader, gone_lines

MARK: Final = "palyra_actors_journal"
VERSION: Final = 3
VERSION_WITHOUT_GONE: Final = 2
VERSION_WITHOUT_ANSWERS: Final = 1
EVENTS_AT_ONCE: Final = 1_000
BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_CACHE_BYTES: Final = 16 * 1024 * 1024


class HeadLine(Struct, frozen=True):
    seq: Annotated[int, Meta(ge=0)]
    hash: Digest


class _Header(Struct, frozen=True):
    version: int = msgspec.field(name=MARK)
    head: HeadLine


class _Trailer(Struct, frozen=True):
    """`answers`: None in a file of version 1; `gone`: in one of version 2, too."""

    head: HeadLine
    answers: Sum | None = None
    gone: Sum | None = None


class _LastLine(Struct, frozen=True):
    trailer: _Trailer


class Line(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One event. `owner`: of its stream, with the stream's first event."""

    seq: int
    event_id: str
    stream: str
    stream_id: str
    stream_seq: int
    session_id: str | None
    run_id: str | None
    kind: str
    actor: str
    principal: str
    ts_ms: int
    recorded_ms: int
    redacted: bool
    traceparent: str | None
    payload: Any = msgspec.UNSET
    payload_msgpack: str | None = None
    payload_sha256: Digest
    owner: str | None = None
    hash: Digest


@dataclass(frozen=True, slots=True)
class Moved:
    """What an export or an import went through."""

    events: int
    erased: int
    head: Head
    answers: int = 0


def export(file: str | os.PathLike[str], write: Any) -> Moved:
    """Give every event up to the present head to `write`, a line of bytes a call; then the kept
    answers.

    Reads in slices, beside an engine at work; what comes meanwhile is not in it.

    Raises:
        OpenRefused: it is no database of ours, or its chain breaks.
        StorageUnavailable: the disk failed.
    """
    connection = open_visitor(file, cache_bytes=_CACHE_BYTES)
    with closing(JournalReader(connection)) as reader:
        head = reader.head()
        about = {"events": head.seq, "head": {"seq": head.seq, "hash": head.hash.hex()}}
        encode = msgspec.json.encode
        write(encode({MARK: VERSION, **about}) + b"\n")
        owners: dict[tuple[str, bytes], str | None] = {
            (STREAM_NAMES[kind], bytes(stream_id)): name
            for kind, stream_id, name in connection.execute(sql("stream_owners"))
        }
        previous, after, erased = GENESIS, 0, 0
        try:
            while after < head.seq:
                page = reader.page(Selection(after), EVENTS_AT_ONCE, BYTES_AT_ONCE)
                for event in page.events:
                    if event.seq > head.seq:
                        break
                    if event.seq != after + 1 or expected_hash(event, previous) != event.hash:
                        raise _broken(f"event {after + 1}")
                    write(encode(_line(event, owners)) + b"\n")
                    erased += event.payload is None
                    previous, after = event.hash, event.seq
            begun = {stream for stream, owner in owners.items() if owner is None}
            tally = Tally()
            for line in answer_lines(connection, head.seq, begun):
                write(line)
                tally.add(line)
            left = Tally()
            for line in gone_lines(connection, head.seq):
                write(line)
                left.add(line)
        except Orphan as missing:
            raise Invalid(
                "an answer is kept whose event or stream is not there",
                field=str(missing),
                hint="`palyra-actors doctor` says what else is wrong with the file",
            ) from missing
        except apsw.Error as cause:
            raise StorageUnavailable(
                f"{file} cannot be read: {cause}", detail={"outcome": "none"}
            ) from cause
        sums = {"answers": tally.sum(), "gone": left.sum()}
        write(encode({"trailer": {**about, **sums}}) + b"\n")
    return Moved(head.seq, erased, head, tally.count)


def _line(event: Stored, owners: dict[tuple[str, bytes], str | None]) -> Line:
    """Its line. `owners`: of each stream, None once its first event is told."""
    stream = (event.stream, event.stream_id)
    owner = owners.get(stream)
    owners[stream] = None
    return Line(
        seq=event.seq,
        event_id=format_ulid(event.event_id),
        stream=event.stream,
        stream_id=format_ulid(event.stream_id),
        stream_seq=event.stream_seq,
        session_id=None if event.session_id is None else format_ulid(event.session_id),
        run_id=None if event.run_id is None else format_ulid(event.run_id),
        kind=event.kind,
        actor=event.actor,
        principal=event.principal,
        ts_ms=event.ts_ms,
        recorded_ms=event.recorded_ms,
        redacted=event.redacted,
        traceparent=event.traceparent,
        payload_sha256=event.payload_sha256.hex(),
        owner=owner,
        hash=event.hash.hex(),
        **said("payload", event.payload),
    )


def is_export(first_line: bytes) -> bool:
    """Whether a file that begins so is an export."""
    return first_line[:64].replace(b" ", b"").startswith(f'{{"{MARK}":'.encode())


def load(lines: Iterable[bytes], target: str | os.PathLike[str]) -> Moved:
    """Make a database of an export; it is there once all of it is verified, or not at all.

    Raises:
        OpenRefused: there is a database already.
        Invalid: the lines are no export, or not all of one, or their chain breaks; `field` names
            the line.
        StorageUnavailable: the disk failed.
    """
    file = os.path.realpath(target)
    _refuse_another(file)
    made = file + ".partial"
    with _taken(made):
        try:
            _refuse_another(file)  # one that was under way a moment ago
            connection = open_writer(
                made, synchronous="normal", cache_bytes=_CACHE_BYTES * 4, wal_keep_bytes=0
            )
            with closing(connection):
                migrate(connection, made)
                moved = _Loader(connection).run(lines)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            os.replace(made, file)
            sync_folder(os.path.dirname(file))
            anchor.write(anchor.beside(file), moved.head)
        except BaseException as failure:
            _remove(made)
            if isinstance(failure, apsw.Error | OSError):
                raise StorageUnavailable(
                    f"{file} could not be made: {failure}", detail={"outcome": "none"}
                ) from failure
            raise
    return moved


def _refuse_another(file: str) -> None:
    if size_bytes(file) or size_bytes(file + "-wal") or os.path.exists(anchor.beside(file)):
        raise OpenRefused(
            f"there is a database already, or its anchor: {file}",
            hint="an export becomes a database of its own: name a new file",
            detail={"path": file},
        )


def _taken(made: str) -> DatabaseLock:
    """The right to make that file, and nothing there any more of what an import that was killed
    has left. Only whoever has the right removes anything. Raises OpenRefused: another one has it.
    """
    try:
        with DatabaseLock.acquire(made):
            _remove(made)
        return DatabaseLock.acquire(made)
    except OpenRefused as refusal:
        if "holder_pid" not in refusal.detail:
            raise
        holder = refusal.detail["holder_pid"]
        raise OpenRefused(
            f"{made} is being made by {f'process {holder}' if holder else 'another process'}",
            hint="wait for it, or name another file",
            detail=refusal.detail,
        ) from None


def _remove(file: str) -> None:
    for name in (file, file + "-wal", file + "-shm", file + "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


class _Loader:
    """Takes lines in order and writes what the engine would have written."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._projector = Projector(connection)
        self._principals: dict[str, int] = {}
        self._streams: dict[tuple[int, bytes], int] = {}
        self._owners: dict[int, tuple[Any, ...]] = {}
        self._tails: dict[int, int] = {}
        self._kinds: Mapping[str, int] = {name: number for number, name in STREAM_NAMES.items()}
        self._head = Head(0, GENESIS)
        self._erased = 0

    def run(self, lines: Iterable[bytes]) -> Moved:
        numbered = enumerate(lines, 1)
        about = _first_line(next(numbered, (1, b""))[1])
        trailer: _Trailer | None = None
        answers = AnswerLoader(self._connection, self._streams)
        gone = GoneLoader(self._connection, self._streams)
        has_answers = about.version > VERSION_WITHOUT_ANSWERS
        has_gone = about.version > VERSION_WITHOUT_GONE
        execute = self._connection.execute
        execute("BEGIN").fetchall()
        number = 1
        for number, text in numbered:
            place = f"line {number}"
            if trailer is not None:
                raise Invalid("there is more behind the trailer", field=place)
            if text.startswith(b'{"trailer":'):
                trailer = _trailer(text, place, about.version)
            elif has_gone and text.startswith(tombstones.PREFIX):
                gone.take(text, place)
            elif gone.tally.count:
                raise Invalid("what is gone comes behind all answers", field=place)
            elif has_answers and text.startswith(PREFIX):
                answers.take(text, place)
            elif answers.tally.count:
                raise Invalid("the answers come behind all events", field=place)
            else:
                self._take(text, place)
            if not number % EVENTS_AT_ONCE:
                execute("COMMIT; BEGIN").fetchall()
        execute("COMMIT").fetchall()
        seq, digest = self._head.seq, self._head.hash.hex()
        head = None if trailer is None else trailer.head
        if head is None or (head.seq, head.hash) != (seq, digest) or head != about.head:
            raise Invalid(
                f"the export is cut short: it ends at event {seq} of {about.head.seq}",
                field=f"line {seq + 2}",
                hint="export it again",
            )
        if trailer is not None and trailer.answers not in (None, answers.tally.sum()):
            raise Invalid(
                f"these are not the answers that were exported: {answers.tally.count} of "
                f"{trailer.answers.count}, or others",
                field=f"line {number}.trailer.answers",
                hint="export it again",
            )
        if trailer is not None and trailer.gone not in (None, gone.tally.sum()):
            raise Invalid(
                f"this is not what was exported as gone: {gone.tally.count} of "
                f"{trailer.gone.count}, or others",
                field=f"line {number}.trailer.gone",
                hint="export it again",
            )
        return Moved(seq, self._erased, self._head, answers.tally.count)

    def _take(self, text: bytes, place: str) -> None:
        try:
            line = msgspec.json.decode(text, type=Line)
            event = self._event(line)
        except (msgspec.MsgspecError, InvalidId, ValueError, KeyError) as reason:
            raise Invalid(f"this is no event of an export: {reason}", field=place) from reason
        if event.seq != self._head.seq + 1 or event.hash != expected_hash(event, self._head.hash):
            raise _broken(place)
        self._head = Head(event.seq, event.hash)
        self._erased += event.payload is None
        try:
            self._write(event, line.owner)
        except (apsw.ConstraintError, KeyError, TypeError, ValueError) as reason:
            raise Invalid(
                f"the event contradicts those before it: {reason}", field=place
            ) from reason

    def _event(self, line: Line) -> Stored:
        payload = packed_again("payload", line.payload, line.payload_msgpack)
        digest = bytes.fromhex(line.payload_sha256)
        if payload is not None and payload_digest(payload) != digest:
            raise ValueError("its payload is not the one that its digest is of")
        return Stored(
            line.seq, parse_ulid(line.event_id, "event_id"), line.stream,
            parse_ulid(line.stream_id, "stream_id"), line.stream_seq,
            None if line.session_id is None else parse_ulid(line.session_id, "session_id"),
            None if line.run_id is None else parse_ulid(line.run_id, "run_id"),
            line.kind, line.actor, line.principal, line.ts_ms, line.recorded_ms, line.redacted,
            line.traceparent, payload, digest, bytes.fromhex(line.hash), self._head.hash,
        )  # fmt: skip

    def _write(self, event: Stored, owner: str | None) -> None:
        execute = self._connection.execute
        family = self._kinds[event.stream]
        kind: Any = KIND_NUMBERS.get(event.kind) or kind_from_client(event.kind)
        if kind is None:
            raise ValueError(f"this engine knows no kind {event.kind!r}")
        principal = self._principal(event.principal)
        stream = self._streams.get((family, event.stream_id))
        last = 0
        if stream is None:
            stream = self._streams[family, event.stream_id] = len(self._streams) + 1
            owned = principal if owner is None else self._principal(owner)
            self._owners[stream] = (stream, family, event.stream_id, owned, event.recorded_ms)
        else:
            last = self._tails[stream]
        self._tails[stream] = event.seq
        row = (
            event.seq, event.event_id, stream, event.stream_seq, event.seq - last if last else 0,
            None if family == SESSION else event.session_id, event.run_id, kind,
            ACTOR_NUMBERS[event.actor], principal, event.ts_ms, event.recorded_ms,
            int(event.redacted), event.traceparent, event.payload,
            event.payload_sha256 if event.payload is None else None, event.hash,
        )  # fmt: skip
        self._projector.take(
            (
                event.seq, event.event_id, stream, event.stream_seq, row[5], event.run_id, kind,
                row[8], event.principal, event.ts_ms, event.recorded_ms, event.payload, family,
                event.stream_id,
            ),
            self._owners,
        )  # fmt: skip
        execute(sql("insert_event"), row)

    def _principal(self, name: str) -> int:
        number = self._principals.get(name)
        if number is None:
            number = self._principals[name] = len(self._principals) + 1
            self._connection.execute(sql("insert_principal"), (number, name))
        return number


def _first_line(text: bytes) -> _Header:
    try:
        header = msgspec.json.decode(text, type=_Header)
    except msgspec.MsgspecError as reason:
        raise Invalid("this is no export of a journal", field="line 1") from reason
    if not VERSION_WITHOUT_ANSWERS <= header.version <= VERSION:
        raise Invalid(
            f"this export is of version {header.version}, this engine reads "
            f"{VERSION_WITHOUT_ANSWERS} to {VERSION}",
            field="line 1",
            hint="use a newer engine",
        )
    return header


def _trailer(text: bytes, place: str, version: int) -> _Trailer:
    try:
        trailer = msgspec.json.decode(text, type=_LastLine).trailer
    except msgspec.MsgspecError as reason:
        raise Invalid(f"this is no trailer of an export: {reason}", field=place) from reason
    for name, what, total, last_without in (
        ("answers", "the answers", trailer.answers, VERSION_WITHOUT_ANSWERS),
        ("gone", "what is gone", trailer.gone, VERSION_WITHOUT_GONE),
    ):
        if (version > last_without) != (total is not None):
            raise Invalid(
                f"the trailer says nothing of {what}"
                if total is None
                else f"an export of version {version} does not tell {what}",
                field=f"{place}.trailer.{name}",
                hint="export it again",
            )
    return trailer


def _broken(place: str) -> Invalid:
    return Invalid(
        "the chain breaks here: it is not what the events before it lead to",
        field=place,
        hint="something was changed, left out or put in",
    )
