"""What a gateway may rely on when it sends points in single calls."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from tests.tracking.stories import School, dense, locked, moment, now, refused, track, way

pytestmark = pytest.mark.asyncio(loop_scope="session")


def request(
    upload_id: object, *batches: tuple[int, list[pb.Track]], gateway: str = "car 7"
) -> pb.UploadTripPointsRequest:
    return pb.UploadTripPointsRequest(
        upload_id=str(upload_id),
        gateway=gateway,
        batches=[pb.PointBatch(sequence=sequence, tracks=tracks) for sequence, tracks in batches],
    )


async def status(school: School, upload_id: object, subject: str = "gateway-1") -> pb.UploadStatus:
    asked = pb.GetUploadStatusRequest(upload_id=str(upload_id))
    return await school.stub(subject).GetUploadStatus(asked)


async def test_the_answer_comes_when_the_points_are_durable(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 9)
    sent = request(uuid4(), (1, [track(trip, driven[:4])]), (2, []), (3, [dense(trip, driven[4:])]))
    ack = (await school.stub().UploadTripPoints(sent)).ack
    assert (ack.durable_through, ack.stored, ack.duplicates, ack.rejected_count) == (3, 9, 0, 0)
    assert ack.pace.batch_points == 100
    assert await school.points(trip) == driven


async def test_a_call_that_is_repeated_counts_its_points_as_duplicates(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 9)
    sent = request(uuid4(), (1, [track(trip, driven[:4])]), (2, [track(trip, driven[4:])]))
    await school.stub().UploadTripPoints(sent)
    ack = (await school.stub().UploadTripPoints(sent)).ack
    assert (ack.durable_through, ack.stored, ack.duplicates) == (2, 0, 9)
    assert await school.points(trip) == driven


async def test_an_upload_goes_on_in_another_call_or_in_a_stream(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 9)
    upload_id = uuid4()
    await school.upload(track(trip, driven[:3]), upload_id=upload_id)
    await school.upload(track(trip, driven[3:6]), upload_id=upload_id, sequence=2)
    async with school.stream(upload_id) as stream:
        assert stream.durable_through == 2
        await stream.stores(3, track(trip, driven[6:]))
    assert await school.points(trip) == driven


async def test_an_upload_without_batches_says_how_far_it_is(school: School) -> None:
    upload_id = uuid4()
    await school.upload(upload_id=upload_id)
    ack = (await school.stub().UploadTripPoints(request(upload_id))).ack
    assert (ack.durable_through, ack.stored, ack.duplicates) == (1, 0, 0)


async def test_a_gap_is_refused_and_everything_before_it_stored(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 6)
    upload_id = uuid4()
    gapped = request(upload_id, (1, [track(trip, driven[:3])]), (3, [track(trip, driven[3:])]))
    refusal = await refused(school.stub().UploadTripPoints(gapped))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_GAP")
    assert refusal.metadata == {"expected_sequence": "2"}
    assert (await status(school, upload_id)).durable_through == 1
    assert await school.points(trip) == driven[:3]


async def test_bad_points_are_named_by_batch_and_place(school: School) -> None:
    trip = await school.start_trip()
    first, second = way(trip, 3), way(trip, 3, after=timedelta(minutes=1))
    first[1].lat = second[2].lng = float("nan")
    sent = request(uuid4(), (1, [track(trip, first)]), (2, [dense(trip, []), track(trip, second)]))
    ack = (await school.stub().UploadTripPoints(sent)).ack
    assert [(r.sequence, r.index) for r in ack.rejected] == [(1, 1), (2, 2)]
    assert {r.reason for r in ack.rejected} == {pb.REJECTION_REASON_NOT_A_NUMBER}
    assert (ack.stored, ack.rejected_count) == (4, 2)
    assert len(await school.rejected()) == 2


async def test_a_call_has_at_most_ten_thousand_points_in_all_its_batches(school: School) -> None:
    trip = await school.start_trip()
    half = way(trip, 1) * 5_001
    upload_id = uuid4()
    sent = request(upload_id, (1, [dense(trip, half)]), (2, [dense(trip, half)]))
    refusal = await refused(school.stub().UploadTripPoints(sent))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE")
    assert (await refused(status(school, upload_id))).code == grpc.StatusCode.NOT_FOUND


async def test_a_call_over_a_mebibyte_is_refused(school: School) -> None:
    sent = request(uuid4(), (1, [pb.Track(trip_id="x" * 1_100_000)]))
    refusal = await refused(school.stub().UploadTripPoints(sent))
    assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("upload_id", "gateway"), [("", "car"), ("7", "car"), (None, "x" * 201)])
async def test_a_call_names_the_field_that_is_wrong(
    school: School, upload_id: str | None, gateway: str
) -> None:
    sent = request(uuid4() if upload_id is None else upload_id, gateway=gateway)
    refusal = await refused(school.stub().UploadTripPoints(sent))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [name for name, _ in refusal.fields] == ["gateway" if upload_id is None else "upload_id"]


async def test_a_call_takes_the_upload_over_from_a_stream(school: School) -> None:
    trip = await school.start_trip()
    async with school.stream() as stream:
        await school.upload(track(trip, way(trip, 3)), upload_id=stream.upload_id)
        assert (await stream.refused()).reason == "STREAM_SUPERSEDED"


async def test_a_call_that_is_given_up_may_be_repeated(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 5)
    upload_id = uuid4()
    await school.upload(upload_id=upload_id)
    sent = request(upload_id, (2, [track(trip, driven)]))
    async with locked(school, upload_id):
        refusal = await refused(school.stub().UploadTripPoints(sent, timeout=0.3))
    assert refusal.code == grpc.StatusCode.DEADLINE_EXCEEDED
    ack = (await school.stub().UploadTripPoints(sent)).ack
    assert (ack.durable_through, ack.stored + ack.duplicates) == (2, 5)
    assert await school.points(trip) == driven


async def test_uploads_of_one_id_at_once_store_everything_once(school: School) -> None:
    trip = await school.start_trip()
    driven = way(trip, 40)
    sent = request(uuid4(), *((n + 1, [track(trip, driven[n * 4 :][:4])]) for n in range(10)))
    stubs = [school.stub() for _ in range(6)]
    calls = [stub.UploadTripPoints(sent) for stub in stubs]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {error.code() for error in refusals} <= {grpc.StatusCode.ABORTED}
    await school.stub().UploadTripPoints(sent)
    assert await school.points(trip) == driven
    stored = [a.ack.stored for a in answers if isinstance(a, pb.UploadTripPointsResponse)]
    assert sum(stored) <= 40


async def test_the_status_of_an_upload_says_how_far_it_is(school: School) -> None:
    trip = await school.start_trip()
    upload_id = uuid4()
    before = now()
    await school.upload(track(trip, way(trip, 3)), upload_id=upload_id)
    await school.stub().UploadTripPoints(request(upload_id, (2, []), gateway="car 8"))
    found = await status(school, upload_id)
    assert (found.upload_id, found.gateway) == (str(upload_id), "car 8")
    assert (found.durable_through, found.epoch) == (2, 2)
    assert before < moment(found.update_time) <= now()


async def test_an_upload_of_someone_else_is_as_unknown_as_none(school: School) -> None:
    upload_id = uuid4()
    await school.upload(upload_id=upload_id)
    unknown = await refused(status(school, uuid4()))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND")
    for asking in (status(school.neighbour(), upload_id), status(school, upload_id, "gateway-2")):
        refusal = await refused(asking)
        assert (refusal.code, refusal.reason) == (unknown.code, unknown.reason)
