"""Payments, refunds, disputes."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from driveflow.booking.v1 import booking_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from libs import audit, calls, errors, idempotency, masks, pages
from libs.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from libs.interceptors import Context
from libs.messages import optional_id, time
from libs.pooling import Connection
from services.payments import books
from services.payments.messages import payments as messages
from services.payments.model.payments import BOOKING_PAYABLE, Payment
from services.payments.servicer.desk import Desk
from services.payments.store import payments as store
from services.payments.store import refunds as refund_store
from services.payments.store.payments import LAST_ID, Filter
from services.payments.stripe_gateway import StripeUnavailable

UNKNOWN = pb.PAYMENT_STATUS_UNKNOWN
NOBODY = uuid.UUID(int=0)


class Charges:
    """CreatePayment, GetPayment, ListPayments, LookupPayment, CancelPayment, RefundPayment,
    ListRefunds, ListDisputes.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def CreatePayment(
        self, request: pb.CreatePaymentRequest, context: Context
    ) -> pb.CreatePaymentResponse:
        org_id = calls.org()
        reader = self._desk.orgs.reader(org_id)
        answer = await idempotency.answered(reader, org_id, request, pb.CreatePaymentResponse)
        if answer is None:
            answer = await self._claim(org_id, request)
        payment_id = uuid.UUID(answer.payment.id)
        if answer.payment.status == UNKNOWN:
            payment, intent = await self._desk.charging.advance(org_id, payment_id)
            answer = pb.CreatePaymentResponse(payment=messages.payment(payment))
            async with self._desk.orgs.write(org_id) as conn:
                await idempotency.remember(conn, org_id, request, answer)
        else:
            intent = await self._desk.gateway.get_intent(answer.payment.stripe_payment_intent_id)
        answer.client_secret = intent.client_secret
        return answer

    async def _claim(
        self, org_id: uuid.UUID, request: pb.CreatePaymentRequest
    ) -> pb.CreatePaymentResponse:
        """The payment as our row alone, which Stripe knows nothing of yet."""
        booking = await self._desk.bookings.get_booking(org_id, uuid.UUID(request.booking_id))
        _check_payable(booking)
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.CreatePaymentResponse)
            if answer is not None:
                return answer
            if not await store.is_org_active(conn, org_id):
                raise FailedPrecondition("ORG_SUSPENDED", "The school is suspended.")
            payment = await store.add_payment(
                conn,
                org_id,
                now,
                booking_id=uuid.UUID(booking.id),
                student_id=optional_id(booking.student_id),
                instructor_id=uuid.UUID(booking.instructor_id),
                amount_cents=booking.price_cents,
                currency=booking.currency,
                application_fee_cents=booking.platform_fee_cents,
                instructor_share_cents=booking.instructor_share_cents,
                next_attempt_at=now + books.CALL_WITHIN,
            )
            live = await store.find_live_payment(
                conn, org_id, uuid.UUID(booking.id), payment.id if payment else NOBODY
            )
            if payment is None or live is not None:
                raise payment_exists(live)
            await audit.record(
                conn,
                org_id,
                "payment",
                payment.id,
                "create",
                after={
                    "booking_id": str(payment.booking_id),
                    "amount_cents": payment.amount_cents,
                    "currency": payment.currency,
                },
            )
            answer = pb.CreatePaymentResponse(payment=messages.payment(payment))
            await idempotency.remember(conn, org_id, request, answer)
        return answer

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Context) -> pb.Payment:
        org_id = calls.org()
        payment_id = uuid.UUID(request.payment_id)
        paths = masks.paths(request.read_mask, store.PATHS)
        reader = self._desk.orgs.reader(org_id)
        found = await store.get_payment(reader, org_id, payment_id, paths)
        return masks.reader(pb.Payment, paths)(_found(found, payment_id))

    async def LookupPayment(self, request: pb.LookupPaymentRequest, context: Context) -> pb.Payment:
        org_id = calls.org()
        intent_id = request.stripe_payment_intent_id
        paths = masks.paths(request.read_mask, store.PATHS)
        reader = self._desk.orgs.reader(org_id)
        found = await store.get_payment_of_intent(reader, org_id, intent_id, paths)
        return masks.reader(pb.Payment, paths)(_found(found, intent_id))

    async def ListPayments(
        self, request: pb.ListPaymentsRequest, context: Context
    ) -> pb.ListPaymentsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, store.PATHS)
        limit = pages.size(request)
        first = [store.AFTER_ALL.isoformat(), str(LAST_ID)]
        before_at, before_id = self._desk.pages.start(request, org_id, first)
        asked = Filter(
            from_at=time(request, "create_time_from") or store.BEFORE_ALL,
            to_at=time(request, "create_time_to") or store.AFTER_ALL,
            status=messages.STATUS_NAMES.get(request.status),
            booking_id=optional_id(request.booking_id),
            before_at=_moment(before_at),
            before_id=uuid.UUID(before_id),
        )
        if asked.from_at >= asked.to_at:
            raise end_before_start("create_time_to")
        listing = store.list_payments
        if asked.status is not None and asked.is_of_any_time:
            listing = store.list_payments_with_status
        if asked.booking_id is not None:
            listing = store.list_payments_of_booking
        found = await listing(self._desk.orgs.reader(org_id), org_id, asked, limit + 1, paths)
        response = pb.ListPaymentsResponse(
            payments=map(masks.reader(pb.Payment, paths), found[:limit])
        )
        if len(found) > limit:
            created_at, last_id = found[limit - 1][-2:]
            response.next_page_token = self._desk.pages.token(
                request, org_id, [created_at.isoformat(), str(last_id)]
            )
        return response

    async def CancelPayment(self, request: pb.CancelPaymentRequest, context: Context) -> pb.Payment:
        org_id = calls.org()
        payment_id = uuid.UUID(request.payment_id)
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Payment)
            if answer is not None:
                return answer
            before = await _locked(conn, org_id, payment_id)
            before.check_cancellable()
            asked = books.cancelling(before, now, call_at=now + books.CALL_WITHIN)
            asked = await books.keep_payment(conn, org_id, before, asked, now, action="cancel")
            await idempotency.remember(conn, org_id, request, messages.payment(asked))
        try:
            payment, _ = await self._desk.charging.advance(org_id, payment_id)
        except (StripeUnavailable, FailedPrecondition):
            # It is asked for, and will be done; or Stripe never took the payment.
            payment = await self._desk.charging.payment(org_id, payment_id)
        return await self._desk.remembered(org_id, request, messages.payment(payment))

    async def RefundPayment(self, request: pb.RefundPaymentRequest, context: Context) -> pb.Refund:
        org_id = calls.org()
        now = self._desk.clock()
        async with self._desk.orgs.write(org_id) as conn:
            answer = await idempotency.recall(conn, org_id, request, pb.Refund)
            if answer is not None:
                return answer
            payment = await _locked(conn, org_id, uuid.UUID(request.payment_id))
            amount = payment.refundable_cents
            if request.HasField("amount_cents"):
                amount = request.amount_cents
            _check_currency(payment, request.currency)
            payment.check_refund(amount)
            refund = await books.ask_refund(
                conn,
                org_id,
                payment,
                amount,
                now,
                cause="requested",
                reason=request.reason,
                call_at=now + books.CALL_WITHIN,
            )
            await idempotency.remember(conn, org_id, request, messages.refund(refund))
        refund = await self._desk.charging.send_refund(org_id, refund.id)
        return await self._desk.remembered(org_id, request, messages.refund(refund))

    async def ListRefunds(
        self, request: pb.ListRefundsRequest, context: Context
    ) -> pb.ListRefundsResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, refund_store.PATHS)
        reader = self._desk.orgs.reader(org_id)
        limit, before_id = self._page(request, org_id)
        if request.payment_id:
            payment_id = uuid.UUID(request.payment_id)
            _found(await store.get_payment(reader, org_id, payment_id, ("id",)), payment_id)
            found = await refund_store.list_refunds_of_payment(
                reader, org_id, payment_id, before_id=before_id, limit=limit + 1, paths=paths
            )
        else:
            found = await refund_store.list_refunds(
                reader, org_id, before_id=before_id, limit=limit + 1, paths=paths
            )
        response = pb.ListRefundsResponse(
            refunds=map(masks.reader(pb.Refund, paths), found[:limit])
        )
        if len(found) > limit:
            response.next_page_token = self._next(request, org_id, found[limit - 1][-1])
        return response

    async def ListDisputes(
        self, request: pb.ListDisputesRequest, context: Context
    ) -> pb.ListDisputesResponse:
        org_id = calls.org()
        paths = masks.paths(request.read_mask, refund_store.DISPUTE_PATHS)
        reader = self._desk.orgs.reader(org_id)
        limit, before_id = self._page(request, org_id)
        if request.payment_id:
            payment_id = uuid.UUID(request.payment_id)
            _found(await store.get_payment(reader, org_id, payment_id, ("id",)), payment_id)
            found = await refund_store.list_disputes_of_payment(
                reader, org_id, payment_id, before_id=before_id, limit=limit + 1, paths=paths
            )
        else:
            found = await refund_store.list_disputes(
                reader, org_id, before_id=before_id, limit=limit + 1, paths=paths
            )
        response = pb.ListDisputesResponse(
            disputes=map(masks.reader(pb.Dispute, paths), found[:limit])
        )
        if len(found) > limit:
            response.next_page_token = self._next(request, org_id, found[limit - 1][-1])
        return response

    def _page(self, request: Any, org_id: uuid.UUID) -> tuple[int, uuid.UUID]:
        (before_id,) = self._desk.pages.start(request, org_id, [str(LAST_ID)])
        return pages.size(request), uuid.UUID(before_id)

    def _next(self, request: Any, org_id: uuid.UUID, last_id: uuid.UUID) -> str:
        return self._desk.pages.token(request, org_id, [str(last_id)])


