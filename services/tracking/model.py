"""What tracking speaks of, and the rules that need nothing but their arguments."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from libs.errors import FailedPrecondition, InvalidArgument, PermissionDenied

CLOCK_SLACK = timedelta(minutes=2)
"""How far a phone's clock may be off."""
LATE_POINTS = timedelta(days=30)
"""How long after its end was recorded a trip takes points that were recorded during it."""
START_AHEAD_MAX = timedelta(days=1)
SETTLE_AFTER = timedelta(minutes=10)
REJECTED_KEPT = timedelta(days=14)
REJECTED_PER_DAY_MAX = 100_000
SPEED_KPH_MAX = 500.0
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A row of "Trip"; a field that was not asked for has its default."""

    id: uuid.UUID
    lesson_id: uuid.UUID | None = None
    lesson_verified: bool = False
    instructor_id: uuid.UUID | None = None
    vehicle_id: uuid.UUID | None = None
    started_at: datetime = EPOCH
    ended_at: datetime | None = None
    end_recorded_at: datetime | None = None
    status: str = "open"
    version: int = 0
    point_count: int | None = None
    distance_meters: float | None = None
    duration_seconds: int | None = None
    moving_seconds: int | None = None
    max_speed_kph: float | None = None
    avg_speed_kph: float | None = None
    min_lat: float | None = None
    min_lng: float | None = None
    max_lat: float | None = None
    max_lng: float | None = None
    route: str | None = None
    points_hash: bytes | None = None
    legal_hold: bool = False
    points_dropped_at: datetime | None = None
    created_at: datetime = EPOCH

    def window(self, now: datetime) -> Window:
        """The times that its stored points have; an open one's reach two minutes ahead.

        Readers add it to their queries: without an end the months to come would be read too.
        """
        end = now if self.ended_at is None else self.ended_at
        return Window(self.started_at - CLOCK_SLACK, end + CLOCK_SLACK + MICROSECOND)


@dataclass(frozen=True, slots=True)
class Window:
    """Times from `start` up to, not including, `end`."""

    start: datetime
    end: datetime

    def narrowed(self, start: datetime | None, end: datetime | None) -> Window:
        """The part of it that lies in another window; unset ends do not narrow."""
        return Window(max(self.start, start or self.start), min(self.end, end or self.end))


@dataclass(frozen=True, slots=True)
class Point:
    """A stored point."""

    ts: datetime | None = None
    lat: float | None = None
    lng: float | None = None
    speed_kph: float | None = None


@dataclass(frozen=True, slots=True)
class RejectedPoint:
    """A point that could not be stored, as it was received; fields not asked for are None."""

    id: uuid.UUID
    upload_id: uuid.UUID | None = None
    sequence: int | None = None
    index: int | None = None
    trip_id: str | None = None
    reason: str | None = None
    time_seconds: int | None = None
    time_nanos: int | None = None
    lat: float | None = None
    lng: float | None = None
    speed_kph: float | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """How far an upload is stored."""

    gateway: str
    epoch: int
    durable_through: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Partition:
    """A month of points: from `start` up to, not including, `end`."""

    name: str
    start: datetime
    end: datetime
    row_estimate: int
    size_bytes: int
    detaching: bool


def month(moment: datetime) -> datetime:
    """The first moment of its UTC month."""
    moment = moment.astimezone(UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def next_month(moment: datetime, count: int = 1) -> datetime:
    """The first moment of the UTC month `count` months later (earlier when negative)."""
    start = month(moment)
    months = start.year * 12 + start.month - 1 + count
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def months(start: datetime, end: datetime) -> list[datetime]:
    """The months that hold the times from start to end, both included."""
    found = [month(start)]
    while (following := next_month(found[-1])) <= end:
        found.append(following)
    return found


def check_start(
    started_at: datetime, now: datetime, retention_months: int, may_import: bool
) -> None:
    """Refuse a start that is too far ahead, or too old for the caller."""
    if started_at > now + START_AHEAD_MAX:
        raise InvalidArgument(
            "START_TIME_OUT_OF_RANGE",
            "A trip starts at most a day ahead.",
            fields=[("start_time", "more than a day ahead")],
        )
    if started_at.year < 2000:
        raise InvalidArgument(
            "START_TIME_OUT_OF_RANGE",
            "A trip starts in 2000 or later.",
            fields=[("start_time", "before 2000")],
        )
    if started_at < next_month(now, -retention_months) and not may_import:
        raise PermissionDenied(
            "SCOPE_MISSING",
            "A start before the retention period needs the scope tracking:import.",
            metadata={"scope": "tracking:import"},
        )


def check_partition_start(start: datetime, now: datetime) -> None:
    """Refuse to make months of before 2000 or of the future alone."""
    if start.year < 2000 or start > now:
        raise InvalidArgument(
            "FROM_MONTH_OUT_OF_RANGE",
            "Months are made from 2000 on, and from this one at the latest.",
            fields=[("from_month", "before 2000, or in the future")],
        )


def check_end(trip: Trip, ended_at: datetime, now: datetime) -> None:
    """Refuse an end before the start or in the future."""
    if ended_at < trip.started_at or ended_at > now + CLOCK_SLACK:
        raise InvalidArgument(
            "END_TIME_OUT_OF_RANGE",
            "A trip ends after its start and not in the future.",
            fields=[("end_time", "before the start, or in the future")],
        )


def already_ended() -> FailedPrecondition:
    """The trip was ended with another time."""
    return FailedPrecondition("TRIP_ENDED", "The trip has ended at another time.")


def no_partition(moment: datetime) -> FailedPrecondition:
    """The month of a trip has no partition."""
    return FailedPrecondition(
        "NO_PARTITION",
        "The month has no partition: an operator makes it with EnsurePartitions.",
        metadata={"month": f"{moment:%Y-%m}"},
    )
