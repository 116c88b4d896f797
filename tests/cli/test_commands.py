"""The command line, against real engines."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import Event, new_id
from palyra_actors.cli import exits
from palyra_actors.cli.shape import moment, plain, size
from palyra_actors.client import Client
from palyra_actors.engine import Engine
from tests.cli.conftest import Run

DEADLINE_S = 60.0
SESSION = "01J00000000000000000000000"


def test_an_appended_event_is_stored_and_shown(live: Run, engine: Engine) -> None:
    code, out, _ = live("append", "--session", SESSION, "--text", "hello there")
    assert code == 0
    assert out.startswith(f"stored seq=1 session={SESSION} session_seq=1 event=")
    stored = next(engine.sessions.open(SESSION).events())
    assert (stored.kind, stored.actor, stored.payload) == (
        "message_received",
        "user",
        {"text": "hello there"},
    )
    code, out, _ = live("show", SESSION)
    assert code == 0
    assert re.search(r"user says +#1 .*\n +hello there", out)


def test_json_of_an_append_is_one_document_with_text_ids_and_hexadecimal_hashes(
    live: Run,
) -> None:
    options = ("--kind", "x.a", "--actor", "agent", "--run", new_id(), "--event-id", new_id())
    code, out, _ = live("append", '{"a": [1, null]}', *options, "--json", "--expect", 0)
    assert code == 0
    document = json.loads(out)
    assert out.count("\n") == 1
    assert len(document["session_id"]) == len(document["results"][0]["event_id"]) == 26
    assert re.fullmatch("[0-9a-f]{64}", document["results"][0]["hash"])
    assert document["timing"]["within_budget"] in (True, False)


def test_the_same_event_id_is_stored_once_and_other_content_is_refused(live: Run) -> None:
    one = ("append", "--session", SESSION, "--event-id", SESSION)
    command = (*one, "--kind", "x.a", '{"a": 1}', "--json")
    for duplicate in (False, True):
        code, out, _ = live(*command)
        assert code == exits.OK
        assert json.loads(out)["results"][0]["duplicate"] is duplicate
    code, out, err = live(*one, "--kind", "x.a", '{"a": 2}')
    assert (code, out) == (exits.REFUSED, "")
    assert err.startswith("id_reused: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("append",),
        ("append", "{}", "--text", "both"),
        ("tail", "--from", "-1"),
        ("verify", "--from", "x"),
        ("import",),
        ("serve", "--config", "/nowhere/at/all.toml"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (exits.USAGE, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("payload", ["nonsense", "[1]", "5", "[" * 100_000])
def test_a_payload_that_is_no_json_object_is_refused_before_anybody_is_asked(
    run: Run, payload: str
) -> None:
    code, _, err = run("append", payload, "--endpoint", "ipc:///nowhere/at/all")
    assert code == exits.REFUSED
    assert err.startswith("invalid: ")
    assert "[payload]" in err


def test_nobody_at_the_endpoint_ends_with_3_and_says_where_it_looked(
    run: Run, tmp_path: Path
) -> None:
    where = f"ipc://{tmp_path}/nobody"
    code, out, err = run("stats", "--endpoint", where, "--timeout", "0.2")
    assert (code, out) == (exits.UNAVAILABLE, "")
    assert err.startswith("no_reply: ")
    assert where in err
    code, _, err = run("stats", "--endpoint", where, "--timeout", "0.2", "--json")
    assert code == exits.UNAVAILABLE
    error = json.loads(err)["error"]
    assert (error["code"], error["retryable"], error["detail"]["attempts"]) == (
        "no_reply",
        True,
        0,
    )


def test_an_endpoint_that_is_none_is_refused(run: Run) -> None:
    code, _, err = run("stats", "--endpoint", "nonsense")
    assert code == exits.REFUSED
    assert "[endpoint]" in err


def test_reading_a_file_that_is_not_there_does_not_make_it(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    for command in (("tail",), ("show", SESSION), ("verify",), ("stats",)):
        code, _, err = run(*command, "--db", path)
        assert code == exits.REFUSED
        assert err.startswith("not_found: ")
    assert not path.exists()


def test_a_file_that_another_engine_has_open_ends_with_4(run: Run, engine: Engine) -> None:
    code, _, err = run("stats", "--db", engine.path)
    assert code == exits.BROKEN
    assert err.startswith("open_refused: ")
    assert run("verify", "--db", engine.path)[0] == 0, "which only reads"


def test_a_session_without_events_is_not_found(live: Run) -> None:
    code, _, err = live("show", new_id())
    assert code == exits.REFUSED
    assert err.startswith("not_found: ")


def fill(engine: Engine) -> str:
    session, run_id = new_id(), new_id()

    def event(kind: str, actor: str, **payload: Any) -> Event:
        return Event(session, kind, payload, actor, run_id)

    engine.append(
        [
            event("message_received", "user", text="hi \x1b[31mred\x1b[0m"),
            event("model_token", "agent", token="Let "),
            event("model_token", "agent", token="me look"),
            event("tool_proposed", "agent", tool="ls", arguments={"path": "/"}),
            event("tool_executed", "plugin", output="\n".join(map(str, range(30)))),
            event("x.data", "system", raw=b"\x00\xff"),
            event("run_completed", "system"),
        ]
    )
    return session


def test_a_session_reads_as_a_conversation(live: Run, engine: Engine) -> None:
    session = fill(engine)
    code, out, _ = live("show", session)
    assert code == 0
    assert "\x1b" not in out
    assert "hi \\x1b[31mred" in out
    assert re.search(r"agent thinks +#2–3 .*\n  Let me look\n", out)
    assert re.search(r"agent proposes .*\n  ls \{\"path\": \"/\"\}\n", out)
    assert "  11\n  … 18 more lines (--full)" in out
    assert "completed the run" in out
    assert "  29\n" in live("show", session, "--full")[1]


def test_a_session_as_json_is_its_events_a_line_each(live: Run, engine: Engine) -> None:
    session = fill(engine)
    code, out, _ = live("show", session, "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, 8))
    assert events[5]["payload"] == {"raw": "AP8="}
    assert events[1]["prev_hash"] == events[0]["hash"]
    assert {event["session_id"] for event in events} == {session}


def test_what_show_prints_as_json_can_be_imported_elsewhere(
    live: Run, run: Run, engine: Engine, tmp_path: Path
) -> None:
    session = fill(engine)
    exported = tmp_path / "session.jsonl"
    exported.write_text(live("show", session, "--json")[1])
    other = tmp_path / "other.db"
    assert run("import", exported, "--db", other)[0] == 0
    out = run("show", session, "--json", "--db", other)[1]
    again = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in again][:3] == [
        "message_received",
        "model_token",
        "model_token",
    ]
    assert len(again) == 7


def test_the_tail_filters_and_ends_after_its_count(live: Run, engine: Engine) -> None:
    session = fill(engine)
    code, out, _ = live("tail", "--from", 0, "--kind", "model_token", "-n", 2, "--json")
    assert code == 0
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [2, 3]
    code, out, _ = live("tail", "--from", 3, "--session", session, "-n", 1)
    assert code == 0
    assert out.split()[0] == "4"
    assert "tool_proposed  ls" in out


def test_the_tail_of_a_file_ends_where_the_file_does(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Engine.open(path) as engine:
        fill(engine)
    code, out, _ = run("tail", "--db", path)
    assert code == 0
    assert len(out.splitlines()) == 7
    assert "\x1b" not in out


def test_verify_says_what_it_checked_and_knows_a_head_kept_elsewhere(
    live: Run, engine: Engine
) -> None:
    fill(engine)
    code, out, _ = live("verify")
    assert code == 0
    head = engine.head()
    assert out == f"valid: 7 events checked; head 7:{head.hash.hex()}\n"
    code, out, _ = live("verify", "--json", "--expect", f"7:{head.hash.hex()}", "--from", 2)
    assert code == 0
    assert json.loads(out)["valid"] is True
    code, out, _ = live("verify", "--json", "--expect", f"7:{'00' * 32}")
    assert code == exits.DAMAGED
    assert json.loads(out)["valid"] is False


@pytest.mark.parametrize("text", ["", "7", "7:00", "-1:" + "00" * 32, "x:" + "00" * 32])
def test_a_head_that_is_none_is_refused(run: Run, text: str) -> None:
    code, _, err = run("verify", f"--expect={text}")
    assert code == exits.REFUSED
    assert "[--expect]" in err


def test_verify_of_a_file_somebody_changed_ends_with_5_and_names_the_event(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    with Engine.open(path) as engine:
        fill(engine)
    with apsw.Connection(str(path)) as tampering:
        tampering.execute("UPDATE events SET payload = x'80' WHERE seq = 3")
    tampering.close()
    code, out, _ = run("verify", "--db", path)
    assert code == exits.DAMAGED
    assert out.startswith("damaged at seq 3")


def test_statistics_are_for_people_and_for_programs(live: Run, engine: Engine) -> None:
    session = fill(engine)
    code, out, _ = live("stats")
    assert code == 0
    assert out.startswith("ready")
    assert re.search(r"appends\.acked +\d", out)
    assert re.search(rf"busiest\.1 +{session}  \d+ in memory *\n", out), "a session a line"
    document = json.loads(live("stats", "--json")[1])
    assert document["health"]["status"] == "ready"
    assert re.fullmatch("[0-9a-f]{64}", document["stats"]["head"]["hash"])


def test_an_import_that_is_done_again_adds_nothing(live: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.json"
    first.write_text('{"kind": "x.a", "payload": {"password": "hunter2"}}\n' * 3)
    second.write_text(json.dumps({"messages": [{"role": "user", "content": "x" * 300_000}]}))
    code, out, _ = live("import", first, second)
    assert code == 0
    assert f"{first}: 3 new, 0 there already, 3 redacted" in out
    assert f"{second}: 1 new, 0 there already, 1 cut to fit" in out
    assert "4 new, 0 there already" in out
    code, out, _ = live("import", second, first, "--json")
    summaries = [json.loads(line) for line in out.splitlines()]
    assert [(each["new"], each["duplicates"]) for each in summaries] == [(0, 1), (0, 3)]
    assert summaries[0]["cut"] == 1


def test_an_import_stops_at_a_bad_file_names_it_and_keeps_what_came_before(
    live: Run, engine: Engine, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"kind": "x.a", "payload": {}}\n')
    bad.write_text('{"kind": "x.a", "payload": {}}\n{"kind": "no such kind", "payload": {}}\n')
    code, out, err = live("import", good, bad)
    assert code == exits.REFUSED
    assert f"{good}: 1 new" in out
    assert str(bad) in err
    assert engine.head().seq == 1
    code, _, err = live("import", good, tmp_path / "none.json")
    assert code == exits.REFUSED
    assert "none.json" in err


def test_real_trajectories_can_be_imported_twice_and_read_back(
    run: Run, shared: Path, tmp_path: Path
) -> None:
    runs = sorted((shared / "data" / "trajectories").glob("*.traj"))[:3]
    path = tmp_path / "runs.db"
    code, out, _ = run("import", *runs, "--db", path, "--json")
    assert code == 0
    first = [json.loads(line) for line in out.splitlines()]
    assert all(each["new"] == each["events"] > 0 for each in first)
    again = [json.loads(x) for x in run("import", *runs, "--db", path, "--json")[1].splitlines()]
    assert all(each["new"] == 0 for each in again)
    code, out, _ = run("show", first[0]["session_id"], "--db", path)
    assert code == 0
    assert "agent proposes" in out
    assert run("verify", "--db", path)[0] == 0


def test_the_demo_ends_with_a_valid_chain_and_without_the_password(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "demo.db"
    code, out, _ = run("demo", "--agents", 2, "--db", path)
    assert code == 0
    assert "chain valid after closing and opening the file" in out
    assert "<redacted>" in out
    assert "hunter2" not in out
    assert b"hunter2" not in path.read_bytes()
    code, out, _ = run("demo", "--agents", 1, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["verification"]["valid"] is True
    assert (told["edits"], told["allowed"], told["job"]["status"]) == (3, 3, "succeeded")
    assert list(told["board"]["done"]) == list(told["sessions"])
    assert "Two tests fail" in told["memory"]["item"]["content"]


def test_every_commands_help_says_its_exit_codes(run: Run) -> None:
    for command in ("serve", "append", "tail", "show", "verify", "stats", "import", "demo"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "5 verify found damage" in " ".join(out.split())
    assert run("--version")[1].strip() == "0.1.0"


class Served:
    """`palyra-actors serve` as a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "palyra_actors.cli", "serve", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        found = re.fullmatch(r"ready endpoint=(\S+) db=(\S+) head=(\d+)\n", self.ready)
        assert found, (self.ready, self.process.communicate())
        self.endpoint, self.head = found[1], int(found[3])

    def end(self, by: signal.Signals) -> tuple[int, str]:
        """Its exit code, and what else it wrote on standard output."""
        self.process.send_signal(by)
        out, _ = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*arguments: object) -> Served:
        started.append(Served(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_served_engine_says_one_line_and_ends_cleanly_on_a_signal(
    served: Callable[..., Served], tmp_path: Path, by: signal.Signals
) -> None:
    engine = served("--db", tmp_path / "a.db", "--endpoint", "tcp://127.0.0.1:0")
    assert engine.head == 0
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as client:
        client.append(Event(SESSION, "x.a", {}))
    assert engine.end(by) == (0, "")


def test_a_served_engine_takes_its_configuration_and_options_over_it(
    served: Callable[..., Served], tmp_path: Path
) -> None:
    config = tmp_path / "palyra.toml"
    config.write_text(
        f'[engine]\ndb = "{tmp_path}/b.db"\n[door]\nendpoint = "ipc://{tmp_path}/door"\n'
        '[log]\nformat = "json"\n'
    )
    engine = served("--config", config)
    assert engine.endpoint == f"ipc://{tmp_path}/door"
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as client:
        assert client.head().seq == 0
    assert engine.end(signal.SIGTERM)[0] == 0
    assert (tmp_path / "b.db").exists()
    other = served("--config", config, "-e", "tcp://127.0.0.1:0", "--db", tmp_path / "c.db")
    assert other.endpoint.startswith("tcp://127.0.0.1:")
    assert other.end(signal.SIGTERM)[0] == 0
    assert (tmp_path / "c.db").exists()


def test_what_was_acknowledged_is_there_after_kill_9_and_a_tail_goes_on_over_it(
    served: Callable[..., Served], tmp_path: Path
) -> None:
    db, door = tmp_path / "a.db", f"ipc://{tmp_path}/door"
    first = served("--db", db, "--endpoint", door)
    tailing = subprocess.Popen(
        [sys.executable, "-m", "palyra_actors.cli", "tail", "--from", "0", "-n", "20", "--json"],
        env={**os.environ, "PALYRA_ENDPOINT": door},
        stdout=subprocess.PIPE,
        text=True,
    )
    acknowledged: list[str] = []
    try:
        with Client(door, timeout_s=DEADLINE_S) as client:
            session = client.sessions.open()

            def append(count: int) -> None:
                for _ in range(count):
                    acknowledged.append(session.append("x.a", {}).event_id)

            append(10)
            writing = threading.Thread(target=append, args=(10,))
            writing.start()
            first.process.kill()
            first.process.wait(DEADLINE_S)
            second = served("--db", db, "--endpoint", door)
            assert second.head >= 10
            writing.join(DEADLINE_S)
            events = [event.event_id for event in session.events()]
            assert events == acknowledged
            assert client.verify().valid
        out, _ = tailing.communicate(timeout=DEADLINE_S)
        assert [json.loads(line)["event_id"] for line in out.splitlines()] == acknowledged
        assert second.end(signal.SIGTERM)[0] == 0
    finally:
        tailing.kill()
        tailing.communicate()


def test_a_served_engine_that_may_not_open_its_file_ends_with_4_and_no_traceback(
    engine: Engine, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[engine]\nbd = 1\n")
    for arguments in (("--db", str(engine.path)), ("--config", str(bad))):
        done = subprocess.run(
            [sys.executable, "-m", "palyra_actors.cli", "serve", *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stdout) == (exits.BROKEN, "")
        assert "Traceback" not in done.stderr


def taken(folder: Path) -> tuple[str, ...]:
    return ("--endpoint", f"ipc://{folder}/taken")


def no_keys(folder: Path) -> tuple[str, ...]:
    return ("--keys", str(folder / "no-keys"))


def a_strangers_door(folder: Path) -> tuple[str, ...]:
    return ("--endpoint", "tcp://0.0.0.0:0")


def no_metrics(folder: Path) -> tuple[str, ...]:
    return ("--metrics", "0.0.0.0:0", "--endpoint", "tcp://127.0.0.1:0")


def no_provider(folder: Path) -> tuple[str, ...]:
    (folder / "c.toml").write_text('[memory]\nprovider = "local"\nmodel = "none"\n')
    return ("--config", str(folder / "c.toml"))


def no_such_setting(folder: Path) -> tuple[str, ...]:
    (folder / "c.toml").write_text("[engine]\nbd = 1\n")
    return ("--config", str(folder / "c.toml"))


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    "refused", [taken, no_keys, a_strangers_door, no_metrics, no_provider, no_such_setting]
)
def test_a_served_engine_that_is_refused_leaves_nothing_behind(
    tmp_path: Path, refused: Callable[[Path], tuple[str, ...]], there: bool
) -> None:
    data = tmp_path / "data"
    if there:
        with Engine.open(data / "deep" / "a.db"):
            pass
    serve, arguments = [sys.executable, "-m", "palyra_actors.cli", "serve"], refused(tmp_path)
    before = sorted(data.rglob("*"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "taken"))
        other.listen()
        done = subprocess.run(
            [*serve, "--db", str(data / "deep" / "a.db"), *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert (done.returncode, done.stdout) == (exits.BROKEN, ""), done.stderr
    assert sorted(data.rglob("*")) == before
    assert data.exists() is there


def test_a_wal_whose_database_is_gone_outlives_a_start_that_is_refused(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "a.db-wal").write_bytes(b"the only copy" * 100)
    code, _, said = run("serve", "--db", tmp_path / "a.db", "--endpoint", "tcp://127.0.0.1:0")
    assert code == exits.BROKEN, said
    assert [file.name for file in tmp_path.iterdir()] == ["a.db-wal"]
    assert (tmp_path / "a.db-wal").read_bytes() == b"the only copy" * 100


def test_an_engine_that_was_written_to_is_not_taken_away(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "a.db")
    engine.sessions.open(SESSION).append("x.a", {}, actor="user", budget_ms=0)
    engine.abandon()
    with Engine.open(tmp_path / "a.db") as again:
        assert again.head().seq == 1


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "b.db"
    with Engine.open(path) as other:
        other.append_many(Event(SESSION, "x.a", {"pad": "x" * 200}) for _ in range(3000))
    command = f"{sys.executable} -m palyra_actors.cli tail --db {path} --json | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["seq"] == 1


def test_asking_for_help_loads_nothing_of_the_engine() -> None:
    code = """
import sys
heavy = {"apsw", "pykka", "msgspec", "numpy", "hyperscan", "structlog"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_what_a_terminal_would_obey_is_made_visible() -> None:
    assert plain("a\x1b]0;x\x07\x9b\r\nb\tc\u202e") == "a\\x1b]0;x\\x07\\x9b\nb\tc\\u202e"


def test_times_and_sizes_are_for_people() -> None:
    assert moment(1_700_000_000_123) == "2023-11-14 22:13:20.123"
    assert moment(1500) == "+1.500 s"
    assert moment(2**48 - 1) == "281474976710655 ms"
    assert [size(value) for value in (0, 1023, 1536, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 TiB",
    ]


def _as_a_process(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "palyra_actors.cli", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_who_has_seen_enough_is_no_error(
    run: Run, tmp_path: Path, form: list[str]
) -> None:
    db = tmp_path / "a.db"
    run("append", "--db", db, "--session", SESSION, "--text", "hello")
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        ended = _as_a_process("show", SESSION, "--db", db, *form, stdout=nobody)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_output_that_finds_no_room_is_said_in_a_line(
    run: Run, tmp_path: Path, form: list[str]
) -> None:
    db = tmp_path / "a.db"
    run("append", "--db", db, "--session", SESSION, "--text", "hello")
    with open("/dev/full", "wb") as full:
        ended = _as_a_process("show", SESSION, "--db", db, *form, stdout=full)
    assert ended.returncode == 4
    assert "cannot be written: No space left on device" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


INTERRUPTED_WHILE_LOADED = """
import sys
from importlib.abc import MetaPathFinder

class Impatient(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "palyra_actors.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Impatient())
from palyra_actors.cli import main
main()
"""


def test_an_interrupt_while_a_command_is_loaded_leaves_no_traceback() -> None:
    command = [sys.executable, "-c", INTERRUPTED_WHILE_LOADED]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (exits.INTERRUPTED, "")
