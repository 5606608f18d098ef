"""Between the directory's model and its messages."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from driveflow.booking.v1 import directory_pb2 as pb
from libs.errors import InvalidArgument
from libs.messages import date_message, day, required_id, stamp, text
from services.booking.model import directory as model
from services.booking.model.directory import Guardian, Instructor, Org, Service, Student, Vehicle

Encoders: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""Path of a read mask -> the field's value for the message."""
Decoders: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""Path of an update mask -> the value of the model's field of that (last) name."""

TRANSMISSIONS = {"manual": pb.TRANSMISSION_MANUAL, "automatic": pb.TRANSMISSION_AUTOMATIC}
_TRANSMISSION_NAMES = {number: name for name, number in TRANSMISSIONS.items()}


def _etag(row: model.Entity) -> str:
    return str(row.version) if row.version else ""


_OF_ENTITY: Encoders = {
    "etag": _etag,
    "create_time": lambda row: stamp(row.created_at),
    "update_time": lambda row: stamp(row.updated_at),
}


def _plain(*names: str) -> dict[str, Callable[[Any], Any]]:
    """Fields that are called and written alike in the model and the message."""

    def reader(name: str) -> Callable[[Any], Any]:
        return lambda row: getattr(row, name)

    return {name: reader(name) for name in names}


INSTRUCTOR: Encoders = {
    "id": lambda row: str(row.id),
    **_plain("display_name", "phone", "license_id", "active", "stripe_account_id"),
    **_plain("travel_buffer_minutes"),
    **_OF_ENTITY,
}
STUDENT: Encoders = {
    "id": lambda row: str(row.id),
    **_plain("full_name", "phone", "email"),
    "birth_date": lambda row: date_message(row.birth_date),
    **_plain("notes"),
    "erase_time": lambda row: stamp(row.erased_at),
    **_OF_ENTITY,
}
SERVICE: Encoders = {
    "id": lambda row: str(row.id),
    **_plain("name", "duration_minutes", "buffer_before_minutes", "buffer_after_minutes"),
    **_plain("slot_step_minutes", "active"),
    **_OF_ENTITY,
}
VEHICLE: Encoders = {
    "id": lambda row: str(row.id),
    **_plain("label"),
    "transmission": lambda row: TRANSMISSIONS.get(row.transmission, 0),
    **_plain("active"),
    **_OF_ENTITY,
}


def org(row: Org) -> pb.Organization:
    """A school."""
    return pb.Organization(
        id=str(row.id),
        name=row.name,
        time_zone=row.time_zone,
        currency=row.currency,
        platform_fee_bps=row.platform_fee_bps,
        hold_minutes=row.hold_minutes,
        notice_minutes=row.notice_minutes,
        travel_buffer_minutes=row.travel_buffer_minutes,
        no_show_grace_minutes=row.no_show_grace_minutes,
        cancellation_policy=pb.CancellationPolicy(
            full_refund_hours=row.full_refund_hours,
            partial_refund_hours=row.partial_refund_hours,
            partial_refund_percent=row.partial_refund_percent,
        ),
        suspend_time=stamp(row.suspended_at),
        etag=_etag(row),
        create_time=stamp(row.created_at),
        update_time=stamp(row.updated_at),
    )


def instructor(row: Instructor, paths: Iterable[str] = tuple(INSTRUCTOR)) -> pb.Instructor:
    """An instructor with these fields."""
    return pb.Instructor(**{path: INSTRUCTOR[path](row) for path in paths})


def student(row: Student, paths: Iterable[str] = tuple(STUDENT)) -> pb.Student:
    """A student with these fields."""
    return pb.Student(**{path: STUDENT[path](row) for path in paths})


def service(row: Service, paths: Iterable[str] = tuple(SERVICE)) -> pb.Service:
    """A lesson type with these fields."""
    return pb.Service(**{path: SERVICE[path](row) for path in paths})


def vehicle(row: Vehicle, paths: Iterable[str] = tuple(VEHICLE)) -> pb.Vehicle:
    """A car with these fields."""
    return pb.Vehicle(**{path: VEHICLE[path](row) for path in paths})


def guardian(row: Guardian) -> pb.Guardian:
    """A guardian of a student."""
    return pb.Guardian(
        id=text(row.id),
        student_id=text(row.student_id),
        full_name=row.full_name,
        phone=row.phone,
        email=row.email,
        relationship=row.relationship,
        create_time=stamp(row.created_at),
    )


# --- what a caller gives -----------------------------------------------------------------------


def _optional(name: str) -> Callable[[Any], Any]:
    """An optional field; None when it is unset."""
    return lambda message: getattr(message, name) if message.HasField(name) else None


