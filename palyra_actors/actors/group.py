"""A group: the units of one transaction, laid out as rows and chained. No thread, no disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import msgspec

from palyra_actors.actors.retry import kept_answer
from palyra_actors.actors.swift import compiled
from palyra_actors.actors.work import EntityCalls, Key, Portion, Tail, Unit
from palyra_actors.domain.catalog import ACTOR_NAMES, KIND_NAMES, SESSION, STREAM_NAMES
from palyra_actors.domain.chain import Stored, Stretch, chain_rows
from palyra_actors.domain.fact import Place, placed
from palyra_actors.domain.session import Draft
from palyra_actors.domain.session_commands import run_insert, run_update
from palyra_actors.storage.port import NO_STREAM, Batch, EventRow, Head
from palyra_actors.wire.append import encode_results, event_result

MARK_EVERY: Final = 64  # storage.journal.MARK_EVERY; test_layout holds the two together

SHARE_EVENTS_MAX: Final = 64
"""Events of one entity in a group while others write, too; a request counts as one more, and a
larger one goes alone. A group's time is what those others wait for (`bench/bench_fairness.py`)."""

NOTHING: Final = Head(0, b"")

_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Group:
    """What one COMMIT makes durable, and what to do once it has.

    `began` and `staged` are monotonic seconds; `load` is what admission counts. `tails` and `names`
    are what stream ends and principals' numbers become then; `owners` names tail and principal of
    each row of `batch.events`.
    """

    units: list[Unit]
    before: Head
    began: float
    recorded_ms: int
    batch: Batch = field(default_factory=Batch)
    staged: float = 0.0
    tails: dict[Tail, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    owners: list[tuple[Tail, str]] = field(default_factory=list)
    answers: list[tuple[Unit, Any]] = field(default_factory=list)
    after: Head = NOTHING
    load: int = 0
    starts: list[int] = field(default_factory=list)
    payload_bytes: int = 0
    told: list[Portion] = field(default_factory=list)
    """Portions of commands: their entities hear of it once they are durable."""

    def forget_units(self) -> None:
        """Once all are answered: what the feed keeps are rows."""
        self.payload_bytes = sum(unit.payload_bytes for unit in self.units)
        self.units, self.answers, self.starts, self.told = [], [], [], []
        self.batch = Batch(events=self.batch.events)


def fits(unit: Unit, shares: dict[EntityCalls, int]) -> bool:
    """Whether the unit lies within its entities' shares of the group; it is added to them.

    What does not fit closes its entities' shares: an entity's units stay in their order.
    """
    if len(unit.portions) == 1:
        portion = unit.portions[0]
        taken, more = shares.get(portion.entity, 0), len(portion.indices) + 1
        fits = not taken or taken + more <= SHARE_EVENTS_MAX
        shares[portion.entity] = taken + more if fits else SHARE_EVENTS_MAX
        return fits
    wanted = [
        (portion.entity, shares.get(portion.entity, 0), len(portion.indices) + 1)
        for portion in unit.portions
    ]
    if all(not taken or taken + more <= SHARE_EVENTS_MAX for _, taken, more in wanted):
        for entity, taken, more in wanted:
            shares[entity] = taken + more
        return True
    for entity, _, _ in wanted:
        shares[entity] = SHARE_EVENTS_MAX
    return False


def lay_out(group: Group, names: dict[str, int]) -> None:
    """Number and chain the group's units, in order, and make its rows.

    `seq` goes on from `group.before`; nothing outside the group is changed. Appends that only go
    on, streams and runs alike, are a matter for `swift`.
    """
    laid = None
    if compiled is not None:
        laid = compiled.lay_out(
            group.units, names, group.before.seq, Stretch, STREAM_NAMES, MARK_EVERY
        )
    if laid is None:
        lay_out_plainly(group, names)
        return
    batch = group.batch
    (
        group.starts, stretches, group.owners, batch.marks, group.tails, batch.heads,
        batch.run_moves, seq,
    ) = laid  # fmt: skip
    batch.events, last_hash = chain_rows(
        stretches, group.before.seq, group.before.hash, group.recorded_ms
    )
    group.after = Head(seq, last_hash)


def lay_out_plainly(group: Group, names: Mapping[str, int]) -> None:
    """`lay_out`, of whatever there is. One long function on purpose: a call for each unit is felt
    where a unit is one event."""
    batch, tails, recorded_ms = group.batch, group.tails, group.recorded_ms
    start, mark, own = group.starts.append, batch.marks.append, group.owners.append
    seq, prev_hash = group.before
    first_seq = seq
    stretches: list[Stretch] = []
    stretch, new = stretches.append, tuple.__new__  # a named tuple's own takes three times as long
    ends: dict[Tail, int] = {}
    changing: dict[Portion, list[int]] = {}
    for unit in group.units:
        start(seq - first_seq)
        request = unit.request
        principal_name, traceparent = request.principal, request.traceparent
        principal = names.get(principal_name) or _principal(group, names, principal_name)
        portions = unit.portions
        for portion, drafts, number in (
            ((portions[0], portions[0].drafts, portions[0].first_seq),)
            if len(portions) == 1
            else _stretches(unit)
        ):
            count = len(drafts)
            if not count:
                continue
            tail = portion.tail
            assert tail is not None
            last = tails.get(tail)
            if last is None:
                last = tail.seq
                if not tail.exists:
                    _open(group, names, tail)
            stream, sessions = tail.stream, portion.sessions
            if sessions is not None:
                sessions = sessions[number - portion.first_seq :]
            if portion.runs or portion.changes or portion.facts:
                seqs = changing.setdefault(portion, [])
                if portion.changes or portion.facts:
                    seqs.extend(range(seq + 1, seq + 1 + count))
            stretch(
                new(Stretch, (
                    drafts, stream, STREAM_NAMES[tail.kind], tail.stream_id, number, last,
                    sessions, principal, principal_name, traceparent,
                ))
            )  # fmt: skip
            if count == 1:
                own((tail, principal_name))
            else:
                group.owners += ((tail, principal_name),) * count
            if (number + count - 1) // MARK_EVERY > (number - 1) // MARK_EVERY:
                first = -(-number // MARK_EVERY) * MARK_EVERY
                for marked in range(first, number + count, MARK_EVERY):
                    mark((stream, marked // MARK_EVERY, seq + 1 + marked - number))
            seq += count
            tails[tail] = seq
            ends[tail] = number + count - 1
        if unit.key is not None:
            _keep_answer(group, unit, unit.key)
    batch.events, prev_hash = chain_rows(stretches, first_seq, prev_hash, recorded_ms)
    at_row: dict[bytes, int] = {}
    moves: dict[bytes, tuple[int, int, bytes]] = {}
    mixed = any(portion.facts for portion in changing)
    for portion, seqs in changing.items():
        if portion.runs and mixed:
            _change_runs_in_turn(batch, portion, recorded_ms)
        elif portion.runs:
            _change_runs(batch, portion, at_row, moves, recorded_ms)
        for change in portion.changes:
            batch.change(*placed(change, seqs, recorded_ms))
        if portion.facts:
            portion.facts = [
                fact._replace(seq=own_seq, recorded_ms=recorded_ms)
                for fact, own_seq in zip(portion.facts, seqs, strict=True)
            ]
            group.told.append(portion)
    batch.run_moves = list(moves.values())
    group.after = Head(seq, prev_hash)
    batch.heads = [(tail.stream, stream_seq, tails[tail]) for tail, stream_seq in ends.items()]


def _stretches(unit: Unit) -> Sequence[tuple[Portion, Sequence[Draft], int]]:
    """The unit's drafts in the request's order: portion, drafts of it that follow each other, and
    the number of the first. A portion whose drafts were all stored before has none.
    """
    if len(unit.portions) == 1:
        portion = unit.portions[0]
        return ((portion, portion.drafts, portion.first_seq),)
    if unit.is_command:  # no request says their order
        return [(portion, portion.drafts, portion.first_seq) for portion in unit.portions]
    return [
        (portion, (draft,), portion.first_seq + place) for _, portion, place, draft in unit.drafts()
    ]


def _keep_answer(group: Group, unit: Unit, key: Key) -> None:
    """For whoever sends the command again, also where nothing had to be written but this."""
    first = unit.portions[0]
    tail = first.tail
    assert tail is not None
    kept = kept_answer(unit.answer, first.recall)
    statement = "answer.insert" if first.drafts else "answer.idle"
    stream = tail.stream if tail.exists or tail in group.tails else NO_STREAM
    group.batch.change(statement, (key.event_id, stream, key.digest, kept))


def _open(group: Group, names: Mapping[str, int], tail: Tail) -> None:
    """A stream that is not in the file yet gets its row with its first event."""
    tail.created_ms = group.recorded_ms
    owner = names.get(tail.principal) or _principal(group, names, tail.principal)
    group.batch.streams.append((tail.stream, tail.kind, tail.stream_id, owner, group.recorded_ms))


def _principal(group: Group, names: Mapping[str, int], name: str) -> int:
    """The number of a principal that has none in the file yet."""
    number = group.names.get(name)
    if number is None:
        number = len(names) + len(group.names) + 1
        group.names[name] = number
        group.batch.principals.append((number, name))
    return number


def _change_runs(
    batch: Batch,
    portion: Portion,
    at_row: dict[bytes, int],
    moves: dict[bytes, tuple[int, int, bytes]],
    recorded_ms: int,
) -> None:
    """A run's row once a group, as far as its state does not move: then each step is its own. One
    that only goes on, as nearly all do, is spared the rest of its columns and their trigger."""
    tail = portion.tail
    assert tail is not None
    for run_id, run, is_new in portion.runs:
        if is_new:
            row = run_insert(run_id, tail.stream, run)
            batch.runs.append(placed(("", row), (), recorded_ms)[1])
            continue
        if run.last is None:
            moves[run_id] = (run.entries, int(run.open), run_id)
            continue
        row = run_update(run_id, run)
        if type(run.ended_ms) is Place:
            row = placed(("", row), (), recorded_ms)[1]
        index = at_row.get(run_id)
        if index is not None and batch.run_ends[index][0] == row[0] and row[-2] is None:
            batch.run_ends[index] = row
        else:
            at_row[run_id] = len(batch.run_ends)
            batch.run_ends.append(row)


def _change_runs_in_turn(batch: Batch, portion: Portion, recorded_ms: int) -> None:
    """The same in a group that also has commands: what they change of a run comes before and after
    what events do, and stays there."""
    tail = portion.tail
    assert tail is not None
    for run_id, run, is_new in portion.runs:
        statement = "run.insert" if is_new else "run.update"
        row = run_insert(run_id, tail.stream, run) if is_new else run_update(run_id, run)
        batch.change(*placed((statement, row), (), recorded_ms))


def prepare_answers(group: Group) -> None:
    """Encode what each unit is answered, but for the time that the COMMIT takes.

    Called while it runs: the disk is busy, the loop is not.
    """
    rows, answer = group.batch.events, group.answers.append
    for unit, place in zip(group.units, group.starts, strict=True):
        if unit.is_command:
            answer((unit, unit.answer))
            continue
        stop = place + unit.events - len(unit.echo) - len(unit.repeats)
        if unit.echo or unit.repeats:
            written = [event_result(row) for row in rows[place:stop]]
            answer((unit, _encode(unit.results(written))))
        else:
            answer((unit, encode_results(rows, place, stop)))


def stored_events(group: Group, last: int | None = None) -> list[Stored]:
    """The group's events as they are read back; only its last ones if `last` is given."""
    rows, owners = group.batch.events, group.owners
    start = 0 if last is None else max(0, len(rows) - last)
    previous = rows[start - 1][16] if start else group.before.hash
    events = []
    for row, (tail, principal) in zip(rows[start:], owners[start:], strict=True):
        events.append(_stored(row, tail, principal, previous))
        previous = row[16]
    return events


def _stored(row: EventRow, tail: Tail, principal: str, previous: bytes) -> Stored:
    kind: Any = row[7]
    return Stored(
        row[0], row[1], STREAM_NAMES[tail.kind], tail.stream_id, row[3],
        tail.stream_id if tail.kind == SESSION else row[5], row[6],
        KIND_NAMES.get(kind, kind), ACTOR_NAMES[row[8]], principal, row[10], row[11],
        bool(row[12]), row[13], row[14], sha256(row[14]).digest(), row[16], previous,
    )  # fmt: skip
