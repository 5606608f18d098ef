"""One upload: batches go out, acknowledgements come back, and a broken stream is opened again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from driveflow.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from libs.client import Refusal
from libs.gateway.ending import Call, Ending, read, resumable
from libs.gateway.tracks import point_count

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 10.0
BACKOFF_MAX_S = 2.0
BATCHES_UNACKED_MAX = 1_000
REJECTIONS_KEPT = 1_000


class GatewayStopped(Exception):
    """The gateway can't go on. What is not acknowledged is not known to be stored.

    The same points may be sent again, by a new gateway with the same upload_id: what was stored
    is then counted as duplicates.
    """


class StreamRefused(GatewayStopped):
    """The server ended the stream for a reason that opening it again would not mend."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class ServerUnreachable(GatewayStopped):
    """Nothing became durable for `retry_for_s`, however often the stream was opened again."""


class UploadDiverged(GatewayStopped):
    """The server's mark is not where this gateway left it: someone else used the upload_id, or
    the server was restored from a backup."""


@dataclass(slots=True)
class Totals:
    """What became of the points so far."""

    points: int = 0
    """Judged and committed, one way or the other."""
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    unreported: int = 0
    """Among `points`, but the acknowledgement that counts them was lost with its stream."""
    reopened: int = 0
    """How often the stream had to be opened again."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected points by reason: at most the first 1,000 of each acknowledgement."""
    rejections: deque[pb.Rejection] = field(default_factory=lambda: deque(maxlen=REJECTIONS_KEPT))
    """The latest; their sequences are those of the stream that sent them."""

    def add(self, ack: pb.UploadAck) -> None:
        """Count what an acknowledgement reports."""
        self.stored += ack.stored
        self.duplicates += ack.duplicates
        self.rejected += ack.rejected_count
        self.rejections.extend(ack.rejected)
        self.reasons.update(reason_name(each.reason) for each in ack.rejected)


@dataclass(slots=True)
class _Batch:
    message: pb.PointBatch
    points: int


