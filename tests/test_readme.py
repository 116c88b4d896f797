"""The README, executed: every command and every block of code on it, section by section.

    ```bash      run as one script that stops at the first failure
    ```console   each `$ command` is run, and what it prints is compared with the lines below it
    ```python    run as a program
    ```toml      read as a configuration
    ```text      only looked at

The blocks of one section share a directory, a copy of the project; what they leave running in the
background runs until the section ends. In what a console block shows, `…` stands for anything in
a line and, alone on a line, for any lines; ids, hashes, numbers and the width of gaps may differ.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from palyra_actors.config import Config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
LANGUAGES = {"bash", "console", "python", "toml", "text"}
SET_UP = ("python3 -m venv ", ".venv/bin/pip install ", ".venv/bin/python -m pip install ")
ENDPOINT = "127.0.0.1:7447"
BLOCK_S_MAX = 300
STOP_S_MAX = 10
LEFT_OUT = shutil.ignore_patterns(
    ".*_cache",
    ".git",
    ".hypothesis",
    ".venv*",
    "__pycache__",
    "build",
    "dist",
    "*.egg-info",
    "*.db*",
)
WILD = (
    (r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", r"[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    (r"\b(?=[a-f]*[0-9])[0-9a-f]{8,64}\b", r"[0-9a-f]+"),
    (r"\d[\d.,]*", r"\\d[\\d.,]*"),
)


class Block(NamedTuple):
    section: str
    line: int
    language: str
    text: str


def blocks_of(page: str) -> list[Block]:
    """Every fenced block, with the heading it stands below."""
    found: list[Block] = []
    section, opened, lines = "(top)", None, list[str]()
    for number, line in enumerate(page.splitlines(), 1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and opened is None:
            opened, lines = (number, fence[1].strip()), []
        elif fence and opened is not None:
            found.append(Block(section, *opened, "\n".join(lines) + "\n"))
            opened = None
        elif opened is not None:
            lines.append(line)
        elif re.match(r"#+ ", line):
            section = line.lstrip("# ")
    assert opened is None, "a block is not closed"
    return found


BLOCKS = blocks_of(README)
SECTIONS = list(dict.fromkeys(block.section for block in BLOCKS if block.language != "text"))


def set_up_commands() -> list[str]:
    return [
        line
        for block in BLOCKS
        if block.language in ("bash", "console")
        for line in block.text.splitlines()
        if line.removeprefix("$ ").startswith(SET_UP[0])
    ]


def pattern_of(shown: str) -> re.Pattern[str]:
    """What a console block shows, as a pattern for what a command may print."""
    parts = []
    for line in shown.splitlines():
        if line.strip() == "…":
            parts.append(r"(?:[^\n]*\n)*?")
            continue
        pieces = []
        for piece in re.split(r"(…|\s+)", line.rstrip()):
            if piece == "…":
                pieces.append(r"[^\n]*?")
            elif piece.isspace():
                pieces.append(r"[ \t]+")
            else:
                pieces.append(_wild(piece))
        parts.append("".join(pieces) + r"[ \t]*\n")
    return re.compile("".join(parts))


def _wild(piece: str) -> str:
    """A word, quoted, but for what differs from run to run."""
    for pattern, instead in WILD:
        if match := re.search(pattern, piece):
            before, after = piece[: match.start()], piece[match.end() :]
            return _wild(before) + instead.replace("\\\\", "\\") + _wild(after)
    return re.escape(piece)


def console_steps(text: str) -> list[tuple[str, str]]:
    """Pairs of a command and what is shown below it. A command may go on after a backslash."""
    steps: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif steps and steps[-1][0].endswith("\\") and not steps[-1][1]:
            steps[-1] = (f"{steps[-1][0]}\n{line.removeprefix('> ')}", "")
        else:
            assert steps, "a console block begins with a `$ ` command"
            steps[-1] = (steps[-1][0], f"{steps[-1][1]}{line}\n")
    return steps


class Stage:
    """Where one section is played: a copy of the project, a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        shutil.copytree(ROOT, self.folder, ignore=LEFT_OUT, symlinks=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV") and not name.startswith(("PYTEST", "COV"))
        } | {
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "PALYRA_ENDPOINT": f"tcp://{self.endpoint}",
            "NO_COLOR": "1",
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
        }
        self.leaders: list[int] = []
        self.outputs = 0

    def own(self, text: str) -> str:
        """The text, with the stage's port instead of the default one."""
        return text.replace(ENDPOINT, self.endpoint)

    def run(self, command: list[str]) -> tuple[int, str]:
        """The exit code and all that was printed, without waiting for what stays behind."""
        self.outputs += 1
        output = self.folder.parent / f"output-{self.outputs}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.leaders.append(process.pid)
            code = process.wait(BLOCK_S_MAX)
        return code, output.read_text("utf-8", errors="replace")

    def close(self) -> None:
        """End what the section's blocks left running, and nothing else."""
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError, PermissionError):
                if os.getsid(process.pid) in self.leaders:
                    left.append(process)
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(left, timeout=STOP_S_MAX)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=STOP_S_MAX)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.close()


