"""Webhooks: an event of Stripe is kept, and has its effect, in one transaction.

One code path for the HTTP endpoint, the RPC, replays, and the sweep of what was not delivered. The
school comes from our own metadata on Stripe's object, and counts only if the row is found under
that school. What an event says is applied by the rules of the model, which no order upsets.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from libs import audit, errors, telemetry
from libs.errors import InvalidArgument
from libs.orgs import Orgs
from libs.pooling import Connection, connection
from services.payments import books, stripe_gateway
from services.payments.charging import backoff
from services.payments.model.payments import PAID, Payment, Refund
from services.payments.model.stripe import StripeEvent, StripeRefund
from services.payments.paying_out import PayingOut
from services.payments.store import payments as payment_store
from services.payments.store import refunds as refund_store
from services.payments.store import webhooks as store
from services.payments.store.webhooks import WebhookEvent
from services.payments.stripe_gateway import StripeGateway, StripeRefused, StripeUnavailable

log = logging.getLogger(__name__)

BYTES_MAX = 256 * 1024
KEPT = timedelta(days=90)
DELETED_AT_ONCE = 1_000
DUE_A_ROUND = 100
ERROR_CHARS = 500
# What effects need. In any other field there may be something of a cardholder, today or with a
# later version of Stripe's API, so nothing else is kept.
KEPT_FIELDS = frozenset(
    [
        "id",
        "object",
        "type",
        "account",
        "livemode",
        "created",
        "api_version",
        "data",
        "status",
        "amount",
        "amount_received",
        "amount_reversed",
        "currency",
        "charge",
        "payment_intent",
        "destination",
        "reason",
        "failure_reason",
        "last_payment_error",
        "code",
        "decline_code",
        "metadata",
        "org_id",
        "payment_id",
        "booking_id",
        "refund_id",
        "payout_id",
    ]
)
Effect = Callable[[Connection, uuid.UUID, StripeEvent, datetime], Awaitable[bool]]


class Webhooks:
    """Takes events in."""

    def __init__(
        self,
        orgs: Orgs,
        gateway: StripeGateway,
        paying_out: PayingOut,
        clock: Callable[[], datetime],
    ) -> None:
        self._orgs = orgs
        self._gateway = gateway
        self._paying_out = paying_out
        self._clock = clock
        self._effects: dict[str, Effect] = {
            "payment_intent.": self._intent,
            "refund.": self._refund,
            "charge.refund.": self._refund,
            "charge.dispute.": self._dispute,
            "transfer.": self._transfer,
        }

    async def receive(self, payload: bytes, signature: str) -> bool:
        """Take a webhook in as it came; whether it had come before. Returns once it is committed.

        Raises InvalidArgument for one that is not to be believed or read.
        """
        if len(payload) > BYTES_MAX:
            raise InvalidArgument("WEBHOOK_TOO_LARGE", "The body is larger than 256 KiB.")
        event = self._gateway.verify(payload, signature, self._clock())
        taken = await self.take(event)
        return taken is None or not taken.is_new

    async def take(self, event: StripeEvent, *, again: bool = False) -> WebhookEvent | None:
        """Keep an event and have its effect; None when that was done before.

        `again`: have it once more all the same; then raises StripeUnavailable. Otherwise an effect
        that fails is kept as failed and tried again by the sweep.
        """
        # Nothing but what is kept has an effect: so a replay has the same.
        event = stripe_gateway.event(kept(event.payload))
        org_id, failure = None, ""
        effect = self._effect(event)
        if effect is not None:
            try:
                org_id = await self._whose(event)
            except StripeUnavailable as error:
                if again:
                    raise
                failure = f"Stripe does not say whose it is: {error.why}"
            except Exception as error:  # noqa: BLE001 (kept with the event, and tried again)
                telemetry.log_fault(log, f"nobody knows whose webhook {event.type} is", error)
                failure = _why(error)
        now, attempts = self._clock(), 0
        async with self._orgs.write(org_id or audit.PLATFORM) as conn:
            number = await store.add_webhook_event(conn, event, event.payload, now)
            is_new = number is not None
            if number is None:
                known = await store.lock_webhook_event(conn, event)
                if known is None or (known.processed_at is not None and not again):
                    return None
                number, attempts = known.id, known.attempts
            state = "ignored"
            if not failure and effect is not None and org_id is not None:
                state, failure = await _attempt(conn, org_id, event, effect, now)
            return await store.end_webhook_event(
                conn,
                number,
                org_id=org_id if state == "processed" else None,
                state="failed" if failure else state,
                error=failure,
                again=not is_new,
                next_attempt_at=now + backoff(attempts) if failure else None,
                now=now,
            )

    async def replay(self, number: int) -> WebhookEvent:
        """Have the effect of an event once more. Raises NotFound, StripeUnavailable."""
        done = await self.take(await self._event(number), again=True)
        if done is None:
            raise errors.not_found("webhook_event", number)
        return done

    async def retry(self) -> None:
        """Try events whose effect failed, those that are due."""
        async with connection(self._orgs.pool) as conn:
            due = await store.list_due_webhook_events(conn, self._clock(), DUE_A_ROUND)
        for number in due:
            try:
                await self.take(await self._event(number))
            except Exception as error:  # noqa: BLE001 (one event does not stop the others)
                telemetry.log_fault(log, f"webhook event {number} could not be tried again", error)

    async def sweep(self, since: datetime) -> tuple[int, int]:
        """Ask Stripe for events that it could not deliver: how many there were, how many new."""
        found = taken = 0
        async for event in self._gateway.undelivered(since):
            found += 1
            done = await self.take(event)
            taken += done is not None and done.is_new
        return found, taken

    async def forget(self) -> None:
        """Delete events that were dealt with long ago, in steps."""
        before = self._clock() - KEPT
        deleted = DELETED_AT_ONCE
        while deleted == DELETED_AT_ONCE:
            async with connection(self._orgs.pool) as conn:
                deleted = await store.delete_webhook_events(conn, before, DELETED_AT_ONCE)

    def _effect(self, event: StripeEvent) -> Effect | None:
        """None for what concerns nothing of ours: another type, the other kind of money, or an
        object of a connected account, whose owner writes into its metadata what he likes."""
        if event.livemode != self._gateway.livemode or event.account:
            return None
        for prefix, effect in self._effects.items():
            if event.type.startswith(prefix):
                return effect
        return None

    async def _event(self, number: int) -> StripeEvent:
        async with connection(self._orgs.pool) as conn:
            payload = await store.find_payload(conn, number)
        if payload is None:
            raise errors.not_found("webhook_event", number)
        return stripe_gateway.event(payload)

    async def _whose(self, event: StripeEvent) -> uuid.UUID | None:
        """The school that our metadata names; that of the intent where the object has none."""
        metadata: Any = event.object.get("metadata")
        intent_id = event.object.get("payment_intent")
        if not isinstance(metadata, dict):
            metadata = {}
        if "org_id" not in metadata and intent_id and isinstance(intent_id, str):
            try:
                metadata = (await self._gateway.get_intent(intent_id)).metadata
            except StripeRefused:
                return None
        try:
            return uuid.UUID(str(metadata.get("org_id")))
        except ValueError:
            return None

    # --- effects: whether the event concerned something of the school ---

    async def _intent(
        self, conn: Connection, org_id: uuid.UUID, event: StripeEvent, now: datetime
    ) -> bool:
        told = stripe_gateway.intent(event.object)
        try:
            payment_id = uuid.UUID(told.metadata.get("payment_id", ""))
        except ValueError:
            return False
        payment = await payment_store.lock_payment(conn, org_id, payment_id)
        if payment is None or payment.stripe_payment_intent_id not in (None, told.id):
            return False
        await books.keep_intent(conn, org_id, payment, told, event.created, now)
        return True

    async def _refund(
        self, conn: Connection, org_id: uuid.UUID, event: StripeEvent, now: datetime
    ) -> bool:
        told = stripe_gateway.refund(event.object)
        payment = await self._paid(conn, org_id, told.intent_id)
        if payment is None:
            return False
        known = await refund_store.lookup_refund(conn, org_id, told.id)
        if known is None:
            known = await self._asked_for(conn, org_id, payment, told)
        if known is None:
            await books.adopt_refund(conn, org_id, payment, told, now)
        else:
            await books.keep_refund(conn, org_id, payment, known, known.learnt(told), now)
        return True

    async def _asked_for(
        self, conn: Connection, org_id: uuid.UUID, payment: Payment, told: StripeRefund
    ) -> Refund | None:
        """The refund of ours that Stripe made there, if we had not heard Stripe's name of it."""
        try:
            refund_id = uuid.UUID(told.metadata.get("refund_id", ""))
        except ValueError:
            return None
        found = await refund_store.lock_refund(conn, org_id, refund_id)
        if found is None or found.payment_id != payment.id or found.stripe_refund_id is not None:
            return None
        return found

    async def _dispute(
        self, conn: Connection, org_id: uuid.UUID, event: StripeEvent, now: datetime
    ) -> bool:
        told = stripe_gateway.dispute(event.object)
        payment = await self._paid(conn, org_id, told.intent_id)
        if payment is None:
            return False
        await books.keep_dispute(conn, org_id, payment, told, event.created, now)
        return True

    async def _transfer(
        self, conn: Connection, org_id: uuid.UUID, event: StripeEvent, now: datetime
    ) -> bool:
        told = stripe_gateway.transfer(event.object)
        return await self._paying_out.keep_transfer(conn, org_id, told, now)

    async def _paid(self, conn: Connection, org_id: uuid.UUID, intent_id: str) -> Payment | None:
        """The payment of an intent, locked. Raises when we have not heard yet that it was paid."""
        found = await payment_store.lookup_payment(conn, org_id, intent_id)
        if found is None:
            return None
        payment = await payment_store.lock_payment(conn, org_id, found.id)
        if payment is not None and payment.status not in PAID:
            raise NotPaidYet(f"payment {payment.id} is {payment.status}")
        return payment


