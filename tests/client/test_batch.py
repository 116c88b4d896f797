"""Many events in few requests."""

import itertools
from collections.abc import Iterator

import pytest

from palyra_actors.api.events import Event
from palyra_actors.client import Client
from palyra_actors.errors import Conflict, IdReused, Invalid, TooLarge
from palyra_actors.limits import FRAME_BYTES_MAX
from tests.client.fake_engine import DEADLINE_S, FakeEngine, Request

SESSION = "01J00000000000000000000000"


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    seqs = itertools.count(0)

    def script(request: Request) -> list[bytes]:
        first = next(seqs)
        for _ in request.body["events"][1:]:
            next(seqs)
        return [request.appended(first_seq=first + 1)]

    with FakeEngine(script) as fake:
        yield fake


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Client]:
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as opened:
        yield opened


def events(count: int, size: int = 1) -> Iterator[Event]:
    for number in range(count):
        yield Event(SESSION, "x.a", {"n": number, "pad": "x" * size})


def numbers(request: Request) -> list[int]:
    return [event["payload"]["n"] for event in request.body["events"]]


def test_all_events_are_sent_in_order_in_requests_of_the_size_asked_for(
    engine: FakeEngine, client: Client
) -> None:
    summary = client.append_many(events(1000), events_max=300)
    assert [len(numbers(request)) for request in engine.requests] == [300, 300, 300, 100]
    assert [n for request in engine.requests for n in numbers(request)] == list(range(1000))
    assert (summary.requests, summary.events, summary.new) == (4, 1000, 1000)
    assert (summary.duplicates, summary.redacted, summary.last_seq) == (0, 0, 1000)
    assert {request.envelope["budget_ms"] for request in engine.requests} == {0}


def test_a_request_stays_below_its_bytes_and_the_frames_limit(
    engine: FakeEngine, client: Client
) -> None:
    client.append_many(events(50, size=200_000), bytes_max=FRAME_BYTES_MAX - 1024)
    assert max(len(request.frame) for request in engine.requests) <= FRAME_BYTES_MAX
    assert len(engine.requests) == 3
    engine.requests.clear()
    client.append_many(events(10, size=5_000), bytes_max=1)
    assert [len(numbers(request)) for request in engine.requests] == [1] * 10


def test_no_more_requests_than_the_window_are_in_flight(engine: FakeEngine, client: Client) -> None:
    held: list[Request] = []
    most = 0

    def script(request: Request) -> list[bytes]:
        nonlocal most
        held.append(request)
        most = max(most, len(held))
        # it answers only when the window is full, or the end has come
        if len(held) == 3 or 29 in numbers(request):
            replies = [each.appended() for each in reversed(held)]
            held.clear()
            return replies
        return []

    engine.script = script
    assert client.append_many(events(30), events_max=2, in_flight=3).events == 30
    assert most == 3


def test_results_are_handed_out_in_the_order_of_the_events(client: Client) -> None:
    seqs: list[int] = []
    client.append_many(
        events(100),
        events_max=7,
        on_result=lambda result: seqs.extend(each.seq for each in result.results),
    )
    assert seqs == list(range(1, 101))


