"""Lessons and trips meet: booking is asked for a trip's lesson, and hears how far it went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import jwt
import pytest

from driveflow.booking.v1 import booking_pb2
from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking import lessons, maintenance
from tests.booking import lives
from tests.booking import stories as booking_stories
from tests.postgres import Database
from tests.serving import at
from tests.street import Street
from tests.tracking.stories import School, moment, refused, track, way
from tests.waiting import PATIENCE_S, eventually

ASKED_AT = 'SELECT "lessonAskedAt" FROM tracking."Trip" WHERE id = %s'


class Mute:
    """A booking that takes in every question and answers none."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def hear(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        self.tokens.append(str(metadata["authorization"]).removeprefix("Bearer "))
        await asyncio.sleep(PATIENCE_S)
        return b""


@pytest.fixture
def street(database: Database, tmp_path: Path) -> Street:
    return Street(database, tmp_path)


@pytest.fixture
async def mute(street: Street) -> AsyncIterator[Mute]:
    """What listens where booking should."""
    server, mute = grpc.aio.server(), Mute()
    methods: dict[str, Any] = {"GetLesson": grpc.unary_unary_rpc_method_handler(mute.hear)}
    service = booking_pb2.DESCRIPTOR.services_by_name["BookingService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    server.add_insecure_port(f"127.0.0.1:{street.booking_port}")
    await server.start()
    yield mute
    await server.stop(None)


async def start(school: School, lesson: object, request_id: str = "") -> pb.Trip:
    request = pb.StartTripRequest(lesson_id=str(lesson), request_id=request_id)
    return await school.stub().StartTrip(request)


async def lesson_of(booked: booking_stories.School) -> str:
    """A lesson under way."""
    booking = await lives.started(booked)
    request = booking_pb2.ListLessonsRequest(booking_id=booking.id)
    return (await booked.bookings().ListLessons(request)).lessons[0].id


async def trips(school: School) -> int:
    query = 'SELECT count(*)::int FROM tracking."Trip" WHERE "orgId" = %s'
    return int((await school.rows(query, school.org_id))[0][0])


async def test_a_trip_of_a_lesson_under_way_is_verified(street: Street) -> None:
    async with street.both() as (booked, school):
        lesson = await lesson_of(booked)
        trip = await start(school, lesson)
        assert (trip.lesson_id, trip.lesson_verified) == (lesson, True)
        assert (await school.trip(trip)).lesson_verified


async def test_anothers_lesson_is_refused_as_one_that_nobody_has(street: Street) -> None:
    async with street.both() as (booked, school):
        foreign = await lesson_of(await booked.neighbour())
        for lesson in (foreign, uuid4()):
            refusal = await refused(start(school, lesson))
            assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "LESSON_NOT_FOUND")
            assert refusal.message == "No such lesson."
        assert await trips(school) == 0


async def test_a_trip_without_a_lesson_asks_nobody(street: Street, mute: Mute) -> None:
    async with street.tracking() as tracking:
        trip = await tracking.start_trip()
        assert not trip.lesson_verified
    assert mute.tokens == []


async def test_without_an_address_of_booking_trips_start_unverified(street: Street) -> None:
    async with street.tracking(booking_address=None) as tracking:
        trip = await start(School(tracking, street.folder), uuid4())
        assert (trip.status, trip.lesson_verified) == (pb.TRIP_STATUS_OPEN, False)


async def test_where_nobody_listens_trips_start_unverified(street: Street) -> None:
    async with street.tracking() as tracking:
        trip = await start(School(tracking, street.folder), uuid4())
        assert (trip.status, trip.lesson_verified) == (pb.TRIP_STATUS_OPEN, False)


async def test_a_booking_that_hangs_keeps_one_trip_waiting_and_not_the_next(
    street: Street, mute: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "SILENT_S", 60.0)
    async with street.tracking(booking_timeout_s=0.2) as tracking:
        school = School(tracking, street.folder)
        for _ in range(3):
            assert not (await start(school, uuid4())).lesson_verified
        assert len(mute.tokens) == 1


async def test_after_a_while_a_booking_that_hung_is_asked_again(
    street: Street, mute: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "SILENT_S", 0.0)
    async with street.tracking(booking_timeout_s=0.2) as tracking:
        school = School(tracking, street.folder)
        for _ in range(2):
            await start(school, uuid4())
    assert len(mute.tokens) == 2


