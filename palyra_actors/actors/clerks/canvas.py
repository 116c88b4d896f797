"""Canvases at the desk: made, patched, read, forked, closed, compacted, looked at."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from palyra_actors.actors.canvas import CanvasActor, load
from palyra_actors.actors.clerks.canvas_feed import CanvasFeed, Watch, patches_after
from palyra_actors.actors.clerks.counter import Counter, Witness
from palyra_actors.actors.clerks.lately import Lately
from palyra_actors.actors.clerks.session import clean_text, host, sees
from palyra_actors.actors.clerks.sweep import Sweeper
from palyra_actors.actors.work import Portion, Request
from palyra_actors.domain import canvas as domain
from palyra_actors.domain.canonical import is_plain
from palyra_actors.domain.canvas import EXPIRED, Who, view
from palyra_actors.domain.catalog import CANVAS
from palyra_actors.domain.redact import redact_value
from palyra_actors.domain.values import step_to
from palyra_actors.errors import Invalid, NotFound, PalyraError
from palyra_actors.limits import (
    CANVAS_PATCH_BYTES_MAX,
    CANVAS_STATE_BYTES_MAX,
    REASON_BYTES_MAX,
)
from palyra_actors.storage.port import ReadSide, StreamRow
from palyra_actors.wire.canvas import (
    CanvasHistoryBody,
    CloseCanvasBody,
    CompactCanvasBody,
    CreateCanvasBody,
    ForkCanvasBody,
    GetCanvasBody,
    PatchCanvasBody,
    ReplaceCanvasBody,
    SubscribeCanvasBody,
)

log = logging.getLogger(__name__)

AGAIN_S: Final = 1.0
"""After a failing disk."""

ERASED_AT_ONCE: Final = 64
MADE_KEPT_MAX: Final = 4_096
"""Canvases made lately, with their sessions."""

DESTROYING: Final = frozenset({"canvas.compacted", "canvas.trimmed", "canvas.erased"})


class CanvasClerk:
    """Serves `canvas.*`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._made: Lately[tuple[str, bytes], bytes] = Lately(MADE_KEPT_MAX)
        self._feed = CanvasFeed(counter.ask, counter.call_later)
        counter.house.listeners[CANVAS] = self._written
        counter.beside.append(self._feed)
        counter.heirlooms.append(self._erase_of)
        counter.after_crash.append(self._erase_left_behind)
        Sweeper(counter, "canvas.due", _due, "a canvas could not be closed")

    def operations(self) -> Mapping[str, Any]:
        return {
            "canvas.create": self._create,
            "canvas.patch": self._patch,
            "canvas.replace": self._replace,
            "canvas.get": self._get,
            "canvas.history": self._history,
            "canvas.subscribe": self._subscribe,
            "canvas.fork": self._fork,
            "canvas.close": self._close,
            "canvas.compact": self._compact,
        }

    # -- writing ----------------------------------------------------------------------------------

    def _create(self, request: Request, body: CreateCanvasBody) -> None:
        counter = self._counter
        canvas_id = counter.ulid(body.canvas_id, "canvas_id")
        session_id = counter.ulid(body.session_id, "session_id")
        state, redacted, plain = self._state(body.state)
        command = domain.Create(
            state, session_id, body.schema_version, body.expires_ms, redacted, plain
        )
        self._is_made(request, canvas_id, session_id)
        counter.command(
            request, CANVAS, canvas_id, command, op="canvas.create", body=body,
            witnesses=[host(session_id, new=True)], clean={"state": state},
        )  # fmt: skip

    def _patch(self, request: Request, body: PatchCanvasBody) -> None:
        counter = self._counter
        canvas_id = counter.ulid(body.canvas_id, "canvas_id")
        operations, redacted, suspicious = counter.clean_and_look(
            body.patch, "patch", CANVAS_PATCH_BYTES_MAX
        )
        if not isinstance(operations, list):
            raise Invalid("a patch is a list of operations", field="patch", hint="RFC 6902")
        for index, one in enumerate(operations):
            if not isinstance(one, dict):
                raise Invalid(
                    "an operation is a map",
                    field=f"patch[{index}]",
                    hint="RFC 6902",
                    detail={"index": index},
                )
        plain = _check_json(operations, "patch")
        moved, clean = False, {"patch": operations}
        if suspicious:
            hidden = [_hide(operation) for operation in operations]
            redacted = redacted or any(found for _, found in hidden)
            operations = [operation for operation, _ in hidden]
            moved = any(_moves_below_a_secret(operation) for operation in operations)
        command = domain.Patch(body.expected_version, operations, redacted, plain, moved)
        counter.command(
            request, CANVAS, canvas_id, command, op="canvas.patch", body=body, clean=clean
        )

    def _replace(self, request: Request, body: ReplaceCanvasBody) -> None:
        canvas_id = self._counter.ulid(body.canvas_id, "canvas_id")
        state, redacted, plain = self._state(body.state)
        command = domain.Replace(body.expected_version, state, redacted, plain)
        self._counter.command(
            request, CANVAS, canvas_id, command, op="canvas.replace", body=body,
            clean={"state": state},
        )  # fmt: skip

    def _fork(self, request: Request, body: ForkCanvasBody) -> None:
        counter = self._counter
        source = counter.ulid(body.canvas_id, "canvas_id")
        target = counter.ulid(body.new_canvas_id, "new_canvas_id")
        if source == target:
            raise Invalid(
                "a canvas is no fork of itself", field="new_canvas_id", hint="take a new id"
            )

        session_id = self._session_of(request, source)
        witnesses = [Witness(CANVAS, source, domain.Look(body.at_version))]
        if session_id is not None:
            witnesses.append(host(session_id, new=True))
            self._is_made(request, target, session_id)

        def command_of(said: Sequence[Mapping[str, Any]]) -> domain.Create:
            canvas: domain.Canvas = said[0]["canvas"]
            assert canvas.document is not None
            assert canvas.session_id is not None
            return domain.Create(
                canvas.document, canvas.session_id, canvas.schema_version, None, False,
                canvas.plain, (source, canvas.version),
            )  # fmt: skip

        counter.command(
            request, CANVAS, target, None, op="canvas.fork", body=body,
            witnesses=witnesses, inform=command_of,
        )  # fmt: skip

    def _close(self, request: Request, body: CloseCanvasBody) -> None:
        counter = self._counter
        canvas_id = counter.ulid(body.canvas_id, "canvas_id")
        reason, redacted = None, False
        if body.reason is not None:
            reason, redacted = clean_text(counter, body.reason, "reason", REASON_BYTES_MAX)
        command = domain.Close(reason, redacted)
        counter.command(request, CANVAS, canvas_id, command, op="canvas.close", body=body)

    def _compact(self, request: Request, body: CompactCanvasBody) -> None:
        canvas_id = self._counter.ulid(body.canvas_id, "canvas_id")
        self._counter.command(
            request, CANVAS, canvas_id, domain.Compact(), op="canvas.compact", body=body
        )

    def _erase_of(self, session_id: bytes, done: Callable[[], None]) -> None:
        """Erase the canvases of a session, some at a time, then say so."""
        counter = self._counter
        again = partial(self._erase_of, session_id, done)
        try:
            rows = counter.reader.rows("canvas.of_session", (session_id, ERASED_AT_ONCE))
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("the canvases of a session could not be read: %s", error)
            counter.call_later(AGAIN_S, again)
            return
        if not rows:
            done()
            return
        left, failed = len(rows), False

        def one_is_done(answer: Mapping[str, Any] | PalyraError) -> None:
            nonlocal left, failed
            left -= 1
            if isinstance(answer, PalyraError):
                log.warning("a canvas could not be erased yet: %s", answer)
                failed = True
            if not left:
                counter.call_later(AGAIN_S if failed else 0.0, again)

        for canvas_id, owner in rows:
            counter.internal(owner, CANVAS, canvas_id, domain.Erase(), one_is_done)

    # -- reading ----------------------------------------------------------------------------------

    def _get(self, request: Request, body: GetCanvasBody) -> None:
        canvas_id, principal = self._counter.ulid(body.canvas_id, "canvas_id"), sees(request)
        now_ms = self._counter.now_ms()

        def find(reader: ReadSide) -> Mapping[str, Any]:
            row = _find(reader, canvas_id, principal)
            found = domain.as_of(load(reader, row.stream, body.version), now_ms)
            return {"canvas": view(found, Who(canvas_id, row.principal, 0))}

        self._counter.look(request, find)

    def _history(self, request: Request, body: CanvasHistoryBody) -> None:
        canvas_id, principal = self._counter.ulid(body.canvas_id, "canvas_id"), sees(request)

        def find(reader: ReadSide) -> Mapping[str, Any]:
            row = _find(reader, canvas_id, principal)
            now = reader.rows("canvas.row", (row.stream,))[0]
            after = now[10] if body.after_version is None else max(1, body.after_version)
            patches = patches_after(reader, row.stream, after, body.limit)
            last = patches[-1]["version"] if patches else after
            return {"patches": patches, "next_after": last, "end": last >= now[0]}

        self._counter.look(request, find)

    def _subscribe(self, request: Request, body: SubscribeCanvasBody) -> None:
        canvas_id = self._counter.ulid(body.canvas_id, "canvas_id")
        after = body.after_version or None
        self._feed.subscribe(Watch(request, canvas_id, after, body.credit))

    # -- own --------------------------------------------------------------------------------------

    def _is_made(self, request: Request, canvas_id: bytes, session_id: bytes) -> None:
        """One that is forked before it is written finds its session."""
        self._made.note((request.principal, canvas_id), session_id)

    def _session_of(self, request: Request, canvas_id: bytes) -> bytes | None:
        """The session of a canvas that the request may see; None: there is none, or it is being
        made. Raises StorageUnavailable."""
        canvas = self._counter.directory.resident(CANVAS, canvas_id)
        if isinstance(canvas, CanvasActor) and canvas.session_id is not None:
            return canvas.session_id if canvas.shows(sees(request)) else None
        row = self._counter.reader.stream(CANVAS, canvas_id)
        if row is None:
            return self._made.get((request.principal, canvas_id))
        if sees(request) not in (None, row.principal):
            return None
        session_id: bytes = self._counter.reader.rows("canvas.row", (row.stream,))[0][2]
        return session_id

    def _state(self, raw: msgspec.Raw) -> tuple[dict[str, Any], bool, bool]:
        """A client's state, whether it was redacted, and whether it is plain."""
        state, redacted = self._counter.clean_value(raw, "state", CANVAS_STATE_BYTES_MAX)
        if not isinstance(state, dict):
            raise Invalid("a state is a map", field="state")
        return state, redacted, _check_json(state, "state")

    def _written(self, portion: Portion) -> None:
        self._feed.written(portion)
        for fact in portion.facts:
            if fact.kind in DESTROYING:
                self._counter.erasing()
            elif fact.kind == "canvas.created":
                self._erase_left_behind(fact.session_id)

    def _erase_left_behind(self, session_id: bytes | None = None) -> None:
        """A canvas that was on its way while its session was erased goes with it, too. Of that
        session, or of any."""
        counter = self._counter
        again = partial(self._erase_left_behind, session_id)
        try:
            rows = (
                counter.reader.rows("canvas.left_behind", (ERASED_AT_ONCE,))
                if session_id is None
                else counter.reader.rows("canvas.left_behind_in", (session_id, ERASED_AT_ONCE))
            )
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("canvases of erased sessions could not be read: %s", error)
            counter.call_later(AGAIN_S, again)
            return

        def done(answer: Mapping[str, Any] | PalyraError) -> None:
            if isinstance(answer, PalyraError):
                log.warning("a canvas could not be erased yet: %s", answer)
                counter.call_later(AGAIN_S, again)

        for canvas_id, owner in rows:
            counter.internal(owner, CANVAS, canvas_id, domain.Erase(), done)


