"""`doctor`, `backup`, `restore`, `drill`, `export`: what a person sees, and the exit codes."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from palyra_actors.cli import exits
from palyra_actors.engine import Engine
from palyra_actors.storage import anchor
from palyra_actors.storage.migrations import latest_version
from palyra_actors.storage.port import Head
from tests.cli.conftest import Run
from tests.storage.test_backup import flip

SESSION = "01J00000000000000000000000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o700)
    file = tmp_path / "data" / "agents.db"
    fill(file, 20)
    return file


def fill(file: Path, events: int) -> None:
    with Engine.open(file) as engine:
        for n in range(events):
            payload = {"n": n, "text": "x" * 900}
            engine.sessions.open(SESSION).append("x.a", payload, actor="user", budget_ms=0)


def change(file: Path, *statements: str) -> None:
    stranger = apsw.Connection(str(file))
    for statement in statements:
        stranger.execute(statement).fetchall()
    stranger.close()


def nothing(file: Path) -> None:
    """It stays as it is."""


def readable(file: Path) -> None:
    file.chmod(0o644)


def writable(file: Path) -> None:
    file.chmod(0o666)


def open_folder(file: Path) -> None:
    file.parent.chmod(0o777)


def foreign(file: Path) -> None:
    change(file, "PRAGMA application_id = 7")


def newer(file: Path) -> None:
    change(file, f"PRAGMA user_version = {latest_version() + 1}")


def no_database(file: Path) -> None:
    file.write_text("something else altogether " * 10)


def cut_in_half(file: Path) -> None:
    change(file, "PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(file, file.stat().st_size // 8192 * 4096)


def another_page_size(file: Path) -> None:
    flip(file, 16)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir(mode=0o700)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def an_anchor_that_is_a_folder(file: Path) -> None:
    os.unlink(f"{file}-anchor")
    os.mkdir(f"{file}-anchor", 0o700)


def gone(file: Path) -> None:
    file.unlink()


def no_tail(file: Path) -> None:
    change(file, "DELETE FROM events WHERE seq > 15")


def another_text(file: Path) -> None:
    change(file, "UPDATE events SET payload = x'80' WHERE seq = 3")


def a_flipped_bit(file: Path) -> None:
    flip(file, len(file.read_bytes()) // 2 // 4096 * 4096)


def an_index_in_another_order(file: Path) -> None:
    """Its leaves hold each other's entries: each page is sound, and no event id is found."""
    change(file, "PRAGMA wal_checkpoint(TRUNCATE)")
    reader = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    leaves = reader.execute(
        "SELECT pageno FROM dbstat WHERE name = 'events_by_id' AND pagetype = 'leaf'"
    ).fetchall()
    reader.close()
    swap(file, *(int(str(page)) for (page,) in leaves[:2]))


def swap(file: Path, one: int, other: int) -> None:
    """Two pages, counted from 1 as SQLite does."""
    data = bytearray(file.read_bytes())
    a, b = (slice((page - 1) * 4096, page * 4096) for page in (one, other))
    data[a], data[b] = data[b], data[a]
    file.write_bytes(data)


def no_sessions(file: Path) -> None:
    change(file, "DROP TABLE sessions")


def another_index(file: Path) -> None:
    change(file, "DROP INDEX runs_by_stream", "CREATE INDEX runs_by_stream ON runs (stream)")


def a_trigger(file: Path, name: str = "x") -> None:
    change(file, f"CREATE TRIGGER {name} AFTER INSERT ON events BEGIN DELETE FROM sessions; END")


def a_trigger_with_a_name_of_sqlites_own(file: Path) -> None:
    a_trigger(file, "sqlitestat")


def a_trigger_with_the_name_of_a_search_tables_own(file: Path) -> None:
    a_trigger(file, "memory_texts_data")


def no_anchor(file: Path) -> None:
    os.unlink(f"{file}-anchor")


