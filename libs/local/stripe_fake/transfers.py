"""Transfers to connected accounts, and their reversals."""

from __future__ import annotations

from libs.local.stripe_fake import ledger
from libs.local.stripe_fake.errors import BAD, Json, missing, refused
from libs.local.stripe_fake.events import emit
from libs.local.stripe_fake.lists import listed, page
from libs.local.stripe_fake.params import Params, merged
from libs.local.stripe_fake.state import State, new_id

REQUIRED = ("amount", "currency", "destination")
CREATED = (*REQUIRED, "description", "metadata", "source_transaction", "transfer_group")
ACCOUNT = ("type", "country", "email", "business_type", "capabilities", "controller", "metadata")
MISSING, RESTRICTED = "acct_missing", "acct_restricted"
SHOWN = 10


def create(state: State, params: Params) -> Json:
    """Move platform money to an account; with `source_transaction`, out of that charge."""
    params.required(*REQUIRED)
    amount, currency = params.number("amount") or 0, (params.text("currency") or "").lower()
    destination, source = _destination(state, params), _source(state, params)
    metadata, group = params.metadata(), params.text("transfer_group")
    _afford(state, amount, currency, source)
    transfer = state.new(
        "transfer",
        "tr",
        amount=amount,
        amount_reversed=0,
        currency=currency,
        description=params.text("description"),
        destination=destination,
        destination_payment=new_id("py"),
        metadata=dict(metadata),
        reversals=page("transfer_reversal", [], more=False),
        reversed=False,
        source_transaction=source["id"] if source else None,
        transfer_group=group or (source["transfer_group"] if source else None),
    )
    transfer["balance_transaction"] = ledger.record(state, "transfer", transfer, -amount)
    state.add_balance(destination, currency, amount)
    emit(state, "transfer.created", state.put(transfer))
    return transfer


def update(state: State, params: Params, transfer_id: str) -> Json:
    """Change a transfer's metadata or description."""
    transfer, metadata = state.get("transfer", transfer_id), params.metadata()
    transfer["metadata"] = merged(transfer, metadata)
    if description := params.text("description"):
        transfer["description"] = description
    emit(state, "transfer.updated", state.put(transfer))
    return transfer


def reverse(state: State, params: Params, transfer_id: str) -> Json:
    """Take back `amount`, or all that is left; the account must have it."""
    transfer, metadata = state.get("transfer", transfer_id), params.metadata()
    amount = _reversible(state, transfer, params.number("amount"))
    reversal = state.new(
        "transfer_reversal",
        "trr",
        amount=amount,
        currency=transfer["currency"],
        metadata=dict(metadata),
        transfer=transfer_id,
    )
    reversal["balance_transaction"] = ledger.record(state, "transfer_refund", reversal, amount)
    state.add_balance(transfer["destination"], transfer["currency"], -amount)
    state.put(reversal)
    transfer["amount_reversed"] += amount
    transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
    transfer["reversals"] = _shown(state, transfer_id)
    emit(state, "transfer.reversed", state.put(transfer))
    return reversal


def list_reversals(state: State, params: Params, transfer_id: str) -> Json:
    """A transfer's reversals, newest first."""
    state.get("transfer", transfer_id)
    ids = [reversal["id"] for reversal in state["transfer_reversal"].where("transfer", transfer_id)]
    return listed(state, params, "transfer_reversal", ids=ids)


def create_account(state: State, params: Params) -> Json:
    """A connected account that may receive transfers."""
    account = state.new(
        "account",
        "acct",
        charges_enabled=True,
        country=params.text("country") or "US",
        details_submitted=True,
        email=params.text("email"),
        metadata=dict(params.metadata()),
        payouts_enabled=True,
        type=params.text("type") or "express",
    )
    return state.put(account)


def _destination(state: State, params: Params) -> str:
    account = params.text("destination") or ""
    if not account.startswith("acct_") or account.startswith(MISSING):
        raise missing("destination", account, "destination", status=BAD)
    if account.startswith(RESTRICTED):
        message = "Your destination account needs to have the transfers capability enabled."
        raise refused(message, "insufficient_capabilities_for_transfer")
    return account


def _source(state: State, params: Params) -> Json | None:
    charge = params.text("source_transaction")
    return state.get("charge", charge, "source_transaction", status=BAD) if charge else None


def _afford(state: State, amount: int, currency: str, source: Json | None) -> None:
    if source is None:
        if amount > state.available("", currency):
            message = "You have insufficient available funds in your Stripe account."
            raise refused(message, "balance_insufficient")
        return
    made = state["transfer"].where("source_transaction", source["id"])
    if amount > source["amount_captured"] - sum(transfer["amount"] for transfer in made):
        message = "Transfers using this transaction as a source must not exceed its amount."
        raise refused(message, param="amount")


def _reversible(state: State, transfer: Json, amount: int | None) -> int:
    left = int(transfer["amount"] - transfer["amount_reversed"])
    if not left:
        raise refused(f"Transfer {transfer['id']} is already fully reversed.")
    if (amount or left) > left:
        message = f"Reversal amount ({amount}) is greater than unreversed amount ({left})"
        raise refused(message, param="amount")
    if (amount or left) > state.available(transfer["destination"], transfer["currency"]):
        message = "The destination account has insufficient funds to reverse this transfer."
        raise refused(message, "balance_insufficient")
    return amount or left


def _shown(state: State, transfer_id: str) -> Json:
    made = state["transfer_reversal"].where("transfer", transfer_id)
    return page("transfer_reversal", made[: -SHOWN - 1 : -1], len(made) > SHOWN)
