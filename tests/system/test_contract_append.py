"""Section 4 of the contract: numbers, order, atomicity, timing; and what an append stores."""

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from tests.system.harness import House, Wire, event, house, pack

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_first_event_of_a_journal_is_number_1_after_32_zero_bytes(own: House) -> None:
    wire = own.connect()
    assert wire.head() == (0, bytes(32))
    (result,) = wire.append(event(new_id()))
    assert (result["seq"], result["session_seq"]) == (1, 1)
    assert wire.head() == (1, result["hash"])
    assert wire.read()[0]["prev_hash"] == bytes(32)


def test_a_result_has_exactly_the_fields_of_the_contract(wire: Wire) -> None:
    sent = event(new_id())
    ok = wire.ok("journal.append", {"events": [sent]})
    assert set(ok) == {"results", "timing"}
    (result,) = ok["results"]
    assert list(result) == ["event_id", "seq", "session_seq", "hash", "duplicate", "redacted"]
    assert result["event_id"] == sent["event_id"]
    assert isinstance(result["hash"], bytes)
    assert len(result["hash"]) == 32
    assert (result["duplicate"], result["redacted"]) == (False, False)


def test_every_ok_of_a_write_says_how_long_it_took(wire: Wire) -> None:
    sent = event(new_id())
    for _ in ("written", "said again"):
        timing = wire.ok("journal.append", {"events": [sent]})["timing"]
        assert set(timing) == {"queued_ms", "commit_ms", "total_ms", "within_budget"}
        assert all(isinstance(timing[key], float) for key in list(timing)[:3])
        assert 0 <= timing["queued_ms"] <= timing["total_ms"]
        assert 0 <= timing["commit_ms"] <= timing["total_ms"]
        assert timing["within_budget"] is True  # this engine has none


def test_events_of_one_request_have_adjacent_numbers_in_the_order_sent(wire: Wire) -> None:
    first, second = new_id(), new_id()
    sent = [event(session) for session in (first, second, first, first, second)]
    results = wire.append(*sent)
    assert [r["event_id"] for r in results] == [e["event_id"] for e in sent]
    start = results[0]["seq"]
    assert [r["seq"] for r in results] == [start + n for n in range(5)]
    assert [r["session_seq"] for r in results] == [1, 1, 2, 3, 2]


def test_seq_is_gapless_over_all_sessions_and_refusals(own: House) -> None:
    wire = own.connect()
    sessions = [new_id() for _ in range(5)]
    for number in range(40):
        wire.append(event(sessions[number % 5]))
        wire.refuse(event(sessions[number % 5]), expected_session_seq=999)
        wire.refuse(event(sessions[number % 5]), event("bad"))
    stored = wire.read()
    assert [e["seq"] for e in stored] == list(range(1, 41))
    for place, session in enumerate(sessions):
        own_events = [e["stream_seq"] for e in stored if e["session_id"] == session]
        assert own_events == list(range(1, 9)), place


def test_requests_of_one_connection_for_one_session_take_effect_in_the_order_sent(
    wire: Wire,
) -> None:
    session = new_id()
    ids: list[Any] = []
    for number in range(300):
        body: dict[str, Any] = {"events": [event(session, payload={"n": number})]}
        if number % 7 == 0:
            body["expected_session_seq"] = number
        ids.append(wire.send("journal.append", body))
    replies = {reply["id"]: reply for reply in (wire.receive() for _ in ids)}
    numbers = [replies[i]["ok"]["results"][0]["session_seq"] for i in ids]
    assert numbers == list(range(1, 301))
    assert [e["payload"]["n"] for e in wire.read(session_id=session)] == list(range(300))


def test_requests_for_overlapping_sessions_sent_at_once_take_effect_in_the_order_sent(
    wire: Wire,
) -> None:
    sessions = [new_id() for _ in range(4)]
    sent: list[tuple[Any, list[str]]] = []
    for number in range(200):
        touched = [sessions[(number * 7 + k * k) % 4] for k in range(1 + number % 3)]
        events = [event(s, payload={"n": number}) for s in touched]
        sent.append((wire.send("journal.append", {"events": events}), touched))
    replies = {reply["id"]: reply["ok"]["results"] for reply in (wire.receive() for _ in sent)}
    for session in sessions:
        order = [
            r["session_seq"]
            for request_id, touched in sent
            for r, s in zip(replies[request_id], touched, strict=True)
            if s == session
        ]
        assert order == list(range(1, len(order) + 1))


def test_connections_that_write_at_once_share_one_gapless_order(own: House) -> None:
    sessions = [new_id() for _ in range(3)]

    def write(number: int) -> list[int]:
        with Wire(own.endpoint) as wire:
            ids = [
                wire.send("journal.append", {"events": [event(sessions[(number + n) % 3])]})
                for n in range(50)
            ]
            return [wire.receive()["ok"]["results"][0]["seq"] for _ in ids]

    with ThreadPoolExecutor(4) as pool:
        seqs = sorted(seq for own_seqs in pool.map(write, range(4)) for seq in own_seqs)
    assert seqs == list(range(1, 201))
    stored = own.connect().read()
    for session in sessions:
        numbers = [e["stream_seq"] for e in stored if e["session_id"] == session]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_read_that_begins_after_an_ok_sees_what_it_promised(wire: Wire) -> None:
    session = new_id()
    for number in range(1, 60):
        (result,) = wire.append(event(session))
        assert wire.read(session_id=session, after_seq=result["seq"] - 1)[0]["seq"] == result["seq"]
        assert wire.read(session_id=session)[-1]["stream_seq"] == number


