"""Nobody is charged, given back to or paid twice, wherever the service dies in the middle of it.

bench/chaos/payments.py is the same for longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from driveflow.payments.v1 import payments_pb2 as pb
from tests import postgres
from tests.payments.chaos.crashing import Call, Site, site
from tests.payments.chaos.launcher import PLACES
from tests.postgres import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 3
REFUND_CENTS = 500


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    template: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A school whose payments service may be killed."""
    with postgres.copied(template) as database:
        async with site(database, tmp_path_factory.mktemp("crashes")) as made:
            yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def paid(place: Site) -> list[pb.Payment]:
    """Payments to give back of."""
    return await place.paid(AT_ONCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driven(place: Site) -> list[pb.Payment]:
    """Payments to pay out, enough for each place."""
    return await place.driven(AT_ONCE * len(PLACES))


@pytest.mark.parametrize("where", PLACES)
async def test_a_payment_is_asked_for_once_wherever_the_service_dies(
    place: Site, where: str
) -> None:
    calls = [await place.asking() for _ in range(AT_ONCE)]
    await _crash_and_go_on(place, calls, where, booking_id=str(uuid4()))
    for call in calls[:-1]:
        place.town.fake.confirm(call.answers[-1].payment.stripe_payment_intent_id)
        intents = place.town.fake.find_intents({"booking_id": call.request.booking_id})
        assert len(intents) == 1
    await place.until(lambda: _is_well(place), "Stripe has told of what was paid")


@pytest.mark.parametrize("where", PLACES)
async def test_money_is_given_back_once_wherever_the_service_dies(
    place: Site, paid: list[pb.Payment], where: str
) -> None:
    calls = [place.refunding(payment, REFUND_CENTS) for payment in paid]
    await _crash_and_go_on(place, calls, where, reason="another")
    assert await place.faults() == []


@pytest.mark.parametrize("where", PLACES)
async def test_an_instructor_is_paid_once_wherever_the_service_dies(
    place: Site, driven: list[pb.Payment], where: str
) -> None:
    calls = [place.paying_out(driven.pop()) for _ in range(AT_ONCE)]
    await _crash_and_go_on(place, calls, where, instructor_id=str(uuid4()))
    assert await place.faults() == []


async def test_of_refunds_at_once_that_exceed_the_capture_together_one_succeeds(
    place: Site,
) -> None:
    for payment in await place.paid(5):
        calls = [place.refunding(payment, payment.amount_cents * 60 // 100) for _ in range(32)]
        codes = await asyncio.gather(*(call.once(place.stub) for call in calls))
        assert sum(code.name == "OK" for code in codes) == 1
        assert sum(code.name == "FAILED_PRECONDITION" for code in codes) == 31
    assert await place.faults() == []


async def _crash_and_go_on(place: Site, calls: list[Call], where: str, **other: str) -> None:
    """All but the last are repeated by their callers; the last, if it was begun, by the sweep."""
    with place.deaf():
        await place.crash(calls, where, passing=2)
        for call in calls[:-1]:
            await place.finish(call)
        await place.settle()
        for call in calls[:-1]:
            await place.repeated(call, **other)


async def _is_well(place: Site) -> bool:
    return await place.faults() == []
