"""A disk that takes nothing: whether it does again is tried until it does."""

import logging
from collections.abc import Callable
from typing import Final

from palyra_actors.actors.group import Group
from palyra_actors.errors import StorageUnavailable
from palyra_actors.runtime.dispatcher import Loop
from palyra_actors.storage.port import WriteSide

log = logging.getLogger(__name__)

PROBE_S: Final = 0.4
"""How often it is tried whether a disk that took a group no more takes one again."""


class Rejection:
    """The disk did not take a group. Health does not wait for somebody's write to find out whether
    it would now.

    `chore` has a piece of work done on the writer's connection; `may_try`: whether there is one.

    Attributes:
        reason: what the disk said to the last group that it did not take; None: it took it.
    """

    def __init__(
        self,
        loop: Loop,
        chore: Callable[[Callable[[WriteSide], None]], None],
        may_try: Callable[[], bool],
    ) -> None:
        self.reason: str | None = None
        self._loop = loop
        self._chore = chore
        self._may_try = may_try
        self._bytes = 0
        self._probing = False

    def note(self, reason: str, group: Group) -> None:
        """It did not take this one."""
        self.reason = reason
        self._bytes = sum(unit.payload_bytes for unit in group.units)
        if not self._probing:
            self._probing = True
            self._probe_later()

    def _probe_later(self) -> None:
        self._loop.call_later(PROBE_S, self._probe)

    def _probe(self) -> None:
        if self.reason is None:
            self._probing = False
        elif self._may_try():
            self._chore(self._try_disk)
        else:
            self._probe_later()

    def _try_disk(self, storage: WriteSide) -> None:
        """In the committer's thread."""
        try:
            storage.probe(self._bytes)
            self.reason = None
        except StorageUnavailable as still:
            log.debug("the disk takes nothing yet: %s", still)
        self._loop.call_soon(self._probe_later)
