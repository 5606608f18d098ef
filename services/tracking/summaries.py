"""Summaries of ended trips, kept true to the points however late they come.

EndTrip commits the end and then has the summary computed. After that, whoever stores points of the
trip touches it here, and it is computed again; a crash between the two is found by the sweep.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from datetime import datetime

from libs import errors, outbox, telemetry
from libs.orgs import Orgs
from libs.pooling import Connection
from services.tracking import drive, store
from services.tracking.model import EPOCH, MICROSECOND, SETTLE_AFTER, Trip, Window

log = logging.getLogger(__name__)

GATHER_S = 1.0
"""Touched trips are looked at this long after the first was touched."""
CHUNK_POINTS = 50_000
SWEEP_TRIPS_MAX = 100


class Summaries:
    """Computes summaries, at once or after late points."""

    def __init__(self, orgs: Orgs, *, overspeed_kph: float, clock: Callable[[], datetime]) -> None:
        self._orgs = orgs
        self._overspeed_kph = overspeed_kph
        self._clock = clock
        self._touched: dict[uuid.UUID, set[uuid.UUID]] = {}
        self._wake = asyncio.Event()

    def touch(self, org_id: uuid.UUID, trip_id: uuid.UUID) -> None:
        """Points of the trip were stored: once it has ended, its summary is due again."""
        self._touched.setdefault(org_id, set()).add(trip_id)
        self._wake.set()

    async def run(self) -> None:
        """Look at touched trips once a second, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            await self.settle_touched()

    async def settle_touched(self) -> None:
        """Compute the summaries of touched trips that have ended."""
        touched, self._touched = self._touched, {}
        while touched:
            org_id, trip_ids = touched.popitem()
            try:
                await self._settle(org_id, trip_ids)
            except asyncio.CancelledError:
                # The process is stopping: whoever is called last does the rest.
                self._touched = {**touched, org_id: trip_ids, **self._touched}
                raise
            except Exception as error:  # noqa: BLE001 (the others go on)
                log.warning("summary delayed", extra={"exception": telemetry.describe(error)})
                if isinstance(errors.translate(error), errors.Unavailable):
                    self._touched.setdefault(org_id, set()).update(trip_ids)
                    self._wake.set()

    async def _settle(self, org_id: uuid.UUID, trip_ids: set[uuid.UUID]) -> None:
        async with self._orgs.read(org_id) as conn:
            windows = await store.trip_windows(conn, org_id, list(trip_ids))
        for trip in windows:
            if trip.ended_at is not None:
                await self.compute(org_id, trip.id)
            trip_ids.discard(trip.id)

    async def compute(self, org_id: uuid.UUID, trip_id: uuid.UUID) -> Trip:
        """Derive an ended trip's summary from its points; returns the trip with it.

        Raises NotFound. A trip with dropped points keeps the summary that it has. Nothing changes
        when the points are those of the last summary.
        """
        async with self._orgs.write(org_id) as conn:
            # Two that compute at once: the second reads what the first could not see yet.
            trip = await store.lock_trip(conn, org_id, trip_id)
            if trip is None:
                raise errors.not_found("trip", trip_id)
            if trip.ended_at is None or trip.points_dropped_at is not None:
                return trip
            points = await read_points(conn, org_id, trip_id, trip.window(self._clock()))
            summary, events = await asyncio.to_thread(self._derive, points)
            if trip.points_hash == summary.points_hash:
                return trip
            trip = await store.save_summary(conn, org_id, trip_id, summary)
            await store.delete_driving_events(conn, org_id, trip_id)
            await store.add_driving_events(conn, org_id, trip_id, events)
            await _tell(conn, org_id, trip)
        return trip

    async def sweep(self, org_id: uuid.UUID) -> None:
        """Look once more at the school's trips that ended ten minutes ago."""
        before = self._clock() - SETTLE_AFTER
        async with self._orgs.read(org_id) as conn:
            due = await store.unsettled_trips(conn, org_id, before, SWEEP_TRIPS_MAX)
        for trip_id in due:
            await self.mend(org_id, trip_id)
            async with self._orgs.write(org_id) as conn:
                await store.settle_trip(conn, org_id, trip_id)

    async def mend(self, org_id: uuid.UUID, trip_id: uuid.UUID) -> None:
        """Compute an ended trip's summary if it does not speak of the points that are there."""
        if await self._differs(org_id, trip_id):
            log.info("summary mended", extra={"trip_id": str(trip_id)})
            await self.compute(org_id, trip_id)

    async def _differs(self, org_id: uuid.UUID, trip_id: uuid.UUID) -> bool:
        async with self._orgs.read(org_id) as conn:
            trip = await store.get_trip(conn, org_id, trip_id)
            if trip is None or trip.points_dropped_at is not None:
                return False
            counted = await store.count_points(conn, org_id, trip_id, trip.window(self._clock()))
        return trip.point_count != counted

    def _derive(
        self, points: drive.Points
    ) -> tuple[drive.Summary, list[tuple[datetime, str, float]]]:
        events = drive.driving_events(points, overspeed_kph=self._overspeed_kph)
        return drive.summarise(points), [
            (EPOCH + event.time_us * MICROSECOND, event.kind, event.value) for event in events
        ]


async def read_points(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, window: Window
) -> drive.Points:
    """All points of a trip in its window, read in chunks."""
    after = window.start - MICROSECOND
    parts: list[drive.Points] = []
    while True:
        part = await store.read_points(
            conn, org_id, trip_id, after=after, before=window.end, limit=CHUNK_POINTS
        )
        parts.append(part)
        if len(part) < CHUNK_POINTS:
            return drive.Points.concatenate(parts)
        after = EPOCH + int(part.time_us[-1]) * MICROSECOND


async def _tell(conn: Connection, org_id: uuid.UUID, trip: Trip) -> None:
    ended_at = trip.ended_at.isoformat() if trip.ended_at else None
    await outbox.emit(
        conn,
        org_id,
        "trip",
        trip.id,
        trip.version,
        "trip.completed",
        {
            "trip_id": str(trip.id),
            "lesson_id": str(trip.lesson_id) if trip.lesson_id else None,
            "started_at": trip.started_at.isoformat(),
            "ended_at": ended_at,
            "point_count": trip.point_count,
            "distance_meters": trip.distance_meters,
            "duration_seconds": trip.duration_seconds,
        },
    )
