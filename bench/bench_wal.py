"""What does the WAL's state cost a COMMIT, and what keeps the WAL from growing?

    python bench/bench_wal.py [--folder DIR] [--rows N] [--rounds N]

One JSON line per result. `commit`: median and 90th percentile of one COMMIT of one 2,000 byte row,
by what was done to the WAL beforehand, and by page size. `upkeep`: the largest WAL while a loop
writes without a pause, by who checkpoints. `secure_delete`: the same loop with and without it. The
folder has to be on the disk in question, not in memory.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import apsw

from palyra_actors.storage.connection import grow_wal, open_checkpointer, open_writer, pragma
from palyra_actors.storage.upkeep import Checkpointer, finish, wal_bytes

KEEP_BYTES = 16 * 1024 * 1024
ROW_BYTES = 2_000


def say(**result: Any) -> None:
    print(json.dumps(result), flush=True)


def open_plain(path: str, page_bytes: int) -> apsw.Connection:
    connection = apsw.Connection(path)
    for text in (
        f"page_size = {page_bytes}",
        "auto_vacuum = incremental",
        "journal_mode = wal",
        "synchronous = full",
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {KEEP_BYTES}",
    ):
        pragma(connection, text)
    connection.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, body BLOB)").fetchall()
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    return connection


def growing(connection: apsw.Connection, path: str) -> None:
    """Nothing: each commit appends to the file."""


def spilled(connection: apsw.Connection, path: str) -> None:
    """As `open_writer` does."""
    grow_wal(connection, path, KEEP_BYTES)


def allocated(connection: apsw.Connection, path: str) -> None:
    descriptor = os.open(path + "-wal", os.O_RDWR)
    os.posix_fallocate(descriptor, 0, KEEP_BYTES)
    os.fsync(descriptor)
    os.close(descriptor)


def zeroed(connection: apsw.Connection, path: str) -> None:
    with open(path + "-wal", "r+b", buffering=0) as wal:
        wal.write(bytes(KEEP_BYTES))
        os.fsync(wal.fileno())


def reused(connection: apsw.Connection, path: str) -> None:
    while wal_bytes(path) < KEEP_BYTES:
        commit_rows(connection, 200)
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART)


def commit_rows(connection: apsw.Connection, rows: int) -> list[float]:
    body, spans = os.urandom(ROW_BYTES), []
    for _ in range(rows):
        connection.execute("BEGIN IMMEDIATE").fetchall()
        connection.execute("INSERT INTO rows (body) VALUES (?)", (body,)).fetchall()
        began = time.perf_counter()
        connection.execute("COMMIT").fetchall()
        spans.append((time.perf_counter() - began) * 1000)
    return sorted(spans)


def bench_commit(folder: str, rows: int, rounds: int) -> None:
    ways: tuple[Callable[[apsw.Connection, str], None], ...]
    ways = (growing, spilled, zeroed, allocated, reused)
    spans: dict[tuple[int, str], list[float]] = {}
    prepare: dict[tuple[int, str], list[float]] = {}
    for turn in range(rounds):
        for page_bytes in (4096, 8192):
            for way in ways:
                path = os.path.join(folder, f"{turn}-{page_bytes}-{way.__name__}.db")
                connection = open_plain(path, page_bytes)
                began = time.perf_counter()
                way(connection, path)
                took = (time.perf_counter() - began) * 1000
                commit_rows(connection, 1)
                key = (page_bytes, way.__name__)
                spans.setdefault(key, []).extend(commit_rows(connection, rows))
                prepare.setdefault(key, []).append(took)
                connection.close()
                os.unlink(path)
    for (page_bytes, name), values in spans.items():
        values.sort()
        say(
            bench="wal",
            question="commit",
            page_bytes=page_bytes,
            wal=name,
            commits=len(values),
            p50_ms=round(values[len(values) // 2], 3),
            p90_ms=round(values[len(values) * 9 // 10], 3),
            prepare_ms=round(statistics.median(prepare[page_bytes, name]), 1),
        )


def bench_upkeep(folder: str, total_bytes: int) -> None:
    threshold = 4 * 1024 * 1024
    for hands in ("step", "step and finish"):
        path = os.path.join(folder, f"{hands.replace(' ', '-')}.db")
        writer = open_writer(
            path, synchronous="full", cache_bytes=1 << 24, wal_keep_bytes=threshold
        )
        writer.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, body BLOB)").fetchall()
        checkpointer = Checkpointer(
            open_checkpointer(path, synchronous="full"),
            path,
            checkpoint_bytes=threshold,
            wal_bytes_max=1 << 30,
            monotonic=time.monotonic,
        )
        wanted, done = threading.Event(), threading.Event()

        def upkeep(
            checkpointer: Checkpointer = checkpointer,
            wanted: threading.Event = wanted,
            done: threading.Event = done,
        ) -> None:
            while not done.is_set():
                report = checkpointer.step()
                if report is None:
                    done.wait(0.001)
                elif report.wants_finish:
                    wanted.set()

        thread = threading.Thread(target=upkeep)
        thread.start()
        body, largest, finishes, finishing = os.urandom(4096), 0, 0, 0.0
        began = time.perf_counter()
        for _ in range(total_bytes // (16 * 4096)):
            writer.execute("BEGIN IMMEDIATE").fetchall()
            for _ in range(16):
                writer.execute("INSERT INTO rows (body) VALUES (?)", (body,)).fetchall()
            writer.execute("COMMIT").fetchall()
            largest = max(largest, wal_bytes(path))
            if hands != "step" and wanted.is_set():
                start = time.perf_counter()
                wanted.clear()
                finishes += finish(writer, frames_max=4096)
                finishing = max(finishing, time.perf_counter() - start)
        seconds = time.perf_counter() - began
        done.set()
        thread.join()
        figures = checkpointer.statistics()
        checkpointer.close()
        writer.close()
        say(
            bench="wal",
            question="upkeep",
            hands=hands,
            mib_per_s=round(total_bytes / seconds / 2**20, 1),
            wal_mib_max=round(largest / 2**20, 1),
            threshold_mib=threshold >> 20,
            steps=figures.checkpoints,
            step_ms_max=round(figures.seconds_max * 1000, 1),
            finishes=finishes,
            finish_ms_max=round(finishing * 1000, 1),
        )


def bench_secure_delete(folder: str, rows: int, rounds: int) -> None:
    spans: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(rounds):
        for on in (0, 1):
            path = os.path.join(folder, f"secure-{turn}-{on}.db")
            writer = open_writer(
                path, synchronous="off", cache_bytes=1 << 24, wal_keep_bytes=KEEP_BYTES
            )
            pragma(writer, f"secure_delete = {on}")
            writer.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, body BLOB)").fetchall()
            writer.execute("CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID").fetchall()
            body = os.urandom(300)
            began = time.perf_counter()
            for _ in range(rows // 10):
                writer.execute("BEGIN IMMEDIATE").fetchall()
                for _ in range(100):
                    writer.execute("INSERT INTO rows (body) VALUES (?)", (body,)).fetchall()
                    writer.execute("INSERT INTO ids VALUES (?)", (os.urandom(16),)).fetchall()
                writer.execute("COMMIT").fetchall()
            spans[on].append((time.perf_counter() - began) / (rows // 10 * 100) * 1e6)
            writer.close()
            os.unlink(path)
    for on, values in spans.items():
        say(
            bench="wal",
            question="secure_delete",
            secure_delete=bool(on),
            us_per_row=round(statistics.median(values), 2),
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default=".", help="on the disk in question")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench_commit(folder, options.rows, options.rounds)
        bench_upkeep(folder, 128 * 1024 * 1024)
        bench_secure_delete(folder, options.rows, options.rounds)


if __name__ == "__main__":
    main()
