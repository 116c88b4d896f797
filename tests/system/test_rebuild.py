"""State is a fold: made anew from the journal it is what it was, after a kill, at any seq, and
where the journal still speaks an older language."""

import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from palyra_actors.actors.clerks import cooling
from palyra_actors.api.events import Event, new_id
from palyra_actors.client import Client
from palyra_actors.domain import folds
from palyra_actors.domain.catalog import KIND_NUMBERS
from palyra_actors.domain.folds import upcast
from palyra_actors.engine import Engine
from palyra_actors.errors import OpenRefused, PalyraError
from palyra_actors.storage.migrations import migrations
from palyra_actors.storage.rebuild import PROJECTIONS, Rebuild, Rebuilt
from tests.figures import Tell
from tests.system.harness import NO_BUDGET, WITHOUT_WARM_HEADS, served

KILLS = 4
KILLS_OF_THE_CAMPAIGN = 50


def rebuilt(path: Path) -> Rebuilt:
    with closing(Rebuild(path)) as made:
        for _ in made.run():
            pass
        return made.compare()


class Commander:
    """Sends random commands, good ones and bad ones, until the engine is gone."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.sessions: list[str] = [new_id()]
        self.runs: list[str] = [new_id()]
        self.homes: dict[str, str] = {}
        self.approvals: list[str] = [new_id()]
        self.canvases: list[str] = [new_id()]

    def some(self, known: list[str]) -> str:
        """A known one, or a new one."""
        if self.chance.random() < 0.2:
            known.append(new_id())
        return self.chance.choice(known)

    def command(self) -> tuple[str, dict[str, Any]]:
        chance, session = self.chance, self.some(self.sessions)
        run, approval = self.some(self.runs), self.some(self.approvals)
        canvas = self.some(self.canvases)
        states = ["in_progress", "done", "failed", "cancelled"]
        patch = [{"op": "add", "path": f"/k{chance.randint(0, 9)}", "value": chance.random()}]
        told: list[tuple[str, dict[str, Any]]] = [
            ("session.resolve", {"session_key": f"key {chance.randint(0, 5)}", "title": "a b"}),
            ("session.update", {"session_id": session, "title": f"title {chance.random()}"}),
            ("session.branch", {"session_id": session}),
            ("run.start", {"session_id": session, "run_id": run}),
            ("run.transition", {"run_id": run, "to": chance.choice(states)}),
            ("approval.request", {
                "approval_id": approval, "session_id": session, "subject_type": "tool",
                "subject_id": chance.choice("ab"), "summary": "may I", "prompt": {"x": 1.0},
            }),
            ("approval.decide", {
                "approval_id": approval, "decision": chance.choice(["allow", "deny"]),
                "scope": chance.choice(["once", "session"]),
            }),
            ("canvas.create", {"canvas_id": canvas, "session_id": session, "state": {"n": 1}}),
            ("canvas.patch", {
                "canvas_id": canvas, "patch": patch, "expected_version": chance.randint(1, 4),
            }),
            ("canvas.replace", {
                "canvas_id": canvas, "state": {"n": [1, 2]},
                "expected_version": chance.randint(1, 4),
            }),
            ("canvas.fork", {"canvas_id": canvas, "new_canvas_id": self.some(self.canvases)}),
            ("canvas.compact", {"canvas_id": canvas}),
            ("canvas.close", {"canvas_id": canvas, "reason": "over"}),
        ]  # fmt: skip
        seldom: list[tuple[str, dict[str, Any]]] = [
            ("session.archive", {"session_id": session}),
            ("session.erase", {"session_id": session}),
        ]  # fmt: skip
        return chance.choice(told * 3 + seldom)

    def until_it_is_gone(self, client: Client) -> int:
        done = 0
        while True:
            try:
                if self.chance.random() < 0.3:
                    run = self.some(self.runs) if self.chance.random() < 0.5 else None
                    kind = self.chance.choice(["message_received", "model_token", "run_completed"])
                    session = self.some(self.sessions)
                    if run is not None:  # where it lives, or it would never be ended
                        session = self.homes.setdefault(run, session)
                    event = Event(session, kind, {"token": "x"}, run_id=run)
                    client.append(event, timeout_s=0.5)
                else:
                    op, body = self.command()
                    if op == "run.start":
                        self.homes.setdefault(body["run_id"], body["session_id"])
                    client.call(op, body, timeout_s=0.5)
                done += 1
            except PalyraError as error:
                if error.code in ("no_reply", "unavailable"):
                    return done


@pytest.mark.timeout(1200)
def test_after_a_kill_at_any_moment_the_projections_are_what_the_journal_makes(
    tmp_path: Path, campaign: bool, figure: Tell
) -> None:
    commander = Commander(random.Random(7))
    done = 0
    for _ in range(KILLS_OF_THE_CAMPAIGN if campaign else KILLS):
        with served(tmp_path) as (endpoint, process), Client(endpoint, timeout_s=10) as client:
            client.hello()
            wait_s = commander.chance.uniform(0.1, 0.5)
            killer = threading.Timer(wait_s, os.kill, (process.pid, signal.SIGKILL))
            killer.start()
            done += commander.until_it_is_gone(client)
            killer.join()
            process.wait()
        with Engine.open(tmp_path / "journal.db", NO_BUDGET) as engine:
            assert engine.verify().valid
        found = rebuilt(tmp_path / "journal.db")
        figure(6, "rows that differ from the live ones", len(found.differences), most=0)
        assert found.differences == [], "\n".join(map(str, found.differences))
    assert done > 0
    counted = rebuilt(tmp_path / "journal.db").rows
    figure(6, "rows made anew from the journal", sum(counted.values()))
    for table in ("sessions", "runs", "approvals", "canvases", "canvas_snapshots"):
        assert counted[table] > 0, table


def test_a_row_that_was_changed_behind_the_engines_back_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Engine.open(path, NO_BUDGET) as engine:
        session = engine.sessions.resolve("alice", title="before")
        engine.runs.start(session)
    assert rebuilt(path).different == 0
    for change, table in (
        ("UPDATE sessions SET title = 'after'", "sessions"),
        ("UPDATE runs SET entries = 7", "runs"),
        ("DELETE FROM runs", "runs"),
        ("INSERT INTO canvases SELECT 99, NULL, 'x', 1, x'', 1, 1, 1, NULL, 1, 1, 0, NULL",
         "canvases"),
    ):  # fmt: skip
        with closing(apsw.Connection(str(path))) as connection:
            connection.execute(change)
        assert table in {one.table for one in rebuilt(path).differences}, change


def test_the_state_is_shown_as_it_was_at_any_seq(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Engine.open(path, NO_BUDGET) as engine:
        session = engine.sessions.resolve("alice", title="one")
        for title in ("two", "three"):
            session.rename(title)
        session.archive()
    for at, title, status in ((1, "one", 1), (2, "two", 1), (3, "three", 1), (4, "three", 2)):
        with closing(Rebuild(path, at)) as made:
            for _ in made.run():
                pass
            (row,) = made.rows("sessions")
        assert (row["title"], row["status"]) == (title, status)
    with closing(Rebuild(path, 0)) as made:
        assert [list(made.rows(table)) for table in PROJECTIONS] == [[]] * len(PROJECTIONS)


# -- older languages ------------------------------------------------------------------------------


def test_a_payload_is_upcast_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {
        ("a.b", 0): lambda said: {"name": said["n"]},
        ("a.b", 1): lambda said: {"title": said["name"], "more": None},
    }
    monkeypatch.setattr(folds, "UPCASTS", steps)
    assert upcast("a.b", {"v": 0, "n": "x"}) == {"v": 2, "title": "x", "more": None}
    assert upcast("a.b", {"v": 1, "name": "x"}) == {"v": 2, "title": "x", "more": None}
    newest = {"v": 2, "title": "x", "more": 5}
    assert upcast("a.b", newest) is newest
    assert upcast("a.c", {"v": 0, "n": "x"}) == {"v": 0, "n": "x"}
    assert upcast("message_received", {"v": "the client's own"}) == {"v": "the client's own"}


def test_a_journal_that_speaks_an_older_version_folds_to_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if an engine before this one had written titles as `name` and patches as `ops`."""
    path = tmp_path / "journal.db"
    with Engine.open(path, NO_BUDGET) as engine:
        session = engine.sessions.resolve("alice", title="one")
        session.rename("two")
        canvas = engine.canvases.create(session, {"n": 1})
        canvas.patch(1, [{"op": "add", "path": "/m", "value": 2}])
    with closing(apsw.Connection(str(path))) as connection:
        older: dict[str, Callable[[Any], Any]] = {
            "session.updated": lambda said: {"v": 0, "name": said["title"]},
            "canvas.patched": lambda said: {
                "v": 0, "to": said["version"], "ops": said["patch"], "sha256": said["sha256"],
            },
        }  # fmt: skip
        for kind, made in older.items():
            ((seq, payload),) = connection.execute(
                "SELECT seq, payload FROM events WHERE kind = ?", (KIND_NUMBERS[kind],)
            ).fetchall()
            assert isinstance(payload, bytes)
            stored = msgspec.msgpack.encode(made(msgspec.msgpack.decode(payload)))
            connection.execute("UPDATE events SET payload = ? WHERE seq = ?", (stored, seq))
    monkeypatch.setitem(folds.UPCASTS, ("session.updated", 0), lambda said: {"title": said["name"]})
    monkeypatch.setitem(
        folds.UPCASTS,
        ("canvas.patched", 0),
        lambda said: {
            "version": said["to"], "patch": said["ops"], "sha256": said["sha256"],
        },
    )  # fmt: skip
    found = [one for one in rebuilt(path).differences if one.table != "canvases"]
    assert found == []
    with Engine.open(path, NO_BUDGET) as engine:
        handle = engine.canvases.open(canvas)
        assert handle.get().state == {"n": 1, "m": 2}
        (patch,) = handle.history()
        assert (patch.version, patch.patch) == (2, [{"op": "add", "path": "/m", "value": 2}])
        handle.patch(2, [{"op": "remove", "path": "/m"}])
        assert handle.get().state == {"n": 1}


