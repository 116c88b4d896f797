"""`palyra-actors memory`, against a real engine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from palyra_actors.engine import Engine
from tests.cli.conftest import Run


@pytest.fixture
def live(run: Run, tmp_path: Path) -> Iterator[Run]:
    with Engine.open(tmp_path / "live.db") as engine:
        endpoint = engine.serve("tcp://127.0.0.1:0")
        yield lambda *arguments: run(*arguments, "--endpoint", endpoint)


def test_what_is_added_is_found_with_its_reasons_and_shown(live: Run) -> None:
    code, out, _ = live("memory", "add", "Alice prefers metric units", "--tag", "user:alice")
    assert code == 0
    memory = out.split()[-1]
    live("memory", "add", "The build takes four minutes")
    code, out, _ = live("memory", "search", "which units does Alice prefer?")
    assert code == 0
    first = out.splitlines()[:3]
    assert all(word in first[0] for word in ("words", "meaning", "new"))
    assert memory in first[1]
    assert "user:alice" in first[1]
    assert first[2].strip() == "Alice prefers metric units"
    code, out, _ = live("memory", "search", "units", "--json", "--mode", "lexical")
    [hit] = [json.loads(line) for line in out.splitlines()]
    assert hit["item"]["memory_id"] == memory
    assert hit["lexical"] > 0
    code, out, _ = live("memory", "show", memory)
    assert code == 0
    assert out.rstrip().endswith("Alice prefers metric units")


def test_a_purge_says_how_much_it_destroyed_and_statistics_what_is_left(live: Run) -> None:
    for n in range(3):
        live("memory", "add", f"note {n}", "--channel", "c")
    live("memory", "add", "stays")
    assert live("memory", "purge", "--channel", "c")[:2] == (0, "3 memories destroyed\n")
    code, out, _ = live("memory", "stats", "--json")
    assert (code, json.loads(out)["items"]) == (0, 1)
    code, out, _ = live("memory", "stats")
    assert "items: 1" in out
    assert "provider: hash" in out


def test_a_purge_of_nothing_named_is_refused(live: Run) -> None:
    code, _, err = live("memory", "purge")
    assert code != 0
    assert "exactly one" in err


def test_a_memory_that_is_not_there_is_not_found(live: Run) -> None:
    code, _, err = live("memory", "show", "01JZ5X9W6TQ3M8C4R0VBN7HEAD")
    assert code != 0
    assert "no such memory" in err
    code, out, _ = live("memory", "search", "anything")
    assert (code, out) == (0, "nothing is remembered about it\n")
