"""Confirming a booking: one way for whoever asks, a caller or a payment."""

from __future__ import annotations

import uuid

from libs import audit
from libs.pooling import Connection
from services.booking import telling
from services.booking.model.bookings import Booking
from services.booking.store import life as store


async def confirm(conn: Connection, org_id: uuid.UUID, before: Booking) -> Booking:
    """The booking, which is locked and was judged, will take place."""
    after = await store.confirm_booking(conn, org_id, before)
    await tell(conn, org_id, before, after)
    return after


async def tell(
    conn: Connection,
    org_id: uuid.UUID,
    before: Booking,
    after: Booking,
    *,
    reason: str = "",
    actor: str | None = None,
) -> None:
    """All that follows from a booking that was just confirmed: who was offered it has accepted.

    `actor` is the caller unless given.
    """
    await _accept_waitlist_entry(conn, org_id, before.id, actor)
    await telling.changed(conn, org_id, before, after, "confirm", reason=reason, actor=actor)


async def _accept_waitlist_entry(
    conn: Connection, org_id: uuid.UUID, booking_id: uuid.UUID, actor: str | None
) -> None:
    entry_id = await store.accept_waitlist_entry(conn, org_id, booking_id)
    if entry_id is not None:
        await audit.record(
            conn,
            org_id,
            "waitlist_entry",
            entry_id,
            "accept",
            before={"status": "offered"},
            after={"status": "accepted"},
            actor=actor,
        )
