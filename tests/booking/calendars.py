"""Bookings that are there without having been placed: years of them, in any state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from tests.booking.stories import School

FILL = """
INSERT INTO booking."Booking" (
  "orgId", "studentId", "instructorId", "serviceId", "startAt", "endAt", "bufferBeforeMin",
  "bufferAfterMin", status, "priceCents", "platformFeeCents", "instructorShareCents", currency)
SELECT %(org_id)s, student[1 + abs(hashint4(n)) %% cardinality(student)],
       instructor[1 + abs(hashint4(n + 1000000)) %% cardinality(instructor)], %(service_id)s,
       %(start)s + n * %(step)s, %(start)s + n * %(step)s + make_interval(hours => 1), 0, 0,
       state[1 + abs(hashint4(n + 2000000)) %% cardinality(state)], 8000, 1200, 6800, 'AUD'
  FROM generate_series(0, %(count)s - 1) AS n,
       (SELECT %(students)s::uuid[] AS student, %(instructors)s::uuid[] AS instructor,
               %(statuses)s::text[] AS state) AS given
"""
LONG_AGO = datetime(2025, 3, 1, tzinfo=UTC)
OVER = ("completed", "cancelled", "no_show", "expired", "completed")
"""Statuses that keep no time: such bookings may lie over each other."""


def fill(
    school: School,
    count: int,
    start: datetime,
    step: timedelta = timedelta(minutes=7),
    *,
    statuses: Sequence[str] = OVER,
    instructors: Sequence[str] = (),
    students: Sequence[str] = (),
) -> None:
    """`count` bookings, one every `step`, of whom and with which status as by chance."""
    parameters = {
        "org_id": school.org_id,
        "students": list(students) or [each.id for each in school.students],
        "instructors": list(instructors) or [each.id for each in school.instructors],
        "service_id": school.lesson.id,
        "start": start,
        "step": step,
        "statuses": list(statuses),
        "count": count,
    }
    administer(school, FILL, parameters)


def people(school: School, instructors: int, students: int) -> tuple[list[str], list[str]]:
    """More people than can be added one by one: their ids."""
    made = []
    for table, name, count in (
        ("Instructor", '"displayName"', instructors),
        ("Student", '"fullName"', students),
    ):
        rows = administer(
            school,
            f'INSERT INTO booking."{table}" ("orgId", {name})'
            " SELECT %(org_id)s, 'Person ' || n FROM generate_series(1, %(count)s) AS n"
            " RETURNING id::text",
            {"org_id": school.org_id, "count": count},
        )
        made.append([row[0] for row in rows])
    return made[0], made[1]


def administer(
    school: School, query: str, parameters: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """What a superuser does past the service."""
    with psycopg.connect(school.service.database.admin_dsn, autocommit=True) as connection:
        cursor = connection.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []
