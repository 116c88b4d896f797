"""What else could keep an agent's events, and what does it do a second on this machine?

    one      one event in flight
    singles  256 events in flight, each written for itself (64 connections for PostgreSQL)
    batches  8 requests of 64 events in flight, each atomic

of about 256 bytes, against what a user would take otherwise. Servers are loaded over unix sockets
from another process; libraries run in the process that measures, one call after the other, for that
is how they are used, so they have `one` and `batches` only. `durable_at_ack`: whether what was
acknowledged is on the disk by then, as it was configured here: Redis with `appendfsync always`, and
besides with its default of `everysec`; PostgreSQL with its defaults; libraries on SQLite as they
come, by what `PRAGMA synchronous` says on a connection of their file.

A peer that is not installed is skipped with a reason: redis-server and PostgreSQL (with pgbench)
come from the system's packages, the libraries by `pip install -e '.[peers]'`.

    python bench/bench_peers.py [--seconds 4] [--rounds 3] [--peer redis …]
"""

import argparse
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from load import PAYLOAD, emit, engine, workspace
from openloop import OpenLoop, capacity

SHAPES = {"one": (1, 1), "singles": (256, 1), "batches": (8, 64)}
TEXT = repr(PAYLOAD)
POSTGRES_CLIENTS = {"one": 1, "singles": 64, "batches": 8}
SYNCHRONOUS_FULL = 2


class Skipped(Exception):
    """The peer is not here; why."""


Peer = Callable[[Path, float], Iterator[tuple[str, float]]]
"""Yields shape and events a second."""


def ours(folder: Path, seconds: float) -> Iterator[tuple[str, float]]:
    for shape, (window, events) in SHAPES.items():
        home = folder / shape
        home.mkdir()
        with engine(home) as (endpoint, _):
            count = min(16, window)
            load = OpenLoop(endpoint, connections=count, events=events, sessions=window)
            capacity(load, window, 0.5)
            yield shape, capacity(load, window, seconds) * events
            load.close()


# -- servers --------------------------------------------------------------------------------------


def redis(folder: Path, seconds: float, fsync: str) -> Iterator[tuple[str, float]]:
    program = shutil.which("redis-server")
    if program is None:
        raise Skipped("redis-server is not installed")
    path = f"{folder}/redis.sock"
    process = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", path, "--appendonly", "yes", "--appendfsync",
         fsync, "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(path)
        for shape, (window, events) in SHAPES.items():
            yield shape, redis_load(path, window, events, seconds)
    finally:
        process.terminate()
        process.wait(30)


def redis_load(path: str, window: int, events: int, seconds: float) -> float:
    """Streams of `XADD`s over raw sockets; several events are one MULTI … EXEC."""
    import select

    def command(*words: str) -> bytes:
        parts = [f"*{len(words)}\r\n".encode()]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words]
        return b"".join(parts)

    connections, poller = [], select.poll()
    for number in range(min(16, window)):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        one.setblocking(False)
        poller.register(one, select.POLLIN)
        add = command("XADD", f"s{number}", "*", "kind", "tool_executed", "payload", TEXT)
        made = add if events == 1 else command("MULTI") + add * events + command("EXEC")
        connections.append((one, made))
    by_descriptor = {one.fileno(): (one, made) for one, made in connections}
    # the answers of a request hold this many lines that begin with "$" (the new ids)
    share, done, ids = window // len(connections), 0, dict.fromkeys(by_descriptor, 0)
    for one, made in connections:
        one.setblocking(True)
        one.sendall(made * share)
        one.setblocking(False)
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for descriptor, _ in poller.poll(100):
            one, made = by_descriptor[descriptor]
            ids[descriptor] += one.recv(1 << 18).count(b"$")
            finished, ids[descriptor] = divmod(ids[descriptor], events)
            done += finished
            if finished:
                one.setblocking(True)
                one.sendall(made * finished)
                one.setblocking(False)
    for one, _ in connections:
        one.close()
    return done * events / took


