"""Instructors' figures as messages."""

from __future__ import annotations

from driveflow.booking.v1 import booking_pb2 as pb
from libs.messages import stamp
from services.booking.store.stats import InstructorStats


def instructor_stats(row: InstructorStats) -> pb.InstructorStats:
    """An instructor's figures; the mean is unset without ratings."""
    return pb.InstructorStats(
        instructor_id=str(row.instructor_id),
        display_name=row.display_name,
        total_bookings=row.total_bookings,
        completed_bookings=row.completed_bookings,
        avg_rating=row.avg_rating,
        total_earnings_cents=row.total_earnings_cents,
        currency=row.currency,
        refresh_time=stamp(row.refreshed_at),
    )
