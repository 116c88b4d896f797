"""What the actors know of storage: this much and no more.

SQLite is the engine behind it (`storage/journal.py`). Another one, say PostgreSQL, implements the
same few calls: positions are integers that the writer gives, a batch is one atomic unit, and no
database clock, sequence or row order is relied on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from palyra_actors.domain.chain import Stored
from palyra_actors.domain.run import Run


class Head(NamedTuple):
    """The last event: its `seq` (0: none) and hash (32 zero bytes: none)."""

    seq: int
    hash: bytes


class Clash(Exception):
    """A row of the batch contradicts the file: an id or a run exists already. Nothing is staged."""


class CommitUnknown(Exception):
    """COMMIT failed half way. Whether the batch is durable is open until `reopen`."""


NO_STREAM: Final = 0
"""Beside the kept answer of an entity that has no event yet, and so no stream."""

ASKED_DIGEST_BYTES: Final = 16
"""Of a SHA-256: what two requests under one id are compared by. It is kept with the answer."""

EventRow: TypeAlias = tuple[Any, ...]
"""A row of `events`, its columns in the order of the table."""


Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Of a statement: by place, or by name."""


ADDING: Final = frozenset(
    {"memory.insert", "memory.index", "memory.tag", "answer.insert", "answer.idle"}
)
"""Statements that add a row and look at no other: in which order they come does not matter, and a
group of them is written in a third of the calls."""

FOLLOWED: Final = {"memory.index": ("memory.merge", (16,))}
"""What is done after a group's rows of a statement, in the same transaction: a little of the index
is merged each time, as much as the group has added. Left to FTS5 it is merged seldom and then for
12 ms at once, on a busy machine 20 to 40 (`bench/bench_merge.py`)."""

APART: Final = ("cron.insert", "cron.restate", "cron.save", "cron.put_run")
"""Statements whose rows concern one stream each, and no other statement's: all rows of a group go
together, a statement after the other in this order. Ten thousand jobs that are due at once would
alternate between them otherwise, a call each (`bench/bench_cron.py`)."""


@dataclass(slots=True)
class Batch:
    """One transaction: everything that a group of requests changes. Rows are in table order."""

    events: list[EventRow] = field(default_factory=list)
    principals: list[tuple[int, str]] = field(default_factory=list)
    streams: list[tuple[int, int, bytes, int, int]] = field(default_factory=list)
    heads: list[tuple[int, int, int]] = field(default_factory=list)
    marks: list[tuple[int, int, int]] = field(default_factory=list)
    runs: list[tuple[Any, ...]] = field(default_factory=list)
    run_moves: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Tapes that grew, of runs that did not end before; applied before `run_ends`."""
    run_ends: list[tuple[Any, ...]] = field(default_factory=list)
    changes: list[tuple[str, list[tuple[Any, ...]]]] = field(default_factory=list)
    """The families' rows: statements by name with their parameters, applied in this order."""
    gathering: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """Of the last statements that only add rows: where further ones go."""

    apart: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """The rows of the statements of `APART`, applied after `changes`."""

    def change(self, statement: str, row: tuple[Any, ...]) -> None:
        """Add a row of a family; those of one statement that follow each other go together, and
        so do those that only add rows, as long as no other statement comes between them."""
        if statement in ADDING:
            rows = self.gathering.get(statement)
            if rows is None:
                rows = self.gathering[statement] = []
                self.changes.append((statement, rows))
            rows.append(row)
            return
        if statement in APART:
            self.apart.setdefault(statement, []).append(row)
            return
        self.gathering = {}
        if self.changes and self.changes[-1][0] == statement:
            self.changes[-1][1].append(row)
        else:
            self.changes.append((statement, [row]))


class StreamRow(NamedTuple):
    """An entity as the file knows it. `tail_seq` is the seq of its last event."""

    stream: int
    principal: str
    created_ms: int
    stream_seq: int
    tail_seq: int


class RunRow(NamedTuple):
    """A run as the file knows it. `run` is None where it went with its session."""

    stream: int
    principal: str
    run: Run | None


class Selection(NamedTuple):
    """Which events: all filters hold together. None: no such filter."""

    after_seq: int = 0
    stream: int | None = None
    run_id: bytes | None = None
    kinds: frozenset[int | str] | None = None
    principal: str | None = None


class EventPage(NamedTuple):
    """Events in `seq` order, and where to go on. `end`: nothing matched after them."""

    events: list[Stored]
    next_after_seq: int
    end: bool


class Slice(NamedTuple):
    """A stretch of the chain that was checked: `first_bad_seq` is None where all is well."""

    checked: int
    erased: int
    head: Head
    first_bad_seq: int | None


class Ended(NamedTuple):
    """How a batch ended that was begun beside the interpreter. `error` None: it is durable since
    `at`, in monotonic seconds. Otherwise, where it was not `staged`, nothing of it was stored; else
    that is unknown.
    """

    staged: bool
    error: str | None
    at: float


class WriteSide(Protocol):
    """The writer's connection. One thread at a time; `commit` may run in another one."""

    def head(self) -> Head: ...
    def names(self) -> dict[str, int]: ...
    def last_stream(self) -> int: ...
    def stage(self, batch: Batch) -> None: ...
    def commit(self) -> None: ...
    def go_beside(self, bell: int) -> None: ...
    def begin(self, batch: Batch, here: bool = False) -> bool: ...
    def ended(self) -> Ended | None: ...
    def rollback(self) -> None: ...
    def known(self, event_ids: Sequence[bytes]) -> dict[bytes, Stored]: ...
    def rows(self, statement: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]: ...
    def known_runs(self, run_ids: Sequence[bytes]) -> dict[bytes, RunRow]: ...
    def tidy(self) -> None: ...
    def probe(self, room_bytes: int) -> None: ...
    def rub_out(self, stream: int, before_seq: int, rows_max: int, floor_seq: int) -> int: ...
    def apply(self, changes: Sequence[tuple[str, Sequence[Parameters]]]) -> int: ...
    def cool(self, warm_max: int, rows_max: int) -> int: ...
    def shrink(self, pages_max: int) -> int: ...
    def unmoved_frames(self) -> int: ...
    def empty_wal(self, frames_max: int) -> None: ...
    def reopen(self) -> Head: ...
    def close(self, wait_s_max: float = -1.0) -> bool: ...


class ReadSide(Protocol):
    """A reading connection: sees every commit that returned before a call began."""

    def head(self) -> Head: ...
    def stream(self, kind: int, stream_id: bytes) -> StreamRow | None: ...
    def rows(self, statement: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]: ...
    def run(self, run_id: bytes) -> RunRow | None: ...
    def numbered(self, stream: int, after: int, upto: int) -> Iterator[Stored]: ...
    def page(self, selection: Selection, limit: int, bytes_max: int) -> EventPage: ...
    def last(self, limit: int) -> list[Stored]: ...
    def check(self, from_seq: int, to_seq: int, prev_hash: bytes | None) -> Slice: ...
    def hash_at(self, seq: int) -> bytes | None: ...
    def close(self) -> None: ...
