"""Each service, running once for all of its tests of tenancy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
import pytest_asyncio

from tests import postgres, serving
from tests.booking import serving as booking_serving
from tests.postgres import Database
from tests.tenancy import forgetting, recipes_booking, recipes_tracking
from tests.tenancy.schools import Kit, Pair

# Nobody takes their events, so that none is marked as taken while rows are compared.
QUIET = {"event_consumers": "monitor"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["tracking", "booking"])
async def kit(
    request: pytest.FixtureRequest, template: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    """A service and how it is asked."""
    folder = tmp_path_factory.mktemp(request.param)
    with postgres.copied(template) as database:
        if request.param == "tracking":
            async with serving.serving(database, folder, **QUIET) as tracking:
                yield recipes_tracking.kit(tracking)
        else:
            async with booking_serving.serving(database, folder, **QUIET) as service:
                yield recipes_booking.kit(service)


@pytest_asyncio.fixture(loop_scope="module")
async def pair(kit: Kit) -> Pair:
    """Two new schools."""
    kit.running.clock.ahead = timedelta(0)
    return await kit.furnish()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(kit: Kit) -> Pair:
    """Two schools for tests that change nothing."""
    return await kit.furnish()


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every statement without its filter on the school."""
    remembered = forgetting.forget(monkeypatch)
    yield
    assert remembered == []
