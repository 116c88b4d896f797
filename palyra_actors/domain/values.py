"""One MessagePack value as a client sent it: what is allowed in, and what is not. Pure.

Allowed is what every client can read back: string map keys, valid UTF-8, finite floats, at most 64
levels, no extension types, no bytes behind the value. `ormsgpack` refuses most of the rest at C
speed; depths of 65..1024, non-finite floats, trailing bytes and what a repeated key hides are left
to this module.

Three looks, each dearer than the one before:

    container_bytes   how many bytes could open a container: up to 64 of them cannot nest deeper
    `confirm`         depth and floats of the decoded value
    `walk`            every header in the raw bytes, for errors with a path and for odd encodings
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import ormsgpack

from palyra_actors.domain.survey import NOT_FINITE, survey
from palyra_actors.domain.swift import compiled_redact
from palyra_actors.errors import Invalid, TooLarge
from palyra_actors.limits import PAYLOAD_BYTES_MAX, VALUE_DEPTH_MAX

PATH_STEPS_MAX: Final = 16
PATH_KEY_CHARACTERS_MAX: Final = 40

CONTAINERS: Final = bytes(
    1 if 0x80 <= byte <= 0x9F or 0xDC <= byte <= 0xDF else 0 for byte in range(256)
)
NON_FINITE_BYTES: Final = rb"\xca[\x7f\xff][\x80-\xff]|\xcb[\x7f\xff][\xf0-\xff]"
_NON_FINITE: Final = re.compile(NON_FINITE_BYTES)

unpack: Final = ormsgpack.unpackb
# Raises where bytes stand behind the value, which `unpack` ignores. Builds nothing: 0.2 µs.
check_end: Final = msgspec.msgpack.Decoder(msgspec.Raw).decode
UNREADABLE: Final = (ValueError, msgspec.DecodeError, RecursionError)

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_HINT: Final = (
    "string map keys, valid UTF-8, finite floats, at most "
    f"{VALUE_DEPTH_MAX} levels, no extension types"
)

# Bytes behind the header byte, for values whose size the header byte alone tells.
_FIXED: Final[dict[int, int]] = {
    **dict.fromkeys((*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3), 0),
    **dict.fromkeys((0xCC, 0xD0), 1),
    **dict.fromkeys((0xCD, 0xD1), 2),
    **dict.fromkeys((0xCE, 0xD2, 0xCA), 4),
    **dict.fromkeys((0xCF, 0xD3, 0xCB), 8),
}
# Width of the length behind the header byte.
_TEXT: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BINARY: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_LISTS: Final = {0xDC: 2, 0xDD: 4}
_MAPS: Final = {0xDE: 2, 0xDF: 4}


def decode(raw: bytes | memoryview, field: str, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> object:
    """The value in `raw`, checked whole.

    A repeated key keeps its last value, in the place of its first.

    Args:
        raw: exactly one MessagePack value.
        field: where it stood in the request, for errors.
        bytes_max: its largest encoded size in bytes.

    Raises:
        TooLarge: it is longer; nothing was decoded.
        Invalid: it is none of what the module describes; `field` leads to the place.
    """
    if len(raw) > bytes_max:
        raise too_large(len(raw), bytes_max, field)
    raw = bytes(raw)
    try:
        value: object = unpack(raw)
        check_end(raw)
    except UNREADABLE as error:
        raise refusal(raw, field, error) from error
    if may_be_odd(raw):
        confirm(value, raw, field)
    return value


def is_sound(raw: bytes) -> bool:
    """Whether it is one allowed value, all of it; False: it has to be looked at by the others."""
    return compiled_redact is not None and compiled_redact.is_sound(raw)


def may_be_odd(raw: bytes) -> bool:
    """Whether `raw` may be too deep, or hold a float that is not finite."""
    return container_bytes(raw) > VALUE_DEPTH_MAX or _NON_FINITE.search(raw) is not None


def container_bytes(raw: bytes) -> int:
    """How many bytes of `raw` could open a map or a list: an upper bound of its depth."""
    return raw.translate(CONTAINERS).count(1)


def confirm(value: object, raw: bytes, field: str) -> None:
    """Depth and floats of a decoded value, and of what a repeated key hides in its bytes.

    Raises:
        Invalid: too deep, or a float that is not finite.
    """
    if is_sound(raw):
        return
    found = survey(value)
    sound = found.depth <= VALUE_DEPTH_MAX and not found.flags & NOT_FINITE
    if not sound or ormsgpack.packb(value) != raw:
        walk(raw, field)


def count_pairs(value: object) -> int:
    """How many key-value pairs the maps in a decoded value hold together."""
    pairs = 0
    level: list[Any] = [value]
    while level:
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if (kind is dict or kind is list) and item:
                below.extend(item.values() if kind is dict else item)
                pairs += len(item) if kind is dict else 0
        level = below
    return pairs


def too_large(actual: int, limit: int, field: str) -> TooLarge:
    """The refusal of a value by its size, both in bytes."""
    return TooLarge(
        f"{actual} bytes, the limit is {limit}",
        field=field,
        hint="store large content elsewhere and refer to it",
        detail={"limit": limit, "actual": actual},
    )


def refusal(raw: bytes, field: str, error: BaseException) -> Invalid:
    """Why the C decoder refused `raw`, with the path to the place where there is one."""
    try:
        walk(raw, field)
    except Invalid as found:
        return found
    return Invalid(f"not a readable value: {error}", field=field, hint=_HINT)


def step_to(key: str) -> str:
    """To the value of a key, as a path says it."""
    if _PLAIN_KEY.fullmatch(key) and len(key) <= PATH_KEY_CHARACTERS_MAX:
        return f".{key}"
    return f"[{key[:PATH_KEY_CHARACTERS_MAX]!r}]"


class _Level:
    """An open container: how many values are still to come, and where in it the walk stands."""

    __slots__ = ("is_map", "key", "left", "position")

    def __init__(self, count: int, is_map: bool) -> None:
        self.left = 2 * count if is_map else count
        self.is_map = is_map
        self.key = ""
        self.position = -1


def walk(raw: bytes, field: str) -> int:
    """Every header of `raw` in turn, repeated keys included; never recursively.

    Returns how many key-value pairs its maps hold, repeated keys counted each time. About 1 µs
    a value.

    Raises:
        Invalid: it is not exactly one allowed value; `field` leads to the place.
    """
    return _Walk(raw, field).run()


class _Walk:
    """One pass over the headers of one value: where it is, and the containers around it."""

    def __init__(self, raw: bytes, field: str) -> None:
        self._raw = raw
        self._field = field
        self._at = 0
        self._levels: list[_Level] = []

    def run(self) -> int:
        levels = self._levels
        pairs = 0
        while True:
            opened = self._next()
            if opened is not None:
                if len(levels) == VALUE_DEPTH_MAX:
                    raise self._bad(f"more than {VALUE_DEPTH_MAX} levels")
                levels.append(opened)
                pairs += opened.left // 2 if opened.is_map else 0
            while levels and levels[-1].left == 0:
                levels.pop()
            if not levels:
                break
        behind = len(self._raw) - self._at
        if behind:
            raise Invalid(f"{behind} bytes behind the value", field=self._field, hint=_HINT)
        return pairs

    def _next(self) -> _Level | None:
        """Reads one value's header and skips its content; the container it opens, if it does."""
        level = self._levels[-1] if self._levels else None
        if level is not None:
            level.left -= 1
            if level.is_map and level.left % 2 == 1:
                level.key = self._key()
                return None
            level.position += 1
        head = self._head()
        if head in _FIXED:
            if head in (0xCA, 0xCB) and _NON_FINITE.match(self._raw, self._at - 1):
                raise self._bad("a float that is not finite")
            self._skip(_FIXED[head])
        elif head < 0x90 or head in _MAPS:
            return _Level(self._length(head, _MAPS, 0x0F), True)
        elif head < 0xA0 or head in _LISTS:
            return _Level(self._length(head, _LISTS, 0x0F), False)
        elif head < 0xC0 or head in _TEXT:
            self._text(head)
        elif head in _BINARY:
            self._skip(self._length(head, _BINARY, 0))
        else:
            raise self._bad(
                "a byte that MessagePack does not use" if head == 0xC1 else "an extension type"
            )
        return None

    def _key(self) -> str:
        head = self._head()
        if 0xA0 <= head <= 0xBF or head in _TEXT:
            return self._text(head)
        self._levels.pop()
        raise self._bad("a map key that is no text")

    def _head(self) -> int:
        self._skip(1)
        return self._raw[self._at - 1]

    def _text(self, head: int) -> str:
        length = self._length(head, _TEXT, 0x1F)
        self._skip(length)
        try:
            return str(self._raw[self._at - length : self._at], "utf-8")
        except UnicodeDecodeError as error:
            raise self._bad("text that is not valid UTF-8") from error

    def _length(self, head: int, widths: Mapping[int, int], mask: int) -> int:
        width = widths.get(head, 0)
        if width == 0:
            return head & mask
        self._skip(width)
        return int.from_bytes(self._raw[self._at - width : self._at], "big")

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._raw):
            raise self._bad("half a value: it ends too early")

    def _bad(self, what: str) -> Invalid:
        steps = []
        for level in self._levels[:PATH_STEPS_MAX]:
            if not level.is_map:
                steps.append(f"[{level.position}]")
            else:
                steps.append(step_to(level.key))
        if len(self._levels) > PATH_STEPS_MAX:
            steps.append("…")
        return Invalid(f"the value holds {what}", field=self._field + "".join(steps), hint=_HINT)
