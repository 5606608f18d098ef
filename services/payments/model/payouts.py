"""Payouts: money to instructors, and back. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs import errors
from libs.errors import FailedPrecondition
from services.payments.model.payments import REFUNDABLE, Payment
from services.payments.model.stripe import Transfer

OPEN = frozenset({"pending", "in_transit"})
"""Nobody knows yet whether it will be paid."""
PASSING = frozenset({"balance_insufficient"})
"""Refusals of a transfer that end by themselves: the money of cards takes days to arrive."""
PASS_WITHIN = timedelta(days=7)
"""As long as that takes at most; then the payout has failed, and its payments are free again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """Money to an instructor, in minor units of `currency`."""

    id: uuid.UUID
    instructor_id: uuid.UUID
    amount_cents: int
    currency: str
    status: str
    """pending, in_transit, paid, failed or reversed."""
    stripe_account_id: str
    stripe_transfer_id: str | None
    transferred_at: datetime | None
    failure_code: str
    reversal: str
    """none, requested, done or failed."""
    reversal_reason: str
    stripe_reversal_id: str | None
    key_generation: int
    attempts: int
    next_attempt_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def is_reversing(self) -> bool:
        return self.status == "paid" and self.reversal == "requested"

    def may_pass(self, code: str, now: datetime) -> bool:
        """Whether what Stripe refused may yet be done."""
        return code in PASSING and now - self.created_at < PASS_WITHIN

    def is_paid_by(self, transfer: Transfer) -> bool:
        """Whether the transfer pays it, or may be the one that does."""
        asked = (self.amount_cents, self.currency, self.stripe_account_id)
        return self.stripe_transfer_id in {None, transfer.id} and asked == (
            transfer.amount,
            transfer.currency,
            transfer.destination,
        )

    def tried(self, used_generation: int, kept: bool, again_at: datetime) -> Payout:
        """After a call without an answer, under a key of that generation.

        A key under which Stripe keeps a failure is of no more use: whoever sees it replaces it.
        """
        replaced = kept and self.key_generation == used_generation
        return replace(
            self,
            status="in_transit" if self.is_open else self.status,
            key_generation=self.key_generation + replaced,
            attempts=self.attempts + 1,
            next_attempt_at=again_at,
        )

    def paid(self, transfer: Transfer) -> Payout:
        """After its transfer was made; itself if it no longer waits for one."""
        if not self.is_open:
            return self
        return replace(
            self,
            status="paid",
            stripe_transfer_id=transfer.id,
            transferred_at=transfer.created,
            failure_code="",
            attempts=0,
            next_attempt_at=None,
        )

    def refused(self, code: str) -> Payout:
        """After Stripe would not make its transfer, and will not under any key."""
        return replace(self, status="failed", failure_code=code, next_attempt_at=None)

    def reversing(self, reason: str, call_at: datetime) -> Payout:
        """With its reversal asked for; raises FailedPrecondition INVALID_TRANSITION.

        After a refused one under a new key: Stripe keeps the refusal under the old.
        """
        if self.status != "paid" or self.reversal not in {"none", "failed"}:
            raise FailedPrecondition(
                "INVALID_TRANSITION",
                f"It is {self.status}, its reversal {self.reversal}.",
                metadata={"status": self.status, "reversal": self.reversal},
            )
        return replace(
            self,
            reversal="requested",
            reversal_reason=reason,
            failure_code="",
            key_generation=self.key_generation + (self.reversal == "failed"),
            attempts=0,
            next_attempt_at=call_at,
        )

    def reversed(self, reversal_id: str | None) -> Payout:
        """After all of it was taken back, by us or past us (then the reversal has no name here)."""
        return replace(
            self,
            status="reversed",
            reversal="done",
            stripe_reversal_id=self.stripe_reversal_id or reversal_id,
            failure_code="",
            next_attempt_at=None,
        )

    def reversal_refused(self, code: str) -> Payout:
        """After Stripe would not take it back: it stays paid."""
        return replace(self, reversal="failed", failure_code=code, next_attempt_at=None)


@dataclass(frozen=True, slots=True)
class Item:
    """The instructor's share of one payment."""

    payment_id: uuid.UUID
    booking_id: uuid.UUID
    amount_cents: int


def is_taken_back(transfer: Transfer) -> bool:
    """Whether all of it was reversed."""
    return transfer.amount_reversed >= transfer.amount


def items(payments: Iterable[Payment]) -> list[Item]:
    """What a payout of these pays."""
    return [Item(each.id, each.booking_id, each.instructor_share_cents) for each in payments]


def check_named(
    wanted: Sequence[uuid.UUID], found: Mapping[uuid.UUID, Payment], instructor_id: uuid.UUID
) -> None:
    """Raise for the first of these payments that can't be paid out to the instructor."""
    for payment_id in wanted:
        payment = found.get(payment_id)
        if payment is None:
            raise errors.not_found("payment", payment_id)
        _check_due(payment, instructor_id)


def check_whole(payments: Sequence[Payment]) -> None:
    """Raise FailedPrecondition unless these make up one payout: some, of one currency."""
    currencies = sorted({payment.currency for payment in payments})
    if not currencies:
        raise FailedPrecondition("NOTHING_TO_PAY_OUT", "Nothing of this is due.")
    if len(currencies) > 1:
        raise FailedPrecondition(
            "CURRENCIES_DIFFER",
            "A payout is of one currency: name the payments of each.",
            metadata={"currencies": ",".join(currencies)},
        )


def account_missing() -> FailedPrecondition:
    """The answer for an instructor to whom nothing can be sent."""
    return FailedPrecondition("PAYOUT_ACCOUNT_MISSING", "The instructor has no Stripe account.")


def _check_due(payment: Payment, instructor_id: uuid.UUID) -> None:
    told = {"payment_id": str(payment.id)}
    if payment.instructor_id == instructor_id and payment.payout_id is not None:
        raise FailedPrecondition(
            "PAYMENT_PAID_OUT",
            "It is paid out already, or about to be.",
            metadata={**told, "payout_id": str(payment.payout_id)},
        )
    if payment.instructor_id != instructor_id or not _is_due(payment):
        raise FailedPrecondition(
            "PAYMENT_NOT_DUE", "Nothing of it is due to the instructor.", metadata=told
        )


def _is_due(payment: Payment) -> bool:
    """As the part `payable` of the statements has it; what is about to be given back is not due."""
    return (
        payment.share_status == "due"
        and payment.status in REFUNDABLE
        and payment.refundable_cents > 0
    )
