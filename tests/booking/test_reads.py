"""Bookings: read one by one, in batches, in pages and by the day."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2
from libs import consistency
from services.booking.store import bookings as store
from tests.booking import calendars, lives
from tests.booking.lives import moment
from tests.booking.serving import Booking, serving
from tests.booking.stories import School, at, morning, on, reason_of, refused
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

EPOCH = datetime(2025, 3, 1, tzinfo=UTC)
NAMES = ("student.full_name", "instructor.display_name", "service.name", "vehicle.label")
LIGHT = {"id", "student_id", "instructor_id", "service_id", "start_time", "end_time", "status"}


async def get(school: School, booking_id: str, *paths: str) -> pb.Booking:
    request = pb.GetBookingRequest(booking_id=booking_id, read_mask=FieldMask(paths=paths))
    return await school.bookings().GetBooking(request)


async def listed(school: School, **given: Any) -> pb.ListBookingsResponse:
    return await school.bookings().ListBookings(pb.ListBookingsRequest(**given))


def fields(message: Any) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


# --- one ---


async def test_a_booking_reads_as_it_was_made(school: School) -> None:
    made = await lives.held(school, vehicle=school.vehicle)
    found = await get(school, made.id)
    assert found == made
    assert not fields(found) & {"student", "instructor", "service", "vehicle"}
    assert (found.price_cents, found.platform_fee_cents, found.currency) == (8_000, 1_200, "AUD")


async def test_places_are_there_when_something_is_known_of_them(school: School) -> None:
    at_zero = pb.Place(lat=0.0, lng=0.0)
    made = await lives.requested(school, pickup=at_zero, dropoff=pb.Place(address="1 High St"))
    found = await get(school, made.id)
    assert found.pickup == at_zero
    assert found.pickup.HasField("lat")
    assert (found.dropoff.address, found.dropoff.HasField("lat")) == ("1 High St", False)
    plain = await lives.held(school, morning(school, 4))
    assert not (await get(school, plain.id)).HasField("pickup")


async def test_a_mask_brings_names_and_leaves_out_the_rest(school: School) -> None:
    made = await lives.held(school, vehicle=school.vehicle)
    found = await get(school, made.id, "start_time", "student", *NAMES[1:])
    assert found == pb.Booking(
        start_time=made.start_time,
        student=pb.BookedStudent(id=made.student_id, full_name="Student 1"),
        instructor=pb.BookedInstructor(display_name="Instructor 1"),
        service=pb.BookedService(name="Lesson 60"),
        vehicle=pb.BookedVehicle(label="Yaris"),
    )


async def test_a_mask_with_a_star_brings_everything(school: School) -> None:
    made = await lives.held(school)
    found = await get(school, made.id, "*")
    assert found.student.full_name == "Student 1"
    assert not found.HasField("vehicle")
    for name in lives.NESTED:
        found.ClearField(name)  # type: ignore[arg-type]
    assert found == made


@pytest.mark.parametrize("path", ["nothing", "student.phone", "student.guardians", "", "id.id"])
async def test_a_mask_with_an_unknown_path_is_refused(school: School, path: str) -> None:
    made = await lives.held(school)
    wrong = ("INVALID_ARGUMENT", "READ_MASK_INVALID")
    assert await reason_of(get(school, made.id, "id", path)) == wrong
    mask = FieldMask(paths=[path])
    assert await reason_of(listed(school, read_mask=mask)) == wrong


async def test_what_is_not_there_or_anothers_is_not_found(school: School) -> None:
    neighbour = await school.neighbour()
    theirs = await lives.held(neighbour)
    for booking_id in (str(uuid4()), theirs.id):
        for paths in ((), ("id",)):
            refusal = await refused(get(school, booking_id, *paths))
            assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "BOOKING_NOT_FOUND")
    assert await get(neighbour, theirs.id) == theirs


@pytest.mark.parametrize("booking_id", ["", "7", "no-uuid", "0" * 37])
async def test_an_id_must_be_one(school: School, booking_id: str) -> None:
    assert await reason_of(get(school, booking_id)) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


# --- many, by id ---


async def test_a_batch_comes_in_the_order_asked_for(school: School) -> None:
    made = [await lives.held(school, morning(school, day)) for day in (3, 4, 5)]
    wanted = [made[2].id, made[0].id, made[2].id, made[1].id]
    request = pb.BatchGetBookingsRequest(booking_ids=wanted)
    found = await school.bookings().BatchGetBookings(request)
    assert list(found.bookings) == [made[2], made[0], made[2], made[1]]
    request.read_mask.paths.append("student.full_name")
    named = await school.bookings().BatchGetBookings(request)
    assert [fields(each) for each in named.bookings] == [{"student"}] * 4


async def test_a_batch_names_the_first_that_is_not_there(school: School) -> None:
    mine, theirs = await lives.held(school), await lives.held(await school.neighbour())
    request = pb.BatchGetBookingsRequest(booking_ids=[mine.id, mine.id, theirs.id, str(uuid4())])
    refusal = await refused(school.bookings().BatchGetBookings(request))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "BOOKING_NOT_FOUND")
    assert refusal.metadata["index"] == "2"


@pytest.mark.parametrize("ids", [[], [str(uuid4())] * 1_001, ["7"]], ids=["none", "many", "bad"])
async def test_a_batch_has_1_to_1000_ids(school: School, ids: list[str]) -> None:
    call = school.bookings().BatchGetBookings(pb.BatchGetBookingsRequest(booking_ids=ids))
    assert await reason_of(call) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_a_thousand_are_one_call(school: School) -> None:
    calendars.fill(school, 1_000, EPOCH)
    ids = [row[0] for row in await school.rows(IDS, school.org_id)]
    found = await school.bookings().BatchGetBookings(pb.BatchGetBookingsRequest(booking_ids=ids))
    assert [each.id for each in found.bookings] == ids


IDS = 'SELECT id::text FROM booking."Booking" WHERE "orgId" = %s'


# --- pages ---


async def test_a_list_is_light_unless_told_otherwise(school: School) -> None:
    made = await lives.held(school, vehicle=school.vehicle)
    (found,) = (await listed(school)).bookings
    assert fields(found) == LIGHT
    mask = FieldMask(paths=["etag", "vehicle"])
    (found,) = (await listed(school, read_mask=mask)).bookings
    vehicle = pb.BookedVehicle(id=school.vehicle.id, label="Yaris")
    assert found == pb.Booking(etag=made.etag, vehicle=vehicle)


async def test_every_combination_of_filters_finds_what_it_says(school: School) -> None:
    calendars.fill(school, 400, EPOCH, timedelta(hours=1))
    await school.rows(RETIRE, school.instructors[1].id)
    rows = await school.rows(FACTS, school.org_id)
    choices = itertools.product(
        (None, EPOCH + timedelta(hours=50)),
        (None, EPOCH + timedelta(hours=350)),
        (None, school.students[0].id),
        (None, school.instructors[0].id, school.instructors[1].id),
        (0, pb.BOOKING_STATUS_COMPLETED),
        (False, True),
    )
    for start, end, student, instructor, status, active in choices:
        wanted = [
            booking_id
            for booking_id, student_id, instructor_id, start_at, state in rows
            if (start is None or start_at >= start)
            and (end is None or start_at < end)
            and student in (None, student_id)
            and instructor in (None, instructor_id)
            and (not status or state == "completed")
            and (not active or instructor_id != school.instructors[1].id)
        ]
        found = await listed(
            school,
            start_time_from=start and at(start),
            start_time_to=end and at(end),
            student_id=student,
            instructor_id=instructor,
            status=status,
            active_instructors_only=active,
            page_size=1_000,
        )
        assert [each.id for each in found.bookings] == wanted


RETIRE = 'UPDATE booking."Instructor" SET active = false WHERE id = %s RETURNING id'
FACTS = """
SELECT id::text, "studentId"::text, "instructorId"::text, "startAt", status FROM booking."Booking"
 WHERE "orgId" = %s ORDER BY "startAt" DESC, id DESC
