"""Threads that share a processor while there is much for them to do."""

import os
import threading
from collections.abc import Iterator

import pytest

from palyra_actors.runtime.gathering import (
    APART_AFTER_S,
    LOOK_S,
    MUCH,
    Gathering,
    LinuxProcessors,
    threads_named,
)

SECOND = int(1 / LOOK_S)  # looks of one
DEADLINE_S = 20.0
NOBODY = 1 << 23  # beyond the numbers that the kernel gives


class System:
    """Processors of two threads, 7 and 8. `broken`: threads that cannot be put anywhere."""

    def __init__(self, may: set[int]) -> None:
        self.on = {7: set(may), 8: set(may)}
        self.caller = 0
        self.broken: set[int] = set()
        self.asked = 0

    def here(self) -> int:
        return self.caller

    def of(self, thread: int) -> set[int]:
        self.asked += 1
        return set(self.on[thread])

    def put(self, thread: int, processors: set[int]) -> None:
        if thread in self.broken:
            raise ProcessLookupError(3, "No such process")
        self.on[thread] = set(processors)


def gathering(system: System, *threads: int) -> Gathering:
    return Gathering(lambda: threads or (7, 8), system)


def together(made: Gathering) -> bool:
    return made.together


def work(made: Gathering, count: int, looks: int, since: float) -> float:
    """So much at each look; the time afterwards."""
    for look in range(1, looks + 1):
        made.note(count, since + look * LOOK_S * 1.001)
    return since + looks * LOOK_S * 1.001


ENOUGH = int(MUCH * LOOK_S * 1.01)


def test_they_share_the_processor_that_the_caller_does_not_use() -> None:
    for caller, other in ((0, 3), (3, 0)):
        system = System({0, 3})
        system.caller = caller
        made = gathering(system)
        work(made, ENOUGH, 2, 50.0)
        assert together(made)
        assert system.on == {7: {other}, 8: {other}}


def test_they_make_way_where_the_caller_is_put_to_them() -> None:
    system = System({0, 3})
    made = gathering(system)
    now = work(made, ENOUGH, 2, 50.0)
    assert system.on == {7: {3}, 8: {3}}
    system.caller = 3
    made.note(0, now)
    assert system.on == {7: {0}, 8: {0}}
    made.note(0, now)
    assert system.on == {7: {0}, 8: {0}}, "once"
    system.caller, system.broken = 0, {8}
    made.note(0, now)
    assert not together(made)
    assert system.on[7] == {0, 3}, "and nothing stays behind where one of them has ended"


def test_they_stay_where_they_are_as_long_as_there_is_little_to_do() -> None:
    system = System({0, 1})
    made = gathering(system)
    work(made, ENOUGH // 2, SECOND, 50.0)
    assert not together(made)
    assert system.asked == 0


def test_what_comes_after_a_long_rest_is_not_much_because_nothing_came_before_it() -> None:
    system = System({0, 1})
    made = gathering(system)
    made.note(ENOUGH, 50.0)
    made.note(ENOUGH, 90.0)
    assert not together(made)


def test_they_part_once_there_was_little_to_do_for_a_second() -> None:
    system = System({0, 1})
    made = gathering(system)
    now = work(made, ENOUGH, 2, 50.0)
    now = work(made, 0, SECOND - 1, now)
    now = work(made, ENOUGH, 1, now)
    now = work(made, 0, SECOND - 1, now)
    assert together(made), "a pause shorter than that is no reason"
    work(made, 0, 2, now)
    assert not together(made)
    assert system.on == {7: {0, 1}, 8: {0, 1}}
    work(made, ENOUGH, 2, now + 10 * APART_AFTER_S)
    assert together(made), "and once more"


@pytest.mark.parametrize("may", [{0}, {0, 1, 2}, set(range(64))])
def test_on_one_processor_or_more_than_two_the_system_knows_better(may: set[int]) -> None:
    system = System(may)
    made = gathering(system)
    work(made, ENOUGH, 3 * SECOND, 50.0)
    assert not together(made)
    assert system.on == {7: may, 8: may}
    assert system.asked == 2, "it is asked once"


def test_threads_that_cannot_be_moved_are_left_in_peace_and_the_others_put_back() -> None:
    system = System({0, 1})
    system.broken = {8}
    made = gathering(system)
    work(made, ENOUGH, 3 * SECOND, 50.0)
    assert not together(made)
    assert system.on == {7: {0, 1}, 8: {0, 1}}
    assert system.asked == 2, "it is not tried again"


def test_a_thread_that_has_ended_meanwhile_keeps_none_of_the_others() -> None:
    system = System({0, 1})
    made = gathering(system)
    now = work(made, ENOUGH, 2, 50.0)
    system.broken = {7}
    work(made, 0, 2 * SECOND, now)
    assert not together(made)
    assert system.on[8] == {0, 1}


def test_without_threads_nothing_happens() -> None:
    made = Gathering(list, System({0, 1}))
    work(made, ENOUGH, SECOND, 50.0)
    assert not together(made)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A thread that does nothing; its number."""
    leave, numbers = threading.Event(), list[int]()
    there = threading.Event()

    def sleep() -> None:
        numbers.append(threading.get_native_id())
        there.set()
        leave.wait(DEADLINE_S)

    thread = threading.Thread(target=sleep)
    thread.start()
    assert there.wait(DEADLINE_S)
    yield numbers[0]
    leave.set()
    thread.join(DEADLINE_S)


def test_the_system_itself_moves_a_thread_and_puts_it_back(sleeper: int) -> None:
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("this machine has one processor")
    two = set(sorted(mine)[:2])
    os.sched_setaffinity(sleeper, two)
    made = Gathering(lambda: [sleeper])
    now = work(made, ENOUGH, 2, 50.0)
    assert together(made)
    assert len(os.sched_getaffinity(sleeper)) == 1
    assert os.sched_getaffinity(sleeper) < two
    assert os.sched_getaffinity(0) == mine, "nobody else is moved"
    work(made, 0, 2 * SECOND, now)
    assert os.sched_getaffinity(sleeper) == two


def test_a_thread_is_found_by_its_name(sleeper: int) -> None:
    assert threads_named("no thread is called so") == []
    with open(f"/proc/self/task/{sleeper}/comm", "w", encoding="utf-8") as name:
        name.write("61999/a-sleeper")
    assert threads_named("61999/") == [sleeper]


def test_a_processor_is_one_on_which_the_caller_may_run() -> None:
    assert LinuxProcessors().here() in os.sched_getaffinity(0)


def test_a_thread_that_has_ended_is_no_error() -> None:
    made = Gathering(lambda: [NOBODY])
    work(made, ENOUGH, 2, 50.0)
    assert not together(made)
