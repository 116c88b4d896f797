"""What does one event cost in ids and payloads? One JSON line per result, µs per operation.

    python bench/bench_codec.py [--seconds 0.3]

Each figure is the best of five rounds: a noisy machine only ever adds to it.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import ormsgpack
from ulid import ULID

from palyra_actors.domain.payload import Sealer, same_content
from palyra_actors.ids import Ulids, format_ulid, parse_ulid

ROUNDS = 5
PAYLOAD_BYTES = 256


def best_us(work: Callable[[], object], seconds: float) -> float:
    """µs a call, best of five rounds that take `seconds` together."""
    calls = 1
    while True:
        began = time.perf_counter()
        for _ in range(calls):
            work()
        if time.perf_counter() - began > seconds / ROUNDS / 4:
            break
        calls *= 2
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls * 4):
            work()
        best = min(best, (time.perf_counter() - began) / (calls * 4))
    return best * 1e6


def padded(body: dict[str, object], key: str) -> bytes:
    """`body` as 256 bytes of MessagePack, filled up with words under `key`."""
    missing = PAYLOAD_BYTES - len(ormsgpack.packb({**body, key: "x" * 40}))
    words = "the quick brown fox jumps over the lazy dog "
    return ormsgpack.packb({**body, key: (words * 8)[: 40 + missing]})


def payloads() -> dict[str, tuple[bytes, str]]:
    tool: dict[str, object] = {"tool": "search", "args": {"q": "actors", "limit": 10}, "n": [1, 2]}
    return {
        "plain": (padded(tool, "text"), "tool_executed"),
        "model_token": (padded({"index": 7}, "token"), "model_token"),
        "max_tokens": (padded({**tool, "max_tokens": 4096}, "text"), "tool_executed"),
        "secret_key": (padded({**tool, "api_key": "hunter2hunter2"}, "text"), "tool_executed"),
        "secret_text": (
            padded({**tool, "out": "curl -H 'Authorization: Bearer abcdef0123456789'"}, "text"),
            "tool_executed",
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.3, help="a result, about")
    seconds = parser.parse_args().seconds

    def report(case: str, work: Callable[[], object], operations: int = 1) -> None:
        us = best_us(work, seconds) / operations
        print(json.dumps({"bench": "codec", "case": case, "us_per_op": round(us, 3)}), flush=True)

    raw = os.urandom(16)
    text = format_ulid(raw)
    ulids = Ulids(lambda: time.time_ns() // 1_000_000, os.urandom)
    report("ulid_parse", lambda: parse_ulid(text))
    report("ulid_parse_python_ulid", lambda: ULID.from_str(text).bytes)
    report("ulid_format", lambda: format_ulid(raw))
    report("ulid_format_python_ulid", lambda: str(ULID.from_bytes(raw)))
    report("ulid_make", ulids)
    report("ulid_make_python_ulid", ULID)

    sealer = Sealer()
    for name, (payload, kind) in payloads().items():
        assert len(payload) == PAYLOAD_BYTES
        for count in (1, 64):
            report(
                f"seal_{name}_x{count}",
                lambda raws=[payload] * count, kinds=[kind] * count: sealer.seal(raws, kinds),
                count,
            )
    one = payloads()["plain"][0]
    other = ormsgpack.packb(dict(reversed(ormsgpack.unpackb(one).items())))
    report("same_content_other_order", lambda: same_content(one, other))


if __name__ == "__main__":
    main()
