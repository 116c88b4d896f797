"""Is what was done found again? Judged on real agent runs.

    PALYRA_SHARED=DIR python bench/bench_retrieval.py [--model FOLDER]

Documents are the steps of the recorded runs in DIR/data/trajectories: a command and the beginning
of what it printed. Two judged sets of queries:

    thoughts   what the agent thought before a step; relevant: that step, and steps of other runs
               with the same command. Nobody wrote these to be found, and many say little
    questions  sixteen, written for this; relevant: every step that a pattern names

Prints hit@1, recall@10 (of as many as there are, ten at most) and nDCG@10 for each mode: with the
hash provider at several sizes, with one that hashes as Palyra does (a word's digest's first byte
names its place), and with a sentence-transformers model from a folder, if one is named.
"""

import argparse
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from math import log2
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from load import emit

from palyra_actors.config import Config
from palyra_actors.embedding.hashing import HashMemoryEmbeddingProvider
from palyra_actors.embedding.local import LocalEmbeddingProvider
from palyra_actors.embedding.provider import Matrix, MemoryEmbeddingProvider, Model
from palyra_actors.engine import Engine

TEXT_CHARACTERS = 1_500
QUESTIONS = {
    "which script was missing a colon?": r"missing_colon\.py",
    "compare the absolute difference of two elements": r"abs\(elem - elem2\)",
    "two numbers in a list closer than a threshold": r"has_close_elements",
    "round the seconds of a duration to the nearest integer": r"int\(round\(value\.total_seconds",
    "where do time delta fields get serialized?": r"base_unit\.total_seconds",
    "sample code that shows the issue": r"td_field = |create reproduce\.py",
    "delete the script that reproduced the problem": r"\Arm reproduce",
    "which files are in the repository?": r"\Als ",
    "search for a file by its name": r"\Afind_file",
    "the edit was rejected because of its indentation": r"[Ii]ndentationError|unexpected indent",
    "run the reproduction again": r"\Apython3? reproduce\.py",
    "dividing one float by another": r"def division",
    "hand in the final patch": r"\Asubmit",
    "open the module with all field types": r"\Aopen .*fields\.py",
    "a diff of what was changed": r"diff --git",
    "a new empty file was made": r"\Acreate ",
}


class Step(NamedTuple):
    action: str
    thought: str
    text: str


class Query(NamedTuple):
    text: str
    relevant: frozenset[int]


class PalyraHash:
    """`hash-embedding-v1` of the reference: the first byte of a token's SHA-256 names its place."""

    near = True

    def __init__(self, dimensions: int) -> None:
        self.model = Model("palyra", "hash-embedding-v1", dimensions, 1)

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        del query
        made = np.zeros((len(texts), self.model.dimensions), np.float32)
        for row, text in zip(made, texts, strict=True):
            for token in text.split():
                digest = hashlib.sha256(token.lower().encode()).digest()
                sign = 1.0 if digest[1] % 2 == 0 else -1.0
                row[digest[0] % len(row)] += sign * (1 + digest[2] / 255)
        return made

    def close(self) -> None:
        """Nothing is open."""


def steps(folder: Path) -> list[Step]:
    found = []
    for path in sorted(folder.glob("*.traj")):
        for step in json.loads(path.read_text("utf-8")).get("trajectory", []):
            action, seen = step["action"].strip(), step["observation"][:TEXT_CHARACTERS]
            found.append(Step(action, step["thought"].strip(), f"{action}\n{seen}"))
    return found


def judged(every: Sequence[Step]) -> dict[str, list[Query]]:
    def same(action: str) -> str:
        return re.sub(r"[\"'\s]+", " ", action)

    thoughts = [
        Query(step.thought[:1_000], frozenset(
            place for place, other in enumerate(every) if same(other.action) == same(step.action)
        ))
        for step in {one.thought: one for one in every if one.thought}.values()
    ]  # fmt: skip
    questions = [
        Query(text, frozenset(
            place for place, step in enumerate(every) if re.search(pattern, step.text)
        ))
        for text, pattern in QUESTIONS.items()
    ]  # fmt: skip
    return {"thoughts": thoughts, "questions": [one for one in questions if one.relevant]}


def scores(ranked: Sequence[int], relevant: frozenset[int]) -> tuple[float, float, float]:
    """hit@1, recall@10, nDCG@10."""
    top = ranked[:10]
    most = min(10, len(relevant))
    gain = sum(1 / log2(rank + 2) for rank, one in enumerate(top) if one in relevant)
    ideal = sum(1 / log2(rank + 2) for rank in range(most))
    return float(bool(top) and top[0] in relevant), len(relevant & set(top)) / most, gain / ideal


def measure(
    provider: MemoryEmbeddingProvider, every: Sequence[Step], sets: dict[str, list[Query]],
    modes: Sequence[str],
) -> None:  # fmt: skip
    config = Config().replaced("storage", synchronous="off").replaced("budget", write_ms=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine.open(Path(folder) / "r.db", config, embedding_provider=provider) as engine,
    ):
        places: dict[str, list[int]] = {}
        for place, step in enumerate(every):
            memory = engine.memories.add(step.text, source="tape_tool_result")
            places.setdefault(memory.memory_id, []).append(place)
        engine.memories.backfill(timeout_s=600)
        for name, queries in sets.items():
            for mode in modes:
                sums = np.zeros(3)
                for query in queries:
                    hits = engine.memories.search(query.text, mode=mode, top_k=20)
                    # steps with the same text are one memory: it stands for one of them
                    ranked = [places[hit.item.memory_id][0] for hit in hits]
                    firsts = {one[0] for one in places.values() if set(one) & query.relevant}
                    sums += scores(ranked, frozenset(firsts))
                hit, recall, ndcg = (sums / len(queries)).round(3).tolist()
                emit(
                    "retrieval", queries=name, count=len(queries), documents=len(places), mode=mode,
                    provider=provider.model.provider, dimensions=provider.model.dimensions,
                    hit_at_1=hit, recall_at_10=recall, ndcg_at_10=ndcg,
                )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="The folder of a sentence-transformers model.")
    options = parser.parse_args()
    folder = Path(os.environ["PALYRA_SHARED"]) / "data" / "trajectories"
    every = steps(folder)
    sets = judged(every)
    all_modes, vector = ("lexical", "vector", "hybrid"), ("vector",)
    made: list[tuple[Callable[[], Any], Sequence[str]]] = [
        (HashMemoryEmbeddingProvider, all_modes),
        (lambda: PalyraHash(64), vector),
        (lambda: HashMemoryEmbeddingProvider(256), vector),
        (lambda: HashMemoryEmbeddingProvider(1536), vector),
        (lambda: PalyraHash(1536), vector),
    ]
    if options.model:
        made.append((lambda: LocalEmbeddingProvider(options.model), all_modes))
    for make, modes in made:
        measure(make(), every, sets, modes)


if __name__ == "__main__":
    main()
