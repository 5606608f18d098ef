"""The statements of payouts and the ledger enter their indexes: as the login role, and with RLS."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from services.payments.store import ledger, payouts
from services.payments.store.payments import LAST_ID
from services.payments.store.payouts import Filter
from tests import explaining, postgres
from tests.explaining import Ask, explain, reads
from tests.postgres import Database

SCHOOLS, INSTRUCTORS, PAYMENTS, PAYOUTS = 20, 10, 1_500, 2_000
"""Instructors, payments and payouts of each school."""
NOW = datetime(2026, 6, 3, 2, tzinfo=UTC)
ORG = UUID("0a000000-0000-7000-8000-000007000000")
INSTRUCTOR = UUID("0b000000-0000-7000-8000-000007000003")
PAYOUT = UUID("0c000000-0000-7000-8000-000007000005")
PAYMENT = UUID("0d000000-0000-7000-8000-000007000005")
MONTH = (NOW - timedelta(days=30), NOW)
GROWING = ("Payment", "Payout", "PayoutItem", "LedgerEntry")
FILL = """
SET session_replication_role = replica;
CREATE FUNCTION pg_temp.made_id(kind text, school int, n int) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT (kind || '000000-0000-7000-8000-' || lpad(to_hex(school), 6, '0')
          || lpad(to_hex(n), 6, '0'))::uuid
$$;
INSERT INTO payments."Payout" ("orgId", id, "instructorId", "amountCents", currency, status,
       "stripeAccountId", "stripeTransferId", "transferredAt", "createdAt")
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0c', s, n),
       pg_temp.made_id('0b', s, n %% %(instructors)s::int), 6800, 'AUD', 'paid', 'acct_1',
       'tr_' || s || '_' || n, at, at
  FROM generate_series(1, %(payouts)s::int) AS n
 CROSS JOIN generate_series(1, %(schools)s::int) AS s
 CROSS JOIN LATERAL (SELECT %(now)s::timestamptz - make_interval(hours => 2 * n)) AS made (at);
INSERT INTO payments."Payment" ("orgId", id, "bookingId", "instructorId", "amountCents", currency,
       "applicationFeeCents", "instructorShareCents", status, "stripePaymentIntentId",
       "capturedCents", "capturedAt", "lessonCompletedAt", "shareStatus", "payoutId", "createdAt")
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0d', s, n), uuidv7(),
       pg_temp.made_id('0b', s, n %% %(instructors)s::int), 8000, 'AUD', 1200, 6800, 'succeeded',
       'pi_' || s || '_' || n, 8000, at, at, 'due',
       CASE WHEN n %% 5 > 0 THEN pg_temp.made_id('0c', s, n %% %(payouts)s::int + 1) END, at
  FROM generate_series(1, %(payments)s::int) AS n
 CROSS JOIN generate_series(1, %(schools)s::int) AS s
 CROSS JOIN LATERAL (SELECT %(now)s::timestamptz - make_interval(hours => 3 * n)) AS made (at);
INSERT INTO payments."PayoutItem" ("orgId", "payoutId", "paymentId", "amountCents")
SELECT "orgId", "payoutId", id, 6800 FROM payments."Payment" WHERE "payoutId" IS NOT NULL;
INSERT INTO payments."LedgerEntry" ("orgId", "transactionId", account, "amountCents", currency,
       kind, "sourceId")
SELECT "orgId", id, side.account, side.cents, 'AUD', 'share_due', id
  FROM payments."Payment"
 CROSS JOIN LATERAL (VALUES ('school', 6800), ('instructor:' || "instructorId", -6800))
         AS side (account, cents);
