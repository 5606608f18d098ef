"""What is open at Stripe is done: intents made and cancelled, refunds sent.

One call between two short transactions; a crash at any point is finished by the next attempt, the
caller's or the sweep's.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from libs import errors
from libs.errors import FailedPrecondition
from libs.orgs import Orgs
from services.payments import books
from services.payments.model.payments import WAITING, Payment, Refund
from services.payments.model.stripe import Intent, StripeRefund
from services.payments.store import payments as store
from services.payments.store import refunds as refund_store
from services.payments.stripe_gateway import StripeGateway, StripeRefused, StripeUnavailable

KEYS_LIVE = timedelta(hours=23)
"""Stripe keeps idempotency keys for a day; after that, what was made is looked for first."""
BACKOFF_MAX_S = 300.0
SETTLED_WITHIN = timedelta(hours=1)
"""A refund that its bank takes its time over is asked about so often, should no webhook tell."""


class Charging:
    """Payments and refunds at Stripe."""

    def __init__(self, orgs: Orgs, gateway: StripeGateway, clock: Callable[[], datetime]) -> None:
        self._orgs = orgs
        self._gateway = gateway
        self._clock = clock

    async def advance(self, org_id: uuid.UUID, payment_id: uuid.UUID) -> tuple[Payment, Intent]:
        """Do what is open of a payment at Stripe; the payment then, and its intent.

        Raises StripeUnavailable (it is tried again by itself), FailedPrecondition PAYMENT_REFUSED.
        """
        payment = await self.payment(org_id, payment_id)
        try:
            return await self._advance(org_id, payment)
        except StripeUnavailable as error:
            await self._again(org_id, payment, error)
            raise
        except StripeRefused as error:
            refused = await self._refused(org_id, payment, error)
            raise payment_refused(refused) from None

    async def _advance(self, org_id: uuid.UUID, payment: Payment) -> tuple[Payment, Intent]:
        asked_at = self._clock()
        intent = await self._ask(org_id, payment)
        payment = await self._keep(org_id, payment, intent, asked_at)
        if payment.stripe_payment_intent_id != intent.id:
            # A webhook told of the one that an attempt without an answer had made.
            intent = await self.get_intent(payment)
        if payment.cancel_requested_at is not None and payment.status in WAITING:
            asked_at = self._clock()
            intent = await self._gateway.cancel_intent(intent.id)
            payment = await self._keep(org_id, payment, intent, asked_at)
        return payment, intent

    async def get_intent(self, payment: Payment) -> Intent:
        """The intent of a payment as it is now at Stripe."""
        return await self._gateway.get_intent(str(payment.stripe_payment_intent_id))

    async def send_refund(self, org_id: uuid.UUID, refund_id: uuid.UUID) -> Refund:
        """Give back what a pending refund says, or hear what became of it.

        Without an answer it stays pending, and is tried again by itself.
        """
        reader = self._orgs.reader(org_id)
        refund = await refund_store.find_refund(reader, org_id, refund_id)
        if refund is None:
            raise errors.not_found("refund", refund_id)
        if refund.status != "pending":
            return refund
        payment = await self.payment(org_id, refund.payment_id)
        try:
            made = await self._refund(org_id, payment, refund)
        except StripeUnavailable as error:
            return await self._refund_again(org_id, refund, error)
        except StripeRefused as error:
            return await self._keep_refund(org_id, refund, error.code)
        return await self._keep_refund(org_id, refund, made)

    async def payment(self, org_id: uuid.UUID, payment_id: uuid.UUID) -> Payment:
        """A payment; raises NotFound."""
        found = await store.find_payment(self._orgs.reader(org_id), org_id, payment_id)
        if found is None:
            raise errors.not_found("payment", payment_id)
        return found

    async def _ask(self, org_id: uuid.UUID, payment: Payment) -> Intent:
        if payment.stripe_payment_intent_id is not None:
            return await self._gateway.get_intent(payment.stripe_payment_intent_id)
        if payment.status == "cancelled":
            raise StripeRefused(payment.failure_code)
        if payment.key_generation or self._clock() - payment.created_at > KEYS_LIVE:
            found = await self._gateway.find_intent(payment)
            if found is not None:
                return found
        return await self._gateway.create_intent(org_id, payment)

    async def _keep(
        self, org_id: uuid.UUID, payment: Payment, intent: Intent, at: datetime
    ) -> Payment:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await store.lock_payment(conn, org_id, payment.id)
            if before is None:
                raise errors.not_found("payment", payment.id)
            if before.stripe_payment_intent_id not in (None, intent.id):
                return before
            fresh = before.version == payment.version
            after = before.learnt(intent, at, now, fresh=fresh)
            if fresh and (after.status not in WAITING or after.cancel_requested_at is None):
                after = replace(after, next_attempt_at=None, attempts=0)
            return await books.keep_payment(conn, org_id, before, after, now)

    async def _again(self, org_id: uuid.UUID, payment: Payment, error: StripeUnavailable) -> None:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await store.lock_payment(conn, org_id, payment.id)
            if before is None or before.status not in WAITING:
                return
            after = replace(
                before,
                attempts=before.attempts + 1,
                next_attempt_at=now + backoff(before.attempts),
                key_generation=_next_key(before.key_generation, payment.key_generation, error),
            )
            await books.keep_payment(conn, org_id, before, after, now)

    async def _refused(self, org_id: uuid.UUID, payment: Payment, error: StripeRefused) -> Payment:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await store.lock_payment(conn, org_id, payment.id)
            if before is None:
                raise errors.not_found("payment", payment.id)
            if before.status != "unknown":
                return before
            return await books.keep_payment(conn, org_id, before, before.refused(error.code), now)

    async def _refund(self, org_id: uuid.UUID, payment: Payment, refund: Refund) -> StripeRefund:
        if refund.stripe_refund_id is not None:
            return await self._gateway.get_refund(refund.stripe_refund_id)
        if refund.key_generation or self._clock() - refund.created_at > KEYS_LIVE:
            found = await self._gateway.find_refund(payment, refund)
            if found is not None:
                return found
        return await self._gateway.create_refund(org_id, payment, refund)

    async def _keep_refund(
        self, org_id: uuid.UUID, refund: Refund, answer: StripeRefund | str
    ) -> Refund:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            payment = await store.lock_payment(conn, org_id, refund.payment_id)
            before = await refund_store.lock_refund(conn, org_id, refund.id)
            if payment is None or before is None:
                raise errors.not_found("refund", refund.id)
            if isinstance(answer, str):
                after = before.refused(answer) if before.status == "pending" else before
            else:
                after = before.learnt(answer)
            if after.status == "pending":
                after = replace(after, next_attempt_at=now + SETTLED_WITHIN)
            return await books.keep_refund(conn, org_id, payment, before, after, now)

    async def _refund_again(
        self, org_id: uuid.UUID, refund: Refund, error: StripeUnavailable
    ) -> Refund:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await refund_store.lock_refund(conn, org_id, refund.id)
            if before is None or before.status != "pending":
                return refund if before is None else before
            after = replace(
                before,
                attempts=before.attempts + 1,
                next_attempt_at=now + backoff(before.attempts),
                key_generation=_next_key(before.key_generation, refund.key_generation, error),
            )
            return await refund_store.save_refund(conn, org_id, after, now)


def backoff(attempts: int, max_s: float = BACKOFF_MAX_S) -> timedelta:
    """How long to wait after so many failed attempts: 1 s, 2 s, 4 s … five minutes, blurred."""
    pause_s = min(2.0 ** min(attempts, 20), max_s)
    return timedelta(seconds=pause_s * random.uniform(0.75, 1.25))  # noqa: S311


def _next_key(current: int, used: int, error: StripeUnavailable) -> int:
    """A key under which Stripe keeps a failure is of no more use: whoever sees it replaces it."""
    return used + 1 if error.kept and current == used else current


def payment_refused(payment: Payment) -> FailedPrecondition:
    """The answer for a payment that Stripe would not make."""
    return FailedPrecondition(
        "PAYMENT_REFUSED",
        "Stripe will not take this payment.",
        metadata={"code": payment.failure_code},
    )
