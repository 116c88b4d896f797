"""An approval: a question to a person about one thing that an agent wants to do. Pure.

    pending ──decide──▶ allow | deny         (once; the same decision again changes nothing)
       └──expires_ms──▶ timeout

A decision's scope says for how long it also answers later requests of the same session about the
same subject: `once` not at all, `session` as long as the session, `timeboxed` for `scope_ttl_ms`.
A request that a standing decision answers is written down with that decision and its source.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import rfc8785

from palyra_actors.domain.canonical_text import read
from palyra_actors.domain.fact import Change, Decision, Fact, New, Place
from palyra_actors.errors import Conflict, Invalid, NotFound
from palyra_actors.ids import format_ulid, parse_ulid

DECISIONS: Final = ("allow", "deny", "timeout")
SCOPES: Final = ("once", "session", "timeboxed")
PENDING: Final = "pending"
"""What `approval.list` calls an approval that nobody has decided."""

TIMED_OUT: Final = "nobody decided in time"


class Approval(NamedTuple):
    """`prompt` and `policy` are canonical JSON (RFC 8785), None where there is none.

    `until_ms`: up to when the decision answers further requests, None for as long as the session
    lasts; it means something with the scopes `session` and `timeboxed` only.
    """

    run_id: bytes | None
    subject_type: str
    subject_id: str
    summary: str
    prompt: str | None
    policy: str | None
    requested_ms: int
    expires_ms: int | None
    decision: str | None = None
    scope: str | None = None
    until_ms: int | None = None
    reason: str | None = None
    decided_ms: int | None = None
    decided_by: str | None = None
    standing: bytes | None = None


class Request(NamedTuple):
    """`asked` is the approval as it would be, undecided."""

    approval_id: bytes
    asked: Approval
    redacted: bool

    @property
    def run_id(self) -> bytes | None:
        return self.asked.run_id


class Decide(NamedTuple):
    approval_id: bytes
    decision: str
    scope: str
    scope_ttl_ms: int | None
    reason: str | None
    redacted: bool
    by: str


class TimeOut(NamedTuple):
    """Its time is over; nothing happens if it was decided meanwhile."""

    approval_id: bytes


Command: TypeAlias = Request | Decide | TimeOut


def canonical(value: Any, field: str) -> str:
    """A value as canonical JSON: what an export shows and its checker hashes. A float without a
    fraction is written like an integer, and read back as one below 2^53.

    Raises:
        Invalid: JSON cannot say it: bytes, or an integer that is not between -2^53 and 2^53.
    """
    try:
        return rfc8785.dumps(value).decode()
    except (rfc8785.CanonicalizationError, TypeError, ValueError) as error:
        raise Invalid(
            f"it has no canonical JSON: {error}",
            field=field,
            hint="an export shows it as JSON: no bytes, integers between -2^53 and 2^53; "
            "send another one as text or as a float",
        ) from error


def decide(  # noqa: PLR0917
    known: Mapping[bytes, Approval],
    command: Command,
    session_id: bytes,
    owner: str,
    now_ms: int,
    standing: tuple[bytes, Approval] | None = None,
) -> Decision:
    """What the command causes; `standing` is the decision that answers a request by itself.

    Raises:
        Conflict: it is decided otherwise, its time is over, or its id is taken.
        NotFound: there is no such approval.
    """
    approval_id = command.approval_id
    found = known.get(approval_id)

    def answer(after: Any) -> Mapping[str, Any]:
        return {"approval": view(approval_id, session_id, owner, after.approvals[approval_id])}

    if isinstance(command, Request):
        if found is not None:
            raise is_there(found)
        return Decision(_requested(command, standing, now_ms), answer)
    if found is None:
        raise NotFound("there is no such approval", field="approval_id")
    over = found.expires_ms is not None and now_ms >= found.expires_ms
    if isinstance(command, TimeOut):
        if found.decision is not None or not over:
            return Decision((), answer)
        return Decision([_decided(approval_id, found, "timeout", "once", None, TIMED_OUT)], answer)
    if found.decision is not None:
        if found.decision == command.decision and found.scope == command.scope:
            return Decision((), answer)
        raise _decided_before(found.decision)
    if over:
        raise _decided_before("timeout")
    until_ms = None if command.scope_ttl_ms is None else now_ms + command.scope_ttl_ms
    new = _decided(approval_id, found, command.decision, command.scope, until_ms, command.reason)
    new = new._replace(payload={**new.payload, "by": command.by}, redacted=command.redacted)
    return Decision([new], answer)


def is_there(approval: Approval) -> Conflict:
    """Why none of that id is requested, in this session or another one."""
    return Conflict(
        "there is an approval of that id already",
        field="approval_id",
        hint="take a new id",
        detail={"actual": approval.decision or PENDING},
    )


def was_there() -> Conflict:
    """Why none of that id is requested any more."""
    return Conflict(
        "there was an approval of that id, which was erased with its session",
        field="approval_id",
        hint="take a new id",
        detail={"actual": "gone"},
    )


def answers(approval: Approval, now_ms: int) -> bool:
    """Whether its decision stands for further requests about its subject."""
    return (
        approval.decision in ("allow", "deny")
        and approval.scope in ("session", "timeboxed")
        and (approval.until_ms is None or now_ms < approval.until_ms)
    )


def _decided_before(actual: str) -> Conflict:
    return Conflict(
        f"the approval is decided: {actual}",
        field="decision",
        hint="a decision is made once; request another approval",
        detail={"actual": actual},
    )


def _requested(
    command: Request, standing: tuple[bytes, Approval] | None, now_ms: int
) -> Sequence[New]:
    asked = command.asked
    payload = {
        "v": 1,
        "approval_id": format_ulid(command.approval_id),
        "subject_type": asked.subject_type,
        "subject_id": asked.subject_id,
        "summary": asked.summary,
        "prompt": asked.prompt,
        "policy": asked.policy,
        "expires_ms": asked.expires_ms,
    }
    events = [New("approval.requested", payload, run_id=asked.run_id, redacted=command.redacted)]
    if standing is not None:
        source, before = standing
        assert before.decision is not None
        assert before.scope is not None
        new = _decided(
            command.approval_id, asked, before.decision, before.scope, before.until_ms, None
        )
        by = {"by": before.decided_by, "standing": format_ulid(source)}
        events.append(new._replace(payload={**new.payload, **by}))
    elif asked.expires_ms is not None and asked.expires_ms <= now_ms:
        events.append(_decided(command.approval_id, asked, "timeout", "once", None, TIMED_OUT))
    return events


def _decided(  # noqa: PLR0917
    approval_id: bytes,
    asked: Approval,
    decision: str,
    scope: str,
    until_ms: int | None,
    reason: str | None,
) -> New:
    payload = {
        "v": 1,
        "approval_id": format_ulid(approval_id),
        "decision": decision,
        "scope": scope,
        "until_ms": until_ms,
        "reason": reason,
        "by": None,
        "standing": None,
    }
    return New("approval.decided", payload, run_id=asked.run_id)


def fold(
    known: Mapping[bytes, Approval], fact: Fact, stream: int
) -> tuple[Mapping[bytes, Approval], Sequence[Change]]:
    """The approvals after one event, and the rows that follow; nothing of one that was erased."""
    said = fact.payload
    if said is None:
        return known, ()
    approval_id = parse_ulid(said["approval_id"])
    if fact.kind == "approval.requested":
        made = Approval(
            fact.run_id,
            said["subject_type"],
            said["subject_id"],
            said["summary"],
            said["prompt"],
            said["policy"],
            fact.ts_ms,
            said["expires_ms"],
        )
        row = (approval_id, stream, fact.seq, *made[:8])
        return {**known, approval_id: made}, [("approval.insert", row)]
    standing = said["standing"]
    decided = known[approval_id]._replace(
        decision=said["decision"],
        scope=said["scope"],
        until_ms=said["until_ms"],
        reason=said["reason"],
        decided_ms=fact.ts_ms,
        decided_by=said["by"],
        standing=None if standing is None else parse_ulid(standing),
    )
    seq: int | Place = fact.seq
    changed = (*decided[8:], seq, approval_id)
    return {**known, approval_id: decided}, [("approval.decide", changed)]


def view(approval_id: bytes, session_id: bytes, owner: str, approval: Approval) -> dict[str, Any]:
    """The approval as it is shown, on the wire and in an export."""
    return {
        "approval_id": format_ulid(approval_id),
        "session_id": format_ulid(session_id),
        "run_id": None if approval.run_id is None else format_ulid(approval.run_id),
        "principal": owner,
        "subject_type": approval.subject_type,
        "subject_id": approval.subject_id,
        "summary": approval.summary,
        "prompt": None if approval.prompt is None else read(approval.prompt),
        "policy": None if approval.policy is None else read(approval.policy),
        "requested_ms": approval.requested_ms,
        "expires_ms": approval.expires_ms,
        "decision": approval.decision,
        "scope": approval.scope,
        "scope_until_ms": approval.until_ms,
        "reason": approval.reason,
        "decided_ms": approval.decided_ms,
        "decided_by": approval.decided_by,
        "decided_through": None if approval.standing is None else format_ulid(approval.standing),
    }
