"""SIGTERM under load: what is under way is answered, the new is refused, and the end is clean."""

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from palyra_actors.api.events import new_id
from palyra_actors.engine import STOP_S_MAX
from tests.faults.rig import rig
from tests.faults.test_disk import ids_in
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, Silent, Wire, event, served


def test_a_signal_under_load_leaves_no_request_in_doubt_and_ends_with_0(
    tmp_path: Path, figure: Tell
) -> None:
    # SNDHWM 0: what is sent to an engine that is gone already does not wait for another one
    with served(tmp_path) as (endpoint, process), Wire(endpoint, SNDHWM=0) as wire:
        sessions = [new_id() for _ in range(20)]
        wire.append(event(sessions[0]))
        sent = {}
        for number in range(2_000):
            one = event(sessions[number % 20])
            request_id = wire.send("journal.append", {"events": [one]}, budget_ms=0)
            sent[request_id] = one["event_id"]
            if number == 1_000:
                process.terminate()
                began = time.monotonic()
        last = time.monotonic()
        answers: dict[Any, dict[str, Any]] = {}
        try:
            while len(answers) < len(sent):
                reply = wire.receive(STOP_S_MAX)
                answers[reply["id"]] = reply
                last = time.monotonic()
        except Silent:
            pass  # it is gone, and with it the connection
        assert process.wait(2 * STOP_S_MAX) == 0
    stored = set(ids_in(tmp_path / "journal.db"))
    seen: Counter[str] = Counter()
    wrong = 0
    for request_id, event_id in sent.items():
        if request_id not in answers:
            seen["closed"] += 1
            continue
        reply = answers[request_id]
        seen["ok" if "ok" in reply else reply["err"]["code"]] += 1
        wrong += (event_id in stored) != ("ok" in reply)
    sys.stdout.write(f"{dict(seen)}\n")
    figure(18, "requests that SIGTERM met", seen.total())
    figure(18, "answered otherwise than stored", wrong, most=0)
    figure(18, "last answer after SIGTERM", last - began, "s", most=5)
    assert wrong == 0
    assert seen["ok"], "it was in the middle of it"
    assert set(seen) <= {"ok", "unavailable", "closed", "overloaded"}


def test_an_engine_that_ends_answers_what_is_under_way_before_it_shuts(database: Path) -> None:
    with rig(database) as works:
        session, reached, answered = new_id(), threading.Event(), list[list[bool]]()
        asked = [works.hold(), *(works.append(event(session)) for _ in range(3))]
        works.settle()
        desk, shut = works.works.desk, works.works.shut
        stop = desk.stop

        def stopping() -> None:
            stop()
            reached.set()

        def shutting(left: float) -> bool:
            answered.append([one.answered for one in asked])
            reached.set()
            return bool(shut(left))

        desk.stop, works.works.shut = stopping, shutting
        ending = threading.Thread(target=works.engine.close)
        ending.start()
        assert reached.wait(DEADLINE_S)
        works.let_go()
        ending.join(DEADLINE_S)
        assert answered == [[True] * 4]
        assert [one.numbers() for one in asked] == [[1], [1], [2], [3]]


def test_a_killed_engine_is_started_again_at_once_on_what_the_kill_left(tmp_path: Path) -> None:
    with served(tmp_path) as (endpoint, process), Wire(endpoint) as wire:
        session = new_id()
        acked = [wire.append(event(session))[0]["seq"] for _ in range(50)]
        process.kill()
        process.wait()
    assert (tmp_path / "journal.db-wal").stat().st_size > 0, "there is something to take up"
    with served(tmp_path) as (endpoint, _), Wire(endpoint) as wire:
        assert wire.head()[0] == acked[-1]
        assert wire.append(event(session))[0]["session_seq"] == 51
