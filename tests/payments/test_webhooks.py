"""Webhooks: who is believed, what they do, once; the endpoint and the RPC alike."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from driveflow.payments.v1 import payments_pb2, webhooks_pb2
from driveflow.payments.v1 import webhooks_pb2 as pb
from libs.errors import InvalidArgument
from libs.local.stripe_fake.deliveries import signature
from services.payments.__main__ import gateway
from services.payments.stripe_gateway import StripeGateway
from services.payments.webhooks import BYTES_MAX
from tests.payments import hooks
from tests.payments.conftest import Services
from tests.payments.hooks import Endpoint, Json, an_event
from tests.payments.serving import SECRET, Town
from tests.payments.stories import PRICE_CENTS, School, reason_of
from tests.serving import at
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TABLES = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'payments'::regnamespace
"""
INVALID, MALFORMED = "INVALID_ARGUMENT SIGNATURE_INVALID", "INVALID_ARGUMENT WEBHOOK_MALFORMED"


@pytest_asyncio.fixture(loop_scope="session", params=["http", "rpc"])
async def endpoint(services: Services, request: Any) -> AsyncIterator[Endpoint]:
    """Both ways into the shared service."""
    async with AsyncExitStack() as connections:
        payments = replace(services.payments, connections=connections)
        async with hooks.endpoint(payments, services.town.webhook_port, request.param) as way:
            yield way


@pytest_asyncio.fixture(loop_scope="session")
async def http(services: Services) -> AsyncIterator[Endpoint]:
    """One way, where what happens behind it is looked at."""
    async with AsyncExitStack() as connections:
        payments = replace(services.payments, connections=connections)
        async with hooks.endpoint(payments, services.town.webhook_port, "http") as way:
            yield way


# --- who is believed ---


async def test_who_does_not_know_the_secret_is_not_believed(endpoint: Endpoint) -> None:
    event = an_event("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"})
    body = json.dumps(event).encode()
    good = endpoint.sign(body)
    forged = [
        None,
        "",
        "garbage",
        "t=,v1=",
        "t=1,v1=é",
        good.replace("v1=", "v0="),
        good.partition(",")[0],
        good[:-1],
        endpoint.sign(body, "whsec_other"),
        endpoint.sign(body + b" "),
        f"t={int(NOW.timestamp())},{good.partition(',')[2]}",
    ]
    assert {await endpoint.send(body, header) for header in forged} == {INVALID}
    assert await endpoint.kept(event) == []


async def test_what_was_signed_too_long_ago_or_too_far_ahead_is_refused(
    endpoint: Endpoint,
) -> None:
    event = an_event("customer.created", {"id": "cus_1", "object": "customer"})
    body = json.dumps(event).encode()
    old, ahead = (endpoint.sign(body, later_s=later_s) for later_s in (-302, 302))
    assert await endpoint.send(body, old) == "INVALID_ARGUMENT SIGNATURE_TOO_OLD"
    assert await endpoint.send(body, ahead) == "INVALID_ARGUMENT SIGNATURE_IN_FUTURE"
    dressed_up = f"{old},{endpoint.sign(body).partition(',')[0]}"
    assert await endpoint.send(body, dressed_up) == "INVALID_ARGUMENT SIGNATURE_TOO_OLD"
    assert await endpoint.kept(event) == []
    assert await endpoint.send(body, endpoint.sign(body, later_s=-298)) == "taken"
    assert await endpoint.send(body, endpoint.sign(body, later_s=298)) == "duplicate"


def believes(stripe: StripeGateway, body: bytes, header: str) -> str:
    """The id of the event, or the reason."""
    try:
        return stripe.verify(body, header, NOW).id
    except InvalidArgument as error:
        return error.reason


@pytest.fixture
def rotating(services: Services) -> StripeGateway:
    """As settings make it while the secret is being replaced."""
    return gateway(services.town.settings(stripe_webhook_secrets="whsec_new, whsec_old,"))


async def test_the_bound_is_300_s_on_both_sides(rotating: StripeGateway) -> None:
    body = json.dumps(an_event("x", {}, id="evt_1")).encode()
    now_s = int(NOW.timestamp())
    answers = [
        believes(rotating, body, signature(body, ["whsec_new"], now_s + later_s))
        for later_s in (-301, -300, 0, 300, 301)
    ]
    assert answers == ["SIGNATURE_TOO_OLD", "evt_1", "evt_1", "evt_1", "SIGNATURE_IN_FUTURE"]


