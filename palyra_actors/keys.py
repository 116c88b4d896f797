"""Key files: who may come in through a locked door, and as what.

    keys/                          0700, and every file 0600
      server.pub                   the engine's public key: its clients have to know it
      server.secret                the engine's own
      principals/NAME.pub          who may come in: public key and role. The engine reads these
      secrets/NAME.secret          NAME's own, with the engine's public key: take it to NAME

A principal is the file's name and nothing that the file says. A file is written whole under another
name first and then linked to its own: it is never seen half, and never overwrites one. The form is
that of CZMQ's certificates (ZPL), with keys in Z85, so that clients in other languages read them.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self, TypeAlias, get_args

import zmq

from palyra_actors.errors import ConfigInvalid, Conflict, Invalid, NotFound
from palyra_actors.limits import PRINCIPAL_BYTES_MAX

Role: TypeAlias = Literal["reader", "writer", "admin"]
ROLES: Final[tuple[str, ...]] = get_args(Role)

KEYS_MAX: Final = 4096
"""Principals of one folder. What is beyond is not let in."""

FILE_BYTES_MAX: Final = 4096
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
KEY_CHARACTERS: Final = 40  # 32 bytes in Z85

RESERVED: Final = frozenset({"local"})
"""Names that are no principal's of a folder: `local` is whoever comes in without keys."""

_NAME: Final = re.compile(rf"[A-Za-z0-9_@-][A-Za-z0-9_.:@-]{{0,{PRINCIPAL_BYTES_MAX - 1}}}\Z")
_KEY: Final = re.compile(rf"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{{}}@%$#]{{{KEY_CHARACTERS}}}\Z")
_LINE: Final = re.compile(r'\s+([a-z-]+)\s*=\s*"([^"]*)"\s*\Z')
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_MADE_BY: Final = "# A key file of palyra-actors, in the form of a CZMQ certificate (ZPL)."


@dataclass(frozen=True, slots=True)
class Principal:
    """Who somebody is, and what that one may do."""

    name: str
    role: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A CURVE key pair in Z85. The secret half is in no `repr`."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())


