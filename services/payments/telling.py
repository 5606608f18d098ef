"""What is told of a change: the audit log and events, in the transaction of the change."""

from __future__ import annotations

import uuid
from typing import Any

from libs import audit, calls, outbox
from libs.pooling import Connection
from services.payments.model.payments import Dispute, Payment, Refund
from services.payments.model.payouts import Payout

EVENTS = {
    "intent_created": "created",
    "processing": "processing",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


def caller() -> str:
    """Who changes things: the subject of the token, or the service."""
    call = calls.current()
    return "payments" if call is None or call.caller is None else call.caller.subject


async def payment_changed(
    conn: Connection, org_id: uuid.UUID, before: Payment, after: Payment, action: str
) -> None:
    """A payment's new state: audited; an event if its status is one of those that Stripe gives."""
    await audit.record(
        conn,
        org_id,
        "payment",
        after.id,
        action,
        before=_audited_payment(before),
        after=_audited_payment(after),
        actor=caller(),
    )
    if before.status in EVENTS or before.status == "unknown":
        kind = EVENTS.get(after.status)
        if kind is not None and before.status != after.status:
            await emit_payment(conn, org_id, after, kind)


async def refunded(
    conn: Connection, org_id: uuid.UUID, payment: Payment, refund: Refund, given_back_cents: int
) -> None:
    """Money went back."""
    await emit_payment(
        conn,
        org_id,
        payment,
        "refunded",
        refund_id=str(refund.id),
        refund_cents=refund.amount_cents,
        refunded_cents=given_back_cents,
    )


async def refund_changed(
    conn: Connection, org_id: uuid.UUID, before: Refund | None, after: Refund
) -> None:
    """A refund was asked for, or ended: audited."""
    await audit.record(
        conn,
        org_id,
        "refund",
        after.id,
        "refund" if before is None else "settle",
        before=None if before is None else {"status": before.status},
        after={
            "payment_id": str(after.payment_id),
            "amount_cents": after.amount_cents,
            "currency": after.currency,
            "status": after.status,
            "cause": after.cause,
            "failure_code": after.failure_code,
        },
        actor=caller(),
    )


async def disputed(conn: Connection, org_id: uuid.UUID, payment: Payment, dispute: Dispute) -> None:
    """A cardholder contests a payment, or it was decided."""
    kind = "disputed" if dispute.closed_at is None else "dispute_closed"
    await emit_payment(
        conn,
        org_id,
        payment,
        kind,
        dispute_id=str(dispute.id),
        dispute_cents=dispute.amount_cents,
        dispute_status=dispute.status,
    )


async def emit_payment(
    conn: Connection, org_id: uuid.UUID, payment: Payment, kind: str, **extra: Any
) -> None:
    """The event payment.`kind` of a payment as it is after the change."""
    told = {
        "payment_id": str(payment.id),
        "booking_id": str(payment.booking_id),
        "instructor_id": str(payment.instructor_id),
        "amount_cents": payment.amount_cents,
        "currency": payment.currency,
        "status": payment.status,
        **extra,
    }
    await outbox.emit(conn, org_id, "payment", payment.id, payment.version, f"payment.{kind}", told)


async def payout_changed(
    conn: Connection, org_id: uuid.UUID, before: Payout | None, after: Payout, action: str
) -> None:
    """A payout's new state: audited; an event if its status is another."""
    await audit.record(
        conn,
        org_id,
        "payout",
        after.id,
        action,
        before=None if before is None else _audited_payout(before),
        after=_audited_payout(after),
        actor=caller(),
    )
    if before is None:
        await emit_payout(conn, org_id, after, "created")
    elif before.status != after.status and after.status in {"paid", "failed", "reversed"}:
        await emit_payout(conn, org_id, after, after.status)


async def emit_payout(conn: Connection, org_id: uuid.UUID, payout: Payout, kind: str) -> None:
    """The event payout.`kind` of a payout as it is after the change."""
    told = {
        "payout_id": str(payout.id),
        "instructor_id": str(payout.instructor_id),
        "amount_cents": payout.amount_cents,
        "currency": payout.currency,
        "status": payout.status,
    }
    await outbox.emit(conn, org_id, "payout", payout.id, payout.version, f"payout.{kind}", told)


def _audited_payment(payment: Payment) -> dict[str, Any]:
    return {
        "status": payment.status,
        "captured_cents": payment.captured_cents,
        "refunded_cents": payment.refunded_cents,
        "failure_code": payment.failure_code,
        "share_status": payment.share_status,
    }


def _audited_payout(payout: Payout) -> dict[str, Any]:
    return {
        "status": payout.status,
        "amount_cents": payout.amount_cents,
        "currency": payout.currency,
        "failure_code": payout.failure_code,
        "reversal": payout.reversal,
        "reversal_reason": payout.reversal_reason,
    }
