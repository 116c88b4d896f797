"""Which local times a cron expression names, found month by month.

What an expression says of a month's days follows from the month's length and the weekday that it
begins with: there are 28 of those, each of which cronsim is asked about once. So the way from one
time to the next that is years away (29 February, if it is a Sunday) is a few lookups and no walk
through the days between.
"""

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator, Sequence
from datetime import MAXYEAR, date, datetime
from functools import lru_cache

from cronsim import CronSim

YEARS_WITHOUT_MAX = 50
"""An expression that names no time for longer names none any more, as with cronsim."""


class Expression:
    """Five fields, read. `minutes` and `hours` are sorted.

    Raises:
        CronSimError, ValueError, RecursionError: they cannot be read.
    """

    __slots__ = ("_days", "_months", "_sim", "hours", "minutes")

    def __init__(self, text: str) -> None:
        self._sim = sim = CronSim(text, datetime(1970, 1, 1))
        self.minutes = sorted(sim.minutes)
        self.hours = sorted(sim.hours)
        self._months = sorted(sim.months)
        self._days: dict[tuple[int, int], Sequence[int]] = {}

    def days(self, year: int, month: int) -> Sequence[int]:
        """The days of a month that it names, in order."""
        if month not in self._months:
            return ()
        like = monthrange(year, month)
        found = self._days.get(like)
        if found is None:
            names = self._sim.match_day
            found = [day for day in range(1, like[1] + 1) if names(date(year, month, day))]
            self._days[like] = found
        return found

    def after(self, wall: datetime) -> Iterator[datetime]:
        """All times after one, in order; up to the year 9999, or 50 years without any."""
        yield from self._of_the_day(wall)
        last_year, today = wall.year, wall.date()
        for year in range(wall.year, MAXYEAR + 1):
            if year > last_year + YEARS_WITHOUT_MAX:
                return
            for month in self._months:
                if (year, month) < (today.year, today.month):
                    continue
                for day in self.days(year, month):
                    if date(year, month, day) > today:
                        last_year = year
                        for hour in self.hours:
                            for minute in self.minutes:
                                yield datetime(year, month, day, hour, minute)

    def _of_the_day(self, wall: datetime) -> Iterator[datetime]:
        """What is left of the day itself."""
        if wall.day not in self.days(wall.year, wall.month):
            return
        midnight = datetime(wall.year, wall.month, wall.day)
        for hour in self.hours[bisect_left(self.hours, wall.hour) :]:
            first = bisect_right(self.minutes, wall.minute) if hour == wall.hour else 0
            for minute in self.minutes[first:]:
                yield midnight.replace(hour=hour, minute=minute)


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    """The expression; kept, because many jobs have the same. Raises as `Expression` does."""
    return Expression(text)
