"""The usual append, compiled and in Python: the same journal, the same answers, the same counts."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import answers, appends, group, writer
from palyra_actors.actors.group import Group
from palyra_actors.actors.swift import compiled
from palyra_actors.api.events import new_id
from palyra_actors.ids import format_ulid
from tests.faults.rig import NO_BUDGET, Caller, Rig, rig
from tests.system.harness import event

pytestmark = pytest.mark.skipif(compiled is None, reason="no compiler when it was installed")

SEEDS = range(6)


def plan(
    seed: int, among: int = 5, one_is_odd_in: int = 12
) -> list[list[tuple[int, dict[str, Any]]]]:
    """Rounds of requests, each with the caller whose it is; most are usual, and some are not."""
    rnd = random.Random(seed)
    sessions = [new_id() for _ in range(among)]
    runs = {session: new_id() for session in sessions}
    stored: list[dict[str, Any]] = []
    rounds = []
    for _ in range(12):
        asked = []
        for _ in range(rnd.randrange(1, 20)):
            session = rnd.choice(sessions)
            events = [event(session) for _ in range(rnd.choice([1, 1, 1, 2, 5]))]
            for one in events:
                if rnd.random() < 0.5:
                    one["run_id"] = runs[session]
            match rnd.randrange(5 * one_is_odd_in):
                case 0:
                    events.append(event(rnd.choice(sessions)))
                case 1 if stored:
                    events = [rnd.choice(stored)]
                case 2:
                    events[0]["payload"] = {"api_key": "sk-abcdefghijklmnop0123456789"}
                case 3:
                    events[0] |= {"kind": "run_completed", "run_id": runs[session]}
                    runs[session] = new_id()
                case 4:
                    events[0]["session_id"] = new_id()
                case 5:
                    events[0]["actor"] = "nobody"
            body: dict[str, Any] = {"events": events}
            if rnd.random() < 0.1:
                body["expected_session_seq"] = rnd.randrange(4)
            stored += events
            asked.append((rnd.randrange(3), body))
        rounds.append(asked)
    return rounds


def told(reply: dict[str, Any]) -> Any:
    """A reply without what differs from run to run."""
    if "ok" not in reply:
        return reply["err"]["code"], reply["err"].get("field")
    timing = reply["ok"]["timing"]
    assert timing["total_ms"] >= timing["commit_ms"] >= 0
    assert set(timing) == {"queued_ms", "commit_ms", "total_ms", "within_budget"}
    return [
        (one["event_id"], one["seq"], one["session_seq"], one["duplicate"], one["redacted"])
        for one in reply["ok"]["results"]
    ]


def live(works: Rig, rounds: list[list[tuple[int, dict[str, Any]]]]) -> list[Any]:
    """Each round reaches the desk at once, and is answered before the next one does."""
    callers = [Caller(works) for _ in range(3)]
    heard: list[Any] = []
    for asked in rounds:
        made = [
            (callers[who], *callers[who].prepare("journal.append", body)) for who, body in asked
        ]
        under_way = [one for _, one, _ in made]
        frames = [(caller, frame) for caller, _, frame in made]
        works.on_loop(partial(works.works.desk.serve, frames))
        heard += [told(one.reply()) for one in under_way]
    works.settle()
    works.assert_states_equal_the_file()
    works.assert_at_rest()
    written = [
        (one.seq, format_ulid(one.event_id), one.stream_seq, one.run_id, one.kind)
        for one in works.journal()
    ]
    left = [caller.under_way for caller in callers]
    return [heard, left, works.works.desk.admission.load, works.tally.statistics(), written]


@pytest.fixture(params=SEEDS)
def rounds(request: pytest.FixtureRequest) -> list[list[tuple[int, dict[str, Any]]]]:
    return plan(request.param)


def test_what_is_compiled_writes_answers_and_counts_as_its_twin_does(
    tmp_path: Path, rounds: list[list[tuple[int, dict[str, Any]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[int] = []
    real = compiled.hand_out

    class Counted:
        answer = compiled.answer

        @staticmethod
        def hand_out(requests: list[Any], start: int, *rest: Any) -> int:
            stopped: int = real(requests, start, *rest)
            handed.append(stopped - start)
            return stopped

    with rig(tmp_path / "compiled.db", NO_BUDGET) as works:
        monkeypatch.setattr(appends, "compiled", Counted)
        quick = live(works, rounds)
    monkeypatch.setattr(appends, "compiled", None)
    monkeypatch.setattr(answers, "compiled", None)
    monkeypatch.setattr(group, "compiled", None)
    with rig(tmp_path / "plain.db", NO_BUDGET) as works:
        plain = live(works, rounds)
    assert quick == plain
    assert sum(handed) > 30, "much of it was compiled"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_is_laid_out_as_its_twin_does(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: list[bool] = []
    marks = 0

    class Noted:
        @staticmethod
        def lay_out(*said: Any) -> Any:
            laid = compiled.lay_out(*said)
            usual.append(laid is not None)
            return laid

    def both(made: Group, names: dict[str, int]) -> None:
        plain = Group(made.units, made.before, made.began, made.recorded_ms)
        group.lay_out(made, names)
        if usual[-1]:
            nonlocal marks
            group.lay_out_plainly(plain, names)
            assert made == plain
            marks += len(made.batch.marks)

    monkeypatch.setattr(group, "compiled", Noted)
    monkeypatch.setattr(writer, "lay_out", both)
    with rig(tmp_path / "j.db", NO_BUDGET) as works:
        live(works, plan(seed, among=1, one_is_odd_in=100))
    assert sum(usual) > 5, "some of it was compiled"
    assert marks
