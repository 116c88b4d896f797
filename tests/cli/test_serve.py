"""What a process that is an engine asks the system for, and what it leaves alone."""

import ctypes
import os
import struct
import threading
from pathlib import Path

import pytest

from palyra_actors.cli import exits, serve
from palyra_actors.engine import Engine
from palyra_actors.errors import ConfigInvalid
from tests.cli.conftest import Run

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
FORM = "=IIQiIQQQ"  # struct sched_attr


def asked() -> tuple[int, int, int]:
    """Policy, niceness and turn of the calling thread, as the system has them."""
    told = ctypes.create_string_buffer(struct.calcsize(FORM))
    number = ctypes.c_long(SCHED_GETATTR[os.uname().machine])
    assert ctypes.CDLL(None).syscall(number, 0, told, len(told), 0) == 0
    _, policy, _, nice, _, turn_ns, _, _ = struct.unpack(FORM, told.raw)
    return policy, nice, turn_ns


@pytest.fixture(autouse=True)
def shorter_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Than those of a command that another test has run in this process."""
    monkeypatch.setattr(serve, "TURN_NS", serve.TURN_NS // 2)


def in_a_thread_of_its_own(nice: int, policy: int = os.SCHED_OTHER) -> list[tuple[int, int, int]]:
    """Before and after asking, and what a thread has that is started then."""
    seen: list[tuple[int, int, int]] = []

    def ask() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        os.sched_setscheduler(0, policy, os.sched_param(0))
        seen.append(asked())
        serve.ask_for_short_turns()
        seen.append(asked())
        child = threading.Thread(target=lambda: seen.append(asked()))
        child.start()
        child.join()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return seen


@pytest.mark.skipif(
    os.uname().machine not in SCHED_GETATTR, reason="the number of the call is not known here"
)
def test_threads_ask_for_short_turns_and_stay_as_nice_as_they_are() -> None:
    before, after, of_a_child = in_a_thread_of_its_own(7)
    assert before[:2] == after[:2] == (0, 7)
    assert of_a_child == after
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release >= (6, 12):  # an older one has turns of its own and takes none
        assert before[2] != after[2] == serve.TURN_NS


def test_where_the_call_is_not_known_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SCHED_SETATTR", {})
    before, after, _ = in_a_thread_of_its_own(3)
    assert before == after


@pytest.mark.skipif(
    os.uname().machine not in SCHED_GETATTR, reason="the number of the call is not known here"
)
def test_a_policy_that_somebody_has_chosen_stays() -> None:
    before, after, of_a_child = in_a_thread_of_its_own(3, os.SCHED_BATCH)
    assert before == after == of_a_child
    assert after[0] == os.SCHED_BATCH


@pytest.mark.parametrize("linked", [False, True])
def test_a_door_at_the_path_of_a_file_takes_it_from_nobody(tmp_path: Path, linked: bool) -> None:
    path = door = tmp_path / "a.db"
    if linked:
        door = tmp_path / "door"
        door.symlink_to(path)
    with Engine.open(path) as engine:
        engine.sessions.open().append("x.a", {}, actor="user", budget_ms=0)
        with pytest.raises(ConfigInvalid) as caught:
            engine.serve(f"ipc://{door}")
    assert caught.value.field == "door.endpoint"
    assert os.path.realpath(door) == str(path)
    with Engine.open(path) as engine:
        assert engine.head().seq == 1


@pytest.mark.parametrize("there", [False, True])
def test_a_database_that_is_made_for_a_command_that_is_refused_is_taken_away_again(
    run: Run, tmp_path: Path, there: bool
) -> None:
    path, lines = tmp_path / "a.db", tmp_path / "lines"
    lines.write_text("nonsense\n")
    if there:
        with Engine.open(path):
            pass
    before = sorted(tmp_path.iterdir())
    for command in (("append", "{}", "--kind", "no kind"), ("import", lines)):
        assert run(*command, "--db", path)[0] == exits.REFUSED
        assert sorted(tmp_path.iterdir()) == before
    assert run("append", "{}", "--kind", "x.a", "--db", path)[0] == exits.OK
    assert run("append", "{}", "--kind", "no kind", "--db", path)[0] == exits.REFUSED
    with Engine.open(path) as engine:
        assert engine.head().seq == 1