async def test_while_the_secret_is_replaced_the_old_one_is_good_too(
    rotating: StripeGateway,
) -> None:
    body = json.dumps(an_event("x", {}, id="evt_1")).encode()
    signers = [["whsec_old"], ["whsec_new"], ["whsec_old", "whsec_new"], ["whsec_x", "whsec_old"]]
    for secrets in signers:
        assert believes(rotating, body, signature(body, secrets, int(NOW.timestamp()))) == "evt_1"
    stranger = signature(body, ["whsec_x", ""], int(NOW.timestamp()))
    assert believes(rotating, body, stranger) == "SIGNATURE_INVALID"


def mutated(chance: random.Random, text: bytes, signs: bytes) -> bytes:
    """Another text, one edit away."""
    place = chance.randrange(len(text))
    left, right = text[:place], text[place + 1 :]
    sign = bytes([chance.choice(signs)])
    edits = (left + sign + right, left + right, left + text[place : place + 1] + sign + right)
    return next(edit for edit in chance.sample(edits, 3) if edit != text) if text else sign


async def test_of_1000_mutated_bodies_and_headers_none_is_accepted(
    rotating: StripeGateway, endpoint: Endpoint
) -> None:
    chance, accepted = random.Random(24), []
    event = an_event("payment_intent.succeeded", {"id": "pi_1", "amount": 8_000}, id="evt_1")
    body = json.dumps(event).encode()
    header = signature(body, ["whsec_new"], int(NOW.timestamp())).encode()
    assert believes(rotating, body, header.decode()) == "evt_1"
    for number in range(1_000):
        pair = (body, mutated(chance, header, b"123456789abcdef"))
        if number % 2:
            pair = (mutated(chance, body, bytes(range(256))), header)
        if believes(rotating, pair[0], pair[1].decode()) == "evt_1":
            accepted.append(pair)
    assert accepted == []
    signed = endpoint.sign(body)
    for _ in range(10):
        answer = await endpoint.send(mutated(chance, body, bytes(range(256))), signed)
        assert answer == INVALID


# --- what is no event ---


async def test_a_body_of_2_mb_is_too_large_one_of_256_kib_is_not(endpoint: Endpoint) -> None:
    event = an_event("customer.created", {"id": "cus_1", "object": "customer"})
    large = json.dumps(event).encode().ljust(BYTES_MAX)
    too_large = "INVALID_ARGUMENT WEBHOOK_TOO_LARGE"
    for body in (large + b" ", large.ljust(2 * 1024 * 1024)):
        assert await endpoint.take(body) == too_large
    assert await endpoint.kept(event) == []
    assert await endpoint.take(large) == "taken"


async def test_what_is_well_signed_but_no_event_is_malformed(endpoint: Endpoint) -> None:
    good = an_event("x", {})
    wrong: dict[str, Any] = {
        "id": 7,
        "type": ["x"],
        "object": "v2.core.event",
        "created": "soon",
        "livemode": good.copy().pop("absent", Ellipsis),
        "data": {"object": []},
        "account": {},
    }
    bodies = [b"", b"{", b"null", b"7", b"[]", b'"event"', b"{}", b"[" * 100_000]
    for name, value in wrong.items():
        broken = {**good, name: value}
        if value is Ellipsis:
            del broken[name]
        bodies.append(json.dumps(broken).encode())
    moments = (b"NaN", b"1e999", b"-1e30", b"1" * 40, b"null")
    bodies.extend(json.dumps(good).encode().replace(b"1790000000", each) for each in moments)
    bodies.append(json.dumps({**good, "id": "evt_" + "x" * 5_000}).encode())
    assert {body[:99]: await endpoint.take(body) for body in bodies} == {
        body[:99]: MALFORMED for body in bodies
    }


async def test_only_stripe_is_known(http: Endpoint) -> None:
    request = pb.ReceiveWebhookRequest(provider="paypal", payload=b"{}", signature="t=1,v1=0")
    assert await reason_of(http.stub.ReceiveWebhook(request)) == (
        "INVALID_ARGUMENT",
        "PROVIDER_UNKNOWN",
    )


