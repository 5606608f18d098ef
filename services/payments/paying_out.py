"""Payouts at Stripe: transfers to instructors' accounts, and their reversals.

Three steps each: our row, one call to Stripe, what became of it; a crash at any point is finished
by the sweep. Nobody is paid twice: a key of Stripe's is used for one payout alone, is replaced only
when Stripe keeps a failure under it, and then what was made is looked for first. A payout that
failed is never tried again, under no key: its payments are paid out by a new one.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from libs import errors
from libs.orgs import Orgs
from libs.pooling import Connection
from services.payments import books, telling
from services.payments.books import CALL_WITHIN
from services.payments.charging import BACKOFF_MAX_S, KEYS_LIVE, backoff
from services.payments.model import ledger
from services.payments.model.payments import Payment
from services.payments.model.payouts import Payout, is_taken_back, items
from services.payments.model.stripe import Transfer
from services.payments.store import ledger as ledger_store
from services.payments.store import payouts as store
from services.payments.stripe_gateway import StripeGateway, StripeRefused, StripeUnavailable

MOVES = {"paid": "payout", "reversed": "payout_reversal"}
"""What the ledger calls the step to a status."""
RELEASES = frozenset({"failed", "reversed"})
"""The payments can be paid out by another."""
PASSING_MAX_S = 3600.0
"""Whether the school's money has arrived is asked so often: each time is two calls."""
Answer = TypeVar("Answer")


class PayingOut:
    """Payouts at Stripe."""

    def __init__(self, orgs: Orgs, gateway: StripeGateway, clock: Callable[[], datetime]) -> None:
        self._orgs = orgs
        self._gateway = gateway
        self._clock = clock

    async def advance(self, org_id: uuid.UUID, payout_id: uuid.UUID) -> Payout:
        """Do what is due of a payout at Stripe; the payout then. Raises NotFound.

        One caller at a time: another finds nothing due until CALL_WITHIN is over. Without an answer
        it is tried again by itself.
        """
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            claimed = await store.claim_payout(conn, org_id, payout_id, now, now + CALL_WITHIN)
        if claimed is not None:
            return await self.call(org_id, claimed)
        payout = await store.find_payout(self._orgs.reader(org_id), org_id, payout_id)
        if payout is None:
            raise errors.not_found("payout", payout_id)
        return payout

    async def call(self, org_id: uuid.UUID, payout: Payout) -> Payout:
        """As `advance`, for whoever wrote within CALL_WITHIN that Stripe is to be called."""
        if payout.is_open:
            return await self._send(org_id, payout)
        if payout.is_reversing:
            return await self._take_back(org_id, payout)
        return payout

    async def keep_transfer(
        self, conn: Connection, org_id: uuid.UUID, transfer: Transfer, now: datetime
    ) -> bool:
        """What a webhook says of a transfer; False when it is not one that pays a payout of ours.

        One that we had not heard of, and one that was reversed whole past us, are as ours. Of one
        that was reversed in part, reconciliation tells.
        """
        try:
            payout_id = uuid.UUID(transfer.metadata.get("payout_id", ""))
        except ValueError:
            return False
        payout = await store.lock_payout(conn, org_id, payout_id)
        # To a failed one no transfer belongs: its payments may be paid by another already.
        if payout is None or payout.status == "failed" or not payout.is_paid_by(transfer):
            return False
        await _keep_transfer(conn, org_id, payout, transfer, now)
        return True

    # --- the transfer ---

    async def _send(self, org_id: uuid.UUID, payout: Payout) -> Payout:
        try:
            transfer = await self._transfer(org_id, payout)
        except StripeUnavailable as error:
            return await self._again(org_id, payout, kept=error.kept)
        except StripeRefused as error:
            if payout.may_pass(error.code, self._clock()):
                # The school's money is on its way. Stripe keeps this refusal under the key, so the
                # next attempt has another one; under the old nothing was made nor will be, and it
                # is looked for first all the same.
                return await self._again(org_id, payout, kept=True, code=error.code)
            return await self._refused(org_id, payout, error.code)
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await _lock(conn, org_id, payout.id)
            return await _keep_transfer(conn, org_id, before, transfer, now)

    async def _transfer(self, org_id: uuid.UUID, payout: Payout) -> Transfer:
        if payout.key_generation or self._clock() - payout.created_at > KEYS_LIVE:
            found = await _asked(self._gateway.find_transfer(payout))
            if found is not None:
                return found
        return await self._gateway.create_transfer(org_id, payout)

    async def _refused(self, org_id: uuid.UUID, payout: Payout, code: str) -> Payout:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await _lock(conn, org_id, payout.id)
            if not before.is_open or before.key_generation != payout.key_generation:
                return before
            return await _keep(conn, org_id, before, before.refused(code), now)

    # --- the reversal ---

    async def _take_back(self, org_id: uuid.UUID, payout: Payout) -> Payout:
        try:
            reversal_id = await self._reverse(org_id, payout)
        except StripeUnavailable as error:
            return await self._again(org_id, payout, kept=error.kept)
        except StripeRefused as error:
            return await self._reversal_refused(org_id, payout, error.code)
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await _lock(conn, org_id, payout.id)
            return await _keep(conn, org_id, before, before.reversed(reversal_id), now)

    async def _reverse(self, org_id: uuid.UUID, payout: Payout) -> str | None:
        """Take back what is left of the transfer: that can be done once only, under any key.

        So nothing is looked for first; who is refused because it was done has done it.
        """
        try:
            return await self._gateway.reverse_transfer(org_id, payout)
        except StripeRefused:
            transfer = await _asked(self._gateway.get_transfer(str(payout.stripe_transfer_id)))
            if not is_taken_back(transfer):
                raise
        return await _asked(self._gateway.find_reversal(payout))

    async def _reversal_refused(self, org_id: uuid.UUID, payout: Payout, code: str) -> Payout:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await _lock(conn, org_id, payout.id)
            if not before.is_reversing or before.key_generation != payout.key_generation:
                return before
            return await _keep(conn, org_id, before, before.reversal_refused(code), now)

    # --- without an answer ---

    async def _again(
        self, org_id: uuid.UUID, payout: Payout, *, kept: bool, code: str = ""
    ) -> Payout:
        now = self._clock()
        async with self._orgs.write(org_id) as conn:
            before = await _lock(conn, org_id, payout.id)
            if not (before.is_open or before.is_reversing):
                return before
            again_at = now + backoff(before.attempts, PASSING_MAX_S if code else BACKOFF_MAX_S)
            after = before.tried(payout.key_generation, kept, again_at)
            after = replace(after, failure_code=code or before.failure_code)
            return await _keep(conn, org_id, before, after, now)