def a_torn_anchor(file: Path) -> None:
    Path(f"{file}-anchor").write_text("palyra-anch")


def a_second_name(file: Path) -> None:
    os.link(file, file.with_name("other.db"))


def another_mode(file: Path) -> None:
    change(file, "PRAGMA journal_mode = DELETE")


def no_end(file: Path) -> None:
    change(file, "DELETE FROM warm_heads")


def an_end_before(file: Path) -> None:
    change(file, "UPDATE warm_heads SET stream_seq = stream_seq - 1, seq = seq - 1")


def an_end_of_another_number(file: Path) -> None:
    change(file, "UPDATE warm_heads SET stream_seq = stream_seq + 1")


def a_clock_behind(file: Path) -> None:
    change(file, "UPDATE events SET recorded_ms = recorded_ms + 86400000 WHERE seq = 20")


def leftovers(file: Path) -> None:
    file.with_name("agents.db.partial").write_text("")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    ("make", "code", "finding"),
    [
        (nothing, 0, "chain fine"),
        (nothing, 0, "ends fine"),
        (readable, 0, "modes note"),
        (writable, exits.BROKEN, "modes wrong"),
        (open_folder, exits.BROKEN, "modes wrong"),
        (foreign, exits.BROKEN, "header wrong"),
        (newer, exits.BROKEN, "header wrong"),
        (no_database, exits.BROKEN, "header wrong"),
        (cut_in_half, exits.BROKEN, "database wrong"),
        (another_page_size, exits.BROKEN, "database wrong"),
        (a_folder, exits.BROKEN, "header wrong"),
        (emptied, exits.BROKEN, "header wrong"),
        (gone, exits.BROKEN, "file wrong"),
        (no_tail, exits.DAMAGED, "anchor damaged"),
        (another_text, exits.DAMAGED, "chain damaged"),
        (a_flipped_bit, exits.DAMAGED, "pages damaged"),
        (no_end, exits.DAMAGED, "ends damaged"),
        (an_end_before, exits.DAMAGED, "ends damaged"),
        (an_end_of_another_number, exits.DAMAGED, "ends damaged"),
        (no_sessions, exits.DAMAGED, "schema damaged"),
        (another_index, exits.DAMAGED, "schema damaged"),
        (a_trigger, exits.DAMAGED, "schema damaged"),
        (no_anchor, 0, "anchor note"),
        (a_torn_anchor, exits.BROKEN, "anchor wrong"),
        (an_anchor_that_is_a_folder, exits.BROKEN, "anchor wrong"),
        (a_second_name, 0, "file note"),
        (another_mode, exits.BROKEN, "settings wrong"),
        (a_clock_behind, exits.DAMAGED, "clock note"),
        (leftovers, 0, "leftovers note"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_doctor_finds_it_says_what_to_do_and_touches_nothing(
    run: Run, path: Path, make: Callable[[Path], None], code: int, finding: str
) -> None:
    about, verdict = finding.split()
    make(path)
    before = contents(path.parent)
    found, out, _ = run("doctor", "--db", path, "--json", "--full")
    said = [json.loads(line) for line in out.splitlines()]
    assert found == code, out
    verdicts = [one["verdict"] for one in said if one["about"] == about]
    assert verdict in verdicts, out
    bad = [one for one in said if one["verdict"] in ("wrong", "damaged")]
    assert all(one["hint"] for one in bad), "what to do"
    assert contents(path.parent) == before


@pytest.mark.parametrize(
    "command",
    [
        ("doctor",),
        ("verify",),
        ("rebuild",),
        ("export", "--to", "elsewhere/lines"),
        ("backup", "--to", "elsewhere/copy"),
    ],
    ids=lambda command: command[0],
)
def test_what_only_reads_a_database_leaves_nothing_beside_it(
    run: Run, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    before = contents(path.parent)
    code, out, err = run(*command, "--db", path)
    assert code == 0, (out, err)
    assert contents(path.parent) == before


def test_the_doctor_leaves_a_wal_and_its_index_that_somebody_else_has_left(
    run: Run, path: Path
) -> None:
    crash(path, 5)
    before = contents(path.parent)
    assert len(before[f"{path.name}-wal"]) > 0
    for command in ("doctor", "verify"):
        assert run(command, "--db", path)[0] == 0
    after = contents(path.parent)
    assert {**after, f"{path.name}-shm": b""} == {**before, f"{path.name}-shm": b""}


def test_the_doctor_looks_beside_a_running_engine_and_names_it(run: Run, path: Path) -> None:
    with Engine.open(path) as engine:
        engine.sessions.open(SESSION).append("x.a", {}, actor="user", budget_ms=0)
        code, out, _ = run("doctor", "--db", path)
        assert code == 0, out
        assert f"process {os.getpid()}" in out
        assert f"fine    schema     version {latest_version()}" in out, (
            "also if only the WAL has it"
        )
        code, _, err = run("doctor", "--db", path, "--accept-loss")
        assert code == exits.BROKEN
        assert "in use by this process" in err


def crash(file: Path, events: int) -> None:
    """An engine ends without a word and leaves its WAL."""
    code = f"""
import os
from pathlib import Path
from tests.cli.test_doctor import SESSION
from palyra_actors.engine import Engine
engine = Engine.open(Path({str(file)!r}))
for n in range({events}):
    engine.sessions.open(SESSION).append("x.a", {{"n": n}}, actor="user", budget_ms=0)
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)


@pytest.mark.parametrize("missing", [0, 3])
def test_the_doctor_knows_a_wal_of_another_database(
    run: Run, path: Path, tmp_path: Path, missing: int
) -> None:
    other = tmp_path / "data" / "other.db"
    fill(other, 30)
    crash(other, 5)
    if missing:
        anchor.write(anchor.beside(str(path)), Head(20 + missing, bytes(32)))
    shutil.copy(f"{other}-wal", f"{path}-wal")
    before = path.read_bytes()
    code, out, _ = run("doctor", "--db", path)
    assert code == exits.DAMAGED
    assert "without it this one is sound and ends with event 20" in out
    assert (f"{missing} that the anchor has seen were in its own" in out) is bool(missing)
    assert path.read_bytes() == before
    if not missing:
        Path(f"{path}-wal").unlink()
        Path(f"{path}-shm").unlink(missing_ok=True)
        assert run("doctor", "--db", path)[0] == 0


@pytest.mark.parametrize("anchored", [True, False])
def test_nobody_opens_a_database_with_the_wal_of_another_or_takes_its_journal_for_lost(
    run: Run, path: Path, tmp_path: Path, anchored: bool
) -> None:
    """Opened, the file would have become the other one: here a whole journal, of three events."""
    other = tmp_path / "data" / "other.db"
    crash(other, 3)
    if not anchored:
        Path(anchor.beside(str(path))).unlink()
    shutil.copy(f"{other}-wal", f"{path}-wal")
    before = {file: file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*"))}
    for command in (("serve",), ("append", "--text", "x"), ("doctor", "--accept-loss")):
        code, _, refusal = run(*command, "--db", path)
        assert code == exits.BROKEN, command
        assert "is another database's" in refusal
        assert "ends with event 20" in refusal
        assert f"move {path}-wal" in refusal
    code, said, _ = run("doctor", "--db", path)
    assert code == exits.DAMAGED
    assert "is another database's" in said
    assert "accept-loss" not in said
    after = {file: file.read_bytes() for file in before}
    assert {k: v for k, v in after.items() if not k.name.endswith("-shm")} == {
        k: v for k, v in before.items() if not k.name.endswith("-shm")
    }
    Path(f"{path}-wal").unlink()
    Path(f"{path}-shm").unlink(missing_ok=True)
    assert run("verify", "--db", path)[0] == 0


def test_the_doctor_does_not_have_modes_changed_of_what_is_no_file(run: Run) -> None:
    assert "chmod" not in run("doctor", "--db", "/dev/null")[1]


def test_an_index_in_another_order_is_refused_by_all_that_prove(
    run: Run, path: Path, tmp_path: Path
) -> None:
    """An event that is sent again would be stored a second time."""
    fill(path, 200)  # of one leaf, twenty are
    copy = tmp_path / "copy"
    assert run("backup", "--db", path, "--to", copy)[0] == 0
    an_index_in_another_order(path)
    said = run("doctor", "--db", path)[1]
    assert "damaged pages" in said
    assert "restore a backup" in said
    for command in (("serve",), ("backup", "--to", tmp_path / "other"), ("append", "--text", "x")):
        code, _, refusal = run(*command, "--db", path)
        assert code == exits.BROKEN, command
        assert "events_by_id" in refusal or "not sound" in refusal, refusal
    an_index_in_another_order(copy)
    assert run("restore", copy, "--db", tmp_path / "new.db")[0] == exits.BROKEN
    assert run("drill", copy)[0] == exits.BROKEN


def test_a_lost_tail_is_refused_explained_and_gone_on_from_when_that_is_accepted(
    run: Run, path: Path, tmp_path: Path
) -> None:
    shutil.copy(path, tmp_path / "older.db")
    fill(path, 4)
    shutil.copy(tmp_path / "older.db", path)
    code, _, err = run("append", "--db", path, "--text", "hello")
    assert code == exits.BROKEN
    assert "4 acknowledged events are missing" in err
    assert f"palyra-actors doctor --db {path} --accept-loss" in err
    code, out, _ = run("verify", "--db", path)
    assert code == exits.DAMAGED
    assert out.startswith("damaged at seq 21: 20 events checked")
    code, out, _ = run("doctor", "--db", path, "--accept-loss")
    assert code == 0
    assert "4 events are lost" in out
    assert path.with_name("agents.db-anchor.seen-24").exists()
    code, out, _ = run("append", "--db", path, "--text", "hello")
    assert code == 0
    assert out.startswith("stored seq=21")
    assert run("verify", "--db", path)[0] == 0


@pytest.mark.parametrize("lose", [gone, emptied])
def test_a_file_that_is_gone_can_be_given_up(
    run: Run, path: Path, lose: Callable[[Path], None]
) -> None:
    lose(path)
    said = run("doctor", "--db", path)[1]
    assert "20 acknowledged events are missing" in said
    assert f"palyra-actors doctor --db {path} --accept-loss" in said
    assert run("append", "--db", path, "--text", "hello")[0] == exits.BROKEN
    assert not path.exists() or not path.stat().st_size
    code, out, _ = run("doctor", "--db", path, "--accept-loss")
    assert code == 0
    assert "20 events are lost" in out
    assert path.with_name("agents.db-anchor.seen-20").exists()
    code, out, _ = run("append", "--db", path, "--text", "hello")
    assert code == 0
    assert out.startswith("stored seq=1 ")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (no_sessions, "table sessions is missing"),
        (another_index, "index runs_by_stream was changed"),
        (a_trigger, "trigger x is not ours"),
        (a_trigger_with_a_name_of_sqlites_own, "trigger sqlitestat is not ours"),
        (a_trigger_with_the_name_of_a_search_tables_own, "trigger memory_texts_data is not ours"),
    ],
)
def test_a_schema_that_is_not_the_migrations_is_refused(
    run: Run, path: Path, make: Callable[[Path], None], why: str
) -> None:
    """A stranger's trigger would take part in every write."""
    make(path)
    before = path.read_bytes()
    code, _, err = run("append", "--db", path, "--text", "x")
    assert code == exits.BROKEN
    assert why in err
    assert path.read_bytes() == before
    for command in (("backup", "--db", path, "--to", path.with_name("copy")), ("drill", path)):
        code, _, err = run(*command)
        assert (code, why in err) == (exits.BROKEN, True), err


def test_what_it_says_about_a_torn_anchor_is_a_command_that_works(run: Run, path: Path) -> None:
    a_torn_anchor(path)
    err = run("append", "--db", path, "--text", "hello")[2]
    advice = next(part for part in err.split(": ") if part.startswith("palyra-actors doctor"))
    words = advice.removeprefix("palyra-actors ").split(")")[0].split()
    assert run(*words)[0] == 0
    assert run("append", "--db", path, "--text", "hello")[0] == 0


def test_what_is_damaged_is_not_accepted(run: Run, path: Path) -> None:
    another_text(path)
    before = path.with_name("agents.db-anchor").read_bytes()
    code, _, err = run("doctor", "--db", path, "--accept-loss")
    assert code == exits.BROKEN
    assert "at seq 3" in err
    assert "restore a backup" in err
    assert path.with_name("agents.db-anchor").read_bytes() == before


def test_backup_drill_restore_from_the_shell(run: Run, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "agents.backup"
    code, out, _ = run("backup", "--db", path, "--to", copy)
    assert code == 0
    assert out.startswith("backed up: 20 events")
    fill(path, 2)
    code, out, _ = run("backup", "--db", path, "--to", copy, "--json")
    done = json.loads(out)
    assert (done["checked"], done["head"]["seq"]) == (2, 22)
    code, out, _ = run("drill", copy, "--in", tmp_path)
    assert code == 0
    assert "22 events restored and proven" in out
    assert "stored the next one" in out
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "agents.backup",
        "agents.backup-anchor",
        "data",
    ]
    code, out, _ = run("restore", copy, "--db", tmp_path / "back.db")
    assert code == 0
    assert out.startswith("restored: 22 events proven")
    assert run("restore", copy, "--db", tmp_path / "back.db")[0] == exits.BROKEN
    assert run("backup", "--db", tmp_path / "none.db", "--to", copy)[0] == exits.REFUSED
    assert run("drill", tmp_path / "none")[0] == exits.REFUSED


def test_export_and_import_from_the_shell(run: Run, path: Path, tmp_path: Path) -> None:
    lines = tmp_path / "agents.ndjson"
    code, out, _ = run("export", "--db", path, "--to", lines)
    assert code == 0
    assert out.startswith("exported: 20 events; head 20:")
    assert lines.stat().st_mode & 0o777 == 0o600
    assert run("export", "--db", path)[1] == lines.read_text()
    assert run("export", "--db", path, "--to", lines)[0] == exits.REFUSED, "it is there already"
    assert run("import", lines)[0] == exits.REFUSED, "where to"
    code, again, _ = run("import", lines, "--db", tmp_path / "again.db")
    assert code == 0
    assert again.replace("imported", "exported") == out
    assert run("verify", "--db", tmp_path / "again.db")[0] == 0
    assert run("import", lines, "--db", tmp_path / "again.db")[0] == exits.BROKEN


def test_an_export_takes_its_name_once_it_is_whole(
    run: Run, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines.ndjson"
    half = tmp_path / "lines.ndjson.partial"
    half.write_text("what a kill has left")

    def full(descriptor: int) -> None:
        assert half.stat().st_size > 1000
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        code, _, err = run("export", "--db", path, "--to", lines)
    assert code == exits.UNAVAILABLE
    assert "cannot be written: No space left on device" in err
    assert not lines.exists()
    assert not half.exists()

    def taken(descriptor: int) -> None:
        lines.write_text("somebody else's")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", taken)
        code, _, err = run("export", "--db", path, "--to", lines)
    assert code == exits.REFUSED
    assert lines.read_text() == "somebody else's"
    lines.unlink()
    assert run("export", "--db", path, "--to", lines)[0] == 0
    assert not half.exists()
    assert run("import", lines, "--db", tmp_path / "new.db")[0] == 0
