"""`approval.*` of the contract, and the export checked by somebody who knows no engine."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
import rfc8785

from palyra_actors.actors.clerks import approval
from palyra_actors.actors.clerks.sweep import DUE_AT_ONCE
from palyra_actors.api.events import new_id
from palyra_actors.domain.export import Flaw, check
from palyra_actors.limits import FRAME_BYTES_MAX
from palyra_actors.testing.clock import ManualClock
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, NO_BUDGET, House, Wire, event, house

CHECKER = Path(__file__).parent / "check_export.py"


def ask(wire: Wire, session: str | None = None, **body: Any) -> dict[str, Any]:
    asked = {
        "approval_id": new_id(), "session_id": session or new_id(), "subject_type": "tool",
        "subject_id": "rm", "summary": "remove a file", **body,
    }  # fmt: skip
    return dict(wire.ok("approval.request", asked)["approval"])


def decide(wire: Wire, approval: dict[str, Any], decision: str, **body: Any) -> dict[str, Any]:
    asked = {"approval_id": approval["approval_id"], "decision": decision, **body}
    return dict(wire.ok("approval.decide", asked)["approval"])


def get(wire: Wire, approval: dict[str, Any]) -> dict[str, Any]:
    return dict(wire.ok("approval.get", {"approval_id": approval["approval_id"]})["approval"])


def export(wire: Wire, **body: Any) -> bytes:
    request = wire.send("approval.export", body)
    chunks = []
    while "item" in (reply := wire.receive()):
        assert reply["id"] == request
        chunks.append(reply["item"]["chunk"])
    assert "ok" in reply, reply
    assert max(map(len, chunks)) <= 65_536
    return b"".join(chunks)


def test_an_approval_is_asked_for_and_decided_once(wire: Wire) -> None:
    asked = ask(wire, prompt={"risk": "high"}, run_id=new_id())
    assert (asked["decision"], asked["prompt"], asked["principal"]) == (
        None, {"risk": "high"}, "local",
    )  # fmt: skip
    assert get(wire, asked) == asked
    told = decide(wire, asked, "allow", reason="looks fine")
    assert (told["decision"], told["scope"], told["reason"], told["decided_by"]) == (
        "allow", "once", "looks fine", "local",
    )  # fmt: skip
    assert get(wire, asked) == told
    assert decide(wire, asked, "allow") == told, "the same again changes nothing"
    error = wire.err("approval.decide", {"approval_id": asked["approval_id"], "decision": "deny"})
    assert (error["code"], error["detail"]["actual"]) == ("conflict", "allow")


def test_the_same_id_again_is_a_conflict_and_a_missing_one_not_found(wire: Wire) -> None:
    asked = ask(wire)
    body = {
        "approval_id": asked["approval_id"], "session_id": asked["session_id"],
        "subject_type": "tool", "subject_id": "rm", "summary": "x",
    }  # fmt: skip
    for session in (asked["session_id"], new_id()):
        error = wire.err("approval.request", {**body, "session_id": session})
        assert (error["code"], error["field"]) == ("conflict", "approval_id")
        assert error["detail"] == {"actual": "pending"}
    hers = wire.err("approval.request", {**body, "session_id": new_id()}, principal="other")
    assert hers["code"] == "not_found"
    other = {"approval_id": new_id(), "decision": "allow"}
    assert wire.err("approval.decide", other)["code"] == "not_found"
    assert wire.err("approval.get", {"approval_id": new_id()})["code"] == "not_found"


@pytest.mark.parametrize(
    ("op", "body", "code", "field"),
    [
        ("approval.decide", {"decision": "maybe"}, "invalid", "decision"),
        ("approval.decide", {"decision": "allow", "scope": "ever"}, "invalid", "scope"),
        ("approval.decide", {"decision": "allow", "scope": "timeboxed"}, "invalid", "scope_ttl_ms"),
        ("approval.decide", {"decision": "deny", "scope_ttl_ms": 5}, "invalid", "scope_ttl_ms"),
        ("approval.decide", {"decision": "deny", "scope": "timeboxed", "scope_ttl_ms": 0},
         "invalid", "scope_ttl_ms"),
        ("approval.list", {"decision": "maybe"}, "invalid", "decision"),
        ("approval.list", {"since_ms": 5, "until_ms": 4}, "invalid", "until_ms"),
        ("approval.list", {"subject_type": "x" * 1_025}, "too_large", "subject_type"),
        ("approval.list", {"subject_id": "é" * 513}, "too_large", "subject_id"),
        ("approval.list", {"principal": "x" * 65}, "too_large", "principal"),
        ("approval.export", {"subject_id": "x" * 70_000}, "too_large", "subject_id"),
        ("approval.export", {"format": "xml"}, "invalid", "format"),
        ("approval.export", {"limit": 5_001}, "invalid", "limit"),
        ("approval.request", {"summary": "x" * 1_025}, "too_large", "summary"),
        ("approval.request", {"subject_type": ""}, "invalid", "subject_type"),
        ("approval.request", {"prompt": {"n": 2**60}}, "invalid", "prompt"),
        ("approval.request", {"prompt": {"b": b"bytes"}}, "invalid", "prompt"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    wire: Wire, op: str, body: dict[str, Any], code: str, field: str
) -> None:
    known: dict[str, Any] = {}
    if op == "approval.decide":
        known = {"approval_id": ask(wire)["approval_id"]}
    if op == "approval.request":
        known = {
            "approval_id": new_id(), "session_id": new_id(), "subject_type": "t",
            "subject_id": "s", "summary": "s",
        }  # fmt: skip
    error = wire.err(op, {**known, **body})
    assert (error["code"], error["field"]) == (code, field)


@pytest.mark.parametrize("keyed", [False, True], ids=["unkeyed", "keyed"])
def test_a_float_that_json_writes_like_a_long_integer_is_one_wherever_it_is_read(
    tmp_path: Path, keyed: bool
) -> None:
    numbers = [2.0**53, 1e16, 1e18, 1.9e19, 1e20, -1e20, 9.99e20, -9.3e18, 1e21, 1e-7, 5e-324]
    with house(tmp_path) as opened, opened.connect() as wire:
        named = {"event_id": new_id()} if keyed else {}
        told = ask(wire, prompt={"limits": numbers}, policy=1e20, **named)
        assert (told["prompt"], told["policy"]) == ({"limits": numbers}, 1e20)
    with house(tmp_path) as opened, opened.connect() as wire:
        assert get(wire, told) == told
        assert wire.ok("approval.list")["approvals"] == [told]
        decided = decide(wire, told, "allow")
        assert decided["prompt"] == {"limits": numbers}
        assert all(type(number) is float for number in decided["prompt"]["limits"])
        assert decide(wire, told, "allow") == decided, "the same again"
        whole = export(wire)
        assert json.loads(whole.splitlines()[0])["record"]["policy"] == 10**20
        assert independent(whole, tmp_path) == "valid"
        assert check(whole.splitlines(keepends=True))["count"] == 1


def test_secrets_are_redacted_before_anything_is_stored(wire: Wire) -> None:
    secret = "Bearer abcdefghijklmnop"
    asked = ask(wire, summary=f"call with {secret}", prompt={"api_key": "x1", "t": secret})
    told = decide(wire, asked, "deny", reason=f"never {secret}")
    assert told["summary"] == "call with <redacted>"
    assert told["prompt"] == {"api_key": "<redacted>", "t": "<redacted>"}
    assert told["reason"] == "never <redacted>"
    events = wire.read(session_id=asked["session_id"])
    assert secret not in str(events)
    assert [one["redacted"] for one in events] == [True, True]


def test_anothers_approval_is_answered_like_one_that_is_not_there(wire: Wire) -> None:
    asked = ask(wire)
    for op, body in (("approval.get", {}), ("approval.decide", {"decision": "allow"})):
        hers = wire.err(op, {"approval_id": asked["approval_id"], **body}, principal="other")
        none = wire.err(op, {"approval_id": new_id(), **body}, principal="other")
        assert hers == none
        assert hers["code"] == "not_found"
    assert wire.ok("approval.list", principal="other")["approvals"] == []


# -- scopes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["allow", "deny"])
def test_a_decision_for_the_session_answers_what_follows_about_its_subject(
    wire: Wire, decision: str
) -> None:
    session = new_id()
    first = decide(wire, ask(wire, session), decision, scope="session")
    again = ask(wire, session)
    assert (again["decision"], again["decided_through"]) == (decision, first["approval_id"])
    assert ask(wire, session, subject_id="mv")["decision"] is None
    assert ask(wire, session, subject_type="channel")["decision"] is None
    assert ask(wire)["decision"] is None, "another session"


def test_a_decision_for_once_answers_nothing_else(wire: Wire) -> None:
    session = new_id()
    decide(wire, ask(wire, session), "allow")
    assert ask(wire, session)["decision"] is None


def test_a_timeboxed_decision_stands_for_its_time(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    session = new_id()
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire = opened.connect()
        first = decide(wire, ask(wire, session), "allow", scope="timeboxed", scope_ttl_ms=5_000)
        assert first["scope_until_ms"] == 1_700_000_005_000
        clock.turn(4999)
        assert ask(wire, session)["decided_through"] == first["approval_id"]
        clock.turn(1)
        assert ask(wire, session)["decision"] is None


# -- time -----------------------------------------------------------------------------------------


def until_decided(wire: Wire, asked: dict[str, Any]) -> dict[str, Any]:
    body = {"credit": 10, "after_seq": 0, "kinds": ["approval.decided"]}
    sub = wire.send("journal.subscribe", body)
    wire.items_until(
        lambda events: any(one["payload"]["approval_id"] == asked["approval_id"] for one in events),
        sub,
    )
    wire.send("journal.unsubscribe", {"sub": sub})
    while wire.receive()["id"] == sub:
        pass
    return asked


def test_nobody_deciding_in_time_is_a_decision(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        wire = opened.connect()
        asked = ask(wire, expires_ms=1_700_000_060_000)
        clock.turn(60000)
        late = wire.call("approval.decide", {
            "approval_id": asked["approval_id"], "decision": "allow",
        })  # fmt: skip
        assert (late["err"]["code"], late["err"]["detail"]) == ("conflict", {"actual": "timeout"})
        clock.turn(1000)
        listener = opened.connect()
        until_decided(listener, asked)
        told = get(wire, asked)
        assert (told["decision"], told["decided_by"]) == ("timeout", None)


def test_an_approval_whose_time_ran_out_while_the_engine_was_down_times_out(
    tmp_path: Path,
) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        asked = ask(opened.connect(), expires_ms=1_700_000_001_000)
    clock.turn(3.6e06)
    with house(tmp_path, NO_BUDGET, clock=clock) as opened:
        until_decided(opened.connect(), asked)
        assert get(opened.connect(), asked)["decision"] == "timeout"


def test_one_that_is_over_when_it_is_asked_is_decided_at_once(wire: Wire) -> None:
    assert ask(wire, expires_ms=1)["decision"] == "timeout"


# -- list and export ------------------------------------------------------------------------------


@pytest.fixture
def twelve(own: House) -> tuple[Wire, list[dict[str, Any]]]:
    """Twelve approvals: four allowed, four denied, four open; of two subjects."""
    wire = own.connect()
    made = []
    for n in range(12):
        asked = ask(wire, subject_id=f"tool-{n % 2}", summary=f"number {n} ☂")
        if n % 3:
            asked = decide(wire, asked, ("allow", "deny")[n % 3 - 1])
        made.append(asked)
    wire.ok("approval.request", {
        "approval_id": new_id(), "session_id": new_id(), "subject_type": "t", "subject_id": "s",
        "summary": "of another",
    }, principal="other")  # fmt: skip
    return wire, made


def listed(wire: Wire, principal: str = "local", **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = wire.ok("approval.list", {"limit": 3, **body}, principal=principal)
        found += page["approvals"]
        body["after"] = page["next_after"]
        if page["end"]:
            return found


def test_a_list_is_filtered_and_read_page_by_page(
    twelve: tuple[Wire, list[dict[str, Any]]],
) -> None:
    wire, made = twelve
    assert listed(wire)[:12] == made
    assert len(listed(wire)) == 13
    assert listed(wire, decision="pending", subject_type="tool") == made[::3]
    assert listed(wire, decision="allow") == made[1::3]
    assert listed(wire, subject_id="tool-1", decision="deny") == [
        one for one in made[2::3] if one["subject_id"] == "tool-1"
    ]
    at = made[5]["requested_ms"]
    assert made[5] in listed(wire, since_ms=at, until_ms=at)
    assert listed(wire, subject_type="x" * 1_024, subject_id="é" * 512) == []
    assert listed(wire, principal="other")[0]["summary"] == "of another"
    assert listed(wire, principal="other") == listed(wire, principal="other")


def test_a_page_of_large_approvals_fits_a_frame(own: House) -> None:
    """What is stored as `0.5` takes nine bytes of an answer."""
    wire = own.connect()
    large = [0.5] * 7_000
    made = [ask(wire, prompt=large, policy=large)["approval_id"] for _ in range(40)]
    found: list[str] = []
    body: dict[str, Any] = {"limit": 500}
    page: dict[str, Any] = {"end": False}
    while not page["end"]:
        page = wire.ok("approval.list", body)
        assert len(msgpack.packb(page)) < FRAME_BYTES_MAX
        found += [one["approval_id"] for one in page["approvals"]]
        body["after"] = page["next_after"]
    assert found == made


def test_an_export_is_the_same_bytes_twice_and_holds_what_was_asked_for(
    twelve: tuple[Wire, list[dict[str, Any]]], figure: Tell
) -> None:
    wire, made = twelve
    whole = export(wire)
    again = export(wire)
    figure(21, "bytes exported twice", len(whole))
    differ = sum(a != b for a, b in zip(whole, again, strict=True))
    figure(21, "bytes that differ", differ, most=0)
    assert whole == again
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["record"] for line in lines[:-2]] == made
    assert lines[-1]["trailer"]["count"] == 13
    denied = export(wire, decision="deny", format="json")
    array = json.loads(denied)
    assert [entry["record"] for entry in array[:-1]] == made[2::3]
    assert array[-1]["trailer"]["filters"] == {"decision": "deny"}
    for text in (whole, denied, export(wire, subject_id="nothing"), export(wire, limit=5)):
        check(text.splitlines(keepends=True))


def independent(export: bytes, folder: Path) -> str:
    """What a script that imports nothing of the engine says."""
    file = folder / "export.ndjson"
    file.write_bytes(export)
    done = subprocess.run(
        [sys.executable, str(CHECKER), str(file)], capture_output=True, text=True, check=False
    )
    told = done.stdout.split(":")[0].strip() or done.stderr
    assert done.returncode == int(told != "valid"), done
    return told


def test_a_record_is_checked_whatever_numbers_and_keys_are_in_it(
    own: House, tmp_path: Path
) -> None:
    """RFC 8785 writes numbers, and orders keys, otherwise than Python's own library does."""
    wire = own.connect()
    prompt = {
        "\U0001f600": 1e-7,
        "\ufb33": 1e21,
        "z": [0.00001, -0.0, 1.0, 2**53 - 1],
        "é": "\u2028",
    }
    ask(wire, prompt=prompt, summary='"record":{} \x7f', subject_id='","record":{')
    ask(wire, policy=1e-7)
    whole = export(wire)
    assert check(whole.splitlines(keepends=True))["count"] == 2
    assert independent(whole, tmp_path) == "valid"
    for changed in (
        whole.replace(b"1e-7", b"1e-8", 1), whole.replace(b'"policy":', b'"polIcy":', 1),
        b"", whole[:-20], b"[1]\n" + whole, b"{}",
    ):  # fmt: skip
        assert independent(changed, tmp_path) == "damaged"


