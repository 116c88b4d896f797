"""What this process has open, asked without opening anything: at the limit there is nothing left.

libzmq's connections are looked at through their descriptors, which are its own and are closed by
it at any moment. What is done to one is harmless where the number has become another's meanwhile.
"""

import errno
import os
import resource
import socket as sockets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress


def most() -> int:
    """How many descriptors the process may have: their numbers stay below."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def make_room(wanted: int) -> None:
    """Raise `most` as far as the process may by itself, up to so many: a connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def lowest_free() -> int:
    """The number that the next descriptor gets; `most` where none is left. All below are taken."""
    try:
        free = os.dup(0)
    except OSError as error:
        if error.errno == errno.EMFILE:
            return most()
        free = os.open(os.devnull, os.O_RDONLY)  # there is no standard input
    os.close(free)
    return free


def open_ones() -> Iterable[int]:
    """The numbers of all that are open, and perhaps of some that are not any more."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return range(lowest_free())


def is_still(descriptor: int, inode: int) -> bool:
    """Whether the number stands for what it stood for when it had that inode."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


@contextmanager
def borrowed(descriptor: int) -> Iterator[sockets.socket]:
    """A stream socket that is somebody else's, who goes on owning it. Raises OSError: it is none,
    sooner or later."""
    own = sockets.socket(fileno=descriptor)
    try:
        yield own
    finally:
        own.detach()
