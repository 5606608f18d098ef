"""Statements of webhook events."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from libs import masks, queries
from libs.pooling import Connection
from services.payments.model.stripe import StripeEvent

SQL = queries.load("payments", Path(__file__).parents[1] / "queries" / "webhooks.sql")
PROVIDER = "stripe"
COLUMNS = (
    "id",
    "provider",
    '"eventId"',
    "account",
    "livemode",
    "type",
    '"orgId"',
    "state",
    "attempts",
    "error",
    '"receivedAt"',
    '"processedAt"',
)
# API path -> SQL, of what is read to be told.
PATHS = {
    "id": "id",
    "provider": "provider",
    "event_id": '"eventId"',
    "account": "account",
    "livemode": "livemode",
    "type": "type",
    "org_id": '"orgId"',
    "state": "state",
    "attempts": "attempts",
    "error": "error",
    "receive_time": '"receivedAt"',
    "process_time": '"processedAt"',
}
ALL = tuple(PATHS)


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """An event of a provider, without its payload."""

    id: int
    provider: str
    event_id: str
    account: str
    livemode: bool
    type: str
    org_id: uuid.UUID | None
    state: str
    attempts: int
    error: str
    received_at: datetime
    processed_at: datetime | None

    @property
    def is_new(self) -> bool:
        """Whether it has just come for the first time."""
        return self.attempts == 1


async def add_webhook_event(
    conn: Connection,
    event: StripeEvent,
    payload: dict[str, Any],
    now: datetime,
) -> int | None:
    parameters = {**_name(event), "type": event.type, "payload": Jsonb(payload)}
    row = await (await conn.execute(SQL.add_webhook_event, {**parameters, "now": now})).fetchone()
    return None if row is None else int(row[0])


async def lock_webhook_event(conn: Connection, event: StripeEvent) -> WebhookEvent | None:
    return await _one(conn, "lock_webhook_event", _name(event))


async def find_webhook_event(conn: Connection, id_: int) -> WebhookEvent | None:
    return await _one(conn, "find_webhook_event", {"id": id_})


async def find_payload(conn: Connection, id_: int) -> dict[str, Any] | None:
    row = await (await conn.execute(SQL.find_payload, {"id": id_})).fetchone()
    return None if row is None else row[0]


async def end_webhook_event(
    conn: Connection,
    id_: int,
    *,
    org_id: uuid.UUID | None,
    state: str,
    error: str,
    again: bool,
    next_attempt_at: datetime | None,
    now: datetime,
) -> WebhookEvent:
    ended = await _one(
        conn,
        "end_webhook_event",
        {
            "id": id_,
            "org_id": org_id,
            "state": state,
            "error": error,
            "again": int(again),
            "next_attempt_at": next_attempt_at,
            "now": now,
        },
    )
    if ended is None:
        raise AssertionError("a locked event went away")
    return ended


async def list_webhook_events(
    conn: Connection,
    *,
    provider: str,
    before_id: int,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    parameters = {"provider": provider, "before_id": before_id, "limit": limit}
    return await _list(conn, "list_webhook_events", paths, parameters)


async def list_webhook_events_with_state(
    conn: Connection,
    *,
    state: str,
    provider: str,
    before_id: int,
    limit: int,
    paths: tuple[str, ...] = ALL,
) -> list[masks.Row]:
    parameters = {"state": state, "provider": provider, "before_id": before_id, "limit": limit}
    return await _list(conn, "list_webhook_events_with_state", paths, parameters)


async def list_due_webhook_events(conn: Connection, now: datetime, limit: int) -> list[int]:
    parameters = {"now": now, "limit": limit}
    rows = await (await conn.execute(SQL.list_due_webhook_events, parameters)).fetchall()
    return [int(row[0]) for row in rows]


async def delete_webhook_events(conn: Connection, before: datetime, limit: int) -> int:
    cursor = await conn.execute(SQL.delete_webhook_events, {"before": before, "limit": limit})
    return cursor.rowcount


def _name(event: StripeEvent) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "provider": PROVIDER,
        "account": event.account,
        "livemode": event.livemode,
    }


async def _one(conn: Connection, name: str, parameters: dict[str, Any]) -> WebhookEvent | None:
    row = await (await conn.execute(SQL.select(name, COLUMNS), parameters)).fetchone()
    return None if row is None else WebhookEvent(*row)


async def _list(
    conn: Connection, name: str, paths: tuple[str, ...], parameters: dict[str, Any]
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    query = SQL.select(name, (*masks.columns(PATHS, paths), "id"))
    return await (await conn.execute(query, parameters)).fetchall()
