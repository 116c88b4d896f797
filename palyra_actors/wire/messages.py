"""Every operation's body as a type. A field's place in these structs is its name on the wire.

Sizes that have an error of their own (`too_large`) are checked where the operation is handled,
so that the refusal can say the limit and the actual size.
"""

from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from msgspec import Meta, Raw, Struct

from palyra_actors.limits import (
    APPEND_EVENTS_MAX,
    BUDGET_MS_MAX,
    INTEGER_MIN,
    KINDS_FILTER_MAX,
    PRINCIPAL_BYTES_MAX,
    READ_LIMIT_DEFAULT,
    READ_LIMIT_MAX,
    RECENT_LIMIT_MAX,
    REQUEST_ID_BYTES_MAX,
    SUBSCRIBE_CREDIT_MAX,
    TIME_MS_MAX,
    TRACEPARENT_BYTES_MAX,
)

Seq: TypeAlias = Annotated[int, Meta(ge=0, le=-INTEGER_MIN - 1)]
TimeMs: TypeAlias = Annotated[int, Meta(ge=0, le=TIME_MS_MAX)]
Credit: TypeAlias = Annotated[int, Meta(ge=1, le=SUBSCRIBE_CREDIT_MAX)]
RequestId: TypeAlias = (
    Annotated[int, Meta(ge=0)] | Annotated[str, Meta(min_length=1, max_length=REQUEST_ID_BYTES_MAX)]
)
Kinds: TypeAlias = Annotated[list[str], Meta(max_length=KINDS_FILTER_MAX)]

READERS: Final = frozenset({"reader", "writer", "admin"})
WRITERS: Final = frozenset({"writer", "admin"})


class Body(Struct, forbid_unknown_fields=True, gc=False):
    """A body: unknown fields are refused. `roles`: who may ask for it, of all connections."""

    roles: ClassVar[frozenset[str]] = READERS


class EventIn(Body, gc=False):
    event_id: str
    session_id: str
    kind: str
    actor: str
    ts_ms: TimeMs
    payload: Raw
    run_id: str | None = None


class AppendBody(Body):
    roles: ClassVar[frozenset[str]] = WRITERS

    events: Annotated[list[EventIn], Meta(max_length=APPEND_EVENTS_MAX)]
    expected_session_seq: Seq | None = None


class ReadBody(Body):
    session_id: str | None = None
    run_id: str | None = None
    kinds: Kinds | None = None
    after_seq: Seq = 0
    limit: Annotated[int, Meta(ge=1, le=READ_LIMIT_MAX)] = READ_LIMIT_DEFAULT
    raw: bool = False


class RecentBody(Body):
    limit: Annotated[int, Meta(ge=1, le=RECENT_LIMIT_MAX)] = RECENT_LIMIT_MAX


class ExpectedHead(Body):
    seq: Seq
    hash: Annotated[bytes, Meta(min_length=32, max_length=32)]


class VerifyBody(Body):
    from_seq: Annotated[int, Meta(ge=1)] | None = None
    to_seq: Seq | None = None
    expect: ExpectedHead | None = None


class SubscribeBody(Body):
    credit: Credit
    after_seq: Seq | None = None
    session_id: str | None = None
    kinds: Kinds | None = None


class CreditBody(Body):
    sub: RequestId
    credit: Credit


class UnsubscribeBody(Body):
    sub: RequestId


class WriteBody(Body, kw_only=True):
    """Of an operation that changes something. `event_id`: the same request sent again under the
    same id gets the first answer again."""

    roles: ClassVar[frozenset[str]] = WRITERS

    event_id: str | None = None


class NoBody(Body):
    """The operation takes none."""


BODIES: Final[dict[str, type[Body]]] = {
    "engine.hello": NoBody,
    "engine.health": NoBody,
    "engine.stats": NoBody,
    "journal.append": AppendBody,
    "journal.read": ReadBody,
    "journal.recent": RecentBody,
    "journal.head": NoBody,
    "journal.verify": VerifyBody,
    "journal.subscribe": SubscribeBody,
    "journal.credit": CreditBody,
    "journal.unsubscribe": UnsubscribeBody,
}
"""The operations of engine and journal. All of them together: `wire.operations.BODIES`."""


class Envelope(Struct, gc=False, kw_only=True):
    """What stands around a body. Unknown keys are ignored."""

    v: Literal[1]
    id: RequestId
    budget_ms: Annotated[int, Meta(ge=0, le=BUDGET_MS_MAX)] | None = None
    traceparent: Annotated[str, Meta(max_length=TRACEPARENT_BYTES_MAX)] | None = None
    principal: (
        Annotated[
            str,
            Meta(pattern=rf"^[A-Za-z0-9_.:@-]{{1,{PRINCIPAL_BYTES_MAX}}}\Z"),
        ]
        | None
    ) = None


class EventResult(Struct, gc=False):
    """One event of an append's answer."""

    event_id: str
    seq: int
    session_seq: int
    hash: bytes
    duplicate: bool
    redacted: bool


class Timing(Struct, gc=False):
    """Milliseconds, from the arrival of the frame."""

    queued_ms: float
    commit_ms: float
    total_ms: float
    within_budget: bool


class AppendOk(Struct, gc=False):
    """`results`: EventResults, or those encoded already."""

    results: Any
    timing: Timing
