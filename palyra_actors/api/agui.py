"""A canvas as AG-UI events, which a front end may take up again where it stopped.

    STATE_SNAPSHOT ──▶ STATE_DELTA ──▶ STATE_DELTA …      each with its journal position
          ▲                  │
          └── what came behind the position was compacted

The position is the `seq` that the journal gave the change: as `id` of a server-sent event it comes
back as `Last-Event-ID`, and `after_seq` goes on behind it. A snapshot can always be sent in place
of deltas, so a position that says too little gets one; so does one that the journal has not come
to, as after a restored backup: whoever holds it has a state that is in no file any more. Needs the
extra `ag-ui`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from ag_ui.core import StateDeltaEvent, StateSnapshotEvent
from ag_ui.encoder import EventEncoder

from palyra_actors.api.canvases import Canvas, CanvasInfo
from palyra_actors.errors import Conflict, Gone, Invalid

ATTEMPTS_MAX: Final = 16
"""How often a position is looked for while the canvas changes under the looking."""

POSITION_DIGITS_MAX: Final = 19
"""Of a position as text: more than any journal's has."""


class Positioned(NamedTuple):
    """An AG-UI event and the position to go on behind."""

    seq: int
    event: StateSnapshotEvent | StateDeltaEvent


def stream(
    canvas: Canvas, *, after_seq: int | str | None = None, wait_s_max: float | None = None
) -> Iterator[Positioned]:
    """The canvas from now on, or behind a position; over lost connections, without a gap. Ends
    behind the last state of a canvas that is closed.

    Args:
        after_seq: of the last event that was dealt with, as a number or as the digits of a
            `Last-Event-ID`; None, 0 or nothing: begin with the state, as behind a position that
            the journal has not come to.
        wait_s_max: seconds without a change after which it ends; None: never.

    Raises:
        Invalid: `after_seq` is no position; at once, the others with the first event.
        NotFound: there is no such canvas.
        Gone: it was erased.
    """
    return _events(canvas, _position(after_seq), wait_s_max)


def _position(after_seq: int | str | None) -> int:
    """The position that was meant; 0: none. Raises Invalid."""
    if after_seq is None or after_seq == "":
        return 0
    if isinstance(after_seq, str):
        if after_seq.isascii() and after_seq.isdigit() and len(after_seq) <= POSITION_DIGITS_MAX:
            return int(after_seq)
    elif type(after_seq) is int and after_seq >= 0:
        return after_seq
    raise Invalid(
        f"{str(after_seq)[:POSITION_DIGITS_MAX]!r} is no position",
        field="after_seq",
        hint="the id of an event of this stream, a number; leave it out to begin with the state",
    )


def _events(canvas: Canvas, after_seq: int, wait_s_max: float | None) -> Iterator[Positioned]:
    version = None
    if after_seq and after_seq <= canvas.head_seq():
        version = _version_at(canvas, after_seq)
    for seen, _ in canvas.watch(wait_s_max=wait_s_max):
        if version is not None and seen <= version:
            continue
        if version is not None:
            try:
                for patch in canvas.history(after_version=version):
                    version = patch.version
                    yield Positioned(
                        patch.seq, StateDeltaEvent(delta=patch.patch, timestamp=patch.ts_ms)
                    )
                continue
            except Gone:
                canvas.get()  # compacted, or erased?
        seq, info = _here(canvas)
        version = info.version
        event = StateSnapshotEvent(snapshot=info.state, timestamp=info.updated_ms)
        yield Positioned(seq, event)


def server_sent(events: Iterable[Positioned]) -> Iterator[str]:
    """The events as a `text/event-stream`, with their positions as ids."""
    encoder = EventEncoder()
    for seq, event in events:
        yield f"id: {seq}\n{encoder.encode(event)}"


def _here(canvas: Canvas) -> tuple[int, CanvasInfo]:
    """The canvas, and a position at which it stood so."""
    for _ in range(ATTEMPTS_MAX):
        info = canvas.get()
        seq = _seq_of(canvas, info.version)
        if seq is not None:
            return seq, info
        head = canvas.head_seq()
        if canvas.get().version == info.version:
            return head, info
    raise Conflict("the canvas changes faster than it can be read", hint="try again")


def _seq_of(canvas: Canvas, version: int) -> int | None:
    """The position of the change to that version; None: it cannot be told any more."""
    if version == 1:
        return None
    try:
        patches = canvas.page(after_version=version - 1, limit=1)
    except Gone:
        return None
    return int(patches[0]["seq"]) if patches else None


def _version_at(canvas: Canvas, seq: int) -> int | None:
    """At which version the canvas stood at a position; None: nobody knows any more."""
    first: list[dict[str, Any]] = canvas.page(limit=1)
    if not first or first[0]["seq"] > seq:
        return None
    low, high = first[0]["version"], canvas.get().version
    while low < high:
        middle = (low + high + 1) // 2
        here = _seq_of(canvas, middle)
        if here is None:
            return None  # compacted meanwhile
        low, high = (middle, high) if here <= seq else (low, middle - 1)
    return int(low)
