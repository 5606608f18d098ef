"""Payment intents: made by the service, confirmed by the customer."""

from __future__ import annotations

import re
import secrets

from libs.local.stripe_fake import charges, disputes
from libs.local.stripe_fake.charges import METHODS
from libs.local.stripe_fake.errors import DECLINED, Json, Refusal, refused
from libs.local.stripe_fake.events import emit
from libs.local.stripe_fake.lists import limit_of
from libs.local.stripe_fake.params import Params, merged
from libs.local.stripe_fake.state import State, copy

CURRENCIES = ("usd", "eur", "gbp", "chf", "pln", "czk", "sek", "nok", "dkk", "cad", "aud", "nzd")
LEAST_AMOUNT, LARGEST_AMOUNT = 50, 99_999_999
OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")
REASONS = ("duplicate", "fraudulent", "requested_by_customer", "abandoned")
TEXTS = ("customer", "description", "receipt_email", "transfer_group")
# Accepted without effect.
ONLY_KEPT = ("automatic_payment_methods", "payment_method_types", "statement_descriptor_suffix")
UPDATED = ("amount", "currency", "metadata", "payment_method", *TEXTS, *ONLY_KEPT)
CREATED = (*UPDATED, "capture_method", "confirm", "confirmation_method", "off_session")
CONFIRMED = ("payment_method", "client_secret", "return_url", "off_session")
NULLS = """canceled_at cancellation_reason customer description last_payment_error latest_charge
    next_action payment_method receipt_email transfer_group"""
CLAUSE = re.compile(r"""(?:(status)|metadata\[(['"])(.+?)\2\])\s*:\s*(['"])(.*?)\4""")


def create(state: State, params: Params) -> Json:
    """A new intent; with `confirm=true` it is confirmed at once."""
    params.required("amount", "currency")
    params.text("capture_method", ("automatic", "automatic_async"))
    changes, confirm_now = _changes(params), params.flag("confirm")
    if confirm_now:
        params.required("payment_method")
    intent = _blank(state) | changes
    intent["metadata"] = merged({"metadata": {}}, params.metadata())
    intent["status"] = OPEN[1] if intent["payment_method"] else OPEN[0]
    emit(state, "payment_intent.created", state.put(intent))
    return pay(state, intent) if confirm_now else intent


def update(state: State, params: Params, intent_id: str) -> Json:
    """Change an intent; once it is under way only its metadata and description."""
    intent, changes = state.get("payment_intent", intent_id), _changes(params)
    if changes.keys() - {"description"} and intent["status"] not in OPEN:
        raise unexpected(intent, "updated")
    if "payment_method" in changes:
        changes["status"] = OPEN[1]
    metadata = merged(intent, params.metadata())
    intent |= changes | {"metadata": metadata}
    return state.put(intent)


def confirm(state: State, params: Params, intent_id: str) -> Json:
    """Try to collect the money; 402 if the method is declined."""
    intent, method = state.get("payment_intent", intent_id), _method(params)
    if intent["status"] not in OPEN:
        raise unexpected(intent, "confirmed")
    intent["payment_method"] = method or intent["payment_method"]
    if not intent["payment_method"]:
        raise Refusal("This PaymentIntent is missing a payment method.", param="payment_method")
    return pay(state, intent)


def cancel(state: State, params: Params, intent_id: str) -> Json:
    """End an intent that has not collected anything; refused while it is processing, too."""
    reason = params.text("cancellation_reason", REASONS)
    intent = state.get("payment_intent", intent_id)
    if intent["status"] not in OPEN:
        raise unexpected(intent, "canceled")
    intent |= {"status": "canceled", "canceled_at": state.clock.now(), "next_action": None}
    intent["cancellation_reason"] = reason
    emit(state, "payment_intent.canceled", state.put(intent))
    return intent


def pay(state: State, intent: Json) -> Json:
    """What the intent's payment method does."""
    outcome = METHODS[intent["payment_method"]].outcome
    if outcome == "declined":
        charge = charges.attempt(state, intent, "failed")
        raise _failed(state, intent, charge)
    if outcome == "requires_action":
        intent |= {"status": outcome, "next_action": {"type": "use_stripe_sdk"}}
        emit(state, f"payment_intent.{outcome}", state.put(intent))
        return intent
    if outcome == "processing":
        charges.attempt(state, intent, "pending")
        intent["status"] = outcome
        emit(state, "payment_intent.processing", state.put(intent))
        return intent
    charge = charges.attempt(state, intent, "succeeded")
    _succeeded(state, intent)
    if outcome == "disputed":
        disputes.open_dispute(state, charge, None, "fraudulent")
    return intent


