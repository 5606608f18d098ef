"""A fortnight of lessons in every state that the future can have, and one that has begun."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1.booking_pb2_grpc import BookingServiceStub
from libs.client import Connection
from libs.local.demo.school import NOTICE_MINUTES, ZONE, School, set_notice, working_day

DAYS = 14
STARTS_IN = timedelta(minutes=2)
REQUESTED_EVERY = 5  # the others are confirmed
DAY_TIMES = ((0, 9), (1, 10), (0, 11), (1, 14))
"""Instructor and hour of lessons on working days."""
NIGHT_OWL = 2
OWL_TIMES = (8, 13)
OWL_TODAY = (8, 11, 14, 17, 20)
HOLD_HOUR, SERIES_HOUR, MOVED_HOUR = 13, 16, 18


@dataclass(frozen=True, slots=True)
class _Plan:
    """Wanted bookings of one school."""

    school: School

    def bookings(self, now: datetime) -> Iterator[pb.Booking]:
        """Those of today that are more than two hours away, then those of a fortnight."""
        for index, hour in enumerate(OWL_TODAY, start=1):
            start = _at(self.school.today, hour)
            if start > now + timedelta(hours=2):
                yield self.booking(self.school.today, index, NIGHT_OWL, start)
        for ahead in range(1, DAYS + 1):
            day = self.school.today + timedelta(days=ahead)
            if day != self.school.closed:
                yield from self._day(day)

    def _day(self, day: date) -> Iterator[pb.Booking]:
        times = [(NIGHT_OWL, hour) for hour in OWL_TIMES]
        if working_day(day) == day:
            times += DAY_TIMES
        for index, (instructor, hour) in enumerate(times):
            yield self.booking(day, index, instructor, _at(day, hour))

    def booking(self, day: date, index: int, instructor: int, start: datetime) -> pb.Booking:
        """The lesson of a day's student `index` of eight; each has one a day."""
        school = self.school
        return pb.Booking(
            student_id=self.student(day, index),
            instructor_id=school.instructors[instructor].id,
            service_id=(school.long_lesson if instructor == 1 else school.lesson).id,
            vehicle_id=school.vehicles[instructor].id if instructor < NIGHT_OWL else "",
            start_time=stamp(start),
        )

    def student(self, day: date, index: int) -> str:
        return self.school.students[(day.toordinal() + index) % len(self.school.students)].id


async def book(connection: Connection, school: School, now: datetime) -> pb.Lesson:
    """All of them; returns the lesson under way."""
    stub, plan = connection.bookings, _Plan(school)
    lesson = await _begin(stub, plan, now)
    request = pb.BatchCreateBookingsRequest(bookings=plan.bookings(now))
    placed = (await stub.BatchCreateBookings(request)).bookings
    wanted = [each for number, each in enumerate(placed) if number % REQUESTED_EVERY]
    confirmed = await asyncio.gather(*[_confirm(stub, each) for each in wanted])
    first = working_day(school.today + timedelta(days=1))
    await _hold(stub, plan, first)
    await _cancel_and_move(stub, plan, list(confirmed))
    await _series(stub, plan)
    await _wait(stub, plan)
    await set_notice(connection.directory, NOTICE_MINUTES)
    return lesson


async def refresh_figures(operator: BookingServiceStub) -> None:
    """Compute all instructors' figures."""
    await operator.RefreshInstructorStats(pb.RefreshInstructorStatsRequest())


async def _begin(stub: BookingServiceStub, plan: _Plan, now: datetime) -> pb.Lesson:
    """A lesson that starts in a moment has begun."""
    start = (now + STARTS_IN).replace(second=0, microsecond=0)
    wanted = plan.booking(plan.school.today, 0, NIGHT_OWL, start)
    wanted.notes = "Parking"
    wanted.pickup.address = "1 Macquarie St, Sydney"
    request = pb.CreateBookingRequest(booking=wanted, request_id=str(uuid.uuid4()))
    booking = await _confirm(stub, await stub.CreateBooking(request))
    return await stub.StartLesson(pb.StartLessonRequest(booking_id=booking.id))


async def _confirm(stub: BookingServiceStub, booking: pb.Booking) -> pb.Booking:
    return await stub.ConfirmBooking(pb.ConfirmBookingRequest(booking_id=booking.id))


async def _hold(stub: BookingServiceStub, plan: _Plan, day: date) -> None:
    """A slot that was searched for and is held, as before a payment."""
    start = _at(day, HOLD_HOUR)
    found = await stub.SearchSlots(
        pb.SearchSlotsRequest(
            service_id=plan.school.lesson.id,
            instructor_id=plan.school.instructors[0].id,
            start_time=stamp(start),
            end_time=stamp(start + timedelta(hours=1)),
        )
    )
    await stub.HoldSlot(
        pb.HoldSlotRequest(
            slot_token=found.slots[0].slot_token,
            student_id=plan.student(day, 6),
            request_id=str(uuid.uuid4()),
        )
    )


async def _cancel_and_move(
    stub: BookingServiceStub, plan: _Plan, confirmed: list[pb.Booking]
) -> None:
    """Of the lessons that the first instructor gives, one is called off and one is moved."""
    mine = [each for each in confirmed if each.instructor_id == plan.school.instructors[0].id]
    called_off, moved = mine[-1], mine[-2]
    await stub.CancelBooking(pb.CancelBookingRequest(booking_id=called_off.id, reason="Ill"))
    day = moved.start_time.ToDatetime(UTC).astimezone(ZONE).date()
    await stub.RescheduleBooking(
        pb.RescheduleBookingRequest(
            booking_id=moved.id, start_time=stamp(_at(day, MOVED_HOUR)), reason="Works until four"
        )
    )


async def _series(stub: BookingServiceStub, plan: _Plan) -> None:
    """Six weeks less the one that is closed."""
    day = plan.school.closed - timedelta(days=7)
    first = plan.booking(day, 7, 0, _at(day, SERIES_HOUR))
    first.student_id = plan.student(day, 7)
    await stub.CreateBookingSeries(
        pb.CreateBookingSeriesRequest(first=first, weeks=6, on_conflict=pb.ON_CONFLICT_SKIP)
    )


async def _wait(stub: BookingServiceStub, plan: _Plan) -> None:
    """Somebody waits for the day that is closed."""
    day = plan.school.closed
    entry = pb.WaitlistEntry(
        student_id=plan.student(day, 0),
        service_id=plan.school.lesson.id,
        start_time=stamp(_at(day, 0)),
        end_time=stamp(_at(day, 22)),
    )
    await stub.JoinWaitlist(pb.JoinWaitlistRequest(waitlist_entry=entry))


def stamp(moment: datetime) -> Timestamp:
    """A time as the contracts write it."""
    written = Timestamp()
    written.FromDatetime(moment)
    return written


def _at(day: date, hour: int) -> datetime:
    """The moment at which the school's clock reads that hour."""
    return datetime.combine(day, time(hour), ZONE).astimezone(UTC)
