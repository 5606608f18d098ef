"""What one process of all does: rounds of duties, every so many seconds.

The leader is whoever holds an advisory lock on a connection of its own; when that goes, the lock
goes with it and another takes over. The old one may not know yet: duties must bear two leaders.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import psycopg

from libs import telemetry
from libs.idempotency import SQL
from libs.orgs import Orgs
from libs.pooling import Connection, Pool, connection

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[object]]
Sweep = Callable[[UUID], Awaitable[object]]


class Leader:
    """The loop of the leader of one service. A duty with a period of its own keeps it itself."""

    def __init__(
        self, dsn: str, *, lock: int, every_s: float, name: str, duties: Sequence[tuple[str, Work]]
    ) -> None:
        """`dsn` goes past any pooler, `lock` is the service's own; names of duties are logged."""
        self._dsn, self._lock, self._every_s = dsn, lock, every_s
        self._name, self._duties = name, duties

    async def run(self) -> None:
        """Try to lead, and work while leading, for ever."""
        while True:
            try:
                async with connect(self._dsn, f"{self._name} maintenance") as conn:
                    await self._lead(conn)
            except (psycopg.Error, OSError) as error:
                log.warning("maintenance", extra={"exception": telemetry.describe(error)})
            await asyncio.sleep(self._every_s)

    async def round(self) -> None:
        """One round of all duties; the failure of one does not stop the others."""
        for name, work in self._duties:
            await _attempt(name, work)

    async def _lead(self, conn: Connection) -> None:
        """Work while this connection holds the lock; return when another process does."""
        query = b"SELECT /* libs.try_lead */ pg_try_advisory_lock(%s::bigint)"
        if await (await conn.execute(query, (self._lock,))).fetchone() != (True,):
            return
        log.info("leading")
        while True:
            await self.round()
            await asyncio.sleep(self._every_s)
            await conn.execute(b"SELECT /* libs.still_lead */ 1")


def per_school(orgs: Orgs, work: Sweep, name: str = "sweep") -> Work:
    """A duty that goes school by school; the failure of one does not stop the others."""

    async def walk() -> None:
        for org_id in await list_tenants(orgs.pool):
            await _attempt(name, partial(work, org_id))

    return walk


def at_most_every(seconds: float, work: Work) -> Work:
    """A duty with a longer period than the rounds; one that fails is tried again next round."""
    due_at = float("-inf")

    async def when_due() -> None:
        nonlocal due_at
        if time.monotonic() >= due_at:
            await work()
            due_at = time.monotonic() + seconds

    return when_due


async def list_tenants(pool: Pool) -> list[UUID]:
    """All schools that the service has met; suspended ones too."""
    async with connection(pool) as conn:
        rows = await (await conn.execute(SQL.list_tenants)).fetchall()
    return [row[0] for row in rows]


async def forget_requests(orgs: Orgs, org_id: UUID) -> None:
    """Delete a school's request ids that no longer count, a thousand in a transaction."""
    while True:
        async with orgs.write(org_id) as conn:
            if not (await conn.execute(SQL.delete_expired_requests, {"org_id": org_id})).rowcount:
                return


async def _attempt(name: str, work: Work) -> None:
    try:
        await work()
    except Exception as error:  # noqa: BLE001 (the next round tries again)
        telemetry.log_fault(log, f"maintenance: {name} failed", error)


@asynccontextmanager
async def connect(dsn: str, application_name: str) -> AsyncIterator[Connection]:
    """An autocommit connection outside any pool: for what needs a session, or much time."""
    conn = await Connection.connect(
        dsn, autocommit=True, application_name=application_name, connect_timeout=3
    )
    async with conn:
        yield conn
