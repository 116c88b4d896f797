"""Canvases of one engine: made, edited, looked at.

canvas = engine.canvases.create(session, {"title": "Plan", "steps": []})
canvas.edit(lambda state: {**state, "title": "The plan"})
for version, state in canvas.watch(): ...
"""

import copy
import json
import queue
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from palyra_actors.api.events import new_id
from palyra_actors.api.results import read
from palyra_actors.api.sessions import _FromWire, _given
from palyra_actors.errors import Conflict, NoReply, PalyraError
from palyra_actors.limits import READ_LIMIT_MAX
from palyra_actors.wire import frames

if TYPE_CHECKING:
    from palyra_actors.api.operations import Operations

EDITS_MAX: Final = 32
"""How often `edit` tries before it gives up: each time somebody else was quicker."""

EDIT_AGAIN_MS_MAX: Final = 64
"""The longest that `edit` waits before it tries again: about what a few dozen editors take."""

CREDIT: Final = 256
AGAIN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class CanvasInfo(_FromWire):
    """A canvas at one version. `state_sha256`: of the state's canonical JSON (RFC 8785)."""

    canvas_id: str
    session_id: str
    version: int
    schema_version: int
    state: Any
    state_sha256: bytes
    closed: bool
    close_reason: str | None
    created_ms: int
    updated_ms: int
    expires_ms: int | None


@dataclass(frozen=True, slots=True)
class CanvasPatch(_FromWire):
    """What led to a version."""

    version: int
    patch: Any
    principal: str
    ts_ms: int
    seq: int


