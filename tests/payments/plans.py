"""The statements that payments' RPCs, sweeps and webhooks send, and how PostgreSQL answers them
over many schools.

`fill` makes the schools, `STATEMENTS` is what the store sends, each with the indexes that are there
for it, and `login` connects as the service does, under row security.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from services.payments.model import ledger as accounts
from services.payments.model.stripe import StripeEvent
from services.payments.store import ledger, payments, payouts, reconciliation, refunds, revenue
from services.payments.store import webhooks as events
from services.payments.store.payments import LAST_ID, Filter
from tests import explaining
from tests.booking.plans import Asked, Statement
from tests.explaining import Ask
from tests.postgres import Database

NOW = datetime(2026, 6, 3, 2, tzinfo=UTC)
INSTRUCTORS = 10
"""Of each school."""
MANY_SCHOOLS = Path(__file__).with_name("many_schools.sql")
# The guide's indexes on payments' tables, in its order.
GUIDE = (
    "idx_payment_org_status",
    "idx_webhook_event_id",
    "idx_webhook_provider_processed",
    "idx_payment_org_created_status",
    "idx_payout_instructor_created",
    "idx_payment_stripe_intent",
    "idx_payout_stripe_transfer",
)
LIMIT = 51
LAST_NUMBER = 2**63 - 1
"""Before this event lie all."""
WEEK = (NOW - timedelta(days=7), NOW)


# --- the schools -------------------------------------------------------------------------------


def made_id(kind: str, school: int, number: int) -> uuid.UUID:
    """The id that `fill` gives."""
    return uuid.UUID(f"{kind}000000-0000-7000-8000-{school:06x}{number:06x}")


SCHOOL = 7
ORG = made_id("0a", SCHOOL, 0)
INSTRUCTOR = made_id("0b", SCHOOL, 3)
BOOKING = made_id("1a", SCHOOL, 42)
PAYMENT = made_id("1b", SCHOOL, 42)
PAYOUT = made_id("1c", SCHOOL, 42)


def fill(database: Database, schools: int, payments_of_each: int, timeout_s: float = 60) -> None:
    """Schools with so many payments each; no statement takes longer."""
    parameters = {
        "schools": schools,
        "instructors": INSTRUCTORS,
        "each": payments_of_each,
        "now": NOW,
    }
    with psycopg.connect(
        database.admin_dsn, autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as admin:
        admin.execute(f"SET statement_timeout = '{timeout_s:.0f}s'")
        admin.execute(MANY_SCHOOLS.read_bytes(), parameters)
        admin.execute("VACUUM ANALYZE")


def login(database: Database) -> psycopg.Connection:
    """The service's connection, on behalf of one of the schools."""
    return explaining.login(database, "payments", ORG)


# --- the statements ----------------------------------------------------------------------------


def _statements() -> Iterator[Statement]:
    for asks in (_payments, _refunds, _payouts, _ledger, _books, _webhooks, _sweep):
        for rpc, ask, indexes in asks():
            sent = explaining.sent(ask)
            name = re.findall(rb"/\* payments\.(\w+) \*/", sent.statement.text)[0].decode()
            entered = {index: columns.split() for index, columns in indexes.items()}
            yield Statement(rpc, name, sent, entered)


def _payments() -> Asked:
    rpc = "ListPayments"
    since = Filter(from_at=WEEK[0], to_at=WEEK[1])
    turned = Filter(before_at=NOW - timedelta(days=20), before_id=PAYMENT)
    by_time = {"idx_payment_org_created_status": "orgId createdAt"}
    for asked in (Filter(), since, turned):
        yield rpc, partial(payments.list_payments, org_id=ORG, asked=asked, limit=LIMIT), by_time
    asked = Filter(status="succeeded", from_at=WEEK[0], to_at=WEEK[1])
    yield rpc, partial(payments.list_payments, org_id=ORG, asked=asked, limit=LIMIT), by_time
    by_status = {"idx_payment_org_status": "orgId status id"}
    for status in ("succeeded", "failed", "unknown"):
        asked = Filter(status=status)
        yield (
            rpc,
            partial(payments.list_payments_with_status, org_id=ORG, asked=asked, limit=LIMIT),
            by_status,
        )
    by_booking = {"idx_payment_booking": "orgId bookingId"}
    of_booking = Filter(booking_id=BOOKING)
    yield (
        rpc,
        partial(payments.list_payments_of_booking, org_id=ORG, asked=of_booking, limit=LIMIT),
        by_booking,
    )
    yield (
        "(events)",
        lambda c: payments.lock_payments_of_booking(c, ORG, BOOKING),
        by_booking,
    )
    yield (
        "CreatePayment",
        lambda c: payments.find_live_payment(c, ORG, BOOKING, PAYMENT),
        {"idx_payment_booking": "orgId bookingId"},
    )
    by_id = {"payment_pkey": "orgId id"}
    yield "GetPayment", lambda c: payments.get_payment(c, ORG, PAYMENT), by_id
    yield "RefundPayment", lambda c: payments.lock_payment(c, ORG, PAYMENT), by_id
    yield (
        "LookupPayment",
        lambda c: payments.get_payment_of_intent(c, ORG, f"pi_{SCHOOL}_42"),
        {"idx_payment_stripe_intent": "stripePaymentIntentId orgId"},
    )


