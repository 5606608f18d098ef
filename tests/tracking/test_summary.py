"""What a trip says of its points, and that it stays true however late they come."""

from __future__ import annotations

import hashlib
import math
import random
import struct
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import polyline
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking import maintenance, store, summaries
from services.tracking.ingest import known
from tests.postgres import Database
from tests.serving import at, serving
from tests.tracking.stories import (
    School,
    dense,
    moment,
    now,
    refused,
    track,
    way,
)
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "GATHER_S", 0.0)


def winding(trip: pb.Trip, count: int) -> list[pb.TripPoint]:
    """A drive that turns, speeds up and slows down."""
    dice = random.Random(7)
    driven = way(trip, count)
    for place, point in enumerate(driven):
        point.lat = round(point.lat + dice.uniform(-5e-5, 5e-5), 6)
        point.speed_kph = round(max(0.0, 40 + 45 * math.sin(place / 20)), 2)
    return driven


def meters(one: pb.TripPoint, other: pb.TripPoint) -> float:
    """Great-circle distance by the haversine formula."""
    north, other_north = math.radians(one.lat), math.radians(other.lat)
    east = math.radians(other.lng - one.lng)
    half = (
        math.sin((other_north - north) / 2) ** 2
        + math.cos(north) * math.cos(other_north) * math.sin(east / 2) ** 2
    )
    return 2 * 6_371_008.8 * math.asin(math.sqrt(half))


def fingerprint(points: list[pb.TripPoint]) -> str:
    """SHA-256 over the points as they are exported."""
    digest = hashlib.sha256()
    for point in points:
        speed = round(point.speed_kph * 100) if point.HasField("speed_kph") else -1
        lat, lng = round(point.lat * 1e6), round(point.lng * 1e6)
        digest.update(struct.pack(">qiii", point.time.ToMicroseconds(), lat, lng, speed))
    return digest.hexdigest()


async def test_a_summary_says_of_the_points_what_counting_them_one_by_one_says(
    school: School,
) -> None:
    trip = await school.start_trip()
    driven = winding(trip, 400)
    for part in (driven[200:], driven[:200]):
        await school.upload(dense(trip, part))
    summary = (await school.end_trip(trip, moment(driven[-1].time))).summary
    assert summary.point_count == 400
    assert summary.distance_meters == pytest.approx(sum(meters(a, b) for a, b in pairwise(driven)))
    assert summary.duration_seconds == 399
    moving = sum((a.speed_kph + b.speed_kph) / 2 >= 5 for a, b in pairwise(driven))
    assert summary.moving_seconds == moving < 399
    assert summary.max_speed_kph == max(point.speed_kph for point in driven)
    assert summary.avg_speed_kph == pytest.approx(summary.distance_meters / moving * 3.6)
    box = summary.bounding_box
    lats, lngs = [point.lat for point in driven], [point.lng for point in driven]
    assert (box.min_lat, box.max_lat) == (min(lats), max(lats))
    assert (box.min_lng, box.max_lng) == (min(lngs), max(lngs))
    line = polyline.decode(summary.route, 6)
    ends = [(point.lat, point.lng) for point in (driven[0], driven[-1])]
    assert [line[0], line[-1]] == ends
    assert len(line) < 400
    assert summary.points_hash == fingerprint(await school.points(trip))


async def told(school: School, trip: pb.Trip) -> list[tuple[Any, ...]]:
    """The events of the trip: version, points and lesson."""
    return await school.rows(
        "SELECT \"aggregateVersion\", (payload->>'point_count')::int, payload->>'lesson_id'"
        ' FROM tracking."Outbox" WHERE "aggregateId" = %s AND "orgId" = %s'
        " AND topic = 'trip' AND type = 'trip.completed' ORDER BY id",
        UUID(trip.id),
        school.org_id,
    )


