"""When jobs are due: held against tables that were written from the rules, and against counting."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.domain import schedule as times
from palyra_actors.domain.schedule import At, Cron, Every
from palyra_actors.errors import Invalid

DAY_MS = 86_400_000
JOB = bytes(range(16))


def ms(text: str) -> int:
    """An instant of ISO 8601 text with an offset."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def day_of(zone: str, day: str) -> tuple[int, int]:
    """The bounds of a local day: from its first instant, up to the next day's."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    bounds = [one.astimezone(UTC).timestamp() for one in (start, start + timedelta(days=1))]
    return int(bounds[0] * 1000), int(bounds[1] * 1000)


def listed(
    schedule: times.Schedule, after_ms: int, before_ms: int, anchor_ms: int = 0
) -> list[int]:
    found = []
    instant: int | None = after_ms
    while (instant := times.next_after(schedule, anchor_ms, instant)) is not None:  # type: ignore[arg-type]
        if instant >= before_ms:
            break
        found.append(instant)
    return found


# Zone, day, expression, and the day's instants as the rules have them: what begins with `*` follows
# the local clock; what does not is due once, right after the gap if it lies in one. Prague and New
# York move by an hour, Lord Howe by half of one, Havana and Cairo at midnight.
DST: list[tuple[str, str, str, list[str]]] = [
    ("Europe/Prague", "2026-03-29", "30 1 * * *", ["01:30+01:00"]),
    ("Europe/Prague", "2026-03-29", "30 2 * * *", ["03:00+02:00"]),
    ("Europe/Prague", "2026-03-29", "0,15,30 2 * * *", ["03:00+02:00"]),
    ("Europe/Prague", "2026-03-29", "30 2,3 * * *", ["03:00+02:00", "03:30+02:00"]),
    ("Europe/Prague", "2026-03-29", "0 3 * * *", ["03:00+02:00"]),
    ("Europe/Prague", "2026-03-29", "*/30 2 * * *", []),
    (
        "Europe/Prague", "2026-03-29", "*/30 1-3 * * *",
        ["01:00+01:00", "01:30+01:00", "03:00+02:00", "03:30+02:00"],
    ),
    ("Europe/Prague", "2026-10-25", "30 2 * * *", ["02:30+02:00"]),
    ("Europe/Prague", "2026-10-25", "0 2 * * *", ["02:00+02:00"]),
    ("Europe/Prague", "2026-10-25", "0 3 * * *", ["03:00+01:00"]),
    ("Europe/Prague", "2026-10-25", "0,30 2,3 * * *",
     ["02:00+02:00", "02:30+02:00", "03:00+01:00", "03:30+01:00"]),
    (
        "Europe/Prague", "2026-10-25", "*/30 2 * * *",
        ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00"],
    ),
    ("America/New_York", "2026-03-08", "15 2 * * *", ["03:00-04:00"]),
    ("America/New_York", "2026-03-08", "59 1 * * *", ["01:59-05:00"]),
    ("America/New_York", "2026-03-08", "*/20 2 * * *", []),
    ("America/New_York", "2026-11-01", "15 1 * * *", ["01:15-04:00"]),
    ("America/New_York", "2026-11-01", "0 2 * * *", ["02:00-05:00"]),
    (
        "America/New_York", "2026-11-01", "*/20 1 * * *",
        ["01:00-04:00", "01:20-04:00", "01:40-04:00", "01:00-05:00", "01:20-05:00", "01:40-05:00"],
    ),
    ("Australia/Lord_Howe", "2026-10-04", "15 2 * * *", ["02:30+11:00"]),
    ("Australia/Lord_Howe", "2026-10-04", "45 2 * * *", ["02:45+11:00"]),
    ("Australia/Lord_Howe", "2026-10-04", "*/15 2 * * *", ["02:30+11:00", "02:45+11:00"]),
    ("Australia/Lord_Howe", "2026-04-05", "45 1 * * *", ["01:45+11:00"]),
    ("Australia/Lord_Howe", "2026-04-05", "15 1 * * *", ["01:15+11:00"]),
    (
        "Australia/Lord_Howe", "2026-04-05", "*/15 1 * * *",
        ["01:00+11:00", "01:15+11:00", "01:30+11:00", "01:45+11:00", "01:30+10:30", "01:45+10:30"],
    ),
    ("Australia/Lord_Howe", "2026-04-05", "30 * * * *",
     [*[f"{hour:02}:30+11:00" for hour in (0, 1)], *[f"{h:02}:30+10:30" for h in range(1, 24)]]),
    ("Australia/Lord_Howe", "2026-04-05", "*/30 23 * * *", ["23:00+10:30", "23:30+10:30"]),
    ("Australia/Lord_Howe", "2026-10-04", "*/30 23 * * *", ["23:00+11:00", "23:30+11:00"]),
    ("America/Havana", "2026-03-08", "0 0 * * *", ["01:00-04:00"]),
    ("America/Havana", "2026-03-08", "*/30 0 * * *", []),
    ("America/Havana", "2026-03-08", "*/30 1 * * SUN", ["01:00-04:00", "01:30-04:00"]),
    ("America/Havana", "2026-11-01", "30 0 * * *", ["00:30-04:00"]),
    ("Africa/Cairo", "2026-10-29", "30 23 * * *", ["23:30+03:00"]),
    ("Africa/Cairo", "2026-10-29", "*/30 23 29 * *",
     ["23:00+03:00", "23:30+03:00", "23:00+02:00", "23:30+02:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "day", "expression", "wanted"), DST)
def test_both_days_on_which_the_clock_is_set_have_the_instants_of_the_rules(
    zone: str, day: str, expression: str, wanted: list[str]
) -> None:
    start, end = day_of(zone, day)
    found = listed(Cron(expression, zone), start - 1, end)
    assert found == [ms(f"{day}T{one}") for one in wanted]


@pytest.mark.parametrize(("zone", "day"), sorted({row[:2] for row in DST}))
def test_an_hour_of_every_minute_has_an_instant_for_each_minute_that_there_is(
    zone: str, day: str
) -> None:
    start, end = day_of(zone, day)
    assert listed(Cron("* * * * *", zone), start - 1, end) == list(range(start, end, 60_000))


@pytest.mark.parametrize(("zone", "day", "expression", "wanted"), DST)
def test_the_next_instant_is_the_same_wherever_the_search_begins(
    zone: str, day: str, expression: str, wanted: list[str]
) -> None:
    """A restart in the middle of the repeated hour runs nothing again and forgets nothing."""
    start, end = day_of(zone, day)
    instants = [ms(f"{day}T{one}") for one in wanted]
    schedule = Cron(expression, zone)
    for after in range(start - 1, end, 300_000):
        following = [one for one in instants if one > after]
        found = times.next_after(schedule, 0, after)
        assert found is not None
        if following:
            assert found == following[0]
        else:
            assert found >= end


def numbers(field: str, low: int, high: int) -> set[int]:
    """The numbers that a field of a crontab names: lists, ranges, steps."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        start = low if first == "*" else int(first)
        stop = int(last) if last else high if first == "*" else start
        found |= set(range(start, stop + 1, int(step or 1)))
    return found


