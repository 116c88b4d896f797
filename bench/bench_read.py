"""How fast is what was written read again?

A file of many events is filled: one session of 10,000 (every hundredth event) and one of the rest
(fewer than 1,000,000: --events). Then, over ipc, one client reads

    page        pages of 100 and of 1,000 events (raw payloads) of the long and the short session
    recent      the last 100 events, from memory
    verify      the whole chain
    subscribe   from seq 0 to the head, credit given back as events come

    python bench/bench_read.py [--events 1000000] [--seconds 5] [--dir DIR]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load import PAYLOAD, emit, engine, workspace

from palyra_actors.api.events import Event, new_id
from palyra_actors.client import Client
from palyra_actors.engine import Engine

SHORT_EVERY = 100
SHORT_EVENTS_MAX = 10_000
TIMEOUT_S = 120.0
CREDIT = 4_000


def fill(path: Path, events: int) -> tuple[str, str]:
    """The long session and the short one."""
    long, short = new_id(), new_id()
    with Engine.open(path) as filling:
        filling.append_many(
            (
                Event(
                    short if n % SHORT_EVERY == 0 and n // SHORT_EVERY < SHORT_EVENTS_MAX else long,
                    "tool_executed",
                    {**PAYLOAD, "n": n},
                )
                for n in range(events)
            ),
            events_max=1024,
        )
    return long, short


def repeated(call: Callable[[], int], seconds: float) -> dict[str, float]:
    """`call` answers how many events it read, and is called until the time is over."""
    took, read = [], 0
    ends = time.perf_counter() + seconds
    while (began := time.perf_counter()) < ends:
        read += call()
        took.append(time.perf_counter() - began)
    took.sort()
    return {
        "events_per_second": round(read / sum(took)),
        "p50_ms": round(statistics.median(took) * 1000, 2),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 2),
        "calls": len(took),
    }


def pages(client: Client, session: str, limit: int, raw: bool) -> Callable[[], int]:
    """Reads the session's next page, and from its beginning again after the last one."""
    after = 0

    def read() -> int:
        nonlocal after
        body = {"session_id": session, "after_seq": after, "limit": limit, "raw": raw}
        page = client.call("journal.read", body, timeout_s=TIMEOUT_S)
        after = 0 if page["end"] else page["next_after_seq"]
        return len(page["events"])

    return read


def subscribed(client: Client, head_seq: int) -> dict[str, Any]:
    read = 0
    began = time.perf_counter()
    with client.subscribe(after_seq=0, credit=CREDIT) as events:
        for event in events:
            read += 1
            if event.seq == head_seq:
                break
    took = time.perf_counter() - began
    return {"events": read, "events_per_second": round(read / took)}


def measure(folder: Path, events: int, seconds: float) -> None:
    long, short = fill(folder / "bench.db", events)
    common = {"events": events, "python": sys.version.split()[0]}
    with engine(folder) as (endpoint, _), Client(endpoint, timeout_s=TIMEOUT_S) as client:
        for name, session in (("long", long), ("short", short)):
            for limit in (100, 1000):
                result = repeated(pages(client, session, limit, True), seconds)
                emit("read", what="page", session=name, limit=limit, **result, **common)
        result = repeated(lambda: len(client.call("journal.recent", {"limit": 100})["events"]), 2)
        emit("read", what="recent", limit=100, **result, **common)
        began = time.perf_counter()
        verified = client.verify(timeout_s=TIMEOUT_S)
        took = time.perf_counter() - began
        if not verified.valid or verified.checked != events:
            raise RuntimeError(f"{verified}")
        rate = round(verified.checked / took)
        emit("read", what="verify", events_per_second=rate, seconds=round(took, 2), **common)
        emit("read", what="subscribe", **{**common, **subscribed(client, events)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each kind of page")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    with workspace(options.dir) as folder:
        measure(folder, options.events, options.seconds)


if __name__ == "__main__":
    main()