RESET session_replication_role;
"""

ASKS: list[tuple[str, Ask, dict[str, str]]] = [
    (
        "lock_payments_due",
        lambda c: payouts.lock_payments_due(c, ORG, INSTRUCTOR, *MONTH),
        {"idx_payment_share_due": "orgId instructorId lessonCompletedAt"},
    ),
    (
        "list_instructors_due",
        lambda c: payouts.list_instructors_due(c, ORG, *MONTH),
        {"idx_payment_share_due": "orgId lessonCompletedAt"},
    ),
    (
        "sum_due",
        lambda c: payouts.sum_due(c, ORG, INSTRUCTOR),
        {"idx_payment_share_due": "orgId instructorId"},
    ),
    (
        "lock_payments_named",
        lambda c: payouts.lock_payments_named(c, ORG, [PAYMENT] * 10),
        {"payment_pkey": "orgId id"},
    ),
    (
        "lock_payments_of_payout",
        lambda c: payouts.lock_payments_of_payout(c, ORG, PAYOUT),
        {"idx_payment_payout": "orgId payoutId"},
    ),
    (
        "release_payments",
        lambda c: payouts.release_payments(c, ORG, PAYOUT, NOW),
        {"idx_payment_payout": "orgId payoutId"},
    ),
    (
        "release_payout_items",
        lambda c: payouts.release_payout_items(c, ORG, PAYOUT),
        {"payout_item_pkey": "orgId payoutId"},
    ),
    (
        "list_payout_items",
        lambda c: payouts.list_payout_items(c, ORG, PAYOUT),
        {"payout_item_pkey": "orgId payoutId"},
    ),
    ("get_payout", lambda c: payouts.get_payout(c, ORG, PAYOUT), {"payout_pkey": "orgId id"}),
    (
        "lookup_payout",
        lambda c: payouts.lookup_payout(c, ORG, "tr_7_5"),
        {"idx_payout_stripe_transfer": "stripeTransferId"},
    ),
    (
        "list_payouts",
        lambda c: payouts.list_payouts(c, ORG, Filter(before_at=NOW), 51),
        {"idx_payout_org_created": "orgId createdAt"},
    ),
    (
        "list_payouts_of_instructor",
        lambda c: payouts.list_payouts_of_instructor(
            c, ORG, Filter(instructor_id=INSTRUCTOR, before_at=NOW), 51
        ),
        {"idx_payout_instructor_created": "instructorId createdAt"},
    ),
    (
        "list_ledger_entries",
        lambda c: ledger.list_ledger_entries(c, ORG, before_id=LAST_ID, limit=51),
        {"ledger_entry_pkey": "orgId id"},
    ),
    (
        "sum_account",
        lambda c: ledger.sum_account(c, ORG, f"instructor:{INSTRUCTOR}"),
        {"idx_ledger_entry_account_id": "orgId account"},
    ),
]


@pytest.fixture(scope="module")
def school(template: Database) -> Iterator[psycopg.Connection]:
    """The service's connection, on behalf of one of many schools."""
    values = {
        "schools": SCHOOLS,
        "instructors": INSTRUCTORS,
        "payments": PAYMENTS,
        "payouts": PAYOUTS,
        "now": NOW,
    }
    with postgres.copied(template) as database:
        with psycopg.connect(
            database.admin_dsn, autocommit=True, cursor_factory=psycopg.ClientCursor
        ) as admin:
            admin.execute(FILL.encode(), values)
            admin.execute("VACUUM ANALYZE")
        with explaining.login(database, "payments", ORG) as connection:
            yield connection


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize(("ask", "indexes"), [ask[1:] for ask in ASKS], ids=[a[0] for a in ASKS])
def test_a_statement_enters_its_index_by_the_columns_it_was_made_of(
    school: psycopg.Connection, ask: Ask, indexes: dict[str, str], generic: bool
) -> None:
    steps = [*reads(explain(school, explaining.sent(ask), generic=generic))]
    for index, columns in indexes.items():
        assert any(step.index == index and step.enters_by(columns.split()) for step in steps), steps
    assert [step for step in steps if step.is_whole(GROWING)] == []


def test_other_schools_stay_unseen_by_the_connection_that_explains(
    school: psycopg.Connection,
) -> None:
    rows = school.execute('SELECT count(*), count(DISTINCT "orgId") FROM "Payment"').fetchall()
    assert rows == [(PAYMENTS, 1)]
    assert school.execute("SELECT current_user").fetchall() == [("payments",)]
