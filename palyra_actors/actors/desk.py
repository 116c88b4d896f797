"""Where frames become work: decode, check, and hand to whoever does it.

Door and embedded callers bring their frames here, on the loop's thread. What can be answered from
memory is answered at once; reads go to the readers, writes to the entities.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from palyra_actors.actors import clerks
from palyra_actors.actors.admission import OVER, Admission, Gate
from palyra_actors.actors.appends import RETRY_AFTER_MS, Appends
from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.directory import Directory
from palyra_actors.actors.entity import House
from palyra_actors.actors.feed import Feed, Subscription
from palyra_actors.actors.reader import ReadPage, Verify, too_many_reads
from palyra_actors.actors.readqueue import ReadQueue
from palyra_actors.actors.steering import TARGET, Plan, load_of
from palyra_actors.actors.swift import compiled as swift
from palyra_actors.actors.views import event_view, head_view
from palyra_actors.actors.work import Peer, Request, Tally, Unit, stopping
from palyra_actors.domain.catalog import kind_name, kind_to_find
from palyra_actors.domain.redact import redact_text
from palyra_actors.domain.swift import Written, compiled
from palyra_actors.errors import Denied, InternalFault, Invalid, Overloaded, PalyraError
from palyra_actors.ids import parse_ulid
from palyra_actors.runtime.actor import Ref
from palyra_actors.runtime.mailbox import MailboxFull
from palyra_actors.storage.port import Head, Selection, WriteSide
from palyra_actors.wire import codec
from palyra_actors.wire.append import WRITES, decode, peek
from palyra_actors.wire.messages import (
    AppendBody,
    CreditBody,
    NoBody,
    ReadBody,
    RecentBody,
    SubscribeBody,
    UnsubscribeBody,
    VerifyBody,
)

log = logging.getLogger(__name__)

SLICE_LOAD_MAX: Final = 350 if compiled is None else 550
"""Load served in one round (two or three milliseconds); the rest waits in the lobby for the next
one. What is refused has to be refused within five, and is only looked at between two slices. Where
one is too short for what comes at once, the way through the lobby costs a write a third more."""

LARGE_LOAD: Final = 175
SMALL_LOAD_MAX: Final = 50
"""A write of more than the one takes a round by itself; so much of smaller ones comes in beside it
all the same. Else who waits behind another's large ones is not served before it is refused."""

ROUND_FRAMES_MAX: Final = 512
"""Taken from the sockets in one round: about two milliseconds."""

REST_BYTES_MAX: Final = 4 * 1024 * 1024
"""What is kept for the next round as it came: more goes through the lobby."""

REFUSED_FRAMES_MAX: Final = 64
"""More frames than were served in the round before are taken while writes are refused: what a
refusal takes, a fifth of the loop at most, is taken from those that are let in. The rest waits in
its sockets (`bench/bench_overload.py`)."""

LOBBY_LOOK_S: Final = 0.001
read_append: Final[Any] = None if compiled is None else compiled.read_append
_NAMES: Final = {kind: op for op, kind in codec.REQUEST_TYPES.items()}
_APPEND: Final[Any] = codec.REQUEST_TYPES["journal.append"]
_LOOKS: Final = frozenset(codec.REQUEST_TYPES[op] for op in ("journal.recent", "engine.stats"))
"""Reads that the loop answers by itself and that take it long."""

_APPENDS: Final = frozenset({Written, _APPEND})
"""Of these a frame's size tells what they take: `steering.load_of`."""


@dataclass(slots=True)
class Office:
    """What the desk works with. `hello`, `health` and `stats` are answered by the engine."""

    tally: Tally
    directory: Directory
    feed: Feed
    readers: list[Ref[Any]]
    head: Callable[[], Head]
    monotonic: Callable[[], float]
    hello: Callable[[Request], Mapping[str, Any]]
    health: Callable[[], Mapping[str, Any]]
    stats: Callable[[Request], Mapping[str, Any]]
    house: House
    plan: Plan
    chore: Callable[[Callable[[WriteSide], None]], None]
    submit_all: Callable[[Sequence[Unit]], None]
    remembering: Any
    scheduling: bool
    requests_max: int
    peer_requests_max: int