async def open_payout(
    conn: Connection,
    org_id: uuid.UUID,
    payments: Sequence[Payment],
    stripe_account_id: str,
    now: datetime,
) -> Payout:
    """A payout of these payments, of one instructor and currency; Stripe is to be called.

    They are locked, and were judged.
    """
    paid = items(payments)
    payout = await store.add_payout(
        conn,
        org_id,
        now,
        instructor_id=payments[0].instructor_id,
        amount_cents=sum(item.amount_cents for item in paid),
        currency=payments[0].currency,
        stripe_account_id=stripe_account_id,
        next_attempt_at=now + CALL_WITHIN,
    )
    await store.add_payout_items(conn, org_id, payout.id, paid)
    payment_ids = [item.payment_id for item in paid]
    await store.pay_payments_out(conn, org_id, payout.id, payment_ids, now)
    await telling.payout_changed(conn, org_id, None, payout, "create")
    return payout


async def ask_reversal(
    conn: Connection, org_id: uuid.UUID, before: Payout, reason: str, now: datetime
) -> Payout:
    """A payout that is to be taken back; Stripe is to be called. Its row is locked.

    Raises FailedPrecondition INVALID_TRANSITION.
    """
    after = before.reversing(reason, now + CALL_WITHIN)
    return await _keep(conn, org_id, before, after, now, "reverse")


async def _keep_transfer(
    conn: Connection, org_id: uuid.UUID, before: Payout, transfer: Transfer, now: datetime
) -> Payout:
    """The payout was paid; and taken back, if all of the transfer was reversed."""
    payout = await _keep(conn, org_id, before, before.paid(transfer), now)
    if payout.status == "paid" and is_taken_back(transfer):
        payout = await _keep(conn, org_id, payout, payout.reversed(None), now)
    return payout


async def _keep(
    conn: Connection,
    org_id: uuid.UUID,
    before: Payout,
    after: Payout,
    now: datetime,
    action: str = "settle",
) -> Payout:
    """A payout's new state and what follows from it; nothing if it is the old one."""
    if after == before:
        return before
    if after.status != before.status:
        await _follow(conn, org_id, after, now)
    saved = await store.save_payout(conn, org_id, after, now)
    if _is_news(before, saved):
        await telling.payout_changed(conn, org_id, before, saved, action)
    return saved


async def _follow(conn: Connection, org_id: uuid.UUID, after: Payout, now: datetime) -> None:
    """What a new status means for the ledger and the payments."""
    if after.status in MOVES:
        moved = ledger.payout(
            MOVES[after.status],
            after.id,
            after.currency,
            after.instructor_id,
            after.amount_cents,
        )
        await ledger_store.move_money(conn, org_id, moved)
    if after.status in RELEASES:
        await _release(conn, org_id, after.id, now)


async def _release(
    conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID, now: datetime
) -> None:
    """The payments of a payout can be paid out by another, but for those that were given back.

    What kept their share due was that it was paid.
    """
    await store.release_payout_items(conn, org_id, payout_id)
    for payment in await store.lock_payments_of_payout(conn, org_id, payout_id):
        if payment.status == "refunded":
            free = replace(payment, payout_id=None)
            await books.keep_payment(conn, org_id, payment, free, now)
    await store.release_payments(conn, org_id, payout_id, now)


async def _asked(question: Awaitable[Answer]) -> Answer:
    """Stripe's answer to what was done; who may not ask knows nothing of it."""
    try:
        return await question
    except StripeRefused as error:
        raise StripeUnavailable(error.code) from error


async def _lock(conn: Connection, org_id: uuid.UUID, payout_id: uuid.UUID) -> Payout:
    payout = await store.lock_payout(conn, org_id, payout_id)
    if payout is None:
        raise errors.not_found("payout", payout_id)
    return payout


def _is_news(before: Payout, after: Payout) -> bool:
    """Whether more changed than when Stripe is to be called again."""
    return (before.status, before.reversal, before.failure_code) != (
        after.status,
        after.reversal,
        after.failure_code,
    )
