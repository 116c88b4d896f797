"""Power cuts: the recorder's own honesty, and what COMMIT promises under each `synchronous`."""

import hashlib
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.errors import OpenRefused
from palyra_actors.storage.connection import Synchronous, open_writer, pragma
from palyra_actors.storage.migrations import migrate
from palyra_actors.testing.power import (
    Campaign,
    Delete,
    Disk,
    Found,
    Mark,
    PowerVFS,
    Sync,
    Truncate,
    Workload,
    Write,
    cut_power,
    image_at,
    record,
    write_image,
)

GROUPS = 60
GROUP_ROWS = 8
KEEP = 32 * 4120


def ledger(synchronous: Synchronous) -> Workload:
    """Groups of chained rows through `open_writer`, with checkpoints that restart the WAL."""

    def workload(path: str, vfs: str, ack: Callable[[object], None]) -> None:
        chance = random.Random(7)
        connection = open_writer(
            path, synchronous=synchronous, cache_bytes=1 << 20, wal_keep_bytes=KEEP, vfs=vfs
        )
        connection.execute("CREATE TABLE ledger (n INTEGER PRIMARY KEY, body BLOB, hash BLOB)")
        n, chain = 0, bytes(32)
        for group in range(GROUPS):
            connection.execute("BEGIN IMMEDIATE").fetchall()
            for _ in range(GROUP_ROWS):
                n += 1
                body = chance.randbytes(chance.choice((40, 200, 1500, 6000)))
                chain = hashlib.sha256(chain + body).digest()
                connection.execute("INSERT INTO ledger VALUES (?, ?, ?)", (n, body, chain))
            connection.execute("COMMIT").fetchall()
            ack(n)
            if group % 7 == 6:
                connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        connection.close()

    return workload


def check_ledger(path: str, acked: Sequence[object]) -> str:
    """`ok`, `lost` (an acknowledged row is missing), `torn` (half a group) or `corrupt`."""
    try:
        stock = apsw.Connection(path)
        try:
            if pragma(stock, "integrity_check") != "ok":
                return "corrupt"
            tables = stock.execute("SELECT name FROM sqlite_schema").fetchall()
            rows: list[Any] = []
            if ("ledger",) in tables:
                rows = stock.execute("SELECT n, body, hash FROM ledger ORDER BY n").fetchall()
        finally:
            stock.close()
    except apsw.Error:
        return "corrupt"
    chain = bytes(32)
    for expected, (n, body, found) in enumerate(rows, 1):
        chain = hashlib.sha256(chain + body).digest()
        if n != expected or found != chain:
            return "corrupt"
    if len(rows) % GROUP_ROWS:
        return "torn"
    return "lost" if acked and len(rows) < int(str(acked[-1])) else "ok"


def show(name: str, result: Campaign) -> None:
    """The figures, in the output of `pytest -rP` or `-s`."""
    sys.stdout.write(f"{name}: {len(result.cuts)} cuts, {dict(result.verdicts())}\n")


def images_wanted(campaign: bool) -> int:
    return 4000 if campaign else 200


@pytest.mark.parametrize("synchronous", ["full", "extra"])
@pytest.mark.timeout(600)
def test_no_power_cut_takes_an_acknowledged_row_under_full(
    tmp_path: Path, campaign: bool, synchronous: Synchronous
) -> None:
    result = cut_power(ledger(synchronous), check_ledger, tmp_path, images=images_wanted(campaign))
    show(f"synchronous={synchronous}", result)
    assert result.acked == GROUPS
    assert result.count("ok") == len(result.cuts) == images_wanted(campaign)


@pytest.mark.timeout(600)
def test_the_same_campaign_finds_losses_under_normal(tmp_path: Path, campaign: bool) -> None:
    """The control: were this at zero, the test above would prove nothing."""
    result = cut_power(ledger("normal"), check_ledger, tmp_path, images=images_wanted(campaign))
    show("synchronous=normal", result)
    assert result.count("lost") > len(result.cuts) // 10
    assert result.count("corrupt") == result.count("torn") == 0, "it loses, but breaks nothing"


@pytest.mark.timeout(600)
def test_the_same_campaign_finds_damage_under_off(tmp_path: Path, campaign: bool) -> None:
    """The other control: without syncs the order of writes is gone, too."""
    result = cut_power(ledger("off"), check_ledger, tmp_path, images=images_wanted(campaign))
    show("synchronous=off", result)
    assert result.count("corrupt") > 0


@pytest.mark.timeout(600)
def test_a_database_whose_making_was_cut_short_can_be_opened_and_used(
    tmp_path: Path, campaign: bool
) -> None:
    """Every entry of the log of opening and migrating, in all four ways of surviving."""

    def making(path: str, vfs: str, ack: Callable[[object], None]) -> None:
        connection = open_writer(
            path, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=8 * 4120, vfs=vfs
        )
        migrate(connection, path)
        ack("made")
        connection.close()

    def check(path: str, acked: Sequence[object]) -> str:
        try:
            connection = open_writer(
                path, synchronous="full", cache_bytes=1 << 20, wal_keep_bytes=8 * 4120
            )
        except OpenRefused as refused:
            return f"refused: {refused.message}"
        done = migrate(connection, path)
        sound = pragma(connection, "integrity_check") == "ok"
        whole = pragma(connection, "auto_vacuum") == 2
        connection.close()
        if acked and done.from_version != done.to_version:
            return "lost"
        return "ok" if sound and whole else "corrupt"

    images = 2000 if campaign else 300
    result = cut_power(making, check, tmp_path, images=images)
    assert {cut.verdict for cut in result.cuts} == {"ok"}


