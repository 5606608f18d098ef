"""Payments in every state, and a lesson that was driven and paid out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import stripe
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.booking.v1 import booking_pb2, directory_pb2
from driveflow.booking.v1.booking_pb2_grpc import BookingServiceStub
from driveflow.payments.v1 import payments_pb2 as pb
from driveflow.payments.v1.payments_pb2_grpc import PaymentServiceStub
from libs.client import Connection
from libs.local.demo.school import ZONE, School, working_day

CARD, REFUSED_CARD = "pm_card_visa", "pm_card_visa_chargeDeclined"
PATIENCE_S = 30.0
POLL_S = 0.05
HOURS = (7, 12, 16, 18)
"""Between the lessons that the second instructor gives."""
PART_CENTS = 2_000


class MoneyStuck(Exception):
    """What was paid is not heard of; the message says what was waited for."""


@dataclass(frozen=True, slots=True)
class Till:
    """Where money is taken."""

    bookings: BookingServiceStub
    payments: PaymentServiceStub
    client: stripe.StripeClient

    async def hold(
        self, instructor_id: str, student_id: str, service_id: str, start: datetime
    ) -> booking_pb2.Booking:
        request = booking_pb2.HoldSlotRequest(
            student_id=student_id,
            instructor_id=instructor_id,
            service_id=service_id,
            request_id=str(uuid.uuid4()),
        )
        request.start_time.FromDatetime(start)
        return await self.bookings.HoldSlot(request)

    async def ask(self, booking: booking_pb2.Booking) -> pb.Payment:
        request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid.uuid4()))
        return (await self.payments.CreatePayment(request)).payment

    async def pay(self, payment: pb.Payment, card: str = CARD) -> None:
        """As the student does in the browser; a refused card is no error here."""
        confirm = self.client.v1.payment_intents.confirm
        try:
            await asyncio.to_thread(
                confirm, payment.stripe_payment_intent_id, {"payment_method": card}
            )
        except stripe.CardError:
            return

    async def until(self, payment: pb.Payment, *wanted: pb.PaymentStatus.ValueType) -> None:
        async def has() -> bool:
            now = await self.payments.GetPayment(pb.GetPaymentRequest(payment_id=payment.id))
            return now.status in wanted

        await _until(has, f"payment {payment.id}")

    async def until_confirmed(self, booking_id: str) -> None:
        async def confirmed() -> bool:
            request = booking_pb2.GetBookingRequest(
                booking_id=booking_id, read_mask=FieldMask(paths=["status"])
            )
            status = (await self.bookings.GetBooking(request)).status
            return status == booking_pb2.BOOKING_STATUS_CONFIRMED

        await _until(confirmed, f"booking {booking_id}")

    async def take(self, booking: booking_pb2.Booking) -> pb.Payment:
        """A booking that is paid, and confirmed by that."""
        payment = await self.ask(booking)
        await self.pay(payment)
        await self.until_confirmed(booking.id)
        return payment


def till(booking: Connection, payments: Connection, stripe_key: str, stripe_url: str) -> Till:
    """Where a school takes money; `stripe_url` is empty for Stripe itself."""
    client = stripe.StripeClient(
        stripe_key,
        base_addresses={"api": stripe_url} if stripe_url else None,
        http_client=stripe.RequestsClient(),
    )
    return Till(booking.bookings, payments.payments, client)


async def open_accounts(connection: Connection, school: School) -> None:
    """Each instructor but the first has an account to be paid out to."""
    for number, instructor in enumerate(school.instructors):
        if number != 0:
            changed = directory_pb2.Instructor(
                id=instructor.id, stripe_account_id=f"acct_demo{number + 1}"
            )
            await connection.directory.UpdateInstructor(
                directory_pb2.UpdateInstructorRequest(
                    instructor=changed, update_mask=FieldMask(paths=["stripe_account_id"])
                )
            )


async def pay_out_first(at: Till, school: School, now: datetime) -> pb.Payout:
    """A lesson of today that was paid, driven, and paid out to its instructor."""
    owl = school.instructors[-1]
    start = (now + timedelta(minutes=2)).replace(second=0, microsecond=0)
    booking = await at.hold(owl.id, school.students[1].id, school.lesson.id, start)
    payment = await at.take(booking)
    await at.bookings.StartLesson(booking_pb2.StartLessonRequest(booking_id=booking.id))
    await at.bookings.CompleteLesson(
        booking_pb2.CompleteLessonRequest(booking_id=booking.id, rating=5, notes="Parallel parking")
    )

    async def due() -> bool:
        request = pb.GetInstructorBalanceRequest(instructor_id=owl.id)
        answer = await at.payments.GetInstructorBalance(request)
        return any(balance.due_cents for balance in answer.balances)

    await _until(due, f"the share of payment {payment.id}")
    return await at.payments.CreatePayout(
        pb.CreatePayoutRequest(
            instructor_id=owl.id,
            payments=pb.PaymentIds(payment_ids=[payment.id]),
            request_id=str(uuid.uuid4()),
        )
    )


async def take_some(at: Till, school: School) -> None:
    """Of four lessons one is paid, one given back in part, one refused, one not paid yet."""
    omar = school.instructors[1]
    held = []
    for ahead, hour in enumerate(HOURS, start=2):
        day = working_day(school.today + timedelta(days=ahead))
        # The one who has no lesson of the fortnight on that day.
        student = school.students[(day.toordinal() + 6) % len(school.students)]
        start = datetime(day.year, day.month, day.day, hour, tzinfo=ZONE)
        held.append(await at.hold(omar.id, student.id, school.lesson.id, start))
    _, part = await asyncio.gather(at.take(held[0]), at.take(held[1]))
    await at.until(part, pb.PAYMENT_STATUS_SUCCEEDED)
    refused = await at.ask(held[2])
    await at.pay(refused, REFUSED_CARD)
    await at.ask(held[3])
    await at.payments.RefundPayment(
        pb.RefundPaymentRequest(
            payment_id=part.id,
            amount_cents=PART_CENTS,
            reason="The car was late",
            request_id=str(uuid.uuid4()),
        )
    )
    await at.until(refused, pb.PAYMENT_STATUS_FAILED)


async def _until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    give_up = asyncio.get_running_loop().time() + PATIENCE_S
    while not await holds():
        if asyncio.get_running_loop().time() > give_up:
            raise MoneyStuck(f"{what} is not heard of within {PATIENCE_S:.0f} s")
        await asyncio.sleep(POLL_S)
