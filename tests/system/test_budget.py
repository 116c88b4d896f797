"""The budget is kept, on a disk that stalls on command."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import router
from palyra_actors.actors.steering import Controller, Times, load_of
from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.runtime import gathering
from palyra_actors.testing.clock import ManualClock
from palyra_actors.testing.faults import FaultVFS, Operation
from tests.system.harness import DEADLINE_S, House, Wire, event, eventually, house, pack

BUDGET_MS = 400
"""Long enough for a machine that runs other things; the stalls here last until they are ended."""


class Disk:
    """A disk whose WAL syncs wait while the gate is shut. `stuck`: one waits."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.stuck = threading.Event()
        self.gate.set()

    def before(self, operation: Operation) -> None:
        if operation.action == "sync" and operation.kind == "wal" and not self.gate.is_set():
            self.stuck.set()
            assert self.gate.wait(DEADLINE_S)

    def stall(self) -> None:
        self.stuck.clear()
        self.gate.clear()


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    with FaultVFS("stalling", before=made.before):
        yield made
        made.gate.set()


@pytest.fixture
def home(tmp_path: Path, disk: Disk) -> Iterator[House]:
    config = Config().replaced("budget", write_ms=BUDGET_MS)
    with house(tmp_path, config, vfs="stalling") as opened:
        yield opened
        disk.gate.set()


LOAD_S = 15e-6
"""What load costs on a machine of which so many of these are more than may be under way."""

LARGE = {"text": "x" * 8_000}
"""So that some hundred of them are more than may be under way."""


def append(wire: Wire, session: str, **envelope: Any) -> Any:
    made = event(session, payload=LARGE) if "budget_ms" in envelope else event(session)
    return wire.send("journal.append", {"events": [made]}, **envelope)


def stalled(home: House, disk: Disk) -> tuple[Wire, Any]:
    """A connection whose write is in a commit that does not end."""
    wire = home.connect()
    wire.append(event(new_id()))
    wire.append(event(new_id()))
    disk.stall()
    sent = [append(wire, new_id()) for _ in range(2)]  # two: one alone is the loop's own commit
    assert disk.stuck.wait(DEADLINE_S)
    home.engine._works.controller.plan.load_s = LOAD_S
    return wire, sent


def degraded(wire: Wire) -> list[str]:
    """The reasons, once the engine says that it is degraded."""
    while True:
        health = wire.ok("engine.health")
        if health["status"] == "degraded":
            return list(health["reasons"])


def test_while_the_disk_stalls_writes_are_refused_and_told_when_to_come_back(
    home: House, disk: Disk
) -> None:
    wire, in_flight = stalled(home, disk)
    other = home.connect()
    head = other.head()
    reasons = degraded(other)
    assert "stalls" in reasons[0]
    for _ in range(20):
        error = other.err("journal.append", {"events": [event(new_id())]})
        assert error["code"] == "overloaded"
        assert error["retryable"] is True
        assert 1 <= error["retry_after_ms"] <= 1000
    assert other.head() == head
    disk.gate.set()
    answers = {reply["id"]: reply for reply in (wire.receive(), wire.receive())}
    assert set(answers) == set(in_flight)
    late = [reply for reply in answers.values() if "ok" in reply]
    assert late, "what was in the commit is stored"
    assert not any(reply["ok"]["timing"]["within_budget"] for reply in late)
    for reply in answers.values():
        assert "ok" in reply or reply["err"]["code"] == "overloaded"
    assert other.head()[0] == head[0] + len(late)


def test_the_engine_is_ready_again_once_the_disk_is(home: House, disk: Disk) -> None:
    wire, _ = stalled(home, disk)
    other = home.connect()
    degraded(other)
    disk.gate.set()
    wire.receive(), wire.receive()

    def well() -> bool:
        """Another write is stored in time, and nothing is wrong. A busy machine refuses some."""
        reply = other.call("journal.append", {"events": [event(new_id())]})
        health = other.ok("engine.health")
        return (
            "ok" in reply
            and bool(reply["ok"]["timing"]["within_budget"])
            and health == {"status": "ready", "reasons": []}
        )

    eventually(other, lambda _: well())


