"""A connection of the door, as the desk and the guard see it."""

import time
from collections import deque
from typing import Protocol


class Outbox(Protocol):
    """The door."""

    def queue(self, peer: "DoorPeer", frame: bytes) -> None:
        """A reply. Any thread."""
        ...


class Taken:
    """Bytes that were read of a connection."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class DoorPeer:
    """One connection, by its routing id; `delimited` mirrors the empty frame that REQ sends.

    `taken`: what was read of the connection, whether behind empty frames or not; `met_at`:
    monotonic seconds.
    `key`: its public key, None where the door is not locked.
    `connection`: libzmq's descriptor of it and the inode behind that, or None.
    """

    __slots__ = (
        "backlog", "backlog_bytes", "connection", "cut", "delimited", "door", "identity",
        "key", "large_in_round", "met_at", "moved_at", "principal", "refused", "role",
        "taken", "under_way",
    )  # fmt: skip

    def __init__(self, door: Outbox, identity: bytes, delimited: bool) -> None:
        self.door = door
        self.identity = identity
        self.delimited = delimited
        self.principal = "local"
        self.role = "admin"
        self.key: str | None = None
        self.under_way = 0
        self.taken = Taken()
        self.met_at = time.monotonic()
        self.refused = False
        self.backlog: deque[bytes] = deque()
        self.backlog_bytes = 0
        self.cut = False
        self.connection: tuple[int, int] | None = None
        self.large_in_round = -1
        self.moved_at = 0.0

    @property
    def taken_bytes(self) -> int:
        """As it was on the wire."""
        return self.taken.bytes

    @taken_bytes.setter
    def taken_bytes(self, count: int) -> None:
        self.taken.bytes = count

    def send(self, frame: bytes) -> None:
        """Queue a reply. Any thread."""
        self.door.queue(self, frame)
