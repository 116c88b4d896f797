"""Bodies of `memory.*`."""

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from palyra_actors.limits import (
    LIST_LIMIT_DEFAULT,
    MEMORY_TAGS_MAX,
    MEMORY_TOP_K_DEFAULT,
    MEMORY_TOP_K_MAX,
    MEMORY_UPKEEP_MAX,
)
from palyra_actors.wire.messages import Body, NoBody, TimeMs, WriteBody
from palyra_actors.wire.session import ListLimit

Source: TypeAlias = Literal["tape_user_message", "tape_tool_result", "summary", "manual", "import"]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Tags: TypeAlias = Annotated[list[str], Meta(max_length=MEMORY_TAGS_MAX)]
UpkeepLimit: TypeAlias = Annotated[int, Meta(ge=1, le=MEMORY_UPKEEP_MAX)]


class IngestBody(WriteBody):
    source: Source
    content: str
    memory_id: str | None = None
    session_id: str | None = None
    channel: str | None = None
    tags: Tags | None = None
    confidence: Share | None = None
    expires_ms: TimeMs | None = None
    from_event_id: str | None = None


class MemoryBody(Body):
    memory_id: str


class ListMemoriesBody(Body):
    after: str | None = None
    limit: ListLimit = LIST_LIMIT_DEFAULT
    tags: Tags | None = None
    sources: list[Source] | None = None
    session_id: str | None = None
    channel: str | None = None


class UpdateMemoryBody(WriteBody):
    memory_id: str
    content: str
    tags: Tags | None = None
    confidence: Share | None = None


class DeleteMemoryBody(WriteBody):
    memory_id: str


class PurgeMemoriesBody(WriteBody):
    session_id: str | None = None
    channel: str | None = None
    all: bool = False


class SearchBody(Body):
    query: str
    mode: Literal["hybrid", "vector", "lexical"] = "hybrid"
    top_k: Annotated[int, Meta(ge=1, le=MEMORY_TOP_K_MAX)] = MEMORY_TOP_K_DEFAULT
    min_score: Share | None = None
    tags: Tags | None = None
    sources: list[Source] | None = None
    session_id: str | None = None
    channel: str | None = None
    as_of_ms: TimeMs | None = None


class MaintainBody(WriteBody):
    limit: UpkeepLimit | None = None


BODIES: Final[dict[str, type[Body]]] = {
    "memory.ingest": IngestBody,
    "memory.get": MemoryBody,
    "memory.list": ListMemoriesBody,
    "memory.update": UpdateMemoryBody,
    "memory.delete": DeleteMemoryBody,
    "memory.purge": PurgeMemoriesBody,
    "memory.search": SearchBody,
    "memory.stats": NoBody,
    "memory.maintain": MaintainBody,
    "memory.backfill": MaintainBody,
}
