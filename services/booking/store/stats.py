"""Statements about instructors' figures."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from libs import queries
from libs.audit import PLATFORM
from libs.orgs import Reader
from libs.pooling import Connection

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "stats.sql")
REFRESH_LOCK = 0x626F6F6B_73746174
"""The advisory lock of the refresh: "bookstat"."""


@dataclass(frozen=True, slots=True)
class InstructorStats:
    """An instructor's figures as of `refreshed_at`; money in minor units of `currency`."""

    instructor_id: uuid.UUID
    display_name: str
    total_bookings: int
    completed_bookings: int
    avg_rating: float | None
    total_earnings_cents: int
    currency: str
    refreshed_at: datetime


async def get_instructor_stats(
    conn: Reader, org_id: uuid.UUID, instructor_id: uuid.UUID
) -> InstructorStats | None:
    parameters = {"org_id": org_id, "instructor_id": instructor_id}
    row = await (await conn.execute(SQL.get_instructor_stats, parameters)).fetchone()
    return None if row is None else InstructorStats(*row)


async def list_instructor_stats(
    conn: Reader, org_id: uuid.UUID, *, after_id: uuid.UUID, limit: int
) -> list[InstructorStats]:
    parameters = {"org_id": org_id, "after_id": after_id, "limit": limit}
    cursor = await conn.execute(SQL.list_instructor_stats, parameters)
    return [InstructorStats(*row) for row in await cursor.fetchall()]


async def allow_long_refresh(conn: Connection, timeout_s: float) -> None:
    timeout_ms = str(int(timeout_s * 1_000))
    parameters = {"org_id": str(PLATFORM), "timeout_ms": timeout_ms}
    await conn.execute(SQL.allow_long_refresh, parameters)


async def last_refresh(conn: Connection) -> datetime | None:
    row = await (await conn.execute(SQL.last_refresh, {"org_id": PLATFORM})).fetchone()
    return None if row is None else row[0]


async def lock_refresh(conn: Connection) -> None:
    await conn.execute(SQL.lock_refresh, {"lock": REFRESH_LOCK})


async def refresh_instructor_stats(conn: Connection) -> None:
    await conn.execute(SQL.refresh_instructor_stats)


async def refresh_time(conn: Connection) -> datetime:
    (row,) = await (await conn.execute(SQL.refresh_time)).fetchall()
    moment: datetime = row[0]
    return moment