def _active(message: Any) -> bool:
    """Whether it is active; there is no value that it could be cleared to."""
    if not message.HasField("active"):
        raise _refused("active", "true or false is wanted")
    return bool(message.active)


def _transmission(message: pb.Vehicle) -> str | None:
    """How a car shifts; None when that is not known."""
    if message.transmission == pb.TRANSMISSION_UNSPECIFIED:
        return None
    if message.transmission not in _TRANSMISSION_NAMES:
        raise _refused("vehicle.transmission", "no such value")
    return _TRANSMISSION_NAMES[message.transmission]


def _refused(path: str, wrong: str) -> InvalidArgument:
    return InvalidArgument("INVALID_REQUEST", f"{path}: {wrong}.", fields=[(path, wrong)])


def _policy(name: str) -> Callable[[pb.Organization], int]:
    return lambda message: getattr(message.cancellation_policy, name)


ORG_CHANGES: Decoders = {
    **_plain("name", "time_zone", "platform_fee_bps", "hold_minutes", "notice_minutes"),
    **_plain("travel_buffer_minutes", "no_show_grace_minutes"),
    "cancellation_policy.full_refund_hours": _policy("full_refund_hours"),
    "cancellation_policy.partial_refund_hours": _policy("partial_refund_hours"),
    "cancellation_policy.partial_refund_percent": _policy("partial_refund_percent"),
}
INSTRUCTOR_CHANGES: Decoders = {
    **_plain("display_name", "phone", "license_id", "stripe_account_id"),
    "active": _active,
    "travel_buffer_minutes": _optional("travel_buffer_minutes"),
}
STUDENT_CHANGES: Decoders = {
    **_plain("full_name", "phone", "email", "notes"),
    "birth_date": lambda message: day(message, "birth_date"),
}
SERVICE_CHANGES: Decoders = {
    **_plain("name", "duration_minutes", "buffer_before_minutes", "buffer_after_minutes"),
    **_plain("slot_step_minutes"),
    "active": _active,
}
VEHICLE_CHANGES: Decoders = {
    **_plain("label"),
    "transmission": _transmission,
    "active": _active,
}


def changes(message: Any, paths: Iterable[str], decoders: Decoders) -> dict[str, Any]:
    """New values of the model's fields that the paths name."""
    return {path.rpartition(".")[2]: decoders[path](message) for path in paths}


def new_org(org_id: uuid.UUID, message: pb.Organization) -> Org:
    """A school as a caller wants it; numbers that are 0 have their defaults."""
    policy = message.cancellation_policy
    return Org(
        id=org_id,
        name=message.name,
        time_zone=message.time_zone or "Australia/Sydney",
        currency=message.currency or "AUD",
        platform_fee_bps=message.platform_fee_bps or 1_500,
        hold_minutes=message.hold_minutes or 30,
        notice_minutes=message.notice_minutes or 120,
        travel_buffer_minutes=message.travel_buffer_minutes or 15,
        no_show_grace_minutes=message.no_show_grace_minutes or 15,
        full_refund_hours=policy.full_refund_hours or 24,
        partial_refund_hours=policy.partial_refund_hours or 2,
        partial_refund_percent=policy.partial_refund_percent or 50,
    )


def new_instructor(message: pb.Instructor) -> Instructor:
    """An instructor as a caller wants it."""
    return Instructor(**_new(message, INSTRUCTOR_CHANGES))


def new_student(message: pb.Student) -> Student:
    """A student as a caller wants it."""
    return Student(**changes(message, STUDENT_CHANGES, STUDENT_CHANGES))


def new_service(message: pb.Service) -> Service:
    """A lesson type as a caller wants it."""
    step = message.slot_step_minutes or model.SLOT_STEP_DEFAULT
    return Service(**_new(message, SERVICE_CHANGES) | {"slot_step_minutes": step})


def new_vehicle(message: pb.Vehicle) -> Vehicle:
    """A car as a caller wants it."""
    return Vehicle(**_new(message, VEHICLE_CHANGES))


def new_guardian(message: pb.Guardian) -> Guardian:
    """A guardian as a caller wants it."""
    return Guardian(
        student_id=required_id(message.student_id, "guardian.student_id"),
        full_name=message.full_name,
        phone=message.phone,
        email=message.email,
        relationship=message.relationship,
    )


def _new(message: Any, decoders: Decoders) -> dict[str, Any]:
    """Values of a new thing, which is active unless it is told not to be."""
    paths = [path for path in decoders if path != "active"]
    active = not message.HasField("active") or message.active
    return changes(message, paths, decoders) | {"active": active}
