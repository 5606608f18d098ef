"""One function per statement of queries.sql, of the same name; rows come back typed.

Nothing here opens a transaction: the connection is that of orgs.read or orgs.write, or of a
platform action, and the caller decides.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from psycopg.copy import AsyncLibpqWriter

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.tracking import drive
from services.tracking.model import Partition, Point, RejectedPoint, Trip, Upload, Window

Row = TypeVar("Row")
SQL = queries.load("tracking", Path(__file__).with_name("queries.sql"))

# API path -> (field of model.Trip, column)
TRIP_FIELDS: dict[str, tuple[str, str]] = {
    "id": ("id", "id"),
    "lesson_id": ("lesson_id", '"lessonId"'),
    "lesson_verified": ("lesson_verified", '"lessonVerified"'),
    "instructor_id": ("instructor_id", '"instructorId"'),
    "vehicle_id": ("vehicle_id", '"vehicleId"'),
    "start_time": ("started_at", '"startedAt"'),
    "end_time": ("ended_at", '"endedAt"'),
    "status": ("status", "status"),
    "version": ("version", "version"),
    "summary.point_count": ("point_count", '"pointCount"'),
    "summary.distance_meters": ("distance_meters", '"distanceMeters"'),
    "summary.duration_seconds": ("duration_seconds", '"durationSeconds"'),
    "summary.moving_seconds": ("moving_seconds", '"movingSeconds"'),
    "summary.max_speed_kph": ("max_speed_kph", '"maxSpeedKph"'),
    "summary.avg_speed_kph": ("avg_speed_kph", '"avgSpeedKph"'),
    "summary.bounding_box.min_lat": ("min_lat", '"minLat"::float8'),
    "summary.bounding_box.min_lng": ("min_lng", '"minLng"::float8'),
    "summary.bounding_box.max_lat": ("max_lat", '"maxLat"::float8'),
    "summary.bounding_box.max_lng": ("max_lng", '"maxLng"::float8'),
    "summary.route": ("route", "route"),
    "summary.points_hash": ("points_hash", '"pointsHash"'),
    "legal_hold": ("legal_hold", '"legalHold"'),
    "create_time": ("created_at", '"createdAt"'),
}
# Beside what the caller asked for: what the service itself decides by.
TRIP_ALWAYS = {
    "id": "id",
    "started_at": '"startedAt"',
    "ended_at": '"endedAt"',
    "point_count": '"pointCount"',
    "points_dropped_at": '"pointsDroppedAt"',
}
TRIP_PATHS = tuple(TRIP_FIELDS)
TRIP_LIST_PATHS = tuple(path for path in TRIP_FIELDS if path != "summary.route")

POINT_FIELDS = {
    "time": ("ts", "ts"),
    "lat": ("lat", "lat::float8"),
    "lng": ("lng", "lng::float8"),
    "speed_kph": ("speed_kph", '"speedKph"::float8'),
}
POINT_PATHS = tuple(POINT_FIELDS)

EVENT_FIELDS = {"time": "ts", "kind": "kind", "value": "value"}
EVENT_PATHS = tuple(EVENT_FIELDS)

REJECTED_FIELDS = {
    "upload_id": (("upload_id", '"uploadId"'),),
    "sequence": (("sequence", "sequence"),),
    "index": (("index", "index"),),
    "trip_id": (("trip_id", '"tripId"'),),
    "reason": (("reason", "reason"),),
    "point": (
        ("time_seconds", '"timeSeconds"'),
        ("time_nanos", '"timeNanos"'),
        ("lat", "lat"),
        ("lng", "lng"),
        ("speed_kph", '"speedKph"'),
    ),
    "receive_time": (("created_at", '"createdAt"'),),
}
REJECTED_PATHS = tuple(REJECTED_FIELDS)
MASKS_MAX = 256
"""Sets of columns that are remembered."""
FOREVER = datetime.max.replace(tzinfo=UTC)
UUID_MAX = uuid.UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class TripWindow:
    """What ingest judges points by."""

    id: uuid.UUID
    started_at: datetime
    ended_at: datetime | None
    end_recorded_at: datetime | None


@dataclass(frozen=True, slots=True)
class LockedUpload:
    """An upload under lock in a flush."""

    key: tuple[uuid.UUID, str, uuid.UUID]
    epoch: int
    durable_through: int


@dataclass(frozen=True, slots=True)
class ErasedTrip:
    """A trip whose points must go."""

    id: uuid.UUID
    started_at: datetime
    ended_at: datetime | None
    legal_hold: bool


@dataclass(frozen=True, slots=True)
class DroppedTrip:
    """A trip with points in a month that is to be dropped."""

    id: uuid.UUID
    status: str
    legal_hold: bool
    points: int


# --- trips -------------------------------------------------------------------------------------


async def start_trip(
    conn: Connection,
    org_id: uuid.UUID,
    *,
    lesson_id: uuid.UUID | None,
    lesson_verified: bool,
    instructor_id: uuid.UUID | None,
    vehicle_id: uuid.UUID | None,
    started_at: datetime,
) -> Trip:
    fields, columns = _trip_columns(TRIP_PATHS)
    cursor = await conn.execute(
        SQL.select("start_trip", columns),
        {
            "org_id": org_id,
            "lesson_id": lesson_id,
            "lesson_verified": lesson_verified,
            "instructor_id": instructor_id,
            "vehicle_id": vehicle_id,
            "started_at": started_at,
        },
    )
    return _one(_trips(fields, await cursor.fetchall()))


async def end_trip(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, ended_at: datetime
) -> Trip:
    return _one(
        await _trip_rows(conn, "end_trip", org_id=org_id, trip_id=trip_id, ended_at=ended_at)
    )


async def get_trip(
    conn: Reader, org_id: uuid.UUID, trip_id: uuid.UUID, paths: tuple[str, ...] = TRIP_PATHS
) -> Trip | None:
    rows = await _trip_rows(conn, "get_trip", paths, org_id=org_id, trip_id=trip_id)
    return rows[0] if rows else None


async def lock_trip(conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID) -> Trip | None:
    rows = await _trip_rows(conn, "lock_trip", org_id=org_id, trip_id=trip_id)
    return rows[0] if rows else None


async def list_trips(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    before: tuple[datetime, uuid.UUID],
    started_from: datetime,
    limit: int,
    paths: tuple[str, ...],
) -> list[Trip]:
    return await _trip_rows(
        conn,
        "list_trips",
        paths,
        org_id=org_id,
        before_started_at=before[0],
        before_id=before[1],
        started_from=started_from,
        limit=limit,
    )


async def list_trips_of_lesson(
    conn: Reader,
    org_id: uuid.UUID,
    lesson_id: uuid.UUID,
    *,
    before: tuple[datetime, uuid.UUID],
    started_from: datetime,
    limit: int,
    paths: tuple[str, ...],
) -> list[Trip]:
    return await _trip_rows(
        conn,
        "list_trips_of_lesson",
        paths,
        org_id=org_id,
        lesson_id=lesson_id,
        before_started_at=before[0],
        before_id=before[1],
        started_from=started_from,
        limit=limit,
    )


async def trip_windows(
    conn: Connection, org_id: uuid.UUID, trip_ids: Sequence[uuid.UUID]
) -> list[TripWindow]:
    cursor = await conn.execute(SQL.trip_windows, {"org_id": org_id, "trip_ids": list(trip_ids)})
    return [TripWindow(*row) for row in await cursor.fetchall()]


async def set_legal_hold(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, hold: bool
) -> Trip | None:
    rows = await _trip_rows(conn, "set_legal_hold", org_id=org_id, trip_id=trip_id, hold=hold)
    return rows[0] if rows else None


# --- summaries ---------------------------------------------------------------------------------


async def save_summary(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, summary: drive.Summary
) -> Trip:
    return _one(
        await _trip_rows(
            conn,
            "save_summary",
            org_id=org_id,
            trip_id=trip_id,
            point_count=summary.point_count,
            distance_meters=summary.distance_meters,
            duration_seconds=summary.duration_seconds,
            moving_seconds=summary.moving_seconds,
            max_speed_kph=summary.max_speed_kph,
            avg_speed_kph=summary.avg_speed_kph,
            min_lat=summary.min_lat,
            min_lng=summary.min_lng,
            max_lat=summary.max_lat,
            max_lng=summary.max_lng,
            route=summary.route,
            points_hash=summary.points_hash,
        )
    )


async def delete_driving_events(conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID) -> None:
    await conn.execute(SQL.delete_driving_events, {"org_id": org_id, "trip_id": trip_id})


async def add_driving_events(
    conn: Connection,
    org_id: uuid.UUID,
    trip_id: uuid.UUID,
    events: Sequence[tuple[datetime, str, float]],
) -> None:
    times, kinds, values = zip(*events, strict=True) if events else ((), (), ())
    await conn.execute(
        SQL.add_driving_events,
        {
            "org_id": org_id,
            "trip_id": trip_id,
            "times": list(times),
            "kinds": list(kinds),
            "values": list(values),
        },
    )


async def list_driving_events(
    conn: Connection,
    org_id: uuid.UUID,
    trip_id: uuid.UUID,
    *,
    after: tuple[datetime, str],
    limit: int,
    paths: tuple[str, ...] = EVENT_PATHS,
) -> list[masks.Row]:
    """Rows that end with ts and kind, behind which the next page goes on."""
    cursor = await conn.execute(
        SQL.select("list_driving_events", (*masks.columns(EVENT_FIELDS, paths), "ts", "kind")),
        {
            "org_id": org_id,
            "trip_id": trip_id,
            "after_ts": after[0],
            "after_kind": after[1],
            "limit": limit,
        },
    )
    return await cursor.fetchall()


async def unsettled_trips(
    conn: Connection, org_id: uuid.UUID, recorded_before: datetime, limit: int
) -> list[uuid.UUID]:
    cursor = await conn.execute(
        SQL.unsettled_trips,
        {"org_id": org_id, "recorded_before": recorded_before, "limit": limit},
    )
    return [row[0] for row in await cursor.fetchall()]


async def settle_trip(conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID) -> None:
    await conn.execute(SQL.settle_trip, {"org_id": org_id, "trip_id": trip_id})


async def unsettle_trips(
    conn: Connection, org_id: uuid.UUID, trip_ids: Sequence[uuid.UUID]
) -> None:
    await conn.execute(SQL.unsettle_trips, {"org_id": org_id, "trip_ids": list(trip_ids)})


# --- points ------------------------------------------------------------------------------------


async def list_points(
    conn: Connection,
    org_id: uuid.UUID,
    trip_id: uuid.UUID,
    *,
    after: datetime,
    before: datetime,
    limit: int,
    paths: Sequence[str] = POINT_PATHS,
) -> list[Point]:
    """Points later than `after` and earlier than `before`; `ts` is always fetched."""
    fields = dict(POINT_FIELDS[path] for path in ("time", *paths))
    cursor = await conn.execute(
        SQL.select("list_points", tuple(fields.values())),
        {
            "org_id": org_id,
            "trip_id": trip_id,
            "after": after,
            "before": before,
            "limit": limit,
        },
    )
    names = tuple(fields)
    return [Point(**dict(zip(names, row, strict=True))) for row in await cursor.fetchall()]


async def latest_point(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, within: Window
) -> Point | None:
    cursor = await conn.execute(
        SQL.latest_point,
        {
            "org_id": org_id,
            "trip_id": trip_id,
            "from_ts": within.start,
            "before": within.end,
        },
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    ts, lat, lng, speed = row
    return Point(ts, float(lat), float(lng), None if speed is None else float(speed))


async def read_points(
    conn: Connection,
    org_id: uuid.UUID,
    trip_id: uuid.UUID,
    *,
    after: datetime,
    before: datetime,
    limit: int,
) -> drive.Points:
    """Points as stored integers, up to `limit`."""
    cursor = await conn.execute(
        SQL.read_points,
        {
            "org_id": org_id,
            "trip_id": trip_id,
            "after": after,
            "before": before,
            "limit": limit,
        },
    )
    table = np.array(await cursor.fetchall(), dtype=np.int64).reshape(-1, 4)
    return drive.Points(*(np.ascontiguousarray(column) for column in table.T))


async def count_points(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, within: Window
) -> int:
    cursor = await conn.execute(
        SQL.count_points,
        {
            "org_id": org_id,
            "trip_id": trip_id,
            "from_ts": within.start,
            "before": within.end,
        },
    )
    return int(_one(await cursor.fetchall())[0])


# --- uploads -----------------------------------------------------------------------------------


async def open_upload(
    conn: Connection, org_id: uuid.UUID, subject: str, upload_id: uuid.UUID, gateway: str
) -> tuple[int, int]:
    """The upload's epoch and durable_through."""
    cursor = await conn.execute(
        SQL.open_upload,
        {"org_id": org_id, "subject": subject, "upload_id": upload_id, "gateway": gateway},
    )
    epoch, durable_through = _one(await cursor.fetchall())
    return epoch, durable_through


