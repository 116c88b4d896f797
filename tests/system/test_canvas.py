"""`canvas.*` of the contract, through a door and through an embedded engine."""

import hashlib
import json
import os
import random
import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import rfc8785

from palyra_actors.api.events import new_id
from palyra_actors.client import Client
from palyra_actors.engine import Engine
from palyra_actors.errors import Conflict, PalyraError
from palyra_actors.storage.rebuild import Rebuild
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import NO_BUDGET, House, Wire, event, house, served

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
    assert wire.err("canvas.patch", body)["code"] == code


@pytest.mark.parametrize("state", ["text", [1], {"x": b"bytes"}, {"x": "y" * 1_100_000}])
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


def test_a_closed_canvas_reads_for_ever(wire: Wire) -> None:
    canvas = create(wire)
    told = wire.ok("canvas.close", {"canvas_id": canvas, "reason": "done"})["canvas"]
    assert (told["closed"], told["close_reason"]) == (True, "done")
    body = {"canvas_id": canvas, "expected_version": 1, "patch": [step(1)]}
    assert wire.err("canvas.patch", body)["code"] == "invalid_transition"
    assert wire.err("canvas.close", {"canvas_id": canvas})["code"] == "invalid_transition"
    assert get(wire, canvas)["state"] == {"title": "plan", "steps": []}