def without_set_up(stage: Stage, script: str) -> str:
    """The script as it can be run here.

    The test command would run this very test: it is left out. Other set-up commands are run as
    they stand where CI=true; elsewhere the environment that runs this test takes the place of the
    one they would make, so that working on the README needs no network.
    """
    really = os.environ.get("CI") == "true"
    lines = []
    for line in script.splitlines():
        if not line.startswith(SET_UP[0]):
            lines.append(line)
        elif "pytest" in line:
            lines.append(": the test command")
        elif really:
            lines.append(line)
        else:
            kept = [part for part in line.split(" && ") if not part.startswith(SET_UP)]
            lines.append(" && ".join(kept) or ":")
    if not really and not (stage.folder / ".venv").exists():
        (stage.folder / ".venv").symlink_to(sys.prefix)
    return "\n".join(lines)


def play_bash(stage: Stage, block: Block) -> None:
    script = without_set_up(stage, stage.own(block.text))
    code, output = stage.run(["bash", "-euo", "pipefail", "-c", script])
    assert code == 0, f"README.md:{block.line} exited with {code}:\n{output}"


def play_console(stage: Stage, block: Block) -> None:
    mark = f"-- end of step {os.urandom(8).hex()}"
    steps = console_steps(stage.own(block.text))
    script = "".join(
        f"{without_set_up(stage, command)}\n__code=$?\n"
        f"printf '%s %s\\n' {shlex.quote(mark)} $__code\n(exit $__code)\n"
        for command, _ in steps
    )
    _, output = stage.run(["bash", "-c", script])
    printed = re.split(rf"{re.escape(mark)} (\d+)\n", output)
    assert len(printed) == 2 * len(steps) + 1, f"README.md:{block.line} broke off:\n{output}"
    for index, (command, shown) in enumerate(steps):
        got, code = printed[2 * index], printed[2 * index + 1]
        asks = index + 1 < len(steps) and steps[index + 1][0] == "echo $?"
        assert code == "0" or asks, f"`{command}` exited with {code}:\n{got}"
        if got and not got.endswith("\n"):
            got += "\n"
        assert pattern_of(shown).fullmatch(got), f"`{command}` printed\n{got}\ninstead of\n{shown}"


def play_python(stage: Stage, block: Block) -> None:
    program = stage.folder.parent / f"block_{block.line}.py"
    program.write_text(stage.own(block.text), encoding="utf-8")
    code, output = stage.run([sys.executable, "-W", "error", str(program)])
    assert code == 0, f"README.md:{block.line} exited with {code}:\n{output}"


def test_every_block_is_run_or_marked_as_text() -> None:
    unknown = [f"README.md:{b.line} {b.language!r}" for b in BLOCKS if b.language not in LANGUAGES]
    assert unknown == []


