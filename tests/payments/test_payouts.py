"""Payouts: paid once, whatever happens on the way; refused, taken back, found again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.booking.v1 import directory_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from libs.client import refusal
from services.payments import paying_out
from services.payments.store import payouts as store
from tests.booking.stories import at
from tests.payments.conftest import Services
from tests.payments.paying import DAY, Till, till
from tests.payments.serving import Town
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

TRANSFERS = "/v1/transfers"
REVERSALS = "/v1/transfers/*/reversals"
UNANSWERED = ["cut_after", "error_after", "error_saved", "error_unsaved", "reset_before"]
REVERSED_AT_STRIPE = {"cut_after", "error_after"}


@pytest_asyncio.fixture(loop_scope="session")
async def office(school: School, tmp_path: Path) -> AsyncIterator[Till]:
    """A school that pays out. Stripe's webhooks come."""
    async with till(school, tmp_path) as paying:
        yield paying


@pytest_asyncio.fixture(loop_scope="session")
async def deaf(office: Till) -> AsyncIterator[Till]:
    """A school that pays out, and hears of Stripe what it asks alone."""
    office.school.fake.hold_webhooks()
    yield office
    office.school.fake.clock(0)
    office.school.fake.release_webhooks()


# --- paid ---


async def test_a_lesson_that_was_given_is_paid_out(office: Till) -> None:
    payment = await office.school.driven()
    payout = await office.pay_out()
    assert (payout.status, payout.amount_cents, payout.currency) == (
        pb.PAYOUT_STATUS_PAID,
        SHARE_CENTS,
        "AUD",
    )
    (item,) = payout.items
    assert (item.payment_id, item.booking_id) == (payment.id, payment.booking_id)
    assert item.amount_cents == SHARE_CENTS
    assert payout == await office.payout(payout)
    assert (await office.school.payment(payment)).payout_id == payout.id
    assert office.transfers(payout) == 1
    assert await office.school.balances() == {
        "stripe": PRICE_CENTS - SHARE_CENTS,
        "platform": -FEE_CENTS,
    }
    assert await office.told(payout) == ["payout.created", "payout.paid"]
    assert not await office.school.unbalanced()


async def test_the_same_request_has_one_payout_and_one_answer(office: Till) -> None:
    await office.due()
    request = office.request()
    first = await office.school.stub().CreatePayout(request)
    await office.due()
    assert await office.school.stub().CreatePayout(request) == first
    assert office.transfers(first) == 1
    request.period.start_time.seconds += 1
    again = office.school.stub().CreatePayout(request)
    assert await reason_of(again) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


@pytest.mark.parametrize("named", [False, True], ids=["period", "named"])
async def test_sixteen_at_once_pay_each_lesson_once(office: Till, named: bool) -> None:
    due = await office.dues(5)
    wanted = due if named else []
    answers = await asyncio.gather(
        *(office.pay_out(wanted) for _ in range(16)), return_exceptions=True
    )
    paid = [each for each in answers if isinstance(each, pb.Payout)]
    assert [each.amount_cents for each in paid] == [5 * SHARE_CENTS]
    reasons = {refusal(each).reason for each in answers if isinstance(each, grpc.aio.AioRpcError)}
    assert reasons == {"PAYMENT_PAID_OUT" if named else "NOTHING_TO_PAY_OUT"}
    assert office.transfers(paid[0]) == 1
    assert await office.owed() == 0


async def test_payouts_that_overlap_pay_what_is_due_and_no_more(office: Till) -> None:
    due = await office.dues(7)
    wanted = [due[start : start + 3] for start in range(4)] * 3
    answers = await asyncio.gather(
        *(office.pay_out(each) for each in wanted), return_exceptions=True
    )
    paid = [each for each in answers if isinstance(each, pb.Payout)]
    times = Counter(item.payment_id for each in paid for item in each.items)
    assert paid
    assert set(times.values()) == {1}
    await office.pay_out()
    assert await office.owed() == 0


async def test_a_suspended_school_pays_what_was_earned(office: Till) -> None:
    await office.due()
    await office.school.booked.suspend()
    assert (await office.pay_out()).status == pb.PAYOUT_STATUS_PAID


