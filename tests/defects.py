"""Does a test see what it guards against? Each promise broken on purpose, and what has to go red.

    .venv/bin/python -m tests.defects [PROMISE ...]

A copy of the tree is made; each defect is put into it, its tests are run, and it is taken out
again. A defect that no test sees is a hole in the tests, and the exit code is 1. So is one that
makes its test hang: a test has to say what is wrong, and not that something is.

The defects are of the Python half. Where a compiled twin does the same, the test that is named
runs the Python one.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from tests.defects_table import DEFECTS, Defect

ROOT: Final = Path(__file__).resolve().parents[1]
RUN_S_MAX: Final = 300
"""Of the tests of one defect."""

GREEN, RED = 0, 1  # exit codes of pytest
HUNG: Final = re.compile(r"Timeout \(>|\+ Timeout \+")
"""What pytest-timeout says of a test."""


class Outcome(NamedTuple):
    """What came of pytest. `failed`: its first test that failed, and why; "" if it does not say."""

    code: int
    hung: bool
    failed: str
    took_s: float

    @property
    def seen(self) -> bool:
        return self.code == RED and self.failed != "" and not self.hung

    def __str__(self) -> str:
        if self.seen:
            return self.failed
        return f"NOT SEEN ({'it hung' if self.hung else f'exit {self.code}'}) {self.failed}"


def copy_tree(folder: Path) -> None:
    """Every file that is tracked, as it is now, and what was compiled beside it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    compiled = [str(found.relative_to(ROOT)) for found in ROOT.glob("palyra_actors/*/*.so")]
    for name in [*filter(None, listed.split("\0")), *compiled]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def put_in(folder: Path, defect: Defect) -> str:
    """Break the copy; the text that was there before.

    Raises:
        LookupError: the table is out of date: what is to be replaced is not there exactly once.
    """
    file = folder / defect.file
    before = file.read_text()
    if before.count(defect.old) != 1:
        raise LookupError(f"{defect.file}: not there exactly once: {defect.old!r}")
    file.write_text(before.replace(defect.old, defect.new))
    return before


def run(folder: Path, arguments: list[str]) -> Outcome:
    """What pytest says of these tests in the copy. Its output is left in `last-run.txt`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",  # a line of its summary is cut there
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout=60",
        *arguments,
    ]
    began, code, hung = time.monotonic(), RED, False
    with open(folder / "last-run.txt", "wb") as log:
        try:
            code = subprocess.run(
                command, check=False, cwd=folder, env=environment, stdout=log, stderr=log,
                timeout=RUN_S_MAX,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            hung = True
    said = (folder / "last-run.txt").read_text("utf-8", errors="replace")
    failed = re.search(r"^FAILED (.+)$", said, re.MULTILINE)
    return Outcome(
        code,
        hung or HUNG.search(said) is not None,
        "" if failed is None else failed[1],
        time.monotonic() - began,
    )


def main(wanted: list[str]) -> int:
    """Put in those of the promises that are named, or all. 1: a test stayed green."""
    chosen = [each for each in DEFECTS if not wanted or str(each.promise) in wanted]
    blind = 0
    with tempfile.TemporaryDirectory(prefix="defects-") as name:
        folder = Path(name)
        copy_tree(folder)
        sound = list(dict.fromkeys(each.test for each in chosen))
        if run(folder, sound).code != GREEN:
            say((folder / "last-run.txt").read_text()[-4_000:])
            say("these are not green without any defect")
            return 1
        for defect in chosen:
            before = put_in(folder, defect)
            outcome = run(folder, [defect.test])
            (folder / defect.file).write_text(before)
            blind += not outcome.seen
            say(f"{defect.promise:2} {defect.says}  [{defect.file}, {outcome.took_s:.0f} s]")
            say(f"   {'red' if outcome.seen else defect.test}: {outcome}")
    say(f"{len(chosen)} defects, {blind} of them not seen")
    return 1 if blind else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
