"""Months of points: made ahead, met at midnight without a loss, dropped when their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg import errors as pg

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking import maintenance, partitions
from services.tracking.model import next_month
from tests.postgres import Database
from tests.serving import Tracking, at, serving
from tests.tracking.stories import (
    School,
    moment,
    now,
    refused,
    rows,
    times,
    track,
    way,
)
from tests.waiting import eventually

CREATE = "SELECT tracking.create_monthly_partition(%s, %s::date)"
ATTACHED = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i
  JOIN pg_class AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'tracking."TripPoint"'::regclass ORDER BY c.relname
"""


@pytest.fixture
def school(tracking: Tracking, tmp_path: Path) -> School:
    """A school on a service of the test's own: here months are dropped."""
    return School(tracking, tmp_path)


def months_ago(count: int) -> datetime:
    return next_month(now(), -count)


async def names(school: School) -> list[str]:
    found = await school.operator().ListPartitions(pb.ListPartitionsRequest())
    return [partition.name for partition in found.partitions]


async def ensure(school: School, **arguments: Any) -> pb.EnsurePartitionsResponse:
    return await school.operator().EnsurePartitions(pb.EnsurePartitionsRequest(**arguments))


async def apply_retention(
    school: School, before: datetime, *, dry_run: bool = False
) -> Sequence[pb.DroppedPartition]:
    request = pb.ApplyRetentionRequest(before=at(before), dry_run=dry_run)
    answer = await school.operator().ApplyRetention(request)
    assert answer.dry_run == dry_run
    return answer.partitions


def name_of(moment: datetime) -> str:
    return f"TripPoint_{moment:%Y_%m}"


# --- the function that makes a month ---


async def test_a_month_is_made_once_however_often_it_is_asked_for(
    shared_database: Database,
) -> None:
    dsn = shared_database.dsn("tracking")
    assert await rows(dsn, CREATE, "TripPoint", "2031-05-17") == [(True,)]
    assert await rows(dsn, CREATE, "TripPoint", "2031-05-01") == [(False,)]
    assert await rows(dsn, CREATE, "TripPoint", "2031-05-31") == [(False,)]


async def test_eight_that_make_one_month_at_once_make_one(shared_database: Database) -> None:
    dsn = shared_database.dsn("tracking")
    made = await asyncio.gather(*(rows(dsn, CREATE, "TripPoint", "2031-06-01") for _ in range(8)))
    assert sorted(made) == [[(False,)]] * 7 + [[(True,)]]
    attached = [name for name, _ in await rows(shared_database.admin_dsn, ATTACHED)]
    assert attached.count("TripPoint_2031_06") == 1


@pytest.mark.parametrize(
    ("zone", "year"), [("Australia/Sydney", 2032), ("America/Los_Angeles", 2033), ("UTC", 2034)]
)
async def test_months_begin_at_midnight_utc_whatever_the_zone_of_the_session(
    shared_database: Database, zone: str, year: int
) -> None:
    async with await psycopg.AsyncConnection.connect(shared_database.dsn("tracking")) as connection:
        await connection.execute(f"SET timezone = '{zone}'".encode())
        for day in ("01-31", "02-01", "03-31", "04-01"):
            await connection.execute(CREATE.encode(), ("TripPoint", f"{year}-{day}"))
    bounds = dict(await rows(shared_database.admin_dsn, ATTACHED))
    assert bounds[f"TripPoint_{year}_02"] == (
        f"FOR VALUES FROM ('{year}-02-01 00:00:00+00') TO ('{year}-03-01 00:00:00+00')"
    )
    made = [bounds[f"TripPoint_{year}_0{number}"] for number in (1, 2, 3, 4)]
    edges = [bound.split("'")[1::2] for bound in made]
    assert all(one[1] == following[0] for one, following in pairwise(edges))


@pytest.mark.parametrize(
    ("table", "start"),
    [("Trip", "2031-05-01"), ("Trip; --", "2031-05-01"), (None, "2031-05-01"), ("TripPoint", None)],
)
async def test_only_trip_points_have_months(
    shared_database: Database, table: str | None, start: str | None
) -> None:
    with pytest.raises(pg.InvalidParameterValue):
        await rows(shared_database.dsn("tracking"), CREATE, table, start)


async def test_only_the_service_may_make_a_month(shared_database: Database) -> None:
    for role in ("tracking_ingest", "ops", "booking"):
        with pytest.raises(pg.InsufficientPrivilege):
            await rows(shared_database.dsn(role), CREATE, "TripPoint", "2031-05-01")