async def test_late_points_of_an_ended_trip_are_summed_up_and_told_again(school: School) -> None:
    trip = await school.start_trip()
    driven = winding(trip, 60)
    await school.upload(track(trip, driven[:40]))
    ended = await school.end_trip(trip, moment(driven[-1].time))
    assert await told(school, trip) == [(3, 40, None)]
    await school.upload(track(trip, driven[40:]))
    again = await eventually(lambda: school.trip(trip), lambda seen: seen.version == 4)
    assert again.summary.point_count == 60
    assert again.summary.distance_meters > ended.summary.distance_meters
    assert again.summary.points_hash == fingerprint(driven)
    assert await told(school, trip) == [(3, 40, None), (4, 60, None)]


async def test_points_that_were_there_already_change_no_summary(school: School) -> None:
    trip, driven = await school.drive(20, ended=True)
    other, others = await school.drive(20, ended=True)
    await school.upload(track(trip, driven))
    await school.upload(track(other, way(other, 1, after=timedelta(seconds=20))))
    # The two are looked at in their order: once the other is done, so is this one.
    await eventually(lambda: school.trip(other), lambda seen: seen.summary.point_count == 21)
    assert await school.trip(trip) == trip
    assert len(others) == len(driven)
    assert len(await told(school, trip)) == 1


async def test_nothing_is_told_of_a_trip_that_is_under_way(school: School) -> None:
    trip, _ = await school.drive(5)
    assert await told(school, trip) == []
    assert not (await school.trip(trip)).HasField("summary")


async def test_an_event_names_ids_and_figures_and_nobody_or_place(school: School) -> None:
    trip, _ = await school.drive(5, ended=True)
    ((payload,),) = await school.rows(
        'SELECT payload FROM tracking."Outbox" WHERE "aggregateId" = %s', UUID(trip.id)
    )
    assert payload == {
        "trip_id": trip.id,
        "lesson_id": None,
        "started_at": moment(trip.start_time).isoformat(),
        "ended_at": moment(trip.end_time).isoformat(),
        "point_count": 5,
        "distance_meters": trip.summary.distance_meters,
        "duration_seconds": 4,
    }


