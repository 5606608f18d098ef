"""Payments in the test's own process, with booking beside it and a fake of Stripe before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driveflow.events.v1.events_pb2_grpc import EventServiceStub
from driveflow.payments.v1.payments_pb2_grpc import PaymentServiceStub
from driveflow.payments.v1.reconciliation_pb2_grpc import ReconciliationServiceStub
from driveflow.payments.v1.webhooks_pb2_grpc import WebhookServiceStub
from libs import issuer
from libs.local.stripe_fake import StripeFake
from libs.server import Server
from services.payments.__main__ import Settings, build
from tests.booking import serving as booking_serving
from tests.booking.serving import Booking
from tests.postgres import Database, free_port
from tests.serving import Clock, Running, common_settings, running

SECRET = "whsec_test"
RETRY_S = 0.05
"""The fake sends a webhook again after so long, then twice as long."""


@dataclass
class Payments(Running):
    """A running payments service."""

    def payments(self, token: str | None = None) -> PaymentServiceStub:
        """PaymentService for whoever the token names."""
        return self.connect(token or self.token()).payments

    def webhooks(self, token: str | None = None) -> WebhookServiceStub:
        """WebhookService for an operator, or whoever the token names."""
        return self.connect(token or self.ops_token).webhooks

    def reconciliation(self, token: str) -> ReconciliationServiceStub:
        """ReconciliationService for whoever the token names."""
        return self.connect(token).reconciliation

    def events(self) -> EventServiceStub:
        """EventService for an operator."""
        return self.connect(self.ops_token).events


@dataclass
class Town:
    """Booking and payments with each other's addresses, and Stripe's fake."""

    database: Database
    folder: Path
    fake: StripeFake
    key: str = field(default_factory=issuer.new_key)
    booking_port: int = field(default_factory=free_port)
    payments_port: int = field(default_factory=free_port)
    webhook_port: int = field(default_factory=free_port)

    @asynccontextmanager
    async def booking(self, **overrides: object) -> AsyncIterator[Booking]:
        """Booking, which takes in the events of payments; `overrides` are settings."""
        chosen: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.booking_port}",
            "service_key": str(self.service_key()),
            "event_sources": f"payments=localhost:{self.payments_port}",
            "event_consumers": "payments",
            **overrides,
        }
        home = self.home("booking")
        async with booking_serving.serving(self.database, home, key=self.key, **chosen) as service:
            yield service

    @asynccontextmanager
    async def payments(self, **overrides: object) -> AsyncIterator[Payments]:
        """Payments, which takes in booking's events and Stripe's webhooks."""

        async def built(stack: AsyncExitStack, clock: Clock) -> Server:
            return await build(self.settings(**overrides), stack, clock)

        self.fake.set_webhook(f"http://127.0.0.1:{self.webhook_port}/webhooks/stripe", (SECRET,))
        home = self.home("payments")
        async with running(Payments, self.database, home, built, key=self.key) as service:
            yield service

    def settings(self, **overrides: object) -> Settings:
        """What payments is told."""
        chosen: dict[str, Any] = {
            **common_settings(self.home("payments")),
            "listen": f"127.0.0.1:{self.payments_port}",
            "dsn": self.database.dsn("payments"),
            "service_key": str(self.service_key()),
            "event_sources": f"booking=localhost:{self.booking_port}",
            "event_consumers": "booking",
            "booking_address": f"localhost:{self.booking_port}",
            "stripe_key": "sk_test_story",
            "stripe_webhook_secrets": SECRET,
            "stripe_api_base": self.fake.url,
            "stripe_timeout_s": 2.0,
            "webhook_listen": f"127.0.0.1:{self.webhook_port}",
            **overrides,
        }
        return Settings(**chosen)

    def home(self, name: str) -> Path:
        """The folder of a service."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def service_key(self) -> Path:
        """The key that both sign their own tokens with."""
        path = self.folder / "service_key.pem"
        path.write_text(self.key)
        return path


@asynccontextmanager
async def town(database: Database, folder: Path) -> AsyncIterator[Town]:
    """Stripe's fake runs; the services are started by the test."""
    async with StripeFake(retry_base_s=RETRY_S) as fake:
        yield Town(database, folder, fake)