async def test_a_period_takes_the_lessons_that_were_given_within_it(office: Till) -> None:
    now = office.clock()
    old = await office.due(lesson_at=now - 40 * DAY)
    await office.due(lesson_at=now - 20 * DAY)
    new = await office.due()
    assert [item.payment_id for item in (await office.pay_out()).items] == [str(new.id)]
    request = office.request()
    request.period.CopyFrom(office.period(days_back=50))
    request.period.end_time.CopyFrom(at(now - 20 * DAY))
    payout = await office.school.stub().CreatePayout(request)
    assert [item.payment_id for item in payout.items] == [str(old.id)]


# --- without an answer ---


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_without_an_answer_it_is_in_transit_and_paid_once_in_the_end(
    deaf: Till, kind: str
) -> None:
    await deaf.due()
    deaf.school.fake.fault(kind, method="POST", path=TRANSFERS)
    payout = await deaf.pay_out()
    assert payout.status == pb.PAYOUT_STATUS_IN_TRANSIT
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_PAID
    assert deaf.transfers(payout) == 1
    assert await deaf.owed() == 0
    assert await deaf.told(payout) == ["payout.created", "payout.paid"]


async def test_a_webhook_ends_what_stripe_did_not_answer(deaf: Till) -> None:
    await deaf.due()
    deaf.school.fake.fault("cut_after", method="POST", path=TRANSFERS)
    payout = await deaf.pay_out()
    assert payout.status == pb.PAYOUT_STATUS_IN_TRANSIT
    deaf.school.fake.release_webhooks()
    await deaf.until(payout, "PAID")
    assert deaf.transfers(payout) == 1
    assert await deaf.owed() == 0


async def test_a_crash_before_stripe_is_called_is_made_good(deaf: Till) -> None:
    payment, org_id = await deaf.due(), deaf.school.org_id
    async with deaf.orgs.write(org_id) as conn:
        locked = await store.lock_payments_named(conn, org_id, [payment.id])
        made = await paying_out.open_payout(conn, org_id, locked, "acct_1", deaf.clock())
    payout = pb.Payout(id=str(made.id))
    assert (await deaf.payout(payout)).status == pb.PAYOUT_STATUS_PENDING
    await deaf.paying_out.advance(org_id, made.id)
    assert deaf.transfers(payout) == 0, "whoever wrote it has half a minute to call"
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_PAID
    assert deaf.transfers(payout) == 1


async def test_a_transfer_of_more_than_a_day_ago_is_found_again(deaf: Till) -> None:
    payment, org_id = await deaf.due(), deaf.school.org_id
    async with deaf.orgs.write(org_id) as conn:
        locked = await store.lock_payments_named(conn, org_id, [payment.id])
        made = await paying_out.open_payout(
            conn, org_id, locked, "acct_1", deaf.clock() - timedelta(hours=25)
        )
    await deaf.gateway.create_transfer(org_id, made)
    deaf.school.fake.clock(timedelta(hours=25).total_seconds())
    payout = await deaf.sweep(pb.Payout(id=str(made.id)))
    assert payout.status == pb.PAYOUT_STATUS_PAID
    assert deaf.transfers(payout) == 1


async def test_several_sweeps_at_once_make_one_transfer(deaf: Till) -> None:
    await deaf.due()
    deaf.school.fake.fault("error_saved", method="POST", path=TRANSFERS)
    payout = await deaf.pay_out()
    deaf.clock.ahead += timedelta(hours=1)
    sweeps = [deaf.paying_out.advance(deaf.school.org_id, UUID(payout.id)) for _ in range(8)]
    ends = await asyncio.gather(*sweeps)
    assert [each.status for each in ends].count("paid") >= 1
    assert deaf.transfers(payout) == 1
    assert await deaf.owed() == 0


# --- refused ---


