"""What is due by a time of its own: looked for every second, and when told, and decided.

look ──rows that are due──▶ a command each ──all answered──▶ look, if there may be more
                                            └─ none could be written: in a second again
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from palyra_actors.actors.clerks.counter import Counter, Witness
from palyra_actors.errors import PalyraError

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
"""How often it is looked: this finds what came due while the engine was down or the clock was
set."""

DUE_AT_ONCE: Final = 64

Due: TypeAlias = Callable[[Sequence[Any]], tuple[str, Witness]]
"""A row's owner, in whose name it is decided, and the entity with its command."""


class Sweeper:
    """Lives in the loop's thread, from the engine's start on.

    Args:
        statement: finds rows that are due, of a time and how many at most.
        what: of which one cannot be decided, for the log.
    """

    def __init__(self, counter: Counter, statement: str, due: Due, what: str) -> None:
        self._counter = counter
        self._statement = statement
        self._due = due
        self._what = what
        counter.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self.look()
        self._counter.call_later(SWEEP_S, self._go_on)

    def look(self) -> None:
        """Have all decided that is due now, some at a time."""
        counter = self._counter
        try:
            rows = counter.reader.rows(self._statement, (counter.now_ms(), DUE_AT_ONCE))
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("what is due could not be read (%s): %s", self._statement, error)
            return
        left, decided = len(rows), 0

        def done(answer: Mapping[str, Any] | PalyraError) -> None:
            nonlocal left, decided
            left -= 1
            if isinstance(answer, PalyraError):
                log.warning("%s: %s", self._what, answer)
            else:
                decided += 1
            if not left and decided and len(rows) == DUE_AT_ONCE:
                counter.loop.call_soon(self.look)

        for row in rows:
            owner, one = self._due(row)
            counter.internal(owner, one.kind, one.entity_id, one.command, done)
