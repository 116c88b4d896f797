"""The page of promises: thirty lines, whose commands select tests, and the run that fills it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.figures import Figure, gathered
from tests.promises import MEASURES, ROOT, Result, Row, Selection, as_cell, rows, written

ROWS = rows()


@cache
def names_in(file: str) -> list[str]:
    """The names of a file's tests, and of state machines that are run as tests."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    found = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found += [name.id for node in tree.body if isinstance(node, ast.Assign)
              for name in node.targets if isinstance(name, ast.Name)]  # fmt: skip
    return [name for name in found if name.lower().startswith("test")]


@cache
def told_in(folder: Path) -> set[int]:
    """The promises that some test tells a figure of."""
    text = "".join(path.read_text("utf-8") for path in sorted(folder.rglob("test_*.py")))
    told = {int(number) for number in re.findall(r"\bfigure\(\s*(\d+),", text)}
    for several in re.findall(r"for promise in \(([\d, ]+)\)", text):
        told |= {int(number) for number in several.split(",")}
    return told


def test_there_are_thirty_promises_in_order() -> None:
    assert [row.number for row in ROWS] == list(range(1, 31))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_each_promise_has_commands_each_of_which_selects_tests(row: Row) -> None:
    assert row.promise.startswith("**")
    assert row.selections, "a command"
    for selection in row.selections:
        for file in selection.files:
            assert (ROOT / file).is_file(), file
            names = [name for name in names_in(file) if selection.takes(f"{file}::{name}")]
            assert names, (file, selection.word)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_each_promise_has_a_figure_that_tests_or_benches_tell(row: Row) -> None:
    measured = {one.promise for several in MEASURES.values() for one in several}
    assert row.number in told_in(ROOT / "tests") | measured
    assert re.match(r"\d+ tests", row.figure), "the page is filled by a run"
    assert "not measured" not in row.figure


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_what_a_campaign_runs_is_there(row: Row) -> None:
    for name in re.findall(r"\b(?:T|tests|bench)/[\w/]+\.py", row.campaign + row.shown_by):
        assert (ROOT / re.sub(r"^T/", "tests/", name)).is_file(), name


def test_a_bench_that_the_page_runs_has_its_figures_named() -> None:
    for row in ROWS:
        for command in row.benches:
            name = Path(command.split()[0]).name
            assert row.number in {one.promise for one in MEASURES[name]}, command


def test_a_word_narrows_what_a_command_takes() -> None:
    selection = Selection(("tests/a.py",), "cut")
    assert selection.takes("tests/a.py::test_who_is_cut[1]")
    assert not selection.takes("tests/a.py::test_who_is_served")
    assert not selection.takes("tests/b.py::test_who_is_cut")


def test_counts_are_added_and_of_measures_the_worst_is_kept() -> None:
    told = [
        Figure(1, "lost", 0, most=0),
        Figure(1, "took", 1.5, "s", most=2),
        Figure(2, "goodput", 0.9, "parts", least=0.8),
        Figure(1, "lost", 1, most=0),
        Figure(1, "took", 0.5, "s", most=2),
        Figure(2, "goodput", 0.7, "parts", least=0.8),
    ]
    found = gathered(told)
    assert [(one.name, one.value, one.holds) for one in found[1]] == [
        ("lost", 1, False),
        ("took", 1.5, True),
    ]
    assert [(one.value, one.holds) for one in found[2]] == [(0.7, False)]


def test_a_run_is_written_into_its_lines_and_what_does_not_hold_says_so() -> None:
    page = "# x\n\n| 1 | **A.** | `T/a.py` | old | - |\n| 2 | **B.** | `T/b.py` | kept | - |\n"
    lost = Result(1, "A", passed=3, figures=[Figure(1, "lost", 2, most=0)])
    assert written(page, [lost]) == page.replace("old", "3 tests; **does not hold:** lost: 2")
    assert not lost.holds
    assert as_cell(Result(1, "A", passed=2, failed=["x"])) == "2 tests, **1 failed**"
    assert not Result(1, "A").holds, "nothing ran"
    assert Result(1, "A", passed=1, figures=[Figure(1, "took", 1, "s", most=2)]).holds
