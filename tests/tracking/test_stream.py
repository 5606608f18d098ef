"""What a gateway may rely on when it streams points."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from driveflow.tracking.v1 import tracking_pb2 as pb

from libs.client import refusal
from tests.tracking.conftest import Tracking, points

Message = pb.StreamTripPointsRequest


def opening(upload_id: object, gateway: str = "car 7") -> Message:
    return Message(open=pb.OpenUpload(upload_id=str(upload_id), gateway=gateway))


def batch(sequence: int, trip_id: str, sent: list[pb.TripPoint]) -> Message:
    return Message(
        batch=pb.PointBatch(sequence=sequence, tracks=[pb.Track(trip_id=trip_id, points=sent)])
    )


async def acked(call: Any, through: int) -> list[pb.UploadAck]:
    """Acknowledgements up to the one that covers `through`."""
    acks = []
    while True:
        answer = await call.read()
        assert answer is not grpc.aio.EOF, await call.details()
        acks.append(answer.ack)
        if answer.ack.durable_through >= through:
            return acks


async def test_points_that_are_acknowledged_are_listed(tracking: Tracking) -> None:
    stub = tracking.stub()
    trip = await tracking.start_trip(stub)
    call = stub.StreamTripPoints()
    await call.write(opening(uuid4()))
    assert (await call.read()).opened.durable_through == 0
    sent = points(datetime.now(UTC), 100)
    await call.write(batch(1, trip.id, sent[:50]))
    await call.write(batch(2, trip.id, sent[50:]))
    acks = await acked(call, 2)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK
    assert sum(ack.stored for ack in acks) == 100
    listed = await stub.ListTripPoints(pb.ListTripPointsRequest(trip_id=trip.id, page_size=1000))
    assert [point.time for point in listed.points] == [point.time for point in sent]
    ended = await stub.EndTrip(pb.EndTripRequest(trip_id=trip.id, end_time=sent[-1].time))
    assert ended.summary.point_count == 100
