"""Events as a person reads them: a conversation, or one line each."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from palyra_actors.api.results import Stats, StoredEvent
from palyra_actors.cli.shape import moment, plain, size, to_json

LINES_MAX: Final = 12
LINE_TEXT_MAX: Final = 160

_STYLES: Final = {"user": "bold cyan", "agent": "bold green", "system": "bold yellow"}
_OTHER_STYLE: Final = "bold magenta"


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing said or done. `last_seq` differs where several tokens are one text."""

    first: StoredEvent
    last_seq: int
    text: str


def turns(events: Iterable[StoredEvent]) -> Iterator[Turn]:
    """Events as turns; neighbouring tokens of one run are one text."""
    tokens: list[StoredEvent] = []
    for event in events:
        if tokens and (event.kind != "model_token" or event.run_id != tokens[0].run_id):
            yield _joined(tokens)
            tokens = []
        if event.kind == "model_token" and not isinstance(event.payload, bytes | None):
            tokens.append(event)
        else:
            yield Turn(event, event.seq, said(event))
    if tokens:
        yield _joined(tokens)


def _joined(tokens: list[StoredEvent]) -> Turn:
    return Turn(tokens[0], tokens[-1].seq, "".join(map(said, tokens)))


def said(event: StoredEvent) -> str:
    """What the event says, in one text."""
    payload = event.payload
    if payload is None:
        return "(erased)"
    if not isinstance(payload, dict):
        return _compact(payload)
    match event.kind:
        case "tool_proposed":
            tool = str(payload.get("tool", payload.get("name", "")))
            asked = payload.get("action", payload.get("arguments", payload.get("args")))
            if isinstance(asked, str) and asked.startswith(tool):
                return asked
            return f"{tool} {_compact(asked)}".strip() if tool else _compact(payload)
        case "tool_executed":
            for key in ("observation", "output", "result", "content"):
                if key in payload:
                    return _compact(payload[key])
        case "approval.requested":
            return f"{payload.get('subject_id')}: {payload.get('summary')}"
        case "approval.decided":
            return _because(f"{payload.get('decision')}, {payload.get('scope')}", payload)
        case "run.transitioned":
            return _because(f"to {payload.get('to')}", payload)
    for key in ("text", "token", "content", "message"):
        if isinstance(payload.get(key), str):
            return str(payload[key])
    return _compact(payload)


def _because(text: str, payload: dict[str, Any]) -> str:
    reason = payload.get("reason")
    return f"{text}: {reason}" if reason else text


def _compact(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(to_json(value), ensure_ascii=False, default=str)


def print_conversation(
    console: Console, session_id: str, events: Iterable[StoredEvent], *, full: bool
) -> None:
    """Prints a session's events as they come."""
    console.print(Text.assemble(("session ", "dim"), (plain(session_id), "bold")))
    run_id: str | None = None
    for turn in turns(events):
        event = turn.first
        if event.run_id is not None and event.run_id != run_id:
            run_id = event.run_id
            console.print(Text.assemble(("\nrun ", "dim"), plain(run_id)))
        _print_turn(console, turn, full=full)


def _print_turn(console: Console, turn: Turn, *, full: bool) -> None:
    event = turn.first
    seqs = f"#{event.seq}" if turn.last_seq == event.seq else f"#{event.seq}–{turn.last_seq}"
    head = Text.assemble(
        "\n",
        (event.actor, _STYLES.get(event.actor, _OTHER_STYLE)),
        f" {_verb(event.kind)}",
        (f"  {seqs}  {moment(event.ts_ms)}", "dim"),
    )
    if event.redacted:
        head.append("  redacted", style="red")
    console.print(head, soft_wrap=True)
    lines = plain(turn.text).rstrip("\n").split("\n")
    shown = lines if full else lines[:LINES_MAX]
    for line in shown:
        console.print(Text("  " + line), soft_wrap=not console.is_terminal)
    if len(shown) < len(lines):
        more = f"  … {len(lines) - len(shown)} more lines (--full)"
        console.print(Text(more, style="dim"))


def _verb(kind: str) -> str:
    return {
        "message_received": "says",
        "model_token": "thinks",
        "tool_proposed": "proposes",
        "tool_executed": "ran",
        "run_completed": "completed the run",
        "run_failed": "failed the run",
        "run.started": "started the run",
        "run.transitioned": "moved the run",
        "approval.requested": "asks a person",
        "approval.decided": "was told",
    }.get(kind, plain(kind))


def event_line(event: StoredEvent) -> Text:
    """One event, one line."""
    text = " ".join(plain(said(event)).split())
    if len(text) > LINE_TEXT_MAX:
        text = text[: LINE_TEXT_MAX - 1] + "…"
    return Text.assemble(
        (f"{event.seq:>8} ", "dim"),
        (f"{moment(event.recorded_ms)} ", "dim"),
        (f"{(event.session_id or event.stream_id)[-6:]} ", "blue"),
        (f"{event.actor:<6} ", _STYLES.get(event.actor, _OTHER_STYLE)),
        f"{plain(event.kind)}  {text}",
    )


def stats_table(stats: Stats) -> Table:
    """The engine's counters, name and value."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in _flat(stats.raw):
        if name.endswith("_bytes"):
            shown = size(value)
        else:
            shown = _number(value) if type(value) in (int, float) else _compact(value)
        table.add_row(Text(plain(name)), Text(plain(shown)))
    return table


def _number(value: float) -> str:
    text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _flat(raw: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif name == "busiest":
            for at, one in enumerate(value, start=1):
                yield f"{prefix}busiest.{at}", f"{one['session_id']}  {one['events']:,} in memory"
        else:
            yield f"{prefix}{name}", to_json(value, name)