def test_what_was_there_already_and_what_was_redacted_is_counted(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [request.appended(duplicate=True, redacted=True)]
    summary = client.append_many(events(10))
    assert (summary.duplicates, summary.redacted, summary.new) == (10, 10, 0)


def test_a_refused_request_says_which_events_were_in_it_and_stops_the_batch(
    engine: FakeEngine, client: Client
) -> None:
    engine.script = lambda request: [
        request.err("id_reused", field="events[1].event_id")
        if 5 in numbers(request)
        else request.appended()
    ]
    batch = client.batch(events_max=4, in_flight=1)

    def add_all() -> None:
        with batch:
            for event in events(100):
                batch.add(event)

    with pytest.raises(IdReused) as caught:
        add_all()
    assert (caught.value.detail["first_event"], caught.value.detail["events"]) == (4, 4)
    assert caught.value.field == "events[1].event_id"
    assert batch.summary.events == 4
    assert len(engine.requests) == 2
    assert client.statistics().in_flight == 0


def test_an_exception_inside_sends_nothing_more_and_frees_its_room(
    engine: FakeEngine, client: Client
) -> None:
    class Stop(Exception):
        pass

    def add_some() -> None:
        with client.batch(events_max=2) as batch:
            for event in events(3):
                batch.add(event)
            raise Stop

    assert client.append_many(events(1)).events == 1
    with pytest.raises(Stop):
        add_some()
    assert client.statistics().in_flight == 0
    assert client.append_many(events(1)).events == 1
    assert [numbers(request) for request in engine.requests] == [[0], [0, 1], [0]]


def test_nothing_added_sends_nothing(engine: FakeEngine, client: Client) -> None:
    assert client.append_many([]).last_seq == 0
    assert engine.requests == []


def test_an_event_that_cannot_be_sent_is_named_by_its_place(client: Client) -> None:
    bad = [*events(3), Event(SESSION, "x.a", {"bad": object()})]
    with pytest.raises(Invalid) as caught:
        client.append_many(bad)
    assert caught.value.field == "events[3].payload.bad"
    with pytest.raises(TooLarge) as large:
        client.append_many(events(1, size=FRAME_BYTES_MAX))
    assert (large.value.detail["first_event"], large.value.detail["events"]) == (0, 1)


@pytest.mark.parametrize(
    "options", [{"events_max": 0}, {"events_max": 1025}, {"bytes_max": 2**22}, {"in_flight": 0}]
)
def test_limits_out_of_range_are_invalid(client: Client, options: dict[str, int]) -> None:
    with pytest.raises(Invalid) as caught:
        client.batch(**options)  # type: ignore[arg-type]
    assert caught.value.field == next(iter(options))


def refused(request: Request, retry_after_ms: int) -> bytes:
    return request.err("overloaded", retryable=True, retry_after_ms=retry_after_ms)


def test_what_is_refused_is_sent_again_while_an_older_one_is_not_answered() -> None:
    """The older one is answered only once that has happened."""
    came: list[Request] = []

    def script(request: Request) -> list[bytes]:
        came.append(request)
        match [numbers(one)[0] for one in came]:
            case [0]:
                return []
            case [0, 1]:
                return [refused(request, 1)]
            case _:
                return [came[0].appended(), request.appended(first_seq=2)]

    with FakeEngine(script) as fake, Client(fake.endpoint, timeout_s=DEADLINE_S) as client:
        summary = client.append_many(events(2), events_max=1, in_flight=3)
    assert [numbers(request) for request in came] == [[0], [1], [1]]
    assert summary.events == 2


def test_each_of_many_refused_ones_comes_again_in_its_own_time() -> None:
    """And not when those before it are through."""
    came: list[Request] = []

    def script(request: Request) -> list[bytes]:
        came.append(request)
        if len(came) > 4:
            return [request.appended(first_seq=len(came))]
        return [refused(request, 400 if numbers(request) == [0] else 1)]

    with FakeEngine(script) as fake, Client(fake.endpoint, timeout_s=DEADLINE_S) as client:
        summary = client.append_many(events(4), events_max=1, in_flight=4)
    first, again = came[:4], came[4:]
    assert [numbers(request) for request in first] == [[0], [1], [2], [3]]
    assert numbers(again[-1]) == [0]
    assert sorted(numbers(request)[0] for request in again) == [0, 1, 2, 3]
    assert {r.id for r in first} == {r.id for r in again}
    assert summary.events == 4
    assert (client.statistics().in_flight, client.statistics().sent_again) == (0, 4)


def test_a_refusal_that_another_try_would_not_help_is_raised_in_its_turn() -> None:
    came: list[Request] = []

    def script(request: Request) -> list[bytes]:
        came.append(request)
        if len(came) < 3:
            return []
        return [came[0].appended(), came[1].err("conflict"), request.appended(first_seq=3)]

    with FakeEngine(script) as fake, Client(fake.endpoint, timeout_s=DEADLINE_S) as client:
        batch = client.batch(events_max=1, in_flight=3)
        for one in events(3):
            batch.add(one)
        with pytest.raises(Conflict) as caught:
            batch.flush()
    assert (caught.value.detail["first_event"], batch.summary.events) == (1, 1)
