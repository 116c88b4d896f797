"""Long work in slices leaves others the disk: it waits for checkpoints, which come at once."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from palyra_actors.actors import checkpointer
from palyra_actors.actors.checkpointer import Checkpoints
from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.slices import UNMOVED_FRAMES_MAX, do_slice
from palyra_actors.storage.port import WriteSide
from tests.system.harness import DEADLINE_S


class Desk:
    """As much of a counter as a slice needs; chores and calls are done where they are asked for."""

    def __init__(self, unmoved: int) -> None:
        self.loop = SimpleNamespace(
            clock=SimpleNamespace(monotonic=lambda: 0.0), call_soon=lambda call: call()
        )
        self.room = SimpleNamespace(ask=lambda slice_: slice_(), took=lambda seconds: None)
        self.urged: list[Callable[[], None]] = []
        self.urge_checkpoint = self.urged.append
        self._storage = SimpleNamespace(unmoved_frames=lambda: unmoved)

    def chore(self, work: Callable[[WriteSide], None]) -> None:
        work(self._storage)


@pytest.mark.parametrize("more", [0, 1])
def test_what_leaves_much_for_a_checkpoint_waits_for_one(more: int) -> None:
    desk, heard = Desk(UNMOVED_FRAMES_MAX + more), list[Any]()
    counter: Counter = desk  # type: ignore[assignment]
    do_slice(counter, lambda _: 7, lambda result, _: heard.append(result))
    assert (heard, len(desk.urged)) == (([], 1) if more else ([7], 0))
    for done in desk.urged:
        done()
    assert heard == [7]


class Steps:
    def crowded(self) -> bool:
        return False

    def step(self, *, force: bool = False) -> Any:
        return SimpleNamespace(wants_finish=True, over_limit=False) if force else None

    def close(self) -> None:
        """There is nothing to close."""


def test_a_checkpoint_that_somebody_waits_for_comes_at_once_and_is_told_of_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpointer, "LOOK_S", 10 * DEADLINE_S)
    order, done = list[str](), threading.Event()

    def stepped(wants_finish: bool, over_limit: bool) -> None:
        assert (wants_finish, over_limit) == (True, False)
        order.append("stepped")

    def urged() -> None:
        order.append("urged")
        done.set()

    checkpoints = Checkpoints(Steps, stepped)
    checkpoints.start()
    checkpoints.urge(urged)
    assert done.wait(DEADLINE_S)
    assert order == ["stepped", "urged"]
    assert checkpoints.stop(DEADLINE_S)


def test_a_wal_over_its_cap_is_looked_at_again_though_nothing_becomes_due() -> None:
    """Writes are refused until it is not, so it does not grow meanwhile."""
    heard: list[bool] = []

    class Outgrown(Steps):
        def step(self, *, force: bool = False) -> Any:
            first = not heard
            return SimpleNamespace(wants_finish=False, over_limit=first) if first or force else None

    checkpoints = Checkpoints(Outgrown, lambda _, over_limit: heard.append(over_limit))
    for _ in range(3):
        checkpoints.look(0.0)
    assert heard == [True, False]


@pytest.mark.parametrize("crowded", [False, True])
def test_a_wal_that_is_half_full_is_not_put_off(crowded: bool) -> None:
    stepped: list[bool] = []

    class Full(Steps):
        def crowded(self) -> bool:
            return crowded

        def step(self, *, force: bool = False) -> Any:
            stepped.append(force)

    may = [True, False]
    checkpoints = Checkpoints(Full, lambda *_: None, lambda: may.pop(0))
    checkpoints.look(0.0)
    checkpoints.look(0.0)
    assert len(stepped) == 1 + crowded
