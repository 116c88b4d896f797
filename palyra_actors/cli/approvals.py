"""`palyra-actors approvals …` and `palyra-actors verify-export`."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from palyra_actors.api.operations import Operations
from palyra_actors.api.sessions import ApprovalInfo
from palyra_actors.cli import exits
from palyra_actors.cli.exits import reporting
from palyra_actors.cli.reach import Json, connected
from palyra_actors.cli.shape import console, parse_json, print_json
from palyra_actors.cli.tables import show_all, show_one
from palyra_actors.errors import NotFound
from palyra_actors.limits import APPROVAL_EXPORT_MAX

app = typer.Typer(name="approvals", help="Questions to a person, and what was decided.")

Id = Annotated[str, typer.Argument(help="The approval's id.", metavar="APPROVAL")]
Decision = Annotated[
    str | None, typer.Option("--decision", help="allow, deny, timeout or pending.")
]
SubjectType = Annotated[str | None, typer.Option("--subject-type")]
SubjectId = Annotated[str | None, typer.Option("--subject-id")]
Principal = Annotated[str | None, typer.Option("--principal", help="Whose.")]
Since = Annotated[int | None, typer.Option("--since-ms", help="Requested then or later.", min=0)]
Until = Annotated[int | None, typer.Option("--until-ms", help="Requested then or before.", min=0)]

BEYOND_MAX: Final = 10_000
"""So many approvals beyond an export's limit are counted."""

_APPROVAL = [each.name for each in fields(ApprovalInfo)]


@app.command("list", epilog=exits.HELP)
@connected
def list_approvals(
    engine: Operations,
    *,
    decision: Decision = None,
    subject_type: SubjectType = None,
    subject_id: SubjectId = None,
    principal: Principal = None,
    since_ms: Since = None,
    until_ms: Until = None,
    as_json: bool = False,
) -> None:
    """Approvals in the order of their requests."""
    filters = _given(
        decision=decision, subject_type=subject_type, subject_id=subject_id,
        principal=principal, since_ms=since_ms, until_ms=until_ms,
    )  # fmt: skip
    show_all(
        engine.approvals.list(**filters),
        {
            "approval": "approval_id", "decision": "decision", "summary": "summary",
            "subject": "subject_type", "id": "subject_id", "requested": "requested_ms",
            "scope": "scope", "by": "decided_by",
        },
        as_json=as_json,
    )  # fmt: skip


@app.command("show", epilog=exits.HELP)
@connected
def show_approval(engine: Operations, approval: Id, as_json: bool = False) -> None:
    """One approval, whole."""
    show_one(engine.approvals.get(approval), _APPROVAL, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def request(
    engine: Operations,
    session: Annotated[str, typer.Argument(help="The session's id.", metavar="SESSION")],
    *,
    subject_type: Annotated[str, typer.Argument(help="What kind of thing, as tool.")],
    subject_id: Annotated[str, typer.Argument(help="Which one, as rm.")],
    summary: Annotated[str, typer.Argument(help="The question, in a line.")],
    run: Annotated[str | None, typer.Option("--run", help="The run's id.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Any JSON.")] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="What asked for it: any JSON.")
    ] = None,
    expires_ms: Annotated[int | None, typer.Option("--expires-ms", min=0)] = None,
    as_json: bool = False,
) -> None:
    """Ask for an approval."""
    made = engine.approvals.request(
        session, subject_type, subject_id, summary, run_id=run, expires_ms=expires_ms,
        prompt=None if prompt is None else parse_json(prompt, "--prompt"),
        policy=None if policy is None else parse_json(policy, "--policy"),
    )  # fmt: skip
    show_one(made, _APPROVAL, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def decide(
    engine: Operations,
    approval: Id,
    *,
    decision: Annotated[str, typer.Argument(help="allow or deny.")],
    scope: Annotated[str, typer.Option("--scope", help="once, session or timeboxed.")] = "once",
    ttl_ms: Annotated[int | None, typer.Option("--ttl-ms", help="Of timeboxed.", min=1)] = None,
    reason: Annotated[str | None, typer.Option("--reason")] = None,
    as_json: bool = False,
) -> None:
    """Decide an approval, once."""
    made = engine.approvals.decide(
        approval, decision, scope=scope, scope_ttl_ms=ttl_ms, reason=reason
    )
    show_one(made, _APPROVAL, as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def export(
    engine: Operations,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file.  [default: standard output]")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="ndjson or json.")] = "ndjson",
    decision: Decision = None,
    subject_type: SubjectType = None,
    subject_id: SubjectId = None,
    principal: Principal = None,
    since_ms: Since = None,
    until_ms: Until = None,
) -> None:
    """Approvals on a hash chain of their own, for whoever has to check them elsewhere."""
    filters = _given(
        decision=decision, subject_type=subject_type, subject_id=subject_id,
        principal=principal, since_ms=since_ms, until_ms=until_ms,
    )  # fmt: skip
    records = _Records()
    pieces = records.through(
        engine.approvals.export(form=form, limit=APPROVAL_EXPORT_MAX, **filters)
    )
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    else:
        partial = output.with_name(output.name + ".partial")
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        partial.replace(output)
    if records.count >= APPROVAL_EXPORT_MAX:
        _tell_of_more(engine, records, filters)


class _Records:
    """What went through of an export: how many records, the time of the last one's request, and
    how many have that time."""

    def __init__(self) -> None:
        self.count = self.last_ms = self.of_last_ms = 0

    def through(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        rest = b""
        for piece in pieces:
            yield piece
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._note(line)

    def _note(self, line: bytes) -> None:
        entry = json.loads(line.removeprefix(b"[").rstrip(b",]") or b"{}")
        if "record" in entry:
            at_ms = entry["record"]["requested_ms"]
            self.of_last_ms = self.of_last_ms + 1 if at_ms == self.last_ms else 1
            self.last_ms = at_ms
            self.count += 1


def _tell_of_more(engine: Operations, records: _Records, filters: dict[str, Any]) -> None:
    """An export ends at its limit: whether there is more, how much, and how to get it."""
    beyond = engine.approvals.list(**{**filters, "since_ms": records.last_ms})
    more = sum(1 for _ in islice(beyond, records.of_last_ms + BEYOND_MAX)) - records.of_last_ms
    if more > 0:
        many = f"{more:,}" if more < BEYOND_MAX else f"at least {more:,}"
        console(stderr=True).print(
            f"{records.count:,} approvals, as many as an export holds; {many} more are not in it. "
            f"Go on with --since-ms {records.last_ms}, which repeats those of that millisecond.",
            soft_wrap=True,
        )


def _given(**filters: Any) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if value is not None}


@reporting
def verify_export(
    file: Annotated[Path, typer.Argument(help="What `approvals export` wrote.", metavar="FILE")],
    as_json: Json = False,
) -> None:
    """Check an export without an engine. Ends with 5 where it does not hold."""
    from palyra_actors.domain.export import Flaw, check

    if not file.is_file():
        raise NotFound(f"there is no file {file}", field="FILE")
    try:
        with file.open("rb") as lines:
            trailer = check(lines)
    except Flaw as flaw:
        if as_json:
            print_json({"valid": False, "line": flaw.line, "message": str(flaw)})
        else:
            console().print(f"damaged: {flaw}", style="red")
        raise typer.Exit(exits.DAMAGED) from None
    if as_json:
        print_json({"valid": True, **trailer})
    else:
        count, head = trailer["count"], trailer["head_hash"]
        console().print(f"valid: {count:,} approvals; head {head}", soft_wrap=True)
