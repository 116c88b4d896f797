"""Every write under an `event_id`, whether it changes something or not: sent again it gets its
first answer, for ever, and the id is nobody else's.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.storage.backup import back_up, restore
from palyra_actors.storage.transfer import export, load
from palyra_actors.wire.messages import WRITERS, WriteBody
from palyra_actors.wire.operations import BODIES
from tests.system.harness import House, Wire, event, house
from tests.system.test_session_model import rebuilt_differences

HOUR = {"every_ms": 3_600_000}


class Case(NamedTuple):
    """A request; `other`: what makes it another one; `then`: what happens before it is sent again,
    so that taking effect anew would be seen."""

    op: str
    body: dict[str, Any]
    other: dict[str, Any]
    then: Callable[[], object] = lambda: None
    idle: bool = False


class Kept(NamedTuple):
    case: Case
    body: dict[str, Any]
    first: dict[str, Any]


def cases(wire: Wire, worker: Wire) -> Iterator[Case]:
    """All write operations, and each that may find nothing to do also so; one after the other."""
    yield from cases_of_sessions(wire)
    yield from cases_of_canvases(wire)
    yield from cases_of_jobs(wire, worker)
    yield from cases_of_memories(wire)


def cases_of_sessions(wire: Wire) -> Iterator[Case]:
    one, other = new_id(), new_id()
    named = {"session_id": one, "session_key": "key", "title": "first"}
    yield Case("session.resolve", named, {"title": "another"})

    def rename() -> None:
        wire.ok("session.update", {"session_id": one, "title": "renamed"})

    yield Case("session.resolve", {"session_key": "key"}, {"title": "another"}, rename, idle=True)
    yield Case("session.update", {"session_id": one, "title": "same"}, {"title": "x"}, rename)
    yield Case("session.update", {"session_id": one, "title": "renamed"}, {"title": "x"}, rename)
    yield Case("session.branch", {"session_id": one, "session_key": "b"}, {"session_key": "c"})
    run = new_id()
    yield Case("run.start", {"run_id": run, "session_id": one}, {"run_id": new_id()})
    moved = {"run_id": run, "to": "in_progress", "reason": "r"}
    yield Case("run.transition", moved, {"reason": "other"})
    yield Case("run.cancel", {"run_id": run}, {"reason": "other"})
    asked = {
        "approval_id": new_id(), "session_id": one, "subject_type": "tool", "subject_id": "rm",
        "summary": "really?",
    }  # fmt: skip
    yield Case("approval.request", asked, {"summary": "other"})
    decided = {"approval_id": asked["approval_id"], "decision": "allow", "scope": "once"}
    yield Case("approval.decide", decided, {"decision": "deny"})
    yield Case("approval.decide", decided, {"decision": "deny"}, idle=True)
    wire.append(event(other))
    yield Case("session.archive", {"session_id": other}, {"session_id": one})
    wire.append(event(gone := new_id()))
    yield Case("session.erase", {"session_id": gone}, {"session_id": one})


def cases_of_canvases(wire: Wire) -> Iterator[Case]:
    canvas, session = new_id(), new_id()
    made = {"canvas_id": canvas, "session_id": session, "state": {"a": 1}}
    yield Case("canvas.create", made, {"state": {"a": 2}})

    def patch() -> None:
        version = wire.ok("canvas.get", {"canvas_id": canvas})["canvas"]["version"]
        body = {"canvas_id": canvas, "expected_version": version, "patch": added("/p", version)}
        wire.ok("canvas.patch", body)

    compact = {"canvas_id": canvas}
    yield Case("canvas.compact", compact, {"canvas_id": new_id()}, patch, idle=True)
    patched = {"canvas_id": canvas, "expected_version": 2, "patch": added("/b", 1)}
    yield Case("canvas.patch", patched, {"patch": added("/b", 2)})
    replaced = {"canvas_id": canvas, "expected_version": 3, "state": {"c": 1}}
    yield Case("canvas.replace", replaced, {"state": {"c": 2}}, patch)
    yield Case("canvas.replace", {**replaced, "expected_version": 5, "state": {"c": 1}}, {}, patch)
    forked = {"canvas_id": canvas, "new_canvas_id": (fork := new_id())}
    yield Case("canvas.fork", forked, {"new_canvas_id": new_id()})
    other = new_id()
    wire.ok("canvas.create", {"canvas_id": other, "session_id": session, "state": {}})
    body = {"canvas_id": other, "expected_version": 1, "patch": added("/b", 1)}
    wire.ok("canvas.patch", body)
    yield Case("canvas.compact", {"canvas_id": other}, {"canvas_id": new_id()})
    yield Case("canvas.close", {"canvas_id": fork, "reason": "r"}, {"reason": "other"})


def added(path: str, value: int) -> list[dict[str, Any]]:
    return [{"op": "add", "path": path, "value": value}]


def cases_of_jobs(wire: Wire, worker: Wire) -> Iterator[Case]:
    job = new_id()
    yield Case("cron.create", {"job_id": job, "name": "a", "schedule": HOUR}, {"name": "b"})

    def update(**changes: Any) -> Callable[[], object]:
        return lambda: wire.ok("cron.update", {"job_id": job, **changes})

    change = {"job_id": job, "name": "b"}
    yield Case("cron.update", change, {"name": "c"})
    yield Case("cron.update", change, {"name": "c"}, update(name="a"), idle=True)
    other, off, on = {"job_id": new_id()}, update(enabled=False), update(enabled=True)
    yield Case("cron.enable", {"job_id": job}, other, off, idle=True)
    yield Case("cron.disable", {"job_id": job}, other, on, idle=True)
    yield Case("cron.disable", {"job_id": job}, other, on)
    off()
    yield Case("cron.enable", {"job_id": job}, other)
    worker.send("cron.work", {"credit": 1})
    worker.quiet()
    yield Case("cron.run_now", {"job_id": job}, other)
    run = worker.receive()["item"]["run"]
    held = {"run_id": run["run_id"], "fence": run["fence"]}
    yield Case("cron.heartbeat", held, {"fence": run["fence"] + 1})
    yield Case("cron.finish", {**held, "status": "succeeded"}, {"status": "failed"})
    yield Case("cron.delete", {"job_id": job}, other)


def cases_of_memories(wire: Wire) -> Iterator[Case]:
    def ingest(content: str, **more: Any) -> dict[str, Any]:
        return {"source": "manual", "content": content, **more}

    yield Case("memory.purge", {"channel": "c"}, {"channel": "d"}, idle=True)
    yield Case("memory.ingest", ingest("alpha"), {"content": "other"})
    again = ingest("twice", channel="c")
    wire.ok("memory.ingest", again)
    yield Case("memory.ingest", again, {"content": "other"}, idle=True)

    def remember() -> None:
        wire.ok("memory.ingest", ingest("something", channel="d"))

    yield Case("memory.purge", {"channel": "d"}, {"channel": "c"}, remember, idle=True)
    yield Case("memory.purge", {"channel": "d"}, {"channel": "c"}, remember)
    memory = wire.ok("memory.ingest", ingest("beta"))["item"]["memory_id"]
    changed = {"memory_id": memory, "content": "gamma"}
    yield Case("memory.update", changed, {"content": "other"})
    gone = wire.ok("memory.ingest", ingest("delta"))["item"]["memory_id"]
    yield Case("memory.delete", {"memory_id": gone}, {"memory_id": memory})
    for op in ("memory.maintain", "memory.backfill"):
        yield Case(op, {"limit": 10}, {"limit": 11}, remember, idle=True)


WITHOUT = frozenset({"journal.append", "cron.work"})
"""Writers' operations without an `event_id`: an append's events have theirs, work is a stream."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, list[Kept]]]:
    """An engine on which every case was played once."""
    with house(tmp_path_factory.mktemp("house")) as opened:
        wire, kept = opened.connect(), []
        for case in cases(wire, opened.connect()):
            body = {**case.body, "event_id": new_id()}
            before = wire.head()
            first = wire.ok(case.op, body)
            assert (wire.head() == before) == case.idle, case
            kept.append(Kept(case, body, first))
            case.then()
        yield opened, kept


