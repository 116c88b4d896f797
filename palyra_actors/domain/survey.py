"""What is in a value: how deep it nests, how many values it holds, and which of them need care.

Pure. One look for all who ask: compiled where a compiler was at hand, 10 ns a value instead of 100
(`bench/bench_canvas.py`).
"""

import math
from typing import Any, Final, NamedTuple

from palyra_actors.domain.swift import compiled_json

ODD = 1
"""A number or a key that orjson writes or sorts otherwise than RFC 8785 does."""
BINARY = 2
NOT_FINITE = 4
STRANGE = 8
"""Something that neither JSON nor MessagePack decodes to, or a key that is no text."""

EXACT_MAX: Final = 2**53
"""The integers up to which doubles tell all apart."""

LEVELS_MAX: Final = 1_100
"""What nests deeper is not looked at: no decoder lets it through."""

_EASY_MIN: Final = 1e-5
_EASY_MAX: Final = 1e16
"""Fractions between are written alike by orjson and by ECMAScript."""

_SURROGATES: Final = "\ud800"  # keys below it sort alike in UTF-8 and UTF-16


class Survey(NamedTuple):
    """`depth`: containers that lie within each other; `values`: how many, containers and all;
    `flags`: of the kinds above, which are in it."""

    depth: int
    values: int
    flags: int


def survey_plainly(value: Any) -> tuple[int, int, int]:
    """See `survey`: what it means, and what does it without a compiler."""
    deepest = count = flags = 0
    todo = [(value, 1)]
    while todo:
        one, level = todo.pop()
        count += 1
        kind = type(one)
        if kind is dict or kind is list:
            deepest = max(deepest, level)
            if level > LEVELS_MAX:
                continue
            if kind is dict:
                flags |= _of_keys(one)
            todo.extend((each, level + 1) for each in (one.values() if kind is dict else one))
        elif kind is float:
            flags |= 0 if is_easy(one) else ODD if math.isfinite(one) else ODD | NOT_FINITE
        elif kind is int:
            flags |= 0 if -EXACT_MAX <= one <= EXACT_MAX else ODD
        elif kind is bytes:
            flags |= BINARY
        elif kind not in (str, bool, type(None)):
            flags |= STRANGE
    return deepest, count, flags


def _of_keys(members: dict[Any, Any]) -> int:
    flags = 0
    for key in members:
        if type(key) is not str:
            flags |= STRANGE
        elif not sorts_alike(key):
            flags |= ODD
    return flags


def sorts_alike(key: str) -> bool:
    """Whether UTF-8 and UTF-16 sort it alike among others of which this holds."""
    return key.isascii() or max(key) < _SURROGATES


def is_easy(value: float) -> bool:
    """Whether orjson and ECMAScript write this fraction alike."""
    return _EASY_MIN <= abs(value) < _EASY_MAX and not value.is_integer()


_look = survey_plainly if compiled_json is None else compiled_json.survey


def survey(value: Any) -> Survey:
    """What is in a value that MessagePack or JSON was decoded to."""
    return Survey(*_look(value))