# --- what an event does ---


async def asked(school: School) -> tuple[payments_pb2.Payment, Json]:
    """A payment that waits, and its intent as Stripe has it."""
    payment = await school.ask(await school.hold())
    (intent,) = school.fake.find_intents({"payment_id": payment.id})
    return payment, intent


def succeeded(intent: Json, **given: Any) -> Json:
    """The event that says that an intent was paid."""
    paid = {"status": "succeeded", "amount_received": intent["amount"], **given}
    return an_event("payment_intent.succeeded", {**intent, **paid})


async def test_an_event_has_its_effect_once_however_often_it_comes(
    school: School, endpoint: Endpoint
) -> None:
    payment, intent = await asked(school)
    event = succeeded(intent)
    answers = await asyncio.gather(*[endpoint.take(event) for _ in range(16)])
    assert sorted(answers) == ["duplicate"] * 15 + ["taken"]
    assert await endpoint.take(event) == "duplicate"
    assert await endpoint.kept(event) == [("processed", 1, str(school.org_id))]
    assert (await school.payment(payment)).status == payments_pb2.PAYMENT_STATUS_SUCCEEDED
    entries = 'SELECT count(*) FROM payments."LedgerEntry" WHERE "sourceId" = %s'
    assert await school.rows(entries, payment.id) == [(3,)]
    assert len(await school.events("payment.succeeded")) == 1


async def test_what_concerns_nothing_of_ours_is_kept_and_acknowledged(
    school: School, http: Endpoint
) -> None:
    payment, intent = await asked(school)
    other = uuid4()
    events = [
        an_event("customer.created", {"id": "cus_1", "object": "customer"}),
        {**succeeded(intent), "livemode": True},
        {**succeeded(intent), "account": "acct_1"},
        succeeded(intent, metadata={}),
        succeeded(intent, metadata=[["org_id", str(school.org_id)]]),
        succeeded(intent, metadata={**intent["metadata"], "org_id": "demo"}),
        succeeded(intent, metadata={**intent["metadata"], "payment_id": str(other)}),
        succeeded(intent, id="pi_another"),
    ]
    for event in events:
        assert await http.take(event) == "taken"
        assert await http.kept(event) == [("ignored", 1, None)]
        assert await http.take(event) == "duplicate"
    assert (await school.payment(payment)).status == payments_pb2.PAYMENT_STATUS_INTENT_CREATED


async def test_an_event_that_names_another_school_changes_nothing(
    school: School, http: Endpoint
) -> None:
    payment, intent = await asked(school)
    neighbour = await school.booked.neighbour()
    claim = {**intent["metadata"], "org_id": str(neighbour.org_id)}
    event = succeeded(intent, metadata=claim)
    assert await http.take(event) == "taken"
    assert await http.kept(event) == [("ignored", 1, None)]
    assert (await school.payment(payment)).status == payments_pb2.PAYMENT_STATUS_INTENT_CREATED
    entries = 'SELECT 1 FROM payments."LedgerEntry" WHERE "orgId" = ANY (%s)'
    assert await school.rows(entries, [school.org_id, neighbour.org_id]) == []


async def test_what_can_not_be_understood_yet_is_kept_as_failed(
    school: School, http: Endpoint
) -> None:
    _, intent = await asked(school)
    unheard_of = succeeded(intent, status="requires_prayer")
    without = succeeded(intent)
    del without["data"]["object"]["currency"]
    of_lists = succeeded(intent, status=["succeeded"], amount_received="all")
    for event in (unheard_of, without, of_lists):
        assert await http.take(event) == "taken"
        ((state, _, _),) = await http.kept(event)
        assert state == "failed"
    assert await http.error(unheard_of) == "KeyError: 'requires_prayer'"
    assert await http.error(without) == "KeyError: 'currency'"


async def test_texts_that_the_database_can_not_hold_are_no_obstacle(
    school: School, http: Endpoint
) -> None:
    payment, intent = await asked(school)
    error = {"code": "card_declined", "decline_code": "no\0t\ud800oday", "message": "\0"}
    failed = {**intent, "last_payment_error": error, "status": "requires_payment_method"}
    event = an_event("payment_intent.payment_failed", failed, id=f"evt_\0{uuid4().hex}")
    event["created"] = int(http.service.clock().timestamp()) + 5
    assert await http.take(event) == "taken"
    assert await http.take(event) == "duplicate"
    await school.until(payment, "FAILED")
    assert (await school.payment(payment)).failure_code == "not?oday"


