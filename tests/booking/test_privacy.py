"""What a student may ask for: all that is kept, and to be forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest

from driveflow.booking.v1 import booking_pb2
from driveflow.booking.v1 import directory_pb2 as pb
from services.booking.model import privacy as model
from tests.booking import lives
from tests.booking.stories import School, at, morning, on, reason_of, request_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRETS = (
    "Zenobia",
    "+61 400 111",
    "zen@example",
    "2007-03-04",
    "dyslexic",
    "Gustav",
    "gus@example",
    "Elm Street",
    "gate 9",
    "-33.87",
    "feeling ill",
    "Stalls a lot",
)
"""What would name her; nowhere in the database once she is erased."""
EVERYWHERE = (
    "Student",
    "Guardian",
    "StudentGuardian",
    "Booking",
    "BookingTransition",
    "Lesson",
    "WaitlistEntry",
    "AuditLog",
    "Outbox",
)


async def export(school: School, student: pb.Student) -> pb.StudentData:
    request = pb.ExportStudentDataRequest(student_id=student.id)
    return await school.directory().ExportStudentData(request)


async def erase(school: School, student: pb.Student, **options: Any) -> pb.Student:
    request = pb.EraseStudentRequest(student_id=student.id, **options)
    return await school.directory().EraseStudent(request)


async def known(school: School) -> pb.Student:
    """A student of whom the school knows much: guardian, lesson, a cancelled booking, a wait."""
    zen = await school.add_student(
        "Zen", phone="+61 400 111", email="zen@example", birth_date=on(date(2007, 3, 4))
    )
    given = pb.Student(id=zen.id, full_name="Zenobia", notes="dyslexic")
    zen = await school.directory().UpdateStudent(pb.UpdateStudentRequest(student=given))
    await school.add_guardian(zen, "Gustav", email="gus@example", relationship="father")
    await wait(school, zen)
    home = booking_pb2.Place(address="Elm Street 1", lat=-33.87, lng=151.2)
    booking = await book(school, zen, 5, pickup=home, dropoff=home, notes="gate 9")
    stub = school.bookings()
    cancel = booking_pb2.CancelBookingRequest(booking_id=booking.id, reason="feeling ill")
    await stub.CancelBooking(cancel)
    done = await lives.started(school, student=zen)
    school.service.clock.set(lives.moment(done.end_time))
    ended = booking_pb2.CompleteLessonRequest(
        booking_id=done.id, rating=4, notes="Stalls a lot", request_id=request_id()
    )
    await stub.CompleteLesson(ended)
    return zen


async def book(
    school: School, student: pb.Student, days_ahead: int, **given: Any
) -> booking_pb2.Booking:
    wanted = booking_pb2.Booking(
        student_id=student.id,
        instructor_id=school.instructors[0].id,
        service_id=school.lesson.id,
        start_time=at(morning(school, days_ahead)),
        **given,
    )
    request = booking_pb2.CreateBookingRequest(booking=wanted, request_id=request_id())
    return await school.bookings().CreateBooking(request)


async def wait(school: School, student: pb.Student) -> None:
    """On the waitlist, of a lesson that nobody gives."""
    await school.rows(
        'INSERT INTO booking."WaitlistEntry" ("orgId", "studentId", "serviceId", "startAt",'
        ' "endAt") VALUES (%s, %s, %s, now(), now() + make_interval(days => 9))',
        school.org_id,
        student.id,
        school.lesson.id,
    )


async def written(school: School, tables: Sequence[str] = EVERYWHERE) -> str:
    """All rows of the school, as text."""
    found = []
    for table in tables:
        query = f'SELECT r::text FROM booking."{table}" AS r WHERE "orgId" = %s'
        found += [row[0] for row in await school.rows(query, school.org_id)]
    answers = 'SELECT response FROM booking."IdempotencyKey" WHERE "orgId" = %s'
    found += [
        bytes(row[0] or b"").decode(errors="replace")
        for row in await school.rows(answers, school.org_id)
    ]
    return "\n".join(found)


async def cached(school: School, booking: booking_pb2.Booking) -> booking_pb2.Booking:
    """The booking as the cache may have it."""
    request = booking_pb2.GetBookingRequest(booking_id=booking.id)
    return await school.bookings().GetBooking(request)


# --- export ---


async def test_an_export_has_all_that_is_kept(school: School) -> None:
    zen = await known(school)
    data = await export(school, zen)
    assert data.student == zen
    assert [guardian.full_name for guardian in data.guardians] == ["Gustav"]
    assert [booking.notes for booking in data.bookings] == ["gate 9", ""]
    assert data.bookings[0].cancel_reason == "feeling ill"
    assert [lesson.notes for lesson in data.lessons] == ["Stalls a lot"]
    assert [entry.student_id for entry in data.waitlist_entries] == [zen.id]
    kinds = {entry.entity_type for entry in data.audit_entries}
    assert {"student", "guardian", "booking"} <= kinds
    text = str(data)
    birthday = (data.student.birth_date.year, data.student.birth_date.day)
    assert birthday == (2007, 4)
    assert [secret for secret in SECRETS if secret not in text] == []


async def test_an_export_is_itself_noted_and_holds_nobody_else(school: School) -> None:
    zen, sam = await known(school), school.students[0]
    await school.add_guardian(sam, "Somebody Else")
    data = await export(school, sam)
    assert (len(data.bookings), len(data.waitlist_entries)) == (0, 0)
    assert [guardian.full_name for guardian in data.guardians] == ["Somebody Else"]
    assert zen.id not in str(data)
    _, noted = await school.audit("student", sam.id)
    assert noted == ("office", "export", None, None)
    assert "export" in [entry.action for entry in (await export(school, sam)).audit_entries]


async def test_only_students_of_the_school_are_exported_or_erased(school: School) -> None:
    theirs = (await school.neighbour()).students[0]
    for student in (theirs, pb.Student(id=str(uuid4()))):
        for call in (export(school, student), erase(school, student)):
            assert await reason_of(call) == ("NOT_FOUND", "STUDENT_NOT_FOUND")


async def test_a_suspended_school_exports_but_erases_nobody(school: School) -> None:
    await school.suspend()
    zen = school.students[0]
    assert (await export(school, zen)).student == zen
    assert await reason_of(erase(school, zen)) == ("FAILED_PRECONDITION", "ORG_SUSPENDED")


async def test_privacy_is_the_heads_of_the_school(school: School) -> None:
    stub = school.directory(scopes=("booking:read", "booking:write"))
    student_id = school.students[0].id
    for call in (
        stub.ExportStudentData(pb.ExportStudentDataRequest(student_id=student_id)),
        stub.EraseStudent(pb.EraseStudentRequest(student_id=student_id)),
    ):
        assert await reason_of(call) == ("PERMISSION_DENIED", "SCOPE_MISSING")


# --- erasure ---


async def test_nothing_names_an_erased_student_any_more(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "AUDIT_BATCH", 2)
    zen = await known(school)
    before = await written(school)
    assert [secret for secret in SECRETS if secret not in before] == []
    erased = await erase(school, zen)
    assert (erased.full_name, erased.phone, erased.email) == ("Erased student", "", "")
    assert erased.HasField("erase_time")
    assert not erased.HasField("birth_date")
    after = await written(school)
    assert [secret for secret in SECRETS if secret in after] == []


async def test_bookings_and_lessons_stay_as_figures(school: School) -> None:
    zen = await known(school)
    before = await export(school, zen)
    # So that the cache has what erasure must take out of it.
    kept = [await lives.read(school, booking) for booking in before.bookings]
    for booking in kept:
        await cached(school, booking)
    await erase(school, zen)
    after = await export(school, zen)
    for old, new in zip(before.bookings, after.bookings, strict=True):
        assert (new.price_cents, new.status, new.start_time) == (
            old.price_cents,
            old.status,
            old.start_time,
        )
        assert not new.HasField("pickup")
        assert int(new.etag) == int(old.etag) + 1
        shown = await school.bookings().GetBooking(booking_pb2.GetBookingRequest(booking_id=new.id))
        assert (shown.notes, shown.cancel_reason, shown.HasField("pickup")) == ("", "", False)
    assert [lesson.rating for lesson in after.lessons] == [4]
    assert len(after.audit_entries) > len(before.audit_entries)


async def test_the_audit_log_keeps_who_did_what_but_not_the_values(school: School) -> None:
    zen = await known(school)
    entries = await school.audit("student", zen.id)
    await erase(school, zen)
    kept = await school.audit("student", zen.id)
    assert [entry[:2] for entry in kept[:-1]] == [entry[:2] for entry in entries]
    assert kept[0][3]["full_name"] == "erased"
    assert kept[0][3].keys() == entries[0][3].keys()
    assert kept[1][2] == {"full_name": "erased", "notes": ""}
    actor, action, before, after = kept[-1]
    assert (actor, action, before) == ("office", "erase", None)
    assert after == {"guardians": 1, "bookings": 2, "lessons": 1, "waitlist_entries": 1}


async def test_a_sibling_keeps_the_guardian_whom_both_have(school: School) -> None:
    zen, sam = school.students[:2]
    shared, own = await school.add_guardian(zen, "Gia"), await school.add_guardian(zen, "Gus")
    await school.rows(
        'INSERT INTO booking."StudentGuardian" ("orgId", "studentId", "guardianId")'
        " VALUES (%s, %s, %s)",
        school.org_id,
        sam.id,
        shared.id,
    )
    await erase(school, zen)
    listed = await school.directory().ListGuardians(pb.ListGuardiansRequest(student_id=sam.id))
    assert [guardian.id for guardian in listed.guardians] == [shared.id]
    assert (await export(school, zen)).guardians == []
    assert [entry[1] for entry in await school.audit("guardian", own.id)] == ["create", "delete"]
    assert [entry[1] for entry in await school.audit("guardian", shared.id)] == ["create"]


async def test_waiting_ends_with_the_erasure(school: School) -> None:
    zen = school.students[0]
    await wait(school, zen)
    await erase(school, zen)
    (entry,) = (await export(school, zen)).waitlist_entries
    assert entry.status == booking_pb2.WAITLIST_STATUS_LEFT
    ((_, action, _, after),) = await school.audit("waitlist_entry", entry.id)
    assert (action, after) == ("leave", {"status": "left"})


@pytest.mark.parametrize("state", [lives.held, lives.requested, lives.confirmed, lives.started])
async def test_a_student_with_live_bookings_stays(school: School, state: Any) -> None:
    await state(school)
    zen = school.students[0]
    wanted = ("FAILED_PRECONDITION", "STUDENT_HAS_BOOKINGS")
    assert await reason_of(erase(school, zen)) == wanted
    assert (await export(school, zen)).student == zen


async def test_a_student_is_either_booked_or_erased(school: School) -> None:
    """Both take the student's lock: neither judges by what the other is about to change."""
    for student in school.students:
        booked, erased = await asyncio.gather(
            book(school, student, 3), erase(school, student), return_exceptions=True
        )
        was_booked = not isinstance(booked, BaseException)
        assert was_booked == isinstance(erased, BaseException)
        found = await export(school, student)
        assert len(found.bookings) == was_booked
        assert found.student.HasField("erase_time") != was_booked
        if isinstance(booked, booking_pb2.Booking):
            cancel = booking_pb2.CancelBookingRequest(booking_id=booked.id)
            await school.bookings().CancelBooking(cancel)


