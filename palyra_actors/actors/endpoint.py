"""Where a door may open: what an endpoint names, and who may reach it."""

import ipaddress
import socket as sockets
from contextlib import suppress
from typing import Final

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