def minute_by_minute(expression: str, zone: str, start: int, end: int) -> list[int]:
    """What crontab(5) and the rules for daylight saving make of every minute of a stretch, by
    looking at the clock on the wall each time."""
    minute, hour, day, month, weekday = expression.split()
    minutes, hours = numbers(minute, 0, 59), numbers(hour, 0, 23)
    days, months = numbers(day, 1, 31), numbers(month, 1, 12)
    weekdays = {number % 7 for number in numbers(weekday, 0, 7)}
    both = day.startswith("*") or weekday.startswith("*")
    follows = minute.startswith("*") or hour.startswith("*")

    def named(wall: datetime) -> bool:
        ok = wall.day in days, wall.isoweekday() % 7 in weekdays
        return (
            wall.minute in minutes and wall.hour in hours and wall.month in months
            and (all(ok) if both else any(ok))
        )  # fmt: skip

    def shown(at: int) -> datetime:
        return datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).replace(tzinfo=None)

    found: list[int] = []
    step, latest = timedelta(minutes=1), shown(start - 60_000)
    for at in range(start, end, 60_000):
        wall = shown(at)
        if follows:
            due = named(wall)
        else:  # every minute of the wall once: what was skipped, now; what comes again, no more
            passed = range(max(0, int((wall - latest) / step)))
            due = any(named(wall - number * step) for number in passed)
        latest = max(latest, wall)
        if due:
            found.append(at)
    return found


