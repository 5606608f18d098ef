"""Payments and refunds as messages."""

from __future__ import annotations

from driveflow.payments.v1 import payments_pb2 as pb
from libs.messages import stamp, text
from services.payments.model.payments import Payment, Refund

STATUSES: dict[str, pb.PaymentStatus.ValueType] = {
    name.removeprefix("PAYMENT_STATUS_").lower(): number
    for name, number in pb.PaymentStatus.items()
    if number
}
STATUS_NAMES = {number: name for name, number in STATUSES.items()}
"""What a filter asks for; UNSPECIFIED is not in it."""


def payment(row: Payment) -> pb.Payment:
    """A payment."""
    return pb.Payment(
        id=str(row.id),
        booking_id=str(row.booking_id),
        student_id=text(row.student_id),
        instructor_id=str(row.instructor_id),
        amount_cents=row.amount_cents,
        currency=row.currency,
        application_fee_cents=row.application_fee_cents,
        instructor_share_cents=row.instructor_share_cents,
        status=STATUSES[row.status],
        stripe_payment_intent_id=row.stripe_payment_intent_id or "",
        captured_cents=row.captured_cents,
        refunded_cents=row.refunded_cents,
        failure_code=row.failure_code,
        cancel_request_time=stamp(row.cancel_requested_at),
        capture_time=stamp(row.captured_at),
        payout_id=text(row.payout_id),
        create_time=stamp(row.created_at),
        update_time=stamp(row.updated_at),
    )


def refund(row: Refund) -> pb.Refund:
    """A refund."""
    return pb.Refund(
        id=str(row.id),
        payment_id=str(row.payment_id),
        amount_cents=row.amount_cents,
        currency=row.currency,
        status=pb.RefundStatus.Value(f"REFUND_STATUS_{row.status.upper()}"),
        cause=pb.RefundCause.Value(f"REFUND_CAUSE_{row.cause.upper()}"),
        reason=row.reason,
        stripe_refund_id=row.stripe_refund_id or "",
        failure_code=row.failure_code,
        create_time=stamp(row.created_at),
        update_time=stamp(row.updated_at),
    )
