"""When a job is due. Pure: instants in, instants out, in milliseconds since 1970 UTC.

    Cron    five fields in a time zone, as Debian's cron reads them (cronsim)
    Every   a grid of `every_ms`, anchored where the schedule was set: no drift
    At      once

An *instant* is what a schedule names; with a jitter the tick of an instant is *due* a little later.
How much later follows from job and instant alone, and stays below the way to the next instant, so
that jitter neither skips a tick nor turns two around.

Daylight saving, as Debian's cron has it: where neither minute nor hour begins with `*`, a time
inside the spring gap is due right after it, and one in the repeated hour is due once, the first
time round. Where one of them does, the local clock is followed: the gap has none of its times, the
repeated hour has all of them twice.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import sha256
from itertools import islice, takewhile
from typing import Any, Final, NamedTuple, TypeAlias, assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSimError

from palyra_actors.domain.expression import expression
from palyra_actors.errors import Invalid
from palyra_actors.limits import (
    CRON_EVERY_MS_MAX,
    CRON_EVERY_MS_MIN,
    CRON_EXPRESSION_BYTES_MAX,
    CRON_TIME_MS_MAX,
)

FIELDS: Final = 5
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WALL: Final = datetime(1970, 1, 1)
"""As a clock on the wall shows it."""

_MS: Final = timedelta(milliseconds=1)
_MACHINES_OWN: Final = frozenset({"localtime", "posixrules", "Factory"})
"""Names of zone files that say nothing, or another thing on every machine."""

_NO_NAMES: Final = ("right/", "posix/")
"""Folders that some machines have beside the IANA names. The first counts leap seconds, of which
the clock here knows nothing: its times are wrong."""

DAY_MS: Final = 86_400_000


class Cron(NamedTuple):
    expression: str
    tz: str


class Every(NamedTuple):
    every_ms: int


class At(NamedTuple):
    at_ms: int


Schedule: TypeAlias = Cron | Every | At


class Span(NamedTuple):
    """The instants of a stretch of time: how many, and the last of them."""

    ticks: int
    last_ms: int


class Occurrence(NamedTuple):
    """An instant as a person reads it: local time (ISO 8601), and how far that is from UTC."""

    at_ms: int
    local: str
    offset_minutes: int


def read(raw: Mapping[str, Any], field: str = "schedule") -> Schedule:
    """The schedule that a map says: `{cron, tz?}`, `{every_ms}` or `{at_ms}`.

    Raises:
        Invalid: it says none, more than one, or one that is never due; `field` names the place.
    """
    said = {name: value for name, value in raw.items() if value is not None}
    kinds = [name for name in ("cron", "every_ms", "at_ms") if name in said]
    if len(kinds) != 1:
        raise Invalid(
            "a schedule is one of cron, every_ms and at_ms",
            field=field,
            hint='{"cron": "*/5 * * * *", "tz": "UTC"}, {"every_ms": 60000} or {"at_ms": …}',
        )
    if "tz" in said and "cron" not in said:
        raise Invalid("only a cron schedule has a tz", field=f"{field}.tz")
    if "every_ms" in said:
        return Every(_number(said, "every_ms", CRON_EVERY_MS_MIN, CRON_EVERY_MS_MAX, field))
    if "at_ms" in said:
        return At(_number(said, "at_ms", 0, CRON_TIME_MS_MAX, field))
    cron = Cron(said["cron"], said.get("tz", "UTC"))
    _check_cron(cron, field)
    return cron


def _number(said: Mapping[str, Any], name: str, low: int, high: int, field: str) -> int:
    value = int(said[name])
    if not low <= value <= high:
        raise Invalid(f"{name} lies in {low}..{high}", field=f"{field}.{name}")
    return value


def _check_cron(cron: Cron, field: str) -> None:
    if len(cron.expression.encode()) > CRON_EXPRESSION_BYTES_MAX:
        raise Invalid(
            f"a cron expression takes at most {CRON_EXPRESSION_BYTES_MAX} bytes",
            field=f"{field}.cron",
        )
    if len(cron.expression.split()) != FIELDS:
        raise Invalid(
            "a cron expression has five fields",
            field=f"{field}.cron",
            hint="minute, hour, day of the month, month, day of the week",
        )
    try:
        if cron.tz.startswith(_NO_NAMES):
            raise ValueError(cron.tz)
        zone(cron.tz)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(
            f"{cron.tz[:64]!r} is no time zone",
            field=f"{field}.tz",
            hint="a name of the IANA database: Europe/Prague, America/New_York, UTC",
        ) from error
    try:
        first = next(_ticks(cron, 0), None)
    except (CronSimError, ValueError, RecursionError) as error:
        raise Invalid(
            f"a cron expression cannot be read: {str(error)[:100].lower()}",
            field=f"{field}.cron",
            hint="minute, hour, day of the month, month, day of the week, as crontab(5) has them",
        ) from error
    if first is None:
        raise Invalid("this schedule is never due", field=f"{field}.cron")


def view(schedule: Schedule) -> dict[str, Any]:
    """The schedule as a map."""
    match schedule:
        case Cron():
            return {"cron": schedule.expression, "tz": schedule.tz}
        case Every():
            return {"every_ms": schedule.every_ms}
        case At():
            return {"at_ms": schedule.at_ms}
        case _:
            assert_never(schedule)


def known(raw: Mapping[str, Any]) -> Schedule:
    """The schedule of a map that `view` made."""
    if "every_ms" in raw:
        return Every(raw["every_ms"])
    return At(raw["at_ms"]) if "at_ms" in raw else Cron(raw["cron"], raw["tz"])


def uncomputable(error: Exception) -> Invalid:
    """What to say of a schedule that could be computed when it was set."""
    return Invalid(
        f"the job's schedule cannot be computed any more: {type(error).__name__}: "
        f"{str(error)[:100]}",
        field="schedule",
        hint="give the job another one, or the machine its time zones",
    )


# -- instants -------------------------------------------------------------------------------------


def next_after(schedule: Schedule, anchor_ms: int, after_ms: int) -> int | None:
    """The first instant after a time; None: there is none any more."""
    match schedule:
        case Cron():
            return _next_tick(schedule, after_ms)
        case Every(every_ms):
            number = max(0, (after_ms - anchor_ms) // every_ms) + 1
            instant = anchor_ms + number * every_ms
            return instant if instant <= CRON_TIME_MS_MAX else None
        case At(at_ms):
            return at_ms if at_ms > after_ms else None
        case _:
            assert_never(schedule)


def span(schedule: Schedule, anchor_ms: int, first_ms: int, upto_ms: int) -> Span:
    """The instants from one on (`first_ms`, which is one) up to a time, which may be among them."""
    match schedule:
        case Cron():
            return _cron_span(schedule, first_ms, upto_ms)
        case Every(every_ms):
            count = (upto_ms - first_ms) // every_ms + 1
            return Span(count, first_ms + (count - 1) * every_ms)
        case At():
            return Span(1, first_ms)
        case _:
            assert_never(schedule)


def last_before(schedule: Schedule, anchor_ms: int, first_ms: int, before_ms: int) -> int:
    """The last instant before a time; `first_ms` is one, and lies before it."""
    match schedule:
        case Cron():
            return _last(schedule, first_ms, before_ms - 1)
        case Every(every_ms):
            return first_ms + (before_ms - 1 - first_ms) // every_ms * every_ms
        case At():
            return first_ms
        case _:
            assert_never(schedule)


def jitter_of(job_id: bytes, instant_ms: int, jitter_ms: int, gap_ms: int | None) -> int:
    """How much later than its instant a tick is due, 0..`jitter_ms`, always the same for the two.

    `gap_ms`: the way to the next instant, below which it stays; None: there is none.
    """
    room = jitter_ms + 1 if gap_ms is None else min(jitter_ms + 1, gap_ms)
    if room <= 1:
        return 0
    digest = sha256(job_id + instant_ms.to_bytes(8, "big", signed=True)).digest()
    return int.from_bytes(digest[:8], "big") % room


def explain(schedule: Schedule, anchor_ms: int, after_ms: int, count: int) -> Iterator[Occurrence]:
    """The next instants after a time, at most so many, as they are read in the schedule's zone."""
    where = zone(schedule.tz) if isinstance(schedule, Cron) else UTC
    for instant in islice(_instants(schedule, anchor_ms, after_ms), count):
        local = (_EPOCH + instant * _MS).astimezone(where)
        offset = local.utcoffset() or timedelta()
        text = local.isoformat(timespec="milliseconds" if instant % 1000 else "seconds")
        yield Occurrence(instant, text, int(offset.total_seconds() // 60))


def _instants(schedule: Schedule, anchor_ms: int, after_ms: int) -> Iterator[int]:
    """All instants after a time, in order. Those of a cron schedule are found in one go, and put
    none out of memory that jobs ask for."""
    if isinstance(schedule, Cron):
        yield from _ticks(schedule, after_ms)
        return
    instant = next_after(schedule, anchor_ms, after_ms)
    while instant is not None:
        yield instant
        instant = next_after(schedule, anchor_ms, instant)


# -- cron -----------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def zone(name: str) -> tzinfo:
    """Raises ZoneInfoNotFoundError, ValueError, OSError: there is none of that name."""
    if name == "UTC":
        return UTC
    if name in _MACHINES_OWN:
        raise ValueError(name)
    return ZoneInfo(name)


@lru_cache(maxsize=4096)
def _next_tick(cron: Cron, after_ms: int) -> int | None:
    """Kept, because many jobs have the same expression, and each asks again at the same instants:
    to compute one takes longer than all else that a tick takes."""
    return next(_ticks(cron, after_ms), None)


def _ticks(cron: Cron, after_ms: int) -> Iterator[int]:
    """Every instant after a time, in order.

    The expression names the times that a clock on the wall shows; what daylight saving makes of
    them is said here (cronsim's arithmetic in a zone goes by hours, and loses its way where clocks
    are set by half of one, or at midnight).
    """
    where = zone(cron.tz)
    follows = any(field.startswith("*") for field in cron.expression.split()[:2])
    before = after_ms
    try:
        walls = expression(cron.expression).after(_wall(where, after_ms))
        for instant in _mapped(walls, where, follows):
            if instant > CRON_TIME_MS_MAX:
                return
            if instant > before:
                before = instant
                yield instant
    except OverflowError:  # the year 10000, there
        return


def _wall(where: tzinfo, after_ms: int) -> datetime:
    """What the clock on the wall shows, set back to before the repeated hour if that is still to
    be repeated."""
    local = (_EPOCH + max(after_ms, 0) * _MS).astimezone(where)
    earlier, later = _offsets(local.replace(tzinfo=None), where)
    wall = local.replace(tzinfo=None, fold=0)
    return wall - max(earlier - later, timedelta()) if not local.fold else wall


def _offsets(wall: datetime, where: tzinfo) -> tuple[timedelta, timedelta]:
    """How far from UTC a local time is the first time that it comes, and the last. The second is
    less in an hour that is repeated, and more in one that is skipped."""
    offsets = [wall.replace(tzinfo=where, fold=fold).utcoffset() for fold in (0, 1)]
    assert offsets[0] is not None
    assert offsets[1] is not None
    return offsets[0], offsets[1]


def _mapped(walls: Iterable[datetime], where: tzinfo, follows: bool) -> Iterator[int]:
    """The instants of local times, in order but for those that fall together. `follows`: the clock
    is followed, whatever becomes of it."""
    repeated: list[int] = []  # what comes the second time round, when the first is over
    for wall in walls:
        earlier, later = _offsets(wall, where)
        since = wall - _EPOCH_WALL
        if earlier <= later:
            yield from repeated
            repeated.clear()
        if earlier >= later:
            yield (since - earlier) // _MS
        elif not follows:
            yield _end_of_gap(since, earlier, later, where)
        if earlier > later and follows:
            repeated.append((since - later) // _MS)
    yield from repeated


def _end_of_gap(since: timedelta, earlier: timedelta, later: timedelta, where: tzinfo) -> int:
    """The instant at which the clock is set forward, over that local time."""
    second = timedelta(seconds=1)
    seconds = range((since - later) // second, (since - earlier) // second + 1)

    def is_set(at: int) -> bool:
        return (_EPOCH + at * second).astimezone(where).utcoffset() == later

    return seconds[bisect_left(seconds, True, key=is_set)] * 1000


def _last(cron: Cron, first_ms: int, upto_ms: int) -> int:
    """The last instant of a stretch that begins with one: the end of it is looked at first."""
    look_ms = 60_000
    while upto_ms - look_ms > first_ms:
        last = None
        for instant in _ticks(cron, upto_ms - look_ms):
            if instant > upto_ms:
                break
            last = instant
        if last is not None:
            return last
        look_ms *= 4
    last = first_ms
    for instant in _ticks(cron, first_ms):
        if instant > upto_ms:
            break
        last = instant
    return last


def _cron_span(cron: Cron, first_ms: int, upto_ms: int) -> Span:
    """Jobs that were missed together ask for the same but for some seconds at the end, in which
    there is one instant at most."""
    minute = max(first_ms, upto_ms - upto_ms % 60_000)
    found = _span_of_minutes(cron, first_ms, minute)
    following = _next_tick(cron, minute)
    if following is None or following > upto_ms:
        return found
    return Span(found.ticks + 1, following)


@lru_cache(maxsize=1024)
def _span_of_minutes(cron: Cron, first_ms: int, upto_ms: int) -> Span:
    """Day by day: walked through are those alone on which the clock is set."""
    where = zone(cron.tz)
    day, last_day = ((_EPOCH + ms * _MS).astimezone(where).date() for ms in (first_ms, upto_ms))
    named = expression(cron.expression)
    minutes = [60 * hour + minute for hour in named.hours for minute in named.minutes]
    before = _start_of(day, where)
    odd = before - _start_of(day - timedelta(1), where) != DAY_MS
    count = 0
    while day <= last_day:
        ends = day == date.max
        after = before + DAY_MS if ends else _start_of(day + timedelta(1), where)
        was_odd, odd = odd, after - before != DAY_MS
        low, high = max(before, first_ms), min(after - 1, upto_ms)
        if was_odd or odd:  # the clock was set, and what that does may reach into the next day
            count += _walk(cron, low - 1, high)
        elif day.day in named.days(day.year, day.month):
            count += bisect_right(minutes, (high - before) // 60_000)
            count -= bisect_right(minutes, (low - 1 - before) // 60_000)
        if ends:
            break
        day, before = day + timedelta(1), after
    return Span(count, _last(cron, first_ms, upto_ms))


def _walk(cron: Cron, after_ms: int, upto_ms: int) -> int:
    """How many instants there are after a time and up to another one."""
    return sum(1 for _ in takewhile(upto_ms.__ge__, _ticks(cron, after_ms)))


def _start_of(day: date, where: tzinfo) -> int:
    midnight = datetime(day.year, day.month, day.day, tzinfo=where)
    return (midnight.astimezone(UTC) - _EPOCH) // _MS
