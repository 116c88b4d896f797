"""The common path of commands: decide, fold, number, write, answer, and answer again."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from palyra_actors.actors import clerks
from palyra_actors.actors.entity import CommandEntity
from palyra_actors.actors.work import Portion, Request, Tally
from palyra_actors.api.events import Event, new_id
from palyra_actors.domain import catalog
from palyra_actors.domain.fact import Change, Decision, Fact, New
from palyra_actors.engine import Engine
from palyra_actors.errors import Conflict, IdReused, NotFound, PalyraError
from palyra_actors.ids import parse_ulid
from palyra_actors.storage.port import ReadSide, StreamRow
from palyra_actors.wire.messages import WriteBody

ADD, NUMBER = "system.added", 239
A_COUNT = bytes(range(16))
SESSION = bytes(range(1, 17))


class Body(WriteBody):
    """What is asked for, as a client would say it."""

    by: int


class Count(CommandEntity):
    """A number that can be added to, but not beyond a hundred."""

    kind: ClassVar[int] = catalog.SYSTEM
    missing = "there is no such count"
    id_field = "count_id"
    told: ClassVar[list[Fact]] = []

    def _load_state(self, reader: ReadSide, row: StreamRow) -> int:
        total = 0
        for (payload,) in reader.rows("test.payloads", (row.stream,)):
            total += msgspec.msgpack.decode(payload)["by"]
        return total

    def _choose(self, state: int | None, command: Any, now_ms: int) -> Decision:
        total = (state or 0) + command
        if total > 100:
            raise Conflict("too much", field="by", detail={"actual": state})
        events = [New(ADD, {"v": 1, "by": command}, session_id=SESSION)] if command else []
        return Decision(events, lambda after: {"total": after, "at_ms": now_ms})

    def fold(self, state: Any, fact: Fact, stream: int) -> tuple[int, Sequence[Change]]:
        assert fact.payload is not None
        row = (b"row of " + fact.event_id, fact.seq, b"", b"")
        return (state or 0) + fact.payload["by"], [("answer.insert", row)]

    def written(self, portion: Portion) -> None:
        self.told.extend(portion.facts)


class Caller:
    """Sends commands and waits for what they are answered."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.works = engine, engine._works
        self.principal, self.role = "local", "admin"
        self.under_way = self.backlog_bytes = 0
        self.frames: list[bytes] = []
        self.came = threading.Event()

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.came.set()

    def add(self, by: int, event_id: str | None = None, entity: bytes = A_COUNT) -> dict[str, Any]:
        """The reply to one command, decoded."""

        def hand() -> None:
            request = Request(self, 1, self.works.clock.monotonic(), Tally())
            try:
                self.works.desk.counter.command(
                    request, catalog.SYSTEM, entity, by, op="count.add",
                    body=Body(event_id=event_id, by=by),
                )  # fmt: skip
            except PalyraError as refusal:
                request.fail(refusal)

        self.came.clear()
        self.works.loop.call_soon(hand)
        assert self.came.wait(20)
        reply: dict[str, Any] = msgspec.msgpack.decode(self.frames[-1])
        return reply


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Caller]]:
    from palyra_actors.storage import queries

    monkeypatch.setitem(catalog.ENGINE_KINDS, ADD, NUMBER)
    monkeypatch.setitem(catalog.KIND_NAMES, NUMBER, ADD)
    monkeypatch.setitem(clerks.KINDS, catalog.SYSTEM, Count)
    monkeypatch.setitem(
        queries._statements(),
        "test.payloads",
        "SELECT payload FROM events WHERE stream = ? ORDER BY seq",
    )
    monkeypatch.setattr(Count, "told", [])
    engines: list[Engine] = []

    def reopen() -> Caller:
        for engine in engines:
            engine.close()
        engines[:] = [Engine.open(tmp_path / "counts.db")]
        return Caller(engines[0])

    yield reopen
    for engine in engines:
        engine.close()


def _without_timing(reply: Mapping[str, Any]) -> dict[str, Any]:
    ok = dict(reply["ok"])
    assert set(ok.pop("timing")) == {"queued_ms", "commit_ms", "total_ms", "within_budget"}
    return ok


