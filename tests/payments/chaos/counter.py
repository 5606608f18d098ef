"""Payments without a server: its methods are called by hand, its duties done when the test wants.

Stripe is the fake, spoken to as ever; its events are taken in by hand, in any order.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import stripe

from driveflow.booking.v1 import booking_pb2, directory_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from libs import calls, issuer, pooling
from libs.calls import Call, Caller
from libs.errors import DomainError
from libs.events import Event
from libs.local.stripe_fake import StripeFake
from libs.orgs import Orgs
from libs.pages import Pages
from libs.settings import Settings
from services.payments import effects
from services.payments.charging import Charging
from services.payments.model.stripe import StripeEvent
from services.payments.paying_out import PayingOut
from services.payments.servicer.desk import Desk
from services.payments.servicer.payments import PaymentServicer
from services.payments.stripe_gateway import StripeGateway
from services.payments.sweeps import Sweeps
from services.payments.webhooks import Webhooks
from tests.postgres import Database
from tests.serving import Clock, common_settings

SINCE = datetime(2020, 1, 1, tzinfo=UTC)
NOWHERE = "http://127.0.0.1:9/"
PAYMENTS = """
SELECT id::text, status, "capturedCents", "refundedCents", "shareStatus", "payoutId"::text
  FROM payments."Payment" WHERE "orgId" = %s
"""
BALANCES = """
SELECT account, currency::text, sum("amountCents")::bigint FROM payments."LedgerEntry"
 WHERE "orgId" = %s GROUP BY account, currency HAVING sum("amountCents") <> 0
"""
UNBALANCED = """
SELECT "transactionId" FROM payments."LedgerEntry" WHERE "orgId" = %s
 GROUP BY "transactionId" HAVING sum("amountCents") <> 0 OR count(DISTINCT currency) <> 1
"""


@dataclass
class Bookings:
    """What booking says when payments asks: prices and accounts, as the test has set them."""

    bookings: dict[uuid.UUID, booking_pb2.Booking] = field(default_factory=dict)
    accounts: dict[uuid.UUID, str] = field(default_factory=dict)

    async def get_booking(self, org_id: uuid.UUID, booking_id: uuid.UUID) -> booking_pb2.Booking:
        return self.bookings[booking_id]

    async def get_instructor(
        self, org_id: uuid.UUID, instructor_id: uuid.UUID
    ) -> directory_pb2.Instructor:
        account = self.accounts[instructor_id]
        return directory_pb2.Instructor(id=str(instructor_id), stripe_account_id=account)


@dataclass
class Counter:
    """Where a school's money goes in and out."""

    servicer: PaymentServicer
    sweeps: Sweeps
    webhooks: Webhooks
    gateway: StripeGateway
    bookings: Bookings
    fake: StripeFake
    dashboard: stripe.V1Services
    """Stripe as people of the school use it, past us."""
    orgs: Orgs
    clock: Clock
    rows: psycopg.Connection[Any]

    async def call(self, org_id: uuid.UUID, method: str, request: Any) -> Any:
        """The answer of a method to the school's office, or the error's reason."""
        caller = Caller("office", org_id, frozenset(issuer.TENANT_SCOPES), expires_at=0.0)
        calls.begin(Call(method=method, caller=caller))
        try:
            return await getattr(self.servicer, method)(request, None)
        except DomainError as error:
            return error.reason

    async def tell(self, org_id: uuid.UUID, kind: str, **payload: Any) -> None:
        """Booking tells of something: it has its effect."""
        id_ = uuid.UUID(payload["booking_id"])
        event = Event(org_id, "booking", kind, "booking", id_, 1, payload, self.clock())
        async with self.orgs.write(org_id) as conn:
            await effects.of_booking(self.clock, _later)[kind](conn, event)

    async def sweep(self, org_id: uuid.UUID) -> None:
        """Minutes pass, and what is open at Stripe is done."""
        self.pass_time(timedelta(minutes=10))
        await self.sweeps.school(org_id)

    def pass_time(self, span: timedelta) -> None:
        """For us and for Stripe."""
        self.clock.ahead += span
        self.fake.clock(self.clock.ahead.total_seconds())

    async def events(self) -> list[StripeEvent]:
        """All that Stripe has told since `begin`, oldest first."""
        return [event async for event in self.gateway.undelivered(SINCE)][::-1]

    def begin(self) -> None:
        """Stripe knows nothing, has money, and keeps its events until it is asked."""
        self.clock.ahead = timedelta(0)
        self.fake.reset()
        self.fake.hold_webhooks()
        for currency in ("aud", "eur"):
            self.fake.top_up(10**10, currency)

    # --- what the database says, asked past the service ---

    def payments(self, org_id: uuid.UUID) -> dict[str, tuple[Any, ...]]:
        """Status, captured, refunded, share, payout of each payment."""
        return {row[0]: row[1:] for row in self.rows.execute(PAYMENTS, (org_id,))}

    def balances(self, org_id: uuid.UUID) -> dict[tuple[str, str], int]:
        """What each account of the ledger holds, by currency, but for those that are empty."""
        return {row[:2]: row[2] for row in self.rows.execute(BALANCES, (org_id,))}

    def unbalanced(self, org_id: uuid.UUID) -> list[tuple[Any, ...]]:
        """Movements that do not add up to 0, or are not of one currency."""
        return self.rows.execute(UNBALANCED, (org_id,)).fetchall()


@asynccontextmanager
async def counter(database: Database, folder: Path) -> AsyncIterator[Counter]:
    """Everything of payments but its server, with Stripe's fake before it."""
    (folder / "jwks.json").write_text(issuer.jwks(issuer.new_key()))
    dsn = database.dsn("payments")
    settings = Settings(**common_settings(folder), dsn=dsn)
    async with (
        StripeFake(webhook_url=NOWHERE) as fake,
        pooling.create("payments", dsn, settings) as pool,
    ):
        with psycopg.connect(database.admin_dsn, autocommit=True) as rows:
            http = stripe.AIOHTTPClient(timeout=5)
            made = _counter(fake, http, Orgs(pool), rows)
            try:
                yield made
            finally:
                await made.gateway.close()
                await http.close_async()  # type: ignore[no-untyped-call]


def _counter(
    fake: StripeFake, http: stripe.AIOHTTPClient, orgs: Orgs, rows: psycopg.Connection[Any]
) -> Counter:
    clock, bookings = Clock(), Bookings()
    addresses: Any = {"api": fake.url}
    dashboard = stripe.StripeClient("sk_test_x", base_addresses=addresses, http_client=http)
    gateway = StripeGateway("sk_test_model", ["whsec_test"], timeout_s=5.0, api_base=fake.url)
    charging = Charging(orgs, gateway, clock)
    paying_out = PayingOut(orgs, gateway, clock)
    webhooks = Webhooks(orgs, gateway, paying_out, clock)
    known: Any = bookings
    desk = Desk(orgs, Pages(b"test" * 16), known, gateway, charging, clock)
    return Counter(
        PaymentServicer(desk, paying_out),
        Sweeps(orgs, charging, paying_out, webhooks, clock),
        webhooks,
        gateway,
        bookings,
        fake,
        dashboard.v1,
        orgs,
        clock,
        rows,
    )


def _later(_org_id: uuid.UUID) -> None:
    """Stripe is called when the test sweeps."""


def named(*payment_ids: str) -> pb.PaymentIds:
    """These payments, for a payout."""
    return pb.PaymentIds(payment_ids=payment_ids)
