"""Payouts as messages."""

from __future__ import annotations

from collections.abc import Iterable

from driveflow.payments.v1 import payments_pb2 as pb
from libs.messages import stamp
from services.payments.model.payouts import Item, Payout

STATUSES: dict[str, pb.PayoutStatus.ValueType] = {
    name.removeprefix("PAYOUT_STATUS_").lower(): number
    for name, number in pb.PayoutStatus.items()
    if number
}
REVERSALS: dict[str, pb.ReversalStatus.ValueType] = {
    "none": pb.REVERSAL_STATUS_UNSPECIFIED,
    "requested": pb.REVERSAL_STATUS_REQUESTED,
    "done": pb.REVERSAL_STATUS_DONE,
    "failed": pb.REVERSAL_STATUS_FAILED,
}


def payout(row: Payout, items: Iterable[Item] = ()) -> pb.Payout:
    """A payout, with what it pays if that is given."""
    return pb.Payout(
        id=str(row.id),
        instructor_id=str(row.instructor_id),
        amount_cents=row.amount_cents,
        currency=row.currency,
        status=STATUSES[row.status],
        stripe_account_id=row.stripe_account_id,
        stripe_transfer_id=row.stripe_transfer_id or "",
        failure_code=row.failure_code,
        reversal=REVERSALS[row.reversal],
        reversal_reason=row.reversal_reason,
        items=map(item, items),
        create_time=stamp(row.created_at),
        update_time=stamp(row.updated_at),
    )


def item(row: Item) -> pb.PayoutItem:
    """What it pays of one payment."""
    return pb.PayoutItem(
        payment_id=str(row.payment_id),
        booking_id=str(row.booking_id),
        amount_cents=row.amount_cents,
    )
