"""What one process of all does, once a minute: months ahead, statistics, sweeps.

The leader is whoever holds an advisory lock on a connection of its own; when it goes, the lock
goes with its connection and another takes over.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

import psycopg

from libs import telemetry
from libs.idempotency import SQL as SHARED
from libs.orgs import Orgs
from libs.pooling import Connection
from services.tracking import store
from services.tracking.model import REJECTED_KEPT
from services.tracking.partitions import Partitions
from services.tracking.summaries import Summaries

log = logging.getLogger(__name__)

EVERY_S = 60.0
ANALYZE_EVERY_S = 3_600.0
LEADER_LOCK = 0x747261636B696E67  # "tracking"


class Maintenance:
    """The loop of the leader."""

    def __init__(
        self,
        orgs: Orgs,
        partitions: Partitions,
        summaries: Summaries,
        dsn: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._orgs = orgs
        self._partitions = partitions
        self._summaries = summaries
        self._dsn = dsn
        self._clock = clock
        self._analyzed_at = float("-inf")

    async def run(self) -> None:
        """Try to lead, and work while leading, for ever."""
        while True:
            try:
                async with connect(self._dsn) as conn:
                    await self._lead(conn)
            except (psycopg.Error, OSError) as error:
                log.warning("maintenance", extra={"exception": telemetry.describe(error)})
            await asyncio.sleep(EVERY_S)

    async def round(self) -> None:
        """One round of all duties; the failure of one does not stop the others."""
        await self._duty("partitions", self._partitions.finish_dropping)
        await self._duty("partitions", self._partitions.ensure_ahead)
        if time.monotonic() - self._analyzed_at >= ANALYZE_EVERY_S:
            await self._duty("analyze", self._partitions.analyze)
            self._analyzed_at = time.monotonic()
        for org_id in await self._partitions.tenants():
            await self._duty("sweep", partial(self._sweep, org_id))

    async def _lead(self, conn: Connection) -> None:
        """Work while this connection holds the lock; return when another process does."""
        query = b"SELECT /* tracking.try_lead */ pg_try_advisory_lock(%s)"
        row = await (await conn.execute(query, (LEADER_LOCK,))).fetchone()
        if row is None or not row[0]:
            return
        log.info("leading")
        while True:
            await self.round()
            await asyncio.sleep(EVERY_S)
            await conn.execute(b"SELECT /* tracking.still_lead */ 1")

    async def _sweep(self, org_id: uuid.UUID) -> None:
        await self._summaries.sweep(org_id)
        before = self._clock() - REJECTED_KEPT
        while True:
            async with self._orgs.write(org_id) as conn:
                if not await store.sweep_rejected_points(conn, org_id, before):
                    break
        while True:
            async with self._orgs.write(org_id) as conn:
                cursor = await conn.execute(SHARED.delete_expired_requests, {"org_id": org_id})
                if not cursor.rowcount:
                    break

    async def _duty(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 (the next round tries again)
            telemetry.log_fault(log, f"maintenance: {name} failed", error)


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Connection]:
    """A connection of the maintenance role, outside any pool: DETACH needs autocommit and time."""
    conn = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, application_name="tracking maintenance", connect_timeout=3
    )
    async with conn:
        yield conn
