"""A whole booking as statements return it: {columns} of the queries files, and back."""

from __future__ import annotations

from typing import Any

from services.booking.model.bookings import Booking, Place

COLUMNS = (
    "id",
    '"studentId"',
    '"instructorId"',
    '"serviceId"',
    '"vehicleId"',
    '"startAt"',
    '"endAt"',
    '"bufferBeforeMin"',
    '"bufferAfterMin"',
    "status",
    '"holdExpiresAt"',
    '"priceCents"',
    '"platformFeeCents"',
    '"instructorShareCents"',
    "currency::text",
    '"pickupAddress"',
    '"pickupLat"::float8',
    '"pickupLng"::float8',
    '"dropoffAddress"',
    '"dropoffLat"::float8',
    '"dropoffLng"::float8',
    "notes",
    '"cancelReason"',
    '"cancelledAt"',
    '"refundCents"',
    '"rescheduleCount"',
    '"originalStartAt"',
    '"seriesId"',
    "version",
    '"createdAt"',
    '"updatedAt"',
)


def booking(row: tuple[Any, ...]) -> Booking:
    """The booking of a row with these columns."""
    return Booking(
        id=row[0],
        student_id=row[1],
        instructor_id=row[2],
        service_id=row[3],
        vehicle_id=row[4],
        start_at=row[5],
        end_at=row[6],
        buffer_before_min=row[7],
        buffer_after_min=row[8],
        status=row[9],
        hold_expires_at=row[10],
        price_cents=row[11],
        platform_fee_cents=row[12],
        instructor_share_cents=row[13],
        currency=row[14],
        pickup=Place(*row[15:18]),
        dropoff=Place(*row[18:21]),
        notes=row[21],
        cancel_reason=row[22],
        cancelled_at=row[23],
        refund_cents=row[24],
        reschedule_count=row[25],
        original_start_at=row[26],
        series_id=row[27],
        version=row[28],
        created_at=row[29],
        updated_at=row[30],
    )
