"""How many sessions can be there, how many awake, and what does waking one cost?

Each part runs an engine inside a process of its own, so that memory is the engine's and the
caller's together:

    resident   10,000 sessions appended to in turn: memory, threads, time of an append
    waking     the same with room for 1,000: every append wakes one session and lets one go
    known      1,000,000 sessions in the file (fewer: --known), in requests of 1,024 of them; then
               a new start, and first appends to random ones
    leak       1,000,000 events (fewer: --leak) of one session, of many sessions, of many runs:
               memory after each tenth, and its growth over the last half

    python bench/bench_sessions.py [--part resident|waking|known|leak] [--known N] [--leak N]
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from load import emit, workspace

from palyra_actors.api.events import Event, new_id
from palyra_actors.config import ActorsConfig, Config
from palyra_actors.engine import Engine

PAYLOAD = {"tool": "bash", "args": {"command": "ls -la src", "timeout": 30}, "output": "x" * 180}
MIB = 1024 * 1024


def rss_mib() -> float:
    return round(psutil.Process().memory_info().rss / MIB, 1)


def keeping(resident_max: int) -> Config:
    return Config(actors=ActorsConfig(resident_max=resident_max))


def each(sessions: Iterable[str]) -> Iterable[Event]:
    return (Event(session, "message_received", PAYLOAD, actor="user") for session in sessions)


def in_turn(path: Path, sessions: int, resident_max: int, rounds: int = 3) -> dict[str, Any]:
    names = [new_id() for _ in range(sessions)]
    took = []
    with Engine.open(path, keeping(resident_max)) as engine:
        engine.append_many(each(names[:1]))
        before, threads = rss_mib(), psutil.Process().num_threads()
        for _ in range(rounds):
            began = time.perf_counter()
            engine.append_many(each(names), events_max=1, in_flight=64)
            took.append((time.perf_counter() - began) / sessions * 1e6)
        actors = engine.stats().raw["actors"]
        return {
            "sessions": sessions,
            "resident": actors["resident"],
            "activated": actors["activated"],
            "passivated": actors["passivated"],
            "us_per_append_first": round(took[0], 1),
            "us_per_append_then": round(statistics.median(took[1:]), 1),
            "rss_mib_with_one": before,
            "rss_mib": rss_mib(),
            "threads_with_one": threads,
            "threads": psutil.Process().num_threads(),
        }


def known(path: Path, sessions: int) -> dict[str, Any]:
    """Fills the file; what is measured then is measured after a new start, by `start`."""
    some = random.Random(1)
    kept = []
    began = time.perf_counter()
    with Engine.open(path) as engine:
        left = sessions
        batch = engine.batch(events_max=1024, in_flight=2)
        with batch:
            while left:
                names = [new_id() for _ in range(min(1024, left))]
                for event in each(names):
                    batch.add(event)
                kept.append(some.choice(names))
                left -= len(names)
        filled = time.perf_counter() - began
        filled_rss = rss_mib()
    path.with_suffix(".names").write_text("\n".join(kept))
    return {
        "sessions": sessions,
        "fill_seconds": round(filled, 1),
        "fill_rss_mib": filled_rss,
        "file_mib": round(path.stat().st_size / MIB, 1),
    }


def start(path: Path, _: int) -> dict[str, Any]:
    names = path.with_suffix(".names").read_text().split()
    random.Random(2).shuffle(names)
    names = names[:500]
    before = rss_mib()
    began = time.perf_counter()
    engine = Engine.open(path)
    opened = time.perf_counter()
    took = []
    for name in names:
        at = time.perf_counter()
        engine.append(Event(name, "message_received", PAYLOAD), budget_ms=0)
        took.append((time.perf_counter() - at) * 1000)
    again = []
    for name in names:
        at = time.perf_counter()
        engine.append(Event(name, "message_received", PAYLOAD), budget_ms=0)
        again.append((time.perf_counter() - at) * 1000)
    result = {
        "open_ms": round((opened - began) * 1000, 1),
        "first_ack_ms": round((opened - began) * 1000 + took[0], 1),
        "wake_p50_ms": round(statistics.median(took), 3),
        "awake_p50_ms": round(statistics.median(again), 3),
        "wake_p99_ms": round(sorted(took)[int(len(took) * 0.99)], 3),
        "awake_p99_ms": round(sorted(again)[int(len(again) * 0.99)], 3),
        "rss_mib_before": before,
        "rss_mib": rss_mib(),
    }
    engine.close()
    return result


def leak(path: Path, events: int) -> dict[str, Any]:
    """One shape after the other; memory in MiB after each tenth of the events."""
    many = [new_id() for _ in range(1_000)]
    shapes: dict[str, Any] = {
        "one_session": lambda n: Event(many[0], "tool_executed", PAYLOAD),
        "many_sessions": lambda n: Event(many[n % 1_000], "tool_executed", PAYLOAD),
        "new_sessions": lambda n: Event(new_id(), "tool_executed", PAYLOAD),
        "new_runs": lambda n: Event(many[1], "tool_executed", PAYLOAD, run_id=new_id()),
    }
    result: dict[str, Any] = {"events": events}
    with Engine.open(path, keeping(2_000)) as engine:
        for shape, make in shapes.items():
            tenths, rates = [], []
            for tenth in range(10):
                first = tenth * events // 10
                began = time.perf_counter()
                engine.append_many((make(first + n) for n in range(events // 10)), events_max=64)
                rates.append(events / 10 / (time.perf_counter() - began))
                tenths.append(rss_mib())
            result[shape] = {
                "rss_mib": tenths,
                "grew_mib_in_last_half": round(tenths[-1] - tenths[4], 1),
                "per_second_first_and_last_tenth": [round(rates[0]), round(rates[-1])],
            }
    return result


PARTS = {
    "resident": lambda path, options: in_turn(path, 10_000, 10_000),
    "waking": lambda path, options: in_turn(path, 10_000, 1_000),
    "known": lambda path, options: known(path, options.known),
    "start": lambda path, options: start(path, options.known),
    "leak": lambda path, options: leak(path, options.leak),
}


def in_a_process_of_its_own(part: str, path: Path, options: argparse.Namespace) -> None:
    ran = subprocess.run(
        [sys.executable, __file__, "--part", part, "--as-part", str(path),
         "--known", str(options.known), "--leak", str(options.leak)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    emit("sessions", part=part, **json.loads(ran.stdout), python=sys.version.split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--known", type=int, default=1_000_000)
    parser.add_argument("--leak", type=int, default=1_000_000)
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    parser.add_argument("--as-part", metavar="PATH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_part:
        print(json.dumps(PARTS[options.part](Path(options.as_part), options)))
        return
    for part in ("resident", "waking", "known", "leak"):
        if options.part not in (part, "all"):
            continue
        with workspace(options.dir) as folder:
            path = folder / "sessions.db"
            in_a_process_of_its_own(part, path, options)
            if part == "known":
                in_a_process_of_its_own("start", path, options)


if __name__ == "__main__":
    main()