async def test_of_a_cardholder_nothing_is_kept(school: School, http: Endpoint) -> None:
    payment, intent = await asked(school)
    mark = f"ada-{uuid4().hex}"
    person = {"email": f"{mark}@example.net", "name": mark, "phone": mark, "address": [mark]}
    card = {"billing_details": person, "card": {"fingerprint": mark}, "type": "card"}
    failed = {**intent, "last_payment_error": {"code": "card_declined", "payment_method": card}}
    failed |= {"receipt_email": mark, "shipping": person, "description": mark, "customer": mark}
    failed["metadata"] = {**intent["metadata"], "email": mark}
    refund = {"id": "re_1", "object": "refund", "instructions_email": mark, "payment_intent": None}
    for event in (
        an_event("payment_intent.payment_failed", failed, request={"id": mark}),
        an_event("customer.created", {"id": "cus_1", "object": "customer", **person}),
        an_event("refund.created", {**refund, "next_action": {"email_sent": {"email_to": mark}}}),
        succeeded(intent, charges={"data": [card | {"source": {"owner": person}}]}),
    ):
        event["data"]["previous_attributes"] = person
        assert await http.take(event) == "taken"
    await school.until(payment, "SUCCEEDED")
    for (table,) in await http.rows(TABLES):
        found = f'SELECT 1 FROM payments."{table}" AS r WHERE r::text LIKE %s'
        assert await http.rows(found, f"%{mark}%") == [], table


# --- what fails is tried again ---


def refunded(intent: Json, cents: int = 500, **given: Any) -> Json:
    """The event of a refund that was made at Stripe, past us."""
    made = {
        "id": f"re_{uuid4().hex}",
        "object": "refund",
        "amount": cents,
        "currency": intent["currency"],
        "metadata": {},
        "payment_intent": intent["id"],
        "status": "succeeded",
        **given,
    }
    return an_event("refund.created", made)


async def test_an_event_that_comes_too_early_is_tried_until_its_time_has_come(
    school: School, http: Endpoint
) -> None:
    payment, intent = await asked(school)
    event = refunded(intent)
    assert await http.take(event) == "taken"
    assert await http.is_in(event, "failed")
    assert (await http.error(event)).startswith("NotPaidYet: payment ")
    assert await http.take(event) == "duplicate"
    assert [row[1] for row in await http.kept(event)] >= [2]
    await school.pay(payment)
    await eventually(lambda: http.is_in(event, "processed"))
    assert await http.error(event) == ""
    assert (await school.payment(payment)).refunded_cents == 500


def disputed(intent: Json) -> Json:
    """The event of a dispute: it has no metadata of ours, its intent has."""
    contested = {
        "id": f"du_{uuid4().hex}",
        "object": "dispute",
        "amount": intent["amount"],
        "currency": intent["currency"],
        "metadata": {},
        "payment_intent": intent["id"],
        "reason": "fraudulent",
        "status": "needs_response",
    }
    return an_event("charge.dispute.created", contested)


async def test_while_stripe_does_not_say_whose_it_is_an_event_waits(
    school: School, http: Endpoint
) -> None:
    payment = await school.paid()
    (intent,) = school.fake.find_intents({"payment_id": payment.id})
    event = disputed(intent)
    school.fake.fault("reset_before", path="/v1/payment_intents/*", times=None)
    assert await http.take(event) == "taken"
    assert await http.is_in(event, "failed")
    assert "Stripe does not say whose it is" in await http.error(event)
    replay = pb.ReplayWebhookEventRequest(id=await http.number(event))
    unavailable = ("UNAVAILABLE", "STRIPE_UNAVAILABLE")
    assert await reason_of(http.stub.ReplayWebhookEvent(replay)) == unavailable
    school.fake.clear_faults()
    await school.until(payment, "DISPUTED")
    ((state, attempts, org_id),) = await http.kept(event)
    assert (state, attempts >= 2, org_id) == ("processed", True, str(school.org_id))
    school.fake.fault("reset_before", path="/v1/payment_intents/*", times=None)
    assert await reason_of(http.stub.ReplayWebhookEvent(replay)) == unavailable
    assert await http.is_in(event, "processed")


