"""Two schools: to each, what is the other's is as if it were not there.

Walks every RPC that the contracts declare; one without a recipe here fails the test.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from psycopg import sql

from driveflow.events.v1 import events_pb2
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import access, idempotency, issuer
from libs.events import store as events
from libs.queries import Queries
from services.tracking import store
from tests import walking
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL, Tracking, points
from tests.statements import tables_with_org
from tests.walking import Answer

ALL_SCOPES = (*issuer.TENANT_SCOPES, *issuer.OPS_SCOPES)
BOUND = '"orgId" = %(org_id)s::uuid'


@dataclass(frozen=True)
class Ids:
    """What a caller may name: ids of a school, or ids that do not exist."""

    trip: str
    open_trip: str
    lesson: str
    upload: str
    stream: str
    request: str
    trip_pages: str = ""
    point_pages: str = ""
    event_pages: str = ""
    rejected_pages: str = ""

    @classmethod
    def absent(cls) -> Ids:
        return cls(*(str(uuid.uuid4()) for _ in range(6)))

    def erased_from(self, text: str) -> str:
        """The text with a dash for each id, so that answers about two ids can be compared."""
        named = (self.trip, self.open_trip, self.lesson, self.upload, self.stream, self.request)
        for value in named:
            text = text.replace(value, "-")
        return text


Recipe = Callable[[Ids], Sequence[Message]]


def a_batch(ids: Ids) -> pb.PointBatch:
    sent = [pb.TripPoint(lat=1, lng=1)]
    tracks = [pb.Track(trip_id=trip, points=sent) for trip in (ids.trip, ids.open_trip)]
    return pb.PointBatch(sequence=1, tracks=tracks)


# What each method is asked about another's things: one list of messages for each call.
RECIPES: dict[str, Sequence[Recipe]] = {
    "StartTrip": [
        lambda ids: [pb.StartTripRequest(lesson_id=ids.lesson, instructor_id=ids.trip)],
        lambda ids: [pb.StartTripRequest(request_id=ids.request)],
    ],
    "EndTrip": [
        lambda ids: [pb.EndTripRequest(trip_id=ids.trip)],
        lambda ids: [pb.EndTripRequest(trip_id=ids.open_trip)],
        lambda ids: [pb.EndTripRequest(trip_id=ids.open_trip, request_id=ids.request)],
    ],
    "GetTrip": [
        lambda ids: [pb.GetTripRequest(trip_id=ids.trip)],
        lambda ids: [pb.GetTripRequest(trip_id=ids.open_trip, read_mask=FieldMask(paths=["id"]))],
    ],
    "ListTrips": [
        lambda ids: [pb.ListTripsRequest(lesson_id=ids.lesson)],
        lambda ids: [pb.ListTripsRequest()],
        lambda ids: [pb.ListTripsRequest(page_token=ids.trip_pages or "AAAA")],
    ],
    "StreamTripPoints": [
        lambda ids: [
            pb.StreamTripPointsRequest(open=pb.OpenUpload(upload_id=ids.stream)),
            pb.StreamTripPointsRequest(batch=a_batch(ids)),
        ],
    ],
    "UploadTripPoints": [
        lambda ids: [pb.UploadTripPointsRequest(upload_id=ids.upload, batches=[a_batch(ids)])],
    ],
    "GetUploadStatus": [lambda ids: [pb.GetUploadStatusRequest(upload_id=ids.upload)]],
    "ListTripPoints": [
        lambda ids: [pb.ListTripPointsRequest(trip_id=ids.trip)],
        lambda ids: [
            pb.ListTripPointsRequest(trip_id=ids.trip, page_token=ids.point_pages or "AAAA")
        ],
    ],
    "ExportTripPoints": [lambda ids: [pb.ExportTripPointsRequest(trip_id=ids.trip)]],
    "GetTripRoute": [lambda ids: [pb.GetTripRouteRequest(trip_id=ids.trip)]],
    "GetLatestPosition": [lambda ids: [pb.GetLatestPositionRequest(trip_id=ids.trip)]],
    "WatchTrip": [
        lambda ids: [pb.WatchTripRequest(trip_id=ids.trip)],
        lambda ids: [pb.WatchTripRequest(trip_id=ids.open_trip)],
    ],
    "ListDrivingEvents": [
        lambda ids: [pb.ListDrivingEventsRequest(trip_id=ids.trip)],
        lambda ids: [
            pb.ListDrivingEventsRequest(trip_id=ids.trip, page_token=ids.event_pages or "AAAA")
        ],
    ],
    "ListRejectedPoints": [
        lambda ids: [pb.ListRejectedPointsRequest(upload_id=ids.upload)],
        lambda ids: [pb.ListRejectedPointsRequest(page_token=ids.rejected_pages or "AAAA")],
    ],
    "ReplayRejectedPoints": [
        lambda ids: [pb.ReplayRejectedPointsRequest(upload_id=ids.upload)],
        lambda ids: [pb.ReplayRejectedPointsRequest()],
    ],
    "SetLegalHold": [
        lambda ids: [pb.SetLegalHoldRequest(trip_id=ids.trip, hold=True)],
        lambda ids: [pb.SetLegalHoldRequest(trip_id=ids.open_trip, hold=False)],
    ],
    "Subscribe": [
        lambda _: [events_pb2.SubscribeRequest(start=events_pb2.StartSubscription())],
    ],
    "ListEvents": [
        lambda _: [events_pb2.ListEventsRequest()],
        lambda _: [
            events_pb2.ListEventsRequest(topic="trip", state=events_pb2.EVENT_STATE_PENDING)
        ],
    ],
}

METHODS = walking.methods()
TENANT_METHODS = [method for method in METHODS if not access.rule(method).platform]
PLATFORM_METHODS = [method for method in METHODS if access.rule(method).platform]


@pytest.fixture
async def other(tracking: Tracking) -> Ids:
    """A school with one of everything, and its ids."""
    return await furnish(tracking, OTHER_SCHOOL)


async def furnish(tracking: Tracking, org_id: uuid.UUID) -> Ids:
    stub = tracking.stub(tracking.token(org_id))
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
        await stub.UploadTripPoints(pb.UploadTripPointsRequest(upload_id=each, batches=batches))
    await stub.EndTrip(pb.EndTripRequest(trip_id=trips[0].id))
    trip_pages = await stub.ListTrips(pb.ListTripsRequest(page_size=1))
    of_trip: dict[str, Any] = {"trip_id": trips[0].id, "page_size": 1}
    point_pages = await stub.ListTripPoints(pb.ListTripPointsRequest(**of_trip))
    event_pages = await stub.ListDrivingEvents(pb.ListDrivingEventsRequest(**of_trip))
    rejected_pages = await stub.ListRejectedPoints(pb.ListRejectedPointsRequest(page_size=1))
    ids = Ids(
        trips[0].id,
        trips[1].id,
        lesson,
        upload,
        stream,
        request,
        trip_pages=trip_pages.next_page_token,
        point_pages=point_pages.next_page_token,
        event_pages=event_pages.next_page_token,
        rejected_pages=rejected_pages.next_page_token,
    )
    assert ids.trip_pages
    assert ids.point_pages
    assert ids.event_pages
    assert ids.rejected_pages
    return ids


def makes(method: MethodDescriptor) -> bool:
    """Whether a call makes something of the caller's own; asked last, since others list it."""
    return method.name in ("StartTrip", "StreamTripPoints", "UploadTripPoints")


