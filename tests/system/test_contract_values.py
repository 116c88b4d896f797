"""Section 2 of the contract, and an event's fields: what is let in, and what is refused where."""

import math
from typing import Any

import msgpack
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.limits import APPEND_EVENTS_MAX, PAYLOAD_BYTES_MAX
from tests.system.harness import Wire, event, pack

SESSION = "01HF7YAT00000000000000000A"
NOT_ULIDS = {
    "empty": "",
    "25 characters": "01HF7YAT00000000000000000",
    "27 characters": "01HF7YAT00000000000000000AA",
    "first character 8": "81HF7YAT00000000000000000A",
    "first character Z": "Z1HF7YAT00000000000000000A",
    "lower case": "01hf7yat00000000000000000a",
    "one lower case character": "01HF7YAT0000000000000000Za",
    "I": "01HF7YAT0000000000000000IA",
    "L": "01HF7YAT0000000000000000LA",
    "O": "01HF7YAT0000000000000000OA",
    "U": "01HF7YAT0000000000000000UA",
    "underscore": "01HF7YAT_00000000000000000",
    "space": "01HF7YAT00000000000000000 ",
    "space before": " 1HF7YAT00000000000000000A",
    "plus": "+1HF7YAT00000000000000000A",
    "minus": "-1HF7YAT00000000000000000A",
    "newline": "01HF7YAT00000000000000000\n",
    "nul": "01HF7YAT00000000000000000\0",
    "hyphens": "01HF7YAT-0000-0000-0000-00",
    "arabic digits": "01HF7YAT0000000000000000\u0660\u0661",
    "fullwidth digits": "01HF7YAT000000000000000" + "\uff10\uff11A",
    "superscript": "01HF7YAT000000000000000²²A",
    "first character below 0": "/1HF7YAT00000000000000000A",
    "a uuid": "018bcf9a-b400-7000-8000-00",
}


@pytest.mark.parametrize("text", NOT_ULIDS.values(), ids=NOT_ULIDS.keys())
@pytest.mark.parametrize("field", ["event_id", "session_id", "run_id"])
def test_text_that_is_no_canonical_ulid_is_invalid_id_and_names_the_field(
    wire: Wire, field: str, text: str
) -> None:
    error = wire.refuse(event(new_id()), event(new_id(), **{field: text}))
    assert (error["code"], error["field"]) == ("invalid_id", f"events[1].{field}")


@pytest.mark.parametrize("text", NOT_ULIDS.values(), ids=NOT_ULIDS.keys())
@pytest.mark.parametrize(
    ("op", "field"),
    [
        ("journal.read", "session_id"),
        ("journal.read", "run_id"),
        ("journal.subscribe", "session_id"),
    ],
)
def test_a_filter_that_is_no_canonical_ulid_is_invalid_id(
    wire: Wire, op: str, field: str, text: str
) -> None:
    body: dict[str, Any] = {"credit": 1} if op == "journal.subscribe" else {}
    error = wire.err(op, {**body, field: text})
    assert (error["code"], error["field"]) == ("invalid_id", field)


@pytest.mark.parametrize("value", [5, 1.5, b"0" * 16, True, [SESSION], {}], ids=repr)
@pytest.mark.parametrize("field", ["event_id", "session_id", "run_id"])
def test_an_id_that_is_no_text_is_invalid(wire: Wire, field: str, value: Any) -> None:
    error = wire.refuse(event(new_id()), event(new_id(), **{field: value}))
    assert (error["code"], error["field"]) == ("invalid", f"events[1].{field}")


def test_the_lowest_and_the_highest_ulid_are_ids_like_others(wire: Wire) -> None:
    for text in ("0" * 26, "7" + "Z" * 25):
        (result,) = wire.append(event(new_id(), event_id=text))
        assert result["event_id"] == text
        (result,) = wire.append(event(text))
        assert wire.read(session_id=text)[0]["session_id"] == text


@pytest.mark.parametrize(
    "field", ["event_id", "session_id", "kind", "actor", "ts_ms", "payload"], ids=str
)
def test_a_missing_field_is_invalid_and_named(wire: Wire, field: str) -> None:
    error = wire.refuse(event(new_id()), event(new_id(), **{field: ...}))
    assert (error["code"], error["field"]) == ("invalid", f"events[1].{field}")


def test_run_id_may_be_missing_or_nil(wire: Wire) -> None:
    session = new_id()
    wire.append(event(session, run_id=...), {**event(session), "run_id": None})
    assert [stored["run_id"] for stored in wire.read(session_id=session)] == [None, None]


@pytest.mark.parametrize("field", ["seq", "hash", "principal", "session_seq", "redacted", ""])
def test_an_unknown_field_of_an_event_is_refused_by_its_name(wire: Wire, field: str) -> None:
    error = wire.refuse(event(new_id()), {**event(new_id()), field: 1})
    assert error["code"] == "invalid"
    if field:
        assert error["field"] == f"events[1].{field}"


