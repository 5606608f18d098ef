"""The ledger as it is read: what instructors are owed, and every movement."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from driveflow.payments.v1 import payments_pb2 as pb
from tests.payments.conftest import Services
from tests.payments.paying import Till, till
from tests.payments.stories import FEE_CENTS, PRICE_CENTS, SHARE_CENTS, School, reason_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def office(school: School, tmp_path: Path) -> AsyncIterator[Till]:
    """A school that pays out."""
    async with till(school, tmp_path) as paying:
        yield paying


async def balance(office: Till, instructor_id: str = "") -> dict[str, tuple[int, int, int]]:
    """What is owed, due and paid, by currency."""
    request = pb.GetInstructorBalanceRequest(
        instructor_id=instructor_id or office.school.instructor.id
    )
    answer = await office.school.stub().GetInstructorBalance(request)
    return {
        each.currency: (each.owed_cents, each.due_cents, each.paid_cents)
        for each in answer.balances
    }


async def test_what_is_earned_is_owed_until_it_is_paid(office: Till) -> None:
    assert await balance(office) == {}
    payments = await office.dues(2)
    await office.due(500, currency="NZD")
    nzd = (500, 500, 0)
    assert await balance(office) == {"AUD": (2 * SHARE_CENTS, 2 * SHARE_CENTS, 0), "NZD": nzd}
    payout = await office.pay_out(payments[:1])
    assert await balance(office) == {"AUD": (SHARE_CENTS, SHARE_CENTS, SHARE_CENTS), "NZD": nzd}
    await office.reverse(payout)
    assert await balance(office) == {"AUD": (2 * SHARE_CENTS, 2 * SHARE_CENTS, 0), "NZD": nzd}


async def test_due_is_what_a_payout_would_pay_now(office: Till) -> None:
    await office.due(refunded_cents=PRICE_CENTS)
    on_its_way = await office.due()
    await office.due()
    office.school.fake.fault("reset_before", method="POST", path="/v1/transfers")
    await office.pay_out([on_its_way])
    (owed, due, paid) = (await balance(office))["AUD"]
    assert (owed in {3 * SHARE_CENTS, 2 * SHARE_CENTS}, due) == (True, SHARE_CENTS)
    assert owed + paid == 3 * SHARE_CENTS
    assert (await office.pay_out()).amount_cents == due


async def test_the_movements_of_a_payment_add_up(office: Till) -> None:
    payment = await office.school.driven()
    payout = await office.pay_out()
    await office.reverse(payout)
    answer = await office.school.stub().ListLedgerEntries(pb.ListLedgerEntriesRequest())
    sums: Counter[str] = Counter()
    for entry in answer.entries:
        sums[entry.transaction_id] += entry.amount_cents
    assert (len(sums), set(sums.values())) == (4, {0})
    assert [(each.kind, each.account, each.amount_cents) for each in answer.entries[-3:]] == [
        ("charge", "school", FEE_CENTS - PRICE_CENTS),
        ("charge", "platform", -FEE_CENTS),
        ("charge", "stripe", PRICE_CENTS),
    ]
    sources = {each.kind: each.source_id for each in answer.entries}
    assert sources == {
        "charge": payment.id,
        "share_due": payment.id,
        "payout": payout.id,
        "payout_reversal": payout.id,
    }


async def test_an_account_is_listed_by_page_latest_first(office: Till) -> None:
    await office.dues(3)
    await office.pay_out()
    account = f"instructor:{office.school.instructor.id}"
    request = pb.ListLedgerEntriesRequest(account=account, page_size=3)
    first = await office.school.stub().ListLedgerEntries(request)
    assert [each.kind for each in first.entries] == ["payout", "share_due", "share_due"]
    assert first.entries[0].amount_cents == 3 * SHARE_CENTS
    request.page_token = first.next_page_token
    rest = await office.school.stub().ListLedgerEntries(request)
    assert [each.amount_cents for each in rest.entries] == [-SHARE_CENTS]
    assert rest.next_page_token == ""
    request.account = "school"
    wrong = office.school.stub().ListLedgerEntries(request)
    assert await reason_of(wrong) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_another_school_sees_nothing_of_it(office: Till, services: Services) -> None:
    await office.due()
    neighbour = await office.school.booked.neighbour()
    stub = services.payments.payments(neighbour.token())
    for account in ("", "stripe", f"instructor:{office.school.instructor.id}"):
        request = pb.ListLedgerEntriesRequest(account=account)
        assert not (await stub.ListLedgerEntries(request)).entries
    for instructor_id in (office.school.instructor.id, str(uuid4())):
        asked = pb.GetInstructorBalanceRequest(instructor_id=instructor_id)
        assert not (await stub.GetInstructorBalance(asked)).balances
