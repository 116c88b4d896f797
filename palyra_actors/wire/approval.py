"""Bodies of `approval.*`."""

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Raw

from palyra_actors.limits import (
    APPROVAL_EXPORT_MAX,
    APPROVAL_TTL_MS_MAX,
    LIST_LIMIT_DEFAULT,
    LIST_LIMIT_MAX,
)
from palyra_actors.wire.messages import Body, TimeMs, WriteBody

NIL: Final = Raw(b"\xc0")
"""A value that may be left out: msgspec knows no `Raw | None`."""

DecisionName: TypeAlias = Literal["allow", "deny", "timeout", "pending"]


class RequestApprovalBody(WriteBody):
    approval_id: str
    session_id: str
    subject_type: str
    subject_id: str
    summary: str
    run_id: str | None = None
    prompt: Raw = NIL
    policy: Raw = NIL
    expires_ms: TimeMs | None = None


class DecideApprovalBody(WriteBody):
    approval_id: str
    decision: Literal["allow", "deny"]
    scope: Literal["once", "session", "timeboxed"] = "once"
    scope_ttl_ms: Annotated[int, Meta(ge=1, le=APPROVAL_TTL_MS_MAX)] | None = None
    reason: str | None = None


class ApprovalBody(Body):
    approval_id: str


class ApprovalFilters(Body, kw_only=True):
    """All that are given hold together; times are of the request, both ends included."""

    decision: DecisionName | None = None
    subject_type: str | None = None
    subject_id: str | None = None
    principal: str | None = None
    since_ms: TimeMs | None = None
    until_ms: TimeMs | None = None


class ListApprovalsBody(ApprovalFilters):
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT_MAX)] = LIST_LIMIT_DEFAULT


class ExportApprovalsBody(ApprovalFilters):
    format: Literal["ndjson", "json"] = "ndjson"
    limit: Annotated[int, Meta(ge=1, le=APPROVAL_EXPORT_MAX)] = APPROVAL_EXPORT_MAX


BODIES: Final[dict[str, type[Body]]] = {
    "approval.request": RequestApprovalBody,
    "approval.decide": DecideApprovalBody,
    "approval.get": ApprovalBody,
    "approval.list": ListApprovalsBody,
    "approval.export": ExportApprovalsBody,
}
