"""Approvals at the desk: requested, decided, timed out, listed, exported."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from palyra_actors.actors.clerks.counter import Counter, Witness
from palyra_actors.actors.clerks.lately import Lately
from palyra_actors.actors.clerks.session import (
    check_size,
    clean_text,
    find_session,
    place_gone,
    refuse_gone,
    sees,
)
from palyra_actors.actors.clerks.sweep import SWEEP_S, Sweeper
from palyra_actors.actors.session import SessionActor
from palyra_actors.actors.work import Request
from palyra_actors.domain.approval import PENDING, Approval, Decide, TimeOut, canonical, view
from palyra_actors.domain.approval import Request as RequestApproval
from palyra_actors.domain.catalog import APPROVAL, SESSION
from palyra_actors.domain.export import FILTERS, Export
from palyra_actors.errors import Gone, Invalid, NotFound
from palyra_actors.limits import (
    APPROVAL_PROMPT_BYTES_MAX,
    APPROVAL_SUBJECT_BYTES_MAX,
    APPROVAL_SUMMARY_BYTES_MAX,
    FILTER_TEXT_BYTES_MAX,
    PRINCIPAL_BYTES_MAX,
    REASON_BYTES_MAX,
    REPLY_PAYLOAD_BYTES_MAX,
)
from palyra_actors.storage.port import ReadSide
from palyra_actors.wire.approval import (
    NIL,
    ApprovalBody,
    ApprovalFilters,
    DecideApprovalBody,
    ExportApprovalsBody,
    ListApprovalsBody,
    RequestApprovalBody,
)

REQUESTED_KEPT_MAX: Final = 4_096
"""Approvals requested lately, with their sessions: one that is decided before its request is
acknowledged finds its way."""

PAGE: Final = 200

SEQ, SUBJECT, DECISION = range(3)
PAGES: Final = (
    ("approval.page", "approval.page_by_subject", "approval.page_by_decision"),
    (
        "approval.page_of_owner",
        "approval.page_of_owner_by_subject",
        "approval.page_of_owner_by_decision",
    ),
)
"""Of all, and of an owner: by what they are found."""

_encode = msgspec.msgpack.Encoder().encode


class ApprovalClerk:
    """Serves `approval.*`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._requested: Lately[tuple[str, bytes], bytes] = Lately(REQUESTED_KEPT_MAX)
        self._sweeper = Sweeper(counter, "approval.due", _due, "an approval could not time out")

    def operations(self) -> Mapping[str, Any]:
        return {
            "approval.request": self._request,
            "approval.decide": self._decide,
            "approval.get": self._get,
            "approval.list": self._list,
            "approval.export": self._export,
        }

    # -- writing ----------------------------------------------------------------------------------

    def _request(self, request: Request, body: RequestApprovalBody) -> None:
        counter = self._counter
        approval_id = counter.ulid(body.approval_id, "approval_id")
        session_id = counter.ulid(body.session_id, "session_id")
        run_id = None if body.run_id is None else counter.ulid(body.run_id, "run_id")
        redacted = False
        texts = {}
        for field, bytes_max in (
            ("subject_type", APPROVAL_SUBJECT_BYTES_MAX),
            ("subject_id", APPROVAL_SUBJECT_BYTES_MAX),
            ("summary", APPROVAL_SUMMARY_BYTES_MAX),
        ):
            text, lost = clean_text(counter, getattr(body, field), field, bytes_max)
            if not text and field != "summary":
                raise Invalid(f"{field} is empty", field=field)
            texts[field], redacted = text, redacted or lost
        values: dict[str, str | None] = {}
        for field in ("prompt", "policy"):
            raw = getattr(body, field)
            values[field] = None
            if bytes(raw) != bytes(NIL):
                value, lost = counter.clean_value(raw, field, APPROVAL_PROMPT_BYTES_MAX)
                values[field], redacted = canonical(value, field), redacted or lost
        asked = Approval(
            run_id, texts["subject_type"], texts["subject_id"], texts["summary"],
            values["prompt"], values["policy"], 0, body.expires_ms,
        )  # fmt: skip
        self._requested.note((request.principal, approval_id), session_id)
        if body.expires_ms is not None:
            left_s = (body.expires_ms - counter.now_ms()) / 1000
            if left_s < 10 * SWEEP_S:
                counter.call_later(max(0.01, left_s + 0.001), self._sweeper.look)
        command = RequestApproval(approval_id, asked, redacted)
        counter.command(request, SESSION, session_id, command, op="approval.request", body=body)

    def _decide(self, request: Request, body: DecideApprovalBody) -> None:
        counter = self._counter
        approval_id = counter.ulid(body.approval_id, "approval_id")
        if (body.scope == "timeboxed") != (body.scope_ttl_ms is not None):
            raise Invalid(
                "a timeboxed decision has a scope_ttl_ms, and no other has",
                field="scope_ttl_ms",
                hint="once, session, or timeboxed with how many milliseconds",
            )
        reason, redacted = None, False
        if body.reason is not None:
            reason, redacted = clean_text(counter, body.reason, "reason", REASON_BYTES_MAX)
        session_id = self._session_of(request, approval_id)
        command = Decide(
            approval_id, body.decision, body.scope, body.scope_ttl_ms, reason, redacted,
            request.principal,
        )  # fmt: skip
        counter.command(request, SESSION, session_id, command, op="approval.decide", body=body)

    def _session_of(self, request: Request, approval_id: bytes) -> bytes:
        """The session of an approval, also of one that was requested and is not written yet.

        Raises:
            NotFound, Gone: there is none, or it is another's.
            StorageUnavailable: the file cannot be read.
        """
        counter = self._counter
        try:
            found: bytes = _find(counter.reader, approval_id, sees(request))[16]
        except NotFound:
            requested = self._requested.get((request.principal, approval_id))
            session = requested and counter.directory.resident(SESSION, requested)
            if isinstance(session, SessionActor) and (
                session.undecided or session.has_approval(approval_id)
            ):
                return session.stream_id
            raise
        return found

    # -- reading ----------------------------------------------------------------------------------

    def _get(self, request: Request, body: ApprovalBody) -> None:
        approval_id, principal = self._counter.ulid(body.approval_id, "approval_id"), sees(request)
        self._counter.look(
            request, lambda reader: {"approval": shown(_find(reader, approval_id, principal))}
        )

    def _list(self, request: Request, body: ListApprovalsBody) -> None:
        after = None if body.after is None else self._counter.ulid(body.after, "after")
        filters, limit, principal = _filters(request, body), body.limit, sees(request)

        def find(reader: ReadSide) -> Mapping[str, Any]:
            position = 0 if after is None else _position(reader, after, principal)
            approvals: list[dict[str, Any]] = []
            left, end = REPLY_PAYLOAD_BYTES_MAX, True
            through, by_decision = reader.head().seq, filters["decision"] is not None
            for row in _rows(reader, filters, position, through, limit + 1, by_decision):
                one = shown(row)
                left -= len(_encode(one))
                if len(approvals) == limit or (approvals and left < 0):
                    end = False
                    break
                approvals.append(one)
            return {
                "approvals": approvals,
                "next_after": approvals[-1]["approval_id"] if approvals else body.after,
                "end": end,
            }

        self._counter.look(request, find)

    def _export(self, request: Request, body: ExportApprovalsBody) -> None:
        filters, limit, form = _filters(request, body), body.limit, body.format

        def pages(
            reader: ReadSide,
        ) -> Generator[Mapping[str, Any], None, Mapping[str, Any]]:
            """Records as they stood at one seq, however long the reading takes."""
            through = reader.head().seq
            asked = {**filters, "principal": filters["owner"]}
            told = {name: asked[name] for name in FILTERS if asked[name] is not None}
            export = Export(form, told, through)
            known = _count(reader, filters, through)
            for row in _rows(reader, filters, 0, through, limit):
                for chunk in export.add(shown(row, through)):
                    yield {"chunk": chunk}
            if _count(reader, filters, through) != known:
                raise Gone("a session was erased while this was read", hint="export again")
            for chunk in export.end():
                yield {"chunk": chunk}
            return {
                "count": export.count,
                "head_hash": bytes.fromhex(export.head_hash),
                "through_seq": through,
            }

        self._counter.stream(request, pages)


