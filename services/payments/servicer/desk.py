"""What the methods of all services of payments work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from libs.orgs import Orgs
from libs.pages import Pages
from services.payments.bookings import Bookings
from services.payments.charging import Charging
from services.payments.stripe_gateway import StripeGateway


@dataclass(frozen=True, slots=True)
class Desk:
    """One per process."""

    orgs: Orgs
    pages: Pages
    bookings: Bookings
    gateway: StripeGateway
    charging: Charging
    clock: Callable[[], datetime]