async def forget_unacknowledged_rejections(
    conn: Connection, org_id: uuid.UUID, subject: str, upload_id: uuid.UUID, durable_through: int
) -> None:
    await conn.execute(
        SQL.forget_unacknowledged_rejections,
        {
            "org_id": org_id,
            "subject": subject,
            "upload_id": upload_id,
            "durable_through": durable_through,
        },
    )


async def get_upload(
    conn: Connection, org_id: uuid.UUID, subject: str, upload_id: uuid.UUID
) -> Upload | None:
    cursor = await conn.execute(
        SQL.get_upload, {"org_id": org_id, "subject": subject, "upload_id": upload_id}
    )
    row = await cursor.fetchone()
    return None if row is None else Upload(*row)


async def lock_uploads(
    conn: Connection, keys: Iterable[tuple[uuid.UUID, str, uuid.UUID]]
) -> list[LockedUpload]:
    org_ids, subjects, upload_ids = zip(*keys, strict=True)
    cursor = await conn.execute(
        SQL.lock_uploads,
        {
            "org_ids": list(org_ids),
            "subjects": list(subjects),
            "upload_ids": list(upload_ids),
        },
    )
    return [
        LockedUpload((org_id, subject, upload_id), epoch, durable)
        for org_id, subject, upload_id, epoch, durable in await cursor.fetchall()
    ]