async def test_a_month_shows_a_school_nothing_even_when_it_is_named(
    shared_database: Database,
) -> None:
    await rows(shared_database.dsn("tracking"), CREATE, "TripPoint", "2031-07-01")
    protected = await rows(
        shared_database.admin_dsn,
        "SELECT relname, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner),"
        " (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid) FROM pg_class AS c"
        " WHERE relnamespace = 'tracking'::regnamespace AND relname LIKE 'TripPoint\\_____\\___'",
    )
    assert len(protected) >= 5
    assert {row[1:] for row in protected} == {(True, True, "tracking_owner", 1)}
    granted = await rows(
        shared_database.admin_dsn,
        "SELECT relname, a.grantee::regrole FROM pg_class AS c, aclexplode(relacl) AS a"
        " WHERE relnamespace = 'tracking'::regnamespace AND relname LIKE 'TripPoint\\_____\\___'"
        " AND a.grantee <> c.relowner",
    )
    assert granted == []
    for role in ("tracking", "tracking_ingest"):
        with pytest.raises(pg.InsufficientPrivilege):
            await rows(shared_database.dsn(role), 'SELECT * FROM tracking."TripPoint_2031_07"')


async def test_making_a_month_waits_for_no_reader_or_writer(shared_database: Database) -> None:
    async with await psycopg.AsyncConnection.connect(shared_database.admin_dsn) as busy:
        await busy.execute('SELECT count(*) FROM tracking."TripPoint"')
        await busy.execute(
            'INSERT INTO tracking."TripPoint" ("orgId", "tripId", ts, lat, lng)'
            " VALUES (uuidv7(), uuidv7(), now(), 1, 1)"
        )
        made = await rows(shared_database.dsn("tracking"), CREATE, "TripPoint", "2031-08-01")
    assert made == [(True,)]


# --- made ahead ---


async def test_operators_make_months_ahead_after_a_dry_run(school: School) -> None:
    wanted = [name_of(next_month(now(), ahead)) for ahead in (4, 5)]
    planned = await ensure(school, months_ahead=5, dry_run=True)
    assert (list(planned.created), planned.dry_run) == (wanted, True)
    assert name_of(next_month(now(), 4)) not in await names(school)
    made = await ensure(school, months_ahead=5)
    assert (list(made.created), made.dry_run) == (wanted, False)
    assert (await names(school))[-2:] == wanted
    assert list((await ensure(school, months_ahead=5)).created) == []


async def test_operators_make_months_for_old_drives(school: School) -> None:
    start = months_ago(14)
    created = (await ensure(school, from_month=at(start + timedelta(days=20)))).created
    assert list(created) == [name_of(next_month(start, count)) for count in range(14)]
    found = (await school.operator().ListPartitions(pb.ListPartitionsRequest())).partitions
    assert moment(found[0].start_time) == start
    assert all(one.end_time == following.start_time for one, following in pairwise(found))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"months_ahead": 25}, "INVALID_REQUEST"),
        ({"months_ahead": -1}, "INVALID_REQUEST"),
        ({"from_month": at(datetime(1999, 12, 31, tzinfo=UTC))}, "FROM_MONTH_OUT_OF_RANGE"),
        ({"from_month": at(now() + timedelta(days=1))}, "FROM_MONTH_OUT_OF_RANGE"),
    ],
)
async def test_months_without_reason_are_not_made(
    school: School, arguments: dict[str, Any], reason: str
) -> None:
    refusal = await refused(ensure(school, **arguments))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_the_leader_keeps_three_months_ahead(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_S", 0.1)
    async with serving(database, tmp_path) as running:
        school = School(running, tmp_path)
        running.clock.set(next_month(now(), 2))
        await eventually(lambda: names(school), lambda seen: len(seen) == 6)


async def test_a_service_without_a_month_for_next_week_says_that_it_is_not_well(
    school: School,
) -> None:
    last = next_month(now(), 4)
    school.service.clock.set(last - timedelta(days=7, seconds=30))
    assert await health(school) == health_pb2.HealthCheckResponse.SERVING
    school.service.clock.set(last - timedelta(days=6))
    await eventually(
        lambda: health(school), lambda seen: seen == health_pb2.HealthCheckResponse.NOT_SERVING
    )
    await ensure(school, months_ahead=1)
    await eventually(
        lambda: health(school), lambda seen: seen == health_pb2.HealthCheckResponse.SERVING
    )


async def health(school: School) -> int:
    stub: Any = health_pb2_grpc.HealthStub(school.service.connect(None).channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest())).status)


