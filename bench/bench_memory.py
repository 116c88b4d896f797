"""Are memories found within their budget, kept quickly, and forgotten without holding up others?

    python bench/bench_memory.py [--items N] [--queries N] [--evict N] [--purge] [--folder DIR]

Texts are 12 to 60 words from a vocabulary of 30,000 with the frequencies of natural language, of
one principal; vectors are the hash provider's. Prints a JSON line per result:

    memory_ingest   time of an ingest, pipelined through the door, and what 0.5 x 457 us would be
    memory_load     the first search of a scope: its vectors are read from the file
    memory_search   p50, p99 by mode, through the door, one at a time; beside it the bare numpy
                    product and partition of as many vectors in this process
    memory_recall   vector search against brute force, for the oldest and the newest tenth
    memory_evict    evicting `--evict` items while others append: their latency, the time it took
    memory_purge    the same while all that is left is purged, with `--purge`

The file is filled behind the engine's back, by the same folds.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import zmq
from load import emit, engine, workspace

from palyra_actors.domain import memory as domain
from palyra_actors.domain.fact import Fact
from palyra_actors.domain.memory import scope_id
from palyra_actors.embedding.hashing import HashMemoryEmbeddingProvider
from palyra_actors.ids import format_ulid
from palyra_actors.storage.connection import open_reader, open_writer
from palyra_actors.storage.migrations import migrate
from palyra_actors.storage.queries import sql

PALYRA_INGEST_US = 457
WORDS = 30_000
SYLLABLES = [a + b for a in "bcdfglmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "in")]


class Texts:
    """A language of its own: word lengths and frequencies as in English."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        made: dict[str, None] = {}
        while len(made) < WORDS:
            made["".join(self._random.choices(SYLLABLES, k=self._random.randint(1, 4)))] = None
        self.words = list(made)
        self._weights = list(itertools.accumulate(1 / (n + 3) for n in range(WORDS)))

    def begin_again(self, seed: int) -> None:
        """Other texts of the same words."""
        self._random.seed(seed)

    def text(self, shortest: int = 12, longest: int = 60) -> str:
        count = self._random.randint(shortest, longest)
        return " ".join(self._random.choices(self.words, cum_weights=self._weights, k=count))


class Wire:
    """A DEALER; `many` keeps `in_flight` requests under way."""

    def __init__(self, endpoint: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.connect(endpoint)
        self._ids = itertools.count()

    def ask(self, op: str, body: dict[str, Any], **envelope: Any) -> dict[str, Any]:
        self.socket.send(msgpack.packb({"v": 1, "id": 0, "op": op, "body": body, **envelope}))
        reply = msgpack.unpackb(self.socket.recv())
        if "ok" not in reply:
            raise RuntimeError(reply)
        return dict(reply["ok"])

    def many(self, op: str, bodies: Iterator[dict[str, Any]], in_flight: int) -> int:
        under_way = done = 0
        for body in bodies:
            request = {"v": 1, "id": next(self._ids), "op": op, "budget_ms": 0, "body": body}
            self.socket.send(msgpack.packb(request))
            under_way += 1
            while under_way >= in_flight:
                done += self._take()
                under_way -= 1
        while under_way:
            done += self._take()
            under_way -= 1
        return done

    def _take(self) -> int:
        reply = msgpack.unpackb(self.socket.recv())
        if "ok" not in reply:
            raise RuntimeError(reply)
        return 1


def fill(database: Path, texts: list[str]) -> None:
    """As the engine would: the folds' rows and the vectors; the chain is left out."""
    connection = open_writer(database, synchronous="off", cache_bytes=256 * 2**20, wal_keep_bytes=0)
    migrate(connection, str(database))
    provider = HashMemoryEmbeddingProvider()
    now_ms = time.time_ns() // 1_000_000 - 90 * 86_400_000
    connection.execute(sql("insert_principal"), (1, "local")).fetchall()
    connection.execute(sql("insert_stream"), (1, 4, scope_id("local"), 1, now_ms)).fetchall()
    connection.execute(sql("memory.add_model"), provider.model).fetchall()
    insert, step = sql("insert_event"), 90 * 86_400_000 / len(texts)
    for at in range(0, len(texts), 5_000):
        part = texts[at : at + 5_000]
        vectors = provider.embed(part)
        with connection:
            for place, text in enumerate(part):
                seq = at + place + 1
                moment = now_ms + int(step * seq)
                item = domain.Item(
                    seq.to_bytes(16, "big"), "manual", text, ("bench",), None, None, None, None,
                    moment, None, moment,
                )  # fmt: skip
                new = domain.ingested(item, False)
                event_id = (2**80 + seq).to_bytes(16, "big")
                fact = Fact(
                    new.kind, new.payload, seq, moment, seq, moment, None, None, event_id,
                    "system", "local",
                )  # fmt: skip
                payload = msgpack.packb(new.payload)
                connection.execute(insert, (
                    seq, event_id, 1, seq, 1 if seq > 1 else 0, None, None, 200, 3, 1, moment,
                    moment, 0, None, payload, None, bytes(32),
                )).fetchall()  # fmt: skip
                for statement, row in domain.fold(None, fact, 1)[1]:
                    connection.execute(sql(statement), row).fetchall()
                vector = (vectors[place].tobytes(), *provider.model, seq)
                connection.execute(sql("memory.add_vector"), vector).fetchall()
                if not seq & 63:
                    connection.execute(sql("insert_mark"), (1, seq >> 6, seq)).fetchall()
            connection.execute(sql("memory.merge"), (1_024,)).fetchall()
    connection.execute(sql("move_head"), (1, len(texts), len(texts))).fetchall()
    connection.close()


def percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1e3, 2),
        "max_ms": round(ordered[-1] * 1e3, 2),
    }


