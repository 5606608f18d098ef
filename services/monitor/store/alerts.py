"""Statements about alerts and what is told of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from libs import queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.model.alerts import Alert, Kind, State
from services.monitor.model.checks import Verdict

SQL = queries.load("monitor", Path(__file__).parents[1] / "queries" / "alerts.sql")
ADVISORY_LOCK = 0x616C65727473  # "alerts"
COLUMNS = (
    "id::text",
    "rule",
    "state",
    "severity",
    "summary",
    "figure",
    "threshold",
    "unit",
    "evidence",
    '"nextStep"',
    "command",
    '"startedAt"',
    '"firedAt"',
    '"clearAt"',
    '"resolvedAt"',
    "muted",
    "told",
    '"acknowledgedBy"',
    '"acknowledgedAt"',
    "note",
    "version",
)
PAUSE_S = 30.0
"""After the first attempt; doubled after each."""
PAUSE_S_MAX = 3_600.0


@dataclass(frozen=True, slots=True)
class Notification:
    """What the webhook is told, and which attempt this is."""

    id: str
    kind: str
    payload: Mapping[str, Any]
    attempt: int


async def lock_alerting(conn: Connection) -> None:
    await conn.execute(SQL.lock_alerting, {"lock": ADVISORY_LOCK})


async def unresolved_alerts(conn: Reader) -> dict[str, Alert]:
    """By rule."""
    cursor = await conn.execute(SQL.select("unresolved_alerts", COLUMNS))
    return {row[1]: _alert(row) for row in await cursor.fetchall()}


async def add_alert(conn: Connection, alert: Alert) -> Alert:
    cursor = await conn.execute(SQL.select("add_alert", COLUMNS), _parameters(alert))
    return _alert(_one(await cursor.fetchone()))


async def update_alert(conn: Connection, alert: Alert) -> Alert:
    cursor = await conn.execute(SQL.select("update_alert", COLUMNS), _parameters(alert))
    return _alert(_one(await cursor.fetchone()))


async def drop_pending(conn: Connection, id_: str) -> None:
    await conn.send(SQL.drop_pending, {"id": id_})


async def list_alerts(
    conn: Reader, state: State | None, rule: str, before: tuple[datetime, uuid.UUID], limit: int
) -> list[Alert]:
    parameters = {
        "state": "" if state is None else state.value,
        "rule": rule,
        "before_at": before[0],
        "before_id": before[1],
        "limit": limit,
    }
    cursor = await conn.execute(SQL.select("list_alerts", COLUMNS), parameters)
    return [_alert(row) for row in await cursor.fetchall()]


async def watched_alerts(conn: Reader, lately_s: float) -> list[Alert]:
    cursor = await conn.execute(SQL.select("watched_alerts", COLUMNS), {"lately_s": lately_s})
    return [_alert(row) for row in await cursor.fetchall()]


async def lock_alert(conn: Connection, id_: str) -> Alert | None:
    row = await (await conn.execute(SQL.select("lock_alert", COLUMNS), {"id": id_})).fetchone()
    return None if row is None else _alert(row)


async def acknowledge_alert(conn: Connection, id_: str, by: str, at: datetime, note: str) -> Alert:
    parameters = {"id": id_, "by": by, "at": at, "note": note}
    cursor = await conn.execute(SQL.select("acknowledge_alert", COLUMNS), parameters)
    return _alert(_one(await cursor.fetchone()))


async def add_notification(
    conn: Connection, alert_id: str, kind: Kind, payload: Mapping[str, Any], at: datetime
) -> None:
    parameters = {
        "alert_id": alert_id,
        "kind": kind.value,
        "payload": Jsonb(dict(payload)),
        "at": at,
    }
    await conn.send(SQL.add_notification, parameters)


async def claim_notifications(conn: Connection, now: datetime, limit: int) -> list[Notification]:
    parameters = {
        "now": now,
        "limit": limit,
        "pause_s": PAUSE_S,
        "pause_s_max": PAUSE_S_MAX,
    }
    cursor = await conn.execute(SQL.claim_notifications, parameters)
    return [Notification(*row) for row in await cursor.fetchall()]


async def note_delivered(conn: Connection, id_: str, at: datetime) -> None:
    await conn.send(SQL.note_delivered, {"id": id_, "at": at})


async def note_failed(conn: Connection, id_: str, error: str, *, give_up: bool) -> None:
    await conn.send(SQL.note_failed, {"id": id_, "error": error, "give_up": give_up})


async def forget_alerts(conn: Connection, before: datetime) -> int:
    return (await conn.execute(SQL.forget_alerts, {"before": before})).rowcount


async def forget_notifications(conn: Connection, before: datetime) -> int:
    return (await conn.execute(SQL.forget_notifications, {"before": before})).rowcount


def _one(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    if row is None:
        raise ValueError("the alert was read in this transaction")
    return row


def _parameters(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.id or None,
        "rule": alert.rule,
        "state": alert.state.value,
        "severity": alert.severity.value,
        "summary": alert.summary,
        "figure": alert.figure,
        "threshold": alert.threshold,
        "unit": alert.unit,
        "evidence": list(alert.evidence),
        "next_step": alert.next_step,
        "command": alert.command,
        "started_at": alert.started_at,
        "fired_at": alert.fired_at,
        "clear_at": alert.clear_at,
        "resolved_at": alert.resolved_at,
        "muted": alert.muted,
        "told": alert.told,
    }


def _alert(row: tuple[Any, ...]) -> Alert:
    return Alert(
        id=row[0],
        rule=row[1],
        state=State(row[2]),
        severity=Verdict(row[3]),
        summary=row[4],
        figure=row[5],
        threshold=row[6],
        unit=row[7],
        evidence=tuple(row[8]),
        next_step=row[9],
        command=row[10],
        started_at=row[11],
        fired_at=row[12],
        clear_at=row[13],
        resolved_at=row[14],
        muted=row[15],
        told=row[16],
        acknowledged_by=row[17],
        acknowledged_at=row[18],
        note=row[19],
        version=row[20],
    )
