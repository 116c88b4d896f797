"""`session.*` of the contract, row by row, through a door."""

from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.testing.clock import ManualClock
from tests.figures import Tell
from tests.system.harness import House, Wire, event, house

SECRET = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"


def resolve(wire: Wire, **body: Any) -> dict[str, Any]:
    return dict(wire.ok("session.resolve", body)["session"])


def fill(wire: Wire, session: str, count: int) -> list[str]:
    """That many events; their ids."""
    events = [event(session, payload={"n": n}) for n in range(count)]
    wire.append(*events)
    return [one["event_id"] for one in events]


def history(wire: Wire, session: str, limit: int = 1000) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    after = 0
    while True:
        page = wire.ok("session.history", {"session_id": session, "after": after, "limit": limit})
        events += page["events"]
        after = page["next_after"]
        if page["end"]:
            return events


def test_a_key_finds_the_session_that_it_made(wire: Wire) -> None:
    key = new_id()
    made = wire.ok("session.resolve", {"session_key": key, "title": "a talk"})
    assert made["created"]
    again = wire.ok("session.resolve", {"session_key": key, "title": "another"})
    assert (again["created"], again["session"]) == (False, made["session"])
    assert made["session"]["title"] == "a talk"
    assert made["session"]["status"] == "open"
    assert (
        wire.ok("session.get", {"session_id": made["session"]["session_id"]})["session"]
        == (made["session"])
    )


def test_two_who_resolve_one_new_key_at_once_get_one_session(own: House) -> None:
    one, other = own.connect(), own.connect()
    for _ in range(50):
        key = new_id()
        one.send("session.resolve", {"session_key": key})
        other.send("session.resolve", {"session_key": key})
        told = [wire.receive()["ok"] for wire in (one, other)]
        assert told[0]["session"]["session_id"] == told[1]["session"]["session_id"]
        assert sorted(answer["created"] for answer in told) == [False, True]


def test_what_is_not_to_be_created_is_not_found(wire: Wire) -> None:
    before = wire.head()
    for body in ({"session_key": new_id()}, {"session_id": new_id()}):
        assert wire.err("session.resolve", {**body, "create": False})["code"] == "not_found"
    assert wire.err("session.get", {"session_id": new_id()})["code"] == "not_found"
    assert wire.head() == before


def test_a_session_that_an_event_made_is_a_session_like_any_other(wire: Wire) -> None:
    session, run = new_id(), new_id()
    wire.append(event(session, run_id=run), event(session))
    found = wire.ok("session.get", {"session_id": session})["session"]
    assert (found["last_session_seq"], found["runs"], found["last_run_id"]) == (2, 1, run)
    assert found["created_ms"] == found["updated_ms"] > 0
    told = wire.ok("session.resolve", {"session_id": session})
    assert (told["created"], told["session"]) == (False, found)


def test_a_key_and_an_id_of_two_sessions_are_a_conflict(wire: Wire) -> None:
    key, other_key = new_id(), new_id()
    one, other = resolve(wire, session_key=key), resolve(wire, session_key=other_key)
    error = wire.err("session.resolve", {"session_id": other["session_id"], "session_key": key})
    assert error["code"] == "conflict"
    assert error["detail"]["actual"] == one["session_id"]
    error = wire.err("session.resolve", {"session_id": one["session_id"], "session_key": new_id()})
    assert (error["code"], error["detail"]["actual"]) == ("conflict", key)


def test_keys_are_a_principals_own(wire: Wire) -> None:
    key = new_id()
    ours = wire.ok("session.resolve", {"session_key": key})
    theirs = wire.ok("session.resolve", {"session_key": key}, principal="other")
    assert theirs["created"]
    assert theirs["session"]["session_id"] != ours["session"]["session_id"]
    assert theirs["session"]["principal"] == "other"


@pytest.mark.parametrize(
    ("op", "body"),
    [
        ("session.get", {}),
        ("session.history", {}),
        ("session.update", {"title": "x"}),
        ("session.archive", {}),
        ("session.branch", {}),
        ("session.erase", {}),
        ("session.resolve", {}),
    ],
)
def test_anothers_session_is_answered_like_one_that_is_not_there(
    wire: Wire, op: str, body: dict[str, Any]
) -> None:
    session = new_id()
    fill(wire, session, 1)
    hers = wire.err(op, {"session_id": session, **body}, principal="other")
    if op != "session.resolve":
        none = wire.err(op, {"session_id": new_id(), **body}, principal="other")
        assert hers == none
    assert hers["code"] == "not_found"


