"""The engine without its threads: who turns it decides when each of them would have run."""

import gc
import threading
import weakref
from pathlib import Path
from types import FunctionType
from typing import Any

import msgpack
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.engine import Engine, Works
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop, Pool
from palyra_actors.testing.clock import ManualClock


class Noting(PooledActor):
    def __init__(self, dispatcher: Any, notes: list[str]) -> None:
        super().__init__(dispatcher)
        self.notes = notes

    def on_receive(self, message: Any) -> None:
        self.notes.append(message)


class Caller:
    """A peer that keeps what it is sent."""

    principal, role = "local", "admin"

    def __init__(self) -> None:
        self.under_way = self.backlog_bytes = 0
        self.replies: list[Any] = []

    def send(self, frame: bytes) -> None:
        self.replies.append(msgpack.unpackb(frame))


def test_a_loop_that_was_never_started_runs_a_round_where_it_is_told_to(clock: ManualClock) -> None:
    loop, notes = Loop("stepped", clock), list[str]()
    actor = Noting.launch(loop, notes)
    loop.call_later(1.0, lambda: notes.append("timer"))
    assert (loop.busy, loop.next_timer) == (False, clock.monotonic() + 1.0)
    actor.actor_ref.tell("turn")
    loop.call_soon(lambda: notes.append("call"))
    assert loop.busy
    loop.step()
    assert notes == ["call", "turn"]
    clock.turn(1_000)
    loop.step()
    assert notes == ["call", "turn", "timer"]
    assert (loop.busy, loop.next_timer) == (False, None)
    actor.unlist()
    assert loop.stop(0.0)


def test_a_pool_that_was_never_started_gives_one_turn_a_step() -> None:
    pool, notes = Pool("stepped", 2), list[str]()
    actors = [Noting.launch(pool, notes) for _ in range(2)]
    assert not pool.step()
    for number, actor in enumerate(actors):
        actor.actor_ref.tell(f"of {number}")
    assert pool.busy
    assert pool.step()
    assert notes == ["of 0"]
    assert pool.step()
    assert notes == ["of 0", "of 1"]
    assert not pool.step()
    for actor in actors:
        actor.unlist()
    assert pool.stop(0.0)


def test_an_engine_without_threads_writes_and_reads_when_it_is_stepped(
    tmp_path: Path, clock: ManualClock
) -> None:
    threads = threading.active_count()
    works, caller = Works(tmp_path / "stepped.db", Config(), clock, None), Caller()
    works.begin()
    body = {"session_key": "a", "title": "stepped"}
    for number, op in enumerate(("session.resolve", "session.list")):
        frame = {"v": 1, "id": number, "op": op, "body": body if not number else {}}
        works.desk.serve(((caller, msgpack.packb(frame)),))
        works.loop.step()
        assert len(caller.replies) == number, "nothing happens by itself"
        works.writer.committer.step()
        while works.pool.step():
            pass
        works.loop.step()
    resolved, listed = (reply["ok"] for reply in caller.replies)
    assert resolved["created"]
    assert [one["title"] for one in listed["sessions"]] == ["stepped"]
    assert works.checkpoints.look(0.0) > 0.0
    works.checkpoints.drop()
    quiet: list[bool] = []
    works.wind_down(lambda: quiet.append(True))
    works.loop.step()
    assert quiet
    assert works.shut(0.0)
    assert threading.active_count() == threads


