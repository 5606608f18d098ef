"""Stripe: the only place that speaks to it, by its own library.

Each call has a time limit and is tried once; whoever calls decides what to do about a failure:
StripeRefused (nothing was done and nothing will be), StripeUnavailable (nobody knows; ask again
with the same idempotency key). Keys are made of our rows' ids, so the same thing is done once.
https://docs.stripe.com/api/idempotent_requests
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import stripe

from libs.errors import InvalidArgument, Unavailable
from services.payments.model.payments import Payment, Refund
from services.payments.model.payouts import Payout
from services.payments.model.stripe import (
    INTENT_STATUSES,
    Charge,
    Intent,
    StripeDispute,
    StripeEvent,
    StripeRefund,
    Transfer,
)

TOLERANCE = timedelta(seconds=300)
"""A webhook's signature may be so old, or so far ahead of our clock."""
PAGE = 100
TEXT_CHARS = 255
"""Stripe's names are at most so long."""
# At INFO the library tells of each request and answer.
logging.getLogger("stripe").setLevel(logging.WARNING)
Answer = TypeVar("Answer")
Json = dict[str, Any]


class StripeRefused(Exception):
    """Stripe will not do it, whatever we try: the code is its reason."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class StripeUnavailable(Unavailable):
    """No answer that says whether it was done."""

    def __init__(self, why: str, *, kept: bool = False) -> None:
        """`kept`: Stripe keeps this failure under the key: look it up, then use another."""
        super().__init__("STRIPE_UNAVAILABLE", "Stripe does not answer.", retry_after_s=2)
        self.why = why
        self.kept = kept


class StripeGateway:
    """What payments asks of Stripe."""

    def __init__(
        self,
        key: str,
        webhook_secrets: Sequence[str],
        *,
        timeout_s: float,
        api_base: str | None = None,
    ) -> None:
        """`api_base`: another address than Stripe's own; secrets: the current and older ones."""
        self._webhook_secrets = tuple(webhook_secrets)
        self._timeout_s = timeout_s
        self._http = stripe.AIOHTTPClient(timeout=timeout_s)
        self._client = stripe.StripeClient(
            key,
            base_addresses={"api": api_base} if api_base else None,
            max_network_retries=0,
            http_client=self._http,
        ).v1
        self.livemode = "_live_" in key

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    # --- payment intents ---

    async def create_intent(self, org_id: uuid.UUID, payment: Payment) -> Intent:
        """Make the intent of a payment, or return the one that was made under its key."""
        created = self._client.payment_intents.create_async(
            {
                "amount": payment.amount_cents,
                "currency": payment.currency.lower(),
                "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
                "transfer_group": str(org_id),
                "metadata": {
                    "org_id": str(org_id),
                    "payment_id": str(payment.id),
                    "booking_id": str(payment.booking_id),
                },
            },
            _key("payment", payment.id, payment.key_generation),
        )
        return intent(_dict(await self._ask(created)))

    async def get_intent(self, intent_id: str) -> Intent:
        """An intent as it is now."""
        return intent(
            _dict(await self._ask(self._client.payment_intents.retrieve_async(intent_id)))
        )

    async def find_intent(self, payment: Payment) -> Intent | None:
        """The intent that was made for a payment, though its answer was lost."""
        found = await self._ask(
            self._client.payment_intents.search_async(
                {"query": f"metadata['payment_id']:'{payment.id}'", "limit": 1}
            )
        )
        return next((intent(_dict(item)) for item in found.data), None)

    async def cancel_intent(self, intent_id: str) -> Intent:
        """Cancel an intent; the one that was cancelled, or paid, meanwhile is returned as it is."""
        try:
            return intent(
                _dict(await self._ask(self._client.payment_intents.cancel_async(intent_id)))
            )
        except StripeRefused:
            return await self.get_intent(intent_id)

    # --- refunds and disputes ---

    async def create_refund(
        self, org_id: uuid.UUID, payment: Payment, asked: Refund
    ) -> StripeRefund:
        """Give money back, once."""
        created = self._client.refunds.create_async(
            {
                "payment_intent": str(payment.stripe_payment_intent_id),
                "amount": asked.amount_cents,
                "metadata": {
                    "org_id": str(org_id),
                    "payment_id": str(payment.id),
                    "refund_id": str(asked.id),
                },
            },
            _key("refund", asked.id, asked.key_generation),
        )
        return refund(_dict(await self._ask(created)))

    async def get_refund(self, refund_id: str) -> StripeRefund:
        """A refund as it is now."""
        return refund(_dict(await self._ask(self._client.refunds.retrieve_async(refund_id))))

    async def find_refund(self, payment: Payment, asked: Refund) -> StripeRefund | None:
        """The refund that was made for ours, though its answer was lost."""
        listed = self._pages(
            self._client.refunds.list_async,
            {"payment_intent": str(payment.stripe_payment_intent_id)},
        )
        async for item in listed:
            if (item.get("metadata") or {}).get("refund_id") == str(asked.id):
                return refund(item)
        return None

    # --- transfers ---

    async def create_transfer(self, org_id: uuid.UUID, payout: Payout) -> Transfer:
        """Move a payout to the instructor's account, once."""
        created = self._client.transfers.create_async(
            {
                "amount": payout.amount_cents,
                "currency": payout.currency.lower(),
                "destination": payout.stripe_account_id,
                "transfer_group": str(payout.id),
                "metadata": {"org_id": str(org_id), "payout_id": str(payout.id)},
            },
            _key("payout", payout.id, payout.key_generation),
        )
        return transfer(_dict(await self._ask(created)))

    async def get_transfer(self, transfer_id: str) -> Transfer:
        """A transfer as it is now."""
        return transfer(_dict(await self._ask(self._client.transfers.retrieve_async(transfer_id))))

    async def find_transfer(self, payout: Payout) -> Transfer | None:
        """The transfer that was made for a payout, though its answer was lost."""
        listed = self._pages(self._client.transfers.list_async, {"transfer_group": str(payout.id)})
        async for item in listed:
            return transfer(item)
        return None

    async def reverse_transfer(self, org_id: uuid.UUID, payout: Payout) -> str:
        """Take a payout back whole, once; Stripe's name of the reversal."""
        made = await self._ask(
            self._client.transfers.reversals.create_async(
                str(payout.stripe_transfer_id),
                {"metadata": {"org_id": str(org_id), "payout_id": str(payout.id)}},
                _key("reversal", payout.id, payout.key_generation),
            )
        )
        return str(made.id)

    async def find_reversal(self, payout: Payout) -> str | None:
        """The reversal that was made of a payout, though its answer was lost."""
        listed = await self._ask(
            self._client.transfers.reversals.list_async(
                str(payout.stripe_transfer_id), {"limit": 1}
            )
        )
        return next((str(item.id) for item in listed.data), None)

    # --- books ---

    async def charges(
        self, org_id: uuid.UUID, from_at: datetime, to_at: datetime
    ) -> AsyncIterator[Charge]:
        """What was taken from cards for a school within a time, latest first."""
        listed = self._pages(
            self._client.charges.list_async,
            {"transfer_group": str(org_id), "created": _within(from_at, to_at)},
        )
        async for item in listed:
            if item["status"] == "succeeded":
                yield charge(item)

    async def transfers(
        self, org_id: uuid.UUID, from_at: datetime, to_at: datetime
    ) -> AsyncIterator[Transfer]:
        """What was moved to a school's instructors within a time, latest first."""
        listed = self._pages(
            self._client.transfers.list_async, {"created": _within(from_at, to_at)}
        )
        async for item in listed:
            if (item.get("metadata") or {}).get("org_id") == str(org_id):
                yield transfer(item)

    # --- webhooks ---

    async def undelivered(self, since: datetime) -> AsyncIterator[StripeEvent]:
        """Events that Stripe could not deliver, latest first."""
        listed = self._pages(
            self._client.events.list_async,
            {"delivery_success": False, "created": {"gte": int(since.timestamp())}},
        )
        async for item in listed:
            yield event(item)

    def verify(self, payload: bytes, signature: str, now: datetime) -> StripeEvent:
        """The event of a webhook; raises InvalidArgument for one not of Stripe, or not of now."""
        self._check_signature(payload, signature)
        _check_age(signature, now)
        try:
            return event(json.loads(payload, parse_constant=_no_constant))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise InvalidArgument("WEBHOOK_MALFORMED", "The body is no event.") from None

    def _check_signature(self, payload: bytes, signature: str) -> None:
        for secret in self._webhook_secrets:
            try:
                # Its age is looked at afterwards, in both directions.
                stripe.WebhookSignature.verify_header(payload, signature, secret, None)
            except (stripe.SignatureVerificationError, UnicodeDecodeError, TypeError):
                # TypeError: of a signature that is not ASCII.
                continue
            return
        raise InvalidArgument("SIGNATURE_INVALID", "The signature is not of this body.")

    # --- calls ---

    async def _ask(self, call: Awaitable[Answer]) -> Answer:
        """Await a call of the library, within the caller's time; its failures as ours."""
        try:
            return await call
        except (stripe.APIConnectionError, TimeoutError, OSError) as error:
            raise StripeUnavailable(type(error).__name__) from error
        except (stripe.AuthenticationError, stripe.PermissionError, stripe.RateLimitError) as error:
            raise StripeUnavailable(type(error).__name__) from error
        except stripe.IdempotencyError as error:
            in_use = error.http_status == 409
            raise StripeUnavailable("the key was used", kept=not in_use) from error
        except (stripe.InvalidRequestError, stripe.CardError) as error:
            if error.http_status == 409:
                raise StripeUnavailable("conflict") from error
            raise StripeRefused(str(error.code or "invalid_request")) from error
        except stripe.StripeError as error:
            kept = (error.http_status or 0) >= 500
            raise StripeUnavailable(f"status {error.http_status}", kept=kept) from error

    async def _pages(self, list_page: Any, params: Mapping[str, Any]) -> AsyncIterator[Json]:
        after: dict[str, str] = {}
        while True:
            page = await self._ask(list_page({**params, **after, "limit": PAGE}))
            for item in page.data:
                yield _dict(item)
            if not page.has_more:
                return
            after = {"starting_after": page.data[-1].id}


