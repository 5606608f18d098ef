"""Whatever the order in which Stripe tells of it, and how often: the same comes of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from driveflow.payments.v1 import payments_pb2 as pb
from services.payments.model.stripe import StripeEvent
from tests.payments import histories, hooks
from tests.payments.conftest import Services
from tests.payments.paying import Till, till
from tests.payments.stories import SHARE_CENTS, School

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_40_histories_end_alike_told_in_order_and_otherwise(
    school: School, services: Services, tmp_path: Path
) -> None:
    port = services.town.webhook_port
    async with (
        hooks.endpoint(school.service, port, "http") as endpoint,
        histories.stage(school, endpoint, tmp_path, seed=5) as stage,
    ):
        found = await stage.run(40, ticks=9, sweep=False)
    assert found.faults == []
    assert (found.doubled, found.unbalanced) == (0, 0)
    assert found.tried_again > 10
    assert found.events > 200


@pytest.mark.parametrize("reversed_cents", [0, 1_000, SHARE_CENTS])
async def test_transfer_events_in_any_order_make_one_payout(
    school: School, services: Services, tmp_path: Path, reversed_cents: int
) -> None:
    school.fake.fault("webhook_drop", times=None)
    async with (
        till(school, tmp_path) as purse,
        hooks.endpoint(school.service, services.town.webhook_port, "http") as endpoint,
    ):
        since = school.service.clock() - timedelta(seconds=2)
        payouts = await unanswered(purse)
        for payout in payouts:
            await take_back(school, payout, reversed_cents)
        told = [each async for each in purse.gateway.undelivered(since)]
        first, second = ([each for each in told if is_of(each, one)] for one in payouts)
        for event in reversed(first):
            await endpoint.take(event.payload)
        for event in [*second, *reversed(second), *second]:
            await endpoint.take(event.payload)
        ended = [await purse.payout(each) for each in payouts]
        assert await kinds(school, payouts[0]) == await kinds(school, payouts[1])
    wanted = "REVERSED" if reversed_cents == SHARE_CENTS else "PAID"
    assert {pb.PayoutStatus.Name(each.status) for each in ended} == {f"PAYOUT_STATUS_{wanted}"}
    assert await school.unbalanced() == []


async def unanswered(purse: Till) -> list[pb.Payout]:
    """Two payouts whose transfers were made; Stripe's answers were lost, and it gives no other."""
    fake, payments = purse.school.fake, await purse.dues(2)
    fake.fault("cut_after", method="POST", path="/v1/transfers", times=2)
    payouts = [await purse.pay_out([each]) for each in payments]
    fake.fault("reset_before", method="POST", path="/v1/transfers", times=None)
    assert {each.status for each in payouts} == {pb.PAYOUT_STATUS_IN_TRANSIT}
    return payouts


async def take_back(school: School, payout: pb.Payout, cents: int) -> None:
    """As someone with the dashboard does."""
    transfers = school.client().v1.transfers
    listed = await asyncio.to_thread(transfers.list, {"transfer_group": payout.id})
    if cents:
        reversals = transfers.reversals
        await asyncio.to_thread(reversals.create, listed.data[0].id, {"amount": cents})


def is_of(event: StripeEvent, payout: pb.Payout) -> bool:
    metadata = event.object.get("metadata")
    return isinstance(metadata, dict) and metadata.get("payout_id") == payout.id


async def kinds(school: School, payout: pb.Payout) -> list[tuple[object, ...]]:
    """What the ledger has of a payout."""
    query = 'SELECT kind, account, "amountCents" FROM payments."LedgerEntry"'
    return await school.rows(f'{query} WHERE "sourceId" = %s ORDER BY 1, 2', payout.id)