def _due(row: Sequence[Any]) -> tuple[str, Witness]:
    approval_id, session_id, owner, _ = row
    return owner, Witness(SESSION, session_id, TimeOut(approval_id))


def _filters(request: Request, body: ApprovalFilters) -> dict[str, Any]:
    if body.since_ms is not None and body.until_ms is not None and body.until_ms < body.since_ms:
        raise Invalid("until_ms lies before since_ms", field="until_ms")
    for field, bytes_max in (
        ("subject_type", FILTER_TEXT_BYTES_MAX),
        ("subject_id", FILTER_TEXT_BYTES_MAX),
        ("principal", PRINCIPAL_BYTES_MAX),
    ):
        check_size(getattr(body, field), field, bytes_max)
    owner = body.principal if request.admin else request.principal
    return {
        "owner": owner if body.principal in (None, owner) else "",
        "subject_type": body.subject_type,
        "subject_id": body.subject_id,
        "since_ms": body.since_ms,
        "until_ms": body.until_ms,
        "decision": body.decision,
    }


def _page(  # noqa: PLR0917 - what, and from where to where
    reader: ReadSide,
    filters: Mapping[str, Any],
    after: int,
    through: int,
    limit: int,
    by_decision: bool,
) -> list[tuple[Any, ...]]:
    """`by_decision`: as decisions stand now, and not as they stood at `through`."""
    asked = {**filters, "after": after, "through": through, "limit": limit}
    by = SEQ
    if filters["subject_id"] is not None:
        by = SUBJECT
    elif by_decision:
        by = DECISION
        asked["stored"] = None if filters["decision"] == PENDING else filters["decision"]
    return reader.rows(PAGES[filters["owner"] is not None][by], asked)


