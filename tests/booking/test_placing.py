"""Placing: one booking for a slot, whoever asks, and a reason for everyone else."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2 as directory
from libs.client import Refusal, refusal
from tests.booking.stories import School, at, morning, reason_of, refused, request_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


def wanted(school: School, start: datetime, *, student: int = 0, **given: Any) -> pb.Booking:
    fields: dict[str, Any] = {
        "student_id": school.students[student].id,
        "instructor_id": school.instructors[0].id,
        "service_id": school.lesson.id,
        "start_time": at(start),
        **given,
    }
    return pb.Booking(**fields)


async def create(school: School, booking: pb.Booking, **given: Any) -> pb.Booking:
    request: dict[str, Any] = {"booking": booking, "request_id": request_id(), **given}
    return await school.bookings().CreateBooking(pb.CreateBookingRequest(**request))


async def book(school: School, start: datetime, **given: Any) -> pb.Booking:
    return await create(school, wanted(school, start, **given))


async def hold(school: School, start: datetime, *, student: int = 0) -> pb.Booking:
    return await school.bookings().HoldSlot(
        pb.HoldSlotRequest(
            instructor_id=school.instructors[0].id,
            service_id=school.lesson.id,
            start_time=at(start),
            student_id=school.students[student].id,
            request_id=request_id(),
        )
    )


async def slot_at(school: School, start: datetime) -> pb.Slot:
    answer = await school.bookings().SearchSlots(
        pb.SearchSlotsRequest(
            service_id=school.lesson.id,
            instructor_id=school.instructors[0].id,
            start_time=at(start),
            end_time=at(start + timedelta(minutes=1)),
        )
    )
    return answer.slots[0]


async def reschedule(school: School, booking: pb.Booking, **given: Any) -> pb.Booking:
    request = pb.RescheduleBookingRequest(booking_id=booking.id, **given)
    return await school.bookings().RescheduleBooking(request)


async def count(school: School) -> int:
    query = 'SELECT count(*)::int FROM booking."Booking" WHERE "orgId" = %s'
    ((bookings,),) = await school.rows(query, school.org_id)
    return int(bookings)


async def overlaps(school: School) -> list[tuple[Any, ...]]:
    """Pairs of live bookings that share an instructor's, vehicle's or student's time."""
    return await school.rows(
        'SELECT a.id, b.id FROM booking."Booking" a JOIN booking."Booking" b'
        ' ON a."orgId" = b."orgId" AND a.id < b.id'
        ' AND ((a.busy && b.busy AND (a."instructorId" = b."instructorId"'
        ' OR a."vehicleId" = b."vehicleId"))'
        ' OR (a."studentId" = b."studentId"'
        ' AND tstzrange(a."startAt", a."endAt") && tstzrange(b."startAt", b."endAt")))'
        " WHERE a.status IN ('held', 'requested', 'confirmed', 'in_progress')"
        " AND b.status IN ('held', 'requested', 'confirmed', 'in_progress')"
    )


# --- one at a time -----------------------------------------------------------------------------


async def test_a_booking_has_its_place_history_event_and_audit_entry(school: School) -> None:
    place = pb.Place(address="1 George St", lat=-33.8612344, lng=151.21)
    given = {"pickup": place, "notes": "nervous", "vehicle_id": school.vehicle.id}
    booking = await book(school, morning(school), **given)
    assert (booking.pickup.lat, booking.notes) == (-33.861234, "nervous")
    assert (booking.buffer_before_minutes, booking.buffer_after_minutes) == (15, 0)
    (entry,) = await school.audit("booking", booking.id)
    assert entry[:2] == ("office", "create")
    (event,) = await school.events("booking")
    assert event[:3] == ("booking.requested", booking.id, 1)
    assert event[3]["price_cents"] == 8_000
    stored = await school.bookings().GetBooking(pb.GetBookingRequest(booking_id=booking.id))
    assert stored == booking


async def test_a_taken_slot_names_who_has_it_and_the_three_nearest_free_ones(
    school: School,
) -> None:
    start = morning(school)
    await book(school, start)
    denied = await refused(book(school, start, student=1))
    assert (denied.code, denied.reason) == (grpc.StatusCode.ABORTED, "SLOT_TAKEN")
    assert denied.metadata["conflict"] == "instructor"
    assert offered(denied, start) == [-75, 75, -90]
    assert (await book(school, start - timedelta(minutes=75), student=1)).id


