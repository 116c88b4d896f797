"""Calls through a client, against a scripted engine."""

import itertools
import threading
from collections.abc import Iterator

import msgpack
import pytest

from palyra_actors.api.calls import REFUSED_S_MAX, Call, Calls
from palyra_actors.api.events import Event, new_id
from palyra_actors.client import Client
from palyra_actors.errors import (
    Conflict,
    InternalFault,
    Invalid,
    NoReply,
    Overloaded,
    StorageUnavailable,
    TooLarge,
)
from palyra_actors.ids import parse_ulid, ulid_time_ms
from tests.client.fake_engine import DEADLINE_S, HEAD, FakeEngine, Request, pack, stored

SESSION = "01J00000000000000000000000"


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(lambda request: [request.ok(**HEAD)]) as fake:
        yield fake


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Client]:
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as opened:
        yield opened


def test_replies_in_any_order_reach_the_thread_that_asked(
    engine: FakeEngine, client: Client
) -> None:
    held: list[Request] = []

    def script(request: Request) -> list[bytes]:
        held.append(request)
        if len(held) < 8:
            return []
        return [each.ok(seq=each.body["mark"], hash=b"") for each in reversed(held)]

    engine.script = script
    answers: dict[int, int] = {}

    def ask(mark: int) -> None:
        answers[mark] = client.call("journal.head", {"mark": mark})["seq"]

    threads = [threading.Thread(target=ask, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert answers == {mark: mark for mark in range(8)}


def test_unknown_keys_of_a_newer_engine_are_ignored(engine: FakeEngine, client: Client) -> None:
    engine.script = lambda request: [
        pack({"new": [1], "v": 1, "id": request.id, "ok": {**HEAD, "newer": {"x": 1}}, "z": 2})
    ]
    assert client.head().seq == 7


def test_garbage_and_strangers_replies_are_counted_and_the_real_one_still_arrives(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [
        b"\xc1garbage",
        b"",
        pack({"v": 1, "id": 10**9, "ok": {}}),
        pack({"v": 1, "id": None, "err": {"code": "malformed", "message": "?"}}),
        pack({"v": 1, "id": request.id, "item": {"event": 1}}),
        request.ok(**HEAD),
        request.ok(**HEAD),
    ]
    assert client.head().seq == 7
    engine.script = lambda request: [request.ok(status="ready", reasons=[])]
    assert client.health().status == "ready"
    statistics = client.statistics()
    assert statistics.garbage == 2
    assert statistics.unmatched == 4
    assert statistics.in_flight == statistics.in_flight_bytes == 0


def test_an_error_reply_is_raised_as_its_type_with_all_its_fields(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [
        request.err("conflict", field="expected_session_seq", hint="h", detail={"actual": 12})
    ]
    with pytest.raises(Conflict) as caught:
        client.append(Event(SESSION, "x.a", {}), expected_session_seq=3)
    assert (caught.value.field, caught.value.hint) == ("expected_session_seq", "h")
    assert caught.value.detail == {"actual": 12}


def test_a_reply_that_lacks_what_the_contract_promises_is_an_internal_fault(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [request.ok(seq=1)]
    with pytest.raises(InternalFault):
        client.head()


def test_a_reply_whose_body_is_garbage_is_an_internal_fault(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [b"\x83\xa1v\x01\xa2id" + pack(request.id) + b"\xa2ok\xc1"]
    with pytest.raises(InternalFault) as caught:
        client.head()
    assert caught.value.outcome == "unknown"


def test_an_overloaded_engine_is_asked_again_with_the_same_request(
    engine: FakeEngine, client: Client
) -> None:
    refusals = iter(range(3))

    def script(request: Request) -> list[bytes]:
        if next(refusals, None) is not None:
            return [request.err("overloaded", retryable=True, retry_after_ms=1)]
        return [request.appended()]

    engine.script = script
    event = Event(SESSION, "x.a", {"a": 1})
    result = client.append(event, budget_ms=5)
    assert result.results[0].event_id == event.event_id
    frames = {request.frame for request in engine.wait_for("journal.append", 4)}
    assert len(frames) == 1


def test_an_engine_that_stays_overloaded_is_reported_when_the_next_try_would_be_too_late(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [
        request.err("overloaded", retryable=True, retry_after_ms=60_000)
    ]
    with pytest.raises(Overloaded) as caught:
        client.append(Event(SESSION, "x.a", {}))
    assert caught.value.retry_after_ms == 60_000
    assert caught.value.outcome == "none"
    assert len(engine.requests) == 1


def test_without_retry_an_overloaded_engine_is_reported_at_once(engine: FakeEngine) -> None:
    engine.script = lambda request: [request.err("overloaded", retryable=True, retry_after_ms=1)]
    with Client(engine.endpoint, retry=False) as client, pytest.raises(Overloaded):
        client.append(Event(SESSION, "x.a", {}))
    assert len(engine.requests) == 1


def test_a_fault_of_the_engine_is_tried_three_times_and_then_raised(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [
        request.err("internal", retryable=True, retry_after_ms=1, detail={"outcome": "unknown"})
    ]
    with pytest.raises(InternalFault) as caught:
        client.append(Event(SESSION, "x.a", {}))
    assert caught.value.outcome == "unknown"
    assert len(engine.requests) == 3


def test_a_request_that_is_not_answered_is_sent_again_with_the_same_ids(
    engine: FakeEngine,
) -> None:
    drops = iter(range(2))
    engine.script = lambda request: (
        [] if next(drops, None) is not None else [request.appended(duplicate=True)]
    )
    with Client(engine.endpoint, timeout_s=DEADLINE_S, silence_s=0.02) as client:
        assert client.append(Event(SESSION, "x.a", {})).results[0].duplicate
        assert client.statistics().sent_again >= 2
    assert len({request.frame for request in engine.requests}) == 1


def test_a_deadline_without_an_answer_is_no_reply_and_names_the_ids_to_send_again(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: []
    event = Event(SESSION, "x.a", {})
    with pytest.raises(NoReply) as caught:
        client.append(event, timeout_s=0.3)
    assert caught.value.outcome == "unknown"
    assert caught.value.detail["event_ids"] == [event.event_id]
    assert caught.value.detail["op"] == "journal.append"
    assert client.statistics().in_flight == 0


def test_a_refusal_is_not_certain_while_another_attempt_is_unanswered(
    engine: FakeEngine,
) -> None:
    numbers = itertools.count(1)

    def script(request: Request) -> list[bytes]:
        if next(numbers) == 1:
            return []
        return [request.err("overloaded", retryable=True, retry_after_ms=60_000)]

    engine.script = script
    with (
        Client(engine.endpoint, timeout_s=DEADLINE_S, silence_s=0.02) as client,
        pytest.raises(Overloaded) as caught,
    ):
        client.append(Event(SESSION, "x.a", {}))
    assert caught.value.outcome == "unknown"


def test_a_late_reply_to_a_call_that_gave_up_hurts_nobody(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: []
    with pytest.raises(NoReply):
        client.head(timeout_s=0.2)
    late = engine.wait_for("journal.head")[0]
    engine.script = lambda request: [late.ok(**HEAD), request.ok(seq=8, hash=b"")]
    assert client.head().seq == 8


def test_a_write_without_an_event_id_is_given_one_and_a_read_is_not(
    engine: FakeEngine, client: Client
) -> None:
    client.call("canvas.patch", {"canvas_id": "c"})
    client.call("session.get", {"session_id": "s"})
    mine = new_id()
    client.call("session.archive", {"session_id": "s", "event_id": mine})
    patch, get, archive = (request.body for request in engine.requests)
    assert len(patch["event_id"]) == 26
    assert "event_id" not in get
    assert archive["event_id"] == mine


def test_an_event_may_be_a_map_and_its_ids_anything_that_prints_as_one(
    engine: FakeEngine, client: Client
) -> None:
    class Id:
        def __str__(self) -> str:
            return SESSION

    engine.script = lambda request: [request.appended()]
    client.append({"session_id": Id(), "kind": "x.a", "actor": "agent", "payload": {}})
    client.append([Event(Id(), "x.a", {}, run_id=Id()), Event(Id(), "x.b", {}, ts_ms=5)])
    first, second = (request.body["events"] for request in engine.requests)
    assert first[0]["session_id"] == SESSION
    assert first[0]["ts_ms"] > 0
    assert len(first[0]["event_id"]) == 26
    assert second[0]["run_id"] == SESSION
    assert second[1]["ts_ms"] == 5
    assert second[0]["event_id"] < second[1]["event_id"]


def test_an_event_of_a_known_id_is_the_same_one_when_it_is_sent_again(
    engine: FakeEngine, client: Client
) -> None:
    """Also by who leaves the time out: it is part of the content."""
    engine.script = lambda request: [request.appended()]
    made = new_id()
    for event_id in (made, made, "no ULID at all"):
        client.append(
            {"event_id": event_id, "session_id": SESSION, "kind": "x.a", "actor": "agent",
             "payload": {}}
        )  # fmt: skip
    first, again, odd = (request.body["events"][0] for request in engine.requests)
    assert first == again
    assert first["ts_ms"] == ulid_time_ms(parse_ulid(made))
    assert odd["ts_ms"] >= first["ts_ms"]


def test_an_event_that_cannot_be_sent_is_invalid_and_named_and_nothing_is_sent(
    engine: FakeEngine, client: Client
) -> None:
    events = [Event(SESSION, "x.a", {}), Event(SESSION, "x.a", {"bad": object()})]
    with pytest.raises(Invalid) as caught:
        client.append(events)
    assert caught.value.field == "events[1].payload.bad"
    with pytest.raises(TooLarge):
        client.append(Event(SESSION, "x.a", {"big": bytes(5 * 1024 * 1024)}))
    assert client.head().seq == 7
    assert [request.op for request in engine.requests] == ["journal.head"]


def test_options_travel_in_the_envelope(engine: FakeEngine, client: Client) -> None:
    engine.script = lambda request: [request.appended()]
    client.sessions.open(SESSION).append(
        "x.a", {}, budget_ms=0, traceparent="00-a", principal="bob"
    )
    envelope = engine.requests[0].envelope
    assert (envelope["budget_ms"], envelope["traceparent"]) == (0, "00-a")
    assert envelope["principal"] == "bob"


def test_all_events_are_read_over_short_and_empty_pages(engine: FakeEngine, client: Client) -> None:
    pages = {0: ([1, 2], 2, False), 2: ([], 40, False), 40: ([41], 41, True)}

    def script(request: Request) -> list[bytes]:
        seqs, after, end = pages[request.body["after_seq"]]
        events = [stored(seq, newer="x") for seq in seqs]
        return [request.ok(events=events, next_after_seq=after, end=end)]

    engine.script = script
    events = list(client.sessions.open(SESSION).events(kinds=["x.a"], limit=2))
    assert [event.seq for event in events] == [1, 2, 41]
    assert engine.requests[0].body == {
        "after_seq": 0,
        "session_id": SESSION,
        "kinds": ["x.a"],
        "limit": 2,
    }


def test_every_engine_and_journal_operation_is_typed(engine: FakeEngine, client: Client) -> None:
    answers = {
        "engine.hello": {
            "engine": "palyra_actors",
            "version": "0",
            "protocol": 1,
            "principal": "local",
            "role": "admin",
            "limits": {"events": 1024},
            "head": HEAD,
        },
        "engine.stats": {"uptime_ms": 5, "appends": {"acked": 3}, "db_bytes": None, "x": 1},
        "journal.recent": {"events": [stored(1), stored(2)]},
        "journal.verify": {"valid": True, "checked": 9, "erased": 0, "head": HEAD},
    }
    engine.script = lambda request: [request.ok(**answers[request.op])]  # type: ignore[arg-type]
    hello = client.hello()
    assert (hello.role, hello.limits["events"], hello.head.seq) == ("admin", 1024, 7)
    stats = client.stats()
    assert (stats.uptime_ms, stats.appends["acked"], stats.db_bytes) == (5, 3, 0)
    assert stats.raw["x"] == 1
    assert [event.seq for event in client.recent(2)] == [1, 2]
    verification = client.verify(from_seq=1, to_seq=9, expect=hello.head)
    assert (verification.valid, verification.checked) == (True, 9)
    assert verification.first_bad_seq is None
    assert engine.requests[-1].body == {"from_seq": 1, "to_seq": 9, "expect": HEAD}


def test_requests_in_flight_are_bounded_and_a_caller_without_room_is_told(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: []
    client._calls._in_flight_max = 2
    calls = [
        client._calls.start("journal.head", msgpack.packb({}), timeout_s=DEADLINE_S)
        for _ in range(2)
    ]
    with pytest.raises(Overloaded) as caught:
        client.head(timeout_s=0.05)
    assert caught.value.outcome == "none"
    engine.wait_for("journal.head", 2)
    for call in calls:
        client._calls.forget(call)
    engine.script = lambda request: [request.ok(**HEAD)]
    assert client.head().seq == 7


def test_closing_fails_whoever_waits_and_later_calls_and_is_idempotent(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: []
    client._calls.silence_s = None  # or a later attempt would notice, too
    failures: list[Exception] = []

    def ask() -> None:
        try:
            client.head(timeout_s=1e9)
        except NoReply as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    engine.wait_for("journal.head", 4)
    client.close()
    client.close()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(failures) == 4
    with pytest.raises(StorageUnavailable) as caught:
        client.head()
    assert caught.value.outcome == "none"


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://", "ftp://127.0.0.1:1", "tcp://[::1:x"])
def test_an_endpoint_zeromq_cannot_read_is_invalid(endpoint: str) -> None:
    with pytest.raises(Invalid) as caught:
        Client(endpoint)
    assert caught.value.field == "endpoint"


@pytest.mark.parametrize("timeout_s", [-1, float("nan")])
def test_a_timeout_that_is_no_time_is_invalid(client: Client, timeout_s: float) -> None:
    with pytest.raises(Invalid) as caught:
        client.head(timeout_s=timeout_s)
    assert caught.value.field == "timeout_s"


def test_a_key_that_is_refused_is_told_after_two_seconds_of_refusals_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Calls("an engine")
    now = 100.0
    monkeypatch.setattr(calls, "now", lambda: now)

    def is_told(call: Call) -> bool:
        return isinstance(call.failure, NoReply) and call.failure.field == "key_file"

    first = calls.start("journal.head", b"\x80", timeout_s=1_000)
    calls.refused("no such key")
    now += REFUSED_S_MAX - 0.1
    calls.refused("no such key")
    later = calls.start("journal.head", b"\x80", timeout_s=1_000)
    assert not is_told(first)
    calls.refused(None)  # the engine is starting again: nobody is there
    now += 0.2
    calls.refused("no such key")
    assert not is_told(first)
    now += REFUSED_S_MAX
    last = calls.start("journal.head", b"\x80", timeout_s=1_000)
    calls.refused("no such key")
    assert (is_told(first), is_told(later), is_told(last)) == (True, True, False)
    now += REFUSED_S_MAX
    calls.refused("no such key")
    assert is_told(last)
    calls.close()
