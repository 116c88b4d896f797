"""Canonical JSON of states (RFC 8785), and the hash by which two can be told to be the same. Pure.

orjson with sorted keys writes it wherever that is the same: no fractions that it writes otherwise
(1.0, 1e-7), no integers beyond 2^53, no keys that UTF-8 sorts otherwise than UTF-16. A document of
that kind is *plain*. Of any other one the text is mended, number by number; without a compiler, or
where keys have to change places, the values that orjson writes otherwise are put in its way as they
have to be. A megabyte with 44,000 fractions takes 4 ms, 25 value by value and 100 by `rfc8785`
(`bench/bench_canvas.py`).
"""

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson
import rfc8785

from palyra_actors.domain.survey import (
    BINARY,
    EXACT_MAX,
    ODD,
    STRANGE,
    is_easy,
    sorts_alike,
    survey,
)
from palyra_actors.domain.swift import compiled_json
from palyra_actors.errors import Invalid

SPLICES_MAX: Final = 4
"""Operations that are done in a text one by one; more of them, and it is written whole."""

_SORTED: Final = orjson.OPT_SORT_KEYS
_SPLICES: Final = {"add": 0, "replace": 1, "remove": 2}


def state_hash(document: Mapping[str, Any], *, plain: bool | None = None) -> bytes:
    """SHA-256 of the canonical JSON; `plain` as `is_plain` says, None to find out."""
    return sha256(canonical(document, plain=plain)).digest()


def canonical(document: Mapping[str, Any], *, plain: bool | None = None) -> bytes:
    """The canonical JSON; `plain` as `is_plain` says, None to find out."""
    if plain is None:
        plain = is_plain(document)
    if plain:
        return orjson.dumps(document, option=_SORTED)
    if compiled_json is not None:
        text = orjson.dumps(document, option=_SORTED)
        made: bytes | None = compiled_json.mend(text)
        if made is not None:
            return made
    return by_value(document)


class Text:
    """The canonical JSON of the last of a document's states, so that what a patch leaves alone is
    not written again: a state of 45 KB takes 45 µs, a patch's way to its place in it 5
    (`bench/bench_canvas.py`). Without a compiler each is written whole.

    Holds that state, and its text besides.
    """

    __slots__ = ("_document", "_text")

    def __init__(self) -> None:
        self._document: Mapping[str, Any] | None = None
        self._text = b""

    def keep(self, document: Mapping[str, Any], text: bytes) -> None:
        """This is the text of the last state now."""
        self._document, self._text = document, text

    def after(
        self, document: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]
    ) -> bytes | None:
        """The text of that state after a patch that it has taken; None: that state is not the
        last one, or the patch is not of the kind that is done in a text.

        Args:
            operations: all of their pointers of ASCII and their values plain: see `is_plain`.
        """
        if document is not self._document or compiled_json is None or len(operations) > SPLICES_MAX:
            return None
        text: bytes | None = self._text
        for operation in operations:
            name = operation["op"]
            if name == "test":
                continue
            if name not in _SPLICES or text is None:
                return None
            value = orjson.dumps(operation["value"], option=_SORTED) if name != "remove" else b""
            text = compiled_json.splice(text, _SPLICES[name], operation["path"], value)
        return text


def by_value(document: Mapping[str, Any]) -> bytes:
    """The canonical JSON, value by value."""
    return orjson.dumps(_as_ecmascript(document), option=_SORTED)


def looks_plain(document: Mapping[str, Any], digest: bytes) -> bool:
    """Whether the document is plain, for one whose hash is known: a third of what `is_plain`
    takes, and the proof that the document is the one of that hash if it is.
    """
    try:
        quick = orjson.dumps(document, option=_SORTED)
    except (orjson.JSONEncodeError, TypeError):
        return False
    return sha256(quick).digest() == digest


def is_plain(value: Any) -> bool:
    """Whether orjson's sorted form of the value is the canonical one.

    Raises:
        Invalid: it holds bytes, which JSON cannot say.
    """
    flags = survey(value).flags
    if flags & (BINARY | STRANGE):
        raise Invalid("a canvas holds JSON: no bytes", hint="encode them as text")
    return not flags & ODD


def _as_ecmascript(value: Any) -> Any:
    """The value so that orjson writes what ECMAScript would."""
    kind = type(value)
    if kind is dict:
        made = {
            key: each if type(each) in _AS_THEY_ARE else _as_ecmascript(each)
            for key, each in value.items()
        }
        if all(map(sorts_alike, made)):
            return made
        return _by_utf16(made)
    if kind is list:
        return [each if type(each) in _AS_THEY_ARE else _as_ecmascript(each) for each in value]
    if kind is float:
        return _number(value)
    if kind is int and not -EXACT_MAX <= value <= EXACT_MAX:
        return _number(float(value))  # what JSON's readers make of it
    return value


_AS_THEY_ARE: Final = frozenset({str, bool, type(None)})


def _number(value: float) -> Any:
    if is_easy(value):
        return value
    if value.is_integer() and -EXACT_MAX <= value <= EXACT_MAX:
        return int(value)
    if not math.isfinite(value):
        raise Invalid("a number that JSON cannot say")
    return orjson.Fragment(rfc8785.dumps(value))


def _by_utf16(members: Mapping[str, Any]) -> orjson.Fragment:
    """An object whose keys orjson would sort otherwise."""
    ordered = sorted(members, key=lambda key: key.encode("utf-16-be"))
    said = [
        orjson.dumps(key) + b":" + orjson.dumps(members[key], option=_SORTED) for key in ordered
    ]
    return orjson.Fragment(b"{" + b",".join(said) + b"}")
