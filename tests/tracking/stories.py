"""What stories about tracking are told with: a school, its streams, its trips, and patience."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from libs import issuer
from libs.client import Refusal, refusal
from tests.serving import Tracking, at, serving
from tests.waiting import PATIENCE_S

Message = pb.StreamTripPointsRequest


@dataclass
class School:
    """A school that nobody else has, its gateways and its trips."""

    service: Tracking
    folder: Path
    org_id: UUID = field(default_factory=uuid4)

    def stub(
        self,
        subject: str = "gateway-1",
        scopes: tuple[str, ...] = issuer.TENANT_SCOPES,
        ttl: timedelta = timedelta(minutes=5),
    ) -> TrackingServiceStub:
        """The stub of someone of the school."""
        return self.service.stub(self.service.token(self.org_id, scopes, subject, ttl))

    def operator(self, *, of_school: bool = False) -> TrackingServiceStub:
        """The stub of an operator, of the platform or of this school."""
        org_id = self.org_id if of_school else None
        return self.service.stub(self.service.token(org_id, issuer.OPS_SCOPES, "operator"))

    def neighbour(self) -> School:
        """Another school on the same service."""
        return School(self.service, self.folder)

    @asynccontextmanager
    async def second_process(self, **settings: object) -> AsyncIterator[School]:
        """The same school, on another instance of the service beside the first."""
        key, database = self.service.key, self.service.database
        async with serving(database, self.folder, key=key, **settings) as running:
            yield School(running, self.folder, self.org_id)

    async def start_trip(self, start: datetime | None = None) -> pb.Trip:
        """A trip that begins then, or a quarter of an hour ago."""
        start = start or now() - timedelta(minutes=15)
        return await self.stub().StartTrip(pb.StartTripRequest(start_time=at(start)))

    async def end_trip(self, trip: pb.Trip, end: datetime | None = None) -> pb.Trip:
        """The trip, ended then or now."""
        end_time = None if end is None else at(end)
        return await self.stub().EndTrip(pb.EndTripRequest(trip_id=trip.id, end_time=end_time))

    async def drive(
        self, count: int = 10, start: datetime | None = None, *, ended: bool = False
    ) -> tuple[pb.Trip, list[pb.TripPoint]]:
        """A trip with points, and the points."""
        trip = await self.start_trip(start)
        driven = way(trip, count)
        await self.upload(track(trip, driven))
        if ended:
            trip = await self.end_trip(trip, moment(driven[-1].time))
        return trip, driven

    async def upload(
        self, *tracks: pb.Track, upload_id: object = None, sequence: int = 1
    ) -> pb.UploadAck:
        """Send a batch in one call."""
        batches = [pb.PointBatch(sequence=sequence, tracks=tracks)]
        request = pb.UploadTripPointsRequest(upload_id=str(upload_id or uuid4()), batches=batches)
        return (await self.stub().UploadTripPoints(request)).ack

    async def points(self, trip: pb.Trip) -> list[pb.TripPoint]:
        """All listed points of a trip."""
        exported = self.stub().ExportTripPoints(pb.ExportTripPointsRequest(trip_id=trip.id))
        return [point async for message in exported for point in message.points]

    async def trip(self, trip: pb.Trip) -> pb.Trip:
        """The trip as it is now."""
        return await self.stub().GetTrip(pb.GetTripRequest(trip_id=trip.id))

    async def rejected(self, **filters: Any) -> list[pb.RejectedPoint]:
        """The rejected points that are kept."""
        request = pb.ListRejectedPointsRequest(page_size=1_000, **filters)
        return list((await self.stub().ListRejectedPoints(request)).rejected_points)

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database says, asked past the service."""
        return await rows(self.service.database.admin_dsn, query, *values)

    def stream(
        self, upload_id: object = None, stub: TrackingServiceStub | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """An open stream; half-closes and expects OK at the end of the block."""
        return opened(stub or self.stub(), upload_id)


class Stream:
    """A stream of a gateway, and all it was told."""

    def __init__(self, stub: TrackingServiceStub, upload_id: object = None) -> None:
        self.upload_id = str(upload_id or uuid4())
        self.call: Any = stub.StreamTripPoints()
        self.durable_through = 0
        self.acks: list[pb.UploadAck] = []

    @property
    def stored(self) -> int:
        return sum(ack.stored for ack in self.acks)

    @property
    def duplicates(self) -> int:
        return sum(ack.duplicates for ack in self.acks)

    @property
    def rejections(self) -> list[pb.Rejection]:
        return [rejection for ack in self.acks for rejection in ack.rejected]

    @property
    def rejected_count(self) -> int:
        return sum(ack.rejected_count for ack in self.acks)

    async def open(self) -> int:
        """Open the upload; the number of the last batch that is stored."""
        await self.call.write(opening(self.upload_id))
        answer = await self.call.read()
        assert answer.WhichOneof("message") == "opened"
        self.durable_through = answer.opened.durable_through
        return self.durable_through

    async def send(self, sequence: int, *tracks: pb.Track) -> None:
        """Send a batch."""
        await self.call.write(batch(sequence, *tracks))

    async def stores(self, sequence: int, *tracks: pb.Track) -> None:
        """Send a batch and wait until it is acknowledged."""
        await self.send(sequence, *tracks)
        await self.acked(sequence)

    async def acked(self, through: int) -> None:
        """Wait for the acknowledgement that covers a batch."""
        while self.durable_through < through:
            assert await self._heard(), "the stream ended with OK"

    async def half_closed(self) -> None:
        """Say that no more comes; expect OK after the last acknowledgement."""
        await self.call.done_writing()
        await self._read_on()
        assert await self.call.code() == grpc.StatusCode.OK

    async def refused(self) -> Refusal:
        """Read on until the server ends the stream; why it did."""
        return await refused(self._read_on())

    async def _read_on(self) -> None:
        while await self._heard():
            pass

    async def _heard(self) -> bool:
        answer = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        if answer is grpc.aio.EOF:
            return False
        assert answer.WhichOneof("message") == "ack"
        assert answer.ack.durable_through >= self.durable_through
        self.durable_through = answer.ack.durable_through
        self.acks.append(answer.ack)
        return True


@asynccontextmanager
async def opened(stub: TrackingServiceStub, upload_id: object = None) -> AsyncIterator[Stream]:
    stream = Stream(stub, upload_id)
    await stream.open()
    yield stream
    if not stream.call.done():
        await stream.half_closed()


async def refused(call: Awaitable[object]) -> Refusal:
    """Why a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return refusal(raised.value)


async def refused_stream(call: Any) -> Refusal:
    """Why a server's stream ends."""

    async def read_all() -> None:
        async for _ in call:
            pass

    return await refused(read_all())


async def rows(dsn: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What a query returns, to whoever the connection string names."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(query.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def drained(call: Any) -> None:
    """Let go of a call without caring how it ends."""
    call.cancel()
    with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await call.code()


def now() -> datetime:
    return datetime.now(UTC)


def moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)


def way(
    trip: pb.Trip, count: int, *, after: timedelta = timedelta(0), lat: float = 52.5
) -> list[pb.TripPoint]:
    """A drive to the north-east, a fix a second, that begins so long after the trip."""
    start = moment(trip.start_time) + after
    return [
        pb.TripPoint(
            time=at(start + timedelta(seconds=place)),
            lat=round(lat + place * 1e-4, 6),
            lng=round(13.4 + place * 1e-4, 6),
            speed_kph=36.0,
        )
        for place in range(count)
    ]


def track(trip: pb.Trip | str, points: Iterable[pb.TripPoint]) -> pb.Track:
    """Points of a trip, plain."""
    return pb.Track(trip_id=trip if isinstance(trip, str) else trip.id, points=points)


def dense(trip: pb.Trip | str, points: Sequence[pb.TripPoint]) -> pb.Track:
    """The same, packed; a point without a speed says so."""
    speeds = [round(p.speed_kph * 100) if p.HasField("speed_kph") else -1 for p in points]
    packed = pb.DenseTrack(
        time_us=differences([point.time.ToMicroseconds() for point in points]),
        lat_e6=differences([round(point.lat * 1e6) for point in points]),
        lng_e6=differences([round(point.lng * 1e6) for point in points]),
        speed_ckph=[] if set(speeds) <= {-1} else speeds,
    )
    return pb.Track(trip_id=trip if isinstance(trip, str) else trip.id, dense=packed)


def differences(values: Sequence[int]) -> list[int]:
    """The first value, then the difference of each to the one before."""
    return [b - a for a, b in zip([0, *values], values, strict=False)]


def opening(upload_id: object, gateway: str = "car 7") -> Message:
    return Message(open=pb.OpenUpload(upload_id=str(upload_id), gateway=gateway))


def batch(sequence: int, *tracks: pb.Track) -> Message:
    return Message(batch=pb.PointBatch(sequence=sequence, tracks=tracks))


def times(points: Iterable[pb.TripPoint]) -> list[int]:
    """Fix times, microseconds since 1970."""
    return [point.time.ToMicroseconds() for point in points]


@asynccontextmanager
async def locked(school: School, upload_id: object) -> AsyncIterator[None]:
    """Nothing of the upload can be stored while the block lasts."""
    dsn = school.service.database.admin_dsn
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(
            'SELECT 1 FROM tracking."GpsUpload" WHERE "uploadId" = %s FOR UPDATE', (str(upload_id),)
        )
        yield


def calls_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[dict[str, Any]]:
    """The arguments of each call of an asynchronous function, from now on."""
    seen: list[dict[str, Any]] = []
    original = getattr(owner, name)
    signature = inspect.signature(original)

    async def noted(*args: Any, **options: Any) -> Any:
        seen.append(signature.bind(*args, **options).arguments)
        return await original(*args, **options)

    monkeypatch.setattr(owner, name, noted)
    return seen