async def test_a_hold_that_is_overdue_is_not_in_the_way(school: School) -> None:
    booking = await lives.held(school)
    school.service.clock.ahead += timedelta(minutes=31)
    assert (await erase(school, school.students[0])).HasField("erase_time")
    assert (await export(school, school.students[0])).bookings[0].id == booking.id


async def test_others_hear_of_it_with_the_lessons_that_are_concerned(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "LESSONS_PER_EVENT", 1)
    first = await lives.completed(school, morning(school, 3))
    second = await lives.completed(school, morning(school, 4))
    zen = school.students[0]
    erased = await erase(school, zen)
    events = await school.events("student")
    lessons = await school.rows(
        'SELECT id::text FROM booking."Lesson" WHERE "bookingId" IN (%s, %s) ORDER BY id',
        first.id,
        second.id,
    )
    assert events == [
        ("student.erased", zen.id, 2, {"student_id": zen.id, "lesson_ids": [lessons[0][0]]}),
        ("student.erased", zen.id, 3, {"student_id": zen.id, "lesson_ids": [lessons[1][0]]}),
    ]
    assert erased.etag == "3"


async def test_a_student_without_lessons_is_told_of_too(school: School) -> None:
    zen = school.students[0]
    await erase(school, zen)
    told = {"student_id": zen.id, "lesson_ids": []}
    assert await school.events("student") == [("student.erased", zen.id, 2, told)]


