"""What the requests of a durable group are answered, in their order.

Compiled (`swift`) the usual ones, appends of clients, take one call for all that follow
each other; the others, and all where there is no compiler, are answered here one by one.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from palyra_actors.actors.group import Group
from palyra_actors.actors.swift import compiled
from palyra_actors.actors.work import Unit
from palyra_actors.wire.append import encode_ok
from palyra_actors.wire.messages import Timing

PRESSED: Final = 0.9
"""Of its budget: who took more makes the monitor trust its expectations less."""


@dataclass(slots=True)
class Answered:
    """How long a group's requests took: how many were `late`, or `pressed` for time; the slowest
    that has a budget, in milliseconds; and when each `arrived`, monotonic seconds."""

    late: int = 0
    pressed: int = 0
    slowest_ms: float = 0.0
    arrived: list[float] = field(default_factory=list)


def answer(group: Group, ended: float, budget_ms: int) -> Answered:
    """Answer everybody. `budget_ms`: of requests that name none; 0: none."""
    if compiled is None:
        return answer_plainly(group, ended, budget_ms)
    answers, found, at = group.answers, Answered(), 0
    while at < len(answers):
        at, late, pressed, slowest_ms = compiled.answer(
            answers, at, group.began, ended, budget_ms, PRESSED, found.arrived
        )
        found.late += late
        found.pressed += pressed
        found.slowest_ms = max(found.slowest_ms, slowest_ms)
        if at < len(answers):
            _answer_one(found, group, answers[at], ended, budget_ms)
            at += 1
    return found


def answer_plainly(group: Group, ended: float, budget_ms: int) -> Answered:
    """`answer`, one by one."""
    found = Answered()
    for one in group.answers:
        _answer_one(found, group, one, ended, budget_ms)
    return found


def _answer_one(
    found: Answered, group: Group, one: tuple[Unit, Any], ended: float, budget_ms: int
) -> None:
    unit, results = one
    request = unit.request
    unit.settle()
    total_ms = (ended - request.arrived) * 1000
    if request.budget_ms is not None:
        budget_ms = request.budget_ms
    within = budget_ms == 0 or total_ms <= budget_ms
    found.late += not within
    if budget_ms:
        found.pressed += total_ms > PRESSED * budget_ms
        found.slowest_ms = max(found.slowest_ms, total_ms)
    found.arrived.append(request.arrived)
    queued_ms = (group.began - request.arrived) * 1000
    commit_ms = (ended - group.began) * 1000
    if unit.is_command:
        timing = Timing(queued_ms, commit_ms, total_ms, within)
        request.ok({**results, "timing": timing})
    else:
        request.reply(encode_ok(request.id, results, queued_ms, commit_ms, total_ms, within))
