"""Charges: what cards and accounts do when they are asked for money."""

from __future__ import annotations

from dataclasses import dataclass

from libs.local.stripe_fake import ledger
from libs.local.stripe_fake.errors import Json
from libs.local.stripe_fake.events import emit
from libs.local.stripe_fake.state import State


@dataclass(frozen=True)
class Method:
    """A payment method of Stripe's test mode and what comes of it."""

    outcome: str  # succeeded, declined, processing, requires_action, disputed
    code: str = "card_declined"
    decline_code: str | None = None
    message: str = "Your card was declined."
    prefix: str = "ch"

    def error(self, charge: str, method: str) -> Json:
        """What the intent keeps and the caller gets."""
        fields = {"code": self.code, "decline_code": self.decline_code, "message": self.message}
        return fields | {"charge": charge, "payment_method": {"id": method}}


METHODS = {
    "pm_card_visa": Method("succeeded"),
    "pm_card_mastercard": Method("succeeded"),
    "pm_card_createDispute": Method("disputed"),
    "pm_card_authenticationRequired": Method(
        "requires_action",
        "payment_intent_authentication_failure",
        message="The payment method was not authenticated.",
    ),
    "pm_usBankAccount": Method(
        "processing", "payment_method_failed", message="The bank sent it back.", prefix="py"
    ),
    "pm_card_visa_chargeDeclined": Method("declined", decline_code="generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": Method(
        "declined",
        decline_code="insufficient_funds",
        message="Your card has insufficient funds.",
    ),
    "pm_card_chargeDeclinedExpiredCard": Method(
        "declined", "expired_card", message="Your card has expired."
    ),
}

COPIED = "amount currency customer description payment_method receipt_email transfer_group"


def attempt(state: State, intent: Json, status: str) -> Json:
    """A charge of the intent's whole amount; `status`: succeeded, pending or failed."""
    method = METHODS[intent["payment_method"]]
    charge = state.new(
        "charge",
        method.prefix,
        "balance_transaction failure_code failure_message",
        amount_captured=0,
        amount_refunded=0,
        captured=False,
        disputed=False,
        metadata=dict(intent["metadata"]),
        paid=False,
        payment_intent=intent["id"],
        refunded=False,
        status="pending",
        **{name: intent[name] for name in COPIED.split()},
    )
    intent["latest_charge"] = charge["id"]
    return state.put(charge) if status == "pending" else finish(state, charge, status)


def finish(state: State, charge: Json, status: str) -> Json:
    """Let it succeed, which moves money, or fail."""
    charge["status"] = status
    if status == "succeeded":
        amount = charge["amount"]
        charge |= {"paid": True, "captured": True, "amount_captured": amount}
        kind = "charge" if charge["id"].startswith("ch_") else "payment"
        fee = ledger.card_fee(amount)
        charge["balance_transaction"] = ledger.record(state, kind, charge, amount, fee)
    else:
        method = METHODS[charge["payment_method"]]
        charge |= {"failure_code": method.code, "failure_message": method.message}
    emit(state, f"charge.{status}", state.put(charge))
    return charge
