"""Forgetting: the event says it at once, then text, words and vectors are destroyed in slices.

    memory.deleted … purged ──durable──▶ a slice, a slice, … ──▶ index, free pages, WAL ──▶ answered
                                             └─ killed: goes on at the next start

The rows of `memory_work` are what is left to do. A slice is one transaction of a few milliseconds,
and others are written between two.

A step of a merge ends when it has written some pages. Where all that it reads cancels out it writes
none, and reads the whole index in one go: 0.2 s for 100,000 items. So what is left of a scope goes
in rounds: at most seven eighths of it are crossed out before the index is merged.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.slices import (
    AFTER_FAILURE_S,
    do_slice,
    give_back,
    sweep,
)
from palyra_actors.actors.memory import selected_rows
from palyra_actors.actors.pace import Pace
from palyra_actors.actors.retry import answer_told, kept_answer
from palyra_actors.actors.work import Request
from palyra_actors.domain.memory import NOT_COUNTED, SELECTED, UNHURRIED, from_payload
from palyra_actors.domain.words import index_line
from palyra_actors.errors import PalyraError
from palyra_actors.storage.port import Parameters, ReadSide

log = logging.getLogger(__name__)

SLICE_ITEMS_MAX: Final = 512
SECURE_ITEMS_MAX: Final = 64
"""So few are taken out of the index word by word, which leaves no trace of them but takes half a
millisecond each. More are crossed out, and the index merged until nothing crossed out is left."""

ROUND_PART: Final = 8
"""The part of a scope's items that a round leaves in the index: a merge reads at most some twenty
pages for each that it writes."""

ROUND_ITEMS_MIN: Final = 1_024
"""So few may cancel out altogether: a few milliseconds."""

IDLE_S: Final = 60.0
"""What retention removed is overwritten in the log as others write. Where nobody writes for so long
nobody will, and nobody is in the way when the log is emptied."""

BESIDE_PAGES: Final = 16
MERGE_PAGES_MAX: Final = 64
MERGES_MAX: Final = 100_000


class Work(NamedTuple):
    """A row of `memory_work`. `destroyed`: items of it, before the engine's start too."""

    seq: int
    stream: int
    selects: int
    session_id: bytes | None
    channel: str | None
    destroyed: int


class Slice(NamedTuple):
    """What is to be written to destroy some items, and how many these are. `round_items`: how many
    of the scope may be crossed out before the index is merged, where that was asked."""

    changes: Sequence[tuple[str, Sequence[Parameters]]]
    items: int
    round_items: int | None = None


@dataclass(slots=True)
class Waiting:
    """Who waits for what the event `seq` removed; None: for all that is under way."""

    seq: int | None
    done: Callable[[int], None]