def intent(item: Mapping[str, Any]) -> Intent:
    """A payment intent of Stripe's JSON."""
    status, failure = INTENT_STATUSES[item["status"]], item.get("last_payment_error") or {}
    if item["status"] == "requires_payment_method" and failure:
        status = "failed"
    return Intent(
        id=item["id"],
        status=status,
        amount_received=item.get("amount_received") or 0,
        currency=item["currency"].upper(),
        failure_code=str(failure.get("decline_code") or failure.get("code") or ""),
        metadata=dict(item.get("metadata") or {}),
        client_secret=item.get("client_secret") or "",
    )


def refund(item: Mapping[str, Any]) -> StripeRefund:
    """A refund of Stripe's JSON."""
    status = item["status"] or "pending"
    return StripeRefund(
        id=item["id"],
        status={"requires_action": "pending", "canceled": "failed"}.get(status, status),
        amount=item["amount"],
        currency=item["currency"].upper(),
        failure_code=item.get("failure_reason") or "",
        intent_id=_id(item.get("payment_intent")),
        metadata=dict(item.get("metadata") or {}),
    )


def dispute(item: Mapping[str, Any]) -> StripeDispute:
    """A dispute of Stripe's JSON."""
    return StripeDispute(
        id=item["id"],
        status=item["status"],
        amount=item["amount"],
        currency=item["currency"].upper(),
        reason=item.get("reason") or "",
        intent_id=_id(item.get("payment_intent")),
    )


