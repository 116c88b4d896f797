"""Power cuts, as many as you like: record what SQLite writes and syncs, then make the disks that a
power cut at any moment could have left, and look whether everything acknowledged is on them.

    def workload(path, vfs, ack):            # writes through the VFS, acks what is promised
        connection = open_writer(path, synchronous="full", ..., vfs=vfs)
        ...
        connection.execute("COMMIT").fetchall()
        ack(seq)

    def check(path, acked):                  # opens the image with stock SQLite
        return "ok" or "lost" or any other word

    result = cut_power(workload, check, folder, images=200)
    assert result.count("lost") == 0

A campaign proves nothing by itself: run the same workload under `synchronous=normal`, which must
lose something, as the control.

The disk that is modelled keeps what a sync has returned for and, of what was written since, any
subset of 512 byte sectors in any order. What SQLite assumes of file systems is assumed here too:
a sync of a file keeps its name, and an unlink without a sync of its folder may come undone. The
wal-index is memory and does not survive. A disk that lies about its flush is not modelled.
"""

import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import apsw

SECTOR_BYTES: Final = 512

Survival: TypeAlias = Literal["synced", "written", "subset", "torn"]
"""What of the unsynced is on the disk: nothing, all of it, some sectors, all up to a torn write."""

SURVIVALS: Final[tuple[Survival, ...]] = get_args(Survival)

Workload: TypeAlias = Callable[[str, str, Callable[[object], None]], None]
Check: TypeAlias = Callable[[str, Sequence[object]], str]


class Found(NamedTuple):
    """A file that held something when it was first opened."""

    file: str
    data: bytes


class Write(NamedTuple):
    file: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    file: str
    size: int


class Sync(NamedTuple):
    file: str


class Delete(NamedTuple):
    """`synced`: the folder was synced with it, so it is for good."""

    file: str
    synced: bool


class Mark(NamedTuple):
    """Not the disk's: the workload acknowledged `value` to somebody here."""

    value: object


Entry: TypeAlias = Found | Write | Truncate | Sync | Delete | Mark