async def test_one_event_that_always_fails_does_not_stop_the_others(
    school: School, http: Endpoint
) -> None:
    payment, intent = await asked(school)
    hopeless = [succeeded(intent, status=f"requires_{number}") for number in range(3)]
    early = refunded(intent)
    for event in (*hopeless, early):
        assert await http.take(event) == "taken"
    broken = 'UPDATE payments."WebhookEvent" SET payload = \'{}\' WHERE "eventId" = %s'
    await http.rows(broken, hopeless[0]["id"])
    await school.pay(payment)
    await eventually(lambda: http.is_in(early, "processed"))
    assert [await http.is_in(event, "failed") for event in hopeless] == [True] * 3


# --- only what is committed is acknowledged ---

AT_COMMIT = """
CREATE FUNCTION payments.too_late() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE admin_shutdown; END $$;
CREATE CONSTRAINT TRIGGER too_late AFTER INSERT ON payments."WebhookEvent"
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW."eventId" = '{}')
  EXECUTE FUNCTION payments.too_late()
"""


async def test_what_is_not_committed_is_not_acknowledged(
    school: School, endpoint: Endpoint
) -> None:
    payment, intent = await asked(school)
    event = succeeded(intent)
    await endpoint.rows(AT_COMMIT.format(event["id"]))
    try:
        assert (await endpoint.take(event)).startswith("UNAVAILABLE ")
    finally:
        await endpoint.rows("DROP FUNCTION payments.too_late() CASCADE")
    assert await endpoint.kept(event) == []
    assert (await school.payment(payment)).status == payments_pb2.PAYMENT_STATUS_INTENT_CREATED
    assert await school.balances() == {}
    assert await endpoint.take(event) == "taken"
    await school.until(payment, "SUCCEEDED")


def allow_connections(town: Town, allowed: bool) -> None:
    """Whether anyone gets at the database; who is in it is thrown out otherwise."""
    name = sql.Identifier(town.database.name)
    with psycopg.connect(town.database.server.admin_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(name, allowed))
        if not allowed:
            conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                [town.database.name],
            )


@pytest.mark.asyncio(loop_scope="function")
async def test_without_its_database_the_service_has_stripe_send_it_again(
    quiet_town: Town,
) -> None:
    event = an_event("customer.created", {"id": "cus_1", "object": "customer"})
    async with (
        quiet_town.payments(pool_timeout_s=1.0) as service,
        hooks.endpoint(service, quiet_town.webhook_port, "http") as http,
    ):
        rpc = replace(http, way="rpc")
        allow_connections(quiet_town, False)
        try:
            assert (await http.take(event)).startswith("UNAVAILABLE ")
            assert (await rpc.take(event)).startswith("UNAVAILABLE ")
        finally:
            allow_connections(quiet_town, True)
        assert await http.kept(event) == []
        await eventually(lambda: _is_taken(http, event))


async def _is_taken(endpoint: Endpoint, event: Json) -> bool:
    return await endpoint.take(event) in ("taken", "duplicate")


# --- replays, lists, sweeps ---


async def test_a_replay_does_nothing_twice_and_what_failed_at_last(
    school: School, http: Endpoint
) -> None:
    payment, intent = await asked(school)
    paid, early = succeeded(intent), refunded(intent)
    for event in (early, paid):
        assert await http.take(event) == "taken"
    for _ in range(3):
        for event in (early, paid):
            replay = pb.ReplayWebhookEventRequest(id=await http.number(event))
            replayed = await http.stub.ReplayWebhookEvent(replay)
            assert (replayed.event_id, replayed.org_id) == (event["id"], str(school.org_id))
            assert replayed.state == webhooks_pb2.WEBHOOK_EVENT_STATE_PROCESSED
            assert replayed.HasField("process_time")
    assert (await school.payment(payment)).refunded_cents == 500
    entries = 'SELECT count(*) FROM payments."LedgerEntry" WHERE "orgId" = %s'
    assert await school.rows(entries, school.org_id) == [(6,)]
    absent = http.stub.ReplayWebhookEvent(pb.ReplayWebhookEventRequest(id=2**62))
    assert await reason_of(absent) == ("NOT_FOUND", "WEBHOOK_EVENT_NOT_FOUND")


