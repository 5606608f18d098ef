"""What stands against a booking that is paid too late. No I/O."""

from __future__ import annotations

from datetime import datetime

from services.booking.model.bookings import Booking
from services.booking.model.slots import Judged, Wanted

CANCELLED = "CANCELLED"
IN_THE_PAST = "IN_THE_PAST"
SLOT_TAKEN = "SLOT_TAKEN"


def slot_of(booking: Booking) -> Wanted:
    """The slot that the booking had, to be judged once more."""
    return Wanted(
        student_id=booking.student_id,
        instructor_id=booking.instructor_id,
        service_id=booking.service_id,
        vehicle_id=booking.vehicle_id,
        start_at=booking.start_at,
    )


def against_retaking(booking: Booking, judged: Judged, now: datetime) -> str | None:
    """Why a booking that was not confirmed in time can't have its slot again; None when it can.

    By the rules of moving a booking, but for the school's notice: it was booked early enough.
    """
    if booking.start_at < now:
        return IN_THE_PAST
    wrong = judged.wrong(slot_of(booking), now, placed=True)
    return next((each.reason for each in wrong if each.reason != "NOTICE_TOO_SHORT"), None)
