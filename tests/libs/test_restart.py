"""A crash of the database is a blip."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from tests.postgres import Database
from tests.serving import Tracking, serving

CRASHES = 2
BLIP_MAX_S = 3.0


async def test_after_a_crash_of_the_database_calls_succeed_again_at_once(
    crashable_database: Database, tmp_path: Path
) -> None:
    embedded = crashable_database.server.embedded
    assert embedded is not None
    async with serving(crashable_database, tmp_path) as tracking:
        trip = await tracking.start_trip()
        stub = tracking.stub()
        for _ in range(CRASHES):
            reading = asyncio.ensure_future(read_for_ever(tracking, trip.id))
            await asyncio.to_thread(embedded.kill9)
            await asyncio.to_thread(embedded.start)
            ready = time.monotonic()
            async with asyncio.timeout(BLIP_MAX_S):
                while True:
                    try:
                        await stub.GetTrip(pb.GetTripRequest(trip_id=trip.id), timeout=2)
                        await stub.StartTrip(pb.StartTripRequest(), timeout=2)
                        break
                    except grpc.aio.AioRpcError as error:
                        assert error.code() in (  # noqa: PT017
                            grpc.StatusCode.UNAVAILABLE,
                            grpc.StatusCode.DEADLINE_EXCEEDED,
                        )
            assert time.monotonic() - ready < BLIP_MAX_S
            reading.cancel()
            codes = await reading
            assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        # From here on nothing fails any more, on any connection of the pool.
        asked = [stub.GetTrip(pb.GetTripRequest(trip_id=trip.id)) for _ in range(60)]
        assert {answer.id for answer in await asyncio.gather(*asked)} == {trip.id}


async def read_for_ever(tracking: Tracking, trip_id: str) -> set[grpc.StatusCode]:
    """Read until cancelled; the codes of what failed meanwhile."""
    stub = tracking.stub()
    codes = set()
    while True:
        try:
            await stub.GetTrip(pb.GetTripRequest(trip_id=trip_id), timeout=1)
        except grpc.aio.AioRpcError as error:
            codes.add(error.code())
        except asyncio.CancelledError:
            return codes
