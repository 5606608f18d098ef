"""Statements about what instructors were paid out, which payments tells of."""

from __future__ import annotations

import uuid
from pathlib import Path

from libs import queries
from libs.pooling import Connection

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "earnings.sql")


async def add_earning(
    conn: Connection, org_id: uuid.UUID, instructor_id: uuid.UUID, cents: int, currency: str
) -> bool:
    """Whether the school has the instructor; minor units of an ISO 4217 currency."""
    parameters = {
        "org_id": org_id,
        "instructor_id": instructor_id,
        "cents": cents,
        "currency": currency,
    }
    return await (await conn.execute(SQL.add_earning, parameters)).fetchone() is not None
