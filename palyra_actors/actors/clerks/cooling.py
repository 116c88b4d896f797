"""Heads that have not moved lately go to their place among all others.

    group, group, … ──4,096 heads moved──▶ a slice of those that moved long ago, by stream ──▶ …

A head that moves lies with the others that do (`warm_heads`), or an append to a stream anywhere in
a large file would change a page for it alone: at ten million events an append cost 1.9 times what
it costs in a small file, and the log was six times as long (`bench/bench_growth.py`). Here many go
to one page at once. It does not matter when: whoever asks for a stream's end looks at both.
"""

import logging
from typing import Final

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.slices import do_slice
from palyra_actors.actors.pace import Pace
from palyra_actors.errors import PalyraError

log = logging.getLogger(__name__)

WARM_MAX: Final = 4_096
"""Heads that stay together after a look: fifteen pages, and many more streams than one group
writes."""

LOOK_AFTER: Final = 4_096
"""Heads moved since the start or the last look, after which it is looked how many there are: so
many more may lie there by then, and as many again for each start that came before its first look.
"""

ROWS_FIRST: Final = 64
ROWS_MAX: Final = 1_024
"""Of a slice."""


class Cooling:
    """On the loop's thread."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._moved = 0
        self._under_way = False
        self._pace = Pace(ROWS_FIRST, ROWS_MAX)

    def moved(self, heads: int) -> None:
        """So many streams have another end since the group before."""
        self._moved += heads
        if self._moved >= LOOK_AFTER and not self._under_way:
            self._moved, self._under_way = 0, True
            self._slice()

    def _slice(self) -> None:
        rows = self._pace.size
        do_slice(self._counter, lambda storage: storage.cool(WARM_MAX, rows), self._done)

    def _done(self, left: int | PalyraError, seconds: float) -> None:
        if isinstance(left, PalyraError):
            log.warning("heads could not be put in their place yet: %s", left)
            left = 0
        self._under_way = left > 0
        if left:
            self._pace.took(seconds)
            self._slice()
