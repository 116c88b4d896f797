"""Runs seeds: see `palyra_actors.testing.sim`. Ends with 1 where a promise did not hold."""

import argparse
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from palyra_actors.testing.sim.breaks import BREAKS
from palyra_actors.testing.sim.life import Life, live, quiet, replay_command

SEEDS_AT_ONCE = 10


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m palyra_actors.testing.sim", description=__doc__
    )
    parser.add_argument("--seed", type=int, help="run this one and show all that is known of it")
    parser.add_argument("--seeds", type=int, default=1000, help="how many, if no --seed is given")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--broken", choices=BREAKS, help="break the engine: seeds have to fail")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, options.broken)
    began, failed, done, requests = time.monotonic(), 0, 0, 0
    seeds = range(options.first, options.first + options.seeds)
    for seed, life, error in _all(seeds, options.jobs, options.broken):
        done += 1
        if life is not None:
            requests += life.requests
            continue
        failed += 1
        _say(f"seed {seed}: {error}")
        _say(f"  replay it: {replay_command(seed, options.broken)}")
    seconds = time.monotonic() - began
    _say(f"{done} seeds, {failed} failed, {requests} requests, {seconds:.1f} s")
    return 1 if failed else 0


def _one(seed: int, broken: str | None) -> int:
    try:
        life = live(seed, broken=broken)
    except Exception:  # noqa: BLE001 - shown whole
        _say(traceback.format_exc())
        return 1
    happened = ", ".join(f"{count} × {what}" for what, count in sorted(life.counts.items()))
    _say(f"seed {seed}: {life.requests} requests, {life.head} events, {happened}")
    _say(f"digest {life.digest}")
    return 0


def _all(
    seeds: range, jobs: int, broken: str | None
) -> Iterator[tuple[int, Life | None, str | None]]:
    if jobs == 1:
        quiet()
        for seed in seeds:
            yield _try((seed, broken))
        return
    with ProcessPoolExecutor(jobs, initializer=quiet) as pool:
        work = [(seed, broken) for seed in seeds]
        yield from pool.map(_try, work, chunksize=SEEDS_AT_ONCE)


def _try(work: tuple[int, str | None]) -> tuple[int, Life | None, str | None]:
    seed, broken = work
    try:
        return seed, live(seed, broken=broken), None
    except Exception as error:  # noqa: BLE001 - the next seed is another life
        return seed, None, f"{type(error).__name__}: {error}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