async def move_marks(
    conn: Connection, marks: Sequence[tuple[tuple[uuid.UUID, str, uuid.UUID], int]]
) -> None:
    await conn.execute(
        SQL.move_marks,
        {
            "org_ids": [key[0] for key, _ in marks],
            "subjects": [key[1] for key, _ in marks],
            "upload_ids": [key[2] for key, _ in marks],
            "through": [through for _, through in marks],
        },
    )


async def lock_upload(
    conn: Connection, key: tuple[uuid.UUID, str, uuid.UUID]
) -> tuple[int, int] | None:
    """Epoch and durable_through of an upload, locked."""
    org_id, subject, upload_id = key
    cursor = await conn.execute(
        SQL.lock_upload, {"org_id": org_id, "subject": subject, "upload_id": upload_id}
    )
    return await cursor.fetchone()


async def move_mark(conn: Connection, key: tuple[uuid.UUID, str, uuid.UUID], through: int) -> None:
    org_id, subject, upload_id = key
    await conn.execute(
        SQL.move_mark,
        {"org_id": org_id, "subject": subject, "upload_id": upload_id, "through": through},
    )


async def copy_points(conn: Connection, rows: bytes) -> None:
    """COPY rows in the binary format (ingest.copying makes them)."""
    async with conn.cursor() as cursor:
        # All of it is handed over at once: to wait between parts would starve the server.
        writer = AsyncLibpqWriter(cursor, flush_threshold=len(rows) + 1)
        async with cursor.copy(SQL.copy_points, writer=writer) as copy:
            await copy.write(rows)


