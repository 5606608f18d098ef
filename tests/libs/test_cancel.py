"""A call that its caller has given up stops, and writes nothing more."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import psycopg_pool
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import calls, pooling
from libs.orgs import Orgs
from tests.libs.conftest import Serve, bare_settings
from tests.postgres import Database

# About as long as a write takes to begin and end, so that cancellations meet each of its steps.
CANCELLED_WITHIN_S = 0.02
AT_ONCE = 5
QUIET_WITHIN_S = 1.5
DEADLINE_S = 1.0
ADD = b'INSERT INTO "Trip" ("orgId", "startedAt") VALUES (%s, now())'
ACTIVE = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND usename = 'tracking' AND state = 'active'
"""


@dataclass
class Seen:
    """What the methods of a test saw."""

    writes: int = 0
    writes_after_cancel: int = 0


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 160), (8.0, 40)], ids=["quick", "slow"])
async def test_cancelled_calls_start_no_write_and_free_their_connections(
    serve: Serve, database: Database, tmp_path: Path, seconds: float, rounds: int
) -> None:
    settings = bare_settings(tmp_path)
    pool = pooling.create("test", database.dsn("tracking"), settings, min_size=2, max_size=2)
    orgs, seen = Orgs(pool), Seen()

    async def write(request: Any, context: Any) -> Any:
        impatient.begun(request)
        org_id = calls.caller().org
        task = asyncio.current_task()
        async with orgs.write(org_id) as conn:
            seen.writes += 1
            seen.writes_after_cancel += bool(task and task.cancelling())
            await conn.execute(ADD, [org_id])
            await conn.execute(b"SELECT pg_sleep(%s)", [seconds])
        return pb.Trip()

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pool)
        bare = await stack.enter_async_context(serve(write))
        connection = await stack.enter_async_context(bare.connect())
        impatient = Impatient(connection)
        for _ in range(rounds):
            await asyncio.gather(*(impatient.call() for _ in range(AT_ONCE)))
        assert seen.writes > rounds // 4
        assert seen.writes_after_cancel == 0
        began = time.monotonic()
        while busy(database):
            assert time.monotonic() - began < QUIET_WITHIN_S
            await asyncio.sleep(0.05)
        await both_connections(pool, began + QUIET_WITHIN_S)


async def both_connections(pool: pooling.Pool, until: float) -> None:
    """Have all connections of the pool at once, in time."""
    while True:
        try:
            async with pool.connection(timeout=1), pool.connection(timeout=1):
                assert time.monotonic() < until
                return
        except (psycopg_pool.TooManyRequests, psycopg_pool.PoolTimeout):
            # Callers who are gone count as waiting until a connection comes back.
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


class Impatient:
    """A caller who gives each call up a few milliseconds after its method began."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._under_way: dict[str, Any] = {}

    async def call(self) -> None:
        request = pb.StartTripRequest(request_id=str(uuid.uuid4()))
        call = self._connection.tracking.StartTrip(request, timeout=DEADLINE_S)
        self._under_way[request.request_id] = call
        try:
            await call
        except (asyncio.CancelledError, grpc.aio.AioRpcError):
            return

    def begun(self, request: pb.StartTripRequest) -> None:
        delay_s = random.uniform(0, CANCELLED_WITHIN_S)
        call = self._under_way.pop(request.request_id)
        asyncio.get_running_loop().call_later(delay_s, call.cancel)


def busy(database: Database) -> int:
    """Backends of the service that work."""
    with psycopg.connect(database.admin_dsn) as admin:
        row = admin.execute(ACTIVE).fetchone()
        return int(row[0]) if row else 0


async def test_a_call_past_its_deadline_ends_its_statement(
    serve: Serve, database: Database, tmp_path: Path
) -> None:
    pool = pooling.create("test", database.dsn("tracking"), bare_settings(tmp_path), min_size=1)
    orgs = Orgs(pool)

    async def sleep(request: Any, context: Any) -> Any:
        async with orgs.write(calls.caller().org) as conn:
            await conn.execute(b"SELECT pg_sleep(8)")

    async with pool, serve(sleep) as bare, bare.connect() as connection:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tracking.StartTrip(pb.StartTripRequest(), timeout=0.4)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        while busy(database):
            assert time.monotonic() - began < QUIET_WITHIN_S
            await asyncio.sleep(0.05)