class Desk:
    """Serves requests. Lives in the loop's thread; not an actor, but the front of all of them."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._appends = Appends(office.directory, office.submit_all)
        self._next_reader = 0
        self._looking = False
        self._slice = SLICE_LOAD_MAX  # what is left of this round's
        self._large = False  # whether a large one was served in it
        self._served = self._turned_away = 0  # of this round
        self._rest: tuple[list[tuple[Peer, bytes]], list[tuple[float, bool]]] = ([], [])
        self.frames_wanted = ROUND_FRAMES_MAX
        self.stopping = False
        self.admission = Admission(office.plan, Request.shed)
        self._reads = ReadQueue(
            office.plan, self._serve, monotonic=office.monotonic, company=self.admission.in_company
        )
        self._with = (
            self.admission.accounts, office.tally, self.admission, read_append,
            office.requests_max, office.peer_requests_max, LARGE_LOAD, OVER,
            TARGET, codec.WALKED_BYTES,
        )  # fmt: skip
        operations: dict[str, Callable[[Request, Any], None]] = {
            "journal.read": self._read,
            "journal.recent": self._recent,
            "journal.head": self._head,
            "journal.verify": self._verify,
            "journal.subscribe": self._subscribe,
            "journal.credit": self._credit,
            "journal.unsubscribe": self._unsubscribe,
            "engine.hello": self._hello,
            "engine.health": self._health,
            "engine.stats": self._stats,
        }
        self.counter = Counter(
            office.house, office.directory, self.to_reader, office.chore, office.remembering
        )
        self.counter.scheduling = office.scheduling
        self.counter.in_company = lambda: self.admission.in_company(office.monotonic())
        operations.update(clerks.operations(self.counter))
        office.feed.beside = self.counter.beside
        self.counter.destroyed = office.feed.destroyed
        self._operations = {codec.REQUEST_TYPES[op]: call for op, call in operations.items()}

    def serve(
        self,
        arrivals: Sequence[tuple[Peer, bytes]],
        stamps: Sequence[tuple[float, bool]] | None = None,
    ) -> None:
        """Answer each frame, now or later, with exactly one `ok` or `err`.

        `stamps`: of each since when it may have been there, monotonic seconds, and whether it was
        let in already, within `opening`; now and no where they are not given.
        """
        office, admission = self._office, self.admission
        now, tally = office.monotonic(), office.tally
        arrivals = list(arrivals)
        stamps = [(now, False)] * len(arrivals) if stamps is None else list(stamps)
        if self._rest[0]:  # it came before these
            (before, their_stamps), self._rest = self._rest, ([], [])
            arrivals, stamps = before + arrivals, their_stamps + stamps
        gate = admission.gate(now)
        requests: list[tuple[Request, Any, bytes]] = []
        looked, place = False, -1
        while (place := place + 1) < len(arrivals):
            whole: Written | None = None
            if self._slice > 0:
                place, whole = self._let_in(arrivals, stamps, place, requests, gate)
                if place == len(arrivals):
                    break
            (peer, frame), (arrived, promised) = arrivals[place], stamps[place]
            if self._slice <= 0 and not looked:
                looked = True
                rest = arrivals[place:]
                if admission.alone(peer, now) and _is_of_one_round(rest, peer):
                    self._rest = rest, stamps[place:]
                    office.house.loop.call_soon(self._serve_rest)
                    break
            request = None
            try:
                size = len(frame)
                if self._slice <= 0 or not gate.lets_in(peer, size, arrived, promised):
                    written = whole or peek(frame)
                    head = written or codec.decode_head(frame)
                    if head is not None and not self.stopping:
                        if head.budget_ms is None and not admission.may_wait(
                            peer, size, now, promised
                        ):
                            tally.turn_away()
                            retry_ms = admission.retry_ms(peer, size, now)
                            peer.send(codec.encode_overloaded(head.id, retry_ms))
                            self._turned_away += 1
                            continue
                        request = Request(peer, head.id, arrived, tally)
                        request.admission = admission
                        if head.budget_ms is not None:
                            request.budget_ms = head.budget_ms
                        if self._has_room(request):
                            key = written.session_id if written else codec.session_of(frame)
                            admission.wait(request, frame, key, written, promised)
                        continue
                try:
                    message = whole or decode(frame)
                except codec.Unusable as unusable:
                    Request(peer, unusable.request_id, arrived, tally).fail(unusable.error)
                    continue
                request = Request(peer, message.id, arrived, tally)
                if message.budget_ms is not None:
                    request.budget_ms = message.budget_ms
                if type(message) in WRITES:
                    request.admission = admission
                    if not self._has_room(request):
                        continue
                    if not admission.may_go_on(request, size, now):
                        admission.wait(request, frame, codec.session_of(frame), message)
                        continue
                    load = load_of(size)
                    admission.charge(request, load, now)
                    self._slice -= load
                    self._large |= load > LARGE_LOAD
                requests.append((request, message, frame))
            except BaseException as error:  # noqa: BLE001 - logged there
                self._at_fault(request or Request(peer, _id_in(frame), arrived, tally), error)
        self._serve_all(requests)
        if admission.waiting:
            self._look_again()

    def _let_in(
        self,
        arrivals: list[tuple[Peer, bytes]],
        stamps: list[tuple[float, bool]],
        place: int,
        requests: list[tuple[Request, Any, bytes]],
        gate: Gate,
    ) -> tuple[int, Written | None]:
        """Let in the usual appends from `place` on; where one stands that is not, and what was read
        of it, if it was.

        Usual is one that was read whole and that comes in at once.
        """
        terms = gate.terms
        if swift is None or read_append is None or terms is None or self.stopping:
            return place, None
        office, admission = self._office, self.admission
        tally = office.tally
        place, whole, count, load, large, peer, company, budgeted = swift.take_in(
            arrivals, stamps, place, requests, self._with, terms, admission.load, self._slice,
            tally.under_way, admission.last_peer,
        )  # fmt: skip
        if count:
            tally.received += count
            tally.under_way += count
            admission.charged(load, peer, company, budgeted, gate.now)
            self._slice -= load
            self._large |= large
        return place, whole

    def _serve_rest(self) -> None:
        """What was left of a round, in the next one, before what comes in that."""
        if self._rest[0]:
            self.serve((), ())

    def pump(self) -> None:
        """Let in who has waited for room, and refuse who cannot wait any longer. Each round."""
        admission, room, large, small_only = self.admission, self._slice, self._large, False
        self._slice, self._large = SLICE_LOAD_MAX, False
        self._reads.pump()
        if self._reads:
            self._office.house.loop.call_soon(_nothing)  # there is a next round
        self.frames_wanted = ROUND_FRAMES_MAX
        if self._turned_away:
            self.frames_wanted = self._served + REFUSED_FRAMES_MAX
        self._served = self._turned_away = 0
        if not admission.waiting:
            return
        now = self._office.monotonic()
        requests: list[tuple[Request, Any, bytes]] = []
        while True:
            if room <= 0 and large and not small_only:
                room, small_only = SMALL_LOAD_MAX, True
            if room <= 0 or (one := admission.next(now, room if small_only else inf)) is None:
                break
            message = one.message
            if message is None:
                try:
                    message = decode(one.frame)
                except codec.Unusable as unusable:
                    one.request.fail(unusable.error)
                    continue
                except BaseException as error:  # noqa: BLE001 - logged there
                    self._at_fault(one.request, error)
                    continue
            admission.charge(one.request, one.load, now)
            room -= one.load
            large |= one.load > LARGE_LOAD
            requests.append((one.request, message, one.frame))
        admission.send_away_late(now)
        self._serve_all(requests)
        if room <= 0 or small_only:
            self._office.house.loop.call_soon(_nothing)  # the next round's slice is due now
        elif admission.waiting:
            self._look_again()

    # -- what the door refuses by itself ---------------------------------------------------------

    def opening(self, now: float) -> tuple[bool, float, float, float, float, float, float]:
        """Whether the door may refuse plain appends that it does not know, and within what it may
        take them in: the first fields of `router.Opening`."""
        plan, admission = self._office.plan, self.admission
        sifts = plan.budget_s > 0 and not self.stopping
        return (
            sifts, *(admission.room(now) if sifts else (0.0, 0.0)), admission.before,
            *admission.through(now), plan.load_s,
        )  # fmt: skip

    def refused_early(self, count: int, served_at: float) -> None:
        """The door has refused so many, of whom the last may be served then."""
        self._office.tally.turn_away(count)
        self.admission.refused_early(count, served_at)

    def stop(self) -> None:
        """Refuse what waits, and all that comes from now on; wake no job any more."""
        self.stopping = True
        self._reads.stop()
        self.counter.rest()
        for request in self.admission.empty():
            request.fail(stopping())

    def drop_peer(self, peer: Peer) -> None:
        """The connection is gone, and with it what it has not begun."""
        if self._rest[0] and self._rest[0][0][0] is peer:
            self._rest = ([], [])
        self._reads.drop_peer(peer)
        for request in self.admission.drop_peer(peer):
            request.abandon()

    def _look_again(self) -> None:
        """A round comes soon, whatever happens: who waits is let in or told."""
        if not self._looking:
            self._looking = True
            self._office.house.loop.call_later(LOBBY_LOOK_S, self._looked)

    def _looked(self) -> None:
        self._looking = False
        if self.admission.waiting:
            self._look_again()

    def _has_room(self, request: Request) -> bool:
        """Whether so many requests may be under way; it is refused if not."""
        office = self._office
        if request.tally.under_way > office.requests_max:
            request.fail(_too_many("under way", office.requests_max))
        elif request.peer.under_way > office.peer_requests_max:
            request.fail(_too_many("of this connection under way", office.peer_requests_max))
        return not request.answered

    def _serve_all(self, requests: list[tuple[Request, Any, bytes]]) -> None:
        """Serve what is let in, but for the writes of a connection that has taken so much time
        meanwhile that it is the others' turn: these wait, in their order."""
        self._served += len(requests)
        if not requests:
            return
        try:
            self._appends.look([message for _, message, _ in requests])
        except BaseException:  # then each is looked through by itself
            log.exception("a round could not be looked through")
        owing: set[Peer] = set()
        put_back: list[tuple[Request, bytes, Any]] = []
        at = 0
        while at < len(requests):
            if not (owing or self.stopping):
                try:
                    at = self._appends.hand_out(requests, at)
                except BaseException:  # then they are served one by one
                    log.exception("a round could not be handed out at once")
                if at == len(requests):
                    break
            request, message, frame = requests[at]
            at += 1
            if type(message) in _LOOKS and not self.stopping:
                self._reads.take(request, message)
            elif owing and request.load and request.peer in owing:
                put_back.append((request, frame, message))
            elif not request.load:  # no write
                self._reads.answer(request, message)
            elif type(message) in _APPENDS:
                self._serve(request, message)
            elif self._serve_measured(request, message):
                owing.add(request.peer)
        for request, frame, message in reversed(put_back):
            self._slice = min(SLICE_LOAD_MAX, self._slice + request.load)  # others may have it
            self.admission.put_back(request, frame, message)
        self._served -= len(put_back)
        if put_back:
            self._look_again()

    def _serve_measured(self, request: Request, message: Any) -> bool:
        """Serve a write of which its frame does not tell how long it takes; whether the next one
        of its connection has to wait."""
        monotonic, admission, load = self._office.monotonic, self.admission, request.load
        began = monotonic()
        self._serve(request, message)
        ended = monotonic()
        admission.took(request, load, ended - began, ended)
        return admission.owed_s(request.peer, ended) > 0

    def _serve(self, request: Request, message: Any) -> None:
        try:
            body = AppendBody if type(message) is Written else message.body
            if request.peer.role not in body.roles:
                raise _may_not(request, body.roles)
            if self.stopping:
                raise stopping()
            if type(message) is Written:
                self._appends.write(request, message)
                return
            if message.principal is not None:
                self._act_for(request, message.principal)
            if message.traceparent is not None:
                request.traceparent = _no_secret(message.traceparent)
            if not request.load and not self._has_room(request):
                return
            if isinstance(message, _APPEND):
                self._appends.check_and_write(request, message.body)
            else:
                self._operations[type(message)](request, message.body)
        except PalyraError as refusal:
            op = _NAMES.get(type(message))
            try:
                if op is None:
                    request.fail(refusal)
                else:
                    self.counter.refuse(request, op, message.body, refusal)
            except BaseException as error:  # noqa: BLE001 - logged there
                self._at_fault(request, error)
        except BaseException as error:  # noqa: BLE001 - logged there
            self._at_fault(request, error)

    @staticmethod
    def _at_fault(request: Request, error: BaseException) -> None:
        """A fault of ours, before anything of the request was decided."""
        log.exception(
            "a request could not be served",
            extra={"request_id": request.id, "traceparent": request.traceparent},
        )
        request.fail(
            InternalFault(
                f"the request could not be served: {type(error).__name__}",
                hint="nothing was stored; the engine's log has the details",
                detail={"outcome": "none"},
            )
        )

    def refuse(self, peer: Peer, error: PalyraError) -> None:
        """Answer a message that is no request, without an id."""
        Request(peer, None, self._office.monotonic(), self._office.tally).fail(error)

    def _act_for(self, request: Request, principal: str) -> None:
        if principal == request.principal:
            return
        if not request.admin:
            raise Denied("only an admin acts for another principal", field="principal")
        request.principal = principal
        request.admin = False

    # -- engine -----------------------------------------------------------------------------------

    def _hello(self, request: Request, body: NoBody) -> None:
        del body
        request.ok(self._office.hello(request))

    def _health(self, request: Request, body: NoBody) -> None:
        del body
        request.ok(self._office.health())

    def _stats(self, request: Request, body: NoBody) -> None:
        del body
        request.ok(self._office.stats(request))

    # -- journal: reading -------------------------------------------------------------------------

    def _read(self, request: Request, body: ReadBody) -> None:
        selection = Selection(
            body.after_seq,
            None,
            None if body.run_id is None else parse_ulid(body.run_id, "run_id"),
            _stored_kinds(body.kinds),
            None if request.admin else request.principal,
        )
        session_id = None if body.session_id is None else parse_ulid(body.session_id, "session_id")
        self.to_reader(ReadPage(request, selection, session_id, body.limit, body.raw))

    def _recent(self, request: Request, body: RecentBody) -> None:
        principal = None if request.admin else request.principal
        events = self._office.feed.recent(body.limit, principal)
        request.ok({"events": [event_view(event) for event in events]})

    def _head(self, request: Request, body: NoBody) -> None:
        del body
        request.ok(head_view(self._office.head()))

    def _verify(self, request: Request, body: VerifyBody) -> None:
        from_seq = body.from_seq or 1
        if body.to_seq is not None and body.to_seq < from_seq - 1:
            raise Invalid("to_seq lies before from_seq", field="to_seq")
        expect = None if body.expect is None else Head(body.expect.seq, body.expect.hash)
        self.to_reader(Verify(request, from_seq, body.to_seq, expect))

    def to_reader(self, message: Any) -> None:
        """Pass a message to the next reader that has nothing to do, or else to the next that has
        room. Raises Overloaded."""
        readers = self._office.readers
        places = [(self._next_reader + 1 + n) % len(readers) for n in range(len(readers))]
        places.sort(key=lambda place: not readers[place].actor_inbox.is_free)  # type: ignore[attr-defined]
        for place in places:
            try:
                readers[place].tell(message)
            except MailboxFull:
                continue
            self._next_reader = place
            return
        raise too_many_reads()

    # -- journal: following -----------------------------------------------------------------------

    def _subscribe(self, request: Request, body: SubscribeBody) -> None:
        after_seq = self._office.head().seq if body.after_seq is None else body.after_seq
        stored_kinds = _stored_kinds(body.kinds)
        self._office.feed.subscribe(
            Subscription(
                request,
                after_seq,
                None if body.session_id is None else parse_ulid(body.session_id, "session_id"),
                None if stored_kinds is None else frozenset(map(kind_name, stored_kinds)),
                stored_kinds,
                body.credit,
            )
        )

    def _credit(self, request: Request, body: CreditBody) -> None:
        self._office.feed.add_credit(request.peer, body.sub, body.credit)
        request.ok({})

    def _unsubscribe(self, request: Request, body: UnsubscribeBody) -> None:
        self._office.feed.unsubscribe(request.peer, body.sub)
        request.ok({})


