"""The anchor: a tail that was acknowledged and is gone is noticed, at the start and by `verify`."""

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.actors import anchors as anchors_module
from palyra_actors.actors.anchors import Anchors
from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import ConfigInvalid, OpenRefused
from palyra_actors.storage import anchor
from palyra_actors.storage.port import Head
from tests.faults.rig import NO_BUDGET, Rig, rig
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, event

MODULE = vars(anchors_module)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def write(path: Path, events: int, session: str | None = None) -> Head:
    """Append so many events to one session, each in a commit of its own; the head then."""
    session = session or new_id()
    with Engine.open(path, NO_BUDGET) as engine:
        for number in range(events):
            engine.sessions.open(session).append("message_received", {"n": number}, actor="user")
        head = engine.head()
    return Head(head.seq, head.hash)


def refusal(path: Path) -> OpenRefused:
    """Why it is not opened; nothing in its folder has changed by that."""
    before = content(path.parent)
    with pytest.raises(OpenRefused) as refused:
        Engine.open(path, NO_BUDGET)
    assert content(path.parent) == before
    return refused.value


@pytest.fixture
def works(database: Path) -> Iterator[Rig]:
    with rig(database) as opened:
        yield opened


def test_a_clean_end_leaves_the_head_in_the_anchor_for_the_owner_only(database: Path) -> None:
    head = write(database, 3)
    file = Path(anchor.beside(database))
    line = f"palyra-anchor 2 3:{head.hash.hex()}"
    assert line in [text[: len(line)] for text in file.read_text().splitlines()]
    assert file.stat().st_mode & 0o777 == 0o600
    assert anchor.read(str(file)) == head


def test_an_older_copy_in_the_place_of_the_file_is_refused_and_nothing_is_touched(
    database: Path, tmp_path: Path
) -> None:
    session = new_id()
    write(database, 3, session)
    shutil.copy(database, tmp_path / "older.db")
    write(database, 4, session)
    shutil.copy(tmp_path / "older.db", database)
    refused = refusal(database)
    assert "4 acknowledged events are missing" in refused.message
    assert "--accept-loss" in str(refused.hint)
    assert refused.detail["first_lost_seq"] == 4


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_wal_that_lost_its_end_in_a_crash_is_refused_and_left_as_it_is(
    works: Rig, tmp_path: Path, kept: float
) -> None:
    session = new_id()
    for _ in range(8):
        works.append(event(session)).ok()
    works.eventually(lambda: works.works.anchors.anchored.seq == 8, "the head is anchored")
    image = tmp_path / "crashed"
    image.mkdir()
    for name in ("journal.db", "journal.db-wal", "journal.db-anchor"):
        shutil.copy(works.path.with_name(name), image / name)
    shutil.copytree(image, tmp_path / "whole")
    wal = image / "journal.db-wal"
    used = works.writer._storage._connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_NOOP)[0]
    os.truncate(wal, int(kept * used * 4120))
    with Engine.open(tmp_path / "whole" / "journal.db", NO_BUDGET) as engine:
        assert engine.head().seq == 8, "the same files, whole, are opened"
    before = {name: data for name, data in content(image).items() if not name.endswith("-shm")}
    with pytest.raises(OpenRefused, match=r"acknowledged events are missing"):
        Engine.open(image / "journal.db", NO_BUDGET)
    after = {name: data for name, data in content(image).items() if not name.endswith("-shm")}
    assert after == before


def test_another_journal_of_the_same_length_is_refused(database: Path, tmp_path: Path) -> None:
    write(database, 3)
    write(tmp_path / "other.db", 3)
    shutil.copy(tmp_path / "other.db", database)
    assert "event 3 of" in refusal(database).message


def test_a_file_that_is_gone_is_not_made_anew_where_events_were_seen(database: Path) -> None:
    write(database, 2)
    database.unlink()
    assert "2 acknowledged events are missing" in refusal(database).message
    assert not database.exists()


def test_an_anchor_that_is_behind_is_what_a_crash_leaves(database: Path) -> None:
    head = write(database, 5)
    with apsw.Connection(str(database)) as reader:
        third: Any = reader.execute("SELECT hash FROM events WHERE seq = 3").fetchall()[0][0]
    reader.close()
    anchor.write(anchor.beside(database), Head(3, third))
    with Engine.open(database, NO_BUDGET) as engine:
        assert engine.head().seq == 5
    assert anchor.read(anchor.beside(database)) == head


