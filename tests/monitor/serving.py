"""A monitor in the test's own process, spoken to through real stubs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from driveflow.monitor.v1 import health_pb2
from driveflow.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from libs.server import Server
from services.monitor.__main__ import Settings, build
from tests.postgres import Database
from tests.serving import Clock, Running, common_settings, running

A_YEAR_S = 365 * 86_400.0


@dataclass
class Monitor(Running):
    """A running monitor."""

    def stub(self, token: str | None = None) -> MonitorServiceStub:
        """MonitorService for an operator, or for whoever the token names."""
        return self.connect(token or self.ops_token).monitor

    def admin(self) -> psycopg.Connection:
        """A superuser's session in the same database, in autocommit; the caller closes it."""
        return psycopg.connect(self.database.admin_dsn, autocommit=True)

    async def check(self, name: str) -> health_pb2.Check:
        """One question of CheckHealth."""
        report = await self.stub().CheckHealth(health_pb2.CheckHealthRequest(checks=[name]))
        (check,) = report.checks
        return check


def keep_reports(database: Database, *moments: datetime) -> None:
    """Have reports of the schedule from then."""
    with psycopg.connect(database.dsn("monitor"), autocommit=True) as monitor:
        for moment in moments:
            monitor.execute(
                'INSERT INTO monitor."HealthReport" (at, status, checks, "durationMs")'
                " VALUES (%s, 'ok', '[]', 1)",
                [moment],
            )


@asynccontextmanager
async def serving(
    database: Database, folder: Path, *, key: str | None = None, **overrides: object
) -> AsyncIterator[Monitor]:
    """Run the service until the block ends; `overrides` are settings.

    The schedule runs once, after half a minute by the clock, unless `schedule_s` says otherwise.
    """

    async def built(stack: AsyncExitStack, clock: Clock) -> Server:
        chosen: dict[str, Any] = {
            **common_settings(folder),
            "dsn": database.dsn("monitor"),
            "schedule_s": A_YEAR_S,
            **overrides,
        }
        return await build(Settings(**chosen), stack, clock)

    async with running(Monitor, database, folder, built, key=key) as service:
        yield service
