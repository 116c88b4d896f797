"""Forgetting: the event says it at once, then text, words and vectors are destroyed in slices.

    memory.deleted … purged ──durable──▶ a slice, a slice, … ──▶ index, free pages, WAL ──▶ answered
                                             └─ killed: goes on at the next start

The rows of `memory_work` are what is left to do. A slice is one transaction of a few milliseconds,
and others are written between two: its size follows from how long the last one took.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.memory import selected_rows
from palyra_actors.actors.work import Request
from palyra_actors.domain.memory import SELECTED, UNHURRIED, from_payload
from palyra_actors.domain.words import index_line
from palyra_actors.errors import PalyraError
from palyra_actors.storage.port import Parameters, ReadSide, WriteSide

log = logging.getLogger(__name__)

SLICE_S: Final = 0.0025
"""What a slice is to take of the writer's time: a tenth of the budget of those who wait for it."""

SLICE_ITEMS_MAX: Final = 512
SECURE_ITEMS_MAX: Final = 64
"""So few are taken out of the index word by word, which leaves no trace of them but takes half a
millisecond each. More are crossed out, and the index merged until nothing crossed out is left."""

MERGE_PAGES: Final = 16
MERGES_MAX: Final = 100_000
SHRINK_PAGES: Final = 128
AGAIN_S: Final = 0.05
"""How often it is looked whether readers have let go of the WAL."""

AFTER_FAILURE_S: Final = 1.0


class Work(NamedTuple):
    """A row of `memory_work`."""

    seq: int
    stream: int
    selects: int
    session_id: bytes | None
    channel: str | None


