"""From which size does an approximate search pay? Exact, by codes, and usearch's HNSW.

    python bench/bench_ann.py [--queries N] [ITEMSxDIMENSIONS[:ann] …]

Vectors lie around topics, as those of texts do (one for every 200 items), queries near one of them.
One thread each. A JSON line for each:

    exact   p50, p99 of what a vector search does: the product, and who is among the first ten
    signs   the same of codes, which are kept of what does not fit: counting bits, and weighing the
            best anew from vectors in memory (an engine reads them from the file:
            `bench_memory.py --resident`); its recall@10 against the exact
    ann     the same of the index, its recall@10 against the exact, and the time it took to build;
            with `:ann`, if usearch is installed (it is no dependency)
"""

import argparse
import importlib
import os
import time
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from bench_memory import percentiles
from load import emit

from palyra_actors.actors.signs import CANDIDATES, Signs

ITEMS_AT_ONCE = 20_000
NEIGHBOURS = 10


def vectors(items: int, dimensions: int, rnd: np.random.Generator) -> Any:
    topics = rnd.standard_normal((max(50, items // 200), dimensions), dtype=np.float32)
    made = np.empty((items, dimensions), np.float32)
    for at in range(0, items, ITEMS_AT_ONCE):
        part = made[at : at + ITEMS_AT_ONCE]
        rnd.standard_normal(out=part, dtype=np.float32)
        part *= 0.7
        part += topics[rnd.integers(0, len(topics), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def exact(made: Any, query: Any) -> set[int]:
    scores = np.einsum("ij,j->i", made, query)
    floor = np.partition(scores, -NEIGHBOURS)[-NEIGHBOURS]
    return set(np.nonzero(scores >= floor)[0].tolist())


def measure(items: int, dimensions: int, queries: int, ann: bool) -> None:
    rnd = np.random.default_rng(1)
    made = vectors(items, dimensions, rnd)
    asked = made[rnd.integers(0, items, queries)]
    asked += rnd.standard_normal(asked.shape, dtype=np.float32) / np.sqrt(dimensions)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    times, found = [], []
    for query in asked:
        began = time.perf_counter()
        found.append(exact(made, query))
        times.append(time.perf_counter() - began)
    size = {"items": items, "dimensions": dimensions}
    emit("exact", **size, mib=made.nbytes >> 20, **percentiles(times))
    signs = Signs(dimensions)
    began = time.perf_counter()
    codes = signs.codes(made)
    build_s = time.perf_counter() - began
    for candidates in (CANDIDATES // 4, CANDIDATES):
        times, recalled = [], 0
        for query, wanted in zip(asked, found, strict=True):
            began = time.perf_counter()
            near = np.argpartition(signs.likeness(codes, query), -candidates)[-candidates:]
            keys = near[np.argsort(made[near] @ query)[-NEIGHBOURS:]]
            times.append(time.perf_counter() - began)
            recalled += len(wanted & set(keys.tolist()))
        emit(
            "signs", **size, mib=codes.nbytes >> 20, candidates=candidates,
            build_s=round(build_s, 1), recall_at_10=round(recalled / NEIGHBOURS / queries, 3),
            **percentiles(times),
        )  # fmt: skip
    if not ann:
        return
    usearch = importlib.import_module("usearch.index")
    index = usearch.Index(
        ndim=dimensions, metric="ip", dtype="f16", connectivity=16, expansion_add=128
    )
    began = time.perf_counter()
    index.add(np.arange(items, dtype=np.uint64), made, threads=1)
    build_s = time.perf_counter() - began
    for expansion in (64, 256):
        index.expansion_search = expansion
        times, recalled = [], 0
        for query, wanted in zip(asked, found, strict=True):
            began = time.perf_counter()
            keys = index.search(query, NEIGHBOURS, threads=1).keys.tolist()
            times.append(time.perf_counter() - began)
            recalled += len(wanted & set(keys))
        emit(
            "ann", **size, expansion=expansion, build_s=round(build_s, 1),
            recall_at_10=round(recalled / NEIGHBOURS / queries, 3), **percentiles(times),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", default=["1000000x64", "200000x768", "500000x768"])
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    for size in options.sizes:
        shape, _, ann = size.partition(":")
        items, dimensions = map(int, shape.split("x"))
        measure(items, dimensions, options.queries, ann == "ann")


if __name__ == "__main__":
    main()