def _may_not(request: Request, roles: frozenset[str]) -> Denied:
    return Denied(
        f"a {request.peer.role} may not do this",
        hint=f"it takes the role {' or '.join(sorted(roles))}",
    )


def _id_in(frame: bytes) -> codec.RequestId:
    """The id of a frame that could not be served; nil where it cannot be read either."""
    try:
        head = codec.decode_head(frame)
    except BaseException:  # noqa: BLE001 - it was at fault already
        return None
    return None if head is None else head.id


def _is_of_one_round(arrivals: Sequence[tuple[Peer, bytes]], peer: Peer) -> bool:
    """Whether all are that peer's, and no more than what one round brings."""
    return (
        len(arrivals) <= ROUND_FRAMES_MAX
        and all(one is peer for one, _ in arrivals)
        and sum(len(frame) for _, frame in arrivals) <= REST_BYTES_MAX
    )


def _nothing() -> None:
    """Makes sure that a round comes."""


def _too_many(which: str, limit: int) -> Overloaded:
    return Overloaded(
        f"{limit} requests are {which}",
        retry_after_ms=RETRY_AFTER_MS,
        hint="keep fewer in flight",
        detail={"limit": limit},
    )


def _no_secret(traceparent: str) -> str:
    """It is stored and chained as it is, beside the payload: nothing could take it out again."""
    if redact_text(traceparent) != traceparent:
        raise Invalid(
            "the traceparent holds what looks like a secret",
            field="traceparent",
            hint="W3C Trace Context: 00-<trace id>-<parent id>-<flags>",
        )
    return traceparent


def _stored_kinds(kinds: list[str] | None) -> frozenset[int | str] | None:
    if kinds is None:
        return None
    stored: set[int | str] = set()
    for index, name in enumerate(kinds):
        kind = kind_to_find(name)
        if kind is None:
            raise Invalid(
                f"{name[:64]!r} is no kind",
                field=f"kinds[{index}]",
                hint="a kind of the contract, or a name of your own: x.…",
            )
        stored.add(kind)
    return frozenset(stored)
