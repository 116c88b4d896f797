"""Requests, units and portions without an engine around them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from palyra_actors.actors.work import Portion, Request, Tail, Unit
from palyra_actors.domain.catalog import SESSION
from palyra_actors.domain.session import Draft, Session, append, appended, changed_runs
from palyra_actors.wire.codec import RequestId

_numbers = itertools.count(1)


class Peer:
    """Keeps what it was sent."""

    principal = "local"
    role = "admin"

    def __init__(self) -> None:
        self.under_way = 0
        self.backlog_bytes = 0
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)


class NoEntity:
    """Where nobody is sent back."""

    def hand(self, message: Any) -> None:
        raise AssertionError("not expected")

    def rewind(self, portion: Portion) -> None:
        raise AssertionError("not expected")

    def failed(self, portion: Any, error: BaseException) -> None:
        raise error

    def go_on(self) -> None:
        raise AssertionError("not expected")

    def written(self, portion: Portion) -> None:
        raise AssertionError("not expected")

    def doubted(self, portion: Portion) -> None:
        raise AssertionError("not expected")

    def recall(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError("not expected")


def an_id() -> bytes:
    """A new id."""
    return next(_numbers).to_bytes(16, "big")


def draft(**changes: Any) -> Draft:
    made = Draft(an_id(), None, 1, 1, 1_700_000_000_000, b"\x81\xa1a\x01", False)
    return made._replace(**changes)


def request(tally: Any, request_id: RequestId = 1, **attributes: Any) -> Request:
    made = Request(Peer(), request_id, 0.0, tally)
    made.budget_ms = None
    made.traceparent = None
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Stream:
    """A session that decides and numbers as its actor would, one unit after the other."""

    def __init__(self, number: int, principal: str = "local") -> None:
        self.tail = Tail(number, SESSION, an_id(), principal)
        self.state = Session()


def unit(made: Request, shares: Sequence[tuple[Stream, Sequence[tuple[int, Draft]]]]) -> Unit:
    """A decided unit: for each stream its drafts with their places in the request."""
    built = Unit(made, sum(len(rows) for _, rows in shares))
    for stream, rows in shares:
        command = append([d for _, d in rows])
        portion = Portion(
            built,
            NoEntity(),
            stream.tail.stream_id,
            command,
            [index for index, _ in rows],
            command.drafts,
        )
        after = appended(stream.state, command)
        portion.decided = True
        portion.first_seq = stream.state.last_seq + 1
        portion.before = stream.state
        portion.tail = stream.tail
        portion.runs = tuple(changed_runs(stream.state, after))
        stream.state = after
        built.portions.append(portion)
    return built