async def add_new_points(
    conn: Connection,
    org_id: uuid.UUID,
    *,
    trip_ids: list[uuid.UUID],
    times: list[datetime],
    lats: list[Any],
    lngs: list[Any],
    speeds: list[Any],
) -> int:
    """How many of the points were not there yet."""
    cursor = await conn.execute(
        SQL.add_new_points,
        {
            "org_id": org_id,
            "trip_ids": trip_ids,
            "times": times,
            "lats": lats,
            "lngs": lngs,
            "speeds": speeds,
        },
    )
    return cursor.rowcount


# --- rejected points ---------------------------------------------------------------------------


async def count_rejected(conn: Connection, org_id: uuid.UUID, count: int, limit: int) -> int:
    """How many of `count` more rejected points may be kept today."""
    cursor = await conn.execute(
        SQL.count_rejected, {"org_id": org_id, "count": count, "limit": limit}
    )
    return int(_one(await cursor.fetchall())[0])


async def reject_points(
    conn: Connection, key: tuple[uuid.UUID, str, uuid.UUID], points: Sequence[RejectedPoint]
) -> None:
    org_id, subject, upload_id = key
    await conn.execute(
        SQL.reject_points,
        {
            "org_id": org_id,
            "subject": subject,
            "upload_id": upload_id,
            "sequences": [point.sequence for point in points],
            "indexes": [point.index for point in points],
            "reasons": [point.reason for point in points],
            "trip_ids": [point.trip_id for point in points],
            "seconds": [point.time_seconds for point in points],
            "nanos": [point.time_nanos for point in points],
            "lats": [point.lat for point in points],
            "lngs": [point.lng for point in points],
            "speeds": [point.speed_kph for point in points],
        },
    )


