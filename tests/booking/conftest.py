"""What tests of the booking service use: `booking` is a service of a test's own, `school` is a new
furnished school on one that tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests import postgres
from tests.booking.serving import Booking, serving
from tests.booking.stories import School
from tests.postgres import Database


@pytest.fixture
async def booking(database: Database, tmp_path: Path) -> AsyncIterator[Booking]:
    """The booking service in this process, with a clock that the test may move."""
    async with serving(database, tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def booking_database(template: Database) -> Iterator[Database]:
    """The database of the schools that share a service."""
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def booking_service(
    booking_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Booking]:
    """One service for many schools: starting one takes longer than most tests."""
    async with serving(booking_database, tmp_path_factory.mktemp("booking")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def school(booking_service: Booking) -> AsyncIterator[School]:
    """A new furnished school on the shared service.

    For modules marked asyncio(loop_scope="session"): the service lives on that loop. The clock is
    the service's: a test that moves it finds it put back for the next one.
    """
    async with AsyncExitStack() as connections:
        yield await School.furnished(replace(booking_service, connections=connections))
    booking_service.clock.ahead = timedelta(0)


@pytest_asyncio.fixture(loop_scope="session")
async def bare_school(booking_service: Booking) -> AsyncIterator[School]:
    """A new school with nothing in it, likewise."""
    async with AsyncExitStack() as connections:
        yield await School.founded(replace(booking_service, connections=connections))
    booking_service.clock.ahead = timedelta(0)
