"""When a refused request is sent again: the engine says how long, the caller until when."""

import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from palyra_actors.api.calls import BACKOFF_S_FIRST, BACKOFF_S_MAX, JITTER_MAX, Calls
from palyra_actors.errors import Overloaded, StorageUnavailable
from palyra_actors.testing.clock import ManualClock
from palyra_actors.wire import frames

BODY = frames.pack({}, "body")
Answer = Callable[[int], dict[str, object]]


class Patient(Calls):
    """Its time passes only while it pauses."""

    def __init__(self, clock: ManualClock, answer: Answer) -> None:
        super().__init__("a fake")
        self.clock = clock
        self.line = Line(self, answer)
        self.pauses: list[float] = []
        self.attach(self.line, up=True)

    def now(self) -> float:
        return self.clock.monotonic()

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.clock.turn(seconds * 1000)
        return super().pause(0)

    def ask(self, timeout_s: float) -> object:
        return self.start("journal.head", BODY, timeout_s=timeout_s).result()


class Line:
    """Answers each frame with `answer` of its number, 1, 2, 3 … at once."""

    def __init__(self, calls: Calls, answer: Answer) -> None:
        self._calls, self._answer = calls, answer
        self.sent: list[tuple[float, bytes]] = []

    def send(self, frame: bytes) -> None:
        self.sent.append((self._calls.now(), frame))
        reply = {"v": 1, "id": msgpack.unpackb(frame)["id"], **self._answer(len(self.sent))}
        self._calls.deliver(msgpack.packb(reply))

    def close(self) -> None:
        pass


def refusal(*, code: str = "overloaded", **fields: object) -> dict[str, object]:
    return {"err": {"code": code, "message": code, "retryable": True, **fields}}


def after(refusals: int, **fields: Any) -> Answer:
    return lambda number: refusal(**fields) if number <= refusals else {"ok": {"seq": 1}}


def test_it_waits_as_long_as_it_was_told_and_up_to_half_of_that_longer(clock: ManualClock) -> None:
    calls = Patient(clock, after(200, retry_after_ms=80))
    assert calls.ask(3600) == {"seq": 1}
    assert len(calls.pauses) == 200
    assert all(0.08 <= pause <= 0.08 * (1 + JITTER_MAX) for pause in calls.pauses)
    spread = max(calls.pauses) - min(calls.pauses)
    assert spread > 0.8 * 0.08 * JITTER_MAX, "those who were refused together would come together"
    assert len({frame for _, frame in calls.line.sent}) == 1, "the same request, with the same ids"


def test_where_nothing_is_said_it_waits_longer_each_time_up_to_a_bound(clock: ManualClock) -> None:
    calls = Patient(clock, after(12, code="unavailable", detail={"outcome": "none"}))
    calls.ask(3600)
    expected = [min(BACKOFF_S_FIRST * 2**number, BACKOFF_S_MAX) for number in range(12)]
    for pause, least in zip(calls.pauses, expected, strict=True):
        assert least <= pause <= least * (1 + JITTER_MAX)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_sent_after_the_callers_deadline(clock: ManualClock, seed: int) -> None:
    random.seed(seed)
    calls = Patient(clock, after(10**9, retry_after_ms=90))
    began = clock.monotonic()
    with pytest.raises(Overloaded) as refused:
        calls.ask(1.0)
    assert refused.value.retry_after_ms == 90
    assert refused.value.outcome == "none"
    sent = [moment - began for moment, _ in calls.line.sent]
    assert max(sent) < 1.0
    assert len(sent) >= 1.0 / (0.09 * (1 + JITTER_MAX))
    assert clock.monotonic() - began < 1.0, "a wait that would end too late is not begun"
    assert calls.statistics().in_flight == 0


def test_a_deadline_nearer_than_the_wait_raises_at_once(clock: ManualClock) -> None:
    calls = Patient(clock, after(1, retry_after_ms=500))
    with pytest.raises(Overloaded):
        calls.ask(0.5)
    assert calls.pauses == []


def test_a_client_that_is_closed_meanwhile_does_not_send_again(clock: ManualClock) -> None:
    calls = Patient(clock, after(1, retry_after_ms=10))
    calls.jittered = lambda seconds: calls.close() or seconds  # type: ignore[method-assign,func-returns-value]
    with pytest.raises((Overloaded, StorageUnavailable)):
        calls.ask(10)
    assert len(calls.line.sent) == 1
