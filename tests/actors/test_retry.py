"""What a clash with the journal means for each unit of a group."""

from collections.abc import Sequence
from typing import Any

import ormsgpack
import pytest

from palyra_actors.actors.retry import judge_refused, sift
from palyra_actors.actors.work import Tally, Unit
from palyra_actors.domain.catalog import ACTOR_NAMES, kind_name
from palyra_actors.domain.chain import Stored, payload_digest
from palyra_actors.domain.run import Run
from palyra_actors.domain.session import Draft
from palyra_actors.errors import Conflict, IdReused, Invalid
from palyra_actors.storage.port import RunRow
from tests.actors.rig import Stream, an_id, draft, request, unit


class Journal:
    """As much of the writing side as a verdict asks for."""

    def __init__(self) -> None:
        self.events: dict[bytes, Stored] = {}
        self.runs: dict[bytes, RunRow] = {}
        self.idle: set[bytes] = set()

    def write(self, stream: Stream, made: Draft, principal: str = "local", **changes: Any) -> None:
        number = len(self.events) + 1
        stored = Stored(
            number, made.event_id, "session", stream.tail.stream_id, number,
            stream.tail.stream_id, made.run_id, kind_name(made.kind), ACTOR_NAMES[made.actor],
            principal, made.ts_ms, 1, made.redacted, None, made.payload,
            payload_digest(made.payload), bytes([number]) * 32, bytes(32),
        )  # fmt: skip
        self.events[made.event_id] = stored._replace(**changes)

    def known(self, event_ids: Sequence[bytes]) -> dict[bytes, Stored]:
        return {i: self.events[i] for i in event_ids if i in self.events}

    def known_runs(self, run_ids: Sequence[bytes]) -> dict[bytes, RunRow]:
        return {i: self.runs[i] for i in run_ids if i in self.runs}

    def rows(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        assert statement == "answer.is_idle"
        return [(1,)] if parameters[0] in self.idle else []


@pytest.fixture
def journal() -> Any:
    return Journal()


@pytest.fixture
def stream() -> Stream:
    return Stream(1)


def _unit(stream: Stream, *drafts: Draft) -> Unit:
    return unit(request(Tally()), [(stream, list(enumerate(drafts)))])


def test_an_event_under_the_id_of_a_request_that_changed_nothing_is_refused_with_its_place(
    journal: Any, stream: Stream
) -> None:
    drafts = [draft(), draft()]
    journal.idle.add(drafts[1].event_id)
    bad, good = _unit(stream, *drafts), _unit(stream, draft())
    verdicts = sift(journal, [bad, good])
    assert set(verdicts) == {bad}
    refusal = verdicts[bad].error
    assert isinstance(refusal, IdReused)
    assert refusal.field == "events[1].event_id"


def test_a_unit_that_is_stored_whole_is_answered_with_what_was_said_first(
    journal: Any, stream: Stream
) -> None:
    drafts = [draft(), draft()]
    for made in drafts:
        journal.write(stream, made)
    again, other = _unit(stream, *drafts), _unit(stream, draft())
    verdicts = sift(journal, [again, other])
    assert set(verdicts) == {again}
    answer = verdicts[again].answer
    assert isinstance(answer, list)
    assert [(r.seq, r.hash, r.duplicate) for r in answer] == [
        (1, b"\1" * 32, True), (2, b"\2" * 32, True),
    ]  # fmt: skip


def test_a_unit_that_is_stored_in_part_keeps_the_rest_to_be_decided_anew(
    journal: Any, stream: Stream
) -> None:
    drafts = [draft(), draft(), draft()]
    journal.write(stream, drafts[1])
    again = _unit(stream, *drafts)
    verdict = sift(journal, [again])[again]
    assert (verdict.error, verdict.answer) == (None, None)
    (portion,) = again.portions
    assert list(portion.indices) == [0, 2]
    assert list(portion.command.drafts) == [drafts[0], drafts[2]]
    assert set(again.echo) == {1}


OTHER_CONTENT: dict[str, dict[str, Any]] = {
    "run": {"run_id": an_id()},
    "kind": {"kind": 2},
    "kind of ones own": {"kind": "x.a"},
    "actor": {"actor": 2},
    "time": {"ts_ms": 1},
    "payload": {"payload": ormsgpack.packb({"a": 2})},
    "payload of another type": {"payload": ormsgpack.packb({"a": True})},
}


@pytest.mark.parametrize("change", OTHER_CONTENT.values(), ids=OTHER_CONTENT.keys())
def test_other_content_under_a_stored_id_is_refused_alone(
    journal: Any, stream: Stream, change: dict[str, Any]
) -> None:
    made = draft()
    journal.write(stream, made)
    bad, good = _unit(stream, draft(), made._replace(**change)), _unit(stream, draft())
    verdicts = sift(journal, [bad, good])
    assert set(verdicts) == {bad}
    error = verdicts[bad].error
    assert isinstance(error, IdReused)
    assert error.field == "events[1].event_id"
    assert not bad.echo


def test_another_stream_or_principal_under_a_stored_id_is_refused(
    journal: Any, stream: Stream
) -> None:
    hers, elsewhere = draft(), draft()
    journal.write(stream, hers, principal="alice")
    journal.write(Stream(2), elsewhere)
    for made in (hers, elsewhere):
        again = _unit(stream, made)
        assert isinstance(sift(journal, [again])[again].error, IdReused)


def test_the_order_of_keys_is_no_content(journal: Any, stream: Stream) -> None:
    made = draft(payload=ormsgpack.packb({"a": 1, "b": 2}))
    journal.write(stream, made)
    again = _unit(stream, made._replace(payload=ormsgpack.packb({"b": 2, "a": 1})))
    assert sift(journal, [again])[again].answer is not None


def test_an_erased_event_is_compared_by_its_digest(journal: Any, stream: Stream) -> None:
    made = draft()
    journal.write(stream, made, payload=None)
    same = _unit(stream, made)
    other = _unit(stream, made._replace(payload=ormsgpack.packb({"a": 5})))
    assert sift(journal, [same])[same].answer is not None
    assert isinstance(sift(journal, [other])[other].error, IdReused)


def test_an_id_twice_in_one_group_is_decided_anew_the_second_time(
    journal: Any, stream: Stream
) -> None:
    made = draft()
    first, second = _unit(stream, made), _unit(stream, made)
    verdicts = sift(journal, [first, second])
    assert list(verdicts) == [second]
    assert verdicts[second] == (None, None)


def test_a_run_that_others_have_begun_is_decided_anew(journal: Any, stream: Stream) -> None:
    stored, twice = an_id(), an_id()
    journal.runs[stored] = RunRow(9, "local", Run(1, 1, None))
    known = _unit(stream, draft(run_id=stored))
    first = _unit(Stream(2), draft(run_id=twice))
    second = _unit(Stream(3), draft(run_id=twice))
    verdicts = sift(journal, [known, first, second])
    assert list(verdicts) == [known, second]
    assert all(verdict == (None, None) for verdict in verdicts.values())


def test_one_run_in_two_sessions_of_one_request_is_refused(journal: Any, stream: Stream) -> None:
    run = an_id()
    both = unit(
        request(Tally()),
        [(stream, [(0, draft(run_id=run))]), (Stream(2), [(1, draft(run_id=run))])],
    )
    error = sift(journal, [both])[both].error
    assert isinstance(error, Invalid)


@pytest.mark.parametrize("stored", [0, 1, 2])
def test_a_refusal_stands_unless_all_of_the_unit_is_stored(
    journal: Any, stream: Stream, stored: int
) -> None:
    drafts = [draft(), draft()]
    for made in drafts[:stored]:
        journal.write(stream, made)
    refused = _unit(stream, *drafts)
    refused.error = Conflict("no")
    verdict = judge_refused(journal, refused)
    if stored == 2:
        assert verdict.answer is not None
    else:
        assert verdict.error is refused.error


def test_a_refused_unit_with_other_content_is_told_so(journal: Any, stream: Stream) -> None:
    made = draft()
    journal.write(stream, made)
    refused = _unit(stream, made._replace(ts_ms=9))
    refused.error = Conflict("no")
    assert isinstance(judge_refused(journal, refused).error, IdReused)