async def test_booking_is_asked_with_trackings_own_token_of_the_callers_school(
    street: Street, mute: Mute
) -> None:
    async with street.tracking(booking_timeout_s=0.2) as tracking:
        school = School(tracking, street.folder)
        await start(school, uuid4())
    (token,) = mute.tokens
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["scope"]) == ("service:tracking", "booking:read")
    assert UUID(claims["org_id"]) == school.org_id


async def test_half_of_a_hurried_callers_time_is_left_for_the_trip(
    street: Street, mute: Mute
) -> None:
    async with street.tracking(booking_timeout_s=60.0) as tracking:
        school = School(tracking, street.folder)
        request = pb.StartTripRequest(lesson_id=str(uuid4()))
        for _ in range(2):
            trip = await school.stub().StartTrip(request, timeout=3.0)
            assert not trip.lesson_verified
    assert len(mute.tokens) == 2, "a caller in a hurry says nothing about booking"


async def test_a_start_that_is_repeated_answers_as_before_whatever_booking_says_now(
    street: Street,
) -> None:
    request_id, lesson = str(uuid4()), uuid4()
    async with street.round_the_corner().tracking() as tracking:
        school = School(tracking, street.folder)
        first = await start(school, lesson, request_id)
    async with street.booking(), street.tracking() as tracking:
        school = School(tracking, street.folder, school.org_id)
        assert await start(school, lesson, request_id) == first
        assert (await refused(start(school, lesson))).reason == "LESSON_NOT_FOUND"


async def test_a_lesson_is_verified_once_booking_answers_again(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_S", 0.1)
    monkeypatch.setattr(lessons, "SILENT_S", 0.1)
    async with AsyncExitStack() as stack:
        async with street.round_the_corner().booking() as booking:
            booked = await booking_stories.School.furnished(booking)
            lesson = await lesson_of(booked)
        tracking = await stack.enter_async_context(street.tracking())
        school = School(tracking, street.folder, booked.org_id)
        trip = await start(school, lesson)
        assert (trip.lesson_verified, trip.version) == (False, 1)
        await stack.enter_async_context(street.booking())

        async def verified() -> bool:
            return (await school.trip(trip)).lesson_verified

        await eventually(verified)
        assert (await school.trip(trip)).version == 2


async def test_a_lesson_that_booking_does_not_know_is_asked_for_once_a_day(
    street: Street,
) -> None:
    async with street.tracking(booking_address=None) as tracking:
        school = School(tracking, street.folder)
        trip = await start(school, uuid4())
        async with street.booking(), street.verification(tracking.clock) as verification:
            asked: list[datetime] = []
            for hours in (0, 23, 25, 31 * 24):
                tracking.clock.ahead = timedelta(hours=hours)
                await verification.round()
                asked += (await school.rows(ASKED_AT, trip.id))[0]
        assert asked[0] is not None
        assert asked[0] == asked[1] < asked[2] == asked[3]
        assert not (await school.trip(trip)).lesson_verified


async def test_a_dead_booking_is_asked_once_a_round(street: Street, mute: Mute) -> None:
    async with street.tracking(booking_address=None) as tracking:
        for school in (School(tracking, street.folder), School(tracking, street.folder)):
            for _ in range(2):
                await start(school, uuid4())
        async with street.verification(tracking.clock) as verification:
            await verification.round()
    assert len(mute.tokens) == 1


async def test_a_lesson_learns_how_far_its_drive_went(street: Street) -> None:
    async with street.both() as (booked, school):
        lesson = await lesson_of(booked)
        request = pb.StartTripRequest(lesson_id=lesson)
        request.start_time.CopyFrom(at(school.service.clock() - timedelta(minutes=5)))
        trip = await school.stub().StartTrip(request)
        driven = way(trip, 120)
        await school.upload(track(trip, driven))
        ended = await school.end_trip(trip, moment(driven[-1].time))

        async def told() -> bool:
            return bool((await read(booked, lesson)).trip_id)

        await eventually(told)
        found = await read(booked, lesson)
        assert found.trip_id == trip.id
        assert found.distance_meters == pytest.approx(ended.summary.distance_meters)
        assert found.distance_meters > 1_000
        assert moment(found.drive_start_time) == moment(trip.start_time)
        assert moment(found.drive_end_time) == moment(ended.end_time)


async def read(booked: booking_stories.School, lesson: str) -> booking_pb2.Lesson:
    return await booked.bookings().GetLesson(booking_pb2.GetLessonRequest(lesson_id=lesson))
