"""What happens between booking, payments and Stripe, from end to end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import psycopg
import pytest

from driveflow.booking.v1 import booking_pb2, directory_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from tests.payments.stories import PRICE_CENTS, School
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_is_paid_as_its_hold_ends_takes_the_slot_again_if_it_is_free(
    school: School,
) -> None:
    booking = await school.hold()
    payment = await school.ask(booking)
    async with unheard(school):
        await school.pay(payment)
        other = await taken_over(school, booking)
        await school.cancel(other.id)
        await eventually(lambda: school.is_booking(booking.id, "CONFIRMED"))
    assert (await school.payment(payment)).status == pb.PAYMENT_STATUS_SUCCEEDED


async def test_what_is_paid_when_another_has_the_slot_is_given_back_in_full(
    school: School,
) -> None:
    booking = await school.hold()
    payment = await school.ask(booking)
    async with unheard(school):
        await school.pay(payment)
        other = await taken_over(school, booking)
        await school.until(payment, "REFUNDED")
    listed = await school.stub().ListRefunds(pb.ListRefundsRequest(payment_id=payment.id))
    (refund,) = listed.refunds
    assert refund.amount_cents == PRICE_CENTS
    assert refund.cause == pb.REFUND_CAUSE_BOOKING_UNFULFILLABLE
    assert await school.is_booking(booking.id, "EXPIRED")
    assert await school.is_booking(other.id, "HELD")
    assert await school.balances() == {}


@pytest.mark.parametrize("heard", ["by nobody", "by payments", "by both"])
async def test_what_was_paid_before_a_cancellation_goes_back_by_the_policy_whoever_had_heard(
    school: School, heard: str
) -> None:
    booking = await agreed(school)
    payment = await school.ask(booking)
    async with AsyncExitStack() as stack:
        if heard == "by nobody":
            await stack.enter_async_context(unheard(school))
        if heard == "by payments":
            await stack.enter_async_context(kept(school))
        await school.pay(payment)
        if heard != "by nobody":
            await school.until(payment, "SUCCEEDED")
        if heard == "by payments":
            await eventually(lambda: is_parked(school, payment))
    if heard == "by both":
        await eventually(lambda: is_heard(school, payment))
    cancelled = await school.cancel(booking.id)
    assert cancelled.refund_cents == PRICE_CENTS // 2
    await eventually(lambda: is_heard(school, payment))
    await school.until(payment, "PARTIALLY_REFUNDED")
    assert await given_back(school, payment) == PRICE_CENTS // 2


async def test_what_is_paid_after_a_cancellation_goes_back_in_full(school: School) -> None:
    booking = await agreed(school)
    payment = await school.ask(booking)
    school.fake.fault("reset_before", path="/v1/payment_intents/*/cancel", times=None)
    clock = school.booked.service.clock
    clock.ahead -= timedelta(minutes=1)
    await school.cancel(booking.id)
    clock.ahead += timedelta(minutes=1)
    await school.pay(payment)
    await school.until(payment, "REFUNDED")
    assert await given_back(school, payment) == PRICE_CENTS


async def test_an_expired_hold_takes_the_request_for_payment_back(school: School) -> None:
    booking = await school.hold()
    payment = await school.ask(booking)
    await taken_over(school, booking)
    await school.until(payment, "CANCELLED")
    (intent,) = school.fake.find_intents({"payment_id": payment.id})
    assert intent["status"] == "canceled"


async def test_a_lesson_that_was_given_makes_the_instructors_share_due(school: School) -> None:
    payment = await school.driven()
    request = pb.GetInstructorBalanceRequest(instructor_id=school.instructor.id)
    (balance,) = (await school.stub().GetInstructorBalance(request)).balances
    assert (balance.owed_cents, balance.due_cents) == (6_800, 6_800)
    assert await school.unbalanced() == []
    assert payment.status == pb.PAYMENT_STATUS_SUCCEEDED


async def test_what_is_paid_out_shows_in_the_instructors_figures(school: School) -> None:
    payment = await school.driven()
    what = pb.PaymentIds(payment_ids=[payment.id])
    request = pb.CreatePayoutRequest(instructor_id=school.instructor.id, payments=what)
    request.request_id = payment.id
    await school.stub().CreatePayout(request)
    figures = booking_pb2.GetInstructorStatsRequest(instructor_id=school.instructor.id)
    operator = school.booked.service.bookings(school.booked.service.ops_token)

    async def earned() -> bool:
        await operator.RefreshInstructorStats(booking_pb2.RefreshInstructorStatsRequest())
        found = await school.booked.bookings().GetInstructorStats(figures)
        return found.total_earnings_cents == 6_800

    await eventually(earned)


async def test_what_was_written_beside_an_erased_students_refunds_is_forgotten(
    school: School,
) -> None:
    payment = await school.paid()
    request = pb.RefundPaymentRequest(payment_id=payment.id, amount_cents=500, reason="Sam is ill")
    request.request_id = payment.id
    refund = await school.stub().RefundPayment(request)
    await school.cancel(payment.booking_id)
    student_id = school.booked.students[0].id
    erase = directory_pb2.EraseStudentRequest(student_id=student_id)
    await school.booked.directory().EraseStudent(erase)

    async def is_forgotten() -> bool:
        query = 'SELECT reason FROM payments."Refund" WHERE id = %s'
        return await school.rows(query, refund.id) == [("",)]

    await eventually(is_forgotten)


async def agreed(school: School) -> booking_pb2.Booking:
    """A booking that the office has confirmed; called off now it gives half back."""
    policy = directory_pb2.CancellationPolicy(
        full_refund_hours=720, partial_refund_hours=1, partial_refund_percent=50
    )
    org = directory_pb2.Organization(cancellation_policy=policy)
    request = directory_pb2.UpdateOrganizationRequest(organization=org)
    request.update_mask.paths.append("cancellation_policy")
    await school.booked.directory("operator").UpdateOrganization(request)
    booking = await school.hold()
    request_ = booking_pb2.ConfirmBookingRequest(booking_id=booking.id)
    return await school.booked.bookings().ConfirmBooking(request_)


@asynccontextmanager
async def kept(school: School) -> AsyncIterator[None]:
    """Nobody gets at a booking: whoever hears of a payment must try again later.

    By a lock that takes no transaction id, which would hold all events back.
    """
    dsn = school.service.database.admin_dsn
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await conn.execute('LOCK TABLE booking."Booking" IN EXCLUSIVE MODE')
        yield


async def is_parked(school: School, payment: pb.Payment) -> bool:
    query = 'SELECT 1 FROM booking."ParkedEvent" WHERE "aggregateId" = %s'
    return bool(await school.rows(query, payment.id))


async def is_heard(school: School, payment: pb.Payment) -> bool:
    """Whether booking has dealt with what payments told of a payment."""
    query = """
        SELECT (c."xactId", c.id) >= (e."xactId", e.id)
          FROM payments."Outbox" AS e, booking."EventCursor" AS c
         WHERE e."aggregateId" = %s AND e.type = 'payment.succeeded' AND c.producer = 'payments'"""
    taken = await school.rows(query, payment.id) == [(True,)]
    return taken and not await is_parked(school, payment)


async def given_back(school: School, payment: pb.Payment) -> int:
    """The sum of the refunds, once payments has dealt with all that booking told."""
    query = """
        SELECT bool_and((c."xactId", c.id) >= (e."xactId", e.id))
          FROM booking."Outbox" AS e, payments."EventCursor" AS c
         WHERE e."aggregateId" = %s AND c.producer = 'booking'"""
    await eventually(lambda: school.rows(query, payment.booking_id), [(True,)].__eq__)
    listed = await school.stub().ListRefunds(pb.ListRefundsRequest(payment_id=payment.id))
    return sum(refund.amount_cents for refund in listed.refunds)


@asynccontextmanager
async def unheard(school: School) -> AsyncIterator[None]:
    """Stripe's webhooks come late."""
    school.fake.hold_webhooks()
    try:
        yield
    finally:
        school.fake.release_webhooks()


async def taken_over(school: School, booking: booking_pb2.Booking) -> booking_pb2.Booking:
    """The hold of a booking ends, and another student holds its slot."""
    clock = school.booked.service.clock
    clock.ahead += timedelta(hours=1)
    try:
        return await school.hold(
            student_id=school.booked.students[1].id, start_time=booking.start_time
        )
    finally:
        clock.ahead -= timedelta(hours=1)
