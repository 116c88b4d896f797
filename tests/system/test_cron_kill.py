"""kill -9 while jobs are due every 50 ms and two workers do them: no tick is lost, none runs twice.

The engine is a process of its own, and the journal alone says what happened. With `--campaign`
fifty kills.
"""

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.worker import RunContext
from palyra_actors.client import Client
from palyra_actors.config import Config, CronConfig
from palyra_actors.engine import Engine
from palyra_actors.errors import PalyraError
from tests.figures import Tell
from tests.system import check_cron
from tests.system.harness import DEADLINE_S, Wire
from tests.system.ledger import SERVE, EngineProcess

FORGETFUL = (sys.executable, "-m", "tests.system.forgetful_engine")
EVERY_MS = 50
POLICIES = [
    (concurrency, misfire)
    for concurrency in ("forbid", "replace", "queue_one")
    for misfire in ("skip", "catch_up")
]


@dataclass
class Heard:
    """What the workers were given: a run and its fence, each time."""

    runs: list[tuple[str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, run: RunContext) -> None:
        with self.lock:
            self.runs.append((run.run_id, run.fence))


def make_jobs(endpoint: str) -> list[str]:
    with Client(endpoint) as client:
        return [
            client.cron.create(
                "work", {"every_ms": EVERY_MS}, n, concurrency_policy=concurrency,
                misfire_policy=misfire, lease_ms=400, retry={"max_attempts": 2, "backoff_ms": 20},
            ).job_id
            for n, (concurrency, misfire) in enumerate(POLICIES)
        ]  # fmt: skip


def worker(endpoint: str, heard: Heard, seed: int) -> Client:
    """Does runs in 0 to 90 ms; one in ten fails, one in thirty says nothing for too long."""
    chance = random.Random(seed)

    def work(run: RunContext) -> dict[str, int]:
        heard.note(run)
        luck = chance.random()
        if luck < 0.1:
            raise RuntimeError("bad luck")
        run.wait(chance.random() * 0.09)
        return {"seed": seed}

    client = Client(endpoint)
    client.cron.handle("work", work, at_once=4)
    return client


def caught_up(endpoint: str, jobs: list[str]) -> None:
    """Every job has come to where the time was when this was asked."""
    now_ms = time.time_ns() // 1_000_000
    with Wire(endpoint) as wire:
        deadline = time.monotonic() + DEADLINE_S
        for job in jobs:
            while wire.ok("cron.get", {"job_id": job})["job"]["next_run_ms"] <= now_ms:
                assert time.monotonic() < deadline, "a job stands still"


def campaign_of(
    command: tuple[str, ...], folder: Path, *, kills: int, seed: int, settled: bool = True
) -> tuple[dict[str, Any], dict[str, check_cron.Job], Heard]:
    chance, heard = random.Random(seed), Heard()
    engine = EngineProcess(command, folder)
    jobs = make_jobs(engine.endpoint)
    workers = [worker(engine.endpoint, heard, seed + n) for n in range(2)]
    pause = threading.Event()
    try:
        for _ in range(kills):
            pause.wait(chance.uniform(0.1, 0.9))
            engine.kill()
            pause.wait(chance.choice((0.0, 0.0, 0.3)))
            engine = EngineProcess(command, folder)
        if settled:
            caught_up(engine.endpoint, jobs)
        else:
            pause.wait(0.5)
        for one in workers:
            one.close()
        done = subprocess.run(
            [sys.executable, check_cron.__file__, engine.endpoint],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        with Wire(engine.endpoint) as wire:
            _, told = check_cron.check(
                event for event in wire.read_all() if event["stream"] == "cron"
            )
        return json.loads(done.stdout), told, heard
    finally:
        for one in workers:
            with contextlib.suppress(PalyraError):
                one.close()
        engine.kill()


@pytest.mark.timeout(1200)
def test_no_tick_is_lost_and_none_runs_twice_however_often_the_engine_is_killed(
    tmp_path: Path, campaign: bool, figure: Tell
) -> None:
    kills = 50 if campaign else 3
    found, told, heard = campaign_of(SERVE, tmp_path, kills=kills, seed=5)
    sys.stdout.write(f"{kills} kills: {found}; {len(heard.runs)} runs heard\n")
    figure(12, "kills", kills)
    figure(12, "starts", found["starts"])
    figure(12, "second starts", found["double_starts"], most=0)
    figure(12, "ticks unaccounted for", found["unexplained"], most=0)
    assert (found["double_starts"], found["unexplained"], found["other"]) == (0, 0, 0), found
    assert found["jobs"] == len(POLICIES)
    assert found["starts"] > kills * 10
    leased = set().union(*(job.leases for job in told.values()))
    assert set(heard.runs) <= leased, "a worker heard of what is not in the journal"
    assert len(set(heard.runs)) == len(heard.runs), "a run was given twice under one fence"
    assert {"skipped overlap", "cancelled replaced", "skipped queue_full", "succeeded tick"} <= set(
        found["reasons"]
    )


def test_the_same_campaign_finds_double_starts_in_an_engine_that_forgets(
    tmp_path: Path, figure: Tell
) -> None:
    """The control: were nothing wrong here, the test above would prove nothing."""
    found, _, _ = campaign_of(FORGETFUL, tmp_path, kills=2, seed=5, settled=False)
    sys.stdout.write(f"forgetful: {found}\n")
    figure(12, "second starts of the control that forgets", found["double_starts"], least=1)
    assert found["double_starts"] > 0
    assert found["unexplained"] > 0


def test_of_jobs_that_are_due_together_each_starts_once_though_the_engine_is_killed_amid_them(
    tmp_path: Path, campaign: bool
) -> None:
    """They are woken in slices: a slice is written, or nothing of it."""
    chance, jobs = random.Random(7), 400
    for number in range(10 if campaign else 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Engine.open(folder / "journal.db", Config(cron=CronConfig(enabled=False))) as asleep:
            at = {"at_ms": time.time_ns() // 1_000_000 + chance.choice((0, 1_000))}
            made = {
                asleep.cron.create("burst", at, misfire_policy="catch_up", lease_ms=60_000).job_id
                for _ in range(jobs)
            }
        engine = EngineProcess(SERVE, folder)
        heard = Heard()
        enough = [threading.Event() for _ in range(2)]
        kill_after = sorted(chance.sample(range(1, jobs // 2), 2))

        def work(
            run: RunContext, heard: Heard = heard, enough: Any = enough, after: Any = kill_after
        ) -> None:
            heard.note(run)
            for count, event in zip(after, enough, strict=True):
                if len(heard.runs) >= count:
                    event.set()

        client = Client(engine.endpoint)
        try:
            client.cron.handle("burst", work, at_once=32)
            for event in enough:
                assert event.wait(DEADLINE_S)
                engine.kill()
                engine = EngineProcess(SERVE, folder)
            deadline = time.monotonic() + DEADLINE_S
            while any(job.next_run_ms for job in client.cron.list()):
                assert time.monotonic() < deadline, "a job stands still"
            with Wire(engine.endpoint) as wire:
                said = [one for one in wire.read_all() if one["kind"] in check_cron.TICKS]
        finally:
            client.close()
            engine.kill()
        assert {one["kind"] for one in said} == {"cron.run_started"}
        assert Counter(one["stream_id"] for one in said) == dict.fromkeys(made, 1)
        stored = {one["payload"]["run_id"] for one in said}
        assert {run_id for run_id, _ in heard.runs} <= stored
