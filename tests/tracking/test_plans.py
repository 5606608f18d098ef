"""The guide's indexes on trips and their points serve the RPCs that they were made for."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests import explaining, postgres
from tests.booking.plans import Statement
from tests.explaining import reads
from tests.postgres import Database
from tests.tracking import plans
from tests.tracking.plans import GUIDE, POINTS_INDEX, STATEMENTS

SCHOOLS, TRIPS = 20, 20_000
GROWING = ("Trip", "TripPoint", "TripPoint_2031_05", "HeldTripPoint")


@pytest.fixture(scope="module")
def school(template: Database) -> Iterator[psycopg.Connection]:
    """The service's connection, on behalf of one of many schools."""
    with postgres.copied(template) as database:
        plans.fill(database, SCHOOLS, TRIPS // SCHOOLS)
        with plans.login(database) as connection:
            yield connection


def test_every_index_of_the_guide_is_there_for_a_statement() -> None:
    assert {index for statement in STATEMENTS for index in statement.indexes} >= set(GUIDE)


@pytest.mark.parametrize("statement", STATEMENTS, ids=str)
def test_a_read_enters_its_index_by_the_columns_it_was_made_of(
    school: psycopg.Connection, statement: Statement
) -> None:
    steps = [*reads(explaining.explain(school, statement.sent, generic=False))]
    for index, columns in statement.indexes.items():
        assert any(step.index == index and step.enters_by(columns) for step in steps), steps
    assert [step for step in steps if step.is_whole(GROWING)] == []


def test_the_index_of_a_month_belongs_to_the_guides(school: psycopg.Connection) -> None:
    rows = school.execute(
        "SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = %s::regclass",
        [f'"{POINTS_INDEX}"'],
    ).fetchall()
    assert rows == [("idx_trip_point_trip_ts",)]
