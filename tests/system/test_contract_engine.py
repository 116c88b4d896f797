"""`engine.hello`, `engine.health` and `engine.stats`."""

from typing import Any

from palyra_actors import __version__
from palyra_actors.api.events import new_id
from tests.system.harness import NO_BUDGET, House, Wire, event, eventually, house


def test_hello_says_who_answers_what_it_can_and_where_it_stands(wire: Wire) -> None:
    wire.append(event(new_id()))
    hello = wire.ok("engine.hello")
    assert set(hello) == {
        "engine", "version", "protocol", "principal", "role", "limits", "head",
    }  # fmt: skip
    assert hello["version"] == __version__
    assert hello["protocol"] == 1
    assert (hello["head"]["seq"], hello["head"]["hash"]) == wire.head()
    assert all(isinstance(limit, int) for limit in hello["limits"].values())


def test_hello_names_the_limits_of_the_contract(wire: Wire) -> None:
    limits = wire.ok("engine.hello")["limits"]
    assert {4 * 1024 * 1024, 256 * 1024, 1024, 1000, 100, 10_000, 64} <= set(limits.values())


def test_an_engine_that_can_write_is_ready(wire: Wire) -> None:
    assert wire.ok("engine.health") == {"status": "ready", "reasons": []}


def test_an_engine_that_may_lose_acknowledged_events_says_so(tmp_path: Any) -> None:
    with house(tmp_path, NO_BUDGET.replaced("storage", synchronous="normal")) as opened:
        health = opened.connect().ok("engine.health")
    assert health["status"] == "degraded"
    assert "normal" in health["reasons"][0]


STATS: dict[str, Any] = {
    "uptime_ms": int,
    "budget_ms": int,
    "appends": {"acked": int, "overloaded": int, "late": int},
    "latency_ms": {"p50": float, "p99": float, "max": float},
    "batch": {"mean": float, "max": int},
    "actors": {"resident": int, "activated": int, "passivated": int, "restarted": int},
    "threads": int,
    "queue_depth": int,
    "db_bytes": int,
    "wal_bytes": int,
}


def _assert_shape(shape: dict[str, Any], value: dict[str, Any]) -> None:
    for key, kind in shape.items():
        if isinstance(kind, dict):
            _assert_shape(kind, value[key])
        else:
            assert type(value[key]) is kind, key


def test_stats_have_every_field_of_the_contract_before_and_after_the_first_write(
    own: House,
) -> None:
    wire = own.connect()
    _assert_shape(STATS, wire.ok("engine.stats"))
    wire.append(event(new_id()), event(new_id()))
    stats = wire.ok("engine.stats")
    _assert_shape(STATS, stats)
    assert stats["db_bytes"] > 0
    assert stats["wal_bytes"] > 0


def test_stats_count_what_happened(own: House) -> None:
    wire = own.connect()
    first = wire.ok("engine.stats")
    session = new_id()
    for _ in range(5):
        wire.append(event(session), event(new_id()))
    wire.refuse(event("no id"))
    stats = wire.ok("engine.stats")
    assert stats["appends"]["acked"] == 5
    assert stats["appends"]["overloaded"] == 0
    assert stats["batch"]["max"] == 2
    assert stats["batch"]["mean"] == 2.0
    assert stats["actors"]["activated"] == 6
    assert stats["actors"]["resident"] == 6
    assert stats["queue_depth"] == 0
    assert stats["uptime_ms"] >= first["uptime_ms"]
    assert 0 < stats["latency_ms"]["p50"] <= stats["latency_ms"]["p99"]
    assert stats["latency_ms"]["p99"] <= stats["latency_ms"]["max"] * 1.01


def test_a_write_that_is_answered_again_is_acknowledged_again(own: House) -> None:
    wire, made = own.connect(), event(new_id())
    for _ in range(3):
        wire.append(made)
    wire.ok("session.resolve", {"session_key": "k"})
    wire.read()
    stats = wire.ok("engine.stats")
    assert stats["appends"] == {"acked": 4, "overloaded": 0, "late": 0}
    assert stats["events"] == stats["groups"] == 2


