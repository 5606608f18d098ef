"""The waitlist: who comes first is offered a free slot, for a while, and then the next is."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2 as directory
from services.booking import sweeps
from tests import postgres
from tests.booking import lives
from tests.booking.calendars import administer
from tests.booking.stories import School, at, morning, reason_of, request_id
from tests.booking.sweeping import Swept, swept
from tests.postgres import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")

WAITING, OFFERED = pb.WAITLIST_STATUS_WAITING, pb.WAITLIST_STATUS_OFFERED
ACCEPTED, LEFT = pb.WAITLIST_STATUS_ACCEPTED, pb.WAITLIST_STATUS_LEFT
LAPSED = pb.WAITLIST_STATUS_LAPSED
HOUR = timedelta(hours=1)
HOLD = timedelta(minutes=30)
Refused = tuple[str, str]


@pytest.fixture(scope="module")
def own_database(template: Database) -> Iterator[Database]:
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def office(
    own_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Swept]:
    async with swept(own_database, tmp_path_factory.mktemp("waitlist")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def school(office: Swept) -> AsyncIterator[School]:
    """A furnished school, whose first instructor gives one lesson on the day of `morning`."""
    async with AsyncExitStack() as connections:
        made = await School.furnished(replace(office.service, connections=connections))
        await made.set_hours(made.instructors[0], 10 * 60, 11 * 60)
        await made.set_hours(made.instructors[1], days=[])
        yield made
    office.service.clock.ahead = timedelta(0)


def entry(school: School, student: int, **given: Any) -> pb.WaitlistEntry:
    """Wants that lesson, unless told otherwise."""
    start = morning(school)
    fields: dict[str, Any] = {
        "student_id": school.students[student].id,
        "service_id": school.lesson.id,
        "start_time": at(start),
        "end_time": at(start + HOUR),
        **given,
    }
    return pb.WaitlistEntry(**fields)


async def join(school: School, student: int = 0, **given: Any) -> pb.WaitlistEntry:
    request = pb.JoinWaitlistRequest(
        waitlist_entry=entry(school, student, **given), request_id=request_id()
    )
    return await school.bookings().JoinWaitlist(request)


async def leave(school: School, entry_id: str) -> pb.WaitlistEntry:
    return await school.bookings().LeaveWaitlist(
        pb.LeaveWaitlistRequest(waitlist_entry_id=entry_id)
    )


async def entries(school: School, **given: Any) -> list[pb.WaitlistEntry]:
    answer = await school.bookings().ListWaitlist(pb.ListWaitlistRequest(**given))
    return list(answer.waitlist_entries)


async def statuses(school: School) -> list[int]:
    return [each.status for each in await entries(school)]


async def cancel(school: School, booking_id: str) -> None:
    await school.bookings().CancelBooking(pb.CancelBookingRequest(booking_id=booking_id))


async def offered(school: School) -> list[dict[str, Any]]:
    """What was told of offers, in order."""
    return [event[3] for event in await school.events("waitlist")]


# --- join, leave, list ---------------------------------------------------------------------------


async def test_who_joins_is_listed_first_come_first_and_noted(school: School) -> None:
    joined = [await join(school, student) for student in (2, 0, 1)]
    assert await entries(school) == joined
    assert [each.status for each in joined] == [WAITING] * 3
    assert joined[0].student_id == school.students[2].id
    ((actor, action, before, after),) = await school.audit("waitlist_entry", joined[0].id)
    assert (actor, action, before) == ("office", "create", None)
    assert (after["student_id"], after["status"]) == (school.students[2].id, "waiting")


async def test_joining_again_with_the_same_request_joins_once(school: School) -> None:
    request = pb.JoinWaitlistRequest(waitlist_entry=entry(school, 0), request_id=request_id())
    first, again = [await school.bookings().JoinWaitlist(request) for _ in range(2)]
    assert first == again
    assert await entries(school) == [first]


UNKNOWN = str(uuid.uuid4())
BAD: dict[str, tuple[Refused, dict[str, Any]]] = {
    "an unknown student": (("NOT_FOUND", "STUDENT_NOT_FOUND"), {"student_id": UNKNOWN}),
    "an unknown lesson type": (("NOT_FOUND", "SERVICE_NOT_FOUND"), {"service_id": UNKNOWN}),
    "an unknown instructor": (
        ("NOT_FOUND", "INSTRUCTOR_NOT_FOUND"),
        {"instructor_id": UNKNOWN},
    ),
    "no student": (("INVALID_ARGUMENT", "INVALID_REQUEST"), {"student_id": ""}),
    "an id that is none": (("INVALID_ARGUMENT", "INVALID_REQUEST"), {"service_id": "x"}),
    "no start": (("INVALID_ARGUMENT", "INVALID_REQUEST"), {"start_time": None}),
}


@pytest.mark.parametrize("what", BAD)
async def test_nobody_joins_for(school: School, what: str) -> None:
    expected, given = BAD[what]
    assert await reason_of(join(school, **given)) == expected
    assert await entries(school) == []


async def test_times_that_make_no_sense_are_refused(school: School) -> None:
    start = morning(school)
    past = school.service.clock() - timedelta(days=1)
    for begins, ends, reason in (
        (start, start, "END_BEFORE_START"),
        (start, start - HOUR, "END_BEFORE_START"),
        (start, start + timedelta(days=63), "SEARCH_RANGE_TOO_LONG"),
        (past - HOUR, past, "START_TIME_IN_PAST"),
    ):
        call = join(school, start_time=at(begins), end_time=at(ends))
        assert await reason_of(call) == ("INVALID_ARGUMENT", reason)
    assert await entries(school) == []


async def test_what_is_anothers_is_not_found(school: School) -> None:
    other = await school.neighbour()
    for call, kind in (
        (join(school, student_id=other.students[0].id), "STUDENT"),
        (join(school, service_id=other.lesson.id), "SERVICE"),
        (join(school, instructor_id=other.instructors[0].id), "INSTRUCTOR"),
    ):
        assert await reason_of(call) == ("NOT_FOUND", f"{kind}_NOT_FOUND")
    theirs = await join(other)
    call = leave(school, theirs.id)
    assert await reason_of(call) == ("NOT_FOUND", "WAITLIST_ENTRY_NOT_FOUND")
    assert await entries(school) == []
    assert await statuses(other) == [WAITING]


async def test_an_erased_student_waits_for_nothing(school: School) -> None:
    erased = directory.EraseStudentRequest(student_id=school.students[0].id)
    await school.directory().EraseStudent(erased)
    assert await reason_of(join(school)) == ("FAILED_PRECONDITION", "STUDENT_ERASED")


async def test_a_suspended_school_lets_nobody_join_and_everybody_leave(school: School) -> None:
    waiting = await join(school)
    await school.suspend()
    assert await reason_of(join(school, 1)) == ("FAILED_PRECONDITION", "ORG_SUSPENDED")
    assert (await leave(school, waiting.id)).status == LEFT


async def test_leaving_twice_is_leaving_once(school: School) -> None:
    waiting = await join(school)
    left = await leave(school, waiting.id)
    assert left.status == LEFT
    assert await leave(school, waiting.id) == left
    actions = [row[1] for row in await school.audit("waitlist_entry", waiting.id)]
    assert actions == ["create", "leave"]


async def test_pages_of_one_status_are_the_whole_in_order(school: School) -> None:
    joined = [await join(school, n % 3) for n in range(7)]
    await leave(school, joined[3].id)
    request = pb.ListWaitlistRequest(status=WAITING, page_size=2)
    found: list[str] = []
    for _ in range(10):
        page = await school.bookings().ListWaitlist(request)
        found += [each.id for each in page.waitlist_entries]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert found == [each.id for each in joined if each.id != joined[3].id]
    assert [each.id for each in await entries(school, status=LEFT)] == [joined[3].id]


# --- the offer -----------------------------------------------------------------------------------


async def test_a_cancelled_lesson_is_held_for_who_came_first(school: School, office: Swept) -> None:
    taken = await lives.confirmed(school)
    first, second = [await join(school, student) for student in (1, 2)]
    await office.sweep(school)
    assert await statuses(school) == [WAITING, WAITING]
    await cancel(school, taken.id)
    await office.sweep(school)
    assert await statuses(school) == [OFFERED, WAITING]
    (told,) = await offered(school)
    assert (told["entry_id"], told["student_id"]) == (first.id, school.students[1].id)
    booking = await school.bookings().GetBooking(
        pb.GetBookingRequest(booking_id=told["booking_id"])
    )
    assert (booking.status, booking.student_id) == (pb.BOOKING_STATUS_HELD, first.student_id)
    assert booking.start_time == second.start_time
    assert (await entries(school))[0].booking_id == booking.id


async def test_an_offer_is_a_hold_of_the_schools_hold_time(school: School, office: Swept) -> None:
    await join(school)
    before = school.service.clock()
    await office.sweep(school)
    held = await _offered_booking(school)
    expires = held.hold_expire_time.ToDatetime(UTC)
    assert before + HOLD <= expires <= school.service.clock() + HOLD
    kinds = [event[0] for event in await school.events("booking")]
    assert kinds == ["booking.held"]
    call = lives.held(school, student=school.students[1])
    assert await reason_of(call) == ("ABORTED", "SLOT_TAKEN")


async def test_an_offer_that_is_not_taken_lapses_and_the_next_one_gets_it(
    school: School, office: Swept
) -> None:
    first, second = [await join(school, student) for student in (1, 2)]
    await office.sweep(school)
    expired = await _offered_booking(school)
    school.service.clock.ahead += HOLD - timedelta(seconds=5)
    await office.sweep(school)
    assert await statuses(school) == [OFFERED, WAITING]
    school.service.clock.ahead += timedelta(seconds=6)
    await office.sweep(school)
    assert await statuses(school) == [LAPSED, OFFERED]
    assert [told["entry_id"] for told in await offered(school)] == [first.id, second.id]
    audited = [entry[:2] for entry in await school.audit("waitlist_entry", first.id)]
    assert audited == [("office", "create"), ("booking", "offer"), ("booking", "lapse")]
    kinds = [event[:2] for event in await school.events("booking")]
    assert kinds[:2] == [("booking.held", expired.id), ("booking.expired", expired.id)]


async def test_an_offer_that_is_called_off_goes_to_the_next(school: School, office: Swept) -> None:
    for student in (1, 2):
        await join(school, student)
    await office.sweep(school)
    await cancel(school, (await _offered_booking(school)).id)
    await office.sweep(school)
    assert await statuses(school) == [LAPSED, OFFERED]


async def test_confirming_the_offer_is_accepting_it(school: School, office: Swept) -> None:
    for student in (1, 2):
        await join(school, student)
    await office.sweep(school)
    held = await _offered_booking(school)
    request = pb.ConfirmBookingRequest(booking_id=held.id)
    await school.bookings().ConfirmBooking(request)
    assert await statuses(school) == [ACCEPTED, WAITING]
    school.service.clock.ahead += HOLD * 2
    await office.sweep(school)
    assert await statuses(school) == [ACCEPTED, WAITING]


async def test_to_leave_twice_by_one_request_has_one_answer(school: School) -> None:
    entry = await join(school)
    request = pb.LeaveWaitlistRequest(waitlist_entry_id=entry.id, request_id=request_id())
    first, again = [await school.bookings().LeaveWaitlist(request) for _ in range(2)]
    assert first == again
    other = pb.LeaveWaitlistRequest(waitlist_entry_id=str(uuid.uuid4()))
    other.request_id = request.request_id
    call = school.bookings().LeaveWaitlist(other)
    assert await reason_of(call) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_who_left_is_offered_nothing(school: School, office: Swept) -> None:
    first, _ = [await join(school, student) for student in (1, 2)]
    await leave(school, first.id)
    await office.sweep(school)
    assert await statuses(school) == [LEFT, OFFERED]


async def test_who_leaves_with_an_offer_keeps_the_hold_until_it_expires(
    school: School, office: Swept
) -> None:
    first, _ = [await join(school, student) for student in (1, 2)]
    await office.sweep(school)
    left = await leave(school, first.id)
    assert left.booking_id
    await office.sweep(school)
    assert await statuses(school) == [LEFT, WAITING]
    school.service.clock.ahead += HOLD + timedelta(seconds=1)
    await office.sweep(school)
    assert await statuses(school) == [LEFT, OFFERED]


async def test_who_has_another_lesson_then_is_passed_over(school: School, office: Swept) -> None:
    await school.set_hours(school.instructors[1], 9 * 60, 12 * 60)
    await lives.confirmed(school, instructor=school.instructors[1], student=school.students[1])
    only_first = {"instructor_id": school.instructors[0].id}
    for student in (1, 2):
        await join(school, student, **only_first)
    await office.sweep(school)
    assert await statuses(school) == [WAITING, OFFERED]


async def test_nobody_is_offered_another_instructor_than_the_one_wanted(
    school: School, office: Swept
) -> None:
    await join(school, 1, instructor_id=school.instructors[1].id)
    await office.sweep(school)
    assert await statuses(school) == [WAITING]
    await school.set_hours(school.instructors[1], 10 * 60, 11 * 60)
    await office.sweep(school)
    assert (await _offered_booking(school)).instructor_id == school.instructors[1].id


async def test_waiting_ends_with_the_times_that_were_wanted(school: School, office: Swept) -> None:
    await school.set_hours(school.instructors[0], days=[])
    await join(school)
    school.service.clock.set(morning(school) + HOUR - timedelta(seconds=5))
    await office.sweep(school)
    assert await statuses(school) == [WAITING]
    school.service.clock.ahead += timedelta(seconds=6)
    await office.sweep(school)
    assert await statuses(school) == [LAPSED]


async def test_a_suspended_school_offers_nothing(school: School, office: Swept) -> None:
    await join(school)
    await school.suspend()
    await office.sweep(school)
    assert await statuses(school) == [WAITING]
    assert await offered(school) == []


async def test_two_leaders_at_once_offer_a_slot_once(school: School, office: Swept) -> None:
    for student in (1, 2):
        await join(school, student)
    await asyncio.gather(*(office.sweep(school) for _ in range(4)))
    assert await statuses(school) == [OFFERED, WAITING]
    assert len(await offered(school)) == 1


async def test_those_who_cannot_be_served_keep_nobody_from_a_slot(
    school: School, office: Swept
) -> None:
    start = morning(school, days_ahead=5, hour=15)
    _crowd(school, sweeps.ENTRIES_A_PAGE + 1, start)
    last = await join(school, 1)
    await office.sweep(school)
    assert [told["entry_id"] for told in await offered(school)] == [last.id]


CROWD = """
INSERT INTO booking."WaitlistEntry" ("orgId", "studentId", "serviceId", "startAt", "endAt")
SELECT %(org_id)s, %(student_id)s, %(service_id)s, %(start)s, %(start)s + make_interval(hours => 1)
  FROM generate_series(1, %(count)s)
"""


def _crowd(school: School, count: int, start: datetime) -> None:
    """So many entries of one student, for a time."""
    parameters = {
        "org_id": school.org_id,
        "student_id": school.students[0].id,
        "service_id": school.lesson.id,
        "start": start,
        "count": count,
    }
    administer(school, CROWD, parameters)


async def _offered_booking(school: School) -> pb.Booking:
    (waiting,) = await entries(school, status=OFFERED)
    request = pb.GetBookingRequest(booking_id=waiting.booking_id)
    return await school.bookings().GetBooking(request)
