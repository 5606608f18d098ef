"""Movements of money: what each thing that happens writes into the ledger. No I/O.

Debit (above 0) goes into an account, credit (below 0) out of it. `stripe` is what Stripe holds for
us; `platform`, `school` and `instructor:<id>` are what is owed to them; `disputed` is what Stripe
keeps back while a cardholder contests.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

STRIPE, PLATFORM, SCHOOL, DISPUTED = "stripe", "platform", "school", "disputed"


@dataclass(frozen=True, slots=True)
class Movement:
    """What moves, by account; adds up to 0. The kind moves once for a source."""

    kind: str
    source_id: uuid.UUID
    currency: str
    amounts: dict[str, int]


def instructor(instructor_id: uuid.UUID) -> str:
    """The account of what an instructor is owed."""
    return f"instructor:{instructor_id}"


def charge(payment_id: uuid.UUID, currency: str, captured: int, fee: int) -> Movement:
    """A student paid: it is the school's, but for the platform's share."""
    return Movement(
        "charge",
        payment_id,
        currency,
        {STRIPE: captured, PLATFORM: -fee, SCHOOL: fee - captured},
    )


def refund(kind: str, refund_id: uuid.UUID, currency: str, amount: int, fee: int) -> Movement:
    """Some of it went back (refund), by platform and school in proportion, or in the end did not
    (refund_failed)."""
    if kind == "refund_failed":
        amount, fee = -amount, -fee
    return Movement(
        kind, refund_id, currency, {STRIPE: -amount, PLATFORM: fee, SCHOOL: amount - fee}
    )


def share(
    kind: str, source_id: uuid.UUID, currency: str, instructor_id: uuid.UUID, amount: int
) -> Movement:
    """The school owes the instructor his share (share_due), or no longer does (share_void)."""
    amount = amount if kind == "share_due" else -amount
    return Movement(kind, source_id, currency, {SCHOOL: amount, instructor(instructor_id): -amount})


def payout(
    kind: str, payout_id: uuid.UUID, currency: str, instructor_id: uuid.UUID, amount: int
) -> Movement:
    """The instructor was paid (payout), or it was taken back (payout_reversal)."""
    amount = amount if kind == "payout" else -amount
    return Movement(kind, payout_id, currency, {instructor(instructor_id): amount, STRIPE: -amount})


def dispute(kind: str, dispute_id: uuid.UUID, currency: str, amount: int) -> Movement:
    """Stripe keeps it back (dispute), returns it (dispute_won), or it is gone (dispute_lost)."""
    amounts = {
        "dispute": {DISPUTED: amount, STRIPE: -amount},
        "dispute_won": {STRIPE: amount, DISPUTED: -amount},
        "dispute_lost": {SCHOOL: amount, DISPUTED: -amount},
    }[kind]
    return Movement(kind, dispute_id, currency, amounts)
