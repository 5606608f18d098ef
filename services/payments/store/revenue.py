"""The statement of the revenue report."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path

from libs import queries
from libs.orgs import Reader
from services.payments.model.revenue import DAYS, MONTHS, TICK, Bucket, first_moment

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "revenue.sql")


async def revenue(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    from_at: datetime,
    to_at: datetime,
    bucket: str,
    zone: str,
    currency: str,
) -> list[Bucket]:
    parameters = {
        "org_id": org_id,
        "from_at": from_at,
        "to_at": to_at,
        "last_at": to_at - TICK,
        "bucket": bucket,
        "days": DAYS[bucket],
        "months": MONTHS[bucket],
        "zone": zone,
        "currency": currency,
    }
    rows = await (await conn.execute(SQL.revenue, parameters)).fetchall()
    return [Bucket(first_moment(day, zone), *figures) for day, *figures in rows]