@dataclass(frozen=True, slots=True)
class ClientKey:
    """What a client needs: its own pair and the engine's public key, where the file has it."""

    pair: Pair
    server: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A principal of the folder, as a list shows it."""

    name: str
    role: str
    public_key: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Allowed:
    """Public key to principal, and the files that were passed over, with what is wrong there."""

    principals: Mapping[str, Principal] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class KeyFolder:
    """The folder. Every method reads or writes the disk; nothing is kept in memory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.principals = self.path / "principals"
        self.secrets = self.path / "secrets"

    # -- for who administers it -------------------------------------------------------------------

    def new(self, name: str, role: Role) -> Path:
        """Make a principal, and with the first one the engine's own keys; its secret file.

        Raises:
            Invalid: the name is none for a principal.
            Conflict: there is one of this name, or its secret file still lies there.
            ConfigInvalid: the folder cannot be written, or others may write it.
        """
        _check_name(name)
        server = self._make_folder()
        pair = Pair.generate()
        secret, public = self.secrets / f"{name}.secret", self.principals / f"{name}.pub"
        if public.exists():
            raise Conflict(
                f"there is a principal {name!r}",
                field="NAME",
                hint=f"palyra-actors keys revoke {name} ends it; then make it anew",
            )
        _write_new(
            secret,
            {"name": name, "server-key": server.public},
            {"public-key": pair.public, "secret-key": pair.secret},
        )
        try:
            _write_new(public, {"name": name, "role": role}, {"public-key": pair.public})
        except BaseException:
            secret.unlink(missing_ok=True)
            raise
        return secret

    def revoke(self, name: str) -> None:
        """End a principal: an engine that serves this folder cuts it within a second.

        What it wrote stays its own, and is again its own if it is made anew.

        Raises:
            NotFound: there is none of this name.
        """
        _check_name(name)
        try:
            (self.principals / f"{name}.pub").unlink()
        except FileNotFoundError:
            raise NotFound(f"there is no principal {name[:64]!r}", field="NAME") from None
        (self.secrets / f"{name}.secret").unlink(missing_ok=True)
        _sync(self.principals)

    def list(self) -> list[Entry]:
        """All principals by name. Raises ConfigInvalid: there is no such folder."""
        self._refuse_missing()
        found = self.load()
        return sorted(
            (
                Entry(who.name, who.role, public, _made_ms(self.principals / f"{who.name}.pub"))
                for public, who in found.principals.items()
            ),
            key=lambda entry: entry.name,
        )

    def _make_folder(self) -> Pair:
        for folder in (self.path, self.principals, self.secrets):
            try:
                folder.mkdir(mode=FOLDER_MODE, parents=folder is self.path, exist_ok=True)
            except OSError as cause:
                raise _unusable(folder, cause.strerror or str(cause)) from cause
        self._refuse_open_folders()
        if not (self.path / "server.secret").exists():
            pair = Pair.generate()
            with contextlib.suppress(Conflict):  # somebody else has just made it
                _write_new(
                    self.path / "server.secret",
                    {"name": "server"},
                    {"public-key": pair.public, "secret-key": pair.secret},
                )
        server = self.server()
        if not (self.path / "server.pub").exists():
            with contextlib.suppress(Conflict):
                _write_new(
                    self.path / "server.pub", {"name": "server"}, {"public-key": server.public}
                )
        return server

    # -- for the engine ---------------------------------------------------------------------------

    def server(self) -> Pair:
        """The engine's own keys.

        Raises:
            ConfigInvalid: there are none, or others may read or write what only the engine may.
        """
        self._refuse_missing()
        self._refuse_open_folders()
        return _pair(self.path / "server.secret", field="door.keys")

    def look(self) -> object:
        """Something that is equal as long as no principal's file has changed, nor who may change
        one: a millisecond for a thousand of them. Raises OSError."""
        folders = [(of.st_mode, of.st_uid) for of in map(os.stat, (self.path, self.principals))]
        with os.scandir(self.principals) as entries:
            found = []
            for entry in entries:
                seen = entry.stat(follow_symlinks=False)
                rights = seen.st_mode, seen.st_uid
                found.append((entry.name, seen.st_mtime_ns, seen.st_ino, seen.st_size, *rights))
                if len(found) > 2 * KEYS_MAX:
                    break
        return (*folders, frozenset(found))

    def load(self) -> Allowed:
        """Who may come in. A file that cannot be used lets nobody in and is named among the
        problems, and so are two that hold the same key.

        Raises:
            ConfigInvalid: others may write one of the folders.
            OSError: there is none.
        """
        self._refuse_open_folders()
        principals: dict[str, Principal] = {}
        twice: set[str] = set()
        problems: list[str] = []
        for number, path in enumerate(sorted(_files(self.principals))):
            if number == KEYS_MAX:
                problems.append(f"there are more than {KEYS_MAX} files")
                break
            try:
                public, who = _principal(path)
            except ConfigInvalid as problem:
                problems.append(problem.message)
                continue
            if public in principals:
                twice.add(public)
                problems.append(f"{path.name} and {principals[public].name}.pub hold the same key")
            principals[public] = who
        for public in twice:
            del principals[public]
        return Allowed(MappingProxyType(principals), tuple(problems))

    def _refuse_missing(self) -> None:
        if not self.principals.is_dir():
            raise ConfigInvalid(
                f"there are no keys in {self.path}",
                field="door.keys",
                hint=f"palyra-actors keys new NAME --role writer --keys {self.path}",
            )

    def _refuse_open_folders(self) -> None:
        for folder in (self.path, self.principals):
            seen = os.stat(folder)
            if seen.st_mode & _OTHERS_WRITE or seen.st_uid not in (os.geteuid(), 0):
                raise ConfigInvalid(
                    f"others may write {folder}: whoever does, lets in whom they like",
                    field="door.keys",
                    hint=f"chmod 700 {folder}",
                )


def read_client_key(path: str | Path) -> ClientKey:
    """A client's secret file.

    Raises:
        Invalid: it is none, cannot be read, or others may read it.
    """
    try:
        pair = _pair(Path(path), field="key_file")
        metadata, _ = _read(Path(path))
    except ConfigInvalid as problem:
        raise Invalid(problem.message, field="key_file", hint=problem.hint) from problem
    return ClientKey(pair, metadata.get("server-key"))


