"""What one connection sends without waiting for answers takes effect in the order sent: whatever a
request makes, the next one finds.
"""

from collections.abc import Callable
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from tests.system.harness import House, Reply, Wire, event

Asked = list[tuple[str, dict[str, Any]]]
Chain = Callable[[str], Asked]
"""Requests that follow from each other. The session of that id is there, with one event."""

JOB = {"name": "clean", "schedule": {"every_ms": 3_600_000}, "payload": {}}


def approval(session: str, **more: Any) -> tuple[str, dict[str, Any]]:
    body = {"session_id": session, "subject_type": "tool", "subject_id": "rm", "summary": "?"}
    return "approval.request", {"approval_id": new_id(), **body, **more}


def canvas(session: str, name: str) -> tuple[str, dict[str, Any]]:
    return "canvas.create", {"canvas_id": name, "session_id": session, "state": {}}


def patch(name: str, version: int) -> tuple[str, dict[str, Any]]:
    operation = {"op": "add", "path": f"/a{version}", "value": version}
    return "canvas.patch", {"canvas_id": name, "expected_version": version, "patch": [operation]}


def append(session: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "journal.append", {"events": [event(session, **more)]}


def resolved_by_id(session: str) -> Asked:
    name = new_id()
    return [
        ("session.resolve", {"session_id": name}),
        ("session.update", {"session_id": name, "title": "x"}),
        ("journal.append", {"events": [event(name)], "expected_session_seq": 2}),
    ]


def resolved_by_key_and_id(session: str) -> Asked:
    name, key = new_id(), new_id()
    return [
        ("session.resolve", {"session_id": name, "session_key": key}),
        ("journal.append", {"events": [event(name)], "expected_session_seq": 1}),
        ("session.resolve", {"session_key": key, "create": False}),
        ("session.archive", {"session_id": name}),
    ]


def a_key_that_its_session_gave_up(session: str) -> Asked:
    old, new, key = new_id(), new_id(), new_id()
    return [
        ("session.resolve", {"session_id": old, "session_key": key}),
        ("session.erase", {"session_id": old}),
        ("session.resolve", {"session_id": new, "session_key": key}),
        ("journal.append", {"events": [event(new)], "expected_session_seq": 1}),
        ("session.resolve", {"session_key": key, "create": False}),
    ]


def a_run_made_by_an_event(session: str) -> Asked:
    run = new_id()
    return [append(session, run_id=run), ("run.cancel", {"run_id": run})]


def a_run_started(session: str) -> Asked:
    run, child = new_id(), new_id()
    return [
        ("run.start", {"run_id": run, "session_id": session}),
        ("run.start", {"run_id": child, "session_id": new_id(), "parent_run_id": run}),
        ("run.transition", {"run_id": run, "to": "in_progress"}),
        append(session, run_id=run, kind="run_completed"),
        ("run.cancel", {"run_id": child}),
    ]


def an_approval(session: str) -> Asked:
    asked = approval(session)
    decide = {"approval_id": asked[1]["approval_id"], "decision": "allow"}
    return [asked, ("approval.decide", decide)]


def a_branch_and_what_is_done_in_it(session: str) -> Asked:
    name, run, key = new_id(), new_id(), new_id()
    branch = {"session_id": session, "at_session_seq": 1, "new_session_id": name}
    asked = approval(name, run_id=run)
    return [
        ("session.branch", {**branch, "session_key": key}),
        ("journal.append", {"events": [event(name)], "expected_session_seq": 3}),
        ("run.start", {"run_id": run, "session_id": name}),
        ("run.transition", {"run_id": run, "to": "in_progress"}),
        asked,
        ("approval.decide", {"approval_id": asked[1]["approval_id"], "decision": "deny"}),
        canvas(name, new_id()),
        ("memory.ingest", {"source": "manual", "content": name, "session_id": name}),
        ("session.resolve", {"session_key": key, "create": False}),
        ("session.update", {"session_id": name, "title": "x"}),
    ]


def a_run_by_an_event_in_a_branch(session: str) -> Asked:
    name, run = new_id(), new_id()
    return [
        ("session.branch", {"session_id": session, "new_session_id": name}),
        append(name, run_id=run),
        ("run.transition", {"run_id": run, "to": "done"}),
    ]


def branches_of_branches(session: str) -> Asked:
    asked: Asked = []
    for _ in range(6):
        name = new_id()
        asked += [("session.branch", {"session_id": session, "new_session_id": name}), append(name)]
        session = name
    return asked


def a_canvas_and_its_forks(session: str) -> Asked:
    name, fork, other, third = new_id(), new_id(), new_id(), new_id()
    return [
        canvas(session, name),
        patch(name, 1),
        patch(name, 2),
        ("canvas.fork", {"canvas_id": name, "new_canvas_id": fork}),
        patch(fork, 1),
        ("canvas.fork", {"canvas_id": name, "new_canvas_id": other, "at_version": 2}),
        patch(other, 1),
        ("canvas.fork", {"canvas_id": fork, "new_canvas_id": third, "at_version": 1}),
        ("canvas.replace", {"canvas_id": third, "expected_version": 1, "state": {}}),
        ("canvas.close", {"canvas_id": fork}),
        ("canvas.compact", {"canvas_id": name}),
    ]


def a_job(session: str) -> Asked:
    named = {"job_id": new_id()}
    return [
        ("cron.create", {**JOB, **named}),
        ("cron.update", {**named, "name": "sweep"}),
        ("cron.disable", named),
        ("cron.run_now", named),
        ("cron.delete", named),
    ]


def a_memory(session: str) -> Asked:
    one, other = new_id(), new_id()
    return [
        ("memory.ingest", {"memory_id": one, "source": "manual", "content": one}),
        ("memory.update", {"memory_id": one, "content": f"{one} again"}),
        ("memory.ingest", {
            "memory_id": other, "source": "manual", "content": other, "session_id": session,
        }),
        ("memory.delete", {"memory_id": other}),
    ]  # fmt: skip


CHAINS: list[Chain] = [
    resolved_by_id, resolved_by_key_and_id, a_key_that_its_session_gave_up, a_run_made_by_an_event,
    a_run_started, an_approval, a_branch_and_what_is_done_in_it, a_run_by_an_event_in_a_branch,
    branches_of_branches, a_canvas_and_its_forks, a_job, a_memory,
]  # fmt: skip


def all_at_once(wire: Wire, asked: Asked) -> list[Reply]:
    """Sent without waiting; the answers in the order of the requests."""
    sent = [wire.send(op, body) for op, body in asked]
    told = {reply["id"]: reply for reply in (wire.receive() for _ in sent)}
    return [told[one] for one in sent]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.__name__)