def test_a_title_is_changed_and_taken_away(wire: Wire) -> None:
    session = resolve(wire, title="one")["session_id"]
    for title in ("two", None):
        told = wire.ok("session.update", {"session_id": session, "title": title})
        assert told["session"]["title"] == title
        assert set(told["timing"]) == {"queued_ms", "commit_ms", "total_ms", "within_budget"}
    assert wire.ok("session.get", {"session_id": session})["session"] == told["session"]


def test_secrets_in_titles_are_redacted_and_in_keys_refused(wire: Wire) -> None:
    made = resolve(wire, title=f"with {SECRET}")
    assert made["title"] == "with <redacted>"
    error = wire.err("session.resolve", {"session_key": f"a {SECRET}"})
    assert (error["code"], error["field"]) == ("invalid", "session_key")
    assert SECRET not in str(wire.read(kinds=["session.opened"]))


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("session_key", "", "invalid"),
        ("session_key", "k" * 257, "too_large"),
        ("title", "t" * 1025, "too_large"),
        ("session_id", "nothing", "invalid_id"),
        ("event_id", "nothing", "invalid_id"),
        ("create", 1, "invalid"),
        ("other", 1, "invalid"),
    ],
)
def test_what_is_wrong_is_named(wire: Wire, field: str, value: object, code: str) -> None:
    error = wire.err("session.resolve", {field: value})
    assert (error["code"], error["field"]) == (code, field)


def test_an_archived_session_takes_nothing_more_and_reads_on(wire: Wire) -> None:
    session = new_id()
    ids = fill(wire, session, 3)
    told = wire.ok("session.archive", {"session_id": session})["session"]
    assert told["status"] == "archived"
    for op, body in (
        ("journal.append", {"events": [event(session)]}),
        ("session.archive", {"session_id": session}),
        ("session.update", {"session_id": session, "title": "x"}),
        ("run.start", {"session_id": session, "run_id": new_id()}),
    ):
        assert wire.err(op, body)["code"] == "invalid_transition", op
    assert [one["event_id"] for one in history(wire, session)][:3] == ids


def test_a_retry_gets_the_first_answer(wire: Wire) -> None:
    body = {"session_key": new_id(), "title": "x", "event_id": new_id()}
    first = wire.ok("session.resolve", body)
    again = wire.ok("session.resolve", body)
    assert (again["created"], again["duplicate"]) == (True, True)
    assert again["session"] == first["session"]
    assert wire.err("session.resolve", {**body, "title": "y"})["code"] == "id_reused"


# -- list -----------------------------------------------------------------------------------------


def test_a_list_is_read_page_by_page_with_its_filters(own: House) -> None:
    wire = own.connect()
    made = [resolve(wire, session_key=f"key-{n}", title=f"talk number {n}") for n in range(7)]
    for one in made[::3]:
        wire.ok("session.archive", {"session_id": one["session_id"]})
    wire.ok("session.resolve", {"session_key": "key-1"}, principal="other")

    def listed(principal: str | None = None, **body: Any) -> list[str]:
        found: list[str] = []
        while True:
            options = {} if principal is None else {"principal": principal}
            page = wire.ok("session.list", {"limit": 2, **body}, **options)
            found += [one["session_key"] for one in page["sessions"]]
            body["after"] = page["next_after"]
            if page["end"]:
                return found

    assert listed() == [f"key-{n}" for n in range(7)] + ["key-1"]
    assert listed(status="archived") == ["key-0", "key-3", "key-6"]
    assert listed(status="open") == ["key-1", "key-2", "key-4", "key-5", "key-1"]
    assert listed("other") == listed("other", status="open") == ["key-1"]
    assert listed("other", status="archived") == []
    assert listed("nobody") == []


