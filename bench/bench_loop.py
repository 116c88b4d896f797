"""What does the loop take of a processor for an append, without a client and without a disk?

Frames are handed to the desk in the engine's own process, as many as are in flight in
`bench_append.py`, and the loop's processor time is read when all are answered; `synchronous=off`.
The least of the rounds is what it takes undisturbed: other work on the machine moves it little. The
collector is spared as `palyra-actors serve` does; what it takes of a process that does not comes
on top.

    python bench/bench_loop.py [--rounds 150] [--shape singles|batches]
"""

import argparse
import threading
from pathlib import Path

from load import emit, frames, workspace

from palyra_actors.cli.serve import spare_the_collector
from palyra_actors.config import Config
from palyra_actors.engine import Engine

SHAPES = {"singles": (256, 1, 256), "batches": (8, 64, 8)}


class Peer:
    """Counts its answers."""

    principal = "local"
    role = "admin"

    def __init__(self) -> None:
        self.under_way = self.backlog_bytes = self.answers = self.refused = self.wanted = 0
        self.done = threading.Event()

    def send(self, frame: bytes) -> None:
        self.answers += 1
        self.refused += b"\xa3err" in frame[:24]
        if self.answers == self.wanted:
            self.done.set()


def processor_ns(thread: int) -> int:
    """What a thread of ours has taken of the processors so far."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])


def measure(shape: str, rounds: int, where: str | None) -> None:
    window, events, sessions = SHAPES[shape]
    made = frames(window * (rounds + 1), events, sessions)
    config = Config().replaced("budget", write_ms=0).replaced("storage", synchronous="off")
    with workspace(where) as folder, Engine.open(folder / "journal.db", config) as engine:
        works, peer = engine._works, Peer()
        thread = works.loop._thread.native_id
        spare_the_collector()
        took = []
        for begin in range(0, len(made), window):
            batch = [(peer, frame) for frame in made[begin : begin + window]]
            peer.done.clear()
            peer.wanted = peer.answers + window
            before = processor_ns(thread)
            works.loop.call_soon(lambda batch=batch: works.desk.serve(batch))
            if not peer.done.wait(30):
                raise RuntimeError("a round was not answered")
            took.append((processor_ns(thread) - before) / 1000 / window / events)
    took = sorted(took[1:])  # the first one wakes the sessions
    emit(
        "loop", shape=shape, us_per_event_least=round(took[0], 2),
        us_per_event_p50=round(took[len(took) // 2], 2), refused=peer.refused, rounds=rounds,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    for shape in SHAPES if options.shape == "all" else [options.shape]:
        measure(shape, options.rounds, options.dir)


if __name__ == "__main__":
    main()
