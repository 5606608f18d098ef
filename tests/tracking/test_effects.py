"""Tracking and booking hear of each other by events alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from driveflow.events.v1 import events_pb2
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import issuer
from services.tracking import effects, summaries
from tests.libs import eventing
from tests.libs.eventing import Platform, Subscriber
from tests.postgres import Database
from tests.serving import Tracking, serving
from tests.tracking.stories import School, moment, now, refused, rows, track, way
from tests.waiting import eventually

AUDITED = 'SELECT "entityId", after FROM tracking."AuditLog" WHERE action = %s AND "orgId" = %s'


@dataclass
class Neighbours:
    """Booking tells of its events, and tracking takes them in."""

    booking: Platform
    tracking: Tracking
    folder: Path

    def school(self) -> School:
        return School(self.tracking, self.folder)

    async def erase(self, school: School, *lessons: str) -> str:
        """Have a student erased; returns when tracking has done so, with the student's id."""
        student = str(uuid4())
        payload: dict[str, Any] = {"student_id": student, "lesson_ids": list(lessons)}
        await self.booking.emit(UUID(student), school.org_id, kind="student.erased", **payload)
        await eventually(lambda: student in dict(self._erasures(school)))
        return student

    def _erasures(self, school: School) -> list[tuple[Any, ...]]:
        return self.booking.rows(AUDITED, "erase_trips", school.org_id)


@pytest.fixture
async def neighbours(database: Database, tmp_path: Path) -> AsyncIterator[Neighbours]:
    (tmp_path / "booking").mkdir()
    async with eventing.running(database, tmp_path / "booking") as booking:
        key = tmp_path / "tracking_key.pem"
        key.write_text(booking.key)
        source = f"booking=127.0.0.1:{booking.server.port}"
        settings = {"service_key": str(key), "event_sources": source}
        async with serving(database, tmp_path, **settings) as tracking:
            yield Neighbours(booking, tracking, tmp_path)


async def lesson_drive(school: School, lesson: str, count: int = 120) -> pb.Trip:
    """An ended trip of a lesson with an overspeed, and with points that were refused."""
    request = pb.StartTripRequest(lesson_id=lesson)
    request.start_time.FromDatetime(now() - timedelta(minutes=15))
    trip = await school.stub().StartTrip(request)
    driven = way(trip, count)
    for point in driven[60:]:
        point.speed_kph = 170
    await school.upload(track(trip, [*driven, pb.TripPoint(lat=91)]))
    return await school.end_trip(trip, moment(driven[-1].time))


async def left(school: School, trip: pb.Trip) -> dict[str, int]:
    """How many rows there are of a trip's way."""
    counts = {}
    for table in ("TripPoint", "HeldTripPoint", "DrivingEvent", "RejectedPoint"):
        query = f'SELECT count(*) FROM tracking."{table}" WHERE "tripId"::text = %s'
        ((counts[table],),) = await school.rows(query, trip.id)
    return counts


async def test_an_erased_students_ways_go_and_the_figures_of_his_trips_stay(
    neighbours: Neighbours,
) -> None:
    school, lesson = neighbours.school(), str(uuid4())
    trip = await lesson_drive(school, lesson)
    await rows(
        neighbours.tracking.database.admin_dsn,
        'INSERT INTO tracking."HeldTripPoint" SELECT "orgId", "tripId", ts, lat, lng, "speedKph",'
        ' "createdAt" FROM tracking."TripPoint" WHERE "tripId" = %s RETURNING ts',
        trip.id,
    )
    assert min((await left(school, trip)).values()) >= 1
    await neighbours.erase(school, lesson, str(uuid4()))

    assert set((await left(school, trip)).values()) == {0}
    erased = await school.trip(trip)
    assert (erased.summary.route, erased.summary.HasField("bounding_box")) == ("", False)
    assert erased.summary.point_count == trip.summary.point_count == 120
    assert erased.summary.distance_meters == trip.summary.distance_meters > 0
    assert erased.version > trip.version
    assert await school.points(trip) == []
    route = await school.stub().GetTripRoute(pb.GetTripRouteRequest(trip_id=trip.id))
    assert route.point_count == 0
    ((_, after),) = await school.rows(AUDITED, "erase_trips", school.org_id)
    assert after == {"trip_ids": [trip.id], "on_legal_hold": [], "points": 120}


