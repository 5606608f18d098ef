"""What the methods of all services of payments work with."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

from libs import idempotency
from libs.orgs import Orgs
from libs.pages import Pages
from services.payments.bookings import Bookings
from services.payments.charging import Charging
from services.payments.stripe_gateway import StripeGateway

Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Desk:
    """One per process."""

    orgs: Orgs
    pages: Pages
    bookings: Bookings
    gateway: StripeGateway
    charging: Charging
    clock: Callable[[], datetime]

    async def remembered(self, org_id: uuid.UUID, request: Any, answer: Answer) -> Answer:
        """The answer, after the call to Stripe, for this call and for its repetition."""
        async with self.orgs.write(org_id) as conn:
            await idempotency.remember(conn, org_id, request, answer)
        return answer
