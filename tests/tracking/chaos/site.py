"""A database, a service and devices, and what may happen to them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from libs.local.postgres import EmbeddedPostgres
from tests.postgres import Database
from tests.tracking.chaos.device import FATES, Device
from tests.tracking.chaos.service import Service, until
from tests.tracking.chaos.verdict import SUMMARIES_WRONG, Verdict, judge

FINISH_S = 240.0
SUMMARY_S = 4.0
SWEEP_S = 900.0
"""The sweep looks at a hundred trips a minute."""
# The sweep looks at trips that ended ten minutes ago; for the proof, that time has passed.
_LET_TEN_MINUTES_PASS = """
UPDATE tracking."Trip" SET "endRecordedAt" = "endRecordedAt" - make_interval(mins => 11)
"""
_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename LIKE 'tracking%%'
"""


@dataclass(frozen=True)
class Outage:
    """What one disturbance cost."""

    kind: str
    silent_s: float
    """From the disturbance's end until the last device had an acknowledgement again."""
    not_serving_s: float = 0.0
    """How long health took to notice."""
    exit_code: int = 0
    exit_s: float = 0.0


@dataclass
class Site:
    """Everything that takes part."""

    database: Database
    service: Service
    devices: list[Device]
    outages: list[Outage] = field(default_factory=list)

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The server that may be crashed."""
        if self.database.server.embedded is None:
            raise RuntimeError("this server is not ours to crash")
        return self.database.server.embedded

    @property
    def endings(self) -> Counter[tuple[str, str, str]]:
        """How all streams and calls ended."""
        return sum((device.endings for device in self.devices), Counter())

    def count(self, what: str, *ending: str) -> int:
        """How many openings, streams, ghosts or calls have ended, in one way or in any."""
        return sum(
            n for key, n in self.endings.items() if key[: 1 + len(ending)] == (what, *ending)
        )

    async def kill_database(self) -> None:
        """Crash PostgreSQL in the middle of everything, and start it again."""
        await asyncio.to_thread(self.postgres.kill9)
        await asyncio.to_thread(self.postgres.start)
        self.outages.append(Outage("database killed", await self.recovered()))

    async def kill_service(self) -> None:
        """Kill the service in the middle of everything, and start it again."""
        await self.service.kill9()
        await self.service.start()
        self.outages.append(Outage("service killed", await self.recovered()))

    async def stop_service(self) -> None:
        """Stop the service as an operator would, and start it again."""
        code, exit_s = await self.service.stop()
        await self.service.start()
        silent_s = await self.recovered()
        self.outages.append(Outage("service stopped", silent_s, exit_code=code, exit_s=exit_s))

    async def freeze_database(self, seconds: float) -> None:
        """Stop every process of PostgreSQL for a while: nothing answers, nothing breaks."""
        postmaster = self.postgres.postmaster()
        if postmaster is None:
            raise RuntimeError("PostgreSQL is not running")
        frozen = [postmaster, *postmaster.children(recursive=True)]
        began = time.monotonic()
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            not_serving_s = await until(self._is_not_serving, "health notices", seconds)
            await asyncio.sleep(max(0, seconds - (time.monotonic() - began)))
        finally:
            for process in frozen:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        resumed = time.monotonic()
        await until(self.service.is_serving, "health recovers")
        await self.recovered()
        self.outages.append(
            Outage("database frozen", time.monotonic() - resumed, not_serving_s=not_serving_s)
        )

    async def _is_not_serving(self) -> bool:
        return not await self.service.is_serving()

    async def recovered(self) -> float:
        """Return once every device has had an acknowledgement from now on; how long that took."""
        now = time.monotonic()
        return await until(
            lambda: all(device.acknowledged_at > now for device in self.devices),
            "every device is acknowledged again",
        )

    async def streaming(self) -> None:
        """Return once every device has a stream open."""
        await until(lambda: all(d.streaming for d in self.devices), "every device streams")

    def connections(self) -> int:
        """Connections of the service to the database."""
        with psycopg.connect(self.database.admin_dsn) as conn:
            row = conn.execute(_CONNECTIONS, (self.database.name,)).fetchone()
        return int(row[0]) if row else 0

    async def finish(self, running: asyncio.Future[list[None]]) -> Verdict:
        """Let every device send what it has, then hold the tables against their memory."""
        for device in self.devices:
            device.finishing = True
        async with asyncio.timeout(FINISH_S):
            await running
        await self._sweep()
        return await asyncio.to_thread(judge, self.database.admin_dsn, self.devices)

    async def _sweep(self) -> None:
        """Summaries that a crash left behind are mended by the sweep of the next start."""
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as conn:

            def summarised() -> bool:
                return conn.execute(SUMMARIES_WRONG).fetchone() == (0,)

            with suppress(TimeoutError):
                await until(summarised, "late points are summarised", SUMMARY_S)
                return
            await self.service.stop()
            conn.execute(_LET_TEN_MINUTES_PASS)
            await self.service.start()
            await until(summarised, "the sweep has mended every summary", SWEEP_S)


@asynccontextmanager
async def site(
    database: Database,
    folder: Path,
    *,
    devices: int,
    points_per_s: float = 200.0,
    trip_points: int = 800,
    fates: tuple[str, ...] = FATES,
    drain_s: float = 2.0,
    seed: int = 1,
) -> AsyncIterator[tuple[Site, asyncio.Future[list[None]]]]:
    """A site whose devices stream; and the future that ends with the devices."""
    service = Service(database, folder, drain_s=drain_s)
    made = [
        Device(
            service,
            f"device-{n}",
            random.Random(seed * 1_000 + n),
            points_per_s,
            trip_points,
            fates,
            repeats=n % 2 == 1,
        )
        for n in range(devices)
    ]
    try:
        await service.start()
        running = asyncio.gather(*(device.run() for device in made))
        try:
            yield Site(database, service, made), running
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await running
    finally:
        await service.close()