def _rows(  # noqa: PLR0917
    reader: ReadSide,
    filters: Mapping[str, Any],
    after: int,
    through: int,
    left: int,
    by_decision: bool = False,
) -> Iterator[tuple[Any, ...]]:
    """So many rows of `approval.page`, a few at a time: each may hold 128 KiB."""
    while left:
        rows = _page(reader, filters, after, through, min(PAGE, left), by_decision)
        yield from rows
        if len(rows) < min(PAGE, left):
            return
        after, left = rows[-1][19], left - len(rows)


def _count(reader: ReadSide, filters: Mapping[str, Any], through: int) -> int:
    """Of the owner's approvals up to that event: fewer than a moment ago if one was erased."""
    of_owner = filters["owner"] is not None
    statement = "approval.count_of_owner" if of_owner else "approval.count"
    bounds = {"owner": filters["owner"], "through": through}
    count: int = reader.rows(statement, bounds)[0][0]
    return count


def _position(reader: ReadSide, after: bytes, principal: str | None) -> int:
    """The seq of a request that a list has come to, also where it has gone with its session since.
    Raises NotFound."""
    was = place_gone(reader, APPROVAL, after, principal)
    return _find(reader, after, principal, "after")[19] if was is None else was[1]


def _find(
    reader: ReadSide, approval_id: bytes, principal: str | None, field: str = "approval_id"
) -> tuple[Any, ...]:
    """The row of an approval that the principal may see. Raises NotFound, Gone."""
    rows = reader.rows("approval.find", (approval_id,))
    if not rows:
        refuse_gone(reader, APPROVAL, approval_id, principal, field)
    if not rows or principal not in (None, rows[0][17]):
        raise NotFound("there is no such approval", field=field)
    find_session(reader, rows[0][16], principal)
    return rows[0]


def shown(row: tuple[Any, ...], through: int | None = None) -> dict[str, Any]:
    """A row of `approval.find` or `approval.page`, as it stood at `through`."""
    approval = Approval(*row[:15])
    if through is not None and (row[20] is None or row[20] > through):
        approval = Approval(*row[:8])
    return view(row[15], row[16], row[17], approval)
