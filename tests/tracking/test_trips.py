"""Trips: started, ended, read and listed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import issuer
from services.tracking import store
from services.tracking.ingest import known
from services.tracking.model import next_month
from tests.serving import at
from tests.tracking.stories import School, moment, now, refused, times, track, way

pytestmark = pytest.mark.asyncio(loop_scope="session")

NO_IMPORT = tuple(set(issuer.TENANT_SCOPES) - {"tracking:import"})


# --- starting ---


async def test_a_trip_begins_now_unless_told_otherwise(school: School) -> None:
    before = now()
    trip = await school.stub().StartTrip(pb.StartTripRequest())
    assert before <= moment(trip.start_time) <= now()
    assert UUID(trip.id).version == 7
    assert (trip.status, trip.version) == (pb.TRIP_STATUS_OPEN, 1)
    assert not trip.HasField("end_time")
    assert not trip.HasField("summary")
    assert await school.trip(trip) == trip


async def test_a_trip_remembers_its_lesson_instructor_and_vehicle(school: School) -> None:
    ids: dict[str, Any] = {
        name: str(uuid4()) for name in ("lesson_id", "instructor_id", "vehicle_id")
    }
    trip = await school.stub().StartTrip(pb.StartTripRequest(**ids))
    assert {name: getattr(trip, name) for name in ids} == ids
    assert not trip.lesson_verified


async def test_the_same_request_starts_one_trip(school: School) -> None:
    request = pb.StartTripRequest(request_id=str(uuid4()), vehicle_id=str(uuid4()))
    answers = await asyncio.gather(*(school.stub().StartTrip(request) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
    listed = await school.stub().ListTrips(pb.ListTripsRequest())
    assert [trip.id for trip in listed.trips] == [answers[0].id]


async def test_a_request_id_stands_for_one_request_of_one_subject(school: School) -> None:
    request_id = str(uuid4())
    first = await school.stub().StartTrip(pb.StartTripRequest(request_id=request_id))
    other = pb.StartTripRequest(request_id=request_id, vehicle_id=str(uuid4()))
    refusal = await refused(school.stub().StartTrip(other))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
    )
    for stub in (school.stub("gateway-2"), school.neighbour().stub()):
        assert (await stub.StartTrip(pb.StartTripRequest(request_id=request_id))).id != first.id


@pytest.mark.parametrize("field", ["lesson_id", "instructor_id", "vehicle_id", "request_id"])
async def test_what_is_no_uuid_is_named(school: School, field: str) -> None:
    wrong: dict[str, Any] = {field: "7"}
    refusal = await refused(school.stub().StartTrip(pb.StartTripRequest(**wrong)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [name for name, _ in refusal.fields] == [field]


async def test_a_trip_starts_at_most_a_day_ahead(school: School) -> None:
    ahead = now() + timedelta(days=1)
    trip = await school.start_trip(ahead - timedelta(minutes=1))
    assert trip.status == pb.TRIP_STATUS_OPEN
    refusal = await refused(school.start_trip(ahead + timedelta(minutes=1)))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "START_TIME_OUT_OF_RANGE",
    )


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (Timestamp(seconds=0), "START_TIME_OUT_OF_RANGE"),
        (Timestamp(seconds=946_684_799), "START_TIME_OUT_OF_RANGE"),
        (Timestamp(seconds=4_070_908_800), "START_TIME_OUT_OF_RANGE"),
        (Timestamp(seconds=-(2**62)), "INVALID_REQUEST"),
        (Timestamp(seconds=2**62), "INVALID_REQUEST"),
        (Timestamp(seconds=1_700_000_000, nanos=-1), "INVALID_REQUEST"),
        (Timestamp(seconds=1_700_000_000, nanos=1_000_000_000), "INVALID_REQUEST"),
    ],
)
async def test_a_start_that_is_no_time_for_a_trip_is_refused(
    school: School, start: Timestamp, reason: str
) -> None:
    refusal = await refused(school.stub().StartTrip(pb.StartTripRequest(start_time=start)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [name for name, _ in refusal.fields] == ["start_time"]


async def test_a_start_before_the_retention_period_needs_the_scope_for_imports(
    school: School,
) -> None:
    kept = next_month(now(), -24)
    await school.operator().EnsurePartitions(
        pb.EnsurePartitionsRequest(from_month=at(kept - timedelta(days=20)))
    )
    driver = school.stub(scopes=NO_IMPORT)
    trip = await driver.StartTrip(pb.StartTripRequest(start_time=at(kept)))
    assert moment(trip.start_time) == kept
    older = pb.StartTripRequest(start_time=at(kept - timedelta(seconds=1)))
    refusal = await refused(driver.StartTrip(older))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert refusal.metadata == {"scope": "tracking:import"}
    assert (await school.stub().StartTrip(older)).start_time == older.start_time


async def test_a_start_in_a_month_that_is_not_there_is_refused(school: School) -> None:
    refusal = await refused(school.start_trip(datetime(2004, 2, 29, tzinfo=UTC)))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NO_PARTITION",
    )
    assert refusal.metadata == {"month": "2004-02"}


# --- ending ---


async def test_an_ended_trip_has_its_end_and_a_higher_version(school: School) -> None:
    trip, driven = await school.drive()
    end = moment(driven[-1].time)
    ended = await school.end_trip(trip, end)
    assert (ended.status, moment(ended.end_time)) == (pb.TRIP_STATUS_ENDED, end)
    assert ended.version > trip.version
    assert ended.summary.point_count == 10
    assert await school.trip(trip) == ended


async def test_a_trip_without_points_ends_with_an_empty_summary(school: School) -> None:
    ended = await school.end_trip(await school.start_trip())
    assert ended.HasField("summary")
    assert (ended.summary.point_count, ended.summary.distance_meters) == (0, 0)
    assert not ended.summary.HasField("bounding_box")


async def test_ending_a_trip_again_changes_nothing(school: School) -> None:
    trip = await school.start_trip()
    ended = await school.end_trip(trip)
    assert await school.end_trip(trip) == ended
    assert await school.end_trip(trip, moment(ended.end_time)) == ended
    other = moment(ended.end_time) - timedelta(seconds=1)
    refusal = await refused(school.end_trip(trip, other))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TRIP_ENDED")
    assert await school.trip(trip) == ended


async def test_a_trip_that_many_end_at_once_ends_once(school: School) -> None:
    trip = await school.start_trip()
    ended = await asyncio.gather(*(school.end_trip(trip) for _ in range(6)))
    assert len({answer.end_time.ToMicroseconds() for answer in ended}) == 1
    final = await school.trip(trip)
    assert final.version == 3
    events = await school.rows(
        'SELECT "aggregateVersion" FROM tracking."Outbox" WHERE "aggregateId" = %s', UUID(trip.id)
    )
    assert events == [(3,)]


async def test_the_same_request_to_end_a_trip_is_answered_again(school: School) -> None:
    trip = await school.start_trip()
    request = pb.EndTripRequest(trip_id=trip.id, request_id=str(uuid4()))
    ended = await school.stub().EndTrip(request)
    assert await school.stub().EndTrip(request) == ended
    request.end_time.CopyFrom(ended.end_time)
    refusal = await refused(school.stub().EndTrip(request))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
    )


async def test_a_trip_ends_between_its_start_and_now(school: School) -> None:
    trip = await school.start_trip()
    start = moment(trip.start_time)
    for end in (start - timedelta(microseconds=1), now() + timedelta(minutes=2, seconds=10)):
        refusal = await refused(school.end_trip(trip, end))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "END_TIME_OUT_OF_RANGE",
        )
    assert (await school.end_trip(trip, start)).end_time == trip.start_time


async def test_a_trip_may_end_a_moment_ahead_as_clocks_differ(school: School) -> None:
    trip = await school.start_trip()
    ahead = now() + timedelta(minutes=1, seconds=50)
    assert moment((await school.end_trip(trip, ahead)).end_time) == ahead


async def test_another_schools_trip_is_as_unknown_as_none(school: School) -> None:
    trip = await school.start_trip()
    neighbour = school.neighbour()
    for trip_id in (str(uuid4()), trip.id):
        calls: list[Any] = [
            neighbour.stub().GetTrip(pb.GetTripRequest(trip_id=trip_id)),
            neighbour.stub().EndTrip(pb.EndTripRequest(trip_id=trip_id)),
            neighbour.operator(of_school=True).SetLegalHold(
                pb.SetLegalHoldRequest(trip_id=trip_id, hold=True)
            ),
        ]
        for call in calls:
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.NOT_FOUND,
                "TRIP_NOT_FOUND",
            )
    assert await school.trip(trip) == trip


# --- reading ---


async def masked(school: School, trip: pb.Trip, *paths: str) -> pb.Trip:
    request = pb.GetTripRequest(trip_id=trip.id, read_mask=FieldMask(paths=paths))
    return await school.stub().GetTrip(request)


async def test_a_read_mask_says_which_fields_are_told(school: School) -> None:
    trip, _ = await school.drive(ended=True)
    assert await masked(school, trip, "version", "end_time") == pb.Trip(
        version=trip.version, end_time=trip.end_time
    )
    assert await masked(school, trip, "summary.distance_meters") == pb.Trip(
        summary=pb.TripSummary(distance_meters=trip.summary.distance_meters)
    )
    assert await masked(school, trip, "summary") == pb.Trip(summary=trip.summary)
    assert await masked(school, trip, "summary.bounding_box") == pb.Trip(
        summary=pb.TripSummary(bounding_box=trip.summary.bounding_box)
    )
    edge = pb.BoundingBox(max_lng=trip.summary.bounding_box.max_lng)
    assert await masked(school, trip, "summary.bounding_box.max_lng") == pb.Trip(
        summary=pb.TripSummary(bounding_box=edge)
    )
    assert await masked(school, trip, "*") == trip


async def test_an_open_trip_has_no_summary_under_any_mask(school: School) -> None:
    trip = await school.start_trip()
    for path in ("summary", "summary.route", "summary.bounding_box.min_lat", "*"):
        assert not (await masked(school, trip, path)).HasField("summary")


async def test_an_unknown_path_in_a_read_mask_is_refused(school: School) -> None:
    trip = await school.start_trip()
    for path in ("nothing", "summary.nothing", "org_id", "startedAt", ""):
        refusal = await refused(masked(school, trip, path))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "READ_MASK_INVALID",
        )


async def test_a_read_mask_decides_which_columns_are_fetched(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip, _ = await school.drive(ended=True)
    fetched: list[tuple[str, ...]] = []
    select = store.SQL.select

    def noted(name: str, columns: tuple[str, ...]) -> bytes:
        if name in {"get_trip", "list_trips"}:
            fetched.append(columns)
        return select(name, columns)

    monkeypatch.setattr(store.SQL, "select", noted)
    await masked(school, trip, "version")
    await school.stub().ListTrips(pb.ListTripsRequest())
    await school.trip(trip)
    light, listed, everything = fetched
    assert "version" in light
    assert not {"route", '"pointsHash"', '"distanceMeters"'} & set(light)
    assert set(everything) - set(listed) == {"route"}


# --- listing ---


async def list_all(school: School, **arguments: Any) -> list[pb.Trip]:
    """All pages."""
    trips: list[pb.Trip] = []
    token = ""
    while True:
        request = pb.ListTripsRequest(page_token=token, **arguments)
        page = await school.stub().ListTrips(request)
        trips += page.trips
        token = page.next_page_token
        if not token:
            return trips


def ids(trips: list[pb.Trip]) -> list[str]:
    return [trip.id for trip in trips]


async def test_trips_are_listed_latest_start_first(school: School) -> None:
    base = now() - timedelta(hours=1)
    started = [await school.start_trip(base + timedelta(minutes=n)) for n in (3, 1, 4, 0, 2)]
    newest_first = sorted(started, key=lambda trip: moment(trip.start_time), reverse=True)
    for size in (0, 1, 2, 5):
        assert await list_all(school, page_size=size) == newest_first


async def test_trips_with_equal_starts_are_each_listed_once(school: School) -> None:
    start = now() - timedelta(hours=1)
    started = [await school.start_trip(start) for _ in range(7)]
    listed = await list_all(school, page_size=2)
    assert ids(listed) == sorted(ids(started), reverse=True)


async def test_trips_that_start_meanwhile_disturb_no_page(school: School) -> None:
    start = now() - timedelta(hours=1)
    started = [await school.start_trip(start - timedelta(minutes=n // 2)) for n in range(8)]
    first = await school.stub().ListTrips(pb.ListTripsRequest(page_size=3))
    await school.start_trip(start + timedelta(minutes=5))
    await school.start_trip(start)
    token = first.next_page_token
    rest = await school.stub().ListTrips(pb.ListTripsRequest(page_size=100, page_token=token))
    seen = ids([*first.trips, *rest.trips])
    assert len(set(seen)) == len(seen)
    assert set(ids(started)) <= set(seen)


async def test_trips_are_listed_by_lesson_and_range(school: School) -> None:
    base = now() - timedelta(hours=1)
    lesson = str(uuid4())
    stub = school.stub()
    taught = [
        await stub.StartTrip(
            pb.StartTripRequest(start_time=at(base + timedelta(minutes=n)), lesson_id=lesson)
        )
        for n in range(4)
    ]
    await school.start_trip(base + timedelta(minutes=2))
    window: Any = {"start_time_from": taught[1].start_time, "start_time_to": taught[3].start_time}
    assert ids(await list_all(school, lesson_id=lesson, page_size=1)) == ids(taught[::-1])
    assert ids(await list_all(school, lesson_id=lesson, **window)) == ids([taught[2], taught[1]])
    assert len(await list_all(school, **window)) == 3
    assert await list_all(school, lesson_id=str(uuid4())) == []
    assert await list_all(school.neighbour(), lesson_id=lesson) == []


async def test_a_list_leaves_the_route_out_unless_it_is_asked_for(school: School) -> None:
    trip, _ = await school.drive(ended=True)
    (light,) = await list_all(school)
    assert light.summary.points_hash == trip.summary.points_hash
    assert light.summary.route == ""
    (full,) = await list_all(school, read_mask=FieldMask(paths=["*"]))
    assert full == trip


async def test_page_sizes_have_a_default_and_a_limit(school: School) -> None:
    await school.rows(
        'INSERT INTO tracking."Trip" ("orgId", "startedAt")'
        " SELECT %s, now() - make_interval(secs => n) FROM generate_series(1, 1001) AS n",
        school.org_id,
    )
    for asked, given in ((0, 20), (7, 7), (5_000, 1_000)):
        page = await school.stub().ListTrips(pb.ListTripsRequest(page_size=asked))
        assert len(page.trips) == given
        assert page.next_page_token
    refusal = await refused(school.stub().ListTrips(pb.ListTripsRequest(page_size=-1)))
    assert [name for name, _ in refusal.fields] == ["page_size"]


async def test_a_page_token_is_good_for_its_own_question_alone(school: School) -> None:
    for _ in range(3):
        await school.start_trip()
    token = (await school.stub().ListTrips(pb.ListTripsRequest(page_size=1))).next_page_token
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    later = at(now())
    questions = [
        (school, pb.ListTripsRequest(page_token=flipped)),
        (school, pb.ListTripsRequest(page_token="forged")),
        (school, pb.ListTripsRequest(page_token="\N{SNOWMAN}")),
        (school, pb.ListTripsRequest(page_token=token[: len(token) // 2])),
        (school, pb.ListTripsRequest(page_token=token, start_time_to=later)),
        (school, pb.ListTripsRequest(page_token=token, lesson_id=str(uuid4()))),
        (school.neighbour(), pb.ListTripsRequest(page_token=token)),
    ]
    for asking, request in questions:
        refusal = await refused(asking.stub().ListTrips(request))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        )


async def test_a_page_token_goes_on_with_another_page_size(school: School) -> None:
    started = [await school.start_trip() for _ in range(5)]
    first = await school.stub().ListTrips(pb.ListTripsRequest(page_size=2))
    rest = pb.ListTripsRequest(page_size=10, page_token=first.next_page_token)
    assert len((await school.stub().ListTrips(rest)).trips) == len(started) - 2


async def test_a_trip_that_ended_long_ago_is_still_there(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "FRESH_S", 0.0)
    trip, driven = await school.drive(ended=True)
    school.service.clock.ahead = timedelta(days=60)
    assert await school.trip(trip) == trip
    assert times(await school.points(trip)) == times(driven)
    late = await school.upload(track(trip, way(trip, 1, after=timedelta(minutes=1))))
    assert late.rejected_count == 1