def shape(message: Message) -> list[str]:
    """Which fields of a message are set."""
    return sorted(field.name for field, _ in message.ListFields())


def told(answer: Answer, ids: Ids) -> tuple[object, ...]:
    """What an answer says, but for the ids that the caller named himself."""
    said = [
        # A new trip has an id and times of its own.
        shape(message) if isinstance(message, pb.Trip) else ids.erased_from(str(message))
        for message in answer.responses
    ]
    refusal = answer.refusal
    if refusal is None:
        return (answer.code, said)
    details = (refusal.reason, refusal.message, refusal.metadata, refusal.fields)
    return (refusal.code, said, ids.erased_from(str(details)), refusal.retry_after_s)


def checksums(database: Database, org_id: uuid.UUID) -> dict[str, str]:
    """The rows of a school in every table, in short."""
    found = {}
    with psycopg.connect(database.admin_dsn) as admin:
        for table in sorted(tables_with_org()):
            query = sql.SQL(
                "SELECT count(*) || ' ' || md5(coalesce(string_agg(r::text, ',' ORDER BY r::text),"
                " '')) FROM tracking.{} AS r WHERE \"orgId\" = %s"
            ).format(sql.Identifier(table))
            row = admin.execute(query, [org_id]).fetchone()
            found[table] = row[0] if row else ""
    return found


async def ask_everything(tracking: Tracking, theirs: Ids) -> None:
    """Every tenant RPC, once with another's ids and once with ids that nobody has."""
    # Of the same subject, as a gateway that serves two schools would be.
    channel = tracking.connect(tracking.token(SCHOOL, ALL_SCOPES)).channel
    for method in sorted(TENANT_METHODS, key=makes):
        assert method.name in RECIPES, f"no recipe for {method.full_name}"
        for recipe in RECIPES[method.name]:
            absent = Ids.absent()
            answers = [
                told(await walking.call(channel, method, recipe(ids)), ids)
                for ids in (theirs, absent)
            ]
            assert answers[0] == answers[1], method.full_name


