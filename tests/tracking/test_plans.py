"""The guide's indexes on trips and their points serve the RPCs that they were made for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from services.tracking import store
from services.tracking.model import Window
from tests import explaining, postgres
from tests.explaining import Ask, reads
from tests.postgres import Database

T0 = datetime(2031, 5, 6, tzinfo=UTC)
LAST = (datetime.max.replace(tzinfo=UTC), uuid.UUID(int=2**128 - 1))
WINDOW = Window(T0, T0 + timedelta(hours=1))
SCHOOLS, TRIPS = 20, 20_000
GROWING = ("Trip", "TripPoint", "TripPoint_2031_05", "HeldTripPoint")
# Trips of all schools in turn, a lesson for every two; five points of each, one held.
MANY_TRIPS = """
SELECT tracking.create_monthly_partition('TripPoint', '2031-05-01');
INSERT INTO tracking."Trip" ("orgId", id, "lessonId", "startedAt")
SELECT lpad(to_hex(n %% %(schools)s::int), 32, '0')::uuid,
       ('1' || lpad(to_hex(n), 31, '0'))::uuid,
       ('2' || lpad(to_hex(n / (2 * %(schools)s::int) * %(schools)s::int + n %% %(schools)s::int),
                    31, '0'))::uuid,
       %(at)s::timestamptz + make_interval(mins => n)
  FROM generate_series(1, %(trips)s::int) AS n;
INSERT INTO tracking."TripPoint" ("orgId", "tripId", ts, lat, lng)
SELECT "orgId", id, %(at)s::timestamptz + make_interval(secs => s), 1, 1
  FROM generate_series(1, 5) AS s CROSS JOIN tracking."Trip";
INSERT INTO tracking."HeldTripPoint" ("orgId", "tripId", ts, lat, lng, "createdAt")
SELECT "orgId", "tripId", ts, lat, lng, "createdAt" FROM tracking."TripPoint"
 WHERE ts < %(at)s::timestamptz + make_interval(secs => 2);
"""
ORG = uuid.UUID(int=7)
TRIP = uuid.UUID("10000000-0000-0000-0000-000000000007")
LESSON = uuid.UUID("20000000-0000-0000-0000-000000000007")
PAGE: dict[str, Any] = {"before": LAST, "started_from": T0, "limit": 51, "paths": ("id", "status")}

BY_TRIP = ("TripPoint_2031_05_pkey", "tripId ts")
ASKED: dict[str, tuple[Ask, tuple[str, str]]] = {
    "ListTrips of a lesson": (
        lambda c: store.list_trips_of_lesson(c, ORG, LESSON, **PAGE),
        ("idx_trip_lesson", "lessonId"),
    ),
    "erasing a student": (
        lambda c: store.erase_trips(c, ORG, [LESSON]),
        ("idx_trip_lesson", "lessonId"),
    ),
    "ListTrips": (
        lambda c: store.list_trips(c, ORG, **PAGE),
        ("idx_trip_org_start", "orgId startedAt"),
    ),
    "ListTripPoints": (
        lambda c: store.list_points(c, ORG, TRIP, after=WINDOW.start, before=WINDOW.end, limit=51),
        BY_TRIP,
    ),
    "GetLatestPosition": (lambda c: store.latest_point(c, ORG, TRIP, WINDOW), BY_TRIP),
}


@pytest.fixture(scope="module")
def school(template: Database) -> Iterator[psycopg.Connection]:
    """The service's connection, on behalf of one of many schools."""
    with postgres.copied(template) as database:
        with psycopg.connect(
            database.admin_dsn, autocommit=True, cursor_factory=psycopg.ClientCursor
        ) as admin:
            admin.execute(MANY_TRIPS, {"schools": SCHOOLS, "trips": TRIPS, "at": T0})
            admin.execute("VACUUM ANALYZE")
        with explaining.login(database, "tracking", ORG) as connection:
            yield connection


@pytest.mark.parametrize("what", ASKED)
def test_a_read_enters_its_index_by_the_columns_it_was_made_of(
    school: psycopg.Connection, what: str
) -> None:
    ask, (index, columns) = ASKED[what]
    steps = [*reads(explaining.explain(school, explaining.sent(ask), generic=False))]
    assert any(step.index == index and step.enters_by(columns.split()) for step in steps), steps
    assert [step for step in steps if step.is_whole(GROWING)] == []


def test_the_index_of_a_month_belongs_to_the_guides(school: psycopg.Connection) -> None:
    rows = school.execute(
        "SELECT inhparent::regclass::text FROM pg_inherits"
        " WHERE inhrelid = '\"TripPoint_2031_05_pkey\"'::regclass"
    ).fetchall()
    assert rows == [("idx_trip_point_trip_ts",)]
