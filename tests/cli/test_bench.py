"""The short measurement: that it measures every part and says so, not how fast anything is."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palyra_actors.cli.app import app
from palyra_actors.engine import Engine
from tests.system.harness import NO_BUDGET


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    Engine.open(path, NO_BUDGET).close()
    return path


def run(path: Path, *options: str) -> str:
    command = ["bench", "--db", str(path), "--seconds", "0.1", "--timeout", "60", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_each_part_is_a_line_and_what_it_wrote_is_in_the_journal(path: Path) -> None:
    parts = [json.loads(line) for line in run(path, "--json").splitlines()]
    assert [part["part"] for part in parts] == ["one", "singles", "batches", "read"]
    with Engine.open(path, NO_BUDGET) as engine:
        stored = sum(event.kind == "tool_executed" for event in engine.events())
        titles = {session.title for session in engine.sessions.list()}
    assert stored == sum(part["events"] for part in parts[:3]) > 0
    assert titles == {"bench"}
    for part in parts:
        assert part["events_per_second"] == pytest.approx(part["events"] / part["seconds"])
        assert 0 < part["p50_ms"] <= part["p99_ms"] <= part["max_ms"]


def test_a_person_gets_a_table(path: Path) -> None:
    text = run(path)
    for word in ("one", "singles", "batches", "read", "events/s", "overloaded", "budget 25 ms"):
        assert word in text
