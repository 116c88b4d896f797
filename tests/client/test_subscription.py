"""The journal, live, over a client."""

import threading
from collections.abc import Callable, Iterator

import pytest

from palyra_actors.api.results import Head
from palyra_actors.api.subscription import Subscription
from palyra_actors.client import Client
from palyra_actors.errors import InternalFault, Invalid
from tests.client.fake_engine import DEADLINE_S, HEAD, FakeEngine, Request, stored


class Journal:
    """A scripted engine with a journal of `seqs` that honours credit."""

    def __init__(self) -> None:
        self.seqs = range(1, 1)
        self.credit = 0
        self.sent = 0
        self.subscribed: Request | None = None
        self.granted: list[int] = []

    def __call__(self, request: Request) -> list[bytes]:
        match request.op:
            case "journal.head":
                return [request.ok(**HEAD)]
            case "journal.subscribe":
                self.subscribed = request
                self.credit = request.body["credit"]
                self.sent = request.body["after_seq"]
                return self.due()
            case "journal.credit":
                assert self.subscribed is not None
                assert request.body["sub"] == self.subscribed.id
                self.credit += request.body["credit"]
                self.granted.append(request.body["credit"])
                return [request.ok(), *self.due()]
            case "journal.unsubscribe":
                assert self.subscribed is not None
                return [request.ok(), self.subscribed.ok()]
        raise AssertionError(request.op)

    def due(self) -> list[bytes]:
        assert self.subscribed is not None
        items = []
        for seq in self.seqs:
            if seq > self.sent and self.credit:
                items.append(self.subscribed.item(event=stored(seq)))
                self.sent = seq
                self.credit -= 1
        return items


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def engine(journal: Journal) -> Iterator[FakeEngine]:
    with FakeEngine(journal) as fake:
        yield fake


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Client]:
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as opened:
        yield opened


def take(subscription: Subscription, count: int) -> list[int]:
    seqs: list[int] = []
    for _ in range(count):
        event = subscription.next(DEADLINE_S)
        assert event is not None, f"only {seqs} came"
        seqs.append(event.seq)
    return seqs


def test_all_events_come_in_order_with_a_credit_much_smaller_than_the_journal(
    journal: Journal, client: Client
) -> None:
    journal.seqs = range(1, 501)
    with client.subscribe(after_seq=0, credit=8) as live:
        assert take(live, 500) == list(range(1, 501))
        assert live.restarts == 0
    assert sum(journal.granted) in range(492, 501)
    assert max(journal.granted) <= 8


@pytest.mark.parametrize("credit", [1, 2, 3])
def test_the_smallest_credits_do_not_stall(journal: Journal, client: Client, credit: int) -> None:
    journal.seqs = range(1, 21)
    with client.subscribe(after_seq=0, credit=credit) as live:
        assert take(live, 20) == list(range(1, 21))