"""


async def test_a_list_with_names_of_active_instructors_alone(school: School) -> None:
    calendars.fill(school, 50, EPOCH)
    await school.rows(RETIRE, school.instructors[1].id)
    mask = FieldMask(paths=["instructor.display_name"])
    found = await listed(school, read_mask=mask, active_instructors_only=True, page_size=100)
    names = {each.instructor.display_name for each in found.bookings}
    assert names == {"Instructor 1"}


async def test_a_range_of_time_has_its_start_and_not_its_end(school: School) -> None:
    calendars.fill(school, 3, EPOCH, timedelta(hours=1))
    hours = [at(EPOCH + timedelta(hours=hour)) for hour in range(3)]
    found = await listed(school, start_time_from=hours[0], start_time_to=hours[2])
    assert [each.start_time for each in found.bookings] == [hours[1], hours[0]]
    nothing = await listed(school, start_time_from=hours[1], start_time_to=hours[1])
    assert not nothing.bookings


async def test_a_range_of_time_that_ends_before_it_starts_is_refused(school: School) -> None:
    call = listed(school, start_time_from=at(EPOCH), start_time_to=at(EPOCH - timedelta(hours=1)))
    assert await reason_of(call) == ("INVALID_ARGUMENT", "END_BEFORE_START")


@pytest.mark.parametrize(
    "given",
    [
        {"page_size": -1},
        {"student_id": "7"},
        {"instructor_id": "7"},
        {"status": 99},
        {"start_time_from": Timestamp(seconds=2**60)},
        {"start_time_to": Timestamp(nanos=-1)},
    ],
    ids=str,
)
async def test_a_list_refuses_what_is_no_argument(school: School, given: dict[str, Any]) -> None:
    assert await reason_of(listed(school, **given)) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_a_page_has_20_unless_told_otherwise_and_at_most_1000(school: School) -> None:
    calendars.fill(school, 1_010, EPOCH)
    for asked, given in ((0, 20), (7, 7), (1_000, 1_000), (5_000, 1_000)):
        page = await listed(school, page_size=asked)
        assert len(page.bookings) == given
    token = (await listed(school, page_size=5_000)).next_page_token
    last = await listed(school, page_size=1_000, page_token=token)
    assert (len(last.bookings), last.next_page_token) == (10, "")


async def test_a_page_token_is_good_for_its_own_question_alone(school: School) -> None:
    calendars.fill(school, 30, EPOCH)
    token = (await listed(school)).next_page_token
    wrong = ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    other: list[dict[str, Any]] = [
        {"page_token": token, "status": pb.BOOKING_STATUS_COMPLETED},
        {"page_token": token, "active_instructors_only": True},
        {"page_token": token, "start_time_from": at(EPOCH)},
        {"page_token": token[:-4]},
        {"page_token": "x"},
    ]
    for given in other:
        assert await reason_of(listed(school, **given)) == wrong
    neighbour = await school.neighbour()
    assert await reason_of(listed(neighbour, page_token=token)) == wrong


async def walk(school: School, **given: Any) -> AsyncIterator[list[pb.Booking]]:
    """All pages of a list."""
    token = ""
    for _ in range(10_000):
        page = await listed(school, page_token=token, **given)
        yield list(page.bookings)
        token = page.next_page_token
        if not token:
            return
    raise AssertionError("a list without an end")


@pytest.mark.parametrize("filters", ["", "status", "instructor_id", "student_id"])
async def test_a_walk_sees_all_that_was_there_all_along_once_while_others_write(
    school: School, filters: str
) -> None:
    """Sixty bookings at each of two starts: the pages' edges lie between equal times."""
    calendars.fill(school, 60, EPOCH, timedelta(0))
    calendars.fill(school, 60, EPOCH + timedelta(hours=1), timedelta(0))
    given: dict[str, Any] = {"start_time_from": at(EPOCH - timedelta(hours=5)), "page_size": 7}
    if filters:
        some = (await listed(school)).bookings[0]
        given[filters] = getattr(some, filters)
    before = [each.id for each in await collected(school, **given)]
    seen: list[str] = []
    async for page in walk(school, **given):
        seen += [each.id for each in page]
        await write(school, before)
    assert len(seen) == len(set(seen)) > len(before)
    assert [each for each in seen if each in set(before)] == before