def test_an_independent_checker_agrees_and_finds_each_change(
    twelve: tuple[Wire, list[dict[str, Any]]], tmp_path: Path, figure: Tell
) -> None:
    wire, _ = twelve
    whole = export(wire)
    assert independent(whole, tmp_path) == "valid"
    lines = whole.splitlines(keepends=True)
    changed = lines[3].replace(b'"allow"', b'"deny"').replace(b"number 3", b"number 4")
    for damaged in (
        [*lines[:3], changed, *lines[4:]],
        [*lines[:3], *lines[4:]],
        [*lines[:3], lines[4], lines[3], *lines[5:]],
        lines[:-1],
        [*lines, lines[-1]],
        [*lines[:-1], lines[-1].replace(b'"count":13', b'"count":12')],
    ):
        text = b"".join(damaged)
        verdict = independent(text, tmp_path)
        figure(21, "damaged exports", 1)
        figure(21, "not found by the page", verdict != "damaged", most=0)
        assert verdict == "damaged"
        with pytest.raises(Flaw):
            check(damaged)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"filters":{"', b'"filters":{"since_ms":99999999999999,"', "since_ms"),
        (b'"filters":{"', b'"filters":{"until_ms":1,"', "until_ms"),
        (b'"decision":"deny"},', b'"decision":"allow"},', "decision"),
        (b'"decision":"deny"},', b'"decision":"deny","subject_id":"other"},', "subject_id"),
        (b'"decision":"deny"},', b'"decision":"deny","whose":"mine"},', "filters can be"),
        (b'"through_seq":', b'"through_seq":-', "through_seq"),
        (b'"filters":{"decision":"deny"},', b"", "has to hold"),
    ],
)
def test_a_trailer_that_does_not_fit_its_records_is_found(
    twelve: tuple[Wire, list[dict[str, Any]]], old: bytes, new: bytes, said: str
) -> None:
    lines = export(twelve[0], decision="deny").splitlines(keepends=True)
    check(lines)
    trailer = json.loads(lines[-1].replace(old, new))
    changed = rfc8785.dumps(trailer) + b"\n"
    assert changed != lines[-1]
    with pytest.raises(Flaw, match=said):
        check([*lines[:-1], changed])


