"""Versions of a canvas: read, kept, dropped, and what a kill leaves of them."""

import hashlib
import json
import os
import random
import signal
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
import rfc8785

from palyra_actors.api.events import new_id
from palyra_actors.client import Client
from palyra_actors.errors import PalyraError
from palyra_actors.storage.rebuild import Rebuild
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import NO_BUDGET, Wire, event, house, served
from tests.system.test_canvas import create, get, patch, step


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


KEEP = 150


def test_history_is_kept_as_long_as_the_operator_says(tmp_path: Path) -> None:
    config = NO_BUDGET.replaced("canvas", history_versions_max=KEEP)
    with house(tmp_path, config) as opened:
        wire = opened.connect()
        canvas = create(wire, {"title": "needle0"}, schema_version=7)
        for n in range(1, 651):
            patch(wire, canvas, n, {"op": "replace", "path": "/title", "value": f"needle{n}x"})
            if n % 50 == 0:
                for version in range(max(1, n + 1 - KEEP), n + 2, 10):
                    title = "needle0" if version == 1 else f"needle{version - 1}x"
                    assert get(wire, canvas, version)["state"]["title"] == title
        error = wire.err("canvas.get", {"canvas_id": canvas, "version": 1})
        assert error["code"] == "gone"
        horizon = error["detail"]["horizon"]
        assert 601 - KEEP - 100 < horizon <= 601 - KEEP, "as of the last whole state"
        assert get(wire, canvas, horizon)["state"]["title"] == f"needle{horizon - 1}x"
        assert wire.err("canvas.get", {"canvas_id": canvas, "version": horizon - 1})["code"] == (
            "gone"
        )
        body = {"canvas_id": canvas, "after_version": horizon, "limit": 1_000}
        patches = wire.ok("canvas.history", body)["patches"]
        assert [one["version"] for one in patches] == list(range(horizon + 1, 652))
    with house(tmp_path, config) as opened:
        wire = opened.connect()
        found = get(wire, canvas)
        assert (found["state"], found["schema_version"]) == ({"title": "needle650x"}, 7)
        patch(wire, canvas, 651, {"op": "replace", "path": "/title", "value": "on"})
        session = new_id()  # an erasure behind the trims: once it is done, so are they
        wire.ok("session.resolve", {"session_id": session})
        wire.ok("session.erase", {"session_id": session})
        assert wire.ok("journal.verify")["valid"]
        assert b"needle77x" not in everything(tmp_path)
    assert differences(tmp_path / "journal.db") == []


def test_of_too_many_whole_states_the_oldest_go(tmp_path: Path) -> None:
    config = NO_BUDGET.replaced("canvas", snapshots_max=3)
    with house(tmp_path, config) as opened:
        wire = opened.connect()
        canvas = create(wire)
        for n in range(1, 520):
            patch(wire, canvas, n, {"op": "replace", "path": "/title", "value": str(n)})
        for version, there in ((1, False), (300, False), (301, True), (401, True), (520, True)):
            body = {"canvas_id": canvas, "version": version}
            assert ("ok" in wire.call("canvas.get", body)) is there, version
    with closing(apsw.Connection(str(tmp_path / "journal.db"))) as connection:
        assert connection.execute("SELECT count(*) FROM canvas_snapshots").fetchall() == [(3,)]
    assert differences(tmp_path / "journal.db") == []


def test_a_trimmed_canvas_is_compacted_and_erased_like_any_other(tmp_path: Path) -> None:
    config = NO_BUDGET.replaced("canvas", history_versions_max=1)
    session = new_id()
    with house(tmp_path, config) as opened:
        wire = opened.connect()
        wire.append(event(session))
        canvas = create(wire, {"title": "needle"}, session_id=session)
        for n in range(1, 320):
            patch(wire, canvas, n, {"op": "replace", "path": "/title", "value": str(n)})
        told = wire.ok("canvas.compact", {"canvas_id": canvas})
        assert told["patches_dropped"] < 220
        patch(wire, canvas, 320, {"op": "replace", "path": "/title", "value": "x"})
    assert differences(tmp_path / "journal.db") == []
    with house(tmp_path, config) as opened:
        wire = opened.connect()
        for n in range(321, 560):
            patch(wire, canvas, n, {"op": "replace", "path": "/title", "value": str(n)})
        wire.ok("session.erase", {"session_id": session})
        assert b"needle" not in everything(tmp_path)
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
            opened.engine._works.tally.under_way = 1  # the subscription; nobody waits for the other
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


def test_nobody_erases_what_another_made_before_the_session_was_there(tmp_path: Path) -> None:
    alice, ben = {"principal": "alice"}, {"principal": "ben"}
    session, hers, his, theirs = (new_id() for _ in range(4))
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire = opened.connect()
        for canvas, envelope in ((hers, alice), (his, ben)):
            body = {"canvas_id": canvas, "session_id": session, "state": {"of": canvas}}
            wire.ok("canvas.create", body, **envelope)
        clock.turn(1)
        wire.ok("journal.append", {"events": [event(session)]}, **ben)
        body = {"canvas_id": theirs, "session_id": session, "state": {"by": "an admin"}}
        wire.ok("canvas.create", body)
        wire.ok("session.erase", {"session_id": session}, **ben)
        assert wire.ok("canvas.get", {"canvas_id": hers}, **alice)["canvas"]["state"]["of"] == hers
        assert wire.err("canvas.get", {"canvas_id": his}, **ben)["code"] == "gone"
        assert wire.err("canvas.get", {"canvas_id": theirs})["code"] == "gone"
    with house(tmp_path, NO_BUDGET) as opened:  # which looks for what was left behind
        wire = opened.connect()
        late = {"canvas_id": new_id(), "session_id": new_id(), "state": {}}
        wire.ok("canvas.create", late, **alice)
        assert wire.ok("canvas.get", {"canvas_id": hers}, **alice)["canvas"]["version"] == 1
    assert differences(tmp_path / "journal.db") == []


# -- kill -9 --------------------------------------------------------------------------------------

KILLS = 4
KILLS_OF_THE_CAMPAIGN = 50


@pytest.mark.timeout(1200)
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
