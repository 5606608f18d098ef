"""What is told of a booking when it changes: its history, the audit log, events, caches.

Everything here is written in the transaction of the change.
"""

from __future__ import annotations

import uuid
from typing import Any

from libs import audit, cache, calls, outbox
from libs.pooling import Connection
from services.booking.model.bookings import Booking, Lesson
from services.booking.model.waitlist import WaitlistEntry
from services.booking.store import life


def caller() -> str:
    """Who changes things: the subject of the token, or the service."""
    call = calls.current()
    return "booking" if call is None or call.caller is None else call.caller.subject


def payload(booking: Booking) -> dict[str, Any]:
    """What every event of a booking carries: ids and figures."""
    return {
        "booking_id": str(booking.id),
        "student_id": str(booking.student_id),
        "instructor_id": str(booking.instructor_id),
        "service_id": str(booking.service_id),
        "status": booking.status,
        "start_time": booking.start_at.isoformat(),
        "end_time": booking.end_at.isoformat(),
        "price_cents": booking.price_cents,
        "currency": booking.currency,
    }


def audited(booking: Booking) -> dict[str, Any]:
    """What the audit log keeps of a booking: nothing that erasure would have to find again."""
    return {
        **payload(booking),
        "vehicle_id": None if booking.vehicle_id is None else str(booking.vehicle_id),
        "refund_cents": booking.refund_cents,
        "version": booking.version,
    }


async def changed(
    conn: Connection,
    org_id: uuid.UUID,
    before: Booking,
    after: Booking,
    action: str,
    *,
    reason: str = "",
    actor: str | None = None,
    **extra: Any,
) -> None:
    """All that is told of a step in a booking's life; `extra` goes into the event.

    `actor` is the caller unless given.
    """
    await record_transition(
        conn, org_id, after.id, before.status, after.status, reason=reason, actor=actor
    )
    old, new = audited(before), audited(after)
    differing = [name for name in new if old[name] != new[name]]
    await audit.record(
        conn,
        org_id,
        "booking",
        after.id,
        action,
        before={name: old[name] for name in differing},
        after={name: new[name] for name in differing},
        actor=actor or caller(),
    )
    await emit_booking(conn, org_id, after, f"booking.{_told(before, after)}", **extra)
    await cache.invalidate(conn, org_id, "booking", after.id)


async def unfulfillable(
    conn: Connection,
    org_id: uuid.UUID,
    before: Booking,
    after: Booking,
    *,
    payment_id: uuid.UUID,
    reason: str,
    actor: str,
    **extra: Any,
) -> None:
    """All that is told of a payment for a booking that can't take place; its status stays.

    `reason` is one of docs/booking.md; payments gives the payment back. `extra` goes into the
    event.
    """
    why = {"payment_id": str(payment_id), "reason": reason}
    await audit.record(
        conn,
        org_id,
        "booking",
        after.id,
        "decline_payment",
        before={"version": before.version},
        after={"version": after.version, **why},
        actor=actor,
    )
    await emit_booking(conn, org_id, after, "booking.unfulfillable", **why, **extra)
    await cache.invalidate(conn, org_id, "booking", after.id)


async def record_waitlist_entry(
    conn: Connection, org_id: uuid.UUID, entry: WaitlistEntry, action: str
) -> None:
    """The audit entry of a waitlist entry that is now as given."""
    after = {
        "student_id": str(entry.student_id),
        "service_id": str(entry.service_id),
        "start_time": entry.start_at.isoformat(),
        "end_time": entry.end_at.isoformat(),
        "status": entry.status,
    }
    await audit.record(
        conn, org_id, "waitlist_entry", entry.id, action, after=after, actor=caller()
    )


def _told(before: Booking, after: Booking) -> str:
    if before.status == after.status:
        return "rescheduled"
    return "started" if after.status == "in_progress" else after.status


async def record_transition(
    conn: Connection,
    org_id: uuid.UUID,
    booking_id: uuid.UUID,
    from_status: str | None,
    to_status: str,
    *,
    reason: str = "",
    actor: str | None = None,
) -> None:
    """A step in a booking's history; `actor` is the caller unless given."""
    await life.add_transition(
        conn, org_id, booking_id, from_status, to_status, actor or caller(), reason
    )


async def emit_booking(
    conn: Connection, org_id: uuid.UUID, booking: Booking, kind: str, **extra: Any
) -> None:
    """The event `kind` (booking.confirmed) of a booking as it is after the change."""
    told = {**payload(booking), **extra}
    await outbox.emit(conn, org_id, "booking", booking.id, booking.version, kind, told)


async def emit_lesson(
    conn: Connection, org_id: uuid.UUID, lesson: Lesson, booking: Booking, kind: str
) -> None:
    """The event `kind` (lesson.completed) of a booking's lesson; its version is the booking's."""
    told = {
        "lesson_id": str(lesson.id),
        "booking_id": str(booking.id),
        "instructor_id": str(lesson.instructor_id),
        "instructor_share_cents": booking.instructor_share_cents,
        "currency": booking.currency,
    }
    await outbox.emit(conn, org_id, "lesson", lesson.id, booking.version, kind, told)
