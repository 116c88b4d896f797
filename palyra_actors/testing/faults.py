"""A disk that fails on command: an apsw VFS that counts, delays and breaks what SQLite does.

    with FaultVFS("faulty") as disk:
        connection = apsw.Connection(path, vfs="faulty")
        fault = disk.inject(Fault("sync", "wal", code=apsw.SQLITE_IOERR_FSYNC))
        ...                      # the next COMMIT fails
        assert fault.fired == 1

Faults hit files that SQLite opens through the VFS. The wal-index (`-shm`) is memory that the
inner VFS maps by itself, out of reach.
"""

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import apsw

Action: TypeAlias = Literal["open", "read", "write", "sync", "truncate", "delete"]
FileKind: TypeAlias = Literal["db", "wal", "journal", "other"]

DEFAULT_CODES: Final[dict[Action, int]] = {
    "open": apsw.SQLITE_CANTOPEN,
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
}


class Operation(NamedTuple):
    """One thing SQLite asked of the disk. `offset` and `size` in bytes, 0 where meaningless."""

    action: Action
    kind: FileKind
    path: str
    offset: int = 0
    size: int = 0


@dataclass(slots=True)
class Fault:
    """What fails, when, and how.

    Attributes:
        action: what SQLite has to be doing.
        kind: on which file; None is any.
        nth: the first such operation to fail, counted from 1 since the fault was injected.
        times: how many in a row fail; None is for good (until `heal`).
        code: the SQLite result code, extended or not; None is the usual one of the action.
        performed: do it and then report failure, as a controller that loses the answer would.
        seen: how many operations matched so far.
        fired: how many of them failed.
    """

    action: Action
    kind: FileKind | None = None
    nth: int = 1
    times: int | None = 1
    code: int | None = None
    performed: bool = False
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.nth < 1 or (self.times is not None and self.times < 1):
            raise ValueError("nth and times count from 1")

    def _strikes(self, operation: Operation) -> bool:
        if operation.action != self.action or self.kind not in {None, operation.kind}:
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.seen >= self.nth + self.times):
            return False
        self.fired += 1
        return True

    def _error(self) -> Exception:
        return apsw.exception_for(self.code or DEFAULT_CODES[self.action])


class FaultVFS(apsw.VFS):
    """A VFS over another one, registered under `name` until `unregister` or the end of a `with`.

    Any thread may use it, and inject or heal while others are at work. It must outlive the
    connections that were opened through it.

    Args:
        name: what `apsw.Connection(path, vfs=name)` calls it; must not be taken.
        base: the VFS that does the work; "" is the default one.
        record: keep every `Operation` in `operations`, without bound. Counts are always kept.
        before: called in SQLite's thread before each operation; it may block, which is a slow
            disk, or raise what `apsw.exception_for` gives.

    Raises:
        ValueError: the name is taken, or the base does not exist.
    """

    def __init__(
        self,
        name: str,
        base: str = "",
        *,
        record: bool = False,
        before: Callable[[Operation], None] | None = None,
    ) -> None:
        if name in apsw.vfs_names():
            raise ValueError(f"a VFS named {name!r} is registered already")
        if base and base not in apsw.vfs_names():
            raise ValueError(f"no VFS is named {base!r}")
        self.name = name
        self.base = base
        self.before = before
        self.operations: list[Operation] = []
        self.counts: Counter[tuple[Action, FileKind]] = Counter()
        self._record = record
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        super().__init__(name, base)

    def inject(self, fault: Fault) -> Fault:
        """Add a fault; the same object counts what it did. Faults are asked in the order added."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self, fault: Fault | None = None) -> None:
        """Take one fault back, or all of them. Nothing happens if it is gone already."""
        with self._lock:
            self._faults = (
                [] if fault is None else [kept for kept in self._faults if kept is not fault]
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def perform(self, operation: Operation, work: Callable[[], Any]) -> Any:
        """Do `work` as `operation`: count it, delay it, and fail it if a fault says so.

        The `before` hook runs outside the lock, so that a delayed thread delays no other.
        """
        with self._lock:
            self.counts[operation.action, operation.kind] += 1
            if self._record:
                self.operations.append(operation)
            striking = next((f for f in self._faults if f._strikes(operation)), None)
        if self.before is not None:
            self.before(operation)
        if striking is None:
            return work()
        if striking.performed:
            work()
        raise striking._error()

    def xOpen(  # noqa: N802
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        kind = kind_of(flags[0])
        opened: apsw.VFSFile = self.perform(
            Operation("open", kind, path), lambda: _FaultFile(self, kind, path, name, flags)
        )
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        work = super().xDelete
        self.perform(
            Operation("delete", kind_of_name(filename), filename), lambda: work(filename, syncdir)
        )

    def excepthook(
        self,
        etype: type[BaseException] | None,
        evalue: BaseException | None,
        etraceback: TracebackType | None,
    ) -> bool:
        """An injected error that SQLite does not pass on is not worth a word; others are."""
        return isinstance(evalue, apsw.Error) or super().excepthook(etype, evalue, etraceback)


class _FaultFile(apsw.VFSFile):
    def __init__(
        self,
        disk: FaultVFS,
        kind: FileKind,
        path: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        self._disk = disk
        self._kind: FileKind = kind
        self._path = path
        super().__init__(disk.base, name, flags)

    def _perform(
        self, action: Action, work: Callable[[], Any], offset: int = 0, size: int = 0
    ) -> Any:
        return self._disk.perform(Operation(action, self._kind, self._path, offset, size), work)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        work = super().xRead
        data: bytes = self._perform("read", lambda: work(amount, offset), offset, amount)
        return data

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        work = super().xWrite
        self._perform("write", lambda: work(data, offset), offset, len(data))

    def xSync(self, flags: int) -> None:  # noqa: N802
        work = super().xSync
        self._perform("sync", lambda: work(flags))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        work = super().xTruncate
        self._perform("truncate", lambda: work(newsize), size=newsize)

    def excepthook(
        self,
        etype: type[BaseException] | None,
        evalue: BaseException | None,
        etraceback: TracebackType | None,
    ) -> bool:
        return isinstance(evalue, apsw.Error) or super().excepthook(etype, evalue, etraceback)


def kind_of(flags: int) -> FileKind:
    """Which of SQLite's files this is, by the flags it is opened with."""
    if flags & apsw.SQLITE_OPEN_MAIN_DB:
        return "db"
    if flags & apsw.SQLITE_OPEN_WAL:
        return "wal"
    if flags & (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL):
        return "journal"
    return "other"


def kind_of_name(path: str) -> FileKind:
    """The same by the file's name, where there are no flags."""
    name = os.path.basename(path)
    for suffix, kind in _SUFFIXES:
        if name.endswith(suffix):
            return kind
    return "db"


_SUFFIXES: Final[tuple[tuple[str, FileKind], ...]] = (
    ("-wal", "wal"),
    ("-journal", "journal"),
    ("-shm", "other"),
)


def abandon(connection: apsw.Connection) -> None:
    """Close a connection as a crash would leave it: whatever it still wants to do may fail."""
    with contextlib.suppress(apsw.Error):
        connection.close(True)
