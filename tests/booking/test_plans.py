"""Every index of the guide serves the RPC that it was made for: as the login role, and with RLS."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from libs.scoped import Sent, compiled
from tests import postgres
from tests.booking import plans
from tests.booking.plans import GUIDE, STATEMENTS, Statement
from tests.explaining import explain, reads
from tests.postgres import Database

BOOKINGS, SCHOOLS = 50_000, 20
# Tables that grow for ever: nothing may read one of them, or one of its indexes, from end to end.
GROWING = (
    "Booking",
    "Student",
    "AuditLog",
    "WaitlistEntry",
    "InstructorAvailability",
    "AvailabilityException",
)
USES = [
    (index, statement, generic)
    for statement in STATEMENTS
    for index in statement.indexes
    for generic in ([True] if statement.generic_only else [False, True])
]


@pytest.fixture(scope="module")
def school(template: Database) -> Iterator[psycopg.Connection]:
    """The service's connection, on behalf of one of many schools."""
    with postgres.copied(template) as database:
        plans.fill(database, SCHOOLS, BOOKINGS // SCHOOLS)
        with plans.login(database) as connection:
            yield connection


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
def test_no_statement_reads_a_growing_table_from_end_to_end(
    school: psycopg.Connection, statement: Statement, generic: bool
) -> None:
    plan = explain(school, statement.sent, generic=generic)
    assert [step for step in reads(plan) if step.is_whole(GROWING)] == []


@pytest.mark.parametrize("statement", STATEMENTS[:1], ids=str)
def test_a_whole_table_being_read_would_be_found(
    school: psycopg.Connection, statement: Statement
) -> None:
    with school.transaction(force_rollback=True):
        for way in ("indexscan", "indexonlyscan", "bitmapscan"):
            school.execute(f"SET LOCAL enable_{way} = off")
        plan = explain(school, statement.sent, generic=True)
    assert [step.table for step in reads(plan) if step.is_whole(GROWING)] == ["Booking"]


def test_overlap_alone_reaches_no_index_under_row_security(school: psycopg.Connection) -> None:
    """Which is why statements name bounds of "startAt" as well."""
    text = b'SELECT id FROM "Booking" WHERE busy && tstzrange($1::timestamptz, $2::timestamptz)'
    sent = Sent(compiled(text, False), [plans.NOW, plans.NOW + timedelta(hours=1)])
    steps = [*reads(explain(school, sent, generic=False))]
    assert steps
    assert not any(step.enters_by(["busy"]) for step in steps)


def test_other_schools_stay_unseen_by_the_connection_that_explains(
    school: psycopg.Connection,
) -> None:
    rows = school.execute('SELECT count(*), count(DISTINCT "orgId") FROM "Booking"').fetchall()
    assert rows == [(BOOKINGS // SCHOOLS, 1)]
    assert school.execute("SELECT current_user").fetchall() == [("booking",)]
