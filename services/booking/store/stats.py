"""Statements about instructors' figures."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path

from libs import masks, queries
from libs.audit import PLATFORM
from libs.orgs import Reader
from libs.pooling import Connection

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "stats.sql")
REFRESH_LOCK = 0x626F6F6B_73746174
"""The advisory lock of the refresh: "bookstat"."""

# API path -> SQL, of what is read to be told.
PATHS = {
    "instructor_id": '"instructorId"',
    "display_name": '"displayName"',
    "total_bookings": '"totalBookings"',
    "completed_bookings": '"completedBookings"',
    "avg_rating": '"avgRating"',
    "total_earnings_cents": '"totalEarningsCents"::bigint',
    "currency": "currency::text",
    "refresh_time": '"refreshedAt"',
}
ALL = tuple(PATHS)


async def get_instructor_stats(
    conn: Reader, org_id: uuid.UUID, instructor_id: uuid.UUID, paths: tuple[str, ...] = ALL
) -> masks.Row | None:
    query = SQL.select("get_instructor_stats", masks.columns(PATHS, paths))
    parameters = {"org_id": org_id, "instructor_id": instructor_id}
    return await (await conn.execute(query, parameters)).fetchone()


async def list_instructor_stats(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    after_id: uuid.UUID,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    """Rows that end with refreshedAt and instructorId, behind which the next page goes on."""
    columns = (*masks.columns(PATHS, paths), '"refreshedAt"', '"instructorId"')
    parameters = {"org_id": org_id, "after_id": after_id, "limit": limit}
    query = SQL.select("list_instructor_stats", columns)
    return await (await conn.execute(query, parameters)).fetchall()


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
