"""How `top` looks in a terminal."""

from collections.abc import Iterable
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from palyra_actors.cli.shape import console, plain, size
from palyra_actors.cli.top import Look

BAR_CHARACTERS: Final = 30
COLUMNS: Final = 3
COLOURS: Final = {"ready": "bold green", "degraded": "bold yellow"}


def show(looks: Iterable[Look], *, once: bool) -> None:
    """The looks one after the other, in place; or the first of them, printed."""
    terminal = console()
    if once:
        terminal.print(draw(next(iter(looks))))
        return
    with Live(console=terminal, screen=True, auto_refresh=False) as live:
        for each in looks:
            live.update(draw(each), refresh=True)


def draw(one: Look) -> Group:
    """A look as a person sees it."""
    status = Text.assemble(
        (one.status, COLOURS.get(one.status, "bold red")),
        f"  up {_span(one.uptime_s)}  head {one.head_seq:,}",
        "".join(f"\n  {plain(reason)}" for reason in one.reasons),
    )
    return Group(status, Text(), _latencies(one), Text(), _numbers(one), Text(), _busiest(one))


def _latencies(one: Look) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    budget = f"of {one.budget_ms} ms" if one.budget_ms else "no budget"
    for name, value in (
        ("p50", one.p50_ms),
        ("p99", one.p99_ms),
        ("max", one.max_ms),
        ("commit", one.commit_ms),
    ):
        share = value / one.budget_ms if one.budget_ms else 0.0
        table.add_row(
            Text(name, style="dim"),
            Text(f"{value:9.2f} ms", justify="right"),
            _bar(share),
            Text(budget, style="dim"),
        )
    return table


def _bar(share: float) -> Text:
    filled = min(BAR_CHARACTERS, round(share * BAR_CHARACTERS))
    colour = "green" if share <= 0.5 else "yellow" if share <= 1 else "red"
    return Text.assemble(
        ("━" * filled, colour), ("─" * (BAR_CHARACTERS - filled), "dim"), f" {share:6.0%}"
    )


def _numbers(one: Look) -> Group:
    return Group(
        _grid(
            [
                ("events/s", f"{one.events_rate:,.0f}"),
                ("events a group", f"{one.group_events:,.1f}"),
                ("peers", f"{one.peers:,}"),
                ("writes/s", f"{one.writes_rate:,.0f}"),
                ("at most", f"{one.group_events_max:,}"),
                ("subscriptions", f"{one.subscriptions:,}"),
                ("overloaded/s", f"{one.overloaded_rate:,.0f}"),
                ("queue", f"{one.queue:,}"),
                ("actors", f"{one.resident:,}"),
                ("late/s", f"{one.late_rate:,.0f}"),
                ("lobby", f"{one.lobby:,}"),
                ("restarted", f"{one.restarted:,}"),
                ("requests/s", f"{one.requests_rate:,.0f}"),
                ("under way", f"{one.under_way:,}"),
                ("given up", f"{one.given_up:,}"),
                ("refused/s", f"{one.refused_rate:,.0f}"),
                ("reply backlog", size(one.backlog_bytes)),
                ("threads", f"{one.threads:,}"),
            ]
        ),
        Text(),
        Text.assemble(
            ("WAL ", "dim"),
            f"{size(one.wal_bytes)} of {size(one.wal_bytes_max)}",
            ("   database ", "dim"),
            size(one.db_bytes),
            ("   room for actors ", "dim"),
            f"{one.resident_max:,}",
        ),
    )


def _grid(cells: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(COLUMNS):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for start in range(0, len(cells), COLUMNS):
        table.add_row(*(part for cell in cells[start : start + COLUMNS] for part in cell))
    return table


def _busiest(one: Look) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("busiest sessions", style="cyan")
    table.add_column("of the last events", justify="right")
    for session, share in one.busiest:
        table.add_row(Text(plain(session)), f"{share:.0%}")
    return table


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (
        f"{days} d {hours:02}:{minutes:02}:{rest:02}" if days else f"{hours}:{minutes:02}:{rest:02}"
    )
