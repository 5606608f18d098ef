"""A booking service that leaves its sweeps to the test, which does them when it wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from libs import pooling
from libs.cache import Cache
from libs.leader import Leader
from libs.orgs import Orgs
from libs.pages import Pages
from libs.settings import Settings
from services.booking.__main__ import LEADER_LOCK, maintenance
from services.booking.placing import Placing
from services.booking.servicer.desk import Desk
from services.booking.slot_tokens import SlotTokens
from services.booking.sweeps import Sweeps
from tests.booking.serving import Booking, serving
from tests.booking.stories import School
from tests.postgres import Database
from tests.serving import common_settings

KEY = b"test" * 16


@dataclass
class Swept:
    """A service, and the work of its leader, by the same clock."""

    service: Booking
    leader: Leader
    sweeps: Sweeps

    async def sweep(self, school: School) -> None:
        """What the leader does for a school every few seconds."""
        await self.sweeps.school(school.org_id)


@asynccontextmanager
async def swept(database: Database, folder: Path, **overrides: str) -> AsyncIterator[Swept]:
    """Run a service whose own processes never lead; `overrides` are settings."""
    dsn = database.dsn("booking")
    with psycopg.connect(database.admin_dsn, autocommit=True) as taken:
        taken.execute("SELECT pg_advisory_lock(%s)", (LEADER_LOCK,))
        async with serving(database, folder, **overrides) as service:
            pool = pooling.create("booking", dsn, Settings(**common_settings(folder), dsn=dsn))
            async with pool:
                orgs = Orgs(pool)
                desk = Desk(orgs, Pages(KEY), Cache(pool), SlotTokens(KEY), service.clock)
                sweeps = Sweeps(orgs, Placing(orgs, desk.zone, service.clock), service.clock)
                yield Swept(service, maintenance(desk, dsn), sweeps)
