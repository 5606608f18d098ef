"""Statements that read the audit log."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs import masks, queries
from libs.orgs import Reader

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "audit.sql")
# API path -> SQL, of what is read to be told.
PATHS = {
    "id": "id",
    "actor_user_id": '"actorUserId"',
    "entity_type": '"entityType"',
    "entity_id": '"entityId"',
    "action": "action",
    "before": "before",
    "after": "after",
    "create_time": '"createdAt"',
}
ALL = tuple(PATHS)
LAST = (datetime.max.replace(tzinfo=UTC), uuid.UUID(int=2**128 - 1))
"""Before this row lie all."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change; `before` and `after` are JSON objects."""

    id: uuid.UUID
    actor_user_id: str
    entity_type: str
    entity_id: str
    action: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries a list has; None filters nothing."""

    before: tuple[datetime, uuid.UUID] = LAST
    """Those behind this row, newest first."""
    entity_type: str | None
    entity_id: str | None
    actor_user_id: str | None


async def list_audit_entries(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_audit_entries", org_id, of, limit, paths)


async def list_audit_entries_of_kind(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_audit_entries_of_kind", org_id, of, limit, paths)


async def list_audit_entries_of_entity(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_audit_entries_of_entity", org_id, of, limit, paths)


async def list_audit_entries_of_actor(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...] = ALL
) -> list[masks.Row]:
    return await _page(conn, "list_audit_entries_of_actor", org_id, of, limit, paths)


async def _page(
    conn: Reader, name: str, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    """Rows that end with createdAt and id, behind which the next page goes on."""
    query = SQL.select(name, (*masks.columns(PATHS, paths), '"createdAt"', "id"))
    parameters = {
        "org_id": org_id,
        "before_time": of.before[0],
        "before_id": of.before[1],
        "entity_type": of.entity_type,
        "entity_id": of.entity_id,
        "actor_user_id": of.actor_user_id,
        "limit": limit,
    }
    return await (await conn.execute(query, parameters)).fetchall()
