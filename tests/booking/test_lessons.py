"""Lessons: read and listed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from driveflow.booking.v1 import booking_pb2 as pb
from services.booking.store import lessons as store
from tests.booking import calendars, lives
from tests.booking.stories import School, reason_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

LESSONS = """
INSERT INTO booking."Lesson" ("orgId", "bookingId", "studentId", "instructorId", "startedAt",
                              "endedAt", rating)
SELECT "orgId", id, "studentId", "instructorId", "startAt", "endAt", 1 + abs(hashint4(n::int)) %% 5
  FROM (SELECT b.*, row_number() OVER (ORDER BY id) AS n FROM booking."Booking" AS b
         WHERE "orgId" = %(org_id)s AND status = 'completed') AS done
"""


async def listed(school: School, **given: Any) -> pb.ListLessonsResponse:
    return await school.bookings().ListLessons(pb.ListLessonsRequest(**given))


def taught(school: School, count: int) -> None:
    """Lessons of so many bookings that took place."""
    calendars.fill(school, count, calendars.LONG_AGO, statuses=("completed",))
    calendars.administer(school, LESSONS, {"org_id": school.org_id})


async def test_a_lesson_reads_as_it_was_made(school: School) -> None:
    booking = await lives.started(school)
    (lesson,) = (await listed(school, booking_id=booking.id)).lessons
    found = await school.bookings().GetLesson(pb.GetLessonRequest(lesson_id=lesson.id))
    assert found == lesson
    assert (found.booking_id, found.booking_status) == (booking.id, pb.BOOKING_STATUS_IN_PROGRESS)


async def test_the_booking_is_joined_for_its_status_alone() -> None:
    for path in store.PATHS:
        assert ('"Booking"' in store._query("get_lesson", (path,)).decode()) == (
            path == "booking_status"
        )


async def test_what_is_not_there_or_anothers_is_not_found(school: School) -> None:
    await lives.started(school)
    (lesson,) = (await listed(school)).lessons
    neighbour = await school.neighbour()
    for of, lesson_id in ((neighbour, lesson.id), (school, str(uuid4()))):
        call = of.bookings().GetLesson(pb.GetLessonRequest(lesson_id=lesson_id))
        assert await reason_of(call) == ("NOT_FOUND", "LESSON_NOT_FOUND")
    assert not (await listed(neighbour, booking_id=lesson.booking_id)).lessons
    bad = school.bookings().GetLesson(pb.GetLessonRequest(lesson_id="7"))
    assert await reason_of(bad) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_every_combination_of_filters_finds_what_it_says(school: School) -> None:
    taught(school, 60)
    everything = list((await listed(school, page_size=1_000)).lessons)
    assert [each.id for each in everything] == sorted((x.id for x in everything), reverse=True)
    assert len(everything) == 60
    some = everything[7]
    for names in (
        [],
        ["student_id"],
        ["instructor_id"],
        ["student_id", "instructor_id"],
        ["booking_id"],
        ["booking_id", "student_id"],
        ["booking_id", "instructor_id"],
    ):
        given = {name: getattr(some, name) for name in names}
        wanted = [
            each
            for each in everything
            if all(getattr(each, name) == value for name, value in given.items())
        ]
        assert list((await listed(school, page_size=1_000, **given)).lessons) == wanted
    elsewhere = {"booking_id": some.booking_id, "student_id": str(uuid4())}
    assert not (await listed(school, **elsewhere)).lessons


async def test_lessons_come_in_pages(school: School) -> None:
    taught(school, 45)
    seen, token = [], ""
    for size in (20, 20, 5):
        page = await listed(school, page_token=token)
        token = page.next_page_token
        assert len(page.lessons) == size
        seen += [each.id for each in page.lessons]
    assert (token, len(set(seen))) == ("", 45)
    first = (await listed(school)).next_page_token
    other = listed(school, page_token=first, student_id=str(uuid4()))
    assert await reason_of(other) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
