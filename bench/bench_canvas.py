"""What does a canvas cost: file, patch, load, start; and what does a large one cost the others?

growth    a state of 45 KB and 1,000 patches of 60 bytes: how much the file grows, beside what
          a copy of every state would take; the mean time of a patch with each `synchronous`, the
          median of five rounds: through an embedded engine, from another thread, and as a call
          in one thread, frames and COMMIT included, by an engine that is stepped; and of applying
          and hashing alone beside jsonpatch's own way with a copy
load      each version read from that file
recovery  10,000 canvases (fewer: --canvases): an engine's start, and the first read of each
          thousandth, the 1,001st among them
beside    a canvas of 1 MB that is patched without a pause beside one of 1 KB that is patched
          50 times a second, through one door, with the default budget; and one that is sent the
          dearest patches that are refused, over one connection, by one thread and by eight that
          do not wait when they are told to; these from a process of their own
work      the dearest patches that are let through, and what was taken out of the loop's way

The collector of garbage is set as `serve` sets it.

python bench/bench_canvas.py [--part NAME] [--canvases N] [--seconds S] [--dir FOLDER]
"""

import argparse
import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonpatch
import msgspec
import orjson
import rfc8785
from load import emit, engine, workspace

from palyra_actors.actors.canvas import load
from palyra_actors.api.canvases import Canvas
from palyra_actors.api.events import new_id
from palyra_actors.cli.serve import spare_the_collector
from palyra_actors.client import Client
from palyra_actors.clock import SystemClock
from palyra_actors.config import Config, StorageConfig
from palyra_actors.domain.canonical import Text, canonical, state_hash
from palyra_actors.domain.catalog import CANVAS
from palyra_actors.domain.document import apply_patch_document, smaller_patch
from palyra_actors.engine import Engine, Works
from palyra_actors.errors import Overloaded, PalyraError
from palyra_actors.ids import parse_ulid
from palyra_actors.wire.frames import pack

PATCHES = 1_000
STATE_BYTES = 45_000
ROUNDS = 5


def a_state(size: int) -> dict[str, Any]:
    """Rows of about 100 bytes, as many as make up that size."""
    row = {"id": 1, "title": "a row of the table", "done": False, "tags": ["one", "two"]}
    count = size // len(orjson.dumps(row))
    return {"rows": [{**row, "id": n} for n in range(count)], "title": "table", "cursor": 0}


