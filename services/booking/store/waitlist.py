"""Statements of the waitlist."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.booking.model.waitlist import WaitlistEntry

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "waitlist.sql")
COLUMNS = (
    "id",
    '"studentId"',
    '"serviceId"',
    '"instructorId"',
    '"startAt"',
    '"endAt"',
    "status",
    '"bookingId"',
    "version",
    '"createdAt"',
)
# API path -> SQL, of what is read to be told.
PATHS = {
    "id": "id",
    "student_id": '"studentId"',
    "service_id": '"serviceId"',
    "instructor_id": '"instructorId"',
    "start_time": '"startAt"',
    "end_time": '"endAt"',
    "status": "status",
    "booking_id": '"bookingId"',
    "create_time": '"createdAt"',
}
ALL = tuple(PATHS)


async def join_waitlist(
    conn: Connection,
    org_id: uuid.UUID,
    *,
    student_id: uuid.UUID,
    service_id: uuid.UUID,
    instructor_id: uuid.UUID | None,
    start_at: datetime,
    end_at: datetime,
) -> WaitlistEntry:
    parameters = {
        "org_id": org_id,
        "student_id": student_id,
        "service_id": service_id,
        "instructor_id": instructor_id,
        "start_at": start_at,
        "end_at": end_at,
    }
    (entry,) = await _entries(conn, "join_waitlist", parameters)
    return entry


async def lock_waitlist_entry(
    conn: Connection, org_id: uuid.UUID, entry_id: uuid.UUID
) -> WaitlistEntry | None:
    parameters = {"org_id": org_id, "entry_id": entry_id}
    found = await _entries(conn, "lock_waitlist_entry", parameters)
    return found[0] if found else None


async def set_waitlist_status(
    conn: Connection,
    org_id: uuid.UUID,
    entry: WaitlistEntry,
    status: str,
    booking_id: uuid.UUID | None = None,
) -> WaitlistEntry | None:
    parameters = {
        "org_id": org_id,
        "entry_id": entry.id,
        "seen": entry.status,
        "status": status,
        "booking_id": booking_id,
    }
    found = await _entries(conn, "set_waitlist_status", parameters)
    return found[0] if found else None


async def list_waitlist(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    after_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    parameters = {"org_id": org_id, "after_id": after_id, "limit": limit}
    return await _page(conn, "list_waitlist", paths, parameters)


async def list_waitlist_with_status(
    conn: Reader,
    org_id: uuid.UUID,
    status: str,
    *,
    after_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    parameters = {"org_id": org_id, "status": status, "after_id": after_id, "limit": limit}
    return await _page(conn, "list_waitlist_with_status", paths, parameters)


async def find_waiting(
    conn: Reader, org_id: uuid.UUID, *, after_id: uuid.UUID, limit: int
) -> list[WaitlistEntry]:
    parameters = {"org_id": org_id, "after_id": after_id, "limit": limit}
    return await _entries(conn, "find_waiting", parameters)


async def work_of_sweep(conn: Reader, org_id: uuid.UUID, now: datetime) -> tuple[bool, bool]:
    parameters = {"org_id": org_id, "now": now}
    row = await (await conn.execute(SQL.work_of_sweep, parameters)).fetchone()
    return (False, False) if row is None else (row[0], row[1])


async def lapse_waitlist(conn: Connection, org_id: uuid.UUID, now: datetime) -> list[WaitlistEntry]:
    return await _entries(conn, "lapse_waitlist", {"org_id": org_id, "now": now})


async def _page(
    conn: Reader, name: str, paths: tuple[str, ...], parameters: dict[str, Any]
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    query = SQL.select(name, (*masks.columns(PATHS, paths), "id"))
    return await (await conn.execute(query, parameters)).fetchall()


async def _entries(conn: Reader, name: str, parameters: dict[str, Any]) -> list[WaitlistEntry]:
    cursor = await conn.execute(SQL.select(name, COLUMNS), parameters)
    return [WaitlistEntry(*row) for row in await cursor.fetchall()]
