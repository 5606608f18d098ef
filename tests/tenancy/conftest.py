"""Each service, running once for all of its tests of tenancy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from services.payments import __main__ as payments_main
from services.payments.stripe_gateway import StripeGateway
from tests import postgres, serving
from tests.booking import serving as booking_serving
from tests.libs import eventing
from tests.payments.paying import RICH_CENTS
from tests.payments.serving import town
from tests.postgres import Database
from tests.tenancy import forgetting, recipes_booking, recipes_payments, recipes_tracking
from tests.tenancy.schools import Kit, Pair

# Nobody takes their events, so that none is marked as taken while rows are compared.
QUIET = {"event_consumers": "monitor"}


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["tracking", "booking", "payments"]
)
async def kit(
    request: pytest.FixtureRequest, template: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    """A service and how it is asked."""
    folder = tmp_path_factory.mktemp(request.param)
    with postgres.copied(template) as database:
        async with KITS[request.param](database, folder) as kit:
            yield kit


@asynccontextmanager
async def tracking_kit(database: Database, folder: Path) -> AsyncIterator[Kit]:
    async with serving.serving(database, folder, **QUIET) as tracking:
        yield recipes_tracking.kit(tracking)


@asynccontextmanager
async def booking_kit(database: Database, folder: Path) -> AsyncIterator[Kit]:
    async with booking_serving.serving(database, folder, **QUIET) as booking:
        yield recipes_booking.kit(booking)


@asynccontextmanager
async def payments_kit(database: Database, folder: Path) -> AsyncIterator[Kit]:
    """With booking and Stripe's fake, which payments asks; runs begin soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payments_main, "SWEEP_S", 0.5)
        async with _payments_kit(database, folder) as kit:
            yield kit


@asynccontextmanager
async def _payments_kit(database: Database, folder: Path) -> AsyncIterator[Kit]:
    async with (
        town(database, folder) as place,
        place.booking() as booking,
        place.payments(**QUIET) as payments,
        eventing.orgs_of("payments", database, folder) as orgs,
    ):
        place.fake.top_up(RICH_CENTS, "aud")
        gateway = StripeGateway("sk_test_story", [], timeout_s=2.0, api_base=place.fake.url)
        beside = recipes_payments.Place(booking, payments, place.fake, orgs, gateway)
        yield recipes_payments.kit(beside)
        await gateway.close()


KITS = {"tracking": tracking_kit, "booking": booking_kit, "payments": payments_kit}


@pytest_asyncio.fixture(loop_scope="module")
async def pair(kit: Kit) -> Pair:
    """Two new schools."""
    kit.running.clock.ahead = timedelta(0)
    return await kit.furnish()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(kit: Kit) -> Pair:
    """Two schools for tests that change nothing."""
    return await kit.furnish()


@pytest_asyncio.fixture(loop_scope="module")
async def forgetful(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Every statement without its filter on the school."""
    await kit.rests()
    remembered = forgetting.forget(monkeypatch)
    # What had its statement in hand by then has sent it.
    await kit.rests()
    remembered.clear()
    yield
    assert remembered == []
