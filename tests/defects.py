"""Does a test see what it guards against? Each promise broken on purpose, and what has to go red.

    .venv/bin/python -m tests.defects [PROMISE ...]

A copy of the tree is made; each defect is put into it, its tests are run, and it is taken out
again. A defect that no test sees is a hole in the tests, and the exit code is 1.

The defects are of the Python half. Where a compiled twin does the same, the test that is named
runs the Python one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.defects_table import DEFECTS, Defect

ROOT: Final = Path(__file__).resolve().parents[1]
RUN_S_MAX: Final = 300
"""Of the tests of one defect: one that makes them hang is seen, too."""

GREEN, RED = 0, 1  # exit codes of pytest


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


def run(folder: Path, arguments: list[str]) -> int:
    """The exit code of pytest in the copy. What takes too long counts as red."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
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
    with open(folder / "last-run.txt", "wb") as log:
        try:
            return subprocess.run(
                command, check=False, cwd=folder, env=environment, stdout=log, stderr=log,
                timeout=RUN_S_MAX,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return RED


def main(wanted: list[str]) -> int:
    """Put in those of the promises that are named, or all. 1: a test stayed green."""
    chosen = [each for each in DEFECTS if not wanted or str(each.promise) in wanted]
    table = Table("promise", "defect", "red by", title="What the tests see")
    console, blind = Console(), 0
    with tempfile.TemporaryDirectory(prefix="defects-") as name:
        folder = Path(name)
        copy_tree(folder)
        sound = list(dict.fromkeys(each.test for each in chosen))
        if run(folder, sound) != GREEN:
            console.print((folder / "last-run.txt").read_text()[-4_000:], markup=False)
            console.print("these are not green without any defect")
            return 1
        for defect in chosen:
            before = put_in(folder, defect)
            code = run(folder, [defect.test])
            (folder / defect.file).write_text(before)
            seen = defect.test if code == RED else f"NOT SEEN (exit {code}): {defect.test}"
            blind += code != RED
            console.print(f"{defect.promise:2} {'red' if code == RED else seen}", markup=False)
            table.add_row(str(defect.promise), defect.says, seen.replace("[", r"\["))
    console.print(table)
    console.print(f"{len(chosen)} defects, {blind} of them not seen")
    return 1 if blind else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
