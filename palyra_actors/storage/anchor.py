"""The journal's head, kept outside the database: what was acknowledged may not be missing later.

    agents.db-anchor        palyra-anchor 1 1042:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c…

The chain finds every change inside a journal but not a tail that is gone: what is left of it is a
valid chain. The anchor knows how far it went. It is written behind the commits (`actors.anchors`),
so it never names an event that is not durable: a database that ends before it, or has another hash
there, has lost something.

The line after the version is a head as `palyra-actors verify --expect` takes it. Keep a copy of the
file on another machine, and whoever holds both files here cannot cut the tail off unnoticed.
"""

import contextlib
import os
import re
from collections.abc import Callable
from typing import Final

from palyra_actors.domain.chain import lost_from
from palyra_actors.errors import OpenRefused
from palyra_actors.storage.files import FILE_MODE
from palyra_actors.storage.lock import sync_folder
from palyra_actors.storage.port import Head

_LINE: Final = re.compile(rb"palyra-anchor 1 (\d{1,19}):([0-9a-f]{64})\n")
_BYTES_MAX: Final = 256


def beside(file: str | os.PathLike[str]) -> str:
    """Where the anchor of a database lies, unless the configuration says otherwise."""
    return os.path.realpath(file) + "-anchor"


def read(path: str) -> Head | None:
    """The anchored head; None where there is no anchor.

    Raises:
        OpenRefused: there is one and it cannot be read, or it says nothing of this kind.
    """
    try:
        with open(path, "rb") as file:
            found = _LINE.fullmatch(file.read(_BYTES_MAX))
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise OpenRefused(
            f"the anchor {path} cannot be read: {cause.strerror}", detail={"path": path}
        ) from cause
    if found is None:
        raise OpenRefused(
            f"{path} is no anchor",
            hint="put the right file back; without one: palyra-actors doctor --accept-loss",
            detail={"path": path},
        )
    return Head(int(found[1]), bytes.fromhex(found[2].decode()))


def write(path: str, head: Head) -> None:
    """Replace the anchor, whole or not at all, and let a power cut not undo it.

    Raises:
        OSError: it could not be; the one before stands.
    """
    partial = path + ".partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
    try:
        os.write(descriptor, f"palyra-anchor 1 {head.seq}:{head.hash.hex()}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, path)
    sync_folder(os.path.dirname(path))


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
    elsewhere = "" if path == beside(file) else f" --anchor {path}"
    raise OpenRefused(
        what,
        hint="put the right file or a newer backup in its place; to go on with what is there: "
        f"palyra-actors doctor --db {file}{elsewhere} --accept-loss",
        detail={
            "path": file,
            "anchor": path,
            "anchored_seq": anchored.seq,
            "head_seq": head.seq,
            "first_lost_seq": seq,
        },
    )
