"""Months of points: made ahead, dropped when their time is over.

Nothing is dropped by itself: retention runs when an operator asks for it (ApplyRetention), after a
dry run. The maintenance loop keeps three months ahead, finishes what a cancelled DETACH left and
keeps the statistics of the partitioned parent, which autovacuum does not.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from psycopg import sql

from libs.errors import FailedPrecondition, InvalidArgument
from libs.idempotency import SQL as SHARED
from libs.orgs import Orgs
from libs.pooling import Connection, connection
from services.tracking import store
from services.tracking.model import Partition, Window, months, next_month
from services.tracking.summaries import Summaries

log = logging.getLogger(__name__)

MONTHS_AHEAD = 3
RUNWAY_DAYS = 7
PAGE_TRIPS = 200
CONDEMNED = "being dropped by retention"


class NoRunway(Exception):
    """The next month is missing; the maintenance loop or EnsurePartitions makes it."""


@dataclass(slots=True)
class Dropped:
    """What a month had, or has, in a dry run."""

    partition: Partition
    trips: int = 0
    points: int = 0
    held_points: int = 0


class Partitions:
    """The months of "TripPoint"."""

    def __init__(
        self,
        orgs: Orgs,
        summaries: Summaries,
        maintenance: Callable[[], AbstractAsyncContextManager[Connection]],
        clock: Callable[[], datetime],
    ) -> None:
        self._orgs = orgs
        self._summaries = summaries
        self._maintenance = maintenance
        self._clock = clock

    async def all(self) -> list[Partition]:
        """All months, earliest first."""
        async with connection(self._orgs.pool) as conn:
            return await store.list_partitions(conn)

    async def ensure(self, start: datetime, end: datetime, *, dry_run: bool = False) -> list[str]:
        """Make the months from start to end; names of those that were missing."""
        created = []
        async with connection(self._orgs.pool) as conn:
            existing = {partition.start for partition in await store.list_partitions(conn)}
            for month in months(start, end):
                if month in existing:
                    continue
                if dry_run or await store.create_monthly_partition(conn, month):
                    created.append(f"TripPoint_{month:%Y_%m}")
        return created

    async def ensure_ahead(self) -> list[str]:
        """This month and three more."""
        now = self._clock()
        return await self.ensure(now, next_month(now, MONTHS_AHEAD))

    async def check_runway(self, now: datetime, days: int) -> None:
        """Raise NoRunway when points of so many days ahead would have no month to go to."""
        ends = runway_ends(await self.all(), now)
        if ends < now + timedelta(days=days):
            raise NoRunway(f"the months of TripPoint end at {ends:%Y-%m-%d}")

    async def drop_before(self, before: datetime, *, dry_run: bool) -> list[Dropped]:
        """Drop the months that end at or before a time; what each had."""
        if before > next_month(self._clock(), -1):
            raise InvalidArgument(
                "BEFORE_OUT_OF_RANGE",
                "Retention keeps at least the month before this one.",
                fields=[("before", "not before the start of last month")],
            )
        expired = [p for p in await self.all() if p.end <= before]
        # Counted first: an open trip in any of them leaves all as it is.
        counted = [await self._drop(partition, dry_run=True) for partition in expired]
        if dry_run:
            return counted
        return [await self._drop(partition, dry_run=False) for partition in expired]

    async def finish_dropping(self) -> None:
        """Finish what an interrupted DETACH left half done, and drop what retention detached.

        A month that an operator detached stays: it does not carry retention's note.
        """
        for partition in await self.all():
            if partition.detaching:
                log.info("finishing detach", extra={"partition": partition.name})
                async with self._maintenance() as conn:
                    await conn.execute(_detach(partition.name, "FINALIZE"))
        async with connection(self._orgs.pool) as conn:
            condemned = await store.list_condemned_partitions(conn, CONDEMNED)
        for name in condemned:
            log.info("finishing drop", extra={"partition": name})
            async with self._maintenance() as conn:
                await _drop_table(conn, name)

    async def analyze(self) -> None:
        """Statistics of the partitioned parent."""
        async with self._maintenance() as conn:
            await conn.execute('ANALYZE tracking."TripPoint"')

    async def tenants(self) -> list[uuid.UUID]:
        """All schools that have had a trip."""
        async with connection(self._orgs.pool) as conn:
            rows = await (await conn.execute(SHARED.list_tenants)).fetchall()
        return [row[0] for row in rows]

    async def _drop(self, partition: Partition, *, dry_run: bool) -> Dropped:
        """School by school what a trip must keep, then the month itself."""
        dropped = Dropped(partition)
        within = Window(partition.start, partition.end)
        for org_id in await self.tenants():
            async for trips in self._trips(org_id, within):
                _count(dropped, trips)
                if not dry_run:
                    await self._keep(org_id, within, trips)
        if not dry_run:
            async with self._maintenance() as conn:
                await conn.execute(_condemn(partition.name))
                how: Literal["FINALIZE", "CONCURRENTLY"] = (
                    "FINALIZE" if partition.detaching else "CONCURRENTLY"
                )
                await conn.execute(_detach(partition.name, how))
                await _drop_table(conn, partition.name)
            log.info("dropped", extra={"partition": partition.name, "points": dropped.points})
        return dropped

    async def _trips(
        self, org_id: uuid.UUID, within: Window
    ) -> AsyncIterator[list[store.DroppedTrip]]:
        """A school's trips with points in a month, page by page."""
        after_id = uuid.UUID(int=0)
        while True:
            async with self._orgs.read(org_id) as conn:
                page = await store.dropped_trips(
                    conn, org_id, within, after_id=after_id, limit=PAGE_TRIPS
                )
            yield [trip for trip in page if trip.points]
            if len(page) < PAGE_TRIPS:
                return
            after_id = page[-1].id

    async def _keep(
        self, org_id: uuid.UUID, within: Window, trips: list[store.DroppedTrip]
    ) -> None:
        """Each trip its summary, a held one its points."""
        for trip in trips:
            await self._summaries.mend(org_id, trip.id)
        if not trips:
            return
        async with self._orgs.write(org_id) as conn:
            for trip in trips:
                if trip.legal_hold:
                    await store.hold_points(conn, org_id, trip.id, within)
            await store.note_dropped_points(conn, org_id, [trip.id for trip in trips])