async def test_erasing_an_erased_student_changes_nothing(school: School) -> None:
    zen = school.students[0]
    calls = (erase(school, zen) for _ in range(3))
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    assert await erase(school, zen, request_id=request_id()) == answers[0]
    assert len(await school.events("student")) == 1
    assert len(await school.audit("student", zen.id)) == 2


async def test_nothing_about_an_erased_student_can_change(school: School) -> None:
    zen = school.students[0]
    await erase(school, zen)
    wanted = ("FAILED_PRECONDITION", "STUDENT_ERASED")
    given = pb.UpdateStudentRequest(student=pb.Student(id=zen.id, phone="1"))
    assert await reason_of(school.directory().UpdateStudent(given)) == wanted
    assert await reason_of(school.add_guardian(zen)) == wanted
    assert await reason_of(lives.held(school)) == wanted
    listed = await school.directory().ListStudents(pb.ListStudentsRequest())
    assert zen.id not in [student.id for student in listed.students]


async def test_a_repeated_call_does_not_bring_an_erased_student_back(school: School) -> None:
    wanted = pb.Student(full_name="Zenobia", phone="1")
    request = pb.CreateStudentRequest(student=wanted, request_id=request_id())
    stub = school.directory()
    zen = await stub.CreateStudent(request)
    change = pb.UpdateStudentRequest(
        student=pb.Student(id=zen.id, phone="2"), request_id=request_id()
    )
    await stub.UpdateStudent(change)
    erased = await erase(school, zen)
    for call in (stub.CreateStudent(request), stub.UpdateStudent(change)):
        assert await reason_of(call) == ("FAILED_PRECONDITION", "STUDENT_ERASED")
    found = await stub.GetStudent(pb.GetStudentRequest(student_id=zen.id))
    assert found == erased


