"""The audit log: who changed what, written in the transaction of the change."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from libs import calls
from libs.idempotency import SQL
from libs.pooling import Connection

PLATFORM = uuid.UUID(int=0)
"""Stands for the school in entries of actions that concern none."""


async def record(
    conn: Connection,
    org_id: uuid.UUID,
    entity_type: str,
    entity_id: object,
    action: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    actor: str | None = None,
) -> None:
    """Note that the caller (or `actor`) did `action`; values are JSON types."""
    call = calls.current()
    if actor is None:
        actor = call.caller.subject if call is not None and call.caller is not None else "system"
    await conn.send(
        SQL.record_audit,
        {
            "org_id": org_id,
            "actor": actor,
            "entity_type": entity_type,
            "entity_id": str(entity_id),
            "action": action,
            "before": None if before is None else Jsonb(dict(before)),
            "after": None if after is None else Jsonb(dict(after)),
        },
    )
