"""Between prices and their messages."""

from __future__ import annotations

import uuid

from driveflow.booking.v1 import directory_pb2 as pb
from libs.messages import date_message, day, stamp
from services.booking.model.directory import UNSAVED
from services.booking.model.prices import RateCard, RateCardItem


def rate_card(card: RateCard) -> pb.RateCard:
    """A rate card with its prices."""
    return pb.RateCard(
        id=str(card.id),
        name=card.name,
        valid_from=date_message(card.valid_from),
        valid_to=date_message(card.valid_to),
        items=map(item, card.items),
        create_time=stamp(card.created_at),
    )


def item(row: RateCardItem) -> pb.RateCardItem:
    """The price of a lesson type."""
    return pb.RateCardItem(
        service_id=str(row.service_id),
        price_cents=row.price_cents,
        valid_to=date_message(row.valid_to),
    )


def new_rate_card(message: pb.RateCard) -> RateCard:
    """A rate card as a caller wants it."""
    valid_from = day(message, "valid_from")
    valid_to = day(message, "valid_to")
    if valid_from is None:
        raise AssertionError("the proto's rule requires it")
    items = [
        RateCardItem(uuid.UUID(item.service_id), item.price_cents, valid_to)
        for item in message.items
    ]
    return RateCard(
        id=UNSAVED, name=message.name, valid_from=valid_from, valid_to=valid_to, items=items
    )