async def test_answers_about_other_students_stay_as_they_are(school: School) -> None:
    zen, sam = school.students[:2]
    request = pb.CreateGuardianRequest(
        guardian=pb.Guardian(student_id=sam.id, full_name="Gus"), request_id=request_id()
    )
    stub = school.directory()
    first = await stub.CreateGuardian(request)
    await erase(school, zen)
    assert await stub.CreateGuardian(request) == first


async def test_a_batch_of_bookings_is_answered_again_without_the_erased_one(
    school: School,
) -> None:
    wanted = [
        booking_pb2.Booking(
            student_id=student.id,
            instructor_id=school.instructors[0].id,
            service_id=school.lesson.id,
            start_time=at(morning(school, days_ahead)),
            notes=f"for {student.full_name}",
        )
        for days_ahead, student in enumerate(school.students[:2], start=3)
    ]
    request = booking_pb2.BatchCreateBookingsRequest(bookings=wanted, request_id=request_id())
    made = await school.bookings().BatchCreateBookings(request)
    for booking in made.bookings:
        cancel = booking_pb2.CancelBookingRequest(booking_id=booking.id)
        await school.bookings().CancelBooking(cancel)
    await erase(school, school.students[0])
    again = await school.bookings().BatchCreateBookings(request)
    assert [booking.notes for booking in again.bookings] == ["", "for Student 2"]
    assert [booking.id for booking in again.bookings] == [booking.id for booking in made.bookings]


# --- the values that go ---


async def test_what_is_not_known_to_be_a_figure_goes() -> None:
    values = {
        "student_id": "7",
        "price_cents": 8_000,
        "status": "held",
        "start_time": "2030-01-01",
        "notes": "shy",
        "empty": "",
        "nothing": None,
        "lat": -33.8,
        "birth_date": "2007-03-04",
        "pickup": {"address": "Elm Street", "lat": 1.5},
        "texts": ["a", {"name": "b", "lesson_id": "8"}],
    }
    assert model.without_person(values) == {
        "student_id": "7",
        "price_cents": 8_000,
        "status": "held",
        "start_time": "2030-01-01",
        "notes": "erased",
        "empty": "",
        "nothing": None,
        "lat": "erased",
        "birth_date": "erased",
        "pickup": {"address": "erased", "lat": "erased"},
        "texts": ["erased", {"name": "erased", "lesson_id": "8"}],
    }
    assert model.without_person(None) is None
