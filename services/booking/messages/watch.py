"""Changes of bookings as messages."""

from __future__ import annotations

from driveflow.booking.v1 import booking_pb2 as pb
from libs.events import Delivered
from libs.messages import stamp, struct


def change(delivered: Delivered) -> pb.WatchBookingsResponse:
    """A change of a booking, and where to go on behind it."""
    event = delivered.event
    return pb.WatchBookingsResponse(
        resume_token=delivered.cursor,
        type=event.type,
        booking_id=str(event.aggregate_id),
        version=event.aggregate_version,
        payload=struct(event.payload),
        time=stamp(event.create_time),
    )
