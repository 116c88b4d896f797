"""How many lives a second does the simulator live, and what is in one?

seeds       lives one after the other, in one process: seeds, requests and events per second
one world   10,000 requests of one client, one after the other, each waited for: the engine
            without its threads, with a recording disk and no checks

python bench/bench_sim.py [--seeds N]
"""

import argparse
import time

from load import emit

from palyra_actors.testing.sim import World, live
from palyra_actors.testing.sim.life import quiet

REQUESTS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    quiet()
    began, requests, events, moves = time.perf_counter(), 0, 0, 0
    for seed in range(1, seeds + 1):
        life = live(seed)
        requests, events, moves = requests + life.requests, events + life.head, moves + life.moves
    seconds = time.perf_counter() - began
    emit(
        "sim",
        part="seeds",
        seeds=seeds,
        seeds_per_s=round(seeds / seconds, 1),
        requests_per_s=round(requests / seconds),
        events_per_life=round(events / seeds),
        turns_per_life=round(moves / seeds),
        ms_per_life=round(seconds / seeds * 1000, 1),
    )
    began = time.perf_counter()
    with World(seed=1) as world:
        peer = world.connect()
        for number in range(REQUESTS):
            world.ask(peer, "session.resolve", {"session_key": f"key {number % 100}"})
    seconds = time.perf_counter() - began
    emit("sim", part="one world", requests_per_s=round(REQUESTS / seconds))


if __name__ == "__main__":
    main()
