"""Wall clocks: what a school's zone reads when, on the days the clocks change too.

SQL gets a zone as periods of one offset each, so that hours on the wall clock become moments by
adding and cutting alone: a missing hour has no moments, a doubled one has them twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
OFFSET_MAX = timedelta(hours=26)
"""No wall clock is further from UTC."""


@dataclass(frozen=True, slots=True)
class Period:
    """A time, half-open, in which the zone's clock is `offset_s` ahead of UTC."""

    start: datetime
    end: datetime
    offset_s: int

    @property
    def offset(self) -> timedelta:
        return timedelta(seconds=self.offset_s)


def periods(zone: str, start: datetime, end: datetime) -> list[Period]:
    """The periods that cover [start, end), earliest first."""
    found = []
    while start < end:
        change = min(_next_change(zone, start), end)
        found.append(Period(start, change, _offset_s(zone, start)))
        start = change
    return found


def day(zone: str, of: date) -> tuple[datetime, datetime]:
    """The first moment of a local day and of the next: 23, 24 or 25 hours, rarely others."""
    return _first_moment(zone, of), _first_moment(zone, of + DAY)


def today(zone: str, now: datetime) -> date:
    """The date on the school's calendar."""
    return local(zone, now).date()


def local(zone: str, moment: datetime) -> datetime:
    """What the wall clock reads; `fold` is 1 in the second of two equal hours."""
    return moment.astimezone(ZoneInfo(zone))


def moment(zone: str, wall: datetime, fold: int = 0) -> datetime | None:
    """When the wall clock reads `wall` (naive); None when it never does."""
    found = wall.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)
    return found if local(zone, found).replace(tzinfo=None, fold=0) == wall else None


def _first_moment(zone: str, of: date) -> datetime:
    midnight = datetime.combine(of, time(), UTC)
    for period in periods(zone, midnight - OFFSET_MAX, midnight + OFFSET_MAX):
        begins = max(period.start, midnight - period.offset)
        if begins < period.end:
            return begins
    raise AssertionError("no clock is further from UTC")


def _offset_s(zone: str, at: datetime) -> int:
    offset = local(zone, at).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _next_change(zone: str, after: datetime) -> datetime:
    """The next moment at which the offset is another; looks a year and a day ahead at most."""
    hour = after.replace(minute=0, second=0, microsecond=0)
    return _next_change_from(zone, hour.replace(hour=0), after)


def _next_change_from(zone: str, midnight: datetime, after: datetime) -> datetime:
    for change in _changes(zone, midnight):
        if change > after:
            return change
    return after + timedelta(days=366)


@lru_cache(maxsize=4_096)
def _changes(zone: str, midnight: datetime) -> tuple[datetime, ...]:
    """The changes within a year from a UTC midnight on."""
    found = []
    for place in range(367):
        start, end = midnight + place * DAY, midnight + (place + 1) * DAY
        if _offset_s(zone, start) != _offset_s(zone, end):
            found.append(_bisected(zone, start, end))
    return tuple(found)


def _bisected(zone: str, start: datetime, end: datetime) -> datetime:
    """The first whole second in (start, end] with the offset of `end`."""
    wanted = _offset_s(zone, end)
    while end - start > SECOND:
        middle = start + timedelta(seconds=int((end - start).total_seconds()) // 2)
        if _offset_s(zone, middle) == wanted:
            end = middle
        else:
            start = middle
    return end
