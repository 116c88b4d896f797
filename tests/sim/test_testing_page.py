"""The page on testing, executed: every block of code and every command on it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import Block, blocks_of

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text("utf-8")
BLOCKS = blocks_of(PAGE)
PROGRAM_S_MAX = 60


def test_the_page_has_all_its_blocks() -> None:
    assert [block.language for block in BLOCKS] == ["python"] * 4 + ["console"] * 2


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.section
)
def test_a_program_of_the_page_runs(block: Block) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.text],
        capture_output=True,
        text=True,
        timeout=PROGRAM_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "console"])
def test_a_command_of_the_page_prints_what_it_says(block: Block) -> None:
    command, *expected = block.text.splitlines()
    line = command.removeprefix("$ ").replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=PROGRAM_S_MAX, check=False
    )
    told = iter(done.stdout.splitlines())
    for wanted in expected:
        if wanted != "…":
            parts = wanted.split("…")
            assert any(line.startswith(parts[0]) and line.endswith(parts[-1]) for line in told)
