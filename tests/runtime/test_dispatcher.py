"""Rounds, turns, timers and their threads' end."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from palyra_actors.clock import SystemClock
from palyra_actors.runtime import dispatcher
from palyra_actors.runtime.actor import PooledActor
from palyra_actors.runtime.dispatcher import Loop, Pool
from palyra_actors.runtime.wakeup import Wakeup
from palyra_actors.testing.clock import ManualClock

DEADLINE_S = 20.0


class Noting(PooledActor):
    """Writes its name into a list for each message."""

    def __init__(self, dispatcher: Any, name: str, notes: list[str]) -> None:
        super().__init__(dispatcher)
        self.name = name
        self.notes = notes

    def on_receive(self, message: Any) -> None:
        self.notes.append(self.name)


class LateNoting(Noting):
    late: ClassVar[bool] = True


@pytest.fixture
def loop(clock: ManualClock) -> Iterator[Loop]:
    """A loop on a clock that the test turns, its thread not started yet."""
    made = Loop("test-loop", clock, turn_messages_max=3)
    yield made
    assert made.stop(DEADLINE_S)


def _run(loop: Loop, call: Callable[[], Any]) -> Any:
    """What `call` returns when the loop's thread calls it."""
    done = threading.Event()
    result: list[Any] = []

    def run() -> None:
        result.append(call())
        done.set()

    loop.call_soon(run)
    assert done.wait(DEADLINE_S)
    return result[0]


def _settle(loop: Loop) -> None:
    """Two rounds have begun: whatever was ready before has had its turn."""
    _run(loop, lambda: None)
    _run(loop, lambda: None)


def test_a_turn_handles_only_so_many_messages_and_then_the_next_actor_has_one(loop: Loop) -> None:
    notes: list[str] = []
    busy, other = Noting.launch(loop, "busy", notes), Noting.launch(loop, "other", notes)
    for _ in range(7):
        busy.actor_ref.tell(1)
    other.actor_ref.tell(1)
    loop.start()
    while len(notes) < 8:
        _settle(loop)
    assert notes == ["busy"] * 3 + ["other"] + ["busy"] * 4


def test_late_actors_have_their_turn_after_all_others_of_the_round(loop: Loop) -> None:
    notes: list[str] = []
    late = LateNoting.launch(loop, "late", notes)
    early = [Noting.launch(loop, f"early {n}", notes) for n in range(3)]
    late.actor_ref.tell(1)
    for actor in early:
        actor.actor_ref.tell(1)
    loop.start()
    while len(notes) < 4:
        _settle(loop)
    assert notes == ["early 0", "early 1", "early 2", "late"]


def test_replies_leave_at_the_end_of_each_round(loop: Loop) -> None:
    notes: list[str] = []
    actor, late = Noting.launch(loop, "turn", notes), LateNoting.launch(loop, "late", notes)
    loop.after_round(lambda: notes.append("end of round"))
    late.actor_ref.tell(1)
    actor.actor_ref.tell(1)
    loop.start()
    while notes.count("end of round") < 1 or len(notes) < 3:
        _settle(loop)
    assert notes[:3] == ["turn", "late", "end of round"]


def test_calls_of_other_threads_run_in_the_loops_own_in_order(loop: Loop) -> None:
    loop.start()
    seen: list[tuple[int, bool]] = []
    for number in range(100):
        loop.call_soon(lambda number=number: seen.append((number, loop.running_here)))  # type: ignore[misc]
    _settle(loop)
    assert seen == [(number, True) for number in range(100)]
    assert not loop.running_here


def test_a_sleeping_loop_wakes_for_every_call(loop: Loop) -> None:
    loop.start()
    for number in range(300):
        assert _run(loop, lambda number=number: number) == number  # type: ignore[misc]


def test_timers_ring_in_the_order_of_their_moments_and_not_before(
    loop: Loop, clock: ManualClock
) -> None:
    loop.start()
    rung: list[str] = []

    def ring(name: str) -> Callable[[], None]:
        return lambda: rung.append(name)

    def set_all() -> None:
        loop.call_later(0.3, ring("third"))
        loop.call_later(0.1, ring("first"))
        loop.call_later(0.2, ring("second"))
        loop.call_later(0.2, ring("second, set later"))
        loop.call_later(0.15, ring("cancelled")).cancel()

    _run(loop, set_all)
    _settle(loop)
    assert rung == []
    clock.turn(99)
    _settle(loop)
    assert rung == []
    clock.turn(1.5)
    _settle(loop)
    assert rung == ["first"]
    clock.turn(1000)
    _settle(loop)
    assert rung == ["first", "second", "second, set later", "third"]


