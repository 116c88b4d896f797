"""What is done to engines here is on purpose: their complaints are not worth a line."""

import logging
from collections.abc import Iterator

import pytest

from palyra_actors.testing.sim.life import quiet


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("palyra_actors")
    level = logger.level
    quiet()
    yield
    logger.setLevel(level)
