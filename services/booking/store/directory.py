"""One function per statement of queries/directory.sql, of the same name; rows come back typed."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.booking.model.directory import (
    Entity,
    Guardian,
    Instructor,
    Org,
    Service,
    Student,
    Vehicle,
)

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "directory.sql")
UUID_MAX = uuid.UUID(int=2**128 - 1)
EntityT = TypeVar("EntityT", bound=Entity)
Columns: TypeAlias = Mapping[str, tuple[str, str]]
"""API path -> (field of the model, column)."""

_ID = {"id": ("id", "id")}
_OF_ENTITY = {
    "etag": ("version", "version"),
    "create_time": ("created_at", '"createdAt"'),
    "update_time": ("updated_at", '"updatedAt"'),
}
ORG_FIELDS: Columns = {
    **_ID,
    "name": ("name", "name"),
    "time_zone": ("time_zone", '"timeZone"'),
    "currency": ("currency", "currency"),
    "platform_fee_bps": ("platform_fee_bps", '"platformFeeBps"'),
    "hold_minutes": ("hold_minutes", '"holdMinutes"'),
    "notice_minutes": ("notice_minutes", '"noticeMinutes"'),
    "travel_buffer_minutes": ("travel_buffer_minutes", '"travelBufferMin"'),
    "no_show_grace_minutes": ("no_show_grace_minutes", '"noShowGraceMinutes"'),
    "cancellation_policy.full_refund_hours": ("full_refund_hours", '"fullRefundHours"'),
    "cancellation_policy.partial_refund_hours": ("partial_refund_hours", '"partialRefundHours"'),
    "cancellation_policy.partial_refund_percent": (
        "partial_refund_percent",
        '"partialRefundPercent"',
    ),
    "suspend_time": ("suspended_at", '"suspendedAt"'),
    **_OF_ENTITY,
}
INSTRUCTOR_FIELDS: Columns = {
    **_ID,
    "display_name": ("display_name", '"displayName"'),
    "phone": ("phone", "phone"),
    "license_id": ("license_id", '"licenseId"'),
    "active": ("active", "active"),
    "stripe_account_id": ("stripe_account_id", '"stripeAccountId"'),
    "travel_buffer_minutes": ("travel_buffer_minutes", '"travelBufferMin"'),
    **_OF_ENTITY,
}
STUDENT_FIELDS: Columns = {
    **_ID,
    "full_name": ("full_name", '"fullName"'),
    "phone": ("phone", "phone"),
    "email": ("email", "email"),
    "birth_date": ("birth_date", "dob"),
    "notes": ("notes", "notes"),
    "erase_time": ("erased_at", '"erasedAt"'),
    **_OF_ENTITY,
}
STUDENT_LIST_PATHS = ("id", "full_name", "phone", "email", "create_time")
SERVICE_FIELDS: Columns = {
    **_ID,
    "name": ("name", "name"),
    "duration_minutes": ("duration_minutes", '"durationMin"'),
    "buffer_before_minutes": ("buffer_before_minutes", '"bufferBeforeMin"'),
    "buffer_after_minutes": ("buffer_after_minutes", '"bufferAfterMin"'),
    "slot_step_minutes": ("slot_step_minutes", '"slotStepMin"'),
    "active": ("active", "active"),
    **_OF_ENTITY,
}
VEHICLE_FIELDS: Columns = {
    **_ID,
    "label": ("label", "label"),
    "transmission": ("transmission", "transmission"),
    "active": ("active", "active"),
    **_OF_ENTITY,
}

# API path -> SQL: of the guardian, which takes a join, and of whom it answers for.
_OF_GUARDIAN = {
    "full_name": 'g."fullName"',
    "phone": "g.phone",
    "email": "g.email",
    "create_time": 'g."createdAt"',
}
GUARDIAN_FIELDS = {
    "id": 'l."guardianId"',
    "student_id": 'l."studentId"',
    "relationship": "l.relationship",
    **_OF_GUARDIAN,
}

# --- the school --------------------------------------------------------------------------------


async def new_org_id(conn: Connection) -> uuid.UUID:
    return (await _one(conn, SQL.new_org_id, {}))[0]  # type: ignore[no-any-return]


async def time_zone_known(conn: Connection, time_zone: str) -> bool:
    return bool((await _one(conn, SQL.time_zone_known, {"time_zone": time_zone}))[0])


async def create_org(conn: Connection, org: Org) -> Org:
    return await _saved(conn, "create_org", org.id, org, ORG_FIELDS)


async def get_org(conn: Reader, org_id: uuid.UUID) -> Org | None:
    return await _first(conn, "get_org", Org, ORG_FIELDS, org_id=org_id)


async def lock_org(conn: Connection, org_id: uuid.UUID) -> Org | None:
    return await _first(conn, "lock_org", Org, ORG_FIELDS, org_id=org_id)


async def update_org(conn: Connection, org_id: uuid.UUID, org: Org) -> Org:
    return await _saved(conn, "update_org", org_id, org, ORG_FIELDS)


async def set_org_suspended(
    conn: Connection, org_id: uuid.UUID, suspended_at: datetime | None
) -> Org | None:
    return await _first(
        conn, "set_org_suspended", Org, ORG_FIELDS, org_id=org_id, suspended_at=suspended_at
    )


# --- instructors -------------------------------------------------------------------------------


async def create_instructor(
    conn: Connection, org_id: uuid.UUID, instructor: Instructor
) -> Instructor:
    return await _saved(conn, "create_instructor", org_id, instructor, INSTRUCTOR_FIELDS)


async def get_instructor(
    conn: Reader, org_id: uuid.UUID, instructor_id: uuid.UUID
) -> Instructor | None:
    return await _first(
        conn,
        "get_instructor",
        Instructor,
        INSTRUCTOR_FIELDS,
        org_id=org_id,
        instructor_id=instructor_id,
    )


async def lock_instructor(
    conn: Connection, org_id: uuid.UUID, instructor_id: uuid.UUID
) -> Instructor | None:
    return await _first(
        conn,
        "lock_instructor",
        Instructor,
        INSTRUCTOR_FIELDS,
        org_id=org_id,
        instructor_id=instructor_id,
    )


async def update_instructor(
    conn: Connection, org_id: uuid.UUID, instructor: Instructor
) -> Instructor:
    return await _saved(conn, "update_instructor", org_id, instructor, INSTRUCTOR_FIELDS)


async def list_instructors(
    conn: Reader, org_id: uuid.UUID, *, before_id: uuid.UUID, limit: int, paths: Sequence[str]
) -> list[Instructor]:
    return await _rows(
        conn,
        "list_instructors",
        Instructor,
        INSTRUCTOR_FIELDS,
        paths,
        org_id=org_id,
        before_id=before_id,
        limit=limit,
    )


async def list_instructors_by_active(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    active: bool,
    before_id: uuid.UUID,
    limit: int,
    paths: Sequence[str],
) -> list[Instructor]:
    return await _rows(
        conn,
        "list_instructors_by_active",
        Instructor,
        INSTRUCTOR_FIELDS,
        paths,
        org_id=org_id,
        active=active,
        before_id=before_id,
        limit=limit,
    )


# --- students and their guardians --------------------------------------------------------------


async def create_student(conn: Connection, org_id: uuid.UUID, student: Student) -> Student:
    return await _saved(conn, "create_student", org_id, student, STUDENT_FIELDS)


async def get_student(
    conn: Reader,
    org_id: uuid.UUID,
    student_id: uuid.UUID,
    paths: Sequence[str] = tuple(STUDENT_FIELDS),
) -> Student | None:
    rows = await _rows(
        conn, "get_student", Student, STUDENT_FIELDS, paths, org_id=org_id, student_id=student_id
    )
    return rows[0] if rows else None


async def lock_student(
    conn: Connection, org_id: uuid.UUID, student_id: uuid.UUID
) -> Student | None:
    return await _first(
        conn, "lock_student", Student, STUDENT_FIELDS, org_id=org_id, student_id=student_id
    )


async def update_student(conn: Connection, org_id: uuid.UUID, student: Student) -> Student:
    return await _saved(conn, "update_student", org_id, student, STUDENT_FIELDS)


async def list_students(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    after: tuple[str, uuid.UUID],
    limit: int,
    paths: Sequence[str],
) -> list[tuple[str, Student]]:
    """Students with what they are sorted by."""
    return await _students(
        conn, "list_students", '"fullName"', paths, org_id=org_id, after=after, limit=limit
    )


async def list_students_by_prefix(
    conn: Reader,
    org_id: uuid.UUID,
    prefix: str,
    *,
    after: tuple[str, uuid.UUID],
    limit: int,
    paths: Sequence[str],
) -> list[tuple[str, Student]]:
    """Students with what they are sorted by."""
    return await _students(
        conn,
        "list_students_by_prefix",
        '"nameKey"',
        paths,
        org_id=org_id,
        prefix=prefix,
        after=after,
        limit=limit,
    )


async def create_guardian(conn: Connection, org_id: uuid.UUID, guardian: Guardian) -> Guardian:
    parameters = asdict(guardian) | {"org_id": org_id}
    id_, created_at = await _one(conn, SQL.create_guardian, parameters)
    return Guardian(**asdict(guardian) | {"id": id_, "created_at": created_at})


async def link_guardian(conn: Connection, org_id: uuid.UUID, guardian: Guardian) -> None:
    await conn.send(
        SQL.link_guardian,
        {
            "org_id": org_id,
            "student_id": guardian.student_id,
            "guardian_id": guardian.id,
            "relationship": guardian.relationship,
        },
    )


async def list_guardians(
    conn: Reader, org_id: uuid.UUID, student_id: uuid.UUID, limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    joins = () if _OF_GUARDIAN.keys().isdisjoint(paths) else ("guardian",)
    query = SQL.select("list_guardians", masks.columns(GUARDIAN_FIELDS, paths), joins)
    parameters = {"org_id": org_id, "student_id": student_id, "limit": limit}
    return await (await conn.execute(query, parameters)).fetchall()


async def lock_guardian(
    conn: Connection, org_id: uuid.UUID, guardian_id: uuid.UUID
) -> Guardian | None:
    cursor = await conn.execute(SQL.lock_guardian, {"org_id": org_id, "guardian_id": guardian_id})
    row = await cursor.fetchone()
    return None if row is None else _guardian(row)


async def delete_guardian(conn: Connection, org_id: uuid.UUID, guardian_id: uuid.UUID) -> None:
    await conn.send(SQL.delete_guardian, {"org_id": org_id, "guardian_id": guardian_id})


# --- lesson types ------------------------------------------------------------------------------


async def create_service(conn: Connection, org_id: uuid.UUID, service: Service) -> Service:
    return await _saved(conn, "create_service", org_id, service, SERVICE_FIELDS)


async def get_service(conn: Reader, org_id: uuid.UUID, service_id: uuid.UUID) -> Service | None:
    return await _first(
        conn, "get_service", Service, SERVICE_FIELDS, org_id=org_id, service_id=service_id
    )


async def lock_service(
    conn: Connection, org_id: uuid.UUID, service_id: uuid.UUID
) -> Service | None:
    return await _first(
        conn, "lock_service", Service, SERVICE_FIELDS, org_id=org_id, service_id=service_id
    )


async def update_service(conn: Connection, org_id: uuid.UUID, service: Service) -> Service:
    return await _saved(conn, "update_service", org_id, service, SERVICE_FIELDS)


async def list_services(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    active: bool | None,
    before_id: uuid.UUID,
    limit: int,
    paths: Sequence[str],
) -> list[Service]:
    return await _rows(
        conn,
        "list_services",
        Service,
        SERVICE_FIELDS,
        paths,
        org_id=org_id,
        active=active,
        before_id=before_id,
        limit=limit,
    )


# --- cars --------------------------------------------------------------------------------------


async def create_vehicle(conn: Connection, org_id: uuid.UUID, vehicle: Vehicle) -> Vehicle:
    return await _saved(conn, "create_vehicle", org_id, vehicle, VEHICLE_FIELDS)


async def get_vehicle(conn: Reader, org_id: uuid.UUID, vehicle_id: uuid.UUID) -> Vehicle | None:
    return await _first(
        conn, "get_vehicle", Vehicle, VEHICLE_FIELDS, org_id=org_id, vehicle_id=vehicle_id
    )


async def lock_vehicle(
    conn: Connection, org_id: uuid.UUID, vehicle_id: uuid.UUID
) -> Vehicle | None:
    return await _first(
        conn, "lock_vehicle", Vehicle, VEHICLE_FIELDS, org_id=org_id, vehicle_id=vehicle_id
    )


async def update_vehicle(conn: Connection, org_id: uuid.UUID, vehicle: Vehicle) -> Vehicle:
    return await _saved(conn, "update_vehicle", org_id, vehicle, VEHICLE_FIELDS)


async def list_vehicles(
    conn: Reader,
    org_id: uuid.UUID,
    *,
    active: bool | None,
    before_id: uuid.UUID,
    limit: int,
    paths: Sequence[str],
) -> list[Vehicle]:
    return await _rows(
        conn,
        "list_vehicles",
        Vehicle,
        VEHICLE_FIELDS,
        paths,
        org_id=org_id,
        active=active,
        before_id=before_id,
        limit=limit,
    )


# --- rows --------------------------------------------------------------------------------------


async def _rows(
    conn: Reader,
    query: str,
    kind: type[EntityT],
    known: Columns,
    paths: Iterable[str],
    **parameters: Any,
) -> list[EntityT]:
    """Rows with these fields; the id is always among them."""
    fields = dict(known[path] for path in ("id", *paths))
    cursor = await conn.execute(SQL.select(query, tuple(fields.values())), parameters)
    names = tuple(fields)
    return [kind(**dict(zip(names, row, strict=True))) for row in await cursor.fetchall()]


async def _first(
    conn: Reader, query: str, kind: type[EntityT], known: Columns, **parameters: Any
) -> EntityT | None:
    rows = await _rows(conn, query, kind, known, known, **parameters)
    return rows[0] if rows else None


async def _saved(
    conn: Connection, query: str, org_id: uuid.UUID, entity: EntityT, known: Columns
) -> EntityT:
    """The row as a statement wrote it that takes every field of the entity."""
    parameters = asdict(entity) | {"org_id": org_id}
    (row,) = await _rows(conn, query, type(entity), known, known, **parameters)
    return row


async def _students(
    conn: Reader,
    query: str,
    sorted_by: str,
    paths: Iterable[str],
    *,
    after: tuple[str, uuid.UUID],
    **parameters: Any,
) -> list[tuple[str, Student]]:
    fields = dict(STUDENT_FIELDS[path] for path in ("id", *paths))
    cursor = await conn.execute(
        SQL.select(query, (sorted_by, *fields.values())),
        {**parameters, "after_name": after[0], "after_id": after[1]},
    )
    names = tuple(fields)
    return [
        (key, Student(**dict(zip(names, row, strict=True))))
        for key, *row in await cursor.fetchall()
    ]


async def _one(conn: Connection, query: bytes, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    (row,) = await (await conn.execute(query, parameters)).fetchall()
    return row


def _guardian(row: tuple[Any, ...]) -> Guardian:
    id_, student_id, full_name, phone, email, relationship, created_at = row
    return Guardian(
        id=id_,
        student_id=student_id,
        full_name=full_name,
        phone=phone,
        email=email,
        relationship=relationship,
        created_at=created_at,
    )