def test_nothing_more_than_the_credit_is_held_for_a_slow_reader(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    journal.seqs = range(1, 101)
    with client.subscribe(after_seq=0, credit=10) as live:
        engine.wait_for("journal.subscribe")
        client.head()  # everything sent before this answer has arrived
        assert len(live._waiting) == 10
        assert journal.granted == []
        assert take(live, 100)[-1] == 100


def test_without_a_position_it_starts_at_the_head_of_that_moment(
    engine: FakeEngine, client: Client
) -> None:
    with client.subscribe(session_id="s", kinds=["x.a"]) as live:
        assert live.last_seq == 7
        body = engine.wait_for("journal.subscribe")[0].body
    assert body == {"session_id": "s", "kinds": ["x.a"], "after_seq": 7, "credit": 256}


def test_after_a_lost_connection_it_goes_on_without_gap_or_repeat(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    journal.seqs = range(1, 41)
    with client.subscribe(after_seq=0, credit=16) as live:
        seqs = take(live, 5)
        for _ in range(3):
            engine.stop()
            engine.start()
            seqs += take(live, 10)
        assert seqs == list(range(1, 36))
        assert live.restarts >= 1


def test_a_connection_lost_before_the_first_event_costs_none(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    with client.subscribe() as live:
        engine.wait_for("journal.subscribe")
        engine.stop()
        journal.seqs = range(1, 11)
        engine.start()
        assert take(live, 3) == [8, 9, 10]


def test_repeated_and_older_events_are_not_handed_out_twice(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    with client.subscribe(after_seq=3, credit=100) as live:
        request = engine.wait_for("journal.subscribe")[0]
        for seq in (2, 4, 4, 3, 5):
            engine.push(request, request.item(event=stored(seq)))
        assert take(live, 2) == [4, 5]
        assert live.next(0.0) is None


def test_heads_are_known_and_are_no_events(engine: FakeEngine, client: Client) -> None:
    with client.subscribe(after_seq=7) as live:
        request = engine.wait_for("journal.subscribe")[0]
        heads: list[Head | None] = [live.head]
        engine.push(request, request.item(head={"seq": 9, "hash": b"h"}))
        engine.push(request, request.item(event=stored(8), newer=1))
        assert take(live, 1) == [8]
        heads.append(live.head)
        assert heads == [None, Head(9, b"h")]
        assert live.last_seq == 8


def test_an_overrun_of_the_credit_is_not_held_and_nothing_is_missed(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    journal.seqs = range(1, 21)
    with client.subscribe(after_seq=0, credit=4) as live:
        request = engine.wait_for("journal.subscribe")[0]
        engine.push(request, *(request.item(event=stored(seq)) for seq in range(5, 15)))
        engine.wait_for("journal.unsubscribe")
        assert len(live._waiting) == 4
        assert take(live, 20) == list(range(1, 21))
        assert live.restarts == 1


def test_a_silent_stream_is_opened_anew(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    journal.seqs = range(1, 4)
    live = Subscription(client._calls, after_seq=0, silence_s=0.02)
    with live:
        assert take(live, 3) == [1, 2, 3]
        journal.seqs = range(1, 5)
        assert take(live, 1) == [4]
        assert live.restarts >= 1
    assert engine.wait_for("journal.unsubscribe")


def test_a_refused_subscription_raises_the_engines_error(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [request.err("invalid", field="kinds")]
    with client.subscribe(after_seq=0, kinds=["?"]) as live:
        for _ in range(2):
            with pytest.raises(Invalid) as caught:
                live.next(DEADLINE_S)
            assert caught.value.field == "kinds"


def test_a_stream_ended_for_now_is_opened_again(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    refusals: Iterator[Callable[[Request], bytes]] = iter(
        [
            lambda request: request.err("unavailable", retryable=True, retry_after_ms=1),
            lambda request: request.err("overloaded", retryable=True, retry_after_ms=1),
            lambda request: request.ok(),
        ]
    )

    def script(request: Request) -> list[bytes]:
        refuse = next(refusals, None) if request.op == "journal.subscribe" else None
        return journal(request) if refuse is None else [refuse(request)]

    engine.script = script
    journal.seqs = range(1, 4)
    with client.subscribe(after_seq=0) as live:
        assert take(live, 3) == [1, 2, 3]
        assert live.restarts == 3


def test_an_event_that_cannot_be_read_ends_it_with_an_internal_fault(
    engine: FakeEngine, client: Client
) -> None:
    with client.subscribe(after_seq=0) as live:
        request = engine.wait_for("journal.subscribe")[0]
        engine.push(request, request.item(event={"seq": 1}))
        with pytest.raises(InternalFault):
            live.next(DEADLINE_S)
    engine.wait_for("journal.unsubscribe")


@pytest.mark.parametrize("what", ["subscription", "client"])
def test_closing_wakes_who_iterates(engine: FakeEngine, client: Client, what: str) -> None:
    live = client.subscribe(after_seq=7)
    seen: list[object] = []
    reading = threading.Thread(target=lambda: seen.extend([*live, "end"]))
    reading.start()
    engine.wait_for("journal.subscribe")
    (live if what == "subscription" else client).close()
    reading.join(DEADLINE_S)
    assert seen == ["end"]
    live.close()
    assert live.next(0.0) is None


def test_closing_unsubscribes_once(engine: FakeEngine, client: Client) -> None:
    live = client.subscribe(after_seq=7)
    subscribe = engine.wait_for("journal.subscribe")[0]
    live.close()
    live.close()
    client.head()
    asked = engine.wait_for("journal.unsubscribe")
    assert [request.body for request in asked] == [{"sub": subscribe.id}]
    assert client._calls._streams == {}


def test_a_subscription_of_a_closed_client_ends(client: Client) -> None:
    live = client.subscribe(after_seq=7)
    assert live._source is not None
    live._on_lost(live._source)
    client.close()
    assert live.next(DEADLINE_S) is None


def test_events_that_arrived_before_the_loss_are_still_handed_out(
    journal: Journal, engine: FakeEngine, client: Client
) -> None:
    journal.seqs = range(1, 4)
    with client.subscribe(after_seq=0) as live:
        engine.wait_for("journal.subscribe")
        client.head()
        engine.stop()
        assert take(live, 3) == [1, 2, 3]
        engine.start()
