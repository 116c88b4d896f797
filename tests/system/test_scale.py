"""Many sessions: memory and threads stay bounded, and what leaves memory comes back equal.

Memory is measured in a process of its own, which is this file run as a program.
"""

import json
import random
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from palyra_actors.actors.desk import SLICE_LOAD_MAX
from palyra_actors.actors.group import SHARE_EVENTS_MAX
from palyra_actors.actors.session import RUNS_RESIDENT_MAX
from palyra_actors.actors.steering import load_of
from palyra_actors.api.events import Event, new_id
from palyra_actors.config import ActorsConfig, BudgetConfig, Config
from palyra_actors.engine import Engine
from palyra_actors.errors import InvalidTransition, TooLarge

if TYPE_CHECKING:  # run as a program, this file is no part of a package
    from tests.figures import Tell

RSS_BYTES_MAX = 400 * 1024 * 1024
CHILD_SECONDS_MAX = 110


def keeping(resident_max: int) -> Config:
    return Config(actors=ActorsConfig(resident_max=resident_max))


def in_turn(sessions: list[str], rounds: Iterable[int]) -> Iterable[Event]:
    """One event a session and round, each saying which one it is."""
    for number in rounds:
        for place, session in enumerate(sessions):
            yield Event(session, "message_received", {"round": number, "place": place})


def history(engine: Engine) -> dict[str, list[tuple[int, Any]]]:
    """(session_seq, payload) of every event, by session, in `seq` order."""
    found: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for event in engine.events():
        found[str(event.session_id)].append((event.stream_seq, event.payload))
    return found


def in_a_process_of_its_own(database: Path, sessions: int, rounds: int) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, __file__, str(database), str(sessions), str(rounds)],
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS_MAX,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def test_ten_thousand_awake_appended_to_in_turn_take_400_mb_and_no_thread_more(
    database: Path, campaign: bool, figure: "Tell"
) -> None:
    result = in_a_process_of_its_own(database, 10_000, 20 if campaign else 2)

    rss_mib = result["rss_bytes_max"] / (1 << 20)
    figure(9, "of memory with 10,000 sessions", rss_mib, "MiB", most=RSS_BYTES_MAX / (1 << 20))
    more = result["threads_with_all"] - result["threads_with_one"]
    figure(9, "threads more with all of them", more, most=0)
    assert result["resident"] == 10_000
    assert result["passivated"] == 0
    assert result["rss_bytes_max"] <= RSS_BYTES_MAX
    assert result["threads_with_all"] == result["threads_with_one"]


def test_sessions_that_left_memory_go_on_where_they_were(
    database: Path, campaign: bool, figure: "Tell"
) -> None:
    sessions = [new_id() for _ in range(10_000 if campaign else 600)]
    resident_max = len(sessions) // 10
    rounds = 3
    with Engine.open(database, keeping(resident_max)) as engine:
        engine.append_many(in_turn(sessions, range(rounds)), events_max=16)
        actors = engine.stats().raw["actors"]
        found = history(engine)
        verified = engine.verify()

    over = actors["resident"] - resident_max
    figure(9, "sessions in memory beyond their cap", over, most=0)
    assert actors["resident"] == resident_max
    assert actors["activated"] == rounds * len(sessions)
    assert actors["passivated"] == actors["activated"] - resident_max
    assert found == {
        session: [(n + 1, {"round": n, "place": place}) for n in range(rounds)]
        for place, session in enumerate(sessions)
    }
    assert verified.valid
    assert verified.checked == rounds * len(sessions)


def test_a_session_remembers_its_runs_and_ids_after_it_left_memory(database: Path) -> None:
    session, run = new_id(), new_id()
    first = Event(session, "message_received", {"n": 1}, run_id=run)
    end = Event(session, "run_completed", {}, run_id=run)
    with Engine.open(database, keeping(1)) as engine:
        once = engine.append([first, end])
        engine.append(Event(new_id(), "message_received", {}))
        assert engine.stats().raw["actors"]["passivated"] == 1
        again = engine.append([first, end])
        engine.append(Event(new_id(), "message_received", {}))
        after = engine.append(Event(session, "message_received", {"n": 2}), expected_session_seq=2)

    assert [r.hash for r in again.results] == [r.hash for r in once.results]
    assert all(r.duplicate for r in again.results)
    assert after.results[0].session_seq == 3


