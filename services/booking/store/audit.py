"""Statements that read the audit log."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs import queries
from libs.orgs import Reader

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "audit.sql")
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
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int
) -> list[AuditEntry]:
    return await _page(conn, SQL.list_audit_entries, org_id, of, limit)


async def list_audit_entries_of_kind(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int
) -> list[AuditEntry]:
    return await _page(conn, SQL.list_audit_entries_of_kind, org_id, of, limit)


async def list_audit_entries_of_entity(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int
) -> list[AuditEntry]:
    return await _page(conn, SQL.list_audit_entries_of_entity, org_id, of, limit)


async def list_audit_entries_of_actor(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int
) -> list[AuditEntry]:
    return await _page(conn, SQL.list_audit_entries_of_actor, org_id, of, limit)


async def _page(
    conn: Reader, query: bytes, org_id: uuid.UUID, of: Filter, limit: int
) -> list[AuditEntry]:
    parameters = {
        "org_id": org_id,
        "before_time": of.before[0],
        "before_id": of.before[1],
        "entity_type": of.entity_type,
        "entity_id": of.entity_id,
        "actor_user_id": of.actor_user_id,
        "limit": limit,
    }
    return [AuditEntry(*row) for row in await (await conn.execute(query, parameters)).fetchall()]