def test_a_missing_anchor_is_made_anew_and_the_log_says_so(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = write(database, 2)
    os.unlink(anchor.beside(database))
    with caplog.at_level(logging.WARNING):
        write(database, 0)
    assert "it is made from the head 2" in caplog.text
    assert anchor.read(anchor.beside(database)) == head


def head_of(seq: int) -> Head:
    return Head(seq, bytes([seq]) * 32)


def broken(content: bytes, *lines: int) -> bytes:
    """The anchor with a bit of each of these lines turned."""
    made = bytearray(content)
    for line in lines:
        made[line * anchor.SLOT_BYTES + 20] ^= 1
    return bytes(made)


def kept_by(path: Path, *seqs: int) -> anchor.Anchor:
    """What has written these heads, in turn."""
    keeper = anchor.Anchor(str(path))
    for seq in seqs:
        keeper.write(head_of(seq))
    return keeper


def test_an_anchor_of_one_line_is_read_and_replaced(database: Path) -> None:
    head = write(database, 3)
    file = Path(anchor.beside(database))
    file.write_text(f"palyra-anchor 1 3:{head.hash.hex()}\n")
    assert anchor.read(str(file)) == head
    head = write(database, 1)
    assert anchor.read(str(file)) == head
    assert file.stat().st_size == 2 * anchor.SLOT_BYTES
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_line_is_overwritten_where_it_stands_and_the_newer_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "anchor"
    keeper = kept_by(path, 1)
    inode = path.stat().st_ino
    for seq in range(2, 9):
        keeper.write(head_of(seq))
        assert anchor.read(str(path)) == head_of(seq)
    keeper.close()
    assert path.stat().st_ino == inode
    assert path.stat().st_size == 2 * anchor.SLOT_BYTES


@pytest.mark.parametrize("seqs", [(1, 2, 3), (1, 2, 3, 4)])
def test_a_power_cut_within_a_write_leaves_the_line_before(
    tmp_path: Path, seqs: tuple[int, ...]
) -> None:
    path = tmp_path / "anchor"
    kept_by(path, *seqs[:-1]).close()
    before = path.read_bytes()
    kept_by(path, *seqs).close()
    after = path.read_bytes()
    assert sum(before[at : at + 4096] != after[at : at + 4096] for at in (0, 4096)) == 1
    for size in range(2 * anchor.SLOT_BYTES):
        if before[size] == after[size]:
            continue  # torn here it is as it is torn one byte before
        path.write_bytes(after[:size] + before[size:])
        first = anchor.read(str(path))
        path.write_bytes(before[:size] + after[size:])
        assert {first, anchor.read(str(path))} <= {head_of(seqs[-2]), head_of(seqs[-1])}


def test_either_line_alone_will_do_and_none_is_no_anchor(tmp_path: Path) -> None:
    path = tmp_path / "anchor"
    kept_by(path, 1, 2, 3).close()
    whole = path.read_bytes()
    found = []
    for line in (0, 1):
        path.write_bytes(broken(whole, line))
        found.append(anchor.read(str(path)))
    assert sorted(head.seq for head in found if head) == [2, 3]
    for content in (broken(whole, 0, 1), whole[:-1], whole + b"\n", whole[: anchor.SLOT_BYTES]):
        path.write_bytes(content)
        with pytest.raises(OpenRefused, match="is no anchor"):
            anchor.read(str(path))


def test_an_anchor_that_is_taken_away_while_it_is_written_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "anchor"
    keeper = kept_by(path, 1, 2)
    path.unlink()
    keeper.write(head_of(3))
    assert anchor.read(str(path)) == head_of(3)
    anchor.write(str(path), head_of(4))
    keeper.write(head_of(5))
    keeper.close()
    assert anchor.read(str(path)) == head_of(5)


def test_a_line_that_could_not_be_synced_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes a page as clean after a failed sync: the next one would not write it."""
    path = tmp_path / "anchor"
    keeper = kept_by(path, 1, 2)
    inode = path.stat().st_ino

    def failing(descriptor: int) -> None:
        del descriptor
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        with pytest.raises(OSError, match="Input/output"):
            keeper.write(head_of(3))
    keeper.write(head_of(4))
    keeper.close()
    assert path.stat().st_ino != inode
    assert anchor.read(str(path)) == head_of(4)


@pytest.mark.parametrize("text", [b"", b"palyra-anchor 1 3:abc\n", b"palyra-anchor 2 1:\n"])
def test_an_anchor_that_says_nothing_is_refused_and_kept(database: Path, text: bytes) -> None:
    write(database, 2)
    Path(anchor.beside(database)).write_bytes(text)
    assert "is no anchor" in refusal(database).message


def test_an_anchor_may_lie_elsewhere(database: Path, tmp_path: Path) -> None:
    config = NO_BUDGET.replaced("engine", anchor=str(tmp_path / "elsewhere"))
    with Engine.open(database, config) as engine:
        engine.sessions.open(new_id()).append("message_received", {}, actor="user")
    found = anchor.read(str(tmp_path / "elsewhere"))
    assert found is not None
    assert found.seq == 1
    assert not os.path.exists(anchor.beside(database))


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("through_a_link", [False, True])
def test_an_anchor_may_not_lie_where_the_database_does(
    tmp_path: Path, suffix: str, through_a_link: bool
) -> None:
    file = tmp_path / "new.db"
    chosen = tmp_path / f"new.db{suffix}"
    if through_a_link:
        (tmp_path / "link").symlink_to(chosen)
        chosen = tmp_path / "link"
    with pytest.raises(ConfigInvalid) as refused:
        Engine.open(file, NO_BUDGET.replaced("engine", anchor=str(chosen)))
    assert refused.value.field == "engine.anchor"
    assert [one.name for one in tmp_path.iterdir()] == (["link"] if through_a_link else [])


def test_an_anchor_that_cannot_be_written_degrades_health_and_stops_no_ack(
    works: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    works.append(event(new_id())).ok()
    real = works.works.anchors._write

    def full(head: Head) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(works.works.anchors, "_write", full)
    works.append(event(new_id())).ok()
    works.until("degraded")
    assert "anchor cannot be written" in works.works.health()["reasons"][0]
    works.append(event(new_id())).ok()
    monkeypatch.setattr(works.works.anchors, "_write", real)
    works.until("ready")
    assert works.works.anchors.anchored.seq == 3


def test_verify_finds_a_tail_that_is_cut_off_under_a_running_engine(works: Rig) -> None:
    session = new_id()
    for _ in range(6):
        works.append(event(session)).ok()
    works.eventually(lambda: works.works.anchors.anchored.seq == 6, "the head is anchored")
    assert works.ask("journal.verify").ok()["valid"] is True
    stranger = apsw.Connection(str(works.path))
    stranger.execute("DELETE FROM events WHERE seq > 4")
    stranger.close()
    found = works.ask("journal.verify").ok()
    assert (found["valid"], found["first_bad_seq"], found["checked"]) == (False, 5, 4)
    assert works.ask("journal.verify", {"to_seq": 4}).ok()["valid"] is True, "what was asked for"


def test_a_thousand_events_are_anchored_without_waiting_for_the_second(
    monkeypatch: pytest.MonkeyPatch, figure: Tell
) -> None:
    figure(20, "anchored every", anchors_module.EVERY_S, "s", most=1)
    figure(20, "or every", anchors_module.EVERY_EVENTS, "events", most=1_000)
    assert anchors_module.EVERY_EVENTS < 1_000
    assert anchors_module.EVERY_S < 1.0
    monkeypatch.setitem(MODULE, "EVERY_S", 3600.0)
    written, seen = threading.Event(), list[int]()

    def keep(head: Head) -> None:
        seen.append(head.seq)
        written.set()

    kept = Anchors(keep, Head(0, bytes(32)), Head(0, bytes(32)))
    kept.start()
    for seq in range(1, anchors_module.EVERY_EVENTS):
        kept.note(Head(seq, bytes(32)))
    assert seen == []
    kept.note(Head(anchors_module.EVERY_EVENTS, bytes(32)))
    assert written.wait(DEADLINE_S)
    kept.note(Head(anchors_module.EVERY_EVENTS + 1, bytes(32)))
    assert kept.stop(DEADLINE_S)
    assert seen == [anchors_module.EVERY_EVENTS, anchors_module.EVERY_EVENTS + 1], "and the last"
