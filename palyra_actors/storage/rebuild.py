"""State is a fold of the events: this makes every projection anew and holds it against the live.

    events, in order ──fold──▶ rows in an empty database ──compared, row by row──▶ differences

The same folds serve the live requests (`domain.fact`), so a difference means that a row was
changed behind the engine's back, or that a fold depends on what it may not. What hangs directly on
the events (stream ends, marks) is made anew as well.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import apsw
import msgspec

from palyra_actors.domain.catalog import ACTOR_NAMES, KIND_NAMES, STREAM_NAMES
from palyra_actors.domain.fact import Change, Fact
from palyra_actors.domain.folds import FOLDS, upcast
from palyra_actors.storage.connection import open_visitor
from palyra_actors.storage.journal import MARK_EVERY
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.queries import sql

PROJECTIONS: Final[dict[str, str]] = {
    "streams": "stream",
    "ends": "stream",
    "marks": "stream, mark",
    "sessions": "stream",
    "session_texts": "rowid",
    "runs": "run_id",
    "gone_runs": "id, stream",
    "approvals": "approval_id",
    "canvases": "stream",
    "canvas_snapshots": "stream, version",
    "cron_jobs": "stream",
    "cron_runs": "stream, number",
    "memory_scopes": "stream",
    "memory_items": "seq",
    "memory_tags": "stream, tag, seq",
    "memory_terms": "term",
}
"""Table to the columns that order it; `memory_terms` shows what the full-text index of memories
holds, `gone_runs` what `gone` says of runs. Not among them: `events` itself, `principals`, what is
work to do or an answer that is kept (`erasures`, `answers`, `meta`, `memory_work`,
`memory_upkeep`), the ids of other things that were removed, which were erased with what
said them (`gone`), and the vectors of memories
(`memory_vectors`, `memory_models`): what a provider made of a text is no fold of events, it may be
another one's tomorrow, and `memory.backfill` makes it anew."""

EVENTS_AT_ONCE: Final = 2_000
DIFFERENCES_MAX: Final = 100
"""Differences that are told one by one; the others are counted."""

