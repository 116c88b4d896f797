"""The back-off, as a table."""

import pytest

from palyra_actors.runtime.supervisor import GIVE_UP, RestartPolicy, Restarts


def test_the_back_off_doubles_up_to_its_cap_and_then_nobody_tries_again() -> None:
    policy = RestartPolicy(backoff_ms=10, backoff_ms_max=50, restarts_max=5, window_s=60.0)
    restarts = Restarts(policy)
    waits = [restarts.after_failure(100.0 + n) for n in range(7)]
    assert waits == [0.010, 0.020, 0.040, 0.050, 0.050, GIVE_UP, GIVE_UP]
    assert restarts.failures == 7


@pytest.mark.parametrize(("apart_s", "first_again"), [(59.9, False), (60.0, False), (60.1, True)])
def test_a_failure_is_forgotten_after_a_window_without_trouble(
    apart_s: float, first_again: bool
) -> None:
    restarts = Restarts(RestartPolicy(backoff_ms=10, window_s=60.0))
    restarts.after_failure(0.0)
    assert restarts.after_failure(apart_s) == (0.010 if first_again else 0.020)


def test_who_was_given_up_may_start_again_once_the_window_is_over() -> None:
    restarts = Restarts(RestartPolicy(backoff_ms=10, restarts_max=2, window_s=10.0))
    assert [restarts.after_failure(float(n)) for n in range(3)] == [0.010, 0.020, GIVE_UP]
    assert restarts.after_failure(20.0) == 0.010


def test_a_policy_without_restarts_gives_up_at_once() -> None:
    assert Restarts(RestartPolicy(restarts_max=0)).after_failure(1.0) is GIVE_UP


def test_a_long_row_of_failures_within_one_window_never_exceeds_the_cap() -> None:
    restarts = Restarts(RestartPolicy(backoff_ms=1, backoff_ms_max=5_000, restarts_max=1000))
    waits = [restarts.after_failure(n * 0.001) for n in range(1000)]
    assert max(wait for wait in waits if wait is not None) == 5.0
