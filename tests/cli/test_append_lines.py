"""Events as lines of standard input, against real engines."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.cli import exits
from palyra_actors.engine import Engine
from tests.cli.conftest import Run
from tests.system.harness import NO_BUDGET

DEADLINE_S = 60.0
SESSION = "01J00000000000000000000000"


def append_from(
    lines: Iterable[str], endpoint: str, *options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "palyra_actors.cli", "append", "-", "-e", endpoint, *options],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_events_from_standard_input_are_stored_in_order(
    live: Run, endpoint: str, tmp_path: Path
) -> None:
    lines = [{"session_id": SESSION, "kind": "x.a", "payload": {"n": n}} for n in range(700)]
    whole = (json.dumps(line | {"actor": "agent", "run_id": None}) for line in lines)
    done = append_from(whole, endpoint, "--json")
    assert done.returncode == 0
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["session_seq"] for result in results] == list(range(1, 701))


GOOD_LINE = json.dumps({"session_id": SESSION, "kind": "x.a", "actor": "agent", "payload": {}})
BAD_LINE = GOOD_LINE.replace('"x.a"', "7")
TOO_LARGE = GOOD_LINE.replace("{}", json.dumps({"a": 1 << 64}))  # for the client to encode


@pytest.mark.parametrize(
    ("lines", "field", "stored"),
    [
        (f"{GOOD_LINE}\n\nnonsense\n", "line 3", 1),
        (f"{GOOD_LINE}\n[1]\n", "line 2", 1),
        (f"{GOOD_LINE}\n\n{TOO_LARGE}\n", "line 3: payload.a", 1),
        (f'{GOOD_LINE}\n\n{{"session_id": "x", "payload": {{}}}}\n', "line 3: session_id", 1),
        (f'{{"payload": {{}}}}\n{GOOD_LINE}\n', "line 1: session_id", 0),
        (f"{GOOD_LINE}\n{BAD_LINE}\n", "line 2: kind", 1),
    ],
)
def test_a_line_of_standard_input_that_is_no_event_is_named(
    endpoint: str, lines: str, field: str, stored: int
) -> None:
    done = append_from(lines.split("\n"), endpoint, "--json")
    assert done.returncode == exits.REFUSED
    error = json.loads(done.stderr)["error"]
    assert (error["field"], error["detail"]["new"]) == (field, stored)
    assert len(done.stdout.splitlines()) == stored, "all before it"


@pytest.mark.parametrize(("bad", "stored"), [(1, 0), (10, 9), (600, 599)])
def test_all_before_a_line_that_the_engine_refuses_is_stored_and_nothing_behind_it(
    endpoint: str, live: Run, bad: int, stored: int
) -> None:
    session = new_id()
    line = json.dumps({"session_id": session, "kind": "x.a", "actor": "agent", "payload": {}})
    lines = [line] * 1_600
    lines[bad - 1] = line.replace('"kind"', '"knd"')
    done = append_from(lines, endpoint)
    assert done.returncode == exits.REFUSED
    assert f"line {bad}: knd" in done.stderr
    assert done.stdout.startswith(f"{stored} new")
    _, out, _ = live("show", session, "--json")
    assert sum("kind" in json.loads(line) for line in out.splitlines()) == min(stored, 1_000)


def test_the_first_of_several_bad_lines_ends_it_and_the_rest_goes_on_where_it_ended(
    endpoint: str, engine: Engine
) -> None:
    session = new_id()
    lines = [
        json.dumps({"session_id": session, "kind": "x.a", "actor": "user", "payload": {"n": n}})
        for n in range(1, 41)
    ]
    good = lines[19]
    lines[19] = good.replace('"x.a"', '"no such kind"')  # found once all are read
    lines[29] = lines[29].replace('"kind"', '"knd"')  # found when it is read, and so first
    done = append_from(lines, endpoint)
    assert done.returncode == exits.REFUSED
    assert "[line 20: kind]" in done.stderr
    assert done.stdout == "19 new, 0 there already\n"
    lines[19], lines[29] = good, lines[28].replace("29", "30")
    assert append_from(lines[19:], endpoint).stdout == "21 new, 0 there already\n"
    stored = [event.payload["n"] for event in engine.sessions.open(session).events()]
    assert stored == list(range(1, 41))


def test_a_refusal_that_names_no_line_is_of_the_first_line_that_is_refused_by_itself(
    endpoint: str, engine: Engine
) -> None:
    archived, session = new_id(), new_id()
    engine.sessions.open(archived).append("x.a", {}, actor="user")
    engine.sessions.open(archived).archive()
    lines = [
        json.dumps({"session_id": session, "kind": "x.a", "actor": "user", "payload": {"n": n}})
        for n in range(1, 12)
    ]
    lines[6] = lines[6].replace(session, archived)
    done = append_from(lines, endpoint)
    assert done.returncode == exits.REFUSED
    assert "line 7" in done.stderr
    assert "lines" not in done.stderr
    assert done.stdout == "6 new, 0 there already\n"
    stored = [event.payload["n"] for event in engine.sessions.open(session).events()]
    assert stored == list(range(1, 7))


def test_lines_that_are_too_many_sessions_for_one_request_are_stored_in_several(
    tmp_path: Path,
) -> None:
    config = NO_BUDGET.replaced("actors", resident_max=16)
    with Engine.open(tmp_path / "few.db", config) as engine:
        lines = [
            json.dumps({"session_id": new_id(), "kind": "x.a", "actor": "user", "payload": {}})
            for _ in range(600)
        ]
        done = append_from(lines, engine.serve("tcp://127.0.0.1:0"))
        assert done.stdout == "600 new, 0 there already\n", done.stderr
        stored = [event.session_id for event in engine.events(after_seq=0)]
    assert stored == [json.loads(line)["session_id"] for line in lines]


def test_lines_of_standard_input_have_what_the_options_say_where_they_do_not(
    endpoint: str, live: Run
) -> None:
    session, run = new_id(), new_id()
    subprocess.run(
        [sys.executable, "-m", "palyra_actors.cli", "append", "-", "-e", endpoint,
         "--session", session, "--kind", "x.a", "--run", run],
        input='{"payload": {"n": 1}}\n{"payload": {"n": 2}, "kind": "x.b", "actor": "agent"}\n',
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )  # fmt: skip
    _, out, _ = live("show", session, "--json")
    shown = [json.loads(line) for line in out.splitlines()]
    found = [(one["kind"], one["actor"], one["run_id"]) for one in shown if "kind" in one]
    assert found == [("x.a", "user", run), ("x.b", "agent", run)]
    for option in ("--text", "--event-id"):
        assert live("append", "-", option, "x")[0] == exits.USAGE


@pytest.mark.parametrize("levels", [65, 500, 900, 1_100, 100_000])
def test_a_line_that_is_nested_too_deep_is_told_the_limit(
    endpoint: str, tmp_path: Path, run: Run, levels: int
) -> None:
    deep = '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)
    lines = [GOOD_LINE, GOOD_LINE.replace("{}", deep)]
    done = append_from(lines, endpoint)
    assert done.returncode == exits.REFUSED
    assert "64 levels" in done.stderr
    assert "[line 2" in done.stderr
    assert "recursion" not in done.stderr
    for number, text in ((2, "\n".join(lines)), (1, lines[1])):
        file = tmp_path / "log.jsonl"
        file.write_text(text + "\n")
        code, _, err = run("import", file, "--endpoint", endpoint)
        assert (code, err) == (
            exits.REFUSED,
            f"invalid: nested deeper than 64 levels [{file}:{number}]\n",
        )
