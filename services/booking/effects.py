"""What booking does about other services' events, each in the transaction that takes it in."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime

from libs.events import Effect, Event
from libs.pooling import Connection
from services.booking.store import drives as store


async def drive_of_lesson(conn: Connection, event: Event) -> None:
    """A trip has ended, or late points changed it: its lesson knows how far it went, and when."""
    told = event.payload
    if told["lesson_id"] is None or told["ended_at"] is None:
        return
    lesson_id = uuid.UUID(told["lesson_id"])
    kept = await store.keep_drive(
        conn,
        event.org_id,
        lesson_id,
        uuid.UUID(told["trip_id"]),
        version=event.aggregate_version,
        distance_meters=told["distance_meters"] or 0.0,
        started_at=datetime.fromisoformat(told["started_at"]),
        ended_at=datetime.fromisoformat(told["ended_at"]),
    )
    if kept:
        await store.add_up_drives(conn, event.org_id, lesson_id)


OF_TRACKING: Mapping[str, Effect] = {"trip.completed": drive_of_lesson}