async def list_rejected_points(
    conn: Connection,
    org_id: uuid.UUID,
    *,
    before_id: uuid.UUID,
    reason: str | None,
    upload_id: uuid.UUID | None,
    limit: int,
    paths: Sequence[str],
) -> list[RejectedPoint]:
    fields = dict(field for path in paths for field in REJECTED_FIELDS[path])
    cursor = await conn.execute(
        SQL.select("list_rejected_points", ("id", *fields.values())),
        {
            "org_id": org_id,
            "before_id": before_id,
            "reason": reason,
            "upload_id": upload_id,
            "limit": limit,
        },
    )
    names = ("id", *fields)
    return [RejectedPoint(**dict(zip(names, row, strict=True))) for row in await cursor.fetchall()]


async def lock_rejected_points(
    conn: Connection,
    org_id: uuid.UUID,
    *,
    reason: str | None,
    upload_id: uuid.UUID | None,
    limit: int,
) -> list[RejectedPoint]:
    cursor = await conn.execute(
        SQL.lock_rejected_points,
        {"org_id": org_id, "reason": reason, "upload_id": upload_id, "limit": limit},
    )
    return [
        RejectedPoint(
            id=id_,
            trip_id=trip_id,
            time_seconds=seconds,
            time_nanos=nanos,
            lat=lat,
            lng=lng,
            speed_kph=speed,
            reason=why,
        )
        for id_, trip_id, seconds, nanos, lat, lng, speed, why in await cursor.fetchall()
    ]


async def count_rejected_points(
    conn: Connection, org_id: uuid.UUID, *, reason: str | None, upload_id: uuid.UUID | None
) -> int:
    cursor = await conn.execute(
        SQL.count_rejected_points, {"org_id": org_id, "reason": reason, "upload_id": upload_id}
    )
    return int(_one(await cursor.fetchall())[0])


async def delete_rejected_points(
    conn: Connection, org_id: uuid.UUID, ids: Sequence[uuid.UUID]
) -> None:
    await conn.execute(SQL.delete_rejected_points, {"org_id": org_id, "ids": list(ids)})


async def sweep_rejected_points(
    conn: Connection, org_id: uuid.UUID, created_before: datetime
) -> int:
    """How many went; 0 when none is left."""
    cursor = await conn.execute(
        SQL.sweep_rejected_points, {"org_id": org_id, "created_before": created_before}
    )
    return cursor.rowcount


# --- partitions --------------------------------------------------------------------------------

_BOUND = re.compile(r"FROM \('([^']+)'\) TO \('([^']+)'\)")


async def list_partitions(conn: Connection) -> list[Partition]:
    cursor = await conn.execute(SQL.list_partitions)
    found = []
    for name, bound, rows, size, detaching in await cursor.fetchall():
        match = _BOUND.search(bound)
        if match is not None:
            start, end = (datetime.fromisoformat(text) for text in match.groups())
            found.append(Partition(name, start, end, rows, size, detaching))
    return sorted(found, key=lambda partition: partition.start)


async def create_monthly_partition(conn: Connection, month: datetime) -> bool:
    """Whether it was missing."""
    cursor = await conn.execute(SQL.create_monthly_partition, {"month": month.date()})
    return bool(_one(await cursor.fetchall())[0])


async def list_condemned_partitions(conn: Connection, note: str) -> list[str]:
    """Names of the tables."""
    cursor = await conn.execute(SQL.list_condemned_partitions, {"note": note})
    return [name for (name,) in await cursor.fetchall()]


async def dropped_trips(
    conn: Connection, org_id: uuid.UUID, within: Window, *, after_id: uuid.UUID, limit: int
) -> list[DroppedTrip]:
    """Also trips of that time without points there."""
    cursor = await conn.execute(
        SQL.dropped_trips,
        {
            "org_id": org_id,
            "from_ts": within.start,
            "before": within.end,
            "after_id": after_id,
            "limit": limit,
        },
    )
    return [DroppedTrip(*row) for row in await cursor.fetchall()]


