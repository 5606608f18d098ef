"""Reports and reconciliation find their rows by the indexes that are there for them: as the login
role, under row security, among many schools."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from services.payments.store import reconciliation, revenue
from tests import explaining, postgres
from tests.explaining import Ask, explain, reads
from tests.postgres import Database

SCHOOLS, EACH = 8, 1_000
GROWING = ("Payment", "Refund", "Dispute", "Payout", "ReconciliationRun", "Discrepancy")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
ORG = uuid.UUID(f"0a000000-0000-7000-8000-{3:012x}")
FIRST_ID = uuid.UUID(int=0)
# A payment every hour at each school, a tenth given back and contested, most paid out.
MANY_SCHOOLS = f"""
INSERT INTO payments."Payment"
       ("orgId", "bookingId", "instructorId", "amountCents", currency, "applicationFeeCents",
        "instructorShareCents", status, "stripePaymentIntentId", "capturedCents", "capturedAt",
        "createdAt")
SELECT ('0a000000-0000-7000-8000-' || lpad(to_hex(s), 12, '0'))::uuid, uuidv7(), uuidv7(), 8000,
       'AUD', 1200, 6800, CASE n % 10 WHEN 0 THEN 'partially_refunded' WHEN 1 THEN 'failed'
       ELSE 'succeeded' END, 'pi_' || s || '_' || n, CASE n % 10 WHEN 1 THEN 0 ELSE 8000 END,
       CASE n % 10 WHEN 1 THEN NULL ELSE at END, at
  FROM generate_series(1, {EACH}) AS n, generate_series(1, {SCHOOLS}) AS s,
       LATERAL (SELECT timestamptz '2026-06-01 12:00Z' - make_interval(hours => n)) AS made (at);
INSERT INTO payments."Refund" ("orgId", "paymentId", "amountCents", currency, status, cause)
SELECT "orgId", id, 3000, 'AUD', 'succeeded', 'stripe'
  FROM payments."Payment" WHERE status = 'partially_refunded';
INSERT INTO payments."Dispute"
       ("orgId", "paymentId", "amountCents", currency, status, "stripeDisputeId", "stripeStateAt")
SELECT "orgId", id, 8000, 'AUD', 'won', 'du' || "stripePaymentIntentId", "createdAt"
  FROM payments."Payment" WHERE status = 'partially_refunded';
INSERT INTO payments."Payout"
       ("orgId", "instructorId", "amountCents", currency, status, "stripeAccountId",
        "stripeTransferId", "transferredAt")
SELECT "orgId", uuidv7(), 6800, 'AUD', 'paid', 'acct_1', 'tr' || "stripePaymentIntentId",
       "capturedAt"
  FROM payments."Payment" WHERE status = 'succeeded';
INSERT INTO payments."ReconciliationRun" ("orgId", "fromAt", "toAt", "dryRun", status, "endedAt")
SELECT ('0a000000-0000-7000-8000-' || lpad(to_hex(1 + n % {SCHOOLS}), 12, '0'))::uuid,
       now() - make_interval(hours => 1), now(), false, 'done', now()
  FROM generate_series(1, 2000) AS n;
INSERT INTO payments."Discrepancy" ("orgId", "runId", kind, "objectType")
SELECT "orgId", id, 'amount', 'payment' FROM payments."ReconciliationRun";
ANALYZE payments."Payment", payments."Refund", payments."Dispute", payments."Payout",
        payments."ReconciliationRun", payments."Discrepancy";
"""


@pytest.fixture(scope="module")
def among_schools(template: Database) -> Iterator[psycopg.Connection]:
    """The service's connection, on behalf of one of many schools."""
    with postgres.copied(template) as database:
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            admin.execute(MANY_SCHOOLS.encode())
        with explaining.login(database, "payments", ORG) as connection:
            yield connection


def within(days: int = 7) -> dict[str, Any]:
    period = {"from_at": NOON - timedelta(days=days), "to_at": NOON}
    return {**period, "after": (period["from_at"], FIRST_ID), "limit": 50}


def report(bucket: str, days: int) -> Ask:
    return lambda conn: revenue.revenue(
        conn,
        ORG,
        from_at=NOON - timedelta(days=days),
        to_at=NOON,
        bucket=bucket,
        zone="Australia/Sydney",
        currency="AUD",
    )


def listed(**of: Any) -> reconciliation.Filter:
    return reconciliation.Filter(**of)


ASKS: list[tuple[str, str, Ask]] = [
    ("idx_payment_org_created_status", "orgId createdAt", report("day", 7)),
    ("idx_payment_org_created_status", "orgId createdAt", report("month", 30)),
    (
        "idx_reconciliation_run_running",
        "orgId",
        lambda conn: reconciliation.find_running_run(conn, ORG),
    ),
    (
        "idx_payment_captured",
        "orgId capturedAt",
        lambda conn: reconciliation.list_payments_captured(conn, ORG, **within()),
    ),
    (
        "idx_payout_transferred",
        "orgId transferredAt",
        lambda conn: reconciliation.list_payouts_transferred(conn, ORG, **within()),
    ),
    (
        "idx_payment_stripe_intent",
        "stripePaymentIntentId orgId",
        lambda conn: reconciliation.list_payments_by_intent(conn, ORG, ["pi_3_7", "pi_3_8"]),
    ),
    (
        "idx_payout_stripe_transfer",
        "stripeTransferId orgId",
        lambda conn: reconciliation.list_payouts_by_transfer(conn, ORG, ["trpi_3_7"], [ORG]),
    ),
    (
        "idx_discrepancy_run",
        "orgId runId",
        lambda conn: reconciliation.list_discrepancies_of_run(conn, ORG, listed(run_id=ORG), 51),
    ),
    (
        "discrepancy_pkey",
        "orgId id",
        lambda conn: reconciliation.list_discrepancies(conn, ORG, listed(), 51),
    ),
]
SENT = [(index, columns.split(), explaining.sent(ask)) for index, columns, ask in ASKS]


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("number", range(len(SENT)), ids=[f"{each[0]}" for each in ASKS])
def test_a_statement_enters_its_index_and_reads_no_growing_table_whole(
    among_schools: psycopg.Connection, number: int, generic: bool
) -> None:
    index, columns, sent = SENT[number]
    steps = [*reads(explain(among_schools, sent, generic=generic))]
    assert any(each.index == index and each.enters_by(columns) for each in steps), steps
    assert [each for each in steps if each.is_whole(GROWING)] == []


def test_a_school_sees_its_own_report_alone(among_schools: psycopg.Connection) -> None:
    count = among_schools.execute('SELECT count(*) FROM "Payment"').fetchall()
    assert count == [(EACH,)]
    assert among_schools.execute("SELECT current_user").fetchall() == [("payments",)]
