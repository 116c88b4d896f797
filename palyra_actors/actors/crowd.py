"""The thread that keeps a door over a path from having more connections than the process may.

libzmq ends the process (`Too many open files`) where it may not accept another connection over a
path; over TCP it waits. So it never comes to that: beyond a bound, who came last is shut out.

    descriptors ──near the limit──▶ look ──strangers first, then who came last──▶ shut

The bound is as far below the limit as many can come between two looks, so the limit is raised as
far as it may be.
"""

import logging
import os
import socket as sockets
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from palyra_actors.actors import descriptors
from palyra_actors.actors.guard import Known
from palyra_actors.actors.lookout import Lookout, Sparing

log = logging.getLogger(__name__)

LOOK_S: Final = 0.005
LOOK_AGAIN_S: Final = 0.001
"""Once a quarter of the room is taken. A look that finds nothing costs two microseconds."""

RESERVE: Final = 4096
"""Descriptors that stay free for the engine itself and for what comes between two looks; of a
smaller limit a half. libzmq accepts up to 50 connections in a millisecond."""

DESCRIPTORS_MIN: Final = 2048
"""Where the process may have fewer, a burst may come to the limit between two looks, and there is
no door over a path."""


class Crowd(Lookout):
    """Looks until stopped.

    Args:
        path: the door's, as it was bound; `@` before an abstract one.
        peers: those the door has met, by the inode of their connection. Called in this thread.
        descriptors_max: what the process may have open before somebody is shut out.
    """

    def __init__(
        self, path: str, peers: Callable[[], Mapping[int, Known]], *, descriptors_max: int
    ) -> None:
        super().__init__("palyra-crowd")
        abstract = path.startswith("@")
        self._name: str | bytes = b"\0" + os.fsencode(path[1:]) if abstract else path
        self._peers = peers
        self._descriptors_max = descriptors_max
        self._sparing = Sparing(log)
        self.cut = 0
        """Connections that were shut."""

    def _run(self) -> None:
        taken = 0
        while not self._leave.wait(LOOK_S if taken < self._descriptors_max // 4 else LOOK_AGAIN_S):
            try:
                taken = self.look()
            except Exception:
                log.exception("who has come to the door could not be looked at")

    def look(self) -> int:
        """One look; the descriptors that are taken."""
        taken = descriptors.lowest_free()
        if taken > self._descriptors_max:
            beyond = range(self._descriptors_max, taken)
            if not self._shut_strangers(beyond):
                for descriptor, inode in self._last_ones()[: len(beyond)]:
                    self._shut(descriptor, inode)
        return taken

    def _shut_strangers(self, numbers: range) -> bool:
        """Those of the last ones that have not said anything yet, at once: to look at all takes
        as long as many come in. False: there is none."""
        peers, cut = self._peers(), self.cut
        for descriptor in numbers:
            with suppress(OSError):
                about = os.fstat(descriptor)
                stranger = stat.S_ISSOCK(about.st_mode) and about.st_ino not in peers
                if stranger and self._is_ours(descriptor):
                    self._shut(descriptor, about.st_ino)
        return self.cut > cut

    def _shut(self, descriptor: int, inode: int) -> None:
        if not descriptors.is_still(descriptor, inode):
            return  # it is somebody else's by now
        with suppress(OSError), descriptors.borrowed(descriptor) as own:
            own.shutdown(sockets.SHUT_RDWR)
            self.cut += 1
            self._sparing.warn(
                "a connection is shut out: the process may have %d files open, and there are too"
                " many connections", descriptors.most(),
            )  # fmt: skip

    def _last_ones(self) -> list[tuple[int, int]]:
        """The door's connections, with their inodes: those that have not said anything yet, then
        the last ones met."""
        peers = self._peers()
        found: list[tuple[float, int, int]] = []
        for descriptor in descriptors.open_ones():
            with suppress(OSError):
                about = os.fstat(descriptor)
                if stat.S_ISSOCK(about.st_mode) and self._is_ours(descriptor):
                    known = peers.get(about.st_ino)
                    met_at = known.met_at if known else time.monotonic()
                    found.append((-met_at, descriptor, about.st_ino))
        return [(descriptor, inode) for _, descriptor, inode in sorted(found)]

    def _is_ours(self, descriptor: int) -> bool:
        with descriptors.borrowed(descriptor) as own:
            return (
                own.family == sockets.AF_UNIX
                and own.getsockname() == self._name
                and not own.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN)
            )