async def test_a_refused_payout_fails_and_another_one_pays(deaf: Till) -> None:
    instructor_id = await deaf.instructor("Rex", "acct_restricted_rex")
    payment = await deaf.due(instructor_id=instructor_id)
    failed = await deaf.pay_out(instructor_id=instructor_id)
    assert failed.status == pb.PAYOUT_STATUS_FAILED
    assert failed.failure_code == "insufficient_capabilities_for_transfer"
    assert (await deaf.school.payment(pb.Payment(id=str(payment.id)))).payout_id == ""
    assert await deaf.told(failed) == ["payout.created", "payout.failed"]
    rex = directory_pb2.Instructor(id=instructor_id)
    await deaf.school.open_account(rex, "acct_rex")
    paid = await deaf.pay_out(instructor_id=instructor_id)
    assert paid.status == pb.PAYOUT_STATUS_PAID
    first, second = deaf.keys(TRANSFERS)[-2:]
    assert (failed.id in first, paid.id in second) == (True, True)
    assert await deaf.sweep(failed) == await deaf.payout(failed)
    assert (deaf.transfers(failed), deaf.transfers(paid)) == (0, 1)
    assert await deaf.owed(instructor_id) == 0


async def test_it_waits_for_the_schools_money_to_arrive(deaf: Till) -> None:
    await deaf.due(currency="NZD")
    payout = await deaf.pay_out()
    assert (payout.status, payout.failure_code) == (
        pb.PAYOUT_STATUS_IN_TRANSIT,
        "balance_insufficient",
    )
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_IN_TRANSIT
    deaf.school.fake.top_up(SHARE_CENTS, "nzd")
    paid = await deaf.sweep(payout)
    assert (paid.status, paid.failure_code) == (pb.PAYOUT_STATUS_PAID, "")
    assert deaf.transfers(payout) == 1
    keys = [key for key in deaf.keys(TRANSFERS) if payout.id in key]
    assert len(keys) == len(set(keys)) == 3


async def test_money_that_does_not_arrive_in_a_week_is_given_up_and_paid_by_another(
    deaf: Till,
) -> None:
    payment = await deaf.due(currency="NZD")
    payout = await deaf.pay_out()
    deaf.clock.ahead += 6 * DAY
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_IN_TRANSIT
    deaf.clock.ahead += DAY
    failed = await deaf.sweep(payout)
    assert (failed.status, failed.failure_code) == (
        pb.PAYOUT_STATUS_FAILED,
        "balance_insufficient",
    )
    assert await deaf.told(payout) == ["payout.created", "payout.failed"]
    assert (await deaf.school.payment(pb.Payment(id=str(payment.id)))).payout_id == ""
    assert await deaf.owed() == SHARE_CENTS
    deaf.school.fake.top_up(SHARE_CENTS, "nzd")
    assert (await deaf.sweep(failed)).status == pb.PAYOUT_STATUS_FAILED
    paid = await deaf.pay_out()
    assert [item.payment_id for item in paid.items] == [str(payment.id)]
    assert (deaf.transfers(failed), deaf.transfers(paid)) == (0, 1)
    assert (await deaf.owed(), await deaf.school.unbalanced()) == (0, [])


async def test_whether_it_was_paid_is_asked_for_as_long_as_stripe_does_not_say(deaf: Till) -> None:
    """However long that is: what may be paid already is not free for another payout."""
    await deaf.due()
    deaf.school.fake.fault("cut_after", method="POST", path=TRANSFERS)
    payout = await deaf.pay_out()
    deaf.school.fake.fault("reset_before", path=TRANSFERS, times=None)
    deaf.clock.ahead += 60 * DAY
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_IN_TRANSIT
    assert await reason_of(deaf.pay_out()) == ("FAILED_PRECONDITION", "NOTHING_TO_PAY_OUT")
    deaf.school.fake.clear_faults()
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_PAID
    assert deaf.transfers(payout) == 1


# --- what can't be paid ---