def test_one_request_never_lets_go_of_a_session_that_it_names_itself(database: Path) -> None:
    """That session would wake again beside itself, and both would give the same numbers."""
    sessions = [new_id() for _ in range(18)]

    def append_to_some(engine: Engine, seed: int) -> int:
        choose, sent = random.Random(seed), 0
        for number in range(50):
            some = choose.sample(sessions, choose.choice((1, 2, 10, 12)))
            engine.append(list(in_turn(some, [number])), budget_ms=0)
            sent += len(some)
        return sent

    with Engine.open(database, keeping(12)) as engine, ThreadPoolExecutor(6) as callers:
        sent = sum(callers.map(append_to_some, [engine] * 6, range(6)))
        found = history(engine)
        for events in found.values():
            assert [number for number, _ in events] == list(range(1, len(events) + 1))
        assert sum(map(len, found.values())) == sent

        with pytest.raises(TooLarge) as refused:  # more than fit can never be served
            engine.append(list(in_turn(sessions, [0])))
        assert refused.value.detail["limit"] == 12
        assert engine.head().seq == sent


def test_idle_sessions_leave_memory_by_themselves(database: Path) -> None:
    config = Config(actors=ActorsConfig(idle_seconds=0.001))
    sessions = [new_id() for _ in range(300)]
    with Engine.open(database, config) as engine:
        engine.append(list(in_turn(sessions, range(1))))
        gone = threading.Event()
        for _ in range(600):
            if engine.stats().raw["actors"]["resident"] == 0:
                break
            gone.wait(0.05)
        assert engine.stats().raw["actors"]["resident"] == 0
        again = engine.append(list(in_turn(sessions, range(1, 2))))

    assert Counter(result.session_seq for result in again.results) == {2: 300}


def append_frame(number: int, session: str, events: int = 1) -> bytes:
    body = {"events": [Event(session, "message_received", {}).to_wire() for _ in range(events)]}
    return msgspec.msgpack.encode(
        {"v": 1, "id": number, "op": "journal.append", "body": body, "budget_ms": 0}
    )


class Inbox:
    """A peer of the desk that keeps its answers, in their order."""

    principal = "local"
    role = "admin"

    def __init__(self, answers_wanted: int) -> None:
        self.under_way = self.backlog_bytes = 0
        self.answers: list[dict[str, Any]] = []
        self._answers_wanted = answers_wanted
        self._all = threading.Event()

    def send(self, frame: bytes) -> None:
        self.answers.append(msgspec.msgpack.decode(frame))
        if len(self.answers) == self._answers_wanted:
            self._all.set()

    def wait(self) -> None:
        assert self._all.wait(30), f"{len(self.answers)} of {self._answers_wanted} answers came"


def served_at_once(engine: Engine, frames: list[bytes]) -> list[dict[str, Any]]:
    """The answers to frames that all arrive before the first of them is written."""
    works, inbox = engine._works, Inbox(len(frames))
    works.loop.call_soon(lambda: works.desk.serve([(inbox, frame) for frame in frames]))
    inbox.wait()
    return inbox.answers


