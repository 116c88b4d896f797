"""Canvases as they change, for whoever looks on.

    behind ──pages of patches──▶ live ──a patch──▶ live ──all of a closed canvas sent──▶ ended
       ▲                           │
       └── credit again, or room ──┴── no credit, or the peer does not take what it has

A subscription holds the version that it has come to. Live, it is sent each patch as it becomes
durable; otherwise it reads what it lacks from the file until nothing is missing. All of that in
the loop's thread, so that no patch can slip between the last page and the first live one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from palyra_actors.actors.canvas import erased, load
from palyra_actors.actors.work import Peer, Portion, Request
from palyra_actors.domain.canvas import Who, view
from palyra_actors.domain.catalog import CANVAS
from palyra_actors.domain.folds import upcast
from palyra_actors.errors import Gone, Invalid, LimitReached, NotFound, PalyraError
from palyra_actors.limits import (
    REPLY_PAYLOAD_BYTES_MAX,
    SUBSCRIBE_CREDIT_MAX,
    SUBSCRIPTIONS_PER_PEER_MAX,
)
from palyra_actors.storage.port import ReadSide
from palyra_actors.wire.codec import RequestId

PEER_BYTES_MAX: Final = 2 * 1024 * 1024
PAGE_PATCHES: Final = 200
LOOK_S: Final = 0.005


@dataclass(slots=True, eq=False)
class Watch:
    """`version`: the last one sent; None: the snapshot comes first. `behind`: something was written
    while it was reading, perhaps after the reader had looked. `closing`: the canvas was closed, of
    which it is told without credit."""

    request: Request
    canvas_id: bytes
    version: int | None
    credit: int
    reading: bool = False
    behind: bool = False
    closing: bool = False
    ended: bool = False
    admitted: bool = False


class CanvasFeed:
    """All who look on. `look` has a reader do something and passes on what came of it."""

    def __init__(
        self,
        look: Callable[[Callable[[ReadSide], Any], Callable[[Any], None]], None],
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._look = look
        self._call_later = call_later
        self._watches: dict[tuple[Peer, RequestId], Watch] = {}
        self._by_canvas: dict[bytes, list[Watch]] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def subscribe(self, watch: Watch) -> None:
        """Raises LimitReached, Invalid: the connection has one under that id."""
        peer, name = watch.request.peer, watch.request.id
        if (peer, name) in self._watches:
            raise Invalid("this connection has a subscription under that id", field="id")
        if sum(known is peer for known, _ in self._watches) >= SUBSCRIPTIONS_PER_PEER_MAX:
            raise LimitReached(
                f"a connection holds at most {SUBSCRIPTIONS_PER_PEER_MAX} subscriptions",
                detail={"limit": SUBSCRIPTIONS_PER_PEER_MAX},
            )
        self._watches[peer, name] = watch
        self._by_canvas.setdefault(watch.canvas_id, []).append(watch)
        self._advance(watch)

    def written(self, portion: Portion) -> None:
        """A canvas changed, durably."""
        watches = self._by_canvas.get(portion.stream_id)
        if not watches:
            return
        for fact in portion.facts:
            if fact.kind == "canvas.patched" and fact.payload is not None:
                for watch in list(watches):
                    self._live(watch, fact.payload)
            elif fact.kind == "canvas.closed":
                for watch in list(watches):
                    watch.closing = True
                    self._advance(watch)
            elif fact.kind == "canvas.erased":
                for watch in list(watches):
                    self._forget(watch)
                    watch.request.fail(erased())

    # -- what `journal.credit` and `journal.unsubscribe` ask ---------------------------------------

    def add_credit(self, peer: Peer, name: RequestId, credit: int) -> bool:
        """Whether there is such a subscription here. Raises Invalid: it would hold too much."""
        watch = self._watches.get((peer, name))
        if watch is None:
            return False
        if watch.credit + credit > SUBSCRIBE_CREDIT_MAX:
            raise Invalid(
                f"a subscription holds at most {SUBSCRIBE_CREDIT_MAX} credit",
                field="credit",
                detail={"actual": watch.credit},
            )
        watch.credit += credit
        self._advance(watch)
        return True

    def unsubscribe(self, peer: Peer, name: RequestId) -> bool:
        """Whether there was one; its request got its `ok`."""
        watch = self._watches.get((peer, name))
        if watch is None:
            return False
        self._forget(watch)
        watch.request.ok({})
        return True

    def drop_peer(self, peer: Peer) -> None:
        """The peer is gone; nobody is answered."""
        for watch in [one for one in self._watches.values() if one.request.peer is peer]:
            self._forget(watch)
            watch.request.abandon()

    def end_all(self, error: PalyraError) -> None:
        """End every subscription with an error."""
        for watch in list(self._watches.values()):
            self._forget(watch)
            watch.request.fail(error)

    # -- own --------------------------------------------------------------------------------------

    def _forget(self, watch: Watch) -> None:
        watch.ended = True
        del self._watches[watch.request.peer, watch.request.id]
        watches = self._by_canvas[watch.canvas_id]
        watches.remove(watch)
        if not watches:
            del self._by_canvas[watch.canvas_id]

    def _live(self, watch: Watch, said: Mapping[str, Any]) -> None:
        version = said["version"]
        if (
            watch.admitted
            and not watch.reading
            and watch.version == version - 1
            and watch.credit
            and watch.request.peer.backlog_bytes < PEER_BYTES_MAX
        ):
            self._send(watch, version, said["patch"])
        else:
            self._advance(watch)

    def _send(self, watch: Watch, version: int, patch: Any) -> None:
        watch.version = version
        watch.credit -= 1
        watch.request.item({"patch": patch, "version": version})

    def _advance(self, watch: Watch) -> None:
        """Read what is missing, if it may be sent."""
        if watch.reading or watch.ended or not (watch.credit or watch.closing):
            watch.behind = watch.reading
            return
        if watch.request.peer.backlog_bytes >= PEER_BYTES_MAX:
            self._call_later(LOOK_S, lambda: self._advance(watch))
            return
        watch.reading = True
        watch.behind = watch.closing = False
        version, credit = watch.version, watch.credit
        principal = None if watch.request.admin else watch.request.principal
        canvas_id = watch.canvas_id
        self._look(
            lambda reader: missing(reader, canvas_id, principal, version, credit),
            lambda found: self._came(watch, found),
        )

    def _came(self, watch: Watch, found: Any) -> None:
        watch.reading = False
        if watch.ended:
            return
        if isinstance(found, PalyraError):
            self._forget(watch)
            watch.request.fail(found)
            return
        watch.admitted = True
        snapshot, patches, end = found
        if snapshot is not None and watch.credit:
            watch.version = snapshot["version"]
            watch.credit -= 1
            watch.request.item({"snapshot": snapshot})
        for version, patch in patches:
            if watch.credit and version == (watch.version or 0) + 1:
                self._send(watch, version, patch)
        if end is not None and watch.version == end["version"]:
            self._forget(watch)
            watch.request.ok(end)
        elif snapshot is not None or patches or watch.behind:
            self._advance(watch)  # until nothing is missing


class Missing(NamedTuple):
    """What a subscriber lacks: `snapshot` if it can go on from no version, or the next patches;
    `end`: what its stream ends with once it has got all, for a closed canvas takes no more."""

    snapshot: dict[str, Any] | None
    patches: list[tuple[int, Any]]
    end: dict[str, Any] | None


def missing(
    reader: ReadSide, canvas_id: bytes, principal: str | None, after: int | None, limit: int
) -> Missing:
    """What one lacks who is at that version and may be sent so many. Raises NotFound, Gone."""
    row = reader.stream(CANVAS, canvas_id)
    if row is None or principal not in (None, row.principal):
        raise NotFound("there is no such canvas", field="canvas_id")
    now = reader.rows("canvas.row", (row.stream,))[0]
    end = {"closed": True, "close_reason": now[8], "version": now[0]} if now[7] else None
    if after is not None:
        try:
            told = [
                (one["version"], one["patch"])
                for one in patches_after(reader, row.stream, after, min(limit, PAGE_PATCHES))
            ]
        except (Gone, NotFound):
            pass  # compacted, or still to come: it begins anew; what was erased cannot be loaded
        else:
            return Missing(None, told, end)
    found = load(reader, row.stream)
    return Missing(view(found, Who(canvas_id, row.principal, 0)), [], end)


def patches_after(reader: ReadSide, stream: int, after: int, limit: int) -> list[dict[str, Any]]:
    """The patches behind a version, in order, as many as fit a reply.

    Raises:
        Gone: they were compacted.
        NotFound: the canvas has not got there.
    """
    now = reader.rows("canvas.row", (stream,))[0]
    if now[10] > now[0]:
        raise erased()
    if after > now[0]:
        raise NotFound(
            f"the canvas is at version {now[0]}", field="after_version", detail={"actual": now[0]}
        )
    if after < now[10]:
        raise Gone(
            f"versions before {now[10]} were compacted",
            field="after_version",
            detail={"horizon": now[10]},
        )
    found: list[dict[str, Any]] = []
    left = REPLY_PAYLOAD_BYTES_MAX
    version = after
    while version < now[0] and len(found) < limit:
        start, number = reader.rows("canvas.snapshot_before", (stream, version))[0]
        upto = number + (now[0] - start)
        before = len(found)
        for event in reader.numbered(stream, number + version - start, upto):
            if event.kind != "canvas.patched" or len(found) == limit:
                break
            if event.payload is None:
                raise Gone("these versions were compacted", field="after_version")
            left -= len(event.payload)
            if found and left < 0:
                return found
            said = upcast(event.kind, msgspec.msgpack.decode(event.payload))
            version = said["version"]
            found.append(
                {
                    "version": version,
                    "patch": said["patch"],
                    "principal": event.principal,
                    "ts_ms": event.ts_ms,
                    "seq": event.seq,
                }
            )
        if len(found) == before:
            break
    return found
