"""Bytes of msgpack as JSON shows them, where JSON gives back every byte; else as base64."""

import base64
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


def as_json(packed: bytes) -> Any:
    """The value, if JSON gives the same bytes back; None where it does not."""
    try:
        text = msgspec.json.encode(msgspec.msgpack.decode(packed))
        same = msgspec.msgpack.encode(msgspec.json.decode(text)) == packed
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return msgspec.Raw(text) if same else None


def said(name: str, packed: bytes | None) -> dict[str, Any]:
    """The field that shows it: `name`, null once it is erased, or `name_msgpack`."""
    if packed is None:
        return {name: None}
    value = as_json(packed)
    if value is None:
        return {f"{name}_msgpack": base64.b64encode(packed).decode()}
    return {name: value}


def packed_again(name: str, value: Any, packed: str | None) -> bytes | None:
    """The bytes of such a field and its other form; None: they are erased.

    Raises:
        ValueError: there is neither, or no base64, or an integer beyond 64 bits.
    """
    if packed is not None:
        return base64.b64decode(packed, validate=True)
    if value is msgspec.UNSET:
        raise ValueError(f"it has no {name}")
    try:
        return None if value is None else msgspec.msgpack.encode(value)
    except OverflowError as beyond:
        raise ValueError(f"its {name}: {beyond}") from beyond
