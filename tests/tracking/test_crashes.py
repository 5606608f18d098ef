"""No acknowledged point is lost and none is stored twice, whatever is killed.

bench/chaos/ingest.py is the same for longer.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import pooling
from libs.client import refusal
from tests import postgres
from tests.postgres import Database
from tests.tracking.chaos.device import RESTLESS
from tests.tracking.chaos.service import until
from tests.tracking.chaos.site import site
from tests.tracking.conftest import Tracking, points, settings

RECOVERY_S = 5.0
"""The promise is 3 s; this machine may be busy with other things."""
POOLED_MAX = 20 + 3 + 1
"""Connections that one service may have: two pools, and that of the maintenance loop."""


@pytest.fixture(scope="module")
def crashable_template() -> Iterator[Database]:
    """A database to copy from, on a server that tests of this module may kill."""
    with postgres.embedded_server(postgres.in_memory()) as server:
        yield postgres.make_template(server)


@pytest.fixture
def crashable(crashable_template: Database) -> Iterator[Database]:
    """A database of the test's own on that server."""
    with postgres.copied(crashable_template) as copy:
        yield copy


async def test_crashes_of_the_database_lose_and_double_nothing(
    crashable: Database, tmp_path: Path
) -> None:
    async with site(crashable, tmp_path, devices=4) as (place, running):
        for _ in range(5):
            await place.streaming()
            await place.kill_database()
        connections = place.connections()
        verdict = await place.finish(running)
    assert verdict.faults == {}
    assert verdict.acknowledged > 1_000
    assert statistics.median(outage.silent_s for outage in place.outages) < RECOVERY_S
    assert connections <= POOLED_MAX


async def test_crashes_of_the_service_lose_and_double_nothing(
    crashable: Database, tmp_path: Path
) -> None:
    async with site(crashable, tmp_path, devices=4) as (place, running):
        for _ in range(3):
            await place.streaming()
            await place.kill_service()
        verdict = await place.finish(running)
    assert verdict.faults == {}
    assert verdict.acknowledged > 1_000


async def test_a_service_that_is_stopped_acknowledges_what_it_has_and_says_goodbye(
    crashable: Database, tmp_path: Path
) -> None:
    async with site(crashable, tmp_path, devices=4, drain_s=5.0) as (place, running):
        for _ in range(2):
            await place.streaming()
            await place.stop_service()
        verdict = await place.finish(running)
    assert verdict.faults == {}
    assert place.endings["stream", "UNAVAILABLE", "SERVER_DRAINING"] > 0
    # No stream was cut without a word.
    assert place.endings["stream", "UNAVAILABLE", ""] == 0
    assert [outage.exit_code for outage in place.outages] == [0, 0]
    assert max(outage.exit_s for outage in place.outages) < place.service.drain_s + 2


async def test_devices_that_vanish_while_their_old_streams_are_being_stored_lose_nothing(
    crashable: Database, tmp_path: Path
) -> None:
    async with site(crashable, tmp_path, devices=6, fates=RESTLESS) as (place, running):
        await until(lambda: place.count("ghost") > 5, "streams were superseded")
        verdict = await place.finish(running)
    assert verdict.faults == {}


async def test_of_streams_that_open_one_upload_at_once_exactly_one_lives(
    tracking: Tracking,
) -> None:
    stub = tracking.stub()
    for _ in range(10):
        request = pb.StreamTripPointsRequest(open=pb.OpenUpload(upload_id=str(uuid4())))
        calls = [stub.StreamTripPoints() for _ in range(4)]
        await asyncio.gather(*(call.write(request) for call in calls))
        reading = [asyncio.ensure_future(_last(call)) for call in calls]
        await until(partial(_all_but_one_ended, reading), "three end")
        (alive,) = (call for call, r in zip(calls, reading, strict=True) if not r.done())
        await alive.write(pb.StreamTripPointsRequest(batch=pb.PointBatch(sequence=1)))
        await alive.done_writing()
        assert [await r for r in reading].count(1) == 1
        assert await alive.code() is grpc.StatusCode.OK


def _all_but_one_ended(reading: Sequence[asyncio.Future[int]]) -> bool:
    return sum(stream.done() for stream in reading) >= len(reading) - 1


async def _last(call: Any) -> int:
    """The last mark that a stream told; 0 when it was refused."""
    through = 0
    with suppress(grpc.aio.AioRpcError):
        async for answer in call:
            through = answer.ack.durable_through
    return through


async def test_a_stream_whose_points_meet_a_locked_table_is_told_to_open_again(
    tracking: Tracking,
) -> None:
    stub = tracking.stub()
    trip = await tracking.start_trip(stub)
    call = stub.StreamTripPoints()
    await call.write(pb.StreamTripPointsRequest(open=pb.OpenUpload(upload_id=str(uuid4()))))
    await call.read()
    track = pb.Track(trip_id=trip.id, points=points(datetime.now(UTC), 10))
    batch = pb.PointBatch(sequence=1, tracks=[track])
    with psycopg.connect(tracking.database.admin_dsn) as conn:
        conn.execute('LOCK TABLE tracking."TripPoint" IN ACCESS EXCLUSIVE MODE')
        await call.write(pb.StreamTripPointsRequest(batch=batch))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
    assert refusal(raised.value).reason == "DATABASE_BUSY"
    assert refusal(raised.value).code is grpc.StatusCode.UNAVAILABLE


async def test_a_pool_of_dead_connections_serves_the_first_call(
    database: Database, tmp_path: Path
) -> None:
    wanted = settings(database, tmp_path, pool_min_size=20)
    async with pooling.create("tracking", database.dsn("tracking"), wanted) as pool:
        await pool.wait()
        with psycopg.connect(database.admin_dsn) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                " AND usename = 'tracking'",
                (database.name,),
            )
        async with pooling.connection(pool) as served:
            await served.execute("SELECT 1")
        await until(lambda: pool.get_stats()["pool_available"] == 20, "all are replaced")
