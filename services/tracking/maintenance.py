"""What one process of all does, once a minute: months ahead, statistics, sweeps."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from libs import leader
from libs.leader import Leader
from libs.orgs import Orgs
from libs.pooling import Connection
from services.tracking import effects, store
from services.tracking.lessons import Verification
from services.tracking.model import REJECTED_KEPT
from services.tracking.partitions import Partitions
from services.tracking.summaries import Summaries

EVERY_S = 60.0
ANALYZE_EVERY_S = 3_600.0
LEADER_LOCK = 0x747261636B696E67  # "tracking"


class Maintenance:
    """The duties of tracking's leader."""

    def __init__(
        self,
        orgs: Orgs,
        partitions: Partitions,
        summaries: Summaries,
        verification: Verification,
        dsn: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._orgs = orgs
        self._partitions = partitions
        self._summaries = summaries
        self._clock = clock
        self._analyzed_at = float("-inf")
        self._leader = Leader(
            dsn,
            lock=LEADER_LOCK,
            every_s=EVERY_S,
            name="tracking",
            duties=[
                ("partitions", partitions.finish_dropping),
                ("partitions", partitions.ensure_ahead),
                ("analyze", self._analyze),
                ("sweeps", leader.per_school(orgs, self._sweep)),
                ("lessons", verification.round),
            ],
        )

    async def run(self) -> None:
        """Try to lead, and work while leading, for ever."""
        await self._leader.run()

    async def _analyze(self) -> None:
        if time.monotonic() - self._analyzed_at >= ANALYZE_EVERY_S:
            # Also when it fails: an hour later is soon enough.
            self._analyzed_at = time.monotonic()
            await self._partitions.analyze()

    async def _sweep(self, org_id: uuid.UUID) -> None:
        await self._summaries.sweep(org_id)
        before = self._clock() - REJECTED_KEPT
        while True:
            async with self._orgs.write(org_id) as conn:
                if not await store.sweep_rejected_points(conn, org_id, before):
                    break
        await leader.forget_requests(self._orgs, org_id)
        async with self._orgs.write(org_id) as conn:
            await effects.erase_again(conn, org_id, self._clock())


@asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Connection]:
    """A connection of the maintenance role, outside any pool: DETACH needs autocommit and time."""
    async with leader.connect(dsn, "tracking maintenance") as conn:
        yield conn