class Slice(NamedTuple):
    """What is to be written to destroy some items, and how many these are."""

    changes: Sequence[tuple[str, Sequence[Parameters]]]
    items: int


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
        self._slice = 8
        self._bulk = True  # what a crash left is merged, whatever it was
        counter.loop.call_soon(self.look)

    def answer_when_done(self, request: Request, event_id: bytes | None, purge: bool) -> None:
        """Hold back the request's `ok` until what it removed is destroyed."""

        def later(body: Mapping[str, Any]) -> None:
            def done(count: int) -> None:
                told = dict(body)
                if purge:
                    told["deleted"] = count
                if purge and body.get("duplicate"):
                    told.update(self._told(event_id))
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
        self._merge((), -MERGE_PAGES, MERGES_MAX)

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
            if self._bulk and _urgent(works):
                self._merge(works, -MERGE_PAGES, MERGES_MAX)
            else:
                self._merge(works, MERGE_PAGES, MERGES_MAX if self._bulk else 0)
            return
        work, limit, bulk = works[place], self._slice, self._bulk

        def come(found: Any) -> None:
            if isinstance(found, PalyraError):
                log.warning("what is to be forgotten could not be read: %s", found)
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._go_on(works, place))
            elif found.items == 0:
                self._go_on(works, place + 1)
            else:
                self._destroy(works, place, found)

        def find(reader: ReadSide) -> Slice:
            nonlocal bulk
            if not bulk and len(_doomed(reader, work, SECURE_ITEMS_MAX + 1)) > SECURE_ITEMS_MAX:
                bulk = self._bulk = True
            return destruction(_doomed(reader, work, limit), secure=not bulk)

        self._counter.ask(find, come)

    def _destroy(self, works: Sequence[Work], place: int, found: Slice) -> None:
        seq = works[place].seq

        def then(result: int | PalyraError, seconds: float) -> None:
            if isinstance(result, PalyraError):
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._go_on(works, place))
                return
            self._counts[seq] = self._counts.get(seq, 0) + found.items
            wanted = int(self._slice * SLICE_S / max(seconds, 1e-5))
            self._slice = min(max(1, wanted), 2 * self._slice, SLICE_ITEMS_MAX)
            self._go_on(works, place)

        self._do(lambda storage: storage.apply(found.changes), then)

    # -- what they leave: crossed-out entries, free pages, the WAL --------------------------------

    def _merge(self, works: Sequence[Work], pages: int, left: int) -> None:
        def then(changed: int | PalyraError, seconds: float) -> None:
            del seconds
            if isinstance(changed, PalyraError):
                again = lambda: self._merge(works, pages, left)  # noqa: E731
                self._counter.call_later(AFTER_FAILURE_S, again)
            elif changed < 2:  # SQLite says so: nothing is left to merge
                self._shrink(works)
            else:
                self._merge(works, MERGE_PAGES, left - 1)

        if left:
            self._do(lambda storage: storage.apply([("memory.merge", [(pages,)])]), then)
        else:
            self._shrink(works)

    def _shrink(self, works: Sequence[Work]) -> None:
        def then(left: int | PalyraError, seconds: float) -> None:
            del seconds
            if isinstance(left, PalyraError):
                self._counter.call_later(AFTER_FAILURE_S, lambda: self._shrink(works))
            elif left:
                self._shrink(works)
            elif _urgent(works):
                loop = self._counter.loop
                self._counter.urge_checkpoint(lambda: loop.call_soon(lambda: self._finish(works)))
            else:
                self._finish(works)

        self._do(lambda storage: storage.shrink(SHRINK_PAGES), then)

    def _finish(self, works: Sequence[Work]) -> None:
        changes: list[tuple[str, Sequence[Parameters]]] = [
            ("memory.told", [(_kept(self._counts.get(work.seq, 0)), work.seq)])
            for work in works
            if work.selects == SELECTED
        ]
        changes.append(("memory.work_done", [(work.seq,) for work in works]))

        def do(storage: WriteSide) -> int:
            if _urgent(works):
                storage.empty_wal()
            return storage.apply(changes)

        def then(result: int | PalyraError, seconds: float) -> None:
            del seconds
            if isinstance(result, PalyraError):
                self._counter.call_later(AGAIN_S, lambda: self._finish(works))
                return
            self._at_work = False
            self._counter.destroyed()
            self.look()

        self._do(do, then)

    def _do(
        self, work: Callable[[WriteSide], int], then: Callable[[int | PalyraError, float], None]
    ) -> None:
        """Have it done between two groups; `then` hears of it on this thread."""
        clock = self._counter.loop.clock

        def chore(storage: WriteSide) -> None:
            began = clock.monotonic()
            result: int | PalyraError
            try:
                result = work(storage)
            except PalyraError as error:
                result = error
            seconds = clock.monotonic() - began
            self._counter.loop.call_soon(lambda: then(result, seconds))

        self._counter.chore(chore)

    def _told(self, event_id: bytes | None) -> Mapping[str, Any]:
        """What the purge came to that was asked for before under that id."""
        for _, kept, *_ in self._counter.reader.rows("answer.find", (event_id,)):
            if kept is not None:
                answer: Mapping[str, Any] = msgspec.msgpack.decode(kept)["answer"]
                return answer
        return {}


def _urgent(works: Sequence[Work]) -> bool:
    """Whether somebody asked for it: then nothing may be left in log and index either. What is over
    or too much is overwritten there as time goes by."""
    return any(work.selects != UNHURRIED for work in works)


def _kept(count: int) -> bytes:
    return msgspec.msgpack.encode({"answer": {"deleted": count}})


def _doomed(reader: ReadSide, work: Work, limit: int) -> list[tuple[Any, ...]]:
    """Items of a work that are still there: seq, stream, payload."""
    if work.selects != SELECTED:
        return reader.rows("memory.dead", (work.stream, 0, limit))
    return selected_rows(reader, work.stream, work.session_id, work.channel, work.seq, limit)


def destruction(rows: Sequence[Sequence[Any]], *, secure: bool) -> Slice:
    """What has to be written to destroy items. The payloads' digests stay, so that the chain still
    verifies."""
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
    return Slice(
        [
            ("memory.secure", [(int(secure),)]),
            ("memory.unindex", lines),
            ("memory.drop_tag", tags),
            ("memory.drop_vector", own),
            ("memory.rub_out", digests),
            ("memory.drop", own),
        ],
        len(rows),
    )
