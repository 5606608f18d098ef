"""Statements that read lessons."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from libs import masks, queries
from libs.orgs import Reader

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "lessons.sql")
# API path -> SQL, of what is read to be told.
PATHS = {
    "id": "l.id",
    "booking_id": 'l."bookingId"',
    "student_id": 'l."studentId"',
    "instructor_id": 'l."instructorId"',
    "booking_status": "b.status",
    "start_time": 'l."startedAt"',
    "end_time": 'l."endedAt"',
    "rating": "l.rating",
    "notes": "l.notes",
    "distance_meters": 'l."distanceMeters"',
    "trip_id": 'l."tripId"',
    "create_time": 'l."createdAt"',
    "drive_start_time": 'l."driveStartedAt"',
    "drive_end_time": 'l."driveEndedAt"',
}
ALL = tuple(PATHS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which lessons a list has; None filters nothing."""

    before_id: uuid.UUID
    booking_id: uuid.UUID | None
    student_id: uuid.UUID | None
    instructor_id: uuid.UUID | None


async def get_lesson(
    conn: Reader, org_id: uuid.UUID, lesson_id: uuid.UUID, paths: tuple[str, ...]
) -> masks.Row | None:
    query = _query("get_lesson", paths)
    return await (await conn.execute(query, {"org_id": org_id, "lesson_id": lesson_id})).fetchone()


async def list_lessons(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_lessons", org_id, of, limit, paths)


async def list_lessons_of_booking(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_lessons_of_booking", org_id, of, limit, paths)


async def list_lessons_of_student(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_lessons_of_student", org_id, of, limit, paths)


async def list_lessons_of_instructor(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_lessons_of_instructor", org_id, of, limit, paths)


async def _page(
    conn: Reader, name: str, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    parameters = {
        "org_id": org_id,
        "before_id": of.before_id,
        "booking_id": of.booking_id,
        "student_id": of.student_id,
        "instructor_id": of.instructor_id,
        "limit": limit,
    }
    return await (await conn.execute(_query(name, paths, PATHS["id"]), parameters)).fetchall()


def _query(name: str, paths: tuple[str, ...], *more: str) -> bytes:
    joins = ("booking",) if "booking_status" in paths else ()
    return SQL.select(name, (*masks.columns(PATHS, paths), *more), joins)
