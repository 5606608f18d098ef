"""What tracking does about other services' events, each in the transaction that takes it in."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from libs import audit
from libs.events import Effect, Event, tenants
from libs.pooling import Connection
from services.tracking import store
from services.tracking.model import CLOCK_SLACK, MICROSECOND, Window
from services.tracking.store import ErasedTrip

STEP_POINTS = 10_000
AGAIN_FOR = timedelta(hours=1)
"""So long after an erasure points that were under way at that moment are looked for."""


async def erase_student(conn: Connection, event: Event) -> None:
    """A student was erased: the ways that his lessons took go, their figures stay.

    What is on legal hold goes when the hold ends.
    """
    lesson_ids = [uuid.UUID(text) for text in event.payload["lesson_ids"]]
    trips = await store.erase_trips(conn, event.org_id, lesson_ids)
    free = [trip for trip in trips if not trip.legal_hold]
    points = await _erase_points(conn, event.org_id, free)
    await audit.record(
        conn,
        event.org_id,
        "student",
        event.payload["student_id"],
        "erase_trips",
        after={
            "trip_ids": [str(trip.id) for trip in trips],
            "on_legal_hold": [str(trip.id) for trip in trips if trip.legal_hold],
            "points": points,
        },
    )


async def erase_again(conn: Connection, org_id: uuid.UUID, now: datetime) -> None:
    """Ingest knows a trip for a second: points that passed it meanwhile go as well."""
    trips = await store.erased_trips(conn, org_id, now - AGAIN_FOR)
    await _erase_points(conn, org_id, trips)


async def _erase_points(conn: Connection, org_id: uuid.UUID, trips: Sequence[ErasedTrip]) -> int:
    """Delete what is stored of the ways of trips, in steps; how many points that were."""
    count = 0
    for trip in trips:
        await store.delete_driving_events(conn, org_id, trip.id)
        count += await _in_steps(
            partial(store.erase_points, conn, org_id, trip.id, _window(trip), STEP_POINTS)
        )
        await _in_steps(partial(store.erase_held_points, conn, org_id, trip.id, STEP_POINTS))
    if trips:
        ids = [trip.id for trip in trips]
        await _in_steps(partial(store.erase_rejected_points, conn, org_id, ids, STEP_POINTS))
    return count


async def _in_steps(delete: Callable[[], Awaitable[int]]) -> int:
    count = 0
    while True:
        deleted = await delete()
        count += deleted
        if deleted < STEP_POINTS:
            return count


def _window(trip: ErasedTrip) -> Window:
    end = trip.ended_at + CLOCK_SLACK + MICROSECOND if trip.ended_at else store.FOREVER
    return Window(trip.started_at - CLOCK_SLACK, end)


OF_BOOKING: dict[str, Effect] = {**tenants.EFFECTS, "student.erased": erase_student}