def test_a_query_finds_the_beginnings_of_words_and_only_ones_own(own: House) -> None:
    wire = own.connect()
    for title in ("Prague weather", "Weather in Brno", 'say "weather" OR NOT', "nothing"):
        wire.ok("session.resolve", {"title": title}, principal="one")
    wire.ok("session.resolve", {"title": "weather elsewhere"}, principal="other")

    def found(query: str, principal: str = "one", **body: Any) -> list[str]:
        page = wire.ok("session.list", {"query": query, **body}, principal=principal)
        return [one["title"] for one in page["sessions"]]

    assert found("weat") == ["Prague weather", "Weather in Brno", 'say "weather" OR NOT']
    assert found("wea br") == ["Weather in Brno"]
    assert found("weather", "other") == ["weather elsewhere"]
    assert found('"weather" OR') == ['say "weather" OR NOT']
    assert found("owner : * NEAR(", "other") == found("6f74686572", "other") == []
    session = wire.ok("session.list", {"query": "nothing"})["sessions"][0]["session_id"]
    wire.ok("session.update", {"session_id": session, "title": "something"})
    assert (found("nothing"), found("something")) == ([], ["something"])
    wire.ok("session.archive", {"session_id": session})
    assert found("something", status="open") == []


@pytest.mark.parametrize(
    ("body", "field"),
    [({"status": "erased"}, "status"), ({"limit": 501}, "limit"), ({"limit": 0}, "limit")],
)
def test_a_list_refuses_what_it_does_not_know(wire: Wire, body: dict[str, Any], field: str) -> None:
    error = wire.err("session.list", body)
    assert (error["code"], error["field"]) == ("invalid", field)


# -- branches -------------------------------------------------------------------------------------


def test_a_branch_reads_its_parents_events_as_its_own_and_goes_on_alone(wire: Wire) -> None:
    parent = new_id()
    ids = fill(wire, parent, 200)
    child = wire.ok("session.branch", {"session_id": parent, "at_session_seq": 130})["session"]
    assert child["branch_state"] == {"parent_session_id": parent, "at_session_seq": 130}
    assert child["last_session_seq"] == 131
    own = fill(wire, child["session_id"], 3)
    fill(wire, parent, 1)
    read = history(wire, child["session_id"], limit=37)
    assert [one["stream_seq"] for one in read] == list(range(1, 135))
    assert [one["event_id"] for one in read if one["kind"] != "session.branched"] == (
        ids[:130] + own
    )
    assert len(history(wire, parent)) == 201
    assert wire.ok("journal.verify")["valid"]


def test_a_branch_of_a_branch_of_a_branch_reads_all_of_them(wire: Wire) -> None:
    session = new_id()
    expected = fill(wire, session, 10)
    for _ in range(5):
        session = wire.ok("session.branch", {"session_id": session})["session"]["session_id"]
        expected += fill(wire, session, 2)
    read = history(wire, session, limit=4)
    assert [one["event_id"] for one in read if one["kind"] != "session.branched"] == expected
    assert [one["stream_seq"] for one in read] == list(range(1, len(read) + 1))


def test_a_branch_sent_behind_an_append_includes_it(wire: Wire) -> None:
    session = new_id()
    fill(wire, session, 1)
    for _ in range(20):
        wire.send("journal.append", {"events": [event(session)]})
        wire.send("session.branch", {"session_id": session})
    told = [wire.receive()["ok"] for _ in range(40)]
    at = [one["session"]["branch_state"]["at_session_seq"] for one in told if "session" in one]
    assert sorted(at) == list(range(2, 22))


def test_an_admins_branch_may_have_a_key_that_anothers_session_has(wire: Wire) -> None:
    """Keys are by the principal: the branch is the admin's, whoever has the session."""
    key = new_id()
    theirs = wire.ok("session.resolve", {"session_key": key}, principal="other")["session"]
    body = {"session_id": theirs["session_id"], "session_key": key}
    branch = wire.ok("session.branch", body)["session"]
    assert (branch["principal"], branch["session_key"]) == ("local", key)
    assert resolve(wire, session_key=key)["session_id"] == branch["session_id"]
    for who in ({}, {"principal": "other"}):
        error = wire.err("session.branch", body, **who)
        assert (error["code"], error["field"]) == ("conflict", "session_key")


