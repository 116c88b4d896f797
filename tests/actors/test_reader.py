"""A reader that fails goes on with a new connection, and whoever asked is told."""

from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.storage.journal import JournalReader
from tests.system.harness import House, event, house


@pytest.fixture
def own(tmp_path: Path) -> Any:
    with house(tmp_path) as opened:
        opened.connect().append(event(new_id()))
        yield opened


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(1)])
@pytest.mark.parametrize("op", ["journal.read", "journal.verify"])
def test_a_read_that_fails_is_answered_and_every_later_one_is_served(
    own: House, monkeypatch: pytest.MonkeyPatch, op: str, error: BaseException
) -> None:
    wire = own.connect()
    with monkeypatch.context() as patched:
        patched.setattr(JournalReader, "head", _failing(error))
        failed = [wire.err(op) for _ in range(4)]
    assert {e["code"] for e in failed} <= {"unavailable", "internal"}
    assert all(e["retryable"] for e in failed)
    for _ in range(4):
        assert "ok" in wire.call(op)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1)])
def test_a_stream_whose_page_cannot_be_read_ends_with_an_error(
    own: House, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    wire = own.connect()
    own.engine._works.feed._window_after = 10**9  # as if memory began later
    with monkeypatch.context() as patched:
        patched.setattr(JournalReader, "head", _failing(error))
        assert wire.err("journal.subscribe", {"credit": 5, "after_seq": 0})["retryable"] is True
    assert wire.ok("engine.stats")["subscriptions"] == 0
    assert len(wire.read()) == 1


@pytest.mark.parametrize(
    ("error", "said"), [(ValueError("walrus"), "ValueError"), (OSError(5, "disk"), "disk")]
)
def test_of_a_read_that_fails_the_words_of_the_file_are_told_and_no_others(
    own: House, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    wire = own.connect()
    with monkeypatch.context() as patched:
        patched.setattr(JournalReader, "head", _failing(error))
        answer = wire.err("journal.verify")
    health = wire.ok("engine.health")
    for told in (str(answer), str(health["reasons"])):
        assert said in told
        assert "walrus" not in told


def _failing(error: BaseException) -> Any:
    def fail(self: JournalReader) -> Any:
        raise error

    return fail
