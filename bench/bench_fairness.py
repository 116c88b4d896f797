"""What does one hot session cost the others?

1,000 sessions are appended to in turn at a modest, steady rate (open loop: a request is sent when
it is due, whatever became of those before it, and its latency counts from then), over one
connection. In every second round another connection has one more session, which is hot or flooded
without a budget. The rounds alternate in one run over one engine; `ratio` is that of the
medians of the rounds' p99.

    hot      5,000 events a second in requests of eight: twenty times what all others have together
    batches  16 requests of 64 events in flight: all that the machine can do
    singles  256 requests of one event in flight: the same

    python bench/bench_fairness.py [--seconds 5] [--rounds 4] [--rate 250] [--flood hot|batches|…]
"""

import argparse
import json
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import zmq
from load import FIRST_ID, Load, emit, engine, frames, reply_id, workspace
from openloop import OK, OpenLoop, Tape, play

FLOODS = {"batches": (16, 64), "singles": (256, 1)}  # requests in flight, events in each
HOT_RATE, HOT_EVENTS = 625, 8  # requests a second, events in each
FLOOD_EVENTS_PER_SECOND_MAX = 60_000  # how many frames to make: more than can be served
SESSIONS = 1_000
PATIENCE_S = 30.0


class Polite:
    """Sends what is due, and notes when each answer came."""

    def __init__(self, endpoint: str, made: list[bytes]) -> None:
        self._load = Load(endpoint)
        self._socket = self._load.socket
        self._made = made
        self._next = 0
        self._due: dict[int, float] = {}
        self._latencies: list[float] = []
        self.refused = 0

    def close(self) -> None:
        self._load.close()

    def run(self, rate: float, seconds: float) -> list[float]:
        """Latencies in milliseconds of all that fell due in `seconds`, sorted."""
        self._latencies = []
        descriptor = self._socket.getsockopt(zmq.FD)
        began = time.perf_counter()
        count = int(rate * seconds)
        dues = [began + number / rate for number in range(count)]
        ends = began + seconds + PATIENCE_S
        place = 0
        while place < count or self._due:
            self._drain()
            now = time.perf_counter()
            if now > ends:
                raise RuntimeError(f"{len(self._due)} requests were never answered")
            while place < count and dues[place] <= now:
                self._due[FIRST_ID + self._next] = dues[place]
                self._socket.send(self._made[self._next])
                self._next += 1
                place += 1
            if not self._drain():
                wait = dues[place] - time.perf_counter() if place < count else 1.0
                select.select([descriptor], [], [], max(0.0, min(wait, 1.0)))
        return sorted(self._latencies)

    def _drain(self) -> int:
        taken = 0
        while True:
            try:
                frame = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return taken
            due = self._due.pop(reply_id(frame))
            self._latencies.append((time.perf_counter() - due) * 1000)
            self.refused += b"\xa3err" in frame[:24]
            taken += 1


def flood(endpoint: str, shape: str, seconds: float) -> None:
    """The hot session, in a process of its own: one line once it is ready, one with the result."""
    if shape == "hot":
        hot = OpenLoop(endpoint, connections=1, sessions=1, events=HOT_EVENTS)
        print("ready", flush=True)
        sys.stdin.readline()
        outcome = hot.run(HOT_RATE, seconds)
        taken = float((outcome.code == OK).sum()) / seconds * HOT_EVENTS
        p99 = float(sorted(outcome.latency_ms(OK))[int(taken / HOT_EVENTS * seconds * 0.99)])
        hot.close()
        print(json.dumps({"events_per_second": taken, "p99_ms": p99}), flush=True)
        return
    window, events = FLOODS[shape]
    count = int(FLOOD_EVENTS_PER_SECOND_MAX * seconds / events)
    tape = Tape(frames(count, events, 1, 2, budget_ms=0))
    print("ready", flush=True)
    sys.stdin.readline()
    result = play(endpoint, tape, window, seconds)
    print(json.dumps({**result, "events_per_second": result["per_second"] * events}), flush=True)


def flooded(polite: Polite, endpoint: str, shape: str, rate: float, seconds: float) -> Any:
    """The polite ones' latencies, and what the flood got through meanwhile."""
    arguments = [sys.executable, __file__, "--as-flood", endpoint, "--flood", shape]
    process = subprocess.Popen(
        [*arguments, "--seconds", str(seconds + 1)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdin.write("go\n")
    process.stdin.flush()
    polite.run(rate, 0.5)  # the flood is under way
    latencies = polite.run(rate, seconds - 0.5)
    result = json.loads(process.stdout.readline())
    process.stdin.close()
    process.wait(PATIENCE_S)
    process.stdout.close()
    return latencies, result


def at(latencies: list[float], share: float) -> float:
    return latencies[int(len(latencies) * share)]


def measure(folder: Path, shape: str, rate: float, seconds: float, rounds: int) -> None:
    made = frames(SESSIONS + int(rate * (2 * seconds + 1) * rounds), 1, SESSIONS)
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    floods = []
    with engine(folder) as (endpoint, _):
        polite = Polite(endpoint, made)
        polite.run(SESSIONS, 1.0)  # wakes them all
        polite.refused = 0
        for _ in range(rounds):
            alone.append(polite.run(rate, seconds))
            latencies, result = flooded(polite, endpoint, shape, rate, seconds)
            beside.append(latencies)
            floods.append(result)
        polite.close()
    without = statistics.median(at(round_, 0.99) for round_ in alone)
    with_flood = statistics.median(at(round_, 0.99) for round_ in beside)
    emit(
        "fairness",
        flood=shape,
        sessions=SESSIONS,
        rate=rate,
        p50_ms_alone=round(statistics.median(at(round_, 0.5) for round_ in alone), 2),
        p50_ms_beside=round(statistics.median(at(round_, 0.5) for round_ in beside), 2),
        p99_ms_alone=round(without, 2),
        p99_ms_beside=round(with_flood, 2),
        ratio=round(with_flood / without, 2),
        refused=polite.refused,
        flood_events_per_second=round(statistics.median(f["events_per_second"] for f in floods)),
        flood_p99_ms=round(statistics.median(f["p99_ms"] for f in floods), 1),
        seconds=seconds,
        rounds=rounds,
        python=sys.version.split()[0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=4, help="with, and as many without")
    parser.add_argument("--rate", type=float, default=250.0, help="polite requests a second")
    parser.add_argument("--flood", choices=["hot", *FLOODS, "all"], default="all")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    parser.add_argument("--as-flood", metavar="ENDPOINT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_flood:
        flood(options.as_flood, options.flood, options.seconds)
        return
    for shape in ["hot", *FLOODS] if options.flood == "all" else [options.flood]:
        with workspace(options.dir) as folder:
            measure(folder, shape, options.rate, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