def _refunds() -> Asked:
    page: dict[str, Any] = {"before_id": LAST_ID, "limit": LIMIT}
    yield (
        "ListRefunds",
        lambda c: refunds.list_refunds(c, ORG, **page),
        {"refund_pkey": "orgId id"},
    )
    of_payment = {"idx_refund_payment": "orgId paymentId"}
    yield (
        "ListRefunds",
        lambda c: refunds.list_refunds_of_payment(c, ORG, PAYMENT, **page),
        of_payment,
    )
    yield "(webhooks)", lambda c: refunds.sum_refunds(c, ORG, PAYMENT), of_payment
    yield "(events)", lambda c: refunds.sum_policy_refunds(c, ORG, PAYMENT), of_payment
    yield (
        "(webhooks)",
        lambda c: refunds.lookup_refund(c, ORG, f"repi_{SCHOOL}_42"),
        {"idx_refund_stripe": "stripeRefundId orgId"},
    )
    yield (
        "(webhooks)",
        lambda c: refunds.lock_dispute(c, ORG, f"dupi_{SCHOOL}_42"),
        {"idx_dispute_stripe": "stripeDisputeId orgId"},
    )
    by_payment = {"idx_dispute_payment": "orgId paymentId"}
    yield "(webhooks)", lambda c: refunds.is_held_back(c, ORG, PAYMENT), by_payment
    yield (
        "ListDisputes",
        lambda c: refunds.list_disputes_of_payment(c, ORG, PAYMENT, **page),
        by_payment,
    )


def _payouts() -> Asked:
    yield (
        "CreatePayout",
        lambda c: payouts.lock_payments_due(c, ORG, INSTRUCTOR, *WEEK),
        {"idx_payment_share_due": "orgId instructorId lessonCompletedAt"},
    )
    of_instructor = payouts.Filter(instructor_id=INSTRUCTOR, before_at=NOW)
    yield (
        "ListPayouts",
        lambda c: payouts.list_payouts_of_instructor(c, ORG, of_instructor, LIMIT),
        {"idx_payout_instructor_created": "instructorId createdAt"},
    )
    yield (
        "LookupPayout",
        lambda c: payouts.lookup_payout(c, ORG, f"tr_{SCHOOL}_42"),
        {"idx_payout_stripe_transfer": "stripeTransferId orgId"},
    )
    yield (
        "ReversePayout",
        lambda c: payouts.lock_payout(c, ORG, PAYOUT),
        {"payout_pkey": "orgId id"},
    )


def _ledger() -> Asked:
    of_instructor = accounts.instructor(INSTRUCTOR)
    by_account = {"idx_ledger_entry_account_id": "orgId account"}
    yield (
        "GetInstructorBalance",
        lambda c: ledger.sum_account(c, ORG, of_instructor),
        by_account,
    )
    for account in (of_instructor, accounts.STRIPE):
        yield "ListLedgerEntries", _entries(account), by_account


def _entries(account: str) -> Ask:
    return lambda c: ledger.list_ledger_entries_of_account(
        c, ORG, account, before_id=LAST_ID, limit=LIMIT
    )


def _books() -> Asked:
    yield (
        "GetRevenueReport",
        lambda c: revenue.revenue(
            c,
            ORG,
            from_at=WEEK[0],
            to_at=WEEK[1],
            bucket="day",
            zone="Australia/Sydney",
            currency="AUD",
        ),
        {
            "idx_payment_org_created_status": "orgId createdAt",
            "idx_refund_payment": "orgId paymentId",
        },
    )
    intents = [f"pi_{SCHOOL}_{number}" for number in range(50)]
    yield (
        "(reconciliation)",
        lambda c: reconciliation.list_payments_by_intent(c, ORG, intents),
        {"idx_payment_stripe_intent": "stripePaymentIntentId orgId"},
    )
    transfers = [f"tr_{SCHOOL}_{number}" for number in range(50)]
    yield (
        "(reconciliation)",
        lambda c: reconciliation.list_payouts_by_transfer(c, ORG, transfers, [PAYOUT]),
        {"idx_payout_stripe_transfer": "stripeTransferId orgId"},
    )


def _webhooks() -> Asked:
    event = StripeEvent(
        id=f"evt_pi_{SCHOOL}_42",
        type="payment_intent.succeeded",
        account="",
        livemode=False,
        created=NOW,
        payload={},
        object={},
    )
    yield (
        "ReceiveWebhook",
        lambda c: events.lock_webhook_event(c, event),
        {"idx_webhook_event_id": "eventId provider account livemode"},
    )
    yield (
        "(sweep)",
        lambda c: events.delete_webhook_events(c, NOW - timedelta(days=90), 250),
        {"idx_webhook_provider_processed": "provider processedAt"},
    )
    yield (
        "(sweep)",
        lambda c: events.list_due_webhook_events(c, NOW, 100),
        {"idx_webhook_due": "nextAttemptAt"},
    )
    page: dict[str, Any] = {"provider": "", "before_id": LAST_NUMBER, "limit": LIMIT}
    yield (
        "ListWebhookEvents",
        lambda c: events.list_webhook_events(c, **page),
        {"webhook_event_pkey": "id"},
    )
    for state in ("failed", "processed"):
        yield "ListWebhookEvents", _in_state(state, page), {"idx_webhook_state": "state"}


def _in_state(state: str, page: dict[str, Any]) -> Ask:
    return lambda c: events.list_webhook_events_with_state(c, state=state, **page)


def _sweep() -> Asked:
    yield (
        "(sweep)",
        lambda c: payments.list_due(c, ORG, NOW, 100),
        {
            "idx_payment_due": "orgId nextAttemptAt",
            "idx_refund_due": "orgId nextAttemptAt",
            "idx_payout_due": "orgId nextAttemptAt",
        },
    )


STATEMENTS = tuple(_statements())