async def test_events_are_listed_by_state_latest_first(school: School, http: Endpoint) -> None:
    _, intent = await asked(school)
    unknown = [an_event("customer.created", {"id": f"cus_{n}"}) for n in range(3)]
    early = refunded(intent)
    for event in (unknown[0], early, *unknown[1:], succeeded(intent)):
        await http.take(event)
    stub, state = http.stub, webhooks_pb2.WEBHOOK_EVENT_STATE_IGNORED
    request = pb.ListWebhookEventsRequest(provider="stripe", state=state, page_size=2)
    page = await stub.ListWebhookEvents(request)
    request.page_token = page.next_page_token
    rest = await stub.ListWebhookEvents(request)
    listed = [each.event_id for each in (*page.events, *rest.events)][:3]
    assert listed == [each["id"] for each in reversed(unknown)]
    assert {each.state for each in page.events} == {state}
    everything = await stub.ListWebhookEvents(pb.ListWebhookEventsRequest(page_size=5))
    assert [each.event_id for each in everything.events[1:4]] == [
        unknown[2]["id"],
        unknown[1]["id"],
        early["id"],
    ]
    request.state = webhooks_pb2.WEBHOOK_EVENT_STATE_FAILED
    refusal = await reason_of(stub.ListWebhookEvents(request))
    assert refusal == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    other = pb.ListWebhookEventsRequest(provider="paypal")
    assert list((await stub.ListWebhookEvents(other)).events) == []


async def test_what_stripe_could_not_deliver_is_fetched(school: School, http: Endpoint) -> None:
    payment = await school.ask(await school.hold())
    await school.fake.webhooks_drained()
    since = http.service.clock() - timedelta(minutes=5)
    request = pb.SweepUndeliveredEventsRequest(since=at(since))
    before = await http.stub.SweepUndeliveredEvents(request)
    school.fake.fault("webhook_drop", event="*", times=None)
    school.fake.confirm(payment.stripe_payment_intent_id)
    swept = await http.stub.SweepUndeliveredEvents(request)
    assert swept.taken == swept.found - before.found == 2  # the charge's, the intent's
    assert (await school.payment(payment)).status == payments_pb2.PAYMENT_STATUS_SUCCEEDED
    again = await http.stub.SweepUndeliveredEvents(request)
    assert (again.found, again.taken) == (swept.found, 0)
    too_long_ago = pb.SweepUndeliveredEventsRequest(since=at(since - timedelta(days=30)))
    refusal = await reason_of(http.stub.SweepUndeliveredEvents(too_long_ago))
    assert refusal == ("INVALID_ARGUMENT", "SINCE_TOO_OLD")
    request.since.seconds = 10**15
    refusal = await reason_of(http.stub.SweepUndeliveredEvents(request))
    assert refusal == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_an_event_that_is_fetched_and_sent_at_once_is_had_once(
    school: School, http: Endpoint
) -> None:
    payment = await school.ask(await school.hold())
    school.fake.hold_webhooks()
    school.fake.confirm(payment.stripe_payment_intent_id)
    request = pb.SweepUndeliveredEventsRequest(since=at(http.service.clock() - timedelta(hours=1)))
    school.fake.release_webhooks(shuffle=True, copies=3)
    swept = await asyncio.gather(*[http.stub.SweepUndeliveredEvents(request) for _ in range(4)])
    await school.fake.webhooks_drained()
    assert sum(each.taken for each in swept) <= 2
    assert await school.balances() == {
        "stripe": PRICE_CENTS,
        "platform": -payment.application_fee_cents,
        "school": payment.application_fee_cents - PRICE_CENTS,
    }


async def test_only_operators_of_the_platform_send_webhooks(school: School) -> None:
    stub = school.service.webhooks(school.token("office", ("payments:write",)))
    request = pb.ReceiveWebhookRequest(provider="stripe", payload=b"{}", signature=SECRET)
    assert (await reason_of(stub.ReceiveWebhook(request)))[0] == "PERMISSION_DENIED"