# The recorder and its model of a disk.


def test_the_image_after_the_last_entry_is_the_disk_itself(tmp_path: Path) -> None:
    log = record(ledger("full"), str(tmp_path / "power.db"))
    image = image_at(log, len(log), "written", seed=1)
    on_disk = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert image == on_disk
    assert len(image["power.db"]) > 100_000


def test_a_file_that_was_there_before_is_part_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "power.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE rows (n INTEGER)").fetchall()
    connection.close()
    before = path.read_bytes()

    def workload(path: str, vfs: str, ack: Callable[[object], None]) -> None:
        connection = apsw.Connection(path, vfs=vfs)
        connection.execute("INSERT INTO rows VALUES (1)").fetchall()
        connection.close()

    log = record(workload, str(path))
    assert log[0] == Found("power.db", before)
    assert image_at(log, 1, "synced", seed=1) == {"power.db": before}


def test_what_is_synced_survives_and_what_is_not_may_or_may_not() -> None:
    disk = Disk()
    for entry in (Write("f", 0, b"a" * 1024), Sync("f"), Write("f", 0, b"b" * 1024)):
        disk.play(entry)
    assert disk.image("synced", random.Random(1)) == {"f": b"a" * 1024}
    assert disk.image("written", random.Random(1)) == {"f": b"b" * 1024}
    subsets = {disk.image("subset", random.Random(seed))["f"] for seed in range(100)}
    a, b = b"a" * 512, b"b" * 512
    assert subsets == {a + a, a + b, b + a, b + b}
    torn = {disk.image("torn", random.Random(seed))["f"] for seed in range(100)}
    assert torn == {a + a, b + a, b + b}


def test_a_sync_of_one_file_says_nothing_of_another() -> None:
    disk = Disk()
    for entry in (Write("f", 0, b"f"), Write("g", 0, b"g"), Sync("f")):
        disk.play(entry)
    assert disk.image("synced", random.Random(1)) == {"f": b"f"}


def test_a_truncation_counts_when_it_is_synced_and_may_also_lengthen() -> None:
    disk = Disk()
    for entry in (Write("f", 0, b"abcdef"), Sync("f"), Truncate("f", 2)):
        disk.play(entry)
    assert disk.image("synced", random.Random(1)) == {"f": b"abcdef"}
    disk.play(Sync("f"))
    assert disk.image("synced", random.Random(1)) == {"f": b"ab"}
    disk.play(Truncate("f", 4))
    assert disk.image("written", random.Random(1)) == {"f": b"ab\0\0"}


def test_an_unlink_that_was_not_synced_may_come_undone() -> None:
    disk = Disk()
    for entry in (Write("f", 0, b"old"), Sync("f"), Delete("f", synced=False), Mark(1)):
        disk.play(entry)
    found = [disk.image("subset", random.Random(seed)) for seed in range(50)]
    assert {} in found
    assert {"f": b"old"} in found
    assert disk.image("synced", random.Random(1)) == {}
    disk.play(Write("f", 0, b"new"))
    disk.play(Sync("f"))
    assert {str(disk.image("subset", random.Random(seed))) for seed in range(50)} == {
        str({"f": b"new"})
    }


def test_the_same_seed_makes_the_same_images(tmp_path: Path) -> None:
    log = record(ledger("normal"), str(tmp_path / "power.db"))
    middle = len(log) // 2
    images = [image_at(log, middle, "subset", seed) for seed in (5, 5, 6)]
    assert images[0] == images[1]
    assert images[0] != images[2]


def test_a_campaign_can_be_looked_into_cut_by_cut(tmp_path: Path) -> None:
    """What a red campaign needs: the very image, made again from the cut."""
    result = cut_power(ledger("normal"), check_ledger, tmp_path, images=40)
    cut = next(cut for cut in result.cuts if cut.verdict == "lost")
    path = tmp_path / "again" / "power.db"
    write_image(str(path), image_at(result.log, cut.entries, cut.survival, cut.seed))
    acked = [e.value for e in result.log[: cut.entries] if isinstance(e, Mark)]
    assert check_ledger(str(path), acked) == "lost"


def test_a_recorder_is_gone_after_a_workload_that_failed(tmp_path: Path) -> None:
    def failing(path: str, vfs: str, ack: Callable[[object], None]) -> None:
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        record(failing, str(tmp_path / "power.db"))
    assert "power" not in apsw.vfs_names()
    with pytest.raises(ValueError, match="registered already"):
        PowerVFS(apsw.vfs_names()[0])
