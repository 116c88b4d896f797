"""Who merges the index of memories: FTS5, when it finds enough, or the writer, a little each time?

    python bench/bench_merge.py [--items N]

Texts as in `bench_memory.py`, in groups of 20 and of 80, a transaction each. `pages` 0 is FTS5's
automerge, else its `merge` command with so many pages after each group. A JSON line for each:

    merge   mean time of an item; p50, p99 and longest of a transaction; pieces at the end
"""

import argparse
import time
from pathlib import Path
from typing import Any

import apsw
from bench_memory import Texts, percentiles
from load import emit, workspace

from palyra_actors.domain.words import index_line

TABLE = """CREATE VIRTUAL TABLE texts USING fts5
(words, content = '', columnsize = 0, detail = none, tokenize = 'ascii')"""


def measure(path: Path, lines: list[Any], group: int, pages: int) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = wal; PRAGMA synchronous = off").fetchall()
    connection.execute(TABLE).fetchall()
    if pages:
        for name, value in (("automerge", 0), ("crisismerge", 64)):
            connection.execute("INSERT INTO texts (texts, rank) VALUES (?, ?)", (name, value))
    times = []
    for at in range(0, len(lines), group):
        began = time.perf_counter()
        with connection:
            rows = list(enumerate(lines[at : at + group], at + 1))
            connection.executemany("INSERT INTO texts (rowid, words) VALUES (?, ?)", rows)
            if pages:
                connection.execute("INSERT INTO texts (texts, rank) VALUES ('merge', ?)", (pages,))
        times.append(time.perf_counter() - began)
    pieces = connection.execute("SELECT count(DISTINCT segid) FROM texts_idx").fetchall()
    connection.close()
    emit(
        "merge", group=group, pages=pages, us_an_item=round(sum(times) / len(lines) * 1e6, 1),
        **percentiles(times), pieces=pieces[0][0],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=40_000)
    options = parser.parse_args()
    texts = Texts(3)
    lines = [index_line(1, texts.text())[0] for _ in range(options.items)]
    for group in (20, 80):
        for pages in (0, 4, 16, 64):
            with workspace() as folder:
                measure(folder / "merge.db", lines, group, pages)


if __name__ == "__main__":
    main()