def test_a_branch_survives_its_parents_archive_and_may_have_a_key(wire: Wire) -> None:
    parent, key = new_id(), new_id()
    fill(wire, parent, 2)
    wire.ok("session.archive", {"session_id": parent})
    child = wire.ok("session.branch", {"session_id": parent, "session_key": key})["session"]
    assert resolve(wire, session_key=key)["session_id"] == child["session_id"]
    fill(wire, child["session_id"], 1)
    error = wire.err("session.branch", {"session_id": parent, "session_key": key})
    assert (error["code"], error["detail"]["actual"]) == ("conflict", child["session_id"])


def test_a_branch_is_refused_beyond_the_end_or_onto_a_session(wire: Wire) -> None:
    parent, other = new_id(), new_id()
    fill(wire, parent, 2)
    fill(wire, other, 1)
    error = wire.err("session.branch", {"session_id": parent, "at_session_seq": 3})
    assert (error["code"], error["field"]) == ("invalid", "at_session_seq")
    error = wire.err("session.branch", {"session_id": parent, "new_session_id": other})
    assert (error["code"], error["field"]) == ("conflict", "new_session_id")
    assert wire.err("session.branch", {"session_id": new_id()})["code"] == "not_found"


def test_branches_are_the_same_after_a_restart(tmp_path: Path) -> None:
    with house(tmp_path) as opened:
        wire = opened.connect()
        parent = new_id()
        fill(wire, parent, 5)
        body = {"session_id": parent, "at_session_seq": 3}
        child = wire.ok("session.branch", body)["session"]["session_id"]
        fill(wire, child, 2)
        before = history(wire, child)
    with house(tmp_path) as opened:
        wire = opened.connect()
        assert history(wire, child) == before
        assert wire.append(event(child))[0]["session_seq"] == 7


# -- erasing --------------------------------------------------------------------------------------


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())


def test_what_is_erased_is_in_no_file_any_more_and_the_chain_verifies(
    tmp_path: Path, figure: Tell
) -> None:
    words = [f"needle{n:05d}" for n in range(600)]
    with house(tmp_path) as opened:
        wire = opened.connect()
        session = resolve(wire, session_key="needlekey", title="needletitle")["session_id"]
        kept = new_id()
        for start in range(0, 600, 100):
            wire.append(
                *(
                    event(session, payload={"text": word * 300})
                    for word in words[start : start + 100]
                ),
                event(kept, payload={"text": "kept"}),
            )
        wire.ok("session.update", {"session_id": session, "title": "needleagain"})
        wire.ok("session.update", {
            "session_id": session, "title": "needleanswer", "event_id": new_id(),
        })  # fmt: skip
        assert b"needle00300" in everything(tmp_path)
        told = wire.ok("session.erase", {"session_id": session})
        assert told["erased"] == 603
        left = everything(tmp_path)
        figure(22, "payloads erased", told["erased"])
        figure(22, "bytes of files looked through", len(left))
        figure(22, "found", left.count(b"needle"), most=0)
        assert b"needle" not in left
        found = wire.ok("journal.verify")
        assert (found["valid"], found["erased"]) == (True, 603)
        assert {one["payload"] for one in wire.read(session_id=session)[:603]} == {None}
        assert [one["payload"] for one in wire.read(session_id=kept)] == [{"text": "kept"}] * 6
        for op in ("session.get", "session.history", "session.resolve", "session.erase"):
            assert wire.err(op, {"session_id": session})["code"] == "gone", op
        assert wire.refuse(event(session))["code"] == "gone"
        assert wire.ok("session.list", {"query": "needle"})["sessions"] == []
        again = wire.ok("session.resolve", {"session_key": "needlekey"})
        assert again["created"]
    with house(tmp_path) as opened:
        assert opened.connect().ok("journal.verify")["valid"]


