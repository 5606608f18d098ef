"""How indexes are used: asked of the primary and of all replicas, and kept day by day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from libs.bootstrap import SERVICES
from libs.pooling import Connection
from services.monitor.model.indexes import Index, Usage, summed
from services.monitor.servicer.desk import Desk
from services.monitor.store import indexes as store
from services.monitor.store.indexes import Sizes

SNAPSHOTS_KEPT = timedelta(days=60)


async def usage(
    desk: Desk,
    sizes: Sizes = Sizes.EXACT,
    schemas: Sequence[str] = SERVICES,
    table: str = "",
) -> Usage:
    """The scans of all servers together; sizes are the primary's."""
    async with desk.read() as conn:
        since, indexes = await _of_server(conn, sizes, schemas, table)
    ask = partial(_of_server, sizes=Sizes.NONE, schemas=schemas, table=table)
    asked = await desk.replicas.ask(ask)
    return Usage(
        indexes=summed(indexes, (found for _, found in asked.answers.values())),
        # What one of them does not know yet may have been used there before.
        since=max([since, *(began for began, _ in asked.answers.values())]),
        replicas=list(asked.answers),
        silent=list(asked.silent),
    )


async def _of_server(
    conn: Connection, sizes: Sizes, schemas: Sequence[str], table: str
) -> tuple[datetime, list[Index]]:
    since = await store.statistics_since(conn)
    return since, await store.index_usage(conn, sizes, schemas, table)


async def capture_indexes(desk: Desk, at: datetime) -> int:
    """Keep the counters of all indexes for the day of `at`, unless that was done; how many there
    are. What is too old is deleted."""
    day = at.astimezone(UTC).date()
    async with desk.write() as conn:
        await store.forget_index_snapshots(conn, day - SNAPSHOTS_KEPT)
        await store.capture_indexes(conn, day, at)
        return await store.count_captured(conn, day)
