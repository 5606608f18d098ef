"""Free slots: what search offers, create accepts; what it does not, is explained."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2 as directory
from tests.booking.stories import School, at, morning, on, reason_of, request_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_suspended_school_offers_nothing(school: School) -> None:
    start = morning(school)
    assert await search(school, start, start + timedelta(hours=2))
    await school.suspend()
    assert await search(school, start, start + timedelta(hours=2)) == []


async def search(
    school: School, start: datetime, end: datetime, *, instructor: int | None = 0, size: int = 1000
) -> list[pb.Slot]:
    answer = await school.bookings().SearchSlots(
        pb.SearchSlotsRequest(
            service_id=school.lesson.id,
            instructor_id="" if instructor is None else school.instructors[instructor].id,
            start_time=at(start),
            end_time=at(end),
            page_size=size,
        )
    )
    return list(answer.slots)


async def create(school: School, slot: pb.Slot, student: int = 0) -> pb.Booking:
    return await school.bookings().CreateBooking(
        pb.CreateBookingRequest(
            booking=pb.Booking(student_id=school.students[student].id),
            slot_token=slot.slot_token,
            request_id=request_id(),
        )
    )


async def explain(school: School, start: datetime) -> pb.AvailabilityExplanation:
    return await school.bookings().ExplainAvailability(
        pb.ExplainAvailabilityRequest(
            instructor_id=school.instructors[0].id, service_id=school.lesson.id, time=at(start)
        )
    )


def starts(slots: list[pb.Slot]) -> list[datetime]:
    return [slot.start_time.ToDatetime(UTC) for slot in slots]


async def test_a_day_of_12_hours_has_a_start_each_quarter_that_leaves_an_hour(
    school: School,
) -> None:
    day = morning(school, hour=0)
    found = starts(await search(school, day, day + timedelta(days=1)))
    opens = day + timedelta(hours=8)
    assert found == [opens + timedelta(minutes=15 * n) for n in range(11 * 4 + 1)]


async def test_what_search_offers_is_booked_at_its_price(school: School) -> None:
    start = morning(school)
    (slot, *_) = await search(school, start, start + timedelta(hours=3))
    booking = await create(school, slot)
    assert booking.status == pb.BOOKING_STATUS_REQUESTED
    assert (booking.price_cents, booking.currency) == (8_000, "AUD")
    assert (booking.platform_fee_cents, booking.instructor_share_cents) == (1_200, 6_800)
    assert booking.start_time == slot.start_time


async def test_a_booking_and_its_travel_buffer_take_their_starts_from_the_search(
    school: School,
) -> None:
    start = morning(school)
    (slot, *_) = await search(school, start, start + timedelta(hours=1))
    await create(school, slot)
    around = await search(school, start - timedelta(hours=2), start + timedelta(hours=2))
    # The lesson takes an hour; the next needs 15 minutes of travel before it, so does this one.
    quarter = timedelta(minutes=15)
    gone = {start + quarter * n for n in range(-4, 5)}
    assert gone.isdisjoint(starts(around))
    assert {start - quarter * 5, start + quarter * 5} <= set(starts(around))


async def test_pages_of_slots_are_the_whole_in_order(school: School) -> None:
    start = morning(school)
    request = pb.SearchSlotsRequest(
        service_id=school.lesson.id,
        start_time=at(start),
        end_time=at(start + timedelta(hours=3)),
        page_size=7,
    )
    found: list[tuple[datetime, str]] = []
    while True:
        page = await school.bookings().SearchSlots(request)
        found += [(slot.start_time.ToDatetime(UTC), slot.instructor_id) for slot in page.slots]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert len(found) == len(set(found)) == 24
    assert found == sorted(found, key=lambda each: (each[0], each[1]))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Australia/Sydney", date(2027, 4, 4), 25),
        ("Australia/Sydney", date(2027, 10, 3), 23),
        ("Europe/Berlin", date(2027, 3, 28), 23),
        ("Europe/Berlin", date(2027, 10, 31), 25),
        ("America/New_York", date(2027, 3, 14), 23),
        ("America/New_York", date(2027, 11, 7), 25),
        ("Australia/Sydney", date(2028, 2, 29), 24),
        ("Asia/Kathmandu", date(2027, 12, 31), 24),
    ],
)
async def test_a_day_has_as_many_starts_as_it_has_hours(
    bare_school: School, zone: str, day: date, hours: int
) -> None:
    school = bare_school
    await school.directory().UpdateOrganization(
        directory.UpdateOrganizationRequest(
            organization=directory.Organization(time_zone=zone, name="Night School")
        )
    )
    school.org.time_zone = zone
    school.lesson = await school.add_lesson("Lesson", 60, slot_step_minutes=60)
    await school.set_price(school.lesson, 5_000)
    school.instructors.append(await school.add_instructor())
    await school.set_hours(school.instructors[0], 0, 1440)
    school.service.clock.set(datetime(2027, 1, 1, tzinfo=UTC))
    start = school.local(day, 0)
    found = starts(await search(school, start, start + timedelta(hours=hours)))
    assert found == [start + timedelta(hours=n) for n in range(hours)]
    local = [moment.astimezone(school.zone).date() for moment in found]
    assert local == [day] * hours


async def test_the_missing_hour_is_offered_never_and_the_doubled_one_twice(
    bare_school: School,
) -> None:
    school = bare_school
    school.lesson = await school.add_lesson("Lesson", 30, slot_step_minutes=30)
    await school.set_price(school.lesson, 5_000)
    school.instructors.append(await school.add_instructor())
    await school.set_hours(school.instructors[0], 120, 180)  # 02:00 to 03:00
    school.service.clock.set(datetime(2027, 3, 1, tzinfo=UTC))
    spring, autumn = date(2027, 10, 3), date(2027, 4, 4)
    assert await search(school, school.local(spring, 0), school.local(spring, 1439)) == []
    found = starts(await search(school, school.local(autumn, 0), school.local(autumn, 1439)))
    clock = [f"{moment.astimezone(school.zone):%H:%M}" for moment in found]
    assert clock == ["02:00", "02:30", "02:00", "02:30"]
    again = await explain(school, found[2])
    assert again.available
    assert again.local_time == "2027-04-04 02:00 (second)"
    assert "daylight_saving" in {step.rule for step in again.steps}


async def test_hours_of_two_rules_that_touch_at_midnight_are_one(bare_school: School) -> None:
    school = bare_school
    school.lesson = await school.add_lesson("Night", 120)
    await school.set_price(school.lesson, 5_000)
    school.instructors.append(await school.add_instructor())
    rules = [
        directory.AvailabilityRule(day_of_week=day, start_minute=start, end_minute=end)
        for day in range(7)
        for start, end in ((23 * 60, 1440), (0, 60))
    ]
    await school.directory().SetWeeklyAvailability(
        directory.SetWeeklyAvailabilityRequest(instructor_id=school.instructors[0].id, rules=rules)
    )
    eve = school.local(school.today() + timedelta(days=5), 23 * 60)
    assert starts(await search(school, eve, eve + timedelta(hours=3))) == [eve]


async def test_a_closed_morning_and_an_extra_evening_share_a_date(school: School) -> None:
    day = school.today() + timedelta(days=4)
    for available, start, end in ((False, 0, 12 * 60), (True, 20 * 60, 22 * 60)):
        await school.directory().CreateAvailabilityException(
            directory.CreateAvailabilityExceptionRequest(
                exception=directory.AvailabilityException(
                    instructor_id=school.instructors[0].id,
                    date=on(day),
                    available=available,
                    start_minute=start,
                    end_minute=end,
                )
            )
        )
    found = starts(await search(school, school.local(day, 0), school.local(day, 1439)))
    assert (found[0], found[-1]) == (school.local(day, 12 * 60), school.local(day, 21 * 60))


async def test_an_explanation_names_the_rules_in_order(school: School) -> None:
    start = morning(school)
    (slot, *_) = await search(school, start, start + timedelta(hours=1))
    booking = await create(school, slot)
    answer = await explain(school, start)
    assert (answer.available, answer.reason) == (False, "SLOT_TAKEN")
    rules = [step.rule for step in answer.steps]
    assert rules == [
        "instructor",
        "service",
        "notice",
        "price",
        "weekly_rule",
        "hours",
        "booking",
    ]
    assert answer.steps[-1].id == booking.id
    assert answer.steps[-1].verdict == pb.STEP_VERDICT_DENIES


async def test_an_explanation_of_a_closed_date_says_which_exception(school: School) -> None:
    day = school.today() + timedelta(days=4)
    closed = await school.directory().CreateAvailabilityException(
        directory.CreateAvailabilityExceptionRequest(
            exception=directory.AvailabilityException(
                instructor_id=school.instructors[0].id, date=on(day), note="dentist"
            )
        )
    )
    answer = await explain(school, school.local(day, 600))
    assert answer.reason == "OUTSIDE_AVAILABILITY"
    (step,) = (step for step in answer.steps if step.rule == "closed")
    assert (step.id, step.verdict) == (closed.id, pb.STEP_VERDICT_DENIES)
    assert "dentist" in step.detail


async def test_a_search_that_makes_no_sense_is_refused(school: School) -> None:
    start = morning(school)
    assert await reason_of(search(school, start, start)) == (
        "INVALID_ARGUMENT",
        "END_BEFORE_START",
    )
    assert await reason_of(search(school, start, start + timedelta(days=63))) == (
        "INVALID_ARGUMENT",
        "SEARCH_RANGE_TOO_LONG",
    )


async def test_slots_of_anothers_lesson_type_are_not_found(school: School) -> None:
    other = await school.neighbour()
    school.lesson = other.lesson
    start = morning(school)
    assert await reason_of(search(school, start, start + timedelta(days=1), instructor=None)) == (
        "NOT_FOUND",
        "SERVICE_NOT_FOUND",
    )


async def test_no_slot_is_offered_within_the_notice(school: School) -> None:
    opens = school.local(school.today() + timedelta(days=1), 8 * 60)
    school.service.clock.set(opens)
    (first, *_) = await search(school, opens, opens + timedelta(hours=4))
    assert first.start_time.ToDatetime(UTC) - opens >= timedelta(hours=2)
    assert first.start_time.ToDatetime(UTC) - opens <= timedelta(hours=2, minutes=15)


async def test_lessons_without_a_price_are_not_offered(school: School) -> None:
    school.lesson = await school.add_lesson("Unpriced", 60)
    start = morning(school)
    assert await search(school, start, start + timedelta(days=1)) == []
