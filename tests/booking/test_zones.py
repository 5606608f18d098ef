"""Wall clocks against brute force: zoneinfo asked moment by moment, and nothing computed."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from services.booking import zones

QUARTER = timedelta(minutes=15)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
ODD = (
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Gaza",
    "Antarctica/Troll",
    "Australia/Sydney",
    "Europe/Berlin",
    "America/New_York",
)
NAMES = some.sampled_from(ODD) | some.sampled_from(sorted(available_timezones() - {"localtime"}))
DATES = some.dates(date(2000, 1, 2), date(2099, 12, 30))


def reads(zone: str, moment: datetime) -> datetime:
    """What the wall clock reads, without a zone."""
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)


def offset(zone: str, moment: datetime) -> timedelta | None:
    return moment.astimezone(ZoneInfo(zone)).utcoffset()


def wall(text: str) -> datetime:
    """What a clock shows, without a zone."""
    return datetime.fromisoformat(text)


def noon(of: date) -> datetime:
    return datetime.combine(of, time(12), UTC)


@some.composite
def days(draw: some.DrawFn) -> tuple[str, date]:
    """A zone and a date, often one on which its clocks change or one beside it."""
    zone, of = draw(NAMES), draw(DATES)
    if draw(some.booleans()):
        near = (of + ahead * DAY for ahead in range(366))
        of = next((d for d in near if offset(zone, noon(d)) != offset(zone, noon(d + DAY))), of)
        of += draw(some.integers(0, 2)) * DAY
    return zone, min(of, date(2099, 12, 30))


def first_moment(zone: str, of: date) -> datetime:
    """The first minute that reads this date or a later one."""
    minute = noon(of) - timedelta(hours=38)
    while reads(zone, minute).date() < of:
        minute += MINUTE
    return minute


def moments(zone: str, shown: datetime) -> list[datetime]:
    """Every moment at which the wall clock reads `shown`, by each offset that is in use around."""
    near = datetime.combine(shown.date(), time(), UTC) - 2 * DAY
    offsets = {offset(zone, near + place * QUARTER) for place in range(5 * 96)}
    found = {shown.replace(tzinfo=UTC) - ahead for ahead in offsets if ahead is not None}
    return sorted(moment for moment in found if reads(zone, moment) == shown)


@given(days(), some.timedeltas(timedelta(), DAY), some.timedeltas(MINUTE, timedelta(days=63)))
def test_periods_cover_their_time_exactly_and_each_has_one_offset(
    day: tuple[str, date], into: timedelta, length: timedelta
) -> None:
    zone, start = day[0], datetime.combine(day[1] - DAY, time(), UTC) + into
    found = zones.periods(zone, start, start + length)
    assert [each.start for each in found] == [start, *(each.end for each in found[:-1])]
    assert found[-1].end == start + length
    for each in found:
        steps = range((each.end - each.start) // QUARTER + 1)
        seen = {offset(zone, each.start + place * QUARTER) for place in steps[:-1]}
        last = offset(zone, each.end - timedelta(microseconds=1))
        assert seen | {last} == {each.offset}
    assert all(one.offset != after.offset for one, after in pairwise(found))


@given(days())
@example(("Pacific/Apia", date(2011, 12, 30)))
@example(("America/Sao_Paulo", date(2018, 11, 4)))
@example(("America/St_Johns", date(2010, 11, 7)))
@example(("Australia/Lord_Howe", date(2027, 4, 4)))
def test_a_day_lasts_from_the_first_minute_of_its_date_to_that_of_the_next(
    day: tuple[str, date],
) -> None:
    zone, of = day
    assert zones.day(zone, of) == (first_moment(zone, of), first_moment(zone, of + DAY))


@given(days(), some.integers(0, 1439))
@example(("Australia/Lord_Howe", date(2027, 4, 4)), 105)
@example(("Australia/Lord_Howe", date(2027, 10, 3)), 135)
@example(("America/Sao_Paulo", date(2018, 11, 4)), 30)
@example(("Pacific/Apia", date(2011, 12, 30)), 600)
def test_a_time_of_the_wall_clock_is_each_of_its_moments_or_none(
    day: tuple[str, date], minute: int
) -> None:
    zone, shown = day[0], datetime.combine(day[1], time()) + minute * MINUTE
    expected = moments(zone, shown)
    assert [zones.moment(zone, shown, fold) for fold in (0, 1)] == (
        [expected[0], expected[-1]] if expected else [None, None]
    )


@given(days(), some.timedeltas(timedelta(), DAY))
def test_today_is_the_date_that_the_wall_clock_reads(
    day: tuple[str, date], into: timedelta
) -> None:
    zone, moment = day[0], datetime.combine(day[1], time(), UTC) + into
    assert zones.today(zone, moment) == reads(zone, moment).date()
    back = zones.moment(zone, reads(zone, moment), zones.local(zone, moment).fold)
    assert back == moment


@pytest.mark.parametrize(
    ("zone", "of", "hours"),
    [
        ("Australia/Lord_Howe", date(2027, 4, 4), 24.5),
        ("Australia/Lord_Howe", date(2027, 10, 3), 23.5),
        ("Asia/Kathmandu", date(2027, 10, 3), 24),
        ("Africa/Casablanca", date(2027, 2, 7), 25),
        ("Pacific/Apia", date(2011, 12, 30), 0),
        ("Pacific/Apia", date(2011, 12, 31), 24),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("Antarctica/Troll", date(2027, 3, 28), 22),
        ("Europe/Berlin", date(2087, 10, 26), 25),
    ],
)
def test_an_odd_day_has_as_many_hours_as_its_country_gave_it(
    zone: str, of: date, hours: float
) -> None:
    start, end = zones.day(zone, of)
    assert end - start == timedelta(hours=hours)


def test_the_day_that_samoa_left_out_is_no_time_at_all() -> None:
    assert zones.moment("Pacific/Apia", wall("2011-12-30 12:00")) is None
    start, _ = zones.day("Pacific/Apia", date(2011, 12, 30))
    assert reads("Pacific/Apia", start) == wall("2011-12-31 00:00")
    assert reads("Pacific/Apia", start - MINUTE) == wall("2011-12-29 23:59")


def test_the_midnight_that_sao_paulo_left_out_is_where_the_day_begins_an_hour_late() -> None:
    start, _ = zones.day("America/Sao_Paulo", date(2018, 11, 4))
    assert reads("America/Sao_Paulo", start) == wall("2018-11-04 01:00")
    assert zones.moment("America/Sao_Paulo", wall("2018-11-04 00:00")) is None


def test_the_half_hour_of_lord_howe_comes_twice() -> None:
    twice = wall("2027-04-04 01:45")
    first, second = (zones.moment("Australia/Lord_Howe", twice, fold) for fold in (0, 1))
    assert first is not None
    assert second == first + timedelta(minutes=30)
