"""kill -9 under load: what was acknowledged is there, once and in order; what was refused is not.

The engine is a process of its own, its clients keep their own books (`ledger`), and the journal is
read through the door at the end. With `--campaign` fifty kills.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.figures import Tell
from tests.system import check_chain
from tests.system.ledger import SERVE, Findings, kill_again_and_again

SLOW = (sys.executable, "-m", "tests.system.slow_engine")


def chain_holds(endpoint: str) -> None:
    """The checker that knows the contract only, as a user would run it."""
    done = subprocess.run(
        [sys.executable, check_chain.__file__, endpoint],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    show(f"check_chain: {done.stdout.strip()}")


def show(line: object) -> None:
    """In the output of `pytest -rP` or `-s`."""
    sys.stdout.write(f"{line}\n")


def assert_nothing_wrong(found: Findings, figure: Tell) -> None:
    show(found)
    figure(1, "requests acknowledged before a kill -9", found.acked)
    figure(1, "of them lost", found.lost, most=0)
    figure(2, "requests refused", found.refused.total())
    figure(2, "of them stored", found.refused_but_present, most=0)
    figure(3, "sent again after a kill", found.settled_stored + found.settled_written)
    figure(3, "stored twice", found.duplicates, most=0)
    figure(4, "events read after kills", found.events)
    figure(4, "gaps", found.gaps, most=0)
    figure(5, "requests torn by a kill", found.torn, most=0)
    assert found.bad == 0, (str(found), found.examples[:10])
    assert found.acked > found.rounds * 20, "there was load"
    assert found.settled_stored + found.settled_written > 0, "some requests had no answer"


@pytest.mark.timeout(1200)
def test_kill_under_load_loses_nothing_that_was_acknowledged_and_keeps_nothing_refused(
    tmp_path: Path, campaign: bool, figure: Tell
) -> None:
    rounds = 50 if campaign else 5
    found = kill_again_and_again(SERVE, tmp_path, rounds=rounds, seed=11, look=chain_holds)
    assert_nothing_wrong(found, figure)
    assert {"id_reused", "invalid", "conflict"} <= found.refused.keys()


def test_a_slow_disk_changes_nothing_about_it(tmp_path: Path, figure: Tell) -> None:
    """What the control below is compared with: the same engine and disk, and no lie."""
    command = (*SLOW, "--commit-ms", "30")
    found = kill_again_and_again(
        command, tmp_path, rounds=3, seed=21, acks_max=80, look=chain_holds
    )
    assert_nothing_wrong(found, figure)


def test_the_same_campaign_finds_losses_where_the_answer_leaves_before_the_commit(
    tmp_path: Path, figure: Tell
) -> None:
    """The control: were nothing lost here, the tests above would prove nothing."""
    command = (*SLOW, "--commit-ms", "30", "--early")
    found = kill_again_and_again(command, tmp_path, rounds=3, seed=21, acks_max=80)
    show(found)
    figure(1, "lost by the control that answers early", found.lost, least=1)
    assert found.lost > 0