def read_public_key(given: str | Path) -> str:
    """An engine's public key: the 40 characters themselves, or a file with them (`server.pub`).

    Raises:
        Invalid: it is neither.
    """
    if isinstance(given, str) and _KEY.match(given):
        return given
    try:
        return _public(*_read(Path(given)), Path(given))
    except ConfigInvalid as problem:
        raise Invalid(
            problem.message, field="server_key", hint="40 characters of Z85, or server.pub"
        ) from problem


def _check_name(name: str) -> None:
    if not _NAME.match(name) or name in RESERVED:
        raise Invalid(
            f"{name[:64]!r} is no name for a principal",
            field="NAME",
            hint=f"1 to {PRINCIPAL_BYTES_MAX} of A-Z a-z 0-9 _ . : @ - and no dot first"
            + (f"; {name!r} is whoever comes in without keys" if name in RESERVED else ""),
        )


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".pub") and not entry.name.startswith("."):
                yield Path(entry.path)


def _principal(path: Path) -> tuple[str, Principal]:
    name = path.name.removesuffix(".pub")
    if not _NAME.match(name) or name in RESERVED:
        raise _unusable(path, "its name is no principal's")
    metadata, curve = _read(path, _OTHERS_WRITE)
    role = metadata.get("role")
    if role not in ROLES:
        raise _unusable(path, f"its role is none of {', '.join(ROLES)}")
    return _public(metadata, curve, path), Principal(name, role)


def _pair(path: Path, *, field: str) -> Pair:
    metadata, curve = _read(path, _OTHERS, field)
    secret = curve.get("secret-key", "")
    if not _KEY.match(secret):
        raise _unusable(path, "it holds no secret-key of 40 characters", field)
    public = _public(metadata, curve, path)
    if zmq.curve_public(secret.encode()).decode() != public:
        raise _unusable(path, "its two keys do not belong together", field)
    return Pair(public, secret)


def _public(metadata: Mapping[str, str], curve: Mapping[str, str], path: Path) -> str:
    del metadata
    public = curve.get("public-key", "")
    if not _KEY.match(public):
        raise _unusable(path, "it holds no public-key of 40 characters")
    return public


def _read(
    path: Path, forbidden: int = 0, field: str = "door.keys"
) -> tuple[dict[str, str], dict[str, str]]:
    """The two sections of a key file. `forbidden`: mode bits that it may not have."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            seen = os.fstat(descriptor)
            if not stat.S_ISREG(seen.st_mode):
                raise _unusable(path, "it is no regular file", field)
            if seen.st_mode & forbidden:
                raise _unusable(path, "others may get at it", field, f"chmod 600 {path}")
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as cause:
        raise _unusable(path, cause.strerror or str(cause), field) from cause
    if len(content) > FILE_BYTES_MAX:
        raise _unusable(path, f"it is longer than {FILE_BYTES_MAX} bytes", field)
    sections: dict[str, dict[str, str]] = {"metadata": {}, "curve": {}}
    values: dict[str, str] | None = None
    for line in content.decode("utf-8", "replace").splitlines():
        found = _LINE.match(line)
        if found is not None and values is not None:
            values[found[1]] = found[2]
        elif line and not line.startswith("#"):
            values = sections.get(line.strip())
    return sections["metadata"], sections["curve"]


def _write_new(path: Path, metadata: Mapping[str, str], curve: Mapping[str, str]) -> None:
    """Write a file that is there whole or not at all. Raises Conflict: there is one."""
    lines = [_MADE_BY]
    for section, values in (("metadata", metadata), ("curve", curve)):
        lines += [section, *(f'    {name} = "{value}"' for name, value in values.items())]
    draft = path.parent / f".{path.name}.{os.getpid()}.{os.urandom(6).hex()}"
    try:
        descriptor = os.open(
            draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write("\n".join([*lines, ""]).encode())
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)
        _sync(path.parent)
    except FileExistsError as cause:
        raise Conflict(
            f"{path} is there already, and is never overwritten",
            field="NAME",
            hint="move it away first",
        ) from cause
    except OSError as cause:
        raise _unusable(path, cause.strerror or str(cause)) from cause
    finally:
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _made_ms(path: Path) -> int:
    with contextlib.suppress(OSError):
        return int(path.stat().st_mtime * 1000)
    return 0


def _unusable(
    path: Path, why: str, field: str = "door.keys", hint: str | None = None
) -> ConfigInvalid:
    return ConfigInvalid(f"{path} cannot be used: {why}", field=field, hint=hint)
