"""Section 6 of the contract, without CURVE: `local` is admin and may act for others."""

from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import ConfigInvalid
from tests.system.harness import House, Wire, event


def _append(wire: Wire, principal: str, *events: dict[str, Any]) -> Any:
    body = {"events": list(events)}
    return wire.ok("journal.append", body, principal=principal)["results"]


def test_every_connection_is_local_and_admin(wire: Wire) -> None:
    hello = wire.ok("engine.hello")
    assert (hello["principal"], hello["role"]) == ("local", "admin")


def test_an_admin_who_acts_for_another_is_that_one_and_no_admin(wire: Wire) -> None:
    hello = wire.ok("engine.hello", principal="alice")
    assert hello["principal"] == "alice"
    assert hello["role"] != "admin"


def test_acting_for_oneself_changes_nothing(wire: Wire) -> None:
    hello = wire.ok("engine.hello", principal="local")
    assert (hello["principal"], hello["role"]) == ("local", "admin")


@pytest.mark.parametrize(
    "principal", ["", "x" * 65, "a b", "a/b", "é", "a\n", 5, b"alice", ["a"]], ids=repr
)
def test_a_principal_that_is_no_name_is_invalid(wire: Wire, principal: Any) -> None:
    error = wire.err("journal.head", principal=principal)
    assert (error["code"], error["field"]) == ("invalid", "principal")


def test_events_are_stored_under_the_principal_that_one_acts_for(wire: Wire) -> None:
    session = new_id()
    _append(wire, "alice", event(session))
    wire.append(event(session))
    stored = wire.read(session_id=session)
    assert [e["principal"] for e in stored] == ["alice", "local"]


def test_an_admin_sees_and_writes_all_sessions(wire: Wire) -> None:
    session = new_id()
    _append(wire, "alice", event(session))
    assert wire.append(event(session))[0]["session_seq"] == 2
    assert len(wire.read(session_id=session)) == 2


def test_another_principals_session_is_not_found_for_reads_and_writes_alike(wire: Wire) -> None:
    session, run = new_id(), new_id()
    _append(wire, "alice", event(session, run_id=run))
    missing = wire.err("journal.read", {"session_id": new_id()}, principal="bob")
    assert missing["code"] == "not_found"
    assert wire.err("journal.read", {"session_id": session}, principal="bob") == missing
    before = wire.head()
    body = {"events": [event(session)]}
    error = wire.err("journal.append", body, principal="bob")
    assert (error["code"], error["message"]) == ("not_found", missing["message"])
    assert wire.head() == before


def test_another_principals_run_is_not_found_for_reads_and_writes_alike(wire: Wire) -> None:
    session, run = new_id(), new_id()
    _append(wire, "alice", event(session, run_id=run))
    missing = wire.err("journal.read", {"run_id": new_id()}, principal="bob")
    assert missing["code"] == "not_found"
    assert wire.err("journal.read", {"run_id": run}, principal="bob") == missing
    before = wire.head()
    body = {"events": [event(new_id(), run_id=run)]}
    assert wire.err("journal.append", body, principal="bob")["code"] == "not_found"
    assert wire.head() == before


def test_one_session_of_another_refuses_the_whole_request(wire: Wire) -> None:
    hers, his = new_id(), new_id()
    _append(wire, "alice", event(hers))
    before = wire.head()
    body = {"events": [event(his), event(hers)]}
    assert wire.err("journal.append", body, principal="bob")["code"] == "not_found"
    assert wire.head() == before
    assert _append(wire, "bob", event(his))[0]["session_seq"] == 1


def test_a_principal_reads_its_own_events_only(wire: Wire) -> None:
    start = wire.head()[0]
    mine = _append(wire, "carol", event(new_id()))
    _append(wire, "dave", event(new_id()))
    mine += _append(wire, "carol", event(new_id()))
    page = wire.ok("journal.read", {"after_seq": start}, principal="carol")
    assert [e["seq"] for e in page["events"]] == [r["seq"] for r in mine]
    assert page["end"] is True


def test_a_principal_hears_of_its_own_events_only_from_file_and_live(wire: Wire) -> None:
    start = wire.head()[0]
    expected = [r["seq"] for r in _append(wire, "erin", event(new_id()), event(new_id()))]
    _append(wire, "frank", event(new_id()))
    with_all = {"credit": 100, "after_seq": start}
    sub = wire.send("journal.subscribe", with_all, principal="erin")
    heard = wire.items_until(lambda events: len(events) == 2, sub)
    wire.send("journal.append", {"events": [event(new_id())]}, id="f", principal="frank")
    wire.send("journal.append", {"events": [event(new_id())]}, id="e", principal="erin")
    replies = [wire.receive() for _ in range(3)]
    heard += [r["item"]["event"] for r in replies if "item" in r]
    expected += [r["ok"]["results"][0]["seq"] for r in replies if r["id"] == "e"]
    assert [e["seq"] for e in heard] == expected


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://:0"])
def test_a_door_without_curve_is_refused_beyond_loopback(tmp_path: Path, endpoint: str) -> None:
    with Engine.open(tmp_path / "journal.db") as engine, pytest.raises(ConfigInvalid) as refusal:
        engine.serve(endpoint)
    assert refusal.value.field == "door.endpoint"


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "tcp://localhost:0"])
def test_a_door_on_loopback_is_served(tmp_path: Path, endpoint: str) -> None:
    with Engine.open(tmp_path / "journal.db") as engine, Wire(engine.serve(endpoint)) as wire:
        assert wire.ok("engine.hello")["role"] == "admin"


def test_a_principal_sees_its_own_recent_events_without_a_gap(own: House) -> None:
    wire = own.connect()
    hers: list[int] = []
    for number in range(30):
        _append(wire, "bob", *[event(new_id()) for _ in range(number % 4)], event(new_id()))
        hers += [_append(wire, "alice", event(new_id()))[0]["seq"]]
        _append(wire, "bob", event(new_id()))
        for limit in (1, 5, 100):
            recent = wire.ok("journal.recent", {"limit": limit}, principal="alice")["events"]
            assert [e["seq"] for e in recent] == hers[-limit:]


def test_who_owns_a_session_reads_all_of_it_whoever_wrote_there(wire: Wire) -> None:
    session = new_id()
    _append(wire, "carol", event(session))
    wire.append(event(session))
    page = wire.ok("journal.read", {"session_id": session}, principal="carol")
    assert [stored["stream_seq"] for stored in page["events"]] == [1, 2]


@pytest.mark.parametrize("port", ["99999", "65536", "7811x", "", "-1"])
def test_a_door_on_no_port_is_refused(tmp_path: Path, port: str) -> None:
    with Engine.open(tmp_path / "journal.db") as engine, pytest.raises(ConfigInvalid):
        engine.serve(f"tcp://127.0.0.1:{port}")
