"""Prices: rate cards, and what a lesson costs on a date. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, ClassVar

from libs.errors import FailedPrecondition, InvalidArgument
from services.booking.model.directory import UNSAVED


@dataclass(frozen=True, slots=True)
class RateCardItem:
    """The price of a lesson type, minor units; `valid_to` is its last date, None: open."""

    service_id: uuid.UUID
    price_cents: int
    valid_to: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCard:
    """Prices from a date on."""

    id: uuid.UUID = UNSAVED
    name: str
    valid_from: date
    valid_to: date | None
    items: Sequence[RateCardItem]
    created_at: datetime | None = None

    @property
    def service_ids(self) -> list[uuid.UUID]:
        return [item.service_id for item in self.items]

    def check(self) -> None:
        """Raise InvalidArgument for reversed dates, or a lesson type with two prices."""
        if self.valid_to is not None and self.valid_to < self.valid_from:
            raise InvalidArgument(
                "DATE_RANGE_INVALID",
                "The last date is before the first.",
                fields=[("rate_card.valid_to", "is before valid_from")],
            )
        seen: set[uuid.UUID] = set()
        for index, item in enumerate(self.items):
            if item.service_id in seen:
                path = f"rate_card.items[{index}].service_id"
                raise InvalidArgument(
                    "INVALID_REQUEST",
                    f"{path}: the lesson type has a price above.",
                    fields=[(path, "the lesson type has a price above")],
                )
            seen.add(item.service_id)

    def values(self) -> dict[str, Any]:
        """For the audit log, in JSON types."""
        return {
            "name": self.name,
            "valid_from": self.valid_from.isoformat(),
            "valid_to": None if self.valid_to is None else self.valid_to.isoformat(),
            "items": [
                {"service_id": str(item.service_id), "price_cents": item.price_cents}
                for item in self.items
            ],
        }


@dataclass(frozen=True, slots=True)
class Price:
    """What a lesson costs, minor units, and the rate card that says so."""

    rate_card_id: uuid.UUID
    price_cents: int
    valid_from: date
    valid_to: date | None
    """Its last date; None: open."""


@dataclass(frozen=True, slots=True)
class PriceList:
    """All prices that a lesson type has had, has, and will have."""

    KIND: ClassVar[str] = "prices"
    org_id: uuid.UUID
    prices: tuple[Price, ...]

    def on(self, day: date) -> Price | None:
        """The one that holds on a date."""
        for price in self.prices:
            if price.valid_from <= day and (price.valid_to is None or day <= price.valid_to):
                return price
        return None


def no_price() -> FailedPrecondition:
    return FailedPrecondition("NO_PRICE", "The lesson type has no price on that date.")
