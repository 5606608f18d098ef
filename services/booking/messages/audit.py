"""Audit entries as messages."""

from __future__ import annotations

from typing import Any

from google.protobuf.struct_pb2 import Struct

from driveflow.booking.v1 import booking_pb2 as pb
from libs.messages import stamp
from services.booking.store.audit import AuditEntry


def audit_entry(row: AuditEntry) -> pb.AuditEntry:
    """A change."""
    return pb.AuditEntry(
        id=str(row.id),
        actor_user_id=row.actor_user_id,
        entity_type=row.entity_type,
        entity_id=row.entity_id,
        action=row.action,
        before=struct(row.before),
        after=struct(row.after),
        create_time=stamp(row.created_at),
    )


def struct(values: dict[str, Any] | None) -> Struct | None:
    """A JSON object as a message; None is unset."""
    if values is None:
        return None
    message = Struct()
    message.update(values)
    return message
