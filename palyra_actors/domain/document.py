"""JSON documents and their patches (RFC 6902). Pure.

A patch makes a new document that shares with the old one whatever it did not touch: only the
containers on an operation's way are copied, the operations themselves are jsonpatch's, in place. So
a patch that fails half way has changed nothing, and going back is keeping the old document.

What a patch may cost is counted, so that none holds up others: operations, bytes that its copies
add up to, depth, and work. Work is counted in values looked at, and what is copied or moved aside
counts as so many of them as take the same time. So the same patch is refused or not on every
machine, and again at a replay.

The difference of two documents is our own: jsonpatch's matches lists up, which takes 2.6 s for two
of 100,000 small integers (`bench/bench_canvas.py`); this one takes a time that grows with their
size, and what a list has in common at its beginning and its end is found.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from jsonpatch import (
    AddOperation,
    CopyOperation,
    JsonPatchException,
    JsonPatchTestFailed,
    MoveOperation,
    PatchOperation,
    RemoveOperation,
    ReplaceOperation,
    TestOperation,
)
from jsonpointer import JsonPointer, JsonPointerException, escape

from palyra_actors.errors import Invalid, TooLarge
from palyra_actors.limits import (
    CANVAS_COPY_BYTES_MAX,
    CANVAS_PATCH_OPERATIONS_MAX,
    CANVAS_STATE_BYTES_MAX,
    CANVAS_WORK_MAX,
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

DIFF_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes that are encoded to compare two documents: each value as often as lists and maps that
differ lie around it. Beyond that the new root is stored whole."""

COPY_WORK: Final = 4
"""What copying a value costs in values looked at."""

SHIFT_PER_WORK: Final = 128
ROW_PER_WORK: Final = 8
"""Items of a list that are moved aside, and of a list or map that are copied flat, in the time of
one value looked at: 0.1 µs (`bench/bench_canvas.py`)."""

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
        except JsonPatchTestFailed as error:
            raise _refusal(index, operation, "the test failed: another value is there") from error
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
    try:
        diff = _Difference().of(before, after)
        if not diff or len(_encode(diff)) >= len(_encode(whole)):
            return whole
        return diff if apply_patch_document(before, diff) == after else whole
    except (_TooDifferent, Invalid, TooLarge):
        return whole


class _TooDifferent(Exception):
    """A patch would have too many operations, or it takes too long to find."""


