"""Payments: asked for, paid, refused, cancelled, given back, contested."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from driveflow.booking.v1 import booking_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from tests.payments.stories import (
    FEE_CENTS,
    PRICE_CENTS,
    SHARE_CENTS,
    School,
    reason_of,
    refused,
)
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_held_booking_that_is_paid_is_confirmed(school: School) -> None:
    booking = await school.hold()
    request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid4()))
    answer = await school.stub().CreatePayment(request)
    payment = answer.payment
    assert answer.client_secret.startswith(payment.stripe_payment_intent_id)
    assert (payment.amount_cents, payment.currency) == (PRICE_CENTS, "AUD")
    assert (payment.application_fee_cents, payment.instructor_share_cents) == (1_200, 6_800)
    assert payment.status == pb.PAYMENT_STATUS_INTENT_CREATED
    await school.pay(payment)
    await eventually(lambda: school.is_booking(booking.id, "CONFIRMED"))
    paid = await school.payment(payment)
    assert (paid.status, paid.captured_cents) == (pb.PAYMENT_STATUS_SUCCEEDED, PRICE_CENTS)
    assert await school.balances() == {
        "stripe": PRICE_CENTS,
        "platform": -FEE_CENTS,
        "school": -SHARE_CENTS,
    }


async def test_the_same_request_has_one_payment_and_one_answer(school: School) -> None:
    booking = await school.hold()
    request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid4()))
    first = await school.stub().CreatePayment(request)
    await school.pay(first.payment)
    await school.until(first.payment, "SUCCEEDED")
    assert await school.stub().CreatePayment(request) == first
    assert len(school.fake.find_intents({"booking_id": booking.id})) == 1
    request.booking_id = (await school.hold()).id
    assert await reason_of(school.stub().CreatePayment(request)) == (
        "ALREADY_EXISTS",
        "REQUEST_ID_REUSED",
    )


async def test_a_booking_has_one_payment_at_a_time(school: School) -> None:
    booking = await school.hold()
    calls = [school.ask(booking) for _ in range(8)]
    made = await asyncio.gather(*calls, return_exceptions=True)
    payments = [one for one in made if isinstance(one, pb.Payment)]
    assert len(payments) == 1
    refusal = await refused(school.ask(booking))
    assert (refusal.reason, refusal.metadata) == ("PAYMENT_EXISTS", {"payment_id": payments[0].id})


async def test_after_a_refused_card_another_may_pay(school: School) -> None:
    payment = await school.ask(await school.hold())
    await school.pay(payment, "pm_card_visa_chargeDeclined")
    await school.until(payment, "FAILED")
    failed = await school.payment(payment)
    assert failed.failure_code == "generic_decline"
    assert await school.is_booking(payment.booking_id, "HELD")
    await school.pay(payment)
    await school.until(payment, "SUCCEEDED")
    assert (await school.payment(payment)).failure_code == ""


async def test_only_what_is_to_be_paid_is_asked_for(school: School) -> None:
    booking = await school.hold()
    await school.cancel(booking.id)
    refusal = await refused(school.ask(booking))
    assert (refusal.reason, refusal.metadata["status"]) == ("BOOKING_NOT_PAYABLE", "cancelled")
    absent = booking_pb2.Booking(id=str(uuid4()))
    assert await reason_of(school.ask(absent)) == ("NOT_FOUND", "BOOKING_NOT_FOUND")


async def test_a_cancelled_payment_cannot_be_paid_any_more(school: School) -> None:
    payment = await school.ask(await school.hold())
    request = pb.CancelPaymentRequest(payment_id=payment.id, request_id=str(uuid4()))
    cancelled = await school.stub().CancelPayment(request)
    assert cancelled.status == pb.PAYMENT_STATUS_CANCELLED
    assert await school.stub().CancelPayment(request) == cancelled
    request.request_id = str(uuid4())
    refusal = await refused(school.stub().CancelPayment(request))
    assert (refusal.reason, refusal.metadata["status"]) == ("INVALID_TRANSITION", "cancelled")


async def test_refunds_in_parts_end_with_all_given_back(school: School) -> None:
    payment = await school.paid()
    part = await school.refund(payment, 1_000)
    assert (part.status, part.cause) == (pb.REFUND_STATUS_SUCCEEDED, pb.REFUND_CAUSE_REQUESTED)
    now = await school.payment(payment)
    assert (now.status, now.refunded_cents) == (pb.PAYMENT_STATUS_PARTIALLY_REFUNDED, 1_000)
    rest = await school.refund(payment)
    assert rest.amount_cents == PRICE_CENTS - 1_000
    assert (await school.payment(payment)).status == pb.PAYMENT_STATUS_REFUNDED
    assert await school.balances() == {}
    listed = await school.stub().ListRefunds(pb.ListRefundsRequest(payment_id=payment.id))
    assert [refund.id for refund in listed.refunds] == [rest.id, part.id]


async def test_no_more_is_given_back_than_was_paid(school: School) -> None:
    payment = await school.paid()
    refusal = await refused(school.refund(payment, PRICE_CENTS + 1))
    assert refusal.reason == "REFUND_TOO_LARGE"
    assert refusal.metadata == {"refundable_cents": str(PRICE_CENTS)}
    for amount in (0, -5):
        assert await reason_of(school.refund(payment, amount)) == (
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
        )
    other = pb.RefundPaymentRequest(payment_id=payment.id, currency="EUR", request_id=str(uuid4()))
    assert await reason_of(school.stub().RefundPayment(other)) == (
        "INVALID_ARGUMENT",
        "CURRENCY_MISMATCH",
    )
    assert (
        await school.rows('SELECT 1 FROM payments."Refund" WHERE "paymentId" = %s', payment.id)
        == []
    )


async def test_of_32_refunds_at_once_that_exceed_the_capture_together_one_succeeds(
    school: School,
) -> None:
    payment = await school.paid()
    amount = PRICE_CENTS * 60 // 100
    calls = [school.refund(payment, amount) for _ in range(32)]
    made = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, pb.Refund) for one in made) == 1
    now = await school.payment(payment)
    assert now.refunded_cents == amount
    assert school.fake.tally("refunds", "payment_id")[payment.id] == 1


async def test_what_was_not_paid_is_not_given_back(school: School) -> None:
    payment = await school.ask(await school.hold())
    refusal = await refused(school.refund(payment))
    assert (refusal.reason, refusal.metadata["status"]) == ("INVALID_TRANSITION", "intent_created")


async def test_a_booking_that_is_cancelled_gives_back_by_policy(school: School) -> None:
    payment = await school.paid()
    await eventually(lambda: school.is_booking(payment.booking_id, "CONFIRMED"))
    cancelled = await school.cancel(payment.booking_id)
    assert cancelled.refund_cents == PRICE_CENTS
    await school.until(payment, "REFUNDED")
    (refund,) = (
        await school.stub().ListRefunds(pb.ListRefundsRequest(payment_id=payment.id))
    ).refunds
    assert refund.cause == pb.REFUND_CAUSE_BOOKING_CANCELLED


async def test_a_hold_that_ends_cancels_what_was_asked_for(school: School) -> None:
    payment = await school.ask(await school.hold())
    await school.cancel(payment.booking_id)
    await school.until(payment, "CANCELLED")


async def test_a_dispute_holds_the_money_back_until_it_is_decided(school: School) -> None:
    payment = await school.paid()
    dispute = school.fake.dispute(payment.stripe_payment_intent_id)
    await school.until(payment, "DISPUTED")
    assert (await school.balances())["disputed"] == PRICE_CENTS
    assert await reason_of(school.refund(payment)) == ("FAILED_PRECONDITION", "PAYMENT_DISPUTED")
    school.fake.close_dispute(dispute["id"], won=True)
    await school.until(payment, "SUCCEEDED")
    assert "disputed" not in await school.balances()
    (listed,) = (
        await school.stub().ListDisputes(pb.ListDisputesRequest(payment_id=payment.id))
    ).disputes
    assert (listed.status, listed.amount_cents) == ("won", PRICE_CENTS)


async def test_a_lost_dispute_is_the_schools_loss(school: School) -> None:
    payment = await school.paid()
    dispute = school.fake.dispute(payment.stripe_payment_intent_id)
    school.fake.close_dispute(dispute["id"], won=False)
    await eventually(lambda: _is_lost(school))
    assert (await school.payment(payment)).status == pb.PAYMENT_STATUS_DISPUTED
    assert await school.balances() == {"platform": -FEE_CENTS, "school": FEE_CENTS}


async def _is_lost(school: School) -> bool:
    listed = await school.stub().ListDisputes(pb.ListDisputesRequest())
    return [dispute.status for dispute in listed.disputes] == ["lost"]


async def test_a_time_out_after_success_charges_once(school: School) -> None:
    booking = await school.hold()
    school.fake.fault("cut_after", method="POST", path="/v1/payment_intents")
    request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid4()))
    assert await reason_of(school.stub().CreatePayment(request)) == (
        "UNAVAILABLE",
        "STRIPE_UNAVAILABLE",
    )
    answer = await school.stub().CreatePayment(request)
    assert answer.payment.status == pb.PAYMENT_STATUS_INTENT_CREATED
    assert len(school.fake.find_intents({"booking_id": booking.id})) == 1


async def test_what_stripe_did_not_answer_is_finished_without_the_caller(school: School) -> None:
    booking = await school.hold()
    school.fake.fault("cut_after", method="POST", path="/v1/payment_intents")
    request = pb.CreatePaymentRequest(booking_id=booking.id, request_id=str(uuid4()))
    await refused(school.stub().CreatePayment(request))
    (payment,) = (
        await school.stub().ListPayments(pb.ListPaymentsRequest(booking_id=booking.id))
    ).payments
    await school.until(payment, "INTENT_CREATED")


@pytest.mark.parametrize("fault", ["error_after", "error_saved"])
async def test_a_failure_that_stripe_keeps_under_the_key_is_got_over(
    school: School, fault: str
) -> None:
    payment = await school.paid()
    school.fake.fault(fault, method="POST", path="/v1/refunds")
    refund = await school.refund(payment)
    # What was done there is told by webhook too, which may be faster than our answer.
    assert refund.status != pb.REFUND_STATUS_FAILED
    await school.until(payment, "REFUNDED")
    assert school.fake.tally("refunds", "payment_id")[payment.id] == 1


async def test_a_refund_that_its_bank_refuses_in_the_end_is_undone(school: School) -> None:
    payment = await school.paid()
    refund = await school.refund(payment, 3_000)
    school.fake.settle_refund(refund.stripe_refund_id, ok=False)
    await school.until(payment, "SUCCEEDED")
    assert (await school.payment(payment)).refunded_cents == 0
    assert await school.balances() == {
        "stripe": PRICE_CENTS,
        "platform": -FEE_CENTS,
        "school": -SHARE_CENTS,
    }


async def test_a_refund_made_at_stripe_is_taken_over(school: School) -> None:
    payment = await school.paid()
    wanted: Any = {"payment_intent": payment.stripe_payment_intent_id, "amount": 500}
    await asyncio.to_thread(school.client().v1.refunds.create, wanted)
    await school.until(payment, "PARTIALLY_REFUNDED")
    (refund,) = (
        await school.stub().ListRefunds(pb.ListRefundsRequest(payment_id=payment.id))
    ).refunds
    assert (refund.amount_cents, refund.cause) == (500, pb.REFUND_CAUSE_STRIPE)


async def test_payments_are_listed_by_status_time_and_booking(school: School) -> None:
    unpaid = await school.ask(await school.hold())
    paid = await school.paid()
    stub = school.stub()
    page = await stub.ListPayments(pb.ListPaymentsRequest(page_size=1))
    rest = await stub.ListPayments(
        pb.ListPaymentsRequest(page_size=1, page_token=page.next_page_token)
    )
    assert [one.id for one in (*page.payments, *rest.payments)] == [paid.id, unpaid.id]
    assert rest.next_page_token == ""
    waiting = pb.ListPaymentsRequest(status=pb.PAYMENT_STATUS_INTENT_CREATED)
    assert [one.id for one in (await stub.ListPayments(waiting)).payments] == [unpaid.id]
    of_booking = pb.ListPaymentsRequest(booking_id=paid.booking_id)
    assert [one.id for one in (await stub.ListPayments(of_booking)).payments] == [paid.id]
    looked_up = pb.LookupPaymentRequest(stripe_payment_intent_id=paid.stripe_payment_intent_id)
    assert (await stub.LookupPayment(looked_up)).id == paid.id
