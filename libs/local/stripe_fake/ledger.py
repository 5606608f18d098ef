"""Balance transactions and the balances that they move."""

from __future__ import annotations

from libs.local.stripe_fake.errors import Json
from libs.local.stripe_fake.params import Params
from libs.local.stripe_fake.state import State

FEE_PER_MILLE, FEE_FIXED, DISPUTE_FEE = 29, 30, 1500


def card_fee(amount: int) -> int:
    """What Stripe keeps of a charge, in cents."""
    return round(amount * FEE_PER_MILLE / 1000) + FEE_FIXED


def record(state: State, kind: str, source: Json, amount: int, fee: int = 0) -> str:
    """Move the platform's balance by `amount` less `fee`, at once; return the transaction's id."""
    transaction = state.new(
        "balance_transaction",
        "txn",
        "exchange_rate",
        amount=amount,
        available_on=state.clock.now(),
        currency=source["currency"],
        description=source.get("description"),
        fee=fee,
        fee_details=_fee_details(fee, source["currency"]),
        net=amount - fee,
        reporting_category="dispute" if source.get("object") == "dispute" else kind,
        source=source["id"],
        status="available",
        type=kind,
    )
    state.add_balance("", source["currency"], amount - fee)
    return str(state.put(transaction)["id"])


def balance(state: State, _params: Params) -> Json:
    """The platform's balance, or the one of the account that `Stripe-Account` names."""
    of = state.balances.get(state.request.get("account") or "", {}) or {"usd": 0}
    rows = [{"amount": amount, "currency": currency} for currency, amount in of.items()]
    pending = [row | {"amount": 0} for row in rows]
    return {"object": "balance", "available": rows, "livemode": False, "pending": pending}


def _fee_details(fee: int, currency: str) -> list[Json]:
    return [{"amount": fee, "currency": currency, "type": "stripe_fee"}] if fee else []
