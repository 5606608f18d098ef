"""Bookings: their life, what they cost and what a cancellation gives back. No I/O."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.errors import Aborted, FailedPrecondition, InvalidArgument

WAITING = ("held", "requested")
"""Statuses that end by themselves at hold_expires_at."""

# From each status, those that may follow. SQL checks the old one once more where it changes it.
TRANSITIONS: dict[str, frozenset[str]] = {
    "held": frozenset({"confirmed", "cancelled", "expired"}),
    "requested": frozenset({"confirmed", "cancelled", "expired"}),
    "confirmed": frozenset({"in_progress", "cancelled", "no_show"}),
    "in_progress": frozenset({"completed"}),
    "expired": frozenset({"confirmed"}),
    "completed": frozenset(),
    "cancelled": frozenset(),
    "no_show": frozenset(),
}
START_EARLY_MAX = timedelta(hours=1)
"""A lesson may begin so long before its start."""


@dataclass(frozen=True, slots=True)
class Place:
    """An address, and its coordinates when they are known."""

    address: str = ""
    lat: float | None = None
    lng: float | None = None


NO_PLACE = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A lesson in the calendar, whole. Money in minor units of `currency`."""

    id: uuid.UUID
    student_id: uuid.UUID
    instructor_id: uuid.UUID
    service_id: uuid.UUID
    vehicle_id: uuid.UUID | None
    start_at: datetime
    end_at: datetime
    buffer_before_min: int
    buffer_after_min: int
    status: str
    hold_expires_at: datetime | None
    price_cents: int
    platform_fee_cents: int
    instructor_share_cents: int
    currency: str
    pickup: Place
    dropoff: Place
    notes: str
    cancel_reason: str
    cancelled_at: datetime | None
    refund_cents: int
    reschedule_count: int
    original_start_at: datetime | None
    series_id: uuid.UUID | None
    version: int
    created_at: datetime
    updated_at: datetime

    def check_etag(self, etag: str) -> None:
        """Raise Aborted when the caller has seen another version."""
        if etag and etag != str(self.version):
            raise etag_mismatch()

    def check_transition(self, to: str) -> None:
        """Raise FailedPrecondition unless the booking may become `to`."""
        if to not in TRANSITIONS[self.status]:
            raise invalid_transition(self.status, to)

    def check_confirmable(self, now: datetime) -> None:
        """Raise FailedPrecondition unless it may be confirmed in the slot that it keeps."""
        self.check_not_overdue(now)
        if self.status == "expired":
            raise hold_expired()
        self.check_transition("confirmed")

    def check_start(self, now: datetime) -> None:
        """Raise FailedPrecondition unless its lesson may begin now."""
        self.check_transition("in_progress")
        if now < self.start_at - START_EARLY_MAX:
            raise FailedPrecondition("LESSON_TOO_EARLY", "The lesson starts in more than an hour.")

    def check_no_show(self, now: datetime, grace_minutes: int) -> None:
        """Raise FailedPrecondition unless the student has been waited for long enough."""
        self.check_transition("no_show")
        if now < self.start_at + timedelta(minutes=grace_minutes):
            raise FailedPrecondition(
                "GRACE_NOT_OVER", f"Wait for {grace_minutes} minutes after the start."
            )

    def quote_cancellation(self, policy: CancellationPolicy, now: datetime) -> CancellationQuote:
        """What cancelling it now gives back; raises FailedPrecondition when it can't be."""
        self.check_transition("cancelled")
        if self.status in WAITING:
            # Nothing was paid.
            return CancellationQuote(0, self.currency, 0, None)
        percent = policy.refund_percent(self.start_at - now)
        refund_cents = percent_of(self.price_cents, percent)
        less_from = policy.less_from(self.start_at, now)
        return CancellationQuote(refund_cents, self.currency, percent, less_from)

    def check_not_overdue(self, now: datetime) -> None:
        """Raise FailedPrecondition when it waits and its time to be confirmed is over."""
        if self._is_overdue(now):
            raise hold_expired()

    def has_lapsed(self, now: datetime) -> bool:
        """Whether it was not confirmed in time, be it marked so already or not."""
        return self.status == "expired" or self._is_overdue(now)

    def _is_overdue(self, now: datetime) -> bool:
        over = self.hold_expires_at is not None and self.hold_expires_at <= now
        return over and self.status in WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A lesson that began."""

    id: uuid.UUID
    booking_id: uuid.UUID
    student_id: uuid.UUID
    instructor_id: uuid.UUID
    booking_status: str
    started_at: datetime
    ended_at: datetime | None
    rating: int | None
    notes: str
    distance_meters: float
    trip_id: uuid.UUID | None
    created_at: datetime
    drive_started_at: datetime | None
    drive_ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class CancellationQuote:
    """What a cancellation gives back, in minor units, and until when."""

    refund_cents: int
    currency: str
    refund_percent: int
    valid_until: datetime | None
    """From then on it is less; None when it can't get less."""


@dataclass(frozen=True, slots=True)
class CancellationPolicy:
    """What a cancellation gives back, by the time that is left before the start."""

    full_refund_hours: int
    partial_refund_hours: int
    partial_refund_percent: int

    def refund_percent(self, left: timedelta) -> int:
        """Share of the price, 0 to 100."""
        if left >= timedelta(hours=self.full_refund_hours):
            return 100
        if left >= timedelta(hours=self.partial_refund_hours):
            return self.partial_refund_percent
        return 0

    def less_from(self, start_at: datetime, now: datetime) -> datetime | None:
        """The moment behind which it gives less than at `now`; None when it can't."""
        steps = (
            start_at - timedelta(hours=self.full_refund_hours),
            start_at - timedelta(hours=self.partial_refund_hours),
        )
        current = self.refund_percent(start_at - now)
        tick = timedelta(microseconds=1)
        for step in steps:
            if step >= now and self.refund_percent(start_at - step - tick) < current:
                return step
        return None


def percent_of(cents: int, percent: int) -> int:
    """Whole minor units, half rounded up."""
    return (cents * percent + 50) // 100


def split(price_cents: int, fee_bps: int) -> tuple[int, int]:
    """The platform's fee and the instructor's share; together the price."""
    fee = (price_cents * fee_bps + 5_000) // 10_000
    return fee, price_cents - fee


def hold_expired() -> FailedPrecondition:
    return FailedPrecondition("HOLD_EXPIRED", "The booking was not confirmed in time.")


def invalid_transition(status: str, to: str) -> FailedPrecondition:
    return FailedPrecondition(
        "INVALID_TRANSITION",
        f"The booking is {status.replace('_', ' ')}; it can't become {to.replace('_', ' ')}.",
        metadata={"status": status, "to": to},
    )


def etag_mismatch() -> Aborted:
    return Aborted("ETAG_MISMATCH", "Someone else changed it: read it again and decide anew.")


def end_before_start(field: str = "end_time") -> InvalidArgument:
    return InvalidArgument(
        "END_BEFORE_START",
        "The end is not after the start.",
        fields=[(field, "is not after the start")],
    )
