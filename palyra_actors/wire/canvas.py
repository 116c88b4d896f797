"""Bodies of `canvas.*`."""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Raw

from palyra_actors.limits import LIST_LIMIT_DEFAULT, READ_LIMIT_MAX
from palyra_actors.wire.messages import Body, Credit, TimeMs, WriteBody

Version: TypeAlias = Annotated[int, Meta(ge=1, le=2**53)]


class CreateCanvasBody(WriteBody):
    canvas_id: str
    session_id: str
    state: Raw
    schema_version: Annotated[int, Meta(ge=1, le=2**31)] = 1
    expires_ms: TimeMs | None = None


class PatchCanvasBody(WriteBody):
    canvas_id: str
    expected_version: Version
    patch: Raw


class ReplaceCanvasBody(WriteBody):
    canvas_id: str
    expected_version: Version
    state: Raw


class GetCanvasBody(Body):
    canvas_id: str
    version: Version | None = None


class CanvasHistoryBody(Body):
    canvas_id: str
    after_version: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    limit: Annotated[int, Meta(ge=1, le=READ_LIMIT_MAX)] = LIST_LIMIT_DEFAULT


class SubscribeCanvasBody(Body):
    canvas_id: str
    credit: Credit
    after_version: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class ForkCanvasBody(WriteBody):
    canvas_id: str
    new_canvas_id: str
    at_version: Version | None = None


class CloseCanvasBody(WriteBody):
    canvas_id: str
    reason: str | None = None


class CompactCanvasBody(WriteBody):
    canvas_id: str


BODIES: Final[dict[str, type[Body]]] = {
    "canvas.create": CreateCanvasBody,
    "canvas.patch": PatchCanvasBody,
    "canvas.replace": ReplaceCanvasBody,
    "canvas.get": GetCanvasBody,
    "canvas.history": CanvasHistoryBody,
    "canvas.subscribe": SubscribeCanvasBody,
    "canvas.fork": ForkCanvasBody,
    "canvas.close": CloseCanvasBody,
    "canvas.compact": CompactCanvasBody,
}
