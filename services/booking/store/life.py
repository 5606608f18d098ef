"""Statements of a booking's life."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.booking.model.bookings import Booking, Lesson
from services.booking.store.booking_row import COLUMNS, booking
from services.booking.store.lesson_row import lesson

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "life.sql")
# API path -> SQL, of what is read to be told.
TRANSITION_PATHS = {
    "from_status": '"fromStatus"',
    "to_status": '"toStatus"',
    "actor": "actor",
    "reason": "reason",
    "time": "at",
}


async def find_booking(conn: Reader, org_id: uuid.UUID, booking_id: uuid.UUID) -> Booking | None:
    parameters = {"org_id": org_id, "booking_id": booking_id}
    cursor = await conn.execute(SQL.select("find_booking", COLUMNS), parameters)
    row = await cursor.fetchone()
    return None if row is None else booking(row)


async def lock_booking(
    conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID
) -> Booking | None:
    parameters = {"org_id": org_id, "booking_id": booking_id}
    cursor = await conn.execute(SQL.select("lock_booking", COLUMNS), parameters)
    row = await cursor.fetchone()
    return None if row is None else booking(row)


async def confirm_booking(conn: Connection, org_id: uuid.UUID, before: Booking) -> Booking:
    return await _changed(conn, "confirm_booking", org_id, before)


async def accept_waitlist_entry(
    conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID
) -> uuid.UUID | None:
    parameters = {"org_id": org_id, "booking_id": booking_id}
    row = await (await conn.execute(SQL.accept_waitlist_entry, parameters)).fetchone()
    return None if row is None else row[0]


async def cancel_booking(
    conn: Connection,
    org_id: uuid.UUID,
    before: Booking,
    *,
    reason: str,
    refund_cents: int,
    now: datetime,
) -> Booking:
    return await _changed(
        conn, "cancel_booking", org_id, before, reason=reason, refund_cents=refund_cents, now=now
    )


async def set_booking_status(
    conn: Connection, org_id: uuid.UUID, before: Booking, to_status: str
) -> Booking:
    return await _changed(conn, "set_booking_status", org_id, before, to_status=to_status)


async def add_lesson(
    conn: Connection, org_id: uuid.UUID, started: Booking, now: datetime
) -> Lesson:
    parameters = {
        "org_id": org_id,
        "booking_id": started.id,
        "student_id": started.student_id,
        "instructor_id": started.instructor_id,
        "now": now,
    }
    (row,) = await (await conn.execute(SQL.add_lesson, parameters)).fetchall()
    return lesson(row)


async def end_lesson(
    conn: Connection,
    org_id: uuid.UUID,
    booking_id: uuid.UUID,
    *,
    rating: int | None,
    notes: str,
    now: datetime,
) -> Lesson:
    parameters = {
        "org_id": org_id,
        "booking_id": booking_id,
        "rating": rating,
        "notes": notes,
        "now": now,
    }
    (row,) = await (await conn.execute(SQL.end_lesson, parameters)).fetchall()
    return lesson(row)


async def add_transition(
    conn: Connection,
    org_id: uuid.UUID,
    booking_id: uuid.UUID,
    from_status: str | None,
    to_status: str,
    actor: str,
    reason: str,
) -> None:
    parameters = {
        "org_id": org_id,
        "booking_id": booking_id,
        "from_status": from_status,
        "to_status": to_status,
        "actor": actor,
        "reason": reason,
    }
    await conn.send(SQL.add_transition, parameters)


async def list_transitions(
    conn: Reader,
    org_id: uuid.UUID,
    booking_id: uuid.UUID,
    *,
    after_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...],
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    parameters = {
        "org_id": org_id,
        "booking_id": booking_id,
        "after_id": after_id,
        "limit": limit,
    }
    query = SQL.select("list_transitions", (*masks.columns(TRANSITION_PATHS, paths), "id"))
    return await (await conn.execute(query, parameters)).fetchall()


async def _changed(
    conn: Connection, name: str, org_id: uuid.UUID, before: Booking, **more: Any
) -> Booking:
    """The booking after the change; it is locked, so its status is still that of `before`."""
    parameters = {
        "org_id": org_id,
        "booking_id": before.id,
        "from_status": before.status,
        **more,
    }
    (row,) = await (await conn.execute(SQL.select(name, COLUMNS), parameters)).fetchall()
    return booking(row)