async def test_what_is_not_due_is_refused_when_it_is_named(office: Till) -> None:
    paid, due = await office.dues(2)
    payout = await office.pay_out([paid])
    other = await office.due(instructor_id=await office.instructor("Otto", "acct_otto"))
    waiting = await office.school.ask(await office.school.hold())
    about_to_go_back = await office.due(refunded_cents=PRICE_CENTS)
    out = await refused(office.pay_out([due, paid]))
    assert (out.reason, out.metadata) == (
        "PAYMENT_PAID_OUT",
        {"payment_id": str(paid.id), "payout_id": payout.id},
    )
    for payment_id in (other.id, UUID(waiting.id), about_to_go_back.id):
        told = await refused(office.pay_out([due, replace(paid, id=payment_id)]))
        assert (told.reason, told.metadata) == (
            "PAYMENT_NOT_DUE",
            {"payment_id": str(payment_id)},
        )
    unknown = office.pay_out([due, replace(paid, id=uuid4())])
    assert await reason_of(unknown) == ("NOT_FOUND", "PAYMENT_NOT_FOUND")
    assert (await office.pay_out()).amount_cents == SHARE_CENTS


async def test_what_was_given_back_is_not_paid_out(office: Till) -> None:
    payment = await office.school.driven()
    await office.school.refund(payment)
    await office.school.until(payment, "REFUNDED")
    assert await reason_of(office.pay_out()) == ("FAILED_PRECONDITION", "NOTHING_TO_PAY_OUT")
    assert await office.owed() == 0


async def test_a_payout_is_of_one_currency(office: Till) -> None:
    kiwi, aussie = await office.due(currency="NZD"), await office.due()
    for named in ([], [kiwi, aussie]):
        told = await refused(office.pay_out(named))
        assert (told.reason, told.metadata) == ("CURRENCIES_DIFFER", {"currencies": "AUD,NZD"})
    assert (await office.pay_out([aussie])).currency == "AUD"


async def test_who_can_not_be_paid_is_told_why(office: Till) -> None:
    poor = await office.instructor("Paul")
    await office.due(instructor_id=poor)
    missing = office.pay_out(instructor_id=poor)
    assert await reason_of(missing) == ("FAILED_PRECONDITION", "PAYOUT_ACCOUNT_MISSING")
    nobody = office.pay_out(instructor_id=str(uuid4()))
    assert await reason_of(nobody) == ("NOT_FOUND", "INSTRUCTOR_NOT_FOUND")
    request = office.request()
    request.period.end_time.CopyFrom(request.period.start_time)
    backwards = office.school.stub().CreatePayout(request)
    assert await reason_of(backwards) == ("INVALID_ARGUMENT", "END_BEFORE_START")


# --- taken back ---


async def test_a_payout_that_is_taken_back_can_be_paid_again(office: Till) -> None:
    await office.due()
    payout = await office.pay_out()
    back = await office.reverse(payout)
    assert (back.status, back.reversal) == (pb.PAYOUT_STATUS_REVERSED, pb.REVERSAL_STATUS_DONE)
    assert (back.reversal_reason, len(back.items)) == ("wrong month", 1)
    assert await office.owed() == SHARE_CENTS
    again = await office.pay_out()
    assert (again.status, again.id == payout.id) == (pb.PAYOUT_STATUS_PAID, False)
    assert await office.owed() == 0
    await office.school.fake.webhooks_drained()
    assert await office.told(payout) == ["payout.created", "payout.paid", "payout.reversed"]
    told = await refused(office.reverse(payout))
    assert (told.reason, told.metadata["status"]) == ("INVALID_TRANSITION", "reversed")