def bare_product(vectors: Any, queries: int) -> float:
    """Median seconds of the product and a partition: what no exact search can go below."""
    rnd = np.random.default_rng(1)
    times = []
    for _ in range(queries):
        query = rnd.standard_normal(vectors.shape[1]).astype(np.float32)
        began = time.perf_counter()
        scores = vectors @ query
        np.argpartition(scores, -10)[-10:]
        times.append(time.perf_counter() - began)
    return statistics.median(times)


class Kept:
    """What the file holds, for whoever asks or checks."""

    def __init__(self, database: Path) -> None:
        self._connection = open_reader(database, cache_bytes=2**20)
        self.count = int(str(self._one("SELECT max(seq) FROM memory_items")))

    def _one(self, query: str, *parameters: Any) -> Any:
        return self._connection.execute(query, parameters).fetchall()[0][0]

    def text(self, number: int) -> str:
        payload = self._one("SELECT payload FROM events WHERE seq = ?", number)
        return str(msgpack.unpackb(payload)["content"])

    def vectors(self) -> Any:
        rows = self._connection.execute("SELECT vector FROM memory_vectors ORDER BY seq")
        joined = b"".join(bytes(vector) for (vector,) in rows)  # type: ignore[arg-type]
        return np.frombuffer(joined, np.float32).reshape(self.count, -1)


