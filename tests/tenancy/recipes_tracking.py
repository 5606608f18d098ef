"""A school with one of everything that tracking keeps, and what is asked about it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking import store
from tests.serving import Tracking, points
from tests.tenancy import forgetting, recipes_events
from tests.tenancy.schools import SECRET, Ids, Kit, Member, Pair, Recipes

SERVICES = ("driveflow.tracking.v1.TrackingService", recipes_events.SERVICE)
NAMES = ("trip", "open_trip", "lesson", "upload", "stream", "request")


def a_batch(ids: Ids) -> pb.PointBatch:
    sent = [pb.TripPoint(lat=1, lng=1)]
    tracks = [pb.Track(trip_id=ids[trip], points=sent) for trip in ("trip", "open_trip")]
    return pb.PointBatch(sequence=1, tracks=tracks)


RECIPES: Recipes = {
    "StartTrip": [
        lambda ids, _: [pb.StartTripRequest(lesson_id=ids["lesson"], instructor_id=ids["trip"])],
        lambda ids, _: [pb.StartTripRequest(request_id=ids["request"])],
    ],
    "EndTrip": [
        lambda ids, _: [pb.EndTripRequest(trip_id=ids["trip"])],
        lambda ids, _: [pb.EndTripRequest(trip_id=ids["open_trip"])],
        lambda ids, _: [pb.EndTripRequest(trip_id=ids["open_trip"], request_id=ids["request"])],
    ],
    "GetTrip": [
        lambda ids, _: [pb.GetTripRequest(trip_id=ids["trip"])],
        lambda ids, _: [
            pb.GetTripRequest(trip_id=ids["open_trip"], read_mask=FieldMask(paths=["id"]))
        ],
    ],
    "ListTrips": [
        lambda ids, _: [pb.ListTripsRequest(lesson_id=ids["lesson"])],
        lambda _, __: [pb.ListTripsRequest()],
        lambda ids, _: [pb.ListTripsRequest(page_token=ids["trip_pages"])],
    ],
    "StreamTripPoints": [
        lambda ids, _: [
            pb.StreamTripPointsRequest(open=pb.OpenUpload(upload_id=ids["stream"])),
            pb.StreamTripPointsRequest(batch=a_batch(ids)),
        ],
    ],
    "UploadTripPoints": [
        lambda ids, _: [
            pb.UploadTripPointsRequest(upload_id=ids["upload"], batches=[a_batch(ids)])
        ],
    ],
    "GetUploadStatus": [lambda ids, _: [pb.GetUploadStatusRequest(upload_id=ids["upload"])]],
    "ListTripPoints": [
        lambda ids, _: [pb.ListTripPointsRequest(trip_id=ids["trip"])],
        lambda ids, _: [
            pb.ListTripPointsRequest(trip_id=ids["trip"], page_token=ids["point_pages"])
        ],
    ],
    "ExportTripPoints": [lambda ids, _: [pb.ExportTripPointsRequest(trip_id=ids["trip"])]],
    "GetTripRoute": [lambda ids, _: [pb.GetTripRouteRequest(trip_id=ids["trip"])]],
    "GetLatestPosition": [lambda ids, _: [pb.GetLatestPositionRequest(trip_id=ids["trip"])]],
    "WatchTrip": [
        lambda ids, _: [pb.WatchTripRequest(trip_id=ids["trip"])],
        lambda ids, _: [pb.WatchTripRequest(trip_id=ids["open_trip"])],
    ],
    "ListDrivingEvents": [
        lambda ids, _: [pb.ListDrivingEventsRequest(trip_id=ids["trip"])],
        lambda ids, _: [
            pb.ListDrivingEventsRequest(trip_id=ids["trip"], page_token=ids["event_pages"])
        ],
    ],
    "ListRejectedPoints": [
        lambda ids, _: [pb.ListRejectedPointsRequest(upload_id=ids["upload"])],
        lambda ids, _: [pb.ListRejectedPointsRequest(page_token=ids["rejected_pages"])],
    ],
    "ReplayRejectedPoints": [
        lambda ids, _: [pb.ReplayRejectedPointsRequest(upload_id=ids["upload"])],
        lambda _, __: [pb.ReplayRejectedPointsRequest()],
    ],
    "SetLegalHold": [
        lambda ids, _: [pb.SetLegalHoldRequest(trip_id=ids["trip"], hold=True)],
        lambda ids, _: [pb.SetLegalHoldRequest(trip_id=ids["open_trip"], hold=False)],
    ],
}


def all_recipes() -> Recipes:
    return {**RECIPES, **recipes_events.recipes("trip")}


def kit(tracking: Tracking) -> Kit:
    async def furnish() -> Pair:
        theirs = await furnished(tracking, uuid.uuid4())
        return Pair(mine=Member(uuid.uuid4(), theirs.ids.absent()), theirs=theirs)

    return Kit(
        running=tracking,
        schema="tracking",
        services=SERVICES,
        recipes=all_recipes(),
        furnish=furnish,
        leaky=(forgetting.mutated(store.SQL).select("list_trips", ('"orgId"',)), TRIPS),
        get="GetTrip",
        write=lambda by: by.tracking.StartTrip(pb.StartTripRequest()),
        empty=frozenset({"AuditLog", "HeldTripPoint"}),
        makes=frozenset({"StartTrip", "StreamTripPoints", "UploadTripPoints"}),
        endless={"Subscribe": recipes_events.is_caught_up},
    )


TRIPS = {
    "before_started_at": store.FOREVER,
    "before_id": uuid.UUID(int=0),
    "started_from": "2000-01-01",
    "limit": 1_000,
}


async def furnished(tracking: Tracking, org_id: uuid.UUID) -> Member:
    """A school with one of everything, and its ids."""
    connection = tracking.connect(tracking.token(org_id))
    stub = connection.tracking
    lesson, upload, stream, request = (str(uuid.uuid4()) for _ in range(4))
    trips = [
        await stub.StartTrip(pb.StartTripRequest(lesson_id=lesson)),
        await stub.StartTrip(pb.StartTripRequest(request_id=request)),
        await stub.StartTrip(pb.StartTripRequest(lesson_id=lesson)),
    ]
    start = trips[0].start_time.ToDatetime()
    tracking.clock.ahead += timedelta(minutes=10)
    sent = points(start, 400)
    sent[0].lat, sent[1].lat = 91, 92
    for point in sent[100:300]:
        point.lat, point.lng = sent[100].lat, sent[100].lng
    for point in sent[301:]:
        point.speed_kph = 170
    tracks = [pb.Track(trip_id=trip.id, points=sent) for trip in trips[:2]]
    batches = [pb.PointBatch(sequence=1, tracks=tracks)]
    for each in (upload, stream):
        await stub.UploadTripPoints(
            pb.UploadTripPointsRequest(upload_id=each, gateway=SECRET, batches=batches)
        )
    for trip in (trips[0], trips[2]):
        await stub.EndTrip(pb.EndTripRequest(trip_id=trip.id))
    trip_pages = await stub.ListTrips(pb.ListTripsRequest(page_size=1))
    of_trip: dict[str, Any] = {"trip_id": trips[0].id, "page_size": 1}
    point_pages = await stub.ListTripPoints(pb.ListTripPointsRequest(**of_trip))
    event_pages = await stub.ListDrivingEvents(pb.ListDrivingEventsRequest(**of_trip))
    rejected_pages = await stub.ListRejectedPoints(pb.ListRejectedPointsRequest(page_size=1))
    named = (trips[0].id, trips[1].id, lesson, upload, stream, request)
    tokens = {
        "trip_pages": trip_pages.next_page_token,
        "point_pages": point_pages.next_page_token,
        "event_pages": event_pages.next_page_token,
        "rejected_pages": rejected_pages.next_page_token,
        **await recipes_events.tokens(connection.events),
    }
    assert all(tokens.values())
    nobodys = {recipes_events.CURSOR: recipes_events.first_cursor("tracking")}
    return Member(org_id, Ids(dict(zip(NAMES, named, strict=True)), tokens, nobodys))
