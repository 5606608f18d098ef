"""Watching bookings change."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from driveflow.booking.v1 import booking_pb2 as pb
from tests.booking import lives
from tests.booking.stories import School, morning
from tests.tracking.stories import refused_stream

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATIENCE_S = 20.0
Changes = list[pb.WatchBookingsResponse]


@asynccontextmanager
async def watching(school: School, resume_token: str = "") -> AsyncIterator[Any]:
    """A watch that hears: its first change has come before anything is told of it."""
    call = school.bookings().WatchBookings(pb.WatchBookingsRequest(resume_token=resume_token))
    yield call
    call.cancel()


async def heard(call: Any, count: int) -> Changes:
    async def read() -> Changes:
        return [await call.read() for _ in range(count)]

    return await asyncio.wait_for(read(), PATIENCE_S)


async def first_token(school: School) -> str:
    """Where to go on behind a change that has been: a watch from now on may begin too late."""
    async with watching(school) as call:
        reading = asyncio.create_task(call.read())
        for hour in range(8, 19):
            await lives.held(school, morning(school, 9, hour), student=school.students[1])
            await asyncio.wait([reading], timeout=0.5)
            if reading.done():
                break
        change: pb.WatchBookingsResponse = await reading
        return change.resume_token


async def test_changes_come_as_they_happen_in_their_order(school: School) -> None:
    token = await first_token(school)
    async with watching(school, token) as call:
        booking = await lives.completed(school)
        changes: Changes = []
        while len(changes) < 4:
            changes += [each for each in await heard(call, 1) if each.booking_id == booking.id]
    kinds = ["booking.held", "booking.confirmed", "booking.started", "booking.completed"]
    assert [each.type for each in changes] == kinds
    assert [each.version for each in changes] == [1, 2, 3, 4]
    assert changes[-1].payload["status"] == "completed"
    assert changes[-1].payload["price_cents"] == 8_000
    assert changes[-1].HasField("time")


async def test_who_comes_back_misses_nothing(school: School) -> None:
    token = await first_token(school)
    made = [(await lives.held(school, morning(school, day))).id for day in (3, 4, 5)]
    seen: list[str] = []
    for _ in range(20):
        async with watching(school, token) as call:
            (change,) = await heard(call, 1)
        token = change.resume_token
        seen += [change.booking_id] if change.booking_id in made else []
        if seen == made:
            return
    raise AssertionError(f"{made} were made, {seen} seen")


async def test_a_change_whose_commit_is_slow_is_not_missed(school: School) -> None:
    token = await first_token(school)
    slow = uuid.uuid4()
    emit = (
        'INSERT INTO booking."Outbox" ("orgId", "aggregateType", "aggregateId",'
        ' "aggregateVersion", topic, type, payload)'
        " VALUES (%s, 'booking', %s, 1, 'booking', 'booking.held', '{}')"
    )
    async with watching(school, token) as call:
        with psycopg.connect(school.service.database.admin_dsn) as admin:
            admin.execute(emit, [school.org_id, slow])
            fast = await lives.held(school, morning(school, 5))
        changes = await heard(call, 2)
    assert [each.booking_id for each in changes] == [str(slow), fast.id]


async def test_a_school_hears_of_its_own_bookings_alone(school: School) -> None:
    neighbour = await school.neighbour()
    token = await first_token(school)
    await lives.completed(neighbour)
    mine = await lives.held(school, morning(school, 3))
    async with watching(school, token) as call:
        changes = await heard(call, 1)
        while changes[-1].booking_id != mine.id:
            changes += await heard(call, 1)
    theirs = await school.rows(
        'SELECT id::text FROM booking."Booking" WHERE "orgId" = %s', neighbour.org_id
    )
    assert not {each.booking_id for each in changes} & {row[0] for row in theirs}


@pytest.mark.parametrize("token", ["x", "booking-1-1", "9" * 200])
async def test_a_token_that_is_none_is_refused(school: School, token: str) -> None:
    call = school.bookings().WatchBookings(pb.WatchBookingsRequest(resume_token=token))
    refusal = await refused_stream(call)
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "CURSOR_INVALID")
