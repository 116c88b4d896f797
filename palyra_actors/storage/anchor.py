"""The journal's head, kept outside the database: what was acknowledged may not be missing later.

    agents.db-anchor    palyra-anchor 2 1042:9f86d081884c7d659a2feaa0c55ad015a3bf… 5c1d9c7e
                        palyra-anchor 2 1034:2c26b46b68ffc68ff99b453c1d3041341342… 0b7e8a01

The chain finds every change inside a journal but not a tail that is gone: what is left of it is a
valid chain. The anchor knows how far it went. It is written behind the commits (`actors.anchors`),
so it never names an event that is not durable: a database that ends before it, or has another hash
there, has lost something.

It has two lines, each with a checksum and in a block of the disk of its own, which a running engine
overwrites in turns (`Anchor`): a power cut tears the one that is being written and leaves the
other. The one that has seen more counts. Between version and checksum stands a head as
`palyra-actors verify --expect` takes it. Keep a copy of the line on another machine, and whoever
holds both files here cannot cut the tail off unnoticed. Version 1, which is one line and was
replaced whole, is read, too.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from typing import Final
from zlib import crc32

from palyra_actors.domain.chain import lost_from
from palyra_actors.errors import ConfigInvalid, OpenRefused
from palyra_actors.storage.files import FILE_MODE
from palyra_actors.storage.lock import sync_folder
from palyra_actors.storage.port import Head

SLOT_BYTES: Final = 4096
"""Of a line with its padding: what a file system writes at once, so never both of them."""

_SUFFIX: Final = "-anchor"
_LINE: Final = re.compile(rb"palyra-anchor 1 (\d{1,19}):([0-9a-f]{64})\n")
_SLOT: Final = re.compile(rb"(palyra-anchor 2 (\d{1,19}):([0-9a-f]{64})) ([0-9a-f]{8}) *\n")


def beside(file: str | os.PathLike[str]) -> str:
    """Where the anchor of a database lies, unless the configuration says otherwise."""
    return os.path.realpath(file) + _SUFFIX


def place(file: str, chosen: str) -> str:
    """Where the anchor of the database `file`, a real path, lies: as `chosen`, or beside it where
    that is empty.

    Raises:
        ConfigInvalid: there lies a file of the database's own, which it would replace.
    """
    path = os.path.abspath(chosen) if chosen else beside(file)
    if os.path.realpath(path) in {file + suffix for suffix in ("", "-wal", "-shm")}:
        raise ConfigInvalid(
            f"the anchor would replace a file of the database: {path}",
            field="engine.anchor",
            hint="choose another path for it, best on another disk; or leave it empty",
        )
    return path


def read(path: str) -> Head | None:
    """The anchored head; None where there is no anchor.

    Raises:
        OpenRefused: there is one and it cannot be read, or it says nothing of this kind.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(2 * SLOT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise OpenRefused(
            f"the anchor {path} cannot be read: {cause.strerror}",
            hint=f"put the right file back; without one: {_going_on(path)}",
            detail={"path": path},
        ) from cause
    head = _head_in(content)
    if head is None:
        raise OpenRefused(
            f"{path} is no anchor",
            hint=f"put the right file back; without one: {_going_on(path)}",
            detail={"path": path},
        )
    return head


def _going_on(path: str, file: str | None = None) -> str:
    """The command that makes an anchor anew. `file`: its database, if that is known."""
    if file is None and path.endswith(_SUFFIX):
        file = path.removesuffix(_SUFFIX)
    elsewhere = "" if file is not None and path == beside(file) else f" --anchor {path}"
    return f"palyra-actors doctor --db {file or 'FILE'}{elsewhere} --accept-loss"


def _head_in(content: bytes) -> Head | None:
    """What an anchor says; None: nothing of the kind."""
    if (line := _LINE.fullmatch(content)) is not None:
        return Head(int(line[1]), bytes.fromhex(line[2].decode()))
    if len(content) != 2 * SLOT_BYTES:
        return None
    found = (_SLOT.fullmatch(content[:SLOT_BYTES]), _SLOT.fullmatch(content[SLOT_BYTES:]))
    heads = [
        Head(int(slot[2]), bytes.fromhex(slot[3].decode()))
        for slot in found
        if slot is not None and int(slot[4], 16) == crc32(slot[1])
    ]
    return max(heads, default=None)


def _slot_of(head: Head) -> bytes:
    line = f"palyra-anchor 2 {head.seq}:{head.hash.hex()}".encode()
    return f"{line.decode()} {crc32(line):08x}".ljust(SLOT_BYTES - 1).encode() + b"\n"


def write(path: str, head: Head) -> None:
    """Replace the anchor, whole or not at all, and let a power cut not undo it.

    Raises:
        OSError: it could not be; the one before stands.
    """
    os.close(_replace(path, head))


def _replace(path: str, head: Head) -> int:
    """As `write`; the descriptor of the file that is there now."""
    partial = path + ".partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
    try:
        _put(descriptor, 2 * _slot_of(head), 0)
        os.fsync(descriptor)
        os.replace(partial, path)
        sync_folder(os.path.dirname(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _put(descriptor: int, content: bytes, offset: int) -> None:
    if os.pwrite(descriptor, content, offset) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Anchor:
    """The anchor of a running engine: written often, by one thread at a time.

    The first time it replaces the file, whatever that was. From then on it overwrites the older of
    its two lines where it stands, which costs a sync and no work of the file system's; and replaces
    it again where it has been taken away, or could not be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._older = 0  # the line that is overwritten next

    def write(self, head: Head) -> None:
        """Let the anchor say `head`, which is above all that it was told before, and a power cut
        not undo it.

        Raises:
            OSError: it could not be; what was written before stands.
        """
        if self._descriptor is None or not self._is_there(self._descriptor):
            self.close()
            self._descriptor, self._older = _replace(self._path, head), 0
            return
        try:
            _put(self._descriptor, _slot_of(head), self._older * SLOT_BYTES)
            os.fdatasync(self._descriptor)
        except BaseException:
            self.close()  # what is on the disk of this file is not known any more
            raise
        self._older ^= 1

    def close(self) -> None:
        """Let go of the file; a later `write` begins anew."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _is_there(self, descriptor: int) -> bool:
        """Whether its file still has the anchor's name."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(descriptor))
        except FileNotFoundError:
            return False


def refuse_loss(
    file: str, path: str, anchored: Head, head: Head, hash_at: Callable[[int], bytes | None]
) -> None:
    """Raise `OpenRefused` if the journal does not hold what was anchored."""
    seq = lost_from(anchored, head, hash_at)
    if seq is None:
        return
    what = (
        f"{file} ends at event {head.seq}, but its anchor has seen event {anchored.seq}: "
        f"{anchored.seq - head.seq} acknowledged events are missing"
        if head.seq < anchored.seq
        else f"event {seq} of {file} is not the one that its anchor has seen"
    )
    raise OpenRefused(
        what,
        hint="put the right file or a newer backup in its place; to go on with what is there: "
        f"{_going_on(path, file)}",
        detail={
            "path": file,
            "anchor": path,
            "anchored_seq": anchored.seq,
            "head_seq": head.seq,
            "first_lost_seq": seq,
        },
    )