def _count(dropped: Dropped, trips: list[store.DroppedTrip]) -> None:
    for trip in trips:
        if trip.status == "open":
            raise FailedPrecondition(
                "TRIP_OPEN",
                "An open trip has points there: end it first.",
                metadata={"trip_id": str(trip.id)},
            )
        dropped.trips += 1
        dropped.points += trip.points
        dropped.held_points += trip.points if trip.legal_hold else 0


def runway_ends(partitions: list[Partition], now: datetime) -> datetime:
    """Until when consecutive months are there, from now; now when this month is missing."""
    end = now
    for partition in partitions:
        if partition.start <= end < partition.end:
            end = partition.end
    return end


def _detach(name: str, how: Literal["CONCURRENTLY", "FINALIZE"]) -> sql.Composed:
    return sql.SQL('ALTER TABLE tracking."TripPoint" DETACH PARTITION tracking.{} {}').format(
        sql.Identifier(name), sql.SQL(how)
    )


def _condemn(name: str) -> sql.Composed:
    """The note by which a drop that is cut short is finished later."""
    return sql.SQL("COMMENT ON TABLE tracking.{} IS {}").format(
        sql.Identifier(name), sql.Literal(CONDEMNED)
    )


async def _drop_table(conn: Connection, name: str) -> None:
    await conn.execute(sql.SQL("DROP TABLE IF EXISTS tracking.{}").format(sql.Identifier(name)))