def test_what_waited_too_long_behind_a_stall_is_refused_before_the_stall_ends(
    home: House, disk: Disk
) -> None:
    wire, _ = stalled(home, disk)
    queued = home.connect()
    refused = [new_id() for _ in range(8)]
    ids = [append(queued, session) for session in refused]
    replies = [queued.receive() for _ in ids]
    assert not disk.gate.is_set()
    assert {reply["id"] for reply in replies} == set(ids)
    assert {reply["err"]["code"] for reply in replies} == {"overloaded"}
    disk.gate.set()
    wire.receive(), wire.receive()
    append(queued, new_id(), budget_ms=0)
    queued.receive()  # whatever was queued before it is written by now
    stored = {one["session_id"] for one in queued.ok("journal.read")["events"]}
    assert stored.isdisjoint(refused)


@pytest.mark.parametrize("which", ["chore", "checkpoint"])
def test_what_waited_too_long_behind_other_work_on_the_file_is_refused_before_that_ends(
    home: House, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, wire = home.engine._works, home.connect()
    gate, stuck, over = threading.Event(), threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        stuck.set()
        gate.wait(DEADLINE_S / 2)
        over.set()

    try:
        if which == "chore":
            works.loop.call_soon(lambda: works.writer.chore(wait))
        else:
            monkeypatch.setattr(works.writer._storage, "tidy", wait)
            works.writer.tidy()
            assert works.controller.plan.pause_s > 0, "whoever comes now has to bear the pause"
            append(home.connect(), new_id())  # it is done before the next group
        assert stuck.wait(DEADLINE_S)
        ids = [append(wire, new_id()) for _ in range(8)]
        replies = [wire.receive() for _ in ids]
        assert {reply["id"] for reply in replies} == set(ids)
        assert {reply["err"]["code"] for reply in replies} == {"overloaded"}
        assert not over.is_set()
        assert works.controller.plan.pausing is (which == "checkpoint")
        assert works.controller.plan.pause_s == 0
    finally:
        gate.set()
    eventually(wire, lambda stats: not works.controller.plan.pausing)


def test_a_bulk_load_waits_for_room_and_is_written_in_the_order_in_which_it_was_sent(
    home: House, disk: Disk
) -> None:
    stalled(home, disk)
    bulk, session = home.connect(), new_id()
    ids = [append(bulk, session, budget_ms=0) for _ in range(300)]
    eventually(home.connect(), lambda stats: stats["admission"]["lobby"] > 0)
    assert not bulk.socket.poll(0), "none is refused"
    disk.gate.set()
    numbers = {}
    for _ in ids:
        reply = bulk.receive()
        numbers[reply["id"]] = reply["ok"]["results"][0]["session_seq"]
    assert [numbers[request_id] for request_id in ids] == list(range(1, 301))


def test_a_write_with_a_long_budget_waits_as_long_as_that_says(home: House, disk: Disk) -> None:
    wire, _ = stalled(home, disk)
    patient = home.connect()
    append(patient, new_id(), budget_ms=2 * BUDGET_MS)
    assert patient.receive()["err"]["code"] == "overloaded"
    assert not disk.gate.is_set()
    append(patient, new_id(), budget_ms=600_000)
    eventually(home.connect(), lambda stats: stats["admission"]["load"] > 0)
    disk.gate.set()
    assert "ok" in patient.receive()
    wire.receive(), wire.receive()


def test_every_request_is_counted_once_whatever_became_of_it(home: House, disk: Disk) -> None:
    wire, _ = stalled(home, disk)
    other, gone = home.connect(), home.connect()
    for _ in range(5):
        other.err("journal.append", {"events": [event(new_id())]})
    for _ in range(200):
        append(gone, new_id(), budget_ms=0)
    eventually(other, lambda stats: stats["admission"]["lobby"] > 100)
    disk.gate.set()
    wire.receive(), wire.receive()
    for _ in range(200):
        gone.receive()
    requests = other.ok("engine.stats")["requests"]
    asked = 1  # the question itself is not answered yet
    assert requests["received"] - asked == sum(
        requests[what] for what in ("ok", "refused", "unknown", "closed")
    )
    assert requests["refused"] >= 5


FLOOD = 3_000
"""Large ones: more than may wait, however little load is expected to cost."""


@pytest.fixture(params=[True, False])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the door has its compiled half; for an engine that is opened after this."""
    if not request.param:
        monkeypatch.setattr(router, "compiled", None)
    elif router.compiled is None:
        pytest.skip("no compiler when it was installed")
    return bool(request.param)


def test_of_a_flood_each_request_is_answered_once_and_told_when_to_come_back(
    compiled: bool, home: House, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_early: list[int] = []
    collect = router.Porter.collect

    def watched(*arguments: Any) -> Any:
        found = collect(*arguments)
        refused_early.append(sum(one.frames for one in found.refused))
        return found

    monkeypatch.setattr(router.Porter, "collect", watched)
    wire, _ = stalled(home, disk)
    flood, polite = home.connect(), home.connect()
    body = {"events": [event(new_id(), payload=LARGE)]}
    sent = [flood.send("journal.append", body) for _ in range(FLOOD)]
    head = polite.send("journal.head", {})
    answers = [flood.receive() for _ in range(FLOOD)]
    assert polite.receive()["id"] == head, "what is no append is answered meanwhile"
    assert sorted(one["id"] for one in answers) == sorted(sent)
    for one in answers:
        assert one["err"]["code"] == "overloaded"
        assert one["err"]["retryable"] is True
        assert 1 <= one["err"]["retry_after_ms"] <= 1_000
    assert (sum(refused_early) > 0) is compiled
    disk.gate.set()
    wire.receive(), wire.receive()
    requests = polite.ok("engine.stats")["requests"]
    assert requests["refused"] >= FLOOD
    assert requests["received"] - 1 == sum(
        requests[what] for what in ("ok", "refused", "unknown", "closed")
    )


def test_who_refuses_a_flood_shares_a_processor_until_it_is_over(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if router.compiled is None:
        pytest.skip("no compiler when it was installed")
    moved: dict[int, set[int]] = {}

    class Two:
        def here(self) -> int:
            return 0

        def of(self, thread: int) -> set[int]:
            return moved.get(thread, {0, 1})

        def put(self, thread: int, processors: set[int]) -> None:
            moved[thread] = processors

    monkeypatch.setattr(gathering, "LinuxProcessors", Two)
    monkeypatch.setattr(gathering, "LOOK_S", 0.0)
    monkeypatch.setattr(gathering, "MUCH", 1)
    monkeypatch.setattr(gathering, "APART_AFTER_S", 0.0)
    with house(tmp_path, Config().replaced("budget", write_ms=BUDGET_MS), vfs="stalling") as home:
        stalled(home, disk)
        flood = home.connect()
        body = {"events": [event(new_id(), payload=LARGE)]}
        sent = [flood.send("journal.append", body) for _ in range(FLOOD)]
        assert sorted(flood.receive()["id"] for _ in range(FLOOD)) == sorted(sent)
        names = {Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in moved}
        numbers = {name.partition("/")[0] for name in names}
        assert {name.partition("/")[2] for name in names} >= {"ZMQbg/IO/0", "porter"}
        assert len(numbers) == 1, "of this door alone"
        eventually(home.connect(), lambda _: set(map(len, moved.values())) == {2})
        disk.gate.set()


def test_all_that_is_sent_again_tells_what_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Times] = []
    monkeypatch.setattr(Controller, "judge", lambda _, one: judged.append(one.times))
    bodies = [{"events": [event(new_id())]} for _ in range(40)]
    with house(tmp_path) as home:
        wire = home.connect()
        for body in bodies:
            wire.ok("journal.append", body)
        assert not judged
        for body in bodies:
            wire.send("journal.append", body)
        assert all("ok" in wire.receive() for _ in bodies)
    frame = len(pack({"v": 1, "id": 1, "op": "journal.append", "body": bodies[0]}))
    assert sum(one.load for one in judged) == len(bodies) * load_of(frame)
    assert all(0 < one.busy_s < DEADLINE_S for one in judged)


def test_an_engine_that_stops_refuses_what_waits_at_the_door(home: House, disk: Disk) -> None:
    stalled(home, disk)
    bulk = home.connect()
    ids = [append(bulk, new_id(), budget_ms=0) for _ in range(200)]
    eventually(home.connect(), lambda stats: stats["admission"]["lobby"] > 0)
    stopping = threading.Thread(target=home.engine.close)
    stopping.start()
    refused = bulk.receive()
    assert refused["err"]["code"] == "unavailable"
    assert refused["err"]["detail"]["outcome"] == "none"
    disk.gate.set()
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()
    assert len(ids) == 200


def test_the_time_of_a_clock_that_was_handed_in_is_the_only_one_that_counts(tmp_path: Path) -> None:
    for now_s in (1.0, time.monotonic() + 1e6):
        clock = ManualClock(monotonic=now_s)
        with house(tmp_path / str(now_s), clock=clock, config=Config()) as home:
            wire = home.connect()
            for _ in range(20):
                wire.append(event(new_id()))
            ids = {append(wire, new_id()) for _ in range(64)}
            replies = [wire.receive() for _ in ids]
            assert {reply["id"] for reply in replies} == ids
            spans = [reply["ok"]["timing"]["total_ms"] for reply in replies]
            assert set(spans) == {0.0}
