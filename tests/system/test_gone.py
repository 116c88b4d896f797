"""What goes with an erased session is `gone` to whoever had it, and its ids stay taken."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import Conflict, Gone
from palyra_actors.storage.rebuild import Rebuild
from palyra_actors.storage.transfer import load
from tests.faults.rig import NO_BUDGET
from tests.storage.test_transfer import exported
from tests.system.harness import DEADLINE_S, WITHOUT_WARM_HEADS, House, Wire, event, house

ALICE: dict[str, Any] = {"principal": "alice"}
BEN: dict[str, Any] = {"principal": "ben"}


def request(session: str, approval: str | None = None, **body: Any) -> dict[str, Any]:
    return {
        "approval_id": approval or new_id(), "session_id": session, "subject_type": "tool",
        "subject_id": "rm", "summary": "remove a file", **body,
    }  # fmt: skip


def furnished(wire: Wire, **envelope: Any) -> dict[str, str]:
    """A session with a run that was started, one that an event began, and an approval."""
    made = {name: new_id() for name in ("session", "run", "begun", "approval")}
    session = made["session"]
    wire.ok("run.start", {"run_id": made["run"], "session_id": session}, **envelope)
    body = {"events": [event(session, run_id=made["begun"])]}
    wire.ok("journal.append", body, **envelope)
    wire.ok("approval.request", request(session, made["approval"]), **envelope)
    return made


def lookups(made: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Everything that is asked of them by their ids."""
    asked: list[tuple[str, dict[str, Any]]] = []
    for run in (made["run"], made["begun"]):
        asked += [
            ("run.get", {"run_id": run}), ("run.tape", {"run_id": run}),
            ("run.cancel", {"run_id": run}), ("run.transition", {"run_id": run, "to": "done"}),
        ]  # fmt: skip
    asked += [
        ("run.start", {"run_id": new_id(), "session_id": new_id(), "parent_run_id": made["run"]}),
        ("approval.get", {"approval_id": made["approval"]}),
        ("approval.decide", {"approval_id": made["approval"], "decision": "allow"}),
    ]
    return asked


def is_gone(wire: Wire, made: dict[str, str]) -> None:
    """To its owner and to an admin; and nobody else learns that it ever was."""
    for op, body in lookups(made):
        assert wire.err(op, body, **ALICE)["code"] == "gone", op
        assert wire.err(op, body)["code"] == "gone", op
        named = {**body, **{name: new_id() for name in body if name.endswith("_id")}}
        told, missing = wire.err(op, body, **BEN), wire.err(op, named, **BEN)
        assert told == missing, op
        assert told["code"] == "not_found", op


def is_taken(wire: Wire, made: dict[str, str], other: dict[str, str]) -> None:
    """As the ids of another session are that is still there: `other`'s."""
    for envelope in (ALICE, BEN):
        for run in ("run", "begun"):
            told: list[Any] = []
            for owner in (made, other):
                start = {"run_id": owner[run], "session_id": new_id()}
                append = {"events": [event(new_id(), run_id=owner[run])]}
                asked = request(new_id(), run_id=owner[run])
                told.append([
                    (error["code"], error["field"])
                    for error in (
                        wire.err("run.start", start, **envelope),
                        wire.err("journal.append", append, **envelope),
                        wire.err("approval.request", asked, **envelope),
                    )
                ])  # fmt: skip
            assert told[0] == told[1], (envelope, run)
        codes = {
            wire.err("approval.request", request(new_id(), owner["approval"]), **envelope)["code"]
            for owner in (made, other)
        }
        assert codes == {"conflict" if envelope is ALICE else "not_found"}


def test_runs_and_approvals_of_an_erased_session_are_gone_and_their_ids_stay_taken(
    tmp_path: Path,
) -> None:
    with house(tmp_path / "house") as opened:
        wire = opened.connect()
        made, other = furnished(wire, **ALICE), furnished(wire, **ALICE)
        wire.ok("session.erase", {"session_id": made["session"]}, **ALICE)
        is_gone(wire, made)
        is_taken(wire, made, other)
        database = opened.database
    with house(tmp_path / "house") as opened:  # and in another life of the engine
        is_gone(opened.connect(), made)
    with closing(Rebuild(database)) as again:
        list(again.run())
        found = again.compare()
        assert found.different == 0
        assert found.rows["gone_runs"] == 2
    lines = exported(database)
    load(lines.splitlines(keepends=True), tmp_path / "moved.db")
    assert exported(tmp_path / "moved.db") == lines
    with (
        closing(Engine.open(tmp_path / "moved.db", NO_BUDGET)) as engine,
        Wire(engine.serve(f"ipc://{tmp_path}/door")) as wire,
    ):
        is_gone(wire, made)
        is_taken(wire, made, other)


