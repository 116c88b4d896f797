"""Does libzmq tell which connection a frame came from? Asked before a door opens.

The door cuts a connection by its descriptor, which libzmq writes into a text with C++'s own means
and reads from there. A library in the same process that brings a C++ runtime of its own can break
that: libzmq then tells 0 for every connection, and none can be cut. The release of usearch for
Python is one that does. So a connection to oneself is made, and what is told of it is looked at.
"""

import os
import socket as sockets
import stat
import sys
from typing import Final

import zmq

from palyra_actors.actors import router

PROBE_MS_MAX: Final = 2_000
CLASHING: Final = ("usearch",)
"""Packages known to do it."""

HINT: Final = (
    "run the engine in a process that does not load the library in question, one with a C++ "
    "runtime of its own, and what needs that in another"
)


def trouble(context: "zmq.Context[zmq.Socket[bytes]]", *, keys: bool) -> str | None:
    """Why no connection can be told from another; None: each can.

    `keys`: as for `router.receive`, so that the same way is gone as later.
    """
    name = f"palyra-probe-{os.urandom(12).hex()}"
    with context.socket(zmq.ROUTER) as bell, context.socket(zmq.DEALER) as caller:
        for one in (bell, caller):
            one.linger = 0
        bell.bind(f"ipc://@{name}")
        caller.connect(f"ipc://@{name}")
        caller.send(b"who is it?")
        if not bell.poll(PROBE_MS_MAX):
            return "a connection to oneself brings nothing"
        [arrival, *_] = router.receive(bell, 1, 1, keys=keys)
        try:
            descriptor = router.descriptor(arrival[4])
            found = _name_of(descriptor)
        except (zmq.ZMQError, OSError, ValueError):
            return f"libzmq tells no descriptor{_suspects()}"
    if found is None:
        return f"libzmq tells {descriptor}, which is no socket{_suspects()}"
    if found != b"\0" + name.encode():
        return f"libzmq tells {descriptor}, which is another's{_suspects()}"
    return None


def is_socket(descriptor: int) -> bool:
    """Raises OSError: it is not open."""
    return stat.S_ISSOCK(os.fstat(descriptor).st_mode)


def _name_of(descriptor: int) -> object:
    if not is_socket(descriptor):
        return None
    with sockets.socket(fileno=os.dup(descriptor)) as own:
        return own.getsockname()


def _suspects() -> str:
    loaded = [name for name in CLASHING if name in sys.modules]
    return f" ({', '.join(loaded)} is loaded, which is known to do that)" if loaded else ""