_KINDS: Final[dict[Any, str]] = dict(KIND_NAMES)


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not the same: `live` or `rebuilt` is None where there is no such row."""

    table: str
    key: tuple[Any, ...]
    live: tuple[Any, ...] | None
    rebuilt: tuple[Any, ...] | None


@dataclass(slots=True)
class Rebuilt:
    """What came of it. `rows` counts the rows of each table that were compared or shown."""

    through_seq: int = 0
    events: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    different: int = 0


class Projector:
    """Folds events, in their order, into the projections of a database."""

    def __init__(self, made: apsw.Connection) -> None:
        self._made = made
        self._states: dict[int, Any] = {}

    def take(self, row: Sequence[Any], owners: Mapping[int, Sequence[Any]]) -> None:
        """One event, its columns as `rebuild.events` lists them. `owners`: each stream's row."""
        (
            seq, event_id, stream, stream_seq, session_id, run_id, kind, actor, principal, ts_ms,
            recorded_ms, payload, stream_kind, stream_id,
        ) = row  # fmt: skip
        made = self._made
        family = STREAM_NAMES[stream_kind]
        if stream not in self._states:
            self._states[stream] = None
            _, _, _, owner, _ = owners[stream]
            made.execute(sql("insert_stream"), (stream, stream_kind, stream_id, owner, recorded_ms))
        name = _KINDS.get(kind, kind)
        said = None if payload is None else upcast(name, msgspec.msgpack.decode(payload))
        fact = Fact(
            name, said, stream_seq, ts_ms, seq, recorded_ms, run_id,
            stream_id if family == "session" else session_id, event_id, ACTOR_NAMES[actor],
            principal,
        )  # fmt: skip
        changes: Sequence[Change] = ()
        fold = FOLDS.get(family)
        if fold is not None:
            self._states[stream], changes = fold(self._states[stream], fact, stream)
        for statement, parameters in changes:
            made.execute(sql(statement), parameters)
        made.execute(sql("move_head"), (stream, stream_seq, seq))
        if not stream_seq % MARK_EVERY:
            made.execute(sql("insert_mark"), (stream, stream_seq // MARK_EVERY, seq))


class Rebuild:
    """The projections of a database's journal, made anew in memory.

    Args:
        path: the database; an engine may be at work on it. It is only read, within one
            transaction, so that the file is seen as it was at one moment. Or a connection within
            a transaction of its own.
        at: fold the events up to that seq only.

    Raises:
        OpenRefused: it is no database of ours.
    """

    def __init__(
        self, path: str | os.PathLike[str] | apsw.Connection, at: int | None = None
    ) -> None:
        if isinstance(path, apsw.Connection):
            self._live = path
        else:
            self._live = open_visitor(path, cache_bytes=16 * 1024 * 1024)
            self._live.execute("BEGIN")
        self._made = apsw.Connection(":memory:")
        migrate(self._made, "")
        ((head,),) = self._live.execute("SELECT coalesce(max(seq), 0) FROM events").fetchall()
        self._head = int(str(head))
        self.through_seq = self._head if at is None else min(at, self._head)
        self._projector = Projector(self._made)

    def close(self) -> None:
        self._live.close()
        self.close_made()

    def close_made(self) -> None:
        """Where the connection is its owner's."""
        self._made.close()

    def run(self) -> Iterator[int]:
        """Fold the events, some thousand at a time; yields how many are done."""
        made = self._made
        made.executemany(
            "INSERT INTO principals (principal, name) VALUES (?, ?)",
            self._live.execute(sql("rebuild.principals")).fetchall(),
        )
        owners: dict[Any, Any] = {
            row[0]: row for row in self._live.execute(sql("rebuild.streams")).fetchall()
        }
        after = 0
        while after < self.through_seq:
            upto = min(after + EVENTS_AT_ONCE, self.through_seq)
            with made:
                for row in self._live.execute(sql("rebuild.events"), (after, upto)):
                    self._projector.take(row, owners)
            after = upto
            yield after

    def compare(self) -> Rebuilt:
        """Every projection's rows, live and rebuilt, in one order."""
        result = Rebuilt(self.through_seq, self.through_seq)
        for table, order in PROJECTIONS.items():
            count = 0
            for difference in _differences(self._live, self._made, table, order):
                count += 1
                if difference is not None:
                    result.different += 1
                    if len(result.differences) < DIFFERENCES_MAX:
                        result.differences.append(difference)
            result.rows[table] = count
        return result

    def differences(self, table: str, columns: Sequence[str]) -> Iterator[Difference]:
        """Of those columns of a table."""
        order = PROJECTIONS[table]
        found = _differences(self._live, self._made, table, order, columns)
        return (difference for difference in found if difference is not None)

    def columns(self, table: str) -> list[str]:
        """Their names, in the order of a difference's rows."""
        return _columns(self._made, table)

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of a table as they were."""
        names = self.columns(table)
        for row in self._made.execute(_select(table, names, PROJECTIONS[table])):
            yield dict(zip(names, row, strict=True))


def make_anew(connection: apsw.Connection, tables: Sequence[str]) -> None:
    """Give the rows of some tables what a fold of the events gives them; those that are equal
    already are not touched, none is added or removed.

    For a migration: within the writer's transaction, and the tables may lack columns that later
    steps add. The projections of all events are in memory meanwhile.
    """
    rebuild = Rebuild(connection)
    try:
        for _ in rebuild.run():
            pass
        for table in tables:
            columns = _columns(connection, table)
            to_change = [
                (*one.rebuilt, *one.key)
                for one in rebuild.differences(table, columns)
                if one.live and one.rebuilt
            ]
            key = " AND ".join(f"{name.strip()} = ?" for name in PROJECTIONS[table].split(","))
            values = ", ".join(f"{name} = ?" for name in columns)
            connection.executemany(f"UPDATE {table} SET {values} WHERE {key}", to_change).fetchall()
    finally:
        rebuild.close_made()


def _columns(connection: apsw.Connection, table: str) -> list[str]:
    rows = connection.execute(f"SELECT name FROM pragma_table_info('{table}')")
    return [str(name) for (name,) in rows]


def _select(table: str, columns: Sequence[str], order: str) -> str:
    return f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}"


def _differences(
    live: apsw.Connection,
    made: apsw.Connection,
    table: str,
    order: str,
    columns: Sequence[str] = (),
) -> Iterator[Difference | None]:
    """For each row that either has: None if both have the same. No `columns`: all of them."""
    columns = columns or _columns(made, table)
    by = [name.strip() for name in order.split(",")]
    select = f"SELECT {order}, {', '.join(columns)} FROM {table} ORDER BY {order}"
    ours, theirs = live.execute(select), made.execute(select)
    one: Any = next(ours, None)
    other: Any = next(theirs, None)
    width = len(by)
    while one is not None or other is not None:
        if other is None or (one is not None and one[:width] < other[:width]):
            yield Difference(table, one[:width], one[width:], None)
            one = next(ours, None)
        elif one is None or other[:width] < one[:width]:
            yield Difference(table, other[:width], None, other[width:])
            other = next(theirs, None)
        else:
            same = one == other
            yield None if same else Difference(table, one[:width], one[width:], other[width:])
            one, other = next(ours, None), next(theirs, None)
