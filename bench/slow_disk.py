"""An engine on a disk that is as slow as it is told to be: for `bench_disk.py`.

    python bench/slow_disk.py --db FILE --endpoint ipc://PATH

Each line on standard input is a number of milliseconds: how much longer than by itself every sync
of the write-ahead log takes from then on; `stall MS` makes the next one take that, once; `often
SHARE MS` lets one of so many, by chance, take that. What was asked of the disk is told at the end,
as a line of JSON.
"""

import argparse
import json
import random
import sys
import threading
import time

from palyra_actors.cli.serve import SWITCH_S, spare_the_collector
from palyra_actors.engine import Engine
from palyra_actors.testing.faults import FaultVFS, Operation

WRITERS = ("palyra-committer", "palyra-loop")


class Disk:
    """`groups_at_once`: how many of the writer's syncs were ever under way together; checkpoints,
    which sync the log as well, have a thread of their own.
    """

    def __init__(self) -> None:
        self.sync_ms = 0.0
        self.stall_ms = 0.0
        self.often, self.often_ms = 0.0, 0.0
        self._chance = random.Random(1)
        self.syncs = self.groups_at_once = self._now = 0

    def before(self, operation: Operation) -> None:
        if operation.action != "sync" or operation.kind != "wal":
            return
        group = threading.current_thread().name in WRITERS
        self.syncs += 1
        self._now += group
        self.groups_at_once = max(self.groups_at_once, self._now)
        wait_ms, self.stall_ms = self.sync_ms + self.stall_ms, 0.0
        if self.often and self._chance.random() < self.often:
            wait_ms += self.often_ms
        if wait_ms:
            time.sleep(wait_ms / 1000)
        self._now -= group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", required=True)
    parser.add_argument("--endpoint", required=True)
    options = parser.parse_args()
    disk, leave = Disk(), threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            words = line.split()
            if words[0] == "stall":
                disk.stall_ms = float(words[1])
            elif words[0] == "often":
                disk.often, disk.often_ms = float(words[1]), float(words[2])
            else:
                disk.sync_ms = float(words[0])
        leave.set()

    sys.setswitchinterval(SWITCH_S)
    with (
        FaultVFS("slow-disk", before=disk.before),
        Engine.open(options.db, vfs="slow-disk") as engine,
    ):
        print(f"ready {engine.serve(options.endpoint)}", flush=True)
        spare_the_collector()
        threading.Thread(target=listen, daemon=True).start()
        leave.wait()
        print(json.dumps({"syncs": disk.syncs, "groups_at_once": disk.groups_at_once}), flush=True)


if __name__ == "__main__":
    main()
