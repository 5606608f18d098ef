"""What becomes of wanted bookings. No I/O."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.errors import DomainError
from services.booking.model import bookings
from services.booking.model.bookings import Booking
from services.booking.model.slots import Judged, Wanted


@dataclass(frozen=True, slots=True)
class Outcome:
    """A wanted booking and what became of it: a booking, or why not."""

    start_at: datetime
    booking: Booking | None = None
    error: DomainError | None = None


@dataclass(frozen=True, slots=True)
class Parties:
    """Whose time bookings take: what is locked before it is decided."""

    instructor_ids: list[uuid.UUID]
    vehicle_ids: list[uuid.UUID]
    student_ids: list[uuid.UUID]

    @classmethod
    def of(cls, *wanted: Wanted | Booking) -> Parties:
        return cls(
            [each.instructor_id for each in wanted],
            [each.vehicle_id for each in wanted if each.vehicle_id is not None],
            [each.student_id for each in wanted],
        )


def outcome(
    wanted: Wanted, judged: Judged, status: str, now: datetime, series_id: uuid.UUID | None
) -> Outcome:
    """The booking that the facts allow, or what stands against it first."""
    error = judged.first_wrong(wanted, now)
    if error is not None:
        return Outcome(wanted.start_at, error=error)
    return Outcome(wanted.start_at, booking=new_booking(wanted, judged, status, now, series_id))


def new_booking(
    wanted: Wanted, judged: Judged, status: str, now: datetime, series_id: uuid.UUID | None
) -> Booking:
    """The booking as it is stored, at the price that was judged."""
    price_cents = judged.price_cents or 0
    fee_cents, share_cents = bookings.split(price_cents, judged.fee_bps)
    return Booking(
        id=judged.id,
        student_id=wanted.student_id,
        instructor_id=wanted.instructor_id,
        service_id=wanted.service_id,
        vehicle_id=wanted.vehicle_id,
        start_at=wanted.start_at,
        end_at=judged.end_at(wanted.start_at),
        buffer_before_min=judged.buffer_before_min,
        buffer_after_min=judged.buffer_after_min,
        status=status,
        hold_expires_at=min(now + timedelta(minutes=judged.hold_minutes), wanted.start_at),
        price_cents=price_cents,
        platform_fee_cents=fee_cents,
        instructor_share_cents=share_cents,
        currency=judged.currency,
        pickup=wanted.pickup,
        dropoff=wanted.dropoff,
        notes=wanted.notes,
        cancel_reason="",
        cancelled_at=None,
        refund_cents=0,
        reschedule_count=0,
        original_start_at=None,
        series_id=series_id,
        version=1,
        created_at=judged.at,
        updated_at=judged.at,
    )


def moved(booking: Booking, wanted: Wanted, judged: Judged) -> Booking:
    """The booking at its new place, with the buffers of today; its price stays."""
    return dataclasses.replace(
        booking,
        instructor_id=wanted.instructor_id,
        vehicle_id=wanted.vehicle_id,
        start_at=wanted.start_at,
        end_at=judged.end_at(wanted.start_at),
        buffer_before_min=judged.buffer_before_min,
        buffer_after_min=judged.buffer_after_min,
    )


def stays(booking: Booking, wanted: Wanted) -> bool:
    """Whether the booking is there already."""
    return (booking.instructor_id, booking.vehicle_id, booking.start_at) == (
        wanted.instructor_id,
        wanted.vehicle_id,
        wanted.start_at,
    )
