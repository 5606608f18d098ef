"""What is written when something has happened: state, ledger, audit, events, in one transaction.

The callers hold the payment's row lock: all that belongs to a payment changes under it.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime, timedelta

from libs.pooling import Connection
from services.payments import telling
from services.payments.model import ledger
from services.payments.model.payments import (
    REFUNDABLE,
    WAITING,
    Dispute,
    Payment,
    Refund,
    fee_given_back,
    refund_too_large,
)
from services.payments.model.stripe import Intent, StripeDispute, StripeRefund
from services.payments.store import ledger as ledger_store
from services.payments.store import payments as store
from services.payments.store import refunds as refund_store

CALL_WITHIN = timedelta(seconds=30)
"""Whoever wrote that Stripe is to be called has so long to do it; then the sweep does."""


async def keep_intent(
    conn: Connection,
    org_id: uuid.UUID,
    payment: Payment,
    intent: Intent,
    at: datetime,
    now: datetime,
) -> Payment:
    """What Stripe said of a payment's intent, at `at`."""
    return await keep_payment(conn, org_id, payment, payment.learnt(intent, at, now), now)


async def keep_payment(
    conn: Connection,
    org_id: uuid.UUID,
    before: Payment,
    after: Payment,
    now: datetime,
    action: str = "settle",
) -> Payment:
    """A payment's new state and what follows from it; nothing if it is the old one."""
    if after == before:
        return before
    if after.captured_cents and not before.captured_cents:
        charged = ledger.charge(
            after.id, after.currency, after.captured_cents, after.application_fee_cents
        )
        await ledger_store.move_money(conn, org_id, charged)
    after = await _keep_share(conn, org_id, after, after.id)
    saved = await store.save_payment(conn, org_id, after, now)
    if _is_news(before, saved):
        await telling.payment_changed(conn, org_id, before, saved, action)
    return saved


async def _keep_share(
    conn: Connection, org_id: uuid.UUID, after: Payment, cause_id: uuid.UUID
) -> Payment:
    """The instructor's share is due once it is paid and driven, until all of it went back; and
    again when that turns out not to be so, by the refund or dispute that was the cause.

    Who made it due is the source of both movements: each moves it once there and once back.
    """
    if after.lesson_completed_at is None or after.instructor_share_cents == 0:
        return after
    if after.share_status != "due" and after.status in REFUNDABLE:
        status, source_id = "due", after.id if after.share_status == "none" else cause_id
    elif after.share_status == "due" and after.status == "refunded" and after.payout_id is None:
        status, source_id = "void", after.share_source_id or after.id
    else:
        return after
    moved = ledger.share(
        f"share_{status}",
        source_id,
        after.currency,
        after.instructor_id,
        after.instructor_share_cents,
    )
    await ledger_store.move_money(conn, org_id, moved)
    return replace(after, share_status=status, share_source_id=source_id)


async def ask_refund(
    conn: Connection,
    org_id: uuid.UUID,
    payment: Payment,
    amount_cents: int,
    now: datetime,
    *,
    cause: str,
    reason: str = "",
    call_at: datetime,
) -> Refund:
    """Set money aside to be given back; Stripe is to be called. The amount was checked."""
    reserved = replace(payment, refunded_cents=payment.refunded_cents + amount_cents)
    await store.save_payment(conn, org_id, reserved, now)
    refund = await refund_store.add_refund(
        conn,
        org_id,
        now,
        payment_id=payment.id,
        amount_cents=amount_cents,
        currency=payment.currency,
        cause=cause,
        reason=reason,
        stripe_refund_id=None,
        next_attempt_at=call_at,
    )
    await telling.refund_changed(conn, org_id, None, refund)
    return refund


async def keep_refund(
    conn: Connection,
    org_id: uuid.UUID,
    payment: Payment,
    before: Refund,
    after: Refund,
    now: datetime,
) -> Refund:
    """A refund's new state: the ledger, what is left of the payment, its status."""
    if after == before:
        return before
    given_back = await refund_store.sum_refunds(conn, org_id, payment.id)
    if after.status == "succeeded" and before.status != "succeeded":
        so_far, given_back = given_back, given_back + after.amount_cents
        after = replace(after, fee_cents=fee_given_back(payment, so_far, given_back))
        moved = ledger.refund(
            "refund", after.id, after.currency, after.amount_cents, after.fee_cents
        )
        await ledger_store.move_money(conn, org_id, moved)
    elif after.status == "failed" and before.status != "failed":
        payment = replace(payment, refunded_cents=payment.refunded_cents - after.amount_cents)
        if before.status == "succeeded":
            so_far, given_back = given_back, given_back - after.amount_cents
            fee = fee_given_back(payment, given_back, so_far)
            moved = ledger.refund(
                "refund_failed", after.id, after.currency, after.amount_cents, fee
            )
            await ledger_store.move_money(conn, org_id, moved)
    saved = await refund_store.save_refund(conn, org_id, after, now)
    if saved.status != before.status:
        await telling.refund_changed(conn, org_id, before, saved)
        changed = await _restand(conn, org_id, payment, given_back, now, saved.id)
        if saved.status == "succeeded":
            await telling.refunded(conn, org_id, changed, saved, given_back)
    return saved


