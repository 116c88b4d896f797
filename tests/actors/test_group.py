"""A group's rows: numbered, chained, linked and marked, whatever is in it."""

from hashlib import sha256
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.actors.group import Group, lay_out, prepare_answers, stored_events
from palyra_actors.actors.work import Tally
from palyra_actors.domain.chain import GENESIS, expected_hash
from palyra_actors.ids import format_ulid
from palyra_actors.storage.port import Head
from tests.actors.rig import Stream, an_id, draft, request, unit

_SHARES = st.lists(  # units, each a list of the stream of each of its events
    st.lists(st.integers(0, 3), min_size=1, max_size=70), min_size=1, max_size=5
)


def _groups(plan: list[list[list[int]]], principals: int = 2) -> list[Group]:
    """Groups that follow each other, laid out and taken as written, from a plan of streams."""
    streams = [Stream(n + 1, "p0") for n in range(4)]
    names: dict[str, int] = {}
    head, groups = Head(0, GENESIS), []
    for number, units in enumerate(plan):
        built = []
        for place, chosen in enumerate(units):
            made = request(Tally(), principal=f"p{(number + place) % principals}")
            made.traceparent = f"t{place}" if place % 2 else None
            shares: dict[int, list[tuple[int, Any]]] = {}
            for index, stream in enumerate(chosen):
                kind = (1, "x.own", 2)[index % 3]
                shares.setdefault(stream, []).append((index, draft(kind=kind, run_id=None)))
            built.append(unit(made, [(streams[s], rows) for s, rows in shares.items()]))
        group = Group(built, head, 0.0, 1_700_000_000_000 + number)
        lay_out(group, names)
        names.update(group.names)
        for tail, seq in group.tails.items():
            tail.seq, tail.exists = seq, True
        head = group.after
        groups.append(group)
    return groups


@given(plan=st.lists(_SHARES, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_group_goes_on_in_the_chain_of_the_contract(plan: list[list[list[int]]]) -> None:
    previous, seq = GENESIS, 0
    for group in _groups(plan):
        for event, row in zip(stored_events(group), group.batch.events, strict=True):
            seq += 1
            assert event.seq == row[0] == seq
            assert event.prev_hash == previous
            assert event.hash == row[16] == expected_hash(event, previous)
            assert event.payload_sha256 == sha256(row[14]).digest()
            previous = event.hash
        assert group.after == Head(seq, previous)


@given(plan=st.lists(_SHARES, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_event_leads_back_to_its_streams_event_before_and_every_64th_is_marked(
    plan: list[list[list[int]]],
) -> None:
    last: dict[int, int] = {}
    numbers: dict[int, int] = {}
    for group in _groups(plan):
        marks = []
        for row in group.batch.events:
            seq, stream, stream_seq, link = row[0], row[2], row[3], row[4]
            assert stream_seq == numbers.get(stream, 0) + 1
            assert seq - link == last.get(stream, seq)
            last[stream], numbers[stream] = seq, stream_seq
            if stream_seq % 64 == 0:
                marks.append((stream, stream_seq // 64, seq))
        assert group.batch.marks == marks
        for stream, stream_seq, seq in group.batch.heads:
            assert (numbers[stream], last[stream]) == (stream_seq, seq)
        assert {stream for stream, _, _ in group.batch.heads} == {
            row[2] for row in group.batch.events
        }


def test_streams_and_principals_get_their_rows_once_with_their_first_event() -> None:
    groups = _groups([[[0], [1, 0]], [[0, 1], [2]], [[0]]])
    assert [[row[0] for row in group.batch.streams] for group in groups] == [[1, 2], [3], []]
    assert [group.batch.principals for group in groups] == [[(1, "p0"), (2, "p1")], [], []]


def test_the_events_of_a_request_stand_in_the_order_sent_across_its_streams() -> None:
    (group,) = _groups([[[1, 0, 1, 2]]])
    assert [row[2] for row in group.batch.events] == [2, 1, 2, 3]


def test_a_run_is_written_when_it_begins_and_again_when_it_ends() -> None:
    stream, run, other = Stream(1), an_id(), an_id()
    first = unit(request(Tally()), [(stream, [(0, draft(run_id=run))])])
    second = unit(
        request(Tally()),
        [(stream, [(0, draft(run_id=run, kind=6)), (1, draft(run_id=other, kind=7))])],
    )
    group = Group([first, second], Head(0, GENESIS), 0.0, 5)
    lay_out(group, {})
    assert {row[0] for row in group.batch.runs} == {run, other}
    ended = {row[-1]: row for row in group.batch.run_ends}
    begun = {row[0]: row for row in group.batch.runs}
    assert begun[other][2:5] == (3, 3, 3)
    state, last = ended[run][:2] if run in ended else (begun[run][2], begun[run][4])
    assert (state, last) == (2, 2)
    assert begun[run][3] == 1


def test_the_last_events_of_a_group_are_the_end_of_all_of_them() -> None:
    (group,) = _groups([[[0, 1, 2], [3, 0]]])
    whole = stored_events(group)
    for last in range(7):
        assert stored_events(group, last) == (whole[-last:] if last else [])


def test_answers_are_in_the_order_of_each_request() -> None:
    (group,) = _groups([[[1, 0, 1], [2, 2]]])
    drafts = {made: [draft for _, _, _, draft in made.drafts()] for made in group.units}
    prepare_answers(group)
    answers = [msgspec.msgpack.decode(raw) for _, raw in group.answers]
    assert [[result["seq"] for result in results] for results in answers] == [[1, 2, 3], [4, 5]]
    assert [[r["session_seq"] for r in results] for results in answers] == [[1, 1, 2], [1, 2]]
    for (answered, _), results in zip(group.answers, answers, strict=True):
        sent = [format_ulid(draft.event_id) for draft in drafts[answered]]
        assert [result["event_id"] for result in results] == sent
