"""An engine behind a real door: one for a whole file, or one for a test that stops it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import House, Wire, house


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One engine for all tests of a file: they tell their sessions apart by new ids."""
    with house(tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.fixture
def wire(shared_house: House) -> Iterator[Wire]:
    """A connection to the file's engine."""
    with Wire(shared_house.endpoint) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path) -> Iterator[House]:
    """An engine for this test alone, with an empty journal."""
    with house(tmp_path) as opened:
        yield opened
