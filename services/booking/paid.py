"""What becomes of a booking once its payment has succeeded: it takes place, or the money goes back.

One that still waits is confirmed. One that was not confirmed in time takes its slot again if that
is free, under the advisory locks that placing takes. Payments is told of any other
(booking.unfulfillable), and gives back what was paid.

Up to a hundred events, of several schools, share a transaction, and what one of them locks stays
locked until its end: no order of locks holds for all of them. So none waits for a lock as long as
PostgreSQL does before it looks for a deadlock. It fails instead, which frees what the transaction
has locked; the event that could not have its lock is parked, and tried again a second later.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from psycopg import errors as pg

from libs import errors
from libs.errors import FailedPrecondition
from libs.pooling import Connection
from services.booking import confirming, guard, locks, placing, telling, zones
from services.booking.model import paid as rules
from services.booking.model.bookings import Booking
from services.booking.model.placing import Parties
from services.booking.model.slots import LESSON_MAX, Judged
from services.booking.store import life
from services.booking.store import paid as store
from services.booking.store import placing as placing_store
from services.booking.store import slots as slots_store

ACTOR = "service:payments"
LOCK_WAIT_MS = 200
"""Well below PostgreSQL's deadlock_timeout of a second: no call is cancelled for a payment."""
TAKING_PLACE = ("confirmed", "in_progress", "completed", "no_show")
"""There is nothing to do for the payment of such a booking."""


async def fulfil(
    conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID, payment_id: uuid.UUID, now: datetime
) -> None:
    """Confirm what was paid, or have the payment given back.

    Raises NotFound for a booking that the school has not, Aborted or LockNotAvailable when someone
    else is at it; both may pass by themselves.
    """
    await store.limit_lock_wait(conn, LOCK_WAIT_MS)
    before = await _locked(conn, org_id, booking_id, now)
    if before.status in TAKING_PLACE:
        return
    against = await _against(conn, org_id, before, now)
    if against is None:
        after = await _take_slot(conn, org_id, before)
        if after is not None:
            paid_by = f"payment {payment_id}"
            await confirming.tell(conn, org_id, before, after, reason=paid_by, actor=ACTOR)
            return
        against = rules.SLOT_TAKEN
    after = await store.raise_booking_version(conn, org_id, booking_id)
    policy = await _policy(conn, org_id, before)
    await telling.unfulfillable(
        conn, org_id, before, after, payment_id=payment_id, reason=against, actor=ACTOR, **policy
    )


async def _policy(conn: Connection, org_id: uuid.UUID, booking: Booking) -> dict[str, Any]:
    """What payments must know of a booking that was called off when it was to take place: of what
    was paid before that, the school's policy says what goes back. Nothing of others."""
    if booking.cancelled_at is None or not await store.was_confirmed(conn, org_id, booking.id):
        return {}
    return {
        "cancel_time": booking.cancelled_at.isoformat(),
        "refund_cents": booking.refund_cents,
    }


async def _locked(
    conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID, now: datetime
) -> Booking:
    """The booking, locked; if it keeps its slot no longer, so are the calendars it would be in.

    Those come first, as for all who place or move: a booking that lapsed or moved in between is
    left for the next try.
    """
    seen = await life.find_booking(conn, org_id, booking_id)
    if seen is None:
        raise errors.not_found("booking", booking_id)
    if seen.has_lapsed(now):
        await _lock_calendars(conn, org_id, Parties.of(seen), now)
    before = await life.lock_booking(conn, org_id, booking_id)
    if before is None or not _is_as_seen(before, seen, now):
        raise placing.conflict()
    return before


def _is_as_seen(before: Booking, seen: Booking, now: datetime) -> bool:
    if not before.has_lapsed(now):
        return not seen.has_lapsed(now)
    return seen.has_lapsed(now) and Parties.of(before) == Parties.of(seen)


async def _lock_calendars(
    conn: Connection, org_id: uuid.UUID, parties: Parties, now: datetime
) -> None:
    """Nobody else places with these; their overdue holds end, as with whoever places."""
    await locks.take(
        conn,
        org_id,
        instructors=parties.instructor_ids,
        vehicles=parties.vehicle_ids,
        students=parties.student_ids,
    )
    overdue = await placing_store.expire_overdue(conn, org_id, parties, now)
    await placing.tell_expired(conn, org_id, overdue)


async def _against(
    conn: Connection, org_id: uuid.UUID, booking: Booking, now: datetime
) -> str | None:
    """The reason for which the booking can't take place; None when there is none."""
    if booking.status == "cancelled":
        return rules.CANCELLED
    try:
        org = await guard.open_org(conn, org_id)
    except FailedPrecondition as error:
        return error.reason
    if booking.status != "expired":
        return None
    judged = await _judged(conn, org_id, booking, org.time_zone, now)
    return rules.against_retaking(booking, judged, now)


async def _judged(
    conn: Connection, org_id: uuid.UUID, booking: Booking, zone: str, now: datetime
) -> Judged:
    start = booking.start_at
    (judged,) = await slots_store.judge_starts(
        conn,
        org_id,
        [(rules.slot_of(booking), zones.today(zone, start))],
        now=now,
        zone=zones.periods(zone, start, start + LESSON_MAX),
    )
    if judged.time_zone != zone:
        raise placing.conflict()
    return judged


async def _take_slot(conn: Connection, org_id: uuid.UUID, before: Booking) -> Booking | None:
    """The booking, confirmed; None where the constraints, which have the last word, refuse."""
    if before.status != "expired":
        return await life.confirm_booking(conn, org_id, before)
    # Not by psycopg, whose rollback takes the statements away that the connection has prepared.
    await store.begin_retake(conn)
    after = None
    try:
        after = await life.confirm_booking(conn, org_id, before)
    except pg.ExclusionViolation:
        await store.undo_retake(conn)
    await store.end_retake(conn)
    return after
