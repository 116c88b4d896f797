"""What a clerk works with: the way to entities and readers, checks, ids and time."""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from palyra_actors.actors.directory import Directory
from palyra_actors.actors.entity import Entity, House, ask, take_back
from palyra_actors.actors.feed import Streams
from palyra_actors.actors.pace import Room
from palyra_actors.actors.reader import Ask, Look, Trickle
from palyra_actors.actors.retry import first_answer
from palyra_actors.actors.rota import Rota
from palyra_actors.actors.work import Errand, Key, Portion, Request, Unit
from palyra_actors.domain.payload import check_value
from palyra_actors.domain.redact import (
    SECRET,
    TOKEN_TEXT,
    FirstLook,
    redact,
    redact_text,
    redact_value,
)
from palyra_actors.errors import Overloaded, PalyraError, StorageUnavailable
from palyra_actors.ids import parse_ulid
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.runtime.mailbox import MailboxFull
from palyra_actors.storage.port import ASKED_DIGEST_BYTES, ReadSide, WriteSide
from palyra_actors.wire.messages import Timing, WriteBody

RETRY_AFTER_MS: Final = 25
BACKLOG_BYTES_MAX: Final = 1024 * 1024
"""What a peer may leave untaken before its stream waits for it."""

BACKLOG_LOOK_S: Final = 0.005
ASK_AGAIN_S: Final = 0.005

NO_FIELDS: Final[Mapping[str, Any]] = {}

_sorted = msgspec.msgpack.Encoder(order="sorted").encode


class Witness(NamedTuple):
    """An entity and what it is asked before a command of another one is decided."""

    kind: int
    entity_id: bytes
    command: Any


Inform: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], Any]


class _Asking:
    """A reader whose every call goes through `ask`; the house is told of one that fails."""

    def __init__(self, house: House) -> None:
        self._house = house

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, getattr(self._house.reader, name))

    def _call(self, question: Callable[..., Any], *about: object) -> Any:
        try:
            return ask(question, *about)
        except StorageUnavailable as failure:
            self._house.unread(failure.message)
            raise


