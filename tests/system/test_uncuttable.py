"""A door whose connections cannot be cut, because libzmq tells 0 for the descriptor of each."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from palyra_actors.actors import probe, router
from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.engine import Engine
from palyra_actors.errors import ConfigInvalid
from palyra_actors.keys import KeyFolder
from tests.system.harness import DEADLINE_S, House, Silent, Wire, curve, event, house


@contextlib.contextmanager
def telling(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """libzmq tells this number for the descriptor of every connection."""
    with monkeypatch.context() as patched:
        patched.setattr(router, "descriptor", lambda _origin: number)
        yield


@pytest.fixture
def no_socket(tmp_path: Path) -> Iterator[int]:
    with (tmp_path / "no socket").open("w") as file:
        yield file.fileno()


def reasons(wire: Wire) -> list[str]:
    health = wire.ok("engine.health")
    assert health["status"] == ("degraded" if health["reasons"] else "ready")
    return list(health["reasons"])


@pytest.mark.parametrize("keys", [True, False])
def test_a_connection_to_oneself_is_told_from_others(keys: bool) -> None:
    with zmq.Context() as context:
        assert probe.trouble(context, keys=keys) is None


@pytest.mark.parametrize("keys", [True, False])
def test_a_descriptor_that_is_none_or_another_ones_is_found(
    keys: bool, no_socket: int, own: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = int(own.connect().socket.getsockopt(zmq.FD))
    with zmq.Context() as context:
        for number, what in ((no_socket, "which is no socket"), (-1, "no descriptor")):
            with telling(monkeypatch, number):
                assert what in (probe.trouble(context, keys=keys) or "")
        with telling(monkeypatch, others):
            assert probe.trouble(context, keys=keys) is not None
        with telling(monkeypatch, no_socket):
            monkeypatch.setattr(probe, "CLASHING", ("zmq",))
            assert "zmq is loaded" in (probe.trouble(context, keys=keys) or "")


def test_a_door_without_keys_opens_and_says_that_nobody_can_be_cut(
    tmp_path: Path,
    no_socket: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with telling(monkeypatch, no_socket), house(tmp_path) as opened:
        wire = opened.connect()
        assert wire.append(event(new_id()))
        [reason] = reasons(wire)
        assert reason.startswith("connections cannot be cut: libzmq tells ")
        [said] = [one for one in caplog.records if "cannot be cut" in one.getMessage()]
        assert said.levelno == logging.WARNING
        assert probe.HINT in said.getMessage()


def test_a_locked_door_stays_shut_unless_it_is_told_otherwise(
    tmp_path: Path, no_socket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyFolder(tmp_path / "keys")
    options = curve(keys.new("alice", "writer"))
    with telling(monkeypatch, no_socket):
        with Engine.open(tmp_path / "journal.db") as engine:
            with pytest.raises(ConfigInvalid, match="no connection could be cut") as refused:
                engine.serve("tcp://127.0.0.1:0", keys=keys.path)
            assert refused.value.field == "door.must_cut"
        config = Config().replaced("door", must_cut=False)
        with (
            Engine.open(tmp_path / "journal.db", config) as engine,
            Wire(engine.serve("tcp://127.0.0.1:0", keys=keys.path), **options) as wire,
        ):
            assert wire.append(event(new_id()))
            assert len(reasons(wire)) == 1


def test_a_library_that_comes_later_is_noticed_and_a_revoked_key_is_not_served(
    tmp_path: Path, no_socket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyFolder(tmp_path / "keys")
    alice, ada = curve(keys.new("alice", "writer")), curve(keys.new("ada", "admin"))
    with house(tmp_path, keys=keys.path) as opened:
        admin = opened.connect(**ada)
        assert reasons(admin) == []
        with telling(monkeypatch, no_socket):
            wire = opened.connect(**alice)
            assert wire.append(event(new_id()))
        assert len(reasons(admin)) == 1
        keys.revoke("alice")
        opened.engine.reload_keys()
        wait_until_refused(wire)


def test_a_connection_whose_number_is_a_files_by_now_says_nothing_of_the_others(
    own: House, no_socket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was closed before it was looked at, and its descriptor given again."""
    told, tell = [no_socket], router.descriptor
    monkeypatch.setattr(router, "descriptor", lambda one: told.pop() if told else tell(one))
    assert own.connect().append(event(new_id()))
    assert not told
    assert reasons(own.connect()) == []


def wait_until_refused(wire: Wire) -> None:
    """Its connection stays, and nothing is answered on it any more."""
    for _ in range(int(DEADLINE_S * 2)):
        wire.send("journal.head")
        try:
            reply: dict[str, Any] = wire.receive(0.5)
        except Silent:
            return
        assert "ok" in reply
    raise AssertionError("it is served for ever")
