"""Copies: whole and proven or not there; and the way back, which loses nothing in silence."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import OpenRefused, StorageUnavailable
from palyra_actors.storage import anchor, audit, backup, journal, livepages, overlay
from palyra_actors.storage.audit import no_rest
from palyra_actors.storage.backup import back_up, restore
from palyra_actors.storage.connection import PAGE_BYTES, open_reader
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.port import Head
from tests.faults.rig import NO_BUDGET
from tests.figures import Tell

TEXT = "a sentence that would be found again, and some more of it " * 8
BACKUP: Any = backup


@pytest.fixture
def live(database: Path) -> Iterator[Engine]:
    with Engine.open(database, NO_BUDGET) as engine:
        yield engine


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "agents.backup"


def fill(engine: Engine, events: int, session: str | None = None) -> str:
    conversation = engine.sessions.open(session or new_id())
    for number in range(events):
        conversation.append("message_received", {"n": number, "text": TEXT}, actor="user")
    return conversation.session_id


def head_of(path: Path) -> Head:
    with closing(JournalReader(open_reader(path, cache_bytes=1 << 20))) as reader:
        return reader.head()


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def pages(path: Path) -> list[bytes]:
    """Without the counters of page 1 that every copy moves on."""
    data = bytearray(path.read_bytes())
    data[24:28] = data[40:44] = data[92:96] = bytes(4)
    return [bytes(data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES)]


# -- a copy ---------------------------------------------------------------------------------------


def test_a_copy_made_under_load_is_an_exact_prefix_with_all_that_was_acknowledged_before(
    live: Engine, copy: Path, tmp_path: Path, figure: Tell
) -> None:
    fill(live, 200)
    leave, written = threading.Event(), list[int]()

    def load() -> None:
        conversation = live.sessions.open(new_id())
        while not leave.is_set():
            stored = conversation.append("message_received", {"text": TEXT}, actor="user")
            written.append(stored.seq)

    writer = threading.Thread(target=load)
    writer.start()
    try:
        for _ in range(5):
            acked = live.head().seq
            made = live.backup(copy)
            figure(17, "copies made under load", 1)
            figure(17, "acknowledged before and missing", max(0, acked - made.head.seq), most=0)
            assert acked <= made.head.seq <= live.head().seq
            assert live.verify(expect=as_seen(made.head)).valid, "a prefix of the live journal"
            assert head_of(copy) == made.head
    finally:
        leave.set()
        writer.join()
    assert len(written) > 20, "writing went on"
    found = restore(copy, tmp_path / "back.db")
    assert (found.head, found.checked) == (made.head, made.head.seq)


def as_seen(head: Head) -> Any:
    from palyra_actors.api.results import Head as Seen

    return Seen(head.seq, head.hash)


def test_over_an_older_copy_only_the_pages_that_differ_are_written_and_it_equals_a_new_one(
    live: Engine, copy: Path, tmp_path: Path
) -> None:
    session = fill(live, 600)
    first = live.backup(copy)
    assert first.pages_written == first.pages
    fill(live, 20, session)
    second = live.backup(copy)
    assert second.checked == 20, "the pages before are equal to the live ones"
    assert 0 < second.pages_written < second.pages / 3
    live.backup(tmp_path / "new")
    assert pages(copy) == pages(tmp_path / "new")
    assert anchor.read(anchor.beside(copy)) == second.head
    assert not os.path.exists(overlay.changes_of(str(copy)))


def test_a_copy_grows_small_with_its_database(live: Engine, copy: Path, tmp_path: Path) -> None:
    session = new_id()
    for _ in range(10):
        live.sessions.open(session).append("x.a", {"text": "x" * 60_000}, actor="user")
    before = live.backup(copy)
    live.sessions.open(session).erase()
    after = live.backup(copy)
    assert after.pages < before.pages
    assert copy.stat().st_size == after.pages * PAGE_BYTES
    live.backup(tmp_path / "new")
    assert pages(copy) == pages(tmp_path / "new")


def test_what_was_erased_leaves_the_copy_with_the_next_one(live: Engine, copy: Path) -> None:
    conversation = live.sessions.open(new_id())
    conversation.append("message_received", {"text": "find this needle"}, actor="user")
    live.backup(copy)
    assert b"find this needle" in copy.read_bytes()
    conversation.erase()
    live.backup(copy)
    assert b"find this needle" not in copy.read_bytes()


def test_a_copy_is_its_owners_alone(live: Engine, copy: Path) -> None:
    fill(live, 2)
    live.backup(copy)
    modes = {name.stat().st_mode & 0o777 for name in copy.parent.glob("agents.backup*")}
    assert modes == {0o600}


def test_a_bit_that_flips_in_the_older_copy_is_put_right_by_the_next(
    live: Engine, copy: Path, tmp_path: Path
) -> None:
    fill(live, 100)
    live.backup(copy)
    flip(copy, copy.read_bytes().index(TEXT.encode()) + 7)
    live.backup(copy)
    live.backup(tmp_path / "new")
    assert pages(copy) == pages(tmp_path / "new")


@pytest.mark.parametrize("older", [False, True])
def test_a_source_that_is_damaged_gives_no_copy_and_the_older_one_stays(
    database: Path, copy: Path, older: bool
) -> None:
    with Engine.open(database, NO_BUDGET) as engine:
        session = fill(engine, 40)
        if older:
            engine.backup(copy)
        before = content(copy.parent)
        fill(engine, 40, session)
    stranger = apsw.Connection(str(database))
    stranger.execute("UPDATE events SET payload = x'80' WHERE seq = 60")
    stranger.close()
    with pytest.raises(OpenRefused, match="does not hold at seq 60"):
        back_up(database, copy)
    after = content(copy.parent)
    after.pop("agents.backup-changes", None)
    assert after == before


def test_a_copy_of_another_journal_or_of_a_later_state_is_not_overwritten(
    live: Engine, database: Path, copy: Path, tmp_path: Path
) -> None:
    fill(live, 3)
    with Engine.open(tmp_path / "other.db", NO_BUDGET) as other:
        fill(other, 3)
        other.backup(copy)
        before = copy.read_bytes()
        with pytest.raises(OpenRefused, match="of another journal"):
            live.backup(copy)
    (tmp_path / "notes.txt").write_text("not a database, but somebody's")
    with pytest.raises(OpenRefused, match="not a SQLite database"):
        live.backup(tmp_path / "notes.txt")
    for name in (database, database.parent / "hard.db"):
        if not name.exists():
            os.link(database, name)
        with pytest.raises(OpenRefused, match="another file"):
            live.backup(name)
    assert copy.read_bytes() == before


def test_a_disk_without_room_is_said_before_it_is_full(
    live: Engine, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(live, 3)
    usage = shutil.disk_usage(copy.parent)
    monkeypatch.setattr(BACKUP.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(StorageUnavailable, match="there are 10000"):
        live.backup(copy)
    assert list(copy.parent.glob("agents*")) == []


def test_a_disk_that_is_full_on_the_way_is_said_and_leaves_nothing(
    live: Engine, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(live, 600)
    real, left = os.pwrite, [100]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}") == f"{copy}.partial":
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            data = data[: len(data) // 2 + 1]  # a part, where there is no room for the rest
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(StorageUnavailable, match="No space left"):
        live.backup(copy)
    assert list(copy.parent.glob("agents*")) == []
    left[0] = 1 << 30
    assert live.backup(copy).head.seq == 600, "what was written in parts is whole"


# -- beside writers -------------------------------------------------------------------------------


def stranger(database: Path) -> Any:
    """A connection of another process, as far as the WAL knows."""
    connection = apsw.Connection(str(database))
    connection.set_busy_timeout(5_000)
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    return closing(connection)


def test_a_copy_gives_up_before_the_wal_keeps_writers_out(
    live: Engine, database: Path, copy: Path
) -> None:
    fill(live, 3)
    with stranger(database) as other:

        def rest(took_s: float) -> None:
            other.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)

        with pytest.raises(StorageUnavailable, match="grew too much"):
            back_up(database, copy, rest=rest, wal_bytes_max=PAGE_BYTES)
    assert not copy.exists()
    assert not copy.with_name("agents.backup.partial").exists()


@pytest.mark.parametrize("older", [False, True])
def test_a_snapshot_of_somebody_else_that_holds_the_wal_keeps_no_copy_from_being_made(
    live: Engine, database: Path, copy: Path, older: bool
) -> None:
    """The WAL is as large without it."""
    session = fill(live, 20)
    if older:
        live.backup(copy)
    with stranger(database) as reader, stranger(database) as other:
        reader.execute("BEGIN").fetchall()
        reader.execute("SELECT count(*) FROM events").fetchall()
        fill(live, 20, session)
        other.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        made = back_up(database, copy, rest=lambda took_s: None, wal_bytes_max=PAGE_BYTES)
    assert made.head.seq == 40


def test_a_copy_that_let_the_wal_go_begins_again_from_what_it_has(
    live: Engine, database: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two snapshots the WAL starts anew, and the second finds little to write."""
    session = fill(live, 1_000)
    snapshot, haste = BACKUP._Live.snapshot, BACKUP._Live.haste
    held, looks = list[int](), [0]

    def noted(source: Any) -> Any:
        held.append(live.head().seq)
        return snapshot(source)

    def grown(source: Any) -> Any:
        looks[0] += 1
        if looks[0] == 1:
            fill(live, 50, session)
            other.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
            source._wal_bytes_max = PAGE_BYTES
        try:
            return haste(source)
        finally:
            source._wal_bytes_max = BACKUP.WAL_BYTES_MAX

    monkeypatch.setattr(BACKUP._Live, "snapshot", noted)
    monkeypatch.setattr(BACKUP._Live, "haste", grown)
    with stranger(database) as other:
        other.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART)
        made = back_up(database, copy, rest=lambda took_s: None)
    assert (held, made.head.seq) == ([1_000, 1_050], 1_050)
    live.backup(tmp_path / "new")
    assert pages(copy) == pages(tmp_path / "new")