def measure_search(wire: Wire, texts: Texts, kept: Kept, queries: int) -> None:
    rnd = random.Random(7)
    vectors = kept.vectors()
    bare_s = bare_product(vectors, 50)
    began = time.perf_counter()
    wire.ask("memory.search", {"query": texts.words[0]})
    emit("memory_load", items=kept.count, first_ms=round((time.perf_counter() - began) * 1e3, 1))
    asked = [
        " ".join(rnd.sample(kept.text(rnd.randint(1, kept.count)).split(), 4))
        for _ in range(queries // 2)
    ]
    asked += [texts.text(2, 8) for _ in range(queries - len(asked))]
    rnd.shuffle(asked)
    for mode in ("hybrid", "vector", "lexical"):
        times = []
        for query in asked:
            began = time.perf_counter()
            wire.ask("memory.search", {"query": query, "mode": mode})
            times.append(time.perf_counter() - began)
        emit(
            "memory_search", items=kept.count, mode=mode, queries=len(asked), **percentiles(times),
            bare_numpy_ms=round(bare_s * 1e3, 2),
            p50_ratio_to_bare=round(statistics.median(times) / bare_s, 2),
        )  # fmt: skip
    hostile = {"a OR a …": ("a OR " * 819)[:4096], "common words": " ".join(texts.words[:40])}
    for name, query in hostile.items():
        times = []
        for _ in range(20):
            began = time.perf_counter()
            wire.ask("memory.search", {"query": query, "mode": "lexical"})
            times.append(time.perf_counter() - began)
        emit("memory_hostile", items=kept.count, query=name, **percentiles(times))
    measure_recall(wire, kept, vectors, rnd)


def measure_recall(wire: Wire, kept: Kept, vectors: Any, rnd: random.Random) -> None:
    provider, tenth = HashMemoryEmbeddingProvider(), max(1, kept.count // 10)
    for name, place in (("oldest", 1), ("newest", kept.count - tenth)):
        recalled, first = [], 0
        for _ in range(50):
            text = kept.text(place + rnd.randrange(tenth))
            query = " ".join(rnd.sample(text.split(), 8))
            scores = np.maximum(vectors @ provider.embed([query])[0], 0.0)
            floor = np.partition(scores, -10)[-10]
            body = {"query": query, "mode": "vector", "top_k": 10}
            hits = wire.ask("memory.search", body)["hits"]
            recalled.append(sum(hit["score"] >= floor - 1e-5 for hit in hits) / 10)
            hits = wire.ask("memory.search", {"query": query})["hits"]
            first += any(hit["item"]["content"] == text for hit in hits)
        emit(
            "memory_recall", items=kept.count, about=name, hybrid_in_first_8=first / 50,
            recall_at_10=statistics.fmean(recalled),
        )  # fmt: skip


def measure_ingest(wire: Wire, process: int, kept: list[str], in_flight: int) -> None:
    """Beside it a command that does next to nothing: what of it is the engine's, and what the
    machine's."""
    resolve = ({"session_key": f"{in_flight} {n}"} for n in range(len(kept)))
    began = time.perf_counter()
    wire.many("session.resolve", resolve, in_flight)
    plain_us = (time.perf_counter() - began) / len(kept) * 1e6
    bodies = ({"source": "manual", "content": text, "tags": ["bench"]} for text in kept)
    before, began = cpu_s(process), time.perf_counter()
    count = wire.many("memory.ingest", bodies, in_flight)
    mean_us = (time.perf_counter() - began) / count * 1e6
    emit(
        "memory_ingest", items=count, in_flight=in_flight, mean_us=round(mean_us, 1),
        ratio_to_palyra=round(mean_us / PALYRA_INGEST_US, 3), wanted=0.5,
        engine_cpu_us=round((cpu_s(process) - before) / count * 1e6, 1),
        session_resolve_us=round(plain_us, 1),
    )  # fmt: skip


def cpu_s(process: int) -> float:
    """What a process has used so far, on all cores."""
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def measure_beside(endpoint: str, wire: Wire, bench: str, op: str, body: dict[str, Any]) -> None:
    """Appends of one event, 200 a second, while something large is done."""
    stop, times, late = threading.Event(), list[float](), [0]

    def append() -> None:
        own = Wire(endpoint)
        ids = itertools.count(time.time_ns())
        while not stop.is_set():
            event = {"events": [{
                "event_id": format_ulid(next(ids).to_bytes(16, "big")),
                "session_id": "01JZ5X9W6TQ3M8C4R0VBN7HEAD", "kind": "message_received",
                "actor": "user", "ts_ms": 1, "payload": {"text": "x" * 200},
            }]}  # fmt: skip
            began = time.perf_counter()
            try:
                ok = own.ask("journal.append", event)
                late[0] += not ok["timing"]["within_budget"]
            except RuntimeError:
                late[0] += 1
            times.append(time.perf_counter() - began)
            stop.wait(0.005)

    thread = threading.Thread(target=append)
    thread.start()
    stop.wait(1.0)
    quiet, times[:] = list(times), []
    before = late[0]
    began = time.perf_counter()
    told = wire.ask(op, body)
    told.pop("timing", None)
    took = time.perf_counter() - began
    busy, late_then = list(times), late[0] - before
    stop.set()
    thread.join()
    emit(
        bench, asked=body, **told, seconds=round(took, 2), appends=len(busy),
        late_or_refused=late_then, beside=percentiles(busy), before=percentiles(quiet),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--resident", type=int, default=2 * 2**30, help="resident_bytes_max")
    parser.add_argument("--exact", action="store_true", help="approximate = false")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--evict", type=int, default=5_000)
    parser.add_argument("--purge", action="store_true")
    parser.add_argument("--ingest", type=int, default=10_000)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--fill-only", type=Path, help="Fill this folder and end.")
    parser.add_argument("--filled", type=Path, help="A folder filled before, used up.")
    options = parser.parse_args()
    texts = Texts(1)
    if options.filled:
        run(options.filled, texts, options)
        return
    kept = list(dict.fromkeys(texts.text() for _ in range(options.items)))
    if options.fill_only:
        options.fill_only.mkdir(parents=True, exist_ok=True)
        fill(options.fill_only / "bench.db", kept)
        return
    with workspace(options.folder) as folder:
        fill(folder / "bench.db", kept)
        run(folder, texts, options)


def run(folder: Path, texts: Texts, options: argparse.Namespace) -> None:
    kept = Kept(folder / "bench.db")
    config = folder / "bench.toml"
    config.write_text(
        f"[memory]\nresident_bytes_max = {options.resident}\n"
        f"approximate = {str(not options.exact).lower()}\n[memory.retention]\n"
        f"max_entries = {max(1, kept.count - options.evict)}\n"
    )
    os.sync()  # what was filled or copied is not the engine's to write out
    with engine(folder, "--config", str(config)) as (endpoint, process):
        wire = Wire(endpoint)
        measure_search(wire, texts, kept, options.queries)
        if options.evict:
            body = {"limit": options.evict}
            measure_beside(endpoint, wire, "memory_evict", "memory.maintain", body)
        if options.ingest:
            texts.begin_again(2)
            new = [texts.text() for _ in range(options.ingest)]
            for in_flight in (64, 256):
                half = new[: len(new) // 2] if in_flight == 64 else new[len(new) // 2 :]
                measure_ingest(wire, process.pid, half, in_flight)
        if options.purge:
            measure_beside(endpoint, wire, "memory_purge", "memory.purge", {"all": True})
        emit("memory_stats", **json.loads(json.dumps(wire.ask("memory.stats", {}))))


if __name__ == "__main__":
    main()
