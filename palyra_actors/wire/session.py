"""Bodies of `session.*` and `run.*`."""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from palyra_actors.limits import (
    LIST_LIMIT_DEFAULT,
    LIST_LIMIT_MAX,
    READ_LIMIT_MAX,
    TAPE_ENTRIES_MAX,
)
from palyra_actors.wire.messages import Body, Seq, WriteBody

ListLimit: TypeAlias = Annotated[int, Meta(ge=1, le=LIST_LIMIT_MAX)]


class ResolveBody(WriteBody):
    session_id: str | None = None
    session_key: str | None = None
    title: str | None = None
    create: bool = True


class SessionBody(Body):
    session_id: str


class SessionWriteBody(WriteBody):
    session_id: str


class ListSessionsBody(Body):
    after: str | None = None
    limit: ListLimit = LIST_LIMIT_DEFAULT
    status: str | None = None
    query: str | None = None


class UpdateSessionBody(WriteBody):
    session_id: str
    title: str | None = None


class BranchBody(WriteBody):
    session_id: str
    at_session_seq: Seq | None = None
    new_session_id: str | None = None
    session_key: str | None = None


class HistoryBody(Body):
    session_id: str
    after: Seq = 0
    limit: Annotated[int, Meta(ge=1, le=READ_LIMIT_MAX)] = LIST_LIMIT_DEFAULT
    raw: bool = False


class StartRunBody(WriteBody):
    run_id: str
    session_id: str
    parent_run_id: str | None = None


class TransitionBody(WriteBody):
    run_id: str
    to: str
    reason: str | None = None


class CancelBody(WriteBody):
    run_id: str
    reason: str | None = None


class RunBody(Body):
    run_id: str


class ListRunsBody(Body):
    session_id: str | None = None
    after: str | None = None
    limit: ListLimit = LIST_LIMIT_DEFAULT


class TapeBody(Body):
    run_id: str
    after: Seq = 0
    limit: Annotated[int, Meta(ge=1, le=TAPE_ENTRIES_MAX)] = TAPE_ENTRIES_MAX


BODIES: Final[dict[str, type[Body]]] = {
    "session.resolve": ResolveBody,
    "session.get": SessionBody,
    "session.list": ListSessionsBody,
    "session.update": UpdateSessionBody,
    "session.archive": SessionWriteBody,
    "session.branch": BranchBody,
    "session.history": HistoryBody,
    "session.erase": SessionWriteBody,
    "run.start": StartRunBody,
    "run.transition": TransitionBody,
    "run.cancel": CancelBody,
    "run.get": RunBody,
    "run.list": ListRunsBody,
    "run.tape": TapeBody,
}
