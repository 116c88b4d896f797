"""Canonical JSON of states (RFC 8785), and the hash by which two can be told to be the same. Pure.

orjson with sorted keys writes it wherever that is the same: no fractions that it writes otherwise
(1.0, 1e-7), no integers beyond 2^53, no keys that UTF-8 sorts otherwise than UTF-16. A document of
that kind is *plain*. In any other one the values that orjson writes otherwise are put in its way as
they have to be; where that is only 1.0 for 1 and the document is not small, its text is mended
instead. A megabyte with fractions takes 8 ms, 25 value by value and 100 by `rfc8785`
(`bench/bench_canvas.py`).
"""

import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import numpy as np
import orjson
import rfc8785

from palyra_actors.errors import Invalid

_EXACT_MAX: Final = 2**53
_SURROGATES: Final = "\ud800"  # keys below it sort alike in UTF-8 and UTF-16

MENDED_BYTES_MIN: Final = 16 * 1024
"""Texts from that length on are mended as a whole."""

_EASY_MIN: Final = 1e-5
_EASY_MAX: Final = 1e16
"""Fractions between are written alike by orjson and by ECMAScript."""


def state_hash(document: Mapping[str, Any], *, plain: bool | None = None) -> bytes:
    """SHA-256 of the canonical JSON; `plain` as `is_plain` says, None to find out."""
    return sha256(canonical(document, plain=plain)).digest()


def canonical(document: Mapping[str, Any], *, plain: bool | None = None) -> bytes:
    """The canonical JSON; `plain` as `is_plain` says, None to find out."""
    if plain is None:
        plain = is_plain(document)
    text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    if plain:
        return text
    made = _mended(text) if len(text) >= MENDED_BYTES_MIN else None
    if made is not None:
        return made
    return orjson.dumps(_as_ecmascript(document), option=orjson.OPT_SORT_KEYS)


def looks_plain(document: Mapping[str, Any], digest: bytes) -> bool:
    """Whether the document is plain, for one whose hash is known: a third of what `is_plain`
    takes, and the proof that the document is the one of that hash if it is.
    """
    try:
        quick = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, TypeError):
        return False
    return sha256(quick).digest() == digest


def is_plain(value: Any) -> bool:
    """Whether orjson's sorted form of the value is the canonical one.

    Raises:
        Invalid: it holds bytes, which JSON cannot say.
    """
    todo = [value]
    plain = True
    while todo:
        one = todo.pop()
        kind = type(one)
        if kind is dict:
            for key in one:
                plain = plain and (key.isascii() or max(key) < _SURROGATES)
            todo.extend(one.values())
        elif kind is list:
            todo.extend(one)
        elif kind is float:
            plain = plain and _is_easy(one)
        elif kind is int:
            plain = plain and -_EXACT_MAX <= one <= _EXACT_MAX
        elif kind is bytes:
            raise Invalid("a canvas holds JSON: no bytes", hint="encode them as text")
    return plain


def _mended(text: bytes) -> bytes | None:
    """What orjson wrote, without `.0` behind whole numbers; None: more than that has to be changed.

    All at once over the bytes: what is inside of a string is told by the quotes before it.
    """
    scan = text
    if b"\\" in text:  # escapes keep their length and lose their quotes
        scan = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    codes = np.frombuffer(scan, np.uint8)
    quotes = np.flatnonzero(codes == _QUOTE)
    odd = np.flatnonzero(codes >= _ODD_KEYS_FROM)
    closing = quotes[np.searchsorted(quotes, odd)]
    if (codes[closing + 1] == ord(":")).any():
        return None  # a key that may be sorted otherwise
    stretches = np.diff(quotes, prepend=0, append=len(codes))
    outside = np.repeat(np.arange(len(stretches)) & 1 == 0, stretches)
    bare = codes * outside  # zeros where strings are
    digits = (bare >= ord("0")) & (bare <= ord("9"))
    if (digits[:-1] & (bare[1:] == ord("e"))).any():
        return None  # an exponent
    runs = digits
    for step in (1, 2, 4, 8):  # where sixteen digits begin
        runs = runs[:-step] & runs[step:]
    before = bare[np.flatnonzero(runs) - 1]
    if ((before != ord(".")) & ((before < ord("0")) | (before > ord("9")))).any():
        return None  # perhaps an integer beyond 2^53
    points = np.flatnonzero((bare[:-1] == ord(".")) & (bare[1:] == ord("0")))
    points = points[np.isin(bare[points + 2], _ENDS)]
    if ((bare[points - 1] == ord("0")) & (bare[points - 2] == ord("-"))).any():
        return None  # -0.0
    keep = np.ones(len(codes), np.bool_)
    keep[points] = keep[points + 1] = False
    return np.frombuffer(text, np.uint8)[keep].tobytes()


_QUOTE: Final = ord('"')
_ODD_KEYS_FROM: Final = 0xEE  # the first byte, in UTF-8, of what UTF-16 sorts otherwise
_ENDS: Final = np.frombuffer(b",]}", np.uint8)


def _as_ecmascript(value: Any) -> Any:
    """The value so that orjson writes what ECMAScript would."""
    kind = type(value)
    if kind is dict:
        made = {
            key: each if type(each) in _AS_THEY_ARE else _as_ecmascript(each)
            for key, each in value.items()
        }
        if all(key.isascii() or max(key) < _SURROGATES for key in made):
            return made
        return _by_utf16(made)
    if kind is list:
        return [each if type(each) in _AS_THEY_ARE else _as_ecmascript(each) for each in value]
    if kind is float:
        return _number(value)
    if kind is int and not -_EXACT_MAX <= value <= _EXACT_MAX:
        return _number(float(value))  # what JSON's readers make of it
    return value


_AS_THEY_ARE: Final = frozenset({str, bool, type(None)})


def _is_easy(value: float) -> bool:
    return _EASY_MIN <= abs(value) < _EASY_MAX and not value.is_integer()


def _number(value: float) -> Any:
    if _is_easy(value):
        return value
    if value.is_integer() and -_EXACT_MAX <= value <= _EXACT_MAX:
        return int(value)
    if not math.isfinite(value):
        raise Invalid("a number that JSON cannot say")
    return orjson.Fragment(rfc8785.dumps(value))


def _by_utf16(members: Mapping[str, Any]) -> orjson.Fragment:
    """An object whose keys orjson would sort otherwise."""
    ordered = sorted(members, key=lambda key: key.encode("utf-16-be"))
    said = [
        orjson.dumps(key) + b":" + orjson.dumps(members[key], option=orjson.OPT_SORT_KEYS)
        for key in ordered
    ]
    return orjson.Fragment(b"{" + b",".join(said) + b"}")