def settle(state: State, intent: Json, ok: bool) -> Json:
    """What the bank, or the customer's authentication, says in the end."""
    if intent["status"] not in ("processing", "requires_action"):
        raise unexpected(intent, "settled")
    status = "succeeded" if ok else "failed"
    if intent["status"] == "processing":
        charge = charges.finish(state, state.get("charge", intent["latest_charge"]), status)
    else:
        charge = charges.attempt(state, intent, status)
    if ok:
        _succeeded(state, intent)
    else:
        _failed(state, intent, charge)
    return intent


def search(state: State, params: Params) -> Json:
    """Intents by `metadata['key']:'value'` and `status:'…'`, joined by AND.

    Those younger than the lag are not found, as at Stripe, where it is about a minute.
    """
    params.required("query")
    metadata, status = _clauses(params.text("query") or "")
    limit, start = limit_of(params), params.number("page", 0) or 0
    found = [
        intent
        for intent in reversed(state["payment_intent"].with_metadata(metadata))
        if status in (None, intent["status"])
        and intent["created"] <= state.clock.now() - state.search_lag_s
    ]
    end = start + limit if len(found) > start + limit else None
    body = {"object": "search_result", "url": "/v1/payment_intents/search"}
    more = {"has_more": end is not None, "next_page": str(end) if end else None}
    return body | more | {"data": found[start : start + limit]}


def unexpected(intent: Json, done: str) -> Refusal:
    """An intent whose status does not allow it."""
    message = f"This PaymentIntent could not be {done}: it has a status of {intent['status']}."
    return refused(message, "payment_intent_unexpected_state", payment_intent=copy(intent))


def _clauses(query: str) -> tuple[dict[str, str], str | None]:
    metadata, status = {}, None
    for clause in re.split(r"\s+AND\s+", query):
        match = CLAUSE.fullmatch(clause.strip())
        if not match:
            raise Refusal(f"The fake cannot search for: {clause}", param="query")
        if match[1]:
            status = match[5]
        else:
            metadata[match[3]] = match[5]
    return metadata, status


def _changes(params: Params) -> Json:
    changes: Json = {name: params.text(name) for name in TEXTS if name in params}
    if (amount := params.number("amount")) is not None:
        changes["amount"] = _amount(amount)
    if (currency := params.text("currency")) is not None:
        if currency.lower() not in CURRENCIES:
            raise Refusal(f"Invalid currency: {currency}", param="currency")
        changes["currency"] = currency.lower()
    if (method := _method(params)) is not None:
        changes["payment_method"] = method
    return changes


def _amount(amount: int) -> int:
    if amount < LEAST_AMOUNT:
        raise Refusal(f"Amount must be at least {LEAST_AMOUNT}", "amount_too_small", param="amount")
    if amount > LARGEST_AMOUNT:
        message = f"Amount must be no more than {LARGEST_AMOUNT}"
        raise Refusal(message, "amount_too_large", param="amount")
    return amount


def _method(params: Params) -> str | None:
    method = params.text("payment_method")
    if method is not None and method not in METHODS:
        message = f"No such PaymentMethod: '{method}'"
        raise Refusal(message, "resource_missing", param="payment_method")
    return method


def _succeeded(state: State, intent: Json) -> None:
    done = {"status": "succeeded", "amount_received": intent["amount"], "next_action": None}
    intent |= done | {"last_payment_error": None}
    emit(state, "payment_intent.succeeded", state.put(intent))


def _failed(state: State, intent: Json, charge: Json) -> Refusal:
    name = intent["payment_method"]
    error = METHODS[name].error(charge["id"], name)
    intent |= {"status": OPEN[0], "payment_method": None, "next_action": None}
    intent["last_payment_error"] = error | {"type": "card_error"}
    emit(state, "payment_intent.payment_failed", state.put(intent))
    more = {k: v for k, v in error.items() if k not in ("code", "message")}
    return refused(
        error["message"],
        error["code"],
        status=DECLINED,
        kind="card_error",
        payment_intent=copy(intent),
        **more,
    )


def _blank(state: State) -> Json:
    intent = state.new(
        "payment_intent",
        "pi",
        NULLS,
        amount_capturable=0,
        amount_received=0,
        capture_method="automatic",
        confirmation_method="automatic",
        payment_method_types=["card", "us_bank_account"],
    )
    return intent | {"client_secret": f"{intent['id']}_secret_{secrets.token_hex(12)}"}
