"""What do connections that behave badly cost the others?

ignoring  100 clients that send again at once whatever they were told, each with 16 in flight:
          goodput against that of the same with 2 in flight, of which few are refused, in turns
          (and against 256 in flight over 16 connections), and the engine's memory and queues
deaf      8 clients that ask for large replies and never read one, beside polite appends: the
          p99 of the polite ones, alone and beside, in turns
greedy    one connection that sends three times the capacity, beside ten polite ones: how many of
          theirs are refused, and their p99, alone and beside, in turns

python bench/bench_flood.py [--seconds 4] [--rounds 3] [--part ignoring|deaf|greedy]
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import msgspec
import psutil
from load import emit, engine, workspace
from openloop import OK, REFUSED, Connection, OpenLoop, at, be_nice, capacity

from palyra_actors.api.events import new_id
from palyra_actors.client import Client

IGNORING, IN_FLIGHT, IN_ROOM = 100, 16, 2
ASKERS, ASK_EVERY_S = 8, 0.2
PAGE_EVENTS, PAGE_EVENT_BYTES = 8, 32 * 1024
PEER_REPLY_BYTES_MAX = 4 * 1024 * 1024
"""A page is a quarter of a MiB and the door's cap is at its least: who does not read is cut within
four seconds, and comes again."""

POLITE_PER_SECOND = 1_000.0
GREEDY = 3.0


def memory_mib(process: subprocess.Popen[str]) -> float:
    return round(psutil.Process(process.pid).memory_info().rss / (1 << 20), 1)


def ignoring(endpoint: str, process: subprocess.Popen[str], seconds: float, rounds: int) -> None:
    few = OpenLoop(endpoint)
    capacity(few, 256, 1.0)
    with_few, mib = capacity(few, 256, seconds), memory_mib(process)
    few.close()
    crowd = OpenLoop(endpoint, connections=IGNORING)
    capacity(crowd, IGNORING * IN_ROOM, 1.0)
    queues: list[float] = []
    mibs: list[float] = []
    leave = threading.Event()

    def look() -> None:
        with Client(endpoint) as client:
            while not leave.wait(0.25):
                stats = client.stats()
                queues.append(stats.queue_depth + stats.number("admission", "lobby"))
                mibs.append(memory_mib(process))

    polite: list[float] = []
    goodput: list[float] = []
    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(rounds):
        polite.append(capacity(crowd, IGNORING * IN_ROOM, seconds))
        goodput.append(capacity(crowd, IGNORING * IN_FLIGHT, seconds))
    leave.set()
    watcher.join()
    crowd.close()
    half = len(mibs) // 2
    kept, before = statistics.median(goodput), statistics.median(polite)
    emit(
        "flood",
        part="ignoring",
        clients=IGNORING,
        in_flight=IGNORING * IN_FLIGHT,
        goodput_per_second=round(kept),
        within_room_per_second=round(before),
        ratio=round(kept / before, 3),
        with_few_clients_per_second=round(with_few),
        ratio_to_few=round(kept / with_few, 3),
        rss_mib_before=mib,
        rss_mib_first_half=statistics.mean(mibs[:half]),
        rss_mib_second_half=statistics.mean(mibs[half:]),
        waiting_max=max(queues),
        waiting_mean_first_half=round(statistics.mean(queues[:half]), 1),
        waiting_mean_second_half=round(statistics.mean(queues[half:]), 1),
        rounds=rounds,
        seconds=seconds,
        python=sys.version.split()[0],
    )


def large_page(endpoint: str) -> str:
    """A session whose events make a page that is worth not reading."""
    with Client(endpoint) as client:
        session = client.sessions.open(new_id())
        for _ in range(PAGE_EVENTS):
            session.append("message_received", {"text": "x" * PAGE_EVENT_BYTES}, budget_ms=0)
        return session.session_id


@contextmanager
def askers(endpoint: str, session: str, reads: bool) -> Iterator[None]:
    """Clients that ask for pages of events, and read them or do not; who is cut comes again."""
    body = {"session_id": session, "limit": PAGE_EVENTS}
    ask = msgspec.msgpack.encode({"v": 1, "id": 1, "op": "journal.read", "body": body})
    frame = bytes((0, len(ask))) + ask
    connections = [Connection(endpoint, receive_bytes=8 * 1024) for _ in range(ASKERS)]
    leave = threading.Event()

    def talk() -> None:
        while not leave.is_set():
            for place, one in enumerate(connections):
                if one.closed:
                    one.close()
                    connections[place] = Connection(endpoint, receive_bytes=8 * 1024)
                elif not one.out_bytes:
                    one.send(frame)
                one.flush()
                while reads and one.receive():
                    pass
                leave.wait(ASK_EVERY_S / ASKERS)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        yield
    finally:
        leave.set()
        talker.join()
        for one in connections:
            one.close()


@contextmanager
def greedy(endpoint: str, rate: float, seconds: float) -> Iterator[None]:
    """One connection that sends so many a second, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--as-greedy", endpoint, "--rate", str(rate),
         "--seconds", str(seconds)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    try:
        yield
    finally:
        process.communicate()