SET = {  # a minute after which the clock is set
    "America/Havana": ("2026-03-08T04:00Z", "2026-11-01T04:00Z"),
    "Africa/Cairo": ("2026-04-23T21:00Z", "2026-10-29T20:00Z"),
    "Antarctica/Troll": ("2026-03-29T00:00Z", "2026-10-25T00:00Z"),
    "Australia/Lord_Howe": ("2026-04-04T14:00Z", "2026-10-03T15:00Z"),
    "Europe/Dublin": ("2026-03-29T00:00Z", "2026-10-25T00:00Z"),
    "Pacific/Chatham": ("2026-04-04T13:00Z", "2026-09-26T13:00Z"),
}


@settings(max_examples=60, deadline=None)
@given(
    minute=st.sampled_from(["0", "30", "15,45", "59", "*/20", "*", "0-10/5"]),
    hour=st.sampled_from(["*", "*/2", "0", "1", "2", "23", "0-23", "0,2", "1-3"]),
    days=st.sampled_from(["* * *", "*/2 * *", "* * 0", "* * 7", "* 3-4 5-7", "29 * 0", "8 * */2"]),
    zone=st.sampled_from(sorted(SET)),
    autumn=st.booleans(),
)
def test_clocks_that_are_set_at_odd_hours_and_by_odd_spans_follow_the_rules_minute_by_minute(
    minute: str, hour: str, days: str, zone: str, autumn: bool
) -> None:
    middle, expression = ms(SET[zone][autumn]), f"{minute} {hour} {days}"
    start, end = middle - DAY_MS, middle + DAY_MS
    wanted = minute_by_minute(expression, zone, start, end)
    assert listed(Cron(expression, zone), start - 1, end) == wanted


