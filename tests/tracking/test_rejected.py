"""Points that could not be stored: kept, listed, and judged again once the cause is mended."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.tracking.v1 import tracking_pb2 as pb
from services.tracking import maintenance, rejected, summaries
from services.tracking.ingest import known
from tests.postgres import Database
from tests.serving import at, serving
from tests.tracking.stories import (
    School,
    dense,
    moment,
    now,
    refused,
    times,
    track,
    way,
)
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def replay(school: School, **filters: Any) -> pb.ReplayRejectedPointsResponse:
    request = pb.ReplayRejectedPointsRequest(**filters)
    return await school.stub().ReplayRejectedPoints(request)


async def listed(school: School, **arguments: Any) -> pb.ListRejectedPointsResponse:
    request = pb.ListRejectedPointsRequest(**arguments)
    return await school.stub().ListRejectedPoints(request)


async def test_rejected_points_are_listed_latest_first_by_reason_and_upload(school: School) -> None:
    trip = await school.start_trip()
    north, east = way(trip, 2)
    north.lat, east.lng = 91, 181
    first, second = uuid4(), uuid4()
    before = now()
    await school.upload(track(trip, [north]), upload_id=first)
    await school.upload(track(trip, [north, east]), upload_id=second)
    found = await school.rejected()
    assert [point.upload_id for point in found] == [str(second), str(second), str(first)]
    assert [point.index for point in found] == [1, 0, 0]
    assert all(before < moment(point.receive_time) <= now() for point in found)
    assert len(await school.rejected(reason=pb.REJECTION_REASON_LAT_OUT_OF_RANGE)) == 2
    assert len(await school.rejected(upload_id=str(second))) == 2
    both = {"reason": pb.REJECTION_REASON_LNG_OUT_OF_RANGE, "upload_id": str(second)}
    assert [point.point for point in await school.rejected(**both)] == [east]
    assert await school.rejected(reason=pb.REJECTION_REASON_NO_PARTITION) == []


async def test_pages_of_rejected_points_meet_without_gap_or_overlap(school: School) -> None:
    stray = way(await school.start_trip(), 25)
    await school.upload(track(str(uuid4()), stray))
    seen: list[pb.RejectedPoint] = []
    token = ""
    while True:
        page = await listed(school, page_size=10, page_token=token)
        seen += page.rejected_points
        token = page.next_page_token
        if not token:
            break
        await school.upload(track("later", stray[:1]))
    assert sorted(point.index for point in seen) == list(range(25))
    assert len((await listed(school)).rejected_points) == 20


async def test_a_page_token_is_good_for_its_filter_alone(school: School) -> None:
    stray = way(await school.start_trip(), 3)
    await school.upload(track(str(uuid4()), stray))
    page = await listed(school, page_size=1)
    refusal = await refused(
        listed(
            school,
            page_token=page.next_page_token,
            reason=pb.REJECTION_REASON_TRIP_NOT_FOUND,
        )
    )
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
    )


async def test_a_read_mask_names_what_is_told_of_rejected_points(school: School) -> None:
    stray = way(await school.start_trip(), 1)
    await school.upload(track("nowhere", stray))
    mask = FieldMask(paths=["point", "index"])
    (found,) = (await listed(school, read_mask=mask)).rejected_points
    assert found == pb.RejectedPoint(point=stray[0])
    refusal = await refused(listed(school, read_mask=FieldMask(paths=["subject"])))
    assert refusal.reason == "READ_MASK_INVALID"


async def test_points_of_a_month_that_is_made_later_are_stored_by_a_replay(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "FRESH_S", 0.0)
    start = datetime(2021, 6, 30, 23, 59, 30, tzinfo=UTC)
    await school.operator().EnsurePartitions(pb.EnsurePartitionsRequest(from_month=at(now())))
    await make_month(school, start)
    trip = await school.start_trip(start)
    driven = way(trip, 60)
    ack = await school.upload(track(trip, driven[:45]), dense(trip, driven[45:]))
    assert (ack.stored, ack.rejected_count) == (30, 30)
    assert {r.reason for r in ack.rejected} == {pb.REJECTION_REASON_NO_PARTITION}

    unmended = await replay(school)
    assert (unmended.stored, unmended.rejected, unmended.remaining) == (0, 30, 0)
    await make_month(school, start + timedelta(days=1))
    mended = await replay(school)
    assert (mended.stored, mended.duplicates, mended.rejected) == (30, 0, 0)
    assert await school.points(trip) == driven
    assert await school.rejected() == []


async def make_month(school: School, start: datetime) -> None:
    """One month alone, in a past that has none around it."""
    query = "SELECT tracking.create_monthly_partition('TripPoint', %s::date)"
    await school.rows(query, start.date())


async def test_points_ahead_of_their_time_are_stored_by_a_replay_later(school: School) -> None:
    trip = await school.start_trip()
    early = way(trip, 3, after=timedelta(minutes=25))
    await school.upload(track(trip, early))
    assert len(await school.rejected(reason=pb.REJECTION_REASON_AFTER_TRIP)) == 3
    school.service.clock.ahead = timedelta(minutes=10)
    assert (await replay(school)).stored == 3
    assert await school.points(trip) == early


async def test_points_of_a_trip_that_turns_up_are_stored_by_a_replay(school: School) -> None:
    other = await school.start_trip()
    trip = pb.Trip(id="0190a000-0000-7000-8000-" + uuid4().hex[:12], start_time=other.start_time)
    driven = way(trip, 3)
    await school.upload(track(trip, driven))
    await school.rows(
        'INSERT INTO tracking."Trip" ("orgId", id, "startedAt") VALUES (%s, %s, %s)',
        school.org_id,
        UUID(trip.id),
        moment(trip.start_time),
    )
    assert (await replay(school, reason=pb.REJECTION_REASON_TRIP_NOT_FOUND)).stored == 3
    assert await school.points(trip) == driven


async def test_a_replay_finds_points_that_came_again_meanwhile(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "FRESH_S", 0.0)
    trip = await school.start_trip()
    early = way(trip, 3, after=timedelta(minutes=25))
    await school.upload(track(trip, early))
    school.service.clock.ahead = timedelta(minutes=10)
    await school.upload(track(trip, early[:2]))
    outcome = await replay(school)
    assert (outcome.stored, outcome.duplicates, outcome.rejected) == (1, 2, 0)
    assert await school.rejected() == []


async def test_a_replay_leaves_what_can_never_be_stored(school: School) -> None:
    trip = await school.start_trip()
    bad = way(trip, 4)
    bad[0].lat, bad[1].lng, bad[2].speed_kph = 91, float("nan"), -1
    bad[3].time.nanos = -1
    torn = dense(trip, way(trip, 2))
    del torn.dense.lat_e6[0]
    await school.upload(track(trip, bad), track("no\0trip", way(trip, 1)), torn)
    before = await school.rejected()
    outcome = await replay(school)
    assert (outcome.stored, outcome.duplicates, outcome.rejected) == (0, 0, 7)
    assert await school.rejected() == before


async def test_a_replay_touches_the_named_upload_and_reason_alone(school: School) -> None:
    trip = await school.start_trip()
    early = way(trip, 2, after=timedelta(minutes=25))
    chosen = uuid4()
    await school.upload(track(trip, early[:1]), upload_id=chosen)
    await school.upload(track(trip, early[1:]))
    school.service.clock.ahead = timedelta(minutes=10)
    by_reason = await replay(school, reason=pb.REJECTION_REASON_BEFORE_TRIP)
    assert (by_reason.stored, by_reason.rejected) == (0, 0)
    assert (await replay(school, upload_id=str(chosen))).stored == 1
    assert await school.points(trip) == early[:1]


async def test_a_replay_works_on_so_many_at_a_time(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejected, "REPLAY_MAX", 10)
    trip = await school.start_trip()
    early = way(trip, 25, after=timedelta(minutes=25))
    await school.upload(track(trip, early))
    school.service.clock.ahead = timedelta(minutes=10)
    outcomes = [await replay(school) for _ in range(3)]
    assert [(o.stored, o.remaining) for o in outcomes] == [(10, 15), (10, 5), (5, 0)]
    assert times(await school.points(trip)) == times(early)


async def test_replays_at_once_store_each_point_once(school: School) -> None:
    trip = await school.start_trip()
    early = way(trip, 100, after=timedelta(minutes=25))
    await school.upload(track(trip, early))
    school.service.clock.ahead = timedelta(minutes=10)
    outcomes = await asyncio.gather(*(replay(school) for _ in range(4)))
    assert sum(outcome.stored + outcome.duplicates for outcome in outcomes) == 100
    assert len(await school.points(trip)) == 100
    assert await school.rejected() == []


async def test_a_replay_mends_the_summary_of_an_ended_trip(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "GATHER_S", 0.0)
    trip = await school.start_trip()
    early = way(trip, 5, after=timedelta(minutes=25))
    await school.upload(track(trip, early))
    school.service.clock.ahead = timedelta(minutes=15)
    ended = await school.end_trip(trip)
    assert ended.summary.point_count == 0
    await replay(school)
    mended = await eventually(lambda: school.trip(trip), lambda seen: seen.summary.point_count == 5)
    assert mended.version == ended.version + 1


async def test_nobody_replays_or_lists_another_schools_points(school: School) -> None:
    trip = await school.start_trip()
    await school.upload(track(trip, way(trip, 3, after=timedelta(minutes=25))))
    neighbour = school.neighbour()
    school.service.clock.ahead = timedelta(minutes=15)
    assert await neighbour.rejected() == []
    assert await replay(neighbour) == pb.ReplayRejectedPointsResponse()
    assert len(await school.rejected()) == 3


async def test_rejected_points_are_kept_for_fourteen_days(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_S", 0.1)
    async with serving(database, tmp_path) as running:
        school = School(running, tmp_path)
        stray = way(await school.start_trip(), 1_500)
        await school.upload(dense(str(uuid4()), stray))
        running.clock.ahead = timedelta(days=13, hours=23)
        await school.upload(track(str(uuid4()), stray[:1]))
        await school.rows(
            'UPDATE tracking."RejectedPoint" SET "createdAt" = now() + make_interval(days => 1)'
            " WHERE index = 0"
        )
        assert len(await school.rejected()) == 1_000
        running.clock.ahead = timedelta(days=14, minutes=1)
        await eventually(lambda: counted(school), lambda count: count == 2)


async def counted(school: School) -> int:
    ((count,),) = await school.rows('SELECT count(*) FROM tracking."RejectedPoint"')
    return int(count)