class Forgetter:
    """Works off `memory_work`, and tells those who wait. On the loop's thread."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._at_work = False
        self._waiting: list[Waiting] = []
        self._seqs: dict[int, int] = {}  # request to the seq of its event
        self._counts: dict[int, int] = {}
        self._pace = Pace(8, SLICE_ITEMS_MAX)
        self._merging = Pace(4, MERGE_PAGES_MAX)
        self._bulk = True  # what a crash left is merged, whatever it was
        self._left_in_log = False
        self._round_left: int | None = None  # items that may be crossed out; None: not counted yet
        counter.loop.call_soon(self.look)

    def answer_when_done(self, request: Request, event_id: bytes | None, purge: bool) -> None:
        """Hold back the request's `ok` until what it removed is destroyed."""

        def later(body: Mapping[str, Any]) -> None:
            def done(count: int) -> None:
                told = dict(body)
                if purge:
                    told["deleted"] = count
                if purge and body.get("duplicate"):
                    assert event_id is not None
                    told.update(answer_told(self._counter.reader, event_id) or {})
                request.hold = None
                request.ok(told)

            self._waiting.append(Waiting(self._seqs.pop(id(request), None), done))
            self.look()

        request.hold = later

    def when_done(self, done: Callable[[int], None]) -> None:
        """Called once nothing is left."""
        self._waiting.append(Waiting(None, done))
        self.look()

    def compact(self, done: Callable[[], None]) -> None:
        """Merge the whole index and give back free pages, in slices; `done` hears when it is over.
        While items are being destroyed it is left to that."""
        if self._at_work:
            done()
            return
        self._at_work = True
        self._waiting.append(Waiting(None, lambda _: done()))
        self._merge_all(lambda: give_back(self._counter, lambda: self._finish(())))

    def written(self, request: Request, seq: int) -> None:
        """The request's event is durable; it will be answered in a moment."""
        if request.hold is not None:
            self._seqs[id(request)] = seq
        self._counter.loop.call_soon(self.look)

    def look(self) -> None:
        """Go on with what is left, if there is anything."""
        if self._at_work:
            return
        try:
            left = [Work(*row) for row in self._counter.reader.rows("memory.work_left")]
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("what is to be forgotten could not be read: %s", error)
            self._counter.call_later(AFTER_FAILURE_S, self.look)
            return
        if left:
            self._at_work = True
            for work in left:
                self._counts.setdefault(work.seq, work.destroyed)
            self._go_on(left, 0)
            return
        self._bulk = False
        waiting, self._waiting = self._waiting, []
        counts, self._counts = self._counts, {}
        for one in waiting:
            one.done(0 if one.seq is None else counts.get(one.seq, 0))

    # -- items, slice by slice --------------------------------------------------------------------

    def _go_on(self, works: Sequence[Work], place: int) -> None:
        if place == len(works):
            self._round_left = None
            if not self._bulk:
                self._sweep(works)
            elif _urgent(works):
                self._merge_all(lambda: self._sweep(works))
            else:
                self._merge(self._merging.size, MERGES_MAX, lambda: self._sweep(works))
            return
        if self._round_left is not None and self._round_left <= 0:
            self._round_left = None
            self._merge_all(lambda: self._go_on(works, place))
            return
        work, limit, bulk, left = works[place], self._pace.size, self._bulk, self._round_left
        if left is not None:
            limit = min(limit, left)
        pages = BESIDE_PAGES

        def come(found: Any) -> None:
            if isinstance(found, PalyraError):
                log.warning("what is to be forgotten could not be read: %s", found)
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._go_on(works, place))
            elif found.items == 0:
                self._round_left = None  # the next work may be of another scope
                self._go_on(works, place + 1)
            else:
                self._destroy(works, place, found)

        def find(reader: ReadSide) -> Slice:
            nonlocal bulk
            if not bulk and len(_doomed(reader, work, SECURE_ITEMS_MAX + 1)) > SECURE_ITEMS_MAX:
                bulk = self._bulk = True
            allowed, items = None, limit
            if bulk and left is None:
                ((count,),) = reader.rows("memory.count", (work.stream,))
                allowed = max(ROUND_ITEMS_MIN, count - count // ROUND_PART)
                items = min(items, allowed)
            found = destruction(_doomed(reader, work, items), pages=pages if bulk else None)
            return found._replace(round_items=allowed)

        self._counter.ask(find, come)

    def _destroy(self, works: Sequence[Work], place: int, found: Slice) -> None:
        seq = works[place].seq

        def then(result: int | PalyraError, seconds: float) -> None:
            if isinstance(result, PalyraError):
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._go_on(works, place))
                return
            self._counts[seq] = self._counts.get(seq, 0) + found.items
            left = self._round_left if found.round_items is None else found.round_items
            self._round_left = None if left is None else left - found.items
            if found.items == self._pace.size:
                self._pace.took(seconds)
            self._go_on(works, place)

        changes = [*found.changes, ("memory.work_did", [(found.items, seq)])]
        do_slice(self._counter, lambda storage: storage.apply(changes), then)

    # -- what they leave: crossed-out entries, free pages, the WAL --------------------------------

    def _merge_all(self, then: Callable[[], None]) -> None:
        """Merge the whole index into one piece: nothing crossed out is left in it."""
        self._merge(-self._merging.size, MERGES_MAX, then)

    def _merge(self, pages: int, left: int, then: Callable[[], None]) -> None:
        """Step by step, until there is nothing to merge or `left` steps are done. `pages` of a
        step; negative where the whole index is to become one piece."""

        def done(changed: int | PalyraError, seconds: float) -> None:
            if isinstance(changed, PalyraError):
                again = lambda: self._merge(pages, left, then)  # noqa: E731
                self._counter.call_later(AFTER_FAILURE_S, again)
                return
            self._merging.took(seconds)
            if changed < 2 or left <= 1:  # SQLite says so: nothing is left to merge
                then()
            else:
                self._merge(self._merging.size, left - 1, then)

        do_slice(self._counter, lambda storage: storage.apply([("memory.merge", [(pages,)])]), done)

    def _sweep(self, works: Sequence[Work]) -> None:
        if _urgent(works):
            sweep(self._counter, lambda: self._finish(works))
        else:
            give_back(self._counter, lambda: self._finish(works))

    def _finish(self, works: Sequence[Work]) -> None:
        # a first answer stays: work comes again with an imported journal, whose purges are counted
        begun = kept_answer(NOT_COUNTED)
        told = [
            (kept_answer({"deleted": self._counts.get(work.seq, 0)}), work.seq, begun)
            for work in works
            if work.selects == SELECTED
        ]
        changes: list[tuple[str, Sequence[Parameters]]] = [("memory.told", told)] if told else []
        changes.append(("memory.work_done", [(work.seq,) for work in works]))

        def then(result: int | PalyraError, seconds: float) -> None:
            del seconds
            if isinstance(result, PalyraError):
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._finish(works))
                return
            self._at_work = False
            self._counter.destroyed()
            if works and not _urgent(works) and not self._left_in_log:
                self._left_in_log = True
                self._empty_log_when_idle(None)
            self.look()

        do_slice(self._counter, lambda storage: storage.apply(changes), then)

    def _empty_log_when_idle(self, head_seq: int | None) -> None:
        """`head_seq`: where the journal ended at the last look."""
        seq = None
        try:
            seq = self._counter.reader.head().seq
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("whether the log can be emptied could not be read: %s", error)
        if seq is None or seq != head_seq or self._at_work:
            self._counter.call_later(IDLE_S, lambda: self._empty_log_when_idle(seq))
            return
        self._left_in_log, self._at_work = False, True
        sweep(self._counter, lambda: self._finish(()))


