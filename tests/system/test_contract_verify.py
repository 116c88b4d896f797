"""`journal.verify`: what is whole is valid; any other bit of the file is found, with its place."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from tests.figures import Tell
from tests.system.harness import House, Wire, event, house

SIZE = 30


def _fill(wire: Wire) -> list[dict[str, Any]]:
    """Thirty events of three sessions: runs, kinds of all sorts, redacted ones, a traceparent."""
    sessions, run = [new_id() for _ in range(3)], new_id()
    kinds = ["message_received", "x.own", "model_token", "tool_executed"]
    for number in range(SIZE):
        sent = event(
            sessions[number % 3],
            run_id=run if number % 6 == 0 else None,
            kind=kinds[number % 4],
            payload={"n": number, **({"password": "tiger"} if number % 5 == 0 else {})},
        )
        trace = {"traceparent": "00-trace"} if number % 2 else {}
        wire.ok("journal.append", {"events": [sent]}, **trace)
    return wire.read()


def test_an_untouched_journal_is_valid_from_end_to_end(own: House) -> None:
    wire = own.connect()
    stored = _fill(wire)
    assert wire.ok("journal.verify") == {
        "valid": True,
        "checked": SIZE,
        "erased": 0,
        "head": {"seq": SIZE, "hash": stored[-1]["hash"]},
        "first_bad_seq": None,
    }


def test_an_empty_journal_is_valid(own: House) -> None:
    verified = own.connect().ok("journal.verify")
    assert verified["valid"] is True
    assert verified["checked"] == 0
    assert verified["head"] == {"seq": 0, "hash": bytes(32)}


@pytest.mark.parametrize(
    ("bounds", "checked"),
    [
        ({"from_seq": 1}, SIZE),
        ({"from_seq": 10}, SIZE - 9),
        ({"from_seq": 10, "to_seq": 10}, 1),
        ({"to_seq": 7}, 7),
        ({"to_seq": 0}, 0),
        ({"from_seq": SIZE}, 1),
        ({"from_seq": SIZE + 1}, 0),
        ({"to_seq": 1000}, SIZE),
        ({"from_seq": 500, "to_seq": 600}, 0),
    ],
    ids=str,
)
def test_only_what_was_asked_for_is_checked(
    own: House, bounds: dict[str, int], checked: int
) -> None:
    wire = own.connect()
    _fill(wire)
    verified = wire.ok("journal.verify", bounds)
    assert (verified["valid"], verified["checked"]) == (True, checked)


def test_a_head_that_was_seen_before_is_expected_again(own: House) -> None:
    wire = own.connect()
    stored = _fill(wire)
    for seen in (stored[0], stored[17], stored[-1]):
        expect = {"seq": seen["seq"], "hash": seen["hash"]}
        assert wire.ok("journal.verify", {"expect": expect})["valid"] is True
    assert wire.ok("journal.verify", {"expect": {"seq": 0, "hash": bytes(32)}})["valid"] is True


def test_a_head_that_is_another_one_now_is_bad(own: House) -> None:
    wire = own.connect()
    stored = _fill(wire)
    verified = wire.ok("journal.verify", {"expect": {"seq": 9, "hash": stored[9]["hash"]}})
    assert (verified["valid"], verified["first_bad_seq"]) == (False, 9)


def test_a_tail_that_somebody_saw_and_is_gone_is_bad(own: House) -> None:
    wire = own.connect()
    _fill(wire)
    verified = wire.ok("journal.verify", {"expect": {"seq": SIZE + 5, "hash": b"x" * 32}})
    assert (verified["valid"], verified["first_bad_seq"]) == (False, SIZE + 1)


def test_a_journal_longer_than_one_slice_is_checked_whole(own: House) -> None:
    wire = own.connect()
    session = new_id()
    for _ in range(9):
        wire.append(*[event(session, payload={}) for _ in range(1000)])
    assert wire.ok("journal.verify")["checked"] == 9000
    assert wire.ok("journal.verify", {"from_seq": 3999, "to_seq": 8001})["checked"] == 4003


# -- a file that somebody changed -----------------------------------------------------------------

CHANGES: dict[str, str] = {
    "seq": "UPDATE events SET seq = 1000 WHERE seq = :bad",
    "event_id": "UPDATE events SET event_id = zeroblob(16) WHERE seq = :bad",
    "stream": "UPDATE events SET stream = (SELECT stream FROM events WHERE seq = :bad - 1) "
    "WHERE seq = :bad",
    "stream that is not there": "UPDATE events SET stream = 99 WHERE seq = :bad",
    "stream_seq": "UPDATE events SET stream_seq = stream_seq + 1 WHERE seq = :bad",
    "link": "UPDATE events SET link = link + 1 WHERE seq = :bad",
    "link cut": "UPDATE events SET link = 0 WHERE seq = :bad",
    "link to another stream": "UPDATE events SET link = 1 WHERE seq = :bad",
    "session_id": "UPDATE events SET session_id = zeroblob(16) WHERE seq = :bad",
    "run_id": "UPDATE events SET run_id = zeroblob(16) WHERE seq = :bad",
    "kind": "UPDATE events SET kind = 5 WHERE seq = :bad",
    "kind, as a name": "UPDATE events SET kind = 'model_token' WHERE seq = :bad AND kind = 2",
    "kind, unknown": "UPDATE events SET kind = 77 WHERE seq = :bad",
    "kind, of ones own": "UPDATE events SET kind = 'x.owm' WHERE seq = :bad",
    "actor": "UPDATE events SET actor = 2 WHERE seq = :bad",
    "principal": "UPDATE events SET principal = 2 WHERE seq = :bad",
    "ts_ms": "UPDATE events SET ts_ms = ts_ms + 1 WHERE seq = :bad",
    "recorded_ms": "UPDATE events SET recorded_ms = recorded_ms - 1 WHERE seq = :bad",
    "redacted": "UPDATE events SET redacted = 1 - redacted WHERE seq = :bad",
    "redacted, another truth": "UPDATE events SET redacted = redacted + 2 WHERE seq = :bad",
    "traceparent": "UPDATE events SET traceparent = 'x' WHERE seq = :bad",
    "traceparent, empty": "UPDATE events SET traceparent = '' WHERE seq = :bad",
    "payload": "UPDATE events SET payload = x'80' WHERE seq = :bad",
    "payload, gone": "UPDATE events SET payload = NULL WHERE seq = :bad",
    "payload_sha256": "UPDATE events SET payload_sha256 = zeroblob(32) WHERE seq = :bad",
    "payload, gone, with a digest": "UPDATE events SET payload = NULL, "
    "payload_sha256 = zeroblob(32) WHERE seq = :bad",
    "hash": "UPDATE events SET hash = zeroblob(32) WHERE seq = :bad",
    "a row gone": "DELETE FROM events WHERE seq = :bad",
    "a row in between": "UPDATE events SET seq = -seq WHERE seq > :bad; "
    "UPDATE events SET seq = 1 - seq WHERE seq < 0; "
    "INSERT INTO events SELECT :bad + 1, zeroblob(16), stream, stream_seq, link, session_id, "
    "run_id, kind, actor, principal, ts_ms, recorded_ms, redacted, traceparent, payload, "
    "payload_sha256, hash FROM events WHERE seq = :bad",
    "two rows swapped": "UPDATE events SET seq = -1 WHERE seq = :bad; "
    "UPDATE events SET seq = :bad WHERE seq = :bad + 1; "
    "UPDATE events SET seq = :bad + 1 WHERE seq = -1",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_any_change_of_a_row_is_found_with_the_first_bad_seq(
    tmp_path: Path, filled: Path, campaign: bool, change: str, figure: Tell
) -> None:
    for bad in range(2, SIZE) if campaign else (11,):
        connection = _copy(filled, tmp_path)
        if _spoil(connection, change, bad):
            verified = _verify(tmp_path / "journal.db")
            first_bad = bad + 1 if change is CHANGES["a row in between"] else bad
            found = (verified["valid"], verified["first_bad_seq"]) == (False, first_bad)
            figure(19, "changes of rows", 1)
            figure(19, "not found, or with another seq", not found, most=0)
            assert found, verified
        else:
            assert bad != 11


@pytest.mark.parametrize("bad", [1, SIZE])
@pytest.mark.parametrize("change", ["event_id", "payload", "hash", "link"])
def test_a_change_of_the_first_and_the_last_row_is_found_too(
    tmp_path: Path, filled: Path, change: str, bad: int
) -> None:
    connection = _copy(filled, tmp_path)
    assert _spoil(connection, CHANGES[change], bad)
    verified = _verify(tmp_path / "journal.db")
    assert (verified["valid"], verified["first_bad_seq"]) == (False, bad)


def test_a_first_row_that_is_gone_is_found(tmp_path: Path, filled: Path) -> None:
    assert _spoil(_copy(filled, tmp_path), CHANGES["a row gone"], 1)
    assert _verify(tmp_path / "journal.db")["first_bad_seq"] == 1


def test_a_last_row_that_is_gone_is_found_by_who_saw_the_head(tmp_path: Path, filled: Path) -> None:
    connection = _copy(filled, tmp_path)
    ((head,),) = connection.execute("SELECT hash FROM events WHERE seq = ?", (SIZE,))
    assert _spoil(connection, CHANGES["a row gone"], SIZE)
    expect = {"seq": SIZE, "hash": head}
    assert _verify(tmp_path / "journal.db", expect=expect)["first_bad_seq"] == SIZE


def test_what_comes_before_a_bad_row_is_counted_and_what_lies_outside_is_not_looked_at(
    tmp_path: Path, filled: Path
) -> None:
    assert _spoil(_copy(filled, tmp_path), CHANGES["payload"], 12)
    with house(tmp_path) as opened:
        wire = opened.connect()
        assert wire.ok("journal.verify")["checked"] == 11
        assert wire.ok("journal.verify", {"to_seq": 11})["valid"] is True
        assert wire.ok("journal.verify", {"from_seq": 13})["valid"] is True
        assert wire.ok("journal.verify", {"from_seq": 12})["first_bad_seq"] == 12


def _copy(filled: Path, folder: Path) -> apsw.Connection:
    for old in folder.glob("journal.db*"):
        old.unlink()
    (folder / "journal.db").write_bytes(filled.read_bytes())
    return apsw.Connection(str(folder / "journal.db"))


def _spoil(connection: apsw.Connection, change: str, bad: int) -> bool:
    """Carry out a change and close; False: it leaves this row as it is."""
    before = list(connection.execute("SELECT * FROM events ORDER BY seq"))
    connection.execute("INSERT OR IGNORE INTO principals VALUES (2, 'other')")
    for statement in change.split("; "):
        connection.execute(statement, {"bad": bad} if ":bad" in statement else ())
    changed = before != list(connection.execute("SELECT * FROM events ORDER BY seq"))
    connection.close()
    return changed


def _verify(database: Path, **body: Any) -> dict[str, Any]:
    with house(database.parent) as opened:
        return opened.connect().ok("journal.verify", body)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of `SIZE` events in one file, its engine stopped and its WAL moved in."""
    folder = tmp_path_factory.mktemp("filled")
    with house(folder) as opened:
        _fill(opened.connect())
    connection = apsw.Connection(str(folder / "journal.db"))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder / "journal.db"
