"""Webhooks and sums, which no recipe covers: nothing of another school moves, or is added up."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from driveflow.payments.v1 import payments_pb2 as pb
from driveflow.payments.v1 import webhooks_pb2
from libs.local.stripe_fake.deliveries import signature
from tests.payments.serving import SECRET, Payments
from tests.tenancy import recipes_payments
from tests.tenancy.schools import Kit, Member, Pair

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("kit", ["payments"], indirect=True),
]
TOLD = (
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
    "refund.created",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.closed",
    "transfer.created",
    "transfer.reversed",
)


def told_of(kind: str, of: Member, named: Member) -> Mapping[str, Any]:
    """Stripe's object of the one school, in whose metadata the other and its things are named."""
    metadata = {
        "org_id": str(named.org_id),
        "payment_id": named.ids["paid"],
        "payout_id": named.ids["payout"],
    }
    common = {"metadata": metadata, "currency": "aud", "amount": 8_000, "created": 1}
    failed = kind.endswith("failed")
    if kind.startswith("payment_intent."):
        status = {"succeeded": "succeeded", "canceled": "canceled"}.get(kind.split(".")[1])
        status = status or "requires_payment_method"
        error = {"code": "card_declined"} if failed else None
        own = {"id": of.ids["intent"], "status": status, "amount_received": 8_000}
        return {**common, **own, "object": "payment_intent", "last_payment_error": error}
    if kind.startswith("transfer."):
        own = {"id": of.ids["transfer"], "amount_reversed": 8_000, "destination": "acct_1"}
        return {**common, **own, "object": "transfer"}
    status = "failed" if failed else "succeeded"
    if kind.startswith("charge.dispute."):
        status = "lost" if kind.endswith("closed") else "needs_response"
    own = {"id": f"re_{uuid4().hex}", "status": status, "payment_intent": of.ids["intent"]}
    return {**common, **own}


async def tell(service: Payments, kind: str, what: Mapping[str, Any]) -> str:
    """A webhook, signed as Stripe does; the state that its event is in then."""
    event = {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "type": kind,
        "livemode": False,
        "created": int(time.time()),
        "data": {"object": what},
    }
    payload = json.dumps(event).encode()
    at = int(time.time())
    request = webhooks_pb2.ReceiveWebhookRequest(
        provider="stripe", payload=payload, signature=signature(payload, (SECRET,), at)
    )
    await service.webhooks().ReceiveWebhook(request)
    listed = await service.webhooks().ListWebhookEvents(
        webhooks_pb2.ListWebhookEventsRequest(page_size=1)
    )
    assert listed.events[0].event_id == event["id"]
    return webhooks_pb2.WebhookEventState.Name(listed.events[0].state)


async def webhooks_change_nothing(kit: Kit, pair: Pair) -> None:
    before = [kit.rows(each.org_id) for each in (pair.mine, pair.theirs)]
    for kind in TOLD:
        for of, named in ((pair.mine, pair.theirs), (pair.theirs, pair.mine)):
            state = await tell(kit.running, kind, told_of(kind, of, named))  # type: ignore[arg-type]
            assert state == "WEBHOOK_EVENT_STATE_IGNORED", kind
    assert [kit.rows(each.org_id) for each in (pair.mine, pair.theirs)] == before


async def test_a_webhook_that_names_another_school_than_its_own_changes_nothing(
    kit: Kit, standing: Pair
) -> None:
    await webhooks_change_nothing(kit, standing)


@pytest.mark.usefixtures("forgetful")
async def test_so_it_is_by_row_level_security_alone(kit: Kit, standing: Pair) -> None:
    await webhooks_change_nothing(kit, standing)


async def test_a_webhook_that_names_its_own_school_is_believed(kit: Kit, pair: Pair) -> None:
    """The tests above mean something: told of the school itself, the same events have effects."""
    mine, states = pair.mine, set()
    before = kit.rows(mine.org_id)
    for kind in ("refund.created", "payment_intent.succeeded", "transfer.created"):
        what = {**told_of(kind, mine, mine)}
        what |= {"amount": 6_800, "amount_reversed": 0} if kind == "transfer.created" else {}
        states.add(await tell(kit.running, kind, what))  # type: ignore[arg-type]
    assert states == {"WEBHOOK_EVENT_STATE_PROCESSED"}
    assert kit.rows(mine.org_id)["Refund"] != before["Refund"]


async def sums(kit: Kit, member: Member) -> tuple[int, int, int]:
    """What a school is told of all its money: paid, given back, owed to its instructor."""
    stub = kit.running.connect(kit.token(member.org_id)).payments
    report = await stub.GetRevenueReport(recipes_payments.report())
    request = pb.GetInstructorBalanceRequest(instructor_id=member.ids["instructor"])
    (balance,) = (await stub.GetInstructorBalance(request)).balances
    return report.total.captured_cents, report.total.refunded_cents, balance.owed_cents


async def sums_are_its_own(kit: Kit, pair: Pair) -> None:
    for member in (pair.mine, pair.theirs):
        rows = kit.rows(member.org_id)
        payments = len(rows["Payment"].splitlines())
        captured, refunded, owed = await sums(kit, member)
        # All but the two that wait, and the one that was cancelled and asked for anew twice.
        assert captured == 8_000 * (payments - 4), rows["Payment"]
        assert (refunded, owed) == (2_009, 2 * 6_800 + 6_800)


async def test_sums_are_of_a_schools_own_money(kit: Kit, standing: Pair) -> None:
    await sums_are_its_own(kit, standing)


@pytest.mark.usefixtures("forgetful")
async def test_sums_are_so_by_row_level_security_alone(kit: Kit, standing: Pair) -> None:
    await sums_are_its_own(kit, standing)
