"""Sessions at the desk: found by id or key, listed, renamed, branched, archived, erased."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from palyra_actors.actors.clerks.counter import Counter, Witness
from palyra_actors.actors.clerks.erasing import Eraser
from palyra_actors.actors.clerks.lately import Lately
from palyra_actors.actors.session import STATUSES, SessionActor
from palyra_actors.actors.views import event_view
from palyra_actors.actors.work import Portion, Request
from palyra_actors.domain.catalog import GONE_NAMES, SESSION
from palyra_actors.domain.chain import Stored
from palyra_actors.domain.session import STATUS_NUMBERS, About, Session, Status
from palyra_actors.domain.session_commands import (
    Archive,
    Branch,
    Erase,
    Host,
    Lack,
    Look,
    Resolve,
    Update,
    Who,
    branch_point,
    key_is_taken,
    owner_word,
    view,
)
from palyra_actors.errors import Gone, Invalid, NotFound, PalyraError, TooLarge
from palyra_actors.limits import (
    BRANCH_DEPTH_MAX,
    QUERY_BYTES_MAX,
    REPLY_PAYLOAD_BYTES_MAX,
    SESSION_KEY_BYTES_MAX,
    TITLE_BYTES_MAX,
)
from palyra_actors.storage.port import ReadSide
from palyra_actors.wire.session import (
    BranchBody,
    HistoryBody,
    ListSessionsBody,
    ResolveBody,
    SessionBody,
    SessionWriteBody,
    UpdateSessionBody,
)

KEYS_KEPT_MAX: Final = 10_000
"""Keys that were asked for lately: two who resolve the same new one meet at the same session."""


class Found(NamedTuple):
    """A session as a row tells it."""

    session_id: bytes
    owner: str
    last_seq: int
    updated_ms: int
    status: Status
    about: About
    stream: int

    def view(self) -> dict[str, Any]:
        session = Session(self.last_seq, self.status, {}, self.about)
        return view(session, Who(self.session_id, self.owner, 0), self.updated_ms)


def found(row: Sequence[Any]) -> Found:
    """From the columns of `session.by_stream` and its like."""
    return Found(row[0], row[1], row[2], row[3], STATUSES[row[4]], About(*row[5:15]), row[15])


def find_session(
    reader: ReadSide, session_id: bytes, principal: str | None, field: str = "session_id"
) -> Found:
    """The session, if the principal may see it (None: all).

    Raises:
        NotFound: there is none, or it is another's.
        Gone: it was erased.
    """
    row = reader.stream(SESSION, session_id)
    rows = [] if row is None else reader.rows("session.by_stream", (row.stream,))
    if row is None or not rows or principal not in (None, row.principal):
        raise NotFound("there is no such session", field=field)
    session = found(rows[0])
    if session.status is Status.ERASED:
        raise Gone("the session was erased", field=field)
    return session


def place_gone(
    reader: ReadSide, kind: int, thing_id: bytes, principal: str | None
) -> tuple[int, int] | None:
    """Where in its stream what the principal once had was, before it went with its session: the
    stream and its place there. None: there was none, or it is another's."""
    for stream, owner, place in reader.rows("gone.find", (thing_id, kind)):
        if principal in (None, owner):
            return stream, place
    return None


def refuse_gone(
    reader: ReadSide, kind: int, thing_id: bytes, principal: str | None, field: str
) -> None:
    """Raises Gone: it was the principal's and went with its session."""
    if place_gone(reader, kind, thing_id, principal) is not None:
        raise Gone(f"the {GONE_NAMES[kind]} was erased with its session", field=field)


def host(session_id: bytes, *, new: bool, field: str = "session_id") -> Witness:
    """The session that something is made for: it may be there before its first event, but in
    nobody else's session, and in none that was erased; `new`: nor in one that is archived."""
    return Witness(SESSION, session_id, Host(new, field))


def sees(request: Request) -> str | None:
    """Whose things the request may see; None: everybody's."""
    return None if request.admin else request.principal


