"""Every index of the guide serves the RPC that it was made for: as the login role, and with RLS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest

from libs import scoped
from libs.scoped import Sent
from tests import postgres
from tests.booking.plans import Statement
from tests.explaining import explain, prepared, reads
from tests.payments import plans
from tests.payments.plans import GUIDE, STATEMENTS
from tests.postgres import Database

PAYMENTS, SCHOOLS = 50_000, 20
# Tables that grow for ever: nothing may read one of them, or one of its indexes, from end to end.
GROWING = ("Payment", "Refund", "Dispute", "Payout", "LedgerEntry", "WebhookEvent")
READ_MAX = 600
"""Rows of them that a statement may read: less than a school has of any of them but disputes."""
USES = [
    (index, statement, generic)
    for statement in STATEMENTS
    for index in statement.indexes
    for generic in (False, True)
]


@pytest.fixture(scope="module")
def school(template: Database) -> Iterator[psycopg.Connection]:
    """The service's connection, on behalf of one of many schools."""
    with postgres.copied(template) as database:
        plans.fill(database, SCHOOLS, PAYMENTS // SCHOOLS)
        with plans.login(database) as connection:
            yield connection


def explained(conn: psycopg.Connection, sent: Sent, *, generic: bool) -> dict[str, Any]:
    """The plan once it was run, and what it did undone."""
    conn.execute(f"SET plan_cache_mode = force_{'generic' if generic else 'custom'}_plan")
    with prepared(conn, sent) as explain:
        return cast("dict[str, Any]", explain(", ANALYZE, TIMING OFF")["Plan"])


def read(plan: dict[str, Any]) -> int:
    """How many rows of the growing tables were read, whether they were of use or not."""
    return sum(step.rows for step in reads(plan) if step.table in GROWING)


def test_every_index_of_the_guide_is_there_for_a_statement() -> None:
    assert {index for index, _, _ in USES} >= set(GUIDE)


@pytest.mark.parametrize(
    ("index", "statement", "generic"),
    USES,
    ids=[
        f"{index}-{statement}-{'generic' if generic else 'custom'}"
        for index, statement, generic in USES
    ],
)
def test_a_statement_enters_its_index_by_the_columns_it_was_made_of(
    school: psycopg.Connection, index: str, statement: Statement, generic: bool
) -> None:
    steps = [*reads(explain(school, statement.sent, generic=generic))]
    columns = statement.indexes[index]
    assert any(step.index == index and step.enters_by(columns) for step in steps), steps


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("statement", STATEMENTS, ids=str)
def test_no_statement_reads_or_sorts_all_that_a_school_has(
    school: psycopg.Connection, statement: Statement, generic: bool
) -> None:
    plan = explained(school, statement.sent, generic=generic)
    assert [step for step in reads(plan) if step.is_whole(GROWING)] == []
    assert read(plan) <= READ_MAX


def test_a_schools_table_being_sorted_would_be_found(school: psycopg.Connection) -> None:
    query = b'SELECT id FROM "Payment" WHERE "orgId" = %s::uuid ORDER BY "updatedAt", id LIMIT 5'
    sent = scoped.statement(query, (plans.ORG,))
    assert read(explained(school, sent, generic=True)) > READ_MAX


def test_other_schools_stay_unseen_by_the_connection_that_explains(
    school: psycopg.Connection,
) -> None:
    rows = school.execute('SELECT count(*), count(DISTINCT "orgId") FROM "Payment"').fetchall()
    assert rows == [(PAYMENTS // SCHOOLS, 1)]
    assert school.execute("SELECT current_user").fetchall() == [("payments",)]
