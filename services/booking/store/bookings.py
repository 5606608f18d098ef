"""Statements that read bookings: a mask decides which columns they fetch and what they join.

Rows are plain tuples, in the order of the mask's paths, for `messages.bookings.reader`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from libs import queries
from libs.orgs import Reader

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "bookings.sql")
Row = tuple[Any, ...]
MASKS_MAX = 1_000
"""So many masks are remembered."""


def _us(column: str) -> str:
    """A time as microseconds since 1970: cheaper to fetch and to send on than a datetime."""
    return f"""(pg_catalog.extract('epoch', b."{column}") * 1000000)::int8"""


# API path -> SQL. Ids are fetched as the text that they are in messages; paths of nested messages
# come last.
FIELDS: dict[str, str] = {
    "id": "b.id::text",
    "student_id": 'b."studentId"::text',
    "instructor_id": 'b."instructorId"::text',
    "service_id": 'b."serviceId"::text',
    "vehicle_id": 'b."vehicleId"::text',
    "start_time": _us("startAt"),
    "end_time": _us("endAt"),
    "status": "b.status",
    "hold_expire_time": _us("holdExpiresAt"),
    "buffer_before_minutes": 'b."bufferBeforeMin"',
    "buffer_after_minutes": 'b."bufferAfterMin"',
    "price_cents": 'b."priceCents"',
    "platform_fee_cents": 'b."platformFeeCents"',
    "instructor_share_cents": 'b."instructorShareCents"',
    "currency": "b.currency::text",
    "notes": "b.notes",
    "cancel_reason": 'b."cancelReason"',
    "cancel_time": _us("cancelledAt"),
    "refund_cents": 'b."refundCents"',
    "reschedule_count": 'b."rescheduleCount"',
    "original_start_time": _us("originalStartAt"),
    "series_id": 'b."seriesId"::text',
    "etag": "b.version::text",
    "create_time": _us("createdAt"),
    "update_time": _us("updatedAt"),
    "pickup.address": 'b."pickupAddress"',
    "pickup.lat": 'b."pickupLat"::float8',
    "pickup.lng": 'b."pickupLng"::float8',
    "dropoff.address": 'b."dropoffAddress"',
    "dropoff.lat": 'b."dropoffLat"::float8',
    "dropoff.lng": 'b."dropoffLng"::float8',
    "student.id": 'b."studentId"::text',
    "student.full_name": 'st."fullName"',
    "instructor.id": 'b."instructorId"::text',
    "instructor.display_name": 'i."displayName"',
    "service.id": 'b."serviceId"::text',
    "service.name": "se.name",
    "vehicle.id": 'b."vehicleId"::text',
    "vehicle.label": "v.label",
}
# What needs another table. Its id does not: the booking has it.
JOINS = {
    "student.full_name": "student",
    "instructor.display_name": "instructor",
    "service.name": "service",
    "vehicle.label": "vehicle",
}
NESTED = ("student.", "instructor.", "service.", "vehicle.")
GET_PATHS = tuple(path for path in FIELDS if not path.startswith(NESTED))
LIST_PATHS = (
    "id",
    "student_id",
    "instructor_id",
    "service_id",
    "start_time",
    "end_time",
    "status",
)
DAY_PATHS = tuple(FIELDS)
DAY_BOOKINGS_MAX = 2_000
LAST = (datetime.max.replace(tzinfo=UTC), uuid.UUID(int=2**128 - 1))
"""Before this row lie all."""
FIRST_START = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which bookings a list has; None filters nothing."""

    start_from: datetime = FIRST_START
    before: tuple[datetime, uuid.UUID] = LAST
    """Those behind this row, in the order of latest start and greatest id first."""
    student_id: uuid.UUID | None = None
    instructor_id: uuid.UUID | None = None
    status: str | None = None
    active_instructors_only: bool = False

    def parameters(self, org_id: uuid.UUID, limit: int) -> dict[str, Any]:
        """Those of the lists' statements; each uses what it names."""
        return {
            "org_id": org_id,
            "start_from": self.start_from,
            "before_start": self.before[0],
            "before_id": self.before[1],
            "student_id": self.student_id,
            "instructor_id": self.instructor_id,
            "status": self.status,
            "limit": limit,
        }


async def get_booking(
    conn: Reader, org_id: uuid.UUID, booking_id: uuid.UUID, paths: tuple[str, ...]
) -> Row | None:
    query = _query("get_booking", paths)
    cursor = await conn.execute(query, {"org_id": org_id, "booking_id": booking_id})
    return await cursor.fetchone()


async def batch_get_bookings(
    conn: Reader, org_id: uuid.UUID, booking_ids: Sequence[uuid.UUID], paths: tuple[str, ...]
) -> dict[uuid.UUID, Row]:
    columns, joins = _asked(paths)
    query = SQL.select("batch_get_bookings", (*columns, "b.id"), joins)
    cursor = await conn.execute(query, {"org_id": org_id, "booking_ids": list(booking_ids)})
    return {row[-1]: row for row in await cursor.fetchall()}


async def list_bookings(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...]
) -> list[Row]:
    return await _page(conn, "list_bookings", org_id, of, limit, paths)


async def list_bookings_with_status(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...]
) -> list[Row]:
    return await _page(conn, "list_bookings_with_status", org_id, of, limit, paths)


async def list_bookings_of_instructor(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...]
) -> list[Row]:
    return await _page(conn, "list_bookings_of_instructor", org_id, of, limit, paths)


async def list_bookings_of_student(
    conn: Reader, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...]
) -> list[Row]:
    return await _page(conn, "list_bookings_of_student", org_id, of, limit, paths)


async def list_day_schedule(
    conn: Reader,
    org_id: uuid.UUID,
    start_from: datetime,
    start_to: datetime,
    paths: tuple[str, ...] = DAY_PATHS,
) -> list[Row]:
    query = _query("list_day_schedule", paths, active_instructors_only=True)
    parameters = {
        "org_id": org_id,
        "start_from": start_from,
        "start_to": start_to,
        "limit": DAY_BOOKINGS_MAX,
    }
    return await (await conn.execute(query, parameters)).fetchall()


async def _page(
    conn: Reader, name: str, org_id: uuid.UUID, of: Filter, limit: int, paths: tuple[str, ...]
) -> list[Row]:
    """Rows in which `ends` finds what the next page goes on by."""
    query = _query(name, _paged(paths), of.active_instructors_only)
    return await (await conn.execute(query, of.parameters(org_id, limit))).fetchall()


@lru_cache(MASKS_MAX)
def ends(paths: tuple[str, ...]) -> tuple[int, int]:
    """Where in a page's rows start (microseconds) and id are, by which the next page goes on."""
    fetched = _paged(paths)
    return fetched.index("start_time"), fetched.index("id")


@lru_cache(MASKS_MAX)
def _paged(paths: tuple[str, ...]) -> tuple[str, ...]:
    return (*paths, *(path for path in ("start_time", "id") if path not in paths))


def _query(name: str, paths: tuple[str, ...], active_instructors_only: bool = False) -> bytes:
    return SQL.select(name, *_asked(paths, active_instructors_only))


@lru_cache(MASKS_MAX)
def _asked(
    paths: tuple[str, ...], active_instructors_only: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns and joins of a mask."""
    joins = [JOINS[path] for path in paths if path in JOINS]
    if active_instructors_only:
        joins = ["active_instructor", *(join for join in joins if join != "instructor")]
    return tuple(FIELDS[path] for path in paths), tuple(joins)
