"""How much of what SQLite alone can do does a client get, with everything on?

Three shapes over ipc, the client in another process than the engine:

    one      one event in flight
    singles  256 requests of one event in flight, over 256 sessions
    batches  8 requests of 64 events in flight, over 8 sessions

each paired, in the same run and in turns, with a loop that only fills the same tables of the same
schema through apsw, in commits as large as what is in flight, with rows that were made before the
clock started; and `one` besides with an append and fdatasync of as many bytes and a ZeroMQ echo
over ipc, each by itself and one within the other. Ratios are of the medians of the rounds. Each
side has a process of its own, so that the memory in which it has held its rows or frames is not
kept from the other.
`cpu_us_per_event` is what the engine takes of the processors in all its threads,
`busiest_thread_us_per_event` what its loop takes of them: other work on the machine moves these
least.

    python bench/bench_append.py [--seconds 5] [--rounds 3] [--shape one|singles|batches]
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import zmq
from load import Load, bare_groups, emit, engine, frames, touch_memory, workspace
from openloop import Tape, play

from palyra_actors.storage.connection import open_checkpointer, open_writer
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.queries import sql
from palyra_actors.storage.upkeep import Checkpointer, finish

SHAPES = {
    "one": (1, 1, 1),
    "singles": (256, 1, 256),
    "batches": (8, 64, 8),
}  # window, events, sessions
RATE_GUESS = 400_000  # events a second that no shape reaches: how many frames to make


def through_engine(folder: Path, shape: str, seconds: float) -> dict[str, Any]:
    window, events, sessions = SHAPES[shape]
    part = 20 if window == 1 else 2 if events == 1 else 1
    made = frames(max(1000, int(RATE_GUESS * seconds / events / part)), events, sessions)
    first: Any = made[: window * 2]
    rest: Any = made[window * 2 :]
    count = len(rest)
    if window > 1:
        first, rest = Tape(first), Tape(rest)
    del made
    with engine(folder) as (endpoint, process):
        if window == 1:
            load = Load(endpoint)
            run: Callable[..., dict[str, Any]] = load.run
        else:
            run = partial(play, endpoint)
        run(first, window, 60)  # wakes the sessions
        before = processor_ns(process.pid)
        result = run(rest, window, seconds)
        took = {
            thread: ns - before.get(thread, 0) for thread, ns in processor_ns(process.pid).items()
        }
        if window == 1:
            load.close()
    answered = result["requests"] - result["refused"]  # a refusal is quick, and no append
    stored = max(1, answered) * events
    result["cpu_us"] = sum(took.values()) / 1000 / stored
    result["busiest_us"] = max(took.values()) / 1000 / stored
    if result["requests"] >= count:
        raise RuntimeError("too few frames were made: raise RATE_GUESS")
    return {**result, "events_per_second": answered / result["seconds"] * events}


def processor_ns(pid: int) -> dict[str, int]:
    """What each thread of a process has taken of the processors so far, in nanoseconds."""
    taken = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            taken[thread] = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return taken


def bare_loop(folder: Path, shape: str, seconds: float) -> dict[str, Any]:
    """The same rows into the same tables, nothing else: no chain, no checks, no client."""
    window, events, sessions = SHAPES[shape]
    group = window * events
    path = str(folder / "bare.db")
    writer = open_writer(path, synchronous="full", cache_bytes=64 << 20, wal_keep_bytes=16 << 20)
    migrate(writer, path)
    own = os.open(path, os.O_RDONLY)  # closed with the process: SQLite's locks go with it
    checkpointer = Checkpointer(
        open_checkpointer(path, synchronous="full"), path,
        checkpoint_bytes=4 << 20, finish_bytes=12 << 20, wal_bytes_max=256 << 20,
        monotonic=time.monotonic, sync=lambda: os.fdatasync(own),
    )  # fmt: skip
    leave, tidy = threading.Event(), threading.Event()

    def checkpoints() -> None:
        while not leave.wait(0.02):
            report = checkpointer.step()
            if report is not None and report.wants_finish:
                tidy.set()

    thread = threading.Thread(target=checkpoints)
    thread.start()
    count = int(RATE_GUESS * seconds / group / (20 if group == 1 else 1))
    groups = bare_groups(group, count, sessions, lambda _, place: place * sessions // group + 1)
    executemany, execute = writer.executemany, writer.execute
    execute("BEGIN IMMEDIATE")
    executemany(sql("insert_principal"), [(1, "local")])
    executemany(
        sql("insert_stream"), [(s, 1, os.urandom(16), 1, 0) for s in range(1, sessions + 1)]
    )
    execute("COMMIT")
    done, took_each = 0, []
    began = time.perf_counter()
    while done < len(groups) and time.perf_counter() - began < seconds:
        rows, heads, marks, begin, go_on = groups[done]
        start = time.perf_counter()
        if tidy.is_set():
            tidy.clear()
            finish(writer, frames_max=2048)
        execute("BEGIN IMMEDIATE")
        executemany(sql("insert_event"), rows)
        executemany(sql("move_head"), heads)
        if marks:
            executemany(sql("insert_mark"), marks)
        if begin:
            executemany(sql("run.insert"), begin)
        executemany(sql("run.update"), go_on)
        execute("COMMIT")
        took_each.append(time.perf_counter() - start)
        done += 1
    took = time.perf_counter() - began
    leave.set()
    thread.join()
    checkpointer.close()
    writer.close()
    took_each.sort()
    return {
        "events_per_second": done * group / took,
        "p50_ms": took_each[len(took_each) // 2] * 1000,
        "p99_ms": took_each[int(len(took_each) * 0.99)] * 1000,
    }


def sync_of_an_append(folder: Path, seconds: float, reuse: bool) -> float:
    """Median milliseconds to write 12 KiB, three pages with their headers as a COMMIT does, and
    fdatasync: appended to a file that grows, or (`reuse`) into one that has its size, as our WAL.
    """
    path = folder / f"plain-{reuse}"
    path.write_bytes(bytes(16 << 20) if reuse else b"")
    descriptor = os.open(path, os.O_WRONLY)
    os.fsync(descriptor)
    block, took, offset = os.urandom(3 * 4120), [], 0
    ends = time.perf_counter() + seconds
    while (start := time.perf_counter()) < ends:
        os.pwrite(descriptor, block, offset)
        os.fdatasync(descriptor)
        took.append(time.perf_counter() - start)
        offset += len(block)
        if reuse:
            offset %= 15 << 20
    os.close(descriptor)
    return statistics.median(took) * 1000


def zeromq_echo(folder: Path, seconds: float, *, synced: bool = False) -> float:
    """Median milliseconds of a 600 byte round trip to another process over ipc. `synced`: that one
    writes 12 KiB to the end of a file and waits for fdatasync before it answers, as whoever would
    lose nothing has to, and its disk and its processor rest between two requests as an engine's do.
    """
    endpoint = f"ipc://{folder}/echo-{synced}"
    child = os.fork()
    if child == 0:
        router = zmq.Context().socket(zmq.ROUTER)
        router.bind(endpoint)
        grows = os.open(folder / "echoed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        block = os.urandom(3 * 4120)
        while True:
            identity, frame = router.recv_multipart()
            if frame == b"stop":
                os._exit(0)
            if synced:
                os.write(grows, block)
                os.fdatasync(grows)
            router.send_multipart((identity, frame))
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(endpoint)
    frame, took = os.urandom(600), []
    ends = time.perf_counter() + seconds
    while (start := time.perf_counter()) < ends:
        dealer.send(frame)
        dealer.recv()
        took.append(time.perf_counter() - start)
    dealer.send(b"stop")
    os.waitpid(child, 0)
    dealer.close()
    context.term()
    return statistics.median(took) * 1000


def apart(
    side: Callable[[Path, str, float], dict[str, Any]], folder: Path, shape: str, seconds: float
) -> dict[str, Any]:
    """One side, in a process that ends with it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(side, folder, shape, seconds).result()


