"""`palyra-actors cron …`."""

import time
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Final, NamedTuple

import typer

from palyra_actors.api.cron import CronRunInfo, FireTime, JobInfo
from palyra_actors.api.operations import Operations
from palyra_actors.cli import exits
from palyra_actors.cli.reach import connected
from palyra_actors.cli.shape import console, exact_span, print_json, span
from palyra_actors.cli.tables import show_all, show_one
from palyra_actors.errors import Invalid

app = typer.Typer(name="cron", help="Jobs, when they are due, and what came of it.")

Id = Annotated[str, typer.Argument(help="The job's id.", metavar="JOB")]
_JOB = [each.name for each in fields(JobInfo)]
_RUN = {
    "scheduled": "scheduled_ms", "status": "status", "reason": "reason", "missed": "missed",
    "attempt": "attempt", "started": "started_ms", "finished": "finished_ms", "error": "error",
    "run": "run_id",
}  # fmt: skip
_LINE = {
    "job": "job_id", "name": "name", "next": "next", "last": "last", "result": "result",
    "due": "due",
}  # fmt: skip
_SHOWN: Final = 5
_LISTED: Final = 100


@app.command("list", epilog=exits.HELP)
@connected
def list_jobs(
    engine: Operations,
    enabled: Annotated[
        bool | None, typer.Option("--enabled/--disabled", help="Only those that are, or are not.")
    ] = None,
    system: Annotated[
        bool, typer.Option("--system", help="The engine's own: the upkeep that it does by itself.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", min=1, help="At most so many. [default: 100, with --json: all]"
        ),
    ] = None,
    as_json: bool = False,
) -> None:
    """Jobs, when each is due next, and how it went the last time."""
    if system:
        _list_own(engine, as_json=as_json)
        return
    found = engine.cron.list(enabled=enabled)
    if as_json:
        show_all(found, {}, as_json=True, limit=limit)
        return
    now_ms, most = _now_ms(), _LISTED if limit is None else limit
    show_all((_line(engine, job, now_ms) for job in islice(found, most)), _LINE, as_json=False)
    if next(found, None) is not None:
        console().print(f"the first {most}: there are more (--limit, or --json)", style="dim")


class _Line(NamedTuple):
    """A job, as it is listed."""

    job_id: str
    name: str
    due: str
    next: str
    last: str
    result: str


def _line(engine: Operations, job: JobInfo, now_ms: int) -> _Line:
    last = next(engine.cron.runs(job.job_id, page=1), None)
    return _Line(
        job.job_id,
        job.name,
        _schedule(job),
        _away(job.next_run_ms, now_ms) if job.enabled else "paused",
        _away(None if last is None else last.scheduled_ms, now_ms),
        "-" if last is None else _result(last),
    )


def _list_own(engine: Operations, *, as_json: bool) -> None:
    """The engine's own jobs: they have no runs, what they change is in the journal."""
    own = engine.call("engine.stats")["duties"]
    if as_json:
        print_json(own)
        return
    from rich.table import Table

    table = Table("name", "due", "next", "last", "turns", "failed", box=None, pad_edge=False)
    now_ms = _now_ms()
    for name, one in own.items():
        table.add_row(
            name, f"every {span(one['every_ms'])}", _away(one["next_ms"], now_ms),
            _away(one["last_ms"], now_ms), str(one["turns"]), str(one["failures"]),
        )  # fmt: skip
    console().print(table)


@app.command(epilog=exits.HELP)
@connected
def show(engine: Operations, job: Id, as_json: bool = False) -> None:
    """A job, its next times and its last runs."""
    found = engine.cron.get(job)
    runs = list(islice(engine.cron.runs(job, page=_SHOWN), _SHOWN))
    times = engine.cron.explain(job, count=_SHOWN) if found.enabled else []
    if as_json:
        print_json({"job": found, "times": times, "runs": runs})
        return
    _show(found, as_json=False)
    console().print("\nnext")
    _print_times(times)
    console().print("\nlast")
    show_all(runs, _RUN, as_json=False)


