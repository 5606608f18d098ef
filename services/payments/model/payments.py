"""Payments, refunds, disputes: their states, and what follows from what Stripe says. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.errors import FailedPrecondition
from services.payments.model.stripe import Intent, StripeDispute, StripeRefund

WAITING = frozenset({"unknown", "intent_created", "processing", "failed"})
"""Nothing was paid yet."""
PAID = frozenset({"succeeded", "partially_refunded", "refunded", "disputed"})
REFUNDABLE = frozenset({"succeeded", "partially_refunded"})
CLOCKS_DIFFER = timedelta(seconds=60)
"""At most, between Stripe's and ours."""
DISPUTE_STEPS = {
    "warning_needs_response": 1,
    "warning_under_review": 2,
    "needs_response": 3,
    "under_review": 4,
}
"""Of open disputes: an inquiry may become one, a dispute does not become an inquiry."""
BOOKING_PAYABLE = frozenset({"held", "requested", "confirmed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """The price of a booking, asked for and maybe paid. Money in minor units of `currency`."""

    id: uuid.UUID
    booking_id: uuid.UUID
    student_id: uuid.UUID | None
    instructor_id: uuid.UUID
    amount_cents: int
    currency: str
    application_fee_cents: int
    instructor_share_cents: int
    status: str
    stripe_payment_intent_id: str | None
    captured_cents: int
    refunded_cents: int
    """Of refunds that have not failed: pending ones count."""
    captured_at: datetime | None
    failure_code: str
    stripe_state_at: datetime | None
    cancel_requested_at: datetime | None
    lesson_completed_at: datetime | None
    share_status: str
    """Of the instructor's share: none, due, or void while all of the price is given back."""
    share_source_id: uuid.UUID | None
    """What made it due: the payment (also if None), a refund that failed, a dispute won."""
    payout_id: uuid.UUID | None
    key_generation: int
    attempts: int
    next_attempt_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def refundable_cents(self) -> int:
        return self.captured_cents - self.refunded_cents

    @property
    def is_paid(self) -> bool:
        return self.status in PAID

    def learnt(
        self, intent: Intent, at: datetime, now: datetime, *, fresh: bool = False
    ) -> Payment:
        """The payment after Stripe said, at `at`, that its intent is so; itself if it is no news.

        Paid and cancelled are final, whenever heard. Of the others the later word counts; where the
        seconds, or two clocks, can't tell which that is, Stripe is to be asked. `fresh`: this is
        the answer, and nothing was heard since it was asked for.
        """
        known = self if self.stripe_payment_intent_id else self._created(intent)
        if known.status in PAID:
            return known
        if intent.status == "succeeded":
            return known._captured(intent, at)
        if known.status == "cancelled":
            return known
        if intent.status == "cancelled":
            code = intent.failure_code
            return replace(known, status="cancelled", failure_code=code, next_attempt_at=None)
        word, known_at = (intent.status, intent.failure_code), known.stripe_state_at or at
        if not fresh and known.stripe_state_at is not None and at <= known_at:
            if word == (known.status, known.failure_code) or known_at - at > CLOCKS_DIFFER:
                return known
            # A change in any case: an answer that is on its way is no longer fresh.
            return replace(known, next_attempt_at=now)
        return replace(
            known, status=word[0], failure_code=word[1], stripe_state_at=max(at, known_at)
        )

    def refused(self, code: str) -> Payment:
        """After Stripe would not even make an intent: nothing is there, nothing will come."""
        return replace(self, status="cancelled", failure_code=code, next_attempt_at=None)

    def check_cancellable(self) -> None:
        """Raise FailedPrecondition INVALID_TRANSITION unless it still waits to be paid."""
        if self.status not in WAITING:
            raise invalid_transition(self.status)

    def check_refund(self, amount_cents: int) -> None:
        """Raise FailedPrecondition unless so much may be given back now."""
        if self.status == "disputed":
            raise FailedPrecondition(
                "PAYMENT_DISPUTED", "The cardholder contests it: Stripe holds the money."
            )
        if self.status not in REFUNDABLE:
            raise invalid_transition(self.status)
        if not 0 < amount_cents <= self.refundable_cents:
            raise refund_too_large(self)

    def after_refunds(self, given_back_cents: int) -> Payment:
        """With the status that follows from what was given back so far, no dispute being open."""
        if given_back_cents <= 0:
            return replace(self, status="succeeded")
        whole = given_back_cents >= self.captured_cents
        return replace(self, status="refunded" if whole else "partially_refunded")

    def _created(self, intent: Intent) -> Payment:
        return replace(
            self,
            stripe_payment_intent_id=intent.id,
            next_attempt_at=self.next_attempt_at if self.cancel_requested_at else None,
        )

    def _captured(self, intent: Intent, at: datetime) -> Payment:
        return replace(
            self,
            status="succeeded",
            captured_cents=intent.amount_received,
            captured_at=at,
            failure_code="",
            next_attempt_at=None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """Money given back of a payment."""

    id: uuid.UUID
    payment_id: uuid.UUID
    amount_cents: int
    fee_cents: int
    currency: str
    status: str
    cause: str
    reason: str
    stripe_refund_id: str | None
    failure_code: str
    key_generation: int
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    updated_at: datetime

    def learnt(self, refund: StripeRefund) -> Refund:
        """After Stripe said that it is so. One that succeeded may still fail, days later."""
        if self.status == "failed" or (self.status, refund.status) == ("succeeded", "pending"):
            return replace(self, stripe_refund_id=self.stripe_refund_id or refund.id)
        return replace(
            self,
            status=refund.status,
            stripe_refund_id=refund.id,
            failure_code=refund.failure_code,
            next_attempt_at=None,
        )

    def refused(self, code: str) -> Refund:
        """After Stripe would not make it."""
        return replace(self, status="failed", failure_code=code, next_attempt_at=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A payment contested by the cardholder; `status` is Stripe's word."""

    id: uuid.UUID
    payment_id: uuid.UUID
    amount_cents: int
    currency: str
    status: str
    reason: str
    stripe_dispute_id: str
    stripe_state_at: datetime
    closed_at: datetime | None
    created_at: datetime
    updated_at: datetime

    def learnt(self, dispute: StripeDispute, at: datetime) -> Dispute:
        """After Stripe said, at `at`, that it is so; a decided one stays decided."""
        if self.closed_at is not None:
            return self
        if not dispute.is_closed and self._is_later(dispute.status, at):
            return self
        return replace(
            self,
            status=dispute.status,
            stripe_state_at=at,
            closed_at=at if dispute.is_closed else None,
        )

    def _is_later(self, status: str, at: datetime) -> bool:
        """Whether what is known came after this; within a second by the way that disputes go."""
        if at != self.stripe_state_at or not {status, self.status} <= DISPUTE_STEPS.keys():
            return at < self.stripe_state_at
        return DISPUTE_STEPS[status] < DISPUTE_STEPS[self.status]


def of_lesson(payments: Sequence[Payment]) -> Payment | None:
    """The payment of a booking that pays for its lesson, so that a share is due once; None when
    nothing was ever paid nor will be.

    There are several when all of one was given back and another was asked for: then one that
    stands, or may yet be paid, or else one whose refund may still fail; of like ones the latest.
    """

    def rank(payment: Payment) -> tuple[int, uuid.UUID]:
        if payment.status == "refunded":
            return 0, payment.id
        return (1 if payment.status in WAITING else 2), payment.id

    return max((each for each in payments if each.status != "cancelled"), key=rank, default=None)


def fee_given_back(payment: Payment, less_cents: int, more_cents: int) -> int:
    """What the platform gives back of its share when refunds go from `less_cents` to `more_cents`.

    In proportion, rounded down in sum: whatever the order in which refunds succeed and fail, what
    the sum makes it is given back, and all of it by a full refund.
    """
    fee, captured = payment.application_fee_cents, payment.captured_cents
    return fee * more_cents // captured - fee * less_cents // captured


def refund_too_large(payment: Payment) -> FailedPrecondition:
    """The answer to a refund of more than there is."""
    return FailedPrecondition(
        "REFUND_TOO_LARGE",
        "More than is left of the payment.",
        metadata={"refundable_cents": str(payment.refundable_cents)},
    )


def invalid_transition(status: str) -> FailedPrecondition:
    """The answer when the state forbids a step."""
    return FailedPrecondition("INVALID_TRANSITION", f"It is {status}.", metadata={"status": status})
