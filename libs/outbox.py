"""Events: written to the outbox in the transaction of the change they tell of."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from libs.idempotency import SQL
from libs.pooling import Connection


async def emit(
    conn: Connection,
    org_id: uuid.UUID,
    aggregate_type: str,
    aggregate_id: uuid.UUID,
    version: int,
    kind: str,
    payload: Mapping[str, Any],
) -> None:
    """Tell of a change: `kind` is the event's type (trip.completed), its topic the aggregate.

    `version` is the aggregate's, raised with each change; the payload has ids and figures only,
    no personal data.
    """
    await conn.send(
        SQL.emit_event,
        {
            "org_id": org_id,
            "aggregate_type": aggregate_type,
            "aggregate_id": aggregate_id,
            "aggregate_version": version,
            "topic": aggregate_type,
            "type": kind,
            "payload": Jsonb(dict(payload)),
        },
    )
