"""Groups that a thread of C writes: the same rows, the same refusals, and nothing left behind."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palyra_actors.errors import StorageUnavailable
from palyra_actors.storage.beside import Beside, compiled
from palyra_actors.storage.connection import open_writer
from palyra_actors.storage.journal import JournalWriter
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.port import Batch, Clash, Ended, Head
from palyra_actors.testing.faults import Fault, FaultVFS
from tests.system.harness import DEADLINE_S

pytestmark = pytest.mark.skipif(compiled is None, reason="no compiler when it was installed")

CELLS: Any = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
)
INSERT = "INSERT INTO cells VALUES (?, ?, ?)"


def writer(path: Path, vfs: str | None = None) -> JournalWriter:
    def connect() -> apsw.Connection:
        connection = open_writer(
            path, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=0, vfs=vfs
        )
        migrate(connection, str(path))
        return connection

    return JournalWriter(connect)


def beside(path: Path, vfs: str | None = None) -> JournalWriter:
    made = writer(path, vfs)
    made.go_beside(os.eventfd(0, os.EFD_NONBLOCK))
    return made


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[JournalWriter]:
    made = beside(tmp_path / "journal.db")
    yield made
    made.close()


def outcome(storage: JournalWriter) -> Ended:
    assert storage._beside is not None
    assert storage._beside.wait(DEADLINE_S)
    ended = storage.ended()
    assert ended is not None
    assert storage.ended() is None, "it is told once"
    return ended


def batch(first: int, count: int, stream: int = 1) -> Batch:
    """A group of one stream: its rows are those of an engine, as far as SQLite sees."""
    made = Batch()
    if first == 1:
        made.principals.append((1, "local"))
        made.streams.append((1, 1, bytes(16), 1, 5))
    for seq in range(first, first + count):
        made.events.append(
            (seq, seq.to_bytes(16, "big"), stream, seq, int(seq > 1), None, None, 4, 2, 1, 7, 8,
             seq % 2, None if seq % 3 else "00-\u017e", b"\x80" * seq, None, bytes(32))
        )  # fmt: skip
        if not seq % 64:
            made.marks.append((stream, seq // 64, seq))
    made.heads.append((stream, first + count - 1, first + count - 1))
    return made


def content(storage: JournalWriter) -> dict[str, list[Any]]:
    connection = storage._connection
    tables = [
        str(name)
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name"
        )
    ]
    return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


@pytest.mark.parametrize("sizes", [[1], [31, 32, 33], [127, 1, 300]])
def test_a_group_is_written_as_it_is_through_apsw(tmp_path: Path, sizes: list[int]) -> None:
    here, there = writer(tmp_path / "here.db"), beside(tmp_path / "there.db")
    first = 1
    for count in sizes:
        here.stage(batch(first, count))
        here.commit()
        assert there.begin(batch(first, count))
        ended = outcome(there)
        assert (ended.staged, ended.error) == (True, None)
        first += count
    assert content(here) == content(there)
    assert there.head() == Head(first - 1, bytes(32))
    here.close()
    there.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=70))
def test_cells_are_bound_as_apsw_binds_them(rows: list[tuple[Any, ...]]) -> None:
    found = []
    for swift in (False, True):
        connection = apsw.Connection(":memory:")
        connection.execute("CREATE TABLE cells (a, b, c)")
        if swift:
            bell = os.eventfd(0)
            lane = Beside(connection, bell)
            many = INSERT + ", (?, ?, ?)" * 31
            assert lane.begin([(((many, 32), (INSERT, 1)), rows, False)])
            assert lane.wait(DEADLINE_S)
            assert os.eventfd_read(bell) == 1, "it has rung once"
            ended = lane.ended()
            assert ended is not None
            assert ended[:2] == (True, None)
            assert lane.close()
            os.close(bell)
        else:
            connection.executemany(INSERT, rows)
        found.append(
            connection.execute("SELECT a, typeof(a), b, typeof(b), c, typeof(c) FROM cells")
            .fetchall()
        )  # fmt: skip
        connection.close()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "row", [(2**63, 1, 1), ("\ud800", 1, 1), (object(), 1, 1), {"a": 1}, [1, 2, 3], (1, 2)]
)
def test_what_it_does_not_take_is_left_to_apsw(row: Any) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE cells (a, b, c)")
    bell = os.eventfd(0)
    lane = Beside(connection, bell)
    assert not lane.begin([(((INSERT, 1),), [(1, 2, 3), row], False)])
    assert lane.ended() is None
    assert not connection.in_transaction
    assert lane.begin([(((INSERT, 1),), [(1, 2, 3)], False)])
    assert lane.close(), "it ends what it has begun"
    assert connection.execute("SELECT count(*) FROM cells").fetchall() == [(1,)]
    connection.close()
    os.close(bell)


def clashing(made: Batch) -> None:
    made.events[-1] = made.events[-1][:1] + made.events[0][1:2] + made.events[-1][2:]


def odd(made: Batch) -> None:
    made.changes.append(("session.count", [(1, 2)]))  # of five parameters


@pytest.mark.parametrize("spoil", [clashing, odd])
def test_what_cannot_be_staged_is_rolled_back_and_told(
    storage: JournalWriter, spoil: Callable[[Batch], None]
) -> None:
    assert storage.begin(batch(1, 3))
    assert outcome(storage).error is None
    spoiled = batch(4, 40)
    spoil(spoiled)
    assert storage.begin(spoiled)
    ended = outcome(storage)
    assert not ended.staged
    assert ended.error
    assert not storage._connection.in_transaction
    assert storage.head().seq == 3
    with pytest.raises((Clash, StorageUnavailable)):
        storage.stage(spoiled)
    assert storage.begin(batch(4, 40))
    assert outcome(storage).error is None
    assert storage.head().seq == 43


def test_an_event_with_the_id_of_a_request_that_changed_nothing_is_a_clash(
    storage: JournalWriter,
) -> None:
    idle = batch(1, 1)
    idle.change("answer.idle", ((9).to_bytes(16, "big"), 1, bytes(32), b"x"))
    assert not storage.begin(idle), "the first of them is apsw's"
    storage.stage(idle)
    storage.commit()
    assert storage.begin(batch(2, 5))
    assert outcome(storage).error is None
    assert storage.begin(batch(7, 5))
    ended = outcome(storage)
    assert (ended.staged, storage.head().seq) == (False, 6)
    assert ended.error


def test_a_commit_that_fails_is_unknown_and_the_file_is_opened_anew(tmp_path: Path) -> None:
    with FaultVFS("beside") as disk:
        storage = beside(tmp_path / "journal.db", disk.name)
        assert storage.begin(batch(1, 3))
        assert outcome(storage).error is None
        disk.inject(Fault("sync", "wal"))
        assert storage.begin(batch(4, 3))
        ended = outcome(storage)
        assert ended.staged
        assert ended.error is not None
        assert "I/O" in ended.error
        seq = storage.reopen().seq
        assert seq in (3, 6)
        assert storage.begin(batch(seq + 1, 3))
        assert outcome(storage).error is None
        assert storage.close()


def test_nothing_is_begun_while_a_group_is_under_way(storage: JournalWriter) -> None:
    assert storage.begin(batch(1, 3))
    with pytest.raises(ValueError, match="under way"):
        storage.begin(batch(4, 3))
    assert outcome(storage).error is None


def test_closing_it_ends_what_was_begun_and_leaves_no_statement_in_the_connection(
    tmp_path: Path,
) -> None:
    storage = beside(tmp_path / "journal.db")
    assert storage.begin(batch(1, 200))
    assert storage.close()
    again = writer(tmp_path / "journal.db")
    assert again.head().seq == 200
    again.close()