def test_a_command_is_answered_with_what_it_decided_and_its_events_are_in_the_journal(
    opened: Callable[[], Caller],
) -> None:
    caller = opened()
    assert _without_timing(caller.add(7))["total"] == 7
    assert _without_timing(caller.add(5))["total"] == 12
    events = caller.engine.read().events
    assert [(e.kind, e.stream, e.stream_seq, e.payload) for e in events] == [
        (ADD, "system", 1, {"v": 1, "by": 7}),
        (ADD, "system", 2, {"v": 1, "by": 5}),
    ]
    assert {parse_ulid(str(e.session_id)) for e in events} == {SESSION}
    assert caller.engine.verify().valid


def test_its_rows_carry_the_numbers_that_only_the_writer_knows(
    opened: Callable[[], Caller],
) -> None:
    caller = opened()
    caller.engine.append(Event(new_id(), "message_received", {}))
    caller.add(7)
    (told,) = Count.told
    assert told.seq == 2
    rows = caller.works.reading.rows("answer.find", (b"row of " + told.event_id,))
    assert len(rows) == 1


def test_the_state_is_the_same_after_a_restart(opened: Callable[[], Caller]) -> None:
    opened().add(60)
    caller = opened()
    assert caller.add(41)["err"]["detail"] == {"actual": 60}
    assert _without_timing(caller.add(40))["total"] == 100


def test_the_same_request_again_gets_the_first_answer_for_ever(
    opened: Callable[[], Caller],
) -> None:
    event_id = new_id()
    caller = opened()
    first = _without_timing(caller.add(60, event_id))
    caller.add(40)
    again = _without_timing(caller.add(60, event_id))  # refused by itself: it would be 160
    assert again == {**first, "duplicate": True}
    assert _without_timing(opened().add(60, event_id)) == again


def test_a_retry_that_would_be_decided_again_is_not_written_again(
    opened: Callable[[], Caller],
) -> None:
    event_id = new_id()
    caller = opened()
    first = _without_timing(caller.add(3, event_id))
    assert _without_timing(caller.add(3, event_id)) == {**first, "duplicate": True}
    assert _without_timing(caller.add(4))["total"] == 7
    assert caller.engine.head().seq == 2


def test_an_id_with_another_request_is_refused(opened: Callable[[], Caller]) -> None:
    event_id, caller = new_id(), opened()
    caller.add(3, event_id)
    assert caller.add(4, event_id)["err"]["code"] == IdReused.code
    caller.engine.append(Event(new_id(), "message_received", {}, event_id=(other := new_id())))
    assert caller.add(1, other)["err"]["code"] == IdReused.code
    with pytest.raises(IdReused):
        caller.engine.append(Event(new_id(), "message_received", {}, event_id=event_id))
    assert _without_timing(caller.add(0))["total"] == 3


def test_a_command_that_changes_nothing_writes_nothing_and_is_answered(
    opened: Callable[[], Caller],
) -> None:
    caller = opened()
    caller.add(3)
    assert _without_timing(caller.add(0))["total"] == 3
    assert caller.engine.head().seq == 1


def test_what_another_principal_owns_is_not_there(opened: Callable[[], Caller]) -> None:
    caller = opened()
    caller.add(3)
    caller.principal, caller.role = "other", "writer"
    assert caller.add(4)["err"]["code"] == NotFound.code
    caller.role = "admin"
    assert _without_timing(caller.add(4))["total"] == 7


def test_a_row_that_contradicts_the_file_fails_its_own_request_only(
    opened: Callable[[], Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = opened()

    def fold(self: Any, state: Any, fact: Fact, stream: int) -> tuple[int, Sequence[Change]]:
        return (state or 0) + fact.payload["by"], [  # type: ignore[index]
            ("answer.insert", (b"the same", fact.seq, b"", b""))
        ]

    monkeypatch.setattr(Count, "fold", fold)
    caller.add(1)
    assert caller.add(1)["err"]["code"] == "internal"
    monkeypatch.undo()
    assert caller.engine.append(Event(new_id(), "message_received", {})).results[0].seq == 2