def test_one_event_that_is_refused_refuses_the_whole_request_in_every_session(wire: Wire) -> None:
    first, second, run = new_id(), new_id(), new_id()
    wire.append(
        event(second, run_id=run), event(second, run_id=run, kind="run_completed"), event(first)
    )
    failing = event(second, run_id=run, kind="run_failed")
    assert wire.refuse(event(first), failing, event(first))["code"] == "invalid_transition"
    assert wire.append(event(first))[0]["session_seq"] == 2
    assert wire.append(event(second))[0]["session_seq"] == 3


def test_a_request_refused_in_one_session_does_not_hold_up_others_that_share_it(wire: Wire) -> None:
    first, second = new_id(), new_id()
    ids = []
    for number in range(60):
        body: dict[str, Any] = {"events": [event(first), event(second)]}
        if number % 3 == 1:
            body["events"][1]["run_id"] = run = new_id()
            body["events"] += [
                event(second, run_id=run, kind="run_completed"),
                event(second, run_id=run, kind="run_failed"),
            ]
        ids.append((wire.send("journal.append", body), number % 3 != 1))
    replies = {reply["id"]: reply for reply in (wire.receive() for _ in ids)}
    for request_id, good in ids:
        assert ("ok" in replies[request_id]) is good
    for session in (first, second):
        assert [e["stream_seq"] for e in wire.read(session_id=session)] == list(range(1, 41))


# -- expected_session_seq -------------------------------------------------------------------------


def test_an_append_after_the_expected_event_is_stored(wire: Wire) -> None:
    session = new_id()
    wire.append(event(session), expected_session_seq=0)
    wire.append(event(session), event(session), expected_session_seq=1)
    (result,) = wire.append(event(session), expected_session_seq=3)
    assert result["session_seq"] == 4


@pytest.mark.parametrize("expected", [0, 1, 3, 2**63 - 1])
def test_an_append_after_another_event_is_a_conflict_that_says_the_present_number(
    wire: Wire, expected: int
) -> None:
    session = new_id()
    wire.append(event(session), event(session))
    error = wire.refuse(event(session), expected_session_seq=expected)
    assert (error["code"], error["field"]) == ("conflict", "expected_session_seq")
    assert error["detail"] == {"actual": 2}


def test_a_session_that_is_not_there_yet_conflicts_with_any_number_but_0(wire: Wire) -> None:
    error = wire.refuse(event(new_id()), expected_session_seq=1)
    assert (error["code"], error["detail"]) == ("conflict", {"actual": 0})


def test_an_expected_sequence_for_two_sessions_is_invalid(wire: Wire) -> None:
    error = wire.refuse(event(new_id()), event(new_id()), expected_session_seq=0)
    assert (error["code"], error["field"]) == ("invalid", "expected_session_seq")


def test_of_many_that_expect_the_same_number_exactly_one_wins(wire: Wire) -> None:
    session = new_id()
    for expected in range(10):
        body = {"expected_session_seq": expected}
        ids = [wire.send("journal.append", {"events": [event(session)], **body}) for _ in range(8)]
        replies = [wire.receive() for _ in ids]
        won = [reply for reply in replies if "ok" in reply]
        lost = [reply["err"] for reply in replies if "err" in reply]
        assert [reply["ok"]["results"][0]["session_seq"] for reply in won] == [expected + 1]
        assert {error["code"] for error in lost} == {"conflict"}
        assert [error["detail"]["actual"] for error in lost] == [expected + 1] * 7


# -- what is stored -------------------------------------------------------------------------------


def test_an_event_is_read_as_it_was_stored_with_every_field_of_the_contract(wire: Wire) -> None:
    session, run = new_id(), new_id()
    sent = event(session, run_id=run, kind="x.mine", actor="plugin", payload={"k": [1, None]})
    body = {"events": [event(session), sent]}
    before = wire.head()
    results = wire.ok("journal.append", body, traceparent=TRACE)["results"]
    (stored,) = wire.read(session_id=session, after_seq=results[0]["seq"])
    assert stored == {
        **sent,
        "seq": before[0] + 2,
        "stream": "session",
        "stream_id": session,
        "stream_seq": 2,
        "principal": "local",
        "recorded_ms": stored["recorded_ms"],
        "redacted": False,
        "traceparent": TRACE,
        "payload_sha256": sha256(pack(sent["payload"])).digest(),
        "hash": results[1]["hash"],
        "prev_hash": results[0]["hash"],
    }
    assert abs(stored["recorded_ms"] - stored["ts_ms"]) > 86_400_000  # ours and theirs differ


