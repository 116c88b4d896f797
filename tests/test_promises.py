"""The page of promises: thirty lines, and every command on it names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "promises.md").read_text("utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \| (.+?) \|$", PAGE, re.MULTILINE)


def test_there_are_thirty_promises_in_order() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 31))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_promise_has_a_command_whose_files_exist_and_a_figure(
    row: tuple[str, str, str, str],
) -> None:
    _, promise, commands, figure = row
    assert promise.startswith("**")
    assert figure.strip()
    files = re.findall(r"\b(?:T|tests|bench)/[\w/]+\.py", commands)
    assert files, "a command"
    for name in files:
        assert (ROOT / re.sub(r"^T/", "tests/", name)).is_file(), name


def test_each_name_that_a_command_selects_tests_by_selects_some() -> None:
    for path, name in re.findall(r"T/([\w/]+\.py) -k (\w+)", PAGE):
        text = (ROOT / "tests" / path).read_text("utf-8")
        assert re.search(rf"def test_\w*{name}", text), (path, name)