def offered(denied: Refusal, start: datetime) -> list[int]:
    """The free starts that a refusal names, in minutes behind `start`."""
    free = [datetime.fromisoformat(denied.metadata[f"free_slot_{n}"]) for n in (1, 2, 3)]
    return [round((each - start).total_seconds() / 60) for each in free]


async def test_neighbouring_lessons_of_a_student_may_touch(school: School) -> None:
    start = morning(school)
    await book(school, start)
    second = school.instructors[1].id
    again = await book(school, start + timedelta(hours=1), instructor_id=second)
    assert again.status == pb.BOOKING_STATUS_REQUESTED
    denied = await refused(book(school, start + timedelta(minutes=30), instructor_id=second))
    assert (denied.reason, denied.metadata["conflict"]) == ("SLOT_TAKEN", "instructor")


async def test_a_student_or_a_vehicle_is_in_one_place_at_a_time(school: School) -> None:
    start, second = morning(school), school.instructors[1].id
    await book(school, start, vehicle_id=school.vehicle.id)
    student = await refused(book(school, start, instructor_id=second))
    assert (student.reason, student.metadata["conflict"]) == ("SLOT_TAKEN", "student")
    # A student goes from one lesson to the next, a vehicle with its buffer.
    assert offered(student, start) == [-60, 60, -75]
    others = {"student": 1, "instructor_id": second, "vehicle_id": school.vehicle.id}
    vehicle = await refused(book(school, start, **others))
    assert (vehicle.reason, vehicle.metadata["conflict"]) == ("SLOT_TAKEN", "vehicle")
    assert offered(vehicle, start) == [-75, 75, -90]
    await book(school, start - timedelta(minutes=60), instructor_id=second)


async def test_a_booking_that_moves_is_not_in_its_own_way_among_the_free_slots(
    school: School,
) -> None:
    start = morning(school)
    moving = await book(school, start)
    await book(school, start + timedelta(minutes=75), student=1)
    denied = await refused(reschedule(school, moving, start_time=at(start + timedelta(minutes=75))))
    assert offered(denied, start) == [0, 150, -15]


async def test_a_lesson_type_with_buffers_keeps_others_away(school: School) -> None:
    school.lesson = await school.add_lesson(
        "Motorway", 60, buffer_before_minutes=30, buffer_after_minutes=20
    )
    await school.set_price(school.lesson, 9_000)
    start = morning(school)
    booking = await book(school, start)
    assert (booking.buffer_before_minutes, booking.buffer_after_minutes) == (30, 20)
    # 20 minutes behind the first and 30 before the second.
    close = start + timedelta(minutes=60 + 49)
    assert (await refused(book(school, close, student=1))).reason == "SLOT_TAKEN"
    assert (await book(school, close + timedelta(minutes=1), student=1)).id


