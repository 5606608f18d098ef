"""A trip followed while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking import servicer
from tests.tracking.stories import (
    School,
    dense,
    drained,
    moment,
    now,
    refused,
    refused_stream,
    times,
    track,
    way,
)
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "WATCH_EVERY_S", 0.05)


class Viewer:
    """Someone who watches a trip."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.points: list[pb.TripPoint] = []
        self.trip: pb.Trip | None = None

    async def sees(self, count: int) -> list[pb.TripPoint]:
        """Read on until so many points were seen."""
        while len(self.points) < count:
            await self._hear()
        return self.points

    async def sees_the_end(self) -> pb.Trip:
        """Read on to the last message."""
        while self.trip is None:
            await self._hear()
        assert await self.call.read() is grpc.aio.EOF
        assert await self.call.code() == grpc.StatusCode.OK
        return self.trip

    async def _hear(self) -> None:
        answer = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert answer is not grpc.aio.EOF
        assert len(answer.points) <= 1_000
        self.points += answer.points
        if answer.HasField("trip"):
            self.trip = answer.trip


@asynccontextmanager
async def watching(school: School, trip: pb.Trip, after: Any = None) -> AsyncIterator[Viewer]:
    request = pb.WatchTripRequest(trip_id=trip.id, after=after)
    viewer = Viewer(school.stub().WatchTrip(request))
    yield viewer
    await drained(viewer.call)


async def test_a_viewer_catches_up_follows_and_hears_of_the_end(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 30)
    await school.upload(track(trip, driven[:10]))
    async with watching(school, trip) as viewer:
        assert await viewer.sees(10) == driven[:10]
        await school.upload(track(trip, driven[10:20]))
        assert await viewer.sees(20) == driven[:20]
        await school.upload(track(trip, driven[20:]))
        ended = await school.end_trip(trip, moment(driven[-1].time))
        last = await viewer.sees_the_end()
    assert viewer.points == driven
    assert (last.status, last.end_time) == (pb.TRIP_STATUS_ENDED, ended.end_time)


async def test_a_viewer_of_an_ended_trip_sees_all_of_it(school: School) -> None:
    trip = await school.start_trip(now() - timedelta(hours=2))
    driven = way(trip, 2_500)
    await school.upload(dense(trip, driven))
    ended = await school.end_trip(trip, moment(driven[-1].time))
    async with watching(school, trip) as viewer:
        assert await viewer.sees_the_end() == ended
    assert viewer.points == driven


async def test_a_viewer_resumes_behind_the_last_point_seen(school: School) -> None:
    trip, driven = await school.drive(20, ended=True)
    async with watching(school, trip, after=driven[12].time) as viewer:
        await viewer.sees_the_end()
    assert viewer.points == driven[13:]
    async with watching(school, trip, after=driven[-1].time) as viewer:
        await viewer.sees_the_end()
    assert viewer.points == []


async def test_points_older_than_the_last_one_seen_are_not_told_late(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 15)
    await school.upload(track(trip, driven[5:10]))
    async with watching(school, trip) as viewer:
        await viewer.sees(5)
        await school.upload(track(trip, driven[:5]))
        await school.upload(track(trip, driven[10:]))
        await viewer.sees(10)
    assert times(viewer.points) == times(driven[5:])


async def test_a_viewer_sees_points_that_another_process_stored(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 6)
    async with school.second_process() as elsewhere, watching(school, trip) as viewer:
        await elsewhere.upload(track(trip, driven[:3]))
        assert await viewer.sees(3) == driven[:3]
        await elsewhere.upload(track(trip, driven[3:]))
        assert await viewer.sees(6) == driven
        await elsewhere.end_trip(trip)
        await viewer.sees_the_end()


async def test_a_viewer_is_told_when_the_server_goes(school: School) -> None:
    trip = await school.start_trip()
    async with school.second_process() as leaving, watching(leaving, trip) as viewer:
        await school.upload(track(trip, way(trip, 1)))
        await viewer.sees(1)
        draining = asyncio.create_task(leaving.service.server.drain())
        refusal = await refused(viewer.sees_the_end())
        await draining
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")


async def test_a_viewer_is_told_when_the_token_expires(school: School) -> None:
    trip = await school.start_trip()
    stub = school.stub(ttl=timedelta(seconds=2))
    refusal = await refused_stream(stub.WatchTrip(pb.WatchTripRequest(trip_id=trip.id)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