def test_local_times_are_told_with_their_distance_from_utc() -> None:
    told = list(times.explain(Cron("30 2 * * *", "Europe/Prague"), 0, ms("2026-03-28T00:00Z"), 2))
    assert [one._asdict() for one in told] == [
        {
            "at_ms": ms("2026-03-28T02:30+01:00"), "local": "2026-03-28T02:30:00+01:00",
            "offset_minutes": 60,
        },
        {
            "at_ms": ms("2026-03-29T03:00+02:00"), "local": "2026-03-29T03:00:00+02:00",
            "offset_minutes": 120,
        },
    ]  # fmt: skip
    assert [one.local for one in times.explain(Every(1_500), 1_000, 1_000, 1)] == [
        "1970-01-01T00:00:02.500+00:00"
    ]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({}, "schedule"),
        ({"every_ms": 60_000, "at_ms": 5}, "schedule"),
        ({"tz": "UTC"}, "schedule"),
        ({"every_ms": 60_000, "tz": "UTC"}, "schedule.tz"),
        ({"every_ms": 0}, "schedule.every_ms"),
        ({"every_ms": -5}, "schedule.every_ms"),
        ({"every_ms": 10**15}, "schedule.every_ms"),
        ({"at_ms": -1}, "schedule.at_ms"),
        ({"at_ms": 10**15}, "schedule.at_ms"),
        ({"cron": ""}, "schedule.cron"),
        ({"cron": "* * * *"}, "schedule.cron"),
        ({"cron": "* * * * * *"}, "schedule.cron"),
        ({"cron": "@daily"}, "schedule.cron"),
        ({"cron": "60 * * * *"}, "schedule.cron"),
        ({"cron": "*/0 * * * *"}, "schedule.cron"),
        ({"cron": "5-1 * * * *"}, "schedule.cron"),
        ({"cron": "0 0 30 2 *"}, "schedule.cron"),
        ({"cron": "0 0 * * FOO"}, "schedule.cron"),
        ({"cron": "0," * 200 + "0 * * * *"}, "schedule.cron"),
        ({"cron": "* * * * *", "tz": "Europe"}, "schedule.tz"),
        ({"cron": "* * * * *", "tz": "Europe/Atlantis"}, "schedule.tz"),
        ({"cron": "* * * * *", "tz": "../../etc/passwd"}, "schedule.tz"),
        ({"cron": "* * * * *", "tz": "localtime"}, "schedule.tz"),
        ({"cron": "* * * * *", "tz": "right/Europe/Prague"}, "schedule.tz"),
        ({"cron": "* * * * *", "tz": "posix/Europe/Prague"}, "schedule.tz"),
        ({"cron": "* * * * *", "tz": ""}, "schedule.tz"),
    ],
)
def test_a_schedule_that_says_nothing_is_refused_at_its_place(
    raw: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        times.read(raw)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "raw",
    [
        {"cron": "*/5 0-7,22 1,15 JAN-MAR MON#2", "tz": "Europe/Prague"},
        {"cron": "0 0 L * *", "tz": "UTC"},
        {"cron": "0 0 29 2 *", "tz": "UTC"},
        {"every_ms": 50},
        {"at_ms": 0},
    ],
)
def test_a_schedule_comes_back_as_it_was_said(raw: dict[str, Any]) -> None:
    assert times.view(times.read(raw)) == raw
    assert times.known(raw) == times.read(raw)


def test_a_cron_expression_without_a_zone_is_in_utc() -> None:
    assert times.view(times.read({"cron": "0 7 * * *"})) == {"cron": "0 7 * * *", "tz": "UTC"}


@given(
    every_ms=st.integers(10, 10**7),
    anchor_ms=st.integers(0, 2 * 10**12),
    late=st.lists(st.integers(0, 10**8), min_size=1, max_size=8),
)
def test_an_interval_keeps_to_the_grid_of_its_anchor_however_late_its_ticks_come(
    every_ms: int, anchor_ms: int, late: list[int]
) -> None:
    now = anchor_ms
    for lateness in late:
        instant = times.next_after(Every(every_ms), anchor_ms, now)
        assert instant is not None
        assert (instant - anchor_ms) % every_ms == 0
        assert 0 < instant - now <= every_ms
        now = instant + lateness


@pytest.mark.parametrize("zone", ["UTC", "Europe/Prague", "Pacific/Kiritimati", "Pacific/Niue"])
def test_the_calendar_ends_and_nothing_breaks(zone: str) -> None:
    last = 253_402_300_799_999  # of the year 9999
    for before in (0, 3_600_000, 2 * DAY_MS):
        found = list(times.explain(Cron("*/7 * * * *", zone), 0, last - before, 3))
        assert [one.at_ms > last - before for one in found] == [True] * len(found)


def test_a_one_shot_is_due_once() -> None:
    assert times.next_after(At(1_000), 0, -1) == 1_000
    assert times.next_after(At(1_000), 0, 1_000) is None


