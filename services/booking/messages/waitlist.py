"""Waitlist entries as messages."""

from __future__ import annotations

from driveflow.booking.v1 import booking_pb2 as pb
from libs.messages import stamp, text
from services.booking.model.waitlist import WaitlistEntry

STATUSES: dict[str, pb.WaitlistStatus.ValueType] = {
    "waiting": pb.WAITLIST_STATUS_WAITING,
    "offered": pb.WAITLIST_STATUS_OFFERED,
    "accepted": pb.WAITLIST_STATUS_ACCEPTED,
    "left": pb.WAITLIST_STATUS_LEFT,
    "lapsed": pb.WAITLIST_STATUS_LAPSED,
}
STATUS_NAMES = {number: name for name, number in STATUSES.items()}


def entry(row: WaitlistEntry) -> pb.WaitlistEntry:
    return pb.WaitlistEntry(
        id=str(row.id),
        student_id=str(row.student_id),
        service_id=str(row.service_id),
        instructor_id=text(row.instructor_id),
        start_time=stamp(row.start_at),
        end_time=stamp(row.end_at),
        status=STATUSES[row.status],
        booking_id=text(row.booking_id),
        create_time=stamp(row.created_at),
    )
