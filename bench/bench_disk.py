"""What becomes of writes while the disk is slow, and how soon is it over?

A steady open load at half the capacity, on an engine whose WAL syncs take as long as they are told
to: 40 ms each, 200 ms each, then one of two seconds, with quiet times between. A line a trouble:

    degraded_after_s    from its beginning until `engine.health` says `degraded`, and the reason
    acked_per_second    during it; `within_budget` of those: the share that was in time
    groups_at_once      groups in flight together: one
    ready_after_s       from the cure until health is `ready` again
    recovery_s          from the cure until what comes is served in time (`normal_after_s`)
    swing               afterwards, of the goodput by the tenth of a second: (most - least) / mean

Then one sync of fifty, and one of ten, takes 40 ms longer, by chance, at half of the capacity and
at three times as much. A line each:

    goodput             acknowledged in time, as a share of the capacity on the quick disk
    late                of what was acknowledged, the share that was not in time
    trust               what the engine makes of it (`engine.stats`): 1 is all

    python bench/bench_disk.py [--plot disk.png]
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from load import emit, workspace
from openloop import OK, REFUSED, OpenLoop, Outcome, at, be_nice, capacity, normal_after_s

from palyra_actors.client import Client
from palyra_actors.errors import PalyraError

QUIET_S = 4.0
TROUBLES = (
    ("slow 40 ms", "40", 4.0),
    ("slow 200 ms", "200", 4.0),
    ("stall 2 s", "stall 2000", 2.0),
)
LOAD = 0.5
OFTEN, OFTEN_MS, OFTEN_S = (0.02, 0.1), 40, 6.0
OFTEN_LOADS = (0.5, 3.0)
BUCKET_S = 0.1
SETTLED_S = 2.0
HEALTH_EVERY_S = 0.02


def watch(endpoint: str, seen: list[tuple[float, str, str]], leave: threading.Event) -> None:
    """What `engine.health` says, every `HEALTH_EVERY_S`."""
    with Client(endpoint, retry=False) as client:
        while not leave.wait(HEALTH_EVERY_S):
            with suppress(PalyraError):
                health = client.health(timeout_s=5)
                reason = health.reasons[0] if health.reasons else ""
                seen.append((time.perf_counter(), health.status, reason))


def measure(folder: Path, plot: str | None) -> None:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("slow_disk.py")), "--db",
         str(folder / "slow.db"), "--endpoint", f"ipc://{folder}/door"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    endpoint = stdout.readline().split()[1]
    be_nice()
    load = OpenLoop(endpoint)
    capacity(load, 256, 1.0)
    most = capacity(load, 256, 2.0)
    rate = LOAD * most
    seen: list[tuple[float, str, str]] = []
    leave = threading.Event()
    watcher = threading.Thread(target=watch, args=(endpoint, seen, leave))
    watcher.start()
    times: list[tuple[str, float, float]] = []
    began = time.perf_counter()

    def troubles() -> None:
        moment = QUIET_S
        for name, order, seconds in TROUBLES:
            time.sleep(max(0.0, began + moment - time.perf_counter()))
            stdin.write(order + "\n")
            stdin.flush()
            time.sleep(seconds)
            stdin.write("0\n")
            stdin.flush()
            times.append((name, moment, moment + seconds))
            moment += seconds + QUIET_S

    director = threading.Thread(target=troubles)
    director.start()
    outcome = load.run(rate, QUIET_S + sum(one[2] + QUIET_S for one in TROUBLES))
    director.join()
    leave.set()
    watcher.join()
    for share in OFTEN:
        stdin.write(f"often {share} {OFTEN_MS}\n")
        stdin.flush()
        for times_most in OFTEN_LOADS:
            load.run(most * times_most, 1.0)
            tell_often(share, times_most, most, load.run(most * times_most, OFTEN_S), endpoint)
    load.close()
    stdin.close()
    disk = json.loads(stdout.readline())
    process.wait(60)
    stdout.close()
    healths = [(moment - began, status, reason) for moment, status, reason in seen]
    for name, start, end in times:
        tell(name, start, end, outcome, healths, disk)
    if plot:
        draw(plot, outcome, healths)


def tell(  # noqa: PLR0917
    name: str, start: float, end: float, outcome: Outcome,
    healths: list[tuple[float, str, str]], disk: dict[str, int],
) -> None:  # fmt: skip
    due, ok = outcome.due, outcome.code == OK
    during = (due >= start) & (due < end)
    degraded = [one for one in healths if start <= one[0] < end + 1 and one[1] == "degraded"]
    ready = [one[0] for one in healths if one[0] >= end and one[1] == "ready"]
    settled = due[(due >= end + SETTLED_S) & (due < end + QUIET_S) & ok & outcome.within]
    edges = np.arange(end + SETTLED_S, end + QUIET_S + 1e-9, BUCKET_S)
    rates = np.histogram(settled, edges)[0]
    emit(
        "disk",
        trouble=name,
        offered_per_second=round(len(due) / outcome.seconds),
        acked_per_second=round(int((during & ok).sum()) / (end - start)),
        refused_per_second=round(int((during & (outcome.code == REFUSED)).sum()) / (end - start)),
        within_budget=round(float(outcome.within[during & ok].mean()), 3)
        if (during & ok).any()
        else None,
        accepted_p50_ms=at(np.sort(outcome.total_ms[during & ok]), 0.5),
        degraded_after_s=round(degraded[0][0] - start, 3) if degraded else None,
        reason=degraded[0][2] if degraded else None,
        groups_at_once=disk["groups_at_once"],
        ready_after_s=round(ready[0] - end, 3) if ready else None,
        recovery_s=normal_after_s(outcome, end),
        swing=round(float((rates.max() - rates.min()) / rates.mean()), 3),
        hung=int((outcome.code == 3).sum()),
        python=sys.version.split()[0],
    )


def tell_often(
    share: float, times_most: float, most: float, outcome: Outcome, endpoint: str
) -> None:
    found = outcome.summary()
    ok = outcome.code == OK
    with Client(endpoint) as client:
        trust = client.stats().number("admission", "trust")
    emit(
        "disk",
        trouble=f"one sync of {round(1 / share)} takes {OFTEN_MS} ms",
        load=times_most,
        capacity_per_second=round(most),
        goodput=round(found["goodput_per_second"] / most, 3),
        late=round(float((~outcome.within[ok]).mean()), 4) if ok.any() else None,
        refusal_p99_ms=found["refusal_p99_ms"],
        trust=round(trust, 2),
        python=sys.version.split()[0],
    )


def draw(path: str, outcome: Outcome, healths: list[tuple[float, str, str]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.arange(0, outcome.seconds + BUCKET_S, BUCKET_S)
    ok = outcome.code == OK
    figure, (rates, times) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 6))
    for label, rows in (
        ("acknowledged", ok), ("within the budget", ok & outcome.within),
        ("refused", outcome.code == REFUSED),
    ):  # fmt: skip
        rates.plot(edges[:-1], np.histogram(outcome.due[rows], edges)[0] / BUCKET_S, label=label)
    rates.set(ylabel="a second, by when due")
    rates.legend()
    p99 = []
    for start in edges[:-1]:
        mine = ok & (outcome.due >= start) & (outcome.due < start + BUCKET_S)
        p99.append(at(np.sort(outcome.total_ms[mine]), 0.99))
    times.plot(edges[:-1], p99, label="p99 of the acknowledged")
    times.axhline(25, linestyle=":", color="grey")
    times.set(yscale="log", ylabel="ms", xlabel="s")
    bad = [moment for moment, status, _ in healths if status != "ready"]
    times.plot(bad, [1] * len(bad), "r.", markersize=3, label="degraded")
    times.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plot", metavar="FILE", help="needs matplotlib")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    with workspace(options.dir) as folder:
        measure(folder, options.plot)


if __name__ == "__main__":
    main()
