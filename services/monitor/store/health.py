"""Statements about kept reports."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from libs import queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.model.checks import Check, Report

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "health.sql")
# API path -> column; time and id come along for the page token.
FIELDS = {
    "id": "id::text",
    "status": "status",
    "checks": "checks",
    "time": "at",
    "duration_ms": '"durationMs"',
}
LIGHT = ("id", "status", "time", "duration_ms")
FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
LAST_ID = uuid.UUID(int=2**128 - 1)


async def keep_report(conn: Connection, report: Report) -> str:
    parameters = {
        "at": report.at,
        "status": report.status.value,
        "checks": Jsonb([_kept(check) for check in report.checks]),
        "duration_ms": report.duration_ms,
    }
    row = await (await conn.execute(SQL.keep_report, parameters)).fetchone()
    return "" if row is None else str(row[0])


async def last_report_at(conn: Reader, now: datetime) -> datetime | None:
    row = await (await conn.execute(SQL.last_report_at, {"now": now})).fetchone()
    return None if row is None else row[0]


async def list_reports(
    conn: Reader,
    period: tuple[datetime, datetime],
    before: tuple[datetime, uuid.UUID],
    limit: int,
    paths: Sequence[str],
) -> list[dict[str, Any]]:
    """Rows by path; `id` and `time` are always there."""
    asked = tuple(dict.fromkeys((*paths, "id", "time")))
    query = SQL.select("list_reports", tuple(FIELDS[path] for path in asked))
    parameters = {
        "at_from": period[0],
        "at_to": period[1],
        "before_at": before[0],
        "before_id": before[1],
        "limit": limit,
    }
    cursor = await conn.execute(query, parameters)
    return [dict(zip(asked, row, strict=True)) for row in await cursor.fetchall()]


async def forget_reports(conn: Connection, before: datetime) -> int:
    return (await conn.execute(SQL.forget_reports, {"before": before})).rowcount


def _kept(check: Check) -> dict[str, Any]:
    """What is kept of a check: all that was said then, by the names of the API."""
    return {
        "name": check.question.name,
        "title": check.question.title,
        "verdict": check.verdict.value,
        "figure": check.figure,
        "unit": check.question.unit,
        "threshold": check.threshold,
        "summary": check.summary,
        "why": check.question.why,
        "next_step": check.question.next_step,
        "command": check.question.command,
        "evidence": list(check.evidence),
        "duration_ms": round(check.duration_ms, 3),
    }