def test_the_busiest_sessions_are_named_busiest_first(own: House) -> None:
    wire, sessions = own.connect(), [new_id() for _ in range(12)]
    for number, session in enumerate(sessions, 1):
        wire.append(*[event(session) for _ in range(number)])
    busiest = wire.ok("engine.stats")["busiest"]
    assert [(one["session_id"], one["events"]) for one in busiest] == [
        (session, number) for number, session in reversed(list(enumerate(sessions, 1)))
    ][:10]


def test_a_thousand_sessions_cost_no_thread(own: House) -> None:
    wire = own.connect()
    wire.append(event(new_id()))
    before = wire.ok("engine.stats")["threads"]
    wire.append(*[event(new_id()) for _ in range(1000)])
    stats = wire.ok("engine.stats")
    assert stats["actors"]["resident"] == 1001
    assert stats["threads"] <= before, "some of an engine before may end meanwhile"


def test_received_equals_answered_at_rest_whatever_was_sent(own: House) -> None:
    wire = own.connect()
    session = new_id()
    frames = [b"", b"\xc1", b"\x80", b"\x81\xa1v\x02", b"junk"]
    for frame in frames:
        wire.raw(frame)
    wire.send_parts(b"a", b"b")
    wire.receive()
    for _ in range(3):
        wire.append(event(session))
        wire.refuse(event("no id"))
        wire.read(session_id=session)
        wire.err("journal.read", {"session_id": new_id()})
        wire.err("no.such")
    sub = wire.send("journal.subscribe", {"credit": 1})
    wire.send("journal.unsubscribe", {"sub": sub})
    assert {wire.receive()["id"] for _ in range(2)} == {sub, sub + 1}
    _assert_balanced(wire)


def _assert_balanced(wire: Wire) -> None:
    """`received = ok + refused + unknown + closed`, but for the request that asks."""

    def balanced(stats: dict[str, Any]) -> bool:
        requests = stats["requests"]
        ended = sum(requests[key] for key in ("ok", "refused", "unknown", "closed"))
        return bool(requests["received"] - ended == 1)

    eventually(wire, balanced)


def test_requests_and_streams_of_peers_that_vanished_are_accounted_for(own: House) -> None:
    wire = own.connect()
    for _ in range(20):
        with Wire(own.endpoint) as passing:
            passing.send("journal.subscribe", {"credit": 100, "after_seq": 0})
            passing.send("journal.append", {"events": [event(new_id())]})
            passing.receive()
    wire.append(event(new_id()))
    eventually(wire, lambda stats: stats["subscriptions"] == 0)
    _assert_balanced(wire)


def test_connections_that_are_closed_are_not_counted(own: House) -> None:
    """libzmq does not tell that somebody left: nothing is sent to these, and they send nothing."""
    wire = own.connect()
    before = wire.ok("engine.stats")["peers"]
    for _ in range(3):
        guest = own.connect()
        guest.ok("journal.head")
        guest.close()
    staying = own.connect()
    staying.ok("journal.head")
    eventually(wire, lambda stats: bool(stats["peers"] == before + 1))
    assert staying.ok("journal.head")["seq"] == 0


def test_the_engine_stops_at_once_where_a_subscriber_vanished(tmp_path: Any) -> None:
    with house(tmp_path) as opened:
        wire = opened.connect()
        with Wire(opened.endpoint) as passing:
            sub = passing.send("journal.subscribe", {"credit": 100, "after_seq": 0})
            wire.append(event(new_id()))
            passing.items_until(bool, sub)
        wire.append(event(new_id()))
        opened.engine.close()
        assert opened.engine._works.tally.under_way == 0


def test_a_stopping_engine_ends_streams_and_refuses_what_is_new(own: House) -> None:
    wire = own.connect()
    sub = wire.send("journal.subscribe", {"credit": 100})
    wire.ok("journal.head")
    own.engine.close()
    reply = wire.receive()
    assert reply["id"] == sub
    assert reply["err"]["code"] == "unavailable"
    assert reply["err"]["retryable"] is True
    assert reply["err"]["detail"]["outcome"] == "none"
