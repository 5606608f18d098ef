"""Reads that travel together: each has its own school, its own failure and its own end."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from libs import background, batching, pooling, scoped
from libs.batching import Batches
from libs.orgs import Orgs
from tests.libs.conftest import bare_settings
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL
from tests.waiting import eventually

SETTING = b"SELECT current_setting('driveflow.org_id', true)"
TIMEOUT = b"SELECT current_setting('statement_timeout')"
BACKEND = b"SELECT pg_backend_pid()"
FAIL = b"SELECT 1 / %(zero)s::int"
SLEEP = b"SELECT %(nr)s::int FROM pg_sleep(%(seconds)s::float8)"
SEEN = b'SELECT DISTINCT "orgId" FROM "Trip"'
ADD = b'INSERT INTO "Trip" ("orgId", "startedAt") VALUES (%(org)s::uuid, now())'
AT_ONCE = 12
READY_WITHIN_S = 5.0


@asynccontextmanager
async def travelling(
    database: Database, folder: Path, connections: int = 1
) -> AsyncIterator[tuple[Orgs, Batches]]:
    pool = pooling.create("test", database.dsn("tracking"), bare_settings(folder), max_size=4)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pool)
        batches = Batches(pool, connections=connections)
        background.run(stack, batches.run())
        await ready(batches)
        yield Orgs(pool, batches), batches


@pytest.fixture
async def orgs(database: Database, tmp_path: Path) -> AsyncIterator[Orgs]:
    """Schools whose quick reads share one connection."""
    async with travelling(database, tmp_path) as (found, _):
        yield found


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The statements of each batch, from now on."""
    seen: list[list[str]] = []
    batch = scoped.Connection.batch

    async def watched(conn: Any, reads: Any) -> Any:
        seen.append([each.statement.observe.name for _, behind in reads for each in behind])
        return await batch(conn, reads)

    monkeypatch.setattr(scoped.Connection, "batch", watched)
    return seen


async def ready(batches: Batches) -> None:
    await eventually(lambda: batches.has_room, within_s=READY_WITHIN_S)


async def one(reader: Any, query: bytes, params: Any = None) -> Any:
    row = await (await reader.execute(query, params)).fetchone()
    return row[0] if row else None


# --- together ----------------------------------------------------------------------------------


async def test_reads_that_are_asked_together_leave_together_and_answer_each_its_own(
    orgs: Orgs, left: list[list[str]]
) -> None:
    schools = [uuid.uuid4() for _ in range(AT_ONCE)]
    asked = (one(orgs.quick_reader(school), SETTING) for school in schools)
    assert await asyncio.gather(*asked) == [str(school) for school in schools]
    assert left == [["SELECT"] * AT_ONCE]


async def test_more_than_a_batch_takes_are_all_answered(orgs: Orgs, left: list[list[str]]) -> None:
    readers = [orgs.quick_reader(SCHOOL) for _ in range(60)]
    asked = (one(reader, SLEEP, {"nr": nr, "seconds": 0}) for nr, reader in enumerate(readers))
    assert await asyncio.gather(*asked) == [*range(60)]
    assert max(map(len, left)) == batching.READS_MAX


async def test_a_school_never_sees_another_whatever_it_travels_with(orgs: Orgs) -> None:
    schools = (SCHOOL, OTHER_SCHOOL)
    for school in schools:
        async with orgs.write(school) as conn:
            await conn.execute(ADD, {"org": school})
    dice = random.Random(7)

    async def read(school: uuid.UUID, kind: int) -> None:
        reader = orgs.quick_reader(school)
        if kind == 0:
            with pytest.raises(errors.DivisionByZero):
                await one(reader, FAIL, {"zero": 0})
        elif kind == 1:
            impatient = asyncio.ensure_future(one(reader, SETTING))
            await asyncio.sleep(0)
            impatient.cancel()
        elif kind == 2:
            assert await one(reader, SETTING) == str(school)
        else:
            assert await (await reader.execute(SEEN)).fetchall() == [(school,)]

    for _ in range(60):
        count = dice.randint(1, 40)
        asked = [read(dice.choice(schools), dice.randint(0, 6)) for _ in range(count)]
        await asyncio.gather(*asked)


