"""A payment has succeeded: its booking takes place, or payments is told to give the money back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
import pytest_asyncio

from driveflow.booking.v1 import booking_pb2 as pb
from driveflow.booking.v1 import directory_pb2 as directory
from libs.client import refusal
from services.booking import locks
from tests import postgres
from tests.booking import lives, paying
from tests.booking.lives import moment
from tests.booking.paying import Intake, Office
from tests.booking.stories import School, morning, on, request_id
from tests.postgres import Database
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIRMED, EXPIRED = pb.BOOKING_STATUS_CONFIRMED, pb.BOOKING_STATUS_EXPIRED
HELD, CANCELLED = pb.BOOKING_STATUS_HELD, pb.BOOKING_STATUS_CANCELLED
ACCEPTED = pb.WAITLIST_STATUS_ACCEPTED
LATE = timedelta(minutes=30, seconds=1)
"""After a hold was made it is over."""
SECOND = timedelta(seconds=1)
Told = list[tuple[str, str, int, dict[str, Any]]]


@pytest.fixture(scope="module")
def own_database(template: Database) -> Iterator[Database]:
    with postgres.copied(template) as copy:
        yield copy


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def office(
    own_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Office]:
    async with paying.office(own_database, tmp_path_factory.mktemp("paid")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def school(office: Office) -> AsyncIterator[School]:
    service = office.booking.service
    async with AsyncExitStack() as connections:
        yield await School.furnished(replace(service, connections=connections))
    service.clock.ahead = timedelta(0)


async def told(school: School, booking: pb.Booking) -> Told:
    """Events of a booking, in order."""
    return [event for event in await school.events("booking") if event[1] == booking.id]


async def history(school: School, booking: pb.Booking) -> list[tuple[int, str, str]]:
    request = pb.ListBookingTransitionsRequest(booking_id=booking.id)
    answer = await school.bookings().ListBookingTransitions(request)
    return [(each.to_status, each.actor, each.reason) for each in answer.transitions]


async def lapse(school: School, office: Office) -> None:
    """All that is held expires, and is marked so."""
    school.service.clock.ahead += LATE
    await office.booking.sweep(school)


async def unfulfilled(school: School, booking: pb.Booking, payment_id: str, reason: str) -> None:
    """Its last event says why the payment is to be given back; nothing else has happened to it."""
    assert await school.rows(PARKED, payment_id) == []
    after = await lives.read(school, booking)
    kind, _, version, payload = (await told(school, booking))[-1]
    assert (kind, version) == ("booking.unfulfillable", int(after.etag))
    assert (payload["payment_id"], payload["reason"]) == (payment_id, reason)
    assert payload["price_cents"] == booking.price_cents
    actor, action, before, changed = (await school.audit("booking", booking.id))[-1]
    assert (actor, action) == ("service:payments", "decline_payment")
    assert before == {"version": version - 1}
    assert changed == {"version": version, "payment_id": payment_id, "reason": reason}


PARKED = 'SELECT "lastError" FROM booking."ParkedEvent" WHERE "aggregateId" = %s'


# --- in time ---


@pytest.mark.parametrize("made", [lives.held, lives.requested])
async def test_what_waits_is_confirmed_by_its_payment(
    school: School, office: Office, made: Callable[[School], Awaitable[pb.Booking]]
) -> None:
    booking = await made(school)
    payment_id = await office.payments.pay(school, booking)
    after = await lives.read(school, booking)
    assert (after.status, after.etag) == (CONFIRMED, "2")
    assert not after.HasField("hold_expire_time")
    step = (CONFIRMED, "service:payments", f"payment {payment_id}")
    assert (await history(school, booking))[-1] == step
    actor, action, before, changed = (await school.audit("booking", booking.id))[-1]
    assert (actor, action) == ("service:payments", "confirm")
    assert (before["version"], changed) == (1, {"status": "confirmed", "version": 2})
    kind, _, version, payload = (await told(school, booking))[-1]
    assert (kind, version, payload["status"]) == ("booking.confirmed", 2, "confirmed")


async def test_who_has_read_a_booking_before_reads_that_it_was_paid(
    school: School, office: Office
) -> None:
    booking = await lives.held(school)
    request = pb.GetBookingRequest(booking_id=booking.id)
    assert (await school.bookings().GetBooking(request)).status == HELD
    await office.payments.pay(school, booking)

    async def is_seen() -> bool:
        return (await school.bookings().GetBooking(request)).status == CONFIRMED

    await eventually(is_seen)


async def test_who_pays_for_what_he_was_offered_waits_no_longer(
    school: School, office: Office
) -> None:
    taken = await lives.confirmed(school)
    entry = pb.WaitlistEntry(
        student_id=school.students[1].id,
        service_id=school.lesson.id,
        instructor_id=taken.instructor_id,
        start_time=taken.start_time,
        end_time=taken.end_time,
    )
    request = pb.JoinWaitlistRequest(waitlist_entry=entry, request_id=request_id())
    joined = await school.bookings().JoinWaitlist(request)
    await school.bookings().CancelBooking(pb.CancelBookingRequest(booking_id=taken.id))
    await office.booking.sweep(school)
    (offered,) = await waitlist(school)
    await office.payments.pay(school, await lives.read(school, pb.Booking(id=offered.booking_id)))
    (accepted,) = await waitlist(school)
    assert (accepted.id, accepted.status) == (joined.id, ACCEPTED)
    assert (await school.audit("waitlist_entry", joined.id))[-1][:2] == (
        "service:payments",
        "accept",
    )


async def waitlist(school: School) -> list[pb.WaitlistEntry]:
    answer = await school.bookings().ListWaitlist(pb.ListWaitlistRequest())
    return list(answer.waitlist_entries)


@pytest.mark.parametrize("made", [lives.confirmed, lives.started, lives.completed, lives.missed])
async def test_a_booking_that_takes_place_anyway_stays_as_it_is(
    school: School, office: Office, made: Callable[[School], Awaitable[pb.Booking]]
) -> None:
    booking = await made(school)
    before = (await lives.read(school, booking), await told(school, booking))
    payment_id = await office.payments.pay(school, booking)
    assert await office.payments.parked(payment_id) == []
    assert (await lives.read(school, booking), await told(school, booking)) == before


async def test_other_news_of_a_payment_changes_nothing(school: School, office: Office) -> None:
    """A payment that failed leaves the hold alone: another card may follow."""
    booking = await lives.held(school)
    for kind in ("created", "processing", "failed", "cancelled", "refunded", "disputed"):
        payment_id = await office.payments.pay(school, booking, kind)
        assert await school.rows(PARKED, payment_id) == []
    assert await lives.read(school, booking) == booking
    await office.payments.pay(school, booking)
    assert (await lives.read(school, booking)).status == CONFIRMED


# --- too late ---


async def test_an_expired_booking_takes_its_slot_again_if_it_is_free(
    school: School, office: Office
) -> None:
    booking = await lives.held(school)
    await lapse(school, office)
    # Now it starts sooner than the school's notice allows: the student had booked in time.
    school.service.clock.set(moment(booking.start_time) - timedelta(minutes=5))
    await office.payments.pay(school, booking)
    after = await lives.read(school, booking)
    assert (after.status, after.etag, after.price_cents) == (CONFIRMED, "3", booking.price_cents)
    assert [each[0] for each in await history(school, booking)] == [HELD, EXPIRED, CONFIRMED]
    kinds = [(kind, version) for kind, _, version, _ in await told(school, booking)]
    assert kinds == [("booking.held", 1), ("booking.expired", 2), ("booking.confirmed", 3)]


async def test_an_overdue_hold_that_nobody_swept_is_as_an_expired_one(
    school: School, office: Office
) -> None:
    booking = await lives.held(school)
    school.service.clock.ahead += LATE
    await office.payments.pay(school, booking)
    assert (await lives.read(school, booking)).status == CONFIRMED
    assert [each[:2] for each in await history(school, booking)] == [
        (HELD, "office"),
        (EXPIRED, "booking"),
        (CONFIRMED, "service:payments"),
    ]


async def test_a_slot_that_another_has_by_now_is_his(school: School, office: Office) -> None:
    booking = await lives.held(school)
    await lapse(school, office)
    holder = await lives.confirmed(school, student=school.students[1])
    payment_id = await office.payments.pay(school, booking)
    await unfulfilled(school, booking, payment_id, "SLOT_TAKEN")
    assert (await lives.read(school, booking)).status == EXPIRED
    assert await lives.read(school, holder) == holder
    assert len(await told(school, holder)) == 2


async def test_a_vehicle_or_a_student_elsewhere_is_taken_as_well(
    school: School, office: Office
) -> None:
    booking = await lives.held(school, vehicle=school.vehicle)
    await lapse(school, office)
    other = school.instructors[1]
    student, stranger, _ = school.students
    for who, vehicle in ((student, None), (stranger, school.vehicle)):
        taken = await lives.held(school, instructor=other, student=who, vehicle=vehicle)
        payment_id = await office.payments.pay(school, booking)
        await unfulfilled(school, booking, payment_id, "SLOT_TAKEN")
        await school.bookings().CancelBooking(pb.CancelBookingRequest(booking_id=taken.id))
    await office.payments.pay(school, booking)
    assert (await lives.read(school, booking)).status == CONFIRMED


async def test_an_overdue_hold_of_another_is_not_in_the_way(school: School, office: Office) -> None:
    """Though the constraints, which know no clock, would take it for a live one."""
    booking = await lives.held(school)
    await lapse(school, office)
    other = await lives.held(school, student=school.students[1])
    school.service.clock.ahead += LATE
    await office.payments.pay(school, booking)
    assert (await lives.read(school, booking)).status == CONFIRMED
    assert (await lives.read(school, other)).status == EXPIRED
    assert (await told(school, other))[-1][0] == "booking.expired"


async def test_the_constraints_have_the_last_word(school: School, office: Office) -> None:
    """By today's rules it looks free: lessons are shorter now, and its second half is taken."""
    booking = await lives.held(school)
    await lapse(school, office)
    shorter = directory.Service(id=school.lesson.id, duration_minutes=15)
    await school.directory().UpdateService(directory.UpdateServiceRequest(service=shorter))
    await school.directory().UpdateInstructor(
        directory.UpdateInstructorRequest(
            instructor=directory.Instructor(id=booking.instructor_id, travel_buffer_minutes=0)
        )
    )
    middle = moment(booking.start_time) + timedelta(minutes=30)
    holder = await lives.held(school, middle, student=school.students[1])
    payment_id = await office.payments.pay(school, booking)
    await unfulfilled(school, booking, payment_id, "SLOT_TAKEN")
    assert await lives.read(school, holder) == holder