class PowerVFS(apsw.VFS):
    """Records what happens to files, in the order it happens; file names without their folder.

    A write is logged before it is done and a sync after it returned, so that no image holds
    more promises than were kept. Any thread. Use one folder a recorder.

    Raises:
        ValueError: a VFS of that name is registered already.
    """

    def __init__(self, name: str, base: str = "") -> None:
        if name in apsw.vfs_names():
            raise ValueError(f"a VFS named {name!r} is registered already")
        self.name = name
        self.base = base
        self.log: list[Entry] = []
        self._known: set[str] = set()
        self._lock = threading.Lock()
        super().__init__(name, base)

    def mark(self, value: object) -> None:
        """Note that `value` was acknowledged; to be called after the COMMIT that holds it."""
        self.note(Mark(value))

    def note(self, entry: Entry) -> None:
        """Append to the log."""
        with self._lock:
            self.log.append(entry)

    def xOpen(  # noqa: N802
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return apsw.VFSFile(self.base, name, flags)  # a temporary file outlives nothing
        short = os.path.basename(path)
        opened = _PowerFile(self, short, name, flags)
        with self._lock:
            if short not in self._known:
                self._known.add(short)
                self.log.extend(_content(short, opened))
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.note(Delete(os.path.basename(filename), syncdir))


class _PowerFile(apsw.VFSFile):
    def __init__(
        self,
        recorder: PowerVFS,
        short: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        self._recorder = recorder
        self._short = short
        super().__init__(recorder.base, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._recorder.note(Write(self._short, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._recorder.note(Truncate(self._short, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._recorder.note(Sync(self._short))


def _content(short: str, file: apsw.VFSFile) -> Iterator[Found]:
    size = file.xFileSize()
    if size:
        yield Found(short, file.xRead(size, 0))


@dataclass(slots=True)
class Disk:
    """What is durable and what is not, at one point of a log. `play` forward only."""

    durable: dict[str, bytearray] = field(default_factory=dict)
    pending: dict[str, list[Write | Truncate]] = field(default_factory=dict)
    undone: dict[str, bytes] = field(default_factory=dict)
    """Files whose unlink may come undone, with what they held."""

    def play(self, entry: Entry) -> None:
        """Let one thing happen."""
        match entry:
            case Found(file, data):
                self.durable[file] = bytearray(data)
            case Write() | Truncate():
                self.pending.setdefault(entry.file, []).append(entry)
            case Sync(file):
                content = self.durable.setdefault(file, bytearray())
                for change in self.pending.pop(file, []):
                    _apply(content, change)
            case Delete(file, synced):
                held = self.durable.pop(file, None)
                self.pending.pop(file, None)
                self.undone.pop(file, None)
                if held is not None and not synced:
                    self.undone[file] = bytes(held)
            case Mark():
                pass

    def image(self, survival: Survival, chance: random.Random) -> dict[str, bytes]:
        """The files after a power cut now."""
        files = {file: bytearray(data) for file, data in self.durable.items()}
        for file, changes in self.pending.items():
            if survival == "synced":
                continue
            content = files.setdefault(file, bytearray())
            for change in _surviving(changes, survival, chance):
                _apply(content, change)
        if survival in {"subset", "torn"}:
            for file, held in self.undone.items():
                if file not in files and chance.random() < 0.5:
                    files[file] = bytearray(held)
        return {file: bytes(data) for file, data in files.items()}


def _surviving(
    changes: Sequence[Write | Truncate], survival: Survival, chance: random.Random
) -> Iterator[Write | Truncate]:
    if survival == "written":
        yield from changes
    elif survival == "torn":
        last = chance.randrange(len(changes))
        yield from changes[:last]
        torn = changes[last]
        if isinstance(torn, Write):
            sectors = len(torn.data) // SECTOR_BYTES
            cut = chance.randint(0, sectors) * SECTOR_BYTES
            yield torn._replace(data=torn.data[:cut])
    else:
        for change in changes:
            share = chance.choice((0.0, 0.2, 0.5, 0.8, 1.0))
            if isinstance(change, Truncate):
                if chance.random() < share:
                    yield change
                continue
            for start in range(0, len(change.data), SECTOR_BYTES):
                if chance.random() < share:
                    part = change.data[start : start + SECTOR_BYTES]
                    yield Write(change.file, change.offset + start, part)


def _apply(content: bytearray, change: Write | Truncate) -> None:
    match change:
        case Truncate(_, size):
            del content[size:]
            content.extend(bytes(size - len(content)))
        case Write(_, offset, data) if data:
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data


@dataclass(frozen=True, slots=True)
class Cut:
    """One image and what became of it: to be made again by `image_at` with the same seed."""

    entries: int
    survival: Survival
    seed: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Campaign:
    """All images of one workload. `acked`: how many acknowledgements it gave in all."""

    log: tuple[Entry, ...]
    acked: int
    cuts: tuple[Cut, ...]

    def count(self, verdict: str) -> int:
        """How many images got that verdict."""
        return sum(cut.verdict == verdict for cut in self.cuts)

    def verdicts(self) -> Counter[tuple[Survival, str]]:
        """How many of each kind got which."""
        return Counter((cut.survival, cut.verdict) for cut in self.cuts)


def record(workload: Workload, path: str, *, vfs: str = "power") -> tuple[Entry, ...]:
    """Run the workload on `path` through a recorder and return its log.

    The recorder is registered as `vfs` for that long; the workload has to close its connections.
    """
    recorder = PowerVFS(vfs)
    try:
        workload(path, vfs, recorder.mark)
    finally:
        recorder.unregister()
    return tuple(recorder.log)


def image_at(log: Sequence[Entry], entries: int, survival: Survival, seed: int) -> dict[str, bytes]:
    """The files after a power cut behind the first `entries` of the log."""
    disk = Disk()
    for entry in log[:entries]:
        disk.play(entry)
    return disk.image(survival, random.Random(seed))


def cut_power(
    workload: Workload,
    check: Check,
    folder: str | os.PathLike[str],
    *,
    images: int,
    seed: int = 1,
    vfs: str = "power",
) -> Campaign:
    """Record the workload once, cut the power `images` times, and check what is left.

    Cuts are spread evenly over the log, from before the first write to after the last, and take
    turns in what survives. The same seed and log give the same images.

    Args:
        workload: called once with a path in `folder`, the VFS's name, and `ack`.
        check: called with the path of each image and everything acknowledged before the cut, in
            order; returns its verdict. What it raises ends the campaign.
        folder: emptied for each image; a memory file system is fastest.
        images: how many cuts.
        seed: of cut points and of sectors.
        vfs: the recorder's name while it is registered.
    """
    path = os.path.join(folder, "work", "power.db")
    _empty_folder(os.path.dirname(path))
    log = record(workload, path, vfs=vfs)
    image_path = os.path.join(folder, "image", "power.db")
    chance = random.Random(seed)
    step = (len(log) + 1) / images
    points = sorted(min(len(log), int((n + chance.random()) * step)) for n in range(images))
    disk, played, acked, cuts = Disk(), 0, list[object](), list[Cut]()
    for number, point in enumerate(points):
        for entry in log[played:point]:
            disk.play(entry)
            if isinstance(entry, Mark):
                acked.append(entry.value)
        played = point
        survival = SURVIVALS[number % len(SURVIVALS)]
        cut_seed = chance.randrange(2**32)
        write_image(image_path, disk.image(survival, random.Random(cut_seed)))
        cuts.append(Cut(point, survival, cut_seed, check(image_path, tuple(acked))))
    return Campaign(log, sum(isinstance(entry, Mark) for entry in log), tuple(cuts))


def write_image(path: str, files: dict[str, bytes]) -> None:
    """Put an image's files into the folder of `path`, which is emptied; modes are 0600."""
    folder = os.path.dirname(path)
    _empty_folder(folder)
    for name, data in files.items():
        descriptor = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def _empty_folder(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, mode=0o700)
