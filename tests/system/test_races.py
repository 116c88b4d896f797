"""Two clients at once: exactly one wins, the other is told `conflict`, or from where a run went.

10,000 races with `--campaign`, a few hundred without.
"""

from collections.abc import Callable
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from tests.system.harness import House, Reply, Wire, event

RACES = 150
RACES_OF_THE_CAMPAIGN = 10_000
Prepared = tuple[str, dict[str, Any], dict[str, Any]]


def an_append(wire: Wire) -> Prepared:
    """Both have read the same last number."""
    session = new_id()
    wire.append(event(session))
    return (
        "journal.append",
        {"events": [event(session)], "expected_session_seq": 1},
        {"events": [event(session)], "expected_session_seq": 1},
    )


def a_transition(wire: Wire) -> Prepared:
    """Both end the same run."""
    run = new_id()
    wire.ok("run.start", {"run_id": run, "session_id": new_id()})
    wire.ok("run.transition", {"run_id": run, "to": "in_progress"})
    return (
        "run.transition", {"run_id": run, "to": "done"}, {"run_id": run, "to": "failed"},
    )  # fmt: skip


def a_decision(wire: Wire) -> Prepared:
    """Both decide, one so, one otherwise."""
    approval = new_id()
    wire.ok("approval.request", {
        "approval_id": approval, "session_id": new_id(), "subject_type": "tool",
        "subject_id": "rm", "summary": "remove",
    })  # fmt: skip
    return (
        "approval.decide",
        {"approval_id": approval, "decision": "allow"},
        {"approval_id": approval, "decision": "deny"},
    )


@pytest.mark.parametrize(
    ("prepare", "codes", "lost_to"),
    [
        (an_append, {"conflict"}, [{"actual": 2}]),
        (
            a_transition,
            {"invalid_transition"},
            [{"from": "done", "to": "failed"}, {"from": "failed", "to": "done"}],
        ),
        (a_decision, {"conflict"}, [{"actual": "allow"}, {"actual": "deny"}]),
    ],
)
def test_exactly_one_of_two_wins(
    own: House,
    prepare: Callable[[Wire], Prepared],
    codes: set[str],
    lost_to: list[dict[str, Any]],
    campaign: bool,
) -> None:
    one, other = own.connect(), own.connect()
    told: set[str] = set()
    winners: set[str] = set()
    for number in range(RACES_OF_THE_CAMPAIGN if campaign else RACES):
        op, first, second = prepare(one)
        pair = (one, other) if number % 2 else (other, one)
        pair[0].send(op, first)
        pair[1].send(op, second)
        answers: list[Reply] = [wire.receive() for wire in pair]
        assert sorted("ok" in answer for answer in answers) == [False, True], answers
        for wire, answer in zip(pair, answers, strict=True):
            if "ok" in answer:
                winners.add("one" if wire is one else "other")
            else:
                told.add(answer["err"]["code"])
                assert answer["err"]["detail"] in lost_to
    assert told == codes
    assert winners == {"one", "other"}, "it is no race that one of them always wins"
    assert one.ok("journal.verify")["valid"]
