"""Does an append cost more where there is much already?

Files of 10,000, 100,000, 1 million and 10 million events are filled through the bare tables (rows,
marks and heads as the engine leaves them, without their hashes), an engine is started on each, and
they take turns, round by round: the same closed load on 256 sessions, first new ones, as agents
begin them, then old ones that lie anywhere in the file. `ratio` is of the medians, against the
smallest; `us_per_append` of single appends, 256 in flight at a time, `one_ms` of one in flight.

    python bench/bench_growth.py [--sizes 10000,100000,1000000,10000000] [--rounds 5] [--plot FILE]
"""

import argparse
import contextlib
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from load import PAYLOAD, emit, engine, workspace
from openloop import CROCKFORD, OpenLoop, be_nice, capacity

from palyra_actors.domain.chain import GENESIS
from palyra_actors.storage.connection import open_writer
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.queries import sql

SESSION_EVENTS = 100
GROUP = 20_000
ACTIVE = 256
MARK_EVERY = 64
NAMES = "sessions"


def fill(path: Path, events: int) -> list[bytes]:
    """Sessions of a hundred events each, written in turn by hundreds; some of their ids."""
    import msgspec

    connection = open_writer(str(path), synchronous="off", cache_bytes=512 << 20, wal_keep_bytes=0)
    migrate(connection, str(path))
    payload = msgspec.msgpack.encode(PAYLOAD)
    sessions = max(1, events // SESSION_EVENTS)
    now, run = time.time_ns() // 1_000_000 - events, os.urandom(16)
    ids = [(now + n).to_bytes(6, "big") + os.urandom(10) for n in range(sessions)]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(sql("insert_principal"), [(1, "local")])
    connection.executemany(
        sql("insert_stream"), [(n + 1, 1, ids[n], 1, 0) for n in range(sessions)]
    )
    connection.execute("COMMIT")
    turn = 100  # sessions that are written to in turn
    seq = 0
    while seq < events:
        rows: list[Any] = []
        marks, heads = [], {}
        noise = os.urandom(10 * GROUP)
        for place in range(min(GROUP, events - seq)):
            at = seq
            seq += 1
            block, within = divmod(at, turn * SESSION_EVENTS)
            number, which = divmod(within, turn)
            stream = min(block * turn + which, sessions - 1) + 1
            rows.append(
                (seq, (now + at).to_bytes(6, "big") + noise[place * 10 : place * 10 + 10],
                 stream, number + 1, turn if number else 0, None, run, 4, 2, 1, now + at,
                 now + at, 0, None, payload, None, GENESIS)
            )  # fmt: skip
            heads[stream] = (stream, number + 1, seq)
            if (number + 1) % MARK_EVERY == 0:
                marks.append((stream, (number + 1) // MARK_EVERY, seq))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(sql("insert_event"), rows)
        connection.executemany(sql("move_head"), list(heads.values()))
        connection.executemany(sql("insert_mark"), marks)
        connection.execute("COMMIT")
    for statement in ("cool_heads", "forget_warm"):  # as those of long ago
        connection.execute(sql(statement), (seq, sessions))
    with contextlib.suppress(apsw.Error):
        connection.execute("ANALYZE")
    connection.close()
    chosen = np.random.default_rng(1).choice(sessions, min(ACTIVE, sessions), replace=False)
    return [_text(ids[place]) for place in chosen]


def _text(raw: bytes) -> bytes:
    value = int.from_bytes(raw, "big")
    return bytes(CROCKFORD[(value >> (5 * (25 - digit))) & 31] for digit in range(26))


def filled(folder: Path, size: int) -> Path:
    """The folder of a file of that size, filled if it is not there yet."""
    home = folder / str(size)
    if (home / NAMES).exists():
        return home
    home.mkdir()
    began = time.perf_counter()
    names = fill(home / "bench.db", size)
    (home / NAMES).write_bytes(b"\n".join(names))
    emit(
        "growth", part="fill", events=size, seconds=round(time.perf_counter() - began, 1),
        file_mib=round((home / "bench.db").stat().st_size / (1 << 20), 1),
    )  # fmt: skip
    return home


def measure(folder: Path, sizes: list[int], rounds: int, seconds: float, plot: str | None) -> None:
    homes = [filled(folder, size) for size in sizes]
    names = [(home / NAMES).read_bytes().split() for home in homes]
    with contextlib.ExitStack() as stack:
        endpoints = [stack.enter_context(engine(home))[0] for home in homes]
        be_nice()
        loads = [OpenLoop(endpoint, sessions=ACTIVE) for endpoint in endpoints]
        found = take_turns("new", loads, sizes, rounds, seconds)
        for load, known in zip(loads, names, strict=True):
            load.use(known)
        found_old = take_turns("old", loads, sizes, rounds, seconds)
        for load in loads:
            load.close()
    if plot:
        draw(plot, sizes, {"new": found, "old": found_old})


def take_turns(
    which: str, loads: list[OpenLoop], sizes: list[int], rounds: int, seconds: float
) -> list[dict[str, float]]:
    """Every size in each round, one after the other; what an append took, by size."""
    rates: list[list[float]] = [[] for _ in sizes]
    ones: list[list[float]] = [[] for _ in sizes]
    for load in loads:
        capacity(load, ACTIVE, 1.0)
    for number in range(rounds):
        for place in range(len(sizes)) if number % 2 else reversed(range(len(sizes))):
            rates[place].append(capacity(loads[place], ACTIVE, seconds))
            ones[place].append(capacity(loads[place], 1, seconds / 2))
    found: list[dict[str, float]] = []
    for place, size in enumerate(sizes):
        us = 1e6 / statistics.median(rates[place])
        one = 1e3 / statistics.median(ones[place])
        first = found[0] if found else {"us_per_append": us, "one_ms": one}
        found.append({"us_per_append": us, "one_ms": one})
        emit(
            "growth", sessions=which, events=size, us_per_append=round(us, 2), one_ms=round(one, 3),
            ratio=round(us / first["us_per_append"], 3),
            ratio_one=round(one / first["one_ms"], 3),
            us_rounds=[round(1e6 / rate, 1) for rate in rates[place]],
            rounds=rounds, seconds=seconds, python=sys.version.split()[0],
        )  # fmt: skip
    return found


def draw(path: str, sizes: list[int], both: dict[str, list[dict[str, float]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for which, found in both.items():
        for key in ("us_per_append", "one_ms"):
            ratios = [one[key] / found[0][key] for one in found]
            axes.plot(sizes, ratios, "o-", label=f"{key}, {which} sessions")
    axes.axhline(1.15, linestyle=":", color="grey")
    axes.set(xscale="log", ylim=(0, 2), xlabel="events in the file", ylabel="cost, smallest = 1")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,100000,1000000,10000000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--files", metavar="FOLDER", help="keep the files there, or find them")
    parser.add_argument("--fill", action="store_true", help="into --files, and nothing else")
    parser.add_argument("--plot", metavar="FILE", help="needs matplotlib")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    with workspace(options.dir) as made:
        folder = Path(options.files or made)
        if options.fill:
            for size in sizes:
                filled(folder, size)
            return
        measure(folder, sizes, options.rounds, options.seconds, options.plot)


if __name__ == "__main__":
    main()
