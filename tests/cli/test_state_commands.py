"""Sessions, runs, approvals, canvases and rebuild from the shell, against a real engine."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import Event, new_id
from palyra_actors.cli import approvals, exits
from palyra_actors.engine import Engine
from tests.cli.conftest import Answer, Run


def told(answer: Answer) -> dict[str, Any]:
    """The one JSON document of a command that went well."""
    code, out, err = answer
    assert (code, err) == (0, ""), answer
    return dict(json.loads(out))


def lines(answer: Answer) -> list[Any]:
    code, out, err = answer
    assert (code, err) == (0, ""), answer
    return [json.loads(line) for line in out.splitlines()]


def test_a_session_is_made_found_renamed_branched_archived_and_erased(
    run: Run, endpoint: str
) -> None:
    del endpoint
    session = told(run("sessions", "resolve", "alice", "--title", "Rain in Brno", "--json"))
    name = session["session_id"]
    assert told(run("sessions", "show", name, "--json")) == session
    assert name in run("sessions", "list", "rain")[1]
    assert name not in run("sessions", "list", "snow")[1]
    assert told(run("sessions", "rename", name, "Sun", "--json"))["title"] == "Sun"
    run("append", "--session", name, "--text", "hello")
    new = new_id()
    branch = told(run("sessions", "branch", name, "--at", 2, "--key", "b", "--new", new, "--json"))
    assert branch["session_id"] == new
    assert branch["branch_state"] == {"parent_session_id": name, "at_session_seq": 2}
    kinds = [one["kind"] for one in lines(run("sessions", "history", name, "--json"))]
    assert kinds == ["session.opened", "session.updated", "message_received"]
    kinds = [
        one["kind"] for one in lines(run("sessions", "history", branch["session_id"], "--json"))
    ]
    assert kinds == ["session.opened", "session.updated", "session.branched", "session.updated"]
    assert told(run("sessions", "archive", name, "--json"))["status"] == "archived"
    assert run("append", "--session", name, "--text", "late")[0] == exits.REFUSED
    assert told(run("sessions", "erase", name, "--yes", "--json")) == {"erased": 4}
    assert "gone" in run("sessions", "show", name)[2]


def test_a_run_is_started_moved_cancelled_and_its_tape_read(run: Run, endpoint: str) -> None:
    del endpoint
    session = told(run("sessions", "resolve", "alice", "--json"))["session_id"]
    first = told(run("runs", "start", session, "--json"))
    child = told(run("runs", "start", session, "--parent", first["run_id"], "--json"))
    assert child["parent_run_id"] == first["run_id"]
    assert told(run("runs", "move", first["run_id"], "in_progress", "--json"))["state"] == (
        "in_progress"
    )
    assert "invalid_transition" in run("runs", "move", child["run_id"], "done")[2]
    cancelled = told(run("runs", "cancel", child["run_id"], "--reason", "enough", "--json"))
    assert (cancelled["state"], cancelled["reason"]) == ("cancelled", "enough")
    assert told(run("runs", "show", child["run_id"], "--json")) == cancelled
    run("append", "--session", session, "--run", first["run_id"], "--text", "hello")
    (entry,) = lines(run("runs", "tape", first["run_id"], "--json"))
    assert entry["payload"] == {"text": "hello"}
    listed = run("runs", "list", "--session", session)[1]
    assert first["run_id"] in listed, "ids are not cut"
    assert child["run_id"] in listed


def test_a_list_leaves_out_what_does_not_fit_a_terminal_and_names_it(
    run: Run, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del endpoint
    session = told(run("sessions", "resolve", "alice", "--json"))["session_id"]
    name = told(run("runs", "start", session, "--json"))["run_id"]
    whole = run("runs", "list")[1].splitlines()
    assert len(whole) == 2, "a line each where nobody looks on"
    assert session in whole[1]
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run("runs", "list")[1]
    assert name in narrow
    assert "accepted" in narrow
    assert session not in narrow
    assert "not shown here: session, ended, in, out" in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_an_approval_is_asked_for_decided_listed_exported_and_checked(
    run: Run, endpoint: str, tmp_path: Path
) -> None:
    del endpoint
    session = told(run("sessions", "resolve", "alice", "--json"))["session_id"]
    asked = told(run("approvals", "request", session, "tool", "rm", "remove a file",
                     "--prompt", '{"path": "/tmp/x"}', "--policy", '["ask"]',
                     "--json"))  # fmt: skip
    name = asked["approval_id"]
    assert asked["policy"] == ["ask"]
    assert asked["prompt"] == {"path": "/tmp/x"}
    assert name in run("approvals", "list", "--decision", "pending")[1]
    assert lines(run("approvals", "list", "--until-ms", 5, "--json")) == []
    assert lines(run("approvals", "list", "--principal", "nobody", "--json")) == []
    decided = told(run("approvals", "decide", name, "deny", "--reason", "no", "--json"))
    assert told(run("approvals", "show", name, "--json")) == decided
    assert "conflict" in run("approvals", "decide", name, "allow")[2]
    assert run("approvals", "request", session, "tool", "rm", "x", "--prompt", "{")[0] != 0
    file = tmp_path / "export.ndjson"
    assert run("approvals", "export", "-o", file)[0] == 0
    assert "valid: 1 approvals" in run("verify-export", file)[1]
    file.write_bytes(file.read_bytes().replace(b'"deny"', b'"allow"'))
    code, out, _ = run("verify-export", file)
    assert (code, "damaged: line 1" in out) == (exits.DAMAGED, True)


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_an_export_that_ends_at_its_limit_says_what_is_beyond(
    run: Run, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    del endpoint
    session = told(run("sessions", "resolve", "alice", "--json"))["session_id"]
    asked = [
        told(run("approvals", "request", session, "tool", "rm", f"file {n}", "--json"))
        for n in range(5)
    ]
    file = tmp_path / "export"
    export = ("approvals", "export", "--format", form, "-o", file)
    assert run(*export) == (0, "", "")
    monkeypatch.setattr(approvals, "APPROVAL_EXPORT_MAX", 2)
    code, _, said = run(*export)
    assert code == 0
    assert "2 approvals" in said
    assert "3 more are not in it" in said
    assert f"--since-ms {asked[1]['requested_ms']}" in said
    monkeypatch.setattr(approvals, "BEYOND_MAX", 2)
    assert "at least 2 more" in run(*export)[2]
    monkeypatch.setattr(approvals, "APPROVAL_EXPORT_MAX", 5)
    assert run(*export) == (0, "", ""), "as many as there are, and no more"


def test_what_makes_no_canvas_and_no_patch_is_refused_by_its_field(run: Run, endpoint: str) -> None:
    del endpoint
    session = new_id()
    code, _, said = run("canvas", "create", session, '{"a": {"b": 1, "b": 2}}')
    assert code == exits.REFUSED
    assert "'b' is there twice" in said
    assert "[state]" in said
    name = told(run("canvas", "create", session, '{"n": 1}', "--json"))["canvas_id"]
    twice = '[{"op": "remove", "path": "/n", "op": "add", "value": 5}]'
    assert "'op' is there twice" in run("canvas", "patch", name, 1, twice)[2]
    for text in ('"[]"', '{"op": "remove", "path": "/n"}', "5", "null"):
        assert "a patch is a list of operations [patch]" in run("canvas", "patch", name, 1, text)[2]
    late = str(4_000_000_000_000)
    made = told(run("canvas", "create", session, "{}", "--expires-ms", late, "--json"))
    assert made["expires_ms"] == int(late)
    assert "[expires_ms]" in run("canvas", "create", session, "{}", "--expires-ms", "1")[2]
    assert "[state.a[0]]" in run("canvas", "create", session, '{"a": [18446744073709551616]}')[2]
    assert '"n": 1' in run("canvas", "show", name)[1]


def test_a_canvas_is_made_patched_compared_forked_watched_compacted_and_closed(
    run: Run, endpoint: str
) -> None:
    del endpoint
    session = told(run("sessions", "resolve", "alice", "--json"))["session_id"]
    made = told(run("canvas", "create", session, '{"title": "Plan", "n": 1}', "--json"))
    name = made["canvas_id"]
    change = '[{"op": "replace", "path": "/n", "value": 2}]'
    assert told(run("canvas", "patch", name, 1, change, "--json"))["version"] == 2
    assert "conflict" in run("canvas", "patch", name, 1, change)[2]
    third = told(run("canvas", "replace", name, 2, '{"title": "The plan", "n": 2}', "--json"))
    assert (third["version"], third["state"]) == (3, {"title": "The plan", "n": 2})
    assert len(third["state_sha256"]) == 64
    assert json.loads(run("canvas", "diff", name, 1, 2, "--json")[1]) == json.loads(change)
    shown = run("canvas", "diff", name, 1, 3)[1]
    assert '-  "title": "Plan"' in shown
    assert '+  "title": "The plan"' in shown
    assert run("canvas", "diff", name, 2, 2)[1] == ""
    assert run("canvas", "diff", name, 2, 2, "--json")[1] == "[]\n"
    other = told(run("canvas", "create", session, '{"n": 1, "pad": "0123456789"}', "--json"))
    typed = '[{"op":"replace","path":"/n","value":true}]'
    assert run("canvas", "patch", other["canvas_id"], 1, typed)[0] == exits.OK
    assert run("canvas", "diff", other["canvas_id"], 1, 2, "--json")[1] == typed + "\n"
    fork = told(run("canvas", "fork", name, "--at", 1, "--json"))
    assert (fork["version"], fork["state"]) == (1, {"title": "Plan", "n": 1})
    assert [one["version"] for one in lines(run("canvas", "history", name, "--json"))] == [2, 3]
    (seen,) = lines(run("canvas", "watch", name, "-n", 1, "--json"))
    assert seen == {"version": 3, "state": {"title": "The plan", "n": 2}}
    streamed = run("canvas", "watch", name, "-n", 1, "--ag-ui")[1]
    assert streamed.startswith("id: ")
    assert '"type":"STATE_SNAPSHOT"' in streamed
    assert told(run("canvas", "compact", name, "--json"))["patches_dropped"] == 2
    assert "gone" in run("canvas", "show", name, "--version", 1)[2]
    assert '"n": 2' in run("canvas", "show", name)[1]
    closed = told(run("canvas", "close", name, "--reason", "done", "--json"))
    assert (closed["closed"], closed["close_reason"]) == (True, "done")
    last = {"version": 3, "closed": True, "close_reason": "done"}
    assert lines(run("canvas", "watch", name, "--json"))[1:] == [last], "it ends by itself"
    assert run("canvas", "watch", name)[1].endswith("closed: done\n")


def test_rebuild_says_equal_and_shows_the_state_as_it_was(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    with Engine.open(path) as engine:
        session = engine.sessions.resolve("alice", title="one")
        engine.append(Event(session.session_id, "message_received", {"text": "hello"}))
        session.rename("two")
    assert run("rebuild", "--db", path)[:2] == (0, "equal: 3 events, 4 rows compared\n")
    (row,) = lines(run("rebuild", "--db", path, "--at", 2, "--json"))
    assert (row["session_id"], row["title"]) == (session.session_id, "one")
    assert row["status"] == "open"
    assert "title one" in run("rebuild", "--db", path, "--at", 2)[1]
    (stream,) = lines(run("rebuild", "--db", path, "--at", 2, "--table", "streams", "--json"))
    assert (stream["kind"], stream["stream_id"]) == ("session", session.session_id)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("UPDATE sessions SET title = 'three'")
    code, out, _ = run("rebuild", "--db", path)
    assert (code, "1 rows differ" in out) == (exits.DAMAGED, True)
    assert "three" in out
    assert session.session_id in out
    assert "'open'" in out
    assert r"\x" not in out
    assert run("rebuild", "--db", path, "--at", 1, "--table", "events")[0] != 0
    assert "the journal ends at" in run("rebuild", "--db", path, "--at", 1_000)[2]
