"""Reading, on threads of its own: each reader has a connection that sees every commit.

Long work goes in slices: a reader that verifies a million events tells itself to go on after each
few hundred, so that others get their turn and no read transaction grows old. While clients write,
pages, verifications and streams have to wait for theirs with all other upkeep (`pace.Room`).
"""

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from palyra_actors.actors.pace import Pace, Room
from palyra_actors.actors.views import event_view, head_view
from palyra_actors.actors.work import Request
from palyra_actors.domain.catalog import SESSION
from palyra_actors.domain.chain import lost_from
from palyra_actors.errors import (
    InternalFault,
    NotFound,
    OpenRefused,
    Overloaded,
    PalyraError,
    StorageUnavailable,
)
from palyra_actors.limits import REPLY_PAYLOAD_BYTES_MAX
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Pool
from palyra_actors.storage.port import EventPage, Head, ReadSide, Selection
from palyra_actors.wire import codec

log = logging.getLogger(__name__)

SLICE_EVENTS_FIRST: Final = 250
SLICE_EVENTS_MAX: Final = 4_000
"""Of a chain that is verified: as many as take `pace.SLICE_S`."""

READ_RETRY_MS: Final = 25
TRICKLE_ITEMS: Final = 8
"""Items of at most 64 KiB that a stream sends in one turn."""


@dataclass(frozen=True, slots=True)
class ReadPage:
    """Answer the request with a page. `session_id` is resolved here, in the reader's thread."""

    request: Request
    selection: Selection
    session_id: bytes | None
    limit: int
    raw: bool


