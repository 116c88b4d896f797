"""The door with keys: closed by default, principal and role from the handshake, revoked at once."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from palyra_actors.actors import keywatch
from palyra_actors.actors.authenticator import BEGIN, Authenticator, Knock
from palyra_actors.actors.doorpeer import DoorPeer
from palyra_actors.api.events import new_id
from palyra_actors.cli import reading
from palyra_actors.client import Client
from palyra_actors.engine import Engine
from palyra_actors.errors import ConfigInvalid, Denied, NoReply
from palyra_actors.keys import KeyFolder, Pair, Role
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, NO_BUDGET, House, Silent, Wire, curve, event, house

LET_IN = zmq.EVENT_HANDSHAKE_SUCCEEDED
SENT_AWAY = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)
CUT = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED)


@pytest.fixture(scope="module")
def locked_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One engine with a locked door for the tests of this file that change nothing of its keys."""
    folder = tmp_path_factory.mktemp("locked")
    KeyFolder(folder / "keys").new("alice", "writer")
    for name, role in _ROLES.items():
        KeyFolder(folder / "keys").new(name, role)
    with house(folder, keys=folder / "keys") as opened:
        yield opened


_ROLES: dict[str, Role] = {"reed": "reader", "walt": "writer", "ada": "admin"}


@pytest.fixture
def own_locked(tmp_path: Path) -> Iterator[House]:
    KeyFolder(tmp_path / "keys").new("alice", "writer")
    with house(tmp_path, keys=tmp_path / "keys") as opened:
        yield opened


