"""Audit entries as messages."""

from __future__ import annotations

from driveflow.booking.v1 import booking_pb2 as pb
from libs.messages import stamp, struct
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
