"""The payments service: settings, pool, Stripe, servicers, serve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

from pydantic import Field, SecretStr

from driveflow.payments.v1 import (
    payments_pb2,
    payments_pb2_grpc,
    reconciliation_pb2,
    reconciliation_pb2_grpc,
    webhooks_pb2,
    webhooks_pb2_grpc,
)
from libs import background, checks, pooling, server
from libs.access import Verifier
from libs.events import Events
from libs.leader import Leader, at_most_every, forget_requests, per_school
from libs.orgs import Orgs
from libs.pages import Pages
from libs.settings import Settings as CommonSettings
from services.payments import bookings, effects, webhook_http
from services.payments.charging import Charging
from services.payments.paying_out import PayingOut
from services.payments.reconciling import Reconciling
from services.payments.servicer.desk import Desk
from services.payments.servicer.payments import PaymentServicer
from services.payments.servicer.reconciliation import ReconciliationServicer
from services.payments.servicer.webhooks import WebhookServicer
from services.payments.stripe_gateway import StripeGateway
from services.payments.sweeps import Sweeps
from services.payments.webhooks import Webhooks

LEADER_LOCK = 0x7061796D656E7473  # "payments"
SWEEP_S = 3.0
FORGET_S = 60.0
UNDELIVERED_S = 600.0
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""What our client sends at most: a webhook that is too large is told so in our own words."""
LONG_CALLS_S = {"BatchCreatePayouts": 60.0, "SweepUndeliveredEvents": 60.0}


class Settings(CommonSettings):
    """What payments needs beside the common settings."""

    stripe_key: SecretStr = Field(description="Stripe's secret key, sk_test_… or sk_live_…")
    stripe_webhook_secrets: SecretStr = Field(
        description="signing secrets of the webhook endpoint: whsec_…, the old one behind a comma"
    )
    stripe_api_base: str | None = Field(None, description="another address than Stripe's own")
    stripe_timeout_s: float = Field(4.0, gt=0, description="longest wait for an answer of Stripe")
    webhook_listen: str | None = Field(None, description="host:port of POST /webhooks/stripe")
    booking_address: str = Field(description="host:port of booking: it knows the prices")
    booking_timeout_s: float = Field(2.0, gt=0, description="longest wait for an answer of booking")


def now() -> datetime:
    """The clock of production; tests inject their own."""
    return datetime.now(UTC)


def gateway(settings: Settings) -> StripeGateway:
    """Stripe, as the settings say."""
    secrets = settings.stripe_webhook_secrets.get_secret_value().split(",")
    return StripeGateway(
        settings.stripe_key.get_secret_value(),
        [secret.strip() for secret in secrets if secret.strip()],
        timeout_s=settings.stripe_timeout_s,
        api_base=settings.stripe_api_base or None,
    )


async def build(
    settings: Settings, stack: AsyncExitStack, clock: Callable[[], datetime] = now
) -> server.Server:
    """Everything of the service, started but for listening; the stack ends it in order."""
    dsn = settings.dsn.get_secret_value()
    pool = pooling.create("payments", dsn, settings)
    await checks.open_pools(stack, settings.start_timeout_s, pool)
    await checks.refuse_wrong_start(pool, "payments")

    orgs = Orgs(pool)
    stripe = gateway(settings)
    stack.push_async_callback(stripe.close)
    charging = Charging(orgs, stripe, clock)
    paying_out = PayingOut(orgs, stripe, clock)
    webhooks = Webhooks(orgs, stripe, paying_out, clock)
    known = bookings.connected(
        settings, stack, settings.booking_address, settings.booking_timeout_s
    )
    pages = Pages(settings.page_token_key.get_secret_value().encode())
    desk = Desk(orgs, pages, known, stripe, charging, clock)
    sweeps = Sweeps(orgs, charging, paying_out, webhooks, clock)
    reconciling = Reconciling(orgs, stripe, clock)

    events = Events("payments", settings, orgs, clock)
    events.consume("booking", effects.of_booking(clock, sweeps.soon))
    leader = maintenance(orgs, dsn, sweeps, webhooks, reconciling)
    background.run(stack, leader.run(), sweeps.run())
    events.start(stack)
    if settings.webhook_listen is not None:
        await webhook_http.listen(stack, webhooks, settings.webhook_listen)
    probe = partial(checks.answer, pool)
    serving = server.Server(
        settings, Verifier.of(settings), probe=probe, message_bytes_max=MESSAGE_BYTES_MAX
    )
    serving.add(
        payments_pb2.DESCRIPTOR.services_by_name["PaymentService"],
        payments_pb2_grpc.add_PaymentServiceServicer_to_server,
        PaymentServicer(desk, paying_out),
        long_calls_s=LONG_CALLS_S,
    )
    serving.add(
        webhooks_pb2.DESCRIPTOR.services_by_name["WebhookService"],
        webhooks_pb2_grpc.add_WebhookServiceServicer_to_server,
        WebhookServicer(desk, webhooks),
        long_calls_s=LONG_CALLS_S,
    )
    serving.add(
        reconciliation_pb2.DESCRIPTOR.services_by_name["ReconciliationService"],
        reconciliation_pb2_grpc.add_ReconciliationServiceServicer_to_server,
        ReconciliationServicer(desk),
    )
    events.add_to(serving)
    return serving


def maintenance(
    orgs: Orgs, dsn: str, sweeps: Sweeps, webhooks: Webhooks, reconciling: Reconciling
) -> Leader:
    """What one process of all does: what is open at Stripe, reconciliation, webhooks."""
    duties = [
        ("sweep", per_school(orgs, sweeps.school)),
        ("reconcile", per_school(orgs, reconciling.school)),
        ("webhooks", webhooks.retry),
        ("undelivered", at_most_every(UNDELIVERED_S, sweeps.undelivered)),
        ("forget", at_most_every(FORGET_S, per_school(orgs, partial(forget_requests, orgs)))),
        ("forget webhooks", at_most_every(FORGET_S, webhooks.forget)),
    ]
    return Leader(dsn, lock=LEADER_LOCK, every_s=SWEEP_S, name="payments", duties=duties)


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        await (await build(settings, stack)).serve()


if __name__ == "__main__":
    server.run("payments", Settings, main)