@contextlib.contextmanager
def visitor(endpoint: str, **options: Any) -> Iterator[zmq.Socket[bytes]]:
    """Somebody who rings; the monitor that says what becomes of it."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.set(zmq.RECONNECT_IVL, -1)
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    monitor = socket.get_monitor_socket(zmq.EVENT_ALL)
    socket.connect(endpoint)
    try:
        yield monitor
    finally:
        socket.disable_monitor()
        socket.close()
        monitor.close()


def await_event(monitor: zmq.Socket[bytes], *wanted: int) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while monitor.poll(int((deadline - time.monotonic()) * 1000)):
        event_now = recv_monitor_message(monitor)["event"]
        if event_now in wanted:
            return int(event_now)
    raise AssertionError(f"none of {wanted} happened")


def stranger(keys: KeyFolder) -> dict[str, Any]:
    pair = Pair.generate()
    return {
        "CURVE_SERVERKEY": keys.server().public.encode(),
        "CURVE_PUBLICKEY": pair.public.encode(),
        "CURVE_SECRETKEY": pair.secret.encode(),
    }


@pytest.mark.parametrize(("name", "role"), _ROLES.items())
def test_principal_and_role_are_those_of_the_key(locked_house: House, name: str, role: str) -> None:
    hello = locked_house.connect_as(name).ok("engine.hello")
    assert (hello["principal"], hello["role"]) == (name, role)


@pytest.mark.parametrize("name", ["reed", "walt"])
def test_only_an_admin_acts_for_another(locked_house: House, name: str) -> None:
    wire = locked_house.connect_as(name)
    assert wire.err("engine.hello", principal="ada")["code"] == "denied"
    assert wire.ok("engine.hello", principal=name)["principal"] == name


def test_an_admin_who_acts_for_another_writes_as_that_one(locked_house: House) -> None:
    admin, owner = locked_house.connect_as("ada"), locked_house.connect_as("walt")
    session = new_id()
    admin.ok("journal.append", {"events": [event(session)]}, principal="walt")
    assert owner.read(session_id=session)[0]["principal"] == "walt"
    hello = admin.ok("engine.hello", principal="walt")
    assert (hello["principal"], hello["role"]) == ("walt", "writer")


def test_a_reader_reads_its_own_and_writes_nothing(locked_house: House) -> None:
    admin, reader = locked_house.connect_as("ada"), locked_house.connect_as("reed")
    session = new_id()
    admin.ok("journal.append", {"events": [event(session)]}, principal="reed")
    assert len(reader.read(session_id=session)) == 1
    assert reader.refuse(event(session))["code"] == "denied"
    assert reader.refuse(event(new_id()))["code"] == "denied"


def test_a_stranger_gets_no_handshake(locked_house: House, figure: Tell) -> None:
    assert locked_house.keys is not None
    with visitor(locked_house.endpoint, **stranger(locked_house.keys)) as monitor:
        came = await_event(monitor, LET_IN, *SENT_AWAY)
        figure(23, "strangers", 1)
        figure(23, "let in", came == LET_IN, most=0)
        assert came == zmq.EVENT_HANDSHAKE_FAILED_AUTH


def test_who_has_no_key_gets_no_handshake(locked_house: House, figure: Tell) -> None:
    with visitor(locked_house.endpoint) as monitor:
        came = await_event(monitor, LET_IN, *SENT_AWAY, *CUT)
        figure(23, "strangers", 1)
        figure(23, "let in", came == LET_IN, most=0)
        assert came != LET_IN


def test_who_rings_with_plain_text_passwords_gets_no_handshake(
    locked_house: House, figure: Tell
) -> None:
    with visitor(locked_house.endpoint, PLAIN_USERNAME=b"ada", PLAIN_PASSWORD=b"x") as monitor:
        came = await_event(monitor, LET_IN, *SENT_AWAY, *CUT)
        figure(23, "strangers", 1)
        figure(23, "let in", came == LET_IN, most=0)
        assert came != LET_IN


def test_a_client_does_not_speak_to_an_engine_with_another_key(locked_house: House) -> None:
    assert locked_house.keys is not None
    own = curve(locked_house.keys.secrets / "walt.secret")
    own["CURVE_SERVERKEY"] = Pair.generate().public.encode()
    with visitor(locked_house.endpoint, **own, HANDSHAKE_IVL=500) as monitor:
        assert await_event(monitor, LET_IN, *SENT_AWAY, *CUT) != LET_IN


def test_a_public_key_without_its_secret_gets_no_handshake(locked_house: House) -> None:
    assert locked_house.keys is not None
    own = curve(locked_house.keys.secrets / "ada.secret")
    own["CURVE_SECRETKEY"] = Pair.generate().secret.encode()
    with visitor(locked_house.endpoint, **own, HANDSHAKE_IVL=500) as monitor:
        assert await_event(monitor, LET_IN, *SENT_AWAY, *CUT) != LET_IN


def test_who_chooses_a_routing_id_is_refused(locked_house: House) -> None:
    wire = locked_house.connect_as("walt", ROUTING_ID=b"ada")
    for _ in range(2):
        error = wire.raw(b"\x80")["err"]
        assert (error["code"], error["hint"][:20]) == ("denied", "leave ZMQ_ROUTING_ID")


def test_a_connection_is_who_its_own_key_says_even_under_another_ones_routing_id(
    own_locked: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second lock: were a chosen id let in, it would still not be its first bearer."""
    monkeypatch.setattr("palyra_actors.actors.door._chosen", lambda identity: False)
    assert own_locked.keys is not None
    with Client(own_locked.endpoint, key_file=own_locked.keys.new("bob", "writer")) as bob:
        bob.hello(timeout_s=DEADLINE_S)
    names: list[str] = []
    for name in ("alice", "bob"):
        deadline = time.monotonic() + DEADLINE_S
        while len(names) < 1 + (name == "bob"):  # the id is free once the one before is gone
            assert time.monotonic() < deadline
            with (
                Wire(
                    own_locked.endpoint,
                    **curve(own_locked.keys.secrets / f"{name}.secret"),
                    ROUTING_ID=b"the same",
                ) as wire,
                contextlib.suppress(Silent),
            ):
                wire.send("engine.hello")
                names.append(wire.receive(1.0)["ok"]["principal"])
    assert names == ["alice", "bob"]


def test_the_python_client_comes_in_with_its_key_file(locked_house: House) -> None:
    assert locked_house.keys is not None
    keys = locked_house.keys
    with Client(locked_house.endpoint, key_file=keys.secrets / "walt.secret") as client:
        client.sessions.open().append("message_received", {"text": "hello"}, actor="user")
    with Client(
        locked_house.endpoint,
        key_file=keys.secrets / "reed.secret",
        server_key=keys.path / "server.pub",
    ) as client:
        assert client.hello().role == "reader"
        with pytest.raises(Denied):
            client.sessions.open().append("message_received", {"text": "hello"}, actor="user")


