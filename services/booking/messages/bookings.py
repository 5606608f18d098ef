"""Bookings and lessons as messages."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from google.protobuf.descriptor import Descriptor

from driveflow.booking.v1 import booking_pb2 as pb
from libs import wire
from libs.messages import stamp, text
from services.booking.model.bookings import Booking, CancellationQuote, Lesson, Place

MASKS_MAX = 1_000
"""So many masks are remembered."""
STATUSES: dict[str, pb.BookingStatus.ValueType] = {
    name.removeprefix("BOOKING_STATUS_").lower(): number
    for name, number in pb.BookingStatus.items()
    if number
}
STATUS_NAMES = {number: name for name, number in STATUSES.items()}
"""What a filter asks for; UNSPECIFIED is not in it."""


def booking(row: Booking) -> pb.Booking:
    """A whole booking, without names."""
    return pb.Booking(
        id=str(row.id),
        student_id=str(row.student_id),
        instructor_id=str(row.instructor_id),
        service_id=str(row.service_id),
        vehicle_id=text(row.vehicle_id),
        start_time=stamp(row.start_at),
        end_time=stamp(row.end_at),
        status=STATUSES[row.status],
        hold_expire_time=stamp(row.hold_expires_at),
        buffer_before_minutes=row.buffer_before_min,
        buffer_after_minutes=row.buffer_after_min,
        price_cents=row.price_cents,
        platform_fee_cents=row.platform_fee_cents,
        instructor_share_cents=row.instructor_share_cents,
        currency=row.currency,
        pickup=place(row.pickup),
        dropoff=place(row.dropoff),
        notes=row.notes,
        cancel_reason=row.cancel_reason,
        cancel_time=stamp(row.cancelled_at),
        refund_cents=row.refund_cents,
        reschedule_count=row.reschedule_count,
        original_start_time=stamp(row.original_start_at),
        series_id=text(row.series_id),
        etag=str(row.version),
        create_time=stamp(row.created_at),
        update_time=stamp(row.updated_at),
    )


def place(row: Place) -> pb.Place | None:
    """A place; None when nothing is known of it."""
    if row == Place():
        return None
    return pb.Place(address=row.address, lat=row.lat, lng=row.lng)


@lru_cache(MASKS_MAX)
def writer(paths: tuple[str, ...]) -> wire.Write:
    """What writes a Booking of a row with the columns of `paths`, and maybe more."""
    return wire.writer(pb.Booking.DESCRIPTOR, paths, {"status": STATUSES})


def listed(of: Descriptor, paths: tuple[str, ...], rows: Iterable[wire.Row]) -> str:
    """The field `bookings` of a response: one of each row."""
    return wire.repeated(wire.field(of, "bookings"), map(writer(paths), rows))


def quote(row: CancellationQuote) -> pb.CancellationQuote:
    """What cancelling now would give back."""
    return pb.CancellationQuote(
        refund_cents=row.refund_cents,
        currency=row.currency,
        refund_percent=row.refund_percent,
        valid_until=stamp(row.valid_until),
    )


def lesson(row: Lesson) -> pb.Lesson:
    """A lesson that began."""
    return pb.Lesson(
        id=str(row.id),
        booking_id=str(row.booking_id),
        student_id=str(row.student_id),
        instructor_id=str(row.instructor_id),
        booking_status=STATUSES[row.booking_status],
        start_time=stamp(row.started_at),
        end_time=stamp(row.ended_at),
        rating=row.rating or 0,
        notes=row.notes,
        distance_meters=row.distance_meters,
        trip_id=text(row.trip_id),
        create_time=stamp(row.created_at),
        drive_start_time=stamp(row.drive_started_at),
        drive_end_time=stamp(row.drive_ended_at),
    )
