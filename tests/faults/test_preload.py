"""The same promises for a process whose system calls fail: a shim under libc, nothing mocked.

`fault_shim.c` is compiled here and preloaded into `palyra-actors serve`. The n-th write, sync or
open of the database's files (WAL, index and anchor are among them) fails once and for good; the
disk is full and then is not; it is slow; it turns read-only.
"""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.engine import Engine
from tests.faults.scripted import Told, judge, script
from tests.faults.test_disk import SMALL, ids_in
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, Wire

CONFIG = """
[storage]
wal_keep_bytes = 0
readers = 1
[budget]
write_ms = 0
"""
SAMPLES = 2
ENOSPC, EIO, EROFS = 28, 5, 30


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the shim with")
    source = Path(__file__).with_name("fault_shim.c")
    made = tmp_path_factory.mktemp("shim") / "fault_shim.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", made, source, "-ldl"], check=True
    )
    return str(made)


class Failing:
    """An engine in a process of its own, over the shim."""

    def __init__(self, folder: Path, shim: str, **fault: object) -> None:
        self.folder = folder
        self.cured = folder / "cured"
        self.count = folder / "count"
        (folder / "config.toml").write_text(CONFIG)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "palyra_actors.cli", "serve"),
                *("--db", str(folder / "journal.db"), "--endpoint", f"ipc://{folder}/door"),
                *("--config", str(folder / "config.toml")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "LD_PRELOAD": shim,
                "FAULT_PATH": "/journal.db",
                "FAULT_CURED": str(self.cured),
                "FAULT_COUNT": str(self.count),
                **{f"FAULT_{key.upper()}": str(value) for key, value in fault.items()},
            },
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline().startswith("ready ")

    def end(self) -> int:
        self.process.terminate()
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        assert "Traceback" not in errors or "apsw" in errors, errors
        return self.process.returncode


@contextmanager
def connected(engine: Failing) -> Iterator[Wire]:
    with Wire(f"ipc://{engine.folder}/door") as wire:
        yield wire


def until_status(wire: Wire, wanted: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (health := wire.ok("engine.health"))["status"] != wanted:
        assert time.monotonic() < deadline, health


def attempt(folder: Path, shim: str, **fault: object) -> str:
    """The script with a fault under it; in a word, how it went."""
    folder.mkdir()
    told = script()
    engine = Failing(folder, shim, **fault)
    outcomes: list[str] = []
    if engine.ready:
        with connected(engine) as wire:
            outcomes = [one.send(wire.call) for one in told]
            if fault["times"] == 0 and outcomes[-1] != "ok":
                until_status(wire, "failing")
                assert "ok" in wire.call("journal.recent"), "reads go on"
            engine.cured.touch()
            until_status(wire, "ready")
            settle(wire, told)
        assert engine.end() == 0
    else:
        engine.end()
        assert engine.process.returncode in (3, 4), "unavailable, or refused: and nothing else"
        with Engine.open(folder / "journal.db", SMALL):
            pass  # it is well again, and so is the file
        return "not opened"
    judge(told, ids_in(folder / "journal.db"))
    return "unknown" if "unknown" in outcomes else "refused" if "none" in outcomes else "ok"


def settle(wire: Wire, told: list[Told]) -> None:
    """What was not acknowledged is sent again, without a restart, until it is."""
    for one in told:
        deadline = time.monotonic() + DEADLINE_S
        while one.outcome != "ok" and one.send(wire.call) != "ok":
            assert time.monotonic() < deadline, one


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("times", [1, 0], ids=["once", "for good"])
@pytest.mark.parametrize("call", ["write", "sync", "open"])
def test_whichever_system_call_fails_acks_hold_refusals_hold_and_writing_goes_on(
    tmp_path: Path, shim: str, campaign: bool, call: str, times: int, *, figure: Tell
) -> None:
    (tmp_path / "dry").mkdir()
    dry = Failing(tmp_path / "dry", shim, call=call, at=0)
    with connected(dry) as wire:
        assert [one.send(wire.call) for one in script()] == ["ok"] * 12
    assert dry.end() == 0
    count = int(dry.count.read_text())
    assert count > 5
    stride = 1 if campaign else max(1, count // SAMPLES)
    seen: Counter[str] = Counter()
    for number in range(1 if campaign else stride // 2, count + 1, stride):
        error = ENOSPC if call == "write" and number % 2 else EIO
        fault: dict[str, Any] = {"call": call, "at": number, "times": times, "errno": error}
        seen[attempt(tmp_path / str(number), shim, **fault)] += 1
    figure(13, "system calls that failed", seen.total())
    sys.stdout.write(f"{call} {'once' if times else 'for good'} of {count}: {dict(seen)}\n")


@pytest.mark.parametrize("error", [ENOSPC, EROFS], ids=["full", "read-only"])
def test_a_disk_that_is_full_or_read_only_refuses_writes_reads_on_and_writes_on_once_it_is_cured(
    tmp_path: Path, shim: str, error: int, figure: Tell
) -> None:
    """Cured at first, so that it starts well and has written; then the cure is taken away."""
    (tmp_path / "cured").touch()
    engine = Failing(tmp_path, shim, call="write", at=1, times=0, errno=error)
    with connected(engine) as wire:
        told = script()
        assert [one.send(wire.call) for one in told[:6]] == ["ok"] * 6
        engine.cured.unlink()
        assert "ok" not in [one.send(wire.call) for one in told[6:]]
        began = time.monotonic()
        until_status(wire, "failing")
        figure(13, "health says so after", time.monotonic() - began, "s", most=1)
        assert len(wire.ok("journal.read")["events"]) >= 10, "reads go on"
        engine.cured.touch()
        began = time.monotonic()
        until_status(wire, "ready")
        figure(13, "ready after the cure", time.monotonic() - began, "s", most=1)
        settle(wire, told)
    assert engine.end() == 0
    judge(told, ids_in(tmp_path / "journal.db"))


def test_a_slow_disk_is_slow_and_nothing_else(tmp_path: Path, shim: str) -> None:
    engine = Failing(tmp_path, shim, call="sync", at=0, sleep_us=40_000)
    with connected(engine) as wire:
        told = script()
        assert [one.send(wire.call) for one in told] == ["ok"] * 12
    assert engine.end() == 0
    judge(told, ids_in(tmp_path / "journal.db"))
