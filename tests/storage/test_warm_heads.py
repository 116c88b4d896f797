"""Heads that moved lately lie together; wherever one lies, it is what was written last."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.errors import StorageUnavailable
from palyra_actors.storage.connection import open_writer
from palyra_actors.storage.journal import JournalWriter
from palyra_actors.storage.migrations import migrate, migrations
from palyra_actors.storage.queries import sql
from palyra_actors.testing.faults import Action, Fault, FaultVFS

STREAMS = 40


def opened(path: Path, vfs: str | None = None, upto: int | None = None) -> apsw.Connection:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    connection = open_writer(
        path, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=0, vfs=vfs
    )
    migrate(connection, path, migrations()[:upto])
    return connection


def add_streams(connection: apsw.Connection) -> None:
    connection.execute(sql("insert_principal"), (1, "alice")).fetchall()
    connection.executemany(
        sql("insert_stream"), [(s, 1, s.to_bytes(16, "big"), 1, 0) for s in range(1, STREAMS + 1)]
    ).fetchall()


def rows(connection: apsw.Connection, of: str) -> list[Any]:
    return connection.execute(f"SELECT * FROM {of} ORDER BY stream").fetchall()


class Journal:
    """Streams whose ends are moved, and where they are."""

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self.side = JournalWriter(connect)
        self.connection = self.side._connection
        add_streams(self.connection)
        self.ends: dict[int, tuple[int, int, int]] = {}
        self.seq = 0

    def move(self, streams: list[int]) -> None:
        for stream in streams:
            self.seq += 1
            _, number, _ = self.ends.get(stream, (0, 0, 0))
            self.ends[stream] = (stream, number + 1, self.seq)
            self.connection.execute(sql("move_head"), self.ends[stream]).fetchall()

    def check(self) -> None:
        """What is not written yet has no end."""
        found = [row for row in rows(self.connection, "ends") if row[1] is not None]
        assert found == sorted(self.ends.values())

    def warm(self) -> list[int]:
        return [row[0] for row in rows(self.connection, "warm_heads")]


@pytest.fixture
def journal(database: Path) -> Journal:
    return Journal(lambda: opened(database))


def test_those_that_moved_long_ago_go_and_the_last_ones_stay(journal: Journal) -> None:
    journal.move([3, 1, 4, 15, 9, 2, 6])
    assert journal.side.cool(7, 10) == 0
    assert rows(journal.connection, "heads") == []
    assert journal.side.cool(3, 2) == 2  # of the four that moved first, by stream
    assert [row[0] for row in rows(journal.connection, "heads")] == [1, 3]
    assert journal.side.cool(3, 2) == 0
    assert (journal.warm(), len(rows(journal.connection, "heads"))) == ([2, 6, 9], 4)
    journal.check()
    journal.move([3])  # it is in both now, and the warm one is its end
    journal.check()
    assert journal.side.cool(0, 100) == 0
    assert (journal.warm(), len(rows(journal.connection, "heads"))) == ([], 7)
    journal.check()
    assert journal.side.cool(0, 100) == 0


def test_a_streams_end_is_its_last_event_in_whatever_order_heads_move_and_cool(
    journal: Journal,
) -> None:
    chance = random.Random(20)
    for _ in range(300):
        if chance.random() < 0.3:
            warm_max, rows_max = chance.randrange(STREAMS), chance.randrange(1, STREAMS)
            before = len(journal.warm())
            left = journal.side.cool(warm_max, rows_max)
            assert left == max(0, before - warm_max - rows_max)
            assert len(journal.warm()) == min(before, warm_max) + left
        else:
            journal.move([chance.randrange(STREAMS) + 1 for _ in range(chance.randrange(8))])
        journal.check()


@pytest.mark.parametrize("action", ["write", "sync"])
def test_a_disk_that_fails_meanwhile_loses_no_end(database: Path, action: Action) -> None:
    with FaultVFS(f"warm-heads-{action}") as disk:
        journal = Journal(lambda: opened(database, disk.name))
        journal.move([5, 6, 7, 8])
        fault = disk.inject(Fault(action, "wal"))
        with pytest.raises(StorageUnavailable):
            journal.side.cool(0, 10)
        assert fault.fired == 1
        journal.check()
        assert journal.side.cool(0, 10) == 0
        journal.check()
        journal.side.close()


def test_a_file_of_the_version_before_keeps_its_ends(database: Path) -> None:
    connection = opened(database, upto=19)
    add_streams(connection)
    before = [(stream, 2 * stream, 100 + stream) for stream in range(1, STREAMS + 1)]
    connection.executemany("INSERT INTO heads VALUES (?, ?, ?)", before).fetchall()
    connection.close()
    connection = opened(database)
    assert rows(connection, "ends") == before
    assert rows(connection, "warm_heads") == []
    connection.execute(sql("move_head"), (7, 15, 200)).fetchall()
    assert rows(connection, "ends")[6] == (7, 15, 200)
    connection.close()
