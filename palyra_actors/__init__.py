"""The persistence engine for agent runtimes: one durable, ordered, budgeted journal.

The names here are for users and load on first use, so that importing the client loads no server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palyra_actors.client import Client as Client
    from palyra_actors.config import Config as Config
    from palyra_actors.engine import Engine as Engine
    from palyra_actors.errors import PalyraError as PalyraError

__version__ = "0.1.0"

_HOMES = {
    "Client": "palyra_actors.client",
    "Config": "palyra_actors.config",
    "Engine": "palyra_actors.engine",
    "PalyraError": "palyra_actors.errors",
}

__all__ = ["Client", "Config", "Engine", "PalyraError", "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
