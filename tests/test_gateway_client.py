"""The gateway client against a server that plays a script of faults."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1 import tracking_pb2_grpc
from libs import client, errors
from libs.gateway import (
    Fix,
    Gateway,
    ServerUnreachable,
    StreamRefused,
    UploadDiverged,
    dense_track,
    plain_track,
    track,
)

TRIP = "0199a000-0000-7000-8000-000000000001"
UPLOAD = "0199a000-0000-7000-8000-00000000000a"
T0_US = 1_760_000_000_000_000


@dataclass
class Scene:
    """How one stream goes: it takes `batches`, then ends with `error`."""

    batches: int = 0
    """Batches taken before the end."""
    stored: int | None = None
    """How many of them become durable; all unless it is said."""
    acked: bool = True
    """Whether the gateway hears of it."""
    error: tuple[grpc.StatusCode, str, str] | None = (grpc.StatusCode.UNAVAILABLE, "", "gone")
    """Code, reason and sentence."""
    silent: bool = False
    """Rather than to end, say nothing any more."""
    retry_after_s: float | None = None
    mark: int | None = None
    """The upload's mark is set to this at the end, as a restored backup would."""


@dataclass
class ScriptedTracking(tracking_pb2_grpc.TrackingServiceServicer):
    """Stores what comes and acknowledges each batch, once its script has been played."""

    scenes: deque[Scene] = field(default_factory=deque)
    durable_through: int = 0
    batches: list[pb.PointBatch] = field(default_factory=list)
    """What became durable, in order."""
    opens: list[pb.OpenUpload] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)
    """Which sequences each stream carried."""
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    remaining_s: float | None = None
    pace: pb.Pace = field(default_factory=pb.Pace)
    failures: int = 0
    """How many unary calls are refused before one is answered."""
    calls: int = 0
    ended: int = 0
    """Streams that are over for the server."""
    hold: asyncio.Event | None = None
    """Unless it is set, batches wait before they become durable."""

    async def StreamTripPoints(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamTripPointsRequest], context: Any
    ) -> AsyncIterator[pb.StreamTripPointsResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        scene = self.scenes.popleft() if self.scenes else None
        try:
            async for response in self._play(scene, requests, context):
                yield response
        finally:
            self.ended += 1

    async def _play(
        self, scene: Scene | None, requests: AsyncIterator[pb.StreamTripPointsRequest], context: Any
    ) -> AsyncIterator[pb.StreamTripPointsResponse]:
        self.opens.append((await anext(requests)).open)
        self.sequences.append([])
        opened = pb.UploadOpened(durable_through=self.durable_through)
        yield pb.StreamTripPointsResponse(opened=opened)
        taken = 0
        while scene is None or taken < scene.batches:
            request = await anext(requests, None)
            if request is None:
                return
            taken += 1
            self.sequences[-1].append(request.batch.sequence)
            if scene is None or scene.stored is None or taken <= scene.stored:
                ack = await self._store(request.batch)
                if scene is None or scene.acked:
                    yield pb.StreamTripPointsResponse(ack=ack)
        await self._end(scene, context)

    async def _store(self, batch: pb.PointBatch) -> pb.UploadAck:
        if self.hold is not None:
            await self.hold.wait()
        assert batch.sequence == self.durable_through + 1
        self.durable_through = batch.sequence
        self.batches.append(batch)
        points = sum(len(track.points) + len(track.dense.time_us) for track in batch.tracks)
        return pb.UploadAck(durable_through=batch.sequence, stored=points, pace=self.pace)

    async def _end(self, scene: Scene, context: Any) -> None:
        if scene.mark is not None:
            self.durable_through = scene.mark
        if scene.silent:
            await asyncio.Event().wait()
        if scene.error is None:
            return
        code, reason, sentence = scene.error
        if reason:
            kind = type("Scripted", (errors.DomainError,), {"code": code})
            details = kind(reason, sentence, retry_after_s=scene.retry_after_s).details()
            context.set_trailing_metadata(((errors.DETAILS_KEY, details),))
        await context.abort(code, sentence)

    async def GetTrip(self, request: pb.GetTripRequest, context: Any) -> pb.Trip:  # noqa: N802
        return await self._answer(pb.Trip(id=request.trip_id), context)

    async def StartTrip(self, request: pb.StartTripRequest, context: Any) -> pb.Trip:  # noqa: N802
        return await self._answer(pb.Trip(), context)

    async def _answer(self, trip: pb.Trip, context: Any) -> pb.Trip:
        self.calls += 1
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining_s = context.time_remaining()
        if self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return trip

    def points(self) -> list[tuple[str, int]]:
        """Trip and time of every durable point, in the order they became so."""
        return [
            (track.trip_id, time_us)
            for batch in self.batches
            for track in batch.tracks
            for time_us in _times_us(track)
        ]


def _times_us(track: pb.Track) -> list[int]:
    times = [point.time.ToMicroseconds() for point in track.points]
    total = 0
    for step in track.dense.time_us:
        total += step
        times.append(total)
    return times


@pytest.fixture
def server() -> ScriptedTracking:
    return ScriptedTracking()  # type: ignore[abstract] # the rest is not called here


@pytest.fixture
async def connection(server: ScriptedTracking) -> AsyncIterator[client.Connection]:
    grpc_server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    tracking_pb2_grpc.add_TrackingServiceServicer_to_server(server, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with client.Connection(f"127.0.0.1:{port}", "a-token") as connection:
        yield connection
    await grpc_server.stop(None)


Open = Callable[..., Gateway]


@pytest.fixture
def gateway_of(connection: client.Connection) -> Open:
    def open_gateway(**options: Any) -> Gateway:
        return Gateway(connection.tracking, UPLOAD, backoff_s=0.001, **options)

    return open_gateway


def tracks(first: int, count: int = 1) -> list[pb.Track]:
    """`count` points of one trip, a second apart."""
    times = range(T0_US + first * 1_000_000, T0_US + (first + count) * 1_000_000, 1_000_000)
    return [dense_track(TRIP, list(times), [47.0] * count, [8.0] * count, [50.0] * count)]


def sent(count: int) -> list[tuple[str, int]]:
    return [(TRIP, T0_US + second * 1_000_000) for second in range(count)]


async def send_seconds(gateway: Gateway, count: int) -> None:
    for second in range(count):
        await gateway.send(tracks(second))


async def test_what_is_sent_becomes_durable_in_order(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    async with gateway_of(gateway="car-7") as gateway:
        await send_seconds(gateway, 5)
        await gateway.flush()
        assert (gateway.durable_through, gateway.unacked_points) == (5, 0)
    assert server.points() == sent(5)
    assert (server.opens[0].upload_id, server.opens[0].gateway) == (UPLOAD, "car-7")
    assert (gateway.totals.points, gateway.totals.stored, gateway.totals.reopened) == (5, 5, 0)


async def test_leaving_the_block_flushes_and_half_closes(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    async with gateway_of() as gateway:
        await send_seconds(gateway, 3)
    assert server.points() == sent(3)
    assert server.ended == 1


async def test_numbers_go_on_after_what_an_earlier_run_stored(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.durable_through = 7
    async with gateway_of() as gateway:
        await send_seconds(gateway, 2)
    assert server.sequences == [[8, 9]]


@pytest.mark.parametrize("stored", [0, 2, 4])
@pytest.mark.parametrize("acked", [True, False])
async def test_a_broken_stream_loses_nothing_and_repeats_nothing(
    server: ScriptedTracking, gateway_of: Open, stored: int, acked: bool
) -> None:
    server.scenes.append(Scene(batches=4, stored=stored, acked=acked))
    async with gateway_of() as gateway:
        await send_seconds(gateway, 9)
    assert server.points() == sent(9)
    assert gateway.totals.points == 9
    assert gateway.totals.stored + gateway.totals.unreported == 9


@pytest.mark.parametrize("seed", range(8))
async def test_no_script_of_breaks_makes_it_lose_or_repeat_a_point(
    server: ScriptedTracking, gateway_of: Open, seed: int
) -> None:
    dice = random.Random(seed)
    for _ in range(12):
        batches = dice.randrange(6)
        server.scenes.append(Scene(batches, dice.randint(0, batches), dice.random() < 0.5))
    async with gateway_of(batch_points=dice.randint(1, 8), ack_timeout_s=0.05) as gateway:
        await send_seconds(gateway, 60)
    assert server.points() == sent(60)
    assert (gateway.totals.points, gateway.unacked_points) == (60, 0)


async def test_the_backlog_is_cut_anew_after_a_break(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.scenes.append(Scene(batches=10, stored=1))
    async with gateway_of(batch_points=4) as gateway:
        await send_seconds(gateway, 10)
    assert server.points() == sent(10)
    assert server.sequences[1] == [2, 3, 4]


async def test_many_breaks_in_a_row_are_outlived_while_something_becomes_durable(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.scenes.extend(Scene(batches=1) for _ in range(20))
    async with gateway_of(retry_for_s=0, batch_points=1) as gateway:
        await send_seconds(gateway, 30)
    assert server.points() == sent(30)
    assert gateway.totals.reopened == 20


@pytest.mark.parametrize(
    "error",
    [
        (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "Going down."),
        (grpc.StatusCode.ABORTED, "CONFLICT", "Another call was under way."),
        (grpc.StatusCode.UNKNOWN, "", "Stream removed"),
        (grpc.StatusCode.INTERNAL, "", "Received RST_STREAM"),
        (grpc.StatusCode.CANCELLED, "", "stopped"),
        None,
    ],
)
async def test_an_ending_that_a_new_stream_mends_is_mended(
    server: ScriptedTracking, gateway_of: Open, error: tuple[grpc.StatusCode, str, str] | None
) -> None:
    server.scenes.append(Scene(batches=1, stored=0, error=error))
    async with gateway_of() as gateway:
        await send_seconds(gateway, 3)
    assert server.points() == sent(3)
    assert gateway.totals.reopened == 1


async def test_a_refusal_that_names_a_delay_is_tried_again(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    error = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "Too many streams.")
    server.scenes.append(Scene(error=error, retry_after_s=0.01))
    async with gateway_of() as gateway:
        await send_seconds(gateway, 1)
    assert server.points() == sent(1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.ABORTED, "STREAM_SUPERSEDED"),
        (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_GAP"),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"),
        (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE"),
        (grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_an_ending_that_no_stream_mends_is_raised_with_its_reason(
    server: ScriptedTracking, gateway_of: Open, code: grpc.StatusCode, reason: str
) -> None:
    server.scenes.append(Scene(batches=1, stored=0, error=(code, reason, "No.")))
    with pytest.raises(StreamRefused, match=f"{reason}: No.") as refused:
        async with gateway_of() as gateway:
            await send_seconds(gateway, 3)
    assert (refused.value.refusal.code, refused.value.refusal.reason) == (code, reason)
    assert len(server.opens) == 1


async def test_a_supersession_is_heard_even_while_writing(
    server: ScriptedTracking, connection: client.Connection
) -> None:
    """grpc.aio often overwrites a status with INTERNAL when a write meets the stream's end."""
    error = (grpc.StatusCode.ABORTED, "STREAM_SUPERSEDED", "Opened elsewhere.")
    for round_ in range(40):
        server.scenes.append(Scene(batches=20 + round_, stored=0, error=error))
        with pytest.raises(StreamRefused, match="STREAM_SUPERSEDED"):
            async with Gateway(connection.tracking) as gateway:
                await send_seconds(gateway, 2_000)
    assert len(server.opens) == 40


async def send_until_refused(gateway: Gateway) -> None:
    async with gateway:
        while True:
            await gateway.send(tracks(0))


async def test_send_raises_once_the_stream_has_ended_for_good(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.scenes.append(Scene(error=(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", "Late.")))
    with pytest.raises(StreamRefused, match="TOKEN_EXPIRED"):
        await send_until_refused(gateway_of())


async def test_a_server_that_stays_away_is_given_up(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.scenes.extend(Scene() for _ in range(100))
    with pytest.raises(ServerUnreachable, match=r"nothing stored for 0\.05 s: UNAVAILABLE: gone"):
        async with gateway_of(retry_for_s=0.05) as gateway:
            await send_seconds(gateway, 1)
    assert 1 < len(server.opens) < 100


async def test_nobody_listening_is_given_up() -> None:
    async with client.Connection("127.0.0.1:1", "a-token") as connection:
        with pytest.raises(ServerUnreachable, match="UNAVAILABLE"):
            async with Gateway(connection.tracking, retry_for_s=0.05, backoff_s=0.01) as gateway:
                await gateway.send(tracks(0))


async def test_a_server_that_stores_but_never_acknowledges_is_asked_anew(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.scenes.append(Scene(batches=3, stored=2, acked=False, silent=True))
    async with gateway_of(ack_timeout_s=0.05) as gateway:
        await send_seconds(gateway, 5)
    assert server.points() == sent(5)
    assert gateway.totals.unreported == 2


@pytest.mark.parametrize("mark", [1, 50])
async def test_a_mark_that_is_not_where_it_was_left_stops_the_gateway(
    server: ScriptedTracking, gateway_of: Open, mark: int
) -> None:
    server.scenes.append(Scene(batches=3, mark=mark))
    with pytest.raises(UploadDiverged, match=f"the server has stored up to {mark}, this gateway"):
        async with gateway_of() as gateway:
            await send_seconds(gateway, 4)


async def test_send_waits_while_too_much_is_unacknowledged(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.hold = asyncio.Event()
    async with gateway_of(unacked_points_max=10) as gateway:
        await gateway.send(tracks(0, 8))
        waiting = asyncio.create_task(gateway.send(tracks(8, 8)))
        _, pending = await asyncio.wait({waiting}, timeout=0.05)
        assert pending
        server.hold.set()
        await waiting
    assert server.points() == sent(16)


async def test_a_batch_larger_than_the_bound_is_sent_alone(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    async with gateway_of(unacked_points_max=1) as gateway:
        await gateway.send(tracks(0, 5))
        await gateway.send(tracks(5, 5))
    assert server.points() == sent(10)


async def test_the_pace_of_the_server_sizes_the_batches(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.pace = pb.Pace(batch_points=250, interval_ms=1)
    async with gateway_of() as gateway:
        assert gateway.batch_points == 1_000
        await gateway.send(tracks(0))
        await gateway.flush()
        assert gateway.batch_points == 250


async def test_rejections_are_counted_by_reason(
    server: ScriptedTracking, gateway_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reject(batch: pb.PointBatch) -> pb.UploadAck:
        reason = pb.REJECTION_REASON_BEFORE_TRIP
        rejected = [pb.Rejection(sequence=batch.sequence, trip_id=TRIP, reason=reason)]
        return pb.UploadAck(durable_through=batch.sequence, rejected=rejected, rejected_count=1)

    monkeypatch.setattr(server, "_store", reject)
    async with gateway_of() as gateway:
        await gateway.send(tracks(0))
    assert gateway.totals.rejected == 1
    assert gateway.totals.reasons == {"BEFORE_TRIP": 1}
    assert [each.trip_id for each in gateway.totals.rejections] == [TRIP]


async def send_and_fail(gateway: Gateway) -> None:
    async with gateway:
        await gateway.send(tracks(0))
        raise LookupError


async def test_an_error_inside_the_block_cancels_the_stream(
    server: ScriptedTracking, gateway_of: Open
) -> None:
    server.hold = asyncio.Event()
    gateway = gateway_of()
    with pytest.raises(LookupError):
        await send_and_fail(gateway)
    assert gateway.unacked_points == 1
    assert server.points() == []


async def test_every_call_carries_the_token_and_a_unary_one_a_deadline(
    server: ScriptedTracking, connection: client.Connection, gateway_of: Open
) -> None:
    await connection.tracking.GetTrip(pb.GetTripRequest(trip_id=TRIP))
    assert server.remaining_s is not None
    assert 5 < server.remaining_s < 11
    async with gateway_of() as gateway:
        await gateway.send(tracks(0))
    assert [each["authorization"] for each in server.metadata] == ["Bearer a-token"] * 2


async def test_a_token_may_be_fetched_at_each_call(
    server: ScriptedTracking, connection: client.Connection
) -> None:
    fresh = iter(["one", "two"])
    connection.channel._token = lambda: next(fresh)  # type: ignore[attr-defined]
    for _ in range(2):
        await connection.tracking.GetTrip(pb.GetTripRequest(trip_id=TRIP))
    assert [each["authorization"] for each in server.metadata] == ["Bearer one", "Bearer two"]


async def test_unavailable_is_retried_for_reads_and_not_for_writes(
    server: ScriptedTracking, connection: client.Connection
) -> None:
    server.failures = 2
    await connection.tracking.GetTrip(pb.GetTripRequest(trip_id=TRIP))
    assert server.calls == 3
    server.failures = 1
    with pytest.raises(grpc.aio.AioRpcError, match="not now"):
        await connection.tracking.StartTrip(pb.StartTripRequest())
    assert server.calls == 4


def test_a_refusal_says_each_thing_once() -> None:
    wrong = (("trip_id", "must be a UUID"), ("page_size", "must not be negative"))
    refused = client.Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "trip_id: must be a UUID", fields=wrong
    )
    expected = "INVALID_REQUEST: trip_id: must be a UUID (page_size: must not be negative)"
    assert str(refused) == expected


def test_only_methods_without_side_effects_are_retried() -> None:
    (policy,) = client.service_config()["methodConfig"]
    retried = {name["method"] for name in policy["name"]}
    assert {"GetTrip", "ListTrips", "WatchTrip"} <= retried
    assert not retried & {"StartTrip", "EndTrip", "StreamTripPoints", "UploadTripPoints"}


def test_a_dense_track_holds_the_first_value_and_then_steps() -> None:
    dense = dense_track(TRIP, [10, 13, 12], [1.0, 1.5, 1.25], [-3, -2, -4], [5, None, 0.25]).dense
    assert list(dense.time_us) == [10, 3, -1]
    assert list(dense.lat_e6) == [1_000_000, 500_000, -250_000]
    assert list(dense.lng_e6) == [-3_000_000, 1_000_000, -2_000_000]
    assert list(dense.speed_ckph) == [500, -1, 25]


def test_a_dense_track_without_speeds_has_no_speed_column() -> None:
    assert not dense_track(TRIP, [1], [1], [1]).dense.speed_ckph


@pytest.mark.parametrize(
    "odd",
    [
        Fix(None, 1, 1),
        Fix(1, math.nan, 1),
        Fix(1, 1, math.inf),
        Fix(1, 1e9, 1),
        Fix(1, 1, 1, -0.01),
        Fix(1, 1, 1, math.nan),
        Fix(1, 1, 1, 1e9),
    ],
)
def test_a_fix_without_a_dense_form_is_sent_plain_for_the_server_to_judge(odd: Fix) -> None:
    assert track(TRIP, [Fix(1, 1, 1), odd]) == plain_track(TRIP, [Fix(1, 1, 1), odd])


def test_a_plain_point_before_1970_has_nanoseconds_that_are_not_negative() -> None:
    time = plain_track(TRIP, [Fix(-1, 1, 1)]).points[0].time
    assert (time.seconds, time.nanos) == (-1, 999_999_000)


def test_no_fixes_make_an_empty_track() -> None:
    assert track(TRIP, []) == pb.Track(trip_id=TRIP, dense=pb.DenseTrack())
