"""Where the values of a map or the items of a list lie in its bytes. Nothing is made of them.

Compiled (`domain.swift`) they are walked over without the interpreter's lock, because four million
nils take as long as the guard of the door may at most be kept from looking; else by two libraries.
Neither builds a list or a map, whatever a client sends.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgpack
import msgspec
from msgspec import Raw

from palyra_actors.domain.swift import compiled

KEYS_MAX: Final = 64
"""Of a map that is looked into. Read from the header, before a single object is made."""

WHOLE, BROKEN, TOO_DEEP = 0, 1, 2
"""A map that was read; one that was not, or has too many keys; one nested too deep to be read."""

NIL: Final = Raw(b"\xc0")

_decode_map = msgspec.msgpack.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.msgpack.Decoder(list[Raw]).decode


def keys_said(raw: bytes | Raw) -> int | None:
    """How many keys a map says it has; None: it is no map."""
    return _said(raw, 0x80, 0xDE)


def items_said(raw: bytes | Raw) -> int | None:
    """How many items a list says it has; None: it is no list."""
    return _said(raw, 0x90, 0xDC)


def _said(raw: bytes | Raw, fixed: int, wide: int) -> int | None:
    head = bytes(memoryview(raw)[:5])
    first = head[0] if head else 0
    if first & 0xF0 == fixed:
        return first & 0x0F
    if first in (wide, wide + 1):
        return int.from_bytes(head[1 : 3 if first == wide else 5], "big")
    return None


def read_map_plainly(raw: bytes | Raw) -> tuple[Mapping[Any, Raw], int]:
    """The values of a map as they stand there, and WHOLE; else those before what cannot be read.
    Keys that are no text are something else, too; lists and maps cannot be keys."""
    if (keys_said(raw) or 0) > KEYS_MAX:
        return {}, BROKEN
    state = BROKEN
    try:
        return _decode_map(raw), WHOLE
    except RecursionError:
        state = TOO_DEEP
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    view = memoryview(raw)
    unpacker = msgpack.Unpacker(max_buffer_size=len(view) + 1, max_array_len=0, max_map_len=0)
    unpacker.feed(view)
    found: dict[Any, Raw] = {}
    with suppress(Exception):  # whatever it is, it ends the part that can be read
        for _ in range(unpacker.read_map_header()):
            key, begins = unpacker.unpack(), unpacker.tell()
            unpacker.skip()
            found[key] = Raw(view[begins : unpacker.tell()])
        if unpacker.tell() == len(view):
            state = WHOLE
    return found, state


def read_map_swiftly(raw: bytes | Raw) -> tuple[Mapping[Any, Raw], int]:
    """As `read_map_plainly`. Of a key that is longer than any name there is, its beginning."""
    view = memoryview(raw)
    places, state = compiled.skim(view)
    return {key: Raw(view[begins:ends]) for key, (begins, ends) in places.items()}, state


def read_items_plainly(raw: bytes | Raw, most: int) -> Sequence[Raw]:
    """The items of a list of at most so many. Raises DecodeError: it is none."""
    count = items_said(raw)
    if count is None or count > most:
        raise msgspec.DecodeError("no list of so many")
    return _decode_list(raw)


def read_items_swiftly(raw: bytes | Raw, most: int) -> Sequence[Raw]:
    """As `read_items_plainly`."""
    view = memoryview(raw)
    places = compiled.skim_list(view, most)
    if places is None:
        raise msgspec.DecodeError("no list of so many")
    return [Raw(view[begins:ends]) for begins, ends in places]


read_map = read_map_plainly if compiled is None else read_map_swiftly
read_items = read_items_plainly if compiled is None else read_items_swiftly


def fields_of(raw: bytes | Raw) -> Mapping[str, Raw]:
    """The values of a map whose keys are text.

    Raises:
        ValidationError: it has other keys, or too many.
        DecodeError, RecursionError: it is no map, or nested too deep.
    """
    if (keys_said(raw) or 0) > KEYS_MAX:
        raise msgspec.ValidationError(f"Object has more than {KEYS_MAX} fields")
    found, state = read_map(raw)
    if any(type(key) is not str for key in found):
        raise msgspec.ValidationError("Expected `str` as a key")
    if state == TOO_DEEP:
        raise RecursionError
    if state != WHOLE:
        raise msgspec.DecodeError("no whole map with text keys")
    return found