async def hold_points(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, within: Window
) -> int:
    """How many points were copied."""
    cursor = await conn.execute(
        SQL.hold_points,
        {
            "org_id": org_id,
            "trip_id": trip_id,
            "from_ts": within.start,
            "before": within.end,
        },
    )
    return cursor.rowcount


async def note_dropped_points(
    conn: Connection, org_id: uuid.UUID, trip_ids: Sequence[uuid.UUID]
) -> None:
    await conn.execute(SQL.note_dropped_points, {"org_id": org_id, "trip_ids": list(trip_ids)})


# --- rows --------------------------------------------------------------------------------------


async def _trip_rows(
    conn: Reader, query: str, paths: tuple[str, ...] = TRIP_PATHS, **parameters: Any
) -> list[Trip]:
    fields, columns = _trip_columns(paths)
    cursor = await conn.execute(SQL.select(query, columns), parameters)
    return _trips(fields, await cursor.fetchall())


@lru_cache(MASKS_MAX)
def _trip_columns(paths: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fields of model.Trip and the columns that fill them."""
    fields = TRIP_ALWAYS | dict(TRIP_FIELDS[path] for path in paths)
    return tuple(fields), tuple(fields.values())


def _trips(fields: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[Trip]:
    return [Trip(**dict(zip(fields, row, strict=True))) for row in rows]


def _one(rows: Sequence[Row]) -> Row:
    (row,) = rows
    return row


# --- lessons -----------------------------------------------------------------------------------


async def unverified_lessons(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    created_after: datetime,
    asked_before: datetime,
    limit: int,
) -> list[uuid.UUID]:
    parameters = {
        "org_id": org_id,
        "created_after": created_after,
        "asked_before": asked_before,
        "limit": limit,
    }
    rows = await (await conn.execute(SQL.unverified_lessons, parameters)).fetchall()
    return [row[0] for row in rows]


async def verify_lessons(
    conn: Connection, org_id: uuid.UUID, lesson_ids: Sequence[uuid.UUID]
) -> None:
    parameters = {"org_id": org_id, "lesson_ids": list(lesson_ids)}
    await conn.execute(SQL.verify_lessons, parameters)


async def note_missing_lessons(
    conn: Connection, org_id: uuid.UUID, lesson_ids: Sequence[uuid.UUID], asked_at: datetime
) -> None:
    parameters = {"org_id": org_id, "lesson_ids": list(lesson_ids), "asked_at": asked_at}
    await conn.execute(SQL.note_missing_lessons, parameters)


# --- erasure -----------------------------------------------------------------------------------


async def erase_trips(
    conn: Connection, org_id: uuid.UUID, lesson_ids: Sequence[uuid.UUID]
) -> list[ErasedTrip]:
    parameters = {"org_id": org_id, "lesson_ids": list(lesson_ids)}
    rows = await (await conn.execute(SQL.erase_trips, parameters)).fetchall()
    return [ErasedTrip(*row) for row in rows]


async def erase_released_trip(conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID) -> None:
    await conn.send(SQL.erase_released_trip, {"org_id": org_id, "trip_id": trip_id})


async def erased_trips(
    conn: Connection, org_id: uuid.UUID, erased_after: datetime
) -> list[ErasedTrip]:
    parameters = {"org_id": org_id, "erased_after": erased_after}
    rows = await (await conn.execute(SQL.erased_trips, parameters)).fetchall()
    return [ErasedTrip(*row) for row in rows]


async def erase_points(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, within: Window, limit: int
) -> int:
    """Returns how many."""
    parameters = {
        "org_id": org_id,
        "trip_id": trip_id,
        "from_ts": within.start,
        "before": within.end,
        "limit": limit,
    }
    return (await conn.execute(SQL.erase_points, parameters)).rowcount


async def erase_held_points(
    conn: Connection, org_id: uuid.UUID, trip_id: uuid.UUID, limit: int
) -> int:
    """Returns how many."""
    parameters = {"org_id": org_id, "trip_id": trip_id, "limit": limit}
    return (await conn.execute(SQL.erase_held_points, parameters)).rowcount


async def erase_rejected_points(
    conn: Connection, org_id: uuid.UUID, trip_ids: Sequence[uuid.UUID], limit: int
) -> int:
    """Returns how many."""
    parameters = {"org_id": org_id, "trip_ids": [str(each) for each in trip_ids], "limit": limit}
    return (await conn.execute(SQL.erase_rejected_points, parameters)).rowcount
