"""Commands that write: append, import."""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from palyra_actors.api.batch import BatchSummary
from palyra_actors.api.events import event_to_wire, new_id
from palyra_actors.api.operations import Operations
from palyra_actors.api.results import AppendResult
from palyra_actors.cli.shape import console, parse_json, plain, print_json
from palyra_actors.errors import Invalid, NotFound, PalyraError, Refused
from palyra_actors.ids import parse_ulid
from palyra_actors.importer import read_events

EVENT_FIELD: Final = re.compile(r"^events\[(\d+)\]\.?")
"""How a field of one event of a request begins."""


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Invalid: it is none.
    """
    value = parse_json(text, "payload")
    if not isinstance(value, dict):
        raise Invalid("this is no JSON object", field="payload", hint='such as {"text": "hello"}')
    return value


def append_one(
    engine: Operations,
    event: dict[str, Any],
    *,
    expected: int | None,
    budget_ms: int | None,
    as_json: bool,
) -> None:
    """Stores one event and prints where it stands.

    Raises:
        InvalidId: its own id is none.
    """
    if event["session_id"] is None:
        event["session_id"] = new_id()
    if event["event_id"] is not None:
        parse_ulid(event["event_id"], "--event-id")  # its time is that of the id: `event_to_wire`
    result = engine.append(event, expected_session_seq=expected, budget_ms=budget_ms)
    appended = result.results[0]
    if as_json:
        print_json(
            {"session_id": event["session_id"], "results": result.results, "timing": result.timing}
        )
        return
    notes = " duplicate" * appended.duplicate + " redacted" * appended.redacted
    console().print(
        f"stored seq={appended.seq} session={event['session_id']}"
        f" session_seq={appended.session_seq} event={appended.event_id}{notes}",
        soft_wrap=True,
    )


def append_lines(
    engine: Operations,
    lines: BinaryIO,
    *,
    missing: Mapping[str, Any],
    budget_ms: int,
    as_json: bool,
) -> None:
    """Stores events given as JSON lines; with `as_json` prints each one's result, a line each.
    `missing`: what an event has whose line does not say it.

    Raises:
        PalyraError: at the first line that cannot be read or is refused: all before it is stored,
            nothing from it on, and it says how many those are, too. Where an answer did not come
            in time, or the engine is not well: at the lines of that request.
    """

    def print_results(result: AppendResult) -> None:
        for appended in result.results:
            print_json(appended)

    under_way = _Lines(engine, budget_ms, print_results if as_json else None)
    try:
        with under_way.batch:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    under_way.add(number, line, missing)
            under_way.flush()
    except PalyraError as error:
        summary = under_way.batch.summary
        error.detail |= {"new": summary.new, "duplicates": summary.duplicates}
        if not as_json:
            _say_stored(summary)
        raise
    if not as_json:
        _say_stored(under_way.batch.summary)


class _Lines:
    """Lines on their way to the engine, many in a request and one request after the other. Of a
    request that is refused all that stands before the line at fault is sent again, under the same
    ids: it is stored, and nothing behind it.
    """

    def __init__(
        self, engine: Operations, budget_ms: int, on_result: Callable[[AppendResult], None] | None
    ) -> None:
        self._under_way: deque[tuple[int, Mapping[str, Any]]] = deque()  # by the line's number
        self._on_result = on_result
        self.batch = engine.batch(budget_ms=budget_ms, on_result=self._acknowledged, in_flight=1)

    def add(self, number: int, line: bytes, missing: Mapping[str, Any]) -> None:
        """Raises as `append_lines`."""
        try:
            event = event_to_wire({**missing, **_event_of(line)})
        except PalyraError as error:
            self._name(number, error)
            raise
        try:
            self.batch.add(event)
        except PalyraError as error:
            if "first_event" not in error.detail:
                self._name(number, error)
                raise
            self._under_way.append((number, event))
            self._send_in_parts(error)
        else:
            self._under_way.append((number, event))

    def _name(self, number: int, error: PalyraError) -> None:
        """Of a line that cannot be sent, once all before it is stored. Raises as `append_lines`."""
        self.flush()
        error.field = _at(f"line {number}", EVENT_FIELD.sub("", error.field or ""))

    def flush(self) -> None:
        """Waits for the last answer. Raises as `append_lines`."""
        try:
            self.batch.flush()
        except PalyraError as error:
            self._send_in_parts(error)

    def _acknowledged(self, result: AppendResult) -> None:
        for _ in result.results:
            self._under_way.popleft()
        if self._on_result is not None:
            self._on_result(result)

    def _send_in_parts(self, refusal: PalyraError) -> None:
        """All that is under way, of which the first request was refused. Raises at the first line
        that is refused where it comes first."""
        parts = self._parts(refusal)
        while parts:
            part = parts.pop(0)
            self._under_way.extend(part)
            try:
                for _, event in part:
                    self.batch.add(event)
                self.batch.flush()
            except PalyraError as again:
                parts[:0] = self._parts(again)

    def _parts(self, refusal: PalyraError) -> list[list[tuple[int, Mapping[str, Any]]]]:
        """What is under way, cut where the refusal says or else in the middle."""
        count = refusal.detail["events"]
        lines = list(self._under_way)
        self._under_way.clear()
        named = EVENT_FIELD.match(refusal.field or "")
        at = int(named[1]) if named is not None else count // 2
        if not isinstance(refusal, Refused) or not 0 < at < count:
            raise self._at_lines(refusal, [number for number, _ in lines[:count]])
        return [part for part in (lines[:at], lines[at:count], lines[count:]) if part]

    @staticmethod
    def _at_lines(error: PalyraError, numbers: Sequence[int]) -> PalyraError:
        """A field of a request says nothing to whoever wrote lines."""
        for name in ("first_event", "events"):
            del error.detail[name]
        field = error.field or ""
        named = EVENT_FIELD.match(field)
        if named is not None and int(named[1]) < len(numbers):
            error.field = _at(f"line {numbers[int(named[1])]}", field[named.end() :])
        elif len(numbers) == 1:
            error.field = _at(f"line {numbers[0]}", field)
        else:
            error.field = _at(f"lines {numbers[0]} to {numbers[-1]}", field)
        return error


def _event_of(line: bytes) -> dict[str, Any]:
    try:
        return parse_object(line.decode())
    except UnicodeDecodeError as reason:
        raise Invalid("this is no UTF-8") from reason
    except Invalid as reason:
        reason.field = None  # the line is all that is wrong
        raise


def _at(place: str, field: str) -> str:
    return f"{place}: {field}" if field else place


def _say_stored(summary: BatchSummary) -> None:
    console().print(f"{summary.new:,} new, {summary.duplicates:,} there already")


@dataclass(slots=True)
class FileSummary:
    """What became of one file. `cut`: events whose longest text was cut to fit."""

    file: str
    events: int = 0
    new: int = 0
    duplicates: int = 0
    redacted: int = 0
    cut: int = 0
    session_id: str | None = None


def import_files(engine: Operations, files: Sequence[Path], *, as_json: bool) -> None:
    """Stores the files' events, file by file, and says what was new.

    Raises:
        PalyraError: at the first file that cannot be read or is refused; the ones before are
            stored, and it says so.
    """
    for path in files:
        if path.is_dir():
            hint = f"name the files in it, as {path / '*.traj'}"
            raise Invalid("this is a directory", field=str(path), hint=hint)
        if not path.is_file():
            raise NotFound("there is no such file", field=str(path))
        if not path.stat().st_size:
            raise Invalid("this file is empty", field=str(path), hint="was it written to its end?")
    done: list[FileSummary] = []
    with _progress(sum(path.stat().st_size for path in files), shown=not as_json) as advance:
        for path in files:
            try:
                done.append(_import_file(engine, path, advance))
            except PalyraError as error:
                error.field = error.field if error.field is not None else str(path)
                if str(path) not in error.field:
                    error.field = f"{path}: {error.field}"
                _report(done, as_json=as_json)
                raise
            if as_json:
                print_json(asdict(done[-1]))
    if not as_json:
        _report(done, as_json=False)


def _import_file(engine: Operations, path: Path, advance: Callable[[int], None]) -> FileSummary:
    summary = FileSummary(str(path))
    with engine.batch() as batch:
        told = 0
        for imported in read_events(path):
            batch.add(imported.event)
            summary.session_id = summary.session_id or str(imported.event.session_id)
            summary.cut += imported.cut_bytes > 0
            advance(imported.done_bytes - told)
            told = imported.done_bytes
    acked = batch.summary
    summary.events, summary.new = acked.events, acked.new
    summary.duplicates, summary.redacted = acked.duplicates, acked.redacted
    return summary


def _report(done: Sequence[FileSummary], *, as_json: bool) -> None:
    if as_json or not done:
        return
    from rich.text import Text

    terminal = console()
    for each in done:
        line = Text(f"{plain(each.file)}: {each.new:,} new, {each.duplicates:,} there already")
        if each.redacted:
            line.append(f", {each.redacted:,} redacted", style="yellow")
        if each.cut:
            line.append(f", {each.cut:,} cut to fit 256 KiB", style="yellow")
        if each.session_id is not None:
            line.append(f"  session {each.session_id}", style="dim")
        terminal.print(line, soft_wrap=True)
    if len(done) > 1:
        new, old = sum(each.new for each in done), sum(each.duplicates for each in done)
        terminal.print(Text(f"{new:,} new, {old:,} there already", style="bold"))


@contextmanager
def _progress(total_bytes: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    terminal = console(stderr=True)
    if not shown or not terminal.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task("import", total=total_bytes)
        yield lambda more: progress.advance(task, more)