def without_filter(queries: Queries) -> Queries:
    """The same statements, each of which has forgotten the school."""
    texts = {}
    for name, text in queries.texts.items():
        texts[name] = text.replace(f"%(org_id)s::uuid AND t.{BOUND}", "true")
        named = ('"GpsUpload".', '"RejectedPoint".', '"IdempotencyKey".', '"Tenant".')
        for alias in ("", "t.", "c.", *named):
            texts[name] = texts[name].replace(f" {alias}{BOUND}", " true")
    return Queries(queries.owner, texts)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement of the service without its filter on the school."""
    for queries in (store.SQL, idempotency.SQL, events.SQL):
        mutated = without_filter(queries)
        left = [name for name, text in mutated.texts.items() if BOUND in text]
        assert left == [], "the filter was not found"
        monkeypatch.setattr(queries, "_encoded", mutated._encoded)
        monkeypatch.setattr(queries, "select", mutated.select)


async def test_to_their_own_school_the_same_calls_answer(tracking: Tracking, other: Ids) -> None:
    """So that no recipe is refused for another reason than whose the ids are."""
    channel = tracking.connect(tracking.token(OTHER_SCHOOL, ALL_SCOPES)).channel
    for method in TENANT_METHODS:
        for recipe in RECIPES[method.name]:
            answer = await walking.call(channel, method, recipe(other), responses_max=1)
            assert answer.refusal is None, (method.full_name, answer.refusal)


async def test_every_rpc_answers_for_anothers_ids_as_for_ids_that_do_not_exist(
    tracking: Tracking, other: Ids
) -> None:
    before = checksums(tracking.database, OTHER_SCHOOL)
    assert before["DrivingEvent"] > "1 "
    await ask_everything(tracking, other)
    assert checksums(tracking.database, OTHER_SCHOOL) == before


@pytest.mark.usefixtures("forgetful")
async def test_row_level_security_alone_keeps_the_schools_apart(
    tracking: Tracking, other: Ids
) -> None:
    before = checksums(tracking.database, OTHER_SCHOOL)
    await ask_everything(tracking, other)
    assert checksums(tracking.database, OTHER_SCHOOL) == before


@pytest.mark.usefixtures("forgetful")
async def test_a_statement_without_its_filter_would_leak_to_a_role_that_passes_row_security(
    database: Database, tmp_path: Path
) -> None:
    """The two tests above mean something: this is what they keep out."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(
            'INSERT INTO tracking."Trip" ("orgId", "startedAt") VALUES (%s, now())', [OTHER_SCHOOL]
        )
        # The connection's role as the service's would be, had it BYPASSRLS.
        admin.execute("SET search_path = tracking")
        columns = store.SQL.select("list_trips", ('"orgId"',))
        rows = admin.execute(
            columns,
            {
                "org_id": SCHOOL,
                "before_started_at": store.FOREVER,
                "before_id": uuid.UUID(int=0),
                "started_from": "2000-01-01",
                "limit": 10,
            },
        ).fetchall()
    assert rows == [(OTHER_SCHOOL,)]


async def test_an_upload_of_another_subject_of_the_school_is_not_there(
    tracking: Tracking, other: Ids
) -> None:
    channel = tracking.connect(tracking.token(OTHER_SCHOOL, subject="gateway-2")).channel
    (status,) = (method for method in METHODS if method.name == "GetUploadStatus")
    answer = await walking.call(channel, status, RECIPES["GetUploadStatus"][0](other))
    assert answer.refusal is not None
    assert answer.refusal.reason == "UPLOAD_NOT_FOUND"


async def test_platform_rpcs_refuse_a_schools_token_whatever_its_scopes(
    tracking: Tracking,
) -> None:
    channel = tracking.connect(tracking.token(SCHOOL, ALL_SCOPES)).channel
    for method in PLATFORM_METHODS:
        answer = await walking.call(channel, method)
        assert answer.refusal is not None
        assert answer.refusal.reason == "ORG_REFUSED", method.full_name


async def test_school_rpcs_refuse_a_token_without_a_school_whatever_its_scopes(
    tracking: Tracking, other: Ids
) -> None:
    channel = tracking.connect(tracking.token(None, ALL_SCOPES)).channel
    for method in TENANT_METHODS:
        answer = await walking.call(channel, method, RECIPES[method.name][0](other))
        assert answer.refusal is not None
        assert answer.refusal.reason == "ORG_REQUIRED", method.full_name


async def test_no_rpc_takes_a_token_of_the_nil_school(tracking: Tracking) -> None:
    channel = tracking.connect(tracking.token(access.NIL_ORG, ALL_SCOPES)).channel
    for method in METHODS:
        answer = await walking.call(channel, method)
        assert answer.refusal is not None
        assert answer.refusal.reason == "TOKEN_INVALID", method.full_name


async def test_the_school_of_a_call_is_the_tokens_whatever_its_metadata_say(
    tracking: Tracking, other: Ids
) -> None:
    channel = tracking.connect(tracking.token(SCHOOL)).channel
    claims = (("org_id", str(OTHER_SCHOOL)), ("driveflow-org", str(OTHER_SCHOOL)))
    (get,) = (method for method in METHODS if method.name == "GetTrip")
    answer = await walking.call(channel, get, RECIPES["GetTrip"][0](other), metadata=claims)
    assert answer.refusal is not None
    assert answer.refusal.reason == "TRIP_NOT_FOUND"


def test_no_request_has_a_field_for_the_school() -> None:
    def fields(method: MethodDescriptor) -> list[str]:
        return [field.name for field in method.input_type.fields if "org" in field.name.split("_")]

    assert [method.full_name for method in METHODS if fields(method)] == []