# -- older files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left",
    [
        "UPDATE canvas_snapshots SET bytes = 0",
        "UPDATE sessions SET tokens_in = 0, tokens_out = 0;"
        " UPDATE runs SET entries = 0, open = 0, tokens_in = 0, tokens_out = 0, created_ms = 0,"
        " ended_ms = NULL",
    ],
    ids=["canvases of version 8", "runs of version 2"],
)
def test_what_older_migrations_left_at_its_default_is_made_anew(database: Path, left: str) -> None:
    with Engine.open(database, NO_BUDGET) as engine:
        session = engine.sessions.open()
        for _ in range(3):
            run = new_id()
            for kind in ("model_token", "model_token", "x.a", "run_completed"):
                said = {"token": "a", "usage": {"model_tokens_in": 3, "model_tokens_out": 4}}
                session.append(kind, said, actor="agent", run_id=run)
        canvas = engine.canvases.create(session, {"n": 0})
        for n in range(1, 120):
            canvas.patch(n, [{"op": "replace", "path": "/n", "value": n}])
    connection = apsw.Connection(str(database))
    before = state_of(connection)
    connection.execute(left).fetchall()
    assert state_of(connection) != before
    assert rebuilt(database).different, "or the test shows nothing"
    (step,) = (step for step in migrations() if step.name == "made_anew")
    assert step.after is not None
    with connection:
        step.after(connection)
    assert state_of(connection) == before
    connection.close()
    assert not rebuilt(database).different


