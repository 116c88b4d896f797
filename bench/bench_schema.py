"""Marks and links, or an index on (stream, stream_seq)?

Fills the journal's tables with rows made beforehand, 1,000 sessions in turn, in commits of 256 and
of 512 events, in two files by turns: one as it is, one with the index and without marks. Then one
session's whole history is read from both, page by page, as `journal.read` does: 100 events a page.
Ratios are of the medians of the rounds; above 1.0 the marks are better.

    python bench/bench_schema.py [--events 100000] [--rounds 3] [--dir DIR]
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import apsw
from load import bare_groups, emit, workspace

from palyra_actors.storage.connection import open_reader, open_writer
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.port import Selection
from palyra_actors.storage.queries import sql
from palyra_actors.storage.upkeep import finish

SESSIONS = 1_000
PAGE_EVENTS = 100
PAGE_BYTES_MAX = 3 << 20
TIDY_EVENTS = 16_384  # how often the WAL starts anew, as the checkpoints beside the writer see to
INDEX = "CREATE UNIQUE INDEX events_by_stream ON events (stream, stream_seq)"
PAGE_BY_INDEX = """
SELECT e.seq, e.event_id, s.kind, s.stream_id, e.stream_seq, e.session_id, e.run_id, e.kind,
       e.actor, p.name, e.ts_ms, e.recorded_ms, e.redacted, e.traceparent, e.payload,
       e.payload_sha256, e.hash, (SELECT b.hash FROM events b WHERE b.seq = e.seq - 1)
FROM events e INDEXED BY events_by_stream
JOIN streams s USING (stream) JOIN principals p ON p.principal = e.principal
WHERE e.stream = ? AND e.stream_seq > ? ORDER BY e.stream_seq LIMIT ?
"""


def fill(path: str, group: int, events: int, indexed: bool) -> tuple[float, int]:
    """Events a second, and the file's bytes."""
    writer = open_writer(path, synchronous="full", cache_bytes=64 << 20, wal_keep_bytes=16 << 20)
    migrate(writer, path)
    execute, executemany = writer.execute, writer.executemany
    if indexed:
        execute(INDEX)
    execute("BEGIN IMMEDIATE")
    executemany(sql("insert_principal"), [(1, "local")])
    executemany(
        sql("insert_stream"), [(s, 1, os.urandom(16), 1, 0) for s in range(1, SESSIONS + 1)]
    )
    execute("COMMIT")
    groups = made(group, events)
    since_tidy = 0
    began = time.perf_counter()
    for rows, heads, marks, _, _ in groups:
        execute("BEGIN IMMEDIATE")
        executemany(sql("insert_event"), rows)
        executemany(sql("move_head"), heads)
        if marks and not indexed:
            executemany(sql("insert_mark"), marks)
        execute("COMMIT")
        since_tidy += group
        if since_tidy >= TIDY_EVENTS:
            since_tidy = 0
            finish(writer, frames_max=1 << 20)
    took = time.perf_counter() - began
    finish(writer, frames_max=1 << 20)
    writer.close()
    return len(groups) * group / took, os.stat(path).st_size


def made(group: int, events: int) -> list[Any]:
    """Rows, heads and marks of each commit, over the sessions in turn."""
    return bare_groups(group, events // group, SESSIONS, lambda seq, _: seq % SESSIONS + 1)


def read_by_marks(path: str, streams: range) -> tuple[int, float]:
    """Events read, and seconds."""
    reader = JournalReader(open_reader(path, cache_bytes=16 << 20))
    read = 0
    began = time.perf_counter()
    for stream in streams:
        after, end = 0, False
        while not end:
            page = reader.page(Selection(after, stream), PAGE_EVENTS, PAGE_BYTES_MAX)
            read += len(page.events)
            after, end = page.next_after_seq, page.end
    took = time.perf_counter() - began
    reader.close()
    return read, took


def read_by_index(path: str, streams: range) -> tuple[int, float]:
    from palyra_actors.storage.journal import stored_from_row

    connection: apsw.Connection = open_reader(path, cache_bytes=16 << 20)
    read = 0
    began = time.perf_counter()
    for stream in streams:
        after = 0
        while True:
            rows = connection.execute(PAGE_BY_INDEX, (stream, after, PAGE_EVENTS)).fetchall()
            page = [stored_from_row(row) for row in rows]
            read += len(page)
            if len(page) < PAGE_EVENTS:
                break
            after = page[-1].stream_seq
    took = time.perf_counter() - began
    connection.close()
    return read, took


def measure(group: int, events: int, rounds: int, where: str | None) -> None:
    writes: dict[bool, list[float]] = {False: [], True: []}
    reads: dict[bool, list[float]] = {False: [], True: []}
    sizes = {}
    streams = range(1, 101)
    for number in range(rounds):
        with workspace(where) as folder:
            for indexed in (False, True) if number % 2 else (True, False):
                path = str(Path(folder) / f"{indexed}.db")
                rate, sizes[indexed] = fill(path, group, events, indexed)
                writes[indexed].append(rate)
                read, took = (read_by_index if indexed else read_by_marks)(path, streams)
                if read < events // SESSIONS * len(streams) * 0.99:
                    raise RuntimeError(f"{read} events were read")
                reads[indexed].append(read / took)
    marks, index = statistics.median(writes[False]), statistics.median(writes[True])
    read_marks, read_index = statistics.median(reads[False]), statistics.median(reads[True])
    emit(
        "schema",
        group=group,
        sessions=SESSIONS,
        events=events,
        marks_per_second=round(marks),
        index_per_second=round(index),
        write_ratio=round(marks / index, 3),
        read_marks_per_second=round(read_marks),
        read_index_per_second=round(read_index),
        read_ratio=round(read_marks / read_index, 3),
        bytes_ratio=round(sizes[False] / sizes[True], 3),
        rounds=rounds,
        sqlite=apsw.sqlite_lib_version(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000, help="in each file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    for group in (256, 512):
        measure(group, options.events, options.rounds, options.dir)


if __name__ == "__main__":
    main()
