"""What becomes of writes when more come than can be served?

Steps of a share of the measured capacity, open loop: a request is sent when it is due, whatever
became of those before it. At last the load falls from ten times the capacity to half of it, and it
is measured how long it takes until that is served in time. One line a step, one for the recovery,
one that sums up the medians of the turns, to and fro through all steps:

    goodput         acknowledged and within the budget, a second
    accepted_…_ms   from the frame's arrival to the end of its commit, as the engine says
    client_p99_ms   from the moment when it was due to the answer, as the client sees it
    refusal_…_ms    the same of those that were refused: at the door (`door_…`), or given up after
                    they had been let in and a stall had overtaken them (`given_up_…`)
    unsent          not sent, because the connection had not taken what was sent before
    commit_p99_ms   of a bare SQLite commit of one row beside it, twenty a second

    python bench/bench_overload.py [--seconds 2] [--rounds 3] [--shape batches] [--send-kib 64]
                                   [--plot FILE]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from load import emit, engine, workspace
from openloop import LOAD_SEND_BYTES, OK, OpenLoop, Outcome, at, capacity, normal_after_s

from palyra_actors.cli.serve import ask_for_short_turns

STEPS = (0.25, 0.5, 0.8, 1.0, 1.5, 3.0, 10.0)
SHAPES = {"singles": (1, 256), "batches": (64, 8)}  # events of a request, requests in flight
AFTER = 0.5
BUCKET_S = 0.05
COMMIT_EVERY_S = 0.05


class Commits:
    """Bare commits in a process of their own, from before this one makes way for the engine."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--as-commits", str(folder / "bare.db")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.since()

    def since(self) -> list[float]:
        """How long each took since this was called last, in milliseconds, sorted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("tell\n")
        self._process.stdin.flush()
        took: list[float] = json.loads(self._process.stdout.readline())
        return sorted(took)

    def close(self) -> None:
        self._process.communicate()


def bare_commits(path: str) -> None:
    """The other side of `Commits`."""
    import select

    import apsw

    connection = apsw.Connection(path)
    connection.execute("PRAGMA journal_mode=wal; PRAGMA synchronous=full")
    connection.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b BLOB)")
    took: list[float] = []
    while True:
        if select.select([sys.stdin], [], [], COMMIT_EVERY_S)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps(took), flush=True)
            took.clear()
        began = time.perf_counter()
        connection.execute("INSERT INTO t (b) VALUES (zeroblob(400))")
        took.append((time.perf_counter() - began) * 1000)


def curve(outcome: Outcome) -> dict[str, Any]:
    """Rates and latencies by the tenth of a second or so, for the plot."""
    edges = np.arange(0, outcome.seconds + BUCKET_S, BUCKET_S)
    good = (outcome.code == OK) & outcome.within
    rate = np.histogram(outcome.answered[good], edges)[0] / BUCKET_S
    offered = np.histogram(outcome.due, edges)[0] / BUCKET_S
    p99 = []
    for start in edges[:-1]:
        mine = (outcome.due >= start) & (outcome.due < start + BUCKET_S) & (outcome.code == OK)
        p99.append(at(np.sort(outcome.total_ms[mine]), 0.99))
    return {"seconds": edges[:-1], "good": rate, "offered": offered, "p99_ms": p99}


def measure(  # noqa: PLR0917
    folder: Path, shape: str, seconds: float, rounds: int, send_bytes: int, plot: str | None
) -> None:
    events, window = SHAPES[shape]
    found: list[dict[str, Any]] = []
    with engine(folder) as (endpoint, _):
        commits = Commits(folder)
        ask_for_short_turns()  # as the engine does: what is sent late by the load counts as late
        load = OpenLoop(endpoint, events=events, send_bytes=send_bytes)
        capacity(load, window, 1.0)  # wakes all sessions
        most = capacity(load, window, seconds)
        load.run(most * AFTER, 1.0)
        for turn in range(rounds):
            for share in reversed(STEPS) if turn % 2 else STEPS:
                commits.since()
                outcome = load.run(most * share, seconds)
                bare = commits.since()
                found.append({"share": share, **outcome.summary()})
                emit(
                    "overload", shape=shape, turn=turn, **found[-1],
                    commit_p50_ms=at(bare, 0.5), commit_p99_ms=at(bare, 0.99), seconds=seconds,
                )  # fmt: skip
                load.run(most * AFTER, 0.5)
        story = load.steps([(most * AFTER, 2.0), (most * STEPS[-1], 2.0), (most * AFTER, 4.0)])
        recovered = normal_after_s(story, 4.0)
        emit("overload", shape=shape, part="recovery", back_to_normal_s=recovered)
        load.close()
        commits.close()
    sum_up(shape, events, most, found, recovered)
    if plot:
        draw(plot, shape, most, found, curve(story))


def middle(found: list[dict[str, Any]], share: float, key: str) -> float:
    """The median of the turns; 0 where a step had none of it."""
    values = [step[key] or 0.0 for step in found if step["share"] == share]
    return round(statistics.median(values), 3)


def sum_up(
    shape: str, events: int, most: float, found: list[dict[str, Any]], recovered: float | None
) -> None:
    goodput = {share: middle(found, share, "goodput_per_second") for share in STEPS}
    refusals = {share: middle(found, share, "refusal_p99_ms") for share in STEPS}
    peak = max(goodput.values())
    acked = sum(step["acked_per_second"] for step in found)
    late = sum(step["over_budget"] * step["acked_per_second"] for step in found)
    offered = sum(step["offered_per_second"] for step in found)
    emit(
        "overload",
        shape=shape,
        part="summary",
        capacity_per_second=round(most),
        capacity_events_per_second=round(most * events),
        peak_goodput_per_second=round(peak),
        goodput_at_300=round(goodput[3.0] / peak, 3),
        goodput_at_1000=round(goodput[10.0] / peak, 3),
        accepted_p99_ms={s: middle(found, s, "accepted_p99_ms") for s in STEPS},
        accepted_p99_ms_worst=max(step["accepted_p99_ms"] or 0 for step in found),
        refusal_p99_ms=refusals,
        refusal_p99_ms_to_150=max(refusals[share] for share in STEPS if share <= 1.5),
        refusal_p99_ms_at_1000=refusals[10.0],
        refusal_p99_ms_worst=max(step["refusal_p99_ms"] or 0 for step in found),
        given_up=round(sum(step["given_up_per_second"] for step in found) / max(1, offered), 5),
        over_budget=round(late / max(1, acked), 5),
        back_to_normal_s=recovered,
        hung=sum(step["hung"] for step in found),
        turns=len(found) // len(STEPS),
        python=sys.version.split()[0],
    )


def draw(
    path: str, shape: str, most: float, found: list[dict[str, Any]], story: dict[str, Any]
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (goodput, times, over_time) = pyplot.subplots(3, 1, figsize=(9, 10))
    shares = [share * 100 for share in STEPS]
    for key, label in (("goodput_per_second", "goodput"), ("refused_per_second", "refused")):
        goodput.plot(shares, [middle(found, share, key) for share in STEPS], "o-", label=label)
    goodput.axhline(most, linestyle=":", color="grey", label="capacity")
    goodput.set(xscale="log", ylabel="requests a second", title=f"{shape}: per cent of capacity")
    for key in ("accepted_p99_ms", "client_p99_ms", "refusal_p99_ms"):
        times.plot(shares, [middle(found, share, key) for share in STEPS], "o-", label=key)
    times.axhline(25, linestyle=":", color="grey")
    times.set(xscale="log", yscale="log", ylabel="ms")
    over_time.plot(story["seconds"], story["offered"], label="offered")
    over_time.plot(story["seconds"], story["good"], label="goodput")
    over_time.set(yscale="log", xlabel="s", ylabel="requests a second")
    for each in (goodput, times, over_time):
        each.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each step")
    parser.add_argument("--rounds", type=int, default=3, help="through all steps, to and fro")
    parser.add_argument("--shape", choices=[*SHAPES], default="singles")
    parser.add_argument(
        "--send-kib", type=int, default=LOAD_SEND_BYTES // 1024,
        help="that a connection of the load may have in its own socket",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help="needs matplotlib")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    parser.add_argument("--as-commits", metavar="DB", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_commits:
        bare_commits(options.as_commits)
        return
    with workspace(options.dir) as folder:
        measure(
            folder, options.shape, options.seconds, options.rounds, options.send_kib * 1024,
            options.plot,
        )  # fmt: skip


if __name__ == "__main__":
    main()