class Gateway:
    """One upload. Not to be shared between tasks that need their points in order."""

    def __init__(
        self,
        stub: TrackingServiceStub,
        upload_id: str | None = None,
        *,
        gateway: str = "",
        batch_points: int = 1_000,
        unacked_points_max: int = 50_000,
        retry_for_s: float = 60.0,
        ack_timeout_s: float = 30.0,
        backoff_s: float = 0.1,
    ) -> None:
        """Use a stub that carries a token (libs.client.Connection).

        After a break the backlog is cut anew into batches of at most `batch_points`, or what the
        server's pace asks for. `send` waits while more than `unacked_points_max` points are
        unacknowledged. The stream is taken for broken when an acknowledgement is overdue by
        `ack_timeout_s`, and given up when nothing became durable for `retry_for_s`.
        """
        self.upload_id = upload_id or str(uuid.uuid4())
        self.durable_through = 0
        self.totals = Totals()
        self.pace = pb.Pace()
        self._stub = stub
        self._name = gateway
        self._batch_points = batch_points
        self._unacked_points_max = unacked_points_max
        self._retry_for_s = retry_for_s
        self._ack_timeout_s = ack_timeout_s
        self._backoff_s = backoff_s
        self._backlog: deque[_Batch] = deque()
        self._unacked_points = 0
        self._sent = 0  # so many of the backlog, from its head, are on the present stream
        self._last_sequence: int | None = None  # sent or stored; None before the first opened
        self._moved = False  # whether the present stream has got anywhere
        self._closing = False
        self._failure: BaseException | None = None
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def batch_points(self) -> int:
        """How many points a batch should have now: what the server's pace asks for, if it does."""
        return self.pace.batch_points or self._batch_points

    @property
    def unacked_points(self) -> int:
        """Points that are not known to be durable."""
        return self._unacked_points

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"gateway {self.upload_id}")
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                await self._finish()
        finally:
            await self._stop()

    async def send(self, tracks: Iterable[pb.Track]) -> None:
        """Queue one batch: at most 10,000 points and 1 MiB.

        Waits while too much is unacknowledged. Raises GatewayStopped when the stream has ended for
        good.
        """
        message = pb.PointBatch(tracks=tracks)
        batch = _Batch(message, sum(map(point_count, message.tracks)))
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure or self._has_room(batch.points))
            self._raise_failure()
            self._backlog.append(batch)
            self._unacked_points += batch.points
            self._changed.notify_all()

    async def flush(self) -> None:
        """Wait until everything sent is durable. Raises GatewayStopped when it can't become so."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure or not self._backlog)
            self._raise_failure()

    def _has_room(self, points: int) -> bool:
        if not self._backlog:
            return True
        fits = self._unacked_points + points <= self._unacked_points_max
        return fits and len(self._backlog) < BATCHES_UNACKED_MAX

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _finish(self) -> None:
        await self.flush()
        async with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._keep_streaming()
        except Exception as error:  # noqa: BLE001 - raised where the gateway is used
            async with self._changed:
                self._failure = error
                self._changed.notify_all()

    async def _keep_streaming(self) -> None:
        clock = asyncio.get_running_loop().time
        failing_since, delay_s = None, self._backoff_s
        while (broken := await self._stream()) is not None:
            if self._moved:
                failing_since, delay_s = None, self._backoff_s
            elif failing_since is None:
                failing_since = clock()
            elif clock() - failing_since >= self._retry_for_s:
                raise ServerUnreachable(f"nothing stored for {self._retry_for_s:g} s: {broken}")
            self.totals.reopened += 1
            await asyncio.sleep(max(delay_s * random.uniform(0.5, 1), broken.retry_after_s or 0))  # noqa: S311
            delay_s = min(delay_s * 2, BACKOFF_MAX_S)

    async def _stream(self) -> Refusal | None:
        """Live one stream; return why it broke, or None once all is said.

        Raises GatewayStopped when opening another would not help.
        """
        self._moved = False
        call = self._stub.StreamTripPoints()
        ending = Ending(call)
        try:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._converse(call)
            refused = await ending.refusal()
        except TimeoutError:
            refused = Refusal(grpc.StatusCode.UNAVAILABLE, "", "the server fell silent")
        finally:
            call.cancel()
        if self._closing and not self._backlog:
            return None
        if not resumable(refused):
            raise StreamRefused(refused)
        return refused

    async def _converse(self, call: Call) -> None:
        request = pb.OpenUpload(upload_id=self.upload_id, gateway=self._name)
        await call.write(pb.StreamTripPointsRequest(open=request))
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            response = await read(call)
        if response is None:
            return
        await self._resume(response.opened.durable_through)
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._write(call)), tasks.create_task(self._watch())]
                await self._listen(call)
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _resume(self, durable_through: int) -> None:
        """Forget what is durable, and cut the rest anew: its numbers begin after the mark."""
        async with self._changed:
            if self._last_sequence is not None:
                self._check_mark(durable_through, self._last_sequence)
                self.totals.unreported += self._forget(durable_through)
                self._backlog = deque(cut(self._backlog, self.batch_points))
            self._moved = durable_through > self.durable_through or not self._backlog
            self.durable_through = self._last_sequence = durable_through
            self._sent = 0
            self._changed.notify_all()

    def _check_mark(self, durable_through: int, last_sequence: int) -> None:
        if not self.durable_through <= durable_through <= last_sequence:
            raise UploadDiverged(
                f"upload {self.upload_id}: the server has stored up to {durable_through}, this "
                f"gateway sent {self.durable_through + 1} to {last_sequence}"
            )

    async def _write(self, call: Call) -> None:
        try:
            while (batch := await self._next_batch()) is not None:
                await call.write(pb.StreamTripPointsRequest(batch=batch.message))
                if self.pace.interval_ms:
                    await asyncio.sleep(self.pace.interval_ms / 1000)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended; the listener hears why

    async def _next_batch(self) -> _Batch | None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._backlog) > self._sent or self._closing)
            if len(self._backlog) == self._sent:
                return None
            batch = self._backlog[self._sent]
            self._sent += 1
            self._last_sequence = (self._last_sequence or 0) + 1
            batch.message.sequence = self._last_sequence
            return batch

    async def _watch(self) -> None:
        """Raise TimeoutError when batches wait and nothing is acknowledged."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._sent > 0)
                durable = self.durable_through
                async with asyncio.timeout(self._ack_timeout_s):
                    await self._changed.wait_for(partial(self._is_durable_after, durable))

    def _is_durable_after(self, durable_through: int) -> bool:
        return self.durable_through > durable_through or self._sent == 0

    async def _listen(self, call: Call) -> None:
        while (response := await read(call)) is not None:
            await self._acknowledge(response.ack)

    async def _acknowledge(self, ack: pb.UploadAck) -> None:
        async with self._changed:
            self._moved = self._moved or ack.durable_through > self.durable_through
            self.durable_through = max(self.durable_through, ack.durable_through)
            self._forget(self.durable_through)
            self.totals.add(ack)
            self.pace = ack.pace
            self._changed.notify_all()

    def _forget(self, durable_through: int) -> int:
        """Drop the batches sent up to the mark; return how many points they had."""
        points = 0
        while self._sent and self._backlog[0].message.sequence <= durable_through:
            points += self._backlog.popleft().points
            self._sent -= 1
        self._unacked_points -= points
        self.totals.points += points
        return points


def cut(batches: Iterable[_Batch], points_max: int) -> Iterator[_Batch]:
    """The same tracks in the same order in as few batches as `points_max` allows.

    A track is never split: one that is larger is a batch of its own.
    """
    tracks: list[pb.Track] = []
    points = 0
    for track in (track for batch in batches for track in batch.message.tracks):
        more = point_count(track)
        if tracks and points + more > points_max:
            yield _Batch(pb.PointBatch(tracks=tracks), points)
            tracks, points = [], 0
        tracks.append(track)
        points += more
    if tracks:
        yield _Batch(pb.PointBatch(tracks=tracks), points)


def reason_name(reason: pb.RejectionReason.ValueType) -> str:
    """BEFORE_TRIP for REJECTION_REASON_BEFORE_TRIP; a number for one newer than this code."""
    if reason not in pb.RejectionReason.values():
        return str(reason)
    return pb.RejectionReason.Name(reason).removeprefix("REJECTION_REASON_")