async def test_what_is_spent_is_not_taken_back_until_it_is_there(deaf: Till) -> None:
    instructor_id = await deaf.instructor("Ray", f"acct_{uuid4().hex}")
    await deaf.due(instructor_id=instructor_id)
    payout = await deaf.pay_out(instructor_id=instructor_id)
    deaf.school.fake.pay_out(payout.stripe_account_id)
    kept = await deaf.reverse(payout)
    assert (kept.status, kept.reversal) == (pb.PAYOUT_STATUS_PAID, pb.REVERSAL_STATUS_FAILED)
    assert kept.failure_code == "balance_insufficient"
    assert await deaf.owed(instructor_id) == 0
    await deaf.due(instructor_id=instructor_id)
    await deaf.pay_out(instructor_id=instructor_id)
    back = await deaf.reverse(payout, "once more")
    assert (back.status, back.failure_code) == (pb.PAYOUT_STATUS_REVERSED, "")
    assert deaf.reversals(payout) == 1
    assert await deaf.told(payout) == ["payout.created", "payout.paid", "payout.reversed"]


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_reversal_without_an_answer_is_done_once_in_the_end(deaf: Till, kind: str) -> None:
    await deaf.due()
    payout = await deaf.pay_out()
    deaf.school.fake.fault(kind, method="POST", path=REVERSALS)
    asked = await deaf.reverse(payout)
    assert (asked.status, asked.reversal) == (
        pb.PAYOUT_STATUS_PAID,
        pb.REVERSAL_STATUS_REQUESTED,
    )
    assert deaf.reversals(payout) == (kind in REVERSED_AT_STRIPE)
    assert await reason_of(deaf.reverse(payout)) == ("FAILED_PRECONDITION", "INVALID_TRANSITION")
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_REVERSED
    assert deaf.reversals(payout) == 1
    assert await deaf.owed() == SHARE_CENTS


async def test_a_crash_before_a_reversal_is_made_good(deaf: Till) -> None:
    await deaf.due()
    payout, org_id = await deaf.pay_out(), deaf.school.org_id
    async with deaf.orgs.write(org_id) as conn:
        before = await store.lock_payout(conn, org_id, UUID(payout.id))
        assert before is not None
        await paying_out.ask_reversal(conn, org_id, before, "why", deaf.clock())
    assert (await deaf.payout(payout)).reversal == pb.REVERSAL_STATUS_REQUESTED
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_REVERSED
    assert deaf.reversals(payout) == 1


async def test_a_crash_behind_a_reversal_is_made_good_days_later(deaf: Till) -> None:
    await deaf.due()
    payout, org_id = await deaf.pay_out(), deaf.school.org_id
    async with deaf.orgs.write(org_id) as conn:
        before = await store.lock_payout(conn, org_id, UUID(payout.id))
        assert before is not None
        asked = await paying_out.ask_reversal(conn, org_id, before, "why", deaf.clock())
    await deaf.gateway.reverse_transfer(org_id, asked)
    deaf.school.fake.clock(timedelta(hours=25).total_seconds())
    assert (await deaf.sweep(payout)).status == pb.PAYOUT_STATUS_REVERSED
    assert deaf.reversals(payout) == 1


