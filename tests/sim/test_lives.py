"""Lives of engines out of seeds: all promises hold, the same seed goes the same way, and an engine
that breaks a promise is found out.
"""

import os
import re
import subprocess
import sys

import pytest

from palyra_actors.testing.sim import live
from palyra_actors.testing.sim.__main__ import main
from palyra_actors.testing.sim.breaks import BREAKS
from tests.figures import Tell

SEEDS, SEEDS_IN_CAMPAIGN = 100, 10_000
CONTROL_SEEDS_MAX = 40


@pytest.mark.timeout(20_000)
def test_random_lives_keep_every_promise(
    campaign: bool, capsys: pytest.CaptureFixture[str], figure: Tell
) -> None:
    seeds = SEEDS_IN_CAMPAIGN if campaign else SEEDS
    jobs = (os.cpu_count() or 1) if campaign else 1
    code = main(["--seeds", str(seeds), "--jobs", str(jobs)])
    told = capsys.readouterr().out
    counted = re.search(r"^(\d+) seeds, (\d+) failed, (\d+) requests", told, re.MULTILINE)
    assert counted is not None
    lives, failed, requests = map(int, counted.groups())
    for promise in (4, 6, 11, 29):
        figure(promise, "random lives", lives)
        figure(promise, "requests in them", requests)
        figure(promise, "lives with a promise broken", failed, most=0)
    assert code == 0, told


def test_a_seed_goes_the_same_way_whatever_the_interpreter_hashes_by() -> None:
    def run(hash_seed: int) -> str:
        return subprocess.run(
            [sys.executable, "-m", "palyra_actors.testing.sim", "--seed", "3"],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    first, second = run(1), run(2)
    assert "digest" in first
    assert first == second


def test_other_seeds_go_other_ways() -> None:
    assert live(1).digest != live(2).digest


@pytest.mark.parametrize("broken", BREAKS)
def test_an_engine_that_breaks_a_promise_is_found_out(
    broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(1, CONTROL_SEEDS_MAX):
        if main(["--seed", str(seed), "--broken", broken]):
            told = capsys.readouterr().out
            assert f"python -m palyra_actors.testing.sim --seed {seed} --broken {broken}" in told
            return
    pytest.fail(f"{CONTROL_SEEDS_MAX} seeds found nothing")