async def adopt_refund(
    conn: Connection, org_id: uuid.UUID, payment: Payment, made: StripeRefund, now: datetime
) -> None:
    """A refund that was made at Stripe, past us. Raises when it is more than what is left: then
    another will fail there, or did, and this is to be tried again."""
    failed = made.status == "failed"
    if not failed and made.amount > payment.refundable_cents:
        raise refund_too_large(payment)
    # One that failed takes nothing, but what it gives back below.
    lent = replace(payment, refunded_cents=payment.refunded_cents + made.amount)
    payment = lent if failed else await store.save_payment(conn, org_id, lent, now)
    refund = await refund_store.add_refund(
        conn,
        org_id,
        now,
        payment_id=payment.id,
        amount_cents=made.amount,
        currency=payment.currency,
        cause="stripe",
        reason="",
        stripe_refund_id=made.id,
        next_attempt_at=None,
    )
    await telling.refund_changed(conn, org_id, None, refund)
    await keep_refund(conn, org_id, payment, refund, refund.learnt(made), now)


async def keep_dispute(
    conn: Connection,
    org_id: uuid.UUID,
    payment: Payment,
    told: StripeDispute,
    at: datetime,
    now: datetime,
) -> None:
    """What Stripe said of a dispute, at `at`: money kept back, returned or gone."""
    before = await refund_store.lock_dispute(conn, org_id, told.id)
    if before is None:
        after = await refund_store.add_dispute(
            conn,
            org_id,
            now,
            payment_id=payment.id,
            amount_cents=told.amount,
            currency=told.currency,
            status=told.status,
            reason=told.reason,
            stripe_dispute_id=told.id,
            at=at,
            closed_at=at if told.is_closed else None,
        )
        if after is None:
            raise AssertionError("a dispute came twice under its payment's lock")
    else:
        after = before.learnt(told, at)
        if after == before:
            return
        after = await refund_store.save_dispute(conn, org_id, after, now)
    await _move_disputed(conn, org_id, before, after)
    given_back = await refund_store.sum_refunds(conn, org_id, payment.id)
    changed = await _restand(conn, org_id, payment, given_back, now, after.id)
    await telling.disputed(conn, org_id, changed, after)


async def _move_disputed(
    conn: Connection, org_id: uuid.UUID, before: Dispute | None, after: Dispute
) -> None:
    """Money is kept back once; a decision that comes first has the whole way to go."""
    kinds = []
    if _withdrawn(after) and not (before and _withdrawn(before)):
        kinds.append("dispute")
    if after.closed_at is not None and after.status in {"won", "lost"}:
        kinds.append(f"dispute_{after.status}")
    for kind in kinds:
        moved = ledger.dispute(kind, after.id, after.currency, after.amount_cents)
        await ledger_store.move_money(conn, org_id, moved)


def _withdrawn(dispute: Dispute) -> bool:
    """Whether Stripe took the money; of an inquiry it does not."""
    return not dispute.status.startswith("warning_") and dispute.status != "prevented"


async def _restand(
    conn: Connection,
    org_id: uuid.UUID,
    payment: Payment,
    given_back_cents: int,
    now: datetime,
    cause_id: uuid.UUID,
) -> Payment:
    """The payment's status by its refunds and disputes, one of which is the cause; always a new
    version, for the event."""
    if await refund_store.is_held_back(conn, org_id, payment.id):
        after = replace(payment, status="disputed")
    else:
        after = payment.after_refunds(given_back_cents)
    after = await _keep_share(conn, org_id, after, cause_id)
    return await store.save_payment(conn, org_id, after, now)


def cancelling(payment: Payment, now: datetime, call_at: datetime) -> Payment:
    """The payment with its cancellation asked for; itself if there is nothing to cancel."""
    if payment.status not in WAITING or payment.cancel_requested_at is not None:
        return payment
    return replace(payment, cancel_requested_at=now, next_attempt_at=call_at)


def _is_news(before: Payment, after: Payment) -> bool:
    """Whether more changed than when Stripe is to be asked again."""
    return (before.status, before.captured_cents, before.share_status) != (
        after.status,
        after.captured_cents,
        after.share_status,
    ) or before.failure_code != after.failure_code