def test_events_that_cannot_be_folded_are_told_of_and_the_file_stays_at_its_version(
    database: Path,
) -> None:
    with Engine.open(database, NO_BUDGET) as engine:
        engine.sessions.open().append("x.a", {"n": 1}, run_id=new_id())
    connection = apsw.Connection(str(database))
    connection.execute(
        "UPDATE events SET payload = x'c1'; UPDATE runs SET created_ms = 0;"
        f"{WITHOUT_WARM_HEADS} PRAGMA user_version = 18"
    ).fetchall()
    connection.close()
    with pytest.raises(OpenRefused, match="cannot be folded") as caught:
        Engine.open(database, NO_BUDGET)
    assert caught.value.detail["version"] == 18
    connection = apsw.Connection(str(database))
    assert connection.execute("PRAGMA user_version").fetchall() == [(18,)]
    connection.close()


def state_of(connection: apsw.Connection) -> list[Any]:
    return [
        connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
        for table, order in PROJECTIONS.items()
        if table in ("runs", "sessions", "canvas_snapshots")
    ]


def test_streams_that_lie_anywhere_go_on_where_they_ended(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few heads that stay together, so that most are put in their place again and again."""
    monkeypatch.setattr(cooling, "WARM_MAX", 5)
    monkeypatch.setattr(cooling, "LOOK_AFTER", 10)
    chance, written = random.Random(5), dict[str, int]()
    for _ in range(3):
        with Engine.open(database, NO_BUDGET) as engine:
            for _ in range(150):
                name = f"session {chance.randrange(40)}"
                session = engine.sessions.resolve(name)
                written[name] = written.get(name, 1) + 1
                assert session.append("x.a", {"n": 1}).session_seq == written[name]
            listed = {one.session_key: one.last_session_seq for one in engine.sessions.list()}
            assert listed == written
    with closing(apsw.Connection(str(database))) as connection:
        ((warm, cold),) = connection.execute(
            "SELECT (SELECT count(*) FROM warm_heads), (SELECT count(*) FROM heads)"
        ).fetchall()
        assert isinstance(cold, int)
        assert cold > 20, "or the test shows nothing"
        assert isinstance(warm, int)
        assert warm < 40
    assert not rebuilt(database).different
