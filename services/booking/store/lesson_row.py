"""A whole lesson as statements return it."""

from __future__ import annotations

from typing import Any

from services.booking.model.bookings import Lesson


def lesson(row: tuple[Any, ...]) -> Lesson:
    """The lesson of a row; the status of its booking is its fifth value."""
    return Lesson(
        id=row[0],
        booking_id=row[1],
        student_id=row[2],
        instructor_id=row[3],
        booking_status=row[4],
        started_at=row[5],
        ended_at=row[6],
        rating=row[7],
        notes=row[8],
        distance_meters=row[9],
        trip_id=row[10],
        created_at=row[11],
        drive_started_at=row[12],
        drive_ended_at=row[13],
    )
