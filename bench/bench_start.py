"""How long until an engine answers after kill -9, and how long does a backup beside it take?

A journal of `--events` events over 1,000 sessions is written, then, with writes under way, the
engine is killed and started again, `--rounds` times: the time from the start of the process to its
line `ready`, and to the first acknowledged write. Then a copy is made while 200 writes a second go
on, whose latencies are given with and without it; a second copy over it; and a restore.

    python bench/bench_start.py [--events 1000000] [--rounds 3]
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import zmq
from load import Load, emit, engine, frames, workspace

from palyra_actors.storage.backup import back_up, restore

EVENTS = 64
SESSIONS = 1_000
PACED_PER_SECOND = 200


def fill(folder: Path, events: int) -> None:
    """In parts, so that the frames of all of it are never in memory at once."""
    part = 100_000
    with engine(folder) as (endpoint, _):
        for start in range(0, events, part):
            count = min(part, events - start) // EVENTS
            load = Load(endpoint)
            load.run(frames(count, EVENTS, SESSIONS, seed=start, budget_ms=0), 16, 600)
            load.close()


def killed_and_started(folder: Path) -> dict[str, float]:
    with engine(folder) as (endpoint, process):
        load = Load(endpoint)
        load.run(frames(600, EVENTS, SESSIONS, budget_ms=0), 16, 2)
        socket = load.socket
        for frame in frames(200, EVENTS, SESSIONS, seed=2, budget_ms=0):
            socket.send(frame)
        process.send_signal(signal.SIGKILL)
        process.wait()
        load.close()
    wal = (folder / "bench.db-wal").stat().st_size
    began = time.perf_counter()
    with engine(folder) as (endpoint, _):
        ready = time.perf_counter() - began
        load = Load(endpoint)
        load.run(frames(1, 1, 1, seed=3, budget_ms=0), 1, 10)
        acked = time.perf_counter() - began
        load.close()
    return {"ready_s": ready, "first_ack_s": acked, "wal_mib": wal / 2**20}


class Paced(threading.Thread):
    """One event each 5 ms; their latencies in milliseconds, and how many were refused."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.endpoint, self.leave = endpoint, threading.Event()
        self.took: list[float] = []
        self.refused = 0
        self.why = ""

    def run(self) -> None:
        context: zmq.Context[Any] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(self.endpoint)
        made = frames(60_000, 1, 50, seed=5)
        began = time.perf_counter()
        for number, frame in enumerate(made):
            if self.leave.is_set():
                break
            time.sleep(max(0.0, began + number / PACED_PER_SECOND - time.perf_counter()))
            sent = time.perf_counter()
            socket.send(frame)
            reply = socket.recv()
            if b"\xa3err" in reply[:24]:
                self.refused += 1
                self.why = self.why or reply.decode("latin-1")
            self.took.append((time.perf_counter() - sent) * 1000)
        socket.close(0)
        context.term()

    def end(self) -> dict[str, float]:
        self.leave.set()
        self.join()
        took = sorted(self.took)
        return {
            "p50_ms": round(took[len(took) // 2], 2),
            "p99_ms": round(took[int(len(took) * 0.99)], 2),
            "max_ms": round(took[-1], 2),
            "refused": self.refused,
            "why": self.why[:80],
            "writes": len(took),
        }


def back_up_beside(folder: Path) -> None:
    copy = folder / "bench.backup"
    command = [sys.executable, "-m", "palyra_actors.cli", "backup", "--json"]
    with engine(folder) as (endpoint, _):
        quiet = Paced(endpoint)
        quiet.start()
        time.sleep(4)
        emit("backup", what="nothing beside", **quiet.end())
        for what in ("whole", "over the older copy"):
            paced = Paced(endpoint)
            paced.start()
            began = time.perf_counter()
            subprocess.run(
                [*command, "--db", str(folder / "bench.db"), "--to", str(copy)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            took = time.perf_counter() - began
            emit("backup", what=what, seconds=round(took, 2), **paced.end())
        done = back_up(folder / "bench.db", copy)
        emit(
            "backup",
            what="again, in this process",
            seconds=round(done.seconds, 2),
            mib=round(done.pages * 4096 / 2**20),
            written_mib=round(done.pages_written * 4096 / 2**20, 1),
        )
    back = restore(copy, folder / "back.db")
    emit("restore", seconds=round(back.seconds, 2), events=back.checked)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with workspace(os.getcwd()) as folder:
        fill(folder, options.events)
        rounds = [killed_and_started(folder) for _ in range(options.rounds)]
        emit(
            "start",
            events=options.events,
            rounds=options.rounds,
            db_mib=round((folder / "bench.db").stat().st_size / 2**20),
            **{key: round(statistics.median(r[key] for r in rounds), 3) for key in rounds[0]},
            ready_s_max=round(max(r["ready_s"] for r in rounds), 3),
        )
        back_up_beside(folder)


if __name__ == "__main__":
    main()