def test_two_commands_on_a_line_each_set_everything_up() -> None:
    commands = set_up_commands()
    assert len(commands) == 2
    assert [("pytest" in command) for command in commands] == [False, True]
    assert all(" && .venv/bin/pip install " in command for command in commands)


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    said = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--test-command"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert said.stdout.strip() == set_up_commands()[1]
    assert 'step "tests" bash -c "$command_line"' in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.timeout(4 * BLOCK_S_MAX)
@pytest.mark.parametrize("section", SECTIONS)
def test_everything_in_a_section_runs_and_prints_what_it_shows(section: str, stage: Stage) -> None:
    for block in BLOCKS:
        if block.section != section:
            continue
        match block.language:
            case "bash":
                play_bash(stage, block)
            case "console":
                play_console(stage, block)
            case "python":
                play_python(stage, block)
            case "toml":
                Config.from_mapping(tomllib.loads(block.text))


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("3 events in 0.2 s\n", "1,024 events in 17.25 s\n"),
        ("01M3250V000000000000000S01 ok\n", "01ARZ3NDEKTSV4RRFFQ69G5FAV   ok\n"),
        ("head 5d41402abc4b2a76\n", "head ffeeddcc\n"),
        ("ready endpoint=… db=x\n", "ready endpoint=tcp://[::1]:99 db=x\n"),
        ("first\n…\nlast\n", "first\na\nb\nlast\n"),
        ("first\n…\nlast\n", "first\nlast\n"),
        ("", ""),
    ],
)
def test_what_differs_from_run_to_run_may_differ(shown: str, printed: str) -> None:
    assert pattern_of(shown).fullmatch(printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("3 events\n", "no events\n"),
        ("3 events\n", "3 events and more\n"),
        ("ready … db=x\n", "ready\nendpoint db=x\n"),
        ("a.b\n", "axb\n"),
        ("", "something\n"),
        ("something\n", ""),
    ],
)
def test_what_a_page_shows_has_to_be_printed(shown: str, printed: str) -> None:
    assert not pattern_of(shown).fullmatch(printed)


def played(stage: Stage, language: str, text: str) -> None:
    block = Block("x", 1, language, text)
    {"bash": play_bash, "console": play_console, "python": play_python}[language](stage, block)


def test_blocks_that_do_what_they_show_pass(stage: Stage) -> None:
    played(stage, "bash", "echo made > file\ntest -f pyproject.toml\n")
    played(stage, "console", "$ cat file\nmade\n$ X=5\n$ echo $X \\\n>  and\n7 and\n")
    played(stage, "console", "$ false\n$ echo $?\n1\n")
    played(stage, "python", "import palyra_actors\nopen('file').close()\n")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("bash", "false\ntrue\n"),
        ("bash", "echo $nothing_of_that_name\n"),
        ("console", "$ echo a\nb\n"),
        ("console", "$ echo a\n$ echo b\nb\n"),
        ("console", "$ false\n"),
        ("console", "$ exit 0\n$ echo a\na\n"),
        ("python", "raise SystemExit(3)\n"),
        ("python", "open('pyproject.toml')\nimport warnings; warnings.warn('x')\n"),
    ],
)
def test_blocks_that_do_something_else_fail(stage: Stage, language: str, text: str) -> None:
    with pytest.raises(AssertionError):
        played(stage, language, text)


def is_running(pid: int) -> bool:
    """Not so once it has ended, whether or not anybody has asked how."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_what_a_block_leaves_running_runs_until_the_section_ends(stage: Stage) -> None:
    played(stage, "bash", "sleep 1000 & echo $! > pid\n")
    pid = int((stage.folder / "pid").read_text())
    assert is_running(pid)
    stage.close()
    assert not is_running(pid)


def test_the_default_port_is_not_taken_by_a_test(stage: Stage) -> None:
    played(stage, "console", f"$ echo tcp://{ENDPOINT}\ntcp://{stage.endpoint}\n")
    assert stage.endpoint != ENDPOINT