def test_most_is_copied_while_no_snapshot_is_held(
    live: Engine, database: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checkpoints and commits between any two pieces it is one state nevertheless."""
    session = fill(live, 1_000)
    monkeypatch.setattr(BACKUP, "FEW_PAGES", 0)
    put, snapshot = livepages.Anew.put, BACKUP._Live.snapshot
    held, differed = [False], dict[bool, int]({False: 0, True: 0})

    def noted(sink: Any, first: int, data: bytes) -> int:
        count = put(sink, first, data)
        differed[held[0]] += count
        return count

    @contextmanager
    def holding(source: Any) -> Iterator[None]:
        with snapshot(source):
            held[0] = True
            yield
            held[0] = False

    with stranger(database) as other:

        def rest(took_s: float) -> None:
            if live.head().seq < 1_050:
                fill(live, 5, session)
            mode = apsw.SQLITE_CHECKPOINT_PASSIVE if held[0] else apsw.SQLITE_CHECKPOINT_RESTART
            other.wal_checkpoint("main", mode)

        monkeypatch.setattr(livepages.Anew, "put", noted)
        monkeypatch.setattr(BACKUP._Live, "snapshot", holding)
        made = back_up(database, copy, rest=rest)
    assert differed[True] < differed[False] / 5
    assert 1_000 < made.head.seq <= made.checked <= live.head().seq
    assert head_of(copy) == made.head


@pytest.mark.parametrize("when", ["before its frames", "after its frames"])
def test_a_wal_that_starts_anew_while_it_is_read_is_no_state(
    live: Engine, database: Path, tmp_path: Path, when: str
) -> None:
    fill(live, 3)
    with (
        stranger(database) as other,
        closing(livepages.LivePages(str(database), None)) as found,
        closing(livepages.Anew(str(tmp_path / "copy"))) as sink,
    ):
        frames = other.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_NOOP)[0]
        counts = [0]

        def anew() -> None:
            other.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART)
            fill(live, 1)

        def count() -> int:
            counts[0] += 1
            if counts[0] == 2 and when == "before its frames":
                anew()
            return int(frames)

        def read_all() -> None:
            for _ in found.move_wal(sink, count):
                anew()

        with pytest.raises(livepages.Restarted):
            read_all()


# -- cut short ------------------------------------------------------------------------------------


class PowerCut(BaseException):
    pass


def cut(*_: object) -> Any:
    raise PowerCut


@pytest.fixture
def syncs(copy: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was synced of a copy on its way: the file, and its pages by then."""
    synced, fdatasync = list[tuple[str, int]](), os.fdatasync

    def noted(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.startswith(str(copy)):  # an anchor is synced by a thread of its own
            synced.append((name, os.fstat(descriptor).st_size // PAGE_BYTES))
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", noted)
    return synced


def test_beside_an_engine_no_sync_has_much_to_do(
    live: Engine, copy: Path, syncs: list[tuple[str, int]]
) -> None:
    """Every commit waits for the disk while a whole copy is synced at once."""
    fill(live, 1_500)
    taken: list[float] = []
    back_up(live.path, copy, rest=taken.append)
    sizes = [0, *(pages for _, pages in syncs)]
    assert max(late - early for early, late in pairwise(sizes)) <= 2 * BACKUP.STEP_PAGES
    assert len(taken) > len(syncs) > 1  # the check of its pages and of its chain rests, too


def test_over_an_older_copy_no_sync_has_much_to_do_either(
    live: Engine, copy: Path, syncs: list[tuple[str, int]]
) -> None:
    fill(live, 10)
    back_up(live.path, copy)
    fill(live, 1_500)
    done = back_up(live.path, copy, rest=lambda took_s: None)
    pieces, names = done.pages_written // BACKUP.STEP_PAGES, [name for name, _ in syncs]
    assert pieces > 0
    assert names.count(overlay.changes_of(str(copy))) >= pieces
    assert names.count(str(copy)) == pieces


@pytest.mark.parametrize("case", [(0.2, True, True), (0.4, False, True), (0.6, False, False)])
def test_a_copy_makes_haste_where_the_wal_grows_meanwhile(
    live: Engine,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    syncs: list[tuple[str, int]],
    case: tuple[float, bool, bool],
) -> None:
    """While it holds a snapshot it does not rest then, nor is it synced piece by piece."""
    fill(live, 1_500)
    used = int(case[0] * BACKUP.WAL_BYTES_MAX)
    snapshot, seen = BACKUP._Live.snapshot, list[tuple[int, int]]()
    taken: list[float] = []

    @contextmanager
    def noted(source: Any) -> Iterator[None]:
        with snapshot(source):
            yield
        seen.append((len(taken), len(syncs)))

    monkeypatch.setattr(BACKUP._Live, "snapshot", noted)
    monkeypatch.setattr(BACKUP, "wal_used_bytes", lambda *about: used)
    monkeypatch.setattr(BACKUP, "PASSES_MAX", 0)
    back_up(live.path, copy, rest=taken.append)
    assert [count > 0 for count in seen[0]] == list(case[1:])


@pytest.mark.parametrize("older", [False, True])
def test_while_a_copy_is_proven_the_wal_is_free(
    live: Engine, copy: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    fill(live, 10)
    if older:
        back_up(live.path, copy)
        fill(live, 10)
    prove, left = BACKUP._prove, list[tuple[int, int]]()

    def proven(*about: Any, **more: Any) -> Any:
        with closing(apsw.Connection(str(live.path))) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            left.append(connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART))
        return prove(*about, **more)

    monkeypatch.setattr(backup, "_prove", proven)
    back_up(live.path, copy)
    assert len(left) == 1


def test_where_nobody_is_at_work_a_copy_is_synced_once(
    live: Engine, copy: Path, syncs: list[tuple[str, int]]
) -> None:
    fill(live, 600)
    back_up(live.path, copy)
    assert syncs == []


def test_a_process_of_its_own_makes_way_for_an_engine_at_work(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(os, "nice", steps.append)
    for holder, makes_way in ((None, False), (os.getpid(), False), (1, True)):
        monkeypatch.setattr(audit, "holder_of", lambda file, holder=holder: holder)
        assert (audit.making_way(database) is not no_rest) == makes_way
    assert steps == [audit.NICE]


def test_a_check_of_all_pages_rests_on_its_way(
    live: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(live, 100)
    monkeypatch.setattr(journal, "CHECK_STEPS", 100)
    taken: list[float] = []
    with closing(JournalReader(open_reader(live.path, cache_bytes=1 << 20))) as reader:
        assert reader.faults(taken.append) == []
        rests = len(taken)
        assert reader.head().seq == 100
    assert 1 < rests == len(taken)


def test_changes_that_are_cut_short_leave_the_older_copy(
    live: Engine, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = fill(live, 30)
    first = live.backup(copy)
    fill(live, 30, session)
    with monkeypatch.context() as patch:
        patch.setattr(overlay.Overlay, "finish", cut)
        with pytest.raises(PowerCut):
            live.backup(copy)
    assert os.path.exists(overlay.changes_of(str(copy)))
    assert restore(copy, tmp_path / "back.db").head == first.head
    assert live.backup(copy).head.seq == 60


@pytest.mark.parametrize("moved", [0, 1, 7])
def test_changes_that_are_cut_short_while_they_are_moved_are_moved_to_their_end(
    live: Engine, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    session = fill(live, 60)
    live.backup(copy)
    fill(live, 60, session)
    real, left = os.pwrite, [moved]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(copy):
            if not left[0]:
                raise PowerCut
            left[0] -= 1
        return real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(PowerCut):
            live.backup(copy)
    assert restore(copy, tmp_path / "back.db").head.seq == 120


def test_a_copy_that_is_cut_short_at_first_is_not_there(
    live: Engine, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(live, 3)
    with monkeypatch.context() as patch:
        patch.setattr(BACKUP.os, "replace", cut)
        with pytest.raises(PowerCut):
            live.backup(copy)
    assert not copy.exists()
    assert live.backup(copy).head.seq == 3


def test_a_copy_that_is_killed_on_its_way_is_none_and_the_next_one_is(
    live: Engine, database: Path, copy: Path, tmp_path: Path
) -> None:
    fill(live, 600)
    script = (
        "import os, sys; from palyra_actors.storage.backup import back_up; "
        "back_up(sys.argv[1], sys.argv[2], rest=lambda took_s: os.kill(os.getpid(), 9))"
    )
    done = subprocess.run([sys.executable, "-c", script, database, copy], check=False)
    assert done.returncode == -signal.SIGKILL
    assert copy.with_name("agents.backup.partial").exists(), "it was under way"
    assert not copy.exists()
    with pytest.raises(OpenRefused):
        restore(copy, tmp_path / "back.db")
    live.backup(copy)
    assert sorted(file.name for file in copy.parent.glob("agents*")) == [
        "agents.backup",
        "agents.backup-anchor",
    ]


# -- the way back ---------------------------------------------------------------------------------


def test_a_restored_database_is_opened_and_goes_on(
    live: Engine, copy: Path, tmp_path: Path
) -> None:
    session = fill(live, 10)
    made = live.backup(copy)
    (tmp_path / "new").mkdir()
    done = restore(copy, tmp_path / "new" / "back.db")
    assert (done.head, done.lost) == (made.head, 0)
    with Engine.open(tmp_path / "new" / "back.db", NO_BUDGET) as engine:
        assert engine.sessions.open(session).append("x.a", {}, actor="user").session_seq == 11
        assert engine.verify(expect=as_seen(made.head)).valid


def test_nothing_is_restored_over_a_database(live: Engine, copy: Path, database: Path) -> None:
    fill(live, 2)
    live.backup(copy)
    live.close()
    before = content(database.parent)
    with pytest.raises(OpenRefused, match="there is a database already"):
        restore(copy, database)
    assert content(database.parent) == before


def test_a_restore_says_what_is_lost_and_does_it_only_when_told_so(
    live: Engine, copy: Path, database: Path
) -> None:
    session = fill(live, 5)
    live.backup(copy)
    fill(live, 3, session)
    live.close()
    database.unlink()
    with pytest.raises(OpenRefused, match="3 acknowledged events are missing") as refused:
        restore(copy, database)
    assert "--accept-loss" in str(refused.value.hint)
    assert sorted(content(database.parent)) == ["journal.db-anchor"]
    done = restore(copy, database, accept_loss=True)
    assert (done.lost, done.head.seq) == (3, 5)
    assert sorted(content(database.parent)) == [
        "journal.db",
        "journal.db-anchor",
        "journal.db-anchor.seen-8",
    ]
    with Engine.open(database, NO_BUDGET) as engine:
        assert engine.head().seq == 5


def in_a_payload(data: bytes) -> int:
    return data.rindex(TEXT.encode()) + 11


def in_the_schema(data: bytes) -> int:
    return 110


def in_the_middle(data: bytes) -> int:
    return len(data) // 2 // PAGE_BYTES * PAGE_BYTES


@pytest.mark.parametrize("place", [in_a_payload, in_the_schema, in_the_middle])
def test_a_bit_that_flips_in_a_copy_keeps_it_from_being_restored(
    live: Engine, copy: Path, tmp_path: Path, place: Callable[[bytes], int]
) -> None:
    fill(live, 100)
    live.backup(copy)
    flip(copy, place(copy.read_bytes()))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((OpenRefused, StorageUnavailable)):
        restore(copy, tmp_path / "back.db")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_copy_that_lost_its_end_is_not_restored(live: Engine, copy: Path, tmp_path: Path) -> None:
    """It is a valid chain; what it should hold stands in its own anchor."""
    fill(live, 5)
    live.backup(copy)
    stranger = apsw.Connection(str(copy))
    stranger.execute("DELETE FROM events WHERE seq > 3")
    stranger.execute("PRAGMA journal_mode = DELETE").fetchall()
    stranger.execute("PRAGMA journal_mode = WAL").fetchall()
    stranger.close()
    with pytest.raises(OpenRefused, match="does not hold at seq 4"):
        restore(copy, tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()