@app.command(epilog=exits.HELP)
@connected
def runs(
    engine: Operations,
    job: Id,
    status: Annotated[str | None, typer.Option("--status", help="Those only.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    as_json: bool = False,
) -> None:
    """Every tick with what became of it, newest first."""
    found = engine.cron.runs(job, status=status, page=min(limit, 500))
    show_all(found, _RUN, as_json=as_json, limit=limit)


@app.command(epilog=exits.HELP)
@connected
def explain(
    engine: Operations,
    *,
    job: Annotated[str | None, typer.Argument(help="The job's id.", metavar="[JOB]")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help='Five fields: "0 7 * * *".')] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="Their time zone.")] = None,
    after_ms: Annotated[int | None, typer.Option("--after-ms", min=0, help="From then on.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100)] = 10,
    as_json: bool = False,
) -> None:
    """When a job, or a cron expression, is due next: in local time, across the days on which
    clocks are set."""
    if (job is None) == (cron is None):
        raise Invalid("name a job, or give an expression with --cron", field="JOB")
    if tz is not None and cron is None:
        raise Invalid("a job has its time zone; --tz is for --cron", field="--tz")
    schedule: dict[str, Any] | None = None
    if cron is not None:
        schedule = {"cron": cron} if tz is None else {"cron": cron, "tz": tz}
    times = engine.cron.explain(job, schedule=schedule, after_ms=after_ms, count=count)
    if as_json:
        show_all(times, {}, as_json=True)
    else:
        _print_times(times)


@app.command(epilog=exits.HELP)
@connected
def run(engine: Operations, job: Id, as_json: bool = False) -> None:
    """Run a job now, under its concurrency policy."""
    show_one(engine.cron.run_now(job), list(_RUN.values()), as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def pause(engine: Operations, job: Id, as_json: bool = False) -> None:
    """Let a job have no ticks; a run that is under way goes on."""
    _show(engine.cron.disable(job), as_json=as_json)


@app.command(epilog=exits.HELP)
@connected
def resume(engine: Operations, job: Id, as_json: bool = False) -> None:
    """Let a job have ticks again, from now on."""
    _show(engine.cron.enable(job), as_json=as_json)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _schedule(job: JobInfo) -> str:
    said = job.schedule
    if "cron" in said:
        return f"{said['cron']} ({said['tz']})"
    if "every_ms" in said:
        return f"every {exact_span(said['every_ms'])}"
    return "once"


def _show(job: JobInfo, *, as_json: bool) -> None:
    """A job, with its interval or its one moment as a person reads them."""
    said, beside = job.schedule, {}
    if "every_ms" in said:
        beside["schedule"] = _schedule(job)
    elif "at_ms" in said:
        at = datetime(1970, 1, 1) + timedelta(milliseconds=said["at_ms"])
        text = at.isoformat(" ", "milliseconds" if said["at_ms"] % 1000 else "seconds")
        beside["schedule"] = f"at {text} +00:00"
    show_one(job, _JOB, as_json=as_json, beside=beside)


def _result(last: CronRunInfo) -> str:
    why = "" if last.reason in ("tick", "manual") else f" ({last.reason})"
    return f"{last.status}{why}"


def _print_times(times: Iterable[FireTime]) -> None:
    """Each with its day of the week; where the distance from UTC changes, that stands out."""
    from rich.text import Text

    now_ms, offset = _now_ms(), None
    for one in times:
        day = datetime.fromisoformat(one.local).strftime("%a")
        line = Text(f"{day} {one.local.replace('T', ' ')}  {_away(one.at_ms, now_ms)}")
        if offset not in (None, one.offset_minutes):
            line.append("  the clock was set", style="yellow")
        offset = one.offset_minutes
        console().print(line)


def _away(at_ms: int | None, now_ms: int) -> str:
    if at_ms is None:
        return "-"
    return f"in {span(at_ms - now_ms)}" if at_ms >= now_ms else f"{span(now_ms - at_ms)} ago"
