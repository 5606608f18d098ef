"""BookingService: one class for each topic, with the methods that belong together."""

from __future__ import annotations

from driveflow.booking.v1 import booking_pb2_grpc
from libs.events import Events
from services.booking.servicer.audit import Audit
from services.booking.servicer.bookings import Reads
from services.booking.servicer.desk import Desk
from services.booking.servicer.lessons import Lessons
from services.booking.servicer.life import Life
from services.booking.servicer.placing import Places
from services.booking.servicer.slots import Slots
from services.booking.servicer.stats import REFRESH_S, Stats
from services.booking.servicer.waitlist import Waitlist
from services.booking.servicer.watch import Watch

LONG_CALLS_S = {"RefreshInstructorStats": REFRESH_S}


class BookingServicer(
    Slots,
    Places,
    Reads,
    Life,
    Lessons,
    Audit,
    Stats,
    Waitlist,
    Watch,
    booking_pb2_grpc.BookingServiceServicer,
):
    """The calendar: free slots, bookings and their life, lessons, figures."""

    def __init__(self, desk: Desk, events: Events) -> None:
        for topic in (Slots, Places, Reads, Life, Lessons, Audit, Stats, Waitlist):
            topic.__init__(self, desk)
        Watch.__init__(self, events)
