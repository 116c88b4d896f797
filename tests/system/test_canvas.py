"""`canvas.*` of the contract, through a door and through an embedded engine."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from palyra_actors.actors.canvas import CanvasActor
from palyra_actors.actors.clerks.sweep import DUE_AT_ONCE
from palyra_actors.api.events import new_id
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import NO_BUDGET, Wire, event, house

SECRET = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"


def create(wire: Wire, state: Any = None, **body: Any) -> str:
    canvas = new_id()
    state = {"title": "plan", "steps": []} if state is None else state
    asked = {"canvas_id": canvas, "session_id": new_id(), "state": state, **body}
    wire.ok("canvas.create", asked)
    return canvas


def patch(wire: Wire, canvas: str, version: int, *operations: dict[str, Any]) -> dict[str, Any]:
    body = {"canvas_id": canvas, "expected_version": version, "patch": list(operations)}
    return wire.ok("canvas.patch", body)


def step(n: int) -> dict[str, Any]:
    return {"op": "add", "path": "/steps/-", "value": f"step {n}"}


def get(wire: Wire, canvas: str, version: int | None = None) -> dict[str, Any]:
    body = {"canvas_id": canvas} if version is None else {"canvas_id": canvas, "version": version}
    return dict(wire.ok("canvas.get", body)["canvas"])


def test_a_canvas_is_made_patched_and_read(wire: Wire) -> None:
    canvas = create(wire)
    told = patch(wire, canvas, 1, step(1), {"op": "replace", "path": "/title", "value": "new"})
    state = {"title": "new", "steps": ["step 1"]}
    assert told["version"] == 2
    assert told["state_sha256"] == hashlib.sha256(rfc8785.dumps(state)).digest()
    found = get(wire, canvas)
    assert (found["version"], found["state"], found["closed"]) == (2, state, False)
    assert get(wire, canvas, 1)["state"] == {"title": "plan", "steps": []}


@pytest.mark.parametrize(
    ("operation", "code", "field"),
    [
        ({"op": "test", "path": "/title", "value": "x"}, "invalid", "patch[1]"),
        ({"op": "remove", "path": "/none"}, "invalid", "patch[1]"),
        ({"op": "merge", "path": "/title"}, "invalid", "patch[1]"),
        ({"op": "add", "path": "/x", "value": "y" * 300_000}, "too_large", "patch"),
    ],
)
def test_a_patch_is_applied_whole_or_not_at_all(
    wire: Wire, operation: dict[str, Any], code: str, field: str
) -> None:
    canvas = create(wire)
    before, head = get(wire, canvas), wire.head()
    body = {"canvas_id": canvas, "expected_version": 1, "patch": [step(1), operation]}
    error = wire.err("canvas.patch", body)
    assert (error["code"], error["field"]) == (code, field)
    if code == "invalid":
        assert error["detail"]["index"] == 1
    assert (get(wire, canvas), wire.head()) == (before, head)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("a text", "invalid"),
        ({}, "invalid"),
        ([], "invalid"),
        ([{"op": "test"}] * 1_001, "too_large"),
    ],
)
def test_what_is_no_patch_is_refused(wire: Wire, value: Any, code: str) -> None:
    canvas = create(wire)
    body = {"canvas_id": canvas, "expected_version": 1, "patch": value}
    error = wire.err("canvas.patch", body)
    assert (error["code"], error["field"]) == (code, "patch")


@pytest.mark.parametrize("state", ["text", [1], {"x": "y" * 1_100_000}])
def test_what_is_no_state_is_refused(wire: Wire, state: Any) -> None:
    body = {"canvas_id": new_id(), "session_id": new_id(), "state": state}
    error = wire.err("canvas.create", body)
    assert error["code"] in ("invalid", "too_large")
    assert error["field"] == "state"


def test_the_slower_of_two_editors_learns_the_present_version(wire: Wire) -> None:
    canvas = create(wire)
    patch(wire, canvas, 1, step(1))
    for op, body in (("canvas.patch", {"patch": [step(2)]}), ("canvas.replace", {"state": {}})):
        error = wire.err(op, {"canvas_id": canvas, "expected_version": 1, **body})
        assert (error["code"], error["detail"]["actual"]) == ("conflict", 2)


def test_a_replacement_is_stored_as_the_smaller_patch(wire: Wire) -> None:
    state = {"rows": [{"n": n, "text": "x" * 20} for n in range(50)], "title": "a"}
    canvas = create(wire, state)
    body = {"canvas_id": canvas, "expected_version": 1, "state": {**state, "title": "b"}}
    wire.ok("canvas.replace", body)
    other = {"canvas_id": canvas, "expected_version": 2, "state": {"all": "new"}}
    wire.ok("canvas.replace", other)
    patches = wire.ok("canvas.history", {"canvas_id": canvas})["patches"]
    assert [one["patch"] for one in patches] == [
        [{"op": "replace", "path": "/title", "value": "b"}],
        [{"op": "replace", "path": "", "value": {"all": "new"}}],
    ]
    assert [(one["version"], one["principal"]) for one in patches] == [(2, "local"), (3, "local")]


def test_secrets_are_redacted_in_states_and_in_patches(wire: Wire) -> None:
    canvas = create(wire, {"password": "p", "note": f"use {SECRET}"})
    assert get(wire, canvas)["state"] == {"password": "<redacted>", "note": "use <redacted>"}
    patch(wire, canvas, 1, {"op": "add", "path": "/api_key", "value": "k-1"})
    assert get(wire, canvas)["state"]["api_key"] == "<redacted>"
    events = wire.read(kinds=["canvas.created", "canvas.patched"])
    assert SECRET not in str(events)
    assert "k-1" not in str(events)


@pytest.mark.parametrize(
    ("operations", "state"),
    [
        ([{"op": "add", "path": "/password", "value": {"a": ["k-1", 5]}}],
         {"note": "k-1", "password": {"a": ["<redacted>", 5]}}),
        ([{"op": "move", "from": "/note", "path": "/password"}], {"password": "<redacted>"}),
        ([{"op": "copy", "from": "/note", "path": "/api_key"}],
         {"note": "k-1", "api_key": "<redacted>"}),
        ([{"op": "add", "path": "/secrets", "value": []},
          {"op": "copy", "from": "/note", "path": "/secrets/-"},
          {"op": "add", "path": "/secrets/0", "value": "k-2"}],
         {"note": "k-1", "secrets": ["<redacted>", "<redacted>"]}),
        ([{"op": "move", "from": "/note", "path": "/remark"},
          {"op": "copy", "from": "/remark", "path": "/pass~0word"}],
         {"remark": "k-1", "pass~word": "k-1"}),
    ],
)  # fmt: skip
def test_no_operation_puts_text_below_a_secrets_name(
    wire: Wire, operations: list[dict[str, Any]], state: dict[str, Any]
) -> None:
    canvas = create(wire, {"note": "k-1"})
    told = patch(wire, canvas, 1, *operations)
    assert get(wire, canvas)["state"] == state
    assert told["state_sha256"] == hashlib.sha256(rfc8785.dumps(state)).digest()
    stored = wire.read_all(kinds=["canvas.patched"])[-1]
    assert stored["redacted"] is ("<redacted>" in str(state))
    (history,) = wire.ok("canvas.history", {"canvas_id": canvas})["patches"]
    assert "k-2" not in str(history)
    patch(wire, canvas, 2, {"op": "add", "path": "/x", "value": 1})
    assert get(wire, canvas, 2)["state"] == state


def test_anothers_canvas_is_answered_like_one_that_is_not_there(wire: Wire) -> None:
    canvas = create(wire)
    for op, body in (
        ("canvas.get", {}), ("canvas.history", {}), ("canvas.close", {}), ("canvas.compact", {}),
        ("canvas.patch", {"expected_version": 1, "patch": [step(1)]}),
        ("canvas.replace", {"expected_version": 1, "state": {}}),
        ("canvas.fork", {"new_canvas_id": new_id()}), ("canvas.subscribe", {"credit": 1}),
    ):  # fmt: skip
        hers = wire.err(op, {"canvas_id": canvas, **body}, principal="other")
        none = wire.err(op, {"canvas_id": new_id(), **body}, principal="other")
        assert hers == none, op
        assert hers["code"] == "not_found"


def test_a_fork_goes_on_alone(wire: Wire) -> None:
    canvas = create(wire)
    for n in range(1, 4):
        patch(wire, canvas, n, step(n))
    other = new_id()
    body = {"canvas_id": canvas, "new_canvas_id": other, "at_version": 2}
    told = wire.ok("canvas.fork", body)["canvas"]
    assert (told["version"], told["state"]["steps"]) == (1, ["step 1"])
    patch(wire, other, 1, step(9))
    assert get(wire, other)["state"]["steps"] == ["step 1", "step 9"]
    assert len(get(wire, canvas)["state"]["steps"]) == 3
    assert wire.err("canvas.fork", body)["code"] == "conflict"


def test_a_fork_of_itself_or_of_a_version_to_come_is_refused_by_its_field(wire: Wire) -> None:
    canvas = create(wire)
    itself = wire.err("canvas.fork", {"canvas_id": canvas, "new_canvas_id": canvas})
    assert (itself["code"], itself["field"]) == ("invalid", "new_canvas_id")
    body = {"canvas_id": canvas, "new_canvas_id": new_id(), "at_version": 2}
    later = wire.err("canvas.fork", body)
    assert (later["code"], later["field"], later["detail"]) == (
        "not_found", "at_version", {"actual": 1},
    )  # fmt: skip


def test_an_operation_that_is_no_map_is_named_by_its_place(wire: Wire) -> None:
    body = {"canvas_id": create(wire), "expected_version": 1, "patch": [step(1), 5]}
    told = wire.err("canvas.patch", body)
    assert (told["code"], told["field"], told["detail"]) == ("invalid", "patch[1]", {"index": 1})


def test_bytes_are_refused_by_their_place(wire: Wire) -> None:
    canvas = create(wire)
    operation = {"op": "add", "path": "/x", "value": [1, {"a b": [b"x"]}]}
    body = {"canvas_id": canvas, "expected_version": 1, "patch": [step(1), operation]}
    error = wire.err("canvas.patch", body)
    assert (error["code"], error["field"]) == ("invalid", "patch[1].value[1]['a b'][0]")
    state = {"ok": [{}, "text"], "of": {"blob": b"x"}}
    body = {"canvas_id": canvas, "expected_version": 1, "state": state}
    error = wire.err("canvas.replace", body)
    assert (error["code"], error["field"]) == ("invalid", "state.of.blob")


def test_a_closed_canvas_reads_for_ever(wire: Wire) -> None:
    canvas = create(wire)
    told = wire.ok("canvas.close", {"canvas_id": canvas, "reason": "done"})["canvas"]
    assert (told["closed"], told["close_reason"]) == (True, "done")
    body = {"canvas_id": canvas, "expected_version": 1, "patch": [step(1)]}
    assert wire.err("canvas.patch", body)["code"] == "invalid_transition"
    again = wire.err("canvas.close", {"canvas_id": canvas})
    assert (again["code"], again["message"]) == (
        "invalid_transition", "the canvas is closed already",
    )  # fmt: skip
    assert again["detail"] == {"from": "closed", "to": "closed"}
    assert get(wire, canvas)["state"] == {"title": "plan", "steps": []}


def test_a_canvas_whose_time_is_over_is_closed(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire = opened.connect()
        canvas = create(wire, expires_ms=1_700_000_005_000)
        clock.turn(5_000)
        found = get(wire, canvas)
        assert (found["closed"], found["close_reason"]) == (True, "expired"), "at once"
        body = {"canvas_id": canvas, "expected_version": 1, "patch": [step(1)]}
        assert wire.err("canvas.patch", body)["code"] == "invalid_transition"
        sub = wire.send("journal.subscribe", {
            "credit": 10, "after_seq": 0, "kinds": ["canvas.closed"],
        })  # fmt: skip
        wire.items_until(bool, sub)
        found = get(opened.connect(), canvas)
        assert (found["closed"], found["close_reason"]) == (True, "expired")


def test_a_canvas_is_not_made_for_a_time_that_is_past(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire, event_id = opened.connect(), new_id()
        body: dict[str, Any] = {"canvas_id": new_id(), "session_id": new_id(), "state": {}}
        for past in (0, 1, 1_700_000_000, 1_700_000_000_000):
            refused = wire.err("canvas.create", {**body, "expires_ms": past})
            assert (refused["code"], refused["field"]) == ("invalid", "expires_ms")
            assert "leave it out" in refused["hint"]
        assert wire.err("canvas.get", {"canvas_id": body["canvas_id"]})["code"] == "not_found"
        body |= {"expires_ms": 1_700_000_000_001, "event_id": event_id}
        first = wire.ok("canvas.create", body)["canvas"]
        clock.turn(10)
        assert wire.ok("canvas.create", body)["canvas"] == first, "though it is past by now"


def test_canvases_whose_time_is_over_together_are_closed_without_another_look(
    tmp_path: Path,
) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire, session = opened.connect(), new_id()
        count = 3 * DUE_AT_ONCE
        for _ in range(count):
            create(wire, session_id=session, expires_ms=1_700_000_060_000)
        clock.turn(60_000)
        sub = wire.send("journal.subscribe", {
            "credit": 1_000, "after_seq": 0, "kinds": ["canvas.closed"],
        })  # fmt: skip
        wire.items_until(lambda events: len(events) == count, sub)


def test_a_retry_gets_the_first_answer(wire: Wire) -> None:
    canvas, state = new_id(), {"a": 1}
    made = {"canvas_id": canvas, "session_id": new_id(), "state": state, "event_id": new_id()}
    first = wire.ok("canvas.create", made)
    step_1 = {"op": "add", "path": "/b", "value": 1}
    body = {
        "canvas_id": canvas, "expected_version": 1, "patch": [step_1], "event_id": new_id(),
    }  # fmt: skip
    told = wire.ok("canvas.patch", body)
    patch(wire, canvas, 2, {"op": "remove", "path": "/b"})
    again = wire.ok("canvas.patch", body)
    assert (again["version"], again["state_sha256"], again["duplicate"]) == (
        2, told["state_sha256"], True,
    )  # fmt: skip
    again = wire.ok("canvas.create", made)
    assert (again["canvas"]["state"], again["canvas"]["version"]) == (first["canvas"]["state"], 1)
    wire.ok("canvas.compact", {"canvas_id": canvas})
    again = wire.ok("canvas.create", made)
    assert again["duplicate"], "it was stored, whatever became of its first state"
    assert again["canvas"] == {**first["canvas"], "state": None}


@pytest.mark.parametrize("op", ["canvas.create", "canvas.replace"])
def test_a_state_counts_by_what_it_says_when_it_comes_again(wire: Wire, op: str) -> None:
    canvas = new_id() if op == "canvas.create" else create(wire)
    place = {"session_id": new_id()} if op == "canvas.create" else {"expected_version": 1}
    body = {"canvas_id": canvas, "event_id": new_id(), **place}
    first = wire.ok(op, {**body, "state": {"a": 1, "b": [1.5, {"c": None, "password": "one"}]}})
    assert "duplicate" not in first
    same = {"b": [1.5, {"password": "another", "c": None}], "a": 1}
    assert wire.ok(op, {**body, "state": same})["duplicate"]
    other = {"a": 1, "b": [1.5, {"c": False, "password": "one"}]}
    assert wire.err(op, {**body, "state": other})["code"] == "id_reused"


def test_no_actor_keeps_the_text_of_what_was_erased(tmp_path: Path) -> None:
    with house(tmp_path) as own:
        here, session = own.connect(), new_id()
        here.append(event(session))
        canvas = create(here, session_id=session)
        patch(here, canvas, 1, step(1))
        (actor,) = (
            one
            for one in own.engine._works.directory._awake.values()
            if isinstance(one, CanvasActor)
        )
        assert b"step 1" in actor._text._text
        here.ok("session.erase", {"session_id": session})
        assert actor._text._text == b""
        assert actor._text._document is None