async def test_a_trip_whose_summary_failed_has_ended_and_gets_it_at_the_next_try(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip, driven = await school.drive(10)
    with monkeypatch.context() as broken:
        broken.setattr(store, "save_summary", database_gone)
        refusal = await refused(school.end_trip(trip, moment(driven[-1].time)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    between = await school.trip(trip)
    assert (between.status, between.HasField("summary")) == (pb.TRIP_STATUS_ENDED, False)
    assert (await school.end_trip(trip)).summary.point_count == 10


async def database_gone(*_: object) -> None:
    raise psycopg.OperationalError("the connection is closed")


async def test_late_points_are_summed_up_once_the_database_is_back(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip, _ = await school.drive(10, ended=True)
    tries: list[object] = []

    async def failing(*_: object) -> None:
        tries.append(_)
        await database_gone()

    async def tried() -> int:
        return len(tries)

    with monkeypatch.context() as broken:
        broken.setattr(store, "save_summary", failing)
        await school.upload(track(trip, way(trip, 1, after=timedelta(seconds=10))))
        await eventually(tried)
    await eventually(lambda: school.trip(trip), lambda seen: seen.summary.point_count == 11)


async def test_a_summary_that_a_crash_prevented_is_mended_ten_minutes_after_the_end(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_S", 0.1)
    async with serving(database, tmp_path) as running:
        school = School(running, tmp_path)
        trip, driven = await school.drive(10, ended=True)
        fine, _ = await school.drive(10, ended=True)
        # What is left by a process that stored points and then died.
        await school.rows(
            'INSERT INTO tracking."TripPoint" ("orgId", "tripId", ts, lat, lng)'
            " VALUES (%s, %s, %s, 52, 13)",
            school.org_id,
            UUID(trip.id),
            moment(driven[-1].time) + timedelta(seconds=1),
        )
        running.clock.ahead = timedelta(minutes=10, seconds=5)
        mended = await eventually(
            lambda: school.trip(trip), lambda seen: seen.summary.point_count == 11
        )
        assert mended.version == trip.version + 1
        await eventually(lambda: settled(school), lambda count: count == 2)
        assert await school.trip(fine) == fine
        assert [version for version, *_ in await told(school, trip)] == [3, 4]


async def test_late_points_that_a_crash_left_unsummed_are_summed_up_by_the_sweep(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_S", 0.1)
    async with serving(database, tmp_path) as running:
        school = School(running, tmp_path)
        trip, driven = await school.drive(10, ended=True)
        running.clock.ahead = timedelta(minutes=10, seconds=5)
        await eventually(lambda: settled(school), lambda count: count == 1)
        # Ten minutes have passed on the service's clock alone: what it knew a moment ago is old.
        monkeypatch.setattr(known, "FRESH_S", 0.0)
        # The process dies between the commit of late points and the new summary.
        monkeypatch.setattr(summaries.Summaries, "touch", lambda *_: None)
        late = driven[-1]
        late.time.nanos += 1_000_000
        await school.upload(track(trip, [late]))
        await eventually(lambda: school.trip(trip), lambda seen: seen.summary.point_count == 11)


async def settled(school: School) -> int:
    query = 'SELECT count(*) FROM tracking."Trip" WHERE "settledAt" IS NOT NULL'
    ((count,),) = await school.rows(query)
    return int(count)


# --- driving events ---


async def events(school: School, trip: pb.Trip, **arguments: Any) -> pb.ListDrivingEventsResponse:
    request = pb.ListDrivingEventsRequest(trip_id=trip.id, **arguments)
    return await school.stub().ListDrivingEvents(request)


def eventful(trip: pb.Trip) -> list[pb.TripPoint]:
    """Too fast, a hard brake to a stop of three minutes, and away with a jump."""
    speeds = [135.0] * 5 + [126.0] * 5 + [118.0, 78.0, 38.0, 10.0] + [0.0] * 180 + [20.0, 30.0]
    driven = way(trip, len(speeds))
    for place, (point, speed) in enumerate(zip(driven, speeds, strict=True)):
        moved = min(place, 14) + max(0, place - 193)
        point.lat = round(52.5 + moved * 3e-4, 6)
        point.lng = 13.4
        point.speed_kph = speed
    return driven


async def test_driving_events_are_listed_by_time(school: School) -> None:
    trip = await school.start_trip()
    driven = eventful(trip)
    await school.upload(track(trip, driven))
    assert list((await events(school, trip)).driving_events) == []
    await school.end_trip(trip)
    found = list((await events(school, trip)).driving_events)
    assert [event.kind for event in found] == [
        pb.DRIVING_EVENT_KIND_OVERSPEED,
        pb.DRIVING_EVENT_KIND_HARSH_BRAKE,
        pb.DRIVING_EVENT_KIND_STOP,
        pb.DRIVING_EVENT_KIND_HARSH_ACCELERATION,
    ]
    assert [event.time for event in found] == [driven[place].time for place in (0, 10, 14, 193)]
    overspeed, brake, stop, leap = (event.value for event in found)
    assert (overspeed, stop) == (135, 179)
    assert brake == pytest.approx(-40 / 3.6)
    assert leap == pytest.approx(20 / 3.6)


async def test_pages_of_driving_events_meet(school: School) -> None:
    trip = await school.start_trip()
    await school.upload(track(trip, eventful(trip)))
    await school.end_trip(trip)
    everything = (await events(school, trip)).driving_events
    seen: list[pb.DrivingEvent] = []
    token = ""
    while len(seen) < 10:
        page = await events(school, trip, page_size=1, page_token=token)
        seen += page.driving_events
        token = page.next_page_token
        if not token:
            break
    assert seen == list(everything)
    mask = FieldMask(paths=["kind"])
    kinds = (await events(school, trip, read_mask=mask)).driving_events
    assert list(kinds) == [pb.DrivingEvent(kind=event.kind) for event in everything]


async def test_driving_events_follow_late_points(school: School) -> None:
    trip = await school.start_trip(now() - timedelta(hours=1))
    driven = eventful(trip)
    await school.upload(track(trip, driven[:5]))
    end = at(moment(driven[-1].time))
    await school.stub().EndTrip(pb.EndTripRequest(trip_id=trip.id, end_time=end))
    assert len((await events(school, trip)).driving_events) == 1
    await school.upload(track(trip, driven[5:]))
    await eventually(lambda: events(school, trip), lambda page: len(page.driving_events) == 4)
