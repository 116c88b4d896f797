"""Where a door may open: what an endpoint names, and who may reach it."""

import ipaddress
import os
import socket as sockets
import stat
from contextlib import suppress
from typing import Final

from palyra_actors.actors import descriptors
from palyra_actors.actors.crowd import DESCRIPTORS_MIN, RESERVE
from palyra_actors.errors import ConfigInvalid

PORT_MAX: Final = 65_535  # libzmq takes higher ones modulo 65,536


def is_served(path: str) -> bool:
    """Whether somebody listens there. libzmq would take the path from them without a word."""
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def is_something_else(path: str) -> bool:
    """Whether there is what is no socket. libzmq would unlink it: a database, say."""
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def refuse_path(endpoint: str) -> None:
    """Where something else is, somebody is served, or a burst of connections would end the process:
    see `crowd`."""
    if not endpoint.startswith("ipc://"):
        return
    path = endpoint.removeprefix("ipc://")
    if is_something_else(path):
        raise ConfigInvalid(
            f"cannot bind {endpoint}: there is something else, and it would be lost",
            field="door.endpoint",
            hint="choose a path of which there is nothing yet",
        )
    if is_served(path):
        raise ConfigInvalid(
            f"cannot bind {endpoint}: somebody is served there",
            field="door.endpoint",
            hint="is another engine there? Choose another path",
        )
    descriptors.make_room(2 * RESERVE)
    most = descriptors.most()
    if most < DESCRIPTORS_MIN:
        raise ConfigInvalid(
            f"the process may have {most} files open: over a path as many connections would end it",
            field="door.endpoint",
            hint=f"raise the limit (ulimit -n {DESCRIPTORS_MIN}), or serve over tcp",
        )


def host_of(endpoint: str) -> str | None:
    """The host that an endpoint names; None: it is a path. Raises ConfigInvalid: it is neither."""
    if endpoint.startswith("ipc://"):
        return None
    host, colon, port = endpoint.removeprefix("tcp://").rpartition(":")
    is_port = port == "*" or (port.isascii() and port.isdigit() and int(port) <= PORT_MAX)
    if not endpoint.startswith("tcp://") or not colon or not is_port:
        raise ConfigInvalid(
            f"{endpoint!r} is no endpoint",
            field="door.endpoint",
            hint="tcp://127.0.0.1:7447 or ipc:///some/path",
        )
    return host


def refuse_strangers(endpoint: str) -> None:
    """Without CURVE anyone who reaches the door is an admin: loopback and ipc only."""
    host = host_of(endpoint)
    if host is None or host == "localhost":
        return
    with suppress(ValueError):
        if ipaddress.ip_address(host.strip("[]")).is_loopback:
            return
    raise ConfigInvalid(
        f"{host!r} is no loopback address, and whoever reaches this door is an admin",
        field="door.endpoint",
        hint="bind tcp://127.0.0.1:PORT or ipc://PATH, or lock the door: palyra-actors keys new",
    )
