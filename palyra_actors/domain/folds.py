"""Every family's fold by the stream that its events are in, and old payloads made new.

A stored payload says its version (`v`). When a later one of a kind means something else, the old
one is *upcast* on its way into the fold: `UPCASTS` holds, for a kind and the version it comes
from, what makes the next version of it. What is stored is never touched.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from palyra_actors.domain import canvas, cron, memory, session_commands
from palyra_actors.domain.fact import Change, Fact

Fold: TypeAlias = Callable[[Any, Fact, int], tuple[Any, Sequence[Change]]]
Upcast: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]

FOLDS: Final[dict[str, Fold]] = {
    "session": session_commands.fold,
    "canvas": canvas.fold,
    "cron": cron.fold,
    "memory": memory.fold,
}

UPCASTS: Final[dict[tuple[str, int], Upcast]] = {}


def upcast(kind: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The payload as the newest version of its kind would have said it."""
    version = payload.get("v")
    while isinstance(version, int) and (step := UPCASTS.get((kind, version))) is not None:
        version += 1
        payload = {**step(payload), "v": version}
    return payload