async def test_nothing_of_a_school_stays_on_the_connection(orgs: Orgs) -> None:
    backend = await one(orgs.quick_reader(SCHOOL), BACKEND)
    async with pooling.connection(orgs.pool) as conn:
        name = b"SELECT application_name FROM pg_stat_activity WHERE pid = %(pid)s::int"
        assert await one(conn, name, {"pid": backend}) == "test batches"
    # A scope is in front of every statement: without one there is no row.
    assert await one(orgs.quick_reader(uuid.uuid4()), SEEN) is None


# --- what goes wrong ---------------------------------------------------------------------------


async def test_a_failure_stays_with_its_reader(orgs: Orgs) -> None:
    zeros = [0 if nr % 5 == 3 else 1 for nr in range(AT_ONCE)]
    asked = (one(orgs.quick_reader(SCHOOL), FAIL, {"zero": zero}) for zero in zeros)
    for zero, found in zip(
        zeros, await asyncio.gather(*asked, return_exceptions=True), strict=True
    ):
        assert found == 1 if zero else isinstance(found, errors.DivisionByZero)


async def test_a_statement_that_cannot_be_prepared_says_why_and_harms_no_other(orgs: Orgs) -> None:
    for _ in range(2):
        good = one(orgs.quick_reader(SCHOOL), SETTING)
        bad = orgs.quick_reader(SCHOOL).execute(b"SELECT 1 FROM nowhere")
        also = one(orgs.quick_reader(OTHER_SCHOOL), SETTING)
        found = await asyncio.gather(good, bad, also, return_exceptions=True)
        assert [found[0], found[2]] == [str(SCHOOL), str(OTHER_SCHOOL)]
        assert isinstance(found[1], errors.UndefinedTable)


async def test_who_gives_up_leaves_the_others_their_answers(orgs: Orgs) -> None:
    asked = [
        asyncio.ensure_future(
            one(orgs.quick_reader(SCHOOL), SLEEP, {"nr": nr, "seconds": 0.02 * (nr == 0)})
        )
        for nr in range(AT_ONCE)
    ]
    await asyncio.sleep(0.005)
    for each in asked[::3]:
        each.cancel()
    found = await asyncio.gather(*asked, return_exceptions=True)
    for nr, answer in enumerate(found):
        assert isinstance(answer, asyncio.CancelledError) if nr % 3 == 0 else answer == nr


async def test_a_slow_statement_is_answered_by_the_pool_and_holds_up_nobody_for_long(
    orgs: Orgs,
) -> None:
    started = time.monotonic()
    slow = asyncio.ensure_future(one(orgs.quick_reader(SCHOOL), SLEEP, {"nr": 7, "seconds": 3.0}))
    asked = (one(orgs.quick_reader(SCHOOL), SETTING) for _ in range(AT_ONCE))
    assert await asyncio.gather(*asked) == [str(SCHOOL)] * AT_ONCE
    assert time.monotonic() - started < batching.BATCH_TIMEOUT_S
    assert not slow.done()
    assert await slow == 7


async def test_a_frozen_connection_is_given_up_and_its_reads_go_elsewhere(
    orgs: Orgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "STATEMENT_TIMEOUT_MS", 5_000)
    monkeypatch.setattr(batching, "BATCH_TIMEOUT_S", 0.3)
    backend = await one(orgs.quick_reader(SCHOOL), BACKEND)
    started = time.monotonic()
    slow = one(orgs.quick_reader(SCHOOL), SLEEP, {"nr": 7, "seconds": 1.0})
    quick = one(orgs.quick_reader(SCHOOL), SETTING)
    found = await asyncio.gather(slow, quick)
    assert [*found] == [7, str(SCHOOL)]
    assert time.monotonic() - started < 3.0
    assert await one(orgs.quick_reader(SCHOOL), BACKEND) != backend


async def test_a_connection_that_dies_is_no_error_of_the_reads_on_it(
    database: Database, tmp_path: Path
) -> None:
    async with travelling(database, tmp_path) as (orgs, batches):
        for _ in range(3):
            await ready(batches)
            await killed_under(orgs, database)


