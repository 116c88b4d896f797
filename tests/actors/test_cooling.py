"""Heads are put in their place after many have moved, a slice after the other."""

from types import SimpleNamespace
from typing import Any

from palyra_actors.actors.clerks.cooling import LOOK_AFTER, ROWS_FIRST, WARM_MAX, Cooling
from palyra_actors.errors import PalyraError, StorageUnavailable


class Desk:
    """As much of a counter as it needs. `left`: what the storage says each time."""

    def __init__(self, left: list[int | PalyraError]) -> None:
        self.asked: list[tuple[int, int]] = []
        self.loop = SimpleNamespace(
            clock=SimpleNamespace(monotonic=lambda: 0.0), call_soon=lambda call: call()
        )
        self.slices: list[Any] = []
        self.room = SimpleNamespace(ask=self.slices.append, took=lambda seconds: None)
        self._left = left

    def chore(self, work: Any) -> None:
        work(SimpleNamespace(cool=self._cool, unmoved_frames=lambda: 0))

    def _cool(self, warm_max: int, rows_max: int) -> int:
        self.asked.append((warm_max, rows_max))
        left = self._left.pop(0)
        if isinstance(left, PalyraError):
            raise left
        return left

    def do_slices(self) -> None:
        while self.slices:
            self.slices.pop(0)()


def cooling(desk: Any) -> Cooling:
    return Cooling(desk)


def test_it_is_looked_after_many_heads_have_moved_and_gone_on_until_none_is_left() -> None:
    desk = Desk([9, 5, 0, 0])
    made = cooling(desk)
    made.moved(LOOK_AFTER - 1)
    assert desk.slices == []
    made.moved(1)
    made.moved(LOOK_AFTER - 1)  # while the first slice waits for its turn
    assert len(desk.slices) == 1
    desk.do_slices()
    assert desk.asked == [
        (WARM_MAX, ROWS_FIRST), (WARM_MAX, 2 * ROWS_FIRST), (WARM_MAX, 4 * ROWS_FIRST)
    ]  # fmt: skip
    made.moved(1)
    desk.do_slices()
    assert len(desk.asked) == 4


def test_where_it_cannot_be_done_it_is_tried_after_as_many_more() -> None:
    desk = Desk([StorageUnavailable("the disk is full"), 0])
    made = cooling(desk)
    made.moved(LOOK_AFTER)
    desk.do_slices()
    made.moved(LOOK_AFTER - 1)
    desk.do_slices()
    assert len(desk.asked) == 1
    made.moved(1)
    desk.do_slices()
    assert len(desk.asked) == 2
