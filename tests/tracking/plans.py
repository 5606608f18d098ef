"""The statements that tracking's RPCs send, and how PostgreSQL answers them over many schools.

`fill` makes the schools' trips, `STATEMENTS` is what the store sends, each with the index that is
there for it, and `login` connects as the service does, under row security.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from services.tracking import store
from services.tracking.model import Window
from tests import explaining
from tests.booking.plans import Asked, Statement
from tests.postgres import Database

T0 = datetime(2031, 5, 6, tzinfo=UTC)
LAST = (datetime.max.replace(tzinfo=UTC), uuid.UUID(int=2**128 - 1))
WINDOW = Window(T0, T0 + timedelta(hours=1))
POINTS_INDEX = "TripPoint_2031_05_pkey"
"""What idx_trip_point_trip_ts is called in the month of the points."""
GUIDE = ("idx_trip_lesson", POINTS_INDEX)
"""The guide's indexes on tracking's tables."""
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


def fill(database: Database, schools: int, trips_of_each: int, timeout_s: float = 60) -> None:
    """Schools with so many trips each; no statement takes longer."""
    parameters = {"schools": schools, "trips": schools * trips_of_each, "at": T0}
    with psycopg.connect(
        database.admin_dsn, autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as admin:
        admin.execute(f"SET statement_timeout = '{timeout_s:.0f}s'")
        admin.execute(MANY_TRIPS, parameters)
        admin.execute("VACUUM ANALYZE")


def login(database: Database) -> psycopg.Connection:
    """The service's connection, on behalf of one of the schools."""
    return explaining.login(database, "tracking", ORG)


def _statements() -> Iterator[Statement]:
    for rpc, ask, indexes in _asked():
        sent = explaining.sent(ask)
        name = re.findall(rb"/\* tracking\.(\w+) \*/", sent.statement.text)[0].decode()
        yield Statement(rpc, name, sent, {each: by.split() for each, by in indexes.items()})


def _asked() -> Asked:
    by_lesson, by_trip = {"idx_trip_lesson": "lessonId"}, {POINTS_INDEX: "tripId ts"}
    yield "ListTrips", lambda c: store.list_trips_of_lesson(c, ORG, LESSON, **PAGE), by_lesson
    yield "(events)", lambda c: store.erase_trips(c, ORG, [LESSON]), by_lesson
    by_start = {"idx_trip_org_start": "orgId startedAt"}
    yield "ListTrips", lambda c: store.list_trips(c, ORG, **PAGE), by_start
    window: dict[str, Any] = {"after": WINDOW.start, "before": WINDOW.end, "limit": 51}
    yield "ListTripPoints", lambda c: store.list_points(c, ORG, TRIP, **window), by_trip
    yield "GetLatestPosition", lambda c: store.latest_point(c, ORG, TRIP, WINDOW), by_trip


STATEMENTS = tuple(_statements())