def test_the_python_client_says_that_its_key_is_not_known(
    locked_house: House, tmp_path: Path
) -> None:
    assert locked_house.keys is not None
    other = KeyFolder(tmp_path / "other").new("walt", "writer")
    with (
        Client(
            locked_house.endpoint,
            key_file=other,
            server_key=locked_house.keys.server().public,
            timeout_s=1.0,
        ) as client,
        pytest.raises(NoReply, match="it does not know this key") as refusal,
    ):
        client.hello()
    assert refusal.value.field == "key_file"


def test_a_new_key_opens_the_door_without_a_restart(own_locked: House) -> None:
    assert own_locked.keys is not None
    own_locked.keys.new("bob", "reader")
    # It is sent away until the files were looked at; a client tries again.
    with Client(own_locked.endpoint, key_file=own_locked.keys.secrets / "bob.secret") as client:
        assert client.hello(timeout_s=DEADLINE_S).principal == "bob"


def test_a_revoked_key_cuts_its_connections_and_nothing_more_is_served(own_locked: House) -> None:
    assert own_locked.keys is not None
    other = own_locked.connect_as("alice")
    secret = curve(own_locked.keys.secrets / "alice.secret")
    own_locked.keys.new("bob", "writer")
    with Client(own_locked.endpoint, key_file=own_locked.keys.secrets / "bob.secret") as bob:
        bob.hello(timeout_s=DEADLINE_S)
        other.append(event(new_id()))
        with visitor(own_locked.endpoint, **secret) as silent:
            assert await_event(silent, LET_IN, *SENT_AWAY) == LET_IN
            monitor = other.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            other.send("journal.subscribe", {"credit": 10})
            own_locked.keys.revoke("alice")
            await_event(monitor, zmq.EVENT_DISCONNECTED)
            other.socket.disable_monitor()
            monitor.close()
        head = bob.head()
        with visitor(own_locked.endpoint, **secret) as monitor:
            assert await_event(monitor, LET_IN, *SENT_AWAY) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        assert bob.head() == head