@given(
    instants=st.lists(st.integers(0, 10**13), min_size=2, max_size=20, unique=True).map(sorted),
    jitter_ms=st.integers(0, 60_000),
)
def test_jitter_turns_no_two_ticks_around_and_is_the_same_every_time(
    instants: list[int], jitter_ms: int
) -> None:
    dues = []
    for instant, following in zip(instants, [*instants[1:], None], strict=True):
        gap = None if following is None else following - instant
        offset = times.jitter_of(JOB, instant, jitter_ms, gap)
        assert 0 <= offset <= jitter_ms
        assert offset == times.jitter_of(JOB, instant, jitter_ms, gap)
        dues.append(instant + offset)
    assert dues == sorted(set(dues))


def test_jitter_spreads_over_all_of_its_range_and_differs_between_jobs() -> None:
    offsets = [times.jitter_of(JOB, at, 999, None) for at in range(0, 10**8, 60_000)]
    assert min(offsets) < 20
    assert max(offsets) > 980
    others = [times.jitter_of(JOB[::-1], at, 999, None) for at in range(0, 10**8, 60_000)]
    assert sum(one == other for one, other in zip(offsets, others, strict=True)) < 20


ZONES = ["UTC", "Europe/Prague", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"]
FIELD = st.one_of(st.just("*"), st.sampled_from(["*/7", "3", "0,30", "10-20/5"]))


@settings(max_examples=60, deadline=None)
@given(
    minute=FIELD,
    hour=st.sampled_from(["*", "*/6", "2", "0,2,23", "1-3"]),
    days=st.sampled_from(["* * *", "1 * *", "* * SUN", "13 * FRI", "* 3,10 *", "L * *"]),
    zone=st.sampled_from(ZONES),
    start=st.integers(ms("2026-01-01T00:00Z"), ms("2026-12-31T00:00Z")),
    days_long=st.floats(0, 40),
)
def test_a_long_stretch_is_counted_as_if_tick_by_tick(  # noqa: PLR0917
    minute: str, hour: str, days: str, zone: str, start: int, days_long: float
) -> None:
    schedule = Cron(f"{minute} {hour} {days}", zone)
    first = times.next_after(schedule, 0, start)
    assert first is not None
    upto = first + int(days_long * DAY_MS)
    walked = listed(schedule, first - 1, upto + 1)
    assert times.span(schedule, 0, first, upto) == (len(walked), walked[-1])
    if len(walked) > 1:
        assert times.last_before(schedule, 0, first, walked[-1]) == walked[-2]


def test_ten_years_of_minutes_are_counted_without_walking_through_them() -> None:
    first = ms("2026-01-01T00:00+01:00")
    upto = ms("2036-01-01T00:00+01:00")
    found = times.span(Cron("* * * * *", "Europe/Prague"), 0, first, upto)
    assert found == ((upto - first) // 60_000 + 1, upto)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Prague"])
def test_a_night_of_minutes_is_counted_without_walking_through_it(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """Thousands of jobs may have missed it, and nobody else has a turn while it is counted; those
    that ask for the same are told at once."""
    named = 0
    ticks = times._ticks

    def counted(cron: Cron, after_ms: int) -> Iterator[int]:
        nonlocal named
        for instant in ticks(cron, after_ms):
            named += 1
            yield instant

    monkeypatch.setattr(times, "_ticks", counted)
    first, upto = ms("2026-11-10T18:00:00Z"), ms("2026-11-11T09:00:00Z")
    schedule = Cron("0-59 * * * *", zone)
    assert times.span(schedule, 0, first, upto + 59_000) == (15 * 60 + 1, upto)
    assert named < 10
    named = 0
    assert times.span(schedule, 0, first, upto + 1_000) == (15 * 60 + 1, upto)
    assert named == 0
    assert times.span(schedule, 0, first, first + 59_999) == (1, first)


def test_a_stretch_is_counted_up_to_the_end_of_the_calendar() -> None:
    first, upto = ms("9999-12-30T12:00:00Z"), ms("9999-12-31T23:59:59Z")
    assert times.span(Cron("0 * * * *", "UTC"), 0, first, upto) == (36, ms("9999-12-31T23:00:00Z"))
