"""A canvas as an actor: `domain.canvas` with the file behind it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from palyra_actors.actors.entity import CommandEntity, House, ask
from palyra_actors.domain import canvas as domain
from palyra_actors.domain.canonical import Text, looks_plain
from palyra_actors.domain.canvas import Canvas, Keep, Who
from palyra_actors.domain.catalog import CANVAS
from palyra_actors.domain.document import encoded_size, replay_patch
from palyra_actors.domain.fact import Decision, Fact
from palyra_actors.domain.folds import upcast
from palyra_actors.errors import Gone, NotFound
from palyra_actors.storage.port import ReadSide, StreamRow


class CanvasActor(CommandEntity):
    """Changes one canvas, in the order in which it was asked to."""

    kind: ClassVar[int] = CANVAS
    missing = "there is no such canvas"
    id_field = "canvas_id"
    keep: ClassVar[Keep] = Keep()

    def __init__(self, house: House, stream_id: bytes, messages_max: int) -> None:
        super().__init__(house, stream_id, messages_max)
        self._text = Text()

    @classmethod
    def keeping(cls, keep: Keep) -> type["CanvasActor"]:
        """The same with another rule for what history is kept."""
        return type(cls.__name__, (cls,), {"keep": keep})

    def _load_state(self, reader: ReadSide, row: StreamRow) -> Canvas:
        marks = reader.rows("canvas.marks", (row.stream,))
        return load(reader, row.stream)._replace(marks=tuple((at, size) for at, size in marks))

    def _choose(self, state: Canvas | None, command: domain.Command, now_ms: int) -> Decision:
        tail = self._tail
        assert tail is not None
        if isinstance(command, domain.Look) and state is not None and not state.erased:
            state = self._as_of(state, command.version)
        if isinstance(command, domain.Erase):
            self._text = Text()  # no state is kept for later of what nothing may be left of
        who = Who(self.stream_id, tail.principal, now_ms, self.keep, self._text)
        return domain.decide(state, command, who)

    def _as_of(self, now: Canvas, version: int | None) -> Canvas:
        """The canvas at a version, be it written or not. Raises NotFound, Gone."""
        if version is None or version == now.version:
            return now
        if not now.horizon <= version < now.version:
            raise _no_version(now.version, now.horizon, version, "at_version")
        for portion in self._pending:
            before = portion.before
            if isinstance(before, Canvas) and before.version == version:
                return before
        assert self._tail is not None
        return ask(load, self._house.reader, self._tail.stream, version)

    @property
    def session_id(self) -> bytes | None:
        """Of which session it is, as far as it has decided."""
        return self._state.session_id if isinstance(self._state, Canvas) else None

    def fold(self, state: Canvas | None, fact: Fact, stream: int) -> tuple[Canvas, Any]:
        return domain.fold(state, fact, stream)

    def recall(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        row = self._house.reader.stream(CANVAS, self.stream_id)
        if row is None:
            raise NotFound(self.missing, field=self.id_field)
        try:
            found = load(self._house.reader, row.stream, recipe.get("version"))
        except Gone:
            now = self._house.reader.rows("canvas.row", (row.stream,))[0]
            if now[10] > now[0] or "sha256" not in recipe:
                raise
            # it was compacted away: who asks again for a canvas to be made has its first state
            found = Canvas(
                recipe["version"], None, recipe["sha256"], True,
                now[2], now[3], now[4], now[4], now[6],
            )  # fmt: skip
        if "version" in recipe:  # what it was answered then was open
            found = found._replace(closed=False, close_reason=None)
        return {"canvas": domain.view(found, Who(self.stream_id, row.principal, 0))}


def erased() -> Gone:
    """Why nothing of it can be read."""
    return Gone("the canvas was erased with its session", field="canvas_id")


def _no_version(last: int, horizon: int, wanted: int, field: str = "version") -> NotFound | Gone:
    if wanted > last:
        return NotFound(f"the canvas is at version {last}", field=field, detail={"actual": last})
    return Gone(
        f"versions before {horizon} were compacted", field=field, detail={"horizon": horizon}
    )


def load(reader: ReadSide, stream: int, version: int | None = None) -> Canvas:
    """The canvas as it is in the file, or as it was at a version: a whole state and the patches
    behind it, at most `domain.canvas.SNAPSHOT_PATCHES` of them.

    Raises:
        NotFound: it has not got to that version.
        Gone: that version was compacted away.
    """
    now = reader.rows("canvas.row", (stream,))[0]
    if now[10] > now[0]:
        raise erased()
    wanted = now[0] if version is None else version
    starts = reader.rows("canvas.snapshot_before", (stream, wanted))
    if not now[10] <= wanted <= now[0] or not starts:
        raise _no_version(now[0], now[10], wanted)
    at, number = starts[0]
    document: Any = None
    sha256, updated_ms = b"", 0
    since = since_bytes = 0
    for event in reader.numbered(stream, number - 1, number + wanted - at):
        if event.payload is None:
            raise Gone("this version was compacted", field="version")
        said = upcast(event.kind, msgspec.msgpack.decode(event.payload))
        if event.kind == "canvas.patched":
            document = replay_patch(document, said["patch"])
            since += 1
            since_bytes += encoded_size(said)
        else:
            document = said["state"]
        sha256, updated_ms = said["sha256"], event.ts_ms
    return Canvas(
        wanted, document, sha256, looks_plain(document, sha256), now[2], now[3], now[4],
        now[5] if version is None else updated_ms, now[6], bool(now[7]), now[8], since,
        since_bytes, now[9], now[10],
    )  # fmt: skip
