"""An engine on a slow disk, for the control of the kill campaign; with `--early` it is a liar.

`--early` answers a group as stored before its COMMIT has begun. Whoever is told so and kills the
engine at once has to find events lost.
"""

import argparse
import signal
import threading
from typing import Any

import msgspec

from palyra_actors.actors import writer
from palyra_actors.actors.committer import Committed, Committer
from palyra_actors.actors.group import prepare_answers
from palyra_actors.engine import Engine


class SlowCommitter(Committer):
    """Every COMMIT takes `commit_s` seconds longer."""

    commit_s = 0.0
    early = False

    def begin(self, storage: Any, batch: Any, here: bool = False) -> bool:
        del storage, batch, here
        return False

    def commit(self, storage: Any) -> None:
        if self.early:
            self._answer_before_its_time()
        super().commit(storage)

    def commit_here(self, storage: Any) -> Committed:
        threading.Event().wait(self.commit_s)
        return super().commit_here(storage)

    def _answer_before_its_time(self) -> None:
        group = self._done.__self__._group  # type: ignore[attr-defined]
        prepare_answers(group)
        for unit, results in group.answers:
            unit.request.ok({"results": msgspec.Raw(results), "timing": {}})
        group.answers.clear()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--commit-ms", type=float, default=20.0)
    parser.add_argument("--early", action="store_true")
    options = parser.parse_args()
    SlowCommitter.commit_s, SlowCommitter.early = options.commit_ms / 1000, options.early
    writer.Committer = SlowCommitter  # type: ignore[attr-defined]
    writer.COMMIT_HERE = False  # type: ignore[misc]
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    with Engine.open(options.db) as engine:
        print(f"ready endpoint={engine.serve(options.endpoint)}", flush=True)  # noqa: T201
        leave.wait()


if __name__ == "__main__":
    main()
