"""Engines that break a promise on purpose: what never fails proves nothing.

live(seed, broken="ack_before_commit")     # some seed has to raise
"""

from collections.abc import Callable
from typing import Any, Final

from palyra_actors.engine import Works
from palyra_actors.storage.port import Batch

Break = Callable[[Works], None]

SYNCHRONOUS: Final = {"skip_fsync": "off", "sync_at_checkpoints": "normal"}
"""Breaks that are a setting: what a COMMIT waits for."""


class _Around:
    """The writer's storage, but for what a subclass does otherwise."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Hasty(_Around):
    """COMMIT returns before it has begun; it is done before whatever comes next."""

    _due = False

    def commit(self) -> None:
        self._due = True

    def __getattr__(self, name: str) -> Any:
        if self._due:
            self._due = False
            self._real.commit()
        return super().__getattr__(name)


class _Careless(_Around):
    """Leaves out what changes of a run's row."""

    def stage(self, batch: Batch) -> None:
        batch.run_ends = []
        batch.changes = [change for change in batch.changes if change[0] != "run.update"]
        self._real.stage(batch)


def _ack_before_commit(works: Works) -> None:
    works.writer._storage = _Hasty(works.writer._storage)


def _forget_ids(works: Works) -> None:
    storage: Any = works.writer._storage
    storage._connection.execute("DROP INDEX IF EXISTS events_by_id")


def _forget_rows(works: Works) -> None:
    works.writer._storage = _Careless(works.writer._storage)


def _answer_twice(works: Works) -> None:
    serve = works.desk.serve

    def twice(arrivals: Any, *more: Any) -> None:
        serve([*arrivals, *arrivals[:1]], *more)

    works.desk.serve = twice  # type: ignore[method-assign, assignment]


TAMPERS: Final[dict[str, Break]] = {
    "ack_before_commit": _ack_before_commit,
    "forget_ids": _forget_ids,
    "forget_rows": _forget_rows,
    "answer_twice": _answer_twice,
}
BREAKS: Final = (*SYNCHRONOUS, *TAMPERS)
