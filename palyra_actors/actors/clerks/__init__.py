"""The clerks at the desk: each turns the requests of one family into commands and looks.

`clerks` makes all of them. A clerk's `operations` are its handlers by the operation's name; they
run on the loop's thread, and raise what they refuse.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from palyra_actors.actors.canvas import CanvasActor
from palyra_actors.actors.clerks.approval import ApprovalClerk
from palyra_actors.actors.clerks.canvas import CanvasClerk
from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.cron import CronClerk
from palyra_actors.actors.clerks.memory import MemoryClerk
from palyra_actors.actors.clerks.run import RunClerk
from palyra_actors.actors.clerks.session import SessionClerk
from palyra_actors.actors.cron import CronActor
from palyra_actors.actors.entity import Entity
from palyra_actors.actors.memory import MemoryActor
from palyra_actors.actors.work import Request
from palyra_actors.domain.canvas import Keep
from palyra_actors.domain.catalog import CANVAS, CRON, MEMORY

Handler: TypeAlias = Callable[[Request, Any], None]


class Clerk(Protocol):
    """Serves one family's operations."""

    def operations(self) -> Mapping[str, Handler]: ...


CLERKS: Final[tuple[Callable[[Counter], Clerk], ...]] = (
    SessionClerk,
    RunClerk,
    ApprovalClerk,
    CanvasClerk,
    CronClerk,
    MemoryClerk,
)
"""Every family's clerk."""

KINDS: Final[dict[int, type[Entity]]] = {
    CANVAS: CanvasActor,
    CRON: CronActor,
    MEMORY: MemoryActor,
}
"""The entities besides sessions: stream kind to actor."""


def kinds(*, history_versions_max: int, snapshots_max: int) -> dict[int, type[Entity]]:
    """`KINDS`, with what history a canvas keeps by itself."""
    return {**KINDS, CANVAS: CanvasActor.keeping(Keep(history_versions_max, snapshots_max))}


def operations(counter: Counter) -> dict[str, Handler]:
    """Every family's handlers."""
    found: dict[str, Handler] = {}
    for make in CLERKS:
        found.update(make(counter).operations())
    return found
