"""Which times an expression names: held against cronsim's own walk, and how little is asked."""

from datetime import date, datetime
from itertools import islice

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from palyra_actors.domain import schedule as times
from palyra_actors.domain.expression import Expression, expression
from palyra_actors.domain.schedule import Cron

MINUTES = st.sampled_from(["*", "0", "59", "*/7", "5-20/5", "0,30,45"])
HOURS = st.sampled_from(["*", "0", "23", "*/5", "9-17", "2,3"])
DAYS = st.sampled_from(["*", "1", "29", "31", "L", "LW", "*/2", "13,30", "26-31"])
MONTHS = st.sampled_from(["*", "2", "FEB", "1,2,12", "*/5", "4,6,9,11"])
WEEKDAYS = st.sampled_from(["*", "0", "7", "SUN#5", "5L", "MON-FRI", "*/7", "2#1,4L"])
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2130, 12, 31, 23, 59, 59))


@settings(deadline=None, max_examples=300)
@given(st.tuples(MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS), MOMENTS)
def test_it_names_the_times_that_cronsim_walks_to(fields: tuple[str, ...], wall: datetime) -> None:
    text = " ".join(fields)
    try:
        walk = CronSim(text, wall)
    except CronSimError:
        assume(False)
    assert list(islice(Expression(text).after(wall), 6)) == list(islice(walk, 6))


def test_the_last_times_are_those_of_the_year_9999() -> None:
    assert list(Expression("0 12 30,31 12 *").after(datetime(9999, 12, 30, 12))) == [
        datetime(9999, 12, 31, 12)
    ]


def test_an_expression_that_names_none_for_50_years_names_none_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CronSim, "match_day", lambda self, day: False)
    assert not list(Expression("0 0 29 2 */7").after(datetime(1970, 1, 1)))


def test_times_that_are_years_apart_are_found_without_looking_at_the_days_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[date] = []
    ask = CronSim.match_day

    def match_day(self: CronSim, day: date) -> bool:
        asked.append(day)
        return ask(self, day)

    monkeypatch.setattr(CronSim, "match_day", match_day)
    expression.cache_clear()
    found = list(times.explain(Cron("0 0 29 2 */7", "Europe/Prague"), 0, 0, 100))
    assert [len(found), found[-1].local[:4]] == [100, "5024"]
    assert len(asked) <= 14 * 29  # a February of each kind, once