def transfer(item: Mapping[str, Any]) -> Transfer:
    """A transfer of Stripe's JSON."""
    return Transfer(
        id=item["id"],
        amount=item["amount"],
        amount_reversed=item["amount_reversed"],
        currency=item["currency"].upper(),
        destination=_id(item.get("destination")),
        created=_time(item["created"]),
        metadata=dict(item.get("metadata") or {}),
    )


def charge(item: Mapping[str, Any]) -> Charge:
    """A charge of Stripe's JSON."""
    return Charge(
        id=item["id"],
        intent_id=_id(item.get("payment_intent")),
        amount_captured=item["amount_captured"],
        amount_refunded=item["amount_refunded"],
        currency=item["currency"].upper(),
        disputed=bool(item.get("disputed")),
        created=_time(item["created"]),
        metadata=dict(item.get("metadata") or {}),
    )


def event(item: Mapping[str, Any]) -> StripeEvent:
    """An event of Stripe's JSON; raises KeyError, TypeError or ValueError for what is none."""
    if item["object"] != "event":
        raise ValueError("not an event")
    return StripeEvent(
        id=_text(item["id"]),
        type=_text(item["type"]),
        account=_text(item.get("account") or ""),
        livemode=bool(item["livemode"]),
        created=_time(item["created"]),
        payload=dict(item),
        object=_object(item["data"]["object"]),
    )


def _check_age(signature: str, now: datetime) -> None:
    # The first one is what was signed: after it anyone may have written another.
    stated = next(part for part in signature.split(",") if part.startswith("t="))
    age_s = now.timestamp() - int(stated.removeprefix("t="))
    if age_s > TOLERANCE.total_seconds():
        raise InvalidArgument("SIGNATURE_TOO_OLD", "It was signed more than 300 s ago.")
    if -age_s > TOLERANCE.total_seconds():
        # The library lets these pass: a stolen one could be kept for later.
        raise InvalidArgument("SIGNATURE_IN_FUTURE", "It was signed in more than 300 s.")


def _key(kind: str, id_: uuid.UUID, generation: int) -> Any:
    return {"idempotency_key": f"{kind}-{id_}-{generation}"}


def _within(from_at: datetime, to_at: datetime) -> dict[str, int]:
    return {"gte": int(from_at.timestamp()), "lt": int(to_at.timestamp())}


def _dict(item: Any) -> Json:
    return dict(item.to_dict(for_json=True))


def _id(value: Any) -> str:
    """The id of an object that may be expanded."""
    return str(value["id"] if isinstance(value, Mapping) else value or "")


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARS:
        raise TypeError("not text")
    return value


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _time(seconds: Any) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
