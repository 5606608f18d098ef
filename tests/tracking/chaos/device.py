"""A device: makes points, streams them, and remembers which were acknowledged.

It speaks the protocol with nothing between it and the stub, and is careless on purpose: it cuts
its backlog anew, vanishes, opens its upload twice and goes on writing to the stream that lost it.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from libs.client import refusal
from tests.tracking.chaos import points
from tests.tracking.chaos.points import Bad, Point
from tests.tracking.chaos.service import PATIENCE_S, Service, until

INFLIGHT_BATCHES_MAX = 40
CALL_POINTS_MAX = 5_000
CALL_TIMEOUT_S = 20.0
SILENCE_S = 60.0
"""A stream that acknowledges nothing for so long, with points under way, has been forgotten."""
BAD_EVERY = 150
AGAIN_EVERY = 400
TWO_DAYS_US = 2 * 86_400_000_000
# How a device lets go of a stream that works. In one call: without a stream.
FATES = ("stay", "stay", "half-close", "cancel", "cut", "open twice", "in one call")
RESTLESS = FATES[2:]
# What may be answered to a device that does nothing wrong: the database or the service is gone, or
# the upload was opened by the device itself.
STREAMS_END = {
    ("OK", ""),
    ("UNAVAILABLE", ""),
    # It came when the server had closed its ears: no handler has seen it.
    ("CANCELLED", ""),
    ("UNAVAILABLE", "SERVER_DRAINING"),
    ("UNAVAILABLE", "DATABASE_UNAVAILABLE"),
    ("UNAVAILABLE", "DATABASE_BUSY"),
    ("ABORTED", "STREAM_SUPERSEDED"),
}
OPENINGS_END = STREAMS_END | {("ABORTED", "CONFLICT"), ("DEADLINE_EXCEEDED", "STATEMENT_TIMEOUT")}
CALLS_END = OPENINGS_END | {
    ("UNAVAILABLE", "CALL_ABANDONED"),
    ("DEADLINE_EXCEEDED", ""),
    ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
}
ENDINGS = {
    "opening": OPENINGS_END,
    "stream": STREAMS_END,
    "ghost": STREAMS_END,
    "call": CALLS_END,
}
# What grpc says here when a write meets a stream that has ended, whatever the server had said.
MASK = "Internal error from Core"

AnswerT = TypeVar("AnswerT")


@dataclass(slots=True)
class Batch:
    """What goes out under a number."""

    sequence: int
    points: list[Point]


@dataclass(eq=False)
class Stream:
    """One stream. The newest of a device numbers its batches."""

    channel: grpc.aio.Channel
    call: Any
    sequence: int = 0
    """The last number that it wrote."""
    closing: bool = False
    superseded_at: int | None = None
    """The mark when another stream had taken the upload over: this one stores nothing above it."""


@dataclass
class Device:
    """One upload, over as many streams as it takes."""

    service: Service
    name: str
    rng: random.Random
    points_per_s: float
    trip_points: int
    fates: tuple[str, ...] = FATES
    repeats: bool = False
    """Whether it sends points again now and then, which moves it to the writer's slow lane."""
    through: int = 0
    """The last sequence that was acknowledged."""
    sent: list[Point] = field(default_factory=list)
    """Every good point that was made."""
    acknowledged: set[Point] = field(default_factory=set)
    refused: list[Bad] = field(default_factory=list)
    """Every point that must be refused."""
    trips: list[str] = field(default_factory=list)
    endings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How openings, streams, ghosts and calls ended, by code and reason."""
    violations: list[str] = field(default_factory=list)
    acknowledged_at: float = float("-inf")
    streaming: bool = False
    """Whether a stream is open."""
    finishing: bool = False

    def __post_init__(self) -> None:
        self.upload_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        token = self.service.token(self.name)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._unsent: deque[Point] = deque()
        self._inflight: deque[Batch] = deque()
        self._settled: dict[int, list[Point]] = {}
        self._last = 0
        self._reasons: dict[Point, str] = {}
        self._newest: Stream | None = None
        self._ghosts: set[Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._produced = False

    async def run(self) -> None:
        """Make points and stream them, until told to finish and all are acknowledged."""
        producer = asyncio.create_task(self._produce())
        try:
            while not self._is_done():
                if producer.done():
                    producer.result()
                await self._live()
                await asyncio.sleep(self.rng.uniform(0, 0.1))
            await asyncio.gather(producer, *self._tasks)
        finally:
            for task in (producer, *self._tasks):
                task.cancel()

    def _is_done(self) -> bool:
        return self._produced and not self._unsent and not self._inflight

    def _violate(self, what: str) -> None:
        self.violations.append(f"{self.name}: {what}")

    def _beside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

    # --- making points ---

    async def _produce(self) -> None:
        while not self.finishing:
            start_us = time.time_ns() // 1000 - TWO_DAYS_US
            begin = pb.StartTripRequest(request_id=str(uuid.uuid4()))
            begin.start_time.FromMicroseconds(start_us)
            trip_id = await self._start(begin)
            self.trips.append(trip_id)
            await self._drive(trip_id, start_us)
            # Its last points are still on their way: they come after the trip's end.
            end = pb.EndTripRequest(trip_id=trip_id, request_id=str(uuid.uuid4()))
            self._beside(self._end(end))
        self._produced = True

    async def _start(self, request: pb.StartTripRequest) -> str:
        trip = await self._insist(lambda stub: self._call(stub.StartTrip, request))
        return str(trip.id)

    async def _end(self, request: pb.EndTripRequest) -> None:
        await self._insist(lambda stub: self._call(stub.EndTrip, request))

    async def _drive(self, trip_id: str, start_us: int) -> None:
        began, made = time.monotonic(), 0
        while made < self.trip_points and not self.finishing:
            due = min(self.trip_points, 1 + int((time.monotonic() - began) * self.points_per_s))
            for place in range(made, due):
                self._make(points.good(trip_id, start_us, place, self.rng))
            made = due
            await asyncio.sleep(0.02)

    def _make(self, point: Point) -> None:
        self.sent.append(point)
        self._unsent.append(point)
        if len(self.sent) % BAD_EVERY == 0:
            wrong = points.bad(point, self.rng)
            self.refused.append(wrong)
            self._reasons[wrong.point] = wrong.reason
            self._unsent.append(wrong.point)
        if self.repeats and len(self.sent) % AGAIN_EVERY == 0:
            self._unsent.append(self.rng.choice(self.sent))

    async def _insist(self, call: Callable[[TrackingServiceStub], Awaitable[AnswerT]]) -> AnswerT:
        """Make a call that may be repeated until it is answered."""
        give_up = time.monotonic() + 2 * PATIENCE_S
        async with self.service.channel() as channel:
            while True:
                try:
                    return await call(TrackingServiceStub(channel))
                except grpc.aio.AioRpcError as error:
                    self._note("call", error)
                    if time.monotonic() > give_up:
                        raise
                await asyncio.sleep(self.rng.uniform(0.05, 0.3))

    async def _call(self, method: Any, request: Any) -> Any:
        return await method(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)

    # --- one stream ---

    async def _live(self) -> None:
        """One stream, from its opening to whatever ends it."""
        fate = self.rng.choice(self.fates)
        if fate == "in one call":
            await self._upload_at_once()
            return
        channel = self.service.channel()
        call = TrackingServiceStub(channel).StreamTripPoints(metadata=self._metadata)
        stream = Stream(channel, call)
        haunting = False
        try:
            if await self._open(stream):
                haunting = await self._converse(stream, fate)
        finally:
            if not haunting:
                call.cancel()
                await channel.close()

    async def _open(self, stream: Stream) -> bool:
        opening = pb.OpenUpload(upload_id=self.upload_id, gateway=self.name)
        answer: Any = None
        try:
            async with asyncio.timeout(SILENCE_S):
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await stream.call.write(pb.StreamTripPointsRequest(open=opening))
                    answer = await stream.call.read()
        except TimeoutError:
            self._violate("a stream was not opened and not refused")
            return False
        if not isinstance(answer, pb.StreamTripPointsResponse):
            await self._ended("opening", stream)
            return False
        self._take_over(stream, answer.opened.durable_through)
        return True

    def _take_over(self, stream: Stream, mark: int) -> None:
        """The stream is the newest: what is not stored gets new numbers, in other batches."""
        self._forget(mark)
        for ghost in self._ghosts:
            ghost.superseded_at = mark if ghost.superseded_at is None else ghost.superseded_at
        for batch in reversed(self._inflight):
            self._unsent.extendleft(reversed(batch.points))
        self._inflight.clear()
        self._newest, self._last, stream.sequence = stream, mark, mark

    async def _converse(self, stream: Stream, fate: str) -> bool:
        """Write and listen; whether the stream lives on as a ghost."""
        writing = asyncio.create_task(self._write(stream))
        listening = asyncio.create_task(self._listen(stream))
        lifetime_s = None if fate == "stay" else self.rng.uniform(0.05, 2)
        self.streaming = True
        await asyncio.wait({listening}, timeout=lifetime_s)
        if fate == "half-close" and not listening.done():
            stream.closing = True
            await asyncio.wait({listening}, timeout=SILENCE_S)
        self.streaming = False
        if fate == "open twice" and not listening.done():
            self._ghosts.add(stream)
            self._beside(self._haunt(stream, writing, listening))
            return True
        if listening.done():
            await self._ended("stream", stream)
        elif stream.closing:
            self._violate("a half-closed stream did not end")
        await _stopped(writing, listening)
        return False

    async def _haunt(
        self, stream: Stream, writing: asyncio.Task[None], listening: asyncio.Task[None]
    ) -> None:
        """Let a stream go on beside the newer one, until it is told that it lost the upload."""
        try:
            await until(
                lambda: listening.done() or stream.superseded_at is not None or self._is_done(),
                "another stream is opened",
            )
            await asyncio.wait({listening}, timeout=SILENCE_S)
            if listening.done():
                await self._ended("ghost", stream)
            else:
                self._violate("a superseded stream was not told")
        finally:
            await _stopped(writing, listening)
            self._ghosts.discard(stream)
            await stream.channel.close()

    async def _write(self, stream: Stream) -> None:
        while not stream.closing and not (self._is_done() and stream is self._newest):
            batch = self._next(stream)
            if batch is None:
                await asyncio.sleep(0.01)
                continue
            dense = self.rng.random() < 0.5
            message = points.batch(batch.sequence, batch.points, dense=dense)
            try:
                await stream.call.write(pb.StreamTripPointsRequest(batch=message))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await stream.call.done_writing()

    def _next(self, stream: Stream) -> Batch | None:
        if stream is not self._newest:
            # It has lost the upload: what it sends now may never be seen.
            stream.sequence += 1
            return Batch(stream.sequence, [points.poison(point) for point in self.sent[-10:]])
        batch = self._cut()
        if batch is not None:
            stream.sequence = batch.sequence
        return batch

    def _cut(self) -> Batch | None:
        if not self._unsent or len(self._inflight) >= INFLIGHT_BATCHES_MAX:
            return None
        self._last += 1
        count = min(len(self._unsent), self.rng.choice((1, 10, 100, 100, 1_000)))
        batch = Batch(self._last, [self._unsent.popleft() for _ in range(count)])
        self._inflight.append(batch)
        return batch

    async def _listen(self, stream: Stream) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    answer = await stream.call.read()
            except grpc.aio.AioRpcError:
                return
            except TimeoutError:
                if self._inflight and stream is self._newest:
                    self._violate("a stream fell silent with points under way")
                continue
            if not isinstance(answer, pb.StreamTripPointsResponse):
                return
            self._hear(stream, answer.ack)

    def _hear(self, stream: Stream, ack: pb.UploadAck) -> None:
        if stream is self._newest:
            self._check_rejections(ack)
            self._forget(ack.durable_through)
        elif stream.superseded_at is not None and ack.durable_through > stream.superseded_at:
            self._violate("a superseded stream stored something")

    def _check_rejections(self, ack: pb.UploadAck) -> None:
        sent = {batch.sequence: batch.points for batch in self._inflight}
        for rejection in ack.rejected:
            # A stream's last answer may be read after a newer call's has settled the same batch.
            settled = self._settled.get(rejection.sequence, [])
            batch = sent.get(rejection.sequence, settled)
            point = batch[rejection.index] if rejection.index < len(batch) else None
            reason = pb.RejectionReason.Name(rejection.reason).removeprefix("REJECTION_REASON_")
            if point is None or self._reasons.get(point) != reason:
                self._violate(f"{point} was rejected as {reason}")

    def _forget(self, mark: int) -> None:
        """Everything up to the mark is stored: that is what the proof holds the service to."""
        if mark < self.through:
            self._violate(f"the mark went back from {self.through} to {mark}")
        if mark > self._last:
            self._violate(f"the mark {mark} is ahead of what was sent, {self._last}")
        self.through = max(self.through, mark)
        while self._inflight and self._inflight[0].sequence <= mark:
            batch = self._inflight.popleft()
            self._settled[batch.sequence] = batch.points
            self.acknowledged.update(p for p in batch.points if p not in self._reasons)
            self.acknowledged_at = time.monotonic()

    async def _upload_at_once(self) -> None:
        """The same in one call: numbers that may be stored already keep their points."""
        if not self._inflight:
            self._cut()
            self._cut()
        request = pb.UploadTripPointsRequest(upload_id=self.upload_id, gateway=self.name)
        count = 0
        for batch in self._inflight:
            count += len(batch.points)
            if count > CALL_POINTS_MAX:
                break
            request.batches.append(points.batch(batch.sequence, batch.points, dense=True))
        async with self.service.channel() as channel:
            try:
                stub = TrackingServiceStub(channel)
                response = await self._call(stub.UploadTripPoints, request)
            except grpc.aio.AioRpcError as error:
                self._note("call", error)
                return
        self._check_rejections(response.ack)
        self._forget(response.ack.durable_through)

    # --- how it ended ---

    async def _ended(self, what: str, stream: Stream) -> None:
        call = stream.call
        try:
            async with asyncio.timeout(SILENCE_S):
                code, trailing = await call.code(), await call.trailing_metadata()
                error = grpc.aio.AioRpcError(
                    code, await call.initial_metadata(), trailing, await call.details()
                )
        except TimeoutError:
            self._violate(f"{what}: no status")
            return
        self._note(what, error)
        if code is grpc.StatusCode.OK and stream is self._newest and self._inflight:
            self._violate("a stream ended with OK, but not all was acknowledged")

    def _note(self, what: str, error: grpc.aio.AioRpcError) -> None:
        refused = refusal(error)
        ending = (refused.code.name, refused.reason)
        self.endings[what, *ending] += 1
        masked = not refused.reason and refused.message == MASK
        if not masked and ending not in ENDINGS[what]:
            self._violate(f"{what} ended with {refused}")


async def _stopped(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
