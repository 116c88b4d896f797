"""Groups written beside the interpreter: staged and committed by a thread of C (`_swift_store.c`).

    begin(steps) ──▶ its thread: BEGIN, every row, COMMIT ──▶ the bell rings ──▶ ended()

One group at a time, in the connection that it was made for, which nobody else touches meanwhile.
Without a compiler there is none, and groups are staged on the loop and committed by a thread that
waits for the interpreter's lock before and after each.
"""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from palyra_actors.storage.port import Ended

try:
    from palyra_actors.storage import _swift_store
except ImportError:
    _swift: Any = None
else:
    _swift = _swift_store if _swift_store.VERSION == 2 else None

Step = tuple[tuple[tuple[str, int], ...], Sequence[tuple[Any, ...]], bool]
"""A statement, also as those that take more rows at once, the most first and one last, each with
its number of rows; a list of rows; and whether it is a query that has to find nothing."""


def _take_sqlite() -> Any:
    """The compiled half, once it knows SQLite's functions; None: there is none."""
    if _swift is None:
        return None
    lender = apsw.Connection(":memory:")
    try:
        lender.enable_load_extension(True)
        lender.load_extension(_swift.__file__, "palyra_take_sqlite")
    except (apsw.Error, AttributeError):
        return None  # this SQLite takes no extensions
    finally:
        lender.close()
    return _swift


compiled: Final = _take_sqlite()


class Beside:
    """The thread that writes into one connection. `bell`: an eventfd that it rings."""

    def __init__(self, connection: apsw.Connection, bell: int) -> None:
        self._lane = compiled.attach(connection.sqlite3_pointer(), bell)

    def begin(self, steps: list[Step], here: bool = False) -> bool:
        """Write these in one transaction. False: it takes no such rows, and nothing was begun.
        `here`: in the calling thread, where it has ended at the return and nothing rings."""
        return bool(compiled.begin(self._lane, steps, here))

    def ended(self) -> Ended | None:
        """How what was begun has ended, once; None: it has not yet."""
        found = compiled.ended(self._lane)
        if found is None:
            return None
        staged, error, _, at = found
        return Ended(bool(staged), error, at)

    def wait(self, wait_s_max: float) -> bool:
        """Until what was begun has ended. False: it did not within that time."""
        return bool(compiled.wait(self._lane, wait_s_max))

    def close(self, wait_s_max: float = -1.0) -> bool:
        """Leave the connection alone for good, after what was begun. False: that did not end
        within so many seconds; negative: wait for ever."""
        return bool(compiled.close(self._lane, wait_s_max))
