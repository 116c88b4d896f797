"""Key files: made once and whole, for their owner's eyes, and never taken on trust."""

import os
import stat
import threading
from pathlib import Path

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palyra_actors.errors import ConfigInvalid, Conflict, Invalid, NotFound
from palyra_actors.keys import KeyFolder, Pair, Principal, read_client_key, read_public_key


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "deep" / "keys")


def test_a_new_principal_has_a_pair_that_belongs_together_and_the_engines_key(
    folder: KeyFolder,
) -> None:
    key = read_client_key(folder.new("alice", "reader"))
    assert zmq.curve_public(key.pair.secret.encode()).decode() == key.pair.public
    assert key.server == folder.server().public == read_public_key(folder.path / "server.pub")
    assert folder.load().principals == {key.pair.public: Principal("alice", "reader")}


def test_every_file_is_the_owners_alone_whatever_the_umask(folder: KeyFolder) -> None:
    before = os.umask(0)
    try:
        folder.new("alice", "writer")
    finally:
        os.umask(before)
    modes = {
        path.relative_to(folder.path.parent).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in [folder.path, *folder.path.rglob("*")]
    }
    assert modes == {
        "keys": 0o700,
        "keys/principals": 0o700,
        "keys/principals/alice.pub": 0o600,
        "keys/secrets": 0o700,
        "keys/secrets/alice.secret": 0o600,
        "keys/server.pub": 0o600,
        "keys/server.secret": 0o600,
    }


@pytest.mark.parametrize("left", ["principals/alice.pub", "secrets/alice.secret"])
def test_nothing_is_overwritten_and_nothing_is_left_behind(folder: KeyFolder, left: str) -> None:
    folder.new("alice", "writer")
    for path in (folder.principals / "alice.pub", folder.secrets / "alice.secret"):
        if path != folder.path / left:
            path.unlink()
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(Conflict):
        folder.new("alice", "admin")
    after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "../x", "a/b", "a\0b", "a b", "é", "a\n", "x" * 65, "local", "*", "a\\b"],
)
def test_a_name_is_one_harmless_path_component(folder: KeyFolder, name: str) -> None:
    with pytest.raises(Invalid) as refusal:
        folder.new(name, "writer")
    assert refusal.value.field == "NAME"
    with pytest.raises(Invalid):
        folder.revoke(name)
    assert not folder.path.exists()


def test_a_revoked_principal_is_gone_with_its_secret_and_can_be_made_anew(
    folder: KeyFolder,
) -> None:
    old = read_client_key(folder.new("alice", "writer"))
    folder.revoke("alice")
    assert not folder.load().principals
    assert not list(folder.secrets.iterdir())
    with pytest.raises(NotFound):
        folder.revoke("alice")
    new = read_client_key(folder.new("alice", "reader"))
    assert new.pair.public != old.pair.public
    assert list(folder.load().principals) == [new.pair.public]


def test_many_who_make_the_first_principal_at_once_agree_on_the_engines_keys(
    folder: KeyFolder,
) -> None:
    start = threading.Barrier(8)
    servers: list[str | None] = []

    def make(number: int) -> None:
        start.wait(10)
        servers.append(read_client_key(folder.new(f"agent-{number}", "writer")).server)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert servers == [folder.server().public] * 8
    assert len(folder.load().principals) == 8


