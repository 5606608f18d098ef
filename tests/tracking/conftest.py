"""What tests of the tracking service use: `tracking` is a service of a test's own, `school` is a
new school on one that tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests import postgres
from tests.postgres import Database
from tests.serving import (
    OTHER_SCHOOL,
    SCHOOL,
    Clock,
    Tracking,
    at,
    points,
    serving,
    settings,
    until_serving,
)
from tests.tracking.stories import School

__all__ = [
    "OTHER_SCHOOL",
    "SCHOOL",
    "Clock",
    "Tracking",
    "at",
    "points",
    "settings",
    "until_serving",
]


@pytest.fixture(scope="session")
def shared_database(template: Database) -> Iterator[Database]:
    """The database of the schools that share a service."""
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_service(
    shared_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Tracking]:
    """One service for many schools: starting one takes longer than most tests."""
    async with serving(shared_database, tmp_path_factory.mktemp("tracking")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def school(shared_service: Tracking, tmp_path: Path) -> AsyncIterator[School]:
    """A new school on the shared service.

    For modules marked asyncio(loop_scope="session"): the service lives on that loop.
    """
    async with AsyncExitStack() as connections:
        yield School(replace(shared_service, connections=connections), tmp_path)
    shared_service.clock.ahead = timedelta(0)
