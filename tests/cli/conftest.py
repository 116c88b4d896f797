"""Commands as a person would type them, in this process."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from palyra_actors.cli.app import app

Answer: TypeAlias = tuple[int, str, str]
Run: TypeAlias = Callable[..., Answer]


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
