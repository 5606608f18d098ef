"""Statements that place, move and expire bookings."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from psycopg.types.json import Jsonb

from libs import queries
from libs.pooling import Connection
from services.booking import telling
from services.booking.model.bookings import Booking
from services.booking.model.placing import Parties
from services.booking.store.booking_row import COLUMNS, booking

Expired: TypeAlias = tuple[Booking, Booking]
"""A booking before and after it expired."""
SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "placing.sql")


async def place_bookings(
    conn: Connection, org_id: uuid.UUID, placed: Sequence[tuple[str, Booking]]
) -> None:
    """Bookings, each with who makes it."""
    rows = [_row(actor, booking) for actor, booking in placed]
    parameters = {"org_id": org_id, "bookings": Jsonb(rows)}
    await conn.send(SQL.place_bookings, parameters)


async def expire_overdue(
    conn: Connection, org_id: uuid.UUID, parties: Parties, now: datetime
) -> list[Expired]:
    parameters = {
        "org_id": org_id,
        "now": now,
        "instructor_ids": parties.instructor_ids,
        "vehicle_ids": parties.vehicle_ids,
        "student_ids": parties.student_ids,
    }
    cursor = await conn.execute(SQL.select("expire_overdue", COLUMNS), parameters)
    return [_expired(row) for row in await cursor.fetchall()]


async def expire_holds(
    conn: Connection, org_id: uuid.UUID, now: datetime, limit: int
) -> list[Expired]:
    parameters = {"org_id": org_id, "now": now, "limit": limit}
    cursor = await conn.execute(SQL.select("expire_holds", COLUMNS), parameters)
    return [_expired(row) for row in await cursor.fetchall()]


async def move_booking(conn: Connection, org_id: uuid.UUID, moved: Booking) -> Booking:
    parameters = {
        "org_id": org_id,
        "booking_id": moved.id,
        "instructor_id": moved.instructor_id,
        "vehicle_id": moved.vehicle_id,
        "start_at": moved.start_at,
        "end_at": moved.end_at,
        "buffer_before_min": moved.buffer_before_min,
        "buffer_after_min": moved.buffer_after_min,
    }
    cursor = await conn.execute(SQL.select("move_booking", COLUMNS), parameters)
    (row,) = await cursor.fetchall()
    return booking(row)


def _expired(row: tuple[Any, ...]) -> Expired:
    *columns, status = row
    after = booking(tuple(columns))
    return dataclasses.replace(after, status=status, version=after.version - 1), after


def _row(actor: str, placed: Booking) -> dict[str, Any]:
    return {
        "actor": actor,
        "id": str(placed.id),
        "student_id": str(placed.student_id),
        "instructor_id": str(placed.instructor_id),
        "service_id": str(placed.service_id),
        "vehicle_id": None if placed.vehicle_id is None else str(placed.vehicle_id),
        "start_at": placed.start_at.isoformat(),
        "end_at": placed.end_at.isoformat(),
        "buffer_before_min": placed.buffer_before_min,
        "buffer_after_min": placed.buffer_after_min,
        "status": placed.status,
        "hold_expires_at": None
        if placed.hold_expires_at is None
        else placed.hold_expires_at.isoformat(),
        "price_cents": placed.price_cents,
        "platform_fee_cents": placed.platform_fee_cents,
        "instructor_share_cents": placed.instructor_share_cents,
        "currency": placed.currency,
        "pickup_address": placed.pickup.address,
        "pickup_lat": placed.pickup.lat,
        "pickup_lng": placed.pickup.lng,
        "dropoff_address": placed.dropoff.address,
        "dropoff_lat": placed.dropoff.lat,
        "dropoff_lng": placed.dropoff.lng,
        "notes": placed.notes,
        "series_id": None if placed.series_id is None else str(placed.series_id),
        "told": telling.payload(placed),
        "audited": telling.audited(placed),
    }
