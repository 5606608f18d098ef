"""What a gateway may rely on when it streams points."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from services.tracking import store
from services.tracking.ingest import known, writer
from services.tracking.ingest.writer import Writer
from tests.drives import read_drive, recorded_drives, recorded_drives_dir
from tests.serving import at
from tests.tracking.stories import (
    School,
    Stream,
    batch,
    calls_of,
    dense,
    differences,
    locked,
    moment,
    now,
    opening,
    times,
    track,
    way,
)
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


# --- the way it should go ---


async def test_points_that_are_acknowledged_are_listed(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 100)
    async with school.stream() as stream:
        await stream.send(1, track(trip, driven[:50]))
        await stream.send(2, track(trip, driven[50:]))
        await stream.acked(2)
    assert (stream.stored, stream.duplicates, stream.rejected_count) == (100, 0, 0)
    assert await school.points(trip) == driven


async def test_half_closing_ends_the_stream_after_the_last_acknowledgement(school: School) -> None:
    trip = await school.start_trip()
    stream = Stream(school.stub())
    await stream.open()
    for sequence, point in enumerate(way(trip, 20), start=1):
        await stream.send(sequence, track(trip, [point]))
    await stream.half_closed()
    assert (stream.durable_through, stream.stored) == (20, 20)


async def test_a_stream_of_nothing_ends_well(school: School) -> None:
    async with school.stream() as stream:
        pass
    assert not stream.acks


async def test_an_empty_batch_is_acknowledged_like_any_other(school: School) -> None:
    trip = await school.start_trip()
    async with school.stream() as stream:
        await stream.stores(1)
        await stream.stores(2, track(trip, []), dense(trip, []))
        await stream.stores(3, track(trip, way(trip, 1)))
    assert (stream.stored, stream.duplicates, stream.rejected_count) == (1, 0, 0)


async def test_one_batch_carries_points_of_many_trips(school: School) -> None:
    trips = [await school.start_trip() for _ in range(50)]
    async with school.stream() as stream:
        plain = [track(trip, way(trip, 3)) for trip in trips]
        packed = [dense(trip, way(trip, 2, after=timedelta(minutes=1))) for trip in trips]
        await stream.stores(1, *plain, *packed)
    assert stream.stored == 250
    counts = await school.rows(
        'SELECT count(*) FROM tracking."TripPoint" WHERE "orgId" = %s GROUP BY "tripId"',
        school.org_id,
    )
    assert counts == [(5,)] * 50


async def test_dense_points_are_stored_as_plain_ones_are(school: School) -> None:
    plain_trip, dense_trip = [await school.start_trip() for _ in range(2)]
    driven = way(plain_trip, 50)
    for point in driven[::3]:
        point.ClearField("speed_kph")
    async with school.stream() as stream:
        await stream.stores(1, track(plain_trip, driven), dense(dense_trip, driven))
    assert await school.points(dense_trip) == await school.points(plain_trip) == driven


async def test_a_track_may_have_plain_points_and_dense_ones_after_them(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 10)
    mixed = dense(trip, driven[4:])
    mixed.points.extend(driven[:4])
    mixed.dense.lat_e6[5] += 90_000_000
    async with school.stream() as stream:
        await stream.stores(1, mixed)
    assert await school.points(trip) == driven[:9]
    assert [(r.index, r.reason) for r in stream.rejections] == [
        (9, pb.REJECTION_REASON_LAT_OUT_OF_RANGE)
    ]


async def test_an_acknowledgement_says_how_the_server_would_like_to_be_sent_to(
    school: School,
) -> None:
    async with school.stream() as stream:
        await stream.stores(1)
    (ack,) = stream.acks
    assert (ack.pace.interval_ms, ack.pace.batch_points) == (0, 100)


async def test_a_recorded_drive_is_stored_whole(school: School) -> None:
    directory = recorded_drives_dir()
    if directory is None:
        pytest.skip("no recorded drives: set DRIVEFLOW_GPS_DATA")
    drive = next(
        d for d in recorded_drives(directory) if d.path.name == "ec-quito-20240111_185718.gpx"
    )
    recorded = read_drive(drive.path)
    start = datetime.fromtimestamp(int(recorded.time_us[0]) // 1_000_000, UTC)
    request = pb.EnsurePartitionsRequest(from_month=at(start))
    await school.operator().EnsurePartitions(request)
    trip = await school.start_trip(start)
    async with school.stream() as stream:
        for place in range(0, len(recorded), 500):
            columns = (recorded.time_us, recorded.lat_e6, recorded.lng_e6)
            packed = pb.DenseTrack(
                speed_ckph=recorded.speed_ckph[place : place + 500].tolist(),
                **{
                    name: differences(column[place : place + 500].tolist())
                    for name, column in zip(("time_us", "lat_e6", "lng_e6"), columns, strict=True)
                },
            )
            await stream.send(place // 500 + 1, pb.Track(trip_id=trip.id, dense=packed))
    assert stream.stored + stream.duplicates == drive.point_count
    last = datetime.fromtimestamp(int(recorded.time_us[-1]) / 1e6, UTC)
    summary = (await school.end_trip(trip, last)).summary
    assert summary.point_count == stream.stored
    assert summary.distance_meters / 1000 == pytest.approx(drive.km, abs=0.06)


# --- sent again, sent elsewhere ---


async def test_a_batch_sent_again_counts_as_duplicates(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 6)
    async with school.stream() as stream:
        await stream.stores(1, track(trip, driven[:3]))
        await stream.send(1, track(trip, driven[:3]))
        await stream.stores(2, track(trip, driven[3:]))
    assert (stream.stored, stream.duplicates) == (6, 3)


async def test_a_gateway_resumes_behind_what_is_durable_with_its_backlog_cut_anew(
    school: School,
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 12)
    vanishing = Stream(school.stub())
    await vanishing.open()
    await vanishing.stores(1, track(trip, driven[:4]))
    vanishing.call.cancel()
    async with school.stream(vanishing.upload_id) as stream:
        assert stream.durable_through == 1
        for sequence, point in enumerate(driven[4:], start=2):
            await stream.send(sequence, track(trip, [point]))
        await stream.acked(9)
    assert stream.stored == 8
    assert await school.points(trip) == driven


async def test_a_gateway_may_resume_while_its_old_stream_is_still_being_stored(
    school: School,
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 12)
    old = Stream(school.stub())
    await old.open()
    await old.stores(1, track(trip, driven[:4]))
    new = Stream(school.stub(), old.upload_id)
    async with locked(school, old.upload_id):
        await old.send(2, track(trip, driven[4:8]))
        await eventually(lambda: waiting_for_locks(school), lambda count: count > 0)
        opening_again = asyncio.create_task(new.open())
        await eventually(lambda: waiting_for_locks(school), lambda count: count > 1)
    durable = await opening_again
    # Whichever of the two got the lock first: what is not durable is sent again, cut in two.
    left = driven[4:] if durable == 1 else driven[8:]
    await new.send(durable + 1, track(trip, left[:3]))
    await new.send(durable + 2, track(trip, left[3:]))
    await new.half_closed()
    assert (await old.refused()).reason == "STREAM_SUPERSEDED"
    assert new.duplicates == 0
    assert await school.points(trip) == driven


async def waiting_for_locks(school: School) -> int:
    ((count,),) = await school.rows(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(count)


async def test_an_upload_opened_again_ends_the_stream_that_had_it(school: School) -> None:
    async with school.stream() as old, school.stream(old.upload_id):
        refusal = await old.refused()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "STREAM_SUPERSEDED")


async def test_a_superseded_stream_stores_nothing_more_whichever_process_serves_it(
    school: School,
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 9)
    async with (
        school.second_process() as elsewhere,
        school.stream() as old,
        elsewhere.stream(old.upload_id) as new,
    ):
        await old.send(1, track(trip, driven[:3]))
        refusal = await old.refused()
        await new.stores(1, track(trip, driven[3:6]))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "STREAM_SUPERSEDED")
    assert not old.acks
    assert await school.points(trip) == driven[3:6]


async def test_a_superseded_stream_takes_nobody_else_down(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 3)
    async with (
        school.second_process() as elsewhere,
        school.stream() as blocked,
        school.stream() as old,
        school.stream() as neighbour,
        elsewhere.stream(old.upload_id),
    ):
        async with locked(school, blocked.upload_id):
            # While this waits, the two others gather for one flush.
            await blocked.send(1, track(trip, driven[:1]))
            await eventually(lambda: waiting_for_locks(school))
            await old.send(1, track(trip, driven[1:2]))
            await neighbour.send(1, track(trip, driven[2:]))
        await neighbour.acked(1)
        await blocked.acked(1)
        assert (await old.refused()).reason == "STREAM_SUPERSEDED"
    assert times(await school.points(trip)) == times([driven[0], driven[2]])


async def test_an_upload_id_belongs_to_a_school_and_a_subject(school: School) -> None:
    trip = await school.start_trip()
    upload_id = uuid4()
    neighbour = school.neighbour()
    async with (
        school.stream(upload_id) as ours,
        neighbour.stream(upload_id) as theirs,
        school.stream(upload_id, school.stub("gateway-2")) as colleagues,
    ):
        await ours.stores(1, track(trip, way(trip, 5)))
        await ours.stores(2)
        assert (theirs.durable_through, colleagues.durable_through) == (0, 0)
        await theirs.stores(1)
        await colleagues.stores(1)


# --- points that are there already ---


async def test_points_that_are_there_twice_are_stored_once(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 5)
    elsewhere = pb.TripPoint(time=driven[0].time, lat=1, lng=1)
    async with school.stream() as stream:
        await stream.stores(1, track(trip, [*driven, elsewhere]), track(trip.id.upper(), driven))
    assert (stream.stored, stream.duplicates) == (5, 6)
    assert await school.points(trip) == driven


async def test_of_two_points_with_one_time_the_one_sent_first_stays(school: School) -> None:
    trip = await school.start_trip()
    first, again = way(trip, 1), way(trip, 1, lat=10)
    batches = [
        pb.PointBatch(sequence=1, tracks=[dense(trip, first)]),
        pb.PointBatch(sequence=2, tracks=[track(trip, again)]),
    ]
    request = pb.UploadTripPointsRequest(upload_id=str(uuid4()), batches=batches)
    ack = (await school.stub().UploadTripPoints(request)).ack
    assert (ack.stored, ack.duplicates) == (1, 1)
    assert await school.points(trip) == first


async def test_two_uploads_of_one_flush_may_bring_the_same_points(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 10)
    submitted = calls_of(monkeypatch, Writer, "submit")
    flushes = calls_of(monkeypatch, store, "lock_uploads")
    async with AsyncExitStack() as stack:
        # Lanes are taken in turns: every second one of these is in the same.
        streams = [await stack.enter_async_context(school.stream()) for _ in range(5)]
        blocked, one, other = streams[::2]
        async with locked(school, blocked.upload_id):
            await blocked.send(1, track(trip, []))
            await eventually(lambda: waiting_for_locks(school))
            await one.send(1, track(trip, driven))
            await other.send(1, dense(trip, driven))
            await eventually(lambda: counted(submitted), lambda count: count == 3)
        await one.acked(1)
        await other.acked(1)
    assert 2 in [len(flush["keys"]) for flush in flushes]
    assert one.stored + other.stored == 10
    assert one.duplicates + other.duplicates == 10
    assert await school.points(trip) == driven


async def test_two_lanes_may_bring_the_same_points_at_once(school: School) -> None:
    trip, later = await school.start_trip(), await school.start_trip()
    driven = way(trip, 300)
    there = [track(trip, driven), track(later, driven)]
    for sequence in range(1, 6):
        async with school.stream() as one, school.stream() as other:
            # Trips in another order: who meets the other's points must not wait in a circle.
            await asyncio.gather(one.send(1, *there), other.send(1, *reversed(there)))
            await asyncio.gather(one.acked(1), other.acked(1))
            stored = one.stored + other.stored
            assert stored == (600 if sequence == 1 else 0)
            assert stored + one.duplicates + other.duplicates == 1_200
    assert await school.points(trip) == await school.points(later) == driven


async def counted(calls: list[dict[str, object]]) -> int:
    return len(calls)


async def test_a_gateway_that_repeats_a_point_in_every_batch_slows_no_other(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SLOW_REST_FACTOR", 0.0)
    (forgetful_trip, repeated), clean_trip = await school.drive(1), await school.start_trip()
    one_by_one = calls_of(monkeypatch, store, "add_new_points")
    async with school.stream() as forgetful, school.stream() as clean:
        fresh = way(forgetful_trip, 40, after=timedelta(minutes=1))
        for sequence in range(1, 21):
            new = fresh[sequence * 2 - 2 : sequence * 2]
            await forgetful.send(sequence, track(forgetful_trip, [*new, *repeated]))
            await clean.send(sequence, track(clean_trip, way(clean_trip, 20)[sequence - 1 :][:1]))
        await forgetful.acked(20)
        await clean.acked(20)
    assert (forgetful.stored, forgetful.duplicates) == (40, 20)
    assert (clean.stored, clean.duplicates) == (20, 0)
    assert len(await school.points(forgetful_trip)) == 41
    inserted = {str(trip_id) for call in one_by_one for trip_id in call["trip_ids"]}
    assert inserted == {forgetful_trip.id}


async def test_an_upload_leaves_the_slow_lane_when_it_repeats_no_more(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLEAN_FLUSHES_TO_LEAVE", 3)
    trip, repeated = await school.drive(1)
    copies = calls_of(monkeypatch, store, "copy_points")
    one_by_one = calls_of(monkeypatch, store, "add_new_points")
    async with school.stream() as stream:
        await stream.stores(1, track(trip, repeated))
        for sequence, point in enumerate(way(trip, 6, after=timedelta(minutes=1)), start=2):
            await stream.stores(sequence, track(trip, [point]))
    assert len(one_by_one) == 4
    assert len(copies) == 1 + 3
    assert (stream.stored, stream.duplicates) == (6, 1)


# --- points that can't be stored ---

Spoil = Callable[[pb.TripPoint], None]


def spoiled(**values: float) -> Spoil:
    def spoil(point: pb.TripPoint) -> None:
        for name, value in values.items():
            setattr(point, name, value)

    return spoil


def timed(seconds: int | None, nanos: int = 0) -> Spoil:
    def spoil(point: pb.TripPoint) -> None:
        point.ClearField("time")
        if seconds is not None:
            point.time.SetInParent()
            point.time.seconds = seconds
            point.time.nanos = nanos

    return spoil


BAD_POINTS: dict[str, tuple[Spoil, str]] = {
    "lat NaN": (spoiled(lat=float("nan")), "NOT_A_NUMBER"),
    "lng infinite": (spoiled(lng=float("inf")), "NOT_A_NUMBER"),
    "lat minus infinite": (spoiled(lat=float("-inf")), "NOT_A_NUMBER"),
    "speed NaN": (spoiled(speed_kph=float("nan")), "NOT_A_NUMBER"),
    "lat 91": (spoiled(lat=91), "LAT_OUT_OF_RANGE"),
    "lng -181": (spoiled(lng=-181), "LNG_OUT_OF_RANGE"),
    "speed negative": (spoiled(speed_kph=-0.5), "SPEED_OUT_OF_RANGE"),
    "speed absurd": (spoiled(speed_kph=1e300), "SPEED_OUT_OF_RANGE"),
    "speed absurdly negative": (spoiled(speed_kph=-1e308), "SPEED_OUT_OF_RANGE"),
    "no time": (timed(None), "TIME_INVALID"),
    "1970": (timed(0), "BEFORE_TRIP"),
    "2099": (timed(4_070_908_800), "AFTER_TRIP"),
    "year 0": (timed(-62_135_596_801), "TIME_INVALID"),
    "year 10000": (timed(253_402_300_800), "TIME_INVALID"),
    "nanos too many": (timed(1_700_000_000, 1_000_000_000), "TIME_INVALID"),
    "nanos negative": (timed(1_700_000_000, -1), "TIME_INVALID"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD_POINTS.values(), ids=BAD_POINTS)
async def test_one_bad_point_in_a_batch_of_500_is_named_and_the_others_stored(
    school: School, spoil: Spoil, reason: str
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 500)
    bad = driven.pop(250)
    spoil(bad)
    async with school.stream() as stream:
        await stream.stores(1, track(trip, [*driven[:250], bad, *driven[250:]]))
    assert stream.stored == 499
    assert stream.rejections == [rejection(1, trip.id, 250, reason)]
    assert stream.rejected_count == 1
    assert times(await school.points(trip)) == times(driven)
    (kept,) = await school.rejected()
    assert (kept.sequence, kept.index, kept.trip_id) == (1, 250, trip.id)
    assert repr(kept.point) == repr(bad)


def rejection(sequence: int, trip_id: str, index: int, reason: str) -> pb.Rejection:
    return pb.Rejection(
        sequence=sequence,
        trip_id=trip_id,
        index=index,
        reason=pb.RejectionReason.Value(f"REJECTION_REASON_{reason}"),
    )


BAD_TRIPS = {
    "unknown": str(uuid4()),
    "empty": "",
    "malformed": "no uuid, but as long as one would be",
    "with a NUL": "0190\0000-0000-7000-8000-000000000000",
    "of an operator's humour": '\'; DROP TABLE tracking."Trip"; --',
    "endless": "x" * 5_000,
}


@pytest.mark.parametrize("trip_id", BAD_TRIPS.values(), ids=BAD_TRIPS)
async def test_a_point_of_no_trip_of_the_school_is_named_and_the_others_stored(
    school: School, trip_id: str
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 500)
    lost = [track(trip, driven[:250]), track(trip_id, driven[250:251]), dense(trip, driven[251:])]
    async with school.stream() as stream:
        await stream.stores(1, *lost)
    assert stream.stored == 499
    shown = trip_id.replace("\0", "\N{REPLACEMENT CHARACTER}")[:100]
    assert stream.rejections == [rejection(1, shown, 250, "TRIP_NOT_FOUND")]
    assert [kept.point for kept in await school.rejected()] == [driven[250]]


async def test_another_schools_trip_is_as_unknown_as_none(school: School) -> None:
    neighbour = school.neighbour()
    theirs, ours = await neighbour.start_trip(), await school.start_trip()
    async with school.stream() as stream:
        await stream.stores(1, track(theirs, way(theirs, 1)), track(ours, way(ours, 1)))
    assert stream.rejections == [rejection(1, theirs.id, 0, "TRIP_NOT_FOUND")]
    assert await neighbour.points(theirs) == []
    assert await neighbour.rejected() == []


async def test_the_window_of_an_open_trip_is_two_minutes_wider_than_itself(school: School) -> None:
    trip = await school.start_trip()
    start = moment(trip.start_time)
    us = timedelta(microseconds=1)
    slack = timedelta(minutes=2)
    edges = [start - slack - us, start - slack, now() + slack - timedelta(seconds=1)]
    edges.append(now() + slack + timedelta(minutes=1))
    async with school.stream() as stream:
        sent = [pb.TripPoint(time=at(when), lat=1, lng=1) for when in edges]
        await stream.stores(1, track(trip, sent))
    assert stream.rejections == [
        rejection(1, trip.id, 0, "BEFORE_TRIP"),
        rejection(1, trip.id, 3, "AFTER_TRIP"),
    ]


async def test_an_ended_trip_takes_points_of_its_window_for_thirty_days(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "FRESH_S", 0.0)
    trip, driven = await school.drive(10, ended=True)
    end = moment(driven[-1].time)
    seconds = (119, 120, 121)
    late = [pb.TripPoint(time=at(end + timedelta(seconds=s)), lat=1, lng=1) for s in seconds]
    async with school.stream() as stream:
        school.service.clock.ahead = timedelta(days=30) - timedelta(minutes=1)
        await stream.stores(1, track(trip, late))
        assert stream.rejections == [rejection(1, trip.id, 2, "AFTER_TRIP")]
        school.service.clock.ahead = timedelta(days=30, seconds=1)
        await stream.stores(2, track(trip, way(trip, 1, after=timedelta(seconds=30))))
        assert stream.rejections[1:] == [rejection(2, trip.id, 0, "TRIP_CLOSED")]
    assert len(await school.points(trip)) == 12


async def test_a_dense_track_of_unequal_columns_is_refused_point_by_point(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 10)
    torn, speedy = dense(trip, driven[:3]), dense(trip, driven[3:6])
    del torn.dense.lng_e6[2]
    speedy.dense.speed_ckph.append(1)
    async with school.stream() as stream:
        await stream.stores(1, torn, track(trip, driven[6:8]), speedy, dense(trip, driven[8:]))
    assert await school.points(trip) == driven[6:]
    assert stream.rejections == [
        rejection(1, trip.id, index, "MALFORMED_TRACK") for index in (0, 1, 2, 5, 6, 7, 8)
    ]


async def test_a_bad_dense_point_is_kept_as_it_was_meant(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 30)
    driven[20].lat = 91.5
    driven[25].speed_kph = 501
    async with school.stream() as stream:
        await stream.stores(1, dense(trip, driven))
    assert [r.index for r in stream.rejections] == [20, 25]
    kept = sorted(await school.rejected(), key=lambda point: point.index)
    assert [each.point for each in kept] == [driven[20], driven[25]]


async def test_a_batch_without_one_good_point_is_acknowledged_and_kept(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 600)
    tracks = [track(str(uuid4()), [point]) for point in driven]
    async with school.stream() as stream:
        await stream.stores(1, *tracks, dense(str(uuid4()), driven))
        await stream.stores(2, track(trip, driven[:1]))
    assert (stream.stored, stream.rejected_count) == (1, 1200)
    assert [r.index for r in stream.rejections] == list(range(1000))
    ((kept,),) = await school.rows(
        'SELECT count(*) FROM tracking."RejectedPoint" WHERE "orgId" = %s', school.org_id
    )
    assert kept == 1200


async def test_rejected_points_are_kept_once_however_often_they_come(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip = await school.start_trip()
    good, bad = way(trip, 3), pb.TripPoint(time=trip.start_time, lat=91)
    upload_id = uuid4()
    async with school.stream(upload_id) as stream:
        with monkeypatch.context() as broken:
            broken.setattr(store, "move_marks", database_gone)
            await stream.send(1, track(trip, [*good, bad]))
            refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
    )
    async with school.stream(upload_id) as stream:
        assert stream.durable_through == 0
        await stream.send(1, track(trip, good))
        await stream.send(2, track(trip, [bad]))
        await stream.acked(2)
        await stream.send(2, track(trip, [bad]))
    async with school.stream(upload_id) as stream:
        await stream.send(2, track(trip, [bad]))
    assert [(kept.sequence, kept.index) for kept in await school.rejected()] == [(2, 0)]
    assert await school.points(trip) == good


async def database_gone(*_: object) -> None:
    raise psycopg.OperationalError("the connection is closed")


async def test_a_school_keeps_so_many_rejected_points_a_day_and_counts_the_others(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "REJECTED_PER_DAY_MAX", 5)
    stray = way(await school.start_trip(), 4)
    neighbour = school.neighbour()
    async with school.stream() as stream, neighbour.stream() as theirs:
        await stream.stores(1, track("", stray))
        await stream.stores(2, track("", stray))
        await theirs.stores(1, track("", stray))
    assert stream.rejected_count == 8
    assert len(await school.rejected()) == 5
    assert len(await neighbour.rejected()) == 4
    counts = await school.rows(
        'SELECT kept, "notKept" FROM tracking."RejectedPointCount" WHERE "orgId" = %s',
        school.org_id,
    )
    assert counts == [(5, 3)]


# --- errors of protocol ---


async def test_a_gap_ends_the_stream_after_everything_before_it_is_acknowledged(
    school: School,
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 5)
    async with school.stream() as stream:
        await stream.send(1, track(trip, driven[:2]))
        await stream.send(2, track(trip, driven[2:4]))
        await stream.send(4, track(trip, driven[4:]))
        refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_GAP")
    assert refusal.metadata == {"expected_sequence": "3"}
    assert (stream.durable_through, stream.stored) == (2, 4)
    assert await school.points(trip) == driven[:4]


@pytest.mark.parametrize("sequence", [0, -1])
async def test_batches_are_numbered_from_one(school: School, sequence: int) -> None:
    """A gateway that counts from 0 must not be told that its first batch was there already."""
    trip = await school.start_trip()
    async with school.stream() as stream:
        await stream.send(sequence, track(trip, way(trip, 2)))
        refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_GAP")
    assert refusal.metadata == {"expected_sequence": "1"}


@pytest.mark.parametrize("first", [None, batch(1), pb.StreamTripPointsRequest()])
async def test_a_stream_begins_with_open(
    school: School, first: pb.StreamTripPointsRequest | None
) -> None:
    stream = Stream(school.stub())
    if first is None:
        await stream.call.done_writing()
    else:
        await stream.call.write(first)
    refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "OPEN_EXPECTED",
    )


async def test_a_second_open_ends_the_stream_after_the_acknowledgements(school: School) -> None:
    trip = await school.start_trip()
    async with school.stream() as stream:
        await stream.send(1, track(trip, way(trip, 3)))
        await stream.call.write(opening(stream.upload_id))
        refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "OPEN_REPEATED",
    )
    assert stream.stored == 3


@pytest.mark.parametrize(
    ("upload_id", "gateway", "field"),
    [("", "car", "upload_id"), ("7", "car", "upload_id"), (str(UUID(int=7)), "x" * 201, "gateway")],
)
async def test_open_names_the_field_that_is_wrong(
    school: School, upload_id: str, gateway: str, field: str
) -> None:
    stream = Stream(school.stub())
    await stream.call.write(opening(upload_id, gateway))
    refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    assert [name for name, _ in refusal.fields] == [field]


async def test_a_gateway_may_have_any_name_that_is_text(school: School) -> None:
    stream = Stream(school.stub())
    await stream.call.write(opening(stream.upload_id, "car\0"))
    refusal = await stream.refused()
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_batch_has_at_most_ten_thousand_points(school: School) -> None:
    trip = await school.start_trip()
    many = way(trip, 1) * 10_001
    async with school.stream() as stream:
        await stream.send(1, track(trip, way(trip, 3)))
        await stream.send(2, dense(trip, many[:5_000]), dense(trip, many[5_000:]))
        refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "BATCH_TOO_LARGE",
    )
    assert (stream.durable_through, stream.stored) == (1, 3)


async def test_a_batch_of_ten_thousand_points_is_stored(school: School) -> None:
    trip = await school.start_trip(now() - timedelta(hours=3))
    async with school.stream() as stream:
        await stream.stores(1, dense(trip, way(trip, 10_000)))
    assert stream.stored == 10_000


async def test_a_message_too_large_harms_neither_what_came_before_nor_a_neighbour(
    school: School,
) -> None:
    trip = await school.start_trip()
    driven = way(trip, 4)
    token = school.service.token(school.org_id)
    async with grpc.aio.insecure_channel(school.service.address) as channel:
        plain: Any = AuthorisedChannel(channel, token)
        careless = Stream(TrackingServiceStub(plain))
        await careless.open()
        async with school.stream() as neighbour:
            await careless.send(1, track(trip, driven[:2]))
            await careless.send(2, track("x" * 5_000_000, driven[2:3]))
            refusal = await careless.refused()
            await neighbour.stores(1, track(trip, driven[3:]))
    assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    async with school.stream(careless.upload_id) as resumed:
        if resumed.durable_through == 0:
            await resumed.stores(1, track(trip, driven[:2]))
    assert times(await school.points(trip)) == times([*driven[:2], driven[3]])


class AuthorisedChannel:
    """A channel without the limits of the project's own client."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._token = token

    def __getattr__(self, kind: str) -> Callable[..., object]:
        def method(*args: object, **options: object) -> Callable[..., object]:
            call = getattr(self._channel, kind)(*args, **options)
            return lambda: call(metadata=(("authorization", f"Bearer {self._token}"),))

        return method


