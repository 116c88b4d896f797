"""Commands as a person would type them, in this process."""

import signal
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from palyra_actors.cli.app import app

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
