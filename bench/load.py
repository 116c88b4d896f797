"""What the benches share: an engine in a process of its own, load from this one, results as lines.

The load generator is a bare DEALER with frames that were encoded before the clock starts, so that
the machine's second core is spent on the engine and not on its client.
"""

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from palyra_actors.domain.chain import GENESIS
from palyra_actors.ids import Ulids, format_ulid

PAYLOAD = {"tool": "bash", "args": {"command": "ls -la src", "timeout": 30}, "output": "x" * 180}
"""About 256 bytes encoded, of the shape of a tool call."""

FIRST_ID = 1 << 24
"""The first id of a request, so that every id takes five bytes."""

RUN_EVENTS = 960
"""Events of a session before it goes on in another run: a tape holds 1,024 entries, and an append
that would open one more is refused, which is quick and no append."""


def emit(bench: str, **result: Any) -> None:
    """One JSON line per result."""
    print(json.dumps({"bench": bench, **result}), flush=True)


@contextmanager
def workspace(folder: str | None = None) -> Iterator[Path]:
    """A folder on a real disk, removed at the end. tmpfs would make every sync free."""
    with tempfile.TemporaryDirectory(prefix="palyra-bench-", dir=folder or os.getcwd()) as name:
        yield Path(name)


def touch_memory() -> None:
    """Use half of the memory that is free, and give it back. On a virtual machine the first to use
    a page waits for the host: that would be whoever writes files last, and not the other side."""
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, free_bytes // 2, flags=flags).close()


@contextmanager
def engine(folder: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`palyra-actors serve` on a new file in `folder`; its ipc endpoint and its process."""
    endpoint = f"ipc://{folder}/door"
    process = subprocess.Popen(
        [sys.executable, "-m", "palyra_actors.cli", "serve", "--db", str(folder / "bench.db"),
         "--endpoint", endpoint, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready "):
        raise RuntimeError(f"the engine did not start: {line!r}")
    try:
        yield endpoint, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def frames(
    count: int, events: int, sessions: int, seed: int = 1, budget_ms: int | None = None
) -> list[bytes]:
    """`count` appends of `events` each, over `sessions` sessions in turn; ids of requests rise."""
    rnd = random.Random(seed)
    now = time.time_ns() // 1_000_000
    ids = Ulids(lambda: time.time_ns() // 1_000_000, os.urandom)
    names = [format_ulid(ids()) for _ in range(sessions)]
    runs = [""] * sessions
    left = [0] * sessions
    encode = msgspec.msgpack.Encoder().encode
    made = []
    for number in range(count):
        place = number % sessions if sessions > 1 else 0
        if left[place] < events:
            runs[place], left[place] = format_ulid(ids()), RUN_EVENTS
        left[place] -= events
        session, run = names[place], runs[place]
        body = {
            "events": [
                {
                    "event_id": format_ulid(ids()), "session_id": session, "run_id": run,
                    "kind": "tool_executed", "actor": "agent", "ts_ms": now,
                    "payload": {**PAYLOAD, "n": rnd.randrange(1 << 30)},
                }
                for _ in range(events)
            ]
        }  # fmt: skip
        request: dict[str, Any] = {
            "v": 1,
            "id": FIRST_ID + number,
            "op": "journal.append",
            "body": body,
        }
        if budget_ms is not None:
            request["budget_ms"] = budget_ms
        made.append(encode(request))
    return made


def bare_groups(
    group: int, count: int, streams: int, stream_of: Callable[[int, int], int]
) -> list[Any]:
    """What a loop without an engine writes: rows, heads, marks, runs that begin and runs that go
    on, of each of `count` commits, as many of each as an engine writes for the same events.

    `stream_of(seq, place)` says to which stream, 1..`streams`, an event goes by its seq and its
    place in the commit. Ids rise in time and are random within it.
    """
    payload, now = os.urandom(256), time.time_ns() // 1_000_000
    numbers, last = [0] * (streams + 1), [0] * (streams + 1)
    runs, entries = [b""] * (streams + 1), [0] * (streams + 1)
    groups, seq = [], 0
    for _ in range(count):
        rows, heads, marks, begin, go_on = [], {}, [], [], {}
        for place in range(group):
            seq += 1
            stream = stream_of(seq, place)
            numbers[stream] += 1
            event_id = (now + seq // 30).to_bytes(6, "big") + os.urandom(10)
            link = seq - last[stream] if last[stream] else 0
            if not entries[stream] % RUN_EVENTS:
                run = runs[stream] = event_id[:6] + os.urandom(10)
                begin.append(
                    (run, stream, 1, numbers[stream], None, 1, 0, 0, None, None, 0, 0, now, None)
                )
                entries[stream] = 0
            run = runs[stream]
            entries[stream] += 1
            go_on[run] = (1, None, entries[stream], 0, None, 0, 0, None, run)
            rows.append(
                (seq, event_id, stream, numbers[stream], link, None, run, 4, 2, 1, now, now, 0,
                 None, payload, None, GENESIS)
            )  # fmt: skip
            last[stream] = seq
            heads[stream] = (stream, numbers[stream], seq)
            if numbers[stream] % 64 == 0:
                marks.append((stream, numbers[stream] // 64, seq))
        groups.append((rows, list(heads.values()), marks, begin, list(go_on.values())))
    return groups


class Load:
    """Closed loop: `window` requests in flight until the frames are used up or time is over."""

    def __init__(self, endpoint: str, context: zmq.Context[Any] | None = None) -> None:
        self.context = context or zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def close(self) -> None:
        self.socket.close()
        self.context.term()

    def run(self, made: list[bytes], window: int, seconds: float) -> dict[str, Any]:
        """Send and count. Latencies in milliseconds, from send to receive."""
        send, receive, now = self.socket.send, self.socket.recv, time.perf_counter
        sent_at: list[float] = [0.0] * len(made)
        base = int(msgspec.msgpack.decode(made[0])["id"])  # ids rise by one from frame to frame
        latencies: list[float] = []
        sent = done = refused = 0
        began = now()
        ends = began + seconds
        for _ in range(min(window, len(made))):
            sent_at[sent] = now()
            send(made[sent])
            sent += 1
        while done < sent:
            frame = receive()
            moment = now()
            latencies.append(moment - sent_at[reply_id(frame) - base])
            if b"\xa3err" in frame[:24]:
                refused += 1
            done += 1
            if sent < len(made) and moment < ends:
                sent_at[sent] = moment
                send(made[sent])
                sent += 1
        took = now() - began
        latencies.sort()
        return {
            "requests": done,
            "refused": refused,
            "seconds": took,
            "per_second": done / took,
            "p50_ms": latencies[len(latencies) // 2] * 1000,
            "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
            "max_ms": latencies[-1] * 1000,
        }


def reply_id(frame: bytes) -> int:
    """The id of a reply, without decoding it: five bytes behind `{"v": 1, "id":`."""
    if frame[:8] != b"\x83\xa1v\x01\xa2id\xce":
        raise RuntimeError(f"an answer to nothing: {frame[:40]!r}")
    return int.from_bytes(frame[8:12], "big")
