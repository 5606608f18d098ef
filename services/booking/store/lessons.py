"""Statements that read lessons."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from libs import queries
from libs.orgs import Reader
from services.booking.model.bookings import Lesson
from services.booking.store.lesson_row import lesson

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "lessons.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which lessons a list has; None filters nothing."""

    before_id: uuid.UUID
    booking_id: uuid.UUID | None
    student_id: uuid.UUID | None
    instructor_id: uuid.UUID | None


async def get_lesson(conn: Reader, org_id: uuid.UUID, lesson_id: uuid.UUID) -> Lesson | None:
    cursor = await conn.execute(SQL.get_lesson, {"org_id": org_id, "lesson_id": lesson_id})
    row = await cursor.fetchone()
    return None if row is None else lesson(row)


async def list_lessons(conn: Reader, org_id: uuid.UUID, of: Filter, limit: int) -> list[Lesson]:
    return await _page(conn, SQL.list_lessons, org_id, of, limit)


async def list_lessons_of_booking(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int
) -> list[Lesson]:
    return await _page(conn, SQL.list_lessons_of_booking, org_id, of, limit)


async def list_lessons_of_student(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int
) -> list[Lesson]:
    return await _page(conn, SQL.list_lessons_of_student, org_id, of, limit)


async def list_lessons_of_instructor(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int
) -> list[Lesson]:
    return await _page(conn, SQL.list_lessons_of_instructor, org_id, of, limit)


async def _page(
    conn: Reader, query: bytes, org_id: uuid.UUID, of: Filter, limit: int
) -> list[Lesson]:
    parameters = {
        "org_id": org_id,
        "before_id": of.before_id,
        "booking_id": of.booking_id,
        "student_id": of.student_id,
        "instructor_id": of.instructor_id,
        "limit": limit,
    }
    return [lesson(row) for row in await (await conn.execute(query, parameters)).fetchall()]
