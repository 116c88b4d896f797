"""Section 1 and 3 of the contract: envelopes, delimiters, ids, versions, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import ConfigInvalid
from palyra_actors.limits import APPEND_EVENTS_MAX, FRAME_BYTES_MAX
from tests.system.harness import House, Wire, event, pack

OPS = [
    "engine.hello",
    "engine.health",
    "engine.stats",
    "journal.append",
    "journal.read",
    "journal.recent",
    "journal.head",
    "journal.verify",
    "journal.subscribe",
    "journal.credit",
    "journal.unsubscribe",
]


@pytest.fixture(params=["dealer", "dealer with a delimiter", "req"])
def any_wire(request: pytest.FixtureRequest, shared_house: House) -> Iterator[Wire]:
    """A connection of each kind that the contract allows."""
    kind = zmq.REQ if request.param == "req" else zmq.DEALER
    wire = Wire(shared_house.endpoint, delimiter="with" in request.param, kind=kind)
    with wire:
        yield wire


def test_every_kind_of_client_gets_its_reply_with_its_own_delimiter_or_none(any_wire: Wire) -> None:
    session = new_id()
    (result,) = any_wire.append(event(session))
    assert result["session_seq"] == 1
    assert [e["seq"] for e in any_wire.read(session_id=session)] == [result["seq"]]


def test_every_kind_of_client_gets_its_errors_the_same_way(any_wire: Wire) -> None:
    assert any_wire.err("no.such")["code"] == "unknown_op"
    assert any_wire.raw(b"\xc1")["err"]["code"] == "malformed"


def test_one_connection_may_send_both_with_and_without_the_delimiter(wire: Wire) -> None:
    frame = pack({"v": 1, "id": 7, "op": "journal.head", "body": {}})
    wire.send_parts(b"", frame)
    assert wire.socket.poll(30_000)
    assert wire.socket.recv_multipart()[0] == b""
    wire.send_parts(frame)
    assert wire.socket.poll(30_000)
    assert len(wire.socket.recv_multipart()) == 1


@pytest.mark.parametrize("request_id", [0, 1, 127, 128, 2**32, 2**64 - 1, "a", "x" * 64, "é" * 32])
def test_the_reply_has_the_id_of_the_request(wire: Wire, request_id: Any) -> None:
    assert wire.call("journal.head", id=request_id)["id"] == request_id


@pytest.mark.parametrize(
    "request_id",
    [None, ..., -1, "", "x" * 65, "é" * 33, b"bin", 1.0, True, [1], {"a": 1}],
    ids=repr,
)
def test_an_unusable_id_is_malformed_and_answered_with_nil(wire: Wire, request_id: Any) -> None:
    wire.send("journal.head", id=request_id)
    reply = wire.receive()
    assert reply["id"] is None
    assert reply["err"]["code"] == "malformed"
    assert reply["err"]["field"] == "id"


def test_an_id_may_be_used_again_once_it_was_answered(wire: Wire) -> None:
    for _ in range(3):
        assert "ok" in wire.call("journal.head", id="again")


@pytest.mark.parametrize("version", [..., None, 0, 2, -1, 1.0, True, "1", b"1", [1], {}], ids=repr)
def test_any_version_but_1_is_unsupported_version(wire: Wire, version: Any) -> None:
    error = wire.err("journal.head", v=version)
    assert error["code"] == "unsupported_version"
    assert error["detail"]["supported"] == [1]
    assert error["retryable"] is False


@pytest.mark.parametrize(
    "envelope",
    [
        {"op": "no.such"},
        {"op": ...},
        {"op": 5},
        {"body": {"no": 1}},
        {"body": 5},
        {"budget_ms": "soon"},
        {"traceparent": 5},
        {"principal": ["root"]},
    ],
    ids=repr,
)
def test_the_version_is_checked_before_anything_else_in_the_map(
    wire: Wire, envelope: dict[str, Any]
) -> None:
    op = envelope.pop("op", "journal.head")
    wire.send(op, v=2, **envelope)
    assert wire.receive()["err"]["code"] == "unsupported_version"


def test_the_version_is_checked_before_the_id(wire: Wire) -> None:
    wire.send("journal.head", v=2, id=-5)
    reply = wire.receive()
    assert reply["id"] is None
    assert reply["err"]["code"] == "unsupported_version"


@pytest.mark.parametrize(
    "op", ["", "journal", "journal.", "JOURNAL.HEAD", "journal.head ", "x" * 65, "é", "\0", "body"]
)
def test_an_op_that_is_not_there_is_unknown_op(wire: Wire, op: str) -> None:
    error = wire.err(op)
    assert error["code"] == "unknown_op"
    assert error["retryable"] is False


@pytest.mark.parametrize("op", [..., None, 1, b"journal.head", ["journal.head"], {}], ids=repr)
def test_an_envelope_without_a_usable_op_is_malformed(wire: Wire, op: Any) -> None:
    error = wire.err(op)
    assert error["code"] == "malformed"
    assert error["field"] == "op"


def test_an_operation_with_nothing_to_say_needs_no_body(wire: Wire) -> None:
    wire.send_frame(pack({"v": 1, "id": 1, "op": "journal.head"}))
    assert "ok" in wire.receive()


def test_an_operation_that_needs_a_body_says_so(wire: Wire) -> None:
    wire.send_frame(pack({"v": 1, "id": 1, "op": "journal.append"}))
    error = wire.receive()["err"]
    assert error["code"] == "invalid"
    assert error["field"] == "events"


def test_unknown_envelope_keys_are_ignored(wire: Wire) -> None:
    assert "seq" in wire.ok("journal.head", trace="x", z=[1, {"deep": None}], tenant=5)


def test_unknown_envelope_keys_are_ignored_where_a_body_is_wrong_too(wire: Wire) -> None:
    error = wire.err("journal.read", {"limits": 5}, later="x")
    assert (error["code"], error["field"]) == ("invalid", "limits")


@pytest.mark.parametrize("op", OPS)
def test_an_unknown_body_key_is_refused_by_its_name(wire: Wire, op: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "journal.append": {"events": [event(new_id())]},
        "journal.subscribe": {"credit": 1},
        "journal.credit": {"sub": 1, "credit": 1},
        "journal.unsubscribe": {"sub": 1},
    }
    before = wire.head()
    error = wire.err(op, {**bodies.get(op, {}), "surprise": 1})
    assert (error["code"], error["field"]) == ("invalid", "surprise")
    assert wire.head() == before


@pytest.mark.parametrize("body", [None, 5, "x", b"x", [], [1], True], ids=repr)
def test_a_body_that_is_no_map_is_invalid(wire: Wire, body: Any) -> None:
    wire.send_frame(pack({"v": 1, "id": 3, "op": "journal.read", "body": body}))
    reply = wire.receive()
    assert reply["id"] == 3
    assert (reply["err"]["code"], reply["err"]["field"]) == ("invalid", "body")


@pytest.mark.parametrize("budget_ms", [-1, 1.5, "5", True, 2**64 - 1, [1]], ids=repr)
def test_a_budget_that_is_no_usable_number_is_invalid(wire: Wire, budget_ms: Any) -> None:
    before = wire.head()
    error = wire.err("journal.append", {"events": [event(new_id())]}, budget_ms=budget_ms)
    assert (error["code"], error["field"]) == ("invalid", "budget_ms")
    assert wire.head() == before


@pytest.mark.parametrize("traceparent", [5, b"00-", ["x"], "x" * 129], ids=lambda v: repr(v)[:20])
def test_a_traceparent_that_is_no_short_text_is_invalid(wire: Wire, traceparent: Any) -> None:
    before = wire.head()
    error = wire.err("journal.append", {"events": [event(new_id())]}, traceparent=traceparent)
    assert (error["code"], error["field"]) == ("invalid", "traceparent")
    assert wire.head() == before


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x93\x01\x02\x03",
        b"hello",
        b"\x05",
        b"\x80\x80",
        pack({"v": 1, "id": 1, "op": "journal.head", "body": {}}) + b"\x00",
        b"\x81\x01\x02",
        msgpack.packb({b"v": 1}, use_bin_type=True),
        b"\xdf\xff\xff\xff\xff",
        b"\xde\xff\xff" + b"\xa1v\x01" * 100,
        b"\x81\xa1\xff\x01",
        b"\xc7\x01\x05x",
        b"\x00" * 1000,
        b"\x91" * 100_000,
        b"\x81\xa1v" * 100_000,
    ],
    ids=lambda frame: f"{len(frame)} bytes {frame[:8]!r}",
)
def test_what_is_no_map_is_malformed_and_answered_with_nil(wire: Wire, frame: bytes) -> None:
    before = wire.head()
    reply = wire.raw(frame)
    assert reply["id"] is None
    assert reply["err"]["code"] == "malformed"
    assert reply["err"]["retryable"] is False
    assert wire.head() == before


@pytest.mark.parametrize(
    "frames",
    [(b"a", b"b"), (b"", b"a", b"b"), (b"\x80", b""), (b"", b"", b"\x80"), (b"x",) * 1000],
    ids=lambda frames: f"{len(frames)} frames of {frames[0]!r}",
)
def test_a_message_of_several_payload_frames_is_malformed_as_a_whole(
    wire: Wire, frames: tuple[bytes, ...]
) -> None:
    wire.send_parts(*frames)
    assert wire.socket.poll(30_000)
    parts = wire.socket.recv_multipart()
    assert len(parts) == (2 if frames[0] == b"" else 1)
    reply = msgpack.unpackb(parts[-1])
    assert reply["id"] is None
    assert reply["err"]["code"] == "malformed"
    assert "seq" in wire.ok("journal.head")


def test_an_append_in_the_second_frame_is_not_carried_out(wire: Wire) -> None:
    before = wire.head()
    good = pack(
        {"v": 1, "id": 1, "op": "journal.append", "body": {"events": [event(new_id())]}},
    )
    wire.send_parts(good, good)
    assert wire.receive()["err"]["code"] == "malformed"
    assert wire.head() == before


def _frame_of(size: int) -> bytes:
    request = {"v": 1, "id": 9, "op": "journal.head", "body": {}, "padding": b""}
    padding = size - len(pack(request)) - 3  # a bin 32 header is 3 bytes longer than a bin 8's
    frame = pack({**request, "padding": bytes(padding)})
    assert len(frame) == size
    return frame


def test_a_frame_of_exactly_4_mib_is_served(wire: Wire) -> None:
    assert "ok" in wire.raw(_frame_of(FRAME_BYTES_MAX))


def test_a_frame_of_one_byte_more_is_too_large_and_says_both_sizes(wire: Wire) -> None:
    reply = wire.raw(_frame_of(FRAME_BYTES_MAX + 1))
    assert reply["id"] == 9
    assert reply["err"]["code"] == "too_large"
    assert reply["err"]["detail"] == {"limit": FRAME_BYTES_MAX, "actual": FRAME_BYTES_MAX + 1}
    assert "seq" in wire.ok("journal.head")


def test_garbage_over_the_limit_is_too_large(wire: Wire) -> None:
    reply = wire.raw(b"\xc1" * (FRAME_BYTES_MAX + 1))
    assert reply["id"] is None
    assert reply["err"]["code"] == "too_large"


def test_a_frame_far_over_the_limit_closes_only_the_connection_that_sent_it(
    shared_house: House, wire: Wire
) -> None:
    with Wire(shared_house.endpoint) as hostile:
        monitor = hostile.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        hostile.send_frame(bytes(3 * FRAME_BYTES_MAX))
        assert monitor.poll(30_000)
        hostile.socket.disable_monitor()
        monitor.close()
    assert "seq" in wire.ok("journal.head")


def test_a_large_append_that_fits_a_frame_is_stored(wire: Wire) -> None:
    session = new_id()
    big = {"text": "x" * (FRAME_BYTES_MAX // 16 - 1000)}
    results = wire.append(*[event(session, payload=big) for _ in range(16)])
    assert [r["session_seq"] for r in results] == list(range(1, 17))


def test_many_requests_in_flight_get_one_reply_each(wire: Wire) -> None:
    session = new_id()
    expected = {
        wire.send(*request)
        for _ in range(100)
        for request in (
            ("journal.append", {"events": [event(session)]}),
            ("journal.read", {"session_id": session, "limit": 1}),
            ("journal.head", {}),
            ("no.such", {}),
        )
    }
    answered = [wire.receive()["id"] for _ in range(len(expected))]
    assert len(answered) == len(set(answered))
    assert set(answered) == expected
    wire.quiet()


def test_every_error_has_a_code_a_message_and_whether_to_retry(wire: Wire) -> None:
    bad = event(new_id(), kind="no kind")
    for error in (
        wire.err("no.such"),
        wire.err("journal.head", v=3),
        wire.err("journal.append", {"events": [bad]}),
        wire.err("journal.unsubscribe", {"sub": 12345}),
        wire.err("journal.append", {"events": [event(new_id())] * (APPEND_EVENTS_MAX + 1)}),
    ):
        assert isinstance(error["code"], str)
        assert isinstance(error["message"], str)
        assert error["message"]
        assert error["retryable"] is False
        assert set(error) <= {
            "code", "message", "retryable", "field", "hint", "retry_after_ms", "detail",
        }  # fmt: skip


def test_a_traceparent_that_looks_like_a_secret_is_refused(wire: Wire) -> None:
    for secret in ("Bearer abcdefghijklmnop1234", "sk-live-12345678901234567890"):
        error = wire.err("journal.append", {"events": [event(new_id())]}, traceparent=secret)
        assert (error["code"], error["field"]) == ("invalid", "traceparent")


@pytest.mark.parametrize("key", [1, b"a", None])
@pytest.mark.parametrize(
    ("op", "field", "fits"),
    [
        ("canvas.create", "state", {"canvas_id": ..., "session_id": ...}),
        ("cron.create", "payload", {"name": "a", "schedule": {"every_ms": 1000}}),
        (
            "approval.request", "prompt",
            {
                "approval_id": ..., "session_id": ..., "subject_type": "a", "subject_id": "b",
                "summary": "c",
            },
        ),
    ],
)  # fmt: skip
def test_a_value_that_breaks_the_rules_is_refused_also_where_its_request_has_an_id(
    wire: Wire, op: str, field: str, fits: dict[str, Any], key: Any
) -> None:
    body = {name: new_id() if it is ... else it for name, it in fits.items()}
    body |= {field: {"deep": {key: 1}}, "event_id": new_id()}
    assert wire.err(op, body)["code"] == "invalid"


def test_a_job_is_changed_by_a_request_with_an_id(wire: Wire) -> None:
    job = wire.ok("cron.create", {"name": "a", "schedule": {"every_ms": 3_600_000}})["job"]
    change = {"job_id": job["job_id"], "name": "b", "event_id": new_id()}
    assert wire.ok("cron.update", change)["job"]["name"] == "b"
    assert wire.ok("cron.update", change)["duplicate"]
    wrong = {**change, "job_id": "x", "event_id": new_id()}
    assert wire.err("cron.update", wrong)["code"] == "invalid_id"


def test_an_ipc_endpoint_that_is_served_is_not_taken_from_who_serves_there(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/door"
    with Engine.open(tmp_path / "a.db") as first, Engine.open(tmp_path / "b.db") as second:
        first.serve(endpoint)
        with pytest.raises(ConfigInvalid, match="somebody is served there"):
            second.serve(endpoint)
        with Wire(endpoint) as wire:
            wire.ok("journal.head")


def test_a_client_that_chose_its_routing_id_is_heard_again_before_its_old_connection_is_gone(
    shared_house: House,
) -> None:
    with Wire(shared_house.endpoint, ROUTING_ID=b"client-1") as before:
        before.ok("journal.head")
        with Wire(shared_house.endpoint, ROUTING_ID=b"client-1") as after:
            after.ok("journal.head")
