"""DirectoryService: what a student may ask of the school: all it keeps, and to be forgotten."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from driveflow.booking.v1 import booking_pb2
from driveflow.booking.v1 import directory_pb2 as pb
from libs import audit, cache, calls, errors, idempotency, masks, outbox
from libs.interceptors import Context
from libs.pooling import Connection
from services.booking import guard, locks
from services.booking.messages import audit as audit_messages
from services.booking.messages import bookings as booking_messages
from services.booking.messages import directory as messages
from services.booking.messages import waitlist as waitlist_messages
from services.booking.messages.privacy import erased_answer
from services.booking.model import privacy as model
from services.booking.model.directory import GUARDIANS_MAX, Student
from services.booking.model.privacy import EXPORTED_MAX
from services.booking.servicer.desk import Desk
from services.booking.store import directory, lessons
from services.booking.store import privacy as store
from services.booking.store.directory import UUID_MAX


class Privacy:
    """ExportStudentData and EraseStudent."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ExportStudentData(
        self, request: pb.ExportStudentDataRequest, context: Context
    ) -> pb.StudentData:
        org_id = calls.org()
        student_id = uuid.UUID(request.student_id)
        async with self._desk.orgs.write(org_id) as conn:
            student = await directory.get_student(conn, org_id, student_id)
            if student is None:
                raise errors.not_found(Student.KIND, student_id)
            data = await _data(conn, org_id, student)
            await audit.record(conn, org_id, Student.KIND, student_id, "export")
        return data

    async def EraseStudent(self, request: pb.EraseStudentRequest, context: Context) -> pb.Student:
        org_id = calls.org()
        student_id = uuid.UUID(request.student_id)
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            await locks.take(conn, org_id, students=[student_id])
            answer = await idempotency.recall(conn, org_id, request, pb.Student)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            student = await directory.lock_student(conn, org_id, student_id)
            if student is None:
                raise errors.not_found(Student.KIND, student_id)
            if student.erased_at is None:
                if await store.has_live_bookings(conn, org_id, student_id, now):
                    raise model.student_has_bookings()
                student = await _erase(conn, org_id, student_id, now)
            answer = messages.student(student)
            await idempotency.remember(conn, org_id, request, answer)
        return answer


async def _data(conn: Connection, org_id: uuid.UUID, student: Student) -> pb.StudentData:
    """All that is kept of a student."""
    of_student = lessons.Filter(
        before_id=UUID_MAX, booking_id=None, student_id=student.id, instructor_id=None
    )
    of_guardians = tuple(directory.GUARDIAN_FIELDS)
    guardians = await directory.list_guardians(
        conn, org_id, student.id, GUARDIANS_MAX, of_guardians
    )
    bookings = await store.bookings_of_student(conn, org_id, student.id, EXPORTED_MAX)
    taken = await lessons.list_lessons_of_student(conn, org_id, of_student, EXPORTED_MAX)
    waits = await store.waitlist_of_student(conn, org_id, student.id, EXPORTED_MAX)
    entries = await store.audit_of_student(conn, org_id, student.id, UUID_MAX, EXPORTED_MAX)
    return pb.StudentData(
        student=messages.student(student),
        guardians=map(masks.reader(pb.Guardian, of_guardians), guardians),
        bookings=[booking_messages.booking(each) for each in bookings],
        lessons=map(masks.reader(booking_pb2.Lesson, lessons.ALL), taken),
        waitlist_entries=[waitlist_messages.entry(each) for each in waits],
        audit_entries=[audit_messages.audit_entry(each) for each in entries],
    )


async def _erase(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID, now: datetime
) -> Student:
    """Take away what names the student, everywhere; tell of it and note it."""
    lesson_ids = await store.lesson_ids_of_student(conn, org_id, student_id)
    booking_ids = await store.erase_bookings(conn, org_id, student_id)
    await store.erase_transitions(conn, org_id, booking_ids)
    await store.erase_lessons(conn, org_id, student_id)
    guardian_ids = await store.erase_guardians(conn, org_id, student_id)
    await store.unlink_guardians(conn, org_id, student_id)
    for guardian_id in guardian_ids:
        await audit.record(conn, org_id, "guardian", guardian_id, "delete")
    waits = await store.leave_waitlists(conn, org_id, student_id)
    for entry_id in waits:
        left = {"status": "left"}
        await audit.record(conn, org_id, "waitlist_entry", entry_id, "leave", after=left)
    await _erase_audit_entries(conn, org_id, student_id)
    await _erase_answers(conn, org_id, student_id, now)
    told = _batches(lesson_ids)
    student = await store.erase_student(conn, org_id, student_id, erased_at=now, events=len(told))
    await _tell(conn, org_id, student, told)
    figures = {
        "guardians": len(guardian_ids),
        "bookings": len(booking_ids),
        "lessons": len(lesson_ids),
        "waitlist_entries": len(waits),
    }
    await audit.record(conn, org_id, Student.KIND, student_id, "erase", after=figures)
    await cache.invalidate(conn, org_id, "booking", *booking_ids)
    return student


async def _erase_audit_entries(conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID) -> None:
    before_id, more = UUID_MAX, True
    while more:
        entries = await store.audit_of_student(
            conn, org_id, student_id, before_id, model.AUDIT_BATCH
        )
        erased = [
            (entry.id, model.without_person(entry.before), model.without_person(entry.after))
            for entry in entries
        ]
        await store.erase_audit_entries(conn, org_id, erased)
        more = len(entries) == model.AUDIT_BATCH
        before_id = entries[-1].id if entries else before_id


async def _erase_answers(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID, now: datetime
) -> None:
    """A repeated call must not bring back what it was answered before."""
    for answer in await store.find_answers(conn, org_id, student_id):
        response = erased_answer(answer.method, answer.response, str(student_id), now)
        await store.replace_answer(conn, org_id, answer, response)


def _batches(lesson_ids: Sequence[uuid.UUID]) -> list[list[str]]:
    """Lessons by event; one event at least."""
    texts = [str(each) for each in lesson_ids]
    size = model.LESSONS_PER_EVENT
    return [texts[start : start + size] for start in range(0, max(1, len(texts)), size)]


async def _tell(
    conn: Connection, org_id: uuid.UUID, student: Student, told: Sequence[list[str]]
) -> None:
    """One event for each batch of lessons, with rising versions that end with the student's."""
    first = student.version - len(told) + 1
    for place, lesson_ids in enumerate(told):
        payload = {"student_id": str(student.id), "lesson_ids": lesson_ids}
        version = first + place
        await outbox.emit(conn, org_id, "student", student.id, version, "student.erased", payload)