def wrong_answers(wire: Wire, kept: list[Kept]) -> list[Any]:
    """What is not answered as it was first when it is sent again, or changes something."""
    wrong: list[Any] = []
    for one in kept:
        before = wire.head()
        reply = wire.call(one.case.op, one.body)
        again = dict(reply.get("ok", {}))
        first = {**one.first, "duplicate": True}
        for body in (first, again):
            body.pop("timing", None)
        if again != first or wire.head() != before:
            wrong.append((one.case, one.first, reply))
    return wrong


def test_no_write_operation_is_forgotten_here(played: tuple[House, list[Kept]]) -> None:
    writers = {op for op, body in BODIES.items() if body.roles == WRITERS}
    named = {op for op, body in BODIES.items() if issubclass(body, WriteBody)}
    assert {one.case.op for one in played[1]} == named
    assert writers - named <= WITHOUT


def test_every_write_sent_again_gets_its_first_answer_and_changes_nothing(
    played: tuple[House, list[Kept]],
) -> None:
    opened, kept = played
    assert wrong_answers(opened.connect(), kept) == []


def test_the_id_of_a_write_is_no_other_requests_and_no_events(
    played: tuple[House, list[Kept]],
) -> None:
    opened, kept = played
    wire = opened.connect()
    before = wire.head()
    for case, body, _ in kept:
        others = [wire.err(case.op, {**body, **case.other})] if case.other else []
        same_id = {"event_id": body["event_id"]}
        others.append(wire.err("session.resolve", {"session_id": new_id(), **same_id}))
        others.append(wire.err("memory.purge", {"channel": "nobody's", **same_id}))
        taken = event(new_id(), **same_id)
        refusal = wire.err("journal.append", {"events": [event(taken["session_id"]), taken]})
        assert refusal["field"] == "events[1].event_id", case
        assert {one["code"] for one in [*others, refusal]} == {"id_reused"}, (case, others)
    assert wire.head() == before


