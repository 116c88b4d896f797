"""Upkeep of memories: what is over or too much goes, some at a time.

    every five minutes, and on demand:  expired ─▶ too old ─▶ too many or too large ─▶ destroyed

Each step is a command of the scope, so it is decided, journaled and rebuilt as what people ask for;
none touches more than `DROP_ITEMS` items. Nothing is kept of where it was: the next look finds what
is left, after a crash too.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

from cronsim import CronSim

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.forgetting import Forgetter
from palyra_actors.actors.clerks.remembering import Backfill, Remembering, Retention
from palyra_actors.actors.clerks.slices import wait_for_room
from palyra_actors.actors.memory import Size, sizes
from palyra_actors.actors.shelf import row_bytes
from palyra_actors.domain.catalog import MEMORY
from palyra_actors.domain.memory import Drop, scope_id
from palyra_actors.errors import PalyraError
from palyra_actors.limits import MEMORY_UPKEEP_MAX
from palyra_actors.storage.port import Parameters, ReadSide, WriteSide

log = logging.getLogger(__name__)

DROP_ITEMS: Final = 128
"""Of one event: a millisecond of the loop."""

LOOK_ITEMS: Final = 1_024
FIRST_S: Final = 1.0
"""After the start it is looked for what was left without a vector; clients come first."""

DAY_MS: Final = 86_400_000

EXPIRED: Final = "memory.expired"
EVICTED: Final = "memory.evicted"


class Dropped(NamedTuple):
    """What is to go of one scope, in one event."""

    owner: str
    kind: str
    memory_ids: list[bytes]
    bytes: int


class Upkeep:
    """On the loop's thread."""

    def __init__(
        self, counter: Counter, remembering: Remembering, forgetter: Forgetter, backfill: Backfill
    ) -> None:
        self._counter = counter
        self._works = remembering
        self._forgetter = forgetter
        self._backfill = backfill
        self._compacted_ms = counter.now_ms()
        self._turns: deque[Callable[[], None]] = deque()
        counter.loop.call_soon(self._begin)
        counter.call_later(FIRST_S, self._first_look)

    def _first_look(self) -> None:
        """Not for a command on a file: it knows nothing of the provider that its engine has, and
        would make vectors of its own in the place of those that were paid for."""
        if self._counter.scheduling:
            self._backfill.run_unasked()

    def _begin(self) -> None:
        """The engine runs: from when the upkeep was done last, it is due at its intervals.

        Two rows, read at once: whoever asks first what the engine's own jobs are, hears of them.
        """
        found: dict[str, int] = {}
        try:
            found.update(self._counter.reader.rows("memory.upkeep"))
        except PalyraError as error:
            log.warning("when memories were looked after last could not be read: %s", error)
        rota, works = self._counter.rota, self._works
        self._go_on_with_schedule(found)
        intervals: tuple[tuple[str, str, int, Callable[[], None]], ...] = (
            ("maintain", "maintenance", works.maintenance_ms, lambda: self.maintain(None)),
            ("backfill", "backfill", works.backfill_ms, lambda: self.backfill(None)),
        )
        for name, stamp, every_ms, call in intervals:
            last_ms = found.get(stamp)
            rota.every(
                f"memory.{name}", every_ms, call,
                last_ms=last_ms, catch_up=self._counter.scheduling,
            )  # fmt: skip

    def _go_on_with_schedule(self, found: Mapping[str, int]) -> None:
        """What fell due while no engine ran is made up for: the schedule counts from when it was
        kept last, or else from when there first was one, not from this start."""
        since_ms = found.get("merging", found.get("scheduled"))
        if since_ms is not None:
            self._compacted_ms = since_ms
        elif self._works.retention.vacuum_schedule:
            self._stamp("scheduled", _nothing_more)

    def maintain(
        self,
        owner: str | None,
        limit: int = MEMORY_UPKEEP_MAX,
        done: Callable[[dict[str, int] | PalyraError], None] = lambda _: None,
    ) -> None:
        """For one principal, or for all; `done` gets what went. One at a time."""

        def finished(sums: dict[str, int] | PalyraError) -> None:
            self._turns.popleft()
            if self._turns:
                self._counter.loop.call_soon(self._turns[0])
            done(sums)

        none = {"expired": 0, "evicted": 0, "freed_bytes": 0}
        self._turns.append(lambda: self._round(owner, limit, none, finished))
        if len(self._turns) == 1:
            self._turns[0]()

    def backfill(
        self,
        stream: int | None,
        limit: int = MEMORY_UPKEEP_MAX,
        done: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Make the vectors that are missing."""

        def told(count: int) -> None:
            self._stamp("backfill", lambda: done(count))

        self._backfill.run(stream, limit, told)

    def _round(
        self,
        owner: str | None,
        limit: int,
        sums: dict[str, int],
        done: Callable[[dict[str, int] | PalyraError], None],
    ) -> None:
        now_ms, retention = self._counter.now_ms(), self._works.retention
        left = limit - sums["expired"] - sums["evicted"]

        def come(found: Any) -> None:
            if isinstance(found, PalyraError):
                log.warning("what is due could not be read: %s", found)
                done(found)
            elif found:
                self._drop(found, 0, sums, lambda: self._round(owner, limit, sums, done), done)
            elif sums["expired"] + sums["evicted"] or owner is None:
                self._forgetter.when_done(lambda _: self._compact(owner, lambda: done(sums)))
            else:
                self._stamp("maintenance", lambda: done(sums))

        self._counter.ask(lambda reader: due(reader, retention, owner, now_ms, left), come)

    def _compact(self, owner: str | None, then: Callable[[], None]) -> None:
        """Where the schedule says so, the index is merged and free pages are given back."""
        now_ms, schedule = self._counter.now_ms(), self._works.retention.vacuum_schedule
        stamped = partial(self._stamp, "maintenance", then)
        if owner is not None or not vacuum_due(schedule, self._compacted_ms, now_ms):
            stamped()
            return
        self._compacted_ms = now_ms
        self._forgetter.compact(lambda: self._stamp("merging", stamped))

    def _drop(
        self,
        drops: Sequence[Dropped],
        place: int,
        sums: dict[str, int],
        go_on: Callable[[], None],
        done: Callable[[dict[str, int] | PalyraError], None],
    ) -> None:
        if place == len(drops):
            go_on()
            return
        drop = drops[place]
        command = Drop(drop.kind, drop.memory_ids)

        def answered(answer: Mapping[str, Any] | PalyraError) -> None:
            if isinstance(answer, PalyraError):
                log.warning("memories could not be dropped: %s", answer)
                done(answer)
                return
            vectors = row_bytes(self._works.provider.model.dimensions) * len(drop.memory_ids)
            sums["expired" if drop.kind == EXPIRED else "evicted"] += len(drop.memory_ids)
            sums["freed_bytes"] += drop.bytes + vectors
            wait_for_room(self._counter, lambda: self._drop(drops, place + 1, sums, go_on, done))

        self._counter.internal(drop.owner, MEMORY, scope_id(drop.owner), command, answered)

    def _stamp(self, name: str, then: Callable[[], None]) -> None:
        """Write down when it was done last."""
        counter = self._counter
        row: list[Parameters] = [(name, counter.now_ms())]

        def chore(storage: WriteSide) -> None:
            try:
                storage.apply([("memory.set_upkeep", row)])
            except PalyraError as error:
                log.warning("the time of the last %s could not be written: %s", name, error)
            counter.loop.call_soon(then)

        counter.chore(chore)


def due(
    reader: ReadSide, retention: Retention, owner: str | None, now_ms: int, limit: int
) -> list[Dropped]:
    """What is to go next, at most some thousand: in a reader's thread."""
    owners = {
        stream: name for stream, name in reader.rows("memory.scopes") if owner in (None, name)
    }
    if limit <= 0 or not owners:
        return []
    limit = min(limit, LOOK_ITEMS)
    over = [row for stream in owners for row in reader.rows("memory.due", (stream, now_ms, limit))]
    if over:
        return _parted(over[:limit], EXPIRED, owners)
    if retention.ttl_days:
        before = now_ms - int(retention.ttl_days * DAY_MS)
        old = [
            row
            for stream in owners
            for row in reader.rows("memory.oldest", (stream, limit))
            if row[4] <= before
        ]
        if old:
            return _parted(old[:limit], EXPIRED, owners)
    return _parted(_too_much(reader, retention, owners, owner, limit), EVICTED, owners)


def _too_much(
    reader: ReadSide, retention: Retention, owners: Mapping[int, str], owner: str | None, limit: int
) -> list[Any]:
    """The least useful of those scopes that are over: what was superseded, then the oldest."""
    held = sizes(reader, owners)
    entries = retention.scope_max_entries or _UNBOUNDED
    size = retention.scope_max_bytes or _UNBOUNDED
    if owner is None:  # what all take together is no principal's business
        if retention.max_entries:
            entries = min(
                entries, _level([one.items for one in held.values()], retention.max_entries)
            )
        if retention.max_bytes:
            size = min(size, _level([one.bytes for one in held.values()], retention.max_bytes))
    found: list[Any] = []
    for stream, one in held.items():
        many, much = one.items - entries, one.bytes - size
        if len(found) < limit and (many > 0 or much > 0):
            for row in _least_useful(reader, stream, one, limit - len(found)):
                if many <= 0 and much <= 0:
                    break
                found.append(row)
                many -= 1
                much -= row[2]
    return found


_UNBOUNDED: Final = 2**62


def _level(sizes: Sequence[int], total: int) -> int:
    """The size to which the largest have to come down for all to fit: small scopes keep theirs."""
    left, parts = total, sorted(sizes)
    for place, one in enumerate(parts):
        share = left // (len(parts) - place)
        if one > share:
            return share
        left -= one
    return _UNBOUNDED


def _least_useful(reader: ReadSide, stream: int, held: Size, limit: int) -> Iterable[Any]:
    if held.superseded:  # else it would be looked for in all of the scope
        yield from reader.rows("memory.superseded", (stream, limit))
    yield from (row for row in reader.rows("memory.oldest", (stream, limit)) if not row[3])


def _parted(rows: Sequence[Any], kind: str, owners: Mapping[int, str]) -> list[Dropped]:
    drops: list[Dropped] = []
    for stream, owner in owners.items():
        own = [row for row in rows if row[0] == stream]
        for at in range(0, len(own), DROP_ITEMS):
            part = own[at : at + DROP_ITEMS]
            drops.append(
                Dropped(owner, kind, [row[1] for row in part], sum(row[2] for row in part))
            )
    return drops


def vacuum_due(schedule: str, last_ms: int, now_ms: int) -> bool:
    """Whether a moment of the schedule (UTC) lies between the two times."""
    if not schedule:
        return False
    moments = CronSim(schedule, datetime.fromtimestamp(last_ms / 1000, UTC))
    return next(moments).timestamp() * 1000 <= now_ms


def _nothing_more() -> None:
    """Nobody waits for it."""