async def test_a_transfer_that_was_reversed_past_us_is_a_reversal_like_ours(office: Till) -> None:
    await office.due()
    payout = await office.pay_out()
    transfers = office.school.client().v1.transfers
    await asyncio.to_thread(
        transfers.reversals.create, payout.stripe_transfer_id, {"amount": SHARE_CENTS // 2}
    )
    await office.school.fake.webhooks_drained()
    assert (await office.payout(payout)).status == pb.PAYOUT_STATUS_PAID
    await asyncio.to_thread(transfers.reversals.create, payout.stripe_transfer_id)
    back = await office.until(payout, "REVERSED")
    assert back.reversal == pb.REVERSAL_STATUS_DONE
    assert await office.owed() == SHARE_CENTS
    assert (await office.pay_out()).amount_cents == SHARE_CENTS


async def test_a_share_whose_price_went_back_meanwhile_is_not_paid_again(office: Till) -> None:
    payment = await office.school.driven()
    payout = await office.pay_out()
    await office.school.refund(payment)
    await office.school.until(payment, "REFUNDED")
    assert (await office.reverse(payout)).status == pb.PAYOUT_STATUS_REVERSED
    assert await office.owed() == 0
    assert await reason_of(office.pay_out()) == ("FAILED_PRECONDITION", "NOTHING_TO_PAY_OUT")
    assert await office.school.balances() == {}


async def test_a_share_is_due_again_when_its_price_did_not_go_back_after_all(office: Till) -> None:
    """And once more: each refund takes it back and, when it fails, returns it."""
    payment = await office.school.driven()
    for _ in range(2):
        refund = await office.school.refund(payment)
        await office.school.until(payment, "REFUNDED")
        assert await office.owed() == 0
        office.school.fake.settle_refund(refund.stripe_refund_id, ok=False)
        await office.school.until(payment, "SUCCEEDED")
        assert await office.owed() == SHARE_CENTS
    assert (await office.pay_out()).amount_cents == SHARE_CENTS
    assert await office.school.balances() == {
        "stripe": PRICE_CENTS - SHARE_CENTS,
        "platform": -FEE_CENTS,
    }
    assert await office.school.unbalanced() == []


async def test_a_lesson_whose_price_was_going_back_is_due_when_it_does_not(office: Till) -> None:
    payment = await office.school.paid()
    await eventually(lambda: office.school.is_booking(payment.booking_id, "CONFIRMED"))
    refund = await office.school.refund(payment)
    await office.school.until(payment, "REFUNDED")
    await office.school.drive(payment.booking_id)
    await eventually(lambda: office.school.is_driven(payment))
    assert await office.owed() == 0
    office.school.fake.settle_refund(refund.stripe_refund_id, ok=False)
    await eventually(lambda: office.school.is_due(payment))
    assert await office.owed() == SHARE_CENTS


# --- batches ---


def batch(office: Till, *instructor_ids: str) -> pb.BatchCreatePayoutsRequest:
    return pb.BatchCreatePayoutsRequest(
        period=office.period(), instructor_ids=instructor_ids, request_id=str(uuid4())
    )


async def test_a_batch_pays_everyone_who_can_be_paid(office: Till) -> None:
    rich, poor = await office.instructor("Ada", "acct_ada"), await office.instructor("Bob")
    idle = await office.instructor("Ida", "acct_ida")
    for instructor_id in (rich, poor, office.school.instructor.id):
        await office.due(instructor_id=instructor_id)
    request = batch(office)
    answer = await office.school.stub().BatchCreatePayouts(request)
    told = {each.instructor_id: (each.reason, each.payout.status) for each in answer.results}
    assert told == {
        office.school.instructor.id: ("", pb.PAYOUT_STATUS_PAID),
        rich: ("", pb.PAYOUT_STATUS_PAID),
        poor: ("PAYOUT_ACCOUNT_MISSING", pb.PAYOUT_STATUS_UNSPECIFIED),
    }
    assert list(told) == sorted(told)
    assert await office.school.stub().BatchCreatePayouts(request) == answer
    named = await office.school.stub().BatchCreatePayouts(batch(office, rich, idle))
    assert [each.reason for each in named.results] == ["NOTHING_TO_PAY_OUT"] * 2
    request.period.start_time.seconds += 1
    reused = office.school.stub().BatchCreatePayouts(request)
    assert await reason_of(reused) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_a_batch_that_broke_off_goes_on_with_the_same_instructors(deaf: Till) -> None:
    everyone = [await deaf.instructor(f"Nr {each}", f"acct_nr_{each}") for each in range(4)]
    for instructor_id in everyone:
        await deaf.due(instructor_id=instructor_id)
    request = batch(deaf)
    deaf.school.fake.fault("hang_after", method="POST", path=TRANSFERS, delay_s=30.0)
    call = deaf.school.stub().BatchCreatePayouts(request)
    await eventually(lambda: paid_out(deaf), lambda seen: seen == {"paid": 3, "pending": 1})
    call.cancel()
    answer = await deaf.school.stub().BatchCreatePayouts(request)
    assert [each.instructor_id for each in answer.results] == sorted(everyone)
    for each in answer.results:
        assert (await deaf.sweep(each.payout)).status == pb.PAYOUT_STATUS_PAID
        assert deaf.transfers(each.payout) == 1
    assert await paid_out(deaf) == {"paid": 4}


async def paid_out(office: Till) -> dict[str, int]:
    """How many payouts of the school have which status."""
    query = 'SELECT status, count(*) FROM payments."Payout" WHERE "orgId" = %s GROUP BY 1'
    return dict(await office.school.rows(query, office.school.org_id))


@pytest.mark.asyncio(loop_scope="function")
async def test_without_booking_nothing_is_done_and_a_batch_can_be_repeated(
    quiet_town: Town,
) -> None:
    instructor_id = str(uuid4())
    period = pb.Period(start_time=Timestamp(seconds=1), end_time=Timestamp(seconds=2))
    one = pb.CreatePayoutRequest(
        instructor_id=instructor_id, period=period, request_id=str(uuid4())
    )
    all_ = pb.BatchCreatePayoutsRequest(
        instructor_ids=[instructor_id], period=period, request_id=str(uuid4())
    )
    async with quiet_town.payments() as payments:
        stub = payments.payments()
        for call in (stub.CreatePayout(one), stub.BatchCreatePayouts(all_)):
            assert await reason_of(call) == ("UNAVAILABLE", "BOOKING_UNAVAILABLE")
        repeated = stub.BatchCreatePayouts(all_)
        assert await reason_of(repeated) == ("UNAVAILABLE", "BOOKING_UNAVAILABLE")


# --- read ---


async def test_payouts_are_listed_by_page_latest_first(office: Till) -> None:
    other = await office.instructor("Olga", "acct_olga")
    made = []
    for instructor_id in (other, *[office.school.instructor.id] * 3):
        await office.due(instructor_id=instructor_id)
        made.append((await office.pay_out(instructor_id=instructor_id)).id)
    stub = office.school.stub()
    first = await stub.ListPayouts(pb.ListPayoutsRequest(page_size=3))
    assert [each.id for each in first.payouts] == made[:0:-1]
    assert not any(each.items for each in first.payouts)
    second = pb.ListPayoutsRequest(page_size=3, page_token=first.next_page_token)
    rest = await stub.ListPayouts(second)
    assert ([each.id for each in rest.payouts], rest.next_page_token) == (made[:1], "")
    of_one = await stub.ListPayouts(pb.ListPayoutsRequest(instructor_id=other))
    assert [each.id for each in of_one.payouts] == made[:1]
    since = pb.ListPayoutsRequest(create_time_from=first.payouts[1].create_time)
    assert [each.id for each in (await stub.ListPayouts(since)).payouts] == made[:1:-1]
    since.create_time_to.CopyFrom(since.create_time_from)
    assert (await reason_of(stub.ListPayouts(since)))[1] == "END_BEFORE_START"


async def test_a_payout_is_found_by_its_transfer_in_its_school_alone(
    office: Till, services: Services
) -> None:
    await office.due()
    payout = await office.pay_out()
    by_transfer = pb.LookupPayoutRequest(stripe_transfer_id=payout.stripe_transfer_id)
    assert await office.school.stub().LookupPayout(by_transfer) == payout
    neighbour = await office.school.booked.neighbour()
    stub = services.payments.payments(neighbour.token())
    asked = (
        stub.LookupPayout(by_transfer),
        stub.GetPayout(pb.GetPayoutRequest(payout_id=payout.id)),
        stub.ReversePayout(
            pb.ReversePayoutRequest(payout_id=payout.id, reason="x", request_id=str(uuid4()))
        ),
    )
    for call in asked:
        assert await reason_of(call) == ("NOT_FOUND", "PAYOUT_NOT_FOUND")
    assert not (await stub.ListPayouts(pb.ListPayoutsRequest())).payouts


async def test_a_transfer_that_is_not_of_a_payout_changes_nothing(office: Till) -> None:
    await office.due()
    payout = await office.pay_out()
    transfer = await office.gateway.get_transfer(payout.stripe_transfer_id)
    strangers = (
        replace(transfer, metadata={}),
        replace(transfer, metadata={"payout_id": "?"}),
        replace(transfer, metadata={"payout_id": str(uuid4())}),
        replace(transfer, id="tr_other", amount_reversed=transfer.amount),
        replace(transfer, amount=1, amount_reversed=1),
    )
    org_id, now = office.school.org_id, office.clock()
    async with office.orgs.write(org_id) as conn:
        kept = [
            await office.paying_out.keep_transfer(conn, org_id, each, now) for each in strangers
        ]
        assert kept == [False] * len(strangers)
        assert await office.paying_out.keep_transfer(conn, org_id, transfer, now)
    assert await office.payout(payout) == payout