def _due(row: Sequence[Any]) -> tuple[str, Witness]:
    canvas_id, owner = row
    return owner, Witness(CANVAS, canvas_id, domain.Close(EXPIRED, False, only_if_due=True))


def _check_json(value: Any, field: str) -> bool:
    """Whether the value is plain: see `domain.canonical`. Raises Invalid: it is no JSON."""
    try:
        return is_plain(value)
    except Invalid as refusal:
        refusal.field = _place_of_bytes(value, field) or field
        raise


def _place_of_bytes(value: Any, field: str) -> str | None:
    """The path of the first bytes in the value; None: it holds none."""
    if isinstance(value, bytes):
        return field
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        parts = ((step_to(name), each) for name, each in value.items())
    elif isinstance(value, list):
        parts = ((f"[{index}]", each) for index, each in enumerate(value))
    for name, each in parts:
        place = _place_of_bytes(each, field + name)
        if place is not None:
            return place
    return None


def _hide(operation: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A value that a patch puts below a secret's name is a secret like one in a state."""
    path = operation.get("path")
    if "value" not in operation or not isinstance(path, str):
        return operation, False
    names = path.split("/")[1:]
    value = operation["value"]
    for name in reversed(names):
        value = {name.replace("~1", "/").replace("~0", "~"): value}
    value, found = redact_value(value)
    if not found:
        return operation, False
    for _ in names:
        assert isinstance(value, dict)
        (value,) = value.values()
    return {**operation, "value": value}, True


def _moves_below_a_secret(operation: dict[str, Any]) -> bool:
    """Whether it puts what is there already where a text would be a secret."""
    if operation.get("op") not in ("move", "copy"):
        return False
    return _hide({"path": operation.get("path"), "value": "a text"})[1]


def _find(reader: ReadSide, canvas_id: bytes, principal: str | None) -> StreamRow:
    row = reader.stream(CANVAS, canvas_id)
    if row is None or principal not in (None, row.principal):
        raise NotFound("there is no such canvas", field="canvas_id")
    return row
