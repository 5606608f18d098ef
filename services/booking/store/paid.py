"""Statements about bookings that were paid."""

from __future__ import annotations

import uuid
from pathlib import Path

from libs import queries
from libs.pooling import Connection
from services.booking.model.bookings import Booking
from services.booking.store.booking_row import COLUMNS, booking

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "paid.sql")


async def limit_lock_wait(conn: Connection, timeout_ms: int) -> None:
    await conn.send(SQL.limit_lock_wait, {"timeout_ms": str(timeout_ms)})


async def raise_booking_version(
    conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID
) -> Booking:
    parameters = {"org_id": org_id, "booking_id": booking_id}
    cursor = await conn.execute(SQL.select("raise_booking_version", COLUMNS), parameters)
    (row,) = await cursor.fetchall()
    return booking(row)


async def was_confirmed(conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID) -> bool:
    parameters = {"org_id": org_id, "booking_id": booking_id}
    row = await (await conn.execute(SQL.was_confirmed, parameters)).fetchone()
    return row is not None and bool(row[0])


async def begin_retake(conn: Connection) -> None:
    await conn.execute(SQL.begin_retake)


async def undo_retake(conn: Connection) -> None:
    await conn.execute(SQL.undo_retake)


async def end_retake(conn: Connection) -> None:
    await conn.execute(SQL.end_retake)
