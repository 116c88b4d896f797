"""Commands as a person would type them, in this process."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from palyra_actors.cli.app import app
from palyra_actors.engine import Engine
from tests.system.harness import NO_BUDGET

Answer: TypeAlias = tuple[int, str, str]
Run: TypeAlias = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """`serve` takes them for its process, which here goes on, and is to end when it is told to."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process: its exit code, standard output and standard error."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PALYRA_ENDPOINT", raising=False)

    def command(*arguments: object) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            app([str(each) for each in arguments], prog_name="palyra-actors")
        out, err = capfd.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), out, err

    return command


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "live.db", NO_BUDGET) as opened:
        yield opened


@pytest.fixture
def endpoint(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the engine, and the one that commands take when they are given none."""
    bound = engine.serve("tcp://127.0.0.1:0")
    monkeypatch.setenv("PALYRA_ENDPOINT", bound)
    return bound


@pytest.fixture
def live(run: Run, endpoint: str) -> Run:
    return lambda *arguments: run(*arguments, "--endpoint", endpoint)