async def collected(school: School, **given: Any) -> list[pb.Booking]:
    return [each async for page in walk(school, **given) for each in page]


async def write(school: School, ids: list[str]) -> None:
    """Bookings come between those that are there, which change in what no list sorts by."""
    for hour in (0, 1):
        calendars.fill(school, 5, EPOCH + timedelta(hours=hour), timedelta(0))
    await school.rows(TOUCH, random.sample(ids, 3))


TOUCH = """
UPDATE booking."Booking" SET version = version + 1, notes = 'x' WHERE id = ANY (%s::uuid[])
RETURNING id
"""


# --- what a mask means to the database ---


def joined(paths: tuple[str, ...], **given: Any) -> set[str]:
    columns, joins = store._asked(paths, **given)
    text = store.SQL.select("list_bookings", columns, joins).decode()
    return {table for table in TABLES if f'"{table}"' in text}


TABLES = ("Student", "Instructor", "Service", "Vehicle", "Guardian", "StudentGuardian", "Lesson")


async def test_a_table_is_joined_when_a_name_of_it_is_asked_for() -> None:
    assert joined(store.LIST_PATHS) == set()
    assert joined(("student.id", "instructor.id", "service.id", "vehicle.id")) == set()
    for path, table in zip(NAMES, TABLES, strict=False):
        assert joined((path,)) == {table}
    assert joined(tuple(store.FIELDS)) == set(TABLES[:4])
    assert joined(("id",), active_instructors_only=True) == {"Instructor"}


