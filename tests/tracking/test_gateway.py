"""The gateway client against the real service."""

from __future__ import annotations

import time
import uuid

import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from libs.gateway import Fix, Gateway, StreamRefused, dense_track, plain_track
from tests.tracking.conftest import Tracking

SCOPES = ("tracking:read", "tracking:write")


@pytest.fixture
def stub(tracking: Tracking) -> TrackingServiceStub:
    return tracking.stub(tracking.token(org_id=uuid.uuid4(), scopes=SCOPES))


async def start(stub: TrackingServiceStub) -> tuple[str, int]:
    """A trip that began a minute ago, and when."""
    start_us = (int(time.time()) - 60) * 1_000_000
    request = pb.StartTripRequest()
    request.start_time.FromMicroseconds(start_us)
    return (await stub.StartTrip(request)).id, start_us


def fixes(start_us: int, count: int) -> list[Fix]:
    return [Fix(start_us + n * 1_000_000, 47 + n / 1e4, 8.5, 30.0) for n in range(count)]


async def stored(stub: TrackingServiceStub, trip_id: str) -> list[int]:
    page = await stub.ListTripPoints(pb.ListTripPointsRequest(trip_id=trip_id, page_size=1_000))
    return [point.time.ToMicroseconds() for point in page.points]


async def test_dense_and_plain_points_are_stored_alike(stub: TrackingServiceStub) -> None:
    trip_id, start_us = await start(stub)
    driven = fixes(start_us, 60)
    async with Gateway(stub, gateway="test") as gateway:
        await gateway.send([dense_track(trip_id, *zip(*driven[:30], strict=True))])
        await gateway.send([plain_track(trip_id, driven[30:])])
    assert gateway.totals.stored == 60
    assert await stored(stub, trip_id) == [fix.time_us for fix in driven]


async def test_the_same_points_in_another_upload_are_duplicates(stub: TrackingServiceStub) -> None:
    trip_id, start_us = await start(stub)
    for expected in ((20, 0), (0, 20)):
        async with Gateway(stub) as gateway:
            await gateway.send([plain_track(trip_id, fixes(start_us, 20))])
        assert (gateway.totals.stored, gateway.totals.duplicates) == expected


async def test_an_upload_goes_on_where_an_earlier_run_left_it(stub: TrackingServiceStub) -> None:
    trip_id, start_us = await start(stub)
    upload_id = str(uuid.uuid4())
    for first in (0, 10):
        async with Gateway(stub, upload_id) as gateway:
            await gateway.send([plain_track(trip_id, fixes(start_us, 20)[first : first + 10])])
            await gateway.flush()
            assert gateway.durable_through == 1 + first // 10
    assert len(await stored(stub, trip_id)) == 20


async def test_points_that_cannot_be_stored_are_named_by_reason(stub: TrackingServiceStub) -> None:
    trip_id, start_us = await start(stub)
    odd = [Fix(start_us, 91, 8.5), Fix(None, 47, 8.5), Fix(start_us - 10**10, 47, 8.5)]
    async with Gateway(stub) as gateway:
        await gateway.send([plain_track(trip_id, [*odd, *fixes(start_us, 5)])])
    assert (gateway.totals.stored, gateway.totals.rejected) == (5, 3)
    assert gateway.totals.reasons == {"LAT_OUT_OF_RANGE": 1, "TIME_INVALID": 1, "BEFORE_TRIP": 1}


async def test_the_gateway_that_opens_last_supersedes_the_other(stub: TrackingServiceStub) -> None:
    trip_id, start_us = await start(stub)
    upload_id = str(uuid.uuid4())
    older = Gateway(stub, upload_id)
    with pytest.raises(StreamRefused, match="STREAM_SUPERSEDED"):
        await supersede(older, Gateway(stub, upload_id), trip_id, start_us)


async def supersede(older: Gateway, newer: Gateway, trip_id: str, start_us: int) -> None:
    async with older:
        await older.send([plain_track(trip_id, fixes(start_us, 1))])
        await older.flush()
        async with newer:
            await newer.send([plain_track(trip_id, fixes(start_us, 2))])
        await older.send([plain_track(trip_id, fixes(start_us, 3))])
        await older.flush()
