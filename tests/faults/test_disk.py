"""Every write, sync and open of a scripted life fails once, and from then on for good.

A dry run counts them; then each n-th of each kind of file is made to fail. Whatever happens: what
was acknowledged is there, what was refused is not, health says so, reads go on, and once the disk
is well writing goes on without a restart. A few of each by default, all with `--campaign`.
"""

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.ids import format_ulid
from palyra_actors.testing.faults import Action, Fault, FaultVFS, FileKind
from tests.faults.rig import NO_BUDGET, Rig, rig
from tests.faults.scripted import judge, script
from tests.figures import Tell
from tests.system.harness import event
from tests.system.test_session_model import rebuilt_differences

SMALL = NO_BUDGET.replaced("storage", wal_keep_bytes=0, readers=1)
CASES: list[tuple[Action, FileKind]] = [
    ("write", "wal"),
    ("sync", "wal"),
    ("open", "wal"),
    ("write", "db"),
    ("sync", "db"),
    ("open", "db"),
    ("write", "journal"),
    ("sync", "journal"),
    ("open", "journal"),
]
SAMPLES = 2
"""Of each case and each way to fail, without `--campaign`."""


def ids_in(path: Path) -> list[str]:
    with Engine.open(path, SMALL) as engine:
        assert engine.verify().valid
        return [stored.event_id for stored in engine.events()]


def life(path: Path, disk: FaultVFS) -> Counter[tuple[Action, FileKind]]:
    """The script on a disk that is well; what it asks of the disk."""
    with rig(path, SMALL, vfs=disk.name) as works:
        send = sender(works)
        assert [one.send(send) for one in script()] == ["ok"] * 12
        checkpoint(works)
    return disk.counts


def sender(works: Rig) -> Any:
    return lambda op, body: works.ask(op, body).reply()


def checkpoint(works: Rig) -> None:
    """What the checkpoints' thread does when enough has gathered."""
    with (
        suppress(apsw.Error, OpenRefused, StorageUnavailable),
        closing(works.works._open_checkpointer()) as steps,
    ):
        steps.step(force=True)


def attempt(path: Path, disk: FaultVFS, fault: Fault) -> str:
    """The same life with a fault in it; in a word, how it went."""
    told = script()
    disk.inject(fault)
    try:
        opened = rig(path, SMALL, vfs=disk.name)
        works = opened.__enter__()
    except (OpenRefused, StorageUnavailable):
        disk.heal()
        with rig(path, SMALL, vfs=disk.name) as again:
            assert [one.send(sender(again)) for one in told] == ["ok"] * 12
        judge(told, ids_in(path))
        return "not opened"
    try:
        outcomes = [one.send(sender(works)) for one in told]
        if fault.times is None and outcomes[-1] != "ok":
            works.until("failing")
            assert "events" in works.ask("journal.read").reply().get("ok", {}), "reads go on"
        checkpoint(works)
        disk.heal()
        works.until("ready")
        judge(told, [format_ulid(stored.event_id) for stored in works.journal()])
        for one in told:
            if one.outcome != "ok":
                works.eventually(lambda: works.status() == "ready", "writing goes on")
                assert one.send(sender(works)) == "ok", "without a restart"
        works.assert_states_equal_the_file()
        works.assert_at_rest()
    finally:
        opened.__exit__(None, None, None)
    judge(told, ids_in(path))
    return "unknown" if "unknown" in outcomes else "refused" if "none" in outcomes else "ok"


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("times", [1, None], ids=["once", "for good"])
@pytest.mark.parametrize(("action", "kind"), CASES, ids=lambda value: str(value))
def test_whichever_operation_fails_acks_hold_refusals_hold_and_writing_goes_on(
    tmp_path: Path,
    campaign: bool,
    action: Action,
    kind: FileKind,
    times: int | None,
    *,
    figure: Tell,
) -> None:
    with FaultVFS("disk-dry") as disk:
        count = life(tmp_path / "dry.db", disk)[action, kind]
    stride = 1 if campaign else max(1, count // SAMPLES + (times is None))
    seen: Counter[str] = Counter()
    for number in range(1, count + 1, stride):
        with FaultVFS("disk-faulty") as disk:
            path = tmp_path / f"{number}.db"
            fault = Fault(action, kind, nth=number, times=times)
            seen[attempt(path, disk, fault)] += 1
            seen["fired"] += fault.fired > 0
        if campaign:
            assert rebuilt_differences(path) == 0
    sys.stdout.write(f"{action} {kind} {'for good' if times is None else 'once'}: {dict(seen)}\n")
    figure(13, "operations below SQLite that failed", seen["fired"])
    assert count == 0 or seen["fired"], "something failed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_for_real_refuses_reads_on_and_is_ready_by_itself_once_it_has_room(
    small_disk: Path, figure: Tell
) -> None:
    with rig(small_disk / "journal.db", SMALL) as works:
        session = new_id()
        works.append(event(session)).ok()
        ballast = small_disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        large = {"text": "x" * 100_000}
        asked = [works.append(event(session, payload=large)) for _ in range(4)]
        outcomes = [one.err()["code"] for one in asked]
        assert outcomes == ["unavailable"] * 4
        began = time.monotonic()
        works.until("failing")
        figure(13, "health says so after", time.monotonic() - began, "s", most=1)
        assert len(works.ask("journal.read").ok()["events"]) == 1, "reads go on"
        ballast.unlink()
        began = time.monotonic()
        works.until("ready")
        figure(13, "ready after the cure", time.monotonic() - began, "s", most=1)
        assert works.append(event(session, payload=large)).numbers() == [2]
        works.assert_states_equal_the_file()
        works.assert_at_rest()


def test_an_open_that_fails_half_way_says_why_in_our_own_words(tmp_path: Path) -> None:
    """And not what SQLite adds when it is closed on a disk that still fails."""
    refused = 0
    for nth in range(1, 13):
        with FaultVFS("disk-opening") as disk:
            disk.inject(Fault("sync", "wal", nth=nth, times=None))
            try:
                engine = Engine.open(tmp_path / f"{nth}.db", SMALL, vfs=disk.name)
            except (OpenRefused, StorageUnavailable):
                refused += 1
                disk.heal()
                engine = Engine.open(tmp_path / f"{nth}.db", SMALL, vfs=disk.name)
            disk.heal()
            engine.close()
    assert refused > 5
