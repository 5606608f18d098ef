"""The same request twice has one effect and one answer."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import grpc
import psycopg
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import refusal
from tests.serving import OTHER_SCHOOL, Tracking


def request(**changes: object) -> pb.StartTripRequest:
    asked = pb.StartTripRequest(request_id=str(uuid.uuid4()))
    for name, value in changes.items():
        setattr(asked, name, value)
    return asked


def trips(tracking: Tracking) -> int:
    with psycopg.connect(tracking.database.admin_dsn) as admin:
        row = admin.execute('SELECT count(*) FROM tracking."Trip"').fetchone()
        return int(row[0]) if row else 0


async def test_the_same_request_gets_the_same_answer(tracking: Tracking) -> None:
    asked = request(lesson_id=str(uuid.uuid4()))
    answers = [await tracking.stub().StartTrip(asked) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert trips(tracking) == 1


async def test_the_same_request_many_times_at_once_has_one_effect(tracking: Tracking) -> None:
    stub, asked = tracking.stub(), request()
    answers = await asyncio.gather(*(stub.StartTrip(asked) for _ in range(20)))
    assert len({answer.id for answer in answers}) == 1
    assert trips(tracking) == 1


async def test_an_id_is_of_one_body(tracking: Tracking) -> None:
    asked = request()
    await tracking.stub().StartTrip(asked)
    asked.vehicle_id = str(uuid.uuid4())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tracking.stub().StartTrip(asked)
    answer = refusal(caught.value)
    assert (answer.code, answer.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
    )
    assert trips(tracking) == 1


async def test_an_id_is_of_one_subject_one_school_and_one_method(tracking: Tracking) -> None:
    asked = request()
    tokens = (
        tracking.token(),
        tracking.token(subject="gateway-2"),
        tracking.token(OTHER_SCHOOL),
    )
    answers = [await tracking.stub(token).StartTrip(asked) for token in tokens]
    assert len({answer.id for answer in answers}) == 3
    ending = pb.EndTripRequest(trip_id=answers[0].id, request_id=asked.request_id)
    await tracking.stub().EndTrip(ending)


async def test_a_request_that_failed_may_be_tried_again_under_its_id(tracking: Tracking) -> None:
    trip = await tracking.start_trip()
    asked = pb.EndTripRequest(trip_id=trip.id, request_id=str(uuid.uuid4()))
    asked.end_time.FromDatetime(tracking.clock() + timedelta(hours=1))
    with pytest.raises(grpc.aio.AioRpcError):
        await tracking.stub().EndTrip(asked)
    tracking.clock.ahead = timedelta(hours=1)
    assert (await tracking.stub().EndTrip(asked)).status == pb.TRIP_STATUS_ENDED


async def test_an_id_counts_for_a_day(tracking: Tracking) -> None:
    asked = request()
    first = await tracking.stub().StartTrip(asked)
    with psycopg.connect(tracking.database.admin_dsn, autocommit=True) as admin:
        admin.execute('UPDATE tracking."IdempotencyKey" SET "expiresAt" = now() - interval \'1s\'')
    second = await tracking.stub().StartTrip(asked)
    assert second.id != first.id
    assert await tracking.stub().StartTrip(asked) == second