def a_patch(n: int, rows: int = 100) -> list[dict[str, Any]]:
    """About 60 bytes."""
    return [{"op": "replace", "path": f"/rows/{n % rows}/title", "value": f"row number {n:06d}"}]


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def on_the_cpu(call: Callable[[], object]) -> float:
    """What it took of a processor, however long others had it meanwhile."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def us(times: list[float]) -> float:
    return round(statistics.fmean(times) * 1e6, 1)


def percentile_ms(times: list[float], share: float) -> float:
    return round(sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1e3, 2)


def patched(canvas: Canvas, count: int) -> list[float]:
    """What each patch took, in seconds."""
    return [timed(lambda n=n: canvas.patch(n + 1, a_patch(n))) for n in range(count)]


class Caller:
    """Who asks where the engine has no thread of its own."""

    principal, role = "local", "admin"
    under_way = backlog_bytes = 0

    def __init__(self) -> None:
        self.replies: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.replies.append(frame)


def stepped(path: Path, config: Config, state: dict[str, Any]) -> list[list[float]]:
    """What each patch took as a call in one thread; rounds of so many."""
    works, caller = Works(path, config, SystemClock(), None), Caller()
    works.begin()

    def call(op: str, body: dict[str, Any]) -> None:
        frame = pack({"v": 1, "id": 1, "op": op, "body": body, "budget_ms": 0}, "body")
        works.desk.serve(((caller, frame),))
        while not caller.replies:
            works.loop.step()
            works.writer.committer.step()
        if "err" in msgspec.msgpack.decode(caller.replies.pop()):
            raise AssertionError(op)

    rounds = []
    for _ in range(ROUNDS):
        canvas = new_id()
        call("canvas.create", {"canvas_id": canvas, "session_id": new_id(), "state": state})
        rounds.append([
            timed(lambda n=n, canvas=canvas: call("canvas.patch", {
                "canvas_id": canvas, "expected_version": n + 1, "patch": a_patch(n),
                "event_id": new_id(),
            }))
            for n in range(PATCHES)
        ])  # fmt: skip
    works.wind_down(lambda: None)
    works.loop.step()
    works.shut(0.0)
    return rounds


def growth(folder: Path, options: argparse.Namespace) -> None:
    state = a_state(STATE_BYTES)
    size = len(orjson.dumps(state))
    for synchronous in ("off", "normal", "full"):
        path = folder / f"{synchronous}.db"
        config = Config(storage=StorageConfig(synchronous=synchronous))
        with Engine.open(path, config) as opened:
            canvas = opened.canvases.create(new_id(), state)
        spare_the_collector()
        before = path.stat().st_size  # whoever closes has moved the WAL into it
        with Engine.open(path, config) as opened:
            handle = opened.canvases.open(canvas)
            rounds = [patched(handle, PATCHES)]
        grew = path.stat().st_size - before
        with Engine.open(path, config) as opened:
            for _ in range(ROUNDS - 1):
                rounds.append(patched(opened.canvases.create(new_id(), state), PATCHES))
        times = sorted(rounds, key=sum)[ROUNDS // 2]
        alone = stepped(folder / f"{synchronous}-stepped.db", config, state)
        emit(
            "canvas", what="growth", synchronous=synchronous, patches=PATCHES, state_bytes=size,
            patch_bytes=len(orjson.dumps(a_patch(1))), grew_bytes=grew,
            copies_would_take_bytes=PATCHES * size, patch_mean_us=us(times),
            patch_p50_us=round(percentile_ms(times, 0.5) * 1e3),
            in_one_thread_mean_us=us(sorted(alone, key=sum)[ROUNDS // 2]),
            in_one_thread_rounds_us=[us(each) for each in alone],
            means_of_the_rounds_us=[us(each) for each in rounds],
            patch_p99_us=round(percentile_ms(times, 0.99) * 1e3),
        )  # fmt: skip
    own, spliced, document, kept = [], [], state, Text()
    for n in range(PATCHES):
        patch = a_patch(n)
        began = time.perf_counter()
        after = apply_patch_document(document, patch)
        state_hash(after, plain=True)
        own.append(time.perf_counter() - began)
        began = time.perf_counter()
        after = apply_patch_document(document, patch)
        text = kept.after(document, patch) or canonical(after, plain=True)
        sha256(text).digest()
        kept.keep(after, text)
        spliced.append(time.perf_counter() - began)
        document = after
    copied = [timed(lambda n=n: jsonpatch.apply_patch(state, a_patch(n))) for n in range(200)]
    emit(
        "canvas", what="apply", apply_and_hash_mean_us=us(own),
        with_the_text_of_before_mean_us=us(spliced),
        jsonpatch_with_a_copy_mean_us=us(copied),
        ratio=round(statistics.fmean(own) / statistics.fmean(copied), 3),
    )  # fmt: skip
    with Engine.open(folder / "full.db") as opened:
        reading = opened._works.reading
        row = reading.stream(CANVAS, parse_ulid(str(canvas := opened.canvases.open(canvas))))
        if row is None:  # `canvas` is that of the last file
            raise AssertionError
        spare_the_collector()  # what was garbage before is not this part's
        versions = range(PATCHES + 1, 0, -7)
        loads = [timed(lambda v=v: load(reading, row.stream, v)) for v in versions]
        own = [on_the_cpu(lambda v=v: load(reading, row.stream, v)) for v in versions]
        get = [timed(canvas.get) for _ in range(100)]
    emit(
        "canvas", what="load", mean_ms=round(statistics.fmean(loads) * 1e3, 3),
        p50_ms=percentile_ms(loads, 0.5), p99_ms=percentile_ms(loads, 0.99),
        max_ms=percentile_ms(loads, 1.0), max_on_the_cpu_ms=percentile_ms(own, 1.0),
        get_through_the_engine_p50_ms=percentile_ms(get, 0.5),
    )  # fmt: skip


def recovery(folder: Path, options: argparse.Namespace) -> None:
    path = folder / "many.db"
    names = []
    with Engine.open(path, Config(storage=StorageConfig(synchronous="off"))) as opened:
        session = new_id()
        for n in range(options.canvases):
            canvas = opened.canvases.create(session, {"title": f"canvas {n}", "rows": [1, 2, 3]})
            canvas.patch(1, [{"op": "add", "path": "/rows/-", "value": n}])
            names.append(str(canvas))
    began = time.perf_counter()
    with Engine.open(path) as opened:
        start_s = time.perf_counter() - began
        first = [
            timed(opened.canvases.open(names[n]).get)
            for n in [0, 1_000, *range(1_999, len(names), 1_000)] if n < len(names)
        ]  # fmt: skip
        began = time.perf_counter()
        for n, name in enumerate(names):
            found = opened.canvases.open(name).get()
            if found.version != 2 or found.state["rows"][-1] != n:
                raise AssertionError(name)
        all_s = time.perf_counter() - began
    emit(
        "canvas", what="recovery", canvases=len(names), start_ms=round(start_s * 1e3, 1),
        first_read_max_ms=percentile_ms(first, 1.0), every_one_read_seconds=round(all_s, 2),
    )  # fmt: skip


FAILS = {"op": "test", "path": "/none", "value": 0}
BIG_LIST = {"list": [0] * 900_000, "n": 0}
FRACTIONS = {"fractions": [n / 7 for n in range(28_000)]}
BOMBS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "1000 moves in a list of 900000": (
        BIG_LIST, [{"op": "move", "from": "/list/0", "path": "/list/-"}] * 1_000,
    ),
    "28000 fractions, the last of 1000 fails": (FRACTIONS, [
        *({"op": "replace", "path": f"/fractions/{n}", "value": n / 3} for n in range(999)), FAILS,
    ]),
    "the root replaced 999 times": ({"n": 0}, [
        *({"op": "replace", "path": "", "value": {"n": n}} for n in range(999)), FAILS,
    ]),
}  # fmt: skip


def floods() -> dict[str, tuple[dict[str, Any] | None, Callable[[int], Any]]]:
    """What is sent beside a small canvas: the state of the large one, and its patches."""
    floats = {"points": [{"x": n / 7, "y": 10.0, "label": f"point {n}"} for n in range(22_000)]}
    return {
        "nothing": (None, lambda n: None),
        "rows": (a_state(1_000_000), lambda n: a_patch(n, 9_000)),
        "fractions": (floats, lambda n: [
            {"op": "replace", "path": f"/points/{n % 20_000}/x", "value": n / 3},
        ]),
        **{
            name: (state, lambda n, bomb=bomb: bomb) for name, (state, bomb) in BOMBS.items()
        },
    }  # fmt: skip


def flood(endpoint: str, name: str, threads: int, over: Any, told: Any) -> None:
    """Patch the large canvas without a pause until it is `over`, in a process of its own: beside
    eight busy threads nobody could say when an answer came. Says when it begins, and at the end
    what became of the patches."""
    state, patch = floods()[name]
    done = {"ok": 0, "overloaded": 0, "refused": 0}
    with Client(endpoint, retry=False) as client:
        canvas = client.canvases.create(new_id(), state, budget_ms=0)
        told.put({})

        def send() -> None:
            while not over.is_set():
                try:
                    canvas.patch(done["ok"] + 1, patch(done["ok"]))
                    done["ok"] += 1
                except Overloaded:
                    done["overloaded"] += 1
                except PalyraError:
                    done["refused"] += 1

        sending = [threading.Thread(target=send) for _ in range(threads)]
        for thread in sending:
            thread.start()
        for thread in sending:
            thread.join()
    told.put(done)


def beside(folder: Path, options: argparse.Namespace) -> None:
    cases = [
        (name, threads) for name in floods() for threads in ((1, 8) if name in BOMBS else (1,))
    ]
    with engine(folder) as (endpoint, _):
        for name, threads in cases:
            emit("canvas", what="beside", large=name, threads=threads,
                 **next_to(endpoint, name, threads, options.seconds))  # fmt: skip


def next_to(endpoint: str, name: str, threads: int, seconds: float) -> dict[str, Any]:
    """What a small canvas's patches take beside a flood, and what became of the flood's."""
    state, _ = floods()[name]
    apart = multiprocessing.get_context("spawn")
    over, told, done = apart.Event(), apart.SimpleQueue(), {"ok": 0, "overloaded": 0, "refused": 0}
    with Client(endpoint) as mine:
        small = mine.canvases.create(new_id(), {"text": "x" * 1_000, "n": 0}, budget_ms=0)
        if state is not None:
            flooding = apart.Process(target=flood, args=(endpoint, name, threads, over, told))
            flooding.start()
            told.get()
        time.sleep(0.5)
        times, refused, version = [], 0, 1
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            began = time.perf_counter()
            try:
                version = small.patch(version, [{"op": "add", "path": "/n", "value": version}])
                times.append(time.perf_counter() - began)
            except PalyraError:
                refused += 1
            time.sleep(max(0.0, 0.02 - (time.perf_counter() - began)))
        if state is not None:
            over.set()
            done = told.get()
            flooding.join()
    return {
        "large_bytes": 0 if state is None else len(orjson.dumps(state)),
        "large_patches_per_second": round(done["ok"] / seconds),
        "large_refused": done["refused"], "large_overloaded": done["overloaded"],
        "small_patches": len(times), "small_refused": refused,
        "small_p50_ms": percentile_ms(times, 0.5), "small_p99_ms": percentile_ms(times, 0.99),
        "small_max_ms": percentile_ms(times, 1.0),
    }  # fmt: skip


def refused_patch(state: dict[str, Any], patch: list[dict[str, Any]]) -> None:
    try:
        apply_patch_document(state, patch)
    except PalyraError:
        return
    raise AssertionError("it was let through")


def work(folder: Path, options: argparse.Namespace) -> None:
    some = random.Random(1)
    before, after = ({"list": [some.randrange(3) for _ in range(100_000)]} for _ in range(2))
    rows = {"a": {"rows": a_state(600_000)["rows"]}, "b": {}}
    deeper = [{"op": "move", "from": "/a/rows", "path": "/b/rows"},
              {"op": "move", "from": "/b/rows", "path": "/a/rows"}]  # fmt: skip
    points = {"points": [{"x": n / 7, "y": 10.0, "label": f"point {n}"} for n in range(22_000)]}
    cases: dict[str, Callable[[], object]] = {
        "smaller_patch_of_100000_small_integers": lambda: smaller_patch(before, after),
        "move_to_and_fro_1000_times": lambda: apply_patch_document(rows, deeper * 500),
        "copy_of_25000_values": lambda: apply_patch_document(
            {"a": [1] * 25_000}, [{"op": "copy", "from": "/a", "path": "/b"}]
        ),
        "insert_at_the_front_of_500000": lambda: apply_patch_document(
            {"a": [1] * 500_000}, [{"op": "add", "path": "/a/0", "value": 1}] * 10
        ),
        **{
            f"refused: {name}": (lambda state=state, bomb=bomb: refused_patch(state, bomb))
            for name, (state, bomb) in BOMBS.items()
        },
        "hash_of_a_megabyte_with_fractions": lambda: state_hash(points),
        "hash_of_the_same_by_rfc8785": lambda: rfc8785.dumps(points),
        "hash_of_a_megabyte_of_rows": lambda: state_hash(rows, plain=True),
    }
    for name, case in cases.items():
        emit(
            "canvas", what="work", case=name, ms=round(min(timed(case) for _ in range(3)) * 1e3, 2)
        )


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "growth": growth,
    "recovery": recovery,
    "beside": beside,
    "work": work,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--canvases", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    for name, part in PARTS.items():
        if options.part in (name, "all"):
            with workspace(options.dir) as folder:
                part(folder, options)


if __name__ == "__main__":
    main()
