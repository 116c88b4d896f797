"""What was just written, from memory: the recent events, and subscriptions.

    behind ──page──▶ behind … ──reached the window──▶ live
       ▲                                              │
       └── credit again ── paused ◀── no credit ──────┘

A subscription holds a position and nothing else. Live, it is fed from each durable group; without
credit it stops where it is; behind, it reads pages of the file until what is left lies in the
window of groups that are kept in memory. All of that happens in the loop's thread, so that
nothing can be written between the last page and the first live event.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from palyra_actors.actors.group import Group, stored_events
from palyra_actors.actors.reader import CatchUp
from palyra_actors.actors.views import event_view, head_view
from palyra_actors.actors.work import Peer, Request
from palyra_actors.domain.catalog import SESSION
from palyra_actors.domain.chain import Stored
from palyra_actors.errors import InternalFault, Invalid, LimitReached, NotFound, PalyraError
from palyra_actors.limits import (
    RECENT_LIMIT_MAX,
    REPLY_PAYLOAD_BYTES_MAX,
    SUBSCRIBE_CREDIT_MAX,
    SUBSCRIPTION_HEAD_SECONDS_MAX,
    SUBSCRIPTIONS_PER_PEER_MAX,
)
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.storage.port import EventPage, Head, Selection
from palyra_actors.wire.codec import RequestId

WINDOW_EVENTS_MAX: Final = 8_192
WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024
PAGE_EVENTS: Final = 500
RECENT_LOOKED_AT_MAX: Final = 1_000
"""Events that `recent` goes through for those of one principal: 3 ms of the loop."""
PEER_BYTES_MAX: Final = 2 * 1024 * 1024
"""Items that may wait for a peer to take them. Credit counts events and not their bytes: beyond
this a stream waits with its peer, who would be cut for being slower than the file is read."""

PEER_LOOK_S: Final = 0.005
HEAD_EVERY_S: Final = SUBSCRIPTION_HEAD_SECONDS_MAX - 1.0

log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode


class Streams(Protocol):
    """Subscriptions of another kind, under the same ids."""

    def __len__(self) -> int: ...
    def add_credit(self, peer: Peer, name: RequestId, credit: int) -> bool: ...
    def unsubscribe(self, peer: Peer, name: RequestId) -> bool: ...
    def drop_peer(self, peer: Peer) -> None: ...
    def end_all(self, error: PalyraError) -> None: ...


class Mode(Enum):
    BEHIND = "behind"
    LIVE = "live"
    PAUSED = "paused"


@dataclass(slots=True, eq=False)
class Subscription:
    """`position`: everything up to this seq was sent or does not match."""

    request: Request
    position: int
    session_id: bytes | None
    kinds: frozenset[str] | None
    stored_kinds: frozenset[int | str] | None
    credit: int
    mode: Mode = Mode.BEHIND
    ended: bool = False

    def wants(self, event: Stored, owner: str) -> bool:
        """Whether a page of the file would have it: `owner` is that of the event's stream. Who
        owns a session hears all of it, whoever wrote there."""
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        principal = event.principal
        if self.session_id is not None:
            if event.stream_id != self.session_id or event.stream != "session":
                return False
            principal = owner
        return self.request.admin or principal == self.request.principal


class Busy(NamedTuple):
    """A session, and how many of the last events are its own."""

    session_id: bytes
    events: int


class Feed:
    """Lives in the loop's thread.

    Args:
        last: that many of the file's last events, newest last.
        read: passes a `CatchUp` to a reader, or raises if it cannot.
    """

    def __init__(
        self,
        loop: Loop,
        last: Callable[[int], Iterable[Stored]],
        head: Head,
        read: Callable[[CatchUp], None],
    ) -> None:
        self._loop = loop
        self._head = head
        self._read = read
        self._last = last
        self._at_start = list(last(RECENT_LIMIT_MAX))
        self.beside: list[Streams] = []
        self._window: deque[Group] = deque()
        self._window_events = 0
        self._window_bytes = 0
        self._window_after = head.seq
        self._subscriptions: dict[tuple[Peer, RequestId], Subscription] = {}
        self._per_peer: dict[Peer, int] = {}
        self._sent_bytes: dict[Peer, int] = {}
        loop.after_round(self._sent_bytes.clear)
        loop.call_later(HEAD_EVERY_S, self._tell_heads)

    def __len__(self) -> int:
        return len(self._subscriptions)

    # -- what was written -------------------------------------------------------------------------

    def publish(self, group: Group) -> None:
        """A group is durable: keep it for a while and send it to whoever is live."""
        self._head = group.after
        self._window.append(group)
        self._window_events += len(group.batch.events)
        self._window_bytes += group.payload_bytes
        while len(self._window) > 1 and (
            self._window_events - len(self._window[0].batch.events) >= RECENT_LIMIT_MAX
            and (self._window_events > WINDOW_EVENTS_MAX or self._window_bytes > WINDOW_BYTES_MAX)
        ):
            oldest = self._window.popleft()
            self._at_start.clear()  # it ends before the oldest group that is left
            self._window_events -= len(oldest.batch.events)
            self._window_bytes -= oldest.payload_bytes
            self._window_after = oldest.after.seq
        live = [s for s in self._subscriptions.values() if s.mode is Mode.LIVE]
        if live:
            events = _owned(group)
            encoded: dict[int, msgspec.Raw] = {}
            for subscription in live:
                if not self._send(subscription, events, encoded):
                    self._wait(subscription)

    def missed(self, head: Head) -> None:
        """A group up to that head could not be published. Nothing is known of it here, so memory is
        forgotten, and who was live reads on from the file: a gap would be worse."""
        self._head = head
        self._clear()
        for subscription in list(self._subscriptions.values()):
            if subscription.mode is Mode.LIVE:
                self._wait(subscription)

    def destroyed(self) -> None:
        """Payloads were destroyed: nothing that is kept here may tell them any more. What the file
        has of the last events takes its place; where it cannot be read, nothing does.
        """
        self._clear()
        with suppress(Exception):
            found = self._last(RECENT_LIMIT_MAX)
            self._at_start = [event for event in found if event.seq <= self._head.seq]

    def _clear(self) -> None:
        self._window.clear()
        self._at_start = []
        self._window_events = self._window_bytes = 0
        self._window_after = self._head.seq

    def recent(self, limit: int, principal: str | None) -> list[Stored]:
        """The last events, newest last, up to `limit` of them and as many as fit a reply.

        With a principal only its own, of those among the last `RECENT_LOOKED_AT_MAX`.
        """
        newest_first: list[Stored] = []
        bytes_left = REPLY_PAYLOAD_BYTES_MAX
        for event in self._backwards(limit if principal is None else RECENT_LOOKED_AT_MAX):
            if principal not in (None, event.principal):
                continue
            bytes_left -= len(event.payload or b"")
            if len(newest_first) == limit or (newest_first and bytes_left < 0):
                break
            newest_first.append(event)
        return newest_first[::-1]

    def _backwards(self, count: int) -> Iterator[Stored]:
        """The last `count` events from memory, newest first."""
        for group in reversed(self._window):
            events = stored_events(group, last=count)
            yield from reversed(events)
            count -= len(events)
            if count <= 0:
                return
        yield from self._at_start[::-1][:count]

    @property
    def window_events(self) -> int:
        """How many of the last events are kept in memory."""
        return self._window_events

    def busiest(self, count: int) -> tuple[Busy, ...]:
        """The sessions with the most events among those that are kept, busiest first."""
        counted: Counter[bytes] = Counter()
        for group in self._window:
            for tail, number in Counter(tail for tail, _ in group.owners).items():
                if tail.kind == SESSION:
                    counted[tail.stream_id] += number
        return tuple(Busy(one, events) for one, events in counted.most_common(count))

    # -- subscriptions ----------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Begin. Items go out from now on, until `unsubscribe` or the peer is gone.

        Raises:
            Invalid: the peer has a subscription of that id.
            LimitReached: the peer has as many as it may.
        """
        peer, request_id = subscription.request.peer, subscription.request.id
        if (peer, request_id) in self._subscriptions:
            raise Invalid(
                "this connection has a subscription of that id", field="id", hint="use another id"
            )
        if self._per_peer.get(peer, 0) >= SUBSCRIPTIONS_PER_PEER_MAX:
            raise LimitReached(
                f"a connection holds at most {SUBSCRIPTIONS_PER_PEER_MAX} subscriptions",
                hint="unsubscribe from one, or open another connection",
                detail={"limit": SUBSCRIPTIONS_PER_PEER_MAX},
            )
        self._subscriptions[peer, request_id] = subscription
        self._per_peer[peer] = self._per_peer.get(peer, 0) + 1
        self._advance(subscription)

    def add_credit(self, peer: Peer, request_id: RequestId, credit: int) -> None:
        """Let a subscription send that many events more. Raises NotFound, Invalid."""
        if any(streams.add_credit(peer, request_id, credit) for streams in self.beside):
            return
        subscription = self._get(peer, request_id)
        if subscription.credit + credit > SUBSCRIBE_CREDIT_MAX:
            raise Invalid(
                f"a subscription holds at most {SUBSCRIBE_CREDIT_MAX} credit",
                field="credit",
                hint="give credit back as events are taken",
                detail={"actual": subscription.credit},
            )
        subscription.credit += credit
        if subscription.mode is Mode.PAUSED:
            subscription.mode = Mode.BEHIND
            self._advance(subscription)

    def unsubscribe(self, peer: Peer, request_id: RequestId) -> None:
        """End one: its request gets its `ok`. Raises NotFound."""
        if any(streams.unsubscribe(peer, request_id) for streams in self.beside):
            return
        subscription = self._get(peer, request_id)
        self._forget(subscription)
        subscription.request.ok({})

    def drop_peer(self, peer: Peer) -> None:
        """The peer is gone; nobody is answered."""
        for streams in self.beside:
            streams.drop_peer(peer)
        for subscription in [s for s in self._subscriptions.values() if s.request.peer is peer]:
            self._forget(subscription)
            subscription.request.abandon()

    def end_all(self, error: PalyraError) -> None:
        """End every subscription with an error."""
        for streams in self.beside:
            streams.end_all(error)
        for subscription in list(self._subscriptions.values()):
            self._forget(subscription)
            subscription.request.fail(error)

    def _get(self, peer: Peer, request_id: RequestId) -> Subscription:
        subscription = self._subscriptions.get((peer, request_id))
        if subscription is None:
            raise NotFound("this connection has no such subscription", field="sub")
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        peer = subscription.request.peer
        subscription.ended = True
        del self._subscriptions[peer, subscription.request.id]
        self._per_peer[peer] -= 1
        if not self._per_peer[peer]:
            del self._per_peer[peer]

    # -- catching up ------------------------------------------------------------------------------

    def _advance(self, subscription: Subscription) -> None:
        """From memory if what is missing lies there, else a page of the file."""
        if subscription.ended:
            return
        if subscription.credit == 0:
            subscription.mode = Mode.PAUSED
            return
        subscription.mode = Mode.BEHIND
        if self._waiting_bytes(subscription.request.peer) > PEER_BYTES_MAX // 2:
            self._wait(subscription)
            return
        if subscription.position >= self._window_after:
            subscription.mode = Mode.LIVE
            for group in list(self._window):
                if group.after.seq > subscription.position and not self._send(
                    subscription, _owned(group), {}
                ):
                    self._wait(subscription)
                    return
            return
        principal = None if subscription.request.admin else subscription.request.principal
        selection = Selection(
            subscription.position, None, None, subscription.stored_kinds, principal
        )
        limit = min(subscription.credit, PAGE_EVENTS)
        try:
            self._read(
                CatchUp(
                    selection,
                    subscription.session_id,
                    limit,
                    lambda page: self._loop.call_soon(lambda: self._caught(subscription, page)),
                )
            )
        except PalyraError:  # the readers are that far behind; look again soon
            self._loop.call_later(0.05, lambda: self._advance(subscription))

    def _caught(self, subscription: Subscription, page: EventPage | PalyraError) -> None:
        if subscription.ended:
            return
        if isinstance(page, PalyraError):
            self._forget(subscription)
            subscription.request.fail(page)
            return
        selected = [(event, subscription.request.principal) for event in page.events]
        if self._send(subscription, selected, {}):
            subscription.position = max(subscription.position, page.next_after_seq)
        self._advance(subscription)

    def _wait(self, subscription: Subscription) -> None:
        """Go on from its position once it has credit, or its peer has taken what it was sent."""
        if subscription.mode is not Mode.PAUSED:
            subscription.mode = Mode.BEHIND
            self._loop.call_later(PEER_LOOK_S, lambda: self._advance(subscription))

    def _waiting_bytes(self, peer: Peer) -> int:
        return peer.backlog_bytes + self._sent_bytes.get(peer, 0)

    def _send(
        self,
        subscription: Subscription,
        events: Iterable[tuple[Stored, str]],
        encoded: dict[int, msgspec.Raw],
    ) -> bool:
        """False: it has to stop before one of them, without credit or for its peer's sake.

        A subscription whose event cannot be sent is ended: going on would leave that event out.
        """
        try:
            return self._send_each(subscription, events, encoded)
        except BaseException:
            log.exception("a subscription could not be served")
            self._forget(subscription)
            subscription.request.fail(
                InternalFault(
                    "the next event could not be sent",
                    hint="subscribe again after the last event that came",
                    detail={"outcome": "none"},
                )
            )
            return True

    def _send_each(
        self,
        subscription: Subscription,
        events: Iterable[tuple[Stored, str]],
        encoded: dict[int, msgspec.Raw],
    ) -> bool:
        peer = subscription.request.peer
        for event, owner in events:
            if event.seq <= subscription.position:
                continue
            if subscription.wants(event, owner):
                if subscription.credit == 0:
                    subscription.mode = Mode.PAUSED
                    return False
                if self._waiting_bytes(peer) > PEER_BYTES_MAX:
                    return False
                view = encoded.get(event.seq)
                if view is None:
                    view = encoded[event.seq] = msgspec.Raw(_encode(event_view(event)))
                subscription.credit -= 1
                subscription.request.item({"event": view})
                self._sent_bytes[peer] = self._sent_bytes.get(peer, 0) + len(bytes(view))
            subscription.position = event.seq
        return True

    def _tell_heads(self) -> None:
        self._loop.call_later(HEAD_EVERY_S, self._tell_heads)
        item: dict[str, Any] = {"head": head_view(self._head)}
        for subscription in self._subscriptions.values():
            subscription.request.item(item)


def _owned(group: Group) -> list[tuple[Stored, str]]:
    """The group's events, each with the owner of its stream."""
    owners = (tail.principal for tail, _ in group.owners)
    return list(zip(stored_events(group), owners, strict=True))
