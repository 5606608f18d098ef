"""Statements about the drives of a lesson, which tracking tells of."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path

from libs import queries
from libs.pooling import Connection

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "drives.sql")


async def keep_drive(
    conn: Connection,
    org_id: uuid.UUID,
    lesson_id: uuid.UUID,
    trip_id: uuid.UUID,
    *,
    version: int,
    distance_meters: float,
    started_at: datetime,
    ended_at: datetime,
) -> bool:
    """Whether it was kept."""
    parameters = {
        "org_id": org_id,
        "lesson_id": lesson_id,
        "trip_id": trip_id,
        "version": version,
        "distance_meters": distance_meters,
        "started_at": started_at,
        "ended_at": ended_at,
    }
    return await (await conn.execute(SQL.keep_drive, parameters)).fetchone() is not None


async def add_up_drives(conn: Connection, org_id: uuid.UUID, lesson_id: uuid.UUID) -> None:
    await conn.send(SQL.add_up_drives, {"org_id": org_id, "lesson_id": lesson_id})
