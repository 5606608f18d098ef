"""Bookings in each state of their life, got there by the calls that lead to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2
from tests.booking.stories import School, at, morning, request_id

NESTED = ("student", "instructor", "service", "vehicle")


async def held(
    school: School,
    start: datetime | None = None,
    *,
    instructor: directory_pb2.Instructor | None = None,
    student: directory_pb2.Student | None = None,
    vehicle: directory_pb2.Vehicle | None = None,
) -> pb.Booking:
    """A slot held, of the first instructor for the first student unless told otherwise."""
    return await school.bookings().HoldSlot(
        pb.HoldSlotRequest(
            instructor_id=(instructor or school.instructors[0]).id,
            service_id=school.lesson.id,
            start_time=at(start or morning(school)),
            student_id=(student or school.students[0]).id,
            vehicle_id=vehicle.id if vehicle else "",
            request_id=request_id(),
        )
    )


async def requested(school: School, start: datetime | None = None, **given: Any) -> pb.Booking:
    """A booking that waits for the school."""
    wanted = pb.Booking(
        instructor_id=school.instructors[0].id,
        service_id=school.lesson.id,
        start_time=at(start or morning(school)),
        student_id=school.students[0].id,
        **given,
    )
    return await school.bookings().CreateBooking(
        pb.CreateBookingRequest(booking=wanted, request_id=request_id())
    )


async def confirmed(school: School, start: datetime | None = None, **given: Any) -> pb.Booking:
    """A booking that will take place."""
    booking = await held(school, start, **given)
    return await school.bookings().ConfirmBooking(pb.ConfirmBookingRequest(booking_id=booking.id))


async def started(school: School, start: datetime | None = None, **given: Any) -> pb.Booking:
    """One whose lesson is under way; the clock stands at its start."""
    booking = await confirmed(school, start, **given)
    school.service.clock.set(moment(booking.start_time))
    await school.bookings().StartLesson(pb.StartLessonRequest(booking_id=booking.id))
    return await read(school, booking)


async def completed(school: School, start: datetime | None = None, **given: Any) -> pb.Booking:
    """One that took place; the clock stands at its end."""
    booking = await started(school, start, **given)
    school.service.clock.set(moment(booking.end_time))
    request = pb.CompleteLessonRequest(booking_id=booking.id, rating=4, notes="Parking")
    await school.bookings().CompleteLesson(request)
    return await read(school, booking)


async def cancelled(school: School, start: datetime | None = None, **given: Any) -> pb.Booking:
    """One that was called off before it was confirmed."""
    booking = await held(school, start, **given)
    return await school.bookings().CancelBooking(pb.CancelBookingRequest(booking_id=booking.id))


async def missed(school: School, start: datetime | None = None, **given: Any) -> pb.Booking:
    """One whose student did not come; the clock stands after the school's grace."""
    booking = await confirmed(school, start, **given)
    school.service.clock.set(moment(booking.start_time) + timedelta(minutes=16))
    return await school.bookings().MarkNoShow(pb.MarkNoShowRequest(booking_id=booking.id))


async def expired(school: School, start: datetime | None = None, **given: Any) -> pb.Booking:
    """One that nobody confirmed, and that is marked so."""
    booking = await held(school, start, **given)
    await school.rows(
        "UPDATE booking.\"Booking\" SET status = 'expired', version = 2 WHERE id = %s RETURNING id",
        booking.id,
    )
    return await read(school, booking)


async def read(school: School, booking: pb.Booking) -> pb.Booking:
    """The booking as it is now, past the cache."""
    request = pb.GetBookingRequest(booking_id=booking.id)
    request.read_mask.paths.extend(
        [each.name for each in pb.Booking.DESCRIPTOR.fields if each.name not in NESTED]
    )
    return await school.bookings().GetBooking(request)


def moment(stamp: Any) -> datetime:
    """A Timestamp as a datetime."""
    found: datetime = stamp.ToDatetime(UTC)
    return found
