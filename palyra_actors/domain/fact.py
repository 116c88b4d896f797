"""What every family of the engine is told in: decisions, facts, and the rows that follow.

    command ──decide──▶ Decision(events, answer)
                            │ each becomes a Fact
    state ──fold(fact)──▶ state after, and Changes: the rows of the projections

The same `fold` serves a live request and a replay of the journal. That is why a projection equals
what a replay makes of it: there is one way to make it. A fold reads no clock, makes no id and
looks at nothing but its arguments; a payload that was erased is None to it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias


class Place(NamedTuple):
    """Stands in a row for a number that only the writer gives: see `SEQ` and `RECORDED_MS`.

    `fact` counts the facts of the request's share that the row follows from, from 0.
    """

    fact: int
    what: int


SEQ = 0
RECORDED_MS = 1

Change: TypeAlias = tuple[str, tuple[Any, ...]]
"""The name of a statement in `storage/sql` and its parameters. Applied in order, in the same
transaction as the events that it follows from."""


class New(NamedTuple):
    """An event that a decision causes. `session_id`: the session that it concerns, where that is
    not its stream's own id; `redacted`: its payload lost a secret on the way here."""

    kind: str
    payload: Mapping[str, Any]
    run_id: bytes | None = None
    session_id: bytes | None = None
    redacted: bool = False


class Fact(NamedTuple):
    """An event as it is folded, live or from the journal. Ids are 16 bytes.

    `payload` is None where it was erased. Live, `seq` and `recorded_ms` are `Place`s: they may be
    put into a row and nothing else.
    """

    kind: str
    payload: Mapping[str, Any] | None
    stream_seq: int
    ts_ms: int
    seq: int | Place
    recorded_ms: int | Place
    run_id: bytes | None
    session_id: bytes | None
    event_id: bytes
    actor: str
    principal: str


class Decision(NamedTuple):
    """What a command causes.

    `answer` makes the body of its `ok`, without `timing`, from the state after. `events` may be
    empty: then nothing is written, and it is answered in its turn. An answer is kept beside the
    events for whoever repeats the request; where it is large, `recall` is kept in its stead, from
    which the entity makes the answer again. `first_seq` numbers the first event of a stream that
    goes on where another one stood.
    """

    events: Sequence[New]
    answer: Callable[[Any], Mapping[str, Any]]
    recall: Mapping[str, Any] | None = None
    first_seq: int | None = None


def placed(change: Change, seqs: Sequence[int], recorded_ms: int) -> Change:
    """The change with the numbers that its `Place`s stand for."""
    statement, row = change
    if Place not in map(type, row):
        return change
    return statement, tuple(
        cell if type(cell) is not Place else seqs[cell.fact] if cell.what == SEQ else recorded_ms
        for cell in row
    )