async def killed_under(orgs: Orgs, database: Database) -> None:
    backend = await one(orgs.quick_reader(SCHOOL), BACKEND)
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        asked = [asyncio.ensure_future(one(orgs.quick_reader(SCHOOL), SETTING)) for _ in range(5)]
        await asyncio.sleep(0)
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    assert await asyncio.gather(*asked) == [str(SCHOOL)] * 5


async def test_after_a_restart_of_the_database_reads_travel_together_again(
    crashable_database: Database, tmp_path: Path
) -> None:
    embedded = crashable_database.server.embedded
    assert embedded is not None
    async with travelling(crashable_database, tmp_path, connections=2) as (orgs, batches):
        await asyncio.to_thread(embedded.kill9)
        with pytest.raises((psycopg.OperationalError, TimeoutError)):
            async with asyncio.timeout(1):
                await one(orgs.quick_reader(SCHOOL), SETTING)
        await asyncio.to_thread(embedded.start)
        await ready(batches)
        async with asyncio.timeout(READY_WITHIN_S):
            asked = [one(orgs.quick_reader(SCHOOL), SETTING) for _ in range(AT_ONCE)]
            assert await asyncio.gather(*asked) == [str(SCHOOL)] * AT_ONCE


async def test_a_migration_under_a_prepared_statement_goes_unnoticed(
    orgs: Orgs, database: Database
) -> None:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE TABLE public.moved (a int)")
        admin.execute("INSERT INTO public.moved VALUES (1)")
        admin.execute("GRANT USAGE ON SCHEMA public TO tracking")
        admin.execute("GRANT SELECT ON public.moved TO tracking")
        star = b"SELECT * FROM public.moved"
        for _ in range(3):
            for reader in (orgs.quick_reader(SCHOOL), orgs.reader(SCHOOL)):
                assert await (await reader.execute(star)).fetchall() == [(1,)]
        admin.execute("ALTER TABLE public.moved ADD COLUMN b int DEFAULT 2")
        asked = (orgs.quick_reader(SCHOOL).execute(star) for _ in range(AT_ONCE))
        for answer in await asyncio.gather(*asked):
            assert await answer.fetchall() == [(1, 2)]


# --- limits ------------------------------------------------------------------------------------


async def test_a_batch_writes_nothing(orgs: Orgs) -> None:
    with pytest.raises(errors.ReadOnlySqlTransaction):
        await orgs.quick_reader(SCHOOL).execute(ADD, {"org": SCHOOL})
    assert await one(orgs.reader(SCHOOL), SEEN) is None


async def test_a_quick_read_has_less_time_than_another(orgs: Orgs) -> None:
    assert await one(orgs.quick_reader(SCHOOL), TIMEOUT) == "500ms"
    assert await one(orgs.reader(SCHOOL), TIMEOUT) == "5s"


async def test_without_connections_of_their_own_the_pool_answers(
    database: Database, tmp_path: Path
) -> None:
    pool = pooling.create("test", database.dsn("tracking"), bare_settings(tmp_path), max_size=2)
    async with pool:
        assert await one(Orgs(pool, Batches(pool)).quick_reader(SCHOOL), TIMEOUT) == "5s"
        assert await one(Orgs(pool).quick_reader(SCHOOL), SETTING) == str(SCHOOL)


async def test_who_waits_when_the_process_ends_is_answered_by_the_pool(
    database: Database, tmp_path: Path
) -> None:
    pool = pooling.create("test", database.dsn("tracking"), bare_settings(tmp_path), max_size=4)
    async with pool:
        batches = Batches(pool, connections=1)
        running = asyncio.create_task(batches.run())
        await ready(batches)
        reader = Orgs(pool, batches).quick_reader(SCHOOL)
        asked = [asyncio.ensure_future(one(reader, SETTING)) for _ in range(40)]
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await asyncio.gather(*asked) == [str(SCHOOL)] * 40
        assert batches.get_stats()["pool_size"] == 0
