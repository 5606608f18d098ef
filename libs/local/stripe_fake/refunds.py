"""Refunds: never more than a charge has left."""

from __future__ import annotations

from libs.local.stripe_fake import ledger
from libs.local.stripe_fake.errors import Json, Refusal, refused
from libs.local.stripe_fake.events import emit
from libs.local.stripe_fake.params import Params, merged
from libs.local.stripe_fake.state import State

REASONS = ("duplicate", "fraudulent", "requested_by_customer")
CREATED = ("payment_intent", "charge", "amount", "reason", "metadata")
LOST = ("warning_needs_response", "needs_response", "under_review", "lost")


def create(state: State, params: Params) -> Json:
    """Give back `amount`, or all that is left."""
    amount, reason = params.number("amount"), params.text("reason", REASONS)
    charge, metadata = _charge(state, params), params.metadata()
    amount = _allowed(state, charge, amount)
    refund = state.new(
        "refund",
        "re" if charge["id"].startswith("ch_") else "pyr",
        "balance_transaction failure_reason",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        metadata=dict(metadata),
        payment_intent=charge["payment_intent"],
        reason=reason,
    )
    return _made(state, refund, charge)


def settle(state: State, refund: Json, ok: bool) -> Json:
    """End a pending refund; a succeeded one may fail later. A failed one gives the money back."""
    if refund["status"] not in (("pending",) if ok else ("pending", "succeeded")):
        raise refused(f"Refund {refund['id']} has a status of {refund['status']}")
    refund["status"] = "succeeded" if ok else "failed"
    if not ok:
        refund["failure_reason"] = "unknown"
        charge = state.get("charge", refund["charge"])
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False
        state.put(charge)
        ledger.record(state, _kind(refund, "_failure"), refund, refund["amount"])
    emit(state, "refund.updated", state.put(refund))
    if not ok:
        emit(state, "refund.failed", refund)
    return refund


def update(state: State, params: Params, refund_id: str) -> Json:
    """Change a refund's metadata."""
    refund, metadata = state.get("refund", refund_id), params.metadata()
    refund["metadata"] = merged(refund, metadata)
    emit(state, "refund.updated", state.put(refund))
    return refund


def _made(state: State, refund: Json, charge: Json) -> Json:
    outcome = state.refund_outcome()
    refund["status"] = "succeeded" if outcome == "succeeded" else "pending"
    charge["amount_refunded"] += refund["amount"]
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    refund["balance_transaction"] = ledger.record(state, _kind(refund), refund, -refund["amount"])
    emit(state, "refund.created", state.put(refund))
    emit(state, "charge.refunded", state.put(charge))
    return settle(state, refund, ok=False) if outcome == "failed" else refund


def _kind(refund: Json, suffix: str = "") -> str:
    return ("refund" if refund["id"].startswith("re_") else "payment_refund") + suffix


def _charge(state: State, params: Params) -> Json:
    if charge := params.text("charge"):
        return state.get("charge", charge, "charge")
    params.required("payment_intent")
    intent_id = params.text("payment_intent") or ""
    intent = state.get("payment_intent", intent_id, "payment_intent")
    if intent["status"] != "succeeded":
        message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
        raise refused(message, param="payment_intent")
    return state.get("charge", intent["latest_charge"])


def _allowed(state: State, charge: Json, amount: int | None) -> int:
    left, name = (
        int(charge["amount_captured"] - charge["amount_refunded"]),
        f"Charge {charge['id']}",
    )
    if charge["status"] != "succeeded":
        raise refused(f"{name} has not succeeded.", param="charge")
    if any(dispute["status"] in LOST for dispute in state["dispute"].where("charge", charge["id"])):
        raise refused(f"{name} has been charged back; cannot issue a refund.", "charge_disputed")
    if not left:
        raise refused(f"{name} has already been refunded.", "charge_already_refunded")
    if (amount or left) > left:
        of = "unrefunded amount on charge" if charge["amount_refunded"] else "charge amount"
        raise _too_much(f"Refund amount ({amount}) is greater than {of} ({left})")
    return amount or left


def _too_much(message: str) -> Refusal:
    return refused(message, param="amount")