class Canvases:
    """Canvases of one engine, as handles."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations

    def open(self, canvas_id: object) -> "Canvas":
        """A handle; nothing is asked for."""
        return Canvas(self._operations, str(canvas_id))

    def create(
        self,
        session_id: object,
        state: Mapping[str, Any],
        *,
        canvas_id: object | None = None,
        schema_version: int | None = None,
        expires_ms: int | None = None,
        **options: Any,
    ) -> "Canvas":
        """A canvas at version 1. Raises Conflict: there is one of that id."""
        body = {
            "canvas_id": new_id() if canvas_id is None else str(canvas_id),
            "session_id": str(session_id),
            "state": state,
            **_given(schema_version=schema_version, expires_ms=expires_ms),
        }
        ok = self._operations.call("canvas.create", body, **options)
        return Canvas(self._operations, _info(ok).canvas_id)


class Canvas:
    """One canvas, by its id. Holds nothing else; any thread."""

    def __init__(self, operations: "Operations", canvas_id: str) -> None:
        self._operations = operations
        self.canvas_id = canvas_id

    def __str__(self) -> str:
        return self.canvas_id

    def __repr__(self) -> str:
        return f"Canvas({self.canvas_id!r})"

    def get(self, version: int | None = None, **options: Any) -> CanvasInfo:
        """As it is, or was. Raises Gone: that version was compacted away."""
        body = {"canvas_id": self.canvas_id, **_given(version=version)}
        return _info(self._operations.call("canvas.get", body, **options))

    def patch(
        self, expected_version: int, patch: Sequence[Mapping[str, Any]], **options: Any
    ) -> int:
        """Applies a patch (RFC 6902), all of it or nothing; the new version.

        Raises:
            Conflict: somebody else was quicker; `detail.actual`.
            Invalid: an operation does not apply; `detail.index`.
        """
        body = {
            "canvas_id": self.canvas_id, "expected_version": expected_version,
            "patch": _operations(patch),
        }  # fmt: skip
        return int(self._operations.call("canvas.patch", body, **options)["version"])

    def replace(self, expected_version: int, state: Mapping[str, Any], **options: Any) -> int:
        """Puts another state in its place; the new version. Raises Conflict."""
        body = {
            "canvas_id": self.canvas_id, "expected_version": expected_version, "state": state,
        }  # fmt: skip
        return int(self._operations.call("canvas.replace", body, **options)["version"])

    def edit(self, change: Callable[[Any], Mapping[str, Any]], **options: Any) -> CanvasInfo:
        """Makes a new state of the present one; again, if somebody else was quicker.

        `change` gets a state that is its own and returns what it shall be: what it was, to the
        type, is not sent. Whoever was too late waits before the next time, up to 64 ms, and
        longer each time, by chance: so of many editors each gets its turn. Raises Conflict: after
        32 times.
        """
        for attempt in range(EDITS_MAX):
            if attempt:
                wait_ms = random.uniform(0, min(2 << attempt, EDIT_AGAIN_MS_MAX))
                time.sleep(wait_ms / 1000)
            now = self.get(**options)
            made = change(copy.deepcopy(now.state))
            if same_state(made, now.state):
                return now
            try:
                self.replace(now.version, made, **options)
            except Conflict:
                if attempt == EDITS_MAX - 1:
                    raise
                continue
            return self.get(**options)
        raise AssertionError("not reached")

    def history(self, *, after_version: int | None = None, **options: Any) -> Iterator[CanvasPatch]:
        """What led from version to version. Raises Gone: that was compacted away."""
        after: Any = after_version
        while True:
            body = {"canvas_id": self.canvas_id, "limit": READ_LIMIT_MAX}
            if after is not None:
                body["after_version"] = after
            ok = self._operations.call("canvas.history", body, **options)
            for raw in ok["patches"]:
                yield read("patch", CanvasPatch.of, raw)
            if ok["end"]:
                return
            after = ok["next_after"]

    def page(
        self, *, after_version: int | None = None, limit: int = READ_LIMIT_MAX, **options: Any
    ) -> list[dict[str, Any]]:
        """One page of `history`, as it came. Raises Gone."""
        body = {"canvas_id": self.canvas_id, "limit": limit, **_given(after_version=after_version)}
        return list(self._operations.call("canvas.history", body, **options)["patches"])

    def head_seq(self) -> int:
        """The journal's position now."""
        return self._operations.head().seq

    def fork(
        self, at_version: int | None = None, *, new_canvas_id: object | None = None, **options: Any
    ) -> "Canvas":
        """A canvas of its own that begins as this one is, or was."""
        body = {
            "canvas_id": self.canvas_id,
            "new_canvas_id": new_id() if new_canvas_id is None else str(new_canvas_id),
            **_given(at_version=at_version),
        }
        ok = self._operations.call("canvas.fork", body, **options)
        return Canvas(self._operations, _info(ok).canvas_id)

    def close(self, *, reason: str | None = None, **options: Any) -> CanvasInfo:
        """It takes no more patches. Raises InvalidTransition: it is closed already."""
        body = {"canvas_id": self.canvas_id, **_given(reason=reason)}
        return _info(self._operations.call("canvas.close", body, **options))

    def compact(self, **options: Any) -> dict[str, Any]:
        """Drops all versions but the present one; what that came to."""
        return self._operations.call("canvas.compact", {"canvas_id": self.canvas_id}, **options)

    def watch(self, *, wait_s_max: float | None = None) -> Iterator[tuple[int, Any]]:
        """Version and state, now and after every patch; over lost connections, without a gap.

        The state is the same object every time, changed in place. Ends behind the last state of a
        canvas that is closed, or after `wait_s_max` seconds without a change (None: never).
        """
        version, state = 0, None
        while True:
            source = _Source()
            body: dict[str, Any] = {"canvas_id": self.canvas_id, "credit": CREDIT}
            if version:
                body["after_version"] = version
            calls = self._operations._calls
            request_id = calls.open_stream("canvas.subscribe", frames.pack(body, "body"), source)
            taken = 0
            try:
                while True:
                    try:
                        heard = source.heard.get(timeout=wait_s_max)
                    except queue.Empty:
                        return
                    if isinstance(heard, PalyraError) and not heard.retryable:
                        raise heard
                    if heard is None:
                        return
                    if isinstance(heard, PalyraError):
                        break
                    item = frames.read_item(heard)
                    taken += 1
                    if "snapshot" in item:
                        version, state = item["snapshot"]["version"], item["snapshot"]["state"]
                    else:
                        version = item["version"]
                        import jsonpatch  # not among what a client needs to be imported

                        state = jsonpatch.apply_patch(state, item["patch"], in_place=True)
                    if taken * 2 >= CREDIT:
                        credit = {"sub": request_id, "credit": taken}
                        calls.note("journal.credit", frames.pack(credit, "credit"))
                        taken = 0
                    yield version, state
            finally:
                if calls.drop_stream(request_id):
                    calls.note("journal.unsubscribe", frames.pack({"sub": request_id}, "sub"))
            time.sleep(AGAIN_S)


class _Source:
    """What the connection's thread hears. None: the canvas is closed, and that was all of it; an
    error that is retryable: the stream is lost, begin again."""

    def __init__(self) -> None:
        self.heard: queue.SimpleQueue[bytes | PalyraError | None] = queue.SimpleQueue()

    def item(self, frame: bytes, first_key: str | None) -> None:
        del first_key
        self.heard.put(frame)

    def ended(self, error: PalyraError | None) -> None:
        self.heard.put(error)

    def lost(self) -> None:
        self.heard.put(NoReply("the connection was lost"))


def same_state(made: object, state: object) -> bool:
    """Whether both are the same JSON; for `==` alone `True` is 1, and 1 is 1.0."""
    try:
        texts = [json.dumps(one, sort_keys=True) for one in (made, state)]
    except (TypeError, ValueError, RecursionError):
        return False  # no JSON: the engine says what is wrong with it
    return made == state and texts[0] == texts[1]


def _operations(patch: object) -> object:
    """The list of a patch. What is no sequence of operations stays what it is, a JSON text too:
    the engine says so."""
    if isinstance(patch, str | bytes | Mapping) or not isinstance(patch, Iterable):
        return patch
    return list(patch)


def _info(ok: Mapping[str, Any]) -> CanvasInfo:
    info: CanvasInfo = read("canvas", CanvasInfo.of, ok["canvas"])
    return info
