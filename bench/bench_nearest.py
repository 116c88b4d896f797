"""What a search with the approximate index finds and takes, beside the exact one of the same code.

    python bench/bench_nearest.py [--queries N] [ITEMSxDIMENSIONS …]

Vectors as in `bench_ann.py`; ages spread over a year, so that `hybrid` has recency to weigh. Blocks
are ranked as `memory.search` does it, without the door and without reading what was found.
One JSON line a size: `recall_at_10` against the exact ranking, `bytes_an_item` of the index alone.
"""

import argparse
import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from bench_ann import NEIGHBOURS, vectors
from bench_memory import percentiles
from load import emit

from palyra_actors.actors.nearest import Nearest
from palyra_actors.actors.search import NOTHING_FOUND, SPARE, Hunt, Question, Weights, _rank
from palyra_actors.actors.shelf import NEVER, Block, Names

YEAR_MS = 365 * 86_400_000
WEIGHTS = Weights(0.5, 0.4, 0.1, 30.0)


def block(made: np.ndarray, rnd: np.random.Generator) -> Block:
    count = len(made)
    numbers, none = np.zeros(count, np.int32), np.full(count, NEVER, np.int64)
    return Block(
        np.arange(count, dtype=np.int64), np.sort(rnd.integers(0, YEAR_MS, count)), none, none,
        np.zeros(count, np.uint8), numbers, numbers, numbers, np.zeros(count, "V16"),
        np.ones(count, np.bool_), np.ones(count, np.bool_), made,
    )  # fmt: skip


def measure(items: int, dimensions: int, queries: int) -> None:
    rnd = np.random.default_rng(1)
    made = vectors(items, dimensions, rnd)
    rows, index = block(made, rnd), Nearest(dimensions)
    asked = made[rnd.integers(0, items, queries)]
    asked += rnd.standard_normal(asked.shape, dtype=np.float32) / np.sqrt(dimensions)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    began = time.perf_counter()
    index.catch_up(rows, lambda: False, lambda: None)
    build_s = time.perf_counter() - began
    for mode in ("vector", "hybrid"):
        times: dict[bool, list[float]] = {False: [], True: []}
        recalled = 0
        for query in asked:
            question = Question(
                "", mode, NEIGHBOURS, 0.0, (), None, None, None, None, YEAR_MS, query
            )
            found = []
            for with_index in (False, True):
                hunt = Hunt(
                    "", question, WEIGHTS, NOTHING_FOUND, (), Names(), NEIGHBOURS + SPARE,
                    index if with_index else None, 0,
                )  # fmt: skip
                began = time.perf_counter()
                ranked = _rank(rows, hunt)
                times[with_index].append(time.perf_counter() - began)
                found.append({one.seq for one in ranked[:NEIGHBOURS]})
            recalled += len(found[0] & found[1])
        emit(
            "nearest", items=items, dimensions=dimensions, mode=mode, mib=made.nbytes >> 20,
            build_s=round(build_s, 1), bytes_an_item=index.size_bytes // items,
            recall_at_10=round(recalled / NEIGHBOURS / queries, 3),
            exact=percentiles(times[False]), approximate=percentiles(times[True]),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", default=["100000x64", "50000x768"])
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    for size in options.sizes:
        items, dimensions = map(int, size.split("x"))
        measure(items, dimensions, options.queries)


if __name__ == "__main__":
    main()