# --- midnight ---

# The next twelve months, and one end of a month each on a leap day and beside a change of clocks.
MONTH_ENDS = [next_month(now(), ahead) for ahead in range(1, 13)] + [
    datetime(2028, 3, 1, tzinfo=UTC),
    datetime(2028, 4, 1, tzinfo=UTC),
    datetime(2028, 11, 1, tzinfo=UTC),
]


async def test_points_of_either_side_of_midnight_land_in_their_months(school: School) -> None:
    database = f'"{school.service.database.name}"'
    await school.rows(f"ALTER DATABASE {database} SET timezone = 'Australia/Sydney'")
    for midnight in MONTH_ENDS:
        school.service.clock.set(midnight - timedelta(seconds=1))
        await asyncio.gather(*(drive_over(school, midnight) for _ in range(4)))
        landed = await school.rows(
            'SELECT tableoid::regclass::text, count(*) FROM tracking."TripPoint"'
            " WHERE ts BETWEEN %s AND %s GROUP BY 1 ORDER BY 1",
            midnight - timedelta(minutes=3),
            midnight + timedelta(minutes=3),
        )
        before, after = name_of(midnight - timedelta(days=1)), name_of(midnight)
        assert landed == [
            (f'tracking."{before}"', 4 * 60),
            (f'tracking."{after}"', 4 * 60),
        ]


async def drive_over(school: School, midnight: datetime) -> None:
    """A drive from a minute before to a minute after, streamed while the month ends."""
    trip = await school.start_trip(midnight - timedelta(minutes=1))
    driven = way(trip, 120)
    async with school.stream() as stream:
        for sequence in range(1, 13):
            await stream.send(sequence, track(trip, driven[sequence * 10 - 10 : sequence * 10]))
        await stream.acked(12)
    assert (stream.stored, stream.rejected_count) == (120, 0)
    assert await school.points(trip) == driven


async def test_a_trip_makes_sure_that_its_months_exist(school: School) -> None:
    midnight = next_month(now(), 6)
    school.service.clock.set(midnight + timedelta(minutes=1))
    await school.start_trip(midnight + timedelta(minutes=1))
    wanted = {name_of(next_month(midnight, offset)) for offset in (-1, 0, 1)}
    assert wanted <= set(await names(school))


# --- retention ---


async def old_drive(school: School, ago: int = 3, count: int = 20) -> tuple[pb.Trip, Any]:
    """A drive of some months ago, its month made for it."""
    start = months_ago(ago) + timedelta(days=3)
    await ensure(school, from_month=at(start))
    return await school.drive(count, start, ended=True)


async def test_retention_says_first_what_it_would_drop(school: School) -> None:
    trip, driven = await old_drive(school)
    neighbour = school.neighbour()
    await old_drive(neighbour, count=5)
    (planned,) = await apply_retention(school, months_ago(2), dry_run=True)
    assert (planned.name, planned.trips, planned.points) == (name_of(months_ago(3)), 2, 25)
    assert planned.held_points == 0
    assert planned.size_bytes > 0
    assert planned.name in await names(school)
    assert await school.points(trip) == driven
    assert (await school.trip(trip)).version == trip.version


async def test_a_trip_keeps_its_summary_when_its_month_is_dropped(school: School) -> None:
    trip, driven = await old_drive(school)
    route = await school.stub().GetTripRoute(pb.GetTripRouteRequest(trip_id=trip.id))
    (dropped,) = await apply_retention(school, months_ago(2))
    assert (dropped.name, dropped.trips, dropped.points) == (name_of(months_ago(3)), 1, 20)
    assert dropped.name not in await names(school)
    kept = await school.trip(trip)
    assert kept.summary == trip.summary
    assert await school.points(trip) == []
    simplified = await school.stub().GetTripRoute(pb.GetTripRouteRequest(trip_id=trip.id))
    assert simplified.polyline == trip.summary.route
    assert simplified.source_point_count < route.source_point_count
    late = await school.upload(track(trip, driven[:1]))
    assert [r.reason for r in late.rejected] == [pb.REJECTION_REASON_NO_PARTITION]


async def test_only_months_that_end_by_then_are_dropped(school: School) -> None:
    await ensure(school, from_month=at(months_ago(4)))
    dropped = await apply_retention(school, months_ago(2))
    assert [month.name for month in dropped] == [name_of(months_ago(4)), name_of(months_ago(3))]
    assert (await names(school))[0] == name_of(months_ago(2))
    assert await apply_retention(school, months_ago(2)) == []


