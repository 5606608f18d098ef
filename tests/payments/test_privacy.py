"""Payments knows people by their ids alone: no name, no address, no card, no secret is kept."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from driveflow.payments.v1 import payments_pb2 as pb
from tests.payments.stories import School
from tests.tracking.stories import rows
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXTS = """
SELECT table_name, column_name, data_type FROM information_schema.columns
 WHERE table_schema = 'payments' AND data_type IN ('text', 'jsonb', 'bytea', 'ARRAY')
   AND table_name <> 'schema_migrations'
"""
FREE = {("Refund", "reason"), ("IdempotencyKey", "response")}
"""Where what a caller wrote as a reason may be read: by his school alone."""


async def holding(school: School, text: str) -> set[tuple[str, str]]:
    """Table and column of all that the whole schema keeps, whosever it is, with this text in it."""
    found = set()
    dsn = school.service.database.admin_dsn
    for table, column, kind in await rows(dsn, TEXTS):
        name = f'"{column}"'
        value = f"encode({name}, 'escape')" if kind == "bytea" else f"{name}::text"
        query = f'SELECT 1 FROM payments."{table}" WHERE strpos({value}, %s) > 0 LIMIT 1'
        if await rows(dsn, query, text):
            found.add((table, column))
    return found


async def known(school: School, mark: str) -> dict[str, Any]:
    """A booking's student and instructor, of whom booking knows much."""
    student = await school.booked.add_student(
        f"{mark} student", email=f"{mark}@example.net", phone=mark, notes=mark
    )
    instructor = await school.booked.add_instructor(f"{mark} instructor", phone=mark)
    await school.booked.set_hours(instructor)
    await school.open_account(instructor, "acct_1")
    return {"student_id": student.id, "instructor_id": instructor.id}


async def story(school: School, mark: str) -> None:
    """Asked for, refused, paid, given back, contested, paid out, taken back, cancelled."""
    people = await known(school, mark)
    refused = await school.ask(await school.hold(**people))
    await school.pay(refused, "pm_card_visa_chargeDeclined")
    await school.until(refused, "FAILED")
    cancel = pb.CancelPaymentRequest(payment_id=refused.id, request_id=str(uuid4()))
    await school.stub().CancelPayment(cancel)
    paid = await school.paid(**people)
    part = pb.RefundPaymentRequest(
        payment_id=paid.id, amount_cents=500, reason=f"{mark} was ill", request_id=str(uuid4())
    )
    await school.stub().RefundPayment(part)
    await school.cancel(paid.booking_id)
    await school.until(paid, "REFUNDED")
    contested = await school.paid(**people)
    school.fake.dispute(contested.stripe_payment_intent_id)
    await school.until(contested, "DISPUTED")
    await pay_out(school, await school.driven(**people))
    await school.fake.webhooks_drained()


async def pay_out(school: School, payment: pb.Payment) -> None:
    """And take it back."""
    wanted = pb.CreatePayoutRequest(
        instructor_id=payment.instructor_id,
        payments=pb.PaymentIds(payment_ids=[payment.id]),
        request_id=str(uuid4()),
    )
    school.fake.top_up(10_000, "aud")
    payout = await school.stub().CreatePayout(wanted)
    back = pb.ReversePayoutRequest(payout_id=payout.id, reason="wrong", request_id=str(uuid4()))
    await school.stub().ReversePayout(back)


async def test_after_a_story_nobodys_name_is_kept_but_where_a_caller_wrote_it(
    school: School,
) -> None:
    mark = f"zenobia-{uuid4().hex}"
    await story(school, mark)
    await eventually(lambda: holding(school, mark), lambda found: found <= FREE)
    assert await holding(school, mark) == FREE
    assert await holding(school, "_secret_") == set()


async def test_what_is_kept_would_be_found_wherever_it_is(school: School) -> None:
    payment = await school.paid()
    await school.fake.webhooks_drained()
    found = await holding(school, payment.id)
    assert {table for table, _ in found} >= {"AuditLog", "Outbox", "WebhookEvent", "IdempotencyKey"}