class SessionClerk:
    """Serves `session.*`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._keys: Lately[tuple[str, str], bytes] = Lately(KEYS_KEPT_MAX)
        self._eraser = Eraser(counter)
        counter.erasing = self._eraser.look
        counter.house.listeners[SESSION] = self._written

    def operations(self) -> Mapping[str, Any]:
        return {
            "session.resolve": self._resolve,
            "session.get": self._get,
            "session.list": self._list,
            "session.update": self._update,
            "session.archive": self._archive,
            "session.branch": self._branch,
            "session.history": self._history,
            "session.erase": self._erase,
        }

    # -- writing ----------------------------------------------------------------------------------

    def _resolve(self, request: Request, body: ResolveBody) -> None:
        counter = self._counter
        key = self._key(body.session_key)
        title, redacted = self._text(body.title, "title", TITLE_BYTES_MAX)
        holder = None if key is None else self._holder(request, key)
        if body.session_id is not None:
            session_id = counter.ulid(body.session_id, "session_id")
        elif key is None and not body.create:
            raise Invalid(
                "there is nothing to find it by", field="session_id", hint="or a session_key"
            )
        elif holder is None and not body.create:
            raise NotFound("there is no session of this key", field="session_key")
        elif key is not None and holder is not None and self._may_get(request, key, holder):
            self._once_settled(request, body, holder)
            return
        elif key is None or holder is None or self._gives_up(request, key, holder):
            session_id = counter.new_id()
        else:
            session_id = holder
        command = Resolve(key, title, body.create, redacted)
        witnesses = []
        if key is not None and holder is not None and holder != session_id:
            witnesses = [Witness(SESSION, holder, Lack(key))]
        elif key is not None and body.create:
            self._keys.note((request.principal, key), session_id)

        def unless_refused(said: Sequence[Mapping[str, Any]]) -> Resolve:
            del said
            if key is not None and body.create:
                self._keys.note((request.principal, key), session_id)
            return command

        counter.command(
            request, SESSION, session_id, command, op="session.resolve", body=body,
            witnesses=witnesses, inform=unless_refused,
        )  # fmt: skip

    def _update(self, request: Request, body: UpdateSessionBody) -> None:
        session_id = self._counter.ulid(body.session_id, "session_id")
        title, redacted = self._text(body.title, "title", TITLE_BYTES_MAX)
        self._counter.command(
            request, SESSION, session_id, Update(title, redacted), op="session.update", body=body
        )

    def _archive(self, request: Request, body: SessionWriteBody) -> None:
        session_id = self._counter.ulid(body.session_id, "session_id")
        self._counter.command(
            request, SESSION, session_id, Archive(), op="session.archive", body=body
        )

    def _branch(self, request: Request, body: BranchBody) -> None:
        """The parent says where it stands, behind all that was asked of it before; what is asked
        of the branch later waits behind that."""
        counter = self._counter
        parent_id = counter.ulid(body.session_id, "session_id")
        child_id = (
            counter.new_id()
            if body.new_session_id is None
            else counter.ulid(body.new_session_id, "new_session_id")
        )
        key = self._key(body.session_key)
        if child_id == parent_id:  # which it is refused for, as soon as it is known to be there
            alone = Branch(parent_id, 0, 0, key)
            counter.command(request, SESSION, child_id, alone, op="session.branch", body=body)
            return
        witnesses = [Witness(SESSION, parent_id, Look())]
        holder = None if key is None else self._holder(request, key)
        if key is not None and holder is None:
            self._keys.note((request.principal, key), child_id)
        elif key is not None and holder not in (None, child_id, parent_id):
            assert holder is not None
            witnesses.append(Witness(SESSION, holder, Lack(key)))

        def command_of(said: Sequence[Mapping[str, Any]]) -> Branch:
            parent: Session = said[0]["state"]
            if key is not None:
                mine = said[0]["owner"] == request.principal  # keys are by the principal
                if mine and parent.about is not None and parent.about.key == key:
                    raise key_is_taken(parent_id)
                self._keys.note((request.principal, key), child_id)
            at, depth = branch_point(parent, body.at_session_seq)
            return Branch(parent_id, at, depth, key)

        counter.command(
            request, SESSION, child_id, None, op="session.branch", body=body,
            witnesses=witnesses, inform=command_of,
        )  # fmt: skip

    def _erase(self, request: Request, body: SessionWriteBody) -> None:
        session_id = self._counter.ulid(body.session_id, "session_id")
        for name in [name for name, known in self._keys.items() if known == session_id]:
            del self._keys[name]
        self._eraser.answer_when_done(request)
        self._counter.command(request, SESSION, session_id, Erase(), op="session.erase", body=body)

    # -- reading ----------------------------------------------------------------------------------

    def _get(self, request: Request, body: SessionBody) -> None:
        session_id = self._counter.ulid(body.session_id, "session_id")
        principal = sees(request)
        self._counter.look(
            request, lambda reader: {"session": find_session(reader, session_id, principal).view()}
        )

    def _list(self, request: Request, body: ListSessionsBody) -> None:
        after = None if body.after is None else self._counter.ulid(body.after, "after")
        if body.status not in (None, "open", "archived"):
            raise Invalid(
                f"{body.status[:40]!r} is no status", field="status", hint="open or archived"
            )
        status = None if body.status is None else STATUS_NUMBERS[Status(body.status)]
        words = None
        if body.query is not None:
            check_size(body.query, "query", QUERY_BYTES_MAX)
            # SQLite's text ends at a NUL, and no word of a title has one
            asked = body.query.replace("\0", " ")
            words = [word.replace('"', '""') for word in asked.split()]
        principal, limit = sees(request), body.limit

        def find(reader: ReadSide) -> Mapping[str, Any]:
            stream = 0
            if after is not None:
                row = reader.stream(SESSION, after)
                if row is None or principal not in (None, row.principal):
                    raise NotFound("there is no such session", field="after")
                stream = row.stream
            rows = _page(reader, principal, status, words, stream, limit + 1)
            shown = [found(row).view() for row in rows[:limit]]
            return {
                "sessions": shown,
                "next_after": shown[-1]["session_id"] if shown else body.after,
                "end": len(rows) <= limit,
            }

        self._counter.look(request, find)

    def _history(self, request: Request, body: HistoryBody) -> None:
        session_id = self._counter.ulid(body.session_id, "session_id")
        principal, raw = sees(request), body.raw

        def find(reader: ReadSide) -> Mapping[str, Any]:
            session = find_session(reader, session_id, principal)
            events: list[Stored] = []
            left = REPLY_PAYLOAD_BYTES_MAX
            position, end = body.after, True
            for event in history(reader, session, body.after):
                left -= len(event.payload or b"")
                if len(events) == body.limit or (events and left < 0):
                    end = False
                    break
                events.append(event)
                position = event.stream_seq
            return {
                "events": [event_view(event, raw) for event in events],
                "next_after": position,
                "end": end,
            }

        self._counter.look(request, find)

    # -- own --------------------------------------------------------------------------------------

    def _written(self, portion: Portion) -> None:
        """An erasure is durable, also one whose client was told that nobody knows."""
        if any(fact.kind == "session.erased" for fact in portion.facts):
            self._eraser.look()

    def _holder(self, request: Request, key: str) -> bytes | None:
        """The session that has the key, or is about to.

        One that was about to and was refused, or could not be written, has no claim any more.
        """
        name = (request.principal, key)
        known = self._keys.get(name)
        if known is not None:
            session = self._counter.directory.resident(SESSION, known)
            if isinstance(session, SessionActor) and (
                session.undecided or session.has_key(request.principal, key)
            ):
                return known
            del self._keys[name]
        for (session_id,) in self._counter.reader.rows("session.by_key", name):
            return bytes(session_id)
        return None

    def _gives_up(self, request: Request, key: str, holder: bytes) -> bool:
        """Whether it has the key in the file, and its erasure is on its way there."""
        session = self._counter.directory.resident(SESSION, holder)
        return isinstance(session, SessionActor) and session.has_given_up(request.principal, key)

    def _may_get(self, request: Request, key: str, holder: bytes) -> bool:
        """Whether it has asked for the key, and may be refused."""
        session, owner = self._counter.directory.resident(SESSION, holder), request.principal
        return (
            isinstance(session, SessionActor)
            and session.undecided
            and not session.has_key(owner, key)
            and not self._counter.reader.rows("session.by_key", (owner, key))
        )

    def _once_settled(self, request: Request, body: ResolveBody, holder: bytes) -> None:
        """Ask again once what is under way of the session is written, or is not."""
        counter = self._counter

        def settled(answer: Mapping[str, Any] | PalyraError) -> None:
            try:
                if isinstance(answer, PalyraError) and answer.retryable:
                    raise answer
                self._resolve(request, body)
            except PalyraError as refusal:
                counter.refuse(request, "session.resolve", body, refusal)

        counter.internal(request.principal, SESSION, holder, Look(), settled)

    def _key(self, key: str | None) -> str | None:
        clean, redacted = self._text(key, "session_key", SESSION_KEY_BYTES_MAX)
        if redacted:
            raise Invalid(
                "the key holds what looks like a secret",
                field="session_key",
                hint="a key is shown in lists; take a name",
            )
        if clean == "":
            raise Invalid("a key has at least one character", field="session_key")
        return clean

    def _text(self, text: str | None, field: str, bytes_max: int) -> tuple[str | None, bool]:
        return (None, False) if text is None else clean_text(self._counter, text, field, bytes_max)


def clean_text(counter: Counter, text: str, field: str, bytes_max: int) -> tuple[str, bool]:
    """A client's text without secrets, and whether it had any. Raises TooLarge."""
    check_size(text, field, bytes_max)
    return counter.clean(text)


