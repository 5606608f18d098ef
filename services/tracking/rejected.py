"""Rejected points judged again, after whatever kept them out was mended."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from libs.pooling import Connection
from services.tracking import store
from services.tracking.ingest import copying, judging
from services.tracking.ingest.decoding import NO_SPEED, time_us
from services.tracking.ingest.judging import Months, Rows
from services.tracking.ingest.known import as_trip_id
from services.tracking.model import RejectedPoint

REPLAY_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the rejected points."""

    stored: int
    duplicates: int
    rejected: int
    remaining: int
    trips: frozenset[uuid.UUID]


async def replay(
    conn: Connection,
    org_id: uuid.UUID,
    *,
    reason: str | None,
    upload_id: uuid.UUID | None,
    months: Months,
    now: datetime,
) -> Outcome:
    """Judge the oldest matching points again and store those that pass, in one transaction."""
    points = await store.lock_rejected_points(
        conn, org_id, reason=reason, upload_id=upload_id, limit=REPLAY_MAX
    )
    # A malformed track has no coordinates to judge.
    whole = [point for point in points if point.reason != "MALFORMED_TRACK"]
    ids = {point.trip_id: as_trip_id(point.trip_id) for point in whole}
    known = await store.trip_windows(conn, org_id, [i for i in ids.values() if i is not None])
    states = {trip.id: judging.trip_state(trip, now) for trip in known}
    trips = {
        text: judging.UNKNOWN if trip_id is None else states.get(trip_id, judging.UNKNOWN)
        for text, trip_id in ids.items()
    }
    rows = _rows(whole, {text: place for place, text in enumerate(trips)})
    verdicts = judging.judge(rows, list(trips.values()), months) if whole else None
    passed = np.arange(len(whole)) if verdicts is None else np.flatnonzero(verdicts == 0)
    good = rows.take(passed)
    passed_ids = [ids[whole[place].trip_id] for place in passed.tolist()]
    trip_ids = [trip_id for trip_id in passed_ids if trip_id is not None]
    new = 0
    if len(good):
        values = copying.columns(good)
        new = await store.add_new_points(conn, org_id, trip_ids=trip_ids, **values)
    await store.delete_rejected_points(conn, org_id, [whole[p].id for p in passed.tolist()])
    left = await store.count_rejected_points(conn, org_id, reason=reason, upload_id=upload_id)
    refused = len(points) - len(good)
    return Outcome(
        stored=new,
        duplicates=len(good) - new,
        rejected=refused,
        remaining=max(0, left - refused),
        trips=frozenset(trip_ids),
    )


def _rows(points: list[RejectedPoint], places: dict[str | None, int]) -> Rows:
    def floats(values: list[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([np.nan if value is None else value for value in values], np.float64)

    count = len(points)
    return Rows(
        batch=np.zeros(count, np.int64),
        index=np.arange(count),
        trip=np.array([places[point.trip_id] for point in points], np.int64),
        time_us=np.array(
            [time_us(point.time_seconds, point.time_nanos) for point in points], np.int64
        ),
        lat=floats([point.lat for point in points]),
        lng=floats([point.lng for point in points]),
        speed=floats([NO_SPEED if p.speed_kph is None else p.speed_kph for p in points]),
        malformed=None,
    )
