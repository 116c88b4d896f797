"""Does the time of an answer tell a principal what another one remembers?

    python bench/bench_timing.py [--rounds N]

`alice` remembers texts, `mallory` asks. Each round asks once for what alice has and once for what
nobody has, in random order, on one connection; texts and words are of one distribution and of one
length. A JSON line for each question:

    timing   AUC: how often the time of the one is above that of the other (0.5: it tells nothing),
             how many standard errors from 0.5 that is, and the median of each

The controls ask the same of what mallory has and has not: a duplicate of one's own stores nothing
and is quicker. They have to be told apart, else the bench measures nothing.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from bench_memory import SYLLABLES, Wire
from load import emit, engine, workspace

WORDS_OF_A_TEXT = 30


class Secrets:
    """Words that nobody else has, of five syllables each."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def words(self, count: int) -> str:
        return " ".join("".join(self._random.choices(SYLLABLES, k=5)) for _ in range(count))


def auc(some: list[float], others: list[float]) -> tuple[float, float]:
    """How often one of `some` is above one of `others`, and its distance from 0.5 in standard
    errors (Mann and Whitney)."""
    every = np.concatenate([some, others])
    ranks = np.empty(len(every))
    ranks[np.argsort(every, kind="stable")] = np.arange(1, len(every) + 1)
    n, m = len(some), len(others)
    area = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    return float(area), float((area - 0.5) / sqrt((n + m + 1) / (12 * n * m)))


def measure(
    wire: Wire, name: str, wanted: str, rounds: int, pair: Callable[[int], tuple[Any, Any]]
) -> None:
    """`pair(round)`: operation and body for what is there, and for what is not."""
    times: tuple[list[float], list[float]] = ([], [])
    rnd = random.Random(name)
    for number in range(rounds):
        asked = list(enumerate(pair(number)))
        rnd.shuffle(asked)
        for which, (op, body) in asked:
            began = time.perf_counter()
            try:
                wire.ask(op, body, principal="mallory", budget_ms=0)
            except RuntimeError as refused:
                if "not_found" not in str(refused):
                    raise
            times[which].append(time.perf_counter() - began)
    area, errors = auc(*times)
    emit(
        "timing", question=name, wanted=wanted, rounds=rounds, auc=round(area, 3),
        standard_errors=round(errors, 1),
        there_us=round(statistics.median(times[0]) * 1e6, 1),
        not_there_us=round(statistics.median(times[1]) * 1e6, 1),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1_500)
    options = parser.parse_args()
    rounds = options.rounds
    secrets = Secrets(1)
    with workspace() as folder, engine(folder) as (endpoint, _):
        wire = Wire(endpoint)
        theirs = [secrets.words(WORDS_OF_A_TEXT) for _ in range(rounds)]
        asked = [secrets.words(WORDS_OF_A_TEXT) for _ in range(rounds)]  # mallory keeps none
        own = [secrets.words(WORDS_OF_A_TEXT) for _ in range(rounds)]
        ids: list[str] = []
        for owner, texts in (("alice", theirs + asked), ("mallory", own)):
            for text in texts:
                body = {"source": "manual", "content": text}
                told = wire.ask("memory.ingest", body, principal=owner, budget_ms=0)
                if owner == "alice":
                    ids.append(told["item"]["memory_id"])
            wire.ask("memory.search", {"query": texts[0]}, principal=owner)
        time.sleep(3.0)  # their vectors are made meanwhile, beside the requests

        def ingest(text: str) -> tuple[str, dict[str, Any]]:
            return "memory.ingest", {"source": "manual", "content": text}

        def search(text: str, mode: str) -> tuple[str, dict[str, Any]]:
            query = " ".join(text.split()[:8])
            return "memory.search", {"query": query, "mode": mode, "top_k": 4}

        def fresh() -> str:
            return secrets.words(WORDS_OF_A_TEXT)

        def nobodys(memory_id: str) -> str:
            return memory_id[:-6] + "".join(random.choices("0123456789ABCDEFGH", k=6))

        told, quiet = "told apart", "not told apart"
        measure(wire, "ingest, control", told, rounds, lambda n: (ingest(own[n]), ingest(fresh())))
        measure(wire, "ingest", quiet, rounds, lambda n: (ingest(theirs[n]), ingest(fresh())))
        for mode in ("lexical", "vector", "hybrid"):
            measure(
                wire, f"{mode} search", quiet, rounds,
                lambda n, mode=mode: (search(asked[n], mode), search(fresh(), mode)),
            )  # fmt: skip
        measure(
            wire, "lexical search, control", told, rounds,
            lambda n: (search(own[n], "lexical"), search(fresh(), "lexical")),
        )  # fmt: skip

        def get(number: int) -> tuple[Any, Any]:
            asked = (ids[number], nobodys(ids[number]))
            there, missing = [("memory.get", {"memory_id": one}) for one in asked]
            return there, missing

        measure(wire, "get", quiet, rounds, get)
        wire.ask("memory.purge", {"all": True}, principal="alice", budget_ms=0)
        measure(wire, "get of what was removed", quiet, rounds, get)


if __name__ == "__main__":
    main()