async def test_what_is_on_legal_hold_is_erased_when_the_hold_ends(neighbours: Neighbours) -> None:
    school, lesson = neighbours.school(), str(uuid4())
    trip = await lesson_drive(school, lesson)
    operator = neighbours.tracking.stub(
        neighbours.tracking.token(school.org_id, issuer.OPS_SCOPES, "operator")
    )
    await operator.SetLegalHold(pb.SetLegalHoldRequest(trip_id=trip.id, hold=True))
    await neighbours.erase(school, lesson)
    assert (await left(school, trip))["TripPoint"] == 120
    assert len(await school.points(trip)) == 120

    await operator.SetLegalHold(pb.SetLegalHoldRequest(trip_id=trip.id, hold=False))
    database = neighbours.tracking.database
    async with (
        eventing.orgs_of("tracking", database, school.folder) as orgs,
        orgs.write(school.org_id) as conn,
    ):
        await effects.erase_again(conn, school.org_id, now())
    assert set((await left(school, trip)).values()) == {0}
    assert (await school.trip(trip)).summary.route == ""


async def test_other_lessons_and_schools_keep_their_ways(neighbours: Neighbours) -> None:
    school, other = neighbours.school(), neighbours.school()
    lesson = str(uuid4())
    kept = [
        (school, await lesson_drive(school, str(uuid4()))),
        (other, await lesson_drive(other, lesson)),
    ]
    before = [await left(each, trip) for each, trip in kept]
    await neighbours.erase(school, lesson)
    assert [await left(each, trip) for each, trip in kept] == before
    assert [(await each.trip(trip)).summary for each, trip in kept] == [
        trip.summary for _, trip in kept
    ]


async def test_an_erased_trip_takes_no_more_points_and_keeps_its_figures(
    neighbours: Neighbours,
) -> None:
    school, lesson = neighbours.school(), str(uuid4())
    trip = await lesson_drive(school, lesson)
    await neighbours.erase(school, lesson)
    # A second later ingest has heard of it.
    late = track(trip, way(trip, 3, after=timedelta(milliseconds=500)))

    async def is_refused() -> bool:
        ack = await school.upload(late)
        return [each.reason for each in ack.rejected] == [pb.REJECTION_REASON_TRIP_NOT_FOUND] * 3

    await eventually(is_refused)
    # What slipped through before goes with the next sweep, for an hour.
    clock = neighbours.tracking.clock
    async with eventing.orgs_of("tracking", neighbours.tracking.database, school.folder) as orgs:
        async with orgs.write(school.org_id) as conn:
            await effects.erase_again(conn, school.org_id, clock())
        summary = summaries.Summaries(orgs, overspeed_kph=130, clock=clock)
        await summary.mend(school.org_id, UUID(trip.id))
    assert (await left(school, trip))["TripPoint"] == 0
    assert (await school.trip(trip)).summary.point_count == 120


async def test_an_erasure_told_twice_is_as_once(neighbours: Neighbours) -> None:
    school, lesson = neighbours.school(), str(uuid4())
    trip = await lesson_drive(school, lesson)
    await neighbours.erase(school, lesson)
    version = (await school.trip(trip)).version
    await neighbours.erase(school, lesson)
    assert (await school.trip(trip)).version == version


async def test_schools_come_go_and_come_back(neighbours: Neighbours) -> None:
    school = neighbours.school()
    query = 'SELECT active FROM tracking."Tenant" WHERE "orgId" = %s'
    for kind, active in (("org.created", True), ("org.suspended", False), ("org.resumed", True)):
        await neighbours.booking.emit(school.org_id, school.org_id, kind=kind)
        await eventually(lambda: neighbours.booking.rows(query, school.org_id), [(active,)].__eq__)


async def test_an_ended_trip_is_told_to_whoever_subscribes(neighbours: Neighbours) -> None:
    school = neighbours.school()
    trip, _ = await school.drive(20, ended=True)
    tracking = neighbours.tracking
    service = tracking.token(None, ("events:subscribe",), "service:booking")
    stub = tracking.connect(service).events
    subscriber = Subscriber(stub.Subscribe(), {"consumer": "booking", "topics": ["trip"]})
    (event,) = await subscriber.read(1)
    assert (event.type, event.aggregate_id) == ("trip.completed", trip.id)
    assert event.org_id == str(school.org_id)
    own = tracking.connect(tracking.token(school.neighbour().org_id)).events
    listed = await own.ListEvents(events_pb2.ListEventsRequest())
    assert list(listed.events) == []
    refusal = await refused(own.GetBacklog(events_pb2.GetBacklogRequest()))
    assert refusal.reason == "SCOPE_MISSING"
