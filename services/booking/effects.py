"""What booking does about other services' events, each in the transaction that takes it in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from libs import errors
from libs.events import Effect, Event
from libs.pooling import Connection
from services.booking import paid
from services.booking.store import drives as store
from services.booking.store import earnings


async def drive_of_lesson(conn: Connection, event: Event) -> None:
    """A trip has ended, or late points changed it: its lesson knows how far it went, and when."""
    told = event.payload
    if told["lesson_id"] is None or told["ended_at"] is None:
        return
    lesson_id = uuid.UUID(told["lesson_id"])
    kept = await store.keep_drive(
        conn,
        event.org_id,
        lesson_id,
        uuid.UUID(told["trip_id"]),
        version=event.aggregate_version,
        distance_meters=told["distance_meters"] or 0.0,
        started_at=datetime.fromisoformat(told["started_at"]),
        ended_at=datetime.fromisoformat(told["ended_at"]),
    )
    if kept:
        await store.add_up_drives(conn, event.org_id, lesson_id)


OF_TRACKING: Mapping[str, Effect] = {"trip.completed": drive_of_lesson}


async def fulfil_booking(conn: Connection, event: Event, *, clock: Callable[[], datetime]) -> None:
    """A payment has succeeded: its booking takes place, or payments is told that it can't."""
    told = event.payload
    booking_id, payment_id = uuid.UUID(told["booking_id"]), uuid.UUID(told["payment_id"])
    await paid.fulfil(conn, event.org_id, booking_id, payment_id, clock())


async def count_payout(conn: Connection, event: Event, *, sign: int) -> None:
    """An instructor was paid out, or it was taken back: his figures say what he has got."""
    told = event.payload
    instructor_id = uuid.UUID(told["instructor_id"])
    cents = sign * int(told["amount_cents"])
    if not await earnings.add_earning(conn, event.org_id, instructor_id, cents, told["currency"]):
        raise errors.not_found("instructor", instructor_id)


def of_payments(clock: Callable[[], datetime]) -> Mapping[str, Effect]:
    """Effects of payments' events; a payment that failed has none, another may follow."""
    return {
        "payment.succeeded": partial(fulfil_booking, clock=clock),
        "payout.paid": partial(count_payout, sign=1),
        "payout.reversed": partial(count_payout, sign=-1),
    }
