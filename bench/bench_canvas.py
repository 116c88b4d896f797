"""What does a canvas cost: file, patch, load?

    python bench/bench_canvas.py [--patches N] [--state-bytes N] [--canvases N]

Prints a JSON line per result: how much the file grows by N patches of about 60 bytes on a state of
45 KB (and how much a plain copy of every state would take); the mean time of a patch through an
embedded engine, without waiting for the disk (synchronous=OFF), beside jsonpatch's own way with a
copy; the time to load a canvas from the file; and how long an engine with many of them takes to
open and to read one.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jsonpatch
import orjson

from palyra_actors.actors.canvas import load
from palyra_actors.api.events import new_id
from palyra_actors.config import Config, StorageConfig
from palyra_actors.domain.canonical import state_hash
from palyra_actors.domain.catalog import CANVAS
from palyra_actors.domain.document import apply_patch_document
from palyra_actors.engine import Engine
from palyra_actors.ids import parse_ulid


def emit(**result: Any) -> None:
    print(json.dumps(result), flush=True)


def a_state(size: int) -> dict[str, Any]:
    """Rows of about 100 bytes, as many as make up that size."""
    row = {"id": 1, "title": "a row of the table", "done": False, "tags": ["one", "two"]}
    count = size // len(orjson.dumps(row))
    return {"rows": [{**row, "id": n} for n in range(count)], "title": "table", "cursor": 0}


def a_patch(n: int) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": f"/rows/{n % 100}/title", "value": f"row number {n:06d}"}]


def mean_us(times: list[float]) -> float:
    return round(statistics.fmean(times) * 1e6, 1)


def size_of(path: Path) -> int:
    """The database with its WAL moved into it."""
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--patches", type=int, default=1_000)
    parser.add_argument("--state-bytes", type=int, default=45_000)
    parser.add_argument("--canvases", type=int, default=1_001)
    options = parser.parse_args()
    state = a_state(options.state_bytes)
    config = Config(storage=StorageConfig(synchronous="off"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "canvas.db"
        with Engine.open(path, config) as engine:
            canvas = engine.canvases.create(new_id(), state)
        before = size_of(path)
        times = []
        with Engine.open(path, config) as engine:
            handle = engine.canvases.open(canvas)
            for n in range(options.patches):
                began = time.perf_counter()
                handle.patch(n + 1, a_patch(n))
                times.append(time.perf_counter() - began)
        emit(
            bench="canvas_growth", patches=options.patches,
            state_bytes=len(orjson.dumps(state)), file_growth_bytes=size_of(path) - before,
            copies_would_take_bytes=options.patches * len(orjson.dumps(state)),
        )  # fmt: skip
        document, own = state, []
        for n in range(options.patches):
            began = time.perf_counter()
            document = apply_patch_document(document, a_patch(n))
            state_hash(document, plain=True)
            own.append(time.perf_counter() - began)
        copied = []
        for n in range(min(200, options.patches)):
            began = time.perf_counter()
            jsonpatch.apply_patch(state, a_patch(n))
            copied.append(time.perf_counter() - began)
        emit(
            bench="canvas_patch", request_mean_us=mean_us(times),
            request_p99_us=round(sorted(times)[int(len(times) * 0.99)] * 1e6, 1),
            apply_and_hash_mean_us=mean_us(own), jsonpatch_with_a_copy_mean_us=mean_us(copied),
            ratio_to_copy=round(statistics.fmean(own) / statistics.fmean(copied), 4),
        )  # fmt: skip
        with Engine.open(path, config) as engine:
            reader = engine._works.reading
            row = reader.stream(CANVAS, parse_ulid(str(canvas)))
            assert row is not None
            loads = []
            for version in range(options.patches + 1, 0, -max(1, options.patches // 50)):
                began = time.perf_counter()
                load(reader, row.stream, version)
                loads.append(time.perf_counter() - began)
        emit(
            bench="canvas_load", mean_us=mean_us(loads), max_us=round(max(loads) * 1e6, 1)
        )  # fmt: skip
        path = Path(folder) / "many.db"
        with Engine.open(path, config) as engine:
            for _ in range(options.canvases):
                last = engine.canvases.create(new_id(), {"title": "small"})
        began = time.perf_counter()
        with Engine.open(path, config) as engine:
            opened = time.perf_counter()
            engine.canvases.open(last).get()
            read = time.perf_counter()
        emit(
            bench="canvas_recovery", canvases=options.canvases,
            open_ms=round((opened - began) * 1e3, 1), first_read_ms=round((read - opened) * 1e3, 1),
        )  # fmt: skip


if __name__ == "__main__":
    main()