def test_a_secret_is_in_no_repr(folder: KeyFolder) -> None:
    key = read_client_key(folder.new("alice", "writer"))
    assert key.pair.secret not in repr(key)
    assert key.pair.public in repr(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_secret_that_others_may_get_at_is_not_used(folder: KeyFolder, mode: int) -> None:
    secret = folder.new("alice", "writer")
    secret.chmod(mode)
    with pytest.raises(Invalid) as refusal:
        read_client_key(secret)
    assert (refusal.value.field, refusal.value.hint) == ("key_file", f"chmod 600 {secret}")
    (folder.path / "server.secret").chmod(mode)
    with pytest.raises(ConfigInvalid) as broken:
        folder.server()
    assert broken.value.field == "door.keys"


@pytest.mark.parametrize("which", ["", "principals"])
def test_a_folder_that_others_may_write_is_not_believed(folder: KeyFolder, which: str) -> None:
    folder.new("alice", "writer")
    (folder.path / which).chmod(0o720)
    with pytest.raises(ConfigInvalid, match="others may write"):
        folder.server()


def test_a_file_that_cannot_be_used_lets_nobody_in_and_is_named(
    folder: KeyFolder, tmp_path: Path
) -> None:
    good = read_client_key(folder.new("good", "writer"))
    role = folder.principals / "role.pub"
    folder.new("role", "writer")
    role.write_text(role.read_text().replace("writer", "root"))
    folder.new("open", "writer")
    (folder.principals / "open.pub").chmod(0o666)
    folder.new("empty", "writer")
    (folder.principals / "empty.pub").write_text("")
    folder.new("big", "writer")
    big = folder.principals / "big.pub"
    big.write_text(big.read_text() + "#" * 5000)
    (folder.principals / "local.pub").write_text(big.read_text())
    (folder.principals / "a b.pub").write_text("")
    (folder.principals / "folder.pub").mkdir()
    os.mkfifo(folder.principals / "fifo.pub")
    folder.new("moved", "writer")
    (folder.principals / "moved.pub").rename(tmp_path / "moved.pub")
    (folder.principals / "link.pub").symlink_to(tmp_path / "moved.pub")
    found = folder.load()
    assert found.principals == {good.pair.public: Principal("good", "writer")}
    bad = ["a b", "big", "empty", "fifo", "folder", "link", "local", "open", "role"]
    assert len(found.problems) == len(bad)
    for name, problem in zip(bad, sorted(found.problems), strict=True):
        assert f"{name}.pub" in problem


def test_two_files_with_the_same_key_let_nobody_in(folder: KeyFolder) -> None:
    folder.new("alice", "reader")
    content = (folder.principals / "alice.pub").read_text()
    (folder.principals / "mallory.pub").write_text(content.replace("reader", "admin"))
    found = folder.load()
    assert not found.principals
    assert len(found.problems) == 1


def test_who_somebody_is_comes_from_the_files_name_alone(folder: KeyFolder) -> None:
    folder.new("alice", "reader")
    public = folder.principals / "alice.pub"
    public.write_text(public.read_text().replace('name = "alice"', 'name = "root"'))
    assert list(folder.load().principals.values()) == [Principal("alice", "reader")]


def test_a_look_notices_whatever_changes(folder: KeyFolder) -> None:
    folder.new("alice", "reader")
    looks = [folder.look(), folder.look()]
    public = folder.principals / "alice.pub"
    public.write_text(public.read_text().replace("reader", "writer"))
    looks.append(folder.look())
    folder.new("bob", "reader")
    looks.append(folder.look())
    folder.revoke("bob")
    looks.append(folder.look())
    for path in (public, folder.principals, folder.path):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        looks.append(folder.look())
        path.chmod(mode)
    looks.append(folder.look())
    assert looks[0] == looks[1]
    assert looks[2] == looks[4] == looks[8]
    assert len(set(looks)) == 6


@given(content=st.binary(max_size=300))
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes_are_a_key_file_or_a_problem(folder: KeyFolder, content: bytes) -> None:
    if not folder.path.exists():
        folder.new("x", "writer")
    (folder.principals / "x.pub").write_bytes(content)
    found = folder.load()
    assert len(found.principals) + len(found.problems) == 1


@pytest.mark.parametrize(
    "given_key", ["", "x" * 40 + "y", "x" * 39, "/nowhere/server.pub", "é" * 40]
)
def test_what_is_no_engines_key_is_refused(given_key: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read_public_key(given_key)
    assert refusal.value.field == "server_key"


def test_an_engines_key_may_be_given_as_it_is() -> None:
    public = Pair.generate().public
    assert read_public_key(public) == public