async def into_the_past(school: School, booking: pb.Booking) -> None:
    school.service.clock.set(moment(booking.start_time) + SECOND)


async def deactivate_instructor(school: School, booking: pb.Booking) -> None:
    idle = directory.Instructor(id=booking.instructor_id, active=False)
    await school.directory().UpdateInstructor(directory.UpdateInstructorRequest(instructor=idle))


async def deactivate_vehicle(school: School, booking: pb.Booking) -> None:
    idle = directory.Vehicle(id=booking.vehicle_id, active=False)
    await school.directory().UpdateVehicle(directory.UpdateVehicleRequest(vehicle=idle))


async def erase_student(school: School, booking: pb.Booking) -> None:
    request = directory.EraseStudentRequest(student_id=booking.student_id)
    await school.directory().EraseStudent(request)


async def close_the_day(school: School, booking: pb.Booking) -> None:
    day = moment(booking.start_time).astimezone(school.zone).date()
    closed = directory.AvailabilityException(instructor_id=booking.instructor_id, date=on(day))
    request = directory.CreateAvailabilityExceptionRequest(exception=closed)
    await school.directory().CreateAvailabilityException(request)


async def suspend(school: School, booking: pb.Booking) -> None:
    await school.suspend()


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (into_the_past, "IN_THE_PAST"),
        (deactivate_instructor, "INSTRUCTOR_INACTIVE"),
        (deactivate_vehicle, "VEHICLE_INACTIVE"),
        (erase_student, "STUDENT_ERASED"),
        (close_the_day, "OUTSIDE_AVAILABILITY"),
        (suspend, "ORG_SUSPENDED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_can_no_longer_take_place_is_given_back(
    school: School, office: Office, happens: Callable[..., Awaitable[None]], reason: str
) -> None:
    booking = await lives.held(school, vehicle=school.vehicle)
    await lapse(school, office)
    await happens(school, booking)
    payment_id = await office.payments.pay(school, booking)
    await unfulfilled(school, booking, payment_id, reason)
    assert (await lives.read(school, booking)).status == EXPIRED


