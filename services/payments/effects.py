"""What payments does about booking's events, each in the transaction that takes it in.

None calls Stripe: what is to be done there is written down, and the sweep does it within seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from libs import audit
from libs.events import Effect, Event, tenants
from libs.pooling import Connection
from services.payments import books
from services.payments.model.payments import REFUNDABLE, WAITING, Payment, of_lesson
from services.payments.store import payments as store
from services.payments.store import refunds as refund_store

Clock = Callable[[], datetime]
Call = Callable[[uuid.UUID], None]
"""Told of a school that has something to be done at Stripe."""


async def cancel_unpaid(clock: Clock, conn: Connection, event: Event) -> None:
    """The booking's hold is over: what was not paid is no longer asked for."""
    for payment in await _payments(conn, event):
        await _cancel(conn, event.org_id, payment, clock())


async def refund_cancelled(clock: Clock, conn: Connection, event: Event) -> None:
    """The booking was cancelled: the policy says what goes back of what was paid."""
    now = clock()
    for payment in await _payments(conn, event):
        await _cancel(conn, event.org_id, payment, now)
        amount = min(int(event.payload["refund_cents"]), payment.refundable_cents)
        await _refund(conn, event.org_id, payment, amount, "booking_cancelled", now)


async def refund_unfulfillable(clock: Clock, conn: Connection, event: Event) -> None:
    """It was paid when the slot was no longer to be had: all of it goes back.

    But if it was paid before a cancellation by the policy, of which booking heard first: then what
    that says, unless it went back when we heard of the cancellation.
    """
    payment_id = uuid.UUID(event.payload["payment_id"])
    payment = await store.lock_payment(conn, event.org_id, payment_id)
    if payment is None:
        raise LookupError(f"no payment {payment_id}")
    amount, cause = payment.refundable_cents, "booking_unfulfillable"
    if _paid_before(payment, event.payload.get("cancel_time")):
        done = await refund_store.sum_policy_refunds(conn, event.org_id, payment.id)
        amount = min(amount, int(event.payload["refund_cents"]) - done)
        cause = "booking_cancelled"
    await _refund(conn, event.org_id, payment, amount, cause, clock())


def _paid_before(payment: Payment, cancel_time: str | None) -> bool:
    """Whether it was, as far as Stripe's whole seconds tell."""
    if cancel_time is None or payment.captured_at is None:
        return False
    return payment.captured_at <= datetime.fromisoformat(cancel_time)


async def share_due(clock: Clock, conn: Connection, event: Event) -> None:
    """The lesson was given: the instructor's share is due, now or as soon as it is paid."""
    payments = await _payments(conn, event)
    payment = of_lesson(payments)
    if payment is None or any(each.lesson_completed_at is not None for each in payments):
        return
    driven = replace(
        payment,
        lesson_completed_at=event.create_time,
        instructor_id=uuid.UUID(event.payload["instructor_id"]),
        instructor_share_cents=int(event.payload["instructor_share_cents"]),
    )
    await books.keep_payment(
        conn, event.org_id, payment, driven, clock(), action="lesson_completed"
    )


async def erase_student(conn: Connection, event: Event) -> None:
    """A student was erased: what was written of him beside his refunds goes, the figures stay."""
    student_id = uuid.UUID(event.payload["student_id"])
    await refund_store.erase_reasons(conn, event.org_id, student_id)
    after = {"refund_reasons": "erased"}
    await audit.record(conn, event.org_id, "student", student_id, "erase_payments", after=after)


def of_booking(clock: Clock, call: Call) -> dict[str, Effect]:
    """What payments does, by type of event; `call` is told when Stripe is to be called."""

    def calling(effect: Callable[[Clock, Connection, Event], Awaitable[None]]) -> Effect:
        async def called(conn: Connection, event: Event) -> None:
            await effect(clock, conn, event)
            call(event.org_id)

        return called

    return {
        **tenants.EFFECTS,
        "booking.expired": calling(cancel_unpaid),
        "booking.cancelled": calling(refund_cancelled),
        "booking.unfulfillable": calling(refund_unfulfillable),
        "lesson.completed": partial(share_due, clock),
        "student.erased": erase_student,
    }


async def _payments(conn: Connection, event: Event) -> list[Payment]:
    booking_id = uuid.UUID(event.payload["booking_id"])
    return await store.lock_payments_of_booking(conn, event.org_id, booking_id)


async def _cancel(conn: Connection, org_id: uuid.UUID, payment: Payment, now: datetime) -> None:
    if payment.status in WAITING:
        cancelled = books.cancelling(payment, now, call_at=now)
        await books.keep_payment(conn, org_id, payment, cancelled, now, action="cancel")


async def _refund(
    conn: Connection, org_id: uuid.UUID, payment: Payment, amount: int, cause: str, now: datetime
) -> None:
    if amount > 0 and payment.status in REFUNDABLE:
        await books.ask_refund(conn, org_id, payment, amount, now, cause=cause, call_at=now)
