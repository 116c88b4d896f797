"""One engine a file, through whatever name: a lock on the database's inode itself.

`flock` on a descriptor of our own. It does not meet SQLite's record locks, but closing any
descriptor of the file drops those of the whole process. So the descriptor is opened before
SQLite opens the file and closed after SQLite has closed it, and both are enforced: `acquire`
never opens a file that this process has open already, and `release` refuses while it is.

The kernel drops the lock with the process, however that ends. A forked child shares it as long as
it lives. Local file systems only: NFS makes a record lock of it.
"""

import contextlib
import errno
import fcntl
import os
import stat
import threading
from typing import Final, Self

from palyra_actors.errors import InternalFault, OpenRefused

_Identity = tuple[int, int]  # device, inode

_held_lock = threading.Lock()
_held: set[_Identity] = set()
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


class DatabaseLock:
    """The right to open one database file. Any thread may call; not reentrant.

    Use `acquire`, then open connections, close them all, then `release` (or leave the `with`).
    """

    def __init__(
        self, path: str, descriptor: int, identity: _Identity, missed: tuple[list[str], ...]
    ) -> None:
        self._path = path
        self._missed_folders, self._missed_files = missed
        self._wal_path = os.path.realpath(path) + "-wal"
        self._wal: _Identity | None = None
        self._descriptor: int | None = descriptor
        self._identity = identity

    @classmethod
    def acquire(cls, path: str | os.PathLike[str]) -> Self:
        """Lock the file at once or not at all.

        A missing file is made, empty and 0600, because a lock needs an inode; missing folders are
        made 0700. An existing file is not changed.

        Raises:
            OpenRefused: another engine has it, here or in another process (`detail.holder_pid`,
                None if the system does not tell); or it is no file that we may write.
        """
        name = os.path.abspath(path)
        try:
            return cls._acquire(name)
        except OSError as cause:
            raise OpenRefused(
                f"{name} cannot be opened: {cause.strerror}",
                hint="see who may read and write it and its folder",
                detail={"path": name},
            ) from cause

    @classmethod
    def _acquire(cls, name: str) -> Self:
        real = os.path.realpath(name)
        folders, files = _make_folders(os.path.dirname(real)), list[str]()
        with _held_lock:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name)
                if not stat.S_ISREG(found.st_mode):
                    raise OpenRefused(f"{name} is no regular file", detail={"path": name})
                identity = (found.st_dev, found.st_ino)
                if identity in _held or _open_here(identity):
                    raise _refusal(name, os.getpid())
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            try:
                beside = [real + one for one in ("-wal", "-shm", "-journal")]
                files = [one for one in beside if not os.path.lexists(one)]
                descriptor = os.open(real, flags | os.O_EXCL, _FILE_MODE)
                files.append(real)
            except FileExistsError:
                files.clear()
                descriptor = os.open(name, flags, _FILE_MODE)
            opened = os.fstat(descriptor)
            identity = (opened.st_dev, opened.st_ino)
            if identity in _held:
                # The name was moved onto a file we hold, just now: closing would drop its locks.
                raise _refusal(name, os.getpid())
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as cause:
                holder = _holder_pid(identity)
                os.close(descriptor)
                if cause.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise
                raise _refusal(name, holder) from cause
            lock = cls(name, descriptor, identity, (folders, files))
            if not lock.still_ours():
                os.close(descriptor)
                raise OpenRefused(
                    f"{name} was replaced while it was being locked", detail={"path": name}
                )
            _held.add(identity)
            return lock

    def still_ours(self) -> bool:
        """Whether the path still names the file that is locked. Two system calls.

        False: somebody unlinked, moved or replaced it, and what is acknowledged from now on would
        be lost with the last descriptor.
        """
        if self._descriptor is None:
            return False
        try:
            named = os.stat(self._path)
        except OSError:
            return False
        links = os.fstat(self._descriptor).st_nlink
        return (named.st_dev, named.st_ino) == self._identity and links >= 1

    def sync(self) -> None:
        """Let what was written into the locked file be on its disk, beside whoever writes into it:
        this descriptor is the only one of ours that SQLite's locks survive.

        Raises:
            OSError: the disk failed. SQLite's own descriptors are told so, too.
        """
        if self._descriptor is not None:
            os.fdatasync(self._descriptor)

    def stamp(self) -> tuple[int, int]:
        """When the locked file was changed last, wherever it is by now, and its size."""
        if self._descriptor is None:
            return 0, 0
        found = os.fstat(self._descriptor)
        return found.st_mtime_ns, found.st_size

    def wal_still_ours(self) -> bool:
        """Whether the WAL's name is still that of the one which this process has open. One system
        call, and a look through the descriptors of this process where it is another one than
        last time.

        False: somebody unlinked, moved or replaced it. What is acknowledged from now on would be
        lost with the process, and whoever opens the database besides makes a WAL of his own.
        """
        try:
            named = os.stat(self._wal_path)
            found: _Identity | None = (named.st_dev, named.st_ino)
        except OSError:
            found = None
        if found is not None and found == self._wal:
            return True
        if self._wal is not None and _open_here(self._wal):
            return False
        # Not seen yet, or SQLite itself has closed and removed it with its last connection.
        self._wal = found if found is not None and _open_here(found) else None
        return True

    def release(self) -> None:
        """Give the file up. Does nothing the second time.

        Raises:
            InternalFault: this process still has the file open; the lock stays. Close every
                connection first.
        """
        with _held_lock:
            if self._descriptor is None:
                return
            if self._is_open():
                raise InternalFault(
                    f"{self._path} is still open in this process",
                    hint="close every connection before the lock",
                )
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self._identity)

    @property
    def made(self) -> bool:
        """Whether there was no such file before."""
        return bool(self._missed_files)

    def forsake(self) -> None:
        """Give the file up, and take away what was not there before: it, what SQLite has put beside
        it, and its folders. For whoever wanted a database and gets none.

        Raises:
            InternalFault: as `release`; all of it stays.
        """
        if self.made and self.still_ours() and not self._is_open():
            for name in self._missed_files:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
            for folder in reversed(self._missed_folders):
                with contextlib.suppress(OSError):  # somebody else has put something there
                    os.rmdir(folder)
        self.release()

    def _is_open(self) -> bool:
        return self._descriptor is not None and _open_here(self._identity, self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder_of(path: str | os.PathLike[str]) -> int | None:
    """The process whose engine has the file; None where nobody has it, or the system does not
    tell."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _holder_pid((found.st_dev, found.st_ino))


def _refusal(name: str, holder_pid: int | None) -> OpenRefused:
    who = {None: "another engine", os.getpid(): "this process"}.get(
        holder_pid, f"process {holder_pid}"
    )
    return OpenRefused(
        f"{name} is in use by {who}",
        hint="stop the other engine first",
        detail={"path": name, "holder_pid": holder_pid},
    )


def _make_folders(folder: str) -> list[str]:
    """Those that were missing, the outer ones first."""
    missing: list[str] = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    made: list[str] = []
    for name in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, _FOLDER_MODE)
            made.append(name)
            sync_folder(os.path.dirname(name))
    return made


def sync_folder(folder: str) -> None:
    """Make a new name in it survive a power cut; SQLite does that for its own files only."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_here(identity: _Identity, besides: int | None = None) -> bool:
    """Whether a descriptor of this process, `besides` one, is of that file.

    Where there is no /proc, nobody can tell and the answer is no.
    """
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return False
    for descriptor in descriptors:
        if int(descriptor) == besides:
            continue
        with contextlib.suppress(OSError):
            found = os.fstat(int(descriptor))
            if (found.st_dev, found.st_ino) == identity:
                return True
    return False


def _holder_pid(identity: _Identity) -> int | None:
    """Who holds the lock, from /proc/locks; None where that does not say (another container)."""
    device, inode = identity
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                fields = line.split()
                if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == wanted:
                    return int(fields[4]) if int(fields[4]) > 0 else None
    except (OSError, ValueError):
        pass
    return None
