"""JSON documents: patches (RFC 6902) and canonical bytes (RFC 8785).

A patch makes a new document that shares with the old one whatever it did not touch: only the
containers on an operation's way are copied, the operations themselves are jsonpatch's, in place. So
a patch that fails half way has changed nothing, and going back is keeping the old document.

Canonical JSON comes from orjson with sorted keys wherever that is the same: no floats, no integers
beyond 2^53, no keys that UTF-8 sorts otherwise than UTF-16. Whatever else comes goes through
`rfc8785`, forty times slower (`bench/bench_canvas.py`).
"""

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import jsonpatch
import msgspec
import orjson
import rfc8785
from jsonpatch import (
    AddOperation,
    CopyOperation,
    JsonPatchException,
    MoveOperation,
    PatchOperation,
    RemoveOperation,
    ReplaceOperation,
    TestOperation,
)
from jsonpointer import JsonPointer, JsonPointerException

from palyra_actors.errors import Invalid, TooLarge
from palyra_actors.limits import (
    CANVAS_COPY_BYTES_MAX,
    CANVAS_PATCH_OPERATIONS_MAX,
    CANVAS_STATE_BYTES_MAX,
    VALUE_DEPTH_MAX,
)

OPERATIONS: Final[dict[str, type[PatchOperation]]] = {
    "add": AddOperation,
    "remove": RemoveOperation,
    "replace": ReplaceOperation,
    "move": MoveOperation,
    "copy": CopyOperation,
    "test": TestOperation,
}

DIFF_BYTES_MAX: Final = 128 * 1024
"""Documents up to that size are compared for a smaller patch; jsonpatch compares lists in a time
that grows with their product."""

_EXACT_MAX: Final = 2**53
_SURROGATES: Final = "\ud800"  # keys below it sort alike in UTF-8 and UTF-16

_encode = msgspec.msgpack.Encoder().encode