def test_a_refused_patch_leaves_nothing_of_its_work_in_memory(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Else it stays until the collector comes, and what many of them left holds up the loop."""
    works, caller = Works(tmp_path / "refused.db", Config(), clock, None), Caller()
    works.begin()
    canvas, size = new_id(), 12_345

    def call(op: str, body: dict[str, Any]) -> dict[str, Any]:
        works.desk.serve(((caller, msgpack.packb({"v": 1, "id": 1, "op": op, "body": body})),))
        while not caller.replies:
            works.loop.step()
            works.writer.committer.step()
        reply: dict[str, Any] = caller.replies.pop()
        return reply

    def lists() -> int:
        return sum(type(one) is list and len(one) == size for one in gc.get_objects())

    state = {"list": [0] * size}
    assert "ok" in call("canvas.create", {
        "canvas_id": canvas, "session_id": new_id(), "state": state,
    })  # fmt: skip
    gc.collect()
    before = lists()
    gc.disable()
    try:
        for _ in range(3):
            refused = call("canvas.patch", {"canvas_id": canvas, "expected_version": 1, "patch": [
                {"op": "replace", "path": "/list/0", "value": 1}, {"op": "remove", "path": "/none"},
            ]})  # fmt: skip
            assert refused["err"]["detail"] == {"index": 1}
        assert lists() == before
    finally:
        gc.enable()
    works.checkpoints.drop()
    works.wind_down(lambda: None)
    works.loop.step()
    assert works.shut(0.0)


def test_who_writes_little_comes_in_beside_anothers_large_writes(
    tmp_path: Path, clock: ManualClock
) -> None:
    works, large, small = Works(tmp_path / "l.db", Config(), clock, None), Caller(), Caller()
    works.begin()

    def create(size: int) -> bytes:
        body = {"canvas_id": new_id(), "session_id": new_id(), "state": {"text": "x" * size}}
        frame = {"v": 1, "id": 1, "op": "canvas.create", "body": body}
        packed: bytes = msgpack.packb(frame)
        return packed

    frames = [(large, create(100_000)) for _ in range(8)]
    works.desk.serve([*frames, (small, create(10))])
    while not small.replies:
        works.loop.step()
        works.writer.committer.step()
    assert "ok" in small.replies[0]
    before = sum("ok" in reply for reply in large.replies)
    assert 1 <= before <= 2, "with a slice of the round's, not behind them"
    works.checkpoints.drop()
    works.wind_down(lambda: None)
    while large.under_way:
        works.loop.step()
        works.writer.committer.step()
    assert works.shut(0.0)


def test_an_engine_that_stops_begins_no_run_of_a_job(tmp_path: Path, clock: ManualClock) -> None:
    """No worker would hear of it, and the writer that is waited for would not come to rest."""
    works, caller = Works(tmp_path / "jobs.db", Config(), clock, None), Caller()
    works.begin()

    def go_on() -> None:
        works.loop.step()
        works.writer.committer.step()
        while works.pool.step():
            pass

    job = {"name": "n", "schedule": {"every_ms": 100}, "concurrency_policy": "replace"}
    works.desk.serve(
        ((caller, msgpack.packb({"v": 1, "id": 1, "op": "cron.create", "body": job})),)
    )
    while not caller.replies:
        go_on()
    clock.turn(100)
    while not works.desk.counter.jobs()["woken"]:
        go_on()
    for _ in range(10):
        go_on()
    works.checkpoints.drop()
    works.wind_down(lambda: None)
    works.loop.step()
    for _ in range(20):
        clock.turn(100)
        go_on()
    assert works.desk.counter.jobs()["woken"] == 1
    assert works.shut(0.0)


def test_an_erasure_leaves_nothing_for_the_collector(tmp_path: Path) -> None:
    """A process that is an engine and nothing else hardly ever lets it look."""
    with Engine.open(tmp_path / "erased.db") as engine:

        def erase() -> None:
            session = engine.sessions.open()
            session.append("x.a", {}, actor="user", budget_ms=0)
            session.erase()

        erase()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                erase()
            gc.collect()
            left = [one.__qualname__ for one in gc.garbage if isinstance(one, FunctionType)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert left == []


def test_a_closed_engine_leaves_nothing_of_itself_in_memory(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "left.db")
    works = weakref.ref(engine._works)
    engine.close()
    del engine
    gc.collect()
    assert works() is None


def test_while_a_client_writes_jobs_that_are_behind_leave_the_loop_half_of_the_time(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palyra_actors.actors.writer.COMMIT_HERE", False)
    works, caller = Works(tmp_path / "jobs.db", Config(), clock, None), Caller()
    works.begin()

    def go_on(ms: int) -> int:
        """How often the job was woken meanwhile, where a round takes a millisecond."""
        before = works.desk.counter.jobs()["woken"]
        for _ in range(ms):
            works.loop.step()
            clock.turn(1)
            works.writer.committer.step()
            while works.pool.step():
                pass
        return works.desk.counter.jobs()["woken"] - before

    def ask(op: str, body: object) -> None:
        works.desk.serve(((caller, msgpack.packb({"v": 1, "id": 1, "op": op, "body": body})),))

    go_on(50)
    ask("cron.create", {"name": "n", "schedule": {"every_ms": 10}, "misfire_grace_ms": 600_000})
    go_on(20)
    clock.turn(60_000)
    alone = go_on(100)
    assert works.desk.counter.jobs()["behind"] == 1
    ask("session.resolve", {})
    beside = go_on(100)
    assert 0 < 2 * beside <= alone + 1
    go_on(1_000)  # nobody has come for a second
    assert go_on(100) == alone
    works.checkpoints.drop()
    works.wind_down(lambda: None)
    go_on(20)
    assert works.shut(0.0)
