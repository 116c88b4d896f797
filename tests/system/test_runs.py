"""`run.*` of the contract: the states as a table, the tape, usage, and what a crash leaves."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.client import Client
from palyra_actors.domain.run import STEPS
from palyra_actors.domain.session_commands import STATE_NUMBERS
from palyra_actors.limits import TAPE_TEXT_BYTES_MAX
from palyra_actors.storage.journal import JournalReader
from tests.system.harness import House, Wire, event, house, served

STATES = list(STATE_NUMBERS)
WAYS: dict[str, list[str]] = {
    "accepted": [],
    "in_progress": ["in_progress"],
    "done": ["in_progress", "done"],
    "failed": ["failed"],
    "cancelled": ["cancelled"],
}
ALLOWED = {
    ("accepted", "in_progress"), ("accepted", "failed"), ("accepted", "cancelled"),
    ("in_progress", "done"), ("in_progress", "failed"), ("in_progress", "cancelled"),
}  # fmt: skip


def start(wire: Wire, session: str | None = None, **body: Any) -> str:
    run = new_id()
    wire.ok("run.start", {"run_id": run, "session_id": session or new_id(), **body})
    return run


def at(wire: Wire, state: str) -> str:
    """A run in that state."""
    run = start(wire)
    for to in WAYS[state]:
        wire.ok("run.transition", {"run_id": run, "to": to})
    return run


def get(wire: Wire, run: str) -> dict[str, Any]:
    return dict(wire.ok("run.get", {"run_id": run})["run"])


def tape(wire: Wire, run: str, limit: int = 1024) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    after = 0
    while True:
        page = wire.ok("run.tape", {"run_id": run, "after": after, "limit": limit})
        entries += page["entries"]
        after = page["next_after"]
        if page["end"]:
            return entries


@pytest.mark.parametrize(("state", "to"), list(itertools.product(WAYS, STATES)))
def test_the_states_allow_these_steps_and_no_others(wire: Wire, state: str, to: str) -> None:
    run = at(wire, state)
    body = {"run_id": run, "to": to, "reason": "because"}
    if (state, to) in ALLOWED:
        told = wire.ok("run.transition", body)["run"]
        assert (told["state"], told["reason"]) == (to, "because")
        assert (told["ended_ms"] is None) is (to == "in_progress")
        assert get(wire, run) == told
    else:
        error = wire.err("run.transition", body)
        assert error["code"] == "invalid_transition"
        assert error["detail"] == {"from": state, "to": to}
        assert get(wire, run)["state"] == state


def test_the_page_of_the_protocol_draws_the_same_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "protocol-sessions.md"
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("| ") and line.count("|") == 8
    ]
    states, drawn = rows[0][1:], {row[0]: row[1:] for row in rows[2:]}
    assert set(states) == set(drawn) == set(STATE_NUMBERS)
    for before, cells in drawn.items():
        after = {STATE_NUMBERS[to] for to, cell in zip(states, cells, strict=True) if cell == "yes"}
        assert after == STEPS[STATE_NUMBERS[before]], before


def test_the_file_holds_to_the_same_table(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        start(opened.connect())
    connection = apsw.Connection(str(tmp_path / "journal.db"))
    connection.execute("DROP INDEX runs_under_way")  # states that nothing leads to are tried, too
    for before, after in itertools.product(STEPS, STEPS):
        connection.execute("DELETE FROM runs")
        connection.execute(
            "INSERT INTO runs (run_id, stream, state, first) VALUES (x'00', 1, ?, 1)", (before,)
        )
        by_event = (before, after) == (STATE_NUMBERS["accepted"], STATE_NUMBERS["done"])
        if before == after or after in STEPS[before] or by_event:
            connection.execute("UPDATE runs SET state = ?", (after,))
        else:
            with pytest.raises(apsw.ConstraintError):
                connection.execute("UPDATE runs SET state = ?", (after,))
    connection.close()


def test_cancel_is_a_step_like_the_others(wire: Wire) -> None:
    run = start(wire)
    told = wire.ok("run.cancel", {"run_id": run, "reason": "enough"})["run"]
    assert (told["state"], told["reason"]) == ("cancelled", "enough")
    assert wire.err("run.cancel", {"run_id": run})["code"] == "invalid_transition"
    error = wire.err("run.cancel", {"run_id": new_id()})
    assert (error["code"], error["field"]) == ("not_found", "run_id")


def test_a_subscriber_hears_of_a_cancel(own: House) -> None:
    wire, listener = own.connect(), own.connect()
    run = start(wire)
    sub = listener.send("journal.subscribe", {"credit": 10, "kinds": ["run.transitioned"]})
    wire.ok("run.cancel", {"run_id": run})
    (heard,) = listener.items_until(lambda events: bool(events), sub)
    assert (heard["run_id"], heard["payload"]["to"]) == (run, "cancelled")


def test_a_run_is_started_once_and_lives_in_one_session(wire: Wire) -> None:
    session = new_id()
    run = start(wire, session)
    error = wire.err("run.start", {"run_id": run, "session_id": session})
    assert (error["code"], error["detail"]["actual"]) == ("conflict", "accepted")
    error = wire.err("run.start", {"run_id": run, "session_id": new_id()})
    assert (error["code"], error["field"]) == ("conflict", "run_id")
    assert error["detail"] == {"actual": "accepted"}
    error = wire.refuse(event(new_id(), run_id=run))
    assert (error["code"], error["field"]) == ("invalid", "events[0].run_id")


def test_one_run_started_in_two_sessions_at_once_begins_in_one(own: House) -> None:
    one, other = own.connect(), own.connect()
    for _ in range(30):
        run = new_id()
        for wire in (one, other):
            wire.send("run.start", {"run_id": run, "session_id": new_id()})
        told = [wire.receive() for wire in (one, other)]
        assert sorted("ok" in answer for answer in told) == [False, True]
        (refused,) = [answer["err"] for answer in told if "err" in answer]
        assert (refused["code"], refused["field"]) == ("conflict", "run_id")


def test_a_child_names_its_parent(wire: Wire) -> None:
    session = new_id()
    parent = start(wire, session)
    child = start(wire, session, parent_run_id=parent)
    assert get(wire, child)["parent_run_id"] == parent
    body = {"run_id": new_id(), "session_id": session, "parent_run_id": new_id()}
    error = wire.err("run.start", body)
    assert (error["code"], error["field"]) == ("not_found", "parent_run_id")


def test_anothers_run_is_answered_like_one_that_is_not_there(wire: Wire) -> None:
    run = start(wire)
    for op, body in (
        ("run.get", {}), ("run.tape", {}), ("run.cancel", {}), ("run.transition", {"to": "failed"}),
    ):  # fmt: skip
        hers = wire.err(op, {"run_id": run, **body}, principal="other")
        none = wire.err(op, {"run_id": new_id(), **body}, principal="other")
        assert hers == none
        assert hers["code"] == "not_found"


def test_events_end_a_run_and_say_what_it_used(wire: Wire) -> None:
    session, run = new_id(), new_id()
    wire.append(
        event(session, run_id=run),
        event(session, run_id=run, kind="run_completed", payload={
            "usage": {"input_tokens": 1_000, "output_tokens": 200},
        }),
    )  # fmt: skip
    second = start(wire, session)
    usage = {"model_tokens_in": 7, "model_tokens_out": 3, "other": "x"}
    wire.append(event(session, run_id=second, kind="run_failed", payload={"usage": usage}))
    found = get(wire, run)
    assert (found["state"], found["model_tokens_in"], found["model_tokens_out"]) == (
        "done", 1_000, 200,
    )  # fmt: skip
    assert get(wire, second)["state"] == "failed"
    told = wire.ok("session.get", {"session_id": session})["session"]
    assert (told["runs"], told["model_tokens_in"], told["model_tokens_out"]) == (2, 1_007, 203)
    assert told["last_run_id"] == second


def test_runs_are_listed_by_session_and_page_by_page(own: House) -> None:
    wire = own.connect()
    sessions = [new_id() for _ in range(3)]
    made = [(session, start(wire, session)) for _ in range(4) for session in sessions]
    theirs = wire.ok("run.start", {"run_id": new_id(), "session_id": new_id()}, principal="other")[
        "run"
    ]["run_id"]

    def listed(principal: str = "local", **body: Any) -> list[str]:
        found: list[str] = []
        while True:
            page = wire.ok("run.list", {"limit": 5, **body}, principal=principal)
            found += [one["run_id"] for one in page["runs"]]
            body["after"] = page["next_after"]
            if page["end"]:
                return found

    in_order = [run for session in sessions for own, run in made if own == session]
    assert listed("local") == [*in_order, theirs]
    assert listed("other") == [theirs]
    assert listed(session_id=sessions[1]) == [run for own, run in made if own == sessions[1]]
    assert wire.err("run.list", {"session_id": new_id()})["code"] == "not_found"


# -- the tape -------------------------------------------------------------------------------------


def test_adjacent_tokens_are_one_entry_and_all_else_is_one_each(wire: Wire) -> None:
    session, run, other = new_id(), new_id(), new_id()
    words = ["The ", "tape", " of", " a run"]

    def token(text: str, of: str = run, key: str = "token") -> dict[str, Any]:
        return event(session, run_id=of, kind="model_token", payload={key: text})

    wire.append(
        event(session, run_id=run, payload={"n": 1}), token(words[0]), token(words[1]),
        event(session, payload={"of": "no run"}), token("other", other),
        token(words[2], key="text"),
        event(session, run_id=run, kind="tool_proposed", payload={"n": 2}), token(words[3]),
    )  # fmt: skip
    entries = tape(wire, run, limit=1)
    assert entries == tape(wire, run)
    assert [one["tape_seq"] for one in entries] == [1, 2, 3, 4]
    assert [one["payload"] for one in entries] == [
        {"n": 1}, {"text": "The tape of", "count": 3}, {"n": 2}, {"text": " a run", "count": 1},
    ]  # fmt: skip
    assert [one["kind"] for one in entries] == [
        "message_received", "model_token", "tool_proposed", "model_token",
    ]  # fmt: skip
    assert get(wire, run)["tape_entries"] == 4


def test_tokens_of_several_who_talk_are_adjacent_whatever_the_engine_writes_between(
    wire: Wire,
) -> None:
    session, run = new_id(), new_id()
    wire.ok("run.start", {"run_id": run, "session_id": session})
    said = {"kind": "model_token", "run_id": run}
    wire.append(event(session, **said, actor="agent", ts_ms=7, payload={"token": "a"}))
    wire.ok("run.transition", {"run_id": run, "to": "in_progress"})
    wire.append(event(session, **said, actor="plugin", ts_ms=9, payload={"token": "b"}))
    (entry,) = tape(wire, run)
    assert (entry["actor"], entry["ts_ms"]) == ("agent", 7)
    assert entry["payload"] == {"text": "ab", "count": 2}
    events = wire.read(run_id=run, kinds=["model_token"])
    assert [(one["actor"], one["ts_ms"]) for one in events] == [("agent", 7), ("plugin", 9)]


def test_what_comes_late_for_a_run_is_on_its_tape_and_changes_nothing_else(wire: Wire) -> None:
    session, run = new_id(), new_id()
    end = {"kind": "run_completed", "run_id": run, "payload": {"usage": {"input_tokens": 3}}}
    wire.append(event(session, **end))
    before = get(wire, run)
    wire.append(event(session, **end), event(session, run_id=run, payload={"text": "late"}))
    assert get(wire, run) == {**before, "tape_entries": 3}
    assert [one["kind"] for one in tape(wire, run)] == [
        "run_completed", "run_completed", "message_received",
    ]  # fmt: skip
    told = wire.ok("session.get", {"session_id": session})["session"]
    assert told["model_tokens_in"] == 3
    assert wire.refuse(event(session, **{**end, "kind": "run_failed"}))["detail"] == {
        "from": "done", "to": "failed",
    }  # fmt: skip


def test_a_long_talk_is_one_entry_that_fits_a_frame_and_says_where_it_goes_on(own: House) -> None:
    wire, session, run = own.connect(), new_id(), new_id()
    texts = [f"{number % 10}" * 200_000 for number in range(45)]
    for at in range(0, len(texts), 15):
        wire.append(*(
            event(session, run_id=run, kind="model_token", payload={"token": text})
            for text in texts[at : at + 15]
        ))  # fmt: skip
    wire.append(event(session, run_id=run, payload={"text": "Thank you."}))
    first, last = tape(wire, run)
    assert (first["payload"]["count"], last["payload"]) == (45, {"text": "Thank you."})
    joined = first["payload"]["joined"]
    assert first["payload"]["text"] == "".join(texts[:joined])
    assert TAPE_TEXT_BYTES_MAX - 200_000 < joined * 200_000 <= TAPE_TEXT_BYTES_MAX
    rest = {
        "run_id": run,
        "kinds": ["model_token"],
        "after_seq": first["payload"]["next_after_seq"],
    }
    shown: list[str] = []
    while len(shown) < 45 - joined:
        page = wire.ok("journal.read", rest)
        shown += [one["payload"]["token"] for one in page["events"]]
        rest["after_seq"] = page["next_after_seq"]
    assert texts[joined:] == shown
    with Client(own.endpoint) as client:
        assert [one.payload for one in client.runs.tape(run)] == [first["payload"], last["payload"]]


def test_the_engines_own_events_are_not_on_the_tape(wire: Wire) -> None:
    run = start(wire)
    wire.ok("run.transition", {"run_id": run, "to": "in_progress"})
    assert tape(wire, run) == []


def test_the_1025th_entry_is_refused_and_the_run_can_still_end(wire: Wire) -> None:
    session, run = new_id(), new_id()
    wire.append(*(event(session, run_id=run) for _ in range(1_000)))
    error = wire.refuse(*(event(session, run_id=run) for _ in range(25)))
    assert (error["code"], error["field"]) == ("limit_reached", "events[24].run_id")
    wire.append(*(event(session, run_id=run) for _ in range(24)))
    assert wire.refuse(event(session, run_id=run))["code"] == "limit_reached"
    wire.append(event(session), event(session, run_id=new_id()))
    wire.append(event(session, run_id=run, kind="run_completed"))
    assert (get(wire, run)["state"], len(tape(wire, run))) == ("done", 1_024)


def test_the_tape_is_as_full_after_a_restart_as_before(tmp_path: Path) -> None:
    session, run = new_id(), new_id()
    with house(tmp_path) as opened:
        opened.connect().append(*(event(session, run_id=run) for _ in range(1_023)))
        opened.connect().append(event(session, run_id=run, kind="model_token"))
    with house(tmp_path) as opened:
        wire = opened.connect()
        wire.append(event(session, run_id=run, kind="model_token"))
        assert wire.refuse(event(session, run_id=run))["code"] == "limit_reached"
        assert tape(wire, run)[-1]["payload"]["count"] == 2


def test_a_tape_is_read_no_further_than_to_its_last_entry(
    own: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, run, session, taken = own.connect(), new_id(), new_id(), 0
    wire.append(event(session, run_id=run), event(session, run_id=run, kind="run_completed"))
    for _ in range(5):
        wire.append(*(event(session) for _ in range(200)))
    read = JournalReader.numbered

    def counted(*arguments: Any) -> Iterator[Any]:
        nonlocal taken
        for one in read(*arguments):
            taken += 1
            yield one

    monkeypatch.setattr(JournalReader, "numbered", counted)
    assert len(tape(wire, run)) == 2
    assert taken == 2


# -- what a crash leaves --------------------------------------------------------------------------


def test_a_run_without_its_process_ends_failed_at_the_next_start(tmp_path: Path) -> None:
    sessions = [new_id() for _ in range(70)]
    with served(tmp_path) as (endpoint, process), Client(endpoint) as client:
        runs = [client.runs.start(session).run_id for session in sessions]
        client.runs.move(runs[0], "in_progress")
        client.runs.cancel(runs[1])
        ours = new_id()
        client.append(event(sessions[0], run_id=ours))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with house(tmp_path) as opened:
        wire = opened.connect()
        sub = wire.send("journal.subscribe", {"credit": 1_000, "after_seq": 0})
        wire.items_until(
            lambda events: sum(
                one["kind"] == "run.transitioned" and one["payload"]["to"] == "failed"
                for one in events
            ) == 69,
            sub,
        )  # fmt: skip
        wire = opened.connect()
        found = [get(wire, run) for run in runs]
        assert [one["state"] for one in found] == ["failed", "cancelled", *["failed"] * 68]
        assert found[0]["reason"].startswith("orphaned")
        assert get(wire, ours)["state"] == "in_progress", "an agent's own, who may live on"


def test_a_clean_stop_ends_no_run(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        run = start(opened.connect())
    with house(tmp_path) as opened:
        wire = opened.connect()
        wire.append(event(new_id()))
        assert get(wire, run)["state"] == "accepted"
