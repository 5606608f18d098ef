"""What tests of the monitor use: `monitor` is one with a database of the test's own, `watcher` is
one that tests share, for modules marked asyncio(loop_scope="session")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests import postgres
from tests.monitor.serving import Monitor, keep_reports, serving
from tests.postgres import Database


@pytest.fixture
async def monitor(database: Database, tmp_path: Path) -> AsyncIterator[Monitor]:
    """The monitor in this process, with a clock that the test may move."""
    async with serving(database, tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def watched_database(template: Database) -> Iterator[Database]:
    """The database of the shared monitor."""
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _shared_monitor(
    watched_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Monitor]:
    # So that it has no run of its own in the middle of a test.
    keep_reports(watched_database, datetime.now(UTC))
    async with serving(watched_database, tmp_path_factory.mktemp("monitor")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def watcher(_shared_monitor: Monitor) -> AsyncIterator[Monitor]:
    """The shared monitor; its clock is put back after each test, and so should be the database."""
    async with AsyncExitStack() as connections:
        yield replace(_shared_monitor, connections=connections)
    _shared_monitor.clock.ahead = timedelta(0)