@pytest.mark.parametrize(
    "ts_ms", [-1, 1.0, "1", None, True, 2**48, 2**63, 2**64 - 1, b"1", [1]], ids=repr
)
def test_a_time_that_is_no_usable_number_of_milliseconds_is_invalid(wire: Wire, ts_ms: Any) -> None:
    error = wire.refuse({**event(new_id()), "ts_ms": ts_ms})
    assert (error["code"], error["field"]) == ("invalid", "events[0].ts_ms")


@pytest.mark.parametrize("ts_ms", [0, 1, 2**31, 2**48 - 1])
def test_a_time_is_stored_as_it_was_sent(wire: Wire, ts_ms: int) -> None:
    session = new_id()
    wire.append(event(session, ts_ms=ts_ms))
    assert wire.read(session_id=session)[0]["ts_ms"] == ts_ms


KINDS = [
    "message_received", "model_token", "tool_proposed", "tool_executed", "a2ui_updated",
    "run_completed", "run_failed", "x.a", "x." + "z" * 62, "x.a.b_c.9", "x.._", "x.0",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_the_contract_or_of_ones_own_is_stored_as_it_was_sent(
    wire: Wire, kind: str
) -> None:
    session = new_id()
    wire.append(event(session, kind=kind))
    assert wire.read(session_id=session)[0]["kind"] == kind
    assert len(wire.read(session_id=session, kinds=[kind])) == 1


NOT_KINDS = [
    "", "x", "x.", "x." + "z" * 63, "x.A", "x.a-b", "x.a b", "x.é", "x.a\n", "X.a", "y.a", ".a",
    "message_receive", "Message_received", "run.transitione", "1", "message_received\0", "x.a\0",
]  # fmt: skip


@pytest.mark.parametrize("kind", NOT_KINDS, ids=repr)
def test_any_other_kind_is_invalid(wire: Wire, kind: str) -> None:
    error = wire.refuse(event(new_id()), event(new_id(), kind=kind))
    assert (error["code"], error["field"]) == ("invalid", "events[1].kind")
    error = wire.err("journal.read", {"kinds": ["model_token", kind]})
    assert (error["code"], error["field"]) == ("invalid", "kinds[1]")


@pytest.mark.parametrize("kind", ["run.transitioned", "session.archived"])
def test_the_engines_own_kinds_are_found_but_not_written(wire: Wire, kind: str) -> None:
    error = wire.refuse(event(new_id(), kind=kind))
    assert (error["code"], error["field"]) == ("invalid", "events[0].kind")
    wire.read(kinds=[kind])


@pytest.mark.parametrize("actor", ["user", "agent", "system", "plugin"])
def test_each_of_the_four_actors_is_stored_as_it_was_sent(wire: Wire, actor: str) -> None:
    session = new_id()
    wire.append(event(session, actor=actor))
    assert wire.read(session_id=session)[0]["actor"] == actor


@pytest.mark.parametrize("actor", ["", "User", "root", "user ", "model"])
def test_any_other_actor_is_invalid(wire: Wire, actor: str) -> None:
    error = wire.refuse(event(new_id()), event(new_id(), actor=actor))
    assert (error["code"], error["field"]) == ("invalid", "events[1].actor")


# -- payloads -------------------------------------------------------------------------------------


def _nested(levels: int, leaf: Any = 1) -> Any:
    """A map that is `levels` deep, lists and maps in turn inside."""
    value = leaf
    for level in range(levels - 1):
        value = [value] if level % 2 else {"n": value}
    return {"n": value}


def _sized(size: int) -> dict[str, str]:
    payload = {"t": ""}
    text = size - len(pack({"t": "x" * 70_000})) + 70_000
    payload["t"] = "x" * text
    assert len(pack(payload)) == size
    return payload


VALUES: dict[str, Any] = {
    "empty": {},
    "all types": {"a": None, "b": True, "c": False, "d": 1.5, "e": "é", "f": b"\xff\0", "g": [{}]},
    "integers at the edges": {"low": -(2**63), "high": 2**64 - 1, "i63": 2**63, "zero": 0},
    "floats at the edges": {"a": 1.7976931348623157e308, "b": 5e-324, "c": -0.0},
    "64 levels": _nested(64),
    "empty key": {"": 1},
    "nul in text": {"a\0b": "c\0d"},
    "not in the BMP": {"😀": "\U0010ffff"},
    "wide": {str(n): n for n in range(1000)},
    "long list": {"l": list(range(5000))},
}


@pytest.mark.parametrize("payload", VALUES.values(), ids=VALUES.keys())
def test_a_payload_comes_back_as_data_and_raw_as_the_bytes_that_were_sent(
    wire: Wire, payload: dict[str, Any]
) -> None:
    session = new_id()
    (result,) = wire.append(event(session, payload=payload))
    assert result["redacted"] is False
    (stored,) = wire.read(session_id=session)
    assert stored["payload"] == payload
    assert pack(stored["payload"]) == pack(payload)  # 1, 1.0 and true are equal to Python
    (raw,) = wire.read(session_id=session, raw=True)
    assert raw["payload"] == pack(payload)


def test_a_payload_is_stored_byte_for_byte_also_where_its_encoding_is_not_the_shortest(
    wire: Wire,
) -> None:
    session = new_id()
    odd = b"\xde\x00\x01\xda\x00\x01a\xd3\x00\x00\x00\x00\x00\x00\x00\x05"
    frame = _frame_with_payload(session, odd)
    assert "ok" in wire.raw(frame)
    assert wire.read(session_id=session)[0]["payload"] == {"a": 5}
    assert wire.read(session_id=session, raw=True)[0]["payload"] == odd


def _frame_with_payload(session: str, payload: bytes) -> bytes:
    """An append around payload bytes that no encoder makes."""
    marker = b"PAYLOAD-HERE"
    request = {"events": [event(session, payload=marker)]}
    frame = pack({"v": 1, "id": 1, "op": "journal.append", "body": request})
    packed = pack(marker)
    assert frame.count(packed) == 1
    return frame.replace(packed, payload)


BAD_PAYLOADS: dict[str, bytes] = {
    "no map: nil": b"\xc0",
    "no map: list": b"\x90",
    "no map: text": b"\xa1x",
    "no map: bytes": b"\xc4\x01x",
    "no map: number": b"\x05",
    "NaN": pack({"a": math.nan}),
    "infinity": pack({"a": math.inf}),
    "minus infinity": pack({"a": [-math.inf]}),
    "NaN of 32 bits": b"\x81\xa1a\xca\x7f\xc0\x00\x00",
    "infinity of 32 bits": b"\x81\xa1a\xca\x7f\x80\x00\x00",
    "extension": pack({"a": msgpack.ExtType(5, b"x")}),
    "timestamp": pack({"a": msgpack.Timestamp(1, 0)}),
    "fixext 16": b"\x81\xa1a\xd8\x05" + bytes(16),
    "integer key": pack({1: 1}),
    "nil key": pack({None: 1}),
    "bytes key": pack({b"a": 1}),
    "boolean key": pack({True: 1}),
    "list key": b"\x81\x91\x01\x01",
    "integer key below": pack({"a": [{"b": {2: 2}}]}),
    "invalid UTF-8": b"\x81\xa1a\xa1\xff",
    "invalid UTF-8 in a key": b"\x81\xa1\xff\x01",
    "a surrogate": b"\x81\xa1a\xa3\xed\xa0\x80",
    "overlong UTF-8": b"\x81\xa1a\xa2\xc0\x80",
    "65 levels": pack(_nested(65)),
    "65 levels, empty inside": pack(_nested(64, [])),
    "200 levels": pack(_nested(200)),
    "reserved byte": b"\x81\xa1a\xc1",
}


@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
def test_a_payload_that_breaks_a_rule_is_invalid_and_the_field_leads_there(
    wire: Wire, payload: bytes
) -> None:
    before = wire.head()
    reply = wire.raw(_frame_with_payload(new_id(), payload))
    if "err" in reply and reply["err"]["code"] == "malformed":
        assert payload in (BAD_PAYLOADS["reserved byte"],)  # then it is no MessagePack at all
    else:
        assert reply["err"]["code"] == "invalid"
        assert reply["err"]["field"].startswith("events[0].payload")
    assert wire.head() == before


def test_one_bad_payload_refuses_the_whole_request(wire: Wire) -> None:
    session = new_id()
    error = wire.refuse(
        event(session), event(session, payload={"a": {"b": [1, math.nan]}}), event(session)
    )
    assert error["code"] == "invalid"
    assert error["field"] == "events[1].payload.a.b[1]"
    assert wire.err("journal.read", {"session_id": session})["code"] == "not_found"


def test_a_payload_of_exactly_256_kib_is_stored(wire: Wire) -> None:
    session = new_id()
    wire.append(event(session, payload=_sized(PAYLOAD_BYTES_MAX)))
    assert len(wire.read(session_id=session, raw=True)[0]["payload"]) == PAYLOAD_BYTES_MAX


def test_a_payload_of_one_byte_more_is_too_large_and_says_both_sizes(wire: Wire) -> None:
    error = wire.refuse(event(new_id()), event(new_id(), payload=_sized(PAYLOAD_BYTES_MAX + 1)))
    assert error["code"] == "too_large"
    assert error["field"] == "events[1].payload"
    assert error["detail"] == {"limit": PAYLOAD_BYTES_MAX, "actual": PAYLOAD_BYTES_MAX + 1}


# -- how many events ------------------------------------------------------------------------------


def test_an_append_without_events_is_invalid(wire: Wire) -> None:
    error = wire.refuse()
    assert (error["code"], error["field"]) == ("invalid", "events")


def test_an_append_of_1024_events_is_stored(wire: Wire) -> None:
    session = new_id()
    results = wire.append(*[event(session) for _ in range(APPEND_EVENTS_MAX)])
    assert [r["session_seq"] for r in results] == list(range(1, APPEND_EVENTS_MAX + 1))


def test_an_append_of_1025_events_is_too_large_and_says_both_numbers(wire: Wire) -> None:
    error = wire.refuse(*[event(new_id()) for _ in range(APPEND_EVENTS_MAX + 1)])
    assert (error["code"], error["field"]) == ("too_large", "events")
    assert error["detail"] == {"limit": APPEND_EVENTS_MAX, "actual": APPEND_EVENTS_MAX + 1}


@pytest.mark.parametrize("events", [None, 5, "x", {}, [5], [None], [[]], ["x"]], ids=repr)
def test_events_that_are_no_list_of_maps_are_invalid(wire: Wire, events: Any) -> None:
    before = wire.head()
    error = wire.err("journal.append", {"events": events})
    assert error["code"] == "invalid"
    assert error["field"] in ("events", "events[0]")
    assert wire.head() == before


@pytest.mark.parametrize("expected", [-1, 1.0, "1", True, 2**63, 2**64 - 1], ids=repr)
def test_an_expected_sequence_that_is_no_usable_number_is_invalid(
    wire: Wire, expected: Any
) -> None:
    error = wire.refuse(event(new_id()), expected_session_seq=expected)
    assert (error["code"], error["field"]) == ("invalid", "expected_session_seq")


READS: list[tuple[str, dict[str, Any], str]] = [
    ("journal.read", {"limit": 0}, "limit"),
    ("journal.read", {"limit": 1001}, "limit"),
    ("journal.read", {"limit": "1"}, "limit"),
    ("journal.read", {"after_seq": -1}, "after_seq"),
    ("journal.read", {"after_seq": 1.0}, "after_seq"),
    ("journal.read", {"raw": 1}, "raw"),
    ("journal.read", {"kinds": "model_token"}, "kinds"),
    ("journal.read", {"kinds": [5]}, "kinds[0]"),
    ("journal.recent", {"limit": 0}, "limit"),
    ("journal.recent", {"limit": 101}, "limit"),
    ("journal.verify", {"from_seq": 0}, "from_seq"),
    ("journal.verify", {"from_seq": 9, "to_seq": 3}, "to_seq"),
    ("journal.verify", {"to_seq": "end"}, "to_seq"),
    ("journal.verify", {"expect": 5}, "expect"),
    ("journal.verify", {"expect": {"seq": 1}}, "expect.hash"),
    ("journal.verify", {"expect": {"seq": 1, "hash": b"x" * 31}}, "expect.hash"),
    ("journal.verify", {"expect": {"seq": 1, "hash": "x" * 32}}, "expect.hash"),
    ("journal.verify", {"expect": {"seq": 1, "hash": b"x" * 32, "more": 1}}, "expect.more"),
    ("journal.subscribe", {}, "credit"),
    ("journal.subscribe", {"credit": 0}, "credit"),
    ("journal.subscribe", {"credit": 10_001}, "credit"),
    ("journal.subscribe", {"credit": "many"}, "credit"),
    ("journal.credit", {"sub": 1}, "credit"),
    ("journal.credit", {"credit": 1}, "sub"),
    ("journal.credit", {"sub": -1, "credit": 1}, "sub"),
    ("journal.unsubscribe", {"sub": None}, "sub"),
    ("journal.unsubscribe", {"sub": ""}, "sub"),
]


@pytest.mark.parametrize(("op", "body", "field"), READS, ids=lambda value: str(value)[:40])
def test_a_body_field_of_the_wrong_type_or_out_of_range_is_invalid_and_named(
    wire: Wire, op: str, body: dict[str, Any], field: str
) -> None:
    error = wire.err(op, body)
    assert (error["code"], error["field"]) == ("invalid", field)


def test_more_kinds_in_a_filter_than_there_may_be_are_too_large(wire: Wire) -> None:
    error = wire.err("journal.read", {"kinds": [f"x.k{n}" for n in range(65)]})
    assert (error["code"], error["field"]) == ("too_large", "kinds")
    assert error["detail"] == {"limit": 64, "actual": 65}
