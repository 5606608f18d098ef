"""Prices: rate cards and quotes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from google.type.date_pb2 import Date

from driveflow.booking.v1 import directory_pb2 as pb
from libs.consistency import KEY
from tests.booking.serving import serving
from tests.booking.stories import School, at, on, reason_of, refused, request_id
from tests.postgres import Database
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

DAY = timedelta(days=1)


async def quote(school: School, start: datetime, service_id: str = "") -> pb.PriceQuote:
    request = pb.QuotePriceRequest(service_id=service_id or school.lesson.id, start_time=at(start))
    return await school.directory().QuotePrice(request)


async def cards(school: School, **options: Any) -> pb.ListRateCardsResponse:
    return await school.directory().ListRateCards(pb.ListRateCardsRequest(**options))


async def create(school: School, card: pb.RateCard, **options: Any) -> pb.RateCard:
    request = pb.CreateRateCardRequest(rate_card=card, **options)
    return await school.directory().CreateRateCard(request)


def a_card(school: School, **given: Any) -> pb.RateCard:
    wanted: dict[str, Any] = {
        "name": "Summer",
        "valid_from": on(date(2030, 1, 1)),
        "items": [pb.RateCardItem(service_id=school.lesson.id, price_cents=9_000)],
    }
    return pb.RateCard(**wanted | given)


async def test_a_quote_says_price_shares_and_card(school: School) -> None:
    found = await quote(school, datetime(2026, 5, 1, tzinfo=UTC))
    assert (found.price_cents, found.currency) == (8_000, "AUD")
    assert (found.platform_fee_cents, found.instructor_share_cents) == (1_200, 6_800)
    assert found.rate_card_id == school.rate_card.id


async def test_shares_follow_the_schools_fee_and_round_half_up(school: School) -> None:
    org = pb.Organization(platform_fee_bps=1_250)
    await school.directory().UpdateOrganization(pb.UpdateOrganizationRequest(organization=org))
    await school.set_price(school.lesson, 7_996, date(2030, 1, 1))
    found = await quote(school, datetime(2031, 1, 1, tzinfo=UTC))
    assert (found.platform_fee_cents, found.instructor_share_cents) == (1_000, 6_996)
    assert found.price_cents == found.platform_fee_cents + found.instructor_share_cents


async def test_the_date_of_a_price_is_that_of_the_schools_clock(school: School) -> None:
    await school.set_price(school.lesson, 9_000, date(2030, 7, 1))
    midnight = school.local(date(2030, 7, 1), 0)
    assert midnight == datetime(2030, 6, 30, 14, tzinfo=UTC)
    assert (await quote(school, midnight)).price_cents == 9_000
    assert (await quote(school, midnight - timedelta(microseconds=1))).price_cents == 8_000


async def test_a_new_card_ends_the_open_one_the_day_before(school: School) -> None:
    summer = await school.set_price(school.lesson, 9_000, date(2030, 1, 1))
    old, new = (await cards(school)).rate_cards[::-1]
    assert (old.id, new.id) == (school.rate_card.id, summer.id)
    assert old.items[0].valid_to == on(date(2029, 12, 31))
    assert not old.HasField("valid_to")
    assert new == summer
    ((_, action, before, after),) = await school.audit("rate_card", summer.id)
    assert (action, before, after["items"]) == (
        "create",
        None,
        [{"service_id": school.lesson.id, "price_cents": 9_000}],
    )
    assert after["ended"] == [{"rate_card_id": old.id, "service_id": school.lesson.id}]


async def test_a_price_with_an_end_leaves_a_gap_behind_it(bare_school: School) -> None:
    lesson = await bare_school.add_lesson("Lesson", 60)
    first, last = date(2030, 1, 1), date(2030, 1, 31)
    card = await bare_school.set_price(lesson, 5_000, first, last)
    assert card.items[0].valid_to == on(last)
    for day, minute in ((first, 0), (last, 24 * 60 - 1)):
        found = await quote(bare_school, bare_school.local(day, minute), lesson.id)
        assert found.price_cents == 5_000
    for moment in (bare_school.local(first, -1), bare_school.local(last + DAY, 0)):
        call = quote(bare_school, moment, lesson.id)
        assert await reason_of(call) == ("FAILED_PRECONDITION", "NO_PRICE")


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2030, 1, 31), None),
        (date(2029, 12, 1), None),
        (date(2029, 12, 1), date(2030, 1, 1)),
        (date(2030, 1, 10), date(2030, 1, 20)),
    ],
)
async def test_prices_that_are_in_the_way_stay(
    bare_school: School, first: date, last: date | None
) -> None:
    lesson = await bare_school.add_lesson("Lesson", 60)
    await bare_school.set_price(lesson, 5_000, date(2030, 1, 1), date(2030, 1, 31))
    call = bare_school.set_price(lesson, 6_000, first, last)
    assert await reason_of(call) == ("FAILED_PRECONDITION", "RATE_CARD_ITEM_NO_OVERLAP")
    assert len((await cards(bare_school)).rate_cards) == 1


async def test_an_open_price_that_begins_later_is_in_the_way(school: School) -> None:
    await school.set_price(school.lesson, 9_000, date(2031, 1, 1))
    call = school.set_price(school.lesson, 8_500, date(2030, 6, 1))
    assert await reason_of(call) == ("FAILED_PRECONDITION", "RATE_CARD_ITEM_NO_OVERLAP")
    same_day = school.set_price(school.lesson, 8_500, date(2031, 1, 1))
    assert await reason_of(same_day) == ("FAILED_PRECONDITION", "RATE_CARD_ITEM_NO_OVERLAP")
    assert (await quote(school, datetime(2030, 9, 1, tzinfo=UTC))).price_cents == 8_000


async def test_a_card_leaves_the_prices_of_other_lessons(school: School) -> None:
    short = await school.add_lesson("Lesson 30", 30)
    await school.set_price(short, 4_500)
    await school.set_price(school.lesson, 9_000, date(2030, 1, 1))
    assert (await quote(school, datetime(2031, 1, 1, tzinfo=UTC), short.id)).price_cents == 4_500


async def test_cards_set_at_once_come_one_after_the_other(school: School) -> None:
    short = await school.add_lesson("Lesson 30", 30)
    items = [pb.RateCardItem(service_id=each, price_cents=1) for each in (short.id,)]
    items.append(pb.RateCardItem(service_id=school.lesson.id, price_cents=2))
    made = [a_card(school, items=items), a_card(school, items=items[::-1])]
    calls = (create(school, card) for card in made * 2)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, pb.RateCard) for answer in answers) == 1
    reasons = {
        await reason_of(_raised(answer)) for answer in answers if isinstance(answer, BaseException)
    }
    assert reasons == {("FAILED_PRECONDITION", "RATE_CARD_ITEM_NO_OVERLAP")}


async def _raised(error: BaseException) -> None:
    raise error


async def test_the_same_request_makes_one_card(school: School) -> None:
    card, again = a_card(school), request_id()
    first = await create(school, card, request_id=again)
    assert await create(school, card, request_id=again) == first
    assert len((await cards(school)).rate_cards) == 2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"valid_to": on(date(2029, 12, 31))}, "DATE_RANGE_INVALID"),
        ({"valid_from": Date(year=2030, month=2, day=30)}, "DATE_INVALID"),
        ({"valid_to": Date(year=2030, month=13, day=1)}, "DATE_INVALID"),
        ({"valid_from": None}, "INVALID_REQUEST"),
        ({"name": ""}, "INVALID_REQUEST"),
        ({"items": []}, "INVALID_REQUEST"),
        ({"items": [pb.RateCardItem(service_id="7")]}, "INVALID_REQUEST"),
        (
            {"items": [pb.RateCardItem(service_id=str(uuid4()), price_cents=100_000_001)]},
            "INVALID_REQUEST",
        ),
    ],
)
async def test_a_card_that_can_not_be_is_refused(
    school: School, given: dict[str, Any], reason: str
) -> None:
    call = create(school, a_card(school, **given))
    assert await reason_of(call) == ("INVALID_ARGUMENT", reason)


async def test_a_lesson_type_has_one_price_on_a_card(school: School) -> None:
    item = pb.RateCardItem(service_id=school.lesson.id, price_cents=1)
    refusal = await refused(create(school, a_card(school, items=[item, item])))
    assert refusal.reason == "INVALID_REQUEST"
    assert [path for path, _ in refusal.fields] == ["rate_card.items[1].service_id"]


@pytest_asyncio.fixture(loop_scope="session")
async def other_process(
    school: School, booking_database: Database, tmp_path: Path
) -> AsyncIterator[School]:
    """The same school, at another process of the service with a cache of its own."""
    async with serving(booking_database, tmp_path, key=school.service.key) as other:
        yield replace(school, service=other, connections={})


async def test_quotes_come_from_a_cache_that_hears_of_new_cards_in_every_process(
    school: School, other_process: School
) -> None:
    start = datetime(2031, 1, 1, tzinfo=UTC)
    cents = 'UPDATE booking."RateCardItem" SET "priceCents" = "priceCents" + 1 WHERE "orgId" = %s'

    async def kept() -> bool:
        before = await quote(other_process, start)
        await school.rows(cents, school.org_id)
        return bool(await quote(other_process, start) == before)

    await eventually(kept)
    await school.set_price(school.lesson, 9_000, date(2030, 1, 1))

    async def heard() -> bool:
        return (await quote(other_process, start)).price_cents == 9_000

    await eventually(heard)
    # The end of the price before it was heard of as well.
    assert (await quote(other_process, start - 730 * DAY)).rate_card_id == school.rate_card.id


async def test_who_brings_the_token_of_a_card_is_quoted_by_it(
    school: School, other_process: School
) -> None:
    for year in range(2031, 2036):
        start = datetime(year, 6, 1, tzinfo=UTC)
        await quote(other_process, start)
        card = a_card(school, valid_from=on(date(year, 1, 1)))
        call = school.directory().CreateRateCard(pb.CreateRateCardRequest(rate_card=card))
        made, told = await call, dict(await call.trailing_metadata())
        request = pb.QuotePriceRequest(service_id=school.lesson.id, start_time=at(start))
        token = ((KEY, told[KEY]),)
        found = await other_process.directory().QuotePrice(request, metadata=token)
        assert found.rate_card_id == made.id


async def test_only_lessons_of_the_school_have_prices(school: School) -> None:
    theirs = (await school.neighbour()).lesson.id
    for service_id in (theirs, str(uuid4())):
        items = [pb.RateCardItem(service_id=service_id, price_cents=1)]
        call = create(school, a_card(school, items=items))
        assert await reason_of(call) == ("NOT_FOUND", "SERVICE_NOT_FOUND")
        quoted = quote(school, datetime(2030, 1, 1, tzinfo=UTC), service_id)
        assert await reason_of(quoted) == ("NOT_FOUND", "SERVICE_NOT_FOUND")


async def test_cards_are_listed_newest_first_page_by_page(school: School) -> None:
    years = range(2030, 2034)
    later = [await school.set_price(school.lesson, year, date(year, 1, 1)) for year in years]
    made = [school.rate_card.id, *(card.id for card in later)]
    found, token = [], ""
    for _ in range(3):
        page = await cards(school, page_size=2, page_token=token)
        found += [card.id for card in page.rate_cards]
        token = page.next_page_token
    assert (found, token) == (made[::-1], "")
    wrong = cards(school, page_token="AAAA")
    assert await reason_of(wrong) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
