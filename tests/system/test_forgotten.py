"""What is destroyed is not told from memory either: by the last events, or to who catches up."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from palyra_actors.api.events import new_id
from tests.system.harness import Wire, event, house

SAID = "the needle"


def an_erased_session(wire: Wire) -> None:
    session = new_id()
    wire.append(event(session, payload={"text": SAID}))
    wire.ok("canvas.create", {"canvas_id": new_id(), "session_id": session, "state": {"a": SAID}})
    wire.ok("session.erase", {"session_id": session})


def a_deleted_memory(wire: Wire) -> None:
    item = wire.ok("memory.ingest", {"source": "manual", "content": SAID})["item"]
    wire.ok("memory.delete", {"memory_id": item["memory_id"]})


def a_purged_channel(wire: Wire) -> None:
    wire.ok("memory.ingest", {"source": "manual", "content": SAID, "channel": "c"})
    wire.ok("memory.purge", {"channel": "c"})


@pytest.mark.parametrize("destroyed", [an_erased_session, a_deleted_memory, a_purged_channel])
def test_what_is_destroyed_is_told_from_nowhere_once_that_is_answered(
    tmp_path: Path, destroyed: Callable[[Wire], None]
) -> None:
    with house(tmp_path) as home:
        wire, live, late = home.connect(), home.connect(), home.connect()
        live.send("journal.subscribe", {"credit": 1_000, "after_seq": 0})
        destroyed(wire)
        head = wire.ok("journal.head")["seq"]
        recent = wire.ok("journal.recent")["events"]
        assert [one["seq"] for one in recent] == list(range(1, head + 1))
        assert SAID not in str(recent)
        late.send("journal.subscribe", {"credit": 1_000, "after_seq": 0})
        wire.append(event(new_id()))
        told = [events(one, head + 1) for one in (live, late)]
        assert [[one["seq"] for one in each] for each in told] == [list(range(1, head + 2))] * 2
        assert SAID not in str(told[1])


def events(wire: Wire, count: int) -> list[dict[str, object]]:
    """The next events of a stream."""
    items = (wire.receive()["item"] for _ in itertools.count())
    return list(itertools.islice((one["event"] for one in items if "event" in one), count))