@pytest.mark.parametrize("events", [1, 16, 200])
def test_what_a_hot_session_has_in_flight_is_not_written_before_the_others_requests(
    database: Path, events: int
) -> None:
    hot, others = new_id(), [new_id() for _ in range(5)]
    flood = [append_frame(number, hot, events) for number in range(2000 // events)]
    polite = [append_frame(10_000 + number, other) for number, other in enumerate(others)]
    with Engine.open(database) as engine:
        answers = served_at_once(engine, flood + polite)
        verified = engine.verify()

    results = {answer["id"]: answer["ok"]["results"] for answer in answers}
    before_them = max(results[10_000 + number][0]["seq"] for number in range(len(others)))
    first_slice = (SLICE_LOAD_MAX // load_of(len(flood[0])) + 1) * events
    assert before_them <= first_slice + max(SHARE_EVENTS_MAX, events) + len(others)
    in_order = [result for number in range(len(flood)) for result in results[number]]
    assert [result["session_seq"] for result in in_order] == list(range(1, len(in_order) + 1))
    assert verified.valid
    assert verified.checked == len(in_order) + len(others)


def test_a_request_over_several_sessions_keeps_its_place_in_each_of_them(database: Path) -> None:
    choose = random.Random(3)
    sessions = [new_id() for _ in range(6)]
    frames, named = [], []
    for number in range(400):
        some = choose.sample(sessions, choose.choice((1, 1, 1, 2, 4)))
        if number % 2:
            some = sessions[:1]
        wires = [Event(name, "message_received", {}).to_wire() for name in some for _ in range(9)]
        frames.append(
            msgspec.msgpack.encode(
                {"v": 1, "id": number, "op": "journal.append", "body": {"events": wires}}
            )
        )
        named.append([wire["session_id"] for wire in wires])
    with Engine.open(database, Config(budget=BudgetConfig(write_ms=0))) as engine:
        answers = served_at_once(engine, frames)
        verified = engine.verify()

    results = {answer["id"]: answer["ok"]["results"] for answer in answers}
    last: Counter[str] = Counter()
    for number, names in enumerate(named):
        for session, result in zip(names, results[number], strict=True):
            last[session] += 1
            assert result["session_seq"] == last[session]
    assert verified.valid


def test_a_session_with_more_runs_than_it_remembers_tells_old_ones_from_new_ones(
    database: Path,
) -> None:
    session, runs = new_id(), [new_id() for _ in range(2 * RUNS_RESIDENT_MAX)]

    def event(run: str, kind: str = "message_received") -> Event:
        return Event(session, kind, {}, run_id=run)

    with Engine.open(database) as engine:
        engine.append([event(run) for run in runs])
        mixed = [event(runs[0]), event(new_id()), event(runs[-1], "run_failed")]
        engine.append(mixed)
        with pytest.raises(InvalidTransition):
            engine.append([event(new_id()), event(runs[-1], "run_completed")])
        again = engine.append([event(runs[-1], "run_failed"), event(runs[1], "run_completed")])

    assert [result.session_seq for result in again.results] == [
        len(runs) + len(mixed) + 1,
        len(runs) + len(mixed) + 2,
    ]


def test_a_session_that_never_rests_does_not_remember_more_and_more_runs(database: Path) -> None:
    session, in_flight, requests = new_id(), 32, 1_500
    most = 0
    with Engine.open(database) as engine:
        works = engine._works

        def look() -> None:
            nonlocal most
            for actor in works.directory._awake.values():
                most = max(most, len(getattr(actor._state, "runs", ())))

        works.loop.call_soon(lambda: works.loop.after_round(look))
        with engine.batch(events_max=2, in_flight=in_flight) as batch:
            for _ in range(2 * requests):
                batch.add(Event(session, "message_received", {}, run_id=new_id()))

    assert RUNS_RESIDENT_MAX <= most <= RUNS_RESIDENT_MAX + 4 * in_flight


def _measure(database: Path, sessions: int, rounds: int) -> dict[str, Any]:
    """Appends to every session in turn, half of the rounds in requests of one event each."""
    process = psutil.Process()
    names = [new_id() for _ in range(sessions)]
    with Engine.open(database, keeping(sessions)) as engine:
        engine.append(list(in_turn(names[:1], range(1))))
        engine.read()
        engine.read()  # every reader is up
        threads_with_one = process.num_threads()
        rss = 0
        for number in range(rounds):
            events_max = 1 if number % 2 else 64
            engine.append_many(
                in_turn(names, [number]), events_max=events_max, in_flight=256 // events_max
            )
            rss = max(rss, process.memory_info().rss)
        actors = engine.stats().raw["actors"]
        return {
            "rss_bytes_max": rss,
            "threads_with_one": threads_with_one,
            "threads_with_all": process.num_threads(),
            "resident": actors["resident"],
            "passivated": actors["passivated"],
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
