"""Each committed change has its effect once and in its order, whatever is killed meanwhile.

bench/chaos/events.py is the same for longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres
from tests.libs.changes import site
from tests.postgres import Database

KILLS = ("consumer", "producer", "database", "writers", "consumer", "database", "producer")
CHANGES = 2_000


@pytest.fixture(scope="module")
def crashable() -> Iterator[Database]:
    """A database on a server that tests of this module may kill."""
    with postgres.embedded_server(postgres.in_memory()) as server:
        yield postgres.make_template(server)


async def test_kills_of_all_lose_no_event_make_none_up_and_have_each_effect_once_in_order(
    crashable: Database, tmp_path: Path
) -> None:
    async with site(crashable, tmp_path, late=0.3) as place:
        for number, what in enumerate(KILLS):
            await place.changed(CHANGES * number // len(KILLS))
            await place.kill(what)
        await place.changed(CHANGES)
        verdict = await place.judge()
    assert verdict.faults == {}
    assert verdict.changes >= CHANGES
