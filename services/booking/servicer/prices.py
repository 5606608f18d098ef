"""DirectoryService: rate cards and quotes."""

from __future__ import annotations

import uuid

from driveflow.booking.v1 import directory_pb2 as pb
from libs import audit, cache, calls, consistency, errors, idempotency, masks, pages
from libs.consistency import Token
from libs.interceptors import Context
from libs.messages import time
from libs.pooling import Connection
from services.booking import guard, zones
from services.booking.messages import prices as messages
from services.booking.model import prices as model
from services.booking.model.bookings import split
from services.booking.model.prices import PriceList, RateCard
from services.booking.servicer.desk import Desk
from services.booking.store import directory
from services.booking.store import prices as store


class Prices:
    """CreateRateCard, ListRateCards and QuotePrice."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def CreateRateCard(
        self, request: pb.CreateRateCardRequest, context: Context
    ) -> pb.RateCard:
        org_id = calls.org()
        wanted = messages.new_rate_card(request.rate_card)
        wanted.check()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.RateCard)
            if answer is not None:
                return answer
            await guard.open_org(conn, org_id)
            card = await _priced(conn, org_id, wanted)
            answer = messages.rate_card(card)
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def ListRateCards(
        self, request: pb.ListRateCardsRequest, context: Context
    ) -> pb.ListRateCardsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        tokens = self._desk.pages
        (before,) = tokens.start(request, org_id, [str(directory.UUID_MAX)])
        async with self._desk.orgs.read(org_id) as conn:
            found = await store.list_rate_cards(
                conn, org_id, before_id=uuid.UUID(before), limit=limit + 1, paths=paths
            )
            shown = found[:limit]
            ids = [row[-1] for row in shown]
            cards = [*map(masks.reader(pb.RateCard, paths), shown)]
            if "items" in paths:
                items = await store.list_rate_card_items(conn, org_id, ids)
                for card, card_id in zip(cards, ids, strict=True):
                    card.items.extend(map(messages.item, items[card_id]))
        response = pb.ListRateCardsResponse(rate_cards=cards)
        if len(found) > limit:
            response.next_page_token = tokens.token(request, org_id, [str(ids[-1])])
        return response

    async def QuotePrice(self, request: pb.QuotePriceRequest, context: Context) -> pb.PriceQuote:
        org_id = calls.org()
        service_id = uuid.UUID(request.service_id)
        start_at = time(request, "start_time")
        if start_at is None:
            raise AssertionError("the proto's rule requires it")
        at_least = consistency.wanted(calls.metadata())
        org = await self._desk.org(org_id, at_least)
        on_date = zones.today(org.time_zone, start_at)
        price = (await self._prices(org_id, service_id, at_least)).on(on_date)
        if price is None:
            raise model.no_price()
        fee, share = split(price.price_cents, org.platform_fee_bps)
        return pb.PriceQuote(
            price_cents=price.price_cents,
            platform_fee_cents=fee,
            instructor_share_cents=share,
            currency=org.currency,
            rate_card_id=str(price.rate_card_id),
        )

    async def _prices(
        self, org_id: uuid.UUID, service_id: uuid.UUID, at_least: Token | None
    ) -> PriceList:
        """Those of a lesson type, maybe from the cache: to be told, not to be charged."""

        async def fill() -> PriceList | None:
            async with self._desk.orgs.read(org_id) as conn:
                if await directory.get_service(conn, org_id, service_id) is None:
                    return None
                return await store.list_prices(conn, org_id, service_id)

        kind = PriceList.KIND
        found = await self._desk.cache.get(org_id, kind, service_id, fill, at_least=at_least)
        if found is None:
            raise errors.not_found("service", service_id)
        return found


async def _priced(conn: Connection, org_id: uuid.UUID, wanted: RateCard) -> RateCard:
    """The rate card in force: open prices that began before it are ended, then it is added."""
    there = await store.lock_services(conn, org_id, wanted.service_ids)
    for service_id in wanted.service_ids:
        if service_id not in there:
            raise errors.not_found("service", service_id)
    ended = await store.end_open_prices(conn, org_id, wanted.service_ids, wanted.valid_from)
    card = await store.create_rate_card(conn, org_id, wanted)
    await store.add_rate_card_items(conn, org_id, card)
    await cache.invalidate(conn, org_id, PriceList.KIND, *wanted.service_ids)
    told = [{"rate_card_id": str(card_id), "service_id": str(each)} for card_id, each in ended]
    after = {**card.values(), "ended": told}
    await audit.record(conn, org_id, "rate_card", card.id, "create", after=after)
    return card