def apply_patch_document(
    document: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The document after all operations; the argument stays as it is, come what may.

    Raises:
        Invalid: an operation is malformed, its pointer leads nowhere, its test fails, or the
            root would not be a map; `detail.index` says which. Nothing is applied then.
        TooLarge: it copies more than its budget, or nests deeper than 64 levels.
    """
    if not 1 <= len(operations) <= CANVAS_PATCH_OPERATIONS_MAX:
        raise _wrong_count(len(operations))
    work = _Work()
    made: Any = document
    for index, operation in enumerate(operations):
        try:
            made = work.apply(made, operation, index)
        except (JsonPatchException, JsonPointerException) as error:
            raise _refusal(index, operation, str(error)) from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise _refusal(index, operation, f"it cannot be applied: {error}") from error
    if not isinstance(made, dict):
        raise _refusal(len(operations) - 1, operations[-1], "the state has to stay a map")
    return made


def replay_patch(document: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """The document after operations that have been applied before, changed in place: half of what
    `apply_patch_document` takes."""
    for operation in operations:
        document = OPERATIONS[operation["op"]](operation).apply(document)
    return document


def build_replace_root_patch(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The patch that puts the document in the place of any other."""
    return [{"op": "replace", "path": "", "value": dict(document)}]


def smaller_patch(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """What leads from one document to the other: a diff, or the new root where that is smaller."""
    whole = build_replace_root_patch(after)
    size = len(_encode(whole))
    if size > DIFF_BYTES_MAX or len(_encode(before)) > DIFF_BYTES_MAX:
        return whole
    try:
        diff = list(jsonpatch.make_patch(before, after).patch)
        if 1 <= len(diff) <= CANVAS_PATCH_OPERATIONS_MAX and len(_encode(diff)) < size:
            made = apply_patch_document(before, diff)
            if _encode(made) == _encode(after) or state_hash(made) == state_hash(after):
                return diff
    except (JsonPatchException, JsonPointerException, Invalid, TooLarge, RecursionError):
        pass
    return whole


def state_hash(document: Mapping[str, Any], *, plain: bool | None = None) -> bytes:
    """SHA-256 of the canonical JSON; `plain` as `is_plain` says, None to find out."""
    return sha256(canonical(document, plain=plain)).digest()


def canonical(document: Mapping[str, Any], *, plain: bool | None = None) -> bytes:
    """The canonical JSON; `plain` as `is_plain` says, None to find out."""
    if plain is None:
        plain = is_plain(document)
    if plain:
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    return rfc8785.dumps(_doubles(document))


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
            plain = False
        elif kind is int:
            plain = plain and -_EXACT_MAX <= one <= _EXACT_MAX
        elif kind is bytes:
            raise Invalid("a canvas holds JSON: no bytes", hint="encode them as text")
    return plain


def depth_of(value: Any) -> int:
    """How many containers lie within each other."""
    deepest = 0
    todo = [(value, 1)]
    while todo:
        one, level = todo.pop()
        if type(one) is dict:
            deepest = max(deepest, level)
            todo.extend((each, level + 1) for each in one.values())
        elif type(one) is list:
            deepest = max(deepest, level)
            todo.extend((each, level + 1) for each in one)
    return deepest


def encoded_size(value: Any) -> int:
    """Bytes of the value as MessagePack: what limits count."""
    return len(_encode(value))


def check_size(document: Mapping[str, Any], field: str, json_size: int | None = None) -> None:
    """Raises TooLarge. `json_size`, if it is known, saves the counting of what is small: nothing
    takes five times as many bytes in MessagePack as in JSON."""
    if json_size is not None and json_size * 5 <= CANVAS_STATE_BYTES_MAX:
        return
    size = encoded_size(document)
    if size > CANVAS_STATE_BYTES_MAX:
        raise TooLarge(
            f"a state takes at most {CANVAS_STATE_BYTES_MAX} bytes",
            field=field,
            detail={"limit": CANVAS_STATE_BYTES_MAX, "actual": size},
        )


class _Work:
    """One patch at work: the containers that are its own, and what it has copied."""

    def __init__(self) -> None:
        self._own: dict[int, Any] = {}  # held, so that no id is given twice
        self._copied = 0

    def apply(self, document: Any, operation: Mapping[str, Any], index: int) -> Any:
        name = operation.get("op") if isinstance(operation, dict) else None
        kind = OPERATIONS.get(name) if isinstance(name, str) else None
        if kind is None:
            raise _refusal(index, operation, "op is add, remove, replace, move, copy or test")
        step = kind(dict(operation))
        if not isinstance(operation["path"], str):
            raise _refusal(index, operation, "path is a pointer as text")
        parts = step.pointer.parts
        if len(parts) > VALUE_DEPTH_MAX:
            raise _too_deep(index)
        if name == "test":
            return step.apply(document)
        if (
            name in ("add", "replace")
            and depth_of(operation.get("value")) + len(parts) > VALUE_DEPTH_MAX
        ):
            raise _too_deep(index)
        if name in ("move", "copy"):
            source = operation.get("from")
            if not isinstance(source, str):
                raise _refusal(index, operation, "from is a pointer as text")
            pointer = JsonPointer(source)
            found = pointer.resolve(document)
            if depth_of(found) + len(parts) > VALUE_DEPTH_MAX:
                raise _too_deep(index)
            if name == "copy":
                self._pay(found, index)
            else:
                document = self._unshare(document, pointer.parts)
        document = self._unshare(document, parts)
        return step.apply(document)

    def _pay(self, value: Any, index: int) -> None:
        self._copied += encoded_size(value)
        if self._copied > CANVAS_COPY_BYTES_MAX:
            raise TooLarge(
                f"a patch copies at most {CANVAS_COPY_BYTES_MAX} bytes",
                field=f"patch[{index}]",
                hint="send the value, or fewer copies",
                detail={
                    "limit": CANVAS_COPY_BYTES_MAX, "actual": self._copied, "index": index,
                },
            )  # fmt: skip

    def _unshare(self, document: Any, parts: Sequence[str]) -> Any:
        """The document with the containers on the way to the last part as our own."""
        document = node = self._ours(document)
        for part in parts[:-1]:
            try:
                key: Any = part if type(node) is dict else int(part)
                child = node[key]
            except (KeyError, IndexError, ValueError, TypeError):
                break  # the operation itself will say so
            ours = self._ours(child)
            if ours is not child:
                node[key] = ours
            node = ours
        return document

    def _ours(self, container: Any) -> Any:
        if type(container) not in (dict, list) or id(container) in self._own:
            return container
        copy = container.copy()
        self._own[id(copy)] = copy
        return copy


def _doubles(value: Any) -> Any:
    """Integers beyond 2^53 as the doubles that JSON's readers make of them."""
    if isinstance(value, dict):
        return {key: _doubles(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_doubles(each) for each in value]
    if type(value) is int and not -_EXACT_MAX < value < _EXACT_MAX:
        return float(value)
    if type(value) is float and not math.isfinite(value):
        raise Invalid("a number that JSON cannot say")
    return value


def _wrong_count(count: int) -> Invalid | TooLarge:
    if count == 0:
        return Invalid("a patch has at least one operation", field="patch")
    return TooLarge(
        f"a patch has at most {CANVAS_PATCH_OPERATIONS_MAX} operations",
        field="patch",
        detail={"limit": CANVAS_PATCH_OPERATIONS_MAX, "actual": count},
    )


def _refusal(index: int, operation: object, message: str) -> Invalid:
    del operation
    return Invalid(
        message[:200],
        field=f"patch[{index}]",
        hint="RFC 6902; nothing of the patch was applied",
        detail={"index": index},
    )


def _too_deep(index: int) -> Invalid:
    return Invalid(
        f"nested deeper than {VALUE_DEPTH_MAX} levels",
        field=f"patch[{index}]",
        detail={"index": index},
    )