@dataclass(frozen=True, slots=True)
class Look:
    """Answer the request with what `find` makes of the file, in the reader's thread."""

    request: Request
    find: Callable[[ReadSide], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ask:
    """Have something looked up; `done` gets what came of it, or the error, on the loop's thread."""

    find: Callable[[ReadSide], Any]
    done: Callable[[Any], None]


@dataclass(slots=True)
class Trickle:
    """Answer with a stream: what `pages` yields are its items, what it returns ends it.

    A few items a turn, so that others get theirs; and none while the peer has not taken what it
    was sent before: `later` has the reader come back then.
    """

    request: Request
    pages: Callable[[ReadSide], Generator[Mapping[str, Any], None, Mapping[str, Any]]]
    later: Callable[["Trickle"], None]
    going: Generator[Mapping[str, Any], None, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Fetch a page for a subscription; `done` gets it, or None if there is no such stream yet."""

    selection: Selection
    session_id: bytes | None
    limit: int
    done: Callable[[EventPage | PalyraError], None]


@dataclass(frozen=True, slots=True)
class Due:
    """It is its turn."""

    message: "ReadPage | Trickle | Verify"


@dataclass(slots=True)
class Verify:
    """Check the chain from `next_seq` to `to_seq`, then answer. `lost_from`: where the journal is
    not what the anchor has seen."""

    request: Request
    from_seq: int
    to_seq: int | None
    expect: Head | None
    head: Head | None = None
    next_seq: int = 0
    prev_hash: bytes | None = None
    checked: int = 0
    erased: int = 0
    first_bad_seq: int | None = None
    lost_from: int | None = None
    done: bool = field(default=False)


def too_many_reads(retry_ms: int = READ_RETRY_MS) -> Overloaded:
    """The refusal of a read for which no mailbox, or no room, is left; `retry_ms`: when to come
    back, where that is known."""
    return Overloaded("too many reads are waiting", retry_after_ms=retry_ms)


def _is_new(message: "ReadPage | Trickle | Verify") -> bool:
    """Whether nothing of it was done yet."""
    match message:
        case Trickle():
            return message.going is None
        case Verify():
            return message.head is None
    return True


class Reader(PooledActor):
    """One connection, one message at a time."""

    def __init__(
        self,
        pool: Pool,
        connect: Callable[[], ReadSide],
        call_soon: Callable[[Callable[[], None]], None],
        *,
        messages_max: int,
        room: Room,
        monotonic: Callable[[], float],
        anchored: Callable[[], Head | None] = lambda: None,
        unread: Callable[[str], None] = lambda why: None,
    ) -> None:
        super().__init__(pool, messages_max=messages_max)
        self._say_unread = unread
        self._waiting_max = messages_max
        self._anchored = anchored
        self._connect = connect
        self._call_soon = call_soon
        self._room = room
        self._monotonic = monotonic
        self._pace = Pace(SLICE_EVENTS_FIRST, SLICE_EVENTS_MAX)
        self._connection: ReadSide | None = None

    def on_receive(self, message: Any) -> None:
        match message:
            case Look():
                self._serve(message.request, lambda: self._look(message))
            case Ask():
                self._ask(message)
            case CatchUp():
                self._catch_up(message)
            case Due():
                self._do_slice(message.message, asked=True)
            case _ if self._room.open:
                self._do_slice(message, asked=False)
            case _:
                self._call_soon(partial(self._stand_in_line, message))

    def _do_slice(self, message: Any, *, asked: bool) -> None:
        began = self._monotonic()
        try:
            match message:
                case ReadPage():
                    self._serve(message.request, lambda: self._read_page(message))
                case Trickle():
                    self._serve(message.request, lambda: self._trickle(message))
                case Verify():
                    self._serve(message.request, lambda: self._verify(message))
        finally:
            took_s = self._monotonic() - began
            self._call_soon(partial(self._room.took, took_s, asked=asked))

    def _stand_in_line(self, message: Any) -> None:
        """It asks for room, for which no more new ones wait than would fit into a mailbox. On the
        loop's thread."""
        if _is_new(message) and self._room.reads_waiting >= self._waiting_max:
            message.request.fail(too_many_reads())
            return
        self._room.ask(lambda: self.actor_ref.tell(Due(message)), read=True)

    def on_failed(self, message: Any, error: BaseException) -> None:
        """Go on with a new connection; a stream that waits for its page is told."""
        self._forget()
        if isinstance(message, CatchUp | Ask):
            message.done(InternalFault(f"the reader failed: {type(error).__name__}"))

    def close(self) -> None:
        """After the pool has stopped."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- what it is asked -------------------------------------------------------------------------

    def _read_page(self, message: ReadPage) -> None:
        selection = self._resolve(message.selection, message.session_id)
        page = self._open().page(selection, message.limit, REPLY_PAYLOAD_BYTES_MAX)
        self._answer(
            message.request,
            {
                "events": [event_view(event, message.raw) for event in page.events],
                "next_after_seq": page.next_after_seq,
                "end": page.end,
            },
        )

    def _look(self, look: Look) -> None:
        self._answer(look.request, look.find(self._open()))

    def _ask(self, ask: Ask) -> None:
        try:
            found = ask.find(self._open())
        except PalyraError as refusal:
            self._note(refusal)
            found = refusal
        except Exception as error:  # noqa: BLE001 - whoever asked has to know
            found = self._fail(error)
        self._call_soon(partial(ask.done, found))

    def _trickle(self, trickle: Trickle) -> None:
        request = trickle.request
        if request.answered:
            return  # nobody listens any more
        if trickle.going is None:
            trickle.going = trickle.pages(self._open())
        for _ in range(TRICKLE_ITEMS):
            try:
                item = next(trickle.going)
            except StopIteration as end:
                self._answer(request, end.value)
                return
            self._call_soon(partial(request.item, item))
        self._call_soon(partial(trickle.later, trickle))

    def _catch_up(self, message: CatchUp) -> None:
        head_seq = 0
        try:
            head_seq = self._open().head().seq  # before the look for the stream, not after it
            selection = self._resolve(message.selection, message.session_id)
            page = self._open().page(selection, message.limit, REPLY_PAYLOAD_BYTES_MAX)
        except NotFound:  # no such stream yet: nothing to catch up with
            page = EventPage([], max(head_seq, message.selection.after_seq), True)
        except Exception as error:  # noqa: BLE001 - the subscription ends with it
            self._forget()
            message.done(_as_unavailable(error))
            return
        message.done(page)

    def _verify(self, verify: Verify) -> None:
        reader = self._open()
        if verify.head is None:
            self._begin(verify, reader)
        assert verify.head is not None
        last = verify.head.seq if verify.to_seq is None else min(verify.to_seq, verify.head.seq)
        if not verify.done and verify.next_seq <= last:
            upto = min(verify.next_seq + self._pace.size - 1, last)
            began = self._monotonic()
            part = reader.check(verify.next_seq, upto, verify.prev_hash)
            if part.checked == self._pace.size:
                self._pace.took(self._monotonic() - began)
            verify.checked += part.checked
            verify.erased += part.erased
            verify.prev_hash = part.head.hash
            verify.next_seq = upto + 1
            if part.first_bad_seq is not None:
                verify.first_bad_seq = part.first_bad_seq
            elif verify.next_seq <= last:
                self._call_soon(partial(self._stand_in_line, verify))
                return
        bad = [seq for seq in (verify.first_bad_seq, verify.lost_from) if seq is not None]
        first_bad_seq = min(bad, default=None)
        self._answer(
            verify.request,
            {
                "valid": first_bad_seq is None,
                "checked": verify.checked,
                "erased": verify.erased,
                "head": head_view(verify.head),
                "first_bad_seq": first_bad_seq,
            },
        )

    def _begin(self, verify: Verify, reader: ReadSide) -> None:
        verify.head = reader.head()
        verify.next_seq = verify.from_seq
        if verify.expect is not None:
            verify.first_bad_seq = lost_from(verify.expect, verify.head, reader.hash_at)
            verify.done = verify.first_bad_seq is not None
        anchored = self._anchored_for(verify)
        if anchored is not None:
            verify.lost_from = lost_from(anchored, verify.head, reader.hash_at)

    def _anchored_for(self, verify: Verify) -> Head | None:
        """The anchor, unless only what lies before it was asked for."""
        anchored = self._anchored()
        if anchored is None or verify.to_seq is None or verify.to_seq >= anchored.seq:
            return anchored
        return None

    # -- its connection ---------------------------------------------------------------------------

    def _open(self) -> ReadSide:
        if self._connection is None:
            try:
                self._connection = self._connect()
            except OpenRefused as refusal:
                self._call_soon(partial(self._say_unread, refusal.message))
                raise
        return self._connection

    def _forget(self) -> None:
        """After a failure a new connection: the old one may hold what is broken."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception as error:  # noqa: BLE001 - it is dropped either way
                log.warning("a reading connection did not close: %s", error)

    def _resolve(self, selection: Selection, session_id: bytes | None) -> Selection:
        """The selection with its stream. Who owns a session sees all of it, whoever wrote there."""
        principal = selection.principal
        if session_id is not None:
            row = self._open().stream(SESSION, session_id)
            if row is None or principal not in (None, row.principal):
                raise NotFound("there is no such session", field="session_id")
            selection = selection._replace(stream=row.stream, principal=None)
        if selection.run_id is not None:
            run = self._open().run(selection.run_id)
            if (
                run is None
                or selection.stream not in (None, run.stream)
                or principal not in (None, run.principal)
            ):
                raise NotFound("there is no such run", field="run_id")
            selection = selection._replace(stream=run.stream, principal=None)
        return selection

    def _answer(self, request: Request, body: Any) -> None:
        """Encoded here, sent and counted in the loop's thread."""
        frame = codec.encode_ok(request.id, body)
        self._call_soon(lambda: request.reply(frame))

    def _refuse(self, request: Request, error: PalyraError) -> None:
        self._call_soon(lambda: request.fail(error))

    def _note(self, refusal: PalyraError) -> None:
        """Tell the engine if what was asked could not be read; any other refusal is an answer."""
        if isinstance(refusal, StorageUnavailable) and not refusal.elsewhere:
            self._forget()
            self._call_soon(partial(self._say_unread, refusal.message))

    def _fail(self, error: Exception) -> PalyraError:
        """What whoever asked is told. The engine is, too, on the loop's thread."""
        self._forget()
        self._call_soon(partial(self._say_unread, _told(error)))
        return _as_unavailable(error)

    def _serve(self, request: Request, work: Callable[[], None]) -> None:
        try:
            work()
        except PalyraError as refusal:
            self._note(refusal)
            self._refuse(request, refusal)
        except Exception as error:
            log.exception("a read failed")
            self._refuse(request, self._fail(error))
        except BaseException as error:
            self._forget()
            self._refuse(request, InternalFault(f"the reader failed: {type(error).__name__}"))
            raise


def _as_unavailable(error: Exception) -> PalyraError:
    if isinstance(error, PalyraError):
        return error
    return StorageUnavailable(
        f"the database could not be read: {_told(error)}",
        hint="try again later",
        detail={"outcome": "none"},
    )


def _told(error: Exception) -> str:
    """What may be said of it. The words of a fault of our own may hold what somebody wrote."""
    from_below = isinstance(error, OSError) or type(error).__module__ == "apsw"
    return str(error) if from_below else type(error).__name__
