"""JSON documents and their patches (RFC 6902). Pure.

A patch makes a new document that shares with the old one, and with the patch, whatever it did not
touch: only the containers on an operation's way are copied, the operations themselves are
jsonpatch's, in place. A copy is the same value in a second place, until one of the two is changed.
So a patch that fails half way has changed nothing, and going back is keeping the old document.

What a patch may cost is counted, so that none holds up others: operations, bytes that its copies
add up to, depth, and work. Work is counted in values looked at, and what is copied or moved aside
counts as so many of them as take the same time. So the same patch is refused or not on every
machine, and again at a replay.

The difference of two documents is our own: jsonpatch's matches lists up, which takes 2.6 s for two
of 100,000 small integers (`bench/bench_canvas.py`); this one takes a time that grows with their
size, and what a list has in common at its beginning and its end is found.
"""

import re
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

from palyra_actors.domain.survey import survey
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

SHIFT_PER_WORK: Final = 128
ROW_PER_WORK: Final = 8
"""Items of a list that are moved aside, and of a list or map that are copied flat, in the time of
one value looked at: 0.1 µs (`bench/bench_canvas.py`)."""

POINTER_SHOWN_MAX: Final = 120
"""Characters of a pointer that are quoted to whoever sent it."""

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
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
            raise _refusal(index, "the test failed: another value is there") from error
        except (JsonPatchException, JsonPointerException) as error:
            raise _refusal(index, str(error)) from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise _refusal(index, f"it cannot be applied: {error}") from error
    if not isinstance(made, dict):
        raise _refusal(len(operations) - 1, "the state has to stay a map")
    return made


def replay_patch(document: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """The document after operations that have been applied before, changed in place: half of what
    `apply_patch_document` takes. The operations' values become part of it, and change with it."""
    for operation in operations:
        document = OPERATIONS[operation["op"]](_uncopied(operation)).apply(document)
    return document


class _AsItIs:
    """A value of which jsonpatch shall put no copy into a document."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: object) -> Any:
        return self.value


def _uncopied(operation: Mapping[str, Any]) -> dict[str, Any]:
    """The operation, to be applied to a document that shares its value: a copy of 25,000 values
    takes 20 ms."""
    if operation.get("op") in ("add", "replace") and "value" in operation:
        return {**operation, "value": _AsItIs(operation["value"])}
    return dict(operation)


def build_replace_root_patch(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The patch that puts the document in the place of any other."""
    return [{"op": "replace", "path": "", "value": dict(document)}]


def _same_again(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A patch that leaves the document as it is: an empty one is none."""
    path = f"/{escape(min(document, key=len))}"
    return [{"op": "move", "from": path, "path": path}]


def smaller_patch(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """What leads from one document to the other: a diff, or the new root where that is smaller."""
    whole = build_replace_root_patch(after)
    try:
        diff = _Difference().of(before, after)
        if not diff and after:
            diff = _same_again(after)
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
            raise _refusal(index, "op is add, remove, replace, move, copy or test")
        step = kind(_uncopied(operation))
        if not isinstance(operation["path"], str):
            raise _refusal(index, "path is a pointer as text")
        parts = step.pointer.parts
        if len(parts) > VALUE_DEPTH_MAX:
            raise _too_deep(index)
        if "value" in operation:
            depth, count, _ = survey(operation["value"])
            self._work(count)
            if name in ("add", "replace") and depth + len(parts) > VALUE_DEPTH_MAX:
                raise _too_deep(index)
        if name == "test":
            self._find(document, parts)
            return step.apply(document)
        if name == "copy":
            return self._copy(document, operation, parts)
        if name == "move":
            source = self._source(operation)
            document, found = self._lift(document, source, len(parts))
            if tuple(source) != tuple(parts[: len(source)]):
                return self._move(document, operation, parts, found)
        document = self._unshare(document, parts)
        return step.apply(document)

    def _copy(self, document: Any, operation: Mapping[str, Any], parts: Sequence[str]) -> Any:
        """Both places hold the same value from here on: none of it is our own any more."""
        found = self._find(document, self._source(operation))
        depth, count, _ = survey(found)
        self._work(count)
        self._pay(found)
        if depth + len(parts) > VALUE_DEPTH_MAX:
            raise _too_deep(self._index)
        self._share(found)
        return self._add(document, operation, parts, found)

    def _share(self, value: Any) -> None:
        """Where a container is not our own, none in it is."""
        if self._own.pop(id(value), None) is not None:
            for each in value.values() if type(value) is dict else value:
                self._share(each)

    def _move(
        self, document: Any, operation: Mapping[str, Any], parts: Sequence[str], found: Any
    ) -> Any:
        """The target is looked for once the value is gone: in a list, others have moved up then."""
        document = RemoveOperation({"op": "remove", "path": operation["from"]}).apply(document)
        return self._add(document, operation, parts, found)

    def _add(
        self, document: Any, operation: Mapping[str, Any], parts: Sequence[str], found: Any
    ) -> Any:
        """What was found elsewhere, in the operation's place."""
        document = self._unshare(document, parts)
        add = {"op": "add", "path": operation["path"], "value": found}
        return AddOperation(_uncopied(add)).apply(document)

    def _lift(self, document: Any, source: Sequence[str], depth: int) -> tuple[Any, Any]:
        """The document as a move may change it at its source, and what lies there."""
        found = self._find(document, source)
        if depth > len(source):
            deepest, count, _ = survey(found)
            self._work(count)
            if deepest + depth > VALUE_DEPTH_MAX:
                raise _too_deep(self._index)
        return self._unshare(document, source), found

    def _source(self, operation: Mapping[str, Any]) -> Sequence[str]:
        source = operation.get("from")
        if not isinstance(source, str):
            raise _refusal(self._index, "from is a pointer as text")
        parts: Sequence[str] = JsonPointer(source).parts
        return parts

    def _find(self, document: Any, parts: Sequence[str]) -> Any:
        """What lies there; jsonpatch would quote the document where nothing does."""
        for place in range(len(parts)):
            document = self._step(document, parts, place)
        return document

    def _step(self, holder: Any, parts: Sequence[str], place: int) -> Any:
        """The value in a container that the pointer's part of that number names."""
        part = parts[place]
        if type(holder) is dict:
            if part in holder:
                return holder[part]
        elif type(holder) is list and _INDEX.fullmatch(part) and int(part) < len(holder):
            return holder[int(part)]
        path = "".join(f"/{escape(one)}" for one in parts[: place + 1])
        raise _refusal(self._index, f"there is nothing at {path[:POINTER_SHOWN_MAX]}")

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
        for place in range(len(parts) - 1):
            child = self._step(node, parts, place)
            ours = self._ours(child)
            if ours is not child:
                node[parts[place] if type(node) is dict else int(parts[place])] = ours
            node = ours
        if type(node) is list:
            self._work(len(node) // SHIFT_PER_WORK)
        if parts and type(node) is not dict:
            self._check_index(node, parts[-1])
        return document

    def _check_index(self, node: Any, part: str) -> None:
        """Of what is changed in a list; Python's own words for it would help no client."""
        if type(node) is not list:
            raise _refusal(self._index, "neither a list nor a map lies around that place")
        if part != "-" and not _INDEX.fullmatch(part):
            shown = part[:POINTER_SHOWN_MAX]
            raise _refusal(self._index, f"{shown!r} is no place in a list")

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


def _refusal(index: int, message: str) -> Invalid:
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
