"""A request is answered once, whatever goes wrong in what follows it."""

from typing import Any

import msgpack
import pytest

from palyra_actors.actors.work import Errand, Request, Tally
from palyra_actors.errors import Conflict, PalyraError
from tests.actors.rig import Peer


def test_whose_follow_up_fails_is_told_that_the_outcome_is_unknown_and_its_writer_goes_on() -> None:
    peer, tally = Peer(), Tally()
    request = Request(peer, 7, 0.0, tally)

    def later(body: Any) -> None:
        raise ValueError(body)

    request.hold = later
    request.ok({"deleted": 1})
    (frame,) = peer.frames
    reply = msgpack.unpackb(frame)
    assert (reply["id"], reply["err"]["code"]) == (7, "internal")
    assert reply["err"]["detail"] == {"outcome": "unknown"}
    assert (tally.under_way, tally.unknown, tally.ok) == (0, 1, 0)


@pytest.mark.parametrize("answer", [{"a": 1}, Conflict("no")])
def test_an_errand_that_ends_badly_takes_nobody_along(
    answer: dict[str, Any] | PalyraError, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def done(body: Any) -> None:
        told.append(body)
        raise ValueError

    errand = Errand("local", 0.0, done)
    for _ in range(2):
        if isinstance(answer, PalyraError):
            errand.fail(answer)
        else:
            errand.ok(answer)
    assert told == [answer]
    assert "an errand went wrong" in caplog.text