def measure(shape: str, seconds: float, rounds: int, where: str | None) -> None:
    ours, bare, sync, reused, echo, synced = [], [], [], [], [], []
    for turn in range(rounds):
        if shape == "one":
            with workspace(where) as folder:
                echo.append(zeromq_echo(folder, seconds / 4))
                synced.append(zeromq_echo(folder, seconds / 4, synced=True))
                sync.append(sync_of_an_append(folder, seconds / 4, reuse=False))
                reused.append(sync_of_an_append(folder, seconds / 4, reuse=True))
        sides = [(bare_loop, bare), (through_engine, ours)]
        for side, results in sides if turn % 2 else reversed(sides):
            with workspace(where) as folder:
                os.sync()  # what the one has left to the disk is not for the other to wait for
                results.append(apart(side, folder, shape, seconds))

    def middle(results: list[dict[str, Any]], key: str) -> float:
        return statistics.median(result[key] for result in results)

    rate, bare_rate = middle(ours, "events_per_second"), middle(bare, "events_per_second")
    result = {
        "shape": shape,
        "events_per_second": round(rate),
        "bare_loop_per_second": round(bare_rate),
        "ratio_to_bare_loop": round(rate / bare_rate, 3),
        "p50_ms": round(middle(ours, "p50_ms"), 3),
        "p99_ms": round(middle(ours, "p99_ms"), 3),
        "bare_commit_p50_ms": round(middle(bare, "p50_ms"), 3),
        "cpu_us_per_event": round(middle(ours, "cpu_us"), 2),
        "busiest_thread_us_per_event": round(middle(ours, "busiest_us"), 2),
        "refused": sum(run["refused"] for run in ours),
        "rounds": rounds,
        "seconds": seconds,
        "sqlite": apsw.sqlite_lib_version(),
        "python": sys.version.split()[0],
    }
    if shape == "one":
        floor = statistics.median(sync) + statistics.median(echo)
        result["append_sync_p50_ms"] = round(statistics.median(sync), 3)
        result["reused_sync_p50_ms"] = round(statistics.median(reused), 3)
        result["echo_p50_ms"] = round(statistics.median(echo), 3)
        result["synced_echo_p50_ms"] = round(statistics.median(synced), 3)
        result["p50_to_sync_plus_echo"] = round(middle(ours, "p50_ms") / floor, 3)
        result["p50_to_synced_echo"] = round(middle(ours, "p50_ms") / statistics.median(synced), 3)
    emit("append", **result)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    touch_memory()
    for shape in SHAPES if options.shape == "all" else [options.shape]:
        measure(shape, options.seconds, options.rounds, options.dir)


if __name__ == "__main__":
    main()
