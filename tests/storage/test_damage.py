"""A file that was damaged is refused, or `verify` names the place, or not one event has changed
(and where a projection has, `rebuild` shows it).

Bits flip, pages are swapped, blanked and cut off; the WAL that a crash left is cut, flipped, put in
another order, taken away or taken from another time. Never an event that is silently another.
A few dozen by default, thousands with `--campaign`.
"""

import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.config import Config
from palyra_actors.engine import Engine
from palyra_actors.errors import InternalFault, OpenRefused, StorageUnavailable
from palyra_actors.storage.rebuild import Rebuild
from tests.faults.rig import NO_BUDGET, rig
from tests.figures import Tell
from tests.storage.test_transfer import lived_through
from tests.system.harness import event

PAGE = 4096
FRAME = PAGE + 24
SMALL: Config = NO_BUDGET.replaced("storage", wal_keep_bytes=0, readers=1)
SESSION = "01J00000000000000000000000"


def flipped(data: bytearray, chance: random.Random) -> bytearray:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def swapped(data: bytearray, chance: random.Random) -> bytearray:
    a, b = (PAGE * n for n in chance.sample(range(1, len(data) // PAGE), 2))
    data[a : a + PAGE], data[b : b + PAGE] = data[b : b + PAGE], data[a : a + PAGE]
    return data


def blanked(data: bytearray, chance: random.Random) -> bytearray:
    at = PAGE * chance.randrange(len(data) // PAGE)
    data[at : at + PAGE] = bytes(PAGE)
    return data


def cut(data: bytearray, chance: random.Random) -> bytearray:
    return data[: PAGE * chance.randrange(1, len(data) // PAGE)]


def doubled(data: bytearray, chance: random.Random) -> bytearray:
    a, b = (PAGE * n for n in chance.sample(range(1, len(data) // PAGE), 2))
    data[b : b + PAGE] = data[a : a + PAGE]
    return data


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A database that was closed, and its events."""
    folder = tmp_path_factory.mktemp("whole")
    lived_through(folder / "journal.db")
    return folder, events_of(folder / "journal.db")


def events_of(path: Path) -> list[Any]:
    with Engine.open(path, SMALL) as engine:
        return list(engine.events())


def outcome(path: Path, true: list[Any], kept: Callable[[], bytes]) -> str:
    """What comes of opening it, in a word; a refusal has not changed the file."""
    before = kept()
    try:
        engine = Engine.open(path, SMALL)
    except (OpenRefused, StorageUnavailable):
        assert kept() == before, "left as it is"
        return "refused"
    with engine:
        try:
            found = engine.verify()
            if not found.valid:
                assert found.first_bad_seq is not None
                return "found by verify"
            assert list(engine.events()) == true, "an event is silently another"
        except (StorageUnavailable, InternalFault):
            return "not readable"
    with closing(Rebuild(path)) as made:
        for _ in made.run():
            pass
        return "found by rebuild" if made.compare().different else "harmless"


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("damage", [flipped, swapped, blanked, cut, doubled])
def test_damage_to_the_file_is_refused_or_found_or_harmless(
    whole: tuple[Path, list[Any]],
    tmp_path: Path,
    campaign: bool,
    damage: Callable[[bytearray, random.Random], bytearray],
    figure: Tell,
) -> None:
    folder, true = whole
    seen: Counter[str] = Counter()
    for seed in range(400 if campaign else 40 if damage is flipped else 8):
        path = tmp_path / str(seed) / "journal.db"
        shutil.copytree(folder, path.parent)
        path.write_bytes(damage(bytearray(path.read_bytes()), random.Random(seed)))
        seen[outcome(path, true, path.read_bytes)] += 1
    sys.stdout.write(f"{damage.__name__}: {dict(seen)}\n")
    figure(13, "damaged files", seen.total())
    figure(15, "damaged files refused, each left as it was", seen["refused"])
    if damage is not flipped:
        assert seen["refused"], "most of it is seen at once"


# -- the WAL of a crash ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any], int]:
    """What a kill left: database, WAL, anchor; the same some events earlier; the events; how many
    frames of the WAL are in use."""
    folder = tmp_path_factory.mktemp("crash")
    now, earlier = folder / "now", folder / "earlier"
    with rig(folder / "live" / "journal.db", SMALL) as works:
        for number in range(24):
            works.append(event(SESSION, payload={"n": number, "text": "x" * 700})).ok()
            if number in (11, 23):
                seq = number + 1
                works.eventually(
                    lambda seq=seq: works.works.anchors.anchored.seq == seq,  # type: ignore[misc]
                    "the head is anchored",
                )
                into = earlier if number == 11 else now
                into.mkdir()
                for name in ("journal.db", "journal.db-wal", "journal.db-anchor"):
                    shutil.copy(works.path.with_name(name), into / name)
    frames = (now / "journal.db-wal").stat().st_size // FRAME
    shutil.copytree(now, folder / "look")
    return now, earlier, events_of(folder / "look" / "journal.db"), frames


def wal_flipped(data: bytearray, chance: random.Random, earlier: bytes) -> bytearray:
    return flipped(data, chance)


def wal_cut(data: bytearray, chance: random.Random, earlier: bytes) -> bytearray:
    return data[: chance.randrange(len(data))]


def wal_swapped(data: bytearray, chance: random.Random, earlier: bytes) -> bytearray:
    a, b = (32 + FRAME * n for n in chance.sample(range((len(data) - 32) // FRAME), 2))
    data[a : a + FRAME], data[b : b + FRAME] = data[b : b + FRAME], data[a : a + FRAME]
    return data


def wal_gone(data: bytearray, chance: random.Random, earlier: bytes) -> bytearray:
    return bytearray()


def wal_of_another_time(data: bytearray, chance: random.Random, earlier: bytes) -> bytearray:
    return bytearray(earlier)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "damage", [wal_flipped, wal_cut, wal_swapped, wal_gone, wal_of_another_time]
)
def test_damage_to_the_wal_of_a_crash_is_refused_because_the_anchor_has_seen_more(
    crashed: tuple[Path, Path, list[Any], int],
    tmp_path: Path,
    campaign: bool,
    damage: Callable[[bytearray, random.Random, bytes], bytearray],
    figure: Tell,
) -> None:
    """SQLite itself takes what is left of a WAL for all of it, and says nothing."""
    now, earlier, true, _ = crashed
    older = (earlier / "journal.db-wal").read_bytes()
    once = damage in (wal_gone, wal_of_another_time)
    seen: Counter[str] = Counter()
    for seed in range(1 if once else 300 if campaign else 6):
        path = tmp_path / str(seed) / "journal.db"
        shutil.copytree(now, path.parent)
        wal = path.with_name("journal.db-wal")
        wal.write_bytes(damage(bytearray(wal.read_bytes()), random.Random(seed), older))
        seen[outcome(path, true, lambda: path.read_bytes() + wal.read_bytes())] += 1  # noqa: B023
    sys.stdout.write(f"{damage.__name__}: {dict(seen)}\n")
    figure(13, "damaged WALs", seen.total())
    figure(20, "damaged WALs of a crash", seen.total())
    figure(20, "let in and lost", seen["found by verify"], most=0)
    assert seen["found by verify"] == 0, "it is not let in"
    assert seen["refused"]


def test_a_crash_without_damage_is_opened_whole(
    crashed: tuple[Path, Path, list[Any], int], tmp_path: Path
) -> None:
    now, _, true, frames = crashed
    shutil.copytree(now, tmp_path / "now")
    assert frames > 20, "there was something to damage"
    assert events_of(tmp_path / "now" / "journal.db") == true
    assert len(true) == 24