async def test_a_suspended_school_confirms_nothing_that_is_paid(
    school: School, office: Office
) -> None:
    booking = await lives.held(school)
    await school.suspend()
    payment_id = await office.payments.pay(school, booking)
    await unfulfilled(school, booking, payment_id, "ORG_SUSPENDED")
    assert (await lives.read(school, booking)).status == HELD


async def test_each_payment_of_a_cancelled_booking_is_given_back(
    school: School, office: Office
) -> None:
    booking = await lives.cancelled(school)
    for _ in range(2):
        payment_id = await office.payments.pay(school, booking)
        await unfulfilled(school, booking, payment_id, "CANCELLED")
    after = await lives.read(school, booking)
    assert (after.status, after.etag) == (CANCELLED, "4")
    assert [each[0] for each in await history(school, booking)] == [HELD, CANCELLED]


# --- what is wrong, or comes twice ---


async def test_a_payment_of_anothers_booking_is_parked_and_changes_nothing(
    school: School, office: Office
) -> None:
    booking, other = await lives.held(school), await school.neighbour()
    unknown = pb.Booking(id=str(uuid4()), instructor_id=booking.instructor_id)
    before = (await lives.read(school, booking), await told(school, booking))
    for wrong in (booking, unknown):
        payment_id = await office.payments.pay(other, wrong)
        assert await office.payments.parked(payment_id) == ["BOOKING_NOT_FOUND"]
    assert (await lives.read(school, booking), await told(school, booking)) == before
    assert await other.events("booking") == []