class _Difference:
    """Operations that make one document the other, as they are found."""

    def __init__(self) -> None:
        self._made: list[dict[str, Any]] = []
        self._left = DIFF_BYTES_MAX

    def of(self, before: Any, after: Any) -> list[dict[str, Any]]:
        """Raises _TooDifferent."""
        self._compare("", before, after)
        return self._made

    def _add(self, operation: dict[str, Any]) -> None:
        self._made.append(operation)
        if len(self._made) > CANVAS_PATCH_OPERATIONS_MAX:
            raise _TooDifferent

    def _bytes(self, value: Any) -> bytes:
        """By which two values are told apart, true to type."""
        text = _encode(value)
        self._left -= len(text)
        if self._left < 0:
            raise _TooDifferent
        return text

    def _compare(self, path: str, before: Any, after: Any) -> None:
        if type(before) is dict and type(after) is dict:
            self._maps(path, before, after)
        elif type(before) is list and type(after) is list:
            self._lists(path, before, after)
        else:
            self._add({"op": "replace", "path": path, "value": after})

    def _maps(self, path: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        for key in before:
            if key not in after:
                self._add({"op": "remove", "path": f"{path}/{escape(key)}"})
        for key, value in after.items():
            here = f"{path}/{escape(key)}"
            if key not in before:
                self._add({"op": "add", "path": here, "value": value})
            elif self._bytes(before[key]) != self._bytes(value):
                self._compare(here, before[key], value)

    def _lists(self, path: str, before: list[Any], after: list[Any]) -> None:
        ours, theirs = [self._bytes(one) for one in before], [self._bytes(one) for one in after]
        shorter, start, end = min(len(ours), len(theirs)), 0, 0
        while start < shorter and ours[start] == theirs[start]:
            start += 1
        while end < shorter - start and ours[-1 - end] == theirs[-1 - end]:
            end += 1
        for at in range(start, shorter - end):
            if ours[at] != theirs[at]:
                self._compare(f"{path}/{at}", before[at], after[at])
        at = shorter - end
        for _ in range(len(before) - shorter):
            self._add({"op": "remove", "path": f"{path}/{at}"})
        for place in range(at, len(after) - end):
            self._add({"op": "add", "path": f"{path}/{place}", "value": after[place]})


def measure(value: Any) -> tuple[int, int]:
    """How many containers lie within each other, and how many values there are in all."""
    deepest = count = 0
    todo = [(value, 1)]
    while todo:
        one, level = todo.pop()
        count += 1
        if type(one) is dict:
            deepest = max(deepest, level)
            todo.extend((each, level + 1) for each in one.values())
        elif type(one) is list:
            deepest = max(deepest, level)
            todo.extend((each, level + 1) for each in one)
    return deepest, count


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
    """One patch at work: the containers that are its own, what it has copied, what it has done."""

    def __init__(self) -> None:
        self._own: dict[int, Any] = {}  # held, so that no id is given twice
        self._copied = 0
        self._done = 0
        self._index = 0

    def apply(self, document: Any, operation: Mapping[str, Any], index: int) -> Any:
        self._index = index
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
        if "value" in operation:
            depth, count = measure(operation["value"])
            self._work(count if name == "test" else count * COPY_WORK)
            if name in ("add", "replace") and depth + len(parts) > VALUE_DEPTH_MAX:
                raise _too_deep(index)
        if name == "test":
            return step.apply(document)
        if name in ("move", "copy"):
            document = self._fetch(document, operation, name, len(parts))
        document = self._unshare(document, parts)
        return step.apply(document)

    def _fetch(self, document: Any, operation: Mapping[str, Any], name: str, depth: int) -> Any:
        """What a move or a copy needs besides its target."""
        source = operation.get("from")
        if not isinstance(source, str):
            raise _refusal(self._index, operation, "from is a pointer as text")
        pointer = JsonPointer(source)
        found = pointer.resolve(document)
        if name == "copy":
            self._pay(found)
        if name == "copy" or depth > len(pointer.parts):
            deepest, count = measure(found)
            self._work(count * COPY_WORK if name == "copy" else count)
            if deepest + depth > VALUE_DEPTH_MAX:
                raise _too_deep(self._index)
        return document if name == "copy" else self._unshare(document, pointer.parts)

    def _work(self, amount: int) -> None:
        self._done += amount
        if self._done > CANVAS_WORK_MAX:
            raise TooLarge(
                "the patch takes too long",
                field=f"patch[{self._index}]",
                hint="several smaller patches, or canvas.replace",
                detail={"limit": CANVAS_WORK_MAX, "actual": self._done, "index": self._index},
            )

    def _pay(self, value: Any) -> None:
        self._copied += encoded_size(value)
        if self._copied > CANVAS_COPY_BYTES_MAX:
            raise TooLarge(
                f"a patch copies at most {CANVAS_COPY_BYTES_MAX} bytes",
                field=f"patch[{self._index}]",
                hint="send the value, or fewer copies",
                detail={
                    "limit": CANVAS_COPY_BYTES_MAX, "actual": self._copied, "index": self._index,
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
        if type(node) is list:
            self._work(len(node) // SHIFT_PER_WORK)
        return document

    def _ours(self, container: Any) -> Any:
        if type(container) not in (dict, list) or id(container) in self._own:
            return container
        self._work(len(container) // ROW_PER_WORK)
        copy = container.copy()
        self._own[id(copy)] = copy
        return copy


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
