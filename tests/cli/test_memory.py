"""`palyra-actors memory`, against a real engine."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from palyra_actors.actors.clerks.queries import WITHOUT_MEANING
from palyra_actors.embedding.provider import Matrix, Model, ProviderFault
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


def test_a_purge_that_names_none_or_two_says_which_options_there_are(live: Run) -> None:
    live("memory", "add", "stays")
    for named in ((), ("--all", "--channel", "c")):
        code, _, err = live("memory", "purge", *named)
        assert code == 2
        assert "exactly one is needed" in err
        assert all(option in err for option in ("--session", "--channel", "--all"))
        assert "{" not in err
    assert live("memory", "purge", "--all")[1] == "1 memory destroyed\n"


def test_what_was_there_already_and_what_was_redacted_is_said(live: Run) -> None:
    _, first, _ = live("memory", "add", "Alice prefers metric units")
    _, again, _ = live("memory", "add", "Alice prefers metric units")
    assert again == "already " + first.replace("remembered", "remembered as")
    _, out, _ = live("memory", "add", "password: hunter2hunter2", "--json")
    assert json.loads(out)["duplicate"] is False
    _, out, _ = live("memory", "add", "my password: hunter2hunter2")
    assert out.endswith("  redacted\n")


def test_expiry_origin_sources_and_the_past_have_options(live: Run) -> None:
    event = "01JZ5X9W6TQ3M8C4R0VBN7HEAD"
    code, out, _ = live(
        "memory", "add", "The build takes four minutes", "--expires-ms", "99999999999999",
        "--from-event", event, "--source", "summary", "--json",
    )  # fmt: skip
    added = json.loads(out)
    assert (code, added["expires_ms"], added["from_event_id"]) == (0, 99999999999999, event)
    live("memory", "add", "The build takes six minutes")
    _, out, _ = live("memory", "search", "build", "--source", "summary", "--json")
    [hit] = [json.loads(line) for line in out.splitlines()]
    assert hit["item"]["memory_id"] == added["memory_id"]
    before = str(added["created_ms"] - 1)
    assert live("memory", "search", "build", "--as-of-ms", before)[1].startswith("nothing")


def test_a_value_that_there_is_not_is_answered_with_those_that_there_are(live: Run) -> None:
    code, _, err = live("memory", "search", "x", "--mode", "meaning")
    assert code == 1
    assert "[mode] (one of hybrid, lexical, vector)" in err
    code, _, err = live("memory", "search", "x", "--source", "manual", "--source", "diary")
    assert "[sources[1]] (one of import, manual, summary, tape_" in err
    code, _, err = live("memory", "search", " ")
    assert code == 2
    assert "say what to look for" in err


def test_what_a_search_had_to_do_without_is_said_beside_the_hits(run: Run, tmp_path: Path) -> None:
    class Down:
        model = Model("down", "test", 8, 1)
        near = False

        def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
            raise ProviderFault("the endpoint answered 500")

        def close(self) -> None: ...

    with Engine.open(tmp_path / "live.db", embedding_provider=Down()) as engine:
        at = ("--endpoint", engine.serve("tcp://127.0.0.1:0"))
        run("memory", "add", "Alice prefers metric units", *at)
        code, out, err = run("memory", "search", "metric units", "--json", *at)
        assert (code, err.strip()) == (0, WITHOUT_MEANING)
        assert json.loads(out)["item"]["content"] == "Alice prefers metric units"
        code, _, err = run("memory", "search", "metric units", "--mode", "vector", *at)
        assert code == 3
        assert "hybrid or lexical" in err


def test_a_memory_that_is_not_there_is_not_found(live: Run) -> None:
    code, _, err = live("memory", "show", "01JZ5X9W6TQ3M8C4R0VBN7HEAD")
    assert code != 0
    assert "no such memory" in err
    code, out, _ = live("memory", "search", "anything")
    assert (code, out) == (0, "nothing is remembered about it\n")