def test_an_erasure_that_was_cut_off_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palyra_actors.actors.writer import Writer

    monkeypatch.setattr(Writer, "chore", lambda self, work: None)  # as if killed right then
    with house(tmp_path) as opened:
        wire = opened.connect()
        session = new_id()
        wire.append(event(session, payload={"text": "needle"}))
        wire.send("session.erase", {"session_id": session})
        while wire.head()[0] < 2:
            pass
        assert b"needle" in everything(tmp_path)
        opened.engine._works.tally.under_way = 0  # nobody waits for that answer any more
    monkeypatch.undo()
    with house(tmp_path) as opened:
        wire = opened.connect()
        other = new_id()
        wire.append(event(other))
        wire.ok("session.erase", {"session_id": other})  # behind the first one
        assert b"needle" not in everything(tmp_path)
        assert wire.ok("journal.verify")["erased"] == 2


def test_a_branch_of_what_is_erased_keeps_its_own_events(wire: Wire) -> None:
    parent = new_id()
    fill(wire, parent, 3)
    child = wire.ok("session.branch", {"session_id": parent})["session"]["session_id"]
    fill(wire, child, 1)
    told = wire.ok("session.erase", {"session_id": parent})
    assert told["erased"] == 3
    payloads = [one["payload"] for one in history(wire, child)]
    assert payloads[:3] == [None] * 3
    assert payloads[4] == {"n": 0}


def test_an_erasure_counts_what_it_destroys_and_nothing_that_was_inherited(wire: Wire) -> None:
    parent, before = new_id(), wire.ok("journal.verify")["erased"]
    fill(wire, parent, 5)
    body = {"session_id": parent, "session_key": new_id()}
    child = wire.ok("session.branch", body)["session"]["session_id"]
    fill(wire, child, 2)
    told = wire.ok("session.erase", {"session_id": child})
    assert told["erased"] == 3, "two events and the key's"
    said = [one["payload"] for one in wire.read(kinds=["session.erased"])]
    assert said[-1] == {"v": 1, "events": 3}
    assert wire.ok("journal.verify")["erased"] - before == 3


def test_an_erasure_sent_again_is_answered_as_the_first_time(wire: Wire) -> None:
    session = new_id()
    fill(wire, session, 3)
    body = {"session_id": session, "event_id": new_id()}
    told = wire.ok("session.erase", body)
    again = wire.ok("session.erase", body)
    assert (again["erased"], again["duplicate"]) == (told["erased"], True)
    fill(wire, other := new_id(), 1)
    assert wire.err("session.erase", {**body, "session_id": other})["code"] == "id_reused"


def test_the_same_through_an_engine_without_a_door(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "own.db", clock=ManualClock(wall_ms=1_700_000_000_000)) as engine:
        session = engine.sessions.resolve("alice", title="the first")
        session.append("message_received", {"text": "hello"}, actor="user")
        branch = session.branch(1, session_key="alice, otherwise")
        branch.append("message_received", {"text": "and then?"}, actor="user")
        assert [one.kind for one in branch.history()] == [
            "session.opened", "session.branched", "session.updated", "message_received",
        ]  # fmt: skip
        assert session.rename("renamed").title == "renamed"
        assert session.archive().status == "archived"
        assert [one.session_key for one in engine.sessions.list()] == [
            "alice", "alice, otherwise",
        ]  # fmt: skip
        assert session.info().created_ms == 1_700_000_000_000
        assert session.erase() == 4


def test_a_query_among_archived_and_among_open_sessions(wire: Wire) -> None:
    alice = {"principal": "alice"}
    made: dict[str, list[str]] = {"open": [], "archived": []}
    for n in range(6):
        session = wire.ok("session.resolve", {"title": f"weather {n}"}, **alice)["session"][
            "session_id"
        ]
        made["archived" if n % 2 else "open"].append(session)
        if n % 2:
            wire.ok("session.archive", {"session_id": session}, **alice)
    wire.ok("session.resolve", {"title": "weather of ben"}, principal="ben")

    def asked(status: str | None, query: str = "weath", **envelope: Any) -> list[str]:
        body = {"query": query, **({} if status is None else {"status": status})}
        told = wire.ok("session.list", body, **envelope)["sessions"]
        return [session["session_id"] for session in told]

    for status in ("open", "archived"):
        assert sorted(asked(status, **alice)) == sorted(made[status])
    assert asked("archived") == made["archived"]
    assert len(asked("open")) == 4, "an admin sees another's, too"
    assert len(asked(None)) == 7
    assert asked("archived", "archived") == []
    assert asked("archived", principal="ben") == []
