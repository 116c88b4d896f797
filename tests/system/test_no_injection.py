"""What a client says is data, wherever it ends up: in a query of words, a filter, a key, a name."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.domain.session_commands import owner_word
from palyra_actors.storage.connection import open_checkpointer, open_reader, open_writer
from palyra_actors.storage.migrations import migrate
from tests.figures import Tell
from tests.system.harness import House, Wire, event

OTHERS = owner_word("olga")
HOSTILE = [
    '"', '""', "'", "'; DROP TABLE events; --", '" OR "', '"* OR words : "', "*", "**", "-walrus",
    "^walrus", "walrus*", "NEAR(walrus x)", "NEAR(", "walrus AND", "OR", "NOT walrus", "(walrus",
    "walrus)", "{words owner} : walrus", "words : walrus", "owner : *", f"owner : {OTHERS}",
    f'walrus" OR owner : "{OTHERS}', f'" ) OR owner : "{OTHERS}" OR ( "', f'"* ) OR "{OTHERS}',
    "walrus\0", "\0", "walrus + x", "walrus:x", "%", "_", "\\", "\\' OR 1=1 --", "?1", ":a", "@a",
    "$a", "{", "}", "\ud7ff", "\u202e", "😀", "a" * 200, '"' * 200, "x " * 100,
]  # fmt: skip


def _answers(reply: dict[str, Any]) -> None:
    assert "ok" in reply or reply["err"]["code"] in ("invalid", "not_found", "too_large"), reply


@pytest.fixture(scope="module")
def kept(shared_house: House) -> tuple[str, str]:
    """A session and a memory of olga's, and a session of walt's with the same words."""
    with Wire(shared_house.endpoint) as wire:
        ids = new_id(), new_id()
        wire.ok("session.resolve", {"session_id": ids[0], "title": "walrus"}, principal="olga")
        memory = {"memory_id": ids[1], "source": "manual", "content": "walrus"}
        wire.ok("memory.ingest", memory, principal="olga")
        wire.ok("session.resolve", {"title": "walrus"}, principal="walt")
        wire.ok("memory.ingest", {"source": "manual", "content": "walrus"}, principal="walt")
    return ids


@pytest.mark.parametrize("words", HOSTILE, ids=ascii)
def test_words_to_search_for_are_words_and_show_nothing_of_others(
    wire: Wire, kept: tuple[str, str], words: str, figure: Tell
) -> None:
    before = wire.head()
    for op, body in (
        ("session.list", {"query": words}),
        ("memory.search", {"query": words}),
        ("memory.search", {"query": words, "mode": "lexical"}),
        ("approval.list", {"subject_type": words, "subject_id": words, "principal": words}),
        ("memory.list", {"channel": words}),
        ("session.resolve", {"session_key": words, "create": False}),
    ):
        reply = wire.call(op, body, principal="walt")
        _answers(reply)
        figure(27, "hostile texts in questions", 1)
        shown = any(one in str(reply) for one in kept)
        figure(27, "that showed something of another's", shown, most=0)
        assert not any(one in str(reply) for one in kept)
    assert wire.head() == before


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_is_kept_under_a_hostile_name_is_found_under_it_and_under_no_other(
    wire: Wire, name: str
) -> None:
    owner = f"w{new_id()}"
    body = {"session_key": name, "title": name}
    reply = wire.call("session.resolve", body, principal=owner)
    _answers(reply)
    if "ok" not in reply:
        return
    session = reply["ok"]["session"]
    assert (session["session_key"], session["title"]) == (name, name)
    again = wire.ok("session.resolve", {"session_key": name, "create": False}, principal=owner)
    assert again["session"]["session_id"] == session["session_id"]
    other = {"session_key": name + "x", "create": False}
    assert wire.call("session.resolve", other, principal=owner)["err"]["code"] == "not_found"
    wire.ok("journal.append", {"events": [event(session["session_id"])]}, principal=owner)
    assert wire.ok("journal.verify")["valid"]


def test_every_connection_is_defensive_trusts_no_schema_and_loads_nothing(
    tmp_path: Path, figure: Tell
) -> None:
    path = str(tmp_path / "journal.db")
    writer = open_writer(path, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=0)
    migrate(writer, path)
    connections = [
        writer,
        open_reader(path, cache_bytes=1 << 20),
        open_checkpointer(path, synchronous="full"),
    ]
    for one in connections:
        assert one.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, -1) == 1
        assert one.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, -1) == 0
        assert one.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, -1) == 0
        with pytest.raises(apsw.SQLError, match="not authorized"):
            one.execute("SELECT load_extension('x')")
        with pytest.raises(apsw.ExtensionLoadingError):
            one.load_extension("x")
    figure(27, "kinds of connections, all defensive", len(connections))
    for one in reversed(connections):
        one.close()
