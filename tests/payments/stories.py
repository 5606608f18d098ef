"""What stories about money are told with: a school as booking, payments and Stripe see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import stripe

from driveflow.booking.v1 import booking_pb2, directory_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from driveflow.payments.v1.payments_pb2_grpc import PaymentServiceStub
from driveflow.payments.v1.reconciliation_pb2_grpc import ReconciliationServiceStub
from libs import issuer
from libs.client import Connection
from libs.local.stripe_fake import StripeFake
from tests.booking import stories
from tests.booking.stories import at, morning, reason_of, refused
from tests.payments.serving import Payments
from tests.waiting import eventually

__all__ = ["School", "eventually", "reason_of", "refused"]

PRICE_CENTS = stories.PRICE_CENTS
FEE_CENTS = PRICE_CENTS * 15 // 100
SHARE_CENTS = PRICE_CENTS - FEE_CENTS
SCOPES = (*issuer.TENANT_SCOPES, *issuer.OPS_SCOPES)


@dataclass
class School:
    """A furnished school that nobody else has; its first instructor has an account at Stripe."""

    service: Payments
    booked: stories.School
    fake: StripeFake
    connections: dict[str, Connection] = field(default_factory=dict)
    days_ahead: int = 2

    @classmethod
    async def furnished(cls, service: Payments, booked: stories.School, fake: StripeFake) -> School:
        """All that a payment needs."""
        school = cls(service, booked, fake)
        await school.open_account(booked.instructors[0], "acct_1")
        await eventually(school.is_known)
        return school

    @property
    def org_id(self) -> UUID:
        return self.booked.org_id

    @property
    def instructor(self) -> directory_pb2.Instructor:
        """The one with an account."""
        return self.booked.instructors[0]

    def token(self, subject: str = "office", scopes: tuple[str, ...] = SCOPES) -> str:
        return self.service.token(self.org_id, scopes, subject)

    def stub(self, subject: str = "office") -> PaymentServiceStub:
        """PaymentService as someone of the school calls it."""
        return self._connected(subject).payments

    def reconciliation(self, subject: str = "operator") -> ReconciliationServiceStub:
        return self._connected(subject).reconciliation

    def _connected(self, subject: str) -> Connection:
        if subject not in self.connections:
            self.connections[subject] = self.service.connect(self.token(subject))
        return self.connections[subject]

    async def is_known(self) -> bool:
        """Whether payments has heard of the school."""
        query = 'SELECT 1 FROM payments."Tenant" WHERE "orgId" = %s'
        return bool(await self.rows(query, self.org_id))

    async def open_account(self, instructor: directory_pb2.Instructor, account: str) -> None:
        """Give an instructor an account at Stripe."""
        changed = directory_pb2.Instructor(id=instructor.id, stripe_account_id=account)
        request = directory_pb2.UpdateInstructorRequest(instructor=changed)
        request.update_mask.paths.append("stripe_account_id")
        await self.booked.directory().UpdateInstructor(request)

    # --- bookings ---

    async def hold(self, **given: Any) -> booking_pb2.Booking:
        """A held booking, each on a day of its own."""
        self.days_ahead += 1
        chosen = {
            "student_id": self.booked.students[0].id,
            "instructor_id": self.instructor.id,
            "service_id": self.booked.lesson.id,
            "start_time": at(morning(self.booked, self.days_ahead)),
            **given,
        }
        request = booking_pb2.HoldSlotRequest(**chosen, request_id=str(uuid4()))
        return await self.booked.bookings().HoldSlot(request)

    async def booking(self, booking_id: str) -> booking_pb2.Booking:
        """As it is, past the cache."""
        request = booking_pb2.GetBookingRequest(booking_id=booking_id)
        request.read_mask.paths.extend(["id", "status"])
        return await self.booked.bookings().GetBooking(request)

    async def is_booking(self, booking_id: str, status: str) -> bool:
        found = await self.booking(booking_id)
        return booking_pb2.BookingStatus.Name(found.status) == f"BOOKING_STATUS_{status}"

    async def cancel(self, booking_id: str) -> booking_pb2.Booking:
        request = booking_pb2.CancelBookingRequest(booking_id=booking_id, reason="ill")
        return await self.booked.bookings().CancelBooking(request)

    async def drive(self, booking_id: str) -> None:
        """The lesson of a confirmed booking, from its start to its end."""
        (row,) = await self.rows(
            'SELECT "startAt", "endAt" FROM booking."Booking" WHERE id = %s', booking_id
        )
        ahead = self.booked.service.clock.ahead
        try:
            self.booked.service.clock.set(row[0])
            start = booking_pb2.StartLessonRequest(booking_id=booking_id)
            await self.booked.bookings().StartLesson(start)
            end = booking_pb2.CompleteLessonRequest(booking_id=booking_id, rating=5)
            await self.booked.bookings().CompleteLesson(end)
        finally:
            self.booked.service.clock.ahead = ahead

    # --- payments ---

    async def ask(self, booking: booking_pb2.Booking) -> pb.Payment:
        """Ask for a booking's price."""
        request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid4()))
        answer = await self.stub().CreatePayment(request)
        return answer.payment

    async def pay(self, payment: pb.Payment, card: str = "pm_card_visa") -> None:
        """As the student does in the browser."""
        self.fake.confirm(payment.stripe_payment_intent_id, card)

    async def paid(self, **given: Any) -> pb.Payment:
        """A payment of a new booking, paid and heard of."""
        payment = await self.ask(await self.hold(**given))
        await self.pay(payment)
        await self.until(payment, "SUCCEEDED")
        return await self.payment(payment)

    async def driven(self, **given: Any) -> pb.Payment:
        """A paid payment whose lesson was given: the instructor's share is due."""
        payment = await self.paid(**given)
        await eventually(lambda: self.is_booking(payment.booking_id, "CONFIRMED"))
        await self.drive(payment.booking_id)
        await eventually(lambda: self.is_due(payment))
        return payment

    async def payment(self, payment: pb.Payment) -> pb.Payment:
        """As it is now."""
        return await self.stub().GetPayment(pb.GetPaymentRequest(payment_id=payment.id))

    async def is_due(self, payment: pb.Payment) -> bool:
        """Whether the instructor's share of it is due."""
        query = 'SELECT "shareStatus" FROM payments."Payment" WHERE id = %s'
        return await self.rows(query, payment.id) == [("due",)]

    async def is_driven(self, payment: pb.Payment) -> bool:
        """Whether payments knows that its lesson was given."""
        query = 'SELECT "lessonCompletedAt" IS NOT NULL FROM payments."Payment" WHERE id = %s'
        return await self.rows(query, payment.id) == [(True,)]

    async def until(self, payment: pb.Payment, status: str) -> None:
        """Until the payment has a status."""
        wanted = pb.PaymentStatus.Value(f"PAYMENT_STATUS_{status}")

        async def has() -> bool:
            return (await self.payment(payment)).status == wanted

        await eventually(has)

    async def refund(self, payment: pb.Payment, amount_cents: int | None = None) -> pb.Refund:
        request = pb.RefundPaymentRequest(
            payment_id=payment.id, amount_cents=amount_cents, request_id=str(uuid4())
        )
        return await self.stub().RefundPayment(request)

    def client(self) -> stripe.StripeClient:
        """Stripe as someone with the school's dashboard uses it, past us."""
        return stripe.StripeClient(
            "sk_test_dashboard",
            base_addresses={"api": self.fake.url},
            http_client=stripe.RequestsClient(),
        )

    # --- what the database says, asked past the service ---

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return await self.booked.rows(query, *values)

    async def balances(self) -> dict[str, int]:
        """What each account of the school's ledger holds, but for those that are empty."""
        rows = await self.rows(
            'SELECT account, sum("amountCents")::bigint FROM payments."LedgerEntry"'
            ' WHERE "orgId" = %s GROUP BY account HAVING sum("amountCents") <> 0',
            self.org_id,
        )
        return {row[0]: row[1] for row in rows}

    async def unbalanced(self) -> list[tuple[Any, ...]]:
        """Movements of the ledger that do not add up to 0."""
        return await self.rows(
            'SELECT "transactionId" FROM payments."LedgerEntry" WHERE "orgId" = %s'
            ' GROUP BY "transactionId", currency HAVING sum("amountCents") <> 0',
            self.org_id,
        )

    async def events(self, *types: str) -> list[tuple[Any, ...]]:
        """Type, aggregate id, version and payload of the school's events of payments, in order."""
        return await self.rows(
            'SELECT type, "aggregateId"::text, "aggregateVersion", payload FROM payments."Outbox"'
            ' WHERE "orgId" = %s AND (type = ANY (%s) OR %s = \'{}\') ORDER BY "xactId", id',
            self.org_id,
            list(types),
            list(types),
        )