class NotPaidYet(Exception):
    """An event is ahead of the one that says that its payment was paid."""


async def _attempt(
    conn: Connection, org_id: uuid.UUID, event: StripeEvent, effect: Effect, now: datetime
) -> tuple[str, str]:
    """(state, error) of the effect, which is undone alone when it fails."""
    await conn.execute(b"SAVEPOINT /* payments.effect */ effect")
    try:
        concerned = await effect(conn, org_id, event, now)
        await conn.execute(b"RELEASE SAVEPOINT /* payments.effect_done */ effect")
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 (kept with the event, and tried again)
        await conn.execute(b"ROLLBACK TO SAVEPOINT /* payments.effect_undone */ effect")
        if isinstance(error, NotPaidYet):
            log.info("webhook is ahead of its time", extra={"type": event.type})
        else:
            telemetry.log_fault(log, f"webhook {event.type} failed", error)
        return "failed", _why(error)
    return ("processed" if concerned else "ignored"), ""


def _why(error: Exception) -> str:
    """What may be kept of a failure."""
    told = telemetry.describe(error)
    said = told.get("message") or f"{told.get('sqlstate')} {told.get('constraint')}"
    return f"{told['type']}: {said}"[:ERROR_CHARS]


def kept(payload: Any) -> Any:
    """A payload without what it says of a cardholder, its texts as the database can hold them."""
    if isinstance(payload, dict):
        return {name: kept(value) for name, value in payload.items() if name in KEPT_FIELDS}
    if isinstance(payload, list):
        return [kept(item) for item in payload]
    if isinstance(payload, str):
        return payload.replace("\0", "").encode(errors="replace").decode()
    return payload
