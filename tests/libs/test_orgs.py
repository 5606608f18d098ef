"""A transaction sees one school, and the next one on the same connection sees none of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import orgs, pooling
from libs.orgs import Orgs
from tests.libs.conftest import bare_settings
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL, Tracking

SETTING = b"SELECT current_setting('driveflow.org_id', true)"
ADD = b'INSERT INTO "Trip" ("orgId", "startedAt") VALUES (%s, now())'
SEEN = b'SELECT DISTINCT "orgId" FROM "Trip"'


@pytest.fixture
async def scoped(database: Database, tmp_path: Path) -> AsyncIterator[Orgs]:
    """Schools over a pool of one connection, so that each transaction follows another on it."""
    settings = bare_settings(tmp_path)
    pool = pooling.create("test", database.dsn("tracking"), settings, min_size=1, max_size=1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pool)
        yield Orgs(pool)


async def one(conn: pooling.Connection, query: bytes) -> Any:
    row = await (await conn.execute(query)).fetchone()
    return row[0] if row else None


async def test_a_transaction_sees_its_own_school(scoped: Orgs) -> None:
    for org_id in (SCHOOL, OTHER_SCHOOL):
        async with scoped.write(org_id) as conn:
            await conn.execute(ADD, [org_id])
    async with scoped.read(SCHOOL) as conn:
        assert await one(conn, SEEN) == SCHOOL
    async with scoped.write(OTHER_SCHOOL) as conn:
        assert await one(conn, SEEN) == OTHER_SCHOOL


@pytest.mark.parametrize("how", ["read", "write"])
async def test_the_school_does_not_outlive_its_transaction(scoped: Orgs, how: str) -> None:
    async with getattr(scoped, how)(SCHOOL) as conn:
        assert await one(conn, SETTING) == str(SCHOOL)
    async with pooling.connection(scoped.pool) as conn:
        assert await one(conn, SETTING) in (None, "")
        assert await one(conn, SEEN) is None
        assert await one(conn, b"SHOW statement_timeout") == "5s"


@pytest.mark.parametrize("how", ["read", "write"])
async def test_the_school_does_not_outlive_a_failure(scoped: Orgs, how: str) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with getattr(scoped, how)(SCHOOL) as conn:
            await one(conn, b"SELECT 1 / 0")
    async with pooling.connection(scoped.pool) as conn:
        assert await one(conn, SETTING) in (None, "")


async def test_without_a_school_there_are_no_rows_and_none_can_be_added(scoped: Orgs) -> None:
    async with scoped.write(SCHOOL) as conn:
        await conn.execute(ADD, [SCHOOL])
    async with pooling.connection(scoped.pool) as conn:
        assert await one(conn, SEEN) is None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await conn.execute(ADD, [SCHOOL])


async def test_a_row_of_another_school_cannot_be_added(scoped: Orgs) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with scoped.write(SCHOOL) as conn:
            await conn.execute(ADD, [OTHER_SCHOOL])


async def test_what_a_read_asks_is_of_one_moment(scoped: Orgs) -> None:
    async with scoped.read(SCHOOL) as conn:
        first = await one(conn, b"SELECT now()")
        assert await one(conn, b"SELECT now()") == first
        assert await one(conn, SETTING) == str(SCHOOL)


async def test_a_write_that_fails_leaves_nothing(scoped: Orgs) -> None:
    async def fail() -> None:
        async with scoped.write(SCHOOL) as conn:
            await conn.execute(ADD, [SCHOOL])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with scoped.read(SCHOOL) as conn:
        assert await one(conn, SEEN) is None


async def test_work_that_walks_schools_sees_one_at_a_time(scoped: Orgs) -> None:
    for org_id in (SCHOOL, OTHER_SCHOOL):
        async with scoped.write(org_id) as conn:
            await conn.execute(ADD, [org_id])
    async with scoped.write(SCHOOL) as conn:
        for org_id in (SCHOOL, OTHER_SCHOOL, uuid.uuid4()):
            await orgs.rescope(conn, org_id)
            seen = await (await conn.execute(SEEN)).fetchall()
            assert seen in ([], [(org_id,)])


async def test_background_work_says_whose_connection_it_is(scoped: Orgs) -> None:
    async with scoped.read(SCHOOL) as conn:
        assert await one(conn, b"SHOW application_name") == "test"


async def test_a_write_answers_with_a_token_by_which_it_can_be_read(tracking: Tracking) -> None:
    stub = tracking.stub()
    call = stub.StartTrip(pb.StartTripRequest())
    trip = await call
    metadata = dict(await call.trailing_metadata())
    assert re.fullmatch(r"[0-9A-F]{8}/[0-9A-F]+/[0-9A-F]+", str(metadata["driveflow-consistency"]))
    assert re.fullmatch(r"[0-9a-f]{32}", str(metadata["driveflow-request-id"]))
    read = stub.GetTrip(pb.GetTripRequest(trip_id=trip.id))
    await read
    assert "driveflow-consistency" not in dict(await read.trailing_metadata())