def _urgent(works: Sequence[Work]) -> bool:
    """Whether somebody asked for it: then nothing may be left in log and index either. What is over
    or too much is overwritten there as time goes by."""
    return any(work.selects != UNHURRIED for work in works)


def _doomed(reader: ReadSide, work: Work, limit: int) -> list[tuple[Any, ...]]:
    """Items of a work that are still there: seq, stream, payload."""
    if work.selects != SELECTED:
        return reader.rows("memory.dead", (work.stream, 0, limit))
    return selected_rows(reader, work.stream, work.session_id, work.channel, work.seq, limit)


def destruction(rows: Sequence[Sequence[Any]], *, pages: int | None) -> Slice:
    """What has to be written to destroy items. The payloads' digests stay, so that the chain still
    verifies.

    `pages` None: they are taken out of the index word by word; else they are crossed out, and so
    many pages of the index are merged, which keeps the pieces that this leaves few.
    """
    lines: list[Parameters] = []
    tags: list[Parameters] = []
    digests: list[Parameters] = []
    for seq, stream, payload in rows:
        if payload is None:
            continue
        item = from_payload(msgspec.msgpack.decode(payload), 0)
        lines.append((seq, index_line(stream, item.content)[0]))
        tags += [(stream, tag, seq) for tag in item.tags]
        digests.append((sha256(payload).digest(), seq))
    own: list[Parameters] = [(row[0],) for row in rows]
    merging: list[Parameters] = [] if pages is None else [(pages,)]
    return Slice(
        [
            ("memory.secure", [(int(pages is None),)]),
            ("memory.unindex", lines),
            ("memory.merge", merging),
            ("memory.drop_tag", tags),
            ("memory.drop_vector", own),
            ("memory.rub_out", digests),
            ("gone.memory", own),
            ("memory.drop", own),
        ],
        len(rows),
    )
