"""What Stripe has, as far as it concerns us."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

# Of a payment intent: what its status means for a payment. Whoever had a card refused is asked for
# another; the refusal is told beside it.
INTENT_STATUSES = {
    "requires_payment_method": "intent_created",
    "requires_confirmation": "intent_created",
    "requires_action": "intent_created",
    "requires_capture": "processing",
    "processing": "processing",
    "succeeded": "succeeded",
    "canceled": "cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A payment intent. Money in minor units of `currency`, upper case."""

    id: str
    status: str
    """The payment's: intent_created, processing, succeeded, failed or cancelled."""
    amount_received: int
    currency: str
    failure_code: str
    metadata: dict[str, str]
    client_secret: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeRefund:
    """A refund; status pending, succeeded or failed."""

    id: str
    status: str
    amount: int
    currency: str
    failure_code: str
    intent_id: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeDispute:
    """A dispute; its status is Stripe's word."""

    id: str
    status: str
    amount: int
    currency: str
    reason: str
    intent_id: str

    @property
    def is_inquiry(self) -> bool:
        """Whether no money was withdrawn (yet)."""
        return self.status.startswith("warning_")

    @property
    def is_closed(self) -> bool:
        """Whether it is decided."""
        return self.status in {"won", "lost", "warning_closed", "prevented"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Money moved to an instructor's account."""

    id: str
    amount: int
    amount_reversed: int
    currency: str
    destination: str
    created: datetime
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Money taken from a card."""

    id: str
    intent_id: str
    amount_captured: int
    amount_refunded: int
    currency: str
    disputed: bool
    created: datetime
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """An event as Stripe sent it."""

    id: str
    type: str
    account: str
    livemode: bool
    created: datetime
    payload: dict[str, object]
    """All of it, as JSON types."""
    object: dict[str, object]
    """What it is about, as it was then."""
