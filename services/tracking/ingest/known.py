"""What ingest knows of trips and months, and how old that may be.

Another process may end a trip or make a month at any time; a flush judges by what was read at most
a second ago. What that lets through is a point of a trip that ended within the second, which the
summary then counts (see summaries).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from libs import orgs
from libs.orgs import Orgs
from libs.pooling import connection
from services.tracking import store
from services.tracking.ingest import judging
from services.tracking.ingest.judging import Months, Trips, TripState

FRESH_S = 1.0
MONTHS_FRESH_S = 60.0
TRIPS_MAX = 100_000


class Known:
    """Trips and months as they were read last."""

    def __init__(self, tenants: Orgs, clock: Callable[[], datetime]) -> None:
        self._orgs = tenants
        self._clock = clock
        self._trips: dict[tuple[uuid.UUID, str], tuple[TripState, float]] = {}
        self._months = Months([])
        self._months_read_at = float("-inf")

    async def trips(self, wanted: Trips) -> list[TripState]:
        """The trips' states, at most a second old."""
        if len(self._trips) > TRIPS_MAX:
            self._trips.clear()
        fresh = time.monotonic() - FRESH_S
        # All or none: read one by one as they grow old, some would be old at every flush.
        if any((known := self._trips.get(key)) is None or known[1] < fresh for key in wanted.keys):
            await self._read_trips(list(wanted.keys))
        return [self._trips[key][0] for key in wanted.keys]

    async def months(self) -> Months:
        """The months with a partition, at most a minute old."""
        if time.monotonic() - self._months_read_at > MONTHS_FRESH_S:
            return await self.reread_months()
        return self._months

    async def months_of_late(self) -> Months:
        """At most a second old: a month may be new, but a gateway that is wrong asks always."""
        if time.monotonic() - self._months_read_at > FRESH_S:
            return await self.reread_months()
        return self._months

    async def reread_months(self) -> Months:
        """The months with a partition, as the catalog says now."""
        async with connection(self._orgs.pool) as conn:
            partitions = await store.list_partitions(conn)
        self._months = Months([p for p in partitions if not p.detaching])
        self._months_read_at = time.monotonic()
        return self._months

    async def _read_trips(self, keys: Sequence[tuple[uuid.UUID, str]]) -> None:
        """Learn the states all at once or, when the database fails, none: no guess is kept."""
        read_at = time.monotonic()
        now = self._clock()
        learned = dict.fromkeys(keys, (judging.UNKNOWN, read_at))
        wanted: dict[uuid.UUID, dict[str, uuid.UUID]] = {}
        for org_id, text in keys:
            trip_id = as_trip_id(text)
            if trip_id is not None:
                wanted.setdefault(org_id, {})[text] = trip_id
        async with connection(self._orgs.pool) as conn, conn.pipeline():
            for org_id, ids in wanted.items():
                await orgs.rescope(conn, org_id)
                rows = await store.trip_windows(conn, org_id, list(set(ids.values())))
                states = {row.id: judging.trip_state(row, now) for row in rows}
                for text, trip_id in ids.items():
                    learned[org_id, text] = (states.get(trip_id, judging.UNKNOWN), read_at)
        self._trips |= learned


def as_trip_id(text: str | None) -> uuid.UUID | None:
    """A trip id as it is sent; None when it can't be one."""
    if text is None or len(text) != 36:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