def compare(  # noqa: PLR0917
    part: str, endpoint: str, process: subprocess.Popen[str], seconds: float, rounds: int,
    most: float,
) -> None:  # fmt: skip
    session = large_page(endpoint)
    polite = OpenLoop(endpoint, connections=10)
    polite.run(POLITE_PER_SECOND, 1.0)
    alone: list[Any] = []
    beside: list[Any] = []
    for _ in range(rounds):
        with askers(endpoint, session, reads=True) if part == "deaf" else nullcontext():
            alone.append(polite.run(POLITE_PER_SECOND, seconds))
        with (
            askers(endpoint, session, reads=False)
            if part == "deaf"
            else greedy(endpoint, GREEDY * most, seconds + 1)
        ):
            beside.append(polite.run(POLITE_PER_SECOND, seconds))
    polite.close()

    def middle(outcomes: list[Any], what: str, share: float) -> float:
        values = [
            at(one.latency_ms(OK), share) if what == "client" else one.summary()[what]
            for one in outcomes
        ]
        return round(statistics.median(value or 0.0 for value in values), 3)

    with Client(endpoint) as client:
        stats = client.stats()
    p99_alone = middle(alone, "accepted_p99_ms", 0.99)
    p99_beside = middle(beside, "accepted_p99_ms", 0.99)
    emit(
        "flood",
        part=part,
        polite_per_second=POLITE_PER_SECOND,
        accepted_p99_ms_alone=p99_alone,
        accepted_p99_ms_beside=p99_beside,
        ratio=round(p99_beside / p99_alone, 3),
        client_ratio=round(middle(beside, "client", 0.99) / middle(alone, "client", 0.99), 3),
        client_p50_ms_alone=middle(alone, "client", 0.5),
        client_p50_ms_beside=middle(beside, "client", 0.5),
        client_p99_ms_alone=middle(alone, "client", 0.99),
        client_p99_ms_beside=middle(beside, "client", 0.99),
        polite_refused_alone=sum(int((one.code == REFUSED).sum()) for one in alone),
        polite_refused_beside=sum(int((one.code == REFUSED).sum()) for one in beside),
        polite=sum(len(one.code) for one in beside),
        peers_cut=int(stats.number("peers_cut")),
        backlog_bytes=int(stats.number("backlog_bytes")),
        rss_mib=memory_mib(process),
        rounds=rounds,
        seconds=seconds,
        python=sys.version.split()[0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3, help="with, and as many without")
    parser.add_argument("--part", choices=["ignoring", "deaf", "greedy", "all"], default="all")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    parser.add_argument("--as-greedy", metavar="ENDPOINT", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_greedy:
        load = OpenLoop(options.as_greedy, connections=1, sessions=64)
        print("ready", flush=True)
        load.run(options.rate, options.seconds)
        return
    if options.part == "all":  # each in a process of its own: its engine must not be nice, too
        for part in ("ignoring", "deaf", "greedy"):
            subprocess.run([sys.executable, *sys.argv, "--part", part], check=True)
        return
    with workspace(options.dir) as folder:
        config = folder / "engine.toml"
        config.write_text(f"[door]\npeer_reply_bytes_max = {PEER_REPLY_BYTES_MAX}\n")
        with engine(folder, "--config", str(config)) as (endpoint, process):
            run(options.part, endpoint, process, options.seconds, options.rounds)


def run(
    part: str, endpoint: str, process: subprocess.Popen[str], seconds: float, rounds: int
) -> None:
    be_nice()
    if part == "ignoring":
        ignoring(endpoint, process, seconds, rounds)
        return
    load = OpenLoop(endpoint)
    capacity(load, 256, 1.0)
    most = capacity(load, 256, 1.5)
    load.close()
    compare(part, endpoint, process, seconds, rounds, most)


if __name__ == "__main__":
    main()
