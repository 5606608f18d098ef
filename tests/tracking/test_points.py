"""Points of a trip, read back: pages, export, route, latest position; only months that matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import polyline
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking import drive, store
from services.tracking.model import next_month
from tests.serving import at
from tests.tracking.stories import (
    School,
    dense,
    moment,
    now,
    refused,
    refused_stream,
    times,
    track,
    way,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def page(school: School, trip: pb.Trip, **arguments: Any) -> pb.ListTripPointsResponse:
    request = pb.ListTripPointsRequest(trip_id=trip.id, **arguments)
    return await school.stub().ListTripPoints(request)


async def pages(school: School, trip: pb.Trip, **arguments: Any) -> list[pb.TripPoint]:
    points: list[pb.TripPoint] = []
    token = ""
    while True:
        found = await page(school, trip, page_token=token, **arguments)
        points += found.points
        token = found.next_page_token
        if not token:
            return points


async def test_points_are_listed_by_time_whenever_they_came(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 30)
    for part in (driven[20:], driven[:10], driven[10:20]):
        await school.upload(track(trip, part))
    for size in (1, 7, 30, 1_000):
        assert await pages(school, trip, page_size=size) == driven
    assert len((await page(school, trip)).points) == 20


async def test_points_are_told_as_they_are_stored(school: School) -> None:
    trip = await school.start_trip()
    given, none = way(trip, 2)
    given.lat, given.lng, given.speed_kph = 52.12345651, -179.9999996, 0.004
    given.time.nanos += 999
    none.ClearField("speed_kph")
    await school.upload(track(trip, [given, none]))
    first, second = await pages(school, trip)
    assert (first.lat, first.lng, first.speed_kph) == (52.123457, -180.0, 0.0)
    assert first.time.nanos == given.time.nanos // 1_000 * 1_000
    assert not second.HasField("speed_kph")


async def test_points_of_a_range_begin_at_its_start_and_end_before_its_end(school: School) -> None:
    trip, driven = await school.drive(20)
    window = {"time_from": driven[5].time, "time_to": driven[9].time}
    assert await pages(school, trip, **window) == driven[5:9]
    assert await pages(school, trip, **window, page_size=3) == driven[5:9]
    assert await pages(school, trip, time_from=driven[15].time) == driven[15:]
    assert await pages(school, trip, time_to=driven[3].time) == driven[:3]
    assert await pages(school, trip, time_from=driven[9].time, time_to=driven[5].time) == []
    ever = {"time_from": at(datetime.min.replace(tzinfo=UTC))}
    ever["time_to"] = at(datetime.max.replace(tzinfo=UTC))
    assert await pages(school, trip, **ever) == driven


async def test_points_that_come_meanwhile_disturb_no_page(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 20)
    await school.upload(track(trip, driven[::2]))
    first = await page(school, trip, page_size=5)
    await school.upload(track(trip, driven[1::2]))
    rest = await page(school, trip, page_size=100, page_token=first.next_page_token)
    assert list(first.points) == driven[:10:2]
    assert list(rest.points) == driven[9:]


async def test_a_read_mask_says_what_is_told_of_points(school: School) -> None:
    trip, driven = await school.drive(3)
    mask = FieldMask(paths=["speed_kph", "lat"])
    assert await pages(school, trip, read_mask=mask, page_size=2) == [
        pb.TripPoint(lat=point.lat, speed_kph=point.speed_kph) for point in driven
    ]
    assert await pages(school, trip, read_mask=FieldMask(paths=["time"])) == [
        pb.TripPoint(time=point.time) for point in driven
    ]
    refusal = await refused(page(school, trip, read_mask=FieldMask(paths=["id"])))
    assert refusal.reason == "READ_MASK_INVALID"


async def test_a_page_token_is_good_for_its_trip_and_range_alone(school: School) -> None:
    (trip, driven), (other, _) = await school.drive(3), await school.drive(3)
    token = (await page(school, trip, page_size=1)).next_page_token
    for asking in (
        page(school, other, page_token=token),
        page(school, trip, page_token=token, time_from=driven[0].time),
        page(school, trip, page_token=token, read_mask=FieldMask(paths=["lat"])),
    ):
        assert (await refused(asking)).reason == "PAGE_TOKEN_INVALID"


async def test_an_export_has_every_point_in_chunks(school: School) -> None:
    trip = await school.start_trip(now() - timedelta(hours=2))
    driven = way(trip, 2_500)
    await school.upload(dense(trip, driven))
    chunks = [
        list(chunk.points)
        async for chunk in school.stub().ExportTripPoints(
            pb.ExportTripPointsRequest(trip_id=trip.id)
        )
    ]
    assert [len(chunk) for chunk in chunks] == [1_000, 1_000, 500]
    assert [point for chunk in chunks for point in chunk] == driven


async def test_an_export_of_nothing_is_empty(school: School) -> None:
    assert await school.points(await school.start_trip()) == []


async def test_the_latest_position_is_that_of_the_latest_fix(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 10)
    await school.upload(track(trip, driven[5:]))
    await school.upload(track(trip, driven[:5]))
    request = pb.GetLatestPositionRequest(trip_id=trip.id)
    assert await school.stub().GetLatestPosition(request) == driven[-1]


async def test_a_trip_without_points_has_no_position(school: School) -> None:
    trip = await school.start_trip()
    request = pb.GetLatestPositionRequest(trip_id=trip.id)
    refusal = await refused(school.stub().GetLatestPosition(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "NO_POINTS")


# --- routes ---


async def route(school: School, trip: pb.Trip, tolerance: float = 0) -> pb.TripRoute:
    request = pb.GetTripRouteRequest(trip_id=trip.id, tolerance_meters=tolerance)
    return await school.stub().GetTripRoute(request)


async def test_a_route_without_tolerance_has_all_points(school: School) -> None:
    trip, driven = await school.drive(50)
    found = await route(school, trip)
    assert polyline.decode(found.polyline, 6) == [(point.lat, point.lng) for point in driven]
    assert (found.point_count, found.source_point_count) == (50, 50)


@pytest.mark.parametrize("tolerance", [5, 50, 10_000])
async def test_no_point_lies_further_from_a_simplified_route_than_is_allowed(
    school: School, tolerance: float
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 300)
    wild = np.random.default_rng(7).normal(0, 2e-4, (300, 2))
    for point, (north, east) in zip(driven, wild, strict=True):
        point.lat, point.lng = round(point.lat + north, 6), round(point.lng + east, 6)
    await school.upload(track(trip, driven))
    found = await route(school, trip, tolerance)
    line = polyline.decode(found.polyline, 6)
    assert found.point_count == len(line) < 300
    assert line[0] == (driven[0].lat, driven[0].lng)
    assert line[-1] == (driven[-1].lat, driven[-1].lng)
    assert max(distance(point, line) for point in driven) <= tolerance * 1.001


def distance(point: pb.TripPoint, line: Sequence[tuple[float, float]]) -> float:
    """Meters from a point to a line, on a plane that touches the earth there."""
    scale = np.array([1, np.cos(np.radians(point.lat))]) * drive.METERS_PER_MICRODEGREE * 1e6
    nodes = (np.array(line) - [point.lat, point.lng]) * scale
    start, chord = nodes[:-1], np.diff(nodes, axis=0)
    share = np.clip(-(start * chord).sum(1) / np.maximum((chord**2).sum(1), 1e-9), 0, 1)
    return float(np.hypot(*(start + share[:, None] * chord).T).min())


async def test_a_route_of_nothing_is_empty(school: School) -> None:
    trip = await school.start_trip()
    assert await route(school, trip, 5) == pb.TripRoute(trip_id=trip.id)


@pytest.mark.parametrize("tolerance", [-1, 10_001, float("nan"), float("inf")])
async def test_a_tolerance_out_of_range_is_refused(school: School, tolerance: float) -> None:
    refusal = await refused(route(school, await school.start_trip(), tolerance))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [name for name, _ in refusal.fields] == ["tolerance_meters"]


# --- whose they are, and where they are ---


async def test_points_of_another_schools_trip_are_as_unknown_as_none(school: School) -> None:
    trip, _ = await school.drive(ended=True)
    stub = school.neighbour().stub()
    for trip_id in (str(uuid4()), trip.id):
        calls: list[Any] = [
            refused(stub.ListTripPoints(pb.ListTripPointsRequest(trip_id=trip_id))),
            refused(stub.GetTripRoute(pb.GetTripRouteRequest(trip_id=trip_id))),
            refused(stub.GetLatestPosition(pb.GetLatestPositionRequest(trip_id=trip_id))),
            refused(stub.ListDrivingEvents(pb.ListDrivingEventsRequest(trip_id=trip_id))),
            refused_stream(stub.ExportTripPoints(pb.ExportTripPointsRequest(trip_id=trip_id))),
            refused_stream(stub.WatchTrip(pb.WatchTripRequest(trip_id=trip_id))),
        ]
        for call in calls:
            refusal = await call
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.NOT_FOUND,
                "TRIP_NOT_FOUND",
            )


async def test_the_row_level_policy_alone_hides_another_schools_points(school: School) -> None:
    """As the login role, with the filter on the school taken away."""
    trip, _ = await school.drive(5)
    query = 'SELECT count(*) FROM tracking."TripPoint" WHERE "tripId" = %s'
    for org_id, count in ((school.org_id, 5), (school.neighbour().org_id, 0), ("", 0)):
        assert await as_service(school, org_id, query, (trip.id,)) == [(count,)]


# Reads, and whether they look among the held points too.
HELD = {
    "list_points": ["HeldTripPoint"],
    "read_points": ["HeldTripPoint"],
    "latest_point": ["HeldTripPoint"],
    "count_points": [],
}


@pytest.mark.parametrize("query", HELD)
async def test_a_read_of_a_trip_reads_no_more_than_it_needs(school: School, query: str) -> None:
    midnight = next_month(now())
    school.service.clock.set(midnight + timedelta(minutes=10))
    trip, driven = await school.drive(60, midnight - timedelta(seconds=30), ended=True)
    window = {
        "after": moment(trip.start_time) - timedelta(minutes=2),
        "from_ts": moment(trip.start_time) - timedelta(minutes=2),
        "before": moment(driven[-1].time) + timedelta(minutes=2),
    }
    arguments = {"org_id": school.org_id, "trip_id": trip.id, "limit": 5, **window}
    text = store.SQL.texts[query].replace("{columns}", "ts, lat")
    ((plan,),) = await as_service(
        school, school.org_id, f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", arguments
    )
    nodes = list(walk(plan[0]["Plan"]))
    months = {f"TripPoint_{when:%Y_%m}" for when in (midnight - timedelta(days=1), midnight)}
    assert {node.get("Relation Name") for node in nodes} == {None, *months, *HELD[query]}
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
    read = sum(node["Actual Rows"] for node in nodes if "Relation Name" in node)
    assert read <= {"count_points": 60, "latest_point": 1}.get(query, 5)


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes."""
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


async def as_service(
    school: School, org_id: object, query: str, arguments: Any
) -> list[tuple[Any, ...]]:
    """What the service's login role gets for a school."""
    dsn = school.service.database.dsn("tracking")
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        # Small tables tempt the planner.
        await connection.execute("SET enable_seqscan = off")
        await connection.execute("SELECT set_config('driveflow.org_id', %s, true)", (str(org_id),))
        return await (await connection.execute(query.encode(), arguments)).fetchall()


async def test_points_over_midnight_of_a_month_are_listed_as_one_trip(school: School) -> None:
    midnight = next_month(now(), 2)
    school.service.clock.set(midnight + timedelta(minutes=10))
    trip, driven = await school.drive(60, midnight - timedelta(seconds=30))
    assert times(await pages(school, trip, page_size=7)) == times(driven)