async def test_the_same_event_delivered_again_does_nothing_more(
    school: School, own_database: Database, tmp_path: Path
) -> None:
    start = morning(school)
    bookings = [
        await lives.held(school, start),
        await lives.expired(school, start + timedelta(hours=2)),
        await lives.cancelled(school, start + timedelta(hours=4)),
    ]
    async with paying.intake(own_database, tmp_path, school.service.clock) as intake:
        batch = [intake.paid(school, booking) for booking in bookings]
        await intake.take(batch)
        once = [await told(school, booking) for booking in bookings]
        await intake.take(batch)
    kinds = [events[-1][0] for events in once]
    assert kinds == ["booking.confirmed", "booking.confirmed", "booking.unfulfillable"]
    assert [await told(school, booking) for booking in bookings] == once


# --- at the same time ---


async def test_a_calendar_that_someone_is_at_is_not_waited_for_long(
    school: School, own_database: Database, tmp_path: Path
) -> None:
    booking = await lives.held(school)
    free = await lives.held(school, instructor=school.instructors[1], student=school.students[1])
    school.service.clock.ahead += LATE
    key = locks.key(school.org_id, "instructor", UUID(booking.instructor_id))
    async with paying.intake(own_database, tmp_path, school.service.clock) as intake:
        with psycopg.connect(own_database.admin_dsn) as placing:
            placing.execute("SELECT pg_advisory_xact_lock(%s)", [key])
            await intake.take([intake.paid(school, each) for each in (booking, free)])
        # Who was in nobody's way is through, the other is tried again.
        assert (await lives.read(school, free)).status == CONFIRMED
        assert (await lives.read(school, booking)).etag == booking.etag
        assert await intake.parked() == ["LockNotAvailable CONFLICT"]
        assert await intake.retry_all() == 1
    assert (await lives.read(school, booking)).status == CONFIRMED


async def test_a_booking_that_moves_meanwhile_is_judged_where_it_went(
    school: School, own_database: Database, tmp_path: Path
) -> None:
    booking, elsewhere = await lives.held(school), school.instructors[1].id
    school.service.clock.ahead += LATE
    async with (
        paying.intake(own_database, tmp_path, school.service.clock) as intake,
        await psycopg.AsyncConnection.connect(own_database.admin_dsn) as call,
    ):
        await call.execute(MOVE, [elsewhere, booking.id])
        taking = asyncio.create_task(intake.take([intake.paid(school, booking)]))
        await eventually(lambda: waits(school))
        await call.commit()
        await taking
        # It had locked the other calendar, or could not wait for the move to end.
        assert await intake.parked() in (["CONFLICT"], ["LockNotAvailable CONFLICT"])
        assert await intake.retry_all() == 1
    after = await lives.read(school, booking)
    assert (after.status, after.instructor_id) == (CONFIRMED, elsewhere)


