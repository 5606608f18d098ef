"""Our books against Stripe's: what is the same, and what is different. No I/O.

What Stripe does not answer for yet is no difference: a refund of ours that is pending may be in its
figures or not, and so may a reversal.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from libs.errors import InvalidArgument
from services.payments.model.stripe import Charge, Intent, Transfer

PERIOD_MAX = timedelta(days=366)
SETTLED_AFTER = timedelta(minutes=1)
ATTEMPTS_MAX = 5
TRANSFERRED = frozenset({"paid", "reversed"})


class Money(NamedTuple):
    """Minor units of a currency; 6000 AUD."""

    cents: int
    currency: str

    def __str__(self) -> str:
        return f"{self.cents} {self.currency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A comparison of a period."""

    id: uuid.UUID
    from_at: datetime
    to_at: datetime
    dry_run: bool
    status: str
    """running, done or failed."""
    compared: int
    matched: int
    discrepancies: int
    failure: str
    attempts: int
    is_claimed: bool
    """Whether the process that carries it out was heard of lately."""
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is different; `here` and `there` as people read it."""

    kind: str
    """missing_here, missing_there, amount, currency or status."""
    object_type: str
    object_id: uuid.UUID | None
    stripe_id: str
    here: str
    there: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """A difference that a run has found, and how it was dealt with."""

    id: uuid.UUID
    run_id: uuid.UUID
    kind: str
    object_type: str
    object_id: uuid.UUID | None
    stripe_id: str
    here: str
    there: str
    note: str
    resolved_by: str
    resolved_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PaymentHere:
    """A payment as Stripe should know it. Money in minor units of `currency`."""

    id: uuid.UUID
    intent_id: str
    status: str
    captured_cents: int
    currency: str
    at: datetime
    """When it was paid."""
    refunded_cents: int
    """Given back for certain."""
    pending_cents: int
    """About to be given back."""
    disputed: bool
    """Whether it was ever contested, however that ended."""


@dataclass(frozen=True, slots=True)
class PayoutHere:
    """A payout as Stripe should know it. Money in minor units of `currency`."""

    id: uuid.UUID
    transfer_id: str | None
    status: str
    amount_cents: int
    currency: str
    at: datetime | None
    """When it was transferred."""
    reversal: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What a page has shown."""

    compared: int
    matched: int
    differences: Sequence[Difference] = field(default_factory=list)

    @classmethod
    def of(cls, found: Sequence[Sequence[Difference]]) -> Tally:
        """Of the differences of each thing that was compared."""
        matched = sum(not each for each in found)
        return cls(len(found), matched, [one for each in found for one in each])


def check_period(from_at: datetime, to_at: datetime, now: datetime) -> None:
    """Raise InvalidArgument unless the time is over and can be compared in one run."""
    if to_at - from_at > PERIOD_MAX:
        raise InvalidArgument(
            "PERIOD_TOO_LONG",
            "More than 366 days.",
            fields=[("period.end_time", "more than 366 days after the start")],
        )
    # What Stripe did a moment ago reaches us by a webhook: it would be missed here, and found
    # by the next look.
    if to_at > now - SETTLED_AFTER:
        raise InvalidArgument(
            "PERIOD_IN_FUTURE",
            "The period is not over since a minute.",
            fields=[("period.end_time", "less than a minute ago, or in the future")],
        )


def compare_charge(ours: PaymentHere | None, charge: Charge) -> list[Difference]:
    """How a charge differs from our payment; nothing if it does not."""
    stripe_id = charge.intent_id or charge.id
    captured = Money(charge.amount_captured, charge.currency)
    if ours is None:
        return [Difference("missing_here", "payment", None, stripe_id, "", str(captured))]

    def difference(kind: str, here: str, there: str) -> Difference:
        return Difference(kind, "payment", ours.id, stripe_id, here, there)

    there = _paid(Money(charge.amount_refunded, charge.currency), disputed=charge.disputed)
    if not ours.captured_cents:
        return [difference("status", ours.status, there)]
    differences = [difference(*each) for each in _money_differs(_captured(ours), captured)]
    if charge.currency == ours.currency and not _same_state(ours, charge):
        here = _paid(Money(ours.refunded_cents, ours.currency), disputed=ours.disputed)
        differences.append(difference("status", here, there))
    return differences


def compare_intent(ours: PaymentHere, intent: Intent | None) -> list[Difference]:
    """How the intent of a payment differs whose charge lies outside of the period.

    What was given back of it is compared in the period of its charge.
    """

    def difference(kind: str, here: str, there: str) -> Difference:
        return Difference(kind, "payment", ours.id, ours.intent_id, here, there)

    if intent is None:
        return [difference("missing_there", str(_captured(ours)), "")]
    if not intent.amount_received:
        return [difference("status", ours.status, intent.status)]
    received = Money(intent.amount_received, intent.currency)
    return [difference(*each) for each in _money_differs(_captured(ours), received)]


def compare_transfer(ours: PayoutHere | None, transfer: Transfer) -> list[Difference]:
    """How a transfer differs from our payout; nothing if it does not."""
    moved = Money(transfer.amount, transfer.currency)
    if ours is None:
        return [Difference("missing_here", "payout", None, transfer.id, "", str(moved))]

    def difference(kind: str, here: str, there: str) -> Difference:
        return Difference(kind, "payout", ours.id, transfer.id, here, there)

    if ours.status not in TRANSFERRED:
        return [difference("status", ours.status, _moved(transfer))]
    here = Money(ours.amount_cents, ours.currency)
    differences = [difference(*each) for each in _money_differs(here, moved)]
    if ours.reversal != "requested" and _reversed_cents(ours) != transfer.amount_reversed:
        differences.append(difference("status", ours.status, _moved(transfer)))
    return differences


def missing_transfer(ours: PayoutHere) -> list[Difference]:
    """A payout whose transfer Stripe does not know."""
    here = str(Money(ours.amount_cents, ours.currency))
    return [Difference("missing_there", "payout", ours.id, ours.transfer_id or "", here, "")]


def _same_state(ours: PaymentHere, charge: Charge) -> bool:
    beyond = charge.amount_refunded - ours.refunded_cents
    return 0 <= beyond <= ours.pending_cents and charge.disputed == ours.disputed


def _reversed_cents(ours: PayoutHere) -> int:
    return ours.amount_cents if ours.status == "reversed" else 0


def _money_differs(here: Money, there: Money) -> list[tuple[str, str, str]]:
    """At most one: amounts of different currencies are not to be compared."""
    if here == there:
        return []
    kind = "amount" if here.currency == there.currency else "currency"
    return [(kind, str(here), str(there))]


def _captured(ours: PaymentHere) -> Money:
    return Money(ours.captured_cents, ours.currency)


def _paid(refunded: Money, *, disputed: bool) -> str:
    """paid; 3000 AUD refunded; 3000 AUD refunded, disputed."""
    words = [f"{refunded} refunded"] if refunded.cents else []
    words += ["disputed"] if disputed else []
    return ", ".join(words) or "paid"


def _moved(transfer: Transfer) -> str:
    if not transfer.amount_reversed:
        return "paid"
    if transfer.amount_reversed == transfer.amount:
        return "reversed"
    return f"{Money(transfer.amount_reversed, transfer.currency)} reversed"
