"""Statements about free slots: what search offers and what placing judges by."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from libs import queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.booking.model.slots import NOBODY, Judged, Slot, Wanted
from services.booking.zones import Period

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "slots.sql")


FIRST_ID = uuid.UUID(int=0)
"""Less than any booking's."""


@dataclass(frozen=True, slots=True)
class HoursOfDate:
    """A weekly rule or an exception of one date, minutes of the day."""

    kind: str
    id: uuid.UUID
    start_minute: int
    end_minute: int
    note: str


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A live booking that takes an instructor's time."""

    id: uuid.UUID
    start_at: datetime
    end_at: datetime
    buffer_before_min: int
    buffer_after_min: int
    status: str


async def search_slots(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    service_id: uuid.UUID,
    instructor_id: uuid.UUID | None,
    from_at: datetime,
    to_at: datetime,
    now: datetime,
    zone: Sequence[Period],
    after: tuple[datetime, uuid.UUID],
    limit: int,
) -> list[Slot]:
    parameters = {
        "org_id": org_id,
        "service_id": service_id,
        "instructor_id": instructor_id,
        "from_at": from_at,
        "to_at": to_at,
        "now": now,
        "except_ids": [],
        "first_id": FIRST_ID,
        "after_at": after[0],
        "after_id": after[1],
        "limit": limit,
        **_zone(zone),
    }
    cursor = await conn.execute(SQL.search_slots, parameters)
    return [Slot(*row) for row in await cursor.fetchall()]


async def nearest_slots(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    wanted: Wanted,
    judged: Judged,
    from_at: datetime,
    to_at: datetime,
    now: datetime,
    zone: Sequence[Period],
    except_ids: Sequence[uuid.UUID] = (),
) -> list[datetime]:
    parameters = {
        "org_id": org_id,
        "instructor_id": wanted.instructor_id,
        "student_id": wanted.student_id,
        "vehicle_id": wanted.vehicle_id,
        "duration_min": judged.duration_min,
        "before_min": judged.buffer_before_min,
        "after_min": judged.buffer_after_min,
        "step_min": judged.slot_step_min,
        "at": wanted.start_at,
        "from_at": from_at,
        "to_at": to_at,
        "earliest": judged.earliest(now),
        "now": now,
        "except_ids": list(except_ids),
        "first_id": FIRST_ID,
        **_zone(zone),
    }
    cursor = await conn.execute(SQL.nearest_slots, parameters)
    return [start_at for (start_at,) in await cursor.fetchall()]


async def judge_starts(
    conn: Connection,
    org_id: uuid.UUID,
    wanted: Sequence[tuple[Wanted, date]],
    *,
    now: datetime,
    zone: Sequence[Period],
    except_ids: Sequence[uuid.UUID] = (),
) -> list[Judged]:
    """The facts about each of `wanted`, which come with the local date of their start."""
    parameters = _judging(org_id, wanted, now, zone, except_ids)
    cursor = await conn.execute(SQL.judge_starts, parameters)
    return [Judged(*row) for row in await cursor.fetchall()]


def judge_starts_later(
    conn: Connection,
    org_id: uuid.UUID,
    wanted: Sequence[tuple[Wanted, date]],
    *,
    now: datetime,
    zone: Sequence[Period],
) -> Callable[[], list[Judged]]:
    """As judge_starts; what is returned gives the facts once the next statement is answered."""
    later = conn.later(SQL.judge_starts, _judging(org_id, wanted, now, zone, ()))
    return lambda: [Judged(*row) for row in later.rows]


def _judging(
    org_id: uuid.UUID,
    wanted: Sequence[tuple[Wanted, date]],
    now: datetime,
    zone: Sequence[Period],
    except_ids: Sequence[uuid.UUID],
) -> dict[str, Any]:
    return {
        "org_id": org_id,
        "wanted": Jsonb([_wanted(no, each, of) for no, (each, of) in enumerate(wanted)]),
        "now": now,
        "except_ids": list(except_ids),
        "first_id": FIRST_ID,
        **_zone(zone),
    }


async def explain_hours(
    conn: Reader, org_id: uuid.UUID, instructor_id: uuid.UUID, of: date
) -> list[HoursOfDate]:
    parameters = {"org_id": org_id, "instructor_id": instructor_id, "date": of}
    cursor = await conn.execute(SQL.explain_hours, parameters)
    return [HoursOfDate(*row) for row in await cursor.fetchall()]


async def bookings_in_the_way(
    conn: Reader,
    org_id: uuid.UUID,
    instructor_id: uuid.UUID,
    busy_from: datetime,
    busy_to: datetime,
    now: datetime,
) -> list[InTheWay]:
    parameters = {
        "org_id": org_id,
        "instructor_id": instructor_id,
        "busy_from": busy_from,
        "busy_to": busy_to,
        "first_id": FIRST_ID,
        "now": now,
    }
    cursor = await conn.execute(SQL.bookings_in_the_way, parameters)
    return [InTheWay(*row) for row in await cursor.fetchall()]


def _zone(zone: Sequence[Period]) -> dict[str, Any]:
    return {
        "zone_starts": [period.start for period in zone],
        "zone_ends": [period.end for period in zone],
        "zone_offsets_s": [period.offset_s for period in zone],
    }


def _wanted(no: int, wanted: Wanted, of: date) -> dict[str, Any]:
    return {
        "no": no,
        "instructor_id": str(wanted.instructor_id),
        "service_id": str(wanted.service_id),
        "student_id": None if wanted.student_id == NOBODY else str(wanted.student_id),
        "vehicle_id": None if wanted.vehicle_id is None else str(wanted.vehicle_id),
        "start_at": wanted.start_at.isoformat(),
        "local_date": of.isoformat(),
    }