def test_what_a_request_makes_is_found_by_those_behind_it(
    own: House, chain: Chain, busy: bool
) -> None:
    """`busy`: what was sent before clashes with the file, so that all of it is decided twice."""
    wire = own.connect()
    for _ in range(5):
        first = event(new_id())
        wire.append(first)
        asked = chain(first["session_id"])
        before: Asked = [("journal.append", {"events": [first]})] if busy else []
        told = all_at_once(wire, [*before, *asked])[len(before) :]
        refused = [
            (op, reply["err"]) for (op, _), reply in zip(asked, told, strict=True) if "err" in reply
        ]
        assert refused == []
    assert wire.ok("journal.verify")["valid"]


def test_a_branch_overtaken_by_nothing_goes_on_from_its_parent(own: House) -> None:
    wire = own.connect()
    parent = new_id()
    wire.append(event(parent), event(parent))
    for _ in range(50):
        name = new_id()
        branch, appended = all_at_once(wire, [
            ("session.branch", {"session_id": parent, "new_session_id": name}), append(name),
        ])  # fmt: skip
        assert branch["ok"]["session"]["branch_state"]["parent_session_id"] == parent
        assert appended["ok"]["results"][0]["session_seq"] == 4


def test_a_fork_is_of_the_version_asked_for_be_it_written_or_not(own: House) -> None:
    wire = own.connect()
    for _ in range(10):
        name, forks = new_id(), [new_id() for _ in range(4)]
        asked = [canvas(new_id(), name), *(patch(name, version) for version in range(1, 4))]
        asked += [
            ("canvas.fork", {"canvas_id": name, "new_canvas_id": fork, "at_version": at})
            for at, fork in enumerate(forks, 1)
        ]
        told = all_at_once(wire, asked)[4:]
        states = [reply["ok"]["canvas"]["state"] for reply in told]
        assert states == [{f"a{n}": n for n in range(1, at)} for at in range(1, 5)]
        beyond = {"canvas_id": name, "new_canvas_id": new_id(), "at_version": 5}
        last, none = all_at_once(
            wire, [patch(name, 4), ("canvas.fork", {**beyond, "at_version": 6})]
        )
        assert "ok" in last
        assert (none["err"]["code"], none["err"]["detail"]) == ("not_found", {"actual": 5})


def test_branches_in_a_circle_are_refused_and_nobody_waits_for_ever(own: House) -> None:
    wire = own.connect()
    one, other = new_id(), new_id()
    wire.append(event(one), event(other))
    asked: Asked = []
    for _ in range(20):
        asked += [
            ("session.branch", {"session_id": one, "new_session_id": other}),
            append(one),
            ("session.branch", {"session_id": other, "new_session_id": one}),
            ("session.branch", {"session_id": one, "new_session_id": one}),
            append(other),
        ]
    told = all_at_once(wire, asked)
    codes = [reply["err"]["code"] if "err" in reply else "ok" for reply in told]
    assert codes == ["conflict", "ok", "conflict", "conflict", "ok"] * 20


def test_a_branch_of_what_is_not_there_makes_nothing(own: House) -> None:
    wire = own.connect()
    missing, name, before = new_id(), new_id(), wire.head()
    for new in (name, missing):
        error = wire.err("session.branch", {"session_id": missing, "new_session_id": new})
        assert (error["code"], error["field"]) == ("not_found", "session_id")
    assert wire.head() == before
    told = all_at_once(wire, [
        ("session.branch", {"session_id": missing, "new_session_id": name}), append(name),
    ])  # fmt: skip
    assert told[0]["err"]["code"] == "not_found"
    assert told[1]["ok"]["results"][0]["session_seq"] == 1


@pytest.mark.parametrize(
    ("end", "code"), [("session.archive", "invalid_transition"), ("session.erase", "gone")]
)
def test_nothing_new_is_made_behind_the_end_of_a_session(own: House, end: str, code: str) -> None:
    wire = own.connect()
    for _ in range(10):
        session, name = new_id(), new_id()
        wire.append(event(session))
        asked = [
            canvas(session, name), (end, {"session_id": session}), canvas(session, new_id()),
            ("canvas.fork", {"canvas_id": name, "new_canvas_id": new_id()}),
            ("run.start", {"run_id": new_id(), "session_id": session}),
            approval(session), append(session),
        ]  # fmt: skip
        told = all_at_once(wire, asked)
        assert ["ok" in reply for reply in told[:2]] == [True, True]
        assert {reply["err"]["code"] for reply in told[2:]} == {code}
    memory = ("memory.ingest", {"source": "manual", "content": "x", "session_id": session})
    (kept,) = all_at_once(wire, [memory])
    assert ("ok" in kept) == (end == "session.archive")
