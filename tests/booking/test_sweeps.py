"""What the leader does for each school: holds whose time is over end, and everyone hears of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
import pytest_asyncio

from driveflow.booking.v1 import booking_pb2 as pb
from services.booking import sweeps
from tests import postgres
from tests.booking import lives
from tests.booking.calendars import administer
from tests.booking.stories import School, at, morning, reason_of, request_id
from tests.booking.sweeping import Swept, swept
from tests.postgres import Database

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOLD = timedelta(minutes=30)
LATE = HOLD + timedelta(seconds=1)


@pytest.fixture(scope="module")
def own_database(template: Database) -> Iterator[Database]:
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def office(
    own_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Swept]:
    async with swept(own_database, tmp_path_factory.mktemp("sweeps")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def school(office: Swept) -> AsyncIterator[School]:
    async with AsyncExitStack() as connections:
        yield await School.furnished(replace(office.service, connections=connections))
    office.service.clock.ahead = timedelta(0)


async def expirations(school: School) -> list[str]:
    """Bookings whose end was told, in order."""
    events = await school.events("booking")
    return [event[1] for event in events if event[0] == "booking.expired"]


async def status(school: School, booking: pb.Booking) -> int:
    return (await lives.read(school, booking)).status


async def test_a_hold_ends_when_its_time_is_over_and_not_before(
    school: School, office: Swept
) -> None:
    held, requested = (
        await lives.held(school),
        await lives.requested(school, morning(school, hour=15)),
    )
    school.service.clock.ahead += HOLD - timedelta(seconds=10)
    await office.sweep(school)
    assert await status(school, held) == pb.BOOKING_STATUS_HELD
    school.service.clock.ahead += timedelta(seconds=11)
    await office.sweep(school)
    for each in (held, requested):
        assert await status(school, each) == pb.BOOKING_STATUS_EXPIRED
    assert await expirations(school) == [held.id, requested.id]


async def test_the_end_of_a_hold_is_in_its_history_its_event_and_the_audit_log(
    school: School, office: Swept
) -> None:
    held = await lives.held(school)
    school.service.clock.ahead += LATE
    await office.sweep(school)
    request = pb.ListBookingTransitionsRequest(booking_id=held.id)
    history = (await school.bookings().ListBookingTransitions(request)).transitions
    assert [(each.to_status, each.actor) for each in history] == [
        (pb.BOOKING_STATUS_HELD, "office"),
        (pb.BOOKING_STATUS_EXPIRED, "booking"),
    ]
    (_, (kind, id_, version, payload)) = await school.events("booking")
    assert (kind, id_, version, payload["status"]) == ("booking.expired", held.id, 2, "expired")
    (_, (actor, action, before, after)) = await school.audit("booking", held.id)
    assert (actor, action) == ("booking", "expire")
    assert (before["status"], after["status"]) == ("held", "expired")


async def test_what_was_confirmed_or_called_off_does_not_end(school: School, office: Swept) -> None:
    confirmed = await lives.confirmed(school)
    cancelled = await lives.cancelled(school, morning(school, hour=15))
    school.service.clock.ahead += LATE
    await office.sweep(school)
    assert await status(school, confirmed) == pb.BOOKING_STATUS_CONFIRMED
    assert await status(school, cancelled) == pb.BOOKING_STATUS_CANCELLED
    assert await expirations(school) == []


async def test_a_hold_cannot_be_confirmed_late_whether_or_not_it_was_swept(
    school: School, office: Swept
) -> None:
    held = await lives.held(school)
    school.service.clock.ahead += LATE
    for _ in range(2):
        call = school.bookings().ConfirmBooking(pb.ConfirmBookingRequest(booking_id=held.id))
        assert await reason_of(call) == ("FAILED_PRECONDITION", "HOLD_EXPIRED")
        await office.sweep(school)
    assert await expirations(school) == [held.id]


async def test_more_than_a_transaction_takes_end_in_one_sweep(
    school: School, office: Swept
) -> None:
    count = sweeps.HOLDS_A_TRANSACTION + 30
    made = await _batch(school, count)
    school.service.clock.ahead += LATE
    await office.sweep(school)
    assert sorted(await expirations(school)) == sorted(each.id for each in made)
    left = 'SELECT id FROM booking."Booking" WHERE "orgId" = %s AND status = \'requested\''
    assert await school.rows(left, school.org_id) == []


async def test_two_leaders_at_once_tell_each_end_once(school: School, office: Swept) -> None:
    made = await _batch(school, 40)
    school.service.clock.ahead += LATE
    await asyncio.gather(*(office.sweep(school) for _ in range(4)))
    await office.sweep(school)
    assert sorted(await expirations(school)) == sorted(each.id for each in made)


async def test_a_hold_that_someone_is_at_is_left_for_the_next_sweep(
    school: School, office: Swept
) -> None:
    held, other = await lives.held(school), await lives.held(school, morning(school, hour=15))
    school.service.clock.ahead += LATE
    async with _locked(school, held):
        await office.sweep(school)
        assert await expirations(school) == [other.id]
    await office.sweep(school)
    assert await expirations(school) == [other.id, held.id]


async def test_the_leader_goes_to_every_school_the_suspended_ones_too(
    school: School, office: Swept
) -> None:
    other = await school.neighbour()
    held = [await lives.held(each) for each in (school, other)]
    await other.suspend()
    school.service.clock.ahead += LATE
    await office.leader.round()
    assert await expirations(school) == [held[0].id]
    assert await expirations(other) == [held[1].id]


async def test_a_school_that_cannot_be_swept_keeps_no_other_from_it(
    school: School, office: Swept
) -> None:
    other = await school.neighbour()
    bad, good = [await lives.held(each) for each in (school, other)]
    _break(school, bad)
    school.service.clock.ahead += LATE
    try:
        await office.leader.round()
    finally:
        administer(school, 'DROP TRIGGER broken ON booking."Booking"')
    assert await expirations(school) == []
    assert await expirations(other) == [good.id]
    await office.leader.round()
    assert await expirations(school) == [bad.id]


async def _batch(school: School, count: int) -> list[pb.Booking]:
    """Requested bookings, eight a day."""
    start = morning(school, hour=8)
    wanted = [
        pb.Booking(
            student_id=school.students[0].id,
            instructor_id=school.instructors[0].id,
            service_id=school.lesson.id,
            start_time=at(start + timedelta(days=n // 8, minutes=90 * (n % 8))),
        )
        for n in range(count)
    ]
    request = pb.BatchCreateBookingsRequest(bookings=wanted, request_id=request_id())
    return list((await school.bookings().BatchCreateBookings(request)).bookings)


@asynccontextmanager
async def _locked(school: School, booking: pb.Booking) -> AsyncIterator[None]:
    """Someone is at a booking until the block ends."""
    lock = 'SELECT id FROM booking."Booking" WHERE id = %s FOR UPDATE'
    dsn = school.service.database.admin_dsn
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(lock, (booking.id,))
        yield


def _break(school: School, booking: pb.Booking) -> None:
    """Let every change of this booking fail."""
    administer(
        school,
        "CREATE OR REPLACE FUNCTION booking.broken() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE 'broken'; END $$",
    )
    administer(
        school,
        'CREATE TRIGGER broken BEFORE UPDATE ON booking."Booking" FOR EACH ROW'
        f" WHEN (OLD.id = '{uuid.UUID(booking.id)}') EXECUTE FUNCTION booking.broken()",
    )
