"""`palyra-actors approvals …` and `palyra-actors verify-export`."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from palyra_actors.api.operations import Operations
from palyra_actors.api.sessions import ApprovalInfo
from palyra_actors.cli import exits
from palyra_actors.cli.exits import reporting
from palyra_actors.cli.reach import Json, connected
from palyra_actors.cli.shape import console, parse_json, print_json
from palyra_actors.cli.tables import show_all, show_one
from palyra_actors.errors import NotFound

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
    pieces = engine.approvals.export(form=form, **filters)
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    partial = output.with_name(output.name + ".partial")
    with partial.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    partial.replace(output)


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
