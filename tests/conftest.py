"""What all tests share: the flag for long campaigns, the shared folder, a path, a clock."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from palyra_actors.testing.clock import ManualClock
from tests.figures import Tell

CAMPAIGN_S_MAX = 1800
"""A test of a campaign; those of the ordinary run have what pyproject.toml says."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaign",
        action="store_true",
        default=os.environ.get("PALYRA_CAMPAIGN") == "full",
        help="thousands of simulated power cuts instead of hundreds (also PALYRA_CAMPAIGN=full)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--campaign"):  # what is decided while tests are collected asks for this
        os.environ["PALYRA_CAMPAIGN"] = "full"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A campaign takes as long as the machine needs; a test that hangs still ends."""
    for item in items if config.getoption("--campaign") else ():
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(CAMPAIGN_S_MAX))


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> bool:
    """Whether the long campaigns were asked for."""
    return bool(request.config.getoption("--campaign"))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Tell:
    """Tells what was found or measured, for the page of promises."""
    return Tell(record_property)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test vectors; skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("PALYRA_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set PALYRA_SHARED")
    return folder


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where a test's database goes; nothing is there yet."""
    return tmp_path / "data" / "journal.db"


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only the test turns."""
    return ManualClock()