async def hold(school: School, trip: pb.Trip, *, held: bool = True) -> pb.Trip:
    request = pb.SetLegalHoldRequest(trip_id=trip.id, hold=held)
    return await school.operator(of_school=True).SetLegalHold(request)


async def test_points_on_legal_hold_outlive_their_month(school: School) -> None:
    (trip, driven), (other, _) = await old_drive(school), await old_drive(school)
    assert (await hold(school, trip)).legal_hold
    (dropped,) = await apply_retention(school, months_ago(2))
    assert (dropped.points, dropped.held_points) == (40, 20)
    assert await school.points(trip) == driven
    assert await school.points(other) == []
    page = await school.stub().ListTripPoints(pb.ListTripPointsRequest(trip_id=trip.id))
    assert list(page.points) == driven
    latest = await school.stub().GetLatestPosition(pb.GetLatestPositionRequest(trip_id=trip.id))
    assert latest == driven[-1]
    route = await school.stub().GetTripRoute(pb.GetTripRouteRequest(trip_id=trip.id))
    assert (route.point_count, route.source_point_count) == (20, 20)


async def test_held_points_are_listed_once_when_the_drop_fails_behind_their_copy(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip, driven = await old_drive(school)
    await hold(school, trip)
    with monkeypatch.context() as broken:
        broken.setattr(partitions, "_detach", unreachable)
        refusal = await refused(apply_retention(school, months_ago(2)))
    assert refusal.reason == "DATABASE_UNAVAILABLE"
    assert await school.points(trip) == driven
    route = await school.stub().GetTripRoute(pb.GetTripRouteRequest(trip_id=trip.id))
    assert route.source_point_count == 20
    (dropped,) = await apply_retention(school, months_ago(2))
    assert dropped.held_points == 20
    assert await school.points(trip) == driven


def unreachable(*_: object) -> None:
    raise psycopg.OperationalError("the connection is closed")


async def test_a_hold_that_was_taken_away_keeps_nothing(school: School) -> None:
    trip, _ = await old_drive(school)
    await hold(school, trip)
    released = await hold(school, trip, held=False)
    assert (released.legal_hold, released.version) == (False, trip.version + 2)
    await apply_retention(school, months_ago(2))
    assert await school.points(trip) == []
    audited = await school.rows(
        'SELECT action, before, after FROM tracking."AuditLog" WHERE "entityId" = %s ORDER BY id',
        trip.id,
    )
    assert audited == [
        ("set_legal_hold", {"legal_hold": not held}, {"legal_hold": held}) for held in (True, False)
    ]


async def test_an_open_trip_keeps_retention_from_changing_anything(school: School) -> None:
    trip, driven = await old_drive(school, ago=4)
    neighbour = school.neighbour()
    also, _ = await old_drive(neighbour)
    still_open = await neighbour.start_trip(months_ago(3))
    await neighbour.upload(track(still_open, way(still_open, 3)))
    refusal = await refused(apply_retention(school, months_ago(2)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TRIP_OPEN")
    assert await school.points(trip) == driven
    assert await school.trip(trip) == trip
    assert await neighbour.trip(also) == also


async def test_the_last_word_on_a_trip_is_said_before_its_points_go(school: School) -> None:
    trip, driven = await old_drive(school)
    missed = moment(driven[-1].time) + timedelta(seconds=1)
    await school.rows(
        'INSERT INTO tracking."TripPoint" ("orgId", "tripId", ts, lat, lng)'
        " VALUES (%s, %s, %s, 1, 1)",
        school.org_id,
        trip.id,
        missed,
    )
    await apply_retention(school, months_ago(2))
    assert (await school.trip(trip)).summary.point_count == 21


async def test_a_trip_over_two_months_keeps_the_points_of_the_later_one(school: School) -> None:
    midnight = months_ago(2)
    await ensure(school, from_month=at(months_ago(3)))
    trip, driven = await school.drive(60, midnight - timedelta(seconds=30), ended=True)
    (dropped,) = await apply_retention(school, midnight)
    assert (dropped.trips, dropped.points) == (1, 30)
    assert times(await school.points(trip)) == times(driven[30:])
    assert (await school.trip(trip)).summary == trip.summary


async def test_retention_keeps_the_month_before_this_one(school: School) -> None:
    for before in (months_ago(1) + timedelta(microseconds=1), months_ago(0), now()):
        refusal = await refused(apply_retention(school, before, dry_run=True))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "BEFORE_OUT_OF_RANGE",
        )
    assert await apply_retention(school, months_ago(1), dry_run=True) == []
    refusal = await refused(school.operator().ApplyRetention(pb.ApplyRetentionRequest()))
    assert [field for field, _ in refusal.fields] == ["before"]


async def test_a_detach_that_was_cancelled_is_finished_by_the_leader(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_S", 0.2)
    gone = months_ago(3)
    await rows(database.dsn("tracking"), CREATE, "TripPoint", gone.date())
    await cancelled_detach(database, gone.date())
    async with serving(database, tmp_path) as running:
        school = School(running, tmp_path)
        await eventually(lambda: names(school), lambda seen: name_of(gone) not in seen)
    # Retention did not ask for it, so an operator did, and may want the table.
    assert await is_there(database, gone)


async def test_a_drop_that_was_cut_short_is_finished_by_the_leader(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_S", 0.2)
    gone = months_ago(3)
    await rows(database.dsn("tracking"), CREATE, "TripPoint", gone.date())
    await execute(
        database, f"COMMENT ON TABLE tracking.\"{name_of(gone)}\" IS '{partitions.CONDEMNED}'"
    )
    await execute(
        database, f'ALTER TABLE tracking."TripPoint" DETACH PARTITION tracking."{name_of(gone)}"'
    )
    async with serving(database, tmp_path):
        await eventually(lambda: is_there(database, gone), lambda there: not there)


async def is_there(database: Database, month: datetime) -> bool:
    ((table,),) = await rows(
        database.admin_dsn, "SELECT to_regclass(%s)", f'tracking."{name_of(month)}"'
    )
    return table is not None


async def execute(database: Database, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(database.admin_dsn, autocommit=True) as conn:
        await conn.execute(statement.encode())


async def cancelled_detach(database: Database, start: date) -> None:
    """Leave a month half detached, as a lost connection or an impatient operator would."""
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as reader:
        await reader.execute('SELECT count(*) FROM tracking."TripPoint"')
        with pytest.raises(pg.QueryCanceled):
            async with await psycopg.AsyncConnection.connect(
                database.dsn("tracking_maintenance"),
                autocommit=True,
                options="-c statement_timeout=200",
            ) as detaching:
                await detaching.execute(
                    f'ALTER TABLE tracking."TripPoint" DETACH PARTITION'
                    f' tracking."TripPoint_{start:%Y_%m}" CONCURRENTLY'.encode()
                )
    pending = await rows(
        database.admin_dsn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
    )
    assert pending == [(1,)]


async def test_a_month_that_is_half_detached_takes_no_points_and_is_dropped_by_retention(
    school: School,
) -> None:
    trip, driven = await old_drive(school)
    await cancelled_detach(school.service.database, months_ago(3).date())
    ack = await school.upload(track(trip, way(trip, 1, after=timedelta(minutes=1))))
    assert [r.reason for r in ack.rejected] == [pb.REJECTION_REASON_NO_PARTITION]
    assert (await school.trip(trip)).summary.point_count == len(driven)
    (dropped,) = await apply_retention(school, months_ago(2))
    assert dropped.name not in await names(school)


async def test_what_operators_do_to_months_is_audited(school: School) -> None:
    await ensure(school, from_month=at(months_ago(2)))
    await apply_retention(school, months_ago(1))
    audited = await school.rows(
        'SELECT "actorUserId", action, after FROM tracking."AuditLog" ORDER BY id'
    )
    made, dropped = [name_of(months_ago(n)) for n in (2, 1)], [name_of(months_ago(2))]
    assert audited == [
        ("operator", "ensure_partitions", {"created": made}),
        ("operator", "apply_retention", {"dropped": dropped}),
    ]


async def test_months_are_for_operators(school: School) -> None:
    """Neither a school's token nor an operator's of one school reaches the platform."""
    for stub in (school.stub(), school.operator(of_school=True)):
        calls: list[Any] = [
            stub.ListPartitions(pb.ListPartitionsRequest()),
            stub.EnsurePartitions(pb.EnsurePartitionsRequest()),
            stub.ApplyRetention(pb.ApplyRetentionRequest(before=at(months_ago(2)))),
        ]
        for call in calls:
            assert (await refused(call)).code == grpc.StatusCode.PERMISSION_DENIED