@pytest.mark.asyncio(loop_scope="function")
async def test_a_list_reads_no_table_that_nobody_asked_for(booking: Booking) -> None:
    school = await School.furnished(booking)
    await lives.held(school, vehicle=school.vehicle)
    calendars.administer(
        school,
        "REVOKE SELECT ON {} FROM booking".format(
            ", ".join(f'booking."{table}"' for table in TABLES)
        ),
    )
    (found,) = (await listed(school)).bookings
    ids = FieldMask(paths=["student.id", "vehicle.id"])
    (named,) = (await listed(school, read_mask=ids)).bookings
    assert (named.student.id, named.vehicle.id) == (found.student_id, school.vehicle.id)
    for path, table in zip(NAMES, TABLES, strict=False):
        mask = FieldMask(paths=[path])
        assert (await reason_of(listed(school, read_mask=mask)))[0] == "INTERNAL"
        calendars.administer(school, f'GRANT SELECT ON booking."{table}" TO booking')
        assert len((await listed(school, read_mask=mask)).bookings) == 1


# --- a day ---


async def day(school: School, of: date | None = None) -> pb.ListDayScheduleResponse:
    request = pb.ListDayScheduleRequest(date=None if of is None else on(of))
    return await school.bookings().ListDaySchedule(request)


async def test_a_day_has_its_live_and_done_bookings_by_start_with_names(school: School) -> None:
    first, second = school.instructors
    wanted = [
        await lives.held(school, morning(school, 3, 15)),
        await lives.confirmed(school, morning(school, 3, 9), vehicle=school.vehicle),
        await lives.held(
            school, morning(school, 3, 9), instructor=second, student=school.students[1]
        ),
    ]
    await lives.cancelled(school, morning(school, 3, 12))
    await lives.expired(school, morning(school, 3, 18))
    await lives.held(school, morning(school, 4, 9))
    found = await day(school, school.today() + timedelta(days=3))
    ordered = sorted(wanted, key=lambda each: (each.start_time.seconds, each.id))
    assert [each.id for each in found.bookings] == [each.id for each in ordered]
    names = {each.instructor.display_name for each in found.bookings}
    assert names == {"Instructor 1", "Instructor 2"}
    assert found.bookings[-1].student.full_name == "Student 1"
    assert {each.vehicle.label for each in found.bookings} == {"", "Yaris"}
    assert first.id in {each.instructor_id for each in found.bookings}


async def test_a_day_leaves_out_instructors_who_are_not_active(school: School) -> None:
    await lives.held(school)
    of = school.today() + timedelta(days=3)
    assert len((await day(school, of)).bookings) == 1
    await school.directory().UpdateInstructor(
        directory_pb2.UpdateInstructorRequest(
            instructor=directory_pb2.Instructor(id=school.instructors[0].id, active=False),
            update_mask=FieldMask(paths=["active"]),
        )
    )
    assert not (await day(school, of)).bookings


@pytest.mark.parametrize(
    ("of", "hours"),
    [(date(2026, 10, 4), 23), (date(2026, 4, 5), 25), (date(2026, 7, 1), 24)],
    ids=["clocks forward", "clocks back", "plain"],
)
async def test_a_day_is_a_day_of_the_schools_clock(school: School, of: date, hours: int) -> None:
    found = await day(school, of)
    start, end = moment(found.start_time), moment(found.end_time)
    assert (start, found.time_zone) == (school.local(of, 0), "Australia/Sydney")
    assert end - start == timedelta(hours=hours)
    edges = (start - timedelta(hours=1), start, end - timedelta(minutes=1), end)
    for edge in edges:
        calendars.fill(school, 1, edge, statuses=("completed",))
    found = await day(school, of)
    assert [moment(each.start_time) for each in found.bookings] == list(edges[1:3])


async def test_today_is_the_schools(school: School) -> None:
    found = await day(school)
    assert found.date == on(school.today())
    school.service.clock.set(moment(found.end_time) + timedelta(minutes=1))
    assert (await day(school)).start_time == found.end_time


