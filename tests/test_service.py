"""The shipped unit: what it starts exists, its waits suffice, and it forbids what it should."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from palyra_actors.cli import exits
from palyra_actors.engine import STOP_S_MAX
from tests.cli.conftest import Run, run

__all__ = ["run"]  # a fixture

UNIT = Path(__file__).parent.parent / "configs" / "palyra-actors.service"


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_it_starts_a_command_and_options_that_there_are(run: Run) -> None:
    (command,) = settings()["ExecStart"]
    program, verb, *options = command.split()
    assert program.endswith("/palyra-actors")
    _, help_text, _ = run(verb, "--help")
    for option in options:
        assert not option.startswith("--") or option in help_text, option


def test_it_waits_longer_than_an_engine_takes_to_end_and_does_not_restart_what_is_broken() -> None:
    found = settings()
    assert int(found["TimeoutStopSec"][0]) > 2 * STOP_S_MAX
    assert found["KillSignal"] == ["SIGTERM"]
    assert found["RestartPreventExitStatus"] == [str(exits.BROKEN)]


def test_it_lets_the_daemon_do_no_more_than_it_needs() -> None:
    found = settings()
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectKernelModules",
                "ProtectKernelTunables", "ProtectControlGroups", "RestrictNamespaces",
                "RestrictSUIDSGID", "LockPersonality", "ProtectHome"):  # fmt: skip
        assert found[key] == ["yes"], key
    assert found["ProtectSystem"] == ["strict"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["UMask"] == ["0077"]
    assert found["StateDirectoryMode"] == ["0700"]


def test_it_does_not_forbid_what_the_libraries_call_when_they_are_loaded() -> None:
    """numpy's OpenBLAS binds memory (mbind), libzmq schedules its threads (sched_setscheduler):
    both are among @resources. What is forbidden fails, and does not end the process."""
    found = settings()
    assert found["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert found["SystemCallErrorNumber"] == ["EPERM"]


def test_systemd_takes_it(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text().replace("/opt/palyra/bin/palyra-actors", sys.executable)
    unit.write_text(text)
    done = subprocess.run(
        [analyze, "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    told = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, told) == (0, [])