def test_a_call_whose_key_is_revoked_before_its_answer_is_told_long_before_its_deadline(
    own_locked: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_locked.keys is not None
    secret = own_locked.keys.secrets / "alice.secret"
    asked = threading.Event()
    told: list[NoReply] = []
    with Client(own_locked.endpoint, key_file=secret, timeout_s=1e6) as client:
        session = client.sessions.open()
        # the answer never comes
        monkeypatch.setattr(DoorPeer, "send", lambda self, frame: asked.set())

        def append() -> None:
            with pytest.raises(NoReply, match="it does not know this key") as refusal:
                session.append("message_received", {"text": "hello"}, actor="user")
            told.append(refusal.value)

        asking = threading.Thread(target=append)
        asking.start()
        assert asked.wait(DEADLINE_S)
        own_locked.keys.revoke("alice")
        asking.join(DEADLINE_S)
    assert [(one.field, one.outcome) for one in told] == [("key_file", "unknown")]
    assert len(told[0].detail["event_ids"]) == own_locked.engine.head().seq == 1


def test_a_call_whose_connection_is_cut_gets_its_answer_over_the_next_one(
    own_locked: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_locked.keys is not None
    works = own_locked.engine._works
    real = DoorPeer.send

    def cut_instead(self: DoorPeer, frame: bytes) -> None:
        monkeypatch.setattr(DoorPeer, "send", real)
        works.door._cut_off(self)

    secret = own_locked.keys.secrets / "alice.secret"
    with Client(
        own_locked.endpoint, key_file=secret, silence_s=1e6, timeout_s=DEADLINE_S
    ) as client:
        session = client.sessions.open()
        monkeypatch.setattr(DoorPeer, "send", cut_instead)
        stored = session.append("message_received", {"text": "hello"}, actor="user")
        assert stored.duplicate
        assert client.statistics().connections == 2


def test_who_follows_the_journal_is_told_that_the_key_was_revoked(
    own_locked: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_locked.keys is not None
    monkeypatch.setattr(reading, "LOOK_S", 0.2)
    secret = own_locked.keys.secrets / "alice.secret"
    with Client(own_locked.endpoint, key_file=secret, timeout_s=2.0) as client:
        stored = client.sessions.open().append("message_received", {"text": "a"}, actor="user")
        with client.subscribe(after_seq=0) as live:
            events = reading._followed(client, live)
            assert next(events).seq == stored.seq
            own_locked.keys.revoke("alice")
            with pytest.raises(NoReply, match="it does not know this key"):
                next(events)


def test_a_connection_that_was_silent_until_its_key_was_revoked_is_not_served(
    own_locked: House,
) -> None:
    assert own_locked.keys is not None
    wire = own_locked.connect_as("alice")
    monitor = wire.socket.get_monitor_socket(zmq.EVENT_ALL)
    await_event(monitor, LET_IN)
    own_locked.keys.revoke("alice")
    _until(own_locked, lambda: not own_locked.engine._works.door._gate._allowed.principals)
    wire.send("journal.append", {"events": [event(new_id())]})
    await_event(monitor, zmq.EVENT_DISCONNECTED)
    wire.socket.disable_monitor()
    monitor.close()
    assert own_locked.engine.head().seq == 0


def test_a_role_that_changes_cuts_the_connection_and_holds_for_the_next(own_locked: House) -> None:
    assert own_locked.keys is not None
    wire = own_locked.connect_as("alice")
    assert wire.ok("engine.hello")["role"] == "writer"
    monitor = wire.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    public = own_locked.keys.principals / "alice.pub"
    public.write_text(public.read_text().replace("writer", "reader"))
    await_event(monitor, zmq.EVENT_DISCONNECTED)
    wire.socket.disable_monitor()
    monitor.close()
    assert wire.ok("engine.hello")["role"] == "reader"  # libzmq has connected again


@pytest.mark.parametrize("which", ["principals/alice.pub", "principals", "."])
def test_what_others_may_write_from_now_on_lets_nobody_in(own_locked: House, which: str) -> None:
    assert own_locked.keys is not None
    secret = curve(own_locked.keys.secrets / "alice.secret")
    path = own_locked.keys.path / which
    mode = path.stat().st_mode
    path.chmod(mode | 0o002)
    _until(own_locked, lambda: own_locked.engine.health().status == "degraded")
    with visitor(own_locked.endpoint, **secret) as monitor:
        assert await_event(monitor, LET_IN, *SENT_AWAY) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    path.chmod(mode)
    _until(own_locked, lambda: own_locked.engine.health().status == "ready")
    assert own_locked.connect(**secret).ok("engine.hello")["principal"] == "alice"


def test_a_folder_that_vanishes_lets_nobody_in(own_locked: House, tmp_path: Path) -> None:
    assert own_locked.keys is not None
    secret = curve(own_locked.keys.secrets / "alice.secret")
    own_locked.keys.path.rename(tmp_path / "elsewhere")
    _until(own_locked, lambda: own_locked.engine.health().status == "degraded")
    with visitor(own_locked.endpoint, **secret) as monitor:
        assert await_event(monitor, LET_IN, *SENT_AWAY) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    (tmp_path / "elsewhere").rename(own_locked.keys.path)
    _until(own_locked, lambda: own_locked.engine.health().status == "ready")
    assert own_locked.connect(**secret).ok("engine.hello")["principal"] == "alice"


# -- the lock itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, False])
def test_a_lock_that_does_not_hold_is_found_before_the_door_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    KeyFolder(tmp_path / "keys").new("alice", "writer")
    monkeypatch.setattr(Authenticator, "_may_enter", lambda self, key: answer)
    with Engine.open(tmp_path / "journal.db") as engine:
        with pytest.raises(ConfigInvalid) as refusal:
            engine.serve(f"ipc://{tmp_path}/door", keys=tmp_path / "keys")
        assert refusal.value.field == "door.keys"
        assert not (tmp_path / "door").exists()


def test_a_door_whose_authenticator_never_answers_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyFolder(tmp_path / "keys").new("alice", "writer")
    monkeypatch.setattr(Authenticator, "_answer", lambda self, handler: None)
    monkeypatch.setattr("palyra_actors.actors.door.PROVE_MS_MAX", 200)
    with Engine.open(tmp_path / "journal.db") as engine:
        with pytest.raises(ConfigInvalid, match="took too long"):
            engine.serve(f"ipc://{tmp_path}/door", keys=tmp_path / "keys")
        assert not (tmp_path / "door").exists()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, MemoryError])
def test_a_dead_authenticator_shuts_the_door_and_comes_back_proven(
    own_locked: House, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    wire = own_locked.connect_as("alice")
    wire.append(event(new_id()))
    engine = own_locked.engine
    gate = engine._works.door._gate
    real = Authenticator.on_receive
    died: list[Knock] = []

    def die_once(self: Authenticator, message: Any) -> None:
        if isinstance(message, Knock) and not died:
            died.append(message)
            raise error("a fault put in on purpose")
        real(self, message)

    monkeypatch.setattr(Authenticator, "on_receive", die_once)
    wire.append(event(new_id()))  # comes through once the lock was proven again
    assert died
    assert gate.statistics().failures == 1
    assert engine.health().status == "ready"
    assert own_locked.connect_as("alice").ok("engine.hello")["principal"] == "alice"


def test_while_the_authenticator_is_down_nobody_comes_in_and_no_frame_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyFolder(tmp_path / "keys").new("alice", "writer")
    config = NO_BUDGET.replaced("actors", restart_backoff_ms=60_000, restart_backoff_ms_max=60_000)
    with house(tmp_path, config, keys=tmp_path / "keys") as opened:
        engine = opened.engine
        wire = opened.connect_as("alice")
        wire.append(event(new_id()))
        secret = curve(tmp_path / "keys" / "secrets" / "alice.secret")
        real = Authenticator.on_receive

        def die(self: Authenticator, message: Any) -> None:
            raise RuntimeError("a fault put in on purpose")

        monkeypatch.setattr(Authenticator, "on_receive", die)
        _until(opened, lambda: engine.health().status == "failing")
        assert "the door is shut" in engine.health().reasons[0]
        with visitor(opened.endpoint, **secret) as monitor:
            assert await_event(monitor, LET_IN, *SENT_AWAY, *CUT) != LET_IN
        wire.send("journal.append", {"events": [event(new_id())]})
        assert engine.head().seq == 1
        monkeypatch.setattr(Authenticator, "on_receive", real)
        engine._works.loop.call_soon(lambda: engine._works.door._gate.hand(BEGIN))
        assert "ok" in wire.receive()
        assert engine.head().seq == 2
        assert engine.health().status == "ready"


def test_a_door_whose_keys_nobody_looks_at_any_more_is_shut(
    own_locked: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = own_locked.connect_as("alice")
    wire.append(event(new_id()))

    stuck = threading.Event()
    monkeypatch.setattr(keywatch, "STALE_S", 0.5)
    monkeypatch.setattr(keywatch.KeyWatch, "_look", lambda self: stuck.wait(DEADLINE_S))
    _until(own_locked, lambda: own_locked.engine.health().status == "failing")
    assert own_locked.keys is not None
    with visitor(own_locked.endpoint, **curve(own_locked.keys.secrets / "alice.secret")) as monitor:
        # nor is said that the key is unknown, which a client would believe
        seen = await_event(monitor, LET_IN, *SENT_AWAY, *CUT)
        assert seen not in (LET_IN, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    monkeypatch.undo()
    stuck.set()
    assert "ok" in wire.call("journal.head")


def test_a_locked_door_may_be_bound_to_any_address(tmp_path: Path) -> None:
    secret = KeyFolder(tmp_path / "keys").new("alice", "writer")
    with Engine.open(tmp_path / "journal.db") as engine:
        bound = engine.serve("tcp://0.0.0.0:0", keys=tmp_path / "keys")
        port = bound.rpartition(":")[2]
        with Wire(f"tcp://127.0.0.1:{port}", **curve(secret)) as wire:
            assert wire.ok("engine.hello")["principal"] == "alice"


def test_a_folder_without_keys_opens_no_door(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "journal.db") as engine, pytest.raises(ConfigInvalid) as refusal:
        engine.serve(f"ipc://{tmp_path}/door", keys=tmp_path / "keys")
    assert refusal.value.field == "door.keys"
    assert "palyra-actors keys new" in str(refusal.value.hint)


def _until(opened: House, true: Callable[[], bool]) -> None:
    """What no message announces; the engine's answers set the pace."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        opened.engine.health()
        assert time.monotonic() < deadline
