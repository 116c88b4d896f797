"""How late do jobs start, and what do those that wait cost?

    python bench/bench_cron.py [--burst N] [--known N] [--same-instant]

Prints a JSON line per result. `cron_burst`: N one-shots, due within one second, in an engine of its
own process, with a worker that has credit for all of them and a client that appends every 10 ms
under the budget; lateness from the instant to the start as it is stored, and to when the worker
hears of it, in milliseconds; and the engine's processor time for a job, in microseconds (Linux
only), which other work on the machine moves less. `cron_known`: how long an engine with N jobs
takes to open and to answer, and the processor's time that it takes while none is due, in percent.
"""

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from palyra_actors.api.calls import Call
from palyra_actors.api.events import Event, new_id
from palyra_actors.api.operations import Operations
from palyra_actors.client import Client
from palyra_actors.config import Config
from palyra_actors.engine import Engine
from palyra_actors.wire import frames

IN_FLIGHT = 400
LEAD_S = 2.0
IDLE_S = 10.0


def emit(**result: Any) -> None:
    print(json.dumps(result), flush=True)


@contextlib.contextmanager
def served(path: Path) -> Iterator[tuple[str, int]]:
    """An engine in a process of its own: its endpoint, and the number of the process."""
    command = [sys.executable, "-m", "palyra_actors.cli", "serve", "--db", str(path)]
    with subprocess.Popen(
        [*command, "--endpoint", f"ipc://{path}.door"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        ready = process.stdout.readline()
        try:
            yield ready.split("endpoint=")[1].split()[0], process.pid
        finally:
            process.terminate()


def cpu_s(process: int) -> float | None:
    """The processor's time that a process has taken, in seconds; None: nobody says."""
    try:
        told = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def make(engine: Operations, bodies: Iterable[dict[str, Any]]) -> None:
    """Makes jobs, some hundred requests at a time."""
    waiting: deque[Call] = deque()
    for body in bodies:
        if len(waiting) == IN_FLIGHT:
            waiting.popleft().result()
        packed = frames.pack({**body, "event_id": new_id()}, "body")
        waiting.append(engine._calls.start("cron.create", packed, timeout_s=60.0, budget_ms=0))
    for call in waiting:
        call.result()


class Worker:
    """Hears of runs and does nothing about them."""

    def __init__(self) -> None:
        self.heard: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def item(self, frame: bytes, first_key: str | None) -> None:
        del first_key
        self.heard.put((time.time() * 1000, frame))

    def ended(self, error: Any) -> None:
        del error

    def lost(self) -> None:
        pass


class Neighbour(threading.Thread):
    """Appends an event every 10 ms, within the engine's budget."""

    def __init__(self, engine: Operations) -> None:
        super().__init__(daemon=True)
        self.engine, self.session = engine, new_id()
        self.acked = self.late = 0
        self.took: list[float] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            event = Event(self.session, "message_received", {"text": "hello"})
            began = time.perf_counter()
            told = self.engine.append(event)  # asked again where it was refused
            self.took.append((time.perf_counter() - began) * 1000)
            self.acked += 1
            self.late += not told.timing.within_budget


def percentiles(values: list[float]) -> dict[str, float]:
    found = np.percentile(values, [50, 99, 100])
    return {
        name: round(float(one), 1) for name, one in zip(("p50", "p99", "max"), found, strict=True)
    }


def burst(folder: Path, count: int, spread_ms: int) -> None:
    with (
        served(folder / "burst.db") as (endpoint, process),
        Client(endpoint) as engine,
        Client(endpoint) as other,
    ):
        began = time.perf_counter()
        ahead_s = LEAD_S + count / 1500
        first_ms = int((time.time() + ahead_s) * 1000)
        make(
            engine,
            (
                {"name": "burst", "schedule": {"at_ms": first_ms + n * spread_ms // count}}
                for n in range(count)
            ),
        )
        made_s = time.perf_counter() - began
        if made_s > ahead_s - 0.5:
            raise SystemExit(f"it took {made_s:.1f} s to make the jobs: too slow for this bench")
        worker = Worker()
        engine._calls.open_stream("cron.work", frames.pack({"credit": count}, "body"), worker)
        neighbour = Neighbour(other)
        time.sleep(max(0.0, first_ms / 1000 - time.time() - 1.0))
        refused_before = engine.stats().appends["overloaded"]
        neighbour.start()
        cpu_before = cpu_s(process)
        heard: list[float] = []
        started: list[float] = []
        while len(heard) < count:
            at_ms, frame = worker.heard.get(timeout=60)
            run = frames.read_item(frame)["run"]
            heard.append(at_ms - run["scheduled_ms"])
            started.append(run["started_ms"] - run["scheduled_ms"])
        cpu_after = cpu_s(process)
        neighbour.done.set()
        neighbour.join()
        emit(
            bench="cron_burst", jobs=count, within_ms=spread_ms, started=len(started),
            start_lateness_ms=percentiles(started), heard_lateness_ms=percentiles(heard),
            appends={
                "acked": neighbour.acked, "late": neighbour.late,
                "overloaded": engine.stats().appends["overloaded"] - refused_before,
                "took_ms": percentiles(neighbour.took),
            },
            cpu_us_a_job=None
            if cpu_before is None or cpu_after is None
            else round((cpu_after - cpu_before) / count * 1e6, 1),
            created_per_s=round(count / made_s),
        )  # fmt: skip


def known(folder: Path, count: int) -> None:
    path = folder / "known.db"
    far = {"cron": "30 7 1 1 *", "tz": "Europe/Prague"}
    with Engine.open(path) as engine:
        make(engine, ({"name": f"job {n}", "schedule": far} for n in range(count)))
    began = time.perf_counter()
    with Engine.open(path, Config()) as engine:
        opened = time.perf_counter()
        engine.call("cron.list", {"limit": 1})
        answered = time.perf_counter()
        time.sleep(1.0)
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(IDLE_S)
        busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
        emit(
            bench="cron_known", jobs=count, open_ms=round((opened - began) * 1000, 1),
            first_answer_ms=round((answered - began) * 1000, 1),
            idle_cpu_percent=round(busy * 100, 2), db_bytes=path.stat().st_size,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--burst", type=int, default=10_000)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--same-instant", action="store_true", help="all of the burst at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.burst:
            burst(folder, options.burst, 1 if options.same_instant else 1_000)
        if options.known:
            known(folder, options.known)


if __name__ == "__main__":
    main()
