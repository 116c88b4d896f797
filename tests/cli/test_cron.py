"""`palyra-actors cron …`, against an engine."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.cron import JobInfo
from palyra_actors.cli.app import app
from palyra_actors.cli.shape import span
from palyra_actors.engine import Engine
from tests.system.harness import NO_BUDGET

Answer = tuple[int, str]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with Engine.open(tmp_path / "live.db", NO_BUDGET) as opened:
        monkeypatch.setenv("PALYRA_ENDPOINT", opened.serve("tcp://127.0.0.1:0"))
        yield opened


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> Answer:
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        app([*arguments], prog_name="palyra-actors")
    out, _ = capfd.readouterr()
    return int(caught.value.code or 0), out


@pytest.fixture
def job(engine: Engine) -> JobInfo:
    return engine.cron.create("digest", {"cron": "30 7 * * MON-FRI", "tz": "Europe/Prague"})


def test_a_list_shows_when_jobs_are_due_and_how_it_went(
    engine: Engine, job: JobInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    engine.cron.create("off", {"every_ms": 5_400_000}, enabled=False)
    once = engine.cron.create("once", {"at_ms": 4_000_000_000_000})
    engine.cron.run_now(once.job_id)
    engine.cron.run_now(once.job_id)
    code, out = run(capfd, "cron", "list")
    lines = {line.split()[1]: line for line in out.splitlines()[1:]}
    assert code == 0
    assert re.search(
        r" in \d+ (d|h|min|s).* - +- +30 7 \* \* MON-FRI \(Europe/Prague\)", lines["digest"]
    )
    assert re.search(r"paused +- +- +every 1 h 30 min", lines["off"])
    assert re.search(r" ago +skipped \(overlap\) +once", lines["once"])
    assert job.job_id in lines["digest"]


def test_in_a_narrow_terminal_the_list_keeps_ids_whole_and_says_what_it_leaves_out(
    engine: Engine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = engine.cron.create("n" * 128, {"cron": "0 0 1 1 *", "tz": "America/Argentina/Tucuman"})
    monkeypatch.setenv("COLUMNS", "80")
    _, out = run(capfd, "cron", "list")
    assert long.job_id in out
    assert re.search(r"^not shown here: .*due \(a wider terminal", out, re.MULTILINE)


def test_a_list_of_very_many_ends_early_and_says_so(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [engine.cron.create(f"job {n}", {"at_ms": 4_000_000_000_000}) for n in range(102)]
    _, out = run(capfd, "cron", "list")
    lines = out.splitlines()
    assert len(lines) == 1 + 100 + 1
    assert lines[-1] == "the first 100: there are more (--limit, or --json)"
    _, out = run(capfd, "cron", "list", "--limit", "102")
    assert out.splitlines()[-1].startswith(jobs[-1].job_id)
    _, out = run(capfd, "cron", "list", "--json")
    assert len(out.splitlines()) == 102
    _, out = run(capfd, "cron", "list", "--json", "-n", "3")
    assert [json.loads(line)["job_id"] for line in out.splitlines()] == [
        job.job_id for job in jobs[:3]
    ]


def test_a_job_is_shown_with_how_long_things_take_and_its_schedule_as_json(
    engine: Engine, job: JobInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    _, out = run(capfd, "cron", "show", job.job_id)
    told = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines()[:16])
    assert told["misfire grace"] == told["lease"] == "1 min"
    assert told["jitter"] == "0 ms"
    assert json.loads(told["schedule"]) == {"cron": "30 7 * * MON-FRI", "tz": "Europe/Prague"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", told["created"])


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({"every_ms": 700}, "every 700 ms"),
        ({"every_ms": 5_401_500}, "every 1 h 30 min 1 s 500 ms"),
        ({"at_ms": 4_120_945_800_000}, "at 2100-08-03 03:10:00 +00:00"),
        ({"at_ms": 253_402_300_799_999}, "at 9999-12-31 23:59:59.999 +00:00"),
    ],
)
def test_an_interval_and_a_moment_stand_as_a_person_reads_them_beside_the_json(
    engine: Engine, schedule: dict[str, int], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    job = engine.cron.create("n", schedule)
    for command in ("show", "pause", "resume"):
        _, out = run(capfd, "cron", command, job.job_id)
        said = next(line for line in out.splitlines() if line.startswith("schedule "))
        assert said.split(maxsplit=1)[1].rstrip() == f"{json.dumps(schedule)} ({told})"
    assert (
        json.loads(run(capfd, "cron", "show", job.job_id, "--json")[1])["job"]["schedule"]
        == schedule
    )


def test_the_engines_own_jobs_are_listed_apart_and_hold_no_place_among_the_others(
    engine: Engine, job: JobInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    head = engine.head()
    code, out = run(capfd, "cron", "list", "--system")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert re.search(r"every 5 min +in \d+ min.* +- +0 +0", lines["memory.maintain"])
    assert re.search(r"every 10 min +in \d+ min.* +- +0 +0", lines["memory.backfill"])
    code, out = run(capfd, "cron", "list", "--system", "--json")
    assert json.loads(out)["memory.maintain"]["every_ms"] == 300_000
    assert [one.job_id for one in engine.cron.list()] == [job.job_id]
    assert engine.head() == head


def test_the_engines_own_jobs_of_a_file_are_listed_from_the_first_question_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    path = tmp_path / "still.db"
    with Engine.open(path) as engine:
        engine.memories.maintain()
    for _ in range(5):
        code, out = run(capfd, "cron", "list", "--system", "--db", str(path))
        assert code == 0
        lines = {line.split()[0]: line for line in out.splitlines()[1:]}
        assert re.search(r"every 5 min +in \d+ min.* ago +0 +0", lines["memory.maintain"])
        assert re.search(r"every 10 min +in \d+ min.* +0 +0", lines["memory.backfill"])


def test_showing_a_job_shows_its_next_times_and_last_runs(
    engine: Engine, job: JobInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    engine.cron.run_now(job.job_id)
    code, out = run(capfd, "cron", "show", job.job_id)
    assert code == 0
    upcoming = out.split("\nnext\n")[1].split("\nlast\n")[0].splitlines()
    assert (
        len([line for line in upcoming if re.match(r"(Mon|Tue|Wed|Thu|Fri) .* 07:30:00", line)])
        == 5
    )
    assert "running" in out.split("\nlast\n")[1]
    told = json.loads(run(capfd, "cron", "show", job.job_id, "--json")[1])
    assert told["job"]["name"] == "digest"
    assert [one["status"] for one in told["runs"]] == ["running"]


def test_explaining_an_expression_points_at_the_day_on_which_the_clock_is_set(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out = run(
        capfd, "cron", "explain", "--cron", "30 2 * * *", "--tz", "Europe/Prague",
        "--after-ms", "1774656000000", "-n", "3",
    )  # fmt: skip
    assert code == 0
    assert [re.sub(r"  \d.* ago", "", line) for line in out.splitlines()] == [
        "Sat 2026-03-28 02:30:00+01:00",
        "Sun 2026-03-29 03:00:00+02:00  the clock was set",
        "Mon 2026-03-30 02:30:00+02:00",
    ]
    code, out = run(capfd, "cron", "explain", "--cron", "0 7 * * *", "-n", "1", "--json")
    assert json.loads(out)["offset_minutes"] == 0
    assert run(capfd, "cron", "explain")[0] != 0
    job = engine.cron.create("digest", {"every_ms": 1_000})
    assert run(capfd, "cron", "explain", job.job_id, "--tz", "UTC")[0] != 0
    assert engine.path.exists()


def test_running_pausing_and_resuming_do_what_they_say(
    engine: Engine, job: JobInfo, capfd: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> dict[str, Any]:
        code, out = run(capfd, "cron", *arguments, "--json")
        assert code == 0
        found: dict[str, Any] = json.loads(out.splitlines()[0])
        return found

    assert told("run", job.job_id)["reason"] == "manual"
    assert told("pause", job.job_id)["enabled"] is False
    assert engine.cron.get(job.job_id).enabled is False
    assert told("resume", job.job_id)["enabled"] is True
    assert told("runs", job.job_id, "--status", "running", "-n", "1")["status"] == "running"
    assert run(capfd, "cron", "show", "01J00000000000000000000000")[0] != 0


def test_looking_into_a_file_wakes_no_job(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "still.db"
    with Engine.open(path) as opened:
        job = opened.cron.create("n", {"at_ms": 0}, enabled=False)
        opened.cron.run_now(job.job_id)
        before = opened.head()
    for _ in range(3):
        code, out = run(capfd, "cron", "list", "--db", str(path), "--json")
        assert (code, json.loads(out)["job_id"]) == (0, job.job_id)
    with Engine.open(path) as opened:
        assert opened.head() == before


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        (0, "0 ms"), (999, "999 ms"), (1_000, "1 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h"),
        (3_660_000, "1 h 1 min"), (3_601_000, "1 h"), (90_000_000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_a_span_is_told_in_its_two_largest_units(ms: int, told: str) -> None:
    assert span(ms) == told