@pytest.mark.parametrize(
    "of",
    [
        Date(year=2026, month=2, day=31),
        Date(year=2026),
        Date(),
        Date(year=2026, month=13, day=1),
        Date(year=-1, month=1, day=1),
        Date(year=1, month=1, day=1),
        Date(year=9999, month=12, day=31),
        Date(year=10_000, month=1, day=1),
    ],
    ids=str,
)
async def test_a_day_that_is_none_is_refused(school: School, of: Date) -> None:
    call = school.bookings().ListDaySchedule(pb.ListDayScheduleRequest(date=of))
    assert await reason_of(call) == ("INVALID_ARGUMENT", "DATE_INVALID")


async def test_a_school_that_is_not_there_has_no_days(school: School) -> None:
    token = school.service.token(uuid4())
    call = school.service.bookings(token).ListDaySchedule(pb.ListDayScheduleRequest())
    assert (await reason_of(call))[0] == "NOT_FOUND"


# --- the cache ---


async def keep(school: School, booking: pb.Booking) -> None:
    """Have the service keep the booking: until then it is asked for."""

    async def kept() -> bool:
        await get(school, booking.id)
        await school.rows(SCRIBBLE, booking.id)
        return (await get(school, booking.id)).notes != "scribble"

    await eventually(kept)


SCRIBBLE = "UPDATE booking.\"Booking\" SET notes = 'scribble' WHERE id = %s RETURNING id"


async def test_a_booking_is_kept_until_it_changes(school: School) -> None:
    booking = await lives.held(school)
    await keep(school, booking)
    assert (await get(school, booking.id, "notes")).notes == "scribble"
    await school.bookings().ConfirmBooking(pb.ConfirmBookingRequest(booking_id=booking.id))

    async def seen() -> bool:
        return (await get(school, booking.id)).status == pb.BOOKING_STATUS_CONFIRMED

    await asyncio.wait_for(eventually(seen), timeout=1.0)


async def test_what_is_kept_is_the_schools_alone(school: School) -> None:
    booking = await lives.held(school)
    await keep(school, booking)
    neighbour = await school.neighbour()
    assert (await reason_of(get(neighbour, booking.id)))[0] == "NOT_FOUND"


async def test_who_brings_the_token_of_a_change_sees_it_at_once(school: School) -> None:
    for hour in range(8, 18, 2):
        booking = await lives.held(school, morning(school, 3, hour))
        await get(school, booking.id)
        call = school.bookings().ConfirmBooking(pb.ConfirmBookingRequest(booking_id=booking.id))
        await call
        token = dict(await call.trailing_metadata())[consistency.KEY]
        found = await school.bookings().GetBooking(
            pb.GetBookingRequest(booking_id=booking.id), metadata=[(consistency.KEY, token)]
        )
        assert found.status == pb.BOOKING_STATUS_CONFIRMED


async def test_a_token_that_is_none_is_refused(school: School) -> None:
    booking = await lives.held(school)
    call = school.bookings().GetBooking(
        pb.GetBookingRequest(booking_id=booking.id), metadata=[(consistency.KEY, "yesterday")]
    )
    assert await reason_of(call) == ("INVALID_ARGUMENT", "CONSISTENCY_TOKEN_INVALID")


@pytest.mark.asyncio(loop_scope="function")
async def test_another_process_sees_a_change_within_a_second(
    booking: Booking, tmp_path: Path
) -> None:
    school = await School.furnished(booking)
    folder = tmp_path / "other"
    folder.mkdir()
    async with serving(booking.database, folder) as second:
        elsewhere = School(second, school.org, lesson=school.lesson)
        elsewhere.instructors, elsewhere.students = school.instructors, school.students
        for hour in (9, 11, 13):
            made = await lives.held(school, morning(school, 3, hour))
            await keep(elsewhere, made)
            request = pb.CancelBookingRequest(booking_id=made.id)
            await school.bookings().CancelBooking(request)

            async def seen(booking_id: str = made.id) -> bool:
                found = await get(elsewhere, booking_id)
                return found.status == pb.BOOKING_STATUS_CANCELLED

            await asyncio.wait_for(eventually(seen), timeout=1.0)


async def test_a_walk_of_ids_is_in_order_of_start_then_id(school: School) -> None:
    calendars.fill(school, 40, EPOCH, timedelta(0))
    found = await collected(school, page_size=3)
    order = [UUID(each.id) for each in found]
    assert order == sorted(order, reverse=True)
