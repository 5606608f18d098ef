"""Disputes: the customer's bank takes the money back, for a time or for good."""

from __future__ import annotations

from libs.local.stripe_fake import ledger
from libs.local.stripe_fake.errors import Json, refused
from libs.local.stripe_fake.events import emit
from libs.local.stripe_fake.state import State

DAYS_TO_ANSWER = 7


def open_dispute(state: State, charge: Json, amount: int | None, reason: str) -> Json:
    """Dispute `amount` of a charge, or what it has left; the money goes at once."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    if charge["status"] != "succeeded" or charge["disputed"] or not 0 < (amount or left) <= left:
        raise refused(f"Charge {charge['id']} cannot be disputed (again, or by that amount)")
    due_by = state.clock.now() + DAYS_TO_ANSWER * 86_400
    dispute = state.new(
        "dispute",
        "du",
        amount=amount or left,
        balance_transactions=[],
        charge=charge["id"],
        currency=charge["currency"],
        evidence_details={"due_by": due_by, "submission_count": 0},
        is_charge_refundable=False,
        metadata={},
        payment_intent=charge["payment_intent"],
        reason=reason,
        status="needs_response",
    )
    charge["disputed"] = True
    state.put(charge)
    _move(state, dispute, -dispute["amount"], ledger.DISPUTE_FEE)
    emit(state, "charge.dispute.created", state.put(dispute))
    emit(state, "charge.dispute.funds_withdrawn", dispute)
    return dispute


def close_dispute(state: State, dispute: Json, won: bool) -> Json:
    """End it; one that is won brings the amount back, not the fee."""
    if dispute["status"] in ("won", "lost"):
        raise refused(f"Dispute {dispute['id']} is closed")
    dispute["status"] = "won" if won else "lost"
    if won:
        _move(state, dispute, dispute["amount"], 0)
        emit(state, "charge.dispute.funds_reinstated", state.put(dispute))
    emit(state, "charge.dispute.closed", state.put(dispute))
    return dispute


def _move(state: State, dispute: Json, amount: int, fee: int) -> None:
    transaction = ledger.record(state, "adjustment", dispute, amount, fee)
    dispute["balance_transactions"].append(state.get("balance_transaction", transaction))
