"""All thirty promises in one run: their tests, their measurements, their figures.

    python -m tests.promises                    a table, and 1 where a promise does not hold
    python -m tests.promises --only 7 10        some of them
    python -m tests.promises --json FILE        and a JSON line a promise
    python -m tests.promises --write            and the figures into docs/promises.md
    python -m tests.promises --alone COMMAND    what the measurements are run with, such as `nice`

The page says which tests and benches show a promise. Every test runs once, whichever promises name
it; a promise holds if none of its tests failed and none of its figures lies beyond its bound.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.figures import Figure, gathered, told

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "promises.md"
BENCH_S_MAX: Final = 600
_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Selection:
    """One pytest command of the page: files, and a word that names of tests hold, if any."""

    files: tuple[str, ...]
    word: str | None

    def takes(self, nodeid: str) -> bool:
        file, _, name = nodeid.partition("::")
        return file in self.files and (self.word is None or self.word in name)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the page. `benches` are commands, without the interpreter."""

    number: int
    promise: str
    shown_by: str
    figure: str
    campaign: str

    @property
    def selections(self) -> list[Selection]:
        return [made for text in _commands(self.shown_by) if (made := _selection(text)).files]

    @property
    def benches(self) -> list[str]:
        starts = "python bench/"
        return [text[7:] for text in _commands(self.shown_by) if text.startswith(starts)]


@dataclass(frozen=True, slots=True)
class Measure:
    """A value in a bench's lines: of the first one with all of `where`, the one under `key`."""

    promise: int
    name: str
    key: str
    unit: str
    where: tuple[tuple[str, Any], ...] = ()
    most: float | None = None
    least: float | None = None


MEASURES: Final = {
    "bench_overload.py": (
        Measure(
            7, "accepted, p99", "accepted_p99_ms_worst", "ms", (("part", "summary"),), most=25
        ),
        Measure(
            7, "refused, p99, to 1.5 × capacity", "refusal_p99_ms_to_150", "ms",
            (("part", "summary"),), most=5,
        ),
        Measure(
            7, "refused, p99, at 10 × capacity", "refusal_p99_ms_at_1000", "ms",
            (("part", "summary"),), most=5,
        ),
        Measure(
            7, "goodput at 3 × capacity, of its peak", "goodput_at_300", "parts",
            (("part", "summary"),), least=0.8,
        ),
        Measure(
            7, "a bare commit beside 1.5 × capacity, p99", "commit_p99_ms", "ms", (("share", 1.5),)
        ),
        Measure(8, "requests at up to 10 × capacity without an answer", "hung", "",
                (("part", "summary"),), most=0),
    ),
    "bench_flood.py": (
        Measure(10, "p99 of others beside deaf peers, of alone", "ratio", "times",
                (("part", "deaf"),), most=1.2),
        Measure(10, "the same seen by clients", "client_ratio", "times",
                (("part", "deaf"),), most=1.2),
        Measure(10, "deaf peers that were cut", "peers_cut", "", (("part", "deaf"),), least=1),
    ),
    "bench_start.py": (
        Measure(18, "events of the journal that was killed", "events", "", (("bench", "start"),)),
        Measure(18, "ready after kill -9", "ready_s_max", "s", (("bench", "start"),), most=2),
        Measure(17, "p99 of appends beside a copy", "p99_ms", "ms", (("what", "whole"),), most=25),
        Measure(17, "refused beside a copy", "refused", "", (("what", "whole"),), most=0),
    ),
}  # fmt: skip
"""What the page's benches say of promises, with the promises' own bounds."""


@dataclass(slots=True)
class Result:
    """What came of a promise."""

    number: int
    promise: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    figures: list[Figure] = field(default_factory=list)

    @property
    def missed(self) -> list[Figure]:
        return [one for one in self.figures if not one.holds]

    @property
    def holds(self) -> bool:
        return not self.failed and not self.missed and self.passed > 0


def rows() -> list[Row]:
    """The lines of the page, in their order."""
    found = _ROW.findall(PAGE.read_text("utf-8"))
    return [Row(int(number), *cells) for number, *cells in found]


