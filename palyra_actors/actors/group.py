"""A group: the units of one transaction, laid out as rows and chained. No thread, no disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import msgspec

from palyra_actors.actors.work import Portion, Tail, Unit
from palyra_actors.domain.catalog import ACTOR_NAMES, KIND_NAMES, STREAM_NAMES
from palyra_actors.domain.chain import Stored
from palyra_actors.domain.session import Draft
from palyra_actors.storage.port import Batch, EventRow, Head
from palyra_actors.wire.messages import EventResult

MARK_MASK: Final = 63  # storage.journal.MARK_EVERY - 1; test_layout holds the two together

NOTHING: Final = Head(0, b"")

_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Group:
    """What one COMMIT makes durable, and what to do once it has.

    `tails` and `names` are what stream ends and principals' numbers become then; `owners` names
    tail and principal of each row of `batch.events`.
    """

    units: list[Unit]
    before: Head
    began: float
    recorded_ms: int
    batch: Batch = field(default_factory=Batch)
    tails: dict[Tail, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    owners: list[tuple[Tail, str]] = field(default_factory=list)
    answers: list[tuple[Unit, msgspec.Raw]] = field(default_factory=list)
    after: Head = NOTHING
    starts: list[int] = field(default_factory=list)


def lay_out(group: Group, names: Mapping[str, int]) -> None:
    """Number and chain the group's units, in order, and make its rows.

    `seq` goes on from `group.before`; nothing outside the group is changed.
    """
    layout = _Layout(group, names)
    for unit in group.units:
        group.starts.append(len(group.batch.events))
        layout.add(unit)
    layout.close()


class _Layout:
    def __init__(self, group: Group, names: Mapping[str, int]) -> None:
        self._group = group
        self._names = names
        self._seq, self._hash = group.before
        self._stream_ends: dict[Tail, int] = {}

    def add(self, unit: Unit) -> None:
        request = unit.request
        principal = self._principal(request.principal)
        for portion in unit.portions:
            self._open(portion)
            for run_id, run, is_new in portion.runs:
                batch = self._group.batch
                tail = portion.tail
                assert tail is not None
                if is_new:
                    batch.runs.append((run_id, tail.stream, run.state, run.first, run.last))
                else:
                    batch.run_ends.append((run.state, run.last, run_id))
        if len(unit.portions) == 1:
            portion = unit.portions[0]
            self._chain(portion, portion.command.drafts, portion.first_seq, unit, principal)
            return
        for _, portion, place, draft in unit.drafts():
            self._chain(portion, (draft,), portion.first_seq + place, unit, principal)

    def close(self) -> None:
        group = self._group
        group.after = Head(self._seq, self._hash)
        tails = group.tails
        group.batch.heads = [
            (tail.stream, stream_seq, tails[tail]) for tail, stream_seq in self._stream_ends.items()
        ]

    def _chain(
        self,
        portion: Portion,
        drafts: Sequence[Draft],
        stream_seq: int,
        unit: Unit,
        principal: int,
    ) -> None:
        """The hot loop: one digest, one link and one row an event."""
        if not drafts:
            return
        group, tail, request = self._group, portion.tail, unit.request
        assert tail is not None
        batch, recorded_ms = group.batch, group.recorded_ms
        stream, stream_id = tail.stream, tail.stream_id
        stream_name = STREAM_NAMES[tail.kind]
        principal_name, traceparent = request.principal, request.traceparent
        seq, link, last = self._seq, self._hash, group.tails.get(tail, tail.seq)
        append, own = batch.events.append, group.owners.append
        kinds: dict[Any, Any] = KIND_NAMES  # a client's own kind is its name already
        actors, encode, digest_of = ACTOR_NAMES, _encode, sha256
        owner = (tail, principal_name)
        for event_id, run_id, kind, actor, ts_ms, payload, redacted in drafts:
            seq += 1
            digest = digest_of(payload).digest()
            link = digest_of(
                link
                + encode(
                    (
                        seq, event_id, stream_name, stream_id, stream_seq, stream_id, run_id,
                        kinds.get(kind, kind), actors[actor], principal_name, ts_ms, recorded_ms,
                        redacted, traceparent, digest,
                    )
                )
            ).digest()  # fmt: skip
            append(
                (
                    seq, event_id, stream, stream_seq, seq - last if last else 0, None, run_id,
                    kind, actor, principal, ts_ms, recorded_ms, 1 if redacted else 0, traceparent,
                    payload, None, link,
                )
            )  # fmt: skip
            own(owner)
            last = seq
            if not stream_seq & MARK_MASK:
                batch.marks.append((stream, stream_seq >> 6, seq))
            stream_seq += 1
        self._seq, self._hash = seq, link
        group.tails[tail] = last
        self._stream_ends[tail] = stream_seq - 1

    def _open(self, portion: Portion) -> None:
        """A stream that is not in the file yet gets its row with its first event."""
        tail, group = portion.tail, self._group
        assert tail is not None
        if tail.exists or tail in group.tails or not portion.command.drafts:
            return
        tail.created_ms = group.recorded_ms
        owner = self._principal(tail.principal)
        group.batch.streams.append(
            (tail.stream, tail.kind, tail.stream_id, owner, group.recorded_ms)
        )

    def _principal(self, name: str) -> int:
        group = self._group
        number = self._names.get(name) or group.names.get(name)
        if number is None:
            number = len(self._names) + len(group.names) + 1
            group.names[name] = number
            group.batch.principals.append((number, name))
        return number


def prepare_answers(group: Group) -> None:
    """Encode what each unit is answered, but for the time that the COMMIT takes.

    Called while it runs: the disk is busy, the loop is not.
    """
    rows, starts = group.batch.events, [*group.starts, len(group.batch.events)]
    for unit, start, end in zip(group.units, starts, starts[1:], strict=False):
        ids = unit.event_ids
        if unit.echo or unit.repeats:
            ids = [
                ids[index]
                for index in range(len(ids))
                if index not in unit.echo and index not in unit.repeats
            ]
        written = (
            EventResult(event_id, row[0], row[3], row[16], False, row[12] == 1)
            for event_id, row in zip(ids, rows[start:end], strict=True)
        )
        group.answers.append((unit, msgspec.Raw(_encode(unit.results(written)))))


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
        row[0], row[1], STREAM_NAMES[tail.kind], tail.stream_id, row[3], tail.stream_id, row[6],
        KIND_NAMES.get(kind, kind), ACTOR_NAMES[row[8]], principal, row[10], row[11],
        bool(row[12]), row[13], row[14], sha256(row[14]).digest(), row[16], previous,
    )  # fmt: skip
