"""One function per statement of queries/privacy.sql, of the same name; rows come back typed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import queries
from libs.pooling import Connection
from services.booking.model.bookings import Booking
from services.booking.model.directory import ERASED_NAME, Student
from services.booking.model.waitlist import WaitlistEntry
from services.booking.store import booking_row
from services.booking.store import waitlist as waitlist_store
from services.booking.store.audit import AuditEntry
from services.booking.store.directory import STUDENT_FIELDS

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "privacy.sql")
Values = dict[str, Any] | None
"""Of an audit entry: a JSON object."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer kept for a request id."""

    subject: str
    method: str
    request_id: uuid.UUID
    response: bytes


async def bookings_of_student(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID, limit: int
) -> list[Booking]:
    cursor = await conn.execute(
        SQL.select("bookings_of_student", booking_row.COLUMNS),
        {"org_id": org_id, "student_id": student_id, "limit": limit},
    )
    return [booking_row.booking(row) for row in await cursor.fetchall()]


async def waitlist_of_student(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID, limit: int
) -> list[WaitlistEntry]:
    cursor = await conn.execute(
        SQL.select("waitlist_of_student", waitlist_store.COLUMNS),
        {"org_id": org_id, "student_id": student_id, "limit": limit},
    )
    return [WaitlistEntry(*row) for row in await cursor.fetchall()]


async def audit_of_student(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID, before_id: uuid.UUID, limit: int
) -> list[AuditEntry]:
    cursor = await conn.execute(
        SQL.audit_of_student,
        {"org_id": org_id, "student_id": student_id, "before_id": before_id, "limit": limit},
    )
    return [AuditEntry(*row) for row in await cursor.fetchall()]


async def has_live_bookings(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID, now: datetime
) -> bool:
    cursor = await conn.execute(
        SQL.has_live_bookings, {"org_id": org_id, "student_id": student_id, "now": now}
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def lesson_ids_of_student(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID
) -> list[uuid.UUID]:
    return await _ids(conn, SQL.lesson_ids_of_student, org_id, student_id)


async def erase_bookings(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID
) -> list[uuid.UUID]:
    return await _ids(conn, SQL.erase_bookings, org_id, student_id)


async def erase_transitions(
    conn: Connection, org_id: uuid.UUID, booking_ids: Sequence[uuid.UUID]
) -> None:
    parameters = {"org_id": org_id, "booking_ids": list(booking_ids)}
    await conn.send(SQL.erase_transitions, parameters)


async def erase_lessons(conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID) -> None:
    await conn.send(SQL.erase_lessons, {"org_id": org_id, "student_id": student_id})


async def erase_guardians(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID
) -> list[uuid.UUID]:
    return await _ids(conn, SQL.erase_guardians, org_id, student_id)


async def unlink_guardians(conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID) -> None:
    await conn.send(SQL.unlink_guardians, {"org_id": org_id, "student_id": student_id})


async def leave_waitlists(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID
) -> list[uuid.UUID]:
    return await _ids(conn, SQL.leave_waitlists, org_id, student_id)


async def erase_audit_entries(
    conn: Connection, org_id: uuid.UUID, erased: Sequence[tuple[uuid.UUID, Values, Values]]
) -> None:
    """Each is an entry's id with its new values before and after."""
    await conn.send(
        SQL.erase_audit_entries,
        {
            "org_id": org_id,
            "ids": [id_ for id_, _, _ in erased],
            "befores": [_json(before) for _, before, _ in erased],
            "afters": [_json(after) for _, _, after in erased],
        },
    )


async def find_answers(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID
) -> list[KeptAnswer]:
    cursor = await conn.execute(SQL.find_answers, {"org_id": org_id, "student_id": student_id})
    return [
        KeptAnswer(subject, method, request_id, bytes(response))
        for subject, method, request_id, response in await cursor.fetchall()
    ]


async def replace_answer(
    conn: Connection, org_id: uuid.UUID, answer: KeptAnswer, response: bytes
) -> None:
    await conn.send(
        SQL.replace_answer,
        {
            "org_id": org_id,
            "subject": answer.subject,
            "method": answer.method,
            "request_id": answer.request_id,
            "response": response,
        },
    )


async def erase_student(
    conn: Connection,
    org_id: uuid.UUID,
    student_id: uuid.UUID,
    *,
    erased_at: datetime,
    events: int,
) -> Student:
    fields = dict(STUDENT_FIELDS.values())
    cursor = await conn.execute(
        SQL.select("erase_student", tuple(fields.values())),
        {
            "org_id": org_id,
            "student_id": student_id,
            "full_name": ERASED_NAME,
            "erased_at": erased_at,
            "events": events,
        },
    )
    (row,) = await cursor.fetchall()
    return Student(**dict(zip(fields, row, strict=True)))


async def _ids(
    conn: Connection, query: bytes, org_id: uuid.UUID, student_id: uuid.UUID
) -> list[uuid.UUID]:
    cursor = await conn.execute(query, {"org_id": org_id, "student_id": student_id})
    return [row[0] for row in await cursor.fetchall()]


def _json(values: Values) -> str | None:
    return None if values is None else json.dumps(values)
