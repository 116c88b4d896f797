"""The live view: what it makes of two answers, and how it looks."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from palyra_actors.api.events import Event, new_id
from palyra_actors.api.results import Health, Stats
from palyra_actors.cli.app import app
from palyra_actors.cli.top import Look, look
from palyra_actors.cli.top_screen import draw
from palyra_actors.engine import Engine
from tests.system.harness import NO_BUDGET

BEFORE = {"uptime_ms": 1_000, "events": 100, "groups": 10, "requests": {"received": 50, "ok": 49}}
NOW: dict[str, Any] = {
    "uptime_ms": 3_000,
    "budget_ms": 25,
    "events": 1_100,
    "groups": 20,
    "requests": {"received": 450, "ok": 440, "refused": 8},
    "appends": {"acked": 400, "overloaded": 8, "late": 2},
    "latency_recent_ms": {"p50": 1.5, "p99": 20.0, "max": 50.0},
    "admission": {"commit_ms": 0.5, "lobby": 3, "group_events": 376},
    "queue_depth": 7,
    "actors": {"resident": 310, "resident_max": 10_000},
    "recent_events": 1_000,
    "busiest": [{"session_id": new_id(), "events": 250}, {"session_id": new_id(), "events": 10}],
    "wal_bytes": 16 << 20,
    "wal_bytes_max": 256 << 20,
    "db_bytes": 50 << 20,
    "head": {"seq": 1_100},
}


def taken(now: dict[str, Any] = NOW, status: str = "ready", *reasons: str) -> Look:
    return look(Health(status, reasons), Stats.of(BEFORE), Stats.of(now))


def drawn(one: Look, width: int = 80) -> str:
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(draw(one))
    return captured.get()


def test_rates_are_what_was_counted_between_two_looks() -> None:
    one = taken()
    assert one.events_rate == 500
    assert one.writes_rate == 200
    assert one.overloaded_rate == 4
    assert one.late_rate == 1
    assert one.requests_rate == 200
    assert one.group_events == 100
    assert one.under_way == 2
    assert [share for _, share in one.busiest] == [0.25, 0.01]


def test_an_engine_that_was_started_anew_meanwhile_has_no_negative_rates() -> None:
    one = taken({"uptime_ms": 10, "events": 0, "groups": 0})
    assert one.events_rate == one.writes_rate == one.requests_rate == one.group_events == 0


def test_an_older_engine_that_answers_less_is_shown_all_the_same() -> None:
    assert "ready" in drawn(look(Health("ready", ()), Stats.of({}), Stats.of({})))


def test_everything_that_was_asked_for_is_on_the_screen() -> None:
    text = drawn(taken(NOW, "degraded", "the disk is slow"))
    for word in (
        "degraded", "the disk is slow", "p99", "20.00 ms", "80%", "of 25 ms", "500", "100.0",
        "310", "16.0 MiB of 256.0 MiB", "25%", NOW["busiest"][0]["session_id"],
    ):  # fmt: skip
        assert word in text, word
    assert "…" not in text


def test_a_reason_that_holds_escapes_does_not_reach_the_terminal() -> None:
    assert "\x1b" not in drawn(taken(NOW, "failing", "\x1b[2J"))


@pytest.mark.parametrize("form", [["--json"], []])
def test_one_look_at_a_file_ends_and_says_its_numbers(tmp_path: Path, form: list[str]) -> None:
    path = tmp_path / "a.db"
    with Engine.open(path, NO_BUDGET) as engine:
        engine.append([Event(new_id(), "x.a", {}) for _ in range(3)])
    command = ["top", "--db", str(path), "--once", "--every", "0.1", *form]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    if form:
        assert json.loads(result.stdout)["head_seq"] == 3
    else:
        assert "head 3" in result.stdout