def check_size(text: str | None, field: str, bytes_max: int) -> None:
    """Raises TooLarge: the text takes more."""
    size = 0 if text is None else len(text.encode())
    if size > bytes_max:
        raise TooLarge(
            f"{field} takes at most {bytes_max} bytes",
            field=field,
            detail={"limit": bytes_max, "actual": size},
        )


def _page(  # noqa: PLR0917
    reader: ReadSide,
    principal: str | None,
    status: int | None,
    words: Sequence[str] | None,
    stream: int,
    limit: int,
) -> list[tuple[Any, ...]]:
    if words is not None:
        terms = " ".join(f'"{word}"*' for word in words)
        match = f"words : ({terms})"
        if principal is not None:
            match = f'owner : "{owner_word(principal)}" AND {match}'
        if not terms:
            return []
        if status is not None:
            archived = 'owner : "archived"'
            is_archived = status == STATUS_NUMBERS[Status.ARCHIVED]
            match = f"{archived} AND {match}" if is_archived else f"({match}) NOT {archived}"
        return reader.rows("session.matching", (match, stream, status or 1, status or 2, limit))
    if principal is None and status is None:
        return reader.rows("session.all", (stream, limit))
    if principal is None:
        return reader.rows("session.with_status", (status, stream, limit))
    if status is None:
        return reader.rows("session.of_owner", (principal, stream, limit))
    return reader.rows("session.of_owner_with_status", (principal, status, stream, limit))


def history(reader: ReadSide, session: Found, after: int) -> Iterator[Stored]:
    """The events of a session from `after` + 1 on, inherited ones first, as they are taken."""
    stretches: list[tuple[int, int, int]] = []  # stream, after, upto
    upto, here = session.last_seq, session
    for _ in range(BRANCH_DEPTH_MAX + 1):
        start = here.about.at or 0
        if upto > start:
            stretches.append((here.stream, start, upto))
        if here.about.parent is None or start <= after:
            break
        upto = min(start, upto)
        parent = reader.stream(SESSION, here.about.parent)
        assert parent is not None
        here = found(reader.rows("session.by_stream", (parent.stream,))[0])
    for stream, start, last in reversed(stretches):
        if last > after:
            yield from reader.numbered(stream, max(start, after), last)
