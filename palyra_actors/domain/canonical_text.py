"""What canonical JSON (RFC 8785) says, read back. Pure.

It writes a double that has no fraction like an integer, up to 1e21. An integer of 2^53 or beyond
has no canonical form of its own, so that whatever is written so was a double and becomes one
again: beyond 64 bits there is no integer that MessagePack could say.
"""

import json
from typing import Any, Final

_EXACT: Final = 2**53
_SHORT: Final = len(str(_EXACT)) - 1
"""So many characters, a sign among them, say an integer below 2^53."""


def read(text: str | bytes) -> Any:
    """The value. Raises ValueError, RecursionError: it is no JSON."""
    return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int | float:
    if len(digits) <= _SHORT:
        return int(digits)
    value = float(digits)
    return int(digits) if -_EXACT < value < _EXACT else value
