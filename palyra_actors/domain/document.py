"""JSON documents and their patches (RFC 6902). Pure.

A patch makes a new document that shares with the old one, and with the patch, whatever it did not
touch: only the containers on an operation's way are copied, and changed from then on in place. A
copy is the same value in a second place, until one of the two is changed. So a patch that fails
half way has changed nothing, and going back is keeping the old document.

What a patch may cost is counted, so that none holds up others: operations, bytes that its copies
add up to, depth, and work. A unit of work is what takes 0.1 µs: each kind of thing that is done
counts as so many of them as it takes, before it is done, and all of them together may take 5 ms
(`bench/bench_canvas.py`). So the same patch is refused or not on every machine. What was accepted
once is applied again without a limit: a journal is older than what counts today.

The operations are our own: jsonpatch's, an object and three pointers each, took 5 to 12 µs, these
take 2. The difference of two documents is our own, too: jsonpatch's matches lists up, which takes
2.6 s for two of 100,000 small integers; this one takes a time that grows with their size, and what
a list has in common at its beginning and its end is found.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from palyra_actors.domain.survey import survey
from palyra_actors.errors import Invalid, TooLarge
from palyra_actors.limits import (
    CANVAS_COPY_BYTES_MAX,
    CANVAS_PATCH_OPERATIONS_MAX,
    CANVAS_STATE_BYTES_MAX,
    CANVAS_WORK_MAX,
    VALUE_DEPTH_MAX,
)

OPERATIONS: Final = frozenset({"add", "remove", "replace", "move", "copy", "test"})

DIFF_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes that are encoded to compare two documents: each value as often as lists and maps that
differ lie around it. Beyond that the new root is stored whole."""

POINTER_WORK: Final = 8
NAME_WORK: Final = 2
"""Work of each pointer of an operation, and of each name in it. So a thousand operations always
fit whose pointers have up to eight names, whatever they are."""

BROUGHT_PER_WORK: Final = 8
FOUND_PER_WORK: Final = 4
TESTED_PER_WORK: Final = 2
"""Values that a patch brings, that are looked at where they lie, and that are compared."""

SHIFTED_PER_WORK: Final = 256
ITEMS_PER_WORK: Final = 24
MEMBERS_PER_WORK: Final = 8
"""Items of a list that are moved aside, and of a list or map that are copied flat, in the time of
a unit of work."""

POINTER_SHOWN_MAX: Final = 120
"""Characters of a pointer that are quoted to whoever sent it."""

Operations: TypeAlias = Sequence[Mapping[str, Any]]

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_BAD_ESCAPE: Final = re.compile(r"~(?![01])")
_MISSING: Final = object()
_NOT_ALIKE: Final = frozenset({bool, dict, list})
_encode = msgspec.msgpack.Encoder().encode


def apply_patch_document(
    document: Mapping[str, Any], operations: Operations, *, limited: bool = True
) -> dict[str, Any]:
    """The document after all operations; the argument stays as it is, come what may.

    Args:
        limited: whether it may be refused for what it costs.

    Raises:
        Invalid: an operation is malformed, its pointer leads nowhere, its test fails, or the
            root would not be a map; `detail.index` says which. Nothing is applied then.
        TooLarge: it copies more than its budget, takes more work than its budget, or nests deeper
            than 64 levels.
    """
    if not 1 <= len(operations) <= CANVAS_PATCH_OPERATIONS_MAX:
        raise _wrong_count(len(operations))
    work = _Work(limited)
    made: Any = document
    for index, operation in enumerate(operations):
        made = work.apply(made, operation, index)
    if not isinstance(made, dict):
        raise _refusal(len(operations) - 1, "the state has to stay a map")
    return made


def replay_patch(document: Any, operations: Operations) -> Any:
    """The document after operations that have been applied before, changed in place: half of what
    `apply_patch_document` takes. The operations' values become part of it, and change with it."""
    for operation in operations:
        name, parts = operation["op"], _split(operation["path"])
        match name:
            case "test":
                continue
            case "remove":
                _take(_at(document, parts[:-1]), parts[-1])
                continue
            case "add" | "replace":
                value = operation["value"]
            case _:
                source = _split(operation["from"])
                value = _at(document, source)
                if name == "copy":
                    value = _deep_copy(value)
                elif source == parts:
                    continue
                else:
                    _take(_at(document, source[:-1]), source[-1])
        if not parts:
            document = value
        elif name == "replace":
            _put(_at(document, parts[:-1]), parts[-1], value)
        else:
            _insert(_at(document, parts[:-1]), parts[-1], value)
    return document


