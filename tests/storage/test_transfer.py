"""A journal as lines of JSON and back: the same chain, the same state; or nothing at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import Invalid, OpenRefused, PalyraError
from palyra_actors.storage import anchor, lock, transfer
from palyra_actors.storage.lock import DatabaseLock
from palyra_actors.storage.ndjson import as_json, packed_again
from palyra_actors.storage.transfer import VERSION, export, load
from tests.faults.rig import NO_BUDGET
from tests.system.test_session_model import rebuilt_differences


def lived_through(path: Path) -> None:
    """Something of every family, erased and redacted things among them."""
    with Engine.open(path, NO_BUDGET) as engine:
        one, other, gone = (engine.sessions.resolve(key, create=True) for key in "abc")
        for n in range(70):
            payload = {"n": n, "f": n / 2, "api_key": "sk-live-1234567890", "deep": [{"a": None}]}
            engine.sessions.open(one.session_id).append("x.a", payload, actor="user")
        run = engine.runs.start(one.session_id)
        engine.runs.move(run.run_id, "in_progress")
        engine.sessions.open(one.session_id).append(
            "run_completed", {}, run_id=run.run_id, actor="agent"
        )
        asked = engine.approvals.request(one.session_id, "tool", "bash", "run it?")
        engine.approvals.decide(asked.approval_id, "allow", scope="once")
        canvas = engine.canvases.create(other.session_id, {"steps": ["look"]})
        canvas.patch(1, [{"op": "add", "path": "/steps/-", "value": "leap"}])
        canvas.fork().close(reason="done")
        canvas.compact()
        branch = engine.sessions.open(one.session_id).branch(at_session_seq=30)
        branch.append("x.b", {"text": "after"}, actor="user")
        engine.sessions.open(gone.session_id).append("x.c", {"text": "to go"}, actor="user")
        engine.sessions.open(gone.session_id).erase()
        engine.sessions.open(other.session_id).archive()


def exported(path: Path) -> bytes:
    parts: list[bytes] = []
    export(path, parts.append)
    return b"".join(parts)


def test_an_import_of_an_export_has_the_same_head_the_same_lines_and_the_same_state(
    database: Path, tmp_path: Path
) -> None:
    lived_through(database)
    lines = exported(database)
    done = load(lines.splitlines(keepends=True), tmp_path / "again.db")
    assert exported(tmp_path / "again.db") == lines
    assert rebuilt_differences(tmp_path / "again.db") == 0
    assert anchor.read(anchor.beside(tmp_path / "again.db")) == done.head
    with Engine.open(database, NO_BUDGET) as old, Engine.open(tmp_path / "again.db") as new:
        assert (done.head.seq, done.head.hash) == (old.head().seq, old.head().hash)
        assert new.verify().valid
        assert shown(old) == shown(new)
        session = next(iter(new.sessions.list()))
        stored = new.sessions.open(session.session_id).append("x.d", {}, actor="user")
        assert stored.seq == done.head.seq + 1, "and it goes on from there"


def shown(engine: Engine) -> list[Any]:
    return [
        *sorted(engine.sessions.list(), key=lambda one: one.session_id),
        *sorted(engine.runs.list(), key=lambda one: one.run_id),
        *engine.approvals.list(),
        list(engine.events()),
    ]


def test_an_export_is_verified_by_a_reader_that_knows_its_lines_only(database: Path) -> None:
    """The chain, recomputed from JSON."""
    from hashlib import sha256

    lived_through(database)
    header, *told, trailer = (json.loads(line) for line in exported(database).splitlines())
    events = [line for line in told if "answer" not in line]
    previous = bytes(32)
    for event in events:
        ids = [event[key] for key in ("event_id", "stream_id", "session_id", "run_id")]
        event_id, stream_id, session_id, run_id = (one and to_bytes(one) for one in ids)
        fields = [
            event["seq"], event_id, event["stream"], stream_id, event["stream_seq"], session_id,
            run_id, event["kind"], event["actor"], event["principal"], event["ts_ms"],
            event["recorded_ms"], event["redacted"], event["traceparent"],
            bytes.fromhex(event["payload_sha256"]),
        ]  # fmt: skip
        previous = sha256(previous + msgspec.msgpack.encode(fields)).digest()
        assert event["hash"] == previous.hex()
    answers = [line + b"\n" for line in exported(database).splitlines() if line[2:8] == b"answer"]
    assert trailer["trailer"]["answers"] == {
        "count": len(answers),
        "sha256": sha256(b"".join(answers)).hexdigest(),
    }
    assert (
        header["head"]
        == trailer["trailer"]["head"]
        == {
            "seq": len(events),
            "hash": previous.hex(),
        }
    )


def to_bytes(ulid: str) -> bytes:
    number = 0
    for letter in ulid:
        number = number * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    return number.to_bytes(16, "big")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_payload_is_json_only_where_json_gives_back_every_byte(value: dict[str, Any]) -> None:
    payload = msgspec.msgpack.encode(value)
    said = as_json(payload)
    if said is not None:
        assert msgspec.msgpack.encode(msgspec.json.decode(said)) == payload


@pytest.mark.parametrize(
    "payload",
    [b"\x81\xa1a\xca\x3f\x80\x00\x00", b"\x81\xa1a\xcd\x00\x01", b"\x81\xa1a\xc4\x01\x00"],
    ids=["float32", "a longer integer", "bytes"],
)
def test_bytes_that_json_would_not_give_back_are_kept_as_bytes(payload: bytes) -> None:
    assert as_json(payload) is None
    assert msgspec.msgpack.decode(payload)


def test_an_integer_that_no_bytes_say_is_the_lines_mistake() -> None:
    value = msgspec.json.decode(b'{"limit":100000000000000000000}')
    with pytest.raises(ValueError, match="its payload"):
        packed_again("payload", value, None)


Lines = list[dict[str, Any]]


def without_one(lines: Lines) -> None:
    del lines[5]


def swapped(lines: Lines) -> None:
    lines[4], lines[5] = lines[5], lines[4]


def doubled(lines: Lines) -> None:
    lines.insert(5, lines[5])


def another_text(lines: Lines) -> None:
    lines[5]["payload"]["n"] = 99


def another_principal(lines: Lines) -> None:
    lines[5]["principal"] = "somebody"


def another_id(lines: Lines) -> None:
    lines[5]["event_id"] = new_id()


def no_ulid(lines: Lines) -> None:
    lines[5]["event_id"] = "x"


def a_field_more(lines: Lines) -> None:
    lines[5]["extra"] = 1


def a_wrong_type(lines: Lines) -> None:
    lines[5]["ts_ms"] = "now"


def no_trailer(lines: Lines) -> None:
    lines.pop()


def cut_with_its_trailer_made_to_fit(lines: Lines) -> None:
    del lines[8:-1]
    lines[-1]["trailer"]["head"] = {"seq": 7, "hash": lines[7]["hash"]}


def more_behind(lines: Lines) -> None:
    lines.append(lines[5])


def no_header(lines: Lines) -> None:
    del lines[0]


def a_newer_version(lines: Lines) -> None:
    lines[0]["palyra_actors_journal"] = VERSION + 1


@pytest.mark.parametrize(
    "change",
    [
        without_one, swapped, doubled, another_text, another_principal, another_id, no_ulid,
        a_field_more, a_wrong_type, no_trailer, cut_with_its_trailer_made_to_fit, more_behind,
        no_header, a_newer_version,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_an_export_that_was_changed_becomes_no_database(
    database: Path, tmp_path: Path, change: Callable[[Lines], None]
) -> None:
    lived_through(database)
    lines = [json.loads(line) for line in exported(database).splitlines()]
    change(lines)
    with pytest.raises(Invalid) as refused:
        load(
            [json.dumps(line, separators=(",", ":")).encode() for line in lines], tmp_path / "n.db"
        )
    assert str(refused.value.field).startswith("line ")
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


def test_an_export_is_not_imported_over_a_database(database: Path, tmp_path: Path) -> None:
    lived_through(database)
    lines = exported(database).splitlines(keepends=True)
    before = database.read_bytes()
    with pytest.raises(OpenRefused, match="there is a database already"):
        load(lines, database)
    assert database.read_bytes() == before


def test_a_journal_that_is_damaged_is_not_exported_as_if_it_were_whole(database: Path) -> None:
    import apsw

    lived_through(database)
    stranger = apsw.Connection(str(database))
    stranger.execute("UPDATE events SET ts_ms = ts_ms + 1 WHERE seq = 9")
    stranger.close()
    with pytest.raises(PalyraError, match="event 9"):
        exported(database)


def test_an_import_that_ends_while_another_one_begins_is_not_overwritten(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived_through(database)
    lines = exported(database).splitlines(keepends=True)
    again = tmp_path / "again.db"
    taken = transfer._taken

    def once_it_is_made(made: str) -> DatabaseLock:
        monkeypatch.setattr(transfer, "_taken", taken)
        load(lines, again)
        return taken(made)

    monkeypatch.setattr(transfer, "_taken", once_it_is_made)
    with pytest.raises(OpenRefused, match="there is a database already"):
        load(lines, again)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["again.db", "again.db-anchor", "data"]


def test_an_import_after_one_that_was_killed_begins_anew(database: Path, tmp_path: Path) -> None:
    lived_through(database)
    lines = exported(database).splitlines(keepends=True)
    again = tmp_path / "again.db"
    left = {f"{again}.partial{end}": end for end in ("", "-wal", "-shm", "-journal")}
    for name in left:
        Path(name).write_bytes(b"left by it")
    done = load(lines, again)
    assert anchor.read(anchor.beside(again)) == done.head
    assert not any(os.path.exists(name) for name in left)


@pytest.mark.parametrize("who", ["process", "another process"])
def test_an_import_beside_another_one_leaves_it_alone(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Also where the system does not tell whose it is, as it does not in a container."""
    lived_through(database)
    if who == "another process":
        refusal = lock._refusal
        monkeypatch.setattr(lock, "_refusal", lambda name, _: refusal(name, None))
        monkeypatch.setattr(lock, "_holder_pid", lambda _: None)
    lines = exported(database).splitlines(keepends=True)
    again = tmp_path / "again.db"
    with DatabaseLock.acquire(f"{again}.partial") as other:
        with pytest.raises(OpenRefused, match=f"is being made by {who}"):
            load(lines, again)
        assert other.still_ours()
    assert load(lines, again).head.seq == json.loads(lines[0])["events"]