def test_a_canvas_whose_time_is_over_is_closed(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire = opened.connect()
        canvas = create(wire, expires_ms=1_700_000_005_000)
        clock.turn(5_000)
        body = {"canvas_id": canvas, "expected_version": 1, "patch": [step(1)]}
        assert wire.err("canvas.patch", body)["code"] == "invalid_transition"
        sub = wire.send("journal.subscribe", {
            "credit": 10, "after_seq": 0, "kinds": ["canvas.closed"],
        })  # fmt: skip
        wire.items_until(bool, sub)
        found = get(opened.connect(), canvas)
        assert (found["closed"], found["close_reason"]) == (True, "expired")


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


# -- versions and compaction ----------------------------------------------------------------------


def test_every_version_is_read_across_snapshots_restarts_and_a_rebuild(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        wire = opened.connect()
        canvas = create(wire)
        for n in range(1, 451):
            patch(wire, canvas, n, {"op": "replace", "path": "/title", "value": str(n)})
        assert get(wire, canvas)["state"]["title"] == "450"
    with house(tmp_path) as opened:
        wire = opened.connect()
        for version in (1, 2, 99, 100, 101, 102, 103, 200, 201, 202, 401, 402, 450, 451):
            title = "plan" if version == 1 else str(version - 1)
            assert get(wire, canvas, version)["state"]["title"] == title
        patches = []
        after = 1
        while True:
            page = wire.ok(
                "canvas.history", {"canvas_id": canvas, "after_version": after, "limit": 64}
            )
            patches += page["patches"]
            after = page["next_after"]
            if page["end"]:
                break
        assert [one["version"] for one in patches] == list(range(2, 452))
        error = wire.err("canvas.get", {"canvas_id": canvas, "version": 452})
        assert (error["code"], error["field"]) == ("not_found", "version")
    assert differences(tmp_path / "journal.db") == []


def differences(path: Path) -> list[Any]:
    with closing(Rebuild(path)) as made:
        for _ in made.run():
            pass
        return made.compare().differences


def test_a_compaction_keeps_the_present_version_and_the_chain(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        wire = opened.connect()
        canvas = create(wire, {"text": "needle" * 1_000})
        for n in range(1, 31):
            patch(wire, canvas, n, {"op": "replace", "path": "/text", "value": f"needle{n}" * 500})
        patch(wire, canvas, 31, {"op": "replace", "path": "/text", "value": "short"})
        told = wire.ok("canvas.compact", {"canvas_id": canvas})
        assert told["patches_dropped"] == 31
        assert told["bytes_after"] < 1_000 < told["bytes_before"]
        assert get(wire, canvas)["state"] == {"text": "short"}
        for version in (1, 31):
            error = wire.err("canvas.get", {"canvas_id": canvas, "version": version})
            assert (error["code"], error["detail"]["horizon"]) == ("gone", 32)
        body = {"canvas_id": canvas, "after_version": 5}
        assert wire.err("canvas.history", body)["code"] == "gone"
        again = wire.ok("canvas.compact", {"canvas_id": canvas})
        assert again["patches_dropped"] == 0
        patch(wire, canvas, 32, {"op": "add", "path": "/more", "value": 1})
    with house(tmp_path) as opened:
        wire = opened.connect()
        assert get(wire, canvas)["state"] == {"text": "short", "more": 1}
        session = new_id()  # an erasure behind it: once it is done, so is the compaction
        wire.ok("session.resolve", {"session_id": session})
        wire.ok("session.erase", {"session_id": session})
        assert wire.ok("journal.verify")["valid"]
        stored = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
        assert b"needle" not in stored
    assert differences(tmp_path / "journal.db") == []


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())


def test_a_closed_canvas_keeps_its_reason_when_it_is_compacted(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        wire = opened.connect()
        canvas = create(wire)
        patch(wire, canvas, 1, step(1))
        wire.ok("canvas.close", {"canvas_id": canvas, "reason": "done"})
        wire.ok("canvas.compact", {"canvas_id": canvas})
        found = get(wire, canvas)
        assert (found["version"], found["closed"], found["close_reason"]) == (2, True, "done")
    assert differences(tmp_path / "journal.db") == []


def test_the_canvases_of_an_erased_session_go_with_it(tmp_path: Path) -> None:
    session, made = new_id(), new_id()
    with house(tmp_path) as opened:
        wire, viewer = opened.connect(), opened.connect()
        wire.append(event(session), event(made))
        kept = create(wire, {"text": "kept"}, session_id=made)
        canvases = [create(wire, {"text": "needle"}, session_id=session) for _ in range(70)]
        patch(wire, canvases[0], 1, {"op": "add", "path": "/more", "value": "needles"})
        wire.ok("canvas.compact", {"canvas_id": canvases[0]})
        wire.ok("canvas.close", {"canvas_id": canvases[1], "reason": "needless"})
        body = {
            "canvas_id": canvases[2], "expected_version": 1, "event_id": new_id(),
            "patch": [{"op": "add", "path": "/more", "value": "needle"}],
        }  # fmt: skip
        wire.ok("canvas.patch", body)
        sub = viewer.send("canvas.subscribe", {"canvas_id": canvases[2], "credit": 5})
        viewer.receive()
        wire.ok("session.erase", {"session_id": session})
        assert b"needle" not in everything(tmp_path)
        told = viewer.receive()
        assert (told["id"], told["err"]["code"]) == (sub, "gone")
        for op, more in (
            ("canvas.get", {}), ("canvas.history", {}), ("canvas.compact", {}),
            ("canvas.patch", {"expected_version": 1, "patch": [step(1)]}),
            ("canvas.get", {"version": 1}), ("canvas.close", {}),
            ("canvas.fork", {"new_canvas_id": new_id()}), ("canvas.subscribe", {"credit": 1}),
        ):  # fmt: skip
            for canvas in canvases[:3]:
                assert wire.err(op, {"canvas_id": canvas, **more})["code"] == "gone", op
        late = {"canvas_id": new_id(), "session_id": session, "state": {}}
        assert wire.err("canvas.create", late)["code"] == "gone"
        assert get(wire, kept)["state"] == {"text": "kept"}
        assert wire.ok("journal.verify")["valid"]
    assert differences(tmp_path / "journal.db") == []


def test_canvases_go_with_their_session_even_if_the_engine_was_killed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_id()
    with house(tmp_path) as opened:
        wire = opened.connect()
        wire.append(event(session))
        canvas = create(wire, {"text": "needle"}, session_id=session)
        with monkeypatch.context() as patched:
            patched.setattr(opened.engine._works.desk.counter, "heirlooms", [lambda *_: None])
            wire.send("session.erase", {"session_id": session})
            other = opened.connect()
            sub = other.send("journal.subscribe", {
                "credit": 10, "after_seq": 0, "kinds": ["session.erased"],
            })  # fmt: skip
            other.items_until(bool, sub)
            assert get(other, canvas)["state"] == {"text": "needle"}
    with house(tmp_path) as opened:
        wire = opened.connect()
        sub = wire.send("journal.subscribe", {
            "credit": 10, "after_seq": 0, "kinds": ["canvas.erased"],
        })  # fmt: skip
        wire.items_until(bool, sub)
        assert opened.connect().err("canvas.get", {"canvas_id": canvas})["code"] == "gone"


def test_a_canvas_is_made_in_nobody_elses_session(wire: Wire) -> None:
    session = new_id()
    wire.ok("journal.append", {"events": [event(session)]}, principal="other")
    body = {"canvas_id": new_id(), "session_id": session, "state": {}}
    hers = wire.err("canvas.create", body, principal="third")
    assert (hers["code"], hers["field"]) == ("not_found", "session_id")


# -- looking on -----------------------------------------------------------------------------------


def follow(wire: Wire, sub: Any, until: int, state: Any = None) -> tuple[int, Any]:
    """Version and state of one who applies what it is sent."""
    version = 0
    while version < until:
        reply = wire.receive()
        assert reply["id"] == sub
        item = reply["item"]
        if "snapshot" in item:
            version, state = item["snapshot"]["version"], item["snapshot"]["state"]
        else:
            assert item["version"] == version + 1 or not version
            version, state = item["version"], jsonpatch.apply_patch(state, item["patch"])
    return version, state


def test_who_looks_on_gets_the_state_and_then_every_patch(own: House) -> None:
    editor, viewer = own.connect(), own.connect()
    canvas = create(editor)
    patch(editor, canvas, 1, step(1))
    sub = viewer.send("canvas.subscribe", {"canvas_id": canvas, "credit": 1_000})
    for n in range(2, 100):
        patch(editor, canvas, n, step(n))
    _, state = follow(viewer, sub, 100)
    assert state == get(editor, canvas)["state"]
    told = editor.ok("canvas.patch", {
        "canvas_id": canvas, "expected_version": 100, "patch": [step(100)],
    })  # fmt: skip
    assert told["version"] == 101
    assert viewer.receive()["item"]["version"] == 101


def test_who_comes_back_goes_on_from_the_version_it_has(own: House) -> None:
    editor = own.connect()
    canvas = create(editor)
    for n in range(1, 10):
        patch(editor, canvas, n, step(n))
    viewer = own.connect()
    body = {"canvas_id": canvas, "credit": 100, "after_version": 4}
    sub = viewer.send("canvas.subscribe", body)
    _, state = follow(viewer, sub, 10, get(editor, canvas, 4)["state"])
    assert state == get(editor, canvas)["state"]
    editor.ok("canvas.compact", {"canvas_id": canvas})
    viewer = own.connect()
    viewer.send("canvas.subscribe", body)
    assert viewer.receive()["item"]["snapshot"]["version"] == 10, "4 cannot be continued"


def test_without_credit_it_waits_and_then_goes_on_where_it_stopped(own: House) -> None:
    editor, viewer = own.connect(), own.connect()
    canvas = create(editor)
    sub = viewer.send("canvas.subscribe", {"canvas_id": canvas, "credit": 2})
    for n in range(1, 21):
        patch(editor, canvas, n, step(n))
    versions = []
    for _ in range(2):
        item = viewer.receive()["item"]
        versions.append(item["snapshot"]["version"] if "snapshot" in item else item["version"])
    viewer.quiet()
    more = viewer.send("journal.credit", {"sub": sub, "credit": 100})
    while versions[-1] < 21:
        reply = viewer.receive()
        if reply["id"] != more:
            versions.append(reply["item"]["version"])
    assert versions == list(range(versions[0], 22))
    end = viewer.send("journal.unsubscribe", {"sub": sub})
    assert {viewer.receive()["id"], viewer.receive()["id"]} == {sub, end}
    patch(editor, canvas, 21, step(21))
    viewer.quiet()


def test_two_editors_and_ten_viewers_come_to_the_same_state(own: House) -> None:
    with Client(own.endpoint) as first, Client(own.endpoint) as second:
        canvas = first.canvases.create(new_id(), {"n": 0, "by": []})
        viewers = [own.connect() for _ in range(10)]
        subs = [
            viewer.send("canvas.subscribe", {"canvas_id": str(canvas), "credit": 1_000})
            for viewer in viewers
        ]

        def edit(client: Client, name: str) -> None:
            handle = client.canvases.open(canvas)
            for _ in range(25):
                while True:
                    now = handle.get()
                    try:
                        handle.patch(now.version, [
                            {"op": "replace", "path": "/n", "value": now.state["n"] + 1},
                            {"op": "add", "path": "/by/-", "value": name},
                        ])  # fmt: skip
                    except Conflict:
                        continue
                    break

        editors = [
            threading.Thread(target=edit, args=(client, name))
            for client, name in ((first, "one"), (second, "two"))
        ]
        for editor in editors:
            editor.start()
        for editor in editors:
            editor.join()
        final = canvas.get()
        assert final.state["n"] == 50
        assert sorted(final.state["by"]) == ["one"] * 25 + ["two"] * 25
        for viewer, sub in zip(viewers, subs, strict=True):
            _, state = follow(viewer, sub, final.version)
            assert hashlib.sha256(rfc8785.dumps(state)).digest() == final.state_sha256


def test_edit_tries_again_and_watch_follows(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "own.db") as engine:
        canvas = engine.canvases.create(new_id(), {"n": 0})
        quicker = iter([True, True, False])

        def change(state: Any) -> Any:
            if next(quicker, False):
                canvas.replace(canvas.get().version, {"n": canvas.get().state["n"] + 10})
            return {"n": state["n"] + 1}

        assert canvas.edit(change).state == {"n": 21}
        seen = []
        for version, state in canvas.watch(wait_s_max=5.0):
            seen.append((version, dict(state)))
            if version == 6:
                break
            canvas.edit(lambda now: {"n": now["n"] + 1})
        assert seen == [(4, {"n": 21}), (5, {"n": 22}), (6, {"n": 23})]


# -- kill -9 --------------------------------------------------------------------------------------

KILLS = 4
KILLS_OF_THE_CAMPAIGN = 50


def test_kill_9_loses_no_acknowledged_state(tmp_path: Path, campaign: bool) -> None:
    chance = random.Random(5)
    canvas, version = new_id(), 0
    digests: dict[int, bytes] = {}
    for round_ in range(KILLS_OF_THE_CAMPAIGN if campaign else KILLS):
        with served(tmp_path) as (endpoint, process), Client(endpoint, timeout_s=10) as client:
            if not round_:
                client.canvases.create(new_id(), {"rows": []}, canvas_id=canvas)
            handle = client.canvases.open(canvas)
            now = handle.get()
            assert now.version >= version, "what was acknowledged is there"
            assert now.version <= version + 1, "and at most what was under way besides"
            if now.version in digests:
                assert now.state_sha256 == digests[now.version]
            version = now.version
            killer = threading.Timer(
                chance.uniform(0.05, 0.4), os.kill, (process.pid, signal.SIGKILL)
            )
            killer.start()
            try:
                while True:
                    rows = [{"op": "add", "path": "/rows/-", "value": "x" * chance.randint(1, 50)}]
                    if chance.random() < 0.1:
                        client.call("canvas.compact", {"canvas_id": canvas}, timeout_s=0.5)
                    body = {"canvas_id": canvas, "expected_version": version, "patch": rows}
                    told = client.call("canvas.patch", body, timeout_s=0.5)
                    version = told["version"]
                    digests[version] = told["state_sha256"]
            except PalyraError:
                pass
            killer.join()
            process.wait()
    with house(tmp_path) as opened:
        wire = opened.connect()
        found = get(wire, canvas)
        assert found["version"] in (version, version + 1)
        if found["version"] == version:
            assert found["state_sha256"] == digests[version]
        canonical = rfc8785.dumps(json.loads(json.dumps(found["state"])))
        assert hashlib.sha256(canonical).digest() == found["state_sha256"]
        assert wire.ok("journal.verify")["valid"]
    assert differences(tmp_path / "journal.db") == []