def test_a_large_export_comes_in_chunks_and_ends(own: House) -> None:
    wire = own.connect()
    session = new_id()
    prompt = {"text": "x" * 4_000}
    for n in range(100):
        wire.send("approval.request", {
            "approval_id": new_id(), "session_id": session, "subject_type": "t",
            "subject_id": str(n), "summary": "s", "prompt": prompt,
        })  # fmt: skip
    for _ in range(100):
        wire.receive()
    text = export(wire)
    assert len(text) > 400_000
    assert check(text.splitlines(keepends=True))["count"] == 100
    head = json.loads(text.splitlines()[-1])["trailer"]["head_hash"]
    assert len(hashlib.sha256().hexdigest()) == len(head)


def test_an_export_beside_an_erasure_is_none_at_all(
    own: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = own.connect()
    for session in (one := new_id(), new_id()):
        for n in range(4):
            ask(wire, session, subject_id=str(n))
    turns = iter(range(9))
    page = approval._page

    def beside(*arguments: Any) -> list[tuple[Any, ...]]:
        if next(turns) == 1:
            own.connect().ok("session.erase", {"session_id": one})
        return page(*arguments)

    monkeypatch.setattr(approval, "PAGE", 2)
    monkeypatch.setattr(approval, "_page", beside)
    name = wire.send("approval.export", {})
    while "item" in (reply := wire.receive()):
        assert b"trailer" not in reply["item"]["chunk"]
    assert (reply["id"], reply["err"]["code"]) == (name, "gone")
    assert len(export(wire).splitlines()) == 5


def test_many_that_are_due_at_once_wait_for_no_clock(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=1_700_000_000_000)
    with house(tmp_path, NO_BUDGET, clock=clock) as home:
        wire = home.connect()
        count = 3 * DUE_AT_ONCE
        for _ in range(count):
            ask(wire, expires_ms=clock.wall_ms() + 60_000)
        clock.turn(60_000)
        deadline = time.monotonic() + DEADLINE_S
        while wire.ok("approval.list", {"decision": "pending"})["approvals"]:
            assert time.monotonic() < deadline
        assert len(wire.ok("approval.list", {"limit": 500})["approvals"]) == count


def test_an_erased_session_takes_its_approvals_along(wire: Wire) -> None:
    asked = decide(wire, ask(wire, summary="needle"), "allow")
    wire.append(event(asked["session_id"]))
    wire.ok("session.erase", {"session_id": asked["session_id"]})
    error = wire.err("approval.get", {"approval_id": asked["approval_id"]})
    assert (error["code"], error["field"]) == ("gone", "approval_id")
    assert "needle" not in str(wire.ok("approval.list", {"limit": 500}))


def test_what_was_asked_before_the_archive_is_still_decided(wire: Wire) -> None:
    asked = ask(wire)
    wire.ok("session.archive", {"session_id": asked["session_id"]})
    body = {"approval_id": asked["approval_id"], "decision": "allow"}
    assert wire.ok("approval.decide", body)["approval"]["decision"] == "allow"
    new = {
        "approval_id": new_id(), "session_id": asked["session_id"],
        "subject_type": "tool", "subject_id": "rm", "summary": "x",
    }  # fmt: skip
    assert wire.err("approval.request", new)["code"] == "invalid_transition"