def escape(name: str) -> str:
    """A name as a part of a pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _split(pointer: str) -> list[str]:
    """The names in a pointer that has been used before."""
    parts = pointer.split("/")[1:]
    if "~" in pointer:
        return [part.replace("~1", "/").replace("~0", "~") for part in parts]
    return parts


def _at(document: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        document = document[part if type(document) is dict else int(part)]
    return document


def _take(holder: Any, part: str) -> None:
    del holder[part if type(holder) is dict else int(part)]


def _put(holder: Any, part: str, value: Any) -> None:
    holder[part if type(holder) is dict else int(part)] = value


def _insert(holder: Any, part: str, value: Any) -> None:
    if type(holder) is dict:
        holder[part] = value
    elif part == "-":
        holder.append(value)
    else:
        holder.insert(int(part), value)


def _deep_copy(value: Any) -> Any:
    """A value of JSON, with containers of its own."""
    if type(value) is dict:
        return {key: _deep_copy(each) for key, each in value.items()}
    if type(value) is list:
        return [_deep_copy(each) for each in value]
    return value


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: true is not 1, though 1 is 1.0."""
    return bool(one == other) and _same_truth(one, other)


def _same_truth(one: Any, other: Any) -> bool:
    """Of two that Python calls equal, whether no truth value is a number in the other."""
    if type(one) is dict:
        return all(_same_truth(each, other[key]) for key, each in one.items())
    if type(one) is list:
        if _NOT_ALIKE.isdisjoint(map(type, one)) and _NOT_ALIKE.isdisjoint(map(type, other)):
            return True
        return all(map(_same_truth, one, other))
    return (type(one) is bool) is (type(other) is bool)


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
    """One patch at work: the containers that are its own, what it has copied, and `done`, the work
    that it has done."""

    def __init__(self, limited: bool) -> None:
        self._own: dict[int, Any] = {}  # held, so that no id is given twice
        self._limited = limited
        self._copied = 0
        self.done = 0
        self._index = 0

    def apply(self, document: Any, operation: Mapping[str, Any], index: int) -> Any:
        self._index = index
        name = operation.get("op") if isinstance(operation, dict) else None
        if type(name) is not str or name not in OPERATIONS:
            raise self._refusal("op is add, remove, replace, move, copy or test")
        parts = self._pointer(operation, "path")
        match name:
            case "add":
                return self._add(document, parts, self._brought(operation, len(parts)))
            case "replace":
                return self._replace(document, parts, self._brought(operation, len(parts)))
            case "remove":
                return self._remove(document, parts)
            case "test":
                return self._test(document, parts, operation.get("value", _MISSING))
            case "move":
                return self._move(document, self._pointer(operation, "from"), parts)
            case _:
                return self._copy(document, self._pointer(operation, "from"), parts)

    # -- what an operation says -------------------------------------------------------------------

    def _pointer(self, operation: Mapping[str, Any], field: str) -> list[str]:
        """The names in one of its pointers."""
        pointer = operation.get(field)
        if type(pointer) is not str:
            raise self._refusal(f"{field} is a pointer as text")
        if pointer and pointer[0] != "/":
            raise self._refusal(f"{field} is empty or begins with a slash")
        count = pointer.count("/")
        if count > VALUE_DEPTH_MAX:
            raise self._too_deep()
        self._work(POINTER_WORK + NAME_WORK * count)
        if "~" in pointer and _BAD_ESCAPE.search(pointer):
            raise self._refusal(f"in {field} a ~ is written ~0, and a slash in a name ~1")
        return _split(pointer)

    def _brought(self, operation: Mapping[str, Any], depth: int) -> Any:
        """The value that it puts at such a depth."""
        value = operation.get("value", _MISSING)
        if value is _MISSING:
            raise self._refusal("it has no value")
        if type(value) is dict or type(value) is list:
            self._look(value, depth, BROUGHT_PER_WORK)
        return value

    # -- the operations ---------------------------------------------------------------------------

    def _add(self, document: Any, parts: Sequence[str], value: Any) -> Any:
        if not parts:
            return value
        document, holder = self._unshare(document, parts)
        part = parts[-1]
        if type(holder) is dict:
            holder[part] = value
        elif part == "-":
            holder.append(value)
        else:
            at, size = self._place(holder, part), len(holder)
            if at > size:
                raise self._refusal(f"a list of {size} has no place {at}")
            self._work((size - at) // SHIFTED_PER_WORK)
            holder.insert(at, value)
        return document

    def _replace(self, document: Any, parts: Sequence[str], value: Any) -> Any:
        if not parts:
            return value
        document, holder = self._unshare(document, parts)
        self._step(holder, parts, len(parts) - 1)
        _put(holder, parts[-1], value)
        return document

    def _remove(self, document: Any, parts: Sequence[str]) -> Any:
        if not parts:
            raise self._refusal("the state cannot be removed")
        document, holder = self._unshare(document, parts)
        self._step(holder, parts, len(parts) - 1)
        if type(holder) is list:
            self._work((len(holder) - int(parts[-1])) // SHIFTED_PER_WORK)
        _take(holder, parts[-1])
        return document

    def _test(self, document: Any, parts: Sequence[str], value: Any) -> Any:
        if value is _MISSING:
            raise self._refusal("it has no value")
        found = self._find(document, parts)
        if type(value) is dict or type(value) is list:
            self._look(value, 0, TESTED_PER_WORK)
        if not alike(found, value):
            raise self._refusal("the test failed: another value is there")
        return document

    def _copy(self, document: Any, source: Sequence[str], parts: Sequence[str]) -> Any:
        """Both places hold the same value from here on: none of it is our own any more."""
        found = self._find(document, source)
        if type(found) is dict or type(found) is list:
            self._look(found, len(parts), FOUND_PER_WORK)
            self._share(found)
        self._pay(found)
        return self._add(document, parts, found)

    def _move(self, document: Any, source: Sequence[str], parts: Sequence[str]) -> Any:
        """The target is looked for once the value is gone: in a list, others have moved up then."""
        found = self._find(document, source)
        if source == parts:
            return document
        if source == parts[: len(source)]:
            raise self._refusal("a value cannot be moved into itself")
        if len(parts) > len(source) and (type(found) is dict or type(found) is list):
            self._look(found, len(parts), FOUND_PER_WORK)
        return self._add(self._remove(document, source), parts, found)

    # -- the way to a place -----------------------------------------------------------------------

    def _find(self, document: Any, parts: Sequence[str]) -> Any:
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
        raise self._refusal(f"there is nothing at {path[:POINTER_SHOWN_MAX]}")

    def _unshare(self, document: Any, parts: Sequence[str]) -> tuple[Any, Any]:
        """The document with the containers on the way to the last part as our own, and the last of
        these: a list or a map."""
        document = node = self._ours(document)
        for place in range(len(parts) - 1):
            child = self._step(node, parts, place)
            ours = self._ours(child)
            if ours is not child:
                node[parts[place] if type(node) is dict else int(parts[place])] = ours
            node = ours
        if type(node) is not dict and type(node) is not list:
            raise self._refusal("neither a list nor a map lies around that place")
        return document, node

    def _place(self, holder: list[Any], part: str) -> int:
        """Of what is put into a list; Python's own words for it would help no client."""
        if not _INDEX.fullmatch(part):
            raise self._refusal(f"{part[:POINTER_SHOWN_MAX]!r} is no place in a list")
        return int(part)

    def _ours(self, container: Any) -> Any:
        kind = type(container)
        if (kind is not dict and kind is not list) or id(container) in self._own:
            return container
        self._work(len(container) // (MEMBERS_PER_WORK if kind is dict else ITEMS_PER_WORK))
        copy = container.copy()
        self._own[id(copy)] = copy
        return copy

    def _share(self, value: Any) -> None:
        """Where a container is not our own, none in it is."""
        if self._own.pop(id(value), None) is not None:
            self._work(len(value) // TESTED_PER_WORK)
            for each in value.values() if type(value) is dict else value:
                if type(each) is dict or type(each) is list:
                    self._share(each)

    # -- what it costs ----------------------------------------------------------------------------

    def _look(self, value: Any, depth: int, per_work: int) -> None:
        """Count a container that is to lie at such a depth."""
        self._work(len(value) // per_work)  # before it is looked through
        deepest, count, _ = survey(value)
        self._work((count - len(value)) // per_work)
        if deepest + depth > VALUE_DEPTH_MAX:
            raise self._too_deep()

    def _work(self, amount: int) -> None:
        self.done += amount
        if self.done > CANVAS_WORK_MAX and self._limited:
            raise TooLarge(
                "the patch takes too long",
                field=f"patch[{self._index}]",
                hint="several smaller patches, or canvas.replace",
                detail={"limit": CANVAS_WORK_MAX, "actual": self.done, "index": self._index},
            )

    def _pay(self, value: Any) -> None:
        self._copied += encoded_size(value)
        if self._copied > CANVAS_COPY_BYTES_MAX and self._limited:
            raise TooLarge(
                f"a patch copies at most {CANVAS_COPY_BYTES_MAX} bytes",
                field=f"patch[{self._index}]",
                hint="send the value, or fewer copies",
                detail={
                    "limit": CANVAS_COPY_BYTES_MAX, "actual": self._copied, "index": self._index,
                },
            )  # fmt: skip

    def _refusal(self, message: str) -> Invalid:
        return _refusal(self._index, message)

    def _too_deep(self) -> Invalid:
        return Invalid(
            f"nested deeper than {VALUE_DEPTH_MAX} levels",
            field=f"patch[{self._index}]",
            detail={"index": self._index},
        )


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