# --- the server ends it ---


async def test_a_stream_ends_when_its_token_expires(school: School) -> None:
    trip = await school.start_trip()
    async with school.stream(stub=school.stub(ttl=timedelta(seconds=2))) as stream:
        await stream.send(1, track(trip, way(trip, 3)))
        refusal = await stream.refused()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_EXPIRED",
    )
    assert (stream.durable_through, stream.stored) == (1, 3)


async def test_a_draining_server_acknowledges_what_it_has_before_it_ends_the_stream(
    school: School,
) -> None:
    trip = await school.start_trip()
    async with school.second_process() as leaving, leaving.stream() as stream:
        unopened = Stream(leaving.stub())
        async with locked(school, stream.upload_id):
            await stream.send(1, track(trip, way(trip, 3)))
            await eventually(lambda: waiting_for_locks(school))
            draining = asyncio.create_task(leaving.service.server.drain())
            assert (await unopened.refused()).reason == "SERVER_DRAINING"
        refusal = await stream.refused()
        await draining
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert (stream.durable_through, stream.stored) == (1, 3)


async def test_an_old_stream_is_asked_to_open_again(school: School) -> None:
    trip = await school.start_trip()
    async with school.second_process(stream_age_max_s=0.3) as elsewhere, elsewhere.stream() as old:
        await old.send(1, track(trip, way(trip, 3)))
        refusal = await old.refused()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_TOO_OLD")
    assert old.stored == 3
