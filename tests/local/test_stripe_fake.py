"""The fake of Stripe, asked by Stripe's own library."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stripe
from aiohttp import web

from libs.local.paths import ROOT
from libs.local.stripe_fake import Refusal, StripeFake
from tests.waiting import eventually

SECRETS = ("whsec_new", "whsec_old")
READY_S = 10


class Endpoint:
    """The service's side of a webhook; answers with `statuses` first, then 200."""

    def __init__(self) -> None:
        self.bodies: list[tuple[bytes, str]] = []
        self.statuses: list[int] = []
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        self.bodies.append((await request.read(), request.headers["Stripe-Signature"]))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    def events(self, secret: str = SECRETS[0]) -> list[stripe.Event]:
        """What came, each with its signature proved."""
        return [stripe.Webhook.construct_event(*body, secret) for body in self.bodies]

    def types(self) -> list[str]:
        return [event.type for event in self.events()]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    receiver, app = Endpoint(), web.Application()
    app.router.add_post("/hook", receiver.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest.fixture
async def fake(endpoint: Endpoint) -> AsyncIterator[StripeFake]:
    async with StripeFake(
        webhook_url=endpoint.url, webhook_secrets=SECRETS, retry_base_s=0.001, attempts=4
    ) as started:
        yield started


@pytest.fixture
async def client(fake: StripeFake) -> AsyncIterator[stripe.StripeClient]:
    async with connected(fake.url) as opened:
        yield opened


@asynccontextmanager
async def connected(url: str, key: str = "sk_test_x") -> AsyncIterator[stripe.StripeClient]:
    http = stripe.AIOHTTPClient(timeout=5)
    yield stripe.StripeClient(
        key, base_addresses={"api": url}, max_network_retries=0, http_client=http
    )
    await http.close_async()  # type: ignore[no-untyped-call]


async def create(client: stripe.StripeClient, key: str = "k1", amount: int = 5000) -> Any:
    metadata = {"payment_id": "p1"}
    return await client.v1.payment_intents.create_async(
        {"amount": amount, "currency": "usd", "metadata": metadata}, {"idempotency_key": key}
    )


async def paid(client: stripe.StripeClient, fake: StripeFake, amount: int = 5000) -> Any:
    intent = await create(client, f"paid-{amount}", amount)
    fake.confirm(intent.id)
    return await client.v1.payment_intents.retrieve_async(intent.id)


async def sent(fake: StripeFake, client: stripe.StripeClient, amount: int) -> Any:
    """A transfer of this amount, out of a platform that can afford it."""
    fake.top_up(amount)
    return await client.v1.transfers.create_async(
        {"amount": amount, "currency": "usd", "destination": "acct_1", "metadata": {"payout": "o1"}}
    )


async def refused(call: Awaitable[Any], status: int, code: str | None) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as caught:
        await call
    error = caught.value.error
    assert error
    # The library's own `code` is empty for conflicts and failures.
    assert (caught.value.http_status, getattr(error, "code", None)) == (status, code)
    return caught.value


async def test_a_key_gives_the_first_answer_again(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    first = await create(client)
    fake.confirm(first.id)
    again = await create(client)
    assert again.to_dict() == first.to_dict()
    assert again.status == "requires_payment_method"  # as it was then
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert [entry["replayed"] for entry in fake.journal()] == [False, True]
    assert fake.counts()["payment_intents"] == 1


async def test_a_key_is_bound_to_its_parameters_and_its_endpoint(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await create(client)
    await refused(create(client, amount=6000), 400, None)
    elsewhere = client.v1.payment_intents.cancel_async(intent.id, {}, {"idempotency_key": "k1"})
    error = await refused(elsewhere, 400, None)
    assert isinstance(error, stripe.IdempotencyError)
    assert fake.counts()["payment_intents"] == 1


async def test_a_key_is_forgotten_after_a_day(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    first = await create(client)
    fake.clock(offset_s=24 * 3600)
    assert (await create(client)).id != first.id


async def test_a_key_under_way_conflicts_and_wrong_parameters_leave_it_free(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    await refused(create(client, amount=3), 400, "amount_too_small")
    fake.fault("latency", path="/v1/payment_intents", delay_s=60)
    first = asyncio.create_task(create(client))
    await eventually(lambda: fake.faults()[0]["hits"] == 1)
    await refused(create(client), 409, "idempotency_key_in_use")
    assert (await create(client, key="k2")).id
    first.cancel()


async def test_unknown_and_missing_parameters_are_refused(client: stripe.StripeClient) -> None:
    unknown: Any = {"amount": 500, "currency": "usd", "colour": "red"}
    error = await refused(client.v1.payment_intents.create_async(unknown), 400, "parameter_unknown")
    assert error.error
    assert error.error.param == "colour"
    missing: Any = {"currency": "usd"}
    await refused(client.v1.payment_intents.create_async(missing), 400, "parameter_missing")
    await refused(client.v1.charges.retrieve_async("ch_0"), 404, "resource_missing")


async def test_a_request_cut_after_its_work_charges_once(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await create(client)
    fake.fault("cut_after", path="*/confirm")

    async def confirm() -> Any:
        return await client.v1.payment_intents.confirm_async(
            intent.id, {"payment_method": "pm_card_visa"}, {"idempotency_key": "c1"}
        )

    with pytest.raises(stripe.APIConnectionError):
        await confirm()
    assert (await confirm()).status == "succeeded"
    assert fake.charges_per_intent() == {intent.id: 1}
    assert fake.tally("charges", "payment_id") == {"p1": 1}


@pytest.mark.parametrize(
    ("kind", "second", "made"),
    [
        ("error_unsaved", 200, 1),
        ("error_saved", 500, 0),
        ("error_after", 500, 1),
        ("rate_limit", 200, 1),
        ("reset_before", 200, 1),
    ],
)
async def test_a_fault_leaves_behind_what_its_name_says(
    client: stripe.StripeClient, fake: StripeFake, kind: str, second: int, made: int
) -> None:
    fake.fault(kind, method="POST", path="/v1/payment_intents")
    with pytest.raises(stripe.StripeError):
        await create(client)
    with suppress(stripe.APIError):
        await create(client)
    assert (fake.journal()[-1]["status"], fake.counts()["payment_intents"]) == (second, made)


async def test_a_declined_card_is_told_and_another_one_pays(
    client: stripe.StripeClient, fake: StripeFake, endpoint: Endpoint
) -> None:
    intent = await create(client)
    declined = client.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": "pm_card_visa_chargeDeclined"}
    )
    error = await refused(declined, 402, "card_declined")
    assert isinstance(error, stripe.CardError)
    assert fake.find_intents({"payment_id": "p1"})[0]["status"] == "requires_payment_method"
    assert fake.confirm(intent.id)["status"] == "succeeded"
    await fake.webhooks_drained()
    assert "payment_intent.payment_failed" in endpoint.types()
    assert fake.charges_per_intent() == {intent.id: 1}


async def test_a_bank_debit_is_processing_until_the_bank_answers(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await create(client)
    assert fake.confirm(intent.id, "pm_usBankAccount")["status"] == "processing"
    cancel = client.v1.payment_intents.cancel_async(intent.id)
    await refused(cancel, 400, "payment_intent_unexpected_state")
    assert fake.settle(intent.id, ok=False)["last_payment_error"]
    fake.confirm(intent.id, "pm_usBankAccount")
    assert fake.settle(intent.id)["amount_received"] == 5000
    assert fake.charges_per_intent() == {intent.id: 1}


async def test_what_was_paid_cannot_be_cancelled_and_the_reverse(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await paid(client, fake)
    cancel = client.v1.payment_intents.cancel_async(intent.id)
    await refused(cancel, 400, "payment_intent_unexpected_state")
    other = await create(client, "other")
    assert (await client.v1.payment_intents.cancel_async(other.id)).status == "canceled"
    with pytest.raises(Refusal, match="canceled"):
        fake.confirm(other.id)


async def test_a_shell_pays_with_the_secret_key_or_the_client_secret(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await create(client)
    url, wrong = f"{fake.url}/v1/payment_intents/{intent.id}/confirm", {"client_secret": "no"}
    form = {"payment_method": "pm_card_visa", "client_secret": intent.client_secret}
    public = {"Authorization": "Basic " + base64.b64encode(b"pk_test_x:").decode()}
    async with aiohttp.ClientSession() as session:
        for data, headers, status in ((form, {}, 401), (wrong, public, 400), (form, public, 200)):
            async with session.post(url, data=data, headers=headers) as answer:
                assert answer.status == status


async def test_refunds_in_parts_end_at_what_is_left(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await paid(client, fake)

    def refund(amount: int) -> Awaitable[Any]:
        return client.v1.refunds.create_async({"payment_intent": intent.id, "amount": amount})

    assert (await refund(2000)).status == "succeeded"
    await refused(refund(3001), 400, None)
    await refund(3000)
    await refused(refund(1), 400, "charge_already_refunded")
    charge = await client.v1.charges.retrieve_async(intent.latest_charge)
    assert (charge.refunded, charge.amount_refunded) == (True, 5000)
    assert fake.balance() == {"usd": -175}  # Stripe keeps its fee


async def test_of_32_concurrent_refunds_only_what_fits_is_paid(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await paid(client, fake)
    calls = [
        client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 400})
        for _ in range(32)
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, stripe.Refund) for outcome in outcomes) == 12
    listed = await client.v1.refunds.list_async({"payment_intent": intent.id, "limit": 100})
    assert sum(refund.amount for refund in listed.data) == 4800


async def test_a_pending_refund_fails_and_the_charge_has_its_money_back(
    client: stripe.StripeClient, fake: StripeFake, endpoint: Endpoint
) -> None:
    intent, before = await paid(client, fake), fake.balance()
    fake.fault("refund_pending")
    refund = await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert refund.status == "pending"
    assert fake.settle_refund(refund.id, ok=False)["status"] == "failed"
    assert (fake.balance(), fake.counts()["refunds"]) == (before, 0)
    await fake.webhooks_drained()
    assert "refund.failed" in endpoint.types()


async def test_a_dispute_takes_the_money_and_bars_refunds_until_it_is_won(
    client: stripe.StripeClient, fake: StripeFake, endpoint: Endpoint
) -> None:
    intent, before = await paid(client, fake), fake.balance()["usd"]
    dispute = fake.dispute(intent.id)
    refund = client.v1.refunds.create_async({"payment_intent": intent.id})
    await refused(refund, 400, "charge_disputed")
    assert fake.balance()["usd"] == before - 5000 - 1500
    fake.close_dispute(dispute["id"], won=True)
    assert fake.balance()["usd"] == before - 1500
    assert (await client.v1.disputes.retrieve_async(dispute["id"])).status == "won"
    await fake.webhooks_drained()
    assert {"charge.dispute.created", "charge.dispute.closed"} <= set(endpoint.types())


async def test_a_transfer_needs_a_destination_and_the_money(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    def transfer(destination: str) -> Awaitable[Any]:
        return client.v1.transfers.create_async(
            {"amount": 4000, "currency": "usd", "destination": destination}
        )

    await refused(transfer("acct_missing_1"), 400, "resource_missing")
    await refused(transfer("acct_1"), 400, "balance_insufficient")
    fake.top_up(4000)
    assert (await transfer("acct_1")).amount == 4000
    await refused(transfer("acct_1"), 400, "balance_insufficient")


async def test_a_transfer_is_reversed_in_parts_while_the_account_has_it(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    transfer = await sent(fake, client, 4000)
    reversals = client.v1.transfers.reversals
    await reversals.create_async(transfer.id, {"amount": 1500})
    await refused(reversals.create_async(transfer.id, {"amount": 2501}), 400, None)
    fake.pay_out("acct_1")
    await refused(reversals.create_async(transfer.id), 400, "balance_insufficient")
    await sent(fake, client, 2500)
    await reversals.create_async(transfer.id)
    again = await client.v1.transfers.retrieve_async(transfer.id)
    assert (again.reversed, again.amount_reversed) == (True, 4000)
    assert [row.amount for row in (await reversals.list_async(transfer.id)).data] == [2500, 1500]


async def test_the_balance_is_the_sum_of_its_transactions(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    intent = await paid(client, fake)
    await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 700})
    await sent(fake, client, 900)
    fake.dispute(intent.id)
    page = await client.v1.balance_transactions.list_async({"limit": 2})
    transactions = [transaction async for transaction in page.auto_paging_iter()]
    kinds = [transaction.type for transaction in transactions]
    assert kinds == ["adjustment", "transfer", "topup", "refund", "charge"]
    assert {"usd": sum(transaction.net for transaction in transactions)} == fake.balance()


async def test_lists_go_by_pages_times_and_metadata(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    made = []
    for number in range(5):
        fake.clock(offset_s=100 * number)
        made.append(await create(client, f"k{number}", 1000 + number))
    intents, created = client.v1.payment_intents, made[3].created
    page = await intents.list_async({"created": {"gte": made[1].created, "lt": created}})
    assert [intent.id for intent in page.data] == [made[2].id, made[1].id]
    page = await intents.list_async({"limit": 2, "starting_after": made[3].id})
    assert ([intent.id for intent in page.data], page.has_more) == ([made[2].id, made[1].id], True)
    page = await intents.list_async({"limit": 1, "ending_before": made[1].id})
    assert [intent.id for intent in page.data] == [made[2].id]
    query = "metadata['payment_id']:'p1' AND status:'requires_payment_method'"
    assert len((await intents.search_async({"query": query})).data) == 5
    fake.search_lag(60)
    assert len((await intents.search_async({"query": query})).data) == 4


async def test_webhooks_bear_every_active_secret(
    client: stripe.StripeClient, fake: StripeFake, endpoint: Endpoint
) -> None:
    intent = await paid(client, fake)
    await fake.webhooks_drained()
    for secret in SECRETS:
        succeeded = endpoint.events(secret)[-1]
        assert succeeded.data.object["id"] == intent.id
    with pytest.raises(stripe.SignatureVerificationError):
        endpoint.events("whsec_other")
    assert endpoint.events()[0].api_version == stripe.api_version


async def test_an_event_is_sent_until_it_is_taken_and_listed_until_then(
    client: stripe.StripeClient, fake: StripeFake, endpoint: Endpoint
) -> None:
    endpoint.statuses = [500, 302, 200, *[503] * 4]
    await create(client, "a")
    await fake.webhooks_drained()
    await create(client, "b")
    await fake.webhooks_drained()
    states = [(row["state"], row["attempts"]) for row in fake.deliveries().values()]
    assert states == [("delivered", 3), ("failed", 4)]
    lost = await client.v1.events.list_async({"delivery_success": False})
    assert [event.id for event in lost.data] == [[*fake.deliveries()][1]]
    fake.resend(lost.data[0].id)
    await fake.webhooks_drained()
    assert not (await client.v1.events.list_async({"delivery_success": False})).data


async def test_held_webhooks_come_shuffled_and_doubled(
    client: stripe.StripeClient, fake: StripeFake, endpoint: Endpoint
) -> None:
    fake.hold_webhooks()
    for number in range(8):
        await create(client, f"k{number}")
    await fake.webhooks_drained()
    assert not endpoint.bodies
    assert fake.release_webhooks(shuffle=True, copies=2) == 16
    await fake.webhooks_drained()
    came, made = [event.id for event in endpoint.events()], [*fake.deliveries()]
    assert sorted(came) == sorted(made * 2)
    assert came != made * 2
    assert not (await client.v1.events.list_async({"delivery_success": False})).data


async def test_a_dropped_webhook_is_only_in_the_list_and_a_doubled_one_comes_twice(
    client: stripe.StripeClient, fake: StripeFake, endpoint: Endpoint
) -> None:
    fake.fault("webhook_drop", event="payment_intent.succeeded")
    fake.fault("webhook_duplicate", event="*.created")
    intent = await paid(client, fake)
    await fake.webhooks_drained()
    assert sorted(endpoint.types()) == ["charge.succeeded", *["payment_intent.created"] * 2]
    lost = await client.v1.events.list_async({"delivery_success": False, "created": {"gte": 0}})
    assert [(event.type, event.data.object["id"]) for event in lost.data] == [
        ("payment_intent.succeeded", intent.id)
    ]


async def test_a_restart_sends_what_was_undelivered(tmp_path: Path, endpoint: Endpoint) -> None:
    nobody, file = "http://127.0.0.1:9/hook", tmp_path / "stripe.db"
    async with StripeFake(webhook_url=nobody, state=file) as fake, connected(fake.url) as client:
        await create(client)
    async with StripeFake(webhook_url=endpoint.url, webhook_secrets=SECRETS, state=file) as fake:
        await fake.webhooks_drained()
        assert endpoint.types() == ["payment_intent.created"]


async def test_work_that_began_is_done_although_the_client_has_gone(
    client: stripe.StripeClient, fake: StripeFake
) -> None:
    fake.fault("latency", delay_s=0.1)
    call = asyncio.create_task(create(client))
    await eventually(lambda: fake.faults()[0]["hits"] == 1)
    call.cancel()
    await eventually(lambda: len(fake.journal()) == 1)
    assert fake.counts()["payment_intents"] == 1
    assert (await create(client)).last_response.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("key", ["sk_live_1", "pk_test_1"])
async def test_only_secret_test_keys_are_taken(fake: StripeFake, key: str) -> None:
    async with connected(fake.url, key) as client:
        await refused(create(client), 401, None)
    assert fake.counts()["payment_intents"] == 0


async def test_the_process_keeps_its_state_through_a_kill(tmp_path: Path) -> None:
    async with process(tmp_path / "stripe.db", signal.SIGKILL) as url, connected(url) as client:
        intent = await create(client)
        control = {"intent": intent.id}
        assert (await controlled(url, "confirm", control))["status"] == "succeeded"
    async with process(tmp_path / "stripe.db", signal.SIGTERM) as url, connected(url) as client:
        assert (await create(client)).id == intent.id
        counts = await controlled(url, "counts", {})
        assert (counts["payment_intents"], counts["charges"]) == (1, 1)
        assert await controlled(url, "balance", {}) == {"usd": 4825}


@asynccontextmanager
async def process(state: Path, end: signal.Signals) -> AsyncIterator[str]:
    """The fake as a process of its own; ended by this signal."""
    command = [sys.executable, "-m", "libs.local.stripe_fake", "--state", str(state)]
    started = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert started.stdout
        line = await asyncio.wait_for(started.stdout.readline(), READY_S)
        yield line.decode().split()[-1]
    finally:
        started.send_signal(end)
        await asyncio.wait_for(started.wait(), READY_S)


async def controlled(url: str, name: str, arguments: dict[str, Any]) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/_fake/{name}", json=arguments) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()