def test_a_timer_of_a_sleeping_loop_rings_by_itself() -> None:
    loop = Loop("test-loop", SystemClock())
    rung = threading.Event()
    loop.call_later(0.01, rung.set)
    loop.start()
    assert rung.wait(DEADLINE_S)
    assert loop.stop(DEADLINE_S)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_a_call_that_fails_does_not_end_the_loop(
    loop: Loop, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    loop.start()
    with caplog.at_level(logging.CRITICAL):
        loop.call_soon(fail)
        assert _run(loop, lambda: "alive") == "alive"
        _settle(loop)  # it is said at the round's end
    assert "a round of test-loop failed" in caplog.text


def test_replies_still_leave_after_a_call_that_failed(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "WAIT_MS_MAX", 10_000_000)
    flushed = threading.Event()

    def fail() -> None:
        loop.after_round(flushed.set)
        raise ValueError("x")

    loop.start()
    loop.call_soon(fail)
    assert flushed.wait(DEADLINE_S)


def test_a_loop_that_stops_lets_its_round_end(loop: Loop) -> None:
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(DEADLINE_S)
        ended.set()

    loop.start()
    loop.call_soon(work)
    assert begun.wait(DEADLINE_S)
    assert not loop.stop(0.0)
    gate.set()
    other = Loop("never started", SystemClock())
    assert other.stop(DEADLINE_S)
    assert ended.wait(DEADLINE_S)


def test_a_source_is_waited_for_and_asked_once_a_round(loop: Loop) -> None:
    class Source:
        def __init__(self) -> None:
            self.received = 0
            self.waited = 0

        def wait(self, wakeup: Wakeup, wait_ms_max: int) -> None:
            self.waited += 1
            wakeup.wait(wait_ms_max)

        def receive(self) -> None:
            self.received += 1

    source = Source()
    loop.start()
    _run(loop, lambda: loop.attach(source))
    received = _run(loop, lambda: source.received)
    assert _run(loop, lambda: source.received) > received
    _run(loop, loop.detach)
    _settle(loop)
    received = source.received
    _settle(loop)
    assert source.received == received


def test_statistics_count_turns_and_who_waits(loop: Loop) -> None:
    notes: list[str] = []
    actors = [Noting.launch(loop, "a", notes) for _ in range(4)]
    for actor in actors:
        actor.actor_ref.tell(1)
    assert loop.statistics().ready == 4
    loop.start()
    _settle(loop)
    statistics = loop.statistics()
    assert (statistics.threads, statistics.turns, statistics.ready) == (1, 4, 0)


def test_a_pool_gives_turns_at_once_up_to_its_threads() -> None:
    pool = Pool("test-pool", 3)
    pool.start()
    together = threading.Barrier(3)

    class Meeting(PooledActor):
        def on_receive(self, message: Any) -> Any:
            return together.wait(DEADLINE_S) >= 0

    actors = [Meeting.launch(pool) for _ in range(3)]
    futures = [actor.actor_ref.ask(1, block=False) for actor in actors]
    assert [future.get(timeout=DEADLINE_S) for future in futures] == [True] * 3
    assert pool.statistics().threads == 3
    assert pool.stop(DEADLINE_S)


def test_a_pool_that_stops_lets_its_turns_end() -> None:
    pool = Pool("test-pool", 2)
    pool.start()
    begun, gate, notes = threading.Event(), threading.Event(), []

    class Slow(PooledActor):
        def on_receive(self, message: Any) -> None:
            begun.set()
            gate.wait(DEADLINE_S)
            notes.append(message)

    actor = Slow.launch(pool)
    actor.actor_ref.tell("done")
    assert begun.wait(DEADLINE_S)
    assert not pool.stop(0.0)
    gate.set()
    assert pool.stop(DEADLINE_S)
    assert notes == ["done"]


def test_many_threads_may_ring_one_sleeper() -> None:
    wakeup = Wakeup()
    for _ in range(3):
        wakeup.ring()
    wakeup.wait(-1)  # all of them at once
    threads = [threading.Thread(target=wakeup.ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    wakeup.wait(-1)
    for thread in threads:
        thread.join()
    wakeup.close()
