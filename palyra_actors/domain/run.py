"""A run: one attempt of an agent at something, within one session. Pure.

    pending ──▶ accepted ──▶ in_progress ──▶ done | failed | cancelled
                   └──────────────────────────────▶ failed | cancelled

Nothing leaves the last three. `run.start` makes a run `accepted`; a run that comes into being by a
client's event is `in_progress`. The events `run_completed` and `run_failed` end it, from `accepted`
too: it was in progress, nobody had said so.

Its tape is a view of its events from clients: adjacent `model_token`s are one entry, everything
else is one each, and the event that ends a full tape is none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from palyra_actors.domain.catalog import (
    MODEL_TOKEN,
    RUN_ACCEPTED,
    RUN_CANCELLED,
    RUN_DONE,
    RUN_ENDS,
    RUN_IN_PROGRESS,
    RUN_PENDING,
    RUN_STATE_FAILED,
    RUN_STATES,
)
from palyra_actors.domain.fact import Place
from palyra_actors.errors import InvalidTransition, LimitReached
from palyra_actors.ids import format_ulid
from palyra_actors.limits import TAPE_ENTRIES_MAX

STEPS: Final[dict[int, frozenset[int]]] = {
    RUN_PENDING: frozenset({RUN_ACCEPTED}),
    RUN_ACCEPTED: frozenset({RUN_IN_PROGRESS, RUN_STATE_FAILED, RUN_CANCELLED}),
    RUN_IN_PROGRESS: frozenset({RUN_DONE, RUN_STATE_FAILED, RUN_CANCELLED}),
    RUN_DONE: frozenset(),
    RUN_STATE_FAILED: frozenset(),
    RUN_CANCELLED: frozenset(),
}
"""State to the states that may follow it. A trigger of the schema holds the file to the same."""

FINAL: Final = frozenset(state for state, following in STEPS.items() if not following)

ORPHANED: Final = "orphaned: the engine stopped before it ended"

_TOKENS_IN: Final = ("model_tokens_in", "input_tokens", "prompt_tokens")
_TOKENS_OUT: Final = ("model_tokens_out", "output_tokens", "completion_tokens")
_TOKENS_MAX: Final = 2**53


class Run(NamedTuple):
    """`first` and `last`: session_seq of its first and of its ending event (None: not yet).

    `entries` counts its tape, `open` says that the last of them takes further tokens. `managed`:
    it was started by `run.start`. Times are milliseconds; None where only the file knows yet.
    """

    state: int
    first: int
    last: int | None
    entries: int = 0
    open: bool = False
    managed: bool = False
    parent: bytes | None = None
    reason: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    created_ms: int | Place | None = None
    ended_ms: int | Place | None = None


def step(run: Run, to: int, field: str) -> None:
    """Raises InvalidTransition: there is no such step."""
    if to in STEPS[run.state]:
        return
    following = ", ".join(sorted(RUN_STATES[state] for state in STEPS[run.state]))
    raise InvalidTransition(
        f"the run is {RUN_STATES[run.state]} and cannot become {RUN_STATES[to]}",
        field=field,
        hint=f"from there: {following}" if following else "it has ended; start another run",
        detail={"from": RUN_STATES[run.state], "to": RUN_STATES[to]},
    )


def on_event(
    run: Run,
    kind: int | str,
    number: int,
    payload: bytes | Mapping[str, Any] | None,
    at: int | Place,
) -> Run:
    """The run after one more of its client's events. `at` is when it was recorded.

    A tape that is full takes no more: whether that is refused is `tape_has_room`'s business.
    """
    if kind == MODEL_TOKEN:
        if run.open:
            return run
        if run.entries < TAPE_ENTRIES_MAX:
            run = run._replace(entries=run.entries + 1, open=True)
    elif run.entries < TAPE_ENTRIES_MAX:
        run = run._replace(entries=run.entries + 1, open=False)
    end = RUN_ENDS.get(kind)
    if end is None or run.state in FINAL:
        return run
    tokens_in, tokens_out = used_tokens(payload)
    return run._replace(
        state=end, last=number, tokens_in=tokens_in, tokens_out=tokens_out, ended_ms=at
    )


def tape_has_room(run: Run | None, kind: int | str) -> bool:
    """Whether an event of that kind may follow: an open entry of tokens takes more of them, and
    the end may always come."""
    return (
        run is None
        or run.entries < TAPE_ENTRIES_MAX
        or (run.open and kind == MODEL_TOKEN)
        or kind in RUN_ENDS
    )


def tape_full(field: str) -> LimitReached:
    """The refusal of an event that would open one entry too many."""
    return LimitReached(
        f"the run's tape holds {TAPE_ENTRIES_MAX} entries",
        field=field,
        hint="end the run with run_completed or run_failed, and go on in another",
        detail={"limit": TAPE_ENTRIES_MAX, "actual": TAPE_ENTRIES_MAX + 1},
    )


def used_tokens(payload: bytes | Mapping[str, Any] | None) -> tuple[int, int]:
    """Tokens in and out as an ending event's `usage` says, under this engine's names or those of
    the common model APIs; 0 where it says none."""
    if isinstance(payload, bytes):
        if b"usage" not in payload:
            return 0, 0
        payload = msgspec.msgpack.decode(payload)
    usage = payload.get("usage") if isinstance(payload, Mapping) else None
    if not isinstance(usage, dict):
        return 0, 0
    return _count(usage, _TOKENS_IN), _count(usage, _TOKENS_OUT)


def _count(usage: Mapping[str, Any], names: Sequence[str]) -> int:
    for name in names:
        value = usage.get(name)
        if type(value) is int and 0 <= value <= _TOKENS_MAX:
            return value
    return 0


def view(run_id: bytes, session_id: bytes, run: Run, now_ms: int) -> dict[str, Any]:
    """The run as it is shown; `now_ms` stands for times that only the file will know."""
    return {
        "run_id": format_ulid(run_id),
        "session_id": format_ulid(session_id),
        "parent_run_id": None if run.parent is None else format_ulid(run.parent),
        "state": RUN_STATES[run.state],
        "reason": run.reason,
        "created_ms": run.created_ms if type(run.created_ms) is int else now_ms,
        "ended_ms": None
        if run.state not in FINAL
        else run.ended_ms
        if type(run.ended_ms) is int
        else now_ms,
        "tape_entries": run.entries,
        "model_tokens_in": run.tokens_in,
        "model_tokens_out": run.tokens_out,
    }