MOVE = b'UPDATE booking."Booking" SET "instructorId" = %s WHERE id = %s'


async def test_a_call_that_locks_the_other_way_round_is_not_cancelled_for_it(
    school: School, own_database: Database, tmp_path: Path
) -> None:
    start = morning(school)
    bookings = [await lives.held(school, start + timedelta(hours=each)) for each in (0, 2)]
    async with (
        paying.intake(own_database, tmp_path, school.service.clock) as intake,
        await psycopg.AsyncConnection.connect(own_database.admin_dsn) as call,
    ):
        await call.execute("SET deadlock_timeout = '800ms'")
        await call.execute(LOCK, [bookings[1].id])
        taking = asyncio.create_task(intake.take([intake.paid(school, each) for each in bookings]))
        await eventually(lambda: waits(school))
        await call.execute(LOCK, [bookings[0].id])
        await taking
        await call.rollback()
        await intake.retry_all()
    for each in bookings:
        after = await lives.read(school, each)
        assert (after.status, after.etag) == (CONFIRMED, "2")


LOCK = b'SELECT id FROM booking."Booking" WHERE id = %s FOR UPDATE'


async def waits(school: School) -> bool:
    """Whether someone waits for a row's lock."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    return await school.rows(query) == [(1,)]


async def test_payments_and_placements_at_once_lose_no_event_and_share_no_slot(
    school: School, office: Office, own_database: Database, tmp_path: Path
) -> None:
    schools = [school, await school.neighbour()]
    late = [(each, booking) for each in schools for booking in await held_by_two(each)]
    # For most of their slots there is another student.
    others = [(*each, await each[0].add_student()) for no, each in enumerate(late) if no % 3]
    school.service.clock.ahead += LATE
    await office.booking.sweep(school)  # in the other school they are overdue, no more
    clock = school.service.clock
    async with (
        paying.intake(own_database, tmp_path, clock) as one,
        paying.intake(own_database, tmp_path, clock) as another,
    ):
        calls = [place(*each) for each in others]
        _, _, *refusals = await asyncio.gather(
            take(one, late[::2]), take(another, late[:0:-2]), *calls
        )
        await one.retry_all()
        await another.retry_all()
    outcomes = Counter([(await told(*each))[-1][0] for each in late])
    assert outcomes.keys() == {"booking.confirmed", "booking.unfulfillable"}
    assert set(refusals) <= {None, "SLOT_TAKEN", "CONFLICT"}
    assert outcomes["booking.unfulfillable"] == refusals.count(None)
    for each in schools:
        assert await each.rows(LIVE, each.org_id) == [(len(late) // 2,)]


async def take(intake: Intake, paid: list[tuple[School, pb.Booking]]) -> None:
    """Payments of these, a few in each transaction."""
    events = [intake.paid(*each) for each in paid]
    for start in range(0, len(events), 6):
        await intake.take(events[start : start + 6])


async def held_by_two(school: School) -> list[pb.Booking]:
    """Lessons of two instructors with a student each, at the same times of three days."""
    pairs = list(zip(school.instructors, school.students, strict=False))
    return [
        await lives.held(school, morning(school, day, hour), instructor=teacher, student=student)
        for day in (3, 4, 5)
        for hour in (9, 12, 15)
        for teacher, student in pairs
    ]


async def place(school: School, late: pb.Booking, student: directory.Student) -> str | None:
    """Hold its slot for another student; why that was refused, if it was."""
    request = pb.HoldSlotRequest(
        instructor_id=late.instructor_id,
        service_id=late.service_id,
        start_time=late.start_time,
        student_id=student.id,
        request_id=request_id(),
    )
    try:
        await school.bookings().HoldSlot(request)
    except grpc.aio.AioRpcError as error:
        return refusal(error).reason
    return None


LIVE = """
SELECT count(*) FROM booking."Booking" WHERE "orgId" = %s AND status IN ('held', 'confirmed')
"""
