"""Is this database whole? Its pages, its chain, and the head that its anchor has seen.

Reads only, in slices, so that somebody else can do something in between.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from palyra_actors.domain.chain import GENESIS, lost_from
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.lock import holder_of
from palyra_actors.storage.port import Head

SLICE_EVENTS: Final = 250
"""Half a millisecond: what an engine in the same process waits for at most."""

Rest: TypeAlias = Callable[[float], None]
"""Called after each slice with the seconds that it took: a place to leave the machine to others."""


def no_rest(took_s: float) -> None:
    """Go on at once: this process has nothing else to do."""


NICE: Final = 10


def making_way(file: str | os.PathLike[str]) -> Rest:
    """For a process of its own: where an engine is at work on the file this one steps back, and
    rests after each slice for as long as that took. The processor and the disk are the engine's."""
    if holder_of(file) in (None, os.getpid()):
        return no_rest
    os.nice(NICE)
    return time.sleep


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found. `faults`: of pages; `first_bad_seq`: of the chain, or where the journal is
    not what the anchor has seen; `seconds`: how long it took."""

    head: Head
    checked: int
    erased: int
    faults: list[str]
    first_bad_seq: int | None
    anchored: Head | None
    seconds: float

    @property
    def sound(self) -> bool:
        return not self.faults and self.first_bad_seq is None

    def trouble(self) -> str:
        """The first thing that is wrong, in words; empty where nothing is."""
        if self.faults:
            return f"damaged pages: {self.faults[0]}"
        if self.first_bad_seq is not None:
            return f"the journal does not hold at seq {self.first_bad_seq}"
        return ""


def audit(
    reader: JournalReader,
    *,
    anchored: Head | None = None,
    expect: Head | None = None,
    from_seq: int = 1,
    to_seq: int | None = None,
    pages: bool = True,
    rest: Rest = no_rest,
) -> Audit:
    """Check what the reader sees now: its pages if wanted, and the chain from `from_seq` on.

    Raises:
        apsw.Error: it cannot be read.
    """
    began = time.monotonic()
    faults = reader.faults(rest) if pages else []
    if not reader.has_journal():
        return Audit(Head(0, GENESIS), 0, 0, faults, None, anchored, time.monotonic() - began)
    head = reader.head()
    last = head.seq if to_seq is None else min(to_seq, head.seq)
    bad = [
        seq
        for seen in (anchored, expect)
        if seen is not None
        and (to_seq is None or to_seq >= seen.seq)
        and (seq := lost_from(seen, head, reader.hash_at)) is not None
    ]
    checked = erased = 0
    previous: bytes | None = None
    while from_seq <= last:
        slice_began = time.monotonic()
        upto = min(from_seq + SLICE_EVENTS - 1, last)
        part = reader.check(from_seq, upto, previous)
        checked += part.checked
        erased += part.erased
        previous, from_seq = part.head.hash, upto + 1
        if part.first_bad_seq is not None:
            bad.append(part.first_bad_seq)
            break
        rest(time.monotonic() - slice_began)
    seconds = time.monotonic() - began
    return Audit(head, checked, erased, faults, min(bad, default=None), anchored, seconds)