class Counter:
    """All of it on the loop's thread, but for what `look` is given to do."""

    def __init__(
        self,
        house: House,
        directory: Directory,
        to_reader: Callable[[Any], None],
        chore: Callable[[Callable[[WriteSide], None]], None],
        remembering: Any,
    ) -> None:
        self.house = house
        self.directory = directory
        self._reader: Any = _Asking(house)
        self.to_reader = to_reader
        self.chore = chore
        self._first_look = FirstLook()
        self.remembering = remembering
        """What the memory clerk works with: `clerks.remembering.Remembering`."""
        self.destroyed: Callable[[], None] = lambda: None
        """Payloads are gone from the file: forget them."""
        self.erasing: Callable[[], None] = lambda: None
        """Payloads are to be destroyed: rows of `erasures` were written."""
        self.urge_checkpoint: Callable[[Callable[[], None]], None] = lambda done: done()
        """Have the WAL moved into the database, beside the writer, before it is to be emptied; the
        argument is called afterwards, on any thread."""
        self.heirlooms: list[Callable[[bytes, Callable[[], None]], None]] = []
        """Called with a session's id while it is erased: destroy what came from it, and call back
        when all of that is durable. It may be asked again for the same session, after a crash."""
        self.beside: list[Streams] = []
        """Subscriptions besides the journal's; `journal.credit` serves them, too."""
        self.after_crash: list[Callable[[], None]] = []
        """Called once the engine runs, if it was not closed the last time."""
        self.scheduling = True
        """Whether jobs are woken when they are due."""
        self.in_company: Callable[[], bool] = lambda: False
        """Whether clients write: what of the engine's own can be put off leaves them time."""
        self.room = Room(house.loop, lambda: False, lambda: False)
        """Where slices of long work wait for their turn."""
        self.rota = Rota(house.loop.clock)
        """The engine's own jobs, each at its interval; the scheduler wakes them."""
        self.rest: Callable[[], None] = lambda: None
        """The engine stops: begin nothing by itself any more. It may be called again."""
        self.jobs: Callable[[], Mapping[str, int]] = dict
        """Counts of scheduler and workers."""

    @property
    def loop(self) -> Loop:
        return self.house.loop

    @property
    def reader(self) -> ReadSide:
        """The loop's own connection: for a lookup or two, not for pages. A file that cannot be
        read is StorageUnavailable."""
        reader: ReadSide = self._reader
        return reader

    def now_ms(self) -> int:
        """Wall time, milliseconds since 1970 UTC."""
        return self.house.loop.clock.wall_ms()

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Once, on this thread."""
        self.house.loop.call_later(seconds, call)

    def new_id(self) -> bytes:
        """An id that is greater than all before it."""
        return self.house.new_id()

    def ulid(self, text: str, field: str) -> bytes:
        """Raises InvalidId."""
        return parse_ulid(text, field)

    def clean(self, text: str) -> tuple[str, bool]:
        """A client's text without its secrets, and whether it had any."""
        clean = redact_text(text)
        return clean, clean is not text

    def clean_value(self, raw: msgspec.Raw, field: str, bytes_max: int) -> tuple[Any, bool]:
        """A client's value, decoded, without its secrets, and whether it had any.

        Raises:
            TooLarge: it is longer than `bytes_max` bytes.
            Invalid: it breaks a rule of the contract's values; `field` and the path in it.
        """
        value, redacted, _ = self.clean_and_look(raw, field, bytes_max)
        return value, redacted

    def clean_and_look(
        self, raw: msgspec.Raw, field: str, bytes_max: int
    ) -> tuple[Any, bool, bool]:
        """As `clean_value`, and whether what came was `suspicious`."""
        blob = bytes(raw)
        value = check_value(blob, field, bytes_max)
        if not self.suspicious(blob):
            return value, False, False
        return *redact_value(value, blob, look=self.suspicious), True

    def suspicious(self, packed: bytes) -> bool:
        """Whether a secret may be in these bytes of MessagePack: a hundredth of what `redact`
        takes."""
        return bool(self._first_look(packed) & (SECRET | TOKEN_TEXT))

    def command(
        self,
        request: Request,
        kind: int,
        entity_id: bytes,
        command: Any,
        *,
        op: str,
        body: WriteBody,
        clean: Mapping[str, Any] = NO_FIELDS,
        witnesses: Sequence[Witness] = (),
        inform: Inform | None = None,
    ) -> None:
        """Hand a command to its entity; its `ok` is the decision's answer and `timing`.

        `clean`: fields of the body as `clean_value` gave them, which need not be read again.

        `witnesses`: other entities that have a say before it is decided, or something to tell;
        `inform` makes the command of their answers, if it is not to be `command`. What is asked
        of any of them later, also of this entity, is decided later.

        Raises:
            InvalidId: the body's `event_id` is no ULID.
            Overloaded: the entity is behind.
        """
        unit = Unit(request)
        unit.key = self._key(request, op, body, clean)
        if witnesses:
            unit.inform = inform or (lambda _: command)
        self._hand(unit, (Witness(kind, entity_id, command), *witnesses))

    def refuse(self, request: Request, op: str, body: Any, refusal: PalyraError) -> None:
        """Refuse a request before any entity was asked; unless it is a retry of one that is
        written: then it is the first answer again, whatever stands against it by now."""
        verdict = None
        if isinstance(body, WriteBody) and body.event_id is not None:
            try:
                key = self._key(request, op, body)
                assert key is not None
                verdict = ask(first_answer, self.reader, key, self.directory.entity)
            except PalyraError as error:
                refusal = error
            except (
                msgspec.MsgspecError,
                TypeError,
                ValueError,
            ):  # what cannot be read was never written
                verdict = None
        if verdict is None or verdict.answer is None:
            request.fail(refusal if verdict is None or verdict.error is None else verdict.error)
            return
        total_ms = (self.house.loop.clock.monotonic() - request.arrived) * 1000
        assert isinstance(verdict.answer, Mapping)
        request.ok({**verdict.answer, "timing": Timing(total_ms, 0.0, total_ms, True)})

    def internal(
        self,
        principal: str,
        kind: int,
        entity_id: bytes,
        command: Any,
        done: Callable[[Mapping[str, Any] | PalyraError], None],
    ) -> None:
        """A command of the engine's own, in the name of a principal; it passes as admin.

        `done` gets the answer or the error, never at once in this call's caller's frame unless
        nothing had to be waited for.
        """
        request = Errand(principal, self.house.loop.clock.monotonic(), done)
        try:
            self._hand(Unit(request), (Witness(kind, entity_id, command),))
        except PalyraError as refusal:
            request.fail(refusal)

    def internal_slice(
        self,
        principal: str,
        asked: Sequence[tuple[Entity, Any]],
        done: Callable[[Sequence[Mapping[str, Any]] | PalyraError], None],
    ) -> None:
        """Commands of the engine's own for several entities, as one unit: all or none of them.

        The entities are `free`: none of them keeps the others waiting. `done` gets their answers
        in the order in which they were asked, or the error, maybe at once.
        """
        portions: list[Portion] = []

        def came(answer: Mapping[str, Any] | PalyraError) -> None:
            if isinstance(answer, PalyraError):
                done(answer)
            else:
                done([portion.answer or {} for portion in portions])

        unit = Unit(Errand(principal, self.house.loop.clock.monotonic(), came))
        unit.is_command, unit.left = True, len(asked)
        for entity, command in asked:
            portions.append(Portion(unit, entity, entity.stream_id, command, ()))
        unit.portions = list(portions)
        for portion in portions:
            portion.entity.hand(portion)

    def look(self, request: Request, find: Callable[[ReadSide], Mapping[str, Any]]) -> None:
        """Answer with what `find` returns, or the PalyraError that it raises: in a reader's
        thread, which sees every commit that was acknowledged before. Raises Overloaded.
        """
        self.to_reader(Look(request, find))

    def ask(self, find: Callable[[ReadSide], Any], done: Callable[[Any], None]) -> None:
        """Have something looked up for the engine itself: `done` gets what was found, or the
        error, on this thread. Where all readers are busy it waits for its turn.
        """
        try:
            self.to_reader(Ask(find, done))
        except PalyraError:
            self.call_later(ASK_AGAIN_S, lambda: self.ask(find, done))

    def stream(
        self,
        request: Request,
        pages: Callable[[ReadSide], Generator[Mapping[str, Any], None, Mapping[str, Any]]],
    ) -> None:
        """Answer with a stream of what `pages` yields, in a reader's thread; what it returns ends
        it. It may be left for long between two items: it holds no transaction meanwhile.
        """

        def go_on(trickle: Trickle) -> None:
            if request.answered:
                return
            if request.peer.backlog_bytes > BACKLOG_BYTES_MAX:
                self.call_later(BACKLOG_LOOK_S, lambda: go_on(trickle))
                return
            try:
                self.to_reader(trickle)
            except PalyraError:  # all are busy: this one is under way and keeps its place
                self.call_later(BACKLOG_LOOK_S, lambda: go_on(trickle))

        self.to_reader(Trickle(request, pages, go_on))

    def _hand(self, unit: Unit, asked: Sequence[Witness]) -> None:
        """The first of those asked is the one whose command it is. Raises Overloaded."""
        directory = self.directory
        directory.begin_request()
        unit.is_command, unit.left = True, len(asked)
        for one in asked:
            entity = directory.entity(one.kind, one.entity_id)
            unit.portions.append(Portion(unit, entity, one.entity_id, one.command, ()))
        portions = unit.portions
        try:
            for portion in (*portions[1:], portions[0]):
                portion.entity.hand(portion)
        except MailboxFull as full:
            unit.settled = True
            take_back(portions)
            raise Overloaded(
                f"it is behind: {full}", hint="come back later", retry_after_ms=RETRY_AFTER_MS
            ) from full

    def _key(
        self, request: Request, op: str, body: WriteBody, clean: Mapping[str, Any] = NO_FIELDS
    ) -> Key | None:
        """Raises InvalidId: the body's `event_id` is no ULID."""
        if body.event_id is None:
            return None
        event_id = parse_ulid(body.event_id, "event_id")
        return Key(event_id, self._digest(op, request.principal, body, clean))

    def _digest(self, op: str, principal: str, body: WriteBody, clean: Mapping[str, Any]) -> bytes:
        """Of what is asked for, by meaning: the order of keys and the form of numbers do not
        matter, and secrets are out of it."""
        said = {
            name: it
            for name in body.__struct_fields__
            if name != "event_id" and name not in clean and _is_said(it := getattr(body, name))
        }
        packed = msgspec.msgpack.encode(said)
        content = msgspec.msgpack.decode(packed)
        if self.suspicious(packed):
            content, _ = redact(content, kind="", look=self.suspicious)
        content.update(clean)
        return sha256(_sorted([op, principal, content])).digest()[:ASKED_DIGEST_BYTES]


def _is_said(value: object) -> bool:
    """Whether a body has it: a value that was left out is UNSET, or no bytes at all."""
    if type(value) is msgspec.Raw:
        return len(bytes(value)) > 0
    return value is not msgspec.UNSET