BAD: dict[str, tuple[str, str, Any]] = {
    "an end before its start": (
        "INVALID_ARGUMENT",
        "END_BEFORE_START",
        lambda school, start: {"end_time": at(start - timedelta(hours=1))},
    ),
    "a 40-hour lesson": (
        "INVALID_ARGUMENT",
        "LESSON_TOO_LONG",
        lambda school, start: {"end_time": at(start + timedelta(hours=40))},
    ),
    "a duration that is not the lesson type's": (
        "INVALID_ARGUMENT",
        "DURATION_MISMATCH",
        lambda school, start: {"end_time": at(start + timedelta(minutes=61))},
    ),
    "a past time": (
        "INVALID_ARGUMENT",
        "START_TIME_IN_PAST",
        lambda school, start: {"start_time": at(start - timedelta(days=30))},
    ),
    "a time years ahead": (
        "INVALID_ARGUMENT",
        "START_TIME_TOO_FAR",
        lambda school, start: {"start_time": at(start + timedelta(days=800))},
    ),
    "the end of time": (
        "INVALID_ARGUMENT",
        "START_TIME_TOO_FAR",
        lambda school, start: {"start_time": Timestamp(seconds=253_402_300_799)},
    ),
    "the night": (
        "FAILED_PRECONDITION",
        "OUTSIDE_AVAILABILITY",
        lambda school, start: {"start_time": at(start + timedelta(hours=12))},
    ),
    "a start that ends after hours": (
        "FAILED_PRECONDITION",
        "OUTSIDE_AVAILABILITY",
        lambda school, start: {"start_time": at(start + timedelta(hours=9, minutes=30))},
    ),
    "an unknown student": (
        "NOT_FOUND",
        "STUDENT_NOT_FOUND",
        lambda school, start: {"student_id": str(uuid.uuid4())},
    ),
    "an unknown instructor": (
        "NOT_FOUND",
        "INSTRUCTOR_NOT_FOUND",
        lambda school, start: {"instructor_id": str(uuid.uuid4())},
    ),
    "an unknown lesson type": (
        "NOT_FOUND",
        "SERVICE_NOT_FOUND",
        lambda school, start: {"service_id": str(uuid.uuid4())},
    ),
    "an unknown vehicle": (
        "NOT_FOUND",
        "VEHICLE_NOT_FOUND",
        lambda school, start: {"vehicle_id": str(uuid.uuid4())},
    ),
    "no student": (
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        lambda school, start: {"student_id": ""},
    ),
    "half a place": (
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        lambda school, start: {"pickup": pb.Place(lat=1.0)},
    ),
    "text that can't be stored": (
        "INVALID_ARGUMENT",
        "INVALID_VALUE",
        lambda school, start: {"notes": "a\0b"},
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_booking_is_refused_for(school: School, what: str) -> None:
    code, reason, given = BAD[what]
    start = morning(school)
    fields = {"start_time": at(start)} | given(school, start)
    assert await reason_of(book(school, start, **fields)) == (code, reason)
    assert await count(school) == 0
    assert await school.events("booking") == []


async def test_anothers_student_is_not_found(school: School) -> None:
    other = await school.neighbour()
    call = book(school, morning(school), student_id=other.students[0].id)
    assert await reason_of(call) == ("NOT_FOUND", "STUDENT_NOT_FOUND")
    assert await count(school) == await count(other) == 0


async def test_who_is_not_active_is_not_booked(school: School) -> None:
    start = morning(school)
    instructor = directory.Instructor(id=school.instructors[0].id, active=False)
    await school.directory().UpdateInstructor(
        directory.UpdateInstructorRequest(instructor=instructor)
    )
    assert await reason_of(book(school, start)) == ("FAILED_PRECONDITION", "INSTRUCTOR_INACTIVE")
    second = {"instructor_id": school.instructors[1].id}
    vehicle = directory.Vehicle(id=school.vehicle.id, active=False)
    await school.directory().UpdateVehicle(directory.UpdateVehicleRequest(vehicle=vehicle))
    call = book(school, start, vehicle_id=school.vehicle.id, **second)
    assert await reason_of(call) == ("FAILED_PRECONDITION", "VEHICLE_INACTIVE")
    service = directory.Service(id=school.lesson.id, active=False)
    await school.directory().UpdateService(directory.UpdateServiceRequest(service=service))
    call = book(school, start, **second)
    assert await reason_of(call) == ("FAILED_PRECONDITION", "SERVICE_INACTIVE")
    assert await count(school) == 0


async def test_a_suspended_school_books_nothing(school: School) -> None:
    await school.suspend()
    call = book(school, morning(school))
    assert await reason_of(call) == ("FAILED_PRECONDITION", "ORG_SUSPENDED")


async def test_a_lesson_within_the_notice_is_refused(school: School) -> None:
    start = morning(school)
    school.service.clock.set(start - timedelta(minutes=119))
    assert await reason_of(book(school, start)) == ("FAILED_PRECONDITION", "NOTICE_TOO_SHORT")


async def test_validating_keeps_nothing_and_not_even_the_request_id(school: School) -> None:
    start, id_ = morning(school), request_id()
    booking = wanted(school, start)
    draft = await create(school, booking, request_id=id_, validate_only=True)
    assert (draft.id, draft.price_cents) == ("", 8_000)
    assert await count(school) == 0
    assert (await create(school, booking, request_id=id_)).id


async def test_the_same_request_has_one_booking_and_one_answer(school: School) -> None:
    start, id_ = morning(school), request_id()
    first, again = await asyncio.gather(
        *(create(school, wanted(school, start), request_id=id_) for _ in range(2))
    )
    assert first == again
    call = create(school, wanted(school, start + timedelta(hours=2)), request_id=id_)
    assert await reason_of(call) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert await count(school) == 1


# --- slot tokens -------------------------------------------------------------------------------


async def test_a_tampered_or_foreign_slot_token_is_refused(school: School) -> None:
    slot = await slot_at(school, morning(school))
    flipped = ("B" if slot.slot_token[0] == "A" else "A") + slot.slot_token[1:]
    booking = pb.Booking(student_id=school.students[0].id)
    for token in (flipped, slot.slot_token[:-4], "x", slot.slot_token + "AAAA"):
        call = create(school, booking, slot_token=token)
        assert await reason_of(call) == ("INVALID_ARGUMENT", "SLOT_TOKEN_INVALID")
    other = await school.neighbour()
    call = create(other, pb.Booking(student_id=other.students[0].id), slot_token=slot.slot_token)
    assert await reason_of(call) == ("INVALID_ARGUMENT", "SLOT_TOKEN_INVALID")
    assert await count(school) == await count(other) == 0


async def test_a_stale_slot_token_says_what_changed(school: School) -> None:
    start = morning(school)
    slot = await slot_at(school, start)
    booking = pb.Booking(student_id=school.students[0].id)
    dearer = await school.set_price(school.lesson, 9_900, date(2021, 1, 1))
    price = await refused(create(school, booking, slot_token=slot.slot_token))
    assert (price.reason, price.metadata["price_cents"]) == ("PRICE_CHANGED", "9900")
    assert dearer.id
    slot = await slot_at(school, start)
    await school.set_hours(school.instructors[0], 14 * 60, 20 * 60)
    hours = await refused(create(school, booking, slot_token=slot.slot_token))
    assert (hours.reason, hours.metadata["changed"]) == ("OUTSIDE_AVAILABILITY", "hours")


async def test_a_slot_token_of_a_lesson_that_takes_longer_now_books_nothing(school: School) -> None:
    slot = await slot_at(school, morning(school))
    longer = directory.Service(id=school.lesson.id, duration_minutes=120)
    await school.directory().UpdateService(
        directory.UpdateServiceRequest(
            service=longer, update_mask=FieldMask(paths=["duration_minutes"])
        )
    )
    booking = pb.Booking(student_id=school.students[0].id)
    hold = pb.HoldSlotRequest(
        student_id=booking.student_id, slot_token=slot.slot_token, request_id=request_id()
    )
    for call in (
        create(school, booking, slot_token=slot.slot_token),
        school.bookings().HoldSlot(hold),
    ):
        denied = await refused(call)
        assert denied.reason == "DURATION_CHANGED"
        assert denied.metadata["duration_minutes"] == "120"
    assert await count(school) == 0


async def test_a_slot_token_expires_after_a_quarter_of_an_hour(school: School) -> None:
    slot = await slot_at(school, morning(school))
    booking = pb.Booking(student_id=school.students[0].id)
    school.service.clock.ahead += timedelta(minutes=15, seconds=1)
    call = create(school, booking, slot_token=slot.slot_token)
    assert await reason_of(call) == ("FAILED_PRECONDITION", "SLOT_TOKEN_EXPIRED")


async def test_what_contradicts_its_slot_token_is_refused(school: School) -> None:
    slot = await slot_at(school, morning(school))
    booking = pb.Booking(student_id=school.students[0].id, instructor_id=school.instructors[1].id)
    call = create(school, booking, slot_token=slot.slot_token)
    assert await reason_of(call) == ("INVALID_ARGUMENT", "SLOT_TOKEN_INVALID")


# --- holds -------------------------------------------------------------------------------------


async def test_an_overdue_hold_never_blocks_and_its_end_is_told(school: School) -> None:
    start = morning(school)
    held = await hold(school, start)
    assert held.hold_expire_time.ToDatetime(UTC) > school.service.clock()
    assert (await refused(book(school, start, student=1))).reason == "SLOT_TAKEN"
    school.service.clock.ahead += timedelta(minutes=30, seconds=1)
    assert (await slot_at(school, start)).slot_token
    booking = await book(school, start, student=1)
    events = await school.events("booking")
    assert [(event[0], event[1]) for event in events] == [
        ("booking.held", held.id),
        ("booking.expired", held.id),
        ("booking.requested", booking.id),
    ]
    call = school.bookings().ConfirmBooking(pb.ConfirmBookingRequest(booking_id=held.id))
    assert (await refused(call)).reason in ("HOLD_EXPIRED", "INVALID_TRANSITION")


# --- many at once ------------------------------------------------------------------------------


async def batch(school: School, bookings: list[pb.Booking], **given: Any) -> list[pb.Booking]:
    request = pb.BatchCreateBookingsRequest(bookings=bookings, **given)
    answer = await school.bookings().BatchCreateBookings(request)
    return list(answer.bookings)


def spread(school: School, number: int) -> list[pb.Booking]:
    """Bookings that do not overlap: eight a day."""
    start = morning(school, hour=8)
    return [
        wanted(school, start + timedelta(days=n // 8, minutes=90 * (n % 8))) for n in range(number)
    ]


async def test_a_batch_is_made_as_a_whole_in_its_order_by_one_statement(
    school: School, trips: list[list[str]]
) -> None:
    bookings = spread(school, 100)
    trips.clear()
    made = await batch(school, bookings)
    assert [name for trip in trips for name in trip].count("booking.place_bookings") == 1
    assert [each.start_time for each in made] == [each.start_time for each in bookings]
    assert await count(school) == 100
    assert len(await school.events("booking")) == 100
    assert await overlaps(school) == []


async def test_a_batch_whose_57th_item_is_bad_names_it_and_makes_none(school: School) -> None:
    bookings = spread(school, 100)
    bookings[57].start_time.CopyFrom(bookings[12].start_time)
    denied = await refused(batch(school, bookings))
    assert (denied.reason, denied.metadata["index"]) == ("SLOT_TAKEN", "57")
    bookings[57].student_id = str(uuid.uuid4())
    denied = await refused(batch(school, bookings))
    assert (denied.reason, denied.metadata["index"]) == ("STUDENT_NOT_FOUND", "57")
    bookings[57].student_id = "x"
    denied = await refused(batch(school, bookings))
    assert denied.reason == "INVALID_REQUEST"
    assert denied.fields[0][0] == "bookings[57].student_id"
    assert await count(school) == 0


async def test_a_series_keeps_the_time_of_the_wall_clock(school: School) -> None:
    # The clocks of Sydney go back on 4 April 2027.
    school.service.clock.set(datetime(2027, 3, 1, tzinfo=UTC))
    start = school.local(date(2027, 3, 24), 10 * 60)
    series = await school.bookings().CreateBookingSeries(
        pb.CreateBookingSeriesRequest(first=wanted(school, start), weeks=4)
    )
    bookings = [each.booking for each in series.occurrences]
    moments = [each.start_time.ToDatetime(UTC).astimezone(school.zone) for each in bookings]
    assert [f"{moment:%H:%M}" for moment in moments] == ["10:00"] * 4
    assert {each.series_id for each in bookings} == {series.series_id}
    assert (moments[-1] - moments[0]).days == 21


async def test_a_series_is_made_as_a_whole_or_leaves_out_what_it_must(school: School) -> None:
    start = morning(school)
    taken = await book(school, start + timedelta(weeks=2), student=1)
    request = pb.CreateBookingSeriesRequest(first=wanted(school, start), weeks=4)
    denied = await refused(school.bookings().CreateBookingSeries(request))
    assert (denied.reason, denied.metadata["index"]) == ("SLOT_TAKEN", "2")
    assert await count(school) == 1
    request.on_conflict = pb.ON_CONFLICT_SKIP
    series = await school.bookings().CreateBookingSeries(request)
    assert [each.reason for each in series.occurrences] == ["", "", "SLOT_TAKEN", ""]
    assert [bool(each.booking.id) for each in series.occurrences] == [True, True, False, True]
    assert await count(school) == 1 + 3
    assert taken.id


async def test_a_week_whose_hour_is_missing_is_left_out_by_name(school: School) -> None:
    await school.set_hours(school.instructors[0], 0, 1440)
    school.service.clock.set(datetime(2027, 9, 1, tzinfo=UTC))
    start = school.local(date(2027, 9, 26), 2 * 60 + 30)
    request = pb.CreateBookingSeriesRequest(first=wanted(school, start), weeks=3)
    denied = await refused(school.bookings().CreateBookingSeries(request))
    assert (denied.reason, denied.metadata["index"]) == ("LOCAL_TIME_MISSING", "1")
    request.on_conflict = pb.ON_CONFLICT_SKIP
    series = await school.bookings().CreateBookingSeries(request)
    assert [each.reason for each in series.occurrences] == ["", "LOCAL_TIME_MISSING", ""]


# --- moves -------------------------------------------------------------------------------------


async def test_a_booking_moves_and_frees_its_slot(school: School) -> None:
    start = morning(school)
    booking = await book(school, start)
    later = start + timedelta(hours=3)
    moved = await reschedule(school, booking, start_time=at(later), etag=booking.etag)
    assert moved.start_time == at(later)
    assert (moved.reschedule_count, moved.original_start_time) == (1, at(start))
    assert moved.price_cents == booking.price_cents
    assert (await book(school, start, student=1)).id
    kinds = [event[0] for event in await school.events("booking")]
    assert kinds == ["booking.requested", "booking.rescheduled", "booking.requested"]
    # By half an hour, over its own old time.
    again = await reschedule(school, moved, start_time=at(later + timedelta(minutes=30)))
    assert again.original_start_time == at(start)


async def test_a_move_is_judged_like_a_new_booking(school: School) -> None:
    start = morning(school)
    booking = await book(school, start)
    await book(school, start + timedelta(hours=3), student=1)
    taken = await refused(reschedule(school, booking, start_time=at(start + timedelta(hours=3))))
    assert taken.reason == "SLOT_TAKEN"
    assert "free_slot_1" in taken.metadata
    night = reschedule(school, booking, start_time=at(start + timedelta(hours=12)))
    assert (await refused(night)).reason == "OUTSIDE_AVAILABILITY"
    stale = reschedule(school, booking, start_time=at(start + timedelta(hours=5)), etag="77")
    assert await reason_of(stale) == ("ABORTED", "ETAG_MISMATCH")
    absent = pb.Booking(id=str(uuid.uuid4()))
    assert await reason_of(reschedule(school, absent)) == ("NOT_FOUND", "BOOKING_NOT_FOUND")


async def test_what_is_over_does_not_move(school: School) -> None:
    booking = await book(school, morning(school))
    await school.bookings().CancelBooking(pb.CancelBookingRequest(booking_id=booking.id))
    call = reschedule(school, booking, start_time=at(morning(school, 4)))
    assert await reason_of(call) == ("FAILED_PRECONDITION", "INVALID_TRANSITION")


async def test_a_hold_that_moves_lasts_until_its_start_at_most(school: School) -> None:
    await school.directory().UpdateOrganization(
        directory.UpdateOrganizationRequest(
            organization=directory.Organization(hold_minutes=1_440, notice_minutes=0),
            update_mask=FieldMask(paths=["hold_minutes", "notice_minutes"]),
        )
    )
    start = school.local(school.today() + timedelta(days=1), 15 * 60)
    school.service.clock.set(start - timedelta(hours=6))
    held = await hold(school, start + timedelta(days=3))
    moved = await reschedule(school, held, start_time=at(start))
    assert moved.hold_expire_time == at(start)


async def test_a_move_to_another_instructor_frees_the_first(school: School) -> None:
    start = morning(school)
    booking = await book(school, start)
    second = school.instructors[1].id
    moved = await reschedule(school, booking, instructor_id=second)
    assert moved.instructor_id == second
    assert (await book(school, start, student=1)).id


# --- races -------------------------------------------------------------------------------------

RACES, RACERS = 200, 24


async def test_of_24_who_want_a_slot_one_gets_it_200_times(school: School) -> None:
    """Over gRPC; nobody hears of a deadlock."""
    students = [await school.add_student(f"Racer {n}") for n in range(RACERS)]
    stub = school.bookings()
    first = morning(school, hour=8)

    async def attempt(start: datetime, student: directory.Student) -> str:
        booking = wanted(school, start, student_id=student.id)
        try:
            await stub.CreateBooking(
                pb.CreateBookingRequest(booking=booking, request_id=request_id())
            )
        except grpc.aio.AioRpcError as error:
            return refusal(error).reason or error.code().name
        return "booked"

    for race in range(RACES):
        start = first + timedelta(days=race // 8, minutes=90 * (race % 8))
        outcomes = await asyncio.gather(*(attempt(start, each) for each in students))
        assert sorted(outcomes) == ["SLOT_TAKEN"] * (RACERS - 1) + ["booked"]
    assert await count(school) == RACES
    assert await overlaps(school) == []