def postgres(folder: Path, seconds: float) -> Iterator[tuple[str, float]]:
    programs = {name: shutil.which(name) for name in ("initdb", "postgres", "pgbench", "psql")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # it does not run as root
        user = {"user": "nobody"}
        shutil.chown(folder, "nobody")
        for above in [folder, *folder.parents][:2]:
            above.chmod(above.stat().st_mode | 0o011)
    data, quiet = folder / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [programs["initdb"], "-D", data, "-U", "bench", "-A", "trust"], check=True, **quiet, **user
    )
    process = subprocess.Popen(
        [programs["postgres"], "-D", data, "-k", folder, "-c", "listen_addresses=", "-c",
         "max_connections=100"],
        **quiet, **user,
    )  # fmt: skip
    try:
        wait_for(f"{folder}/.s.PGSQL.5432")
        reach = ["-h", str(folder), "-U", "bench"]
        table = (
            "CREATE TABLE events (seq bigserial PRIMARY KEY, event_id uuid UNIQUE,"
            " session_id int, kind text, payload text, at timestamptz DEFAULT now())"
        )
        until_ready([programs["psql"], *reach, "-d", "postgres", "-c", table])
        for shape, (_, events) in SHAPES.items():
            script = folder / f"{shape}.sql"
            script.write_text(
                "\\set session random(1, 256)\n"
                "INSERT INTO events (event_id, session_id, kind, payload) SELECT"
                f" gen_random_uuid(), :session, 'tool_executed', $${TEXT}$$"
                f" FROM generate_series(1, {events});\n"
            )
            script.chmod(0o644)
            clients = POSTGRES_CLIENTS[shape]
            ran = subprocess.run(
                [programs["pgbench"], *reach, "-n", "-c", str(clients), "-j", "1", "-M",
                 "prepared", "-T", str(max(1, round(seconds))), "-f", script, "postgres"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            line = next(line for line in ran.stdout.splitlines() if line.startswith("tps"))
            yield shape, float(line.split()[2]) * events
    finally:
        process.terminate()
        process.wait(30)


def wait_for(path: str) -> None:
    ends = time.monotonic() + 20
    while not os.path.exists(path):
        if time.monotonic() > ends:
            raise Skipped(f"it did not start: there is no {path}")
        time.sleep(0.05)
    time.sleep(0.2)


def until_ready(command: list[Any]) -> None:
    for _ in range(100):
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            return
        time.sleep(0.1)
    raise Skipped("it did not answer")


# -- libraries ------------------------------------------------------------------------------------


def timed(seconds: float, events: int, write: Callable[[], None]) -> float:
    write()
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        write()
        done += 1
    return done * events / took


def eventsourcing(folder: Path, seconds: float) -> Iterator[tuple[str, float]]:
    try:
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore
    except ImportError as error:
        raise Skipped(str(error)) from None
    store = SQLiteDatastore(str(folder / "eventsourcing.db"))
    recorder = SQLiteApplicationRecorder(store)
    recorder.create_table()
    state, origin, version = TEXT.encode(), uuid.uuid4(), 0

    def write(events: int) -> None:
        nonlocal version
        recorder.insert_events(
            [StoredEvent(origin, version + n, "tool_executed", state) for n in range(events)]
        )
        version += events

    yield "one", timed(seconds, 1, lambda: write(1))
    yield "batches", timed(seconds, 64, lambda: write(64))
    store.close()


def langgraph(folder: Path, seconds: float) -> Iterator[tuple[str, float]]:
    try:
        from langgraph.checkpoint.base import empty_checkpoint
        from langgraph.checkpoint.sqlite import SqliteSaver
    except ImportError as error:
        raise Skipped(str(error)) from None
    with SqliteSaver.from_conn_string(str(folder / "langgraph.db")) as saver:

        def write() -> None:
            checkpoint = empty_checkpoint()
            checkpoint["channel_values"] = {"event": PAYLOAD}
            config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            saver.put(config, checkpoint, {"source": "loop", "step": 1, "parents": {}}, {})

        yield "one", timed(seconds, 1, write)


def openai_agents(folder: Path, seconds: float) -> Iterator[tuple[str, float]]:
    try:
        from agents import SQLiteSession
    except ImportError as error:
        raise Skipped(str(error)) from None
    import asyncio

    session = SQLiteSession("s", folder / "agents.db")
    item = {"role": "assistant", "content": TEXT}
    with asyncio.Runner() as runner:
        yield "one", timed(seconds, 1, lambda: runner.run(session.add_items([item])))
        yield "batches", timed(seconds, 64, lambda: runner.run(session.add_items([item] * 64)))
    session.close()


def synchronous_of(folder: Path) -> bool | None:
    """Whether the SQLite file that a library left is synced at each commit by default."""
    for path in folder.glob("*.db"):
        connection = sqlite3.connect(path)
        try:
            level: int = connection.execute("PRAGMA synchronous").fetchone()[0]
            return level >= SYNCHRONOUS_FULL
        finally:
            connection.close()
    return None


PEERS: dict[str, tuple[Peer, bool | None]] = {
    "palyra_actors": (ours, True),
    "redis streams, appendfsync always": (lambda f, s: redis(f, s, "always"), True),
    "redis streams, appendfsync everysec": (lambda f, s: redis(f, s, "everysec"), False),
    "postgresql": (postgres, True),
    "eventsourcing (sqlite)": (eventsourcing, None),
    "langgraph SqliteSaver": (langgraph, None),
    "openai-agents SQLiteSession": (openai_agents, None),
}


@contextmanager
def home_of(folder: Path, name: str, number: int) -> Iterator[Path]:
    home = folder / f"{number}-{name.split(maxsplit=1)[0]}-{abs(hash(name)) % 1000}"
    home.mkdir()
    yield home
    shutil.rmtree(home, ignore_errors=True)


def measure(folder: Path, names: list[str], seconds: float, rounds: int) -> None:
    found: dict[tuple[str, str], list[float]] = {}
    durable: dict[str, bool | None] = {}
    skipped: dict[str, str] = {}
    for number in range(rounds):
        for name in names:
            if name in skipped:
                continue
            peer, durable[name] = PEERS[name][0], PEERS[name][1] or durable.get(name)
            with ExitStack() as stack:
                home = stack.enter_context(home_of(folder, name, number))
                try:
                    for shape, rate in peer(home, seconds):
                        found.setdefault((name, shape), []).append(rate)
                except Skipped as reason:
                    skipped[name] = str(reason)
                if PEERS[name][1] is None:
                    durable[name] = synchronous_of(home)
                elif PEERS[name][1] is False:
                    durable[name] = False
    for name in names:
        if name in skipped:
            emit("peers", peer=name, skipped=skipped[name])
        for shape in SHAPES:
            if (name, shape) not in found:
                continue
            rate = statistics.median(found[name, shape])
            mine = found.get(("palyra_actors", shape))
            emit(
                "peers",
                peer=name,
                shape=shape,
                events_per_second=round(rate),
                ours_to_it=round(statistics.median(mine) / rate, 3) if mine else None,
                durable_at_ack=durable[name],
                each=[round(one) for one in found[name, shape]],
                rounds=rounds,
                seconds=seconds,
                python=sys.version.split()[0],
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="append", help="a part of a name; repeatable")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    wanted = options.peer or [""]
    names = [
        name for name in PEERS if name == "palyra_actors" or any(part in name for part in wanted)
    ]
    with workspace(options.dir) as folder:
        measure(folder, names, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
