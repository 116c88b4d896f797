"""Does upkeep cost writes their budget?

An open load of appends at a share of the measured capacity, while one thing after the other goes on
beside it; between them the same load alone. A line each:

    alone       nothing else
    reader      a foreign process holds one snapshot of the file open the whole time
    pages       a client reads long sessions page after page
    verify      a client has the chain recomputed again and again
    backup      online backups, one after the other
    erase       sessions are erased, one after the other
    all         all of it at once

Checkpoints run all the time. `wal_mib_max` is the largest the write-ahead log was meanwhile, and
`wal_mib_cap` the size at which writes would be refused. `backups` says of each how long it
took, and held the write-ahead log, or why it gave up.

    python bench/bench_upkeep.py [--seconds 5] [--share 1.0] [--fill 4] [--part backup --part all]
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from load import emit, engine, workspace
from openloop import OpenLoop, be_nice, capacity

from palyra_actors.api.events import Event, new_id
from palyra_actors.client import Client
from palyra_actors.errors import PalyraError

ERASED_EVENTS = 64
FILL_S = 4.0
PARTS = ("alone", "reader", "pages", "verify", "backup", "erase", "all")


class Upkeep:
    """What goes on beside the load. `done` counts the pieces of work that came to an end."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.done = 0
        self.trouble = ""
        self.backups: list[dict[str, Any]] = []

    @contextmanager
    def going(self, part: str) -> Iterator[None]:
        self.done, self.trouble, self.backups = 0, "", []
        names, leave = [name for name in PARTS[2:-1] if part in (name, "all")], threading.Event()
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(self._again(getattr(self, f"_{name}"), leave))
            if part in ("reader", "all"):  # leaves first: an erasure waits for it
                stack.enter_context(self._reader())
            stack.callback(leave.set)
            yield

    @contextmanager
    def _reader(self) -> Iterator[None]:
        connection = sqlite3.connect(f"file:{self.folder}/bench.db?mode=ro", uri=True)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        try:
            yield
        finally:
            connection.close()

    @contextmanager
    def _again(self, work: Callable[[Client], None], leave: threading.Event) -> Iterator[None]:
        def run() -> None:
            with Client(self.endpoint, timeout_s=20) as client:
                while not leave.is_set():
                    try:
                        work(client)
                        self.done += 1
                    except (PalyraError, sqlite3.Error, subprocess.SubprocessError) as error:
                        self.trouble = f"{type(error).__name__}: {error}"[:120]
                        time.sleep(0.1)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            leave.set()  # where another one could not begin
            thread.join()

    def _pages(self, client: Client) -> None:
        page = client.read(limit=500, after_seq=self.done * 500 % 50_000)
        assert page.events

    def _verify(self, client: Client) -> None:
        head = client.head().seq
        assert client.verify(from_seq=max(1, head - 20_000), to_seq=head).valid

    def _backup(self, client: Client) -> None:
        del client
        target = self.folder / "copy" / "bench.db"
        target.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "palyra_actors.cli", "backup", "--to", str(target)]
        began = time.monotonic()
        command += ["--db", str(self.folder / "bench.db"), "--json"]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        shutil.rmtree(target.parent)
        seconds = round(time.monotonic() - began, 1)
        if made.returncode:
            why = made.stderr.strip()[:80]
            self.backups.append({"seconds": seconds, "gave_up": why})
            raise subprocess.SubprocessError(why)
        done = json.loads(made.stdout)
        self.backups.append(
            {
                "seconds": seconds,
                "mib": round(done["pages"] / 256),
                "held_seconds": round(done.get("held_seconds", 0), 2),
            }
        )

    def _erase(self, client: Client) -> None:
        session = new_id()
        client.append(
            [Event(session, "x.bench", {"text": "x" * 200}) for _ in range(ERASED_EVENTS)]
        )
        client.call("session.erase", {"session_id": session})


def measure(
    folder: Path, parts: Sequence[str], share: float, seconds: float, fill_s: float
) -> None:
    with engine(folder) as (endpoint, _):
        be_nice()
        load = OpenLoop(endpoint)
        capacity(load, 256, fill_s)
        most = capacity(load, 256, 2.0)
        upkeep = Upkeep(folder, endpoint)
        with Client(endpoint) as client:
            cap = client.stats().number("wal_bytes_max")
        for part in parts:
            sizes: list[int] = []
            with upkeep.going(part), wal_watched(folder, sizes):
                outcome = load.run(most * share, seconds)
            result: dict[str, Any] = outcome.summary()
            emit(
                "upkeep",
                part=part,
                share=share,
                **result,
                done=upkeep.done,
                trouble=upkeep.trouble,
                backups=upkeep.backups,
                wal_mib_max=round(max(sizes) / (1 << 20), 1),
                wal_mib_cap=round(cap / (1 << 20)),
                seconds=seconds,
                python=sys.version.split()[0],
            )
            load.run(most * 0.3, 1.0)
        load.close()


@contextmanager
def wal_watched(folder: Path, sizes: list[int]) -> Iterator[None]:
    leave = threading.Event()

    def look() -> None:
        while True:
            with suppress(OSError):
                sizes.append(os.stat(folder / "bench.db-wal").st_size)
            if leave.wait(0.02):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each part")
    parser.add_argument("--share", type=float, default=1.0, help="of the measured capacity")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these; in that order")
    parser.add_argument("--fill", type=float, default=FILL_S, help="seconds of writes before")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    with workspace(options.dir) as folder:
        measure(folder, options.part or PARTS, options.share, options.seconds, options.fill)


if __name__ == "__main__":
    main()