def test_recorded_ms_is_the_engines_clock(wire: Wire) -> None:
    session = new_id()
    lower = int(new_id_time())
    wire.append(event(session, ts_ms=5))
    upper = int(new_id_time())
    (stored,) = wire.read(session_id=session)
    assert lower <= stored["recorded_ms"] <= upper


def new_id_time() -> int:
    from palyra_actors.ids import parse_ulid, ulid_time_ms

    return ulid_time_ms(parse_ulid(new_id()))


def test_an_event_without_a_traceparent_has_nil_there(wire: Wire) -> None:
    session = new_id()
    wire.append(event(session))
    assert wire.read(session_id=session)[0]["traceparent"] is None


def test_the_hash_of_every_event_follows_the_formula_of_the_contract(own: House) -> None:
    wire = own.connect()
    session, run = new_id(), new_id()
    wire.append(event(session), event(new_id(), kind="x.mine", run_id=run))
    hers = {"events": [event(new_id())]}
    wire.ok("journal.append", hers, traceparent=TRACE, principal="alice")
    wire.append(event(session, payload={"password": "hunter2hunter2"}))
    previous = bytes(32)
    for stored in wire.read(raw=True):
        digest = sha256(stored["payload"]).digest()
        fields = [
            stored["seq"], _bytes(stored["event_id"]), stored["stream"],
            _bytes(stored["stream_id"]), stored["stream_seq"], _bytes(stored["session_id"]),
            _bytes(stored["run_id"]), stored["kind"], stored["actor"], stored["principal"],
            stored["ts_ms"], stored["recorded_ms"], stored["redacted"], stored["traceparent"],
            digest,
        ]  # fmt: skip
        assert stored["payload_sha256"] == digest
        assert stored["prev_hash"] == previous
        assert stored["hash"] == sha256(previous + pack(fields)).digest()
        previous = stored["hash"]
    assert wire.head() == (len(wire.read()), previous)


def _bytes(text: str | None) -> bytes | None:
    """Crockford base32, written out here so that the engine's own is held against another."""
    if text is None:
        return None
    value = 0
    for character in text:
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    return value.to_bytes(16, "big")


def test_seq_and_the_chain_go_on_after_a_restart(tmp_path: Path) -> None:
    session, other = new_id(), new_id()
    hashes: list[bytes] = []
    for start in range(3):
        with house(tmp_path) as opened:
            wire = opened.connect()
            assert wire.head() == (start * 3, hashes[-1] if hashes else bytes(32))
            results = wire.append(event(session), event(other), event(session))
            assert [r["seq"] for r in results] == [start * 3 + n for n in (1, 2, 3)]
            assert [r["session_seq"] for r in results] == [start * 2 + 1, start + 1, start * 2 + 2]
            hashes += [r["hash"] for r in results]
            assert [e["hash"] for e in wire.read()] == hashes
            assert wire.ok("journal.verify")["valid"] is True


# -- redaction ------------------------------------------------------------------------------------

SECRETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a key that names a secret": ({"password": "tiger"}, {"password": "<redacted>"}),
    "in any case": ({"X-API_KEY": "tiger"}, {"X-API_KEY": "<redacted>"}),
    "inside a longer name, deep": (
        {"a": [{"my_access_token_v2": "tiger"}]},
        {"a": [{"my_access_token_v2": "<redacted>"}]},
    ),
    "a bearer token": (
        {"t": "Authorization: Bearer abcdef0123456789abcdef"},
        {"t": None},
    ),
    "user and password in a URL": ({"t": "postgres://u:tiger99@host/db"}, {"t": None}),
    "an AWS key": ({"t": "key AKIAIOSFODNN7EXAMPLE"}, {"t": None}),
    "an assignment": ({"t": "export DB_PASSWORD=tiger99"}, {"t": None}),
}


@pytest.mark.parametrize(("sent", "stored"), SECRETS.values(), ids=SECRETS.keys())
def test_secrets_are_gone_before_anything_is_stored_and_the_result_says_so(
    wire: Wire, sent: dict[str, Any], stored: dict[str, Any]
) -> None:
    session = new_id()
    results = wire.append(event(session), event(session, payload=sent))
    assert [r["redacted"] for r in results] == [False, True]
    _, seen = wire.read(session_id=session)
    assert seen["redacted"] is True
    if None not in stored.values():
        assert seen["payload"] == stored
    raw = wire.read(session_id=session, raw=True)[1]["payload"]
    assert b"<redacted>" in raw
    for secret in (b"tiger", b"abcdef0123456789abcdef", b"AKIAIOSFODNN7EXAMPLE"):
        assert secret not in raw
    assert seen["payload_sha256"] == sha256(raw).digest()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("message_received", {"max_tokens": 4096, "token": None, "password": True}),
        ("model_token", {"token": "the model's text"}),
        ("message_received", {"text": "nothing to hide"}),
    ],
)
def test_what_is_no_secret_stays(wire: Wire, kind: str, payload: dict[str, Any]) -> None:
    session = new_id()
    (result,) = wire.append(event(session, kind=kind, payload=payload))
    assert result["redacted"] is False
    assert wire.read(session_id=session)[0]["payload"] == payload
