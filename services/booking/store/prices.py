"""One function per statement of queries/prices.sql, of the same name; rows come back typed."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from libs import masks, queries
from libs.orgs import Reader
from libs.pooling import Connection
from services.booking.model.prices import Price, PriceList, RateCard, RateCardItem

SQL = queries.load("booking", Path(__file__).parents[1] / "queries" / "prices.sql")
# API path -> SQL, of what is read to be told. Items are rows of another table: list_rate_card_items
# fetches them.
PATHS = {
    "id": "id",
    "name": "name",
    "valid_from": '"validFrom"',
    "valid_to": '"validTo"',
    "items": "NULL",
    "create_time": '"createdAt"',
}


async def lock_services(
    conn: Connection, org_id: uuid.UUID, service_ids: Sequence[uuid.UUID]
) -> set[uuid.UUID]:
    cursor = await conn.execute(
        SQL.lock_services, {"org_id": org_id, "service_ids": list(service_ids)}
    )
    return {row[0] for row in await cursor.fetchall()}


async def end_open_prices(
    conn: Connection, org_id: uuid.UUID, service_ids: Sequence[uuid.UUID], valid_from: date
) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Rate card and lesson type of each that was ended."""
    cursor = await conn.execute(
        SQL.end_open_prices,
        {"org_id": org_id, "service_ids": list(service_ids), "valid_from": valid_from},
    )
    return [(card_id, service_id) for card_id, service_id in await cursor.fetchall()]


async def create_rate_card(conn: Connection, org_id: uuid.UUID, card: RateCard) -> RateCard:
    """The card with its id; its items are not written yet."""
    cursor = await conn.execute(
        SQL.create_rate_card,
        {
            "org_id": org_id,
            "name": card.name,
            "valid_from": card.valid_from,
            "valid_to": card.valid_to,
        },
    )
    ((id_, created_at),) = await cursor.fetchall()
    return replace(card, id=id_, created_at=created_at)


async def add_rate_card_items(conn: Connection, org_id: uuid.UUID, card: RateCard) -> None:
    await conn.execute(
        SQL.add_rate_card_items,
        {
            "org_id": org_id,
            "rate_card_id": card.id,
            "service_ids": card.service_ids,
            "prices": [item.price_cents for item in card.items],
            "valid_from": card.valid_from,
            "valid_to": card.valid_to,
        },
    )


async def list_rate_cards(
    conn: Reader, org_id: uuid.UUID, *, before_id: uuid.UUID, limit: int, paths: tuple[str, ...]
) -> list[masks.Row]:
    """Rows that end with the id, behind which the next page goes on."""
    query = SQL.select("list_rate_cards", (*masks.columns(PATHS, paths), "id"))
    parameters = {"org_id": org_id, "before_id": before_id, "limit": limit}
    return await (await conn.execute(query, parameters)).fetchall()


async def list_rate_card_items(
    conn: Reader, org_id: uuid.UUID, rate_card_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, list[RateCardItem]]:
    """The items of each card."""
    cursor = await conn.execute(
        SQL.list_rate_card_items, {"org_id": org_id, "rate_card_ids": list(rate_card_ids)}
    )
    items = defaultdict(list)
    for card_id, *item in await cursor.fetchall():
        items[card_id].append(RateCardItem(*item))
    return items


async def list_prices(conn: Reader, org_id: uuid.UUID, service_id: uuid.UUID) -> PriceList:
    cursor = await conn.execute(SQL.list_prices, {"org_id": org_id, "service_id": service_id})
    return PriceList(org_id, tuple(Price(*row) for row in await cursor.fetchall()))
