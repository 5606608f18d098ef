"""Revenue by day, week or month of a school's wall clock. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from libs.errors import InvalidArgument

BUCKETS_MAX = 1_100
DAYS = {"day": 1, "week": 7, "month": 0}
MONTHS = {"day": 0, "week": 0, "month": 1}
TICK = timedelta(microseconds=1)
YEARS = range(1900, 9000)
"""Beyond them some zone can't tell the time."""
LONGEST = {"day": 1, "week": 7, "month": 31}


@dataclass(frozen=True, slots=True)
class Bucket:
    """What came in and went back, in minor units."""

    start_at: datetime
    payments: int
    captured_cents: int
    refunded_cents: int
    fee_cents: int
    """The platform's share, less what refunds gave back of it."""

    @property
    def net_cents(self) -> int:
        """What stays with the school."""
        return self.captured_cents - self.refunded_cents - self.fee_cents


def total(buckets: Sequence[Bucket], from_at: datetime) -> Bucket:
    """The sum of buckets, of a range that starts then."""
    return Bucket(
        from_at,
        sum(each.payments for each in buckets),
        sum(each.captured_cents for each in buckets),
        sum(each.refunded_cents for each in buckets),
        sum(each.fee_cents for each in buckets),
    )


def first_moment(day: date, zone: str) -> datetime:
    """When a day begins on the wall clock; of two midnights the first, of none the next moment."""
    return datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC)


def check_length(from_at: datetime, to_at: datetime, bucket: str, zone: str) -> None:
    """Raise InvalidArgument REPORT_TOO_LONG for more than 1,100 buckets, the cut ones included;
    INVALID_VALUE for times before 1900 or behind 8999.
    """
    if not YEARS.start <= from_at.year <= to_at.year < YEARS.stop:
        raise InvalidArgument(
            "INVALID_VALUE", "No time of a school.", fields=[("range", "no time of a school")]
        )
    # So far apart they are too many in any zone.
    if (to_at - from_at).days > BUCKETS_MAX * LONGEST[bucket]:
        raise _too_long()
    first, last = _local(from_at, zone), _local(to_at - TICK, zone)
    if _place(last, bucket) - _place(first, bucket) >= BUCKETS_MAX:
        raise _too_long()


def _local(moment: datetime, zone: str) -> date:
    return moment.astimezone(ZoneInfo(zone)).date()


def _place(day: date, bucket: str) -> int:
    """Which of all days, weeks or months it is."""
    if bucket == "month":
        return day.year * 12 + day.month
    # The first day of the calendar, 0001-01-01, is a Monday, and its number is 1.
    return (day.toordinal() - 1) // DAYS[bucket]


def _too_long() -> InvalidArgument:
    return InvalidArgument(
        "REPORT_TOO_LONG",
        "More than 1,100 buckets.",
        fields=[("range", "more than 1,100 buckets")],
    )