def end_before_start(field: str) -> InvalidArgument:
    """The answer for a time that ends before it starts."""
    return InvalidArgument(
        "END_BEFORE_START",
        "The end is not after the start.",
        fields=[(field, "not after the start")],
    )


def _check_payable(booking: booking_pb2.Booking) -> None:
    status = _status(booking)
    if status not in BOOKING_PAYABLE or booking.price_cents <= 0:
        raise FailedPrecondition(
            "BOOKING_NOT_PAYABLE",
            "The booking is not to be paid.",
            metadata={"status": status, "price_cents": str(booking.price_cents)},
        )


def _status(booking: booking_pb2.Booking) -> str:
    name = booking_pb2.BookingStatus.Name(booking.status)
    return name.removeprefix("BOOKING_STATUS_").lower()


def _check_currency(payment: Payment, currency: str) -> None:
    if currency and currency != payment.currency:
        raise InvalidArgument(
            "CURRENCY_MISMATCH",
            "The payment is in another currency.",
            fields=[("currency", f"the payment is in {payment.currency}")],
        )


def payment_exists(live: Payment | None) -> AlreadyExists:
    """The answer for a booking that is asked for, or was paid, already."""
    metadata = {"payment_id": str(live.id)} if live else {}
    return AlreadyExists("PAYMENT_EXISTS", "The booking has a payment.", metadata=metadata)


def _found(row: masks.Row | None, name: object) -> masks.Row:
    if row is None:
        raise errors.not_found("payment", name)
    return row


async def _locked(conn: Connection, org_id: uuid.UUID, payment_id: uuid.UUID) -> Payment:
    found = await store.lock_payment(conn, org_id, payment_id)
    if found is None:
        raise errors.not_found("payment", payment_id)
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
