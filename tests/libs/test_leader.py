"""One process of all works; when it goes, another does; a duty that fails harms no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from libs import background, leader, pooling
from libs.leader import Leader
from libs.orgs import Orgs
from tests.libs.conftest import bare_settings
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL
from tests.waiting import eventually

LOCK = 7


@pytest.fixture
async def orgs(database: Database, tmp_path: Path) -> AsyncIterator[Orgs]:
    pool = pooling.create("tracking", database.dsn("tracking"), bare_settings(tmp_path))
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        for org_id in (SCHOOL, OTHER_SCHOOL):
            admin.execute('INSERT INTO tracking."Tenant" ("orgId") VALUES (%s)', [org_id])
    async with pool:
        yield Orgs(pool)


async def test_one_leads_and_another_takes_over(database: Database) -> None:
    done: list[str] = []

    def candidate(name: str) -> Leader:
        async def work() -> None:
            done.append(name)

        dsn = database.dsn("tracking_maintenance")
        return Leader(dsn, lock=LOCK, every_s=0.05, name=name, duties=[("work", work)])

    async with AsyncExitStack() as first, AsyncExitStack() as second:
        background.run(first, candidate("first").run())
        await eventually(lambda: len(done) > 2)
        background.run(second, candidate("second").run())
        await eventually(lambda: len(done) > 8)
        assert set(done) == {"first"}
        await first.aclose()
        await eventually(lambda: "second" in done)


async def test_a_leader_that_loses_its_connection_tries_again(database: Database) -> None:
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1

    dsn = database.dsn("tracking_maintenance")
    leading = Leader(dsn, lock=LOCK, every_s=0.05, name="cut", duties=[("work", work)])
    async with AsyncExitStack() as stack:
        background.run(stack, leading.run())
        await eventually(lambda: rounds > 0)
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            ended = admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'cut maintenance'"
            ).fetchall()
        assert ended == [(True,)]
        before = rounds
        await eventually(lambda: rounds > before + 3)


async def test_a_duty_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def fail() -> None:
        raise ZeroDivisionError

    async def work() -> None:
        done.append("work")

    duties = [("broken", fail), ("work", work)]
    await Leader("", lock=LOCK, every_s=1, name="test", duties=duties).round()
    assert done == ["work"]
    assert caplog.messages == ["maintenance: broken failed"]


async def test_schools_are_swept_one_by_one_and_one_that_fails_stops_no_other(
    orgs: Orgs, caplog: pytest.LogCaptureFixture
) -> None:
    swept: list[UUID] = []

    async def sweep(org_id: UUID) -> None:
        swept.append(org_id)
        if org_id == SCHOOL:
            raise ZeroDivisionError

    await leader.per_school(orgs, sweep)()
    assert swept == [SCHOOL, OTHER_SCHOOL]
    assert caplog.messages == ["maintenance: sweep failed"]


async def test_request_ids_are_forgotten_when_they_have_expired(
    orgs: Orgs, database: Database
) -> None:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        for org_id, hours in ((SCHOOL, -1), (SCHOOL, 1), (OTHER_SCHOOL, -1)):
            admin.execute(
                'INSERT INTO tracking."IdempotencyKey"'
                ' ("orgId", subject, method, "requestId", "requestHash", "expiresAt")'
                " SELECT %s, 'x', 'x', %s, sha256(''), now() + make_interval(hours => %s)",
                [org_id, uuid4(), hours],
            )
        await leader.forget_requests(orgs, SCHOOL)
        left = admin.execute('SELECT "orgId" FROM tracking."IdempotencyKey" ORDER BY 1').fetchall()
    assert left == [(SCHOOL,), (OTHER_SCHOOL,)]
