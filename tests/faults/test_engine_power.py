"""Power cuts through the engine itself: its writer, its groups, its checkpoints, its start.

What `test_power` shows of a COMMIT, for everything that stands before and behind one: an event
that any client was told is stored has to be on every disk that a power cut can leave.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.engine import Engine
from palyra_actors.storage.connection import Synchronous, open_reader, pragma
from palyra_actors.storage.journal import JournalReader
from palyra_actors.testing.power import Mark, Workload, Write, cut_power
from tests.figures import Tell
from tests.system.harness import event

WRITERS = 4
APPENDS = 40
SESSIONS = [new_id() for _ in range(3)]


def config(synchronous: Synchronous) -> Config:
    """No budget, because a loaded machine may be slow; checkpoints come every MiB."""
    return (
        Config()
        .replaced("budget", write_ms=0)
        .replaced(
            "storage", synchronous=synchronous, wal_keep_bytes=1 << 20, checkpoint_bytes=1 << 20
        )
    )


def append_from_all_sides(synchronous: Synchronous) -> Workload:
    """Some clients at once, so that groups form; each passes on what it was told."""

    def workload(path: str, vfs: str, ack: Callable[[object], None]) -> None:
        with Engine.open(path, config(synchronous), vfs=vfs) as engine:
            failures: list[BaseException] = []

            def write(number: int) -> None:
                try:
                    for turn in range(APPENDS):
                        count = 1 + (turn + number) % 3
                        size = (40, 400, 14_000)[turn % 3]
                        body = {"text": "x" * size, "turn": turn}
                        events = [
                            event(SESSIONS[(number + place) % 3], payload=body)
                            for place in range(count)
                        ]
                        result = engine.append(events)
                        ack(tuple((one.seq, one.hash, count) for one in result.results))
                except BaseException as failure:  # noqa: BLE001 - raised again below
                    failures.append(failure)

            threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if failures:
                raise failures[0]

    return workload


def check(path: str, acked: Sequence[Any]) -> str:
    """`ok`, `lost` (an acknowledged event is missing or another) or `corrupt`."""
    told = [one for results in acked for one in results]
    try:
        stock = apsw.Connection(path)
        sound = pragma(stock, "integrity_check") == "ok"
        made = stock.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'events'").get
        hashes: dict[Any, Any] = {}
        if made:
            rows: list[Any] = stock.execute("SELECT seq, hash FROM events").fetchall()
            hashes = dict(rows)
        stock.close()
    except apsw.Error:
        return "corrupt"
    if not sound or sorted(hashes) != list(range(1, len(hashes) + 1)):
        return "corrupt"
    if hashes and not chain_holds(path, len(hashes)):
        return "corrupt"
    return "ok" if all(hashes.get(seq) == digest for seq, digest, _ in told) else "lost"


def chain_holds(path: str, head: int) -> bool:
    reader = JournalReader(open_reader(path, cache_bytes=1 << 20))
    try:
        return reader.check(1, head, None).first_bad_seq is None
    finally:
        reader.close()


def goes_on(path: str, acked: Sequence[Any]) -> str:
    """As `check`, and then the engine itself starts on the image, verifies, and writes on."""
    verdict = check(path, acked)
    if verdict != "ok":
        return verdict
    with Engine.open(path, config("full")) as engine:
        before = engine.head().seq
        verified = engine.verify()
        added = engine.append([event(session) for session in SESSIONS])
        ends = dict.fromkeys(SESSIONS, 0)
        for stored in engine.events():
            ends[stored.stream_id] += 1
            if stored.stream_seq != ends[stored.stream_id]:
                return "misnumbered"
        if not verified.valid or [one.seq for one in added.results] != [
            before + 1,
            before + 2,
            before + 3,
        ]:
            return "misnumbered"
    return "ok"


def show(name: str, verdicts: object) -> None:
    """The figures, in the output of `pytest -rP` or `-s`."""
    sys.stdout.write(f"{name}: {verdicts}\n")


@pytest.mark.timeout(900)
def test_no_power_cut_takes_an_event_that_the_engine_acknowledged(
    tmp_path: Path, campaign: bool, figure: Tell
) -> None:
    images = 2_000 if campaign else 200
    result = cut_power(append_from_all_sides("full"), check, tmp_path, images=images)
    show("engine, synchronous=full", dict(result.verdicts()))
    figure(1, "power cuts", len(result.cuts))
    figure(1, "power cuts that lost or broke something", images - result.count("ok"), most=0)
    assert result.acked == WRITERS * APPENDS
    marks = [place for place, entry in enumerate(result.log) if isinstance(entry, Mark)]
    assert any(
        isinstance(entry, Write) and entry.file == "power.db"
        for entry in result.log[marks[0] : marks[-1]]
    ), "a checkpoint ran beside the writer"
    assert result.count("ok") == len(result.cuts) == images


@pytest.mark.timeout(900)
def test_the_same_campaign_finds_losses_where_commits_are_not_synced(
    tmp_path: Path, campaign: bool, figure: Tell
) -> None:
    """The control: were nothing lost here, the test above would prove nothing."""
    images = 2_000 if campaign else 200
    result = cut_power(append_from_all_sides("normal"), check, tmp_path, images=images)
    show("engine, synchronous=normal", dict(result.verdicts()))
    figure(1, "power cuts that lost with synchronous=NORMAL", result.count("lost"), least=1)
    assert result.count("lost") > len(result.cuts) // 10
    assert result.count("corrupt") == 0, "it loses, but breaks nothing"


@pytest.mark.timeout(900)
def test_an_engine_starts_on_what_a_power_cut_left_and_numbers_on(
    tmp_path: Path, campaign: bool
) -> None:
    images = 400 if campaign else 24
    result = cut_power(append_from_all_sides("full"), goes_on, tmp_path, images=images)
    show("engine started on the image", dict(result.verdicts()))
    assert result.count("ok") == len(result.cuts) == images
