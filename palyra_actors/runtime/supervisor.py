"""What becomes of an actor that failed: again, later, or not any more. Pure; time is an argument.

    running ──failure──▶ waiting ──back-off over──▶ running
                            │
                            └── more than `restarts_max` within the window ──▶ given up

The back-off doubles from failure to failure and is forgotten once an actor has kept out of
trouble for a whole window.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often, how soon. Milliseconds and seconds as the names say."""

    backoff_ms: int = 10
    backoff_ms_max: int = 5_000
    restarts_max: int = 5
    window_s: float = 60.0


GIVE_UP: Final = None


class Restarts:
    """One actor's record of failures."""

    __slots__ = ("_failures", "_policy")

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures: deque[float] = deque()

    def after_failure(self, now: float) -> float | None:
        """Seconds to wait before the next start, or `GIVE_UP`. `now` is monotonic."""
        policy, failures = self._policy, self._failures
        while failures and now - failures[0] > policy.window_s:
            failures.popleft()
        failures.append(now)
        if len(failures) > policy.restarts_max:
            return GIVE_UP
        backoff_ms = policy.backoff_ms << (len(failures) - 1)
        return min(backoff_ms, policy.backoff_ms_max) / 1000

    @property
    def failures(self) -> int:
        """Failures within the window, as of the last one."""
        return len(self._failures)
