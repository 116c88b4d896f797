"""Looking on at a canvas: a state, then every patch; and editing it beside others."""

import hashlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jsonpatch
import rfc8785

from palyra_actors.api.events import new_id
from palyra_actors.client import Client
from palyra_actors.engine import Engine
from palyra_actors.errors import Conflict
from tests.system.harness import House, Wire, served
from tests.system.test_canvas import create, get, patch, step


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


def test_who_has_a_version_that_is_still_to_come_begins_anew(own: House) -> None:
    """As after a backup was restored: what it has is not what will be there."""
    editor, viewer = own.connect(), own.connect()
    canvas = create(editor)
    viewer.send("canvas.subscribe", {"canvas_id": canvas, "credit": 10, "after_version": 12})
    assert viewer.receive()["item"]["snapshot"]["version"] == 1
    patch(editor, canvas, 1, step(1))
    assert viewer.receive()["item"]["version"] == 2


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


def test_a_stream_ends_with_what_is_last_of_a_canvas_that_is_closed(own: House) -> None:
    editor = own.connect()
    canvas = create(editor)
    patch(editor, canvas, 1, step(1))
    end = {"closed": True, "close_reason": "done", "version": 3}
    live, paused, late = own.connect(), own.connect(), own.connect()
    sub = live.send("canvas.subscribe", {"canvas_id": canvas, "credit": 10})
    assert live.receive()["item"]["snapshot"]["version"] == 2
    behind = paused.send("canvas.subscribe", {"canvas_id": canvas, "credit": 1})
    assert paused.receive()["item"]["snapshot"]["version"] == 2
    patch(editor, canvas, 2, step(2))
    editor.ok("canvas.close", {"canvas_id": canvas, "reason": "done"})
    assert live.receive()["item"]["version"] == 3
    assert live.receive() == {"v": 1, "id": sub, "ok": end}
    paused.quiet()
    more = paused.send("journal.credit", {"sub": behind, "credit": 1})
    told = [paused.receive() for _ in range(3)]
    assert [one["item"]["version"] for one in told if "item" in one] == [3]
    assert [one["ok"] for one in told if "ok" in one and one["id"] != more] == [end]
    late.send("canvas.subscribe", {"canvas_id": canvas, "credit": 1})
    assert late.receive()["item"]["snapshot"]["closed"] is True
    assert late.receive()["ok"] == end
    late.send("canvas.subscribe", {"canvas_id": canvas, "credit": 1, "after_version": 3})
    assert late.receive()["ok"] == end


def test_watch_ends_behind_the_last_state_of_a_canvas_that_is_closed(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "own.db") as engine:
        canvas = engine.canvases.create(new_id(), {"n": 0})
        seen = []
        for version, state in canvas.watch():
            seen.append((version, dict(state)))
            if version == 1:
                canvas.replace(1, {"n": 1})
                canvas.close(reason="done")
        assert seen == [(1, {"n": 0}), (2, {"n": 1})]
        assert [version for version, _ in canvas.watch()] == [2]


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


VIEWERS = 10
LIVES = 4


def test_editors_and_viewers_come_to_the_same_hash_over_kills_and_restarts(
    tmp_path: Path,
) -> None:
    """Each life of the engine but the last is ended in the middle, by turns with -9 and cleanly."""
    seen: dict[int, tuple[int, bytes]] = {}
    canvas = new_id()
    with (
        Client(f"ipc://{tmp_path}/door", timeout_s=60) as first,
        Client(f"ipc://{tmp_path}/door", timeout_s=60) as second,
    ):

        def look_on(number: int) -> None:
            with Client(f"ipc://{tmp_path}/door", timeout_s=60) as client:
                before = 0
                for version, state in client.canvases.open(canvas).watch():
                    assert version > before
                    before = version
                    if state.get("over"):
                        digest = hashlib.sha256(rfc8785.dumps(state)).digest()
                        seen[number] = (version, digest)
                        return

        def edit(client: Client, name: str, count: int) -> None:
            for _ in range(count):
                client.canvases.open(canvas).edit(
                    lambda state: {**state, name: state[name] + 1, "log": [*state["log"], name]}
                )

        editors: list[threading.Thread] = []
        viewers = [threading.Thread(target=look_on, args=(n,)) for n in range(VIEWERS)]
        for life in range(LIVES):
            with served(tmp_path) as (_, process):
                if not life:
                    state = {"one": 0, "two": 0, "log": []}
                    first.canvases.create(new_id(), state, canvas_id=canvas)
                    for viewer in viewers:
                        viewer.start()
                for editor in editors:
                    editor.join()
                editors = [
                    threading.Thread(target=edit, args=(first, "one", 10)),
                    threading.Thread(target=edit, args=(second, "two", 10)),
                ]
                for editor in editors:
                    editor.start()
                if life < LIVES - 1:
                    version = first.canvases.open(canvas).get().version
                    while first.canvases.open(canvas).get().version < version + 5:
                        pass
                    os.kill(process.pid, signal.SIGTERM if life % 2 else signal.SIGKILL)
                    process.wait()
                    continue
                for editor in editors:
                    editor.join()
                final = first.canvases.open(canvas).edit(lambda state: {**state, "over": True})
                for viewer in viewers:
                    viewer.join()
    assert (final.state["one"], final.state["two"]) == (10 * LIVES, 10 * LIVES)
    assert len(final.state["log"]) == 20 * LIVES
    assert seen == dict.fromkeys(range(VIEWERS), (final.version, final.state_sha256))
