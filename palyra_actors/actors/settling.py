"""What follows once a group is durable: its entities hear of it, its requests are answered, it is
published and its times are measured. Whatever of that fails, the next group comes.
"""

import logging
from collections.abc import Callable

from palyra_actors.actors.answers import answer
from palyra_actors.actors.group import Group
from palyra_actors.actors.steering import Judged, Measured, Times
from palyra_actors.runtime.dispatcher import Loop

log = logging.getLogger(__name__)


class Settling:
    """On the loop's thread. `published` gets each durable group, `measured` its times.

    Attributes:
        answered: called when a group's answers are queued: who waits need not wait for the rest.
        groups, events, events_max, late: counts since the start.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        budget_ms: int,
        published: Callable[[Group], None],
        measured: Callable[[Measured | Judged], None],
    ) -> None:
        self.answered: Callable[[], None] = _nothing
        self.groups = self.events = self.events_max = self.late = 0
        self._loop = loop
        self._budget_ms = budget_ms
        self._published = published
        self._measured = measured
        self._ended_at, self._slept_s = loop.clock.monotonic(), loop.slept_s  # of the group before

    def waited(self, seconds: float) -> None:
        """The loop's thread was waiting so long, and not at work, though it did not sleep."""
        self._slept_s -= seconds

    def settle(self, group: Group, ended: float) -> None:
        """It is durable since then. Raises what making its answers does."""
        events = len(group.batch.events)
        self.groups += 1
        self.events += events
        self.events_max = max(self.events_max, events)
        self._tell_entities(group)
        answers = answer(group, ended, self._budget_ms)
        self.late += answers.late
        try:
            self.answered()
        except BaseException:
            log.exception("the answers to a group could not be sent at once")
        group.forget_units()
        self._publish(group)
        try:
            arrived = answers.arrived
            came = min(arrived, default=ended)
            busy_s, earlier_s = self._busy_s(ended, came)
            times = Times(
                group.began, group.staged, ended, events, group.load, busy_s, len(arrived),
                answers.pressed, answers.slowest_ms / 1000, earlier_s, came,
            )  # fmt: skip
            self._measured(Measured(times, arrived))
        except BaseException:
            log.exception("a group could not be measured")

    def judged(self, load: int, came: float) -> None:
        """So much of a group, the first of which came then, had nothing to be written."""
        now = self._loop.clock.monotonic()
        busy_s, earlier_s = self._busy_s(now, came)
        self._measured(Judged(Times(now, now, now, 0, load, busy_s, 0, 0, 0.0, earlier_s, came)))

    def make_known(self, group: Group) -> None:
        """It is durable, but its requests were told that nobody knows."""
        for unit in group.units:
            unit.settle()
        self._tell_entities(group)
        group.forget_units()
        self._publish(group)

    def doubt(self, group: Group) -> None:
        """Nobody knows whether it is durable. Who reads the file may see it, though."""
        for portion in group.told:
            portion.entity.doubted(portion)

    def _busy_s(self, ended: float, came: float) -> tuple[float, float]:
        """How long the loop has worked since the group before, as far as it did not sleep: since
        the first of a group's requests `came`, and before, when none of it was for them."""
        slept_s = self._loop.slept_s
        worked_s = ended - self._ended_at - (slept_s - self._slept_s)
        self._ended_at, self._slept_s = ended, slept_s
        busy_s = min(worked_s, ended - came)
        return busy_s, worked_s - busy_s

    def _tell_entities(self, group: Group) -> None:
        """Those of commands hear that they are durable, before anybody else does."""
        for portion in group.told:
            try:
                portion.entity.written(portion)
            except BaseException:
                log.exception("an entity could not take note of what was written")

    def _publish(self, group: Group) -> None:
        try:
            self._published(group)
        except BaseException:
            log.exception("a group could not be published")


def _nothing() -> None:
    """Nobody waits for answers."""