def test_runs_that_went_before_there_was_a_table_for_it_are_gone(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        wire = opened.connect()
        made, other = furnished(wire), furnished(wire)
        wire.append(event(made["session"], run_id=made["begun"]))
        wire.ok("session.erase", {"session_id": made["session"]})
        database = opened.database
    with closing(apsw.Connection(str(database))) as connection:
        connection.execute(WITHOUT_WARM_HEADS)
        connection.execute("DROP TRIGGER runs_once; DROP TRIGGER approvals_once")
        for index in ("owner", "owner_subject", "owner_decision", "subject", "decision"):
            connection.execute(f"DROP INDEX approvals_of_{index}")
        connection.execute("ALTER TABLE approvals DROP COLUMN owner")
        connection.execute("ALTER TABLE memory_work DROP COLUMN destroyed")
        connection.execute("DROP INDEX memory_by_session")
        connection.execute(
            "CREATE INDEX memory_by_session ON memory_items (stream, session_id) "
            "WHERE session_id IS NOT NULL"
        )
        connection.execute("DROP VIEW gone_runs; DROP TABLE gone; PRAGMA user_version = 13")
    with house(tmp_path) as opened:
        wire = opened.connect()
        for run in ("run", "begun"):
            assert wire.err("run.get", {"run_id": made[run]})["code"] == "gone"
            assert wire.ok("run.get", {"run_id": other[run]})
    with closing(Rebuild(database)) as again:
        list(again.run())
        found = again.compare()
    assert (found.different, found.rows["gone_runs"]) == (0, 2)


def test_what_is_pipelined_behind_an_erasure_is_refused_and_leaves_nothing(own: House) -> None:
    wire = own.connect()
    for _ in range(20):
        made, run, approval = furnished(wire), new_id(), new_id()
        session = made["session"]
        asked = [
            wire.send("run.start", {"run_id": run, "session_id": session}),
            wire.send("approval.request", request(session, fresh := new_id())),
            wire.send("session.erase", {"session_id": session}),
            wire.send("run.start", {"run_id": (late := new_id()), "session_id": session}),
            wire.send("run.cancel", {"run_id": made["run"]}),
            wire.send("run.cancel", {"run_id": run}),
            wire.send("approval.request", request(session, approval)),
            wire.send("approval.decide", {"approval_id": made["approval"], "decision": "deny"}),
            wire.send("approval.decide", {"approval_id": fresh, "decision": "deny"}),
            wire.send("journal.append", {"events": [event(session, run_id=made["run"])]}),
            wire.send("journal.append", {"events": [event(session, run_id=new_id())]}),
        ]
        replies = {reply["id"]: reply for reply in (wire.receive() for _ in asked)}
        assert all("ok" in replies[name] for name in asked[:3])
        codes = [replies[name]["err"]["code"] for name in asked[3:]]
        assert codes == ["gone"] * len(codes)
        assert wire.err("run.get", {"run_id": run})["code"] == "gone"
        assert wire.err("run.get", {"run_id": late})["code"] == "not_found"
        assert wire.err("approval.get", {"approval_id": approval})["code"] == "not_found"


def test_an_id_that_goes_in_the_same_group_is_not_given_again(own: House) -> None:
    """Whoever decides while the erasure is on its way sees in the file neither run nor its end."""
    wire = own.connect()
    for _ in range(20):
        run, approval, session, heir = new_id(), new_id(), new_id(), new_id()
        wire.append(event(session))
        wire.append(event(heir))
        asked = [
            wire.send("run.start", {"run_id": run, "session_id": session}),
            wire.send("approval.request", request(session, approval)),
            wire.send("session.erase", {"session_id": session}),
            wire.send("run.start", {"run_id": run, "session_id": heir}),
            wire.send("journal.append", {"events": [event(new_id(), run_id=run)]}),
            wire.send("approval.request", request(heir, approval)),
        ]
        replies = {reply["id"]: reply for reply in (wire.receive() for _ in asked)}
        assert all("ok" in replies[name] for name in asked[:3])
        codes = [replies[name]["err"]["code"] for name in asked[3:]]
        assert codes == ["conflict", "invalid", "conflict"]
        assert wire.err("run.get", {"run_id": run})["code"] == "gone"


def test_a_retry_of_what_named_something_that_is_gone_is_gone(wire: Wire) -> None:
    session, run, approval = new_id(), new_id(), new_id()
    requests = [
        ("run.start", {"run_id": run, "session_id": session}),
        ("run.transition", {"run_id": run, "to": "in_progress"}),
        ("run.cancel", {"run_id": run}),
        ("approval.request", request(session, approval)),
        ("approval.decide", {"approval_id": approval, "decision": "allow"}),
    ]
    named = [(op, {**body, "event_id": new_id()}) for op, body in requests]
    for op, body in named:
        wire.ok(op, body)
    wire.ok("session.erase", {"session_id": session})
    for op, body in named:
        assert wire.err(op, body)["code"] == "gone", op
    for (op, body), (_, other) in zip(requests, reversed(named), strict=True):
        if body.keys() != other.keys() - {"event_id"}:
            reused = {**body, "event_id": other["event_id"]}
            assert wire.err(op, reused)["code"] == "id_reused", op


def test_a_list_that_has_come_to_what_is_gone_goes_on(own: House) -> None:
    wire = own.connect()
    sessions = [new_id() for _ in range(3)]
    runs, approvals = [], []
    for session in sessions:
        for _ in range(2):
            runs.append(new_id())
            wire.ok("run.start", {"run_id": runs[-1], "session_id": session})
            approvals.append(new_id())
            wire.ok("approval.request", request(session, approvals[-1]))
    page = wire.ok("run.list", {"limit": 3})
    seen = wire.ok("approval.list", {"limit": 3})
    assert [one["run_id"] for one in page["runs"]] == runs[:3]
    wire.ok("session.erase", {"session_id": sessions[1]})
    page = wire.ok("run.list", {"after": page["next_after"]})
    assert ([one["run_id"] for one in page["runs"]], page["end"]) == (runs[4:], True)
    seen = wire.ok("approval.list", {"after": seen["next_after"]})
    assert [one["approval_id"] for one in seen["approvals"]] == approvals[4:]
    for op in ("run.list", "approval.list"):
        error = wire.err(op, {"after": approvals[2] if op == "approval.list" else runs[2]}, **BEN)
        assert (error["code"], error["field"]) == ("not_found", "after")


def test_the_events_of_a_run_that_is_gone_read_on_without_their_payloads(wire: Wire) -> None:
    made = furnished(wire)
    wire.ok("session.erase", {"session_id": made["session"]})
    (one,) = wire.read(run_id=made["begun"])
    assert (one["run_id"], one["payload"]) == (made["begun"], None)
    assert one in wire.read(session_id=made["session"])
    body = {"run_id": made["begun"]}
    assert wire.err("journal.read", body, **BEN)["code"] == "not_found"


def test_the_same_through_an_engine_without_a_door(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "own.db") as engine:
        session = engine.sessions.open()
        run = engine.runs.start(session)
        asked = engine.approvals.request(session, "tool", "rm", "remove a file")
        session.erase()
        for look in (
            lambda: engine.runs.get(run.run_id),
            lambda: list(engine.runs.tape(run.run_id)),
            lambda: engine.runs.cancel(run.run_id),
            lambda: engine.approvals.get(asked.approval_id),
            lambda: engine.approvals.decide(asked.approval_id, "deny"),
        ):
            with pytest.raises(Gone):
                look()
        with pytest.raises(Conflict) as refused:
            engine.runs.start(engine.sessions.open(), run_id=run.run_id)
        assert refused.value.detail == {"actual": "gone"}
        assert list(engine.runs.list()) == []


def remember(wire: Wire, content: str, **body: Any) -> str:
    asked = {"source": "manual", "content": content, "memory_id": new_id(), **body}
    return str(wire.ok("memory.ingest", asked, **ALICE)["item"]["memory_id"])


def test_memories_that_were_removed_are_gone_and_their_ids_stay_taken(tmp_path: Path) -> None:
    with house(tmp_path / "house") as opened:
        wire = opened.connect()
        session, canvas = new_id(), new_id()
        said = event(session)
        wire.ok("journal.append", {"events": [said]}, **ALICE)
        wire.ok("canvas.create", {"canvas_id": canvas, "session_id": session, "state": {}}, **ALICE)
        (drawn,) = wire.read(kinds=["canvas.created"])
        went = [
            remember(wire, "of the session", session_id=session),
            remember(wire, "of its event", from_event_id=said["event_id"]),
            remember(wire, "of its canvas", from_event_id=drawn["event_id"]),
            remember(wire, "taken back"),
            remember(wire, "of a channel", channel="ci"),
        ]
        kept = remember(wire, "of nothing")
        wire.ok("memory.delete", {"memory_id": went[3]}, **ALICE)
        wire.ok("memory.purge", {"channel": "ci"}, **ALICE)
        wire.ok("session.erase", {"session_id": session}, **ALICE)
        database = opened.database

        asked: tuple[tuple[str, dict[str, Any]], ...] = (
            ("memory.get", {}), ("memory.update", {"content": "x"}), ("memory.delete", {}),
        )  # fmt: skip

        def look(wire: Wire) -> None:
            for name in went:
                for envelope in (ALICE, {}):
                    for op, more in asked:
                        error = wire.err(op, {"memory_id": name, **more}, **envelope)
                        assert (error["code"], error["field"]) == ("gone", "memory_id"), op
                for op, more in asked:
                    told = wire.err(op, {"memory_id": name, **more}, **BEN)
                    assert told == wire.err(op, {"memory_id": new_id(), **more}, **BEN), op
                    assert told["code"] == "not_found", op
                again = {"source": "manual", "content": "again", "memory_id": name}
                assert wire.err("memory.ingest", again, **ALICE)["code"] == "id_reused"
            assert wire.ok("memory.get", {"memory_id": kept}, **ALICE)

        look(wire)
    lines = exported(database)
    load(lines.splitlines(keepends=True), tmp_path / "moved.db")
    assert exported(tmp_path / "moved.db") == lines
    with (
        closing(Engine.open(tmp_path / "moved.db", NO_BUDGET)) as engine,
        Wire(engine.serve(f"ipc://{tmp_path}/door")) as wire,
    ):
        look(wire)


def test_a_memory_of_an_event_that_is_erased_is_refused_or_goes_with_it(own: House) -> None:
    """In whatever order they are on their way: nothing of it stays."""
    wire = own.connect()
    told: set[str] = set()
    for number in range(30):
        session, said = new_id(), event(new_id())
        said["session_id"] = session
        kept = {
            "source": "manual", "content": f"needle {number}", "from_event_id": said["event_id"],
        }  # fmt: skip
        requests = [
            ("journal.append", {"events": [said]}),
            ("memory.ingest", kept),
            ("session.erase", {"session_id": session}),
        ]
        if number % 3 == 1:
            requests[1:] = requests[:0:-1]
        asked = [wire.send(op, body) for op, body in requests]
        if number % 3 == 2:
            asked.append(wire.send("memory.ingest", {**kept, "content": f"needle {number} again"}))
        replies = {reply["id"]: reply for reply in (wire.receive() for _ in asked)}
        told |= {reply.get("err", {}).get("code", "ok") for reply in replies.values()}
        error = wire.err("memory.ingest", {**kept, "content": "late"})
        assert (error["code"], error["field"]) == ("gone", "from_event_id")
    assert told <= {"ok", "gone"}
    wait_until_none_is_left(wire)


def wait_until_none_is_left(wire: Wire) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while wire.ok("memory.list", {"limit": 1})["items"]:
        assert time.monotonic() < deadline


def test_an_append_that_was_erased_is_a_duplicate_as_it_was_and_reused_otherwise(
    wire: Wire,
) -> None:
    session = new_id()
    stored = event(session, payload={"a": 1, "b": 2})
    wire.append(stored)
    wire.ok("session.erase", {"session_id": session})
    assert wire.append(stored)[0]["duplicate"] is True
    for payload in ({"a": 2}, {"b": 2, "a": 1}):
        changed = {"events": [{**stored, "payload": payload}]}
        assert wire.err("journal.append", changed)["code"] == "id_reused"
    assert wire.err("journal.append", {"events": [event(session)]})["code"] == "gone"