def _commands(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _selection(text: str) -> Selection:
    files, _, word = text.partition(" -k ")
    paths = tuple("tests/" + one[2:] for one in files.split() if one.startswith("T/"))
    return Selection(paths, word or None)


class Gathering:
    """A plugin of pytest: of all that is collected it leaves what promises name, and notes what
    came of it."""

    def __init__(self, wanted: Sequence[Row]) -> None:
        self.results = {row.number: Result(row.number, _title(row)) for row in wanted}
        self._selections = {row.number: row.selections for row in wanted}
        self._figures: list[Figure] = []

    def _numbers(self, nodeid: str) -> list[int]:
        return [
            number
            for number, selections in self._selections.items()
            if any(one.takes(nodeid) for one in selections)
        ]

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        left = [item for item in items if not self._numbers(item.nodeid)]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if self._numbers(item.nodeid)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        self._figures += told(report.user_properties) if report.when == "call" else []
        for number in self._numbers(report.nodeid):
            result = self.results[number]
            if report.failed:
                result.failed.append(report.nodeid)
            elif report.skipped:
                result.skipped += 1
            else:
                result.passed += 1

    def finish(self, measured: Sequence[Figure]) -> list[Result]:
        """The results with all figures, in the order of the page."""
        for number, figures in gathered([*self._figures, *measured]).items():
            if number in self.results:
                self.results[number].figures = figures
        return list(self.results.values())


def _title(row: Row) -> str:
    return re.sub(r"\*\*(.+?)\.?\*\*.*", r"\1", row.promise)


def measured(benches: Sequence[str], alone: str) -> Iterator[Figure]:
    """Runs benches one after the other, and takes the promises' figures from their lines."""
    for command in benches:
        name, *arguments = shlex.split(command)
        done = subprocess.run(
            [*shlex.split(alone), sys.executable, name, *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=BENCH_S_MAX, check=False,
        )  # fmt: skip
        _say(f"{command}\n{done.stdout}{done.stderr[-2_000:] if done.returncode else ''}")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for one in MEASURES[Path(name).name]:
            yield _figure(one, lines)


def _figure(measure: Measure, lines: Sequence[dict[str, Any]]) -> Figure:
    for line in lines:
        if measure.key in line and all(line.get(key) == value for key, value in measure.where):
            value = float(line[measure.key] or 0)
            return Figure(
                measure.promise, measure.name, value, measure.unit, measure.most, measure.least
            )
    return Figure(measure.promise, f"{measure.name}: not measured", 1, most=0)


def written(page: str, results: Sequence[Result]) -> str:
    """The page with the figures of a run in its lines."""
    by_number = {result.number: result for result in results}

    def line(match: re.Match[str]) -> str:
        number, promise, shown_by, figure, campaign = match.groups()
        result = by_number.get(int(number))
        cell = figure if result is None else as_cell(result)
        return f"| {number} | {promise} | {shown_by} | {cell} | {campaign} |"

    return _ROW.sub(line, page)


def as_cell(result: Result) -> str:
    """How many tests passed, and the figures; those that do not hold say so."""
    tests = f"{result.passed} tests"
    if result.failed:
        tests += f", **{len(result.failed)} failed**"
    shown = [f"{one}" if one.holds else f"**does not hold:** {one}" for one in result.figures]
    return "; ".join([tests, *shown])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.promises",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these promises")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a JSON line a promise")
    parser.add_argument("--write", action="store_true", help="the figures into the page")
    parser.add_argument("--alone", default="", metavar="COMMAND", help="to run benches with")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    wanted = [row for row in rows() if not options.only or row.number in options.only]
    gathering = Gathering(wanted)
    selections = [one for row in wanted for one in row.selections]
    files = sorted({name for one in selections for name in one.files})
    pytest.main(["-q", "--no-header", "--tb=short", *files], plugins=[gathering])
    benches = list(dict.fromkeys(command for row in wanted for command in row.benches))
    results = gathering.finish(list(measured(benches, options.alone)))
    for result in results:
        _say(f"{result.number:2} {'holds' if result.holds else 'DOES NOT HOLD':13} "
             f"{result.promise}: {as_cell(result)}")  # fmt: skip
    if options.json:
        lines = [{**asdict(one), "holds": one.holds} for one in results]
        options.json.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    if options.write:
        PAGE.write_text(written(PAGE.read_text("utf-8"), results), "utf-8")
    held = sum(result.holds for result in results)
    _say(f"{held} of {len(results)} promises hold, {time.monotonic() - began:.0f} s")
    return 0 if held == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
