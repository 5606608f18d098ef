"""What tests of payments use: `school` is a new furnished school on services that tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests import postgres
from tests.booking import stories as booking_stories
from tests.booking.serving import Booking
from tests.payments.serving import Payments, Town, town
from tests.payments.stories import School
from tests.postgres import Database


@dataclass(frozen=True)
class Services:
    """Booking and payments, both running."""

    town: Town
    booking: Booking
    payments: Payments


@pytest.fixture
async def quiet_town(database: Database, tmp_path: Path) -> AsyncIterator[Town]:
    """Stripe's fake, and services that the test starts."""
    async with town(database, tmp_path) as place:
        yield place


@pytest.fixture(scope="session")
def payments_database(template: Database) -> Iterator[Database]:
    """The database of the schools that share the services."""
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def services(
    payments_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    """Booking and payments for many schools: starting them takes longer than most tests."""
    folder = tmp_path_factory.mktemp("payments")
    async with (
        town(payments_database, folder) as place,
        place.booking() as booking,
        place.payments() as payments,
    ):
        yield Services(place, booking, payments)


@pytest_asyncio.fixture(loop_scope="session")
async def school(services: Services) -> AsyncIterator[School]:
    """A new furnished school on the shared services, whose faults and clocks are put back after."""
    async with AsyncExitStack() as connections:
        booking = replace(services.booking, connections=connections)
        payments = replace(services.payments, connections=connections)
        booked = await booking_stories.School.furnished(booking)
        yield await School.furnished(payments, booked, services.town.fake)
    services.town.fake.clear_faults()
    services.booking.clock.ahead = services.payments.clock.ahead = timedelta(0)