def test_a_request_that_changes_nothing_is_refused_under_the_id_of_an_event(
    played: tuple[House, list[Kept]],
) -> None:
    wire = played[0].connect()
    stored = event(new_id())
    wire.append(stored)
    same_id = {"event_id": stored["event_id"]}
    assert wire.err("session.resolve", {"session_key": "key", **same_id})["code"] == "id_reused"
    assert wire.err("memory.purge", {"channel": "none", **same_id})["code"] == "id_reused"


def test_an_append_and_a_request_that_changes_nothing_race_for_one_id_and_one_gets_it(
    played: tuple[House, list[Kept]],
) -> None:
    wire = played[0].connect()
    for _ in range(50):
        same_id = {"event_id": new_id()}
        sent = [
            wire.send("journal.append", {"events": [event(new_id(), **same_id)]}),
            wire.send("memory.purge", {"channel": "none", **same_id}),
            wire.send("session.resolve", {"session_key": "key", **same_id}),
        ]
        replies = [wire.receive() for _ in sent]
        assert sorted(one.get("err", {}).get("code", "ok") for one in replies) == [
            "id_reused", "id_reused", "ok",
        ]  # fmt: skip


def test_what_was_refused_keeps_no_id(played: tuple[House, list[Kept]]) -> None:
    wire, same_id = played[0].connect(), {"event_id": new_id()}
    assert wire.err("memory.delete", {"memory_id": new_id(), **same_id})["code"] == "not_found"
    assert "duplicate" not in wire.ok("session.resolve", {"session_key": "key", **same_id})


def test_first_answers_survive_a_restart_a_backup_and_an_import(
    played: tuple[House, list[Kept]], tmp_path: Path
) -> None:
    opened, kept = played
    database = opened.database
    back_up(database, tmp_path / "copy")
    opened.engine.close()
    assert rebuilt_differences(database) == 0
    restore(tmp_path / "copy", tmp_path / "restored.db")
    lines: list[bytes] = []
    assert export(database, lines.append).answers >= len(kept)
    load(lines, tmp_path / "imported.db")
    for file in (database, tmp_path / "restored.db", tmp_path / "imported.db"):
        with closing(Engine.open(file)) as engine:
            endpoint = engine.serve(f"ipc://{tmp_path}/door-of-{file.name}")
            with Wire(endpoint) as wire:
                assert wrong_answers(wire, kept) == [], file
                assert wire.err("journal.append", {"events": [
                    event(new_id(), event_id=kept[1].body["event_id"])
                ]})["code"] == "id_reused"  # fmt: skip


def test_the_kept_answer_of_a_request_that_changed_nothing_goes_with_its_session(
    own: House,
) -> None:
    wire = own.connect()
    session = wire.ok("session.resolve", {"session_key": "k", "title": "Rumpelstiltskin"})
    asked = {"session_key": "k", "event_id": new_id()}
    assert wire.ok("session.resolve", asked)["session"]["title"] == "Rumpelstiltskin"
    wire.ok("session.erase", {"session_id": session["session"]["session_id"]})
    assert wire.err("session.resolve", asked)["code"] == "gone"
    own.engine.close()
    for file in own.database.parent.glob("journal.db*"):
        assert b"Rumpelstiltskin" not in file.read_bytes(), file


def test_upkeep_that_a_crash_broke_off_is_finished_by_sending_it_again(own: House) -> None:
    """Its id is taken before it begins, and its answer kept when it is done."""
    wire = own.connect()
    asked = {"limit": 5, "event_id": new_id()}
    clerk = own.engine._works.desk.counter
    wire.ok("memory.ingest", {"source": "manual", "content": "a"})
    chores: list[Any] = []
    given, clerk.chore = clerk.chore, chores.append
    wire.send("memory.maintain", asked)
    wire.send("engine.health")
    wire.receive()
    other = own.connect()
    assert other.err("memory.maintain", {**asked, "limit": 6})["code"] == "id_reused"
    clerk.chore = given
    for chore in chores:
        given(chore)
    first = wire.receive()["ok"]
    again = wire.ok("memory.maintain", asked)
    for body in (first, again):
        del body["timing"]
    assert again == {**first, "duplicate": True}
